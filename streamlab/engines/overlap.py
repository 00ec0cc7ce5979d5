"""Windows that overlap, put together from parts in steps.

A window of thirty panes is not merged from thirty parts. Parts are laid in a row, those of a key together
and by time, so that each window is a stretch of them. Every part is merged with the one before it, then
every two with the two before, four with four, and each window, which begins as its last part, takes the
stretches that make up its length: of thirty one more, four, eight, and sixteen. So a window costs at most
twice as many merges as its length has binary digits, all windows at once. Nothing is ever taken away from
a sum, so this holds for whatever can be merged: a sum that is kept rolling, by adding and taking away,
loses small numbers to large ones. Only sums of integers, which lose nothing, are what has come up to the
end of a stretch less what had come before it.
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

GROUP = "\0g"

Places = npt.NDArray[np.int64]


def merged(
    parts: pl.DataFrame, low: Places, high: Places, how: Aggregation, cells: Places | None = None
) -> pl.DataFrame:  # fmt: skip
    """Return for each stretch [low, high) of parts, none of which is empty, their merge.

    Where ``cells`` divides the parts (a number for each), a stretch lies in one cell and has its first part or its last, or
    in two that follow each other and has the last part of the one and the first of the other.
    """
    import polars as pl

    whole = [name for name in how.parts if _exact(parts, name, how)]
    scans = [name for name in how.scans if name not in whole] if cells is not None else []
    rest = [name for name in how.parts if name not in whole and name not in scans]
    found = []
    if whole:
        found.append(_summed(parts.select(whole), low, high))
    if scans:
        assert cells is not None
        found.append(_scanned(parts.select(scans), low, high, _only(how, scans), cells))
    if rest:
        found.append(_doubled(parts.select(rest), low, high, _only(how, rest)))
    return pl.concat(found, how="horizontal").select(how.parts)


def _exact(parts: pl.DataFrame, name: str, how: Aggregation) -> bool:
    """Return whether a part is a sum of integers: taking away leaves what there was, wrapped or not."""
    return how.scans.get(name) == "sum" and parts.schema[name].is_integer()


def _only(how: Aggregation, names: Sequence[str]) -> Aggregation:
    """Return what merges some of the parts."""
    both = zip(how.parts, how.merges, how.pairs, strict=True)
    some = [(merge, pair) for part, merge, pair in both if part in names]
    return replace(how, merges=[merge for merge, _ in some], pairs=[pair for _, pair in some])


def _summed(parts: pl.DataFrame, low: Places, high: Places) -> pl.DataFrame:
    """Return the sums of integers over stretches."""
    import polars as pl

    up_to = parts.select(pl.all().fill_null(0).cum_sum()).cast(parts.schema)
    until, before = up_to[high - 1], up_to[np.maximum(low, 1) - 1]
    first = pl.Series(low == 0)
    return until.select(
        pl.col(name) - pl.when(first).then(0).otherwise(before[name]).cast(kind)
        for name, kind in parts.schema.items()
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
    united = both.select(how.pairs)
    if chosen is None or chosen.all():
        return united
    # Apart from the pairs: within when(), horizontal sums cost ten times as much.
    kept = parts.rename(lambda name: f"{name}{OTHER}")
    either = united.hstack([pl.Series("\0chosen", chosen), *kept.get_columns()])
    return either.select(
        pl.when("\0chosen").then(pl.col(name)).otherwise(pl.col(f"{name}{OTHER}")).alias(name)
        for name in how.parts
    )


def put_together(
    panes: pl.DataFrame, window: Window, keys: Sequence[str], how: Aggregation,
    first: int, last: int,
) -> pl.DataFrame:  # fmt: skip
    """Merge partial results of panes, told by their number in `PLACE`, into those of windows.

    Returned are the windows whose last pane is one of ``first`` to ``last``, told by it in `PLACE`, in the
    order of keys and places; of hopping windows those that are on the grid.
    """
    import polars as pl

    whole = window.size // window.pane
    rows = panes.filter(pl.col(PLACE).is_between(first - whole + 1, last)).with_row_index(GROUP)
    rows = rows.with_columns(_ranks(rows, keys))
    spot = pl.col(GROUP) * (last - first + whole) + pl.col(PLACE) - (first - whole + 1)
    rows = _one_each(rows.with_columns(spot.alias("\0spot")), keys, how)
    chosen, ends, low = _stretches(rows, window, first, last)
    found = merged(rows.select(how.parts), low, chosen + 1, how)
    told = rows.select(*keys, PLACE)[chosen].with_columns(pl.Series(PLACE, ends))
    return told.hstack(found.get_columns())


def _ranks(rows: pl.DataFrame, keys: Sequence[str]) -> pl.Series:
    """Return the place of each row's key in the order of keys: only one row of each is sorted."""
    import polars as pl

    ranks = np.zeros(rows.height, dtype=np.int64)
    if not keys:
        return pl.Series(GROUP, ranks)
    firsts = rows.select(GROUP, *keys, pl.col(GROUP).min().over(keys).alias("\0first"))
    alone = firsts.filter(pl.col(GROUP) == pl.col("\0first")).sort(*keys, nulls_last=False)
    ranks[alone[GROUP].to_numpy()] = np.arange(alone.height)
    return pl.Series(GROUP, ranks[firsts["\0first"].to_numpy()])


def _one_each(rows: pl.DataFrame, keys: Sequence[str], how: Aggregation) -> pl.DataFrame:
    """Sort rows by key and place, told by one number, and merge those of the same: mostly there are few."""
    import polars as pl

    rows = rows.sort("\0spot")
    spots = rows["\0spot"].to_numpy()
    again = np.zeros(len(spots), dtype=np.bool_)
    again[1:] = spots[1:] == spots[:-1]
    if not again.any():
        return rows
    again[:-1] |= again[1:]
    several = pl.Series(again)
    same = [pl.col(name).first() for name in (*keys, GROUP, PLACE)]
    united = rows.filter(several).group_by("\0spot").agg(*same, *how.merges)
    return pl.concat([rows.filter(~several).select(united.columns), united]).sort("\0spot")


def _stretches(
    rows: pl.DataFrame, window: Window, first: int, last: int
) -> tuple[Places, Places, Places]:
    """Return the windows that hold some pane: the last one that is there, the place, the first one."""
    whole, step = window.size // window.pane, max(window.every // window.pane, 1)
    places, groups = rows[PLACE].to_numpy(), rows[GROUP].to_numpy()
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
