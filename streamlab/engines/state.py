"""The state of windows: panes and sessions.

What is kept is either the partial results of each key and pane, or, where an aggregation cannot be
split, the rows themselves; beyond a limit they go to files. Both are merged when a window closes,
and peeked at by merging them without letting go.

Invariants: a row is judged by its own watermark; what is kept belongs to open windows; results come
in the order (window_end, window_start, keys).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from streamlab.aggregate import Aggregation
from streamlab.clock import FOREVER, NEVER
from streamlab.duration import format_instant
from streamlab.engines.batch import BEFORE, ORDER, TIME, Batch, Operator, Since, least, watermark
from streamlab.engines.spill import Store
from streamlab.window import Window

if TYPE_CHECKING:
    import polars as pl

__all__ = ["GAP", "OPEN", "ByTime", "Panes", "Sessions", "WindowOperator", "window_columns"]

PANE = "\0pane"
OPEN = "\0open"
START = "\0start"
END = "\0end"
FIRST = "\0first"
LAST = "\0last"
SESSION = "\0session"
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

    # -- late rows ---------------------------------------------------------------------------

    def _ends(self, times: Times) -> tuple[Times, Times]:
        """Return for each time the watermarks from which on it is late for some, and for all."""
        return self.window.first_end(times), self.window.last_end(times)

    def on_time(self, batch: Batch) -> pl.DataFrame:
        """Return the rows that some window takes, with the watermark that each of them met."""
        import polars as pl

        frame = batch.frame
        ordered = batch.disorder <= self.late_delay or self.late_delay == FOREVER
        if not frame.height or (ordered and batch.stream_time != FOREVER):
            return frame.with_columns(pl.lit(NEVER, pl.Int64).alias(OPEN))
        times, before = frame[TIME].to_numpy(), frame[BEFORE].to_numpy()
        marks = marks_of(before, self.late_delay)
        first, last = self._ends(times)
        late = last <= marks
        partly = (first <= marks) & ~late
        self.rows_partly_late += int(partly.sum())
        frame = frame.with_columns(pl.Series(OPEN, marks))
        if not late.any():
            return frame
        mask = pl.Series(late)
        self.rows_late += (
            frame[ORDER].filter(mask).n_unique()
        )  # a join may have made several of one
        if self.on_late is not None:
            gone = frame.filter(mask)
            by_how_much = pl.Series("late_by", (marks - last)[late]).cast(pl.Duration("us"))
            mark = gone[OPEN].cast(pl.Datetime("us", "UTC")).alias("_watermark")
            self.on_late(gone.drop(OPEN).with_columns(mark, by_how_much))
        return frame.filter(~mask)

    def _when(self, end: int) -> str:
        if self.late_delay == FOREVER:
            return 'only when advance("end") ends the stream'
        return f"when stream time reaches {format_instant(end + self.late_delay)}"

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

    def _named(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return merged groups with window columns in their places; `END` - 1 is their time."""
        import polars as pl

        names = [name for name in self.how.names if name != GAP]
        columns: list[Any] = [*self.by, *window_columns(), *names]
        if self.edge is not None:
            columns.append(self._partial())
        order = [c for c in (END, START) if frame[c].n_unique() > 1]  # often one window closes
        if order or self.by:
            frame = frame.sort(*order, *self.by, nulls_last=False, maintain_order=True)
        return frame.select(*columns, (pl.col(END) - 1).alias("\0end_time"))

    def _partial(self) -> pl.Expr:
        import polars as pl

        assert self.edge is not None
        if self.window.kind == "sliding":
            lacking = pl.col(TIME) - self.window.size < self.edge
        else:
            reach = self.window.size if self.window.kind == "session" else 0
            lacking = pl.col(START) <= self.edge + reach - (reach > 0)
        inner = pl.col(GAP) if GAP in self.how.names else pl.lit(value=False)
        return (lacking | inner).alias("_partial")

    def _by_sql(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return what an SQL statement makes of the rows of windows, in order."""
        import polars as pl

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
            value = pl.col(start).to_physical() <= self.edge if start else pl.lit(value=False)
            result = result.with_columns(value.alias("_partial"))
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


class Panes(WindowOperator):
    """Tumbling, hopping and cumulative windows, by panes that overlapping windows share."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.single = self.window.kind == "tumbling"
        self.store = Store()
        self.panes: dict[int, Since] = {}
        self.next_end = FOREVER  # the first window to close
        self.last_ends: dict[int, int] = {}

    def push(self, port: int, batch: Batch) -> Batch:
        """Take rows; return the windows that close."""
        self._absorb(batch)
        mark = watermark(batch.stream_time, self.late_delay)
        since = batch.since
        frame = self._results(None)
        if mark >= self.next_end:
            frame = self._results(mark)
            since = self._let_go(mark) or since
        return self.give(frame, batch.stream_time, since)

    def _absorb(self, batch: Batch) -> None:
        frame = self.on_time(batch)
        if not frame.height:
            return
        kept = self._kept(frame)
        found = kept[PANE].unique().to_numpy()
        new = [p for p in found.tolist() if p not in self.panes]
        if new:
            self._note(np.array(sorted(new), dtype=np.int64), batch.since)
        self.store.add(kept)

    def _kept(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return what is held of rows: partial results per key and pane, or the rows."""
        import polars as pl

        pane: Any = self.window.pane_expr(pl.col(TIME))
        if pane is None:
            pane = pl.Series(self.window.panes(frame[TIME].to_numpy()), dtype=pl.Int64)
        if not self.incremental:
            return frame.select(*self.columns, ORDER, OPEN, pane.alias(PANE))
        return self._reduced(
            frame, pane, [*self.by, PANE] if self.single else [*self.by, PANE, OPEN]
        )

    def _reduced(self, frame: pl.DataFrame, pane: Any, keys: list[str]) -> pl.DataFrame:
        import polars as pl

        if not self.single and frame.height and frame[OPEN][0] != NEVER:
            # Only where a window had closed does it matter which watermark a row met.
            first = pl.Series(self.window.first_end(frame[TIME].to_numpy()))
            frame = frame.with_columns(
                pl.when(pl.col(OPEN) >= first).then(pl.col(OPEN)).otherwise(NEVER).alias(OPEN)
            )
        partials = self.how.partials
        if self.how.wide:
            partials = _safe(partials, self.how.wide, frame)
        grouped = frame.lazy().with_columns(pane.alias(PANE)).group_by(keys)
        reduced = grouped.agg(partials).collect()
        return reduced.with_columns([pl.col(p).cast(pl.Int128) for p in self.how.wide])

    def _note(self, panes: Times, since: Since) -> None:
        index, _, ends = self.window.windows(panes)
        for pane in panes.tolist():
            self.panes[pane] = since
        self.next_end = min(self.next_end, max(int(ends.min()), self.mark + 1))
        last = np.full(len(panes), NEVER, dtype=np.int64)
        np.maximum.at(last, index, ends)
        self.last_ends.update(zip(panes.tolist(), last.tolist(), strict=True))

    def _pairs(self, mark: int | None) -> pl.DataFrame:
        """Return (pane, start, end) of the windows that close up to a watermark; None: no window."""
        import polars as pl

        panes = (
            np.array(sorted(self.panes), dtype=np.int64)
            if mark is not None
            else np.empty(0, np.int64)
        )
        if mark is None or not len(panes):
            empty = {PANE: pl.Int64, START: pl.Int64, END: pl.Int64}
            return pl.DataFrame(schema=empty)
        index, starts, ends = self.window.windows(panes)
        chosen = (ends > self.mark) & (ends <= mark)
        return pl.DataFrame({PANE: panes[index[chosen]], START: starts[chosen], END: ends[chosen]})

    def _results(self, mark: int | None) -> pl.DataFrame:
        """Return the windows that end after the last watermark and at or before this one."""
        import polars as pl

        pairs = self._pairs(mark)
        rows = self.store.gather(self.template, pairs[PANE].unique(), PANE)
        rows = rows.join(pairs, on=PANE, how="inner", maintain_order="left")
        rows = rows.filter(pl.col(END) > pl.col(OPEN)) if OPEN in rows.columns else rows
        if self.sql:
            return self._by_sql(rows)
        grouped = rows.group_by(*self.by, START, END)
        if self.incremental:
            return self._named(self.how.finished(grouped.agg(self.how.merges)))
        ordered = rows.sort(ORDER, maintain_order=True)
        grouped = ordered.group_by(*self.by, START, END, maintain_order=True)
        return self._named(self.how.cast(grouped.agg(self.how.whole)))

    def prepare(self, empty: pl.DataFrame) -> None:
        """Learn the columns that will come."""
        self.template = self._kept(self.on_time(Batch(empty, NEVER, ())))

    def _let_go(self, mark: int) -> Since | None:
        """Forget panes all of whose windows have closed; return what those rested on."""
        closed = least(*self.panes.values())
        gone = [pane for pane, end in self.last_ends.items() if end <= mark]
        for pane in gone:
            del self.panes[pane], self.last_ends[pane]
        self.store.drop(self.panes, PANE)
        self.next_end = FOREVER
        if self.panes:
            _, _, ends = self.window.windows(np.array(sorted(self.panes), dtype=np.int64))
            open_ends = ends[ends > mark]
            self.next_end = int(open_ends.min()) if len(open_ends) else FOREVER
        return closed

    def compact(self) -> None:
        """Merge the partials of each group into one, if there are many."""
        if self.incremental and self.store.crowded:
            keys = [*self.by, PANE] if self.single else [*self.by, PANE, OPEN]
            merges = self.how.merges
            self.store.merge(lambda f: f.group_by(keys).agg(merges))

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the open windows, with the rows that the step before would give."""
        other = copy.copy(self)
        other.store, other.panes = self.store.copy(), dict(self.panes)
        other.last_ends, other.on_late = dict(self.last_ends), None
        if rows and rows[0].height:
            width = len(next(iter(self.panes.values()), ()))
            other._absorb(Batch(rows[0], NEVER, (FOREVER,) * width, FOREVER))
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


def _safe(partials: list[pl.Expr], wide: dict[str, pl.Expr], frame: pl.DataFrame) -> list[pl.Expr]:
    """Return partials whose integer sums cannot wrap for these rows."""
    import polars as pl

    checks = []
    for name, operand in wide.items():
        checks += [
            operand.min().cast(pl.Float64).alias(f"{name}<"),
            operand.max().cast(pl.Float64).alias(f"{name}>"),
        ]
    bounds = frame.select(checks).row(0, named=True)
    risky = {
        name for name in wide
        if max(abs(bounds[f"{name}<"] or 0), abs(bounds[f"{name}>"] or 0)) * frame.height > 2.0**62
    }  # fmt: skip
    return [
        wide[e.meta.output_name()].cast(pl.Int128).sum().alias(e.meta.output_name())
        if e.meta.output_name() in risky else e
        for e in partials
    ]  # fmt: skip


class ByTime(WindowOperator):
    """What sessions and sliding windows share: a row is late iff its time is below the watermark."""

    def _ends(self, times: Times) -> tuple[Times, Times]:
        return times + 1, times + 1  # late iff time < W

    def on_time(self, batch: Batch) -> pl.DataFrame:
        """Return the rows whose time is not below their watermark."""
        import polars as pl

        outer = self.on_late
        if outer is not None:  # late_by is W - time here
            self.on_late = lambda f: outer(
                f.with_columns(pl.col("late_by") + pl.duration(microseconds=1))
            )
        try:
            return super().on_time(batch)
        finally:
            self.on_late = outer


class Sessions(ByTime):
    """Sessions: the rows of a key that follow each other within a gap."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.open: pl.DataFrame | None = None  # by, FIRST, LAST, since..., partials
        self.rows = Store()  # where aggregates need them

    def prepare(self, empty: pl.DataFrame) -> None:
        """Learn the columns that will come."""
        self.template = empty.select(*self.columns, ORDER, TIME)
        self.nothing = self._nothing()

    def push(self, port: int, batch: Batch) -> Batch:
        """Take rows; return the sessions that close."""
        self._absorb(batch)
        frame, since = self._close(watermark(batch.stream_time, self.late_delay), batch.since)
        return self.give(frame, batch.stream_time, since)

    def _absorb(self, batch: Batch) -> None:
        import polars as pl

        rows = self.on_time(batch)
        if not rows.height:
            return
        frame = rows.sort(*self.by, TIME, maintain_order=True)
        far = (pl.col(TIME).diff() >= self.window.size).fill_null(value=True)
        changed = [pl.col(key).ne_missing(pl.col(key).shift()) for key in self.by]
        begins = pl.any_horizontal(far, *changed)
        frame = frame.with_columns(begins.cast(pl.Int64).cum_sum().alias(SESSION))
        bounds = [pl.col(TIME).min().alias(FIRST), pl.col(TIME).max().alias(LAST)]
        partials: list[pl.Expr] = []
        if self.incremental:
            partials = self.how.partials
            if self.how.wide:
                partials = _safe(partials, self.how.wide, frame)
        else:
            self.rows.add(rows.select(*self.columns, ORDER, TIME))
        found = frame.group_by(*self.by, SESSION, maintain_order=True).agg(bounds + partials)
        found = found.drop(SESSION).with_columns(
            [pl.col(p).cast(pl.Int128) for p in (self.how.wide if self.incremental else ())]
            + [
                pl.lit(offset, pl.Int64).alias(f"\0since{i}")
                for i, offset in enumerate(batch.since)
            ]
        )
        self.open = found if self.open is None else self._joined(self.open, found)

    def _joined(self, old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
        """Return the sessions of both, those that touch made one; only keys that are new are looked at."""
        import polars as pl

        rest = old.clear()
        if self.by and new.height * 4 < old.height:
            keys = new.select(self.by).unique().with_columns(pl.lit(0, pl.Int8).alias("\0same"))
            same = old.with_columns(pl.lit(0, pl.Int8).alias("\0same")).with_row_index("\0n")
            on = [*self.by, "\0same"]
            touched = same.join(keys, on=on, how="semi", nulls_equal=True)["\0n"]
            mask = np.zeros(old.height, dtype=np.bool_)
            mask[touched.to_numpy()] = True
            rest, old = old.filter(~pl.Series(mask)), old.filter(pl.Series(mask))
        side = pl.lit(0, pl.Int8).alias("\0side")
        both = pl.concat([old.with_columns(side), new.select(old.columns).with_columns(side + 1)])
        both = both.sort(*self.by, FIRST, maintain_order=True)
        both = self._touching(both)
        alone = pl.col("\0begins") & pl.col("\0begins").shift(-1, fill_value=True)
        merges = [pl.col(key).first() for key in self.by]
        merges += [pl.col(FIRST).min(), pl.col(LAST).max()]
        merges += [pl.col(c).min() for c in old.columns if c.startswith("\0since")]
        if self.incremental:
            merges += self.how.merges
        number = pl.col("\0begins").cum_sum().alias(SESSION)
        several = both.with_columns(number).filter(~alone)
        merged = several.group_by(SESSION, maintain_order=True).agg(merges)
        parts = [rest, both.filter(alone), merged]
        return pl.concat([part.select(old.columns) for part in parts])

    def _touching(self, both: pl.DataFrame) -> pl.DataFrame:
        """Mark where sessions begin, in rows sorted by key and first time.

        Sessions of one side lie apart and in order, so the last of each side before a row reaches
        furthest.
        """
        import polars as pl

        changed = [pl.col(key).ne_missing(pl.col(key).shift()) for key in self.by]
        group = pl.any_horizontal(*changed, pl.int_range(pl.len()) == 0).cum_sum()
        both = both.with_columns(group.alias("\0g"))
        reaches = []
        for number in (0, 1):
            mine = pl.when(pl.col("\0side") == number)
            last, its = (mine.then(pl.col(c)).forward_fill().shift() for c in (LAST, "\0g"))
            reaches.append(pl.when(its == pl.col("\0g")).then(last))
        far = pl.col(FIRST) - pl.max_horizontal(reaches) >= self.window.size
        return both.with_columns(far.fill_null(value=True).alias("\0begins"))

    def _close(self, mark: int, since: Since) -> tuple[pl.DataFrame, Since]:
        """Return the sessions that end at or before a watermark, and let go of them."""
        import polars as pl

        if self.open is None or not self.open.height:
            return self._merged(None), since
        if mark == FOREVER:
            closed, self.open = self.open, self.open.clear()
        else:
            over = pl.col(LAST) + self.window.size <= mark
            closed, self.open = self.open.filter(over), self.open.filter(~over)
        if closed.height:
            since = _since_of(closed) or since
        return self._merged(closed), since

    def _merged(self, closed: pl.DataFrame | None) -> pl.DataFrame:
        import polars as pl

        bounds = [pl.col(FIRST).alias(START), (pl.col(LAST) + self.window.size).alias(END)]
        if closed is None or not closed.height:
            return self.nothing
        if self.incremental:
            wanted = closed.select(*self.by, *bounds, pl.selectors.starts_with("\0p"))
            return self._named(self.how.finished(wanted))
        rows = self._taken(closed.select(*self.by, *bounds))
        if self.sql:
            return self._by_sql(rows)
        grouped = rows.sort(ORDER).group_by(*self.by, START, END, maintain_order=True)
        return self._named(self.how.cast(grouped.agg(self.how.whole)))

    def _nothing(self) -> pl.DataFrame:
        """Return the result of no sessions at all, which has its columns."""
        import polars as pl

        empty = self.template.clear().with_columns(
            pl.lit(0, pl.Int64).alias(START), pl.lit(0, pl.Int64).alias(END)
        )
        if self.sql:
            return self._by_sql(empty)
        grouped = empty.group_by(*self.by, START, END)
        return self._named(self.how.cast(grouped.agg(self.how.whole)))

    def _taken(self, closed: pl.DataFrame) -> pl.DataFrame:
        """Take the rows of closed sessions out of what is held."""
        import polars as pl

        rows = self.rows.gather(self.template.clear(), None, TIME)
        marks = closed.with_columns(pl.col(START).alias(TIME), pl.lit(0).alias("\0row"))
        both = pl.concat([marks, rows.with_columns(pl.lit(1).alias("\0row"))], how="diagonal")
        both = both.sort(TIME, "\0row", maintain_order=True)
        filled = [pl.col(c).forward_fill() for c in (START, END)]
        both = both.with_columns([f.over(self.by) for f in filled] if self.by else filled)
        both = both.filter(pl.col("\0row") == 1).drop("\0row")
        inside = (pl.col(END).is_not_null()) & (pl.col(TIME) < pl.col(END))
        self.rows.replace(both.filter(~inside).select(rows.columns).sort(ORDER))
        return both.filter(inside)

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the open sessions, with the rows that the step before would give."""
        other = copy.copy(self)
        other.rows, other.on_late = self.rows.copy(), None
        if rows and rows[0].height:
            width = (
                0 if self.open is None else sum(c.startswith("\0since") for c in self.open.columns)
            )
            other._absorb(Batch(rows[0], NEVER, (FOREVER,) * max(width, 1), FOREVER))
        return self.placed(other._close(FOREVER, ())[0])

    def since(self) -> Since | None:
        """Return the earliest offsets that an open session rests on."""
        return None if self.open is None or not self.open.height else _since_of(self.open)

    def report(self) -> list[str]:
        """Return what is open and what closes next."""
        import polars as pl

        if self.open is None or not self.open.height:
            return ["0 sessions open"]
        end = int(self.open.select(pl.col(LAST).min()).item()) + self.window.size
        return [
            f"{self.open.height:,} sessions open"
            + ("" if self.incremental else f", {self.rows.height:,} rows held{self.rows.where}"),
            f"the next one ends {format_instant(end)} if nothing comes, and closes {self._when(end)}",
        ]  # fmt: skip


def _since_of(frame: pl.DataFrame) -> Since | None:
    import polars as pl

    found = frame.select(pl.selectors.starts_with("\0since").min()).row(0)
    return tuple(FOREVER if value is None else int(value) for value in found)
