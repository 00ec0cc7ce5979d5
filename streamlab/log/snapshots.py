"""Snapshots: the latest row of each key below an offset, kept beside the log.

With one near, the state of a table at any place costs what its keys cost, not what its history does.
A snapshot is a cache and nothing more. It is not synced; one that is lost, damaged or of another
history is as good as none, and whoever may write puts a better one there.

Invariants: a file's name has its own checksum, so that no byte of it is believed unseen; it says of
which stream, table and range of offsets it is, and when the row before its offset was appended, so
that a log that was put back and went on differently does not take it for its own; what a trim has
removed from the log it removes from the snapshots too.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import ipc

from streamlab.log import disk
from streamlab.log.format import checksum

__all__ = ["Label", "clear", "damaged", "discard", "listed", "load", "put"]

FOLDER = "snapshots"
FORMAT = 1
NAME = re.compile(r"(\d{20})-([0-9a-f]{16})-([0-9a-f]{16})\.arrow")

UNREADABLE = (OSError, pa.ArrowException, ValueError, LookupError, TypeError)
"""What bytes that are no snapshot make of code that reads them."""

LEFTOVER_SECONDS = 600.0
"""A snapshot is written in much less; a temporary file that is older was left by a crash."""


class Label(NamedTuple):
    """What a snapshot says of itself."""

    stream: str
    table: str  # sixteen hex digits that stand for the key, and for how rows are read
    start: int  # rows below it were not looked at
    offset: int  # nor rows from it on
    append_time: int  # of the row before the offset
    oldest: int  # offset of the oldest row in it


def put(folder: Path, label: Label, rows: pa.Table) -> Path:
    """Write a snapshot into a stream's folder; one that has the same content is replaced.

    Raises:
        OSError: there is no room for it, or no permission.
    """
    about = json.dumps({"format": FORMAT, **label._asdict()})
    sink = pa.BufferOutputStream()
    schema = rows.schema.with_metadata({"streamlab": about})
    options = ipc.IpcWriteOptions(compression="lz4")
    with ipc.new_file(sink, schema, options=options) as writer:
        writer.write_table(rows.replace_schema_metadata(schema.metadata))
    content = sink.getvalue()
    if not (folder / FOLDER).exists():
        with contextlib.suppress(FileExistsError):
            disk.make_dir(folder / FOLDER)
    name = f"{label.offset:020d}-{label.table}-{checksum(content):016x}.arrow"
    path = folder / FOLDER / name
    disk.replace_file(path, content.to_pybytes(), durable=False)
    return path


def listed(folder: Path, table: str, start: int, stop: int) -> list[Path]:
    """Return the snapshots of a table with offsets in (start, stop], the latest first."""
    found = [
        (int(name[1]), path)
        for path in (folder / FOLDER).glob(f"*-{table}-*.arrow")
        if (name := NAME.fullmatch(path.name)) and start < int(name[1]) <= stop
    ]
    return [path for _, path in sorted(found, reverse=True)]


def load(path: Path) -> tuple[Label, pa.Table] | None:
    """Return a snapshot, mapped; None if the file is not what was written, or not for us to read."""
    name = NAME.fullmatch(path.name)
    assert name is not None, path
    try:
        data = disk.map_file(path)
        if checksum(data) != int(name[3], 16):
            return None
        with ipc.open_file(pa.py_buffer(data)) as reader:
            label = _label(reader.schema)
            return (
                None
                if label is None or label.offset != int(name[1])
                else (label, reader.read_all())
            )
    except UNREADABLE:
        return None


def _label(schema: pa.Schema) -> Label | None:
    about = json.loads((schema.metadata or {})[b"streamlab"])
    if about.pop("format") != FORMAT:
        return None
    return Label(**about)


def discard(path: Path) -> None:
    """Remove a snapshot that is of no use; its readers keep what they have mapped."""
    with contextlib.suppress(OSError):
        disk.unlink(path)


def clear(folder: Path, start: int) -> None:
    """Remove the snapshots that hold a row below an offset, or nothing above it."""
    for path in (folder / FOLDER).glob("*.arrow"):
        name = NAME.fullmatch(path.name)
        if name is not None and (int(name[1]) <= start or _oldest(path) < start):
            discard(path)
    for path in (folder / FOLDER).glob(".*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
                discard(path)


def _oldest(path: Path) -> int:
    """Return the offset of the oldest row in a snapshot; -1 if that cannot be told."""
    try:
        with ipc.open_file(pa.py_buffer(disk.map_file(path))) as reader:
            label = _label(reader.schema)
            return -1 if label is None else label.oldest
    except UNREADABLE:
        return -1


def damaged(folder: Path) -> Iterator[Path]:
    """Yield the snapshots that cannot be used, whatever the log holds."""
    for path in sorted((folder / FOLDER).glob("*.arrow")):
        if NAME.fullmatch(path.name) and load(path) is None:
            yield path
