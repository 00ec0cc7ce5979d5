"""The state of a table at a place: the nearest snapshot below it, and the rows from there on.

A table is the fold of a stream's rows in the order of offsets: the last row of each key stays, unless
it says that the key is gone. `Keyed` says how rows are read for that, `Fold` goes through them, piece
by piece, so that memory holds the keys and a piece. On a long way it leaves snapshots behind, so that
nobody has to go that way again.

Invariants: a snapshot is used only if it is of this stream, this key and this history, covers the
rows from where the scan begins, and lies where the scan reaches; rows below that beginning are left
out of it. Snapshots are written only for all the rows there are, never by who may not write, and lie
so far apart that all of them are smaller than the rows they stand for.
"""

from __future__ import annotations

import contextlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl
import pyarrow as pa
from polars.lazyframe.resolver import LazyFrameResolver, ResolvedLazyFrameProps

from streamlab.changes import GONE, PARTS, latest, rows_of
from streamlab.errors import QueryError
from streamlab.lazy import frame_of, polars_schema
from streamlab.log import snapshots
from streamlab.log.format import checksum
from streamlab.scan import Scan, Snapshot
from streamlab.schema import SYSTEM_FIELDS

__all__ = ["Fold", "Keyed", "lazy_state"]

SPACING_ROWS = 1 << 18
"""Snapshots lie at least so many rows apart,"""

SPACING_KEYS = 4
"""and at least so many rows for each key they hold."""

PLACE = "_offset"


@dataclass(frozen=True)
class Keyed:
    """How the rows of a stream become those of a table."""

    key: tuple[str, ...]
    own: bool  # whether that is the stream's own key, by which deletions are

    def schema(self, snapshot: Snapshot) -> pa.Schema:
        """Return the columns of the table.

        Raises:
            QueryError: the key is none of them, or deletions are by another one.
        """
        schema, name = snapshot.schema, snapshot.info.name
        fields = [f for f in schema if f.name not in SYSTEM_FIELDS]
        if self.events(schema):
            fields = list(schema.field("after").type)
        unknown = [column for column in self.key if column not in {f.name for f in fields}]
        if unknown:
            raise QueryError(
                f'the table of stream "{name}" has no column "{unknown[0]}" to be its key',
                hint=f"its columns are {', '.join(f.name for f in fields)}",
            )
        if not self.own and snapshot.info.has_deletions:
            raise QueryError(
                f'deletions of stream "{name}" are by its own key, {", ".join(snapshot.info.key)}',
                hint="leave out key=, or filter the rows yourself",
            )
        return pa.schema(fields)

    @staticmethod
    def events(schema: pa.Schema) -> bool:
        """Whether rows are changes, with op, before and after."""
        if not set(PARTS) <= set(schema.names):
            return False
        op, before, after = (schema.field(name).type for name in PARTS)
        text = pa.types.is_string(op) or pa.types.is_large_string(op)
        return text and pa.types.is_struct(after) and bool(before == after)

    def read(self, snapshot: Snapshot, columns: Sequence[str]) -> tuple[bool, pl.LazyFrame]:
        """Return a snapshot's rows as a table takes them, and whether they empty it first.

        They have ``_offset``, these columns and `GONE`.
        """
        schema = snapshot.schema
        deleted = ["_deleted"] if "_deleted" in schema.names else []
        if self.events(schema):
            beside = [k for k in self.key if k in schema.names]
            names = [PLACE, *deleted, *PARTS, *beside]
            reset, made = rows_of(frame_of(snapshot, names, None).collect(), self.key)
            return reset, made.lazy().select(PLACE, *columns, GONE)
        rows = frame_of(snapshot, [PLACE, *deleted, *columns], None)
        gone = pl.col("_deleted") if deleted else pl.lit(value=False)
        return False, rows.select(PLACE, *columns, gone.alias(GONE))

    def identity(self, schema: pa.Schema) -> str:
        """Return sixteen hex digits that stand for this way of reading rows."""
        way = json.dumps([self.key, self.events(schema)])
        return f"{checksum(way.encode()):016x}"


class Fold:
    """The latest rows of keys, up to a place that moves forward.

    ``columns`` are those wanted, the key's among them; ``only`` leaves keys for which it is true.
    """

    def __init__(
        self, snapshot: Snapshot, keyed: Keyed, columns: Sequence[str] | None = None,
        only: pl.Expr | None = None,
    ) -> None:  # fmt: skip
        self.snapshot, self.keyed, self.only = snapshot, keyed, only
        self.kinds = polars_schema(keyed.schema(snapshot))
        wanted = list(self.kinds) if columns is None else list(columns)
        self.columns = [*wanted, *(name for name in keyed.key if name not in wanted)]
        self.table = keyed.identity(snapshot.schema)
        self._compacted = snapshot.moment.compacted
        self.at = snapshot.start
        self.last = snapshot.start  # the last snapshot at or below `at`
        self.rows = pl.DataFrame(
            schema={PLACE: pl.Int64, **{name: self.kinds[name] for name in self.columns}}
        )

    def to(self, stop: int) -> pl.DataFrame:
        """Return the table as of an offset that is not below the last one, with ``_offset``."""
        assert self.at <= stop <= self.snapshot.stop, (self.at, stop)
        replace(self.snapshot, stop=stop).check_exact()
        if stop - self.at > SPACING_ROWS or self.at == self.snapshot.start:
            self._jump(stop)
        if stop - self.at > self._spacing() and self._may_keep() and self.only is None:
            self._widen()
        while self.at < stop:
            reach = min(stop, self.at + max(SPACING_ROWS, 2 * self.rows.height))
            self._take(reach)
            if self.at - self.last >= self._spacing() and len(self.columns) == len(self.kinds):
                self._keep()
        return self.rows

    def distance(self, stop: int) -> int:
        """Return how many rows have to be read to be at an offset."""
        self._jump(stop)
        return stop - self.at

    def _take(self, stop: int) -> None:
        """Go on to an offset."""
        part = replace(self.snapshot, start=self.at, stop=stop)
        reset, lazy = self.keyed.read(part, self.columns)
        if self.only is not None:
            lazy = lazy.filter(self.only)
        held = self.rows.clear() if reset else self.rows
        held = held.with_columns(pl.lit(value=False).alias(GONE))
        self.rows = latest(pl.concat([held, lazy.collect()]), self.keyed.key)
        self.at = stop

    def _spacing(self) -> int:
        return max(SPACING_ROWS, SPACING_KEYS * self.rows.height)

    # -- snapshots ---------------------------------------------------------------------------

    def _bounded(self) -> bool:
        """Whether rows are left out by their event time, of which a snapshot knows nothing."""
        return self.snapshot.since is not None or self.snapshot.until is not None

    def _jump(self, stop: int) -> None:
        """Go on to the nearest snapshot at or below an offset, if there is one beyond here."""
        if self._bounded():
            return
        log = self.snapshot.log
        for path in snapshots.listed(log.folder, self.table, self.at, stop):
            found = snapshots.load(path)
            if found is not None and self._fits(found[0]):
                label, rows = found
                if label.start <= self.snapshot.start:
                    self.at = self.last = label.offset
                    self.rows = self._shaped(rows)
                    return
            elif log.reader.pins:  # who may not write leaves it there
                snapshots.discard(path)

    def _fits(self, label: snapshots.Label) -> bool:
        """Whether a snapshot is of this history: the row before it was appended when it says.

        One from below what is compacted would bring keys back whose deletions are gone.
        """
        reader = self.snapshot.log.reader
        return (
            label.stream == reader.stream
            and label.table == self.table
            and label.offset >= self._compacted
            and reader.append_time_below(label.offset) == label.append_time
        )

    def _shaped(self, stored: pa.Table) -> pl.DataFrame:
        """Return the rows of a snapshot in the columns wanted; those added since are null."""
        names = [name for name in (PLACE, *self.columns) if name in stored.schema.names]
        frame = pl.from_arrow(stored.select(names))
        assert isinstance(frame, pl.DataFrame)
        kinds = {PLACE: pl.Int64(), **self.kinds}
        shaped = frame.select(
            (pl.col(n) if n in names else pl.lit(None)).cast(kinds[n]).alias(n)
            for n in (PLACE, *self.columns)
        )
        shaped = shaped.filter(pl.col(PLACE) >= self.snapshot.start)
        return shaped if self.only is None else shaped.filter(self.only)

    def _may_keep(self) -> bool:
        """Whether what is folded here is the state of all the rows that there are."""
        reader = self.snapshot.log.reader
        return (
            reader.pins
            and not self._bounded()
            and self.at >= self._compacted
            and self.snapshot.start == reader.manifest().start
        )

    def _widen(self) -> None:
        """Take up the other columns, for a snapshot has them all."""
        if len(self.columns) < len(self.kinds):
            whole = Fold(self.snapshot, self.keyed)
            whole._jump(self.at)
            self.columns, self.at, self.last, self.rows = (
                whole.columns, whole.at, whole.last, whole.rows
            )  # fmt: skip

    def _keep(self) -> None:
        """Write a snapshot of what is folded; without room for it the way is gone again next time."""
        log, offset = self.snapshot.log, self.at
        appended = log.reader.append_time_below(offset)
        if self.only is not None or not self._may_keep() or appended is None:
            return
        start, oldest = (
            self.snapshot.start,
            int(self.rows[PLACE][0]) if self.rows.height else offset,
        )
        label = snapshots.Label(log.stream, self.table, start, offset, appended, oldest)
        with contextlib.suppress(OSError):
            stored = self.rows.to_arrow(compat_level=pl.CompatLevel.oldest())
            path = snapshots.put(log.folder, label, stored)
            if log.reader.manifest(again=True).start != start:  # trimmed meanwhile
                snapshots.discard(path)
        self.last = offset


def lazy_state(scan: Scan, keyed: Keyed) -> pl.LazyFrame:
    """Return a table as a LazyFrame, which each collect folds as of then."""
    return _Resolver(scan, keyed).lazy()


class _Resolver(LazyFrameResolver):
    """Answers Polars' question what rows the table has now."""

    def __init__(self, scan: Scan, keyed: Keyed) -> None:
        self.scan, self.keyed = scan, keyed
        self.declared = polars_schema(keyed.schema(scan.fix(pin=False)))

    def __repr__(self) -> str:
        return f"table of stream {self.scan.info().name}"

    def schema(self) -> Any:
        return self.declared

    def resolve_lazyframe(
        self, *, projection: list[str] | None, limit: int | None, **_: Any
    ) -> tuple[pl.LazyFrame, ResolvedLazyFrameProps]:
        snapshot = self.scan.fix()
        names = list(self.declared) if projection is None else projection
        fold = Fold(snapshot, self.keyed, names)
        rows = fold.to(snapshot.stop).select(pl.col(n).cast(self.declared[n]) for n in names)
        if limit is not None:
            rows = rows.head(limit)
        return rows.lazy(), ResolvedLazyFrameProps(version_key=uuid.uuid4().hex)
