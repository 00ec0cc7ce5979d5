"""What the demo shows: tables for a terminal, charts as PNG, and one page of HTML.

Presentation only: every function takes frames that are ready and returns text, a figure or HTML.
Charts are drawn on matplotlib's own figure, never through pyplot, so nothing of a notebook's or a
program's plotting state is touched. Colours are those of Okabe and Ito, which people with any
colour vision can tell apart; red (vermillion) always and only means: late.

The page is self-contained: pictures are data URIs, styles are inline, every value is escaped.
"""

from __future__ import annotations

import base64
import datetime as dt
import html
import textwrap
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamlab.palette import (
    BLUE,
    GREEN,
    INK,
    LATE,
    MUTED,
    ORANGE,
    PURPLE,
    SKY,
    STYLE,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "Crash",
    "Section",
    "Table",
    "contents",
    "crash_chart",
    "host_chart",
    "lateness_chart",
    "live_chart",
    "page",
    "save",
    "wrapped",
]

LATE_DOTS: Any = {"s": 30, "color": LATE, "edgecolor": "white", "linewidth": 0.5, "zorder": 4}

# ------------------------------------------------------------------------------------ tables


@dataclass(frozen=True)
class Table:
    """A frame with a title, as text of aligned columns or as HTML.

    Column names are shown as they are, so they carry the units. ``decimals`` is how many a float
    column shows (2 where it is silent).
    """

    title: str
    frame: pl.DataFrame
    note: str = ""
    decimals: Mapping[str, int] = field(default_factory=dict)

    def columns(self) -> list[list[str]]:
        """Return the cells of each column as text."""
        return [
            [_cell(value, self.decimals.get(series.name, 2)) for value in series]
            for series in self.frame
        ]

    def is_number(self) -> list[bool]:
        """Return which columns stand to the right."""
        return [kind.is_numeric() for kind in self.frame.dtypes]

    def text(self) -> str:
        """Return the table for a terminal, two columns in from the left."""
        right = self.is_number()
        columns = []
        for name, cells, numeric in zip(self.frame.columns, self.columns(), right, strict=True):
            width = max(_width(text) for text in (name, *cells))
            columns.append([_pad(text, width, numeric) for text in (name, "─" * width, *cells)])
        lines = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        return "\n".join(f"  {line}".rstrip() for line in (self.title, "", *lines, *self._notes()))

    def _notes(self) -> list[str]:
        return ["", *self.note.splitlines()] if self.note else []

    def html(self) -> str:
        """Return the table as HTML, every value escaped."""
        right = [' class="n"' if numeric else "" for numeric in self.is_number()]
        names = self.frame.columns
        head = "".join(f"<th{c}>{_escape(n)}</th>" for n, c in zip(names, right, strict=True))
        body = "".join(
            "<tr>"
            + "".join(f"<td{c}>{_escape(t)}</td>" for t, c in zip(row, right, strict=True))
            + "</tr>\n"
            for row in zip(*self.columns(), strict=True)
        )
        note = f'<p class="note">{_escape(self.note)}</p>' if self.note else ""
        return (
            f"<figure><figcaption>{_escape(self.title)}</figcaption>"
            f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>{note}</figure>\n"
        )


def _cell(value: Any, decimals: int) -> str:
    match value:
        case None:
            return "–"  # noqa: RUF001
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.{decimals}f}"
        case dt.datetime():
            return value.strftime("%H:%M" if value.second == value.microsecond == 0 else "%H:%M:%S")
        case _:
            return str(value)


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(map(bool, map(unicodedata.combining, text)))


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def wrapped(text: str) -> str:
    """Return text with its long lines broken, deeper in than they begin."""
    lines = []
    for line in text.splitlines():
        inner = " " * (len(line) - len(line.lstrip()) + 4)
        lines += textwrap.wrap(line, 94, subsequent_indent=inner, break_on_hyphens=False)
    return "\n".join(lines)


def contents(folder: Path) -> str:
    """Return what a folder holds, with sizes."""
    lines = []
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_file(), path.name)):
        files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
        size = sum(file.stat().st_size for file in files)
        name = path.name if path.is_file() else f"{path.name}/"
        lines.append(f"  {name:<16} {size / 1e6:>7.2f} MB")
    return "\n".join([f"  {folder}", "", *lines])


# ------------------------------------------------------------------------------------ charts


@dataclass(frozen=True)
class Crash:
    """A fall in price: whose, from when to when, how deep."""

    symbol: str
    start: dt.datetime
    low: dt.datetime
    stop: dt.datetime
    fall: float  # share of the price before, 0 to 1


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG and return the path."""
    figure.savefig(path, dpi=144, format="png", metadata={"Software": None})
    return path


@contextmanager
def _drawing(
    title: str, height: float, *ratios: float, share_x: bool = True
) -> Iterator[tuple[Figure, list[Any]]]:
    """Give a figure under a title and its axes, one above the other, in our style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, height))
        rows = {"height_ratios": ratios}
        axes = figure.subplots(len(ratios), 1, sharex=share_x, squeeze=False, gridspec_kw=rows)
        figure.suptitle(_plain(title), x=0.012, ha="left", fontsize=13.5, fontweight="bold")
        yield figure, list(axes[:, 0])


def _plain(text: str) -> str:
    """Return text in which a dollar sign is a dollar sign, not mathematics."""
    return text.replace("$", r"\$")


def _low(column: pl.Series) -> Any:
    return column.min()


def _high(column: pl.Series) -> Any:
    return column.max()


def _heading(axis: Axes, says: str, *, legend: int = 0) -> None:
    """Write what the axes show, and under it a legend of ``legend`` columns."""
    axis.set_title(_plain(says), pad=26 if legend else 7)
    if legend:
        axis.legend(loc="lower left", bbox_to_anchor=(-0.008, 0.985), ncols=legend)


def _clock(axis: Axis, pattern: str = "%H:%M") -> None:
    from matplotlib.dates import AutoDateLocator, DateFormatter

    locator: Any = AutoDateLocator  # matplotlib leaves both without types
    formatter: Any = DateFormatter
    axis.set_major_locator(locator(minticks=5, maxticks=10))
    axis.set_major_formatter(formatter(pattern))


def _event_time(day: dt.datetime) -> str:
    return f"event time, UTC ({day.day} {day:%B %Y})"


def _steps(axis: Axes, frame: pl.DataFrame, column: str, size: dt.timedelta, label: str) -> None:
    """Draw windows as steps: a level over [start, start + size), a gap where one is missing."""
    import numpy as np

    width = np.timedelta64(size // dt.timedelta(microseconds=1), "us")
    left = frame["window_start"].to_numpy().astype("datetime64[us]")
    level = frame[column].to_numpy()
    x = np.column_stack([left, left + width, left + width]).ravel()
    gap = np.append(np.diff(left) > width, True)
    y = np.column_stack([level, level, np.where(gap, np.nan, level)]).ravel()
    axis.plot(x, y, color=BLUE, lw=2.2, label=label)


def crash_chart(trades: pl.DataFrame, minutes: pl.DataFrame, crash: Crash) -> Figure:
    """Return the chart of a crash: prices and VWAP above, volume below, late trades in red.

    ``trades`` has ts, price, size, late; ``minutes`` window_start, vwap, volume; both of the one
    symbol and of the stretch to show.
    """
    import polars as pl

    minute = dt.timedelta(minutes=1)
    late, in_time = trades.filter("late"), trades.filter(~pl.col("late")).sort("ts")
    title = (
        f"{crash.symbol} lost {100 * crash.fall:.1f}% in {(crash.low - crash.start) // minute}"
        f" minutes and regained half of it in the next {(crash.stop - crash.low) // minute}"
    )
    says = (
        f"{late.height} of its {trades.height:,} trades ({late.height / trades.height:.1%}) were"
        " reported after their minute had closed: no window holds them"
    )
    with _drawing(title, 6.6, 3, 1.15) as (figure, (price, volume)):
        for axis in (price, volume):
            axis.axvspan(crash.start, crash.stop, color=ORANGE, alpha=0.11, lw=0)
        price.plot(in_time["ts"], in_time["price"], color=SKY, lw=0.9, label="each trade")
        _steps(price, minutes, "vwap", minute, "VWAP of each minute")
        price.scatter(late["ts"], late["price"], label="late: its minute had closed", **LATE_DOTS)
        _heading(price, says)
        price.set_ylabel(_plain("price ($)"))
        price.legend(loc="lower right")
        low_left = price.get_xaxis_transform()
        price.text(crash.start, 0.03, " crash", transform=low_left, color="#8a5f00", fontsize=9)
        _volume_bars(volume, minutes, late)
        _clock(volume.xaxis)
        volume.set_xlabel(_event_time(crash.start))
        volume.set_xlim(_low(minutes["window_start"]), _high(minutes["window_start"]) + minute)
    return figure


def _volume_bars(axis: Axes, minutes: pl.DataFrame, late: pl.DataFrame) -> None:
    import polars as pl

    missed = late.group_by(window_start=pl.col("ts").dt.truncate("1m"))
    both = minutes.join(missed.agg(missed=pl.col("size").sum()), on="window_start", how="left")
    taken, missing = both["volume"] / 1000, both["missed"].fill_null(0) / 1000
    centre, width = both["window_start"] + dt.timedelta(seconds=30), 0.82 / 1440  # of a day
    axis.bar(centre, taken, width=width, color=BLUE, alpha=0.8, label="in its window")
    axis.bar(centre, missing, width=width, bottom=taken, color=LATE, label="late")
    axis.set_ylabel("volume\n(1,000 shares)")
    axis.legend(loc="upper right")


def host_chart(cpu: pl.DataFrame, memory: pl.DataFrame) -> Figure:
    """Return the chart of a recorded host: what each core did, and the memory in use.

    ``cpu`` has ts, core, user, system, iowait; ``memory`` ts, used_bytes, total_bytes. Windows
    are as wide as the span asks for; of more than four cores the chart shows their mean.
    """
    import polars as pl

    size = _window_for(_high(cpu["ts"]) - _low(cpu["ts"]))
    title = _host_title(cpu)
    cores = sorted(cpu["core"].unique())
    if len(cores) > 4:
        cpu, cores = cpu.with_columns(core=pl.lit(-1)), [-1]
    start, parts = pl.col("ts").dt.truncate(size), ("user", "system", "iowait")
    did = cpu.group_by("core", window_start=start).agg(pl.col(parts).mean()).sort("window_start")
    used = memory.group_by(window_start=start).agg(gb=pl.col("used_bytes").max() / 1e9)
    used = used.sort("window_start")
    most = _high(did.select(pl.sum_horizontal(parts)).to_series())
    top = next(level for level in (20, 50, 100) if most <= level or level == 100)
    with _drawing(title, 2.1 + 1.55 * len(cores) + 1.4, *[1.0] * (len(cores) + 1)) as (
        figure,
        (*core_axes, below),
    ):
        for axis, core in zip(core_axes, cores, strict=True):
            rows = did.filter(core=core)
            heights = [rows[part] for part in parts]
            names = ["user", "system", "waiting for the disk"]
            colours = [BLUE, ORANGE, PURPLE]
            axis.stackplot(rows["window_start"], heights, colors=colours, labels=names, lw=0)
            axis.set_ylim(0, top)
            axis.set_yticks([0, top / 2, top], [f"{level:g}" for level in (0, top / 2, top)])
            axis.set_ylabel("all cores (%)" if core < 0 else f"core {core} (%)")
        _heading(core_axes[0], f"what each core did, mean of every {_words(size)}", legend=3)
        below.plot(used["window_start"], used["gb"], color=GREEN, lw=1.6)
        below.fill_between(used["window_start"], used["gb"], color=GREEN, alpha=0.15, lw=0)
        below.set_ylim(bottom=0)
        below.set_ylabel("memory (GB)")
        total = _high(memory["total_bytes"]) / 1e9
        peak = f"at most {_high(used['gb']):.1f} of {total:.1f} GB"
        _heading(below, f"memory in use, maximum of every {_words(size)}: {peak}")
        below.set_xlim(_low(used["window_start"]), _high(used["window_start"]))
        _clock(below.xaxis)
        below.set_xlabel(_event_time(_low(used["window_start"])))
    return figure


def _host_title(cpu: pl.DataFrame) -> str:
    import polars as pl

    work = pl.sum_horizontal("user", "system").mean()
    mean = cpu.select(work).item()
    minutes = cpu.group_by(at=pl.col("ts").dt.truncate("1m")).agg(busy=work).sort("busy", "at")
    top = minutes.row(-1, named=True)
    return (
        f"The cores worked {mean:.0f}% of the time; the busiest minute was {top['at']:%H:%M} UTC,"
        f" at {top['busy']:.0f}%"
    )


def _window_for(span: dt.timedelta) -> dt.timedelta:
    """Return a round window that cuts a span into at most about 300."""
    for seconds in (1, 2, 5, 10, 30, 60, 120, 300, 900):
        if span / 300 <= dt.timedelta(seconds=seconds):
            return dt.timedelta(seconds=seconds)
    return dt.timedelta(hours=1)


def _words(size: dt.timedelta) -> str:
    seconds = int(size.total_seconds())
    count, unit = (seconds, "second") if seconds < 60 else (seconds // 60, "minute")
    return unit if count == 1 else f"{count} {unit}s"


def live_chart(cpu: pl.DataFrame, windows: pl.DataFrame, rate: float) -> Figure:
    """Return the chart of what was just recorded: samples thin, one-second windows as steps.

    ``cpu`` has ts, core, busy; ``windows`` window_start, busy.
    """
    import polars as pl

    busy = pl.col("busy")
    samples = cpu.group_by("ts").agg(busy=busy.mean(), low=busy.min(), high=busy.max()).sort("ts")
    ts, peak = samples["ts"], _high(windows["busy"])
    title = f"This machine, just now: {peak:.0f}% busy in its busiest second"
    says = f"a sample covers {1000 / rate:.0f} ms and jumps; a window of a second shows the load"
    with _drawing(title, 4.6, 1) as (figure, (axis,)):
        band = "between the idlest and the busiest core"
        axis.fill_between(
            ts, samples["low"], samples["high"], color=SKY, alpha=0.25, lw=0, label=band
        )
        each = f"each sample, {rate:g} a second"
        axis.plot(ts, samples["busy"], color=SKY, lw=1, marker="o", ms=2.6, label=each)
        _steps(axis, windows, "busy", dt.timedelta(seconds=1), "mean of each second")
        axis.set_ylim(0, min(102.0, max(10.0, 1.1 * _high(samples["high"]))))
        axis.set_ylabel("CPU busy, all cores (%)")
        _heading(axis, says, legend=3)
        axis.set_xlim(_low(windows["window_start"]), _high(ts))
        _clock(axis.xaxis, "%H:%M:%S")
        axis.set_xlabel(_event_time(_low(ts)))
    return figure


def lateness_chart(orders: pl.DataFrame, *, size: dt.timedelta, delay: dt.timedelta) -> Figure:
    """Return the chart of late events: all that came out of order, and one window's end in detail.

    ``orders`` has, in arrival order, ts, device, stream_time (before the row), watermark,
    window_end and late.
    """
    import polars as pl

    behind = (pl.col("stream_time") - pl.col("ts")).dt.total_microseconds() / 1e6
    orders = orders.with_row_index("place").with_columns(behind=behind)
    late = orders.filter("late")
    phones = late.filter(pl.col("device") == "mobile").height
    title = (
        f"{late.height} of {orders.height:,} orders came too late for their window,"
        f" {phones} of them from phones"
    )
    with _drawing(title, 8.4, 1, 1.2, share_x=False) as (figure, (scatter, stairs)):
        _behind(scatter, orders.filter(pl.col("behind") >= 0.05), delay)
        if late.height:
            _stairs(stairs, orders, late, size, delay)
        else:
            stairs.set_visible(False)
    return figure


def _behind(axis: Axes, rows: pl.DataFrame, delay: dt.timedelta) -> None:
    """Scatter how far behind the newest event each row was that came out of order."""
    import polars as pl
    from matplotlib.ticker import FixedLocator, NullLocator

    phone = (pl.col("device") == "mobile").fill_null(value=False)
    small: Any = {"s": 8, "edgecolor": "none"}
    kinds: tuple[tuple[pl.Expr, dict[str, Any], str], ...] = (
        (phone & ~pl.col("late"), {"color": SKY, **small}, "from a phone"),
        (~phone & ~pl.col("late"), {"color": MUTED, **small}, "from another device"),
        (pl.col("late"), LATE_DOTS, "late: its window had closed"),
    )
    for which, style, label in kinds:
        some = rows.filter(which)
        axis.scatter(some["ts"], some["behind"], label=label, **style)
    wait = delay.total_seconds()
    axis.axhline(wait, color=INK, lw=1, ls=(0, (4, 3)))
    says = f"delay: a window waits a {_words(delay)}"
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0}
    at_left = axis.get_yaxis_transform()
    axis.text(0.004, wait / 1.3, says, transform=at_left, va="top", fontsize=9, bbox=box)
    axis.set_yscale("log")
    ticks = {0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min"}
    axis.yaxis.set_major_locator(FixedLocator(list(ticks)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_yticklabels(list(ticks.values()))
    axis.set_ylabel("behind the newest event")
    says = f"{rows.height:,} orders came 50 ms or more behind the newest event"
    _heading(axis, says, legend=3)
    _clock(axis.xaxis)
    axis.set_xlim(_low(rows["ts"]), _high(rows["ts"]))
    axis.set_xlabel(_event_time(_low(rows["ts"])))


def _window_to_show(orders: pl.DataFrame, late: pl.DataFrame, delay: dt.timedelta) -> Any:
    """Return the end of a window with many late rows, in a stretch with few enough to see each."""
    import polars as pl

    def score(end: Any) -> float:
        near = _round(orders, end, delay)
        missed = near.filter("late", pl.col("ts").is_between(end - 4 * delay, end))
        return missed.height**2 / max(near.height, 150)

    return max(late["window_end"].unique().sort(), key=score)


def _round(orders: pl.DataFrame, end: Any, delay: dt.timedelta) -> pl.DataFrame:
    """Return the orders that arrived around the end of a window."""
    import polars as pl

    return orders.filter(pl.col("stream_time").is_between(end - 1.5 * delay, end + 3 * delay))


def _stairs(
    axis: Axes, orders: pl.DataFrame, late: pl.DataFrame, size: dt.timedelta, delay: dt.timedelta
) -> None:
    """Draw stream time and watermark over the order of arrival, round the end of one window."""
    import polars as pl

    end = _window_to_show(orders, late, delay)
    near = _round(orders, end, delay)
    missed, place = near.filter("late"), near["place"]
    first, last = _low(place), _high(place)
    closed = _low(near.filter(pl.col("watermark") >= end)["place"])
    floor = min(end - 3 * delay, _low(missed["ts"]) - delay / 2)
    floor = max(floor, end - 10 * delay)
    axis.fill_between([closed, last], floor, end, color=LATE, alpha=0.09, lw=0)
    axis.axhline(end, color=INK, lw=1, ls=(0, (4, 3)))
    minus = f"watermark = stream time \N{MINUS SIGN} a {_words(delay)}"
    axis.step(
        place,
        near["stream_time"],
        "-",
        color=INK,
        lw=1.4,
        where="post",
        label="stream time",
        zorder=3.5,
    )
    axis.step(place, near["watermark"], color=GREEN, lw=2, where="post", label=minus)
    axis.scatter(place, near["ts"], s=12, color=SKY, label="an order, at its event time", zorder=3)
    axis.scatter(missed["place"], missed["ts"], label="late", **LATE_DOTS)
    window = f" window {end - size:%H:%M}\N{EN DASH}{end:%H:%M} ends"
    axis.text(first, end, window, va="bottom", fontsize=9)
    closes: Any = {"va": "bottom", "color": LATE, "fontsize": 9}
    axis.text(closed, floor, " the window is closed: too late for it", **closes)
    _clock(axis.yaxis)
    axis.set_ylim(floor, _high(near["stream_time"]))
    axis.set_xlim(first, last)
    axis.set_ylabel("event time, UTC")
    axis.set_xlabel("order of arrival (row number)")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    _heading(axis, "a window closes when the watermark reaches its end", legend=4)


# -------------------------------------------------------------------------------------- page


@dataclass(frozen=True)
class Section:
    """A part of the page: what was found, with its tables, its charts and its checks."""

    title: str
    text: str
    tables: Sequence[Table] = ()
    charts: Sequence[tuple[Path, str]] = ()  # a picture, and what it says
    checks: Sequence[str] = ()
    said: str = ""  # lines to show as they are


CSS = """
:root { color-scheme: light dark; --ink: #1b1f24; --muted: #5d6570; --line: #d9dde2;
  --back: #ffffff; --card: #f6f7f9; --good: #00714f; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --muted: #9aa3ae; --line: #39404a;
  --back: #14171b; --card: #1d2127; --good: #35c79a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.3rem; margin: 3rem 0 .4rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
p { max-width: 46rem; margin: .5rem 0; }
.lead, .note, figcaption { color: var(--muted); }
.note { font-size: .88rem; white-space: pre-line; }
figure { margin: 1.4rem 0; overflow-x: auto; }
figcaption { font-size: .92rem; margin-bottom: .4rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .28rem .9rem .28rem 0; text-align: left; white-space: nowrap; }
th { border-bottom: 1px solid var(--muted); font-weight: 600; }
td { border-bottom: 1px solid var(--line); }
.n { text-align: right; }
img { display: block; width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 6px; }
pre { padding: .8rem 1rem; margin: 1rem 0; background: var(--card); border-radius: 6px;
  font-size: .82rem; overflow-x: auto; }
ul.checks { list-style: none; padding: .8rem 1rem; margin: 1rem 0; background: var(--card);
  border-radius: 6px; }
ul.checks li::before { content: "= "; color: var(--good); font-weight: 700; }
""".strip()


def _escape(text: str) -> str:
    return html.escape(text, quote=True)


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """Return the page: nothing in it is fetched from anywhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_escape(title)}</title>\n<style>\n{CSS}\n</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{_escape(title)}</h1>\n<p class="lead">{_escape(lead)}</p>\n'
        + "".join(map(_section, sections))
        + "</main>\n</body>\n</html>\n"
    )


def _section(section: Section) -> str:
    parts = [f"<section>\n<h2>{_escape(section.title)}</h2>\n<p>{_escape(section.text)}</p>\n"]
    for picture, says in section.charts:
        data = base64.b64encode(picture.read_bytes()).decode("ascii")
        parts.append(
            f'<figure><img alt="{_escape(says)}" src="data:image/png;base64,{data}"></figure>\n'
        )
    parts.extend(table.html() for table in section.tables)
    if section.checks:
        items = "".join(f"<li>{_escape(check)}</li>" for check in section.checks)
        parts.append(f'<ul class="checks">{items}</ul>\n')
    if section.said:
        parts.append(f"<pre>{_escape(section.said)}</pre>\n")
    return "".join([*parts, "</section>\n"])
