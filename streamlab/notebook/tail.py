"""The rows below an offset that a condition holds for, the newest of them: what a live table shows.

Reading goes backwards from the offset, in blocks that grow, for a bounded time at each look; so the
first rows are there at once, however rare they are further back. Rows that come are looked at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import streamlab as sl

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Tail"]

BLOCK, MOST = 16_384, 524_288
LOOK_SECONDS = 0.03


class Tail:
    """The last ``size`` rows below an offset; with a condition in SQL, of those it is true for."""

    def __init__(self, stream: sl.Stream, size: int, condition: str = "") -> None:
        self._stream, self._size, self.condition = stream, size, condition.strip()
        self._low = self._high = -1  # what was looked through: [low, high)
        self._found: pl.DataFrame | None = None
        self._block = BLOCK
        self.whole = True  # whether everything that is to be shown was found
        if self.condition:
            self._matching(0, 0)  # an error of the condition comes now

    def _matching(self, low: int, high: int) -> pl.DataFrame:
        """Return the rows of [low, high) for which the condition holds."""
        first = self._stream.earliest_offset
        view = self._stream.offsets(max(low, first), max(high, first))
        return view.sql(f"SELECT * FROM this WHERE ({self.condition}\n)").collect(progress=False)

    def below(self, at: int) -> pl.DataFrame:
        """Return the rows below an offset, in order; `whole` says whether a later look finds more."""
        import polars as pl

        first = self._stream.earliest_offset
        if not self.condition:
            low = max(first, at - self._size)
            return self._stream.offsets(low, max(at, low)).to_polars()
        if self._found is None or at < self._high:
            self._low = self._high = at
            self._found, self._block = self._matching(first, first), BLOCK
        until = time.monotonic() + LOOK_SECONDS
        while self._high < at and (self._high == self._low or time.monotonic() < until):
            upto = min(at, self._high + MOST)
            self._keep(pl.concat([self._found, self._matching(self._high, upto)]))
            self._high = upto
        while self._found.height < self._size and self._low > first and time.monotonic() < until:
            since = max(first, self._low - self._block)
            self._keep(pl.concat([self._matching(since, self._low), self._found]))
            self._low, self._block = since, min(2 * self._block, MOST)
        self.whole = self._high >= at and (self._found.height >= self._size or self._low <= first)
        return self._found

    def _keep(self, found: pl.DataFrame) -> None:
        self._found = found.tail(self._size)
