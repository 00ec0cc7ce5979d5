"""Windows that overlap, put together from panes in steps.

A window of thirty panes is not merged from thirty parts: two panes make a pair, three pairs make six,
five of those make thirty, and each step is taken for all windows at once. So a window costs as many
merges as the prime factors of its length add up to, ten here. Nothing is ever taken away from a sum, so
this holds for whatever can be merged. Cumulative windows double what they cover with each step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from streamlab.window import Window

if TYPE_CHECKING:
    import polars as pl

__all__ = ["PLACE", "put_together", "steps"]

PLACE = "\0place"
"""The number of the last pane that a row covers, on the grid of the window's panes."""


def steps(window: Window) -> Iterator[tuple[int, int]]:
    """Yield (panes covered so far, how many such parts make the next) until a window is covered."""
    covered, whole = 1, window.size // window.pane
    if whole == 1:
        yield 1, 1
    if window.kind == "cumulative":
        while covered < whole:
            yield covered, 2
            covered *= 2
        return
    factor = 2
    while covered < whole:
        while (whole // covered) % factor:
            factor += 1
        yield covered, factor
        covered *= factor


def put_together(
    panes: pl.DataFrame, window: Window, keys: Sequence[str], merges: Sequence[pl.Expr],
    first: int, last: int,
) -> pl.DataFrame:  # fmt: skip
    """Merge partial results of panes, told by their number in `PLACE`, into those of windows.

    Returned are the windows whose last pane is one of ``first`` to ``last``, told by it in `PLACE`. Of
    hopping windows there is one for each pane: the caller takes those that are on the grid.
    """
    import polars as pl

    whole = window.size // window.pane
    place = pl.col(PLACE)
    rows = panes.filter(place.is_between(first - whole + 1, last))
    for covered, factor in steps(window):
        reach = covered * factor
        low = first if window.kind == "cumulative" and reach >= whole else first - whole + reach
        parts = []
        for turn in range(factor):
            moved = place + turn * covered
            fits = moved.is_between(low if window.kind == "hopping" else first - whole + 1, last)
            if window.kind == "cumulative":  # a window begins anew: nothing reaches beyond
                fits &= moved // whole == place // whole
            parts.append(rows.lazy().filter(fits).with_columns(moved.alias(PLACE)))
        rows = pl.concat(parts).group_by(*keys, PLACE).agg(merges).collect()
    return rows.filter(place.is_between(first, last))
