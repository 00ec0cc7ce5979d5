"""A chart that follows a query: what is final stays, what is open is drawn as provisional."""

from __future__ import annotations

import base64
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import streamlab as sl
from streamlab.notebook.following import Following
from streamlab.notebook.live import Live, escape, module, text_of
from streamlab.notebook.picture import figure_of, png
from streamlab.notebook.results import ResultTable
from streamlab.notebook.series import Line, Plot, Points, plot_of
from streamlab.notebook.table import checked_rows
from streamlab.notebook.values import since
from streamlab.palette import SERIES

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.figure import Figure

__all__ = ["LiveChart", "LivePicture", "live_chart"]

FPS, BYTES_A_SECOND = 30.0, 6_000_000

LEAST_HEIGHT, MOST_HEIGHT = 120, 2000


class LiveChart(Following):
    """A chart of a query's results, as they come; made by ``query.live(...)``."""

    _esm = module("axes.js", "chart.js", store="chartStore", render="renderChart")
    _css = text_of("live.css", "chart.css")

    def __init__(
        self, query: sl.Query, plot: Plot, *, start: Any, height: int, zone: str,
        stream: sl.Stream | None,
    ) -> None:  # fmt: skip
        self.plot = plot
        self._height, self._zone = height, zone
        self._points = Points(plot)
        self._known: list[tuple[Any, ...]] = []  # the series that the browser knows, in order
        self._status = ""
        super().__init__(query, start, stream)
        self._fps = FPS
        self._begin()

    # -- what users do -----------------------------------------------------------------------

    def frame(self) -> pl.DataFrame:
        """Return the points that are drawn: ``series``, x, ``value``, ``final``."""
        import polars as pl

        plot = self.plot
        with self._lock:
            parts = [
                pl.DataFrame({"series": line.name, plot.x: x, "value": y, "final": final})
                for line in self._points.lines.values()
                for x, y, final in (
                    (line.closed.x, line.closed.y, True), (line.open_x, line.open_y, False)
                )
                if len(x)
            ]  # fmt: skip
        kinds = {"series": pl.String, plot.x: pl.Float64, "value": pl.Float64, "final": pl.Boolean}
        found = pl.concat([pl.DataFrame(schema=kinds), *parts])
        if plot.is_time:
            micros = (pl.col(plot.x) * 1000).round().cast(pl.Int64)
            found = found.with_columns(micros.cast(pl.Datetime("us", "UTC")))
        return found

    def figure(self) -> Figure:
        """Return the picture as it is now, drawn by matplotlib."""
        with self._lock:
            return figure_of(self.plot, self._points, self._status)

    def save(self, path: str | PathLike[str], *, dpi: int = 144) -> Path:
        """Write the picture as it is now; the ending says the format: png, svg, pdf."""
        target = Path(path)
        self.figure().savefig(target, dpi=dpi, metadata=None)
        return target

    # -- what a view says --------------------------------------------------------------------

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        if self._paused:
            return self._content(full=True) if full else None
        found = self._poll()
        if found.height:
            self._points.add(found)
        status = self._say_status()
        if not found.height and not full and status == self._status:
            return None
        self._status = status
        return self._content(full=full or self._unknown())

    def _columns(self) -> list[str]:
        return self.plot.columns

    def _forget(self) -> None:
        self._points.clear()
        self._known = []

    def _unknown(self) -> bool:
        """Whether there are series that the browser does not know."""
        return list(self._points.lines) != self._known or not self._known

    def _say_status(self) -> str:
        results = self._results
        parts = []
        if results.behind:
            share = results.rows_in / max(results.rows_in + results.behind, 1)
            parts.append(f"reading history, {share:.0%}")
        parts.append(f"{results.rows_in:,} rows")
        if self.plot.identity:
            late, share = results.rows_late, results.rows_late / max(results.rows_in, 1)
            digits = 1 if share >= 0.001 else 3
            parts.append(f"{late:,} late ({share:.{digits}%})" if late else "none late")
            mark = results.watermark
            over = mark is None and results.rows_in and not results.behind
            parts.append("all windows closed" if over else f"watermark {since(mark)}")
        if self._points.left_out:
            parts.append(f"{len(self._points.left_out):,} more series are not drawn")
        return " · ".join(parts)

    def _content(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]]:
        """Return a frame: new closed points (all, if full) and all open ones, series by series."""
        parts, xs, ys = [], [], []
        for index, line in enumerate(self._points.lines.values()):
            closed = len(line.closed) if full else min(line.new, len(line.closed))
            if closed or len(line.open_x) or full:
                parts.append({"s": index, "closed": closed, "open": len(line.open_x)})
                xs += [_last(line.closed.x, closed), line.open_x]
                ys += [_last(line.closed.y, closed), line.open_y]
            line.new = 0
        content: dict[str, Any] = {"parts": parts, "status": self._status, "paused": self._paused}
        if full:
            self._known = list(self._points.lines)
            content |= self._about_all()
        x, y = (np.concatenate(v) if v else np.empty(0) for v in (xs, ys))
        if not full:  # where very many windows are open they are told less often
            self._fps = min(FPS, max(1.0, BYTES_A_SECOND / (12 * len(x) + 1)))
        return content, [x.astype("<f8").tobytes(), y.astype("<f4").tobytes()]

    def _about_all(self) -> dict[str, Any]:
        plot = self.plot
        return {
            "full": True,
            "title": plot.title,
            "kind": plot.kind,
            "time": plot.is_time,
            "x": plot.x,
            "y": plot.y_title,
            "value": plot.value_title,
            "provisional": bool(plot.identity),
            "zone": self._zone,
            "height": self._height,
            "colors": list(SERIES),
            "series": [_named(line) for line in self._points.lines.values()],
        }

    def _about(self) -> str:
        return self.plot.title

    def _still_html(self) -> str:
        data = base64.b64encode(png(self.figure())).decode("ascii")
        alt = escape(f"{self.plot.kind} chart, {self.plot.title}")
        return f'<img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{data}">'


def _named(line: Line) -> dict[str, Any]:
    return {"name": line.name, "keep": line.closed.keep}


def _last(values: np.ndarray, count: int) -> np.ndarray:
    return values[len(values) - count :]


class LivePicture(LiveChart):
    """The same chart as a picture that is drawn in the kernel: no JavaScript of ours runs."""

    def __init__(self, *given: Any, **named: Any) -> None:
        import ipywidgets

        self.image = ipywidgets.Image(format="png")
        super().__init__(*given, **named)

    def open(self) -> None:
        """Open no channel: nothing but the picture is shown."""

    def _say_frame(self, found: tuple[dict[str, Any], list[bytes]], *, full: bool) -> None:
        del found, full
        self._fps = 5.0
        self.image.value = png(self.figure())

    def _fail(self, error: Exception) -> None:
        super()._fail(error)
        self._status = f"{type(error).__name__}: {error}"
        self.image.value = png(self.figure())

    def close(self) -> None:
        """Stop, and take the picture out of the notebook."""
        super().close()
        self.image.close()

    def _ipython_display_(self, **_: Any) -> None:
        from IPython import display

        show: Any = display.display
        show(self.image)


def live_chart(
    query: sl.Query, *, x: str | None = None, y: Any = None, color: Any = None, kind: str = "line",
    title: str | None = None, unit: str = "", start: Any = "earliest", keep: int = 100_000,
    height: int = 320, zone: str = "utc", backend: str = "canvas", rows: int = 20,
    stream: sl.Stream | None = None,
) -> Live:  # fmt: skip
    """Return a live chart of a query, or with ``kind="table"`` a table of its results.

    ``stream`` is given where the query is a stream as it is: its rows are read without one.

    Raises:
        QueryError: a column or an option that is none.
    """
    for name, value, choices in (
        ("zone", zone, ("utc", "local")),
        ("backend", backend, ("canvas", "matplotlib")),
    ):
        if value not in choices:
            raise sl.QueryError(f"{name} is {' or '.join(map(repr, choices))}; got {value!r}")
    if (
        isinstance(height, bool)
        or not isinstance(height, int)
        or not LEAST_HEIGHT <= height <= MOST_HEIGHT
    ):
        raise sl.QueryError(f"height is {LEAST_HEIGHT} to {MOST_HEIGHT} pixels; got {height!r}")
    if kind == "table":
        return ResultTable(query, checked_rows(rows), title, start)
    identity = query.identity
    plot = plot_of(
        query.schema, identity, x=x, y=y, color=color, kind=kind, title=title, unit=unit, keep=keep,
        what=" and ".join(query.sources),
    )  # fmt: skip
    made = LiveChart if backend == "canvas" else LivePicture
    return made(query, plot, start=start, height=height, zone=zone, stream=stream)
