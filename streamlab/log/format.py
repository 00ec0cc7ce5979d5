"""How a log becomes bytes: frames, runs, the footer, head slots, checked JSON.

The specification is docs/format.md; this is its only code, and a test holds one against the other.

A segment file is eight bytes of Arrow's magic, padding to 64, and frames. A frame is a 128-byte
header, metadata, and one encapsulated Arrow message, each part padded to 64 bytes, so that a body
can be mapped and used where it lies. A sealed file goes on with an Arrow footer that lists where
each record batch lies: that makes it a plain Arrow IPC file, with our headers in the gaps.

Invariants: the checksum covers every byte of the frame after itself, so that no flipped bit goes
unseen; a header names its own segment and position, so that bytes of a log that are stored as a
value in a log are never taken for a frame.
"""

from __future__ import annotations

import enum
import json
import struct
from array import array
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc
from xxhash import xxh3_64, xxh3_64_intdigest

from streamlab.clock import NEVER
from streamlab.errors import CorruptSegment, NewerFormat

__all__ = [
    "ALIGNMENT",
    "COMPACTED",
    "FRAMES_AT",
    "HEADER_SIZE",
    "PREAMBLE",
    "RELATIVE_RUN",
    "RUN",
    "SPARSE_VERSION",
    "VERSION",
    "Frame",
    "Kind",
    "add_runs",
    "checksum",
    "decode",
    "dump_extra",
    "dump_json",
    "encode",
    "footer",
    "footer_blocks",
    "load_extra",
    "load_json",
    "padding",
    "serialize",
]

VERSION = 1
SPARSE_VERSION = 2
"""Of frames and manifests that code which knows no compaction would misread."""

ALIGNMENT = 64
MAGIC = b"SLABFRM\n"
ARROW_MAGIC = b"ARROW1"
END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
PREAMBLE = ARROW_MAGIC.ljust(ALIGNMENT, b"\0")
FRAMES_AT = len(PREAMBLE)

HEADER = struct.Struct("<8sQHBBIQQqqIIQqqqqqq8x")
HEADER_SIZE = HEADER.size
CHECKED_FROM = 16  # the checksum covers what stands after itself
assert HEADER_SIZE == 2 * ALIGNMENT

RUN = np.dtype([("base", "<i8"), ("append_time", "<i8"), ("before", "<i8"), ("after", "<i8")])
"""One append or heartbeat, as the table of a segment keeps it: 32 bytes."""

RELATIVE_RUN = np.dtype([("base", "<i8"), ("before", "<i8"), ("after", "<i8")])
"""One of several runs of a frame, as its metadata keeps it: base counts from the frame's first row."""

NOTE_SIZE = struct.Struct("<I")
COMPACTED = struct.Struct("<Q")
"""What a file of compacted rows has with its schema: the offset below which the stream is."""


class Kind(enum.IntEnum):
    """What a frame says."""

    SCHEMA = 1  # the first of a file; the message is the Arrow schema
    ROWS = 2  # one append; the message is the record batch
    HEARTBEAT = 3  # stream time moves on without rows
    MARK = 4  # vouches for all before it; left by close() and an idle writer
    POSITION = 5  # a note without rows; stream time may move on with it
    LAST = 6  # the file ends here; the metadata is its table of runs
    SPARSE = 7  # the rows that compaction left of some offsets, each with its own


class Frame(NamedTuple):
    """What a header says, in the order in which it says it."""

    magic: bytes
    checksum: int
    version: int
    kind: int
    flags: int
    schema: int  # id of the stream's schema
    segment: int  # id of the file, drawn at random
    position: int  # where in the file this frame begins
    base: int  # offset of the first row, or of the row to come
    rows: int  # how many; of a sparse frame, how many offsets it stands for
    metadata_size: int
    prefix_size: int  # of the message: its metadata, before the body
    message_size: int
    before: int  # stream time before the frame
    after: int  # stream time after it
    append_time: int
    synced: int  # position in this file below which all was known durable when this was written
    event_min: int
    event_max: int

    @property
    def metadata_at(self) -> int:
        return self.position + HEADER_SIZE

    @property
    def message_at(self) -> int:
        return self.metadata_at + self.metadata_size + padding(self.metadata_size)

    @property
    def stop(self) -> int:
        """Where the next frame begins."""
        return self.message_at + self.message_size + padding(self.message_size)


def padding(size: int) -> int:
    """Return how many bytes bring ``size`` to a multiple of 64."""
    return -size % ALIGNMENT


def checksum(*buffers: bytes | memoryview | pa.Buffer) -> int:
    """Return the XXH3 hash of the buffers, one after the other."""
    if len(buffers) == 1:
        return xxh3_64_intdigest(buffers[0])
    digest = xxh3_64()
    for buffer in buffers:
        digest.update(buffer)
    return digest.intdigest()


def encode(
    kind: Kind,
    *,
    schema: int,
    segment: int,
    position: int,
    base: int,
    before: int,
    after: int,
    append_time: int,
    synced: int,
    rows: int = 0,
    event_min: int = NEVER,
    event_max: int = NEVER,
    metadata: bytes = b"",
    message: pa.Buffer | bytes = b"",
) -> tuple[Frame, list[bytes | memoryview]]:
    """Return a frame and the buffers that are to be written at its position.

    ``message`` is what `pyarrow.RecordBatch.serialize` gives: eight bytes that hold the size of
    the message's metadata, the metadata, the body.
    """
    assert position % ALIGNMENT == 0, position
    assert after >= before, (before, after)
    assert rows >= 0, rows
    body = memoryview(message)
    size = len(body)
    prefix = struct.unpack_from("<i", body, 4)[0] + 8 if size else 0
    version = SPARSE_VERSION if kind == Kind.SPARSE else VERSION
    frame = Frame(
        MAGIC, 0, version, kind, 0, schema, segment, position, base, rows, len(metadata), prefix,
        size, before, after, append_time, synced, event_min, event_max,
    )  # fmt: skip
    header = HEADER.pack(*frame)
    middle = metadata + bytes(padding(len(metadata)))
    tail = bytes(padding(size))
    frame = frame._replace(checksum=checksum(header[CHECKED_FROM:], middle, body, tail))
    return frame, [HEADER.pack(*frame), middle, body, tail]


def decode(data: memoryview, position: int, segment: int | None = None) -> Frame | None:
    """Return the whole, sound frame that stands at ``position``, or None if none does.

    None is no error here: at the tail it means that the writer died in the middle of a write.
    What it means elsewhere, only recovery knows.

    Raises:
        NewerFormat: the frame is sound and of a version that this code does not know.
    """
    frame = decode_header(data, position, segment)
    if frame is None or frame.stop > len(data):
        return None
    if checksum(data[position + CHECKED_FROM : frame.stop]) != frame.checksum:
        return None
    known = SPARSE_VERSION if frame.kind == Kind.SPARSE else VERSION
    if frame.version != known:
        raise NewerFormat(f"frame at byte {position} is of version {frame.version}, not {known}")
    return frame


def decode_header(data: memoryview, position: int, segment: int | None = None) -> Frame | None:
    """Return the frame that a header at ``position`` describes, its checksum not looked at."""
    if position + HEADER_SIZE > len(data):
        return None
    frame = Frame(*HEADER.unpack_from(data, position))
    if frame.magic != MAGIC or frame.position != position:
        return None
    if segment is not None and frame.segment != segment:
        return None
    return frame


def dump_extra(note: bytes, runs: npt.NDArray[np.void] | None = None) -> bytes:
    """Return the metadata of a frame: its note and its runs; nothing if it has neither."""
    table = b"" if runs is None else runs.astype(RELATIVE_RUN, copy=False).tobytes()
    return NOTE_SIZE.pack(len(note)) + note + table if note or table else b""


def load_extra(metadata: bytes | memoryview) -> tuple[bytes, npt.NDArray[np.void]]:
    """Return the note and the runs that `dump_extra` put together."""
    if not len(metadata):
        return b"", np.empty(0, RELATIVE_RUN)
    stop = NOTE_SIZE.size + NOTE_SIZE.unpack_from(metadata)[0]
    note = bytes(metadata[NOTE_SIZE.size : stop])
    return note, np.frombuffer(bytes(metadata[stop:]), RELATIVE_RUN)


def add_runs(table: array[int], frame: Frame, metadata: bytes | memoryview) -> bytes:
    """Add the runs of a frame to a flat table of them, and return the frame's note, if it has one.

    The one place that says what a run is, for those who write a file and for those who read it.
    """
    note, runs = b"", None
    if len(metadata) and frame.kind in (Kind.ROWS, Kind.POSITION):
        note, runs = load_extra(metadata)
    moved = frame.kind == Kind.POSITION and frame.after > frame.before
    if not moved and frame.kind not in (Kind.ROWS, Kind.SPARSE, Kind.HEARTBEAT):
        return note
    if runs is None or not len(runs):
        table.extend((frame.base, frame.append_time, frame.before, frame.after))
        return note
    if runs["base"][0] > 0:  # the rows before the first run are an ordinary one
        first = int(runs["before"][0])
        table.extend((frame.base, frame.append_time, frame.before, first))
    whole = np.empty(len(runs), RUN)
    whole["base"] = runs["base"] + frame.base
    whole["append_time"] = frame.append_time
    whole["before"], whole["after"] = runs["before"], runs["after"]
    table.frombytes(whole.tobytes())
    return note


def footer(
    schema: pa.Schema, blocks: list[tuple[int, int, int]], metadata: dict[str, Any]
) -> bytes:
    """Return what turns frames into an Arrow IPC file: end-of-stream mark, footer, magic.

    ``blocks`` are (position, size of the metadata, size of the body) of each message. Arrow writes
    the footer of a file of as many empty batches; the fixed-size blocks in it are then filled in.
    """
    sink = pa.BufferOutputStream()
    empty = schema.empty_table().to_batches() or [
        pa.RecordBatch.from_arrays([pa.array([], field.type) for field in schema], schema=schema)
    ]
    with ipc.new_file(sink, schema, metadata={"streamlab": json.dumps(metadata)}) as writer:
        for _ in blocks:
            writer.write_batch(empty[0])
    whole = sink.getvalue().to_pybytes()
    tail = len(ARROW_MAGIC) + 4
    size = struct.unpack_from("<i", whole, len(whole) - tail)[0]
    content = bytearray(whole[len(whole) - tail - size : len(whole) - tail])
    end: bytes = whole[len(whole) - tail :]
    at, count = _blocks_of(content)
    assert count == len(blocks), (count, len(blocks))
    for index, (position, prefix, body) in enumerate(blocks):
        struct.pack_into("<qi4xq", content, at + 24 * index, position, prefix, body)
    return END_OF_STREAM + bytes(content) + end


def serialize(batch: pa.RecordBatch, compression: str | None) -> pa.Buffer:
    """Return a record batch as one encapsulated Arrow message."""
    if compression is None:
        return batch.serialize()
    sink = pa.BufferOutputStream()
    options = ipc.IpcWriteOptions(compression=compression)
    with ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    whole = sink.getvalue()
    schema_size = struct.unpack_from("<i", whole, 4)[0] + 8
    return whole.slice(schema_size, whole.size - schema_size - len(END_OF_STREAM))


def _blocks_of(flatbuffer: bytearray) -> tuple[int, int]:
    """Return where the record-batch blocks of a Footer table stand, and how many there are."""
    root = struct.unpack_from("<I", flatbuffer, 0)[0]
    table = root - struct.unpack_from("<i", flatbuffer, root)[0]
    slot = struct.unpack_from("<H", flatbuffer, table + 4 + 2 * 3)[0]  # field 3: recordBatches
    if not slot:
        return 0, 0
    vector = root + slot + struct.unpack_from("<I", flatbuffer, root + slot)[0]
    return vector + 4, struct.unpack_from("<I", flatbuffer, vector)[0]


def footer_blocks(data: memoryview) -> list[tuple[int, int, int]]:
    """Return the blocks that the footer at the end of a file lists, as `footer` took them."""
    tail = len(ARROW_MAGIC) + 4
    size = struct.unpack_from("<i", data, len(data) - tail)[0]
    content = bytearray(data[len(data) - tail - size : len(data) - tail])
    at, count = _blocks_of(content)
    return [struct.unpack_from("<qi4xq", content, at + 24 * index) for index in range(count)]


def dump_json(content: dict[str, Any]) -> bytes:
    """Return a JSON file whose last line is the checksum of the lines before it."""
    text = json.dumps(content, indent=1, ensure_ascii=False).encode() + b"\n"
    return text + b"checksum %016x\n" % checksum(text)


def load_json(data: bytes, path: Path) -> dict[str, Any]:
    """Return the content of a file that `dump_json` made.

    Raises:
        CorruptSegment: the content is not what was written.
        NewerFormat: it says that a newer streamlab wrote it.
    """
    cut = data.rfind(b"\nchecksum ")
    if cut < 0:
        raise CorruptSegment(path, len(data), "the checksum line is missing")
    text = data[: cut + 1]
    if data[cut + 1 :] != b"checksum %016x\n" % checksum(text):
        raise CorruptSegment(path, 0, "the content does not fit its checksum")
    content: dict[str, Any] = json.loads(text)
    if content.get("format", VERSION) > VERSION:
        raise NewerFormat(
            f"{path} is of format {content['format']}; this streamlab knows {VERSION}",
            hint="pip install --upgrade streamlab",
        )
    return content
