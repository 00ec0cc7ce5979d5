"""A chart as a picture: what matplotlib draws of the points, for stills, export and where no script runs.

Drawn on matplotlib's own figure, never through pyplot. Open windows are hollow, pale or dashed, as in
the live chart.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from streamlab.notebook.series import Line, Plot, Points
from streamlab.palette import INK, MUTED, SERIES, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["figure_of", "png"]

# A name in a script that the font has not is drawn as boxes, and that is all there is to say.
warnings.filterwarnings("ignore", "Glyph", UserWarning, module=r"streamlab\.notebook\.picture")

PIXELS = 1200
"""A line of more points is drawn by the lowest and the highest of each of so many stretches."""

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
"""When the colours begin anew the lines are dashed otherwise."""


def figure_of(plot: Plot, points: Points, note: str = "") -> Figure:
    """Return the picture: title, axes with units, a legend if there are several series."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({**STYLE, "axes.titlesize": 9}):
        figure = Figure(figsize=(9, 3.6))
        axes = figure.subplots()
        figure.suptitle(_plain(plot.title), x=0.012, ha="left", fontsize=12, fontweight="bold")
        axes.set_title(_plain(note))
        lines = list(points.lines.values())
        if plot.kind == "heat":
            _heat(figure, axes, plot, lines)
        else:
            _series(axes, plot, lines)
        if plot.is_time:
            _clock(axes, lines)
        axes.set_xlabel(_plain(f"{plot.x} (UTC)" if plot.is_time else plot.x))
        axes.set_ylabel(_plain(plot.y_title))
    return figure


def png(figure: Figure, dpi: int = 100) -> bytes:
    """Return a figure as PNG."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, metadata={"Software": None})
    return file.getvalue()


def _plain(text: str) -> str:
    return text.replace("$", r"\$").replace("\n", " ")


def _days(plot: Plot, x: np.ndarray) -> Any:
    """Return places as matplotlib takes them."""
    return (x * 1000).astype("int64").astype("datetime64[us]") if plot.is_time else x


def _series(axes: Axes, plot: Plot, lines: list[Line]) -> None:
    base: dict[float, float] = {}  # what stacked bars and areas stand on
    width = _width(lines)
    for index, line in enumerate(lines):
        look: dict[str, Any] = {"color": SERIES[index % len(SERIES)], "label": _plain(line.name)}
        dash = DASHES[index // len(SERIES) % len(DASHES)]
        match plot.kind:
            case "line":
                _draw_line(axes, plot, line, look, dash)
            case "scatter":
                axes.scatter(_days(plot, line.closed.x), line.closed.y, s=6, lw=0, **look)
                axes.scatter(_days(plot, line.open_x), line.open_y, s=14, facecolor="none",
                             edgecolor=look["color"])  # fmt: skip
            case "bar":
                _draw_bars(axes, plot, line, look, base, width)
            case _:
                _draw_area(axes, plot, line, look, base)
    if any(len(line.open_x) for line in lines):
        axes.plot([], [], color=MUTED, ls=(0, (3, 2)), marker="o", mfc="white", ms=4,
                  label="open window: may still change")  # fmt: skip
    if len(lines) > 1 or any(len(line.open_x) for line in lines):
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.02), fontsize=8)


def _draw_line(axes: Axes, plot: Plot, line: Line, look: dict[str, Any], dash: Any) -> None:
    x, y = _sorted(line.closed.x, line.closed.y)
    x, y = _decimated(x, y)
    marker: dict[str, Any] = {"marker": "o", "ms": 2.5} if len(x) < 60 else {}
    axes.plot(_days(plot, x), y, lw=1.5, ls=dash, **marker, **look)
    if len(line.open_x):
        ox, oy = np.append(x[-1:], line.open_x), np.append(y[-1:], line.open_y)
        axes.plot(_days(plot, ox), oy, lw=1.2, ls=(0, (3, 2)), color=look["color"])
        axes.plot(
            _days(plot, line.open_x), line.open_y, "o", ms=4, mfc="white", color=look["color"]
        )


def _draw_bars(
    axes: Axes, plot: Plot, line: Line, look: dict[str, Any], base: dict[float, float], width: float
) -> None:
    wide: Any = np.timedelta64(int(width * 900), "us") if plot.is_time else 0.9 * width
    closed, opened = (line.closed.x, line.closed.y, True), (line.open_x, line.open_y, False)
    for places, values, final in (closed, opened):
        x, y = places[-2000:], np.nan_to_num(values[-2000:])
        stand = np.array([base.get(at, 0.0) for at in x.tolist()])
        style: dict[str, Any] = {} if final else {
            "alpha": 0.4, "hatch": "///", "edgecolor": look["color"], "label": None}  # fmt: skip
        if len(x):
            axes.bar(_days(plot, x), y, width=wide, bottom=stand, align="edge", **{**look, **style})
        base.update(zip(x.tolist(), (stand + y).tolist(), strict=True))


def _draw_area(
    axes: Axes, plot: Plot, line: Line, look: dict[str, Any], base: dict[float, float]
) -> None:
    x, y = _sorted(line.closed.x[-5000:], np.nan_to_num(line.closed.y[-5000:]))
    opened = np.append(x[-1:], line.open_x), np.append(y[-1:], np.nan_to_num(line.open_y))
    for places, values, alpha in ((x, y, 0.75), (*opened, 0.35)):
        stand = np.array([base.get(at, 0.0) for at in places.tolist()])
        axes.fill_between(_days(plot, places), stand, stand + values, alpha=alpha, lw=0, **look)
        look = {**look, "label": None}
    both = np.append(x, line.open_x), np.append(y, np.nan_to_num(line.open_y))
    for at, value in zip(*(part.tolist() for part in both), strict=True):
        base[at] = base.get(at, 0.0) + value


def _heat(figure: Figure, axes: Axes, plot: Plot, lines: list[Line]) -> None:
    if not lines:
        return
    x = np.unique(np.concatenate([np.append(line.closed.x, line.open_x) for line in lines]))[-2000:]
    cells = np.full((len(lines), len(x)), np.nan)
    for row, line in enumerate(lines):
        both = np.append(line.closed.x, line.open_x), np.append(line.closed.y, line.open_y)
        here = np.isin(both[0], x)
        cells[row, np.searchsorted(x, both[0][here])] = both[1][here]
    width = _width(lines)
    edges = np.append(x, x[-1:] + width)
    drawn = axes.pcolormesh(_days(plot, edges), np.arange(len(lines) + 1), cells, cmap="cividis")
    names = [_plain(line.name) for line in lines]
    axes.set_yticks(np.arange(len(lines)) + 0.5, names, fontsize=8 if len(lines) < 20 else 5)
    axes.grid(visible=False)
    bar = figure.colorbar(drawn, ax=axes, pad=0.01)
    bar.set_label(_plain(plot.value_title), color=INK)


def _width(lines: list[Line]) -> float:
    """Return how far apart places are: the least difference of two."""
    places = [np.append(line.closed.x[-2000:], line.open_x) for line in lines]
    steps = np.diff(np.unique(np.concatenate(places))) if places else np.empty(0)
    return float(steps.min()) if len(steps) else 1.0


def _sorted(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if len(x) < 2 or bool((np.diff(x) >= 0).all()):
        return x, y
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def _decimated(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest point of each stretch, in order."""
    if len(x) <= 4 * PIXELS:
        return x, y
    size = len(x) // PIXELS
    rows = np.nan_to_num(y[: size * PIXELS]).reshape(PIXELS, size)
    start = np.arange(PIXELS) * size
    ends = [start + rows.argmin(1), start + rows.argmax(1)]
    picked = np.unique(np.concatenate([*ends, np.arange(size * PIXELS, len(x))]))
    return x[picked], y[picked]


def _clock(axes: Axes, lines: list[Line]) -> None:
    if not any(len(line.closed) + len(line.open_x) for line in lines):
        return
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator: Any = AutoDateLocator
    formatter: Any = ConciseDateFormatter
    places = locator(minticks=4, maxticks=9)
    axes.xaxis.set_major_locator(places)
    axes.xaxis.set_major_formatter(formatter(places))
