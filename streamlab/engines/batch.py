"""What flows between operators: rows with the place that each of them has in time.

A row carries three hidden columns: its event time, the stream time *before* it (from which its
watermark follows, so that whether it is late depends on its place alone), and its order. A batch
adds the stream time after it, also where it has no rows, and the earliest offset of each source
that its rows rest on. Many rows of a sealed file come as a LazyFrame: what the first steps make of
them, Polars reads and computes in one go.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamlab.aggregate import ORDER
from streamlab.clock import FOREVER, NEVER

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "APPENDED",
    "BEFORE",
    "HIDDEN",
    "ORDER",
    "TIME",
    "Batch",
    "Operator",
    "Since",
    "least",
    "watermark",
]

TIME = "\0time"
BEFORE = "\0before"
APPENDED = "\0appended"
HIDDEN = (TIME, BEFORE, ORDER, APPENDED)

Since = tuple[int, ...]
"""For each source of a plan the earliest offset that something rests on; FOREVER for none."""


@dataclass(frozen=True)
class Batch:
    """Rows in order, and the stream time after them.

    ``disorder`` is at least as much as any row's time lies behind the stream time before it.
    """

    rows: pl.DataFrame | pl.LazyFrame
    stream_time: int
    since: Since
    disorder: int = 0

    @functools.cached_property
    def frame(self) -> pl.DataFrame:
        """The rows, read and computed if they were not yet."""
        return self.rows.lazy().collect() if self.lazy else self.rows  # type: ignore[return-value]

    @property
    def lazy(self) -> bool:
        """Whether the rows are yet to be read."""
        import polars as pl

        return isinstance(self.rows, pl.LazyFrame)

    def of(self, rows: pl.DataFrame | pl.LazyFrame) -> Batch:
        """Return other rows at the same place."""
        return replace(self, rows=rows)


def watermark(stream_time: int, delay: int) -> int:
    """Return the watermark at a stream time: nothing is known before the first row."""
    if stream_time in (NEVER, FOREVER):
        return stream_time
    if delay == FOREVER:
        return NEVER
    return max(stream_time - delay, NEVER)


class Operator:
    """One step of a running query. It is given batches, and gives what is final by then.

    ``port`` tells the sides of a join apart. `peek` gives what there would be if the input ended
    here, given the rows that the step before would give; it changes nothing.
    """

    delay: int = 0  # of what it gives out
    parent: Operator | None = None
    port: int = 0
    rows_late: int = 0
    rows_partly_late: int = 0
    on_late: Callable[[pl.DataFrame], None] | None = None

    def push(self, port: int, batch: Batch) -> Batch:
        """Take a batch, and return what is final now."""
        raise NotImplementedError

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that are not final yet, as they are now; ``rows`` are those before it."""
        raise NotImplementedError

    def since(self) -> Since | None:
        """Return what the rows that are kept rest on; None if none are kept."""
        return None

    def report(self) -> list[str]:
        """Return lines on what is held, for `explain`."""
        return []


def least(*places: Since | None) -> Since | None:
    """Return the earliest of several places, source by source."""
    known = [place for place in places if place is not None]
    return tuple(min(each) for each in zip(*known, strict=True)) if known else None
