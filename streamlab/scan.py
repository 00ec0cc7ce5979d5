"""A range of a log as rows with system columns: what every reader of a stream goes through.

A `Scan` says which rows: offsets, perhaps event times, of a log that may still grow. `fix` takes a
moment of it, pinned, and a `Snapshot` of that moment becomes Arrow batches, a `pyarrow` dataset or a
Polars LazyFrame. Time travel is a bound on a scan, nothing more.

Invariants: rows come in the order of offsets; ``_offset``, ``_append_time`` and, without partitions,
``_partition`` are not stored but computed, only where they are asked for; a segment whose bounds
contradict the filter is not opened; older rows are read in the newest schema.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamlab.catalog import StreamInfo
from streamlab.clock import FOREVER, NEVER
from streamlab.errors import OffsetOutOfRange, QueryError, StreamNotFound
from streamlab.log import Log, Moment
from streamlab.log.manifest import Segment
from streamlab.log.segment import Chunk
from streamlab.schema import SYSTEM_FIELDS, adapt

__all__ = ["Origin", "Scan", "Snapshot", "floor_scalar", "offset_of", "time_scalar"]

PIECE_ROWS = 1 << 20
"""Batches are handed on in pieces of at most so many rows."""


@dataclass(frozen=True)
class Scan:
    """Which rows of a stream: offsets in [start, stop), event times in [since, until).

    ``stop=None`` moves with the end of the log. A scan with ``fixed`` set is of that moment for ever.
    """

    log: Log
    info: Callable[[], StreamInfo]
    start: int = 0
    stop: int | None = None
    since: int | None = None  # event time, microseconds
    until: int | None = None
    fixed: Moment | None = None
    pin: Any = None  # keeps the rows of a fixed moment from being removed
    asked: int = 0  # the offset that somebody asked it to begin at
    origin: Origin | None = None  # of a stream that is replayed
    compacted: bool = False  # what compaction left of older rows is what is wanted

    def fix(self, *, pin: bool = True) -> Snapshot:
        """Take the moment that is now, or the one this scan is fixed to; pinned if so asked."""
        reader = self.log.reader
        while True:  # until no trim comes between the look and the pin
            moment = self.fixed or reader.moment()
            stop = moment.end if self.stop is None else min(self.stop, moment.end)
            start = min(max(self.start, moment.start), stop)
            held = self.pin
            if held is None and pin:
                held = reader.pin(start, stop, passable=self.compacted)
            if self.fixed or held is None or start == stop or reader.holds(moment, start, stop):
                break
        info = self.info()
        if info.id != self.log.stream:
            raise StreamNotFound(
                f'stream "{info.name}" was dropped, and another one made under its name',
                hint=f'lab["{info.name}"] is the new one',
            )
        return Snapshot(
            self.log, info, moment, start, stop, self.since, self.until, held, self.compacted
        )

    def freeze(self) -> Scan:
        """Return this scan, fixed to the moment that is now, in rows and in columns."""
        snapshot = self.fix()
        start, stop, info = snapshot.start, snapshot.stop, snapshot.info
        return replace(
            self, info=lambda: info, start=start, stop=stop, fixed=snapshot.moment, pin=snapshot.pin
        )

    def narrowed(self, start: int, stop: int) -> Scan:
        """Return the part of a fixed scan with offsets in [start, stop), and pin no more than that.

        The row after it is pinned too: it knows the stream time at the end.
        """
        pin = self.log.reader.pin(start, stop + 1, passable=self.compacted)
        return replace(self, start=start, stop=stop, pin=pin)

    def recorded(self) -> Scan:
        """Return this scan of all that is recorded, however far a replay has come with it."""
        if self.origin is None:
            return self
        base = self.origin.scan
        stop = base.stop if self.stop is None else self.stop
        return replace(self, log=base.log, stop=stop, fixed=base.fixed, pin=base.pin, origin=None)

    def within(self, start: int, stop: int) -> Scan:
        """Return the part of this scan with offsets in [start, stop)."""
        stop = stop if self.stop is None else min(stop, self.stop)
        return replace(self, start=max(self.start, start), stop=max(stop, self.start))


@dataclass(frozen=True)
class Origin:
    """What a replayed stream is a replay of."""

    scan: Scan  # the recorded rows, fixed
    begin: int  # where "earliest" is for who follows it: the rows before are history
    stream_time: int  # there
    what: str  # "replayed from 2026-01-05T09:30:00Z"


@dataclass(frozen=True)
class Snapshot:
    """The rows of a scan at one moment: bounded, pinned, readable again and again."""

    log: Log
    info: StreamInfo
    moment: Moment
    start: int
    stop: int
    since: int | None
    until: int | None
    pin: Any
    compacted: bool = False  # whether gaps in the offsets are fine

    @functools.cached_property
    def schema(self) -> pa.Schema:
        """The schema of the rows: system columns first, then the user's."""
        fields = [SYSTEM_FIELDS[name] for name in ("_partition", "_offset", "_append_time")]
        if self.info.has_deletions:
            fields.append(SYSTEM_FIELDS["_deleted"])
        user = [f for f in self.info.schemas[-1] if f.name not in SYSTEM_FIELDS]
        return pa.schema([*fields, *user])

    @property
    def event_filter(self) -> pc.Expression | None:
        """The bounds on event time as an expression, None if there are none."""
        if self.since is None and self.until is None:
            return None
        name = self.info.time or "_append_time"
        kind = self.schema.field(name).type
        terms = []
        if self.since is not None:
            terms.append(pc.field(name) >= time_scalar(self.since, kind))
        if self.until is not None:
            terms.append(pc.field(name) < time_scalar(self.until, kind))
        return functools.reduce(lambda a, b: a & b, terms)

    def find(self, time: int, *, appended: bool = False) -> int:
        """Return the first offset whose stream time (append time) is at or after an instant.

        The stop of the range if there is none; no file outside the range is opened for it.
        """
        reader, moment = self.log.reader, self.moment.within(self.start, self.stop)
        if appended or self.info.time is None:
            return reader.find_appended(moment, time)
        return reader.find_event(moment, time, self.info.time)

    def count(self) -> int:
        """Return how many rows there are; without bounds on event time nothing is read for it."""
        condition = self.event_filter
        if condition is None:
            return sum(self._rows_of(s) for s in self.moment.segments(self.start, self.stop))
        columns = [self.info.time or "_append_time"]
        anyway = replace(self, compacted=True)
        return sum(b.num_rows for b in anyway.batches(columns, condition))

    def _rows_of(self, segment: Segment) -> int:
        """Return how many rows of a segment lie in the range; a file is opened if it is cut."""
        start, stop = self._cut(segment)
        if not segment.sparse:
            return stop - start
        if (start, stop) == (segment.base, segment.stop):
            return segment.rows
        return sum(c.batch.num_rows for c in self.log.reader.chunks(self.moment, start, stop))

    def _cut(self, segment: Segment) -> tuple[int, int]:
        """Return which offsets of a segment lie in the range."""
        last = segment is self.moment.manifest.active
        stop = self.stop if last else min(segment.stop, self.stop)
        return max(segment.base, self.start), stop

    def end(self, rows: int, *, last: bool) -> Snapshot:
        """Return the part that has the first or the last so many rows, and perhaps some more."""
        span = rows
        while True:
            if last:
                part = replace(self, start=max(self.start, self.stop - span))
            else:
                part = replace(self, stop=min(self.stop, self.start + span))
            if (part.start, part.stop) == (self.start, self.stop) or part.count() >= rows:
                return part
            span *= 2

    def check_whole(self) -> None:
        """See that no row of the range was compacted away, unless that is fine.

        Raises:
            QueryError: the range begins in the compacted part.
        """
        upto = self.moment.compacted
        if self.start < min(upto, self.stop) and not self.compacted:
            name = self.info.name
            raise QueryError(
                f'stream "{name}" is compacted up to offset {upto}: below it only the last row of '
                f"each key is there, and rows from offset {self.start} on are asked for",
                hint=f".table() is the latest row of each key; .offsets({upto}) the rows since; "
                '.view(compacted="ok") takes what is left',
            )

    def check_exact(self) -> None:
        """See that the latest row of each key, as of the end of the range, is there.

        Raises:
            OffsetOutOfRange: the range ends in the compacted part.
            QueryError: bounds on event time reach into it, and gaps are not fine.
        """
        upto = self.moment.compacted
        if self.event_filter is not None:
            self.check_whole()  # of a key the last row may be outside, and others are gone
        if self.start < self.stop < upto:
            raise OffsetOutOfRange(
                f'stream "{self.info.name}" is compacted up to {upto}; as of offset {self.stop} it '
                "is not known any more which row of a key was the last",
                asked=self.stop,
                available=range(upto, self.moment.end + 1),
            )

    def segments(self, condition: pc.Expression | None = None) -> list[Segment]:
        """Return the segments that may hold rows for which the condition is true.

        Raises:
            QueryError: the range begins in the compacted part, and gaps are not fine.
        """
        self.check_whole()
        found = self.moment.segments(self.start, self.stop)
        own = self.event_filter
        if own is not None:
            condition = own if condition is None else own & condition
        if condition is None or not found:
            return found
        from streamlab.prune import prune  # pyarrow's datasets take a while to import

        active = self.moment.manifest.active
        return prune(found, condition, self.info, self.schema, active)

    def chunks(self, segments: Sequence[Segment]) -> Iterator[Chunk]:
        """Yield the rows of these segments that lie in the range, as they lie in the files."""
        for segment in segments:
            yield from self.log.reader.chunks(self.moment, *self._cut(segment))

    def raw(
        self, columns: Sequence[str] | None = None, condition: pc.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield all columns named, of all rows that the pruning leaves; nothing is filtered yet."""
        wanted = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in wanted])
        if self.follows_from_offsets(wanted):
            yield from self._without_files(schema, condition)
            return
        for chunk in self.chunks(self.segments(condition)):
            for at in range(0, chunk.batch.num_rows, PIECE_ROWS):
                yield with_system(chunk.part(at, PIECE_ROWS), schema)

    def follows_from_offsets(self, names: Sequence[str]) -> bool:
        """Whether these columns are known from the range of offsets alone."""
        if self.start < self.moment.compacted:
            return False
        return set(names) <= {"_offset", "_partition"} - set(self.info.schemas[-1].names)

    def ranges(self, condition: pc.Expression | None = None) -> Iterator[tuple[int, int]]:
        """Yield the offsets that pruning leaves, in pieces of bounded size."""
        for segment in self.segments(condition):
            start, stop = self._cut(segment)
            for at in range(start, stop, PIECE_ROWS):
                yield at, min(at + PIECE_ROWS, stop)

    def _without_files(
        self, schema: pa.Schema, condition: pc.Expression | None
    ) -> Iterator[pa.RecordBatch]:
        for start, stop in self.ranges(condition):
            columns = {
                "_offset": np.arange(start, stop, dtype=np.int64),
                "_partition": np.zeros(stop - start, dtype=np.int32),
            }
            arrays = [pa.array(columns[name]) for name in schema.names]
            yield batch_of(arrays, schema, stop - start)

    def batches(
        self, columns: Sequence[str] | None = None, condition: pc.Expression | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Yield the rows for which the condition is true, with these columns, in order."""
        own = self.event_filter
        if own is not None:
            condition = own if condition is None else own & condition
        if condition is None:
            yield from self.raw(columns)
            return
        yield from self.scanner(columns, condition).to_batches()

    def reader(self, columns: Sequence[str] | None = None) -> pa.RecordBatchReader:
        """Return the rows as a stream of Arrow batches."""
        self.check_whole()
        names = self.schema.names if columns is None else list(columns)
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.RecordBatchReader.from_batches(schema, self.batches(columns))

    def scanner(
        self, columns: Any = None, condition: pc.Expression | None = None, **options: Any
    ) -> Any:
        """Return a pyarrow scanner: filter and projection are Arrow's, pruning is ours."""
        own = self.event_filter
        if own is not None:
            condition = own if condition is None else own & condition
        names = self._needed(columns, condition)
        schema = pa.schema([self.schema.field(name) for name in names])
        options = {
            k: v for k, v in options.items() if k in ("use_threads", "memory_pool", "batch_size")
        }
        import pyarrow.dataset as ds

        return ds.Scanner.from_batches(
            self.raw(names, condition),
            schema=schema,
            columns=self.schema.names if columns is None else columns,
            filter=condition,
            **options,
        )

    def _needed(self, columns: Any, condition: pc.Expression | None) -> list[str]:
        """Return the columns that a projection and a filter may refer to, too many rather than few."""
        if columns is None:
            return list(self.schema.names)
        if isinstance(columns, dict):
            text = " ".join(map(str, columns.values())) + " " + str(condition)
            return [name for name in self.schema.names if name in text]
        wanted, text = set(columns), "" if condition is None else str(condition)
        unknown = wanted - set(self.schema.names)
        if unknown:
            raise KeyError(f"no column {min(unknown)!r} in stream {self.info.name!r}")
        return [name for name in self.schema.names if name in wanted or name in text]


def with_system(chunk: Chunk, schema: pa.Schema) -> pa.RecordBatch:
    """Return a chunk's rows with the columns of ``schema``, the computed ones included."""
    batch = chunk.batch
    rows = batch.num_rows
    stored = [f for f in schema if f.name in batch.schema.names or f.name not in SYSTEM_FIELDS]
    adapted = adapt(batch, pa.schema(stored)) if stored else None
    arrays: list[pa.Array] = []
    for field in schema:
        if adapted is not None and field.name in adapted.schema.names:
            column = adapted.column(field.name)
            # Polars cannot read a slice of a list of fixed size: such a column is copied.
            arrays.append(column.take(_places(rows)) if has_fixed_list(field.type) else column)
        elif field.name == "_offset":
            arrays.append(pa.array(chunk.offsets))
        elif field.name == "_append_time":
            times = chunk.append_times
            arrays.append(pa.Array.from_buffers(field.type, rows, [None, pa.py_buffer(times)]))
        elif field.name == "_partition":
            arrays.append(pa.array(np.zeros(rows, dtype=np.int32)))
        else:
            arrays.append(pa.repeat(pa.scalar(value=False), rows))
    return batch_of(arrays, schema, rows)


def batch_of(arrays: list[pa.Array], schema: pa.Schema, rows: int) -> pa.RecordBatch:
    """Return a batch, which may have rows and no columns."""
    if not arrays:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * rows, pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _places(rows: int) -> pa.Array:
    return pa.array(np.arange(rows, dtype=np.int64))


@functools.lru_cache(maxsize=1024)
def has_fixed_list(kind: pa.DataType) -> bool:
    """Whether there is a list of fixed size anywhere in a type."""
    if pa.types.is_fixed_size_list(kind):
        return True
    return any(has_fixed_list(kind.field(i).type) for i in range(kind.num_fields))


def offset_of(value: Any) -> int | None:
    """Return what is an offset as one (NumPy's integers too), None for anything else."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    return operator.index(value)


def time_scalar(micros: int, kind: pa.DataType) -> pa.Scalar:
    """Return the first value of a time type that is at or after an instant."""
    if pa.types.is_date32(kind):
        return pa.scalar(-(-micros // 86_400_000_000), pa.int32()).cast(kind)
    per = {"s": 1_000_000, "ms": 1_000, "us": 1}.get(kind.unit)
    value = micros * 1_000 if per is None else -(-micros // per)
    return pa.scalar(max(min(value, FOREVER), NEVER + 1), pa.int64()).cast(kind)


def floor_scalar(micros: int, kind: pa.DataType) -> pa.Scalar:
    """Return the last value of a time type that is at or before an instant."""
    if pa.types.is_date32(kind):
        return pa.scalar(micros // 86_400_000_000, pa.int32()).cast(kind)
    per = {"s": 1_000_000, "ms": 1_000, "us": 1}.get(kind.unit)
    value = micros * 1_000 if per is None else micros // per
    return pa.scalar(max(min(value, FOREVER), NEVER + 1), pa.int64()).cast(kind)
