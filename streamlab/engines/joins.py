"""Joins of streams: as of a time, within an interval, with a frame, with a table as it was.

Invariants: which rows are joined depends on the places of both, not on which side was read first;
what is kept of a side is what a row of the other side can still need.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from streamlab.clock import FOREVER, NEVER
from streamlab.duration import format_instant
from streamlab.engines.batch import (
    APPENDED,
    BEFORE,
    HIDDEN,
    ORDER,
    TIME,
    Batch,
    Operator,
    Since,
    least,
    watermark,
)
from streamlab.engines.held import Held, rows_of, span
from streamlab.engines.state import marks_of

if TYPE_CHECKING:
    import polars as pl

__all__ = ["AsofJoiner", "FrameJoiner", "IntervalJoiner", "TableJoiner"]


BUCKET = "\0bucket"

MANY_CHANGES = 100_000
"""So many rows of a table are held without looking which of them can go."""

KEPT_ROWS = 10_000
"""So many right rows are held without looking which of them can go."""


def later(time: int, delay: int) -> int:
    """Return the stream time whose watermark, after a delay, is ``time``; with an endless one, no later."""
    return time if time in (NEVER, FOREVER) or delay == FOREVER else time + delay


def joined(
    left: pl.DataFrame, right: pl.DataFrame, on: list[str], how: Any = "inner"
) -> pl.DataFrame:
    """Return a join in the order of both sides, in which NaN is NaN.

    Polars takes NaN for NaN unless a float is the only key and both sides have one row; a second
    key, which is always the same, keeps it out of that case.
    """
    import polars as pl

    same = pl.lit(0, pl.Int8).alias("\0same")
    both = left.with_columns(same).join(
        right.with_columns(same), on=[*on, "\0same"], how=how, maintain_order="left_right"
    )
    return both.drop("\0same")


class _Side:
    """What is held of one side of a join, and where its watermark is."""

    def __init__(self, name: str, delay: int, time: str = TIME) -> None:
        self.name = name
        self.delay = delay
        self.mark = NEVER
        self.held = Held(time)


class _Joiner(Operator):
    """What the joins of two streams share."""

    def __init__(
        self, delays: tuple[int, int], names: tuple[str, str], right_time: str = TIME
    ) -> None:
        self.sides = (_Side(names[0], delays[0]), _Side(names[1], delays[1], right_time))

    def _drop_late(self, frame: pl.DataFrame, side: _Side) -> pl.DataFrame:
        """Return the rows whose time is not below their own side's watermark."""
        import polars as pl

        marks = marks_of(frame[BEFORE].to_numpy(), side.delay)
        times = frame[TIME].to_numpy()
        late = times < marks
        count = int(late.sum())
        if not count:
            return frame
        self.rows_late += count
        if self.on_late is not None:
            gap = pl.Series("late_by", (marks - times)[late]).cast(pl.Duration("us"))
            mark = pl.Series("_watermark", marks[late]).cast(pl.Datetime("us", "UTC"))
            place = pl.col(ORDER) + (2**62 if side is self.sides[1] else 0)  # left ones first
            self.on_late(frame.filter(pl.Series(late)).with_columns(mark, gap, place))
        return frame.filter(pl.Series(~late))

    given_delay = 0  # how far out of order the results may come

    @property
    def stream_time(self) -> int:
        """The stream time of what is given out: its watermark is the smaller of both sides'."""
        return later(min(side.mark for side in self.sides), self.given_delay)

    def since(self) -> Since | None:
        """Return the earliest offsets that the held rows rest on."""
        return least(*(side.held.since() for side in self.sides))

    def _out(self, frame: pl.DataFrame, batch: Batch) -> Batch:
        since = least(batch.since, self.since())
        assert since is not None
        return Batch(frame, self.stream_time, since, FOREVER)


def _stands(side: _Side) -> str:
    if side.mark == FOREVER:
        return "which has ended"
    if side.mark == NEVER:
        return (
            "which has no watermark before its end"
            if side.delay == FOREVER
            else "which has no rows yet"
        )
    return f"whose watermark is {format_instant(side.mark)}"


class AsofJoiner(_Joiner):
    """Each left row with the latest right row at or before it, once the right side is past it."""

    def __init__(
        self, delays: tuple[int, int], names: tuple[str, str], by: tuple[str, ...],
        tolerance: int | None, columns: dict[str, str],
        history: Callable[[], pl.DataFrame],
    ) -> None:  # fmt: skip
        super().__init__(delays, names)
        self.given_delay = delays[0]  # a row is judged by the watermark of its own side
        self.left_time = NEVER
        self.by = list(by)
        self.tolerance = tolerance
        self.columns = columns  # of the right side: name there, name in the result
        self.history = history  # all rows of the right side so far
        self.pruned = NEVER  # of the right rows up to it, the latest of each key are kept
        self.latest: pl.DataFrame | None = None

    def prepare(self, left: pl.DataFrame, right: pl.DataFrame) -> None:
        """Learn the columns that will come."""
        self.right_empty = self._right(right)
        self.empty = self._matched(left, self.right_empty)

    @property
    def stream_time(self) -> int:
        """The stream time whose watermark, after the delay of what follows, is the smaller of both sides'."""
        left = watermark(self.left_time, self.given_delay)
        return later(min(left, self.sides[1].mark), self.given_delay)

    def _right(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        columns = [pl.col(old).alias(new) for old, new in self.columns.items()]
        return frame.select(*self.by, TIME, ORDER, *columns)

    def push(self, port: int, batch: Batch) -> Batch:
        """Take rows of one side; return the left rows that are decided."""
        import polars as pl

        side = self.sides[port]
        frame = batch.frame
        if port:
            frame = self._right(self._drop_late(frame, side))
        side.held.add(frame, batch.since)
        side.mark = watermark(batch.stream_time, side.delay)
        if not port:
            self.left_time = batch.stream_time
        left, right = self.sides
        out = self._out(self.empty, batch)  # what it rests on was there before it is let go
        ready = left.held.take(right.mark)
        if ready:
            out = out.of(self._decided(pl.concat(ready)))
        self._prune()
        return out

    def _decided(self, ready: pl.DataFrame) -> pl.DataFrame:
        """Return left rows with the right rows that they get, read again if some are gone."""
        first, last = span(ready[TIME])
        if first < self.pruned:
            return self._matched(ready, self._right(self.history()))
        return self._matched(ready, self._known(last + 1))

    def _known(self, below: int = FOREVER) -> pl.DataFrame:
        """Return the right rows that are held, up to a time."""
        import polars as pl

        latest = self.right_empty if self.latest is None else self.latest
        return pl.concat([latest, *self.sides[1].held.between(NEVER, below)])

    def _matched(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        later, same = pl.col(TIME).diff() > 0, pl.col(TIME).diff() == 0
        if not right.select((later | (same & (pl.col(ORDER).diff() >= 0))).all()).item():
            right = right.sort(TIME, ORDER)
        ordered = left[TIME].is_sorted()
        if not ordered:
            left = left.with_columns(pl.int_range(pl.len()).alias("\0n"))
            left = left.sort(TIME, maintain_order=True)
        both = left.join_asof(
            right.drop(ORDER), on=TIME, by=self.by or None, tolerance=self.tolerance,
            check_sortedness=False,
        )  # fmt: skip
        return both if ordered else both.sort("\0n").drop("\0n")

    def _prune(self) -> None:
        """Let go of right rows that only a left row from before the watermarks could need."""
        left, right = self.sides
        if right.held.height < KEPT_ROWS:
            return
        edge = min(left.mark, right.mark, left.held.least_time)
        low, high = right.held.least_time, right.held.greatest_time
        if edge in (NEVER, FOREVER) or edge < low + (high - low) // 2:
            return  # each row is looked at again only when about half of them can go
        old = self._known(edge + 1).sort(TIME, ORDER)
        last = old.group_by(self.by, maintain_order=True).last() if self.by else old.tail(1)
        self.latest = last.select(old.columns).sort(TIME, ORDER)
        right.held.let_go(edge + 1)
        self.pruned = edge

    def appended(self) -> int:
        """Return the earliest append time of the left rows that wait, FOREVER if there is none."""
        frames = [frame[APPENDED] for frame in self.sides[0].held.all() if frame.height]
        return min((span(times)[0] for times in frames), default=FOREVER)

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the left rows that wait, with what they would get now."""
        import polars as pl

        lefts = [f for f in (*self.sides[0].held.all(), rows[0]) if f.height]
        if not lefts:
            return self.empty
        known = pl.concat([self._known(), self._right(rows[1])])
        return self._matched(pl.concat(lefts).sort(ORDER), known)

    def since(self) -> Since | None:
        """Return the earliest offsets that the held rows rest on."""
        left, right = self.sides
        kept = [] if self.latest is None else [span(self.latest[ORDER])[0]]
        return least(left.held.since(), right.held.since(*kept))

    def report(self) -> list[str]:
        """Return how many rows wait, and for whom."""
        left, right = self.sides
        waiting, held = left.held.count(), right.held.count()
        held += 0 if self.latest is None else self.latest.height
        lines = [
            f"{rows_of(waiting, left.name)} wait{'s' * (waiting == 1)}{left.held.where}, "
            f"{rows_of(held, right.name)} held{right.held.where}"
        ]
        if waiting:
            lines.append(f"{left.name} waits for {right.name}, {_stands(right)}")
        return lines


class IntervalJoiner(_Joiner):
    """Pairs of rows of both sides whose times lie within bounds."""

    def __init__(
        self, delays: tuple[int, int], names: tuple[str, str], on: tuple[str, ...],
        low: int, high: int, columns: dict[str, str],
    ) -> None:  # fmt: skip
        super().__init__(delays, names, f"{TIME}r")
        self.on = list(on)
        self.low, self.high = low, high
        self.columns = columns
        # A pair's time is at most so far ahead of either side's stream time.
        reach = (later(delays[0], max(high, 0)), later(delays[1], max(-low, 0)))
        self.given_delay = max(reach)

    def prepare(self, left: pl.DataFrame, right: pl.DataFrame) -> None:
        """Learn the columns that will come."""
        self.left_empty, self.right_empty = left, self._right(right)
        self.empty = self._pairs(left, self.right_empty)

    def _right(self, frame: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        columns = [pl.col(old).alias(new) for old, new in self.columns.items()]
        hidden = [pl.col(name).alias(f"{name}r") for name in (TIME, BEFORE)]
        return frame.select(*self.on, *columns, *hidden, ORDER)

    def push(self, port: int, batch: Batch) -> Batch:
        """Take rows of one side; return the pairs that they make."""
        left, right = self.sides
        side = self.sides[port]
        frame = self._drop_late(batch.frame, side)
        if port:
            frame = self._right(frame)
        out = self._met(port, frame)
        side.held.add(frame, batch.since)
        side.mark = watermark(batch.stream_time, side.delay)
        done = self._out(out, batch)
        if right.mark not in (NEVER, FOREVER):
            left.held.let_go(right.mark - self.high)
        if left.mark not in (NEVER, FOREVER):
            right.held.let_go(left.mark + self.low)
        return done

    def _met(self, port: int, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the pairs of rows of one side with those that are held of the other."""
        import polars as pl

        if not frame.height:
            return self.empty
        first, last = span(frame[f"{TIME}r" if port else TIME])
        low, high = (-self.high, -self.low) if port else (self.low, self.high)
        near = self.sides[1 - port].held.between(first + low, last + high + 1)
        pairs = [self._pairs(other, frame) if port else self._pairs(frame, other) for other in near]
        if len(pairs) == 1:
            return pairs[0]
        return pl.concat([self.empty, *pairs]).sort(ORDER)

    def _pairs(self, left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        # Rows meet in buckets of time as long as the interval, of which it reaches into two: joined
        # by the key alone, each row of a key would meet every other one.
        span = max(self.high - self.low, 1_000_000)
        other = right.rename({ORDER: f"{ORDER}r"}).with_columns(
            (pl.col(f"{TIME}r") // span).alias(BUCKET)
        )
        first = (pl.col(TIME) + self.low) // span
        near = [left.with_columns((first + step).alias(BUCKET)) for step in (0, 1)]
        both = joined(pl.concat(near), other, [*self.on, BUCKET]).drop(BUCKET)
        gap = pl.col(f"{TIME}r") - pl.col(TIME)
        both = both.filter((gap >= self.low) & (gap <= self.high)).sort(ORDER, f"{ORDER}r")
        time = pl.max_horizontal(TIME, f"{TIME}r")
        # Late for what follows only if both rows of the pair are: then it is, in any order.
        marks = [
            pl.Series(marks_of(both[name].to_numpy(), side.delay), dtype=pl.Int64)
            for name, side in zip((BEFORE, f"{BEFORE}r"), self.sides, strict=True)
        ]
        place = pl.col(ORDER).cast(pl.Int128) * 2**62 + pl.col(f"{ORDER}r").cast(pl.Int128)
        met = np.maximum(marks[0].to_numpy(), marks[1].to_numpy())
        fixed = (met == NEVER) | (met == FOREVER) | (self.given_delay == FOREVER)
        before = pl.Series(
            np.where(fixed, met, met + np.where(fixed, 0, self.given_delay)), dtype=pl.Int64
        )
        both = both.with_columns(
            time.cast(pl.Datetime("us", "UTC")).alias("pair_time"), before.alias(BEFORE),
            time.alias(TIME), place.alias(ORDER),
        )  # fmt: skip
        return both.drop(f"{TIME}r", f"{BEFORE}r", f"{ORDER}r")

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return nothing: a pair is final at once."""
        return self.empty

    def report(self) -> list[str]:
        """Return how many rows are held."""
        left, right = self.sides
        held = [side.held.count() for side in self.sides]
        slow = min(self.sides, key=lambda side: side.mark)
        return [
            f"{rows_of(held[0], left.name)}{left.held.where} and {held[1]:,} of "
            f"{right.name}{right.held.where} held for a match",
            f"{slow.name}, {_stands(slow)}, holds back the watermark of the pairs",
        ]


class FrameJoiner(Operator):
    """Rows with those of a frame."""

    def __init__(self, frame: pl.DataFrame, on: tuple[str, ...], how: str) -> None:
        self.frame, self.on, self.how = frame, list(on), how

    def push(self, port: int, batch: Batch) -> Batch:
        """Return the rows with what the frame has for them."""
        return batch.of(self.peek(batch.frame))

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows that are not final with what the frame has for them."""
        return joined(rows[0], self.frame, self.on, self.how)


class TableJoiner(Operator):
    """Rows with a stream's table as it was when each of them was appended.

    ``read(start, append_time)`` gives the table stream's rows from an offset on, up to an append
    time, with ``_append_time``, ``_offset`` and, if there are deletions, ``_deleted``. ``waiting()``
    is the earliest append time of rows that are still to come out of order.
    """

    def __init__(
        self, on: tuple[str, ...], how: str, columns: dict[str, str],
        read: Callable[[int, int], tuple[pl.DataFrame, int]], waiting: Callable[[], int],
    ) -> None:  # fmt: skip
        self.on, self.how, self.columns, self.read = list(on), how, columns, read
        self.waiting = waiting
        self.kept = 0  # how many rows of the table were needed when that was looked at
        self.known: pl.DataFrame | None = None
        self.position = 0

    def push(self, port: int, batch: Batch) -> Batch:
        """Return the rows with what the table had for them."""
        return batch.of(self.peek(batch.frame))

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows with what the table had for them."""
        import polars as pl

        left = rows[0]
        last = int(left[APPENDED].max()) if left.height else NEVER  # type: ignore[arg-type]
        found, self.position = self.read(self.position, last)
        fresh = self._shaped(found)
        self.known = fresh if self.known is None else pl.concat([self.known, fresh])
        joined = left.join_asof(self.known, on=APPENDED, by=self.on, check_sortedness=False)
        there = pl.col("\0there").fill_null(value=False)
        if self.how == "inner":
            result = joined.filter(there)
        else:
            new = [pl.when(there).then(pl.col(name)).alias(name) for name in self.columns.values()]
            result = joined.with_columns(new)
        if self.known.height > 2 * self.kept + MANY_CHANGES and left.height:
            self._prune(min(last, self.waiting()))
        return result.drop("\0there")

    def _prune(self, edge: int) -> None:
        """Keep only the latest row of each key of those appended up to a time."""
        import polars as pl

        assert self.known is not None
        old = pl.col(APPENDED) <= edge
        latest = self.known.filter(old).group_by(self.on, maintain_order=True).last()
        kept = pl.concat([latest.select(self.known.columns), self.known.filter(~old)])
        self.known = kept.sort(APPENDED, maintain_order=True)
        self.kept = self.known.height

    def _shaped(self, found: pl.DataFrame) -> pl.DataFrame:
        import polars as pl

        there = ~pl.col("_deleted") if "_deleted" in found.columns else pl.lit(value=True)
        columns = [pl.col(old).alias(new) for old, new in self.columns.items()]
        appended = pl.col("_append_time").cast(pl.Int64).alias(APPENDED)
        return found.select(*self.on, *columns, appended, there.alias("\0there"))

    def report(self) -> list[str]:
        """Return how many rows of the table are held."""
        return [f"{0 if self.known is None else self.known.height:,} rows of the table held"]


assert {TIME, BEFORE, ORDER, APPENDED} == set(HIDDEN)
