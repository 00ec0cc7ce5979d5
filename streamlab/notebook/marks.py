"""Watermarks: when rows happened against when they came, and how many another delay would keep.

Each row that comes behind the watermark is late from some delay downwards. The rows come with that
delay (see `Query.watermarks`), so the browser needs no kernel to say how many are late for any other.

Invariants: what is kept is bounded: the last rows for drawing, and of the delays that rows need a
tally, which is exact up to `MOST_COUNTED` of them. A look costs what has come since the last one.
"""

from __future__ import annotations

import base64
import time as clock
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import streamlab as sl
from streamlab.notebook.following import Following, Polled
from streamlab.notebook.live import escape, module, text_of
from streamlab.notebook.picture import png
from streamlab.palette import GREEN, INK, LATE, MUTED, SKY, STYLE

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Marks"]

Whole = npt.NDArray[np.int64]

POINTS = 1_200
"""So many rows are drawn over all, evenly, and so many in the stretch that is shown first."""

MOST_LATE = 1_600
"""So many of the rows that are furthest behind their windows are drawn."""

MOST_COUNTED = 1_000_000
"""Of more late rows the delays that they need are told apart to 12 bits."""

MOST_CURVE = 20_000
"""Of more late rows the browser is told every so many; counts are then right to within these."""

STRETCH = 200
"""How many rows are shown first, either side of where the most are late."""

RECENT = 60_000_000
"""Once rows come, the last minute of them is shown, in microseconds of append time."""

MOST_EDGES = 40
"""Of windows whose edges are closer than this many to the picture, none are drawn."""

FOREVER = 2**62


class Tally:
    """The delays that late rows need, sorted: how many rows are late for any delay.

    For some delays the number is exact however many rows there are.
    """

    def __init__(self, *exact: int) -> None:
        self._exact = dict.fromkeys(exact, 0)
        self.values, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._coarse = False
        self._sum()

    def add(self, needed: Whole) -> None:
        """Count more rows."""
        for delay in self._exact:
            self._exact[delay] += int((needed >= delay).sum())
        new = np.sort(_rounded(needed) if self._coarse else needed)
        at = np.searchsorted(self.values, new)
        self.values = np.insert(self.values, at, new)
        self._counts = np.insert(self._counts, at, 1)
        if len(self.values) > MOST_COUNTED:
            self._coarse = True
            self.values, where = np.unique(_rounded(self.values), return_inverse=True)
            self._counts = np.bincount(where, self._counts).astype(np.int64)
        self._sum()

    def _sum(self) -> None:
        self._below = np.concatenate([[0], np.cumsum(self._counts)])

    def __len__(self) -> int:
        return int(self._below[-1])

    def late(self, delay: int) -> int:
        """Return how many rows need at least so long a delay, and more: these are late for it."""
        if delay in self._exact:
            return self._exact[delay]
        return len(self) - int(self._below[np.searchsorted(self.values, delay, "left")])

    def curve(self) -> tuple[int, Whole]:
        """Return a step, and of the rows from the latest on the delay that each step-th needs."""
        every = -(-len(self) // MOST_CURVE) or 1
        ranks = np.arange(len(self) - 1, -1, -every)
        return every, self.values[np.searchsorted(self._below, ranks, "right") - 1]


def _rounded(values: Whole) -> Whole:
    """Return numbers with their first 12 bits only."""
    exponents = np.frexp(np.maximum(values, 1).astype(np.float64))[1]
    steps = np.int64(1) << np.maximum(exponents - 12, 0).astype(np.int64)
    rounded: Whole = values // steps * steps
    return rounded


class Marks(Following):
    """The picture of a query's watermark; made by ``query.watermarks()``."""

    _esm = module("axes.js", "marks.js", store="marksStore", render="renderMarks")
    _css = text_of("live.css", "chart.css", "marks.css")

    def __init__(
        self, source: sl.Query, arrivals: Callable[[], Polled], *, measure: Callable[[Any], int],
        window: sl.Window, delay: int, chosen: Any, time: str, rows: int, height: int,
    ) -> None:  # fmt: skip
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise ValueError(f"rows is a number of rows, at least 1; got {rows!r}")
        self._arrivals, self._measure, self._window = arrivals, measure, window
        self._time, self._own = time, delay
        self.delay = delay if chosen is None else measure(chosen)
        self._keep, self._height = rows, height
        self._name = source.sources[0]
        self._forget()
        super().__init__(source, "earliest")
        self._fps = 4.0
        self._begin()

    def _followed(self) -> Polled:
        return self._arrivals()

    # -- what users do -----------------------------------------------------------------------

    def late_rows(self, delay: Any) -> int:
        """Return how many rows would be late for a delay, as `Query.lateness` counts them."""
        micros = self._measure(delay)
        with self._lock:
            return self._tally.late(micros)

    def wait(self, timeout: float | None = 10.0) -> Marks:
        """Return when everything there was at the call has been looked at."""
        until = clock.monotonic() + (1e9 if timeout is None else timeout)
        while True:
            super().wait(max(0.001, until - clock.monotonic()))
            if self.ended or self.paused or self.error is not None or not self._results.behind:
                return self

    def figure(self) -> Figure:
        """Return the picture as it is now, drawn by matplotlib."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with self._lock:
            rows, says, near = self._drawn(), self._says(), self._stretch()
        rows = rows.filter(rows["offset"].is_between(*near))
        with mpl.rc_context({**STYLE, "axes.titlesize": 9}):
            figure = Figure(figsize=(9, 4))
            axes = figure.subplots()
            figure.suptitle(f"{self._name}: event time in the order of arrival".replace("$", r"\$"),
                            x=0.012, ha="left", fontsize=12, fontweight="bold")  # fmt: skip
            axes.set_title(says)
            self._draw(axes, rows)
            axes.set_xlabel("order of arrival (offset)", color=INK)
            axes.set_ylabel(f"{self._time} (UTC)".replace("$", r"\$"))
            axes.legend(loc="upper left", fontsize=8, ncols=4, bbox_to_anchor=(0, -0.16))
        return figure

    def _draw(self, axes: Axes, rows: pl.DataFrame) -> None:
        x, late = rows["offset"].to_numpy(), rows["needed"].to_numpy() >= self.delay
        micros = rows["time"].to_numpy()
        time = micros.astype("datetime64[us]")
        edges = self._edges_between(int(micros.min()), int(micros.max())) if len(rows) else []
        for number, edge in enumerate(edges):
            at: Any = np.datetime64(edge, "us")
            axes.axhline(at, color=MUTED, lw=0.7, ls=(0, (2, 3)), zorder=1,
                         label="" if number else "edge of a window")  # fmt: skip
        if self.delay < FOREVER:
            mark = (rows["stream_time"].to_numpy() - self.delay).astype("datetime64[us]")
            axes.step(x, mark, where="post", color=GREEN, lw=1.8,
                      label="watermark: newest event less the delay")  # fmt: skip
        axes.scatter(x[~late], time[~late], s=6, color=SKY, lw=0, label="in time")
        axes.scatter(x[late], time[late], s=22, color=LATE, edgecolor="white",
                     lw=0.5, zorder=4, label="late: its windows had closed")  # fmt: skip

    def save(self, path: str | PathLike[str], *, dpi: int = 144) -> Path:
        """Write the picture as it is now; the ending says the format: png, svg, pdf."""
        target = Path(path)
        self.figure().savefig(target, dpi=dpi, metadata=None)
        return target

    # -- rows and counts ---------------------------------------------------------------------

    def _forget(self) -> None:
        import polars as pl

        names = ("offset", "time", "appended", "stream_time", "needed")
        self._rows = pl.DataFrame(schema=dict.fromkeys(names, pl.Int64))
        self._tally = Tally(self._own, self.delay)
        self._taken = 0
        self._caught_up = self._moves = False

    def _add(self, found: pl.DataFrame) -> None:
        needed = found["needed"].to_numpy()
        self._tally.add(needed[needed >= 0])
        self._taken += len(found)
        self._rows = self._rows.vstack(found).tail(self._keep).rechunk()
        self._moves = self._moves or self._caught_up

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        if not self._paused:
            found = self._poll()
            if found.height:
                self._add(found)
                full = True
            self._caught_up = self._caught_up or not self._results.behind
        return self._content() if full else None

    # -- what is drawn -----------------------------------------------------------------------

    def _stretch(self) -> tuple[int, int]:
        """Return the offsets that are shown first: the last minute of what comes, or where most are late."""
        offsets = self._rows["offset"].to_numpy()
        if not len(offsets):
            return 0, 1
        first, last = int(offsets[0]), int(offsets[-1])
        late = offsets[self._rows["needed"].to_numpy() >= self.delay]
        if self._moves:
            appended = self._rows["appended"].to_numpy()
            since = int(offsets[np.searchsorted(appended, appended[-1] - RECENT)])
            return max(first, min(since, last - 2 * STRETCH)), last
        if not len(late):
            return max(first, last - 2 * STRETCH), last
        near = np.searchsorted(late, late + STRETCH) - np.searchsorted(late, late - STRETCH)
        middle = int(late[int(near.argmax())])
        return max(first, middle - STRETCH), min(last, middle + STRETCH)

    def _drawn(self) -> pl.DataFrame:
        """Return the rows that are drawn: some evenly, some of the stretch, those that need most."""
        rows = self._rows
        if not len(rows):
            return rows
        low, high = np.searchsorted(rows["offset"].to_numpy(), self._stretch())
        needed = rows["needed"].to_numpy()
        latest = np.flatnonzero(needed >= 0)
        if len(latest) > MOST_LATE:
            latest = latest[np.argpartition(needed[latest], -MOST_LATE)[-MOST_LATE:]]
        picked = np.unique(np.concatenate([
            _evenly(0, len(rows) - 1), _evenly(int(low), max(int(low), int(high))), latest,
        ]))  # fmt: skip
        return rows[picked]

    def _edges(self) -> tuple[int, int] | None:
        """Return how far apart the ends of windows are, and one of them; None if they have no grid."""
        kind, window = self._window.kind, self._window
        if window.tz is not None or kind in ("session", "sliding"):
            return None
        every = window.size if kind == "tumbling" else window.every
        return every, (window.offset + window.size) % every

    def _edges_between(self, low: int, high: int) -> list[int]:
        grid = self._edges()
        if grid is None or high - low > MOST_EDGES * grid[0]:
            return []
        every, first = grid
        start = -(-(low - first) // every) * every + first
        return list(range(start, high + 1, every))

    def _content(self) -> tuple[dict[str, Any], list[bytes]]:
        rows, grid = self._drawn(), self._edges()
        every, curve = self._tally.curve()
        behind = int((self._rows["needed"] >= 0).sum())
        content = {
            "title": f"{self._name}: event time against arrival",
            "time": self._time,
            "delay": _finite(self._own),
            "chosen": _finite(self.delay),
            "exact": self._tally.late(self._own),
            "rows": self._taken,
            "every": every,
            "drawn": len(rows),
            "kept": len(self._rows),
            "latest": min(MOST_LATE, behind),
            "behind_windows": behind,
            "one_in": max(1.0, len(self._rows) / POINTS),
            "range": list(self._stretch()),
            "edges": None if grid is None else {"every": grid[0] / 1000, "first": grid[1] / 1000},
            "behind": self._results.behind,
            "height": self._height,
            "paused": self._paused,
        }
        milliseconds = [
            rows[name].to_numpy() / 1000 for name in ("time", "appended", "stream_time")
        ]
        columns = [rows["offset"].to_numpy(), *milliseconds, rows["needed"].to_numpy(), curve]
        return content, [column.astype("<f8").tobytes() for column in columns]

    def _says(self) -> str:
        late = self._tally.late(self.delay)
        delay = "infinite" if self.delay >= FOREVER else f"{self.delay / 1e6:g} s"
        return f"with a delay of {delay}, {late:,} of {self._taken:,} rows are late"

    def _about(self) -> str:
        return f"the watermark of {self._name}"

    def _still_html(self) -> str:
        data = base64.b64encode(png(self.figure())).decode("ascii")
        return f'<img alt="{escape(self._says())}" style="max-width:100%" src="data:image/png;base64,{data}">'


def _finite(delay: int) -> int | None:
    return None if delay >= FOREVER else delay


def _evenly(first: int, last: int) -> Whole:
    """Return places from first to last, so many as are drawn, evenly."""
    return np.linspace(first, last, min(POINTS, last - first + 1)).astype(np.int64)
