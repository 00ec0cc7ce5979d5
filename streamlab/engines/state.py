"""The state of windows: what all kinds of them share.

What is kept is either partial results, or, where an aggregation cannot be split, the rows themselves;
beyond a limit they go to files. Both are merged when a window closes, and peeked at by merging them
without letting go.

Invariants: a row is judged by its own watermark; what is kept belongs to open windows; results come
in the order (window_end, window_start, keys).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streamlab.aggregate import Aggregation
from streamlab.clock import FOREVER, NEVER
from streamlab.duration import format_instant
from streamlab.engines.batch import BEFORE, ORDER, TIME, Batch, Operator, Since, watermark
from streamlab.window import Window

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "END",
    "GAP",
    "OPEN",
    "START",
    "ByTime",
    "WindowOperator",
    "marks_of",
    "reduced",
    "window_columns",
]

OPEN = "\0open"
START = "\0start"
END = "\0end"
GAP = "\0gap"
"""Whether a row of an inner window may lack rows: so may the outer one that it is in."""

Times = npt.NDArray[np.int64]


def window_columns() -> list[pl.Expr]:
    """Return the three columns of a window from its hidden bounds."""
    import polars as pl

    kind = pl.Datetime("us", "UTC")
    return [
        pl.col(START).cast(kind).alias("window_start"),
        pl.col(END).cast(kind).alias("window_end"),
        (pl.col(END) - 1).cast(kind).alias("window_time"),
    ]


class WindowOperator(Operator):
    """What all windows share: who is late, what is given out, when it closes.

    ``merge`` says how the aggregates come about: `Aggregation` for expressions, or an object with
    ``run(rows)`` for SQL.
    """

    def __init__(
        self,
        window: Window,
        by: Sequence[str],
        delay: int,
        how: Any,
        columns: Sequence[str],
    ) -> None:
        self.window = window
        self.by = list(by)
        self.late_delay = delay
        self.how = how
        self.sql = not isinstance(how, Aggregation)
        self.incremental = not self.sql and how.splits
        self.columns = list(dict.fromkeys([*self.by, *columns]))
        self.mark = NEVER  # the watermark
        self.given = 0  # how many rows were given out
        self.edge: int | None = None  # windows that begin at or before it may lack rows
        self.streams = 1  # how many sources the plan has

    # -- late rows ---------------------------------------------------------------------------

    of_rows = True  # not pairs of a join: of those it cannot be said which row read was late
    of_windows = False  # its rows are results of other windows
    counted_from_time = 0  # 1 where late_by counts from a row's time, which is 1 before its end

    def _ends(self, times: Times) -> tuple[Times, Times]:
        """Return for each time the watermarks from which on it is late for some, and for all."""
        return self.window.first_end(times), self.window.last_end(times)

    def ordered(self, batch: Batch) -> bool:
        """Whether no row of a batch can have met a closed window."""
        return batch.disorder <= min(self.late_delay, FOREVER >> 1)

    def on_time(self, batch: Batch) -> pl.DataFrame:
        """Return the rows that some window takes; `OPEN` is as `judged` says."""
        frame, late = self.judged(batch)
        return frame if late is None else frame.filter(~late)

    def judged(self, batch: Batch) -> tuple[pl.DataFrame, pl.Series | None]:
        """Return the rows, and which of them no window takes; None for none of them.

        `OPEN` is the watermark that a row met where a window of it had closed by then, else `NEVER`.
        Only rows behind stream time are looked at: most are not.
        """
        import polars as pl

        frame = batch.frame
        if not frame.height or self.ordered(batch):
            return frame.with_columns(pl.lit(NEVER, pl.Int64).alias(OPEN)), None
        times, before = frame[TIME].to_numpy(), frame[BEFORE].to_numpy()
        behind = np.flatnonzero(times < before)
        times, met = times[behind], marks_of(before[behind], self.late_delay)
        first, last = self._ends(times)
        closed, late = first <= met, last <= met
        marks = np.full(frame.height, NEVER, dtype=np.int64)
        marks[behind[closed]] = met[closed]
        frame = frame.with_columns(pl.Series(OPEN, marks))
        self.rows_partly_late += int((closed & ~late).sum()) if self.of_rows else 0
        if not late.any():
            return frame, None
        gone = frame[behind[late]]
        if self.of_rows:
            self.rows_late += gone[ORDER].n_unique()  # a join may have made several of one
        if self.on_late is not None:
            by_how_much = (met - last)[late] + self.counted_from_time
            mark = pl.col(OPEN).cast(pl.Datetime("us", "UTC")).alias("_watermark")
            told = pl.Series("late_by", by_how_much).cast(pl.Duration("us"))
            self.on_late(gone.with_columns(mark, told).drop(OPEN))
        mask = np.zeros(frame.height, dtype=np.bool_)
        mask[behind[late]] = True
        return frame, pl.Series(mask)

    def _when(self, end: int) -> str:
        if self.late_delay == FOREVER:
            return 'only when advance("end") ends the stream'
        mark = "the windows before it are done up to" if self.of_windows else "stream time reaches"
        return f"when {mark} {format_instant(end + self.late_delay)}"

    def _unsure(self, rows: pl.DataFrame) -> Batch:
        """Return rows of the step before that are not final as a batch, which rests on no place."""
        return Batch(rows, NEVER, (FOREVER,) * self.streams, FOREVER)

    # -- giving out --------------------------------------------------------------------------

    def give(self, frame: pl.DataFrame, stream_time: int, since: Since) -> Batch:
        """Return results as a batch, in their order, with hidden columns for what comes next."""
        frame = self.placed(frame)
        self.mark = watermark(stream_time, self.late_delay)
        self.given += frame.height
        return Batch(frame, self.mark, since)

    def placed(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return results with hidden columns for what comes next: none of them is late there."""
        import polars as pl

        places = np.arange(self.given, self.given + frame.height, dtype=np.int64)
        return frame.with_columns(
            pl.col("\0end_time").alias(TIME), pl.lit(self.mark, pl.Int64).alias(BEFORE),
            pl.Series(ORDER, places),
        ).drop("\0end_time")  # fmt: skip

    def _named(self, frame: pl.DataFrame, *, by_key: bool = False) -> pl.DataFrame:
        """Return merged groups with window columns in their places; `END` - 1 is their time.

        ``by_key`` says that they are in the order of keys, and one window of each ends at a time.
        """
        import polars as pl

        names = [name for name in self.how.names if name != GAP]
        columns: list[Any] = [*self.by, *window_columns(), *names]
        if self.tells:
            columns.append(self._partial())
        order = [] if by_key else [c for c in (END, START) if frame[c].n_unique() > 1]  # often one
        if by_key:
            frame = frame.sort(END, maintain_order=True)
        elif order or self.by:
            frame = frame.sort(*order, *self.by, nulls_last=False, maintain_order=True)
        return frame.select(*columns, (pl.col(END) - 1).alias("\0end_time"))

    @property
    def tells(self) -> bool:
        """Whether results say if they may lack rows: some are missing on the left, or inside."""
        return self.edge is not None or (not self.sql and GAP in self.how.names)

    def _partial(self) -> pl.Expr:
        import polars as pl

        inner = pl.col(GAP) if GAP in self.how.names else pl.lit(value=False)
        if self.edge is None:
            return inner.alias("_partial")
        if self.window.kind == "sliding":
            lacking = pl.col(TIME) - self.window.size < self.edge
        else:
            lacking = pl.col(START) <= self.edge + self._before
        return (lacking | inner).alias("_partial")

    @property
    def _before(self) -> int:
        """How long before a window a row may be that would have been part of it: of a session."""
        return self.window.size - 1 if self.window.kind == "session" else 0

    def _by_sql(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return what an SQL statement makes of the rows of windows, in order."""
        rows = rows.sort(ORDER, maintain_order=True)
        given = rows.select(
            *[c for c in self.columns if c not in self.by], *self.by, *window_columns()
        )
        result: pl.DataFrame = self.how.run(given)
        found = self.how.window_columns
        ends = self._ends_of(result, found)
        keys = [c for c in self.how.keys if c in result.columns and not _nested(result.schema[c])]
        order = ["\0end_time", *([found["window_start"]] if "window_start" in found else []), *keys]
        if self.edge is not None:
            start = found.get("window_start")
            begins = result[start].to_physical() if start else ends + 1 - self.window.longest
            lacking = begins <= self.edge + self._before
            result = result.with_columns(lacking.alias("_partial"))
        return result.with_columns(ends.alias("\0end_time")).sort(order, maintain_order=True)

    def _ends_of(self, result: pl.DataFrame, found: dict[str, str]) -> pl.Series:
        import polars as pl

        if "window_end" in found:
            return result[found["window_end"]].cast(pl.Int64) - 1
        if "window_time" in found:
            return result[found["window_time"]].cast(pl.Int64)
        starts = result[found["window_start"]].cast(pl.Int64).to_numpy()
        return pl.Series(self.window.last_end(starts) - 1)


def _nested(dtype: Any) -> bool:
    return bool(dtype.is_nested())


def marks_of(before: Times, delay: int) -> Times:
    """Return the watermark of each row from the stream time before it."""
    if delay == FOREVER:
        return np.where(before == FOREVER, FOREVER, NEVER)
    low = before < NEVER + delay
    return np.where(
        before == FOREVER, FOREVER, np.where(low, NEVER, before - np.where(low, 0, delay))
    )


def reduced(
    rows: pl.DataFrame | pl.LazyFrame, keys: Sequence[str], how: Aggregation,
    more: Sequence[pl.Expr] = (),
) -> pl.DataFrame:  # fmt: skip
    """Return the partial results of each group of rows; integer sums are wide, and cannot wrap.

    They are summed in 64 bits, with a float beside: where that does not fit, or wrapped, which is off by
    2^64, they are summed again.
    """
    import polars as pl

    grouped = rows.lazy().group_by(*keys)
    if not how.wide:
        return grouped.agg(*more, *how.partials).collect()
    near = [e.cast(pl.Float64).sum().alias(f"\0~{name}") for name, e in how.wide.items()]
    try:
        found = grouped.agg(*more, *how.partials, *near).collect()
        off = [found[f"\0~{name}"].to_numpy() - found[name].to_numpy() for name in how.wide]
        fits = not any((np.abs(gaps) > 2.0**62).any() for gaps in off)
    except pl.exceptions.InvalidOperationError:  # a value alone does not
        fits = False
    if not fits:
        exact = {name: e.cast(pl.Int128).sum().alias(name) for name, e in how.wide.items()}
        partials = [exact.get(e.meta.output_name(), e) for e in how.partials]
        found = grouped.agg(*more, *partials).collect()
    columns = [*keys, *(e.meta.output_name() for e in (*more, *how.partials))]
    wide = [pl.col(name).cast(pl.Int128) for name in how.wide]
    return found.select(*columns).with_columns(wide)


class ByTime(WindowOperator):
    """What sessions and sliding windows share: a row is late iff its time is below the watermark."""

    counted_from_time = 1

    def _ends(self, times: Times) -> tuple[Times, Times]:
        return times + 1, times + 1  # late iff time < W
