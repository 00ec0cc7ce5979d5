"""Sliding windows: for each row the aggregates over its key's rows in the time up to it.

Rows are held while a later one may still change a result or need them; there are no partial results.

Invariants: each row gets its own result, also where a join has made several rows of one; results come
in the order of time, then offset.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from streamlab.aggregate import Aggregation
from streamlab.clock import FOREVER, NEVER
from streamlab.engines.batch import BEFORE, ORDER, TIME, Batch, Since, least, watermark
from streamlab.engines.overlap import merged
from streamlab.engines.state import GAP, OPEN, ByTime, reduced

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Sliding"]


class Sliding(ByTime):
    """For each row the aggregates over its key's rows in the time up to it."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.held: pl.DataFrame | None = None
        self.places: list[tuple[int, Since]] = []  # greatest time of a batch, and its place

    def prepare(self, empty: pl.DataFrame) -> None:
        """Learn the columns that will come."""
        self.template = empty

    def push(self, port: int, batch: Batch) -> Batch:
        """Take rows; return those that no later row can change."""
        import polars as pl

        rows = self.on_time(batch)
        if rows.height:
            rows = rows.drop(OPEN).with_columns(pl.lit(value=False).alias("\0done"))
            self.held = rows if self.held is None else pl.concat([self.held, rows])
            self.places.append((int(rows[TIME].max()), batch.since))  # type: ignore[arg-type]
        mark = watermark(batch.stream_time, self.late_delay)
        before, self.mark = self.mark, mark
        if self.held is None:
            return Batch(self._nothing(), mark, batch.since)
        frame = self._results(self.held, pl.col(TIME) < mark)
        since = self.since() or batch.since
        keep = NEVER if mark == NEVER else max(mark - self.window.size, NEVER)
        self.held = self.held.filter(pl.col(TIME) > keep).with_columns(
            (pl.col("\0done") | (pl.col(TIME) < mark)).alias("\0done")
        )
        self.places = [(last, place) for last, place in self.places if last > keep]
        frame = frame.with_columns(pl.lit(before, pl.Int64).alias(BEFORE))
        return Batch(frame, mark, since)

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

    def _results(self, held: pl.DataFrame, ready: pl.Expr) -> pl.DataFrame:
        """Return the rows that were not given out and are ready, with their aggregates."""
        import polars as pl

        held = self._numbered(held)
        chosen = held.filter(ready & ~pl.col("\0done")).sort(TIME, ORDER, "\0row")
        if not chosen.height:
            return self._nothing()
        found = (self._stretched if self.incremental else self._paired)(chosen, held)
        values = chosen.join(found, on="\0row", how="left", maintain_order="left")
        return self._told(self.how.cast(values.select(*self.template.columns, *self.how.names)))

    def _numbered(self, held: pl.DataFrame) -> pl.DataFrame:
        """Return rows with a number, and one for their key: joins do not take NaN for NaN."""
        import polars as pl

        number = pl.col("\0row").min()
        group = number.over(self.by) if self.by else number
        return held.with_row_index("\0row").with_columns(group.alias("\0g"))

    def _stretched(self, chosen: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
        """Aggregate stretches of rows in the order of time; those at the same time get the same."""
        import polars as pl

        rows = held.sort("\0g", TIME).with_row_index("\0at")
        parts = reduced(rows, ["\0at"], self.how).sort("\0at")
        last = pl.col("\0at").cast(pl.Int64)
        lines = rows.select("\0g", TIME, last.alias("\0n"), last.min().over("\0g").alias("\0low"))
        high = self._latest(chosen.select("\0g", TIME), lines)
        before = pl.when(pl.col(TIME) >= NEVER + self.window.size).then(
            pl.col(TIME) - self.window.size
        )
        gone = self._latest(chosen.select("\0g", before.otherwise(NEVER).alias(TIME)), lines)["\0n"]
        low = (gone + 1).fill_null(
            high["\0low"]
        )  # no row of the key is that old: from its first on
        how: Aggregation = self.how
        keys, times = rows["\0g"].to_numpy(), rows[TIME].to_numpy() // self.window.size
        turns = (keys[1:] != keys[:-1]) | (times[1:] != times[:-1])
        cells = np.concatenate([[0], np.cumsum(turns)])
        stretches = merged(
            parts.select(how.parts), low.to_numpy(), (high["\0n"] + 1).to_numpy(), how, cells
        )
        return how.finished(stretches).with_columns(chosen["\0row"])

    @staticmethod
    def _latest(asked: pl.DataFrame, lines: pl.DataFrame) -> pl.DataFrame:
        """Find for each key and time the last row up to it."""
        return asked.join_asof(lines, on=TIME, by="\0g", check_sortedness=False)

    def _paired(self, chosen: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
        """Aggregate the rows in reach of each row, in the order of offsets."""
        import polars as pl

        bucket = (pl.col(TIME) // self.window.size).alias("\0b")  # a row reaches into two of them
        right = held.select(
            "\0g", bucket, pl.col(TIME).alias("\0t"), pl.col(ORDER).alias("\0o"),
            pl.col("\0row").alias("\0r"), *self.columns,
        )  # fmt: skip
        near = [chosen.select("\0row", "\0g", TIME, bucket - step) for step in (0, 1)]
        pairs = pl.concat(near).join(right, on=["\0g", "\0b"], how="inner")
        reach = (pl.col("\0t") <= pl.col(TIME)) & (pl.col("\0t") > pl.col(TIME) - self.window.size)
        pairs = pairs.filter(reach).sort("\0row", "\0o", "\0r")
        return pairs.group_by("\0row", maintain_order=True).agg(self.how.whole)

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that a later one may change."""
        import polars as pl

        other = copy.copy(self)
        other.on_late = None
        if rows and rows[0].height:
            taken = other.on_time(Batch(rows[0], NEVER, (), FOREVER)).drop(OPEN)
            new = taken.with_columns(pl.lit(value=False).alias("\0done"))
            other.held = (
                new if self.held is None else pl.concat([self.held, new.select(self.held.columns)])
            )
        if other.held is None:
            return self._nothing()
        found = other._results(other.held, pl.lit(value=True))
        return found.with_columns(pl.lit(self.mark, pl.Int64).alias(BEFORE))

    def since(self) -> Since | None:
        """Return the earliest offsets that the held rows rest on."""
        return least(*(place for _, place in self.places))

    def report(self) -> list[str]:
        """Return how many rows wait."""
        import polars as pl

        if self.held is None:
            return ["0 rows wait"]
        waiting = self.held.select((~pl.col("\0done")).sum()).item()
        return [
            f"{waiting:,} rows wait for stream time to pass them, {self.held.height:,} rows held"
        ]
