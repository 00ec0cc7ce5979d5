"""The rows of a scan as batches with places: where a query's input begins.

Invariants: the stream time before a row is the log's own, whatever view or filter the rows are read
through; batches may be cut anywhere, and nothing that follows depends on where.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamlab.clock import FOREVER, NEVER
from streamlab.engines.batch import APPENDED, BEFORE, ORDER, TIME, Batch, Since
from streamlab.errors import OffsetOutOfRange
from streamlab.follow import same_generation
from streamlab.log.segment import Chunk
from streamlab.scan import Scan, Snapshot, with_system
from streamlab.schema import event_times

if TYPE_CHECKING:
    import polars as pl

__all__ = ["SourceReader"]

Times = npt.NDArray[np.int64]


AHEAD_ROWS = 1 << 17
"""From so many rows a batch on, the next one is looked at while this one is worked on; those of a
sealed file are left to Polars to read."""

EVENT_TIME = pa.timestamp("us", "UTC")


class Found(NamedTuple):
    """Rows that were gathered, how many of the log they are, and the offset after them."""

    batch: Batch
    rows: int
    stop: int


class _Ahead(threading.Thread):
    """Something that is computed meanwhile."""

    def __init__(self, compute: Callable[[], Found | None]) -> None:
        super().__init__(name="streamlab read-ahead", daemon=True)
        self._compute = compute
        self._found: Found | None = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._found = self._compute()
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
            self._error = error

    def result(self) -> Found | None:
        """Return it, or raise what went wrong."""
        self.join()
        if self._error is not None:
            raise self._error
        return self._found


def of_a_sealed_file(parts: Sequence[Chunk]) -> bool:
    """Whether rows are neighbours in one file that will not change."""
    file = parts[0].file
    return parts[-1].file is file and file.path.suffix == ".arrow" and not file.sparse


def most_behind(times: Times, before: Times) -> int:
    """Return by how much at most rows are behind the stream time that they met."""
    behind = np.flatnonzero(times < before)
    if not len(behind):
        return 0
    gaps = before[behind].view(np.uint64) - times[behind].view(np.uint64)  # from end to end
    return min(int(gaps.max()), FOREVER)


def _chunks(snapshot: Snapshot) -> Iterator[Chunk]:
    """Yield the rows of a snapshot; that some were compacted away is said when they are read."""
    yield from snapshot.chunks(snapshot.segments())


class SourceReader:
    """Reads a scan from some offset on, a batch at a time, and knows how far it has come."""

    def __init__(
        self, scan: Scan, columns: Mapping[str, Any], index: int, width: int, *,
        appended: bool = False, start: int | None = None,
    ) -> None:  # fmt: skip
        self.scan = scan
        self.index, self.width = index, width
        self.appended = appended
        self.columns = columns  # those of the query, whatever the stream has by now
        self._generation = scan.log.generation
        snapshot = scan.fix()
        self.first = snapshot.start
        self.position = snapshot.start if start is None else start
        self.rows_read = 0
        self.time_column = snapshot.info.time
        self._chunks: Iterator[Chunk] = iter(())
        self._rest: Chunk | None = None
        self._reach = 0  # the offset up to which there are chunks
        self._ahead: _Ahead | None = None
        self._empty: pl.DataFrame | None = None
        self.stream_time = NEVER
        self._look(snapshot)
        moment = snapshot.moment
        if self.position > snapshot.stop:
            raise OffsetOutOfRange(
                f"offset {self.position} is not in stream {snapshot.info.name!r} yet, which ends at "
                f"{snapshot.stop}",
                asked=self.position, available=range(snapshot.start, snapshot.stop),
            )  # fmt: skip
        self.stream_time = self._before(moment)
        self.started = self.stream_time
        self.told = NEVER  # the stream time that was given out last

    def _before(self, moment: Any) -> int:
        reader = self.scan.log.reader
        return reader.stream_time_before(moment, self.position, self.time_column)

    def _look(self, snapshot: Snapshot) -> None:
        """Take what there is from here on."""
        self.snapshot = snapshot
        self.names = list(self.columns)
        self.schema = pa.schema([snapshot.schema.field(name) for name in self.names])
        read = list(self.names)
        if self.time_column and self.time_column not in read:
            read.append(self.time_column)
        self._read_schema = pa.schema([snapshot.schema.field(name) for name in read])
        self._chunks = iter(())
        self._rest = None
        self._reach = self.position

    def refresh(
        self, stop: int | None = None, stream_time: int | None = None, *, pin: bool = True
    ) -> None:
        """Look how far the log reaches now, or up to ``stop`` only.

        ``stream_time`` is what it was there when a run came so far: a heartbeat at the same place
        may have been read by then, or have come since.

        Raises:
            OffsetOutOfRange: rows that were not read yet have been removed.
            ReplaySeeked: the replay that is read has been set back.
        """
        if self._ahead is not None:  # what was read and not given out is read again
            self._ahead.join()
            self._ahead = None
        scan = replace(self.scan, start=max(self.scan.start, self.position))
        if stop is not None:
            scan = replace(scan, stop=stop if scan.stop is None else min(stop, scan.stop))
        snapshot = scan.fix(pin=pin)
        self.check()
        if snapshot.start > self.position:
            raise OffsetOutOfRange(
                f"offset {self.position} of stream {snapshot.info.name!r} was removed before the "
                f"query read it; the stream begins at {snapshot.start} now",
                asked=self.position, available=range(snapshot.start, snapshot.stop),
            )  # fmt: skip
        if stop is not None and stream_time is not None:
            moment = snapshot.moment._replace(end=stop, stream_time=stream_time)
            snapshot = replace(snapshot, moment=moment)
            self.stream_time = self.started = self._before(moment)
        self._look(snapshot)
        if self.position < snapshot.stop:
            part = replace(snapshot, start=self.position, since=None, until=None)
            self._chunks = _chunks(part)
            self._reach = snapshot.stop

    def check(self) -> None:
        """See that the replay that is read was not set back since this reader began.

        Raises:
            ReplaySeeked: it was.
        """
        same_generation(self.scan, self._generation)

    def check_there(self, offset: int) -> None:
        """Say why the file with the row at an offset, which was there at the last look, is gone.

        Raises:
            OffsetOutOfRange: the row was removed.
            CorruptSegment: the file is missing.
        """
        for segment in self.snapshot.moment.segments(offset, offset + 1):
            self.scan.log.reader.relisted(segment)

    @property
    def over(self) -> bool:
        """Whether nothing can follow what was there at the last look."""
        return self.scan.fixed is not None or self.scan.log.over(self.snapshot.moment)

    @property
    def lag(self) -> int:
        """How many rows there are that were not read, at the last look."""
        return max(0, self.snapshot.stop - self.position)

    def empty(self) -> pl.DataFrame:
        """Return no rows, with all columns."""
        if self._empty is None:
            self._empty = self._frame([], [])
        return self._empty

    def read(self, rows: int) -> Batch | None:
        """Return the next rows, at most so many; or stream time alone that moved on; or None.

        Where there is much to read, the rows after these are read meanwhile; the place of this
        reader is that of what it has given out.
        """
        ahead, self._ahead = self._ahead, None
        found = ahead.result() if ahead else self._gather(self.position, self.stream_time, rows)
        if found is None:
            self.position = max(self.position, self._reach)
            return self._idle()
        batch, count, self.position = found
        self.rows_read += count
        self.stream_time = self.told = batch.stream_time
        if count >= AHEAD_ROWS and self.position < self.snapshot.stop:
            self._ahead = _Ahead(lambda: self._gather(self.position, self.stream_time, rows))
        return batch

    def _idle(self) -> Batch | None:
        """Return stream time that moved on without rows."""
        self.stream_time = self._at(self.position, self.stream_time)
        if self.position < self.snapshot.stop or self.stream_time <= self.told:
            return None
        self.told = self.stream_time
        return Batch(self.empty(), self.stream_time, self._since(self.position))

    def _at(self, place: int, stream_time: int) -> int:
        """Return the stream time at a place: that of the rows before it, and of heartbeats there."""
        moment = self.snapshot.moment
        return max(stream_time, moment.stream_time) if place == moment.end else stream_time

    def _since(self, offset: int) -> Since:
        place: list[int] = [FOREVER] * self.width
        place[self.index] = offset
        return tuple(place)

    def _gather(self, start: int, now: int, rows: int) -> Found | None:
        """Return the next rows as a batch; None for none."""
        parts, count = self._parts(rows)
        if not parts:
            return None
        stop, whole = parts[-1].stop, count >= AHEAD_ROWS and of_a_sealed_file(parts)
        places, latest, disorder = [], now, 0
        for times, before in self._times(parts, now):
            latest = max(int(before[-1]), int(times[-1]))
            disorder = max(disorder, most_behind(times, before))
            if not whole:
                places.append((times, before))
        frame = self._unread(parts, now) if whole else self._frame(parts, places)
        if self.snapshot.since is not None or self.snapshot.until is not None:
            low = NEVER if self.snapshot.since is None else self.snapshot.since
            high = FOREVER if self.snapshot.until is None else self.snapshot.until
            import polars as pl

            frame = frame.filter((pl.col(TIME) >= low) & (pl.col(TIME) < high))
        batch = Batch(frame, self._at(stop, latest), self._since(start), disorder)
        return Found(batch, count, stop)

    def _parts(self, rows: int) -> tuple[list[Chunk], int]:
        """Return the next rows as they lie in the files, and how many; many are of one file."""
        parts: list[Chunk] = []
        count = 0
        while count < rows and (chunk := self._rest or next(self._chunks, None)) is not None:
            if count >= AHEAD_ROWS and chunk.file is not parts[-1].file:
                self._rest = chunk
                break
            room, size = rows - count, chunk.batch.num_rows
            self._rest = chunk.part(room, size) if size > room else None
            parts.append(chunk.part(0, room) if size > room else chunk)
            count += min(size, room)
        return parts, count

    def _times(self, parts: list[Chunk], now: int) -> Iterator[tuple[Times, Times]]:
        """Yield the event time of each row, and the stream time before it."""
        name = self.time_column
        for chunk in parts:
            times = (
                chunk.append_times if name is None else event_times(chunk.batch.column(name), name)
            )
            before = chunk.stream_times_before(times, now)
            now = max(int(before[-1]), int(times[-1]))
            yield times, before

    def _unread(self, parts: list[Chunk], now: int) -> pl.LazyFrame:
        """Return rows of a sealed file for Polars to read, only what is asked of them."""
        import polars as pl

        from streamlab.lazy import frame_of

        start, stop = parts[0].base, parts[-1].stop
        part = replace(self.snapshot, start=start, stop=stop, since=None, until=None)
        time = self.time_column
        physical = time is not None and part.schema.field(time).type == EVENT_TIME
        more = ["_offset", *([time] if physical and time is not None else [])]
        frame = frame_of(part, list(dict.fromkeys([*self.names, *more])), None)

        @functools.cache
        def values() -> dict[str, Times]:
            times, before = zip(*self._times(parts, now), strict=True)
            stamps = [chunk.append_times for chunk in parts] if self.appended else times[:1]
            return {
                TIME: np.concatenate(times), BEFORE: np.concatenate(before),
                APPENDED: np.concatenate(stamps),
            }  # fmt: skip

        def looked_up(name: str) -> pl.Expr:
            """Return a hidden column as a function of the offset: worked out only if it is used."""
            return pl.col(ORDER).map_batches(
                lambda offsets: pl.Series(values()[name][offsets.to_numpy() - start]),
                return_dtype=pl.Int64, is_elementwise=True,
            ).alias(name)  # fmt: skip

        happened = pl.col(str(time)).to_physical().alias(TIME) if physical else looked_up(TIME)
        kinds = [pl.col(name).cast(kind) for name, kind in self.columns.items()]
        frame = frame.with_columns(*kinds, pl.col("_offset").alias(ORDER))
        frame = frame.with_columns(happened, looked_up(BEFORE))
        hidden = [TIME, BEFORE, ORDER]
        if self.appended:
            frame, hidden = frame.with_columns(looked_up(APPENDED)), [*hidden, APPENDED]
        return frame.select(*self.names, *hidden)

    def _frame(self, parts: list[Chunk], places: Sequence[tuple[Times, Times]]) -> pl.DataFrame:
        import polars as pl

        found = [with_system(chunk, self._read_schema) for chunk in parts]
        table = pa.Table.from_batches(found, self._read_schema).select(self.names)
        frame = pl.from_arrow(table) if self.names else pl.DataFrame()
        assert isinstance(frame, pl.DataFrame)
        if frame.schema != self.columns:  # a type was widened since
            frame = frame.cast(pl.Schema(self.columns))
        nothing = np.empty(0, np.int64)
        times = np.concatenate([nothing, *(times for times, _ in places)])
        before = np.concatenate([nothing, *(before for _, before in places)])
        offsets = np.concatenate([nothing, *(chunk.offsets for chunk in parts)])
        hidden = [pl.Series(TIME, times), pl.Series(BEFORE, before), pl.Series(ORDER, offsets)]
        if self.appended:
            stamps = [chunk.append_times for chunk in parts]
            values = np.concatenate(stamps) if stamps else np.empty(0, np.int64)
            hidden.append(pl.Series(APPENDED, values))
        return frame.with_columns(hidden) if self.names else pl.DataFrame(hidden)
