"""From what a user has to rows in the log: conform, check the times, place, append.

A batch that fits one frame is appended as one; what is bigger (or a stream of batches of unknown
length) goes piece by piece into sealed files that appear all at once, so that memory stays flat and
the append is atomic all the same.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamlab.catalog import StreamInfo
from streamlab.clock import FOREVER, NEVER
from streamlab.duration import format_instant, parse_duration
from streamlab.errors import FutureEvent, SchemaMismatch
from streamlab.log import Log, Rows
from streamlab.partition import partitions
from streamlab.schema import SYSTEM_FIELDS, batches, conform, event_times, to_table

__all__ = ["append", "append_deletion", "key_row", "key_values", "rows_again", "rows_of"]

FRAME_ROWS = 1 << 20
"""A big append is cut into frames of at most so many rows."""

GATHER_ROWS = 1 << 16
"""And small batches of a stream of batches are gathered to at least so many."""

_MICROSECONDS = (pa.timestamp("us", "UTC"), pa.timestamp("us"))
_duration = functools.lru_cache(maxsize=256)(parse_duration)


def append(log: Log, info: StreamInfo, data: Any, timeout: float | None) -> range:
    """Append data of any kind, as a whole, and return the offsets.

    Raises:
        SchemaMismatch: it does not fit; nothing is written then.
        FutureEvent: an event lies too far ahead; nothing is written then.
    """
    limit = log.writer.policy.segment_bytes
    batch = _as_stored(data, info)
    if batch is not None and batch.num_rows and batch.nbytes <= limit:
        return log.writer.append(_rows(log, info, batch), timeout)
    if isinstance(data, pa.RecordBatchReader) or not _is_small(data):
        reader = batches(data)
        head, size = [], 0
        for batch in reader:
            head.append(batch)
            size += batch.nbytes
            if size > limit:
                pieces = _pieces(chain(head, reader))
                return log.writer.append_many((rows_of(log, info, p) for p in pieces), timeout)
        table = pa.Table.from_batches(head, reader.schema)
    else:
        table = to_table(data)
        if table.nbytes > limit:
            pieces = _pieces(iter(table.to_batches(max_chunksize=FRAME_ROWS)))
            return log.writer.append_many((rows_of(log, info, p) for p in pieces), timeout)
    if not table.num_rows:
        conform(table, info.schema)
        end = log.reader.moment().end
        return range(end, end)
    return log.writer.append(rows_of(log, info, table), timeout)


def _is_small(data: Any) -> bool:
    """Whether data is in memory already, so that looking at all of it costs nothing."""
    return not hasattr(data, "to_arrow_reader") and not hasattr(data, "scanner")


def _as_stored(data: Any, info: StreamInfo) -> pa.RecordBatch | None:
    """Return data that is one sound batch of the stream's own types; None: look closer.

    The way of most batches, and nothing of it is copied. What is wrong with a batch that does not
    come through here, `conform` says.
    """
    if isinstance(data, pa.Table):
        if not data.num_rows or any(column.num_chunks != 1 for column in data.columns):
            return None
        data = data.to_batches()[0]
    if not isinstance(data, pa.RecordBatch) or not data.schema.equals(
        _columns(info), check_metadata=True
    ):
        return None
    for name, column in zip(data.schema.names, data.columns, strict=True):
        if column.null_count and name in info.required:
            return None
        if not _is_plain_text(column):
            try:
                column.validate(full=True)
            except pa.ArrowException:
                return None
    return data


def _columns(info: StreamInfo) -> pa.Schema:
    """Return the columns of a file that are the user's."""
    stored = info.schemas[-1]
    if info.partitions == 1 and not info.has_deletions:
        return stored
    return pa.schema([field for field in stored if field.name not in SYSTEM_FIELDS])


def _is_plain_text(column: pa.Array) -> bool:
    """Whether a column is text, sound, and ASCII throughout: two looks at whole buffers tell.

    Arrow's own validation goes string by string; ten times as long for short ones.
    """
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return False
    bitmap, offsets, content = column.buffers()
    if bitmap is not None:
        valid = pa.Array.from_buffers(pa.bool_(), len(column), [None, bitmap], 0, column.offset)
        if valid.true_count != len(column) - column.null_count:
            return False
    width = np.dtype(np.int32 if pa.types.is_string(column.type) else np.int64)
    count, first = len(column) + 1, column.offset
    if offsets is None or content is None:
        return False
    if offsets.size < (first + count) * width.itemsize:
        return False
    marks = np.frombuffer(offsets, width, count, first * width.itemsize)
    low, high = int(marks[0]), int(marks[-1])
    if not 0 <= low <= high <= content.size or bool((marks[1:] < marks[:-1]).any()):
        return False
    text = np.frombuffer(content, np.uint8, high - low, low)
    return low == high or int(text.max()) < 128


def _pieces(source: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield tables of a size that suits a frame."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in source:
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= GATHER_ROWS:
            table = pa.Table.from_batches(waiting)
            for at in range(0, table.num_rows, FRAME_ROWS):
                yield table.slice(at, FRAME_ROWS)
            waiting, rows = [], 0
    if rows:
        yield pa.Table.from_batches(waiting)


def rows_of(log: Log, info: StreamInfo, data: pa.Table | pa.RecordBatch) -> Rows:
    """Return data as rows of the stream, checked and placed."""
    return _rows(log, info, conform(data, info.schema))


def rows_again(log: Log, info: StreamInfo, table: pa.Table) -> Rows:
    """Return rows that were read from a stream as rows of one like it, deletions included."""
    if not info.has_deletions:
        return rows_of(log, info, table)
    batch = conform(table, pa.schema([field.with_nullable(True) for field in info.schema]))
    events = None if info.time is None else _check_times(log, info, batch.column(info.time))
    deleted = table.column("_deleted").combine_chunks()
    placed = functools.partial(_placed, info, batch, deleted=deleted)
    return Rows(placed, info.schema_id, events)


def _rows(log: Log, info: StreamInfo, batch: pa.RecordBatch) -> Rows:
    events = None
    if info.time is not None:
        events = _check_times(log, info, batch.column(info.time))
    if info.cleanup == "compact":
        _check_keys(info, batch)
    if info.partitions == 1 and not info.has_deletions:
        return Rows(batch, info.schema_id, events)
    return Rows(lambda base: _placed(info, batch, base), info.schema_id, events)


def _check_keys(info: StreamInfo, batch: pa.RecordBatch) -> None:
    """Refuse a null key: compaction would keep one row of all that have none."""
    if not all(batch.column(name).null_count for name in info.key):
        return
    null = functools.reduce(pc.and_, [batch.column(name).is_null() for name in info.key])
    row = null.index(pa.scalar(value=True)).as_py()
    if row >= 0:
        name = ", ".join(info.key)
        raise SchemaMismatch(
            f'key "{name}" is null in row {row}, and stream "{info.name}" is compacted by it',
            hint='drop such rows, or create the stream with cleanup="delete"',
            column=info.key[0], got="null", want="a key", row=row,
        )  # fmt: skip


def _check_times(log: Log, info: StreamInfo, column: pa.Array) -> tuple[int, int]:
    """Return the smallest and the greatest event time."""
    if column.null_count:
        row = column.is_null().index(pa.scalar(value=True)).as_py()
        raise SchemaMismatch(
            f'column "{info.time}" is the event time and is null in row {row}',
            hint="drop such rows, or create the stream without time=",
            column=info.time, got="null", want="a time", row=row,
        )  # fmt: skip
    if column.type in _MICROSECONDS:
        times = column.view(pa.int64()).to_numpy()
    else:
        times = event_times(column, info.time or "")
    if not len(times):
        return NEVER, NEVER
    low, high = int(times.min()), int(times.max())
    if high == FOREVER:  # it would end the stream, as advance("end") does
        raise FutureEvent(
            f'column "{info.time}" has the last instant there is',
            row=int(times.argmax()),
            value=high,
        )
    ahead = info.settings["max_ahead"]
    if ahead is not None:
        limit = log.clock.now() + _duration(ahead)
        if high > limit:
            row = int(np.argmax(times > limit))
            raise FutureEvent(
                f'row {row} of column "{info.time}" is {format_instant(int(times[row]))}, more than '
                f"{ahead} after now; one such time makes everything after it late",
                hint="correct it, or create the stream with settings=sl.Settings(max_ahead=None)",
                row=row, value=column[row].as_py() if high < 2**57 else int(times[row]),
            )  # fmt: skip
    return low, high


def _placed(
    info: StreamInfo, batch: pa.RecordBatch, base: int, *, deleted: bool | pa.Array = False
) -> pa.RecordBatch:
    """Return a batch with the system columns that are stored."""
    schema = info.stored(info.schema_id)
    arrays = dict(zip(batch.schema.names, batch.columns, strict=True))
    if info.partitions > 1:
        keys = [batch.column(name) for name in info.key]
        arrays["_partition"] = place(keys, info.partitions, base, batch.num_rows)
    if info.has_deletions:
        whole = isinstance(deleted, bool)
        arrays["_deleted"] = pa.repeat(pa.scalar(deleted), batch.num_rows) if whole else deleted
    return pa.RecordBatch.from_arrays([arrays[name] for name in schema.names], schema=schema)


def place(keys: list[pa.Array], count: int, base: int, rows: int) -> pa.Array:
    """Return the partition of each row; without a key they go round by offset."""
    if keys:
        return partitions(keys, count, base)
    offsets = np.arange(base, base + rows, dtype=np.int64)
    return pa.array((offsets % count).astype(np.int32))


def append_deletion(
    log: Log, info: StreamInfo, key: dict[str, Any], timeout: float | None
) -> range:
    """Append a row that says that a key is deleted: the key, stream time, and nulls.

    Its event time is the stream's own time, so that a deletion makes nothing late.
    """
    with log.writer.held(timeout) as file:
        now = file.mark.stream_time
        if now == NEVER:
            now = log.writer.append_time()
        arrays = []
        for field in info.schema:
            if field.name in key:
                one = pa.table({field.name: [key[field.name]]})
                wanted = pa.schema([field])
                arrays.append(conform(one, wanted).column(0))
            elif field.name == info.time:
                arrays.append(_instant(now, field.type))
            else:
                arrays.append(pa.nulls(1, field.type))
        fields = [f for f in info.schemas[-1] if f.name not in SYSTEM_FIELDS]
        batch = pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))
        if info.cleanup == "compact":
            _check_keys(info, batch)
        events = None
        if info.time is not None:
            time = int(event_times(batch.column(info.time), info.time)[0])
            events = (time, time)
        base = file.mark.end
        rows = Rows(_placed(info, batch, base, deleted=True), info.schema_id, events)
        return log.writer.append(rows, timeout)


def key_row(schema: pa.Schema, names: tuple[str, ...], key: Any) -> pa.RecordBatch:
    """Return a key as a row of its columns, in their types.

    ``key`` is its value; for several columns a tuple in their order, or a dict.

    Raises:
        SchemaMismatch: it has other columns, or a value does not fit.
    """
    values = key_values(names, key)
    one = pa.table({name: [values[name]] for name in names})
    return conform(one, pa.schema([schema.field(name) for name in names]))


def key_values(names: tuple[str, ...], key: Any) -> dict[str, Any]:
    """Return the value of each column of a key.

    Raises:
        SchemaMismatch: it has other columns.
    """
    values = key if isinstance(key, dict) else None
    if values is None:
        parts = key if isinstance(key, tuple) and len(names) > 1 else (key,)
        if len(parts) != len(names):
            raise SchemaMismatch(
                f"the key has {len(names)} columns, {', '.join(names)}; got {key!r}"
            )
        values = dict(zip(names, parts, strict=True))
    if set(values) != set(names):
        raise SchemaMismatch(f"the key is {', '.join(names)}; got {', '.join(values)}")
    return values


def _instant(micros: int, kind: pa.DataType) -> pa.Array:
    from streamlab.scan import floor_scalar

    return pa.array([floor_scalar(micros, kind)], kind)
