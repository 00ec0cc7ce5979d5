"""One segment file: walked, read where it lies, written, sealed.

A file that grows (``.log``) and a sealed one (``.arrow``) have the same frames; the sealed one ends
with a table of runs and an Arrow footer. So one reader serves both, and what is sealed in place
costs a footer.

Invariants: frames stand back to back; offsets and stream times go on from frame to frame, so that a
duplicated, dropped or swapped frame is found although its own checksum is right; a frame's bytes are
checked before Arrow sees them, once. In a file that compaction wrote the offsets of the rows have
gaps: there ``_offset`` is a column, and a frame says which offsets it stands for.
"""

from __future__ import annotations

import bisect
import contextlib
import os
import secrets
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc

from streamlab.clock import FOREVER, NEVER
from streamlab.errors import CorruptSegment
from streamlab.log import disk
from streamlab.log.format import (
    ALIGNMENT,
    COMPACTED,
    FRAMES_AT,
    HEADER_SIZE,
    PREAMBLE,
    RUN,
    SPARSE_VERSION,
    VERSION,
    Frame,
    Kind,
    add_runs,
    decode,
    decode_header,
    dump_extra,
    encode,
    footer,
)

__all__ = ["Chunk", "Mark", "SegmentFile", "SegmentWriter", "seal_footer"]


class Mark(NamedTuple):
    """A place in a file: what a frame that is written there has to go on from."""

    position: int
    end: int  # offset of the row to come
    stream_time: int
    append_time: int


class Chunk(NamedTuple):
    """Some rows of one frame, where they lie, with what their frame and runs say of them.

    They are all the rows there are with offsets in [base, stop).
    """

    base: int
    stop: int
    batch: pa.RecordBatch
    file: SegmentFile

    @property
    def runs(self) -> npt.NDArray[np.void]:
        """The runs that reach into these rows, the first cut to begin with them."""
        return self.file.runs_between(self.base, self.stop)

    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """The offset of each row."""
        if not self.file.sparse:
            return np.arange(self.base, self.stop, dtype=np.int64)
        return offsets_of(self.batch)

    @property
    def append_times(self) -> npt.NDArray[np.int64]:
        """The append time of each row."""
        runs = self.runs
        if self.file.sparse:
            at = np.searchsorted(runs["base"], self.offsets, "right") - 1
            return runs["append_time"][at].astype(np.int64)
        bounds = np.append(runs["base"], self.stop)
        return np.repeat(runs["append_time"], np.diff(bounds)).astype(np.int64)

    def stream_times_before(self, events: npt.NDArray[np.int64], now: int) -> npt.NDArray[np.int64]:
        """Return the stream time that each row meets, given their event times.

        ``now`` is that after the row before them, as far as it is known.
        """
        before = np.concatenate([[now], events[:-1]])
        runs = self.runs
        if self.file.sparse:
            places = np.searchsorted(self.offsets, runs["base"], "left")
        else:
            places = runs["base"] - self.base
        inside = places < len(before)
        places, marks = places[inside], runs["before"][inside]
        before[places] = np.maximum(before[places], marks)
        return np.maximum.accumulate(before)

    def part(self, at: int, rows: int) -> Chunk:
        """Return so many of the rows, from one of them on."""
        count = self.batch.num_rows
        some = self.batch.slice(at, rows)
        if not self.file.sparse:
            return Chunk(self.base + at, self.base + at + some.num_rows, some, self.file)
        offsets = self.offsets
        base = int(offsets[at]) if at else self.base
        stop = int(offsets[at + rows]) if at + rows < count else self.stop
        return Chunk(base, stop, some, self.file)


def offsets_of(batch: pa.RecordBatch) -> npt.NDArray[np.int64]:
    """Return the offsets that the rows of a sparse file bear."""
    offsets: npt.NDArray[np.int64] = batch.column("_offset").to_numpy()
    return offsets


def new_segment_id() -> int:
    """Return the id of a new file: 63 random bits."""
    return secrets.randbits(63) | 1


class SegmentFile:
    """A segment file, open for reading, walked as far as it was asked for.

    ``checked=True`` says that the bytes are known to be sound (a sealed file whose whole was
    verified), so that frames are not checked one by one.
    """

    def __init__(self, path: Path, segment: int, *, checked: bool = False) -> None:
        self.path = path
        self.segment = segment
        self.checked = checked
        self.data = disk.map_file(path)
        self.closed = False  # a LAST frame was seen
        self.event_min, self.event_max = FOREVER, NEVER
        self.synced = 0  # the furthest position that a frame says was durable
        self.last_note = b""
        self._lock = threading.RLock()
        self._run_table: npt.NDArray[np.void] | None = None
        self._index = array("q")  # base, rows, message_at, message_size for each frame with rows
        self._runs = array("q")  # the fields of RUN for each append and heartbeat
        if bytes(self.data[:FRAMES_AT]) != PREAMBLE:
            raise CorruptSegment(path, 0, "the file does not begin as a segment does")
        first = self._frame_at(FRAMES_AT)
        if first is None or first.kind != Kind.SCHEMA:
            raise CorruptSegment(path, FRAMES_AT, "the schema frame is damaged")
        self.schema_id = first.schema
        self.compacted = 0  # below this offset the stream was compacted when the file was written
        if first.metadata_size:
            self.compacted = COMPACTED.unpack(self.data[first.metadata_at :][: COMPACTED.size])[0]
        self.schema = ipc.read_schema(self._message(first.message_at, first.message_size))
        self.sparse = "_offset" in self.schema.names
        self.base = first.base
        self.start = Mark(FRAMES_AT, first.base, first.before, first.append_time)
        self.mark = Mark(first.stop, first.base, first.after, first.append_time)

    def _frame_at(self, position: int) -> Frame | None:
        if self.checked:
            return decode_header(self.data, position, self.segment)
        return decode(self.data, position, self.segment)

    def walk(self, stop: int | None = None, until: int | None = None) -> Iterator[Frame]:
        """Walk on until all rows below ``stop`` are known, or over all frames that are sound.

        Each frame is looked at once, however often this is called; it is yielded when it is. What
        stands beyond ``stop``, or was appended after ``until``, is not touched: a writer may be
        cutting it off.

        Raises:
            FileNotFoundError: the file has grown since it was mapped, and was removed.
        """
        while not self.closed and (stop is None or self.mark.end < stop):
            position = self.mark.position
            if position + HEADER_SIZE > len(self.data):
                if os.stat(self.path).st_size <= len(self.data):  # noqa: PTH116
                    return
                self.data = disk.map_file(self.path)
            peek = decode_header(self.data, position, self.segment)
            if peek is None or (until is not None and self._later(peek, until)):
                return
            if peek.stop > len(self.data):
                self.data = disk.map_file(self.path)
            if peek.stop > len(self.data):
                return
            frame = peek if self.checked else decode(self.data, position, self.segment)
            if frame is None or not self._follows(frame):
                return
            self._take(frame)
            yield frame

    def _later(self, frame: Frame, until: int) -> bool:
        """Whether a frame was written after an append time; a mark bears the time of the last row."""
        mark = frame.kind in (Kind.MARK, Kind.LAST) and self.mark.append_time >= until
        return mark or frame.append_time > until

    def _follows(self, frame: Frame) -> bool:
        return frame.base == self.mark.end and frame.before == self.mark.stream_time

    def _take(self, frame: Frame) -> None:
        self.synced = max(self.synced, frame.synced)
        self._run_table = None
        if frame.kind in (Kind.ROWS, Kind.SPARSE):
            self.event_min = min(self.event_min, frame.event_min)
            self.event_max = max(self.event_max, frame.event_max)
            self._index.extend((frame.base, frame.rows, frame.message_at, frame.message_size))
        metadata = self.data[frame.metadata_at : frame.metadata_at + frame.metadata_size]
        self.last_note = add_runs(self._runs, frame, metadata) or self.last_note
        if frame.kind == Kind.LAST:
            self.closed = True
            self._runs = array("q", bytes(metadata))
        end = frame.base + frame.rows
        self.mark = Mark(frame.stop, end, frame.after, frame.append_time)

    def reach(self, stop: int) -> None:
        """Walk until all rows below ``stop`` are known.

        Raises:
            CorruptSegment: they are not all there, or not what was written.
            FileNotFoundError: they were written after the last look, and the file is gone since.
        """
        with self._lock:
            for _ in self.walk(stop):
                pass
        if self.mark.end < stop:
            reason = f"the frame with offset {self.mark.end} is damaged or out of place"
            raise CorruptSegment(self.path, self.mark.position, reason)

    def note_until(self, append_time: int) -> bytes:
        """Walk on over what was appended until then, and return the last note, b"" if none.

        Raises:
            FileNotFoundError: the file has grown since it was mapped, and was removed.
        """
        with self._lock:
            for _ in self.walk(until=append_time):
                pass
            return self.last_note

    def runs_until(self, append_time: int) -> tuple[npt.NDArray[np.void], int]:
        """Walk on over what was appended until then; return the table of runs and where it ends.

        A file that has grown since it was mapped, and was removed, is not walked any further.
        """
        with self._lock:
            with contextlib.suppress(FileNotFoundError):
                for _ in self.walk(until=append_time):
                    pass
            return self.runs, self.mark.end

    @property
    def runs(self) -> npt.NDArray[np.void]:
        """The table of runs, as far as walked."""
        with self._lock:
            if self._run_table is None:
                self._run_table = np.frombuffer(self._runs.tobytes(), dtype=RUN)
            return self._run_table

    def runs_between(self, start: int, stop: int) -> npt.NDArray[np.void]:
        """Return the runs that reach into [start, stop), the first one cut to begin at start."""
        runs = self.runs
        first = max(int(np.searchsorted(runs["base"], start, "right")) - 1, 0)
        last = int(np.searchsorted(runs["base"], stop, "left"))
        some = runs[first : max(last, first + 1)].copy()
        if len(some):
            some["base"][0] = max(some["base"][0], start)
        return some

    def run_at(self, offset: int) -> np.void:
        """Return the run that a row belongs to; heartbeats at its offset stand before it."""
        runs = self.runs
        run: np.void = runs[int(np.searchsorted(runs["base"], offset, "right")) - 1]
        return run

    def stream_time_before(self, offset: int, column: str | None) -> int:
        """Return the stream time that the row at an offset meets; rows of one run are read for it.

        ``column`` holds the event times; None: append time is event time.
        """
        return self._stream_time(self.run_at(offset), offset, column)

    def stream_time_after(self, offset: int, column: str | None) -> int:
        """Return the stream time of the row at an offset."""
        return self._stream_time(self.run_at(offset), offset + 1, column)

    def _stream_time(self, run: np.void, stop: int, column: str | None) -> int:
        """Return the stream time after the rows of a run below ``stop``."""
        from streamlab.schema import event_times

        stream_time, base = int(run["before"]), int(run["base"])
        for part in self.chunks(base, stop) if base < stop else ():
            if column is None:
                return max(stream_time, int(run["append_time"]))
            times = event_times(part.batch.column(column), column)
            stream_time = max(stream_time, int(times.max()))
        return stream_time

    def count(self, start: int, stop: int) -> int:
        """Return how many rows there are with offsets in [start, stop)."""
        return sum(chunk.batch.num_rows for chunk in self.chunks(start, stop))

    def chunks(self, start: int, stop: int) -> Iterator[Chunk]:
        """Yield the rows in [start, stop), a frame at a time, where they lie."""
        self.reach(stop)
        index = self._index
        count = len(index) // 4
        at = max(bisect.bisect_right(range(count), start, key=lambda i: index[4 * i]) - 1, 0)
        while at < count and index[4 * at] < stop:
            base, rows, message_at, size = index[4 * at : 4 * at + 4]
            batch = self.batch(message_at, size)
            low, high = max(start, base), min(stop, base + rows)
            first, last = low - base, high - base
            if self.sparse:
                first, last = np.searchsorted(offsets_of(batch), [low, high]).tolist()
            if first < last:
                yield Chunk(low, high, batch.slice(first, last - first), self)
            at += 1

    def batch(self, message_at: int, size: int) -> pa.RecordBatch:
        """Return the record batch of a message, not copied."""
        try:
            return ipc.read_record_batch(self._message(message_at, size), self.schema)
        except (pa.ArrowException, OSError) as error:
            raise CorruptSegment(self.path, message_at, str(error)) from error

    def _message(self, at: int, size: int) -> pa.Buffer:
        return pa.py_buffer(self.data[at : at + size])

    def blocks(self) -> list[tuple[int, int, int]]:
        """Return (position, size of metadata, size of body) of each record batch."""
        found = []
        for at in range(0, len(self._index), 4):
            message_at, size = self._index[at + 2], self._index[at + 3]
            prefix = int.from_bytes(self.data[message_at + 4 : message_at + 8], "little") + 8
            found.append((message_at, prefix, size - prefix))
        return found

    def frames_beyond(self, position: int) -> Iterator[Frame]:
        """Yield the sound frames at aligned places beyond a hole, wherever they claim to belong."""
        data = disk.map_file(self.path)
        at = position + ALIGNMENT
        while at + HEADER_SIZE <= len(data):
            frame = decode(data, at, self.segment)
            at = frame.stop if frame else at + ALIGNMENT
            if frame:
                yield frame


class SegmentWriter:
    """Writes a segment file frame by frame: one that grows, or one that is sealed at once.

    A frame that fails is cut off again; if even that fails, `broken` is set and the file must not
    be written until it has been recovered. A file begins with the ``note`` that was the last before
    it, so that the note outlives the files before; one of compacted rows, with the offset below
    which the stream is ``compacted``. Its id is drawn at random unless one is given.
    """

    def __init__(
        self,
        path: Path,
        schema: pa.Schema,
        schema_id: int,
        start: Mark,
        note: bytes = b"",
        *,
        segment: int | None = None,
        compacted: int | None = None,
    ) -> None:
        self._begin(path, schema, schema_id, segment or new_segment_id())
        self.mark = start._replace(position=FRAMES_AT)
        self.base = start.end
        self.before = start.stream_time
        self.fd = disk.create(path)
        try:
            disk.write(self.fd, [PREAMBLE], 0)
            message = schema.serialize()
            after, append_time = start.stream_time, start.append_time
            told = b"" if compacted is None else COMPACTED.pack(compacted)
            self.put(
                Kind.SCHEMA, after=after, append_time=append_time, message=message, metadata=told
            )
            if note:
                self.note(note, append_time)
        except BaseException:
            self.abandon()
            raise

    def _begin(self, path: Path, schema: pa.Schema, schema_id: int, segment: int) -> None:
        self.path = path
        self.schema = schema
        self.schema_id = schema_id
        self.segment = segment
        self.broken = False
        self.synced = 0  # position below which all is known durable
        self.last_kind = Kind.SCHEMA
        self.last_note = b""
        self.event_min, self.event_max = FOREVER, NEVER
        self.append_min = FOREVER
        self._runs = array("q")
        self._blocks = array("q")

    @classmethod
    def resume(cls, file: SegmentFile) -> SegmentWriter:
        """Go on with a file that was walked to its end."""
        self = cls.__new__(cls)
        self._begin(file.path, file.schema, file.schema_id, file.segment)
        self.base, self.before = file.start.end, file.start.stream_time
        self.mark = file.mark
        self.event_min, self.event_max = file.event_min, file.event_max
        self._runs = array("q", file.runs.tobytes())
        self.append_min = self._runs[1] if self._runs else FOREVER
        self._blocks = array("q", (value for block in file.blocks() for value in block))
        self.last_note = file.last_note
        written = Kind.ROWS if self._runs else Kind.POSITION if file.last_note else Kind.SCHEMA
        self.last_kind = Kind.LAST if file.closed else written
        self.fd = disk.open_append(file.path)
        return self

    def put(
        self,
        kind: Kind,
        *,
        after: int,
        append_time: int,
        rows: int = 0,
        events: tuple[int, int] = (NEVER, NEVER),
        metadata: bytes = b"",
        message: pa.Buffer | bytes = b"",
    ) -> Frame:
        """Write one frame and move on past it; whatever is raised, the frame is not there."""
        position, end, before, _ = self.mark
        frame, buffers = encode(
            kind, schema=self.schema_id, segment=self.segment, position=position, base=end,
            before=before, after=after, append_time=append_time, synced=self.synced, rows=rows,
            event_min=events[0], event_max=events[1], metadata=metadata, message=message,
        )  # fmt: skip
        try:
            disk.write(self.fd, buffers, position)
        except BaseException:
            self._cut(position)
            raise
        if kind in (Kind.ROWS, Kind.SPARSE):
            prefix = frame.prefix_size
            self._blocks.extend((frame.message_at, prefix, frame.message_size - prefix))
            self.event_min = min(self.event_min, events[0])
            self.event_max = max(self.event_max, events[1])
        known = len(self._runs)
        self.last_note = add_runs(self._runs, frame, metadata) or self.last_note
        if len(self._runs) > known:
            self.append_min = min(self.append_min, append_time)
        self.last_kind = kind
        self.mark = Mark(frame.stop, end + rows, after, append_time)
        return frame

    def note(self, note: bytes, append_time: int, stream_time: int | None = None) -> None:
        """Write a note without rows; stream time moves on with it if that is ahead."""
        after = max(self.mark.stream_time, NEVER if stream_time is None else stream_time)
        metadata = dump_extra(note)
        self.put(Kind.POSITION, after=after, append_time=append_time, metadata=metadata)

    def _cut(self, position: int) -> None:
        try:
            disk.truncate(self.fd, position)
        except OSError:
            self.broken = True

    @property
    def empty(self) -> bool:
        """Whether there is neither a row nor a heartbeat in the file; its note is carried on."""
        return not self._runs

    @property
    def runs(self) -> npt.NDArray[np.void]:
        """The table of runs."""
        return np.frombuffer(self._runs.tobytes(), dtype=RUN)

    def sync(self) -> None:
        """Make what was written durable."""
        position = self.mark.position
        disk.sync(self.fd)
        self.synced = position

    def end(
        self,
        runs: npt.NDArray[np.void] | None = None,
        *,
        after: int | None = None,
        append_time: int | None = None,
    ) -> None:
        """Write the table of runs: no frame follows. Coalescing brings the table of the original."""
        table = self._runs.tobytes() if runs is None else runs.tobytes()
        after = self.mark.stream_time if after is None else after
        append_time = self.mark.append_time if append_time is None else append_time
        self.put(Kind.LAST, after=after, append_time=append_time, metadata=table)

    def seal(self) -> None:
        """Write the footer after the table of runs: the file is an Arrow IPC file now."""
        flat = self._blocks
        blocks = list(zip(flat[::3], flat[1::3], flat[2::3], strict=True))
        disk.write(self.fd, [seal_footer(self.schema, self.segment, blocks)], self.mark.position)

    def close(self) -> None:
        """Close the file."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)

    def abandon(self) -> None:
        """Close and remove a file that nothing refers to."""
        self.close()
        with contextlib.suppress(OSError):
            disk.unlink(self.path)


def seal_footer(schema: pa.Schema, segment: int, blocks: list[tuple[int, int, int]]) -> bytes:
    """Return the bytes that follow the last frame of a sealed file."""
    version = SPARSE_VERSION if "_offset" in schema.names else VERSION
    return footer(schema, blocks, {"format": version, "segment": f"{segment:016x}"})
