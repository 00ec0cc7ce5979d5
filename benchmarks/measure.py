"""Run contenders in alternation, and print medians, spread, and ratios.

A contender is a function that does the work once; it returns how many seconds the part took that
counts, or None if all of it did. In each round every contender has its turn, so that what the
machine does beside hits them alike; a ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

import contextlib
import gc
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Bound", "Reach", "Scale", "alternate", "folder", "heading", "print_bounds", "report"]

Contender = Callable[[], float | None]
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Scale:
    """How much work is done: rows divided by ``divide``, everything ``rounds`` times."""

    divide: int = 1
    rounds: int = 5

    def rows(self, full: int) -> int:
        """Return the number of rows for what is ``full`` rows at full size."""
        return max(full // self.divide, 1)


@dataclass(frozen=True)
class Reach:
    """A ratio that is aimed at: the time of ``reference`` over that of ``name``."""

    name: str
    reference: str
    at_least: float | None = None


@dataclass(frozen=True)
class Bound:
    """A time that is aimed at, in seconds."""

    name: str
    at_most: float | None = None


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Give a temporary folder, and remove it with all that is in it."""
    path = Path(tempfile.mkdtemp(prefix="streamlab-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def alternate(contenders: Mapping[str, Contender], rounds: int, *, warm: int = 1) -> Times:
    """Run each contender once a round, in turns; the first ``warm`` rounds do not count."""
    times: Times = {name: [] for name in contenders}
    for number in range(warm + rounds):
        for name, work in contenders.items():
            gc.collect()
            started = time.perf_counter()
            seconds = work()
            took = time.perf_counter() - started if seconds is None else seconds
            if number >= warm:
                times[name].append(took)
    return times


def ratios(times: Times, reach: Reach) -> list[float]:
    """Return how many times as fast as the reference a contender was, in each round."""
    pairs = zip(times[reach.reference], times[reach.name], strict=True)
    return [reference / own for reference, own in pairs]


def heading(number: str, what: str) -> None:
    """Print what a table is about."""
    print(f"\n{number}  {what}")


def report(
    times: Times, reaches: list[Reach], *, rows: int | None = None, unit: str = "rows"
) -> None:
    """Print one line for each contender and one for each ratio."""
    width = max(len(name) for name in times) + 2
    print(
        f"  {'':<{width}}{'median':>10}{'least':>10}{'most':>10}"
        + ("" if rows is None else f"{unit + '/s':>14}")
    )
    for name, taken in times.items():
        middle = statistics.median(taken)
        cells = "".join(f"{_seconds(t):>10}" for t in (middle, min(taken), max(taken)))
        speed = "" if rows is None else f"{rows / middle / 1e6:>12.3f} M"
        print(f"  {name:<{width}}{cells}{speed}")
    for reach in reaches:
        each = ratios(times, reach)
        middle = statistics.median(each)
        line = f"  {reach.name} is {middle:.2f} times as fast as {reach.reference}"
        best = min(times[reach.reference]) / min(times[reach.name])
        line += f"   (best to best {best:.2f}, rounds {min(each):.2f} to {max(each):.2f})"
        if reach.at_least is not None:
            line += f"   reach >= {reach.at_least:g}: {_verdict(middle >= reach.at_least)}"
        print(line)


def print_bounds(times: Times, bounds: list[Bound]) -> None:
    """Print one line for each time that has a bound."""
    width = max(len(bound.name) for bound in bounds) + 2
    print(f"  {'':<{width}}{'median':>10}{'least':>10}{'most':>10}")
    for bound in bounds:
        taken = times[bound.name]
        middle = statistics.median(taken)
        cells = "".join(f"{_seconds(t):>10}" for t in (middle, min(taken), max(taken)))
        aim = ""
        if bound.at_most is not None:
            aim = f"   reach <= {_seconds(bound.at_most)}: {_verdict(middle <= bound.at_most)}"
        print(f"  {bound.name:<{width}}{cells}{aim}")


def _verdict(reached: bool) -> str:
    return "reached" if reached else "NOT reached"


def _seconds(value: float) -> str:
    if abs(value) < 1e-3:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1e3:.2f} ms" if abs(value) < 1 else f"{value:.3f} s"
