"""Watermarks: when rows happened against when they came, and how many another delay would keep.

Each row that comes behind the watermark is late from some delay downwards: the difference between the
stream time that it met and the end of the last window that would have taken it. The engine tells it
for a delay of zero, once for all; a browser then needs no kernel to say how many are late for any
delay.
"""

from __future__ import annotations

import base64
import threading
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import streamlab as sl
from streamlab.notebook.following import Following
from streamlab.notebook.live import escape, module, text_of
from streamlab.notebook.picture import png
from streamlab.palette import GREEN, INK, LATE, SKY, STYLE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Marks"]

POINTS = 2_500
"""So many rows in time are drawn over all, and so many in the stretch that is shown first."""

MOST_LATE = 4_000
"""So many late rows are drawn."""

MOST_CURVE = 50_000
"""Of more late rows the browser is told every so many; counts are then right to within these."""

STRETCH = 200
"""How many rows are shown first, either side of where the most are late."""

FOREVER = 2**62


class Marks(Following):
    """The picture of a query's watermark; made by ``query.watermarks()``."""

    _esm = module("axes.js", "marks.js", store="marksStore", render="renderMarks")
    _css = text_of("live.css", "chart.css", "marks.css")

    def __init__(
        self, source: sl.Query, zero: sl.Query, *, time: str, delay: int, own: bool, rows: int,
        height: int,
    ) -> None:  # fmt: skip
        if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
            raise ValueError(f"rows is a number of rows, at least 1; got {rows!r}")
        self._zero, self._time, self.delay, self._own = zero, time, delay, own
        self._keep, self._height = rows, height
        self._name = source.sources[0]
        self._forget()
        self._counted = 0  # rows that were counted when it was last worked out
        self._counting = False
        self._needed, self._late = np.empty(0, np.int64), np.empty(0, np.int64)
        self._places: dict[int, int] = {}
        columns = list(dict.fromkeys([time, "_offset", "_append_time"]))
        super().__init__(source.select(*columns), "earliest")
        self._fps = 4.0
        self._begin()

    # -- what users do -----------------------------------------------------------------------

    def late_rows(self, delay: Any) -> int:
        """Return how many rows would be late for a delay, as `Query.lateness` counts them."""
        micros = sl.tumbling(delay).size if delay not in ("0s", 0) else 0
        with self._lock:
            return self._count(micros)

    def figure(self) -> Figure:
        """Return the picture as it is now, drawn by matplotlib."""
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with self._lock:
            x, y, needed, stream_time = self._shown()
            says = self._says()
        late = needed >= self.delay
        with mpl.rc_context({**STYLE, "axes.titlesize": 9}):
            figure = Figure(figsize=(9, 4))
            axes = figure.subplots()
            figure.suptitle(f"{self._name}: event time in the order of arrival".replace("$", r"\$"),
                            x=0.012, ha="left", fontsize=12, fontweight="bold")  # fmt: skip
            axes.set_title(says)
            near = self._stretch(x)
            inside = (x >= near[0]) & (x <= near[1])
            time = (y * 1000).astype("int64").astype("datetime64[us]")
            mark = ((stream_time * 1000).astype("int64") - min(self.delay, FOREVER)).astype(
                "datetime64[us]"
            )
            axes.step(x[inside], mark[inside], where="post", color=GREEN, lw=1.8,
                      label="watermark: newest event less the delay")  # fmt: skip
            axes.scatter(
                x[inside & ~late], time[inside & ~late], s=6, color=SKY, lw=0, label="in time"
            )
            axes.scatter(x[inside & late], time[inside & late], s=22, color=LATE, edgecolor="white",
                         lw=0.5, zorder=4, label="late: its windows had closed")  # fmt: skip
            axes.set_xlabel("order of arrival (offset)", color=INK)
            axes.set_ylabel(f"{self._time} (UTC)".replace("$", r"\$"))
            axes.legend(loc="upper left", fontsize=8, ncols=3, bbox_to_anchor=(0, -0.16))
        return figure

    def save(self, path: str | PathLike[str], *, dpi: int = 144) -> Path:
        """Write the picture as it is now; the ending says the format: png, svg, pdf."""
        target = Path(path)
        self.figure().savefig(target, dpi=dpi, metadata=None)
        return target

    # -- rows and counts ---------------------------------------------------------------------

    def _forget(self) -> None:
        self._x, self._y = np.empty(0), np.empty(0)
        self._appended, self._stream_time = np.empty(0), np.empty(0)
        self._newest = -np.inf
        self._taken = 0

    def _add(self, found: Any) -> None:
        """Take rows: offsets, event times, append times, and the stream time that each leaves."""
        import polars as pl

        def milliseconds(column: pl.Series) -> np.ndarray:
            return column.dt.epoch("us").cast(pl.Float64).to_numpy() / 1000

        y = milliseconds(found[self._time])
        newest = np.maximum.accumulate(
            np.concatenate([[self._newest], np.nan_to_num(y, nan=-np.inf)])
        )[1:]
        self._newest = float(newest[-1])
        self._taken += len(y)
        for name, more in (
            ("_x", found["_offset"].cast(pl.Float64).to_numpy()), ("_y", y), ("_stream_time", newest),
            ("_appended", milliseconds(found["_append_time"])),
        ):  # fmt: skip
            setattr(self, name, np.concatenate([getattr(self, name), more])[-self._keep :])

    def _work_out(self) -> None:
        """Ask the engine which rows are late for a delay of zero, and how long each would need."""
        import polars as pl

        counted = self._taken
        try:
            late = self._zero.late()
            needed = late["late_by"].cast(pl.Int64).to_numpy() - int(self._own)
            offsets = (
                late["_offset"].to_numpy() if "_offset" in late.columns else np.empty(0, np.int64)
            )
        except sl.StreamlabError as error:
            with self._lock:
                self._counting, self._counted, self._problem = False, counted, str(error)
            return
        with self._lock:
            self._needed = np.sort(needed)
            self._late = offsets
            self._places = dict(zip(offsets.tolist(), needed.tolist(), strict=False))
            self._counting, self._counted, self._full = False, counted, True
        self._wake.set()

    def _count(self, delay: int) -> int:
        """Return how many rows need at least so long a delay, and more: these are late for it."""
        return len(self._needed) - int(np.searchsorted(self._needed, delay, "left"))

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        if not self._paused:
            found = self._poll()
            if found.height:
                self._add(found)
                full = True
            if self._taken != self._counted and not self._counting and not self._results.behind:
                self._counting = True
                threading.Thread(target=self._work_out, name="streamlab marks", daemon=True).start()
        return self._content() if full else None

    def wait(self, timeout: float | None = 10.0) -> Marks:
        """Return when everything there was at the call has been looked at, and counted."""
        import time

        until = time.monotonic() + (timeout or 1e9)
        while True:
            super().wait(timeout)
            with self._lock:
                if self.ended or (self._counted == self._taken and not self._counting):
                    return self
            if time.monotonic() > until:
                raise TimeoutError(f"still counting: {self._about()}")
            time.sleep(0.005)

    # -- what is drawn -----------------------------------------------------------------------

    def _stretch(self, x: np.ndarray) -> tuple[float, float]:
        """Return the offsets around which the most rows are late."""
        if not len(x):
            return 0.0, 1.0
        late = self._late[self._late >= x[0]]
        late = late[[self._places[int(o)] >= self.delay for o in late]] if len(late) else late
        if not len(late):
            return float(max(x[0], x[-1] - 2 * STRETCH)), float(x[-1])
        late = np.sort(late)
        near = np.searchsorted(late, late + STRETCH) - np.searchsorted(late, late - STRETCH)
        middle = float(late[int(near.argmax())])
        return max(float(x[0]), middle - STRETCH), min(float(x[-1]), middle + STRETCH)

    def _shown(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the rows that are drawn: places, times, the delay each needs (-1: none), stream times."""
        x = self._x
        if not len(x):
            return x, self._y, np.empty(0, np.int64), self._stream_time
        picked = np.linspace(0, len(x) - 1, min(POINTS, len(x))).astype(np.int64)
        low, high = np.searchsorted(x, self._stretch(x))
        near = np.linspace(low, max(low, high - 1), min(POINTS, max(high - low, 1))).astype(
            np.int64
        )
        late = self._late[(self._late >= x[0]) & (self._late <= x[-1])][-MOST_LATE:]
        at = np.searchsorted(x, late)
        picked = np.unique(np.concatenate([picked, near, at[at < len(x)]]))
        needed = np.array([self._places.get(int(offset), -1) for offset in x[picked]], np.int64)
        return x[picked], self._y[picked], needed, self._stream_time[picked]

    def _content(self) -> tuple[dict[str, Any], list[bytes]]:
        x, y, needed, stream_time = self._shown()
        picked = np.searchsorted(self._x, x)
        every = -(-len(self._needed) // MOST_CURVE) or 1
        curve = self._needed[::-1][::every]
        content = {
            "title": f"{self._name}: event time against arrival",
            "time": self._time,
            "delay": None if self.delay >= FOREVER else self.delay,
            "rows": self._taken,
            "every": every,
            "counted": self._counted == self._taken,
            "sampled": len(self._x) > len(x),
            "drawn": len(x),
            "kept": len(self._x),
            "range": list(self._stretch(self._x)),
            "height": self._height,
            "paused": self._paused,
        }
        buffers = [
            x.astype("<f8"), y.astype("<f8"), self._appended[picked].astype("<f8"),
            stream_time.astype("<f8"), needed.astype("<f8"), curve.astype("<f8"),
        ]  # fmt: skip
        return content, [buffer.tobytes() for buffer in buffers]

    def _says(self) -> str:
        late = self._count(self.delay)
        delay = "infinite" if self.delay >= FOREVER else f"{self.delay / 1e6:g} s"
        return f"with a delay of {delay}, {late:,} of {self._taken:,} rows are late"

    def _about(self) -> str:
        return f"the watermark of {self._name}"

    def _still_html(self) -> str:
        data = base64.b64encode(png(self.figure())).decode("ascii")
        return f'<img alt="{escape(self._says())}" style="max-width:100%" src="data:image/png;base64,{data}">'
