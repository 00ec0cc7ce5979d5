"""streamlab: a laboratory for event streams, inside your notebook.

>>> import streamlab as sl
>>> lab = sl.open("my-lab")  # doctest: +SKIP
"""

from streamlab.archive import unpack
from streamlab.changes import apply_changes, changes
from streamlab.connectors.host import host
from streamlab.consumer import Consumer
from streamlab.errors import (
    CorruptSegment,
    Fenced,
    FutureEvent,
    HistoryChanged,
    InvalidDuration,
    InvalidName,
    InvalidTime,
    LabClosed,
    MissingExtra,
    NewerFormat,
    OffsetOutOfRange,
    QueryError,
    ReadOnly,
    ReplaySeeked,
    SchemaMismatch,
    StreamExists,
    StreamlabError,
    StreamLocked,
    StreamNotFound,
    WriterPoisoned,
)
from streamlab.files import export, read_file
from streamlab.groups import Group
from streamlab.job import Job, Progress
from streamlab.lab import Lab
from streamlab.lab import open_lab as open  # noqa: A004
from streamlab.query import Query
from streamlab.replay import Replay
from streamlab.rescue import salvage
from streamlab.settings import Settings
from streamlab.sinks import duckdb_sink as duckdb
from streamlab.stream import Stream
from streamlab.table import Table
from streamlab.verify import Report, verify_lab
from streamlab.window import Window, cumulative, hopping, session, sliding, tumbling
from streamlab.writer import Writer

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - by letters alone, as a reader looks names up
    "apply_changes",
    "changes",
    "Consumer",
    "CorruptSegment",
    "cumulative",
    "duckdb",
    "export",
    "Fenced",
    "FutureEvent",
    "Group",
    "HistoryChanged",
    "hopping",
    "host",
    "InvalidDuration",
    "InvalidName",
    "InvalidTime",
    "Job",
    "Lab",
    "LabClosed",
    "MissingExtra",
    "NewerFormat",
    "OffsetOutOfRange",
    "open",
    "Progress",
    "Query",
    "QueryError",
    "read_file",
    "ReadOnly",
    "Replay",
    "ReplaySeeked",
    "Report",
    "salvage",
    "SchemaMismatch",
    "session",
    "Settings",
    "sliding",
    "Stream",
    "StreamExists",
    "StreamlabError",
    "StreamLocked",
    "StreamNotFound",
    "Table",
    "tumbling",
    "unpack",
    "verify_lab",
    "Window",
    "Writer",
    "WriterPoisoned",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def load_ipython_extension(shell: object) -> None:
    """``%load_ext streamlab``: the magics ``%%stream`` and ``%streams``, and completion of names."""
    from streamlab.notebook.magic import load

    load(shell)


def unload_ipython_extension(shell: object) -> None:
    """``%unload_ext streamlab``."""
    from streamlab.notebook.magic import unload

    unload(shell)
