"""A stream as a table: the latest row of each key, deletions applied.

A table is the fold of a stream's rows in the order of offsets, or of the changes that they are. It
holds nothing itself; what it shows is read from the log (`streamlab.fold`), at each call anew. With a
bound in offsets or append time it is a table as it was.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from streamlab import views
from streamlab.changes import changes, key_names, rows_of
from streamlab.duration import (
    Duration,
    Instant,
    format_instant,
    parse_duration,
    parse_instant,
)
from streamlab.errors import QueryError
from streamlab.ingest import key_row
from streamlab.scan import Scan, Snapshot, offset_of
from streamlab.schema import describe_type
from streamlab.shown import Shown

if TYPE_CHECKING:
    import polars as pl
    import pyarrow.dataset as ds

    from streamlab.fold import Fold, Keyed

__all__ = ["Table"]

MOST_STATES = 100_000
"""So many states in one answer; more are a mistake in the unit."""

PLACE = "_offset"

SHOWN_ROWS = 2_000_000
"""A repr reads no more rows than this."""


class Table(Shown):
    """The latest row of each key of a stream; made by ``stream.table()``."""

    def __init__(self, scan: Scan, key: str | Sequence[str] | None = None) -> None:
        info = scan.info()
        self._scan = scan
        self.name = info.name
        if key is None and not info.key:
            raise QueryError(
                f'stream "{self.name}" has no key, so it is no table',
                hint="create it with key=, or say what the key is: stream.table(key=...)",
            )
        self.key = info.key if key is None else key_names(key)
        self._keyed.schema(scan.fix(pin=False))  # raises if the key is none of its columns

    @property
    def _keyed(self) -> Keyed:
        from streamlab.fold import Keyed  # Polars takes a while to import

        return Keyed(self.key, own=set(self.key) == set(self._scan.info().key))

    @property
    def _folded(self) -> Scan:
        """What states are folded from: also what compaction has left, which has every latest row.

        Not so by another key than the stream's own, nor between event times: of a key the last row
        may lie outside, and others are gone.
        """
        bounded = self._scan.since is not None or self._scan.until is not None
        whole = self._keyed.own and not bounded
        return replace(self._scan, compacted=True) if whole else self._scan

    @property
    def _table_scan(self) -> Scan:
        """What a join reads: the rows of the stream, which have to be those of the table.

        Raises:
            QueryError: they are changes.
        """
        if self._keyed.events(self._scan.fix(pin=False).schema):
            raise QueryError(
                f'stream "{self.name}" holds changes, whose table is not joined as it was',
                hint="join a frame of it: table.to_polars()",
            )
        return self._scan

    # -- what it is --------------------------------------------------------------------------

    @property
    def schema(self) -> pa.Schema:
        """The columns of the table: the stream's own, or the fields of ``after`` of its changes."""
        return self._keyed.schema(self._scan.fix(pin=False))

    def __len__(self) -> int:
        return self._state(list(self.key)).height

    def __bool__(self) -> bool:
        return True  # a table without rows is a table

    def __contains__(self, key: object) -> bool:
        return self.get(key) is not None

    def __repr__(self) -> str:
        snapshot = self._folded.fix()
        by = ", ".join(self.key)
        where = f"as of offset {snapshot.stop:,}"
        if snapshot.stop > snapshot.start:
            _, appended = snapshot.log.reader.times_at(snapshot.moment, snapshot.stop - 1, None)
            where += f", appended {format_instant(appended)}"
        fold = self._fold(snapshot)
        if fold.distance(snapshot.stop) > SHOWN_ROWS:
            lines = [f"Table of stream {self.name!r} by {by}, {where}"]
            width = max(len(field.name) for field in self.schema)
            return "\n".join(
                lines + [f"  {f.name:<{width}}  {describe_type(f.type)}" for f in self.schema]
            )
        rows = fold.to(snapshot.stop).select(self.schema.names)
        return f"Table of stream {self.name!r} by {by}: {rows.height:,} rows, {where}\n{rows}"

    # -- the state ---------------------------------------------------------------------------

    def _fold(self, snapshot: Snapshot, columns: list[str] | None = None, only: Any = None) -> Fold:
        from streamlab.fold import Fold

        return Fold(snapshot, self._keyed, columns, only)

    def _state(self, columns: list[str] | None = None) -> pl.DataFrame:
        snapshot = self._folded.fix()
        rows = self._fold(snapshot, columns).to(snapshot.stop)
        return rows.select(columns or self._keyed.schema(snapshot).names)

    def scan(self) -> pl.LazyFrame:
        """Return the table as a Polars LazyFrame, keys in the order of their latest rows.

        Each collect sees one moment, the next one a new moment; only columns asked for are read.
        """
        from streamlab.fold import lazy_state

        return lazy_state(self._folded, self._keyed)

    def to_polars(self) -> pl.DataFrame:
        """Return the table as a Polars frame, keys in the order of their latest rows."""
        return self._state()

    def to_arrow(self) -> pa.Table:
        """Return the table as a pyarrow table, in the types of the stream."""
        import polars as pl

        snapshot = self._folded.fix()
        schema = self._keyed.schema(snapshot)
        rows = self._fold(snapshot).to(snapshot.stop).select(schema.names)
        return rows.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema)

    def dataset(self) -> ds.Dataset:
        """Return a pyarrow dataset of the table as it is now, for DuckDB, Polars and pyarrow."""
        import pyarrow.dataset as ds

        return ds.InMemoryDataset(self.to_arrow())

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        return self.schema.__arrow_c_schema__()

    def get(self, key: Any) -> dict[str, Any] | None:
        """Return the row of a key as a dict; None if there is none.

        ``key`` is the key's value; for several key columns a tuple in their order, or a dict.

        Raises:
            SchemaMismatch: the value does not fit the key.
        """
        snapshot = self._folded.fix()
        names = self._keyed.schema(snapshot).names
        rows = self._fold(snapshot, only=self._is(key)).to(snapshot.stop).select(names)
        return rows.row(0, named=True) if rows.height else None

    def _is(self, key: Any) -> pl.Expr:
        """Return the condition that a row is of a key: NaN is NaN, null is null."""
        import functools
        import operator

        import polars as pl

        row = pl.DataFrame(key_row(self.schema, self.key, key))
        terms = [pl.col(name).eq_missing(pl.lit(row[name]).first()) for name in self.key]
        return functools.reduce(operator.and_, terms)

    # -- time travel -------------------------------------------------------------------------

    def as_of(self, when: int | Instant, *, timeout: float | None = 10.0) -> Table:
        """Return the table as it was: at an append time (inclusive), or below an offset.

        Raises:
            InvalidTime: an instant that is not yet past.
            OffsetOutOfRange: an offset beyond the end, or of rows that have been removed.
        """
        scan, _ = views.as_of(self._scan, when, timeout)
        return Table(scan, self.key)

    def diff(
        self, a: int | Instant, b: int | Instant, *, timeout: float | None = 10.0
    ) -> pl.DataFrame:
        """Return the change rows that turn the table as of one place into that as of another.

        Places are offsets or append times, in either order. Columns: ``op`` (``c``, ``u``, ``d``),
        those of the key, ``before`` and ``after``; see ``sl.changes``. A row that was written again
        as it was did not change.

        Raises:
            InvalidTime: an instant that is not yet past.
            OffsetOutOfRange: an offset beyond the end, or of rows that have been removed.
        """
        states = dict(self._states([a, b], timeout))
        before, after = states[0], states[1]
        moved = [
            one.join(other, on=PLACE, how="anti", maintain_order="left").drop(PLACE)
            for one, other in ((before, after), (after, before))
        ]
        return changes(moved[0], moved[1], key=self.key)

    def history(self, key: Any) -> pl.DataFrame:
        """Return all rows of a key in the order of offsets, with system columns, deletions too.

        Of a stream of changes: the change rows that touch the key, and those that empty the table.

        Raises:
            SchemaMismatch: the value does not fit the key.
        """
        import polars as pl

        from streamlab.lazy import lazy_frame

        only, rows = self._is(key), lazy_frame(self._scan)
        if not self._keyed.events(self._scan.fix(pin=False).schema):
            return rows.filter(only).collect()
        events = rows.collect()
        emptying = pl.col("op").eq_missing("t")
        _, parts = rows_of(events.filter(~emptying), self.key)
        touching = pl.concat(
            [parts.filter(only).select(PLACE), events.filter(emptying).select(PLACE)]
        )
        return events.join(touching, on=PLACE, how="semi", maintain_order="left")

    def states(
        self, at: Iterable[int | Instant] | None = None, *, every: Duration | None = None,
        start: Instant | None = None, stop: Instant | None = None, timeout: float | None = 10.0,
    ) -> pl.DataFrame:  # fmt: skip
        """Return the table as of several places, one after the other, in one frame.

        ``at`` has offsets or append times; or ``every="1m"`` gives start, start + 1m, … before stop:
        by default each whole minute from the first row on that is past. The place of a row's state
        is its first column, ``_as_of``. The log is gone through once.

        Raises:
            QueryError: it asks for no places, too many, or for offsets and instants together.
            InvalidTime: an instant that is not yet past.
            OffsetOutOfRange: an offset beyond the end, or of rows that have been removed.
        """
        import polars as pl

        places: Sequence[int | Instant]
        if at is not None and every is None:
            places = list(at)
        elif every is not None and at is None:
            places = self._instants(every, start, stop)
        else:
            hint = 'states([t1, t2]), or states(every="1m", start=, stop=)'
            raise QueryError("states needs places, or every=", hint=hint)
        _check_places(places)
        by_offset = bool(places) and offset_of(places[0]) is not None
        kind = pl.Int64() if by_offset else pl.Datetime("us", "UTC")
        said = [offset_of(place) if by_offset else parse_instant(place) for place in places]
        parts = {
            index: rows.with_columns(pl.lit(said[index]).cast(kind).alias("_as_of"))
            for index, rows in self._states(places, timeout)
        }
        none = self._fold(self._folded.fix(pin=False)).rows.with_columns(_as_of=pl.lit(None, kind))
        names = [name for name in none.columns if name not in (PLACE, "_as_of")]
        frames = [none, *(parts[index] for index in range(len(places)))]
        return pl.concat([frame.select("_as_of", *names) for frame in frames])

    def _states(
        self, places: Sequence[int | Instant], timeout: float | None
    ) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the index of each place and the state there, going through the log once."""
        instants = [parse_instant(place) for place in places if offset_of(place) is None]
        if instants:  # an append under way is waited for, so that what follows sees it
            views.as_of(self._folded, format_instant(max(instants)), timeout)
        scan = self._folded.freeze()
        stops = [views.as_of(scan, place, timeout)[0].stop or 0 for place in places]
        fold = self._fold(scan.fix())
        for index in sorted(range(len(stops)), key=stops.__getitem__):
            yield index, fold.to(stops[index])

    def _instants(self, every: Duration, start: Instant | None, stop: Instant | None) -> list[str]:
        """Return the instants from start until before stop, as text."""
        step = parse_duration(every, what="every")
        snapshot = self._folded.fix(pin=False)
        log = snapshot.log
        until = log.clock.now() if stop is None else parse_instant(stop, what="stop")
        if start is not None:
            first = parse_instant(start, what="start")
        elif snapshot.start < snapshot.stop:
            _, appended = log.reader.times_at(snapshot.moment, snapshot.start, None)
            first = -(-appended // step) * step
        else:
            first = until
        return [format_instant(micros) for micros in range(first, until, step)[: MOST_STATES + 1]]


def _check_places(places: Sequence[Any]) -> None:
    """See that several places are not too many, and all of one kind."""
    if len(places) > MOST_STATES:
        raise QueryError(
            f"more than {MOST_STATES:,} states at once are too many",
            hint="give a start and a stop, or a longer every",
        )
    if len({offset_of(place) is None for place in places}) > 1:
        raise QueryError("the places of states are offsets or instants, not both")
