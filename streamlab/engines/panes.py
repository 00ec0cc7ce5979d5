"""Tumbling, hopping and cumulative windows: what is kept of each pane, and when windows close.

A pane is what overlapping windows share. Kept are partial results of each key and pane or, where an
aggregation cannot be split, the rows; they make windows when the watermark reaches an end.

Invariant: a row is in no window that had closed when it came: where one had, what is kept of it says
which watermark it met.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from streamlab.aggregate import Aggregation
from streamlab.clock import FOREVER, NEVER
from streamlab.duration import format_instant
from streamlab.engines.batch import ORDER, TIME, Batch, Since, least, watermark
from streamlab.engines.overlap import PLACE, put_together
from streamlab.engines.spill import Store
from streamlab.engines.state import END, OPEN, START, Times, WindowOperator, reduced

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Panes"]

PANE = "\0pane"


MANY_ROWS = 4_000_000
"""So many rows in windows are looked at together, where aggregations need the rows; one window is not divided."""

FEW_FRAMES, MANY_FRAMES = 16, 256
"""So many frames of partial results are held unmerged, where somebody looks at them, and at all."""


class Panes(WindowOperator):
    """Tumbling, hopping and cumulative windows, by panes that overlapping windows share."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.single = self.window.kind == "tumbling"
        self.shared = not self.single and self.window.tz is None  # overlapping, on the clock
        self.store = Store()
        self.panes: dict[int, Since] = {}
        self.heights: dict[int, int] = {}  # how many rows are held of each
        self.next_end = FOREVER  # the first window to close
        self.last_ends: dict[int, int] = {}

    def push(self, port: int, batch: Batch) -> Batch:
        """Take rows; return the windows that close."""
        self._absorb(batch)
        mark = watermark(batch.stream_time, self.late_delay)
        since = batch.since
        frame = self.nothing
        if mark >= self.next_end:
            frame = self._results(mark)
            since = self._let_go(mark) or since
        return self.give(frame, batch.stream_time, since)

    def _absorb(self, batch: Batch) -> None:
        if not batch.lazy and not batch.frame.height:
            return
        if self.incremental and self.ordered(batch):
            kept = self._partials(batch.rows, self._pane_of(batch.rows), whole=True)
        else:
            kept = self._kept(*self.judged(batch))
        heights = dict(kept[PANE].value_counts().iter_rows())
        new = [p for p in heights if p not in self.panes]
        for pane, height in heights.items():
            self.heights[pane] = self.heights.get(pane, 0) + height
        if new:
            self._note(np.array(sorted(new), dtype=np.int64), batch.since)
        if kept.height:
            self.store.add(kept)
            if (
                len(self.store.parts) > MANY_FRAMES
            ):  # nobody asked for long: what is held stays small
                self.compact()

    def _kept(self, frame: pl.DataFrame, late: pl.Series | None = None) -> pl.DataFrame:
        """Return what is held of rows: partial results per key and pane, or the rows."""
        import polars as pl

        if late is not None and not self.incremental:
            frame, late = frame.filter(~late), None
        pane = self._pane_of(frame)
        if not self.incremental:
            return frame.select(*self.columns, ORDER, OPEN, pane.alias(PANE))
        if late is None:
            return self._partials(frame, pane)
        # Late rows are gathered in a pane of no time and dropped with it: rows need no copying.
        pane = pl.when(late).then(NEVER).otherwise(pane)
        return self._partials(frame, pane).filter(pl.col(PANE) != NEVER)

    def _pane_of(self, rows: pl.DataFrame | pl.LazyFrame) -> Any:
        """Return the pane of each row: an expression, or with a zone values."""
        import polars as pl

        found = self.window.pane_expr(pl.col(TIME))
        if found is not None:
            return found
        times = rows.lazy().select(TIME).collect()[TIME].to_numpy()
        return pl.Series(self.window.panes(times), dtype=pl.Int64)

    @property
    def _groups(self) -> list[str]:
        """The columns that partial results are grouped by."""
        return [*self.by, PANE] if self.single else [*self.by, PANE, OPEN]

    def _partials(
        self, rows: pl.DataFrame | pl.LazyFrame, pane: Any, *, whole: bool = False
    ) -> pl.DataFrame:
        """Return the partial results of rows; ``whole`` says that none met a closed window."""
        import polars as pl

        placed = rows.lazy().with_columns(pane.alias(PANE))
        if whole and not self.single:
            unmet = [pl.lit(NEVER, pl.Int64).alias(OPEN)]
            return reduced(placed, [*self.by, PANE], self.how, unmet)
        return reduced(placed, self._groups, self.how)

    def _note(self, panes: Times, since: Since) -> None:
        for pane in panes.tolist():
            self.panes[pane] = since
        first, last = self._edges(panes)
        self.next_end = min(self.next_end, max(int(first.min()), self.mark + 1))
        self.last_ends.update(zip(panes.tolist(), last.tolist(), strict=True))

    def _edges(self, panes: Times) -> tuple[Times, Times]:
        """Return the first and the last end of the windows that contain each pane."""
        if self.window.tz is None:
            return self.window.first_end(panes), self.window.last_end(panes)
        index, _, ends = self.window.windows(panes)
        first, last = np.full(len(panes), FOREVER), np.full(len(panes), NEVER)
        np.minimum.at(first, index, ends)
        np.maximum.at(last, index, ends)
        return first, last

    def _held(self) -> Times:
        """Return the panes that rows are held of."""
        return np.array(sorted(self.panes), dtype=np.int64)

    def _reach(self, mark: int) -> tuple[Times, int, int]:
        """Return the panes of windows that close up to a watermark, the first of their ends, the last.

        Of windows on the clock the ends lie `every` apart: they need not be told one by one, which
        for a pane that thousands of windows share is thousands of times as much.
        """
        panes = self._held()
        first, last = self.window.first_end(panes), self.window.last_end(panes)
        lowest = self._after(self.mark, first, last)
        highest = self._after(mark, first, last) - self.window.every
        chosen = lowest <= highest
        if not chosen.any():
            return panes[:0], 0, 0
        return panes[chosen], int(lowest[chosen].min()), int(highest[chosen].max())

    def _after(self, mark: int, first: Times, last: Times) -> Times:
        """Return for ends `every` apart, from first to last, the first one after a watermark.

        Where there is none, what would follow the last.
        """
        near = np.clip(np.int64(mark), first - 1, last)  # no difference overflows
        after: Times = first + -(-(near + 1 - first) // self.window.every) * self.window.every
        return after

    def _pairs(self, mark: int | None, panes: Times | None = None) -> pl.DataFrame:
        """Return (pane, start, end) of the windows that close up to a watermark; None: no window."""
        import polars as pl

        panes = self._held() if panes is None else panes
        if mark is None or not len(panes):
            empty = {PANE: pl.Int64, START: pl.Int64, END: pl.Int64}
            return pl.DataFrame(schema=empty)
        index, starts, ends = self.window.windows(panes)
        chosen = (ends > self.mark) & (ends <= mark)
        return pl.DataFrame({PANE: panes[index[chosen]], START: starts[chosen], END: ends[chosen]})

    def _results(self, mark: int | None) -> pl.DataFrame:
        """Return the windows that end after the last watermark and at or before this one.

        Those of more rows than memory holds are computed some windows, or a share of the keys, at a time.
        """
        if not self.incremental:
            found = [
                part for some in self._portions(self._pairs(mark)) for part in self._whole(some)
            ]
            return _stacked(found) if self.sql else self._named(_stacked(found))
        shares = self.store.shares(self.by, self.template.schema)
        by_key = mark is not None and self.shared and len(shares) == 1
        found = [self._closing(mark, share) for share in shares]
        return self._named(_stacked(found), by_key=by_key)

    def _portions(self, pairs: pl.DataFrame) -> list[pl.DataFrame]:
        """Divide windows, in the order of their ends, so that not too many rows are in some of them."""
        import polars as pl

        heights = [self.heights[pane] for pane in pairs[PANE].to_list()]
        if sum(heights) <= MANY_ROWS:
            return [pairs]
        ends = pairs.select(END, pl.Series("\0rows", heights)).group_by(END).sum().sort(END)
        before = pl.col("\0rows").cum_sum() - pl.col("\0rows")
        numbers = ends.select(END, (before // MANY_ROWS).alias("\0n"))
        placed = pairs.join(numbers, on=END, maintain_order="left")
        some = placed.partition_by("\0n", as_dict=True)
        return [some[number].drop("\0n") for number in sorted(some)]

    def _whole(self, pairs: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield the results of windows from their rows; of many rows a share of the keys at a time."""
        if self.sql:
            yield self._by_sql(self._open_in(self._rows(pairs[PANE].unique()), pairs))
            return
        many = sum(self.heights[pane] for pane in pairs[PANE].to_list()) > MANY_ROWS
        for share in self.store.shares(self.by, self.template.schema) if many else [None]:
            rows = self._rows(pairs[PANE].unique(), share)
            ordered = self._open_in(rows, pairs).sort(ORDER, maintain_order=True)
            grouped = ordered.group_by(*self.by, START, END, maintain_order=True)
            yield self.how.cast(grouped.agg(self.how.whole))

    def _rows(self, panes: pl.Series, share: pl.Expr | None = None) -> pl.DataFrame:
        return self.store.gather(self.template, panes, PANE, share)

    def _open_in(self, rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Return rows, or what is held of them, with each window that was open when they came."""
        import polars as pl

        several = rows.join(pairs, on=PANE, how="inner", maintain_order="left")
        return several.filter(pl.col(END) > pl.col(OPEN))

    def _closing(self, mark: int | None, share: pl.Expr | None) -> pl.DataFrame:
        """Return the aggregates of the windows that close, of all keys or a share of them."""
        import polars as pl

        how: Aggregation = self.how
        if mark is not None and self.shared:
            panes, first, last = self._reach(mark)
            rows = self._rows(pl.Series(panes), share)
            return how.finished(self._shared(rows, first, last, mark))
        pairs = self._pairs(mark)
        return how.finished(self._merged(self._rows(pairs[PANE].unique(), share), pairs))

    def _merged(self, rows: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
        """Return the partial results of windows, from those of panes."""
        merges = self.how.merges
        if self.single:  # a window is a pane: merge first, join less
            return rows.group_by(*self.by, PANE).agg(merges).join(pairs, on=PANE)
        return self._open_in(rows, pairs).group_by(*self.by, START, END).agg(merges)

    def _shared(self, rows: pl.DataFrame, first: int, last: int, mark: int) -> pl.DataFrame:
        """Return the same for windows that overlap on the clock, in the order of keys."""
        import polars as pl

        fresh = rows.filter(pl.col(OPEN) == NEVER)
        apart = rows.filter(pl.col(OPEN) != NEVER)  # what met a closed window goes its own way
        if not fresh.height:
            pairs = self._pairs(mark, apart[PANE].unique().sort().to_numpy())
            return self._by_key(self._merged(apart, pairs))
        found = self._together(fresh, first, last)
        if not apart.height:
            return found
        pairs = self._pairs(mark, apart[PANE].unique().sort().to_numpy())
        several = self._open_in(apart, pairs)
        both = pl.concat([found, several.select(found.columns)])
        return self._by_key(both.group_by(*self.by, START, END).agg(self.how.merges))

    def _by_key(self, frame: pl.DataFrame) -> pl.DataFrame:
        return frame.sort(*self.by, nulls_last=False) if self.by else frame

    def _together(self, rows: pl.DataFrame, first_end: int, last_end: int) -> pl.DataFrame:
        """Put windows that overlap together from panes: those whose ends are from one to another."""
        import polars as pl

        window = self.window
        pane, offset, size = window.pane, window.offset, window.size
        first, last = ((end - offset) // pane - 1 for end in (first_end, last_end))
        placed = rows.with_columns(((pl.col(PANE) - offset) // pane).alias(PLACE))
        placed = placed.drop(PANE, OPEN)
        found = put_together(placed, window, self.by, self.how, first, last)
        end = (pl.col(PLACE) + 1) * pane + offset
        begun = (
            end - size if window.kind == "hopping" else (end - 1 - offset) // size * size + offset
        )
        return found.with_columns(begun.alias(START), end.alias(END)).drop(PLACE)

    def prepare(self, empty: pl.DataFrame) -> None:
        """Learn the columns that will come."""
        self.template = self._kept(self.on_time(Batch(empty, NEVER, ())))
        self.nothing = self._results(None)

    def _let_go(self, mark: int) -> Since | None:
        """Forget panes all of whose windows have closed; return what those rested on."""
        closed = least(*self.panes.values())
        gone = [pane for pane, end in self.last_ends.items() if end <= mark]
        for pane in gone:
            del self.panes[pane], self.last_ends[pane], self.heights[pane]
        self.store.drop(self.panes, PANE)
        self.next_end = self._next_end(mark) if self.panes else FOREVER
        return closed

    def _next_end(self, mark: int) -> int:
        """Return the first end after a watermark of a window that rows are held of."""
        panes = self._held()
        if not self.shared:
            _, _, ends = self.window.windows(panes)
            ends = ends[ends > mark]
        else:
            first, last = self.window.first_end(panes), self.window.last_end(panes)
            ends = self._after(mark, first, last)
            ends = ends[ends <= last]
        return int(ends.min()) if len(ends) else FOREVER

    def compact(self, most: int | None = None) -> None:
        """Merge the partials of each group into one, if there are many, or more frames than that."""
        several = most is not None and len(self.store.parts) > most
        if self.incremental and (several or self.store.crowded):
            keys, merges = self._groups, self.how.merges
            self.store.merge(lambda f: f.group_by(keys).agg(merges))

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the open windows, with the rows that the step before would give."""
        self.compact(FEW_FRAMES)  # who looks often merges a little each time
        other = copy.copy(self)
        other.store, other.panes = self.store.copy(), dict(self.panes)
        other.last_ends, other.heights = dict(self.last_ends), dict(self.heights)
        other.on_late = None
        if rows and rows[0].height:
            other._absorb(self._unsure(rows[0]))
        return self.placed(other._results(FOREVER))

    def since(self) -> Since | None:
        """Return the earliest offsets that an open window rests on."""
        self.compact()
        return least(*self.panes.values())

    def report(self) -> list[str]:
        """Return what is open and what closes next."""
        kind = "partial result" if self.incremental else "row"
        held = f"{self.store.height:,} {kind}{'s' * (self.store.height != 1)} held"
        count = len(self._pairs(FOREVER)[[START, END]].unique()) if self.panes else 0
        lines = [f"{count:,} window{'s' * (count != 1)} open, {held}{self.store.where}"]
        if self.panes and self.next_end != FOREVER:
            lines.append(
                f"the next window ends {format_instant(self.next_end)} and closes {self._when(self.next_end)}"
            )
        return lines


def _stacked(parts: list[pl.DataFrame]) -> pl.DataFrame:
    import polars as pl

    return pl.concat([part.select(parts[0].columns) for part in parts])
