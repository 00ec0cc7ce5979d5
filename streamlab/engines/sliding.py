"""Sliding windows: for each row the aggregates over its key's rows in the time up to it.

A row waits until no later one can change its result, and what is aggregated of it is held while others
reach back to it. Where aggregations can be split, partial results are held too, of each key and cell, a
small part of a window's length: the rows that are given out in one step reach over mostly the same time,
of which cells are merged, and rows are read only where windows begin and end. So a step costs what comes in it,
not what is held.

Invariants: each row gets its own result, also where a join has made several rows of one; results come
in the order of time, then offset.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from streamlab.aggregate import Aggregation
from streamlab.clock import NEVER
from streamlab.engines.batch import BEFORE, ORDER, TIME, Batch, Since, least, watermark
from streamlab.engines.held import Held, span
from streamlab.engines.overlap import merged
from streamlab.engines.state import GAP, ByTime, reduced

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Sliding"]

CELL = "\0cell"
"""The first time of a cell."""

CELLS = 64
"""How many cells make a window's length."""

MANY_PAIRS = 4_000_000
"""So many rows in reach of others are looked at together, where aggregations need the rows."""


class Sliding(ByTime):
    """For each row the aggregates over its key's rows in the time up to it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.waiting = Held(TIME)  # rows that are to be given out
        self.past = Held(TIME)  # what is aggregated of rows, while others reach back to them
        self.cells = Held(CELL)  # partial results of each key and cell
        self.width = max(self.window.size // CELLS, 1)
        self.places: dict[int, Since] = {}  # by the cell of a batch's greatest time

    def prepare(self, empty: pl.DataFrame) -> None:
        """Learn the columns that will come."""
        self.template = empty
        self.nothing = self._nothing()
        self.no_cells = self._reduced(empty) if self.incremental else empty

    def push(self, port: int, batch: Batch) -> Batch:
        """Take rows; return those that no later row can change."""
        import polars as pl

        self._absorb(batch)
        mark = watermark(batch.stream_time, self.late_delay)
        before, self.mark = self.mark, mark
        found = self._results(self.waiting.take(mark))
        since = self.since() or batch.since
        self._let_go(NEVER if mark == NEVER else max(mark - self.window.size + 1, NEVER))
        return Batch(found.with_columns(pl.lit(before, pl.Int64).alias(BEFORE)), mark, since)

    def _absorb(self, batch: Batch) -> None:
        rows = self.on_time(batch)
        if not rows.height:
            return
        rows = rows.select(self.template.columns)
        self.waiting.add(rows)
        self.past.add(rows.select(*self.columns, ORDER, TIME))
        cell = span(rows[TIME])[1] // self.width * self.width
        self.places[cell] = least(self.places.get(cell), batch.since) or batch.since
        if self.incremental:
            self.cells.add(self._reduced(rows))
            self.cells.condense(lambda f: f.group_by(*self.by, CELL).agg(self.how.merges))

    def _reduced(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the partial results of each key and cell."""
        import polars as pl

        cell = pl.col(TIME) // self.width * self.width
        return reduced(rows.with_columns(cell.alias(CELL)), [*self.by, CELL], self.how)

    def _let_go(self, least_time: int) -> None:
        """Hold no more what lies before a time."""
        self.past.let_go(least_time)
        self.cells.let_go(least_time)
        gone = [cell for cell in self.places if cell + self.width <= least_time]
        for cell in gone:
            del self.places[cell]

    def _nothing(self) -> pl.DataFrame:
        import polars as pl

        return self._told(
            self.template.with_columns(
                [pl.lit(None, d).alias(n) for n, d in self.how.dtypes.items()]
            )
        )

    def _told(self, found: pl.DataFrame) -> pl.DataFrame:
        """Return results that say whether they may lack rows, where some may."""
        if not self.tells:
            return found
        return found.with_columns(self._partial()).drop(GAP, strict=False)

    def _results(self, ready: list[pl.DataFrame]) -> pl.DataFrame:
        """Return rows, in their order, with their aggregates."""
        import polars as pl

        if not ready:
            return self.nothing
        chosen = pl.concat(ready).sort(TIME, ORDER, maintain_order=True).with_row_index("\0row")
        found = self._stretched(chosen) if self.incremental else self._paired(chosen)
        values = chosen.join(found, on="\0row", how="left", maintain_order="left")
        return self._told(self.how.cast(values.select(*self.template.columns, *self.how.names)))

    # -- what rows reach back to -------------------------------------------------------------

    def _rows(self, low: int, below: int) -> pl.DataFrame:
        """Return what is held of the rows of a span of time."""
        import polars as pl

        empty = self.template.clear().select(*self.columns, ORDER, TIME)
        return pl.concat([empty, *self.past.between(low, below)])

    def _numbered(self, chosen: pl.DataFrame, *others: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield rows, and those of others that have their keys, with a number for the key.

        Joins do not take NaN for NaN: so rows are brought together by numbers.
        """
        import polars as pl

        frames = [chosen, *others]
        if not self.by:
            yield from (f.with_columns(pl.lit(0, pl.UInt32).alias("\0g")) for f in frames)
            return
        keys = pl.concat([frame.select(self.by) for frame in frames]).with_row_index("\0g")
        numbers = keys.select(pl.col("\0g").min().over(self.by)).to_series()
        at = 0
        for frame in frames:
            numbered = frame.with_columns(numbers[at : at + frame.height])
            at += frame.height
            yield numbered.filter(pl.col("\0g") < chosen.height)

    def _common(self, first: int, last: int) -> tuple[int, int]:
        """Return from where to where whole cells are that all rows of a span of time reach over."""
        begin = -((self.window.size - 1 - last) // self.width) * self.width
        return begin, first // self.width * self.width

    def _stretched(self, chosen: pl.DataFrame) -> pl.DataFrame:
        """Aggregate stretches of rows in the order of time; those at the same time get the same."""
        import polars as pl

        first, last = span(chosen[TIME])
        earliest, (begin, end) = first - self.window.size + 1, self._common(first, last)
        if begin < end:
            rows = self._rows(earliest, begin).vstack(self._rows(end, last + 1))
            cells = pl.concat([self.no_cells, *self.cells.between(begin, end)])
        else:
            rows, cells = self._rows(earliest, last + 1), self.no_cells
        chosen, rows, cells = self._numbered(chosen, rows, cells)
        parts = self._parts(rows, cells)
        return self._merged(chosen, parts)

    def _parts(self, rows: pl.DataFrame, cells: pl.DataFrame) -> pl.DataFrame:
        """Return the partial results of single rows and of cells, by key and time."""
        import polars as pl

        rows = rows.sort("\0g", TIME).with_row_index("\0at")
        parts = reduced(rows, ["\0at"], self.how).sort("\0at").drop("\0at")
        parts = rows.select("\0g", TIME).hstack(parts.get_columns())
        if not cells.height:
            return parts
        more = cells.select("\0g", pl.col(CELL).alias(TIME), *self.how.parts)
        return parts.vstack(more.select(parts.columns)).sort("\0g", TIME)

    def _merged(self, chosen: pl.DataFrame, parts: pl.DataFrame) -> pl.DataFrame:
        """Return the aggregates of each row over the parts of its key in the time up to it."""
        import polars as pl

        how: Aggregation = self.how
        numbers = pl.int_range(pl.len(), dtype=pl.Int64)
        lines = parts.select("\0g", TIME, numbers.alias("\0n"))
        lines = lines.with_columns(pl.col("\0n").min().over("\0g").alias("\0low"))
        high = self._latest(chosen.select("\0g", TIME), lines)
        before = pl.when(pl.col(TIME) >= NEVER + self.window.size).then(
            pl.col(TIME) - self.window.size
        )
        gone = self._latest(chosen.select("\0g", before.otherwise(NEVER).alias(TIME)), lines)["\0n"]
        low = (gone + 1).fill_null(high["\0low"])  # none of the key is that old: from its first on
        keys, times = parts["\0g"].to_numpy(), parts[TIME].to_numpy() // self.window.size
        turns = (keys[1:] != keys[:-1]) | (times[1:] != times[:-1])
        cells = np.concatenate([[0], np.cumsum(turns)])
        stretches = merged(
            parts.select(how.parts), low.to_numpy(), (high["\0n"] + 1).to_numpy(), how, cells
        )
        return how.finished(stretches).with_columns(chosen["\0row"])

    @staticmethod
    def _latest(asked: pl.DataFrame, lines: pl.DataFrame) -> pl.DataFrame:
        """Find for each key and time the last part up to it."""
        return asked.join_asof(lines, on=TIME, by="\0g", check_sortedness=False)

    def _paired(self, chosen: pl.DataFrame) -> pl.DataFrame:
        """Aggregate the rows in reach of each row, in the order of offsets."""
        import polars as pl

        first, last = span(chosen[TIME])
        chosen, rows = self._numbered(chosen, self._rows(first - self.window.size + 1, last + 1))
        bucket = (pl.col(TIME) // self.window.size).alias("\0b")  # a row reaches into two of them
        right = rows.with_row_index("\0r").select(
            "\0g", bucket, pl.col(TIME).alias("\0t"), pl.col(ORDER).alias("\0o"), "\0r",
            *self.columns,
        )  # fmt: skip
        left = chosen.select("\0row", "\0g", TIME)
        near = pl.concat([left.with_columns(bucket - step) for step in (0, 1)])
        counts = right.group_by("\0g", "\0b").len()
        found = near.join(counts, on=["\0g", "\0b"]).group_by("\0row").agg(pl.col("len").sum())
        share = (found.sort("\0row")["len"].cum_sum() // MANY_PAIRS).to_numpy()
        bounds = [0, *(np.flatnonzero(np.diff(share)) + 1).tolist(), chosen.height]
        reach = (pl.col("\0t") <= pl.col(TIME)) & (pl.col("\0t") > pl.col(TIME) - self.window.size)
        done = []
        for low, below in itertools.pairwise(bounds):
            some = near.filter(pl.col("\0row").is_between(low, below - 1))
            pairs = some.join(right, on=["\0g", "\0b"]).filter(reach).sort("\0row", "\0o", "\0r")
            done.append(pairs.group_by("\0row", maintain_order=True).agg(self.how.whole))
        return pl.concat(done)

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that a later one may change."""
        import polars as pl

        other = copy.copy(self)
        other.waiting, other.past = self.waiting.copy(), self.past.copy()
        other.cells, other.on_late = self.cells.copy(), None
        other.places = dict(self.places)
        if rows and rows[0].height:
            other._absorb(self._unsure(rows[0]))
        found = other._results(other.waiting.all())
        return found.with_columns(pl.lit(self.mark, pl.Int64).alias(BEFORE))

    def since(self) -> Since | None:
        """Return the earliest offsets that the held rows rest on."""
        return least(*self.places.values())

    def report(self) -> list[str]:
        """Return how many rows wait."""
        waiting, held = self.waiting.count(), self.past.count()
        if not held:
            return ["0 rows wait"]
        wait = "1 row waits" if waiting == 1 else f"{waiting:,} rows wait"
        them = "it" if waiting == 1 else "them"
        return [
            f"{wait} for stream time to pass {them}, {held:,} row{'s' * (held != 1)} held{self.past.where}"
        ]
