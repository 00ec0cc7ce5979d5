"""Windows: which stretches of event time a row belongs to.

A *pane* is the finest stretch that lies wholly inside or outside of every window: windows that
overlap share panes. Without a zone the grid is aligned to 1970-01-01T00:00Z plus an offset; with one
it is made of that zone's calendar days and hours, so that a day may have 23 or 25 of them.

With a zone the unit of account is the *label*: what the wall clock shows (less the offset), floored
to the grid. Where the clock goes back by a grid step or more, tumbling windows begin anew there (the
hour that is repeated is a window of its own); in all other cases labels never fall, and one that was
there already is not begun a second time.

Invariants: windows are half-open; every instant lies in one pane; a window is a run of panes; none
is named twice; what comes out for a time does not depend on the times it is asked together with.
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

from streamlab.clock import NEVER
from streamlab.duration import EPOCH, Duration, format_duration, parse_duration
from streamlab.errors import InvalidDuration, QueryError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Window", "cumulative", "hopping", "session", "sliding", "tumbling"]

Times = npt.NDArray[np.int64]

SECOND = 1_000_000
DAY = 86_400 * SECOND
EDGE = 2**62  # 146,000 years from 1970: times beyond are taken as this, so that no sum overflows


@dataclass(frozen=True)
class Window:
    """A kind of window; made by `tumbling`, `hopping`, `cumulative`, `session`, `sliding`.

    All lengths are microseconds; ``size`` is a session's gap, and ``every`` the step of hopping and
    cumulative windows. Times in and out are int64 microseconds since 1970, UTC. Sessions and sliding
    windows depend on the rows, not on the clock: what follows is not for them, except `longest`.
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
        """No window is longer than this (a session: than this and the time from first to last)."""
        return self.size if self.tz is None else self.size + 2 * DAY

    def panes(self, times: Times) -> Times:
        """Return the start of each time's pane."""
        pane, times = self.pane, np.clip(times, -EDGE, EDGE)
        if self.tz is None:
            return (times - self.offset) // pane * pane + self.offset
        return self._wall(times).panes(times)[0]

    def pane_expr(self, time: pl.Expr) -> pl.Expr | None:
        """Return the start of the pane of a column of microseconds; None with a zone."""
        pane = self.pane
        if self.tz is not None:
            return None
        time = time.clip(-EDGE, EDGE)
        return time - (time - self.offset) % pane

    def windows(self, panes: Times) -> tuple[Times, Times, Times]:
        """Return (index into ``panes``, start, end) of each window that contains a pane.

        For each pane the windows come in the order of their ends, then starts.
        """
        if self.kind == "tumbling":
            return np.arange(len(panes), dtype=np.int64), panes, self._next(panes)
        labels, count = self._labels(panes), self._count()
        index = np.repeat(np.arange(len(panes), dtype=np.int64), count)
        turn = np.tile(np.arange(count, dtype=np.int64), len(panes))
        labels = labels[index]
        if self.kind == "hopping":
            starts = labels // self.every * self.every - (count - 1 - turn) * self.every
            ends = starts + self.size
        else:
            starts = labels // self.size * self.size
            ends = starts + (turn + 1) * self.every
        fits = ends > labels
        index, starts, ends = index[fits], starts[fits], ends[fits]
        if self.tz is None:
            return index, starts + self.offset, ends + self.offset
        wall = self._wall(panes)
        starts, ends = wall.instants(starts), wall.instants(ends)
        # Where the clock goes forward, labels that never were share an instant, and their windows are one.
        told = np.ones(len(index), dtype=np.bool_)
        told[1:] = (np.diff(index) != 0) | (np.diff(starts) != 0) | (np.diff(ends) != 0)
        return index[told], starts[told], ends[told]

    def last_end(self, times: Times) -> Times:
        """Return the end of the last window that contains each time: late iff the watermark has it."""
        panes = self.panes(times)
        if self.kind == "tumbling":
            return self._next(panes)
        grid = self.every if self.kind == "hopping" else self.size
        return self._instants(self._labels(panes) // grid * grid + self.size, panes)

    def first_end(self, times: Times) -> Times:
        """Return the end of the first window that contains each time."""
        panes = self.panes(times)
        if self.kind == "tumbling":
            return self._next(panes)
        beyond = self.size % self.every  # ends lie this far after a multiple of every
        labels = (self._labels(panes) - beyond) // self.every * self.every
        return self._instants(labels + self.every + beyond, panes)

    def _count(self) -> int:
        """Return how many windows share a pane at most."""
        assert self.kind not in ("session", "sliding"), self.kind
        return -(-self.size // self.every)

    def _labels(self, panes: Times) -> Times:
        """Return the label of each pane."""
        if self.tz is None:
            return panes - self.offset
        return self._wall(panes).panes(panes)[1]

    def _instants(self, labels: Times, near: Times) -> Times:
        """Return the first instant that has each label, or a later one."""
        return labels + self.offset if self.tz is None else self._wall(near).instants(labels)

    def _next(self, panes: Times) -> Times:
        """Return the start of the pane that follows each."""
        return panes + self.pane if self.tz is None else self._wall(panes).following(panes)

    def _wall(self, times: Times) -> _Wall:
        """Return the clock on the wall for all windows around some times."""
        assert self.tz is not None
        low, high = (int(times.min()), int(times.max())) if len(times) else (0, 0)
        reach = 2 * self.size + 3 * DAY
        years = _year(low - reach), _year(high + reach)
        return _wall(self.tz, self.pane, self.offset, self.kind == "tumbling", *years)


# -- zones ---------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Wall:
    """The clock on a zone's wall, as stretches of one UTC offset each, told in labels.

    A label is in force until a higher one comes, or a stretch that begins anew.
    """

    pane: int
    begins: Times  # of each stretch, the first instant
    shifts: Times  # what the clock shows there, less the window's offset, is UTC plus this
    carried: Times  # the label in force just before the stretch; NEVER: labels begin anew
    since: Times  # when that label began

    def panes(self, times: Times) -> tuple[Times, Times]:
        """Return start and label of each time's pane."""
        at = self._stretches(times)
        shift = self.shifts[at]
        labels = (times + shift) // self.pane * self.pane
        starts = np.maximum(labels - shift, self.begins[at])
        old = labels <= self.carried[at]
        if old.any():
            starts = np.where(old, self.since[at], starts)
            labels = np.maximum(labels, self.carried[at])
        return starts, labels

    def _stretches(self, times: Times) -> Any:
        """Return in which stretch each time lies: one number if it is the same for all."""
        if len(times):
            first, last = np.searchsorted(self.begins, [times.min(), times.max()], "right") - 1
            if first == last:
                return first
        return np.searchsorted(self.begins, times, "right") - 1

    def instants(self, labels: Times) -> Times:
        """Return the first instant with each label or a higher one; not where labels begin anew."""
        at = np.searchsorted(self.carried, labels, "left") - 1
        found: Times = np.maximum(labels - self.shifts[at], self.begins[at])
        return found

    def following(self, starts: Times) -> Times:
        """Return for each start of a pane that of the next."""
        at = np.array(np.broadcast_to(self._stretches(starts), starts.shape))
        wanted = self.panes(starts)[1] + self.pane
        ends: Times = wanted - self.shifts[at]
        limits = np.append(self.begins[1:], 2 * EDGE - 1)
        over = np.flatnonzero(ends >= limits[at])
        while len(over):  # the label outlives its stretch, unless the next one says otherwise
            at[over] += 1
            stretch = at[over]
            due = np.maximum(wanted[over] - self.shifts[stretch], self.begins[stretch])
            anew = self.carried[stretch] == NEVER
            ends[over] = np.where(anew, self.begins[stretch], due)
            over = over[~anew & (due >= limits[stretch])]
        return ends


def _year(micros: int) -> int:
    """Return the year of an instant, within those that datetime can tell in every zone."""
    whole = np.datetime64(max(-EDGE, min(micros, EDGE)), "us").astype("datetime64[Y]")
    return min(max(int(whole.astype(np.int64)) + 1970, 2), 9997)


@functools.lru_cache(maxsize=64)
def _wall(tz: str, pane: int, offset: int, anew: bool, first: int, last: int) -> _Wall:
    """Return the wall clock of some years; before and after them nothing changes."""
    changes = [change for year in range(first, last + 1) for change in _changes(tz, year)]
    shift = _shift(tz, _new_year(first)) * SECOND - offset
    stretches = [(NEVER, shift, NEVER, NEVER)]
    for begin, before, after in changes:
        was = before * SECOND - offset
        _, _, carried, since = stretches[-1]
        label = (begin * SECOND - 1 + was) // pane * pane
        if label > carried:
            carried, since = label, max(label - was, stretches[-1][0])
        if anew and pane <= (before - after) * SECOND:
            carried = since = NEVER
        stretches.append((begin * SECOND, after * SECOND - offset, carried, since))
    columns = np.array(stretches, dtype=np.int64).T
    return _Wall(pane, columns[0], columns[1], columns[2], columns[3])


@functools.lru_cache(maxsize=16_384)
def _changes(tz: str, year: int) -> tuple[tuple[int, int, int], ...]:
    """Return the changes of the UTC offset in a year: when, from what, to what, in seconds."""
    # No zone has changed its offset twice within three days; by 2100 all follow a yearly rule.
    step = (3 if 1850 <= year < 2100 else 30) * 86_400
    stop, low = _new_year(year + 1), _new_year(year)
    before, found = _shift(tz, low), []
    while low < stop:
        high = min(low + step, stop)
        after = _shift(tz, high)
        if after != before:
            found.append((_changed(tz, low, high, before), before, after))
        low, before = high, after
    return tuple(found)


def _changed(tz: str, low: int, high: int, before: int) -> int:
    """Return the first second at which the UTC offset is no longer what it was."""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _shift(tz, middle) == before else (low, middle)
    return high


def _shift(tz: str, second: int) -> int:
    """Return a zone's UTC offset in seconds at an instant."""
    offset = (EPOCH + dt.timedelta(seconds=second)).astimezone(zoneinfo.ZoneInfo(tz)).utcoffset()
    assert offset is not None
    return round(offset.total_seconds())


def _new_year(year: int) -> int:
    return (dt.datetime(year, 1, 1, tzinfo=dt.UTC) - EPOCH) // dt.timedelta(seconds=1)


# -- made by users -------------------------------------------------------------------------------


def _length(value: Any, what: str) -> int:
    micros = parse_duration(value, what=what)
    if not micros:
        raise InvalidDuration(
            f"{what} {value!r} is zero: no length of a window", hint='write "1m", "30s", "1d"'
        )
    return micros


def _offset(value: Any, grid: int) -> int:
    """Return an offset within the grid: whole steps of it change nothing."""
    return parse_duration(value, what="offset") % grid


def _zone(tz: Any) -> str | None:
    if tz is None:
        return None
    name = str(getattr(tz, "key", None) or tz)
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        near = _near(name)
        hint = f"did you mean {', '.join(near)}?" if near else 'write one such as "Europe/Berlin"'
        raise QueryError(f"there is no time zone {name!r}", hint=hint) from error
    return name


def _near(name: str) -> list[str]:
    """Return zones spelt like a name, or whose city is."""
    spelt: dict[str, list[str]] = {}
    for zone in sorted(zoneinfo.available_timezones()):
        for part in {zone.lower(), zone.lower().rpartition("/")[2]}:
            spelt.setdefault(part, []).append(zone)
    wanted = name.strip().lower().replace(" ", "_")
    close = difflib.get_close_matches(wanted, spelt, n=3, cutoff=0.7)
    return list(dict.fromkeys(zone for part in close for zone in spelt[part]))[:3]


def tumbling(size: Duration, *, offset: Duration = "0s", tz: Any = None) -> Window:
    """Return windows of equal size, one after the other, aligned to 1970 plus ``offset``.

    With ``tz`` they are calendar days and hours of that zone.

    >>> print(tumbling("1m"))
    tumbling(1m)

    Raises:
        InvalidDuration: a length that is none.
        QueryError: a zone that is none.
    """
    length = _length(size, "size")
    return Window("tumbling", length, length, _offset(offset, length), _zone(tz))


def hopping(size: Duration, every: Duration, *, offset: Duration = "0s", tz: Any = None) -> Window:
    """Return windows of equal size that begin ``every`` so often, and overlap.

    >>> print(hopping("5m", every="1m"))
    hopping(5m, every=1m)

    Raises:
        InvalidDuration: a length that is none.
        QueryError: a zone that is none, or ``every`` is longer than ``size``, so that rows would
            fall between windows.
    """
    length, step = _length(size, "size"), _length(every, "every")
    if step > length:
        raise QueryError(
            f"every={format_duration(step)} is longer than the window of {format_duration(length)}: "
            "rows between two windows would be in none",
            hint="make every at most the size; filter rows that are not wanted",
        )
    return Window("hopping", length, step, _offset(offset, step), _zone(tz))


def cumulative(
    size: Duration, step: Duration, *, offset: Duration = "0s", tz: Any = None
) -> Window:
    """Return windows that begin together each ``size``, and end one ``step`` after the other.

    >>> print(cumulative("1h", step="5m"))
    cumulative(1h, step=5m)

    Raises:
        InvalidDuration: a length that is none.
        QueryError: a zone that is none, or ``size`` is no multiple of ``step``.
    """
    length, part = _length(size, "size"), _length(step, "step")
    if length % part:
        nearest = format_duration(max(length // part, 1) * part)
        raise QueryError(
            f"the size {format_duration(length)} is no multiple of the step {format_duration(part)}",
            hint=f'make the size "{nearest}", or the step one that divides it',
        )
    return Window("cumulative", length, part, _offset(offset, length), _zone(tz))


def session(gap: Duration) -> Window:
    """Return sessions: rows of a key less than ``gap`` apart, until ``gap`` after the last.

    >>> print(session("30s"))
    session(30s)

    Raises:
        InvalidDuration: a gap that is none.
    """
    return Window("session", _length(gap, "gap"))


def sliding(size: Duration) -> Window:
    """Return for each row the time (t - size, t] up to it.

    >>> print(sliding("5m"))
    sliding(5m)

    Raises:
        InvalidDuration: a length that is none.
    """
    return Window("sliding", _length(size, "size"))
