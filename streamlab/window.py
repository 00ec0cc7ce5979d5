"""Windows: which stretches of event time a row belongs to.

A *pane* is the finest stretch that lies wholly inside or outside of every window: windows that
overlap share panes. Without a zone the grid is aligned to 1970-01-01T00:00Z plus an offset; with one
it is made of that zone's calendar days and hours, so that a day may have 23 or 25 of them.

Invariants: windows are half-open; every instant lies in one pane; a window is a run of panes.
"""

from __future__ import annotations

import datetime as dt
import difflib
import functools
import math
import zoneinfo
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from streamlab.clock import FOREVER, NEVER
from streamlab.duration import Duration, format_duration, parse_duration
from streamlab.errors import InvalidDuration, QueryError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Window", "cumulative", "hopping", "session", "sliding", "tumbling"]

Times = npt.NDArray[np.int64]

DAY = 86_400_000_000
SAMPLE = 900_000_000  # zones change their offset at a quarter of an hour
EDGE = 2**61  # sums of times and sizes stay below it


@dataclass(frozen=True)
class Window:
    """A kind of window; made by `tumbling`, `hopping`, `cumulative`, `session`, `sliding`.

    All lengths are microseconds. ``every`` is the step of hopping and cumulative windows.
    """

    kind: Literal["tumbling", "hopping", "cumulative", "session", "sliding"]
    size: int
    every: int = 0
    offset: int = 0
    tz: str | None = None

    def __str__(self) -> str:
        parts = [format_duration(self.size)]
        if self.kind in ("hopping", "cumulative"):
            word = "every" if self.kind == "hopping" else "step"
            parts.append(f"{word}={format_duration(self.every)}")
        if self.offset:
            parts.append(f"offset={format_duration(self.offset)}")
        if self.tz:
            parts.append(f"tz={self.tz}")
        return f"{self.kind}({', '.join(parts)})"

    @property
    def pane(self) -> int:
        """The length of a pane, on the clock."""
        assert self.kind not in ("session", "sliding"), self.kind
        if self.kind == "hopping":
            return math.gcd(self.size, self.every)
        return self.every if self.kind == "cumulative" else self.size

    @property
    def longest(self) -> int:
        """No window is longer than this."""
        return self.size if self.tz is None else self.size + 2 * DAY

    def panes(self, times: Times) -> Times:
        """Return the start of each time's pane."""
        if self.tz is None:
            return times - (times - self.offset) % self.pane
        grid = self._grid(times)
        return grid.starts[np.searchsorted(grid.starts, times, "right") - 1]

    def pane_expr(self, time: pl.Expr) -> pl.Expr | None:
        """Return the start of the pane of a column of microseconds; None with a zone."""
        if self.tz is not None:
            return None
        return time - (time - self.offset) % self.pane

    def windows(self, panes: Times) -> tuple[Times, Times, Times]:
        """Return (index into ``panes``, start, end) of each window that contains a pane.

        For each pane the windows come in the order of their ends.
        """
        count = self._count()
        index = np.repeat(np.arange(len(panes), dtype=np.int64), count)
        turn = np.tile(np.arange(count, dtype=np.int64), len(panes))
        if self.kind == "tumbling":
            return index, panes, self._tumbling_end(panes)
        labels = self._labels(panes)[index]
        if self.kind == "hopping":
            first = labels - (labels % self.every) - (self._reach() - 1) * self.every
            starts = first + turn * self.every
            fits = (starts <= labels) & (labels < starts + self.size)
            ends = starts + self.size
        else:
            starts = labels - labels % self.size
            ends = starts + (turn + 1) * self.every
            fits = ends > labels
        index, starts, ends = index[fits], starts[fits], ends[fits]
        return index, self._instants(starts, panes), self._instants(ends, panes)

    def _count(self) -> int:
        assert self.kind not in ("session", "sliding"), self.kind
        if self.kind == "hopping":
            return self._reach()
        return self.size // self.every if self.kind == "cumulative" else 1

    def _reach(self) -> int:
        return -(-self.size // self.every)

    def last_end(self, times: Times) -> Times:
        """Return the end of the last window that contains each time."""
        return self._edge(times, last=True)

    def first_end(self, times: Times) -> Times:
        """Return the end of the first window that contains each time."""
        return self._edge(times, last=False)

    def _edge(self, times: Times, *, last: bool) -> Times:
        if self.kind == "tumbling" and self.tz is None:
            return self.panes(times) + self.size
        unique, inverse = np.unique(self.panes(times), return_inverse=True)
        index, _, ends = self.windows(unique)
        found = np.full(len(unique), NEVER if last else FOREVER, dtype=np.int64)
        (np.maximum if last else np.minimum).at(found, index, ends)
        return found[inverse]

    # -- zones -------------------------------------------------------------------------------

    def _grid(self, times: Times) -> _Grid:
        if not len(times):
            return _grid(self.tz or "UTC", self.pane, self.offset, 1970, 1970)
        low = int(times.min()) - 2 * self.size - 2 * DAY
        high = int(times.max()) + 2 * self.size + 2 * DAY
        return _grid(self.tz or "UTC", self.pane, self.offset, _year(low), _year(high))

    def _labels(self, panes: Times) -> Times:
        """Return the wall-clock label of each pane, counted from the grid's origin."""
        if self.tz is None:
            return panes - self.offset
        grid = self._grid(panes)
        return grid.labels[np.searchsorted(grid.starts, panes, "right") - 1]

    def _instants(self, labels: Times, panes: Times) -> Times:
        """Return the first instant that has each label, or a later one."""
        if self.tz is None:
            return labels + self.offset
        grid = self._grid(panes)
        return grid.starts[np.searchsorted(grid.labels, labels, "left")]

    def _tumbling_end(self, panes: Times) -> Times:
        if self.tz is None:
            return panes + self.size
        grid = self._grid(panes)
        return grid.starts[np.searchsorted(grid.starts, panes, "right")]


@dataclass(frozen=True)
class _Grid:
    """Where panes begin in a zone: instants, and what the wall clock says there (never falling)."""

    starts: Times
    labels: Times


def _year(micros: int) -> int:
    return (
        int(
            np.datetime64(max(min(micros, EDGE // 16), -EDGE // 16), "us")
            .astype("datetime64[Y]")
            .astype(int)
        )
        + 1970
    )


@functools.lru_cache(maxsize=64)
def _grid(tz: str, pane: int, offset: int, first: int, last: int) -> _Grid:
    """Return the panes of some years, and a few days around them."""
    starts, labels = [], []
    latest = None
    for begin, end, shift, back in _periods(tz, first, last):
        # Inside a stretch of one UTC offset the wall clock runs evenly.
        floor = (begin + shift - offset) // pane * pane
        marks = np.arange(floor, end + shift - offset, pane, dtype=np.int64)
        instants = np.maximum(marks - shift + offset, begin)
        if latest is not None:
            exact = marks - shift + offset >= begin
            # A label that was there already begins again only if it is a short, repeated one.
            keep = (marks > latest) | (exact & (pane <= back) & (marks <= latest))
            marks, instants = marks[keep], instants[keep]
        if len(marks):
            latest = int(marks[-1]) if latest is None else max(latest, int(marks[-1]))
            starts.append(instants)
            labels.append(marks)
    return _Grid(np.concatenate(starts), np.maximum.accumulate(np.concatenate(labels)))


@functools.lru_cache(maxsize=64)
def _periods(tz: str, first: int, last: int) -> list[tuple[int, int, int, int]]:
    """Return stretches of constant UTC offset: start, end, offset, and how far the clock went back."""
    zone = zoneinfo.ZoneInfo(tz)
    epoch = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

    def shift(micros: int) -> int:
        at = (epoch + dt.timedelta(microseconds=micros)).astimezone(zone)
        gap = at.utcoffset()
        assert gap is not None
        return gap // dt.timedelta(microseconds=1)

    low = (dt.datetime(max(first - 1, 2), 12, 1, tzinfo=dt.UTC) - epoch) // dt.timedelta(
        microseconds=1
    )
    high = (dt.datetime(min(last + 2, 9990), 2, 1, tzinfo=dt.UTC) - epoch) // dt.timedelta(
        microseconds=1
    )
    found, begin, now = [], low, shift(low)
    back = 0
    day = low
    while day < high:
        following = min(day + DAY, high)
        if shift(following) != shift(day):
            for at in range(day + SAMPLE, following + 1, SAMPLE):
                new = shift(at)
                if new != now:
                    change = _bisected(shift, at - SAMPLE, at)
                    found.append((begin, change, now, back))
                    begin, back, now = change, max(now - new, 0), new
        day = following
    found.append((begin, high, now, back))
    return found


def _bisected(shift: Any, low: int, high: int) -> int:
    """Return the instant at which an offset changes, to the second."""
    old, second = shift(low), 1_000_000
    while high - low > second:
        middle = (low + high) // 2 // second * second
        low, high = (middle, high) if shift(middle) == old else (low, middle)
    return high


# -- made by users -------------------------------------------------------------------------------


def _positive(value: Any, what: str) -> int:
    micros = parse_duration(value, what=what)
    if micros <= 0:
        raise InvalidDuration(
            f"{what} {value!r} is no length of a window", hint='write "1m", "30s"'
        )
    return micros


def _zone(tz: Any) -> str | None:
    if tz is None:
        return None
    name = str(getattr(tz, "key", tz))
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        near = difflib.get_close_matches(name, zoneinfo.available_timezones(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else 'write one such as "Europe/Berlin"'
        raise QueryError(f"there is no time zone {name!r}", hint=hint) from error
    return name


def tumbling(size: Duration, *, offset: Duration = "0s", tz: Any = None) -> Window:
    """Return windows of equal size, one after the other, aligned to 1970 plus ``offset``.

    With ``tz`` they are calendar days and hours of that zone.

    >>> print(tumbling("1m"))
    tumbling(1m)

    Raises:
        InvalidDuration: a length that is none.
        QueryError: a zone that is none.
    """
    length = _positive(size, "size")
    start = parse_duration(offset, what="offset") % length
    return Window("tumbling", length, length, start, _zone(tz))


def hopping(size: Duration, every: Duration, *, offset: Duration = "0s", tz: Any = None) -> Window:
    """Return windows of equal size that begin ``every`` so often, and overlap.

    >>> print(hopping("5m", every="1m"))
    hopping(5m, every=1m)

    Raises:
        QueryError: ``every`` is longer than ``size``, so that rows would fall between windows.
    """
    length, step = _positive(size, "size"), _positive(every, "every")
    if step > length:
        raise QueryError(
            f"every={format_duration(step)} is longer than the window of {format_duration(length)}: "
            "rows between two windows would be in none",
            hint="make every at most the size; filter rows that are not wanted",
        )
    start = parse_duration(offset, what="offset") % step
    return Window("hopping", length, step, start, _zone(tz))


def cumulative(
    size: Duration, step: Duration, *, offset: Duration = "0s", tz: Any = None
) -> Window:
    """Return windows that begin together each ``size``, and end one ``step`` after the other.

    >>> print(cumulative("1h", step="5m"))
    cumulative(1h, step=5m)

    Raises:
        QueryError: ``size`` is no multiple of ``step``.
    """
    length, part = _positive(size, "size"), _positive(step, "step")
    if length % part:
        raise QueryError(
            f"the size {format_duration(length)} is no multiple of the step {format_duration(part)}"
        )
    start = parse_duration(offset, what="offset") % length
    return Window("cumulative", length, part, start, _zone(tz))


def session(gap: Duration) -> Window:
    """Return sessions: rows of a key less than ``gap`` apart, until ``gap`` after the last.

    >>> print(session("30s"))
    session(30s)
    """
    return Window("session", _positive(gap, "gap"))


def sliding(size: Duration) -> Window:
    """Return for each row the time (t - size, t] up to it.

    >>> print(sliding("5m"))
    sliding(5m)
    """
    return Window("sliding", _positive(size, "size"))
