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
from streamlab.lab import Lab
from streamlab.lab import open_lab as open  # noqa: A004
from streamlab.settings import Settings
from streamlab.stream import Stream
from streamlab.writer import Writer

__version__ = "0.1.0"
