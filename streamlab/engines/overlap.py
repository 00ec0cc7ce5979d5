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
from dataclasses import replace
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


def merged(
    parts: pl.DataFrame, low: Places, high: Places, how: Aggregation, cells: Places | None = None
) -> pl.DataFrame:  # fmt: skip
    """Return for each stretch [low, high) of parts, none of which is empty, their merge.

    Where ``cells`` divides the parts (a number for each), a stretch lies in one cell and has its first part or its last, or
    in two that follow each other and has the last part of the one and the first of the other.
    """
    if cells is None or not how.scans:
        return _doubled(parts, low, high, how)
    quick, other = _apart(how)
    found = _scanned(parts.select(quick.parts), low, high, quick, cells)
    if other.parts:
        found = found.hstack(_doubled(parts.select(other.parts), low, high, other).get_columns())
    return found.select(how.parts)


def _apart(how: Aggregation) -> tuple[Aggregation, Aggregation]:
    """Return what can be merged along a column, and what cannot."""
    both = list(zip(how.parts, how.merges, how.pairs, strict=True))
    quick = [(merge, pair) for part, merge, pair in both if part in how.scans]
    other = [(merge, pair) for part, merge, pair in both if part not in how.scans]
    return tuple(  # type: ignore[return-value]
        replace(how, merges=[m for m, _ in some], pairs=[pair for _, pair in some])
        for some in (quick, other)
    )


def _scanned(
    parts: pl.DataFrame, low: Places, high: Places, how: Aggregation, cells: Places
) -> pl.DataFrame:
    """Merge what came together in two cells, up to the end of the one and from the start of the other."""
    import polars as pl

    begins = np.concatenate([[True], cells[1:] != cells[:-1]])
    placed = parts.with_columns(pl.Series("\0cell", cells))
    onward, back = (
        placed.select(_scan(name, how.scans[name], reverse=r).over("\0cell") for name in how.parts)
        for r in (False, True)
    )
    last = high - 1
    one = cells[low] == cells[last]
    here, there = one & begins[low], one & ~begins[low]
    found, others = onward[np.where(there, low, last)], back[low]
    found = pl.select(
        pl.when(pl.Series(there)).then(others[name]).otherwise(found[name]).alias(name)
        for name in how.parts
    )
    return _paired(found, others, how, ~(here | there))


def _scan(name: str, merge: str, *, reverse: bool) -> pl.Expr:
    import polars as pl

    so_far: pl.Expr = getattr(pl.col(name), f"cum_{merge}")(reverse=reverse)
    return so_far.backward_fill() if reverse else so_far.forward_fill()


def _doubled(parts: pl.DataFrame, low: Places, high: Places, how: Aggregation) -> pl.DataFrame:
    """Merge stretches of one, two, four and so on parts."""
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
