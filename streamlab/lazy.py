"""A scan as a Polars LazyFrame: sealed segments are scanned by Polars itself.

Polars asks again at every collect (`LazyFrameResolver`), so that each collect sees one moment and
the next one a new moment. What is asked for (columns, filters, a limit) comes with the question:
segments are pruned by it, and system columns are computed only if they are wanted.
"""

from __future__ import annotations

import collections
import functools
import os
import re
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from polars.lazyframe.resolver import LazyFrameResolver, ResolvedLazyFrameProps

from streamlab.log.manifest import SEALED, Segment
from streamlab.scan import Scan, Snapshot
from streamlab.schema import SYSTEM_FIELDS

__all__ = ["lazy_frame"]

_ZONED = re.compile(r"to_py_datetime\([^)]*,\s*'(?:s|ms|us|ns)',\s*'(?!UTC')")
"""Instants in another zone than UTC, which Polars 2.1 translates wrongly for pyarrow."""

KEPT_PINS = 8
"""How many collects of one LazyFrame may run at a time and still be sure of their files."""


def lazy_frame(scan: Scan) -> pl.LazyFrame:
    """Return a LazyFrame over a scan, which each collect reads as it is then."""
    return _Resolver(scan).lazy()


class _Resolver(LazyFrameResolver):
    """Answers Polars' question which files and frames make up the stream now."""

    def __init__(self, scan: Scan) -> None:
        self.scan = scan
        self.declared = polars_schema(scan.fix(pin=False).schema)  # a LazyFrame's schema is fixed
        self.pins: collections.deque[Any] = collections.deque(maxlen=KEPT_PINS)

    def __repr__(self) -> str:
        return f"stream {self.scan.info().name}"

    def schema(self) -> Any:
        return self.declared

    def resolve_lazyframe(
        self,
        *,
        projection: list[str] | None,
        limit: int | None,
        filters: list[Any],
        filter_columns: list[str],
        filter_drop_columns_idx: int | None,
        existing_resolved_version_key: str | None,
    ) -> tuple[pl.LazyFrame, ResolvedLazyFrameProps]:
        del filter_drop_columns_idx, existing_resolved_version_key
        self.scan.fix(pin=False).check_whole()  # what is refused pins nothing
        snapshot = self.scan.fix()
        self.pins.append(snapshot.pin)
        names = list(self.declared)
        if projection is not None:
            wanted = {*projection, *filter_columns}
            names = projection + [name for name in names if name in wanted - set(projection)]
        frame = frame_of(snapshot, names, _condition(filters))
        now = polars_schema(snapshot.schema)
        widened = [name for name in names if now[name] != self.declared[name]]
        if widened:  # the stream's columns were, since this LazyFrame was made
            frame = frame.with_columns(pl.col(name).cast(self.declared[name]) for name in widened)
        if limit is not None:
            frame = frame.head(limit)
        if projection is not None:
            frame = frame.select(projection)
        return frame, ResolvedLazyFrameProps(version_key=uuid.uuid4().hex)


def _condition(filters: list[Any]) -> pc.Expression | None:
    """Return the part of the filters that pyarrow understands; Polars applies them all itself."""
    terms = []
    for one in filters:
        if _ZONED.search(one.pyarrow_str or ""):
            continue
        try:
            term = one.pyarrow_expr
        except Exception:  # noqa: BLE001, S112  whatever cannot be translated prunes nothing
            continue
        if term is not None:
            terms.append(term)
    return functools.reduce(lambda a, b: a & b, terms) if terms else None


@functools.lru_cache(maxsize=1024)
def polars_schema(schema: pa.Schema) -> pl.Schema:
    """Return how Polars reads a schema."""
    frame = pl.from_arrow(schema.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return frame.schema


def frame_of(snapshot: Snapshot, names: list[str], condition: pc.Expression | None) -> pl.LazyFrame:
    """Return the rows of a snapshot that pruning leaves, with these columns."""
    schema = polars_schema(snapshot.schema)
    time = snapshot.info.time or "_append_time"
    bounded = snapshot.since is not None or snapshot.until is not None
    needed = [*names, time] if bounded and time not in names else list(names)
    follows = snapshot.follows_from_offsets(needed)
    find = _from_offsets if follows else _parts
    parts = list(find(snapshot, needed, condition))
    if not parts:
        return pl.LazyFrame(schema={name: schema[name] for name in names})
    frame = pl.concat(parts) if len(parts) > 1 else parts[0]
    if bounded:
        frame = frame.filter(_between(snapshot, time, schema[time])).select(names)
    return frame


def _between(snapshot: Snapshot, time: str, kind: pl.DataType) -> pl.Expr:
    expr = pl.lit(value=True)
    zone = getattr(kind, "time_zone", None)
    micros = pl.col(time).cast(pl.Datetime("us", zone)).to_physical()
    if snapshot.since is not None:
        expr &= micros >= snapshot.since
    if snapshot.until is not None:
        expr &= micros < snapshot.until
    return expr


def _from_offsets(
    snapshot: Snapshot, names: list[str], condition: pc.Expression | None
) -> Iterator[pl.LazyFrame]:
    """Yield frames whose columns all follow from the range of offsets: counting opens no file."""
    for start, stop in snapshot.ranges(condition):
        columns = {
            "_offset": pl.int_range(start, stop, dtype=pl.Int64),
            "_partition": pl.repeat(0, stop - start, dtype=pl.Int32),
        }
        wanted = [columns[name].alias(name) for name in names or ["_partition"]]
        yield pl.select(wanted, eager=False)


def _parts(
    snapshot: Snapshot, names: list[str], condition: pc.Expression | None
) -> Iterator[pl.LazyFrame]:
    """Yield frames in the order of offsets: neighbouring sealed files at a time, then the rest."""
    segments = snapshot.segments(condition)
    active = snapshot.moment.manifest.active
    for run in _neighbours(segments):
        if not any(segment.rows for segment in run) and run[0].sparse:
            continue
        sealed = run[0].state == SEALED and run[0] is not active
        constant = not set(names) & {"_offset", *snapshot.info.stored(run[0].schema).names}
        if not sealed or constant or not _all_there(snapshot, run):
            yield _from_batches(snapshot, run, names)
        else:
            yield _from_files(snapshot, run, names)


def _neighbours(segments: list[Segment]) -> Iterator[list[Segment]]:
    """Group segments that follow one another, are sealed alike and have the same schema."""
    run: list[Segment] = []
    for segment in segments:
        if run and not (
            run[-1].stop == segment.base
            and run[-1].schema == segment.schema
            and run[-1].state == segment.state
            and run[-1].sparse == segment.sparse
        ):
            yield run
            run = []
        run.append(segment)
    if run:
        yield run


def _all_there(snapshot: Snapshot, run: list[Segment]) -> bool:
    """Verify the files at first touch, several at a time, before their paths are handed on."""
    reader = snapshot.log.reader
    try:
        new = [segment for segment in run if not reader.trusts(segment)]
        with ThreadPoolExecutor(min(len(new), os.cpu_count() or 1) or 1) as pool:
            for _ in pool.map(reader.file, new):
                pass
    except FileNotFoundError:  # removed by force: read what can be read, or raise
        return False
    return True


def _from_batches(snapshot: Snapshot, run: list[Segment], names: list[str]) -> pl.LazyFrame:
    schema = polars_schema(snapshot.schema)
    fields = pa.schema([snapshot.schema.field(name) for name in names])
    from streamlab.scan import with_system

    batches = [with_system(chunk, fields) for chunk in snapshot.chunks(run)]
    if not batches:
        return pl.LazyFrame(schema={name: schema[name] for name in names})
    frame = pl.from_arrow(pa.Table.from_batches(batches, fields), rechunk=False)
    assert isinstance(frame, pl.DataFrame)
    return frame.lazy()


def _from_files(snapshot: Snapshot, run: list[Segment], names: list[str]) -> pl.LazyFrame:
    """Scan sealed files with Polars' own reader, the computed columns added to its rows."""
    schema = polars_schema(snapshot.schema)
    paths = [snapshot.log.folder / segment.file for segment in run if segment.rows]
    first, last = run[0].base, run[-1].stop
    cut = snapshot.start > first or snapshot.stop < last
    if run[0].sparse:  # the offsets stand in the files
        frame = pl.scan_ipc(paths, glob=False)
        if cut:
            offset = pl.col("_offset")
            frame = frame.filter((offset >= snapshot.start) & (offset < snapshot.stop))
    else:
        with_offset = "_offset" in names or "_append_time" in names
        name = "_offset" if with_offset else None
        frame = pl.scan_ipc(paths, row_index_name=name, row_index_offset=first, glob=False)
        if cut:
            start = max(snapshot.start, first)
            frame = frame.slice(start - first, min(snapshot.stop, last) - start)
    stored = snapshot.info.stored(run[0].schema).names
    columns = []
    for name in names:
        if name == "_offset":
            columns.append(pl.col("_offset").cast(pl.Int64))
        elif name == "_append_time":
            columns.append(_append_time(snapshot, run).alias(name))
        elif name in stored:
            columns.append(pl.col(name).cast(schema[name]))
        elif name in SYSTEM_FIELDS:
            zero = 0 if name == "_partition" else False
            columns.append(pl.lit(zero, dtype=schema[name]).alias(name))
        else:
            columns.append(pl.lit(None, dtype=schema[name]).alias(name))
    # Not `select` alone: columns that are all constant would be one row.
    return frame.with_columns(columns).select(names)


def _append_time(snapshot: Snapshot, run: list[Segment]) -> pl.Expr:
    """Return the append time as an element-wise expression of the offset."""
    kind = pl.Datetime("us", "UTC")
    runs = np.concatenate([snapshot.log.reader.file(segment).runs for segment in run])
    bases, times = runs["base"], runs["append_time"]
    if len(bases) == 1:
        return pl.lit(int(times[0])).cast(kind)

    def look_up(offsets: pl.Series) -> pl.Series:
        at = np.searchsorted(bases, offsets.to_numpy(), "right") - 1
        return pl.Series(times[at]).cast(kind)

    return pl.col("_offset").map_batches(look_up, return_dtype=kind, is_elementwise=True)
