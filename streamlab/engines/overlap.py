"""Windows that overlap, put together from parts in steps.

A window of thirty panes is not merged from thirty parts. Parts are laid in a row, those of a key together
and by time, so that each window is a stretch of them. Every part is merged with the one before it, then
every two with the two before, four with four, and each window, which begins as its last part, takes the
stretches that make up its length: of thirty one more, four, eight, and sixteen. So a window costs at most
twice as many merges as its length has binary digits, all windows at once. Nothing is ever taken away from
a sum, so this holds for whatever can be merged: a sum that is kept rolling, by adding and taking away,
loses small numbers to large ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from streamlab.aggregate import OTHER, Aggregation
from streamlab.window import Window

if TYPE_CHECKING:
    import polars as pl

__all__ = ["PLACE", "merged", "put_together"]

PLACE = "\0place"
"""The number of the last pane that a row covers, on the grid of the window's panes."""

Places = npt.NDArray[np.int64]


def merged(parts: pl.DataFrame, low: Places, high: Places, how: Aggregation) -> pl.DataFrame:
    """Return for each stretch [low, high) of parts, none of which is empty, their merge."""
    found = parts[high - 1]
    at, left = high - 2, high - low - 1
    step = 1
    while left.any():
        odd = (left & step) != 0
        if odd.any():
            found = _paired(found, parts[np.where(odd, at, 0)], how, odd)
            taken = np.where(odd, step, 0)
            at, left = at - taken, left - taken
        if left.any():  # the first ones lack what was before them, and are not taken
            parts = _paired(parts, parts.shift(step), how)
            step *= 2
    return found


def _paired(
    parts: pl.DataFrame, others: pl.DataFrame, how: Aggregation,
    chosen: npt.NDArray[np.bool_] | None = None,
) -> pl.DataFrame:  # fmt: skip
    """Merge each part with another; only the chosen ones."""
    import polars as pl

    both = parts.hstack(others.rename(lambda name: f"{name}{OTHER}").get_columns())
    pairs = how.pairs
    if chosen is not None and not chosen.all():
        both = both.with_columns(pl.Series("\0chosen", chosen))
        pairs = [
            pl.when("\0chosen").then(pair).otherwise(pl.col(name)).alias(name)
            for name, pair in zip(how.parts, pairs, strict=True)
        ]
    return both.select(pairs)


def put_together(
    panes: pl.DataFrame, window: Window, keys: Sequence[str], how: Aggregation,
    first: int, last: int,
) -> pl.DataFrame:  # fmt: skip
    """Merge partial results of panes, told by their number in `PLACE`, into those of windows.

    Returned are the windows whose last pane is one of ``first`` to ``last``, told by it in `PLACE`; of
    hopping windows those that are on the grid.
    """
    import polars as pl

    whole = window.size // window.pane
    rows = panes.filter(pl.col(PLACE).is_between(first - whole + 1, last))
    rows = rows.group_by(*keys, PLACE).agg(how.merges).with_row_index("\0n")
    number = pl.col("\0n").min()
    group = (number.over(keys) if keys else number).alias("\0g")
    rows = rows.with_columns(group).sort("\0g", PLACE)
    chosen, ends, low = _stretches(rows, window, first, last)
    found = merged(rows.select(how.parts), low, chosen + 1, how)
    told = rows.select(*keys, PLACE)[chosen].with_columns(pl.Series(PLACE, ends))
    return told.hstack(found.get_columns())


def _stretches(
    rows: pl.DataFrame, window: Window, first: int, last: int
) -> tuple[Places, Places, Places]:
    """Return the windows that hold some pane: the last one that is there, the place, the first one."""
    whole, step = window.size // window.pane, max(window.every // window.pane, 1)
    places, groups = rows[PLACE].to_numpy(), rows["\0g"].to_numpy()
    if not len(places):
        none = np.zeros(0, dtype=np.int64)
        return none, none, none
    same = groups[1:] == groups[:-1]
    gaps = np.where(same, np.minimum(places[1:] - places[:-1], whole), whole)
    line = np.concatenate([[0], np.cumsum(gaps)])  # places, with no gap wider than a window
    reach = places + whole if window.kind == "hopping" else places // whole * whole + whole
    stop = np.minimum(reach, last + 1)
    stop[:-1] = np.where(same, np.minimum(stop[:-1], places[1:]), stop[:-1])
    start = np.maximum(places, first)
    start += (whole - 1 - start) % step if window.kind == "hopping" else 0
    count = np.maximum(-(-(stop - start) // step), 0)
    chosen = np.repeat(np.arange(len(places)), count)
    turn = np.arange(len(chosen)) - np.repeat(np.cumsum(count) - count, count)
    ends = start[chosen] + turn * step
    length = np.int64(whole) if window.kind == "hopping" else ends % whole + 1
    low = np.searchsorted(line, line[chosen] + (ends - places[chosen]) - length + 1)
    return chosen, ends, low
