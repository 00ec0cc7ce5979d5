"""Rows that are held until time has passed them, in the order in which they came.

What comes is a part, which knows the times of its rows. Small parts are merged, so that holding many rows
that came a few at a time costs a few copies of each; large ones are left alone, and where only some of
their rows are wanted, only those parts are looked at that may have them. Beyond a limit of bytes parts wait
in Arrow files.

Invariants: rows are given in the order in which they were added; a row that was let go of or taken is never
given again, although it may stay in its part for a while; a file is gone when nobody holds it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from streamlab.clock import FOREVER, NEVER
from streamlab.engines.batch import ORDER, Since, least
from streamlab.engines.spill import Spilled

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Held", "rows_of", "span"]

LIMIT_BYTES = 512 << 20
"""How much is held in memory."""

FEW_ROWS = 100_000
"""So many more rows than there were are held before they are condensed."""

MERGED_ROWS = 65_536
"""Parts are merged up to so many rows."""


@dataclass(frozen=True)
class _Part:
    """Rows that came one after the other; those before ``floor`` are gone."""

    rows: pl.DataFrame | Spilled
    height: int
    low: int  # their least and greatest time
    high: int
    order: int  # their least order
    floor: int = NEVER

    def lazy(self, time: str, below: int = FOREVER, floor: int = NEVER) -> pl.LazyFrame:
        """Return the rows that are there still, from a time on and below one."""
        import polars as pl

        rows = self.rows.lazy()
        floor = max(floor, self.floor)
        if self.low < floor:
            rows = rows.filter(pl.col(time) >= floor)
        return rows if self.high < below else rows.filter(pl.col(time) < below)


def span(numbers: pl.Series) -> tuple[int, int]:
    """Return the least and the greatest of integers, of which there are some."""
    least_, greatest = numbers.min(), numbers.max()
    assert isinstance(least_, int)
    assert isinstance(greatest, int)
    return least_, greatest


def rows_of(count: int, name: str) -> str:
    """Return how many rows of a stream, as people say it."""
    return f"{count:,} row{'s' * (count != 1)} of {name}"


class Held:
    """Rows of one schema with their event times in a column, and the places that they rest on."""

    def __init__(self, time: str) -> None:
        self.time = time
        self.parts: list[_Part] = []
        self.places: list[tuple[int, Since]] = []  # first order of what was added, and its place
        self.condensed = 0  # how many rows there were when they were condensed

    def copy(self) -> Held:
        """Return another one that holds the same."""
        other = copy.copy(self)
        other.parts, other.places = list(self.parts), list(self.places)
        return other

    def add(self, frame: pl.DataFrame, since: Since | None = None) -> None:
        """Hold a frame, which rests on a place."""
        if not frame.height:
            return
        part = self._part(frame)
        if since is not None:
            self.places.append((part.order, since))
        while self.parts and self._small(self.parts[-1], part):
            before = self.parts.pop().lazy(self.time).collect()
            part = self._part(before.vstack(frame) if before.height else frame)
            frame = part.rows  # type: ignore[assignment]
        self.parts.append(part)
        self._spill()

    def _part(self, frame: pl.DataFrame) -> _Part:
        rows = frame.rechunk() if frame.height <= MERGED_ROWS else frame
        order = span(frame[ORDER])[0] if ORDER in frame.columns else 0
        return _Part(rows, frame.height, *span(frame[self.time]), order)

    @staticmethod
    def _small(before: _Part, part: _Part) -> bool:
        in_files = isinstance(before.rows, Spilled)
        few = before.height + part.height <= MERGED_ROWS
        return not in_files and few and before.height <= 2 * part.height

    def _spill(self) -> None:
        """Move all parts to files if they are too large for memory."""
        frames = [part.rows for part in self.parts if not isinstance(part.rows, Spilled)]
        if sum(frame.estimated_size() for frame in frames) <= LIMIT_BYTES:
            return
        self.parts = [
            part if isinstance(part.rows, Spilled) else replace(part, rows=Spilled(part.rows))
            for part in self.parts
        ]

    def condense(self, how: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        """Make one part of those in memory, if much has come since that was done last."""
        import polars as pl

        held = [part for part in self.parts if not isinstance(part.rows, Spilled)]
        height = sum(part.height for part in held)
        if len(held) < 2 or height <= 2 * self.condensed + FEW_ROWS:
            return
        rows = how(pl.concat([part.lazy(self.time).collect() for part in held]))
        rows = rows.select(held[0].lazy(self.time).collect_schema().names())
        self.condensed = rows.height
        files = [part for part in self.parts if isinstance(part.rows, Spilled)]
        self.parts = [*files, *([self._part(rows)] if rows.height else [])]

    # -- looking -----------------------------------------------------------------------------

    @property
    def least_time(self) -> int:
        """No row is earlier; FOREVER if there is none."""
        return min((max(part.low, part.floor) for part in self.parts), default=FOREVER)

    @property
    def greatest_time(self) -> int:
        """No row is later; NEVER if there is none."""
        return max((part.high for part in self.parts), default=NEVER)

    @property
    def height(self) -> int:
        """How many rows are held, perhaps with some that are gone."""
        return sum(part.height for part in self.parts)

    def count(self) -> int:
        """How many rows are held."""
        import polars as pl

        return sum(part.lazy(self.time).select(pl.len()).collect().item() for part in self.parts)

    @property
    def where(self) -> str:
        """A remark on what is held on disk."""
        return f" ({self.files} files on disk)" if self.files else ""

    @property
    def files(self) -> int:
        """How many parts wait in files."""
        return sum(isinstance(part.rows, Spilled) for part in self.parts)

    def since(self, *also: int) -> Since | None:
        """Return the earliest offsets that the rows rest on, and those of some other orders."""
        orders = [*(part.order for part in self.parts), *also]
        if not orders:
            self.places = []
            return None
        first = min(orders)
        while len(self.places) > 1 and self.places[1][0] <= first:
            del self.places[0]
        return least(*(place for _, place in self.places))

    def between(self, low: int, below: int) -> Iterator[pl.DataFrame]:
        """Yield the rows of a span of time: those in memory at once, then file by file."""
        import polars as pl

        low, below = max(low, NEVER), min(below, FOREVER)
        near = [p for p in self.parts if p.low < below and p.high >= max(low, p.floor)]
        held = [p.lazy(self.time, below, low) for p in near if not isinstance(p.rows, Spilled)]
        files = [p.lazy(self.time, below, low) for p in near if isinstance(p.rows, Spilled)]
        for rows in [*([pl.concat(held)] if held else []), *files]:
            yield rows.collect()

    def all(self) -> list[pl.DataFrame]:
        """Return all rows."""
        return [part.lazy(self.time).collect() for part in self.parts]

    # -- letting go --------------------------------------------------------------------------

    def take(self, below: int) -> list[pl.DataFrame]:
        """Return the rows before a time, and hold them no more; FOREVER is after all of them."""
        if below == FOREVER:
            taken, self.parts = self.all(), []
            return taken
        near = [part for part in self.parts if part.low < below]
        taken = [part.lazy(self.time, below).collect() for part in near]
        self.let_go(below)
        return [frame for frame in taken if frame.height]

    def let_go(self, below: int) -> None:
        """Hold the rows before a time no more."""
        below = max(below, NEVER)
        self.parts = [self._without(part, below) for part in self.parts if part.high >= below]

    def _without(self, part: _Part, below: int) -> _Part:
        if below <= max(part.low, part.floor):
            return part
        left = replace(part, floor=below)
        halfway = part.low + (part.high - part.low) // 2
        if below < halfway or isinstance(part.rows, Spilled):
            return left  # the rows are copied only when about half of them have gone
        return self._part(left.lazy(self.time).collect())
