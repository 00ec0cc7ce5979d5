"""streamlab: a laboratory for event streams, inside your notebook.

>>> import streamlab as sl
>>> lab = sl.open("my-lab")  # doctest: +SKIP
"""

from streamlab.connectors.host import host
from streamlab.errors import (
    CorruptSegment,
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
    SchemaMismatch,
    StreamExists,
    StreamlabError,
    StreamLocked,
    StreamNotFound,
    WriterPoisoned,
)
from streamlab.files import export, read_file
from streamlab.lab import Lab
from streamlab.lab import open_lab as open  # noqa: A004
from streamlab.rescue import salvage
from streamlab.settings import Settings
from streamlab.stream import Stream
from streamlab.verify import Report, verify_lab
from streamlab.writer import Writer

__version__ = "0.1.0"

__all__ = [  # noqa: RUF022 - by letters alone, as a reader looks names up
    "CorruptSegment",
    "export",
    "FutureEvent",
    "HistoryChanged",
    "host",
    "InvalidDuration",
    "InvalidName",
    "InvalidTime",
    "Lab",
    "LabClosed",
    "MissingExtra",
    "NewerFormat",
    "OffsetOutOfRange",
    "open",
    "QueryError",
    "read_file",
    "ReadOnly",
    "Report",
    "salvage",
    "SchemaMismatch",
    "Settings",
    "Stream",
    "StreamExists",
    "StreamlabError",
    "StreamLocked",
    "StreamNotFound",
    "verify_lab",
    "Writer",
    "WriterPoisoned",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
