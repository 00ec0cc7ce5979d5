"""Every error that streamlab raises on purpose, as one tree.

StreamlabError
├── StreamNotFound (KeyError)        no stream of that name
├── StreamExists (FileExistsError)   a stream of that name is there already
├── InvalidName (ValueError)         a name that could not be a folder everywhere
├── InvalidDuration (ValueError)     not a length of time
├── InvalidTime (ValueError)         not an instant, or one that may not be asked for
├── SchemaMismatch (TypeError)       data that does not fit the stream, with column, got, want
├── FutureEvent (ValueError)         an event time too far ahead of now
├── OffsetOutOfRange (IndexError)    rows that are not, or no longer, there
├── Fenced                           a commit of partitions that belong to another member now
├── StreamLocked                     another writer holds the stream
├── ReadOnly (PermissionError)       a change asked of a view or of a lab opened read-only
├── LabClosed                        a lab, stream or writer used after close()
├── CorruptSegment                   bytes that are not what was written: file, byte, reason
├── NewerFormat                      written by a newer streamlab
├── HistoryChanged                   what was recorded about a stream no longer fits it
├── WriterPoisoned (OSError)         a failed fsync: what is on disk is unknown until reopened
├── ReplaySeeked                     the replay that was followed has been set back
├── QueryError (ValueError)          a query that cannot be answered, or is refused
└── MissingExtra (ImportError)       an optional dependency, with the pip line

A message says what happened to which thing, then, where there is a next step, a ``Hint:`` line.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "CorruptSegment",
    "Fenced",
    "FutureEvent",
    "HistoryChanged",
    "InvalidDuration",
    "InvalidName",
    "InvalidTime",
    "LabClosed",
    "MissingExtra",
    "NewerFormat",
    "OffsetOutOfRange",
    "QueryError",
    "ReadOnly",
    "ReplaySeeked",
    "SchemaMismatch",
    "StreamExists",
    "StreamLocked",
    "StreamNotFound",
    "StreamlabError",
    "WriterPoisoned",
]


class StreamlabError(Exception):
    """The base of the tree: ``except sl.StreamlabError`` catches all of it."""

    def __init__(self, message: str, *, hint: str | None = None, **details: Any) -> None:
        self.message = message
        self.hint = hint
        for name, value in details.items():
            setattr(self, name, value)
        super().__init__(f"{message}\nHint: {hint}" if hint else message)

    def __str__(self) -> str:  # KeyError would print a repr
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class StreamNotFound(StreamlabError, KeyError):
    """No stream of that name; the message lists the nearest."""


class StreamExists(StreamlabError, FileExistsError):
    """A stream of that name is there already."""


class InvalidName(StreamlabError, ValueError):
    """A name that could not be a folder on every file system."""


class InvalidDuration(StreamlabError, ValueError):
    """Not a length of time; the message says what to write."""


class InvalidTime(StreamlabError, ValueError):
    """Not an instant, or one that may not be asked for (a future as-of)."""


class SchemaMismatch(StreamlabError, TypeError):
    """Data that does not fit the stream; ``column``, ``got`` and ``want`` say where."""

    column: str | None = None
    got: Any = None
    want: Any = None


class FutureEvent(StreamlabError, ValueError):
    """An event time further ahead of now than the stream's ``max_ahead``."""

    row: int
    value: Any


class OffsetOutOfRange(StreamlabError, IndexError):
    """Rows that are not, or no longer, there: ``asked`` and ``available`` are ranges."""

    asked: Any = None
    available: range | None = None


class Fenced(StreamlabError):
    """A commit of partitions that are not the consumer's any more: ``group`` and ``partitions``."""

    group: str
    partitions: tuple[int, ...]


class StreamLocked(StreamlabError):
    """Another writer holds the stream; ``holder`` says who."""

    holder: dict[str, Any]


class ReadOnly(StreamlabError, PermissionError):
    """A change was asked of a view, or of a lab that was opened read-only."""


class LabClosed(StreamlabError):
    """A lab, stream or writer was used after ``close()``."""


class CorruptSegment(StreamlabError):
    """Bytes that are not what was written: ``file``, ``byte`` and ``reason``."""

    file: str
    byte: int
    reason: str

    def __init__(self, file: Any, byte: int, reason: str, *, hint: str | None = None) -> None:
        super().__init__(
            f"{file} is corrupt at byte {byte}: {reason}",
            hint=hint
            or "`streamlab verify LAB` reports all damage; --salvage DIR copies what is sound",
            file=str(file),
            byte=byte,
            reason=reason,
        )


class NewerFormat(StreamlabError):
    """Written by a newer streamlab than this one."""


class HistoryChanged(StreamlabError):
    """What was recorded about a stream (a position, a frozen value) no longer fits it."""


class WriterPoisoned(StreamlabError, OSError):
    """An fsync failed, so what is on disk is unknown until the lab is reopened."""


class ReplaySeeked(StreamlabError):
    """The replay that was followed has been set back: what comes now was there before."""


class QueryError(StreamlabError, ValueError):
    """A query that cannot be answered, or is refused; the message says why."""


class MissingExtra(StreamlabError, ImportError):
    """An optional dependency is not installed; the message has the pip line."""
