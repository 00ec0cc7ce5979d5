"""How late rows are: what a delay would keep, and what each row would need.

Whether a row is late goes by its place alone, and it is late from some delay downwards: what stream
time had gone, when the row came, beyond the end of its last window. So one run without any delay says
for each row how much it needs, and that answers for all delays.

Invariants: only the first windows that rows meet can find one late; every row is told once, in
order, with the stream time that was there after it, whether rows or heartbeats had moved it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from streamlab import plan as p
from streamlab.engines.batch import BEFORE, ORDER, TIME
from streamlab.engines.local import Runner
from streamlab.engines.state import WindowOperator

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Arrivals", "delayed", "first_windows", "walk"]

STEP_ROWS = 1 << 17
"""How many rows are taken at a time: a look may end after each."""


def walk(node: p.Node) -> Iterator[p.Node]:
    """Yield the steps of a plan, the last one first."""
    yield node
    for other in p.inputs_of(node):
        yield from walk(other)


def first_windows(node: p.Node) -> p.Aggregate | p.WindowSqlStep | None:
    """Return the step that divides rows into windows first; None if none does."""
    found = [n for n in walk(node) if isinstance(n, p.Aggregate | p.WindowSqlStep)]
    return found[-1] if found else None


def delayed(node: p.Node, delay: int) -> p.Node:
    """Return a plan whose first windows have this delay."""
    inputs = p.inputs_of(node)
    inner = any(first_windows(other) is not None for other in inputs)
    if isinstance(node, p.Aggregate | p.WindowSqlStep) and not inner:
        return replace(node, delay=delay)
    if not inputs or not inner:
        return node
    assert not isinstance(node, p.Source | p.AsofJoin | p.IntervalJoin)
    return replace(node, input=delayed(inputs[0], delay))


class Arrivals:
    """The rows of a stream as they come, each with the stream time then, and the delay it needs.

    ``rows`` is a plan of them with their append times; ``judged`` one that has windows without
    delay. It is polled like results. After an error it is over: rows may have been taken and lost.
    """

    def __init__(self, rows: p.Node, judged: p.Node) -> None:
        self._rows, self._judged = Runner(rows, raw=True), Runner(judged, raw=True)
        self._late: list[pl.DataFrame] = []
        self._error: Exception | None = None
        first = next(o for o in self._judged.operators if isinstance(o, WindowOperator))
        first.on_late = self._note
        self._from_time = first.counted_from_time

    def _note(self, gone: pl.DataFrame) -> None:
        import polars as pl

        needed = pl.col("late_by").cast(pl.Int64) - self._from_time
        told = gone.select(pl.col(ORDER).alias("offset"), needed.alias("needed"))
        self._late.append(told.unique("offset"))  # a join may have made several of one

    def poll(self, seconds: float) -> pl.DataFrame:
        """Return the rows that have come, without waiting; of a long history so many seconds of it.

        Columns: ``offset``; ``time``, ``appended``, ``stream_time`` in microseconds since 1970 UTC;
        ``needed``, the longest delay for which the row is late, -1 if there is none.
        """
        if self._error is not None:
            raise self._error
        try:
            return self._poll(time.monotonic() + seconds)
        except Exception as error:
            self._error = error
            raise

    def _poll(self, until: float) -> pl.DataFrame:
        import polars as pl

        self._rows.look()
        frames = [self._rows.empty]
        while (frame := self._rows.step(STEP_ROWS)) is not None:
            frames.append(frame)
            if time.monotonic() >= until:
                break
        (reached,) = self._rows.positions
        self._judged.look()
        while self._judged.positions[0] < reached and self._judged.step(STEP_ROWS) is not None:
            pass
        rows = pl.concat(frames).select(
            pl.col(ORDER).alias("offset"), pl.col(TIME).alias("time"),
            pl.col("_append_time").dt.epoch("us").alias("appended"),
            pl.max_horizontal(BEFORE, TIME).alias("stream_time"),
        )  # fmt: skip
        empty = pl.DataFrame(schema={"offset": pl.Int64, "needed": pl.Int64})
        late = pl.concat([empty, *self._late])
        self._late = [late.filter(pl.col("offset") >= reached)]  # judged, and not yet told
        found = rows.join(late, on="offset", how="left", maintain_order="left")
        return found.with_columns(pl.col("needed").fill_null(-1))

    def stop(self) -> None:
        """There is nothing to stop."""

    @property
    def behind(self) -> int:
        """How many rows there are that were not told, as of the last poll."""
        return sum(source.lag for source in self._rows.sources)

    @property
    def rows_in(self) -> int:
        """How many rows were told."""
        return self._rows.rows_in

    @property
    def rows_late(self) -> int:
        """How many of them would be late without any delay."""
        return self._judged.rows_late

    @property
    def watermark(self) -> int | None:
        """Rows have none: it depends on the delay."""
        return None
