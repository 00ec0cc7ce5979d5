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
import unicodedata
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Crash",
    "Section",
    "Table",
    "crash_chart",
    "host_chart",
    "lateness_chart",
    "live_chart",
    "page",
    "save",
]

INK, MUTED, FAINT = "#1b1f24", "#5d6570", "#d9dde2"
BLUE, SKY, GREEN, ORANGE, PURPLE = "#0072B2", "#56B4E9", "#009E73", "#E69F00", "#CC79A7"
LATE = "#D55E00"

STYLE: Any = {  # matplotlib types each key
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.grid": True,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9.5,
    "axes.linewidth": 0.8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "timezone": "UTC",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


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
    title: str, height: float, rows: int, ratios: Sequence[float], share_x: bool = True
) -> Iterator[tuple[Figure, list[Axes]]]:
    """Give a figure with ``rows`` axes under a title, in our style."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, height))
        axes = figure.subplots(
            rows, 1, sharex=share_x, squeeze=False, gridspec_kw={"height_ratios": ratios}
        )
        figure.suptitle(_plain(title), x=0.012, ha="left", fontsize=13, fontweight="bold")
        yield figure, list(axes[:, 0])


def _plain(text: str) -> str:
    """Return text in which a dollar sign is a dollar sign, not mathematics."""
    return text.replace("$", r"\$")


def _low(column: pl.Series) -> Any:
    return column.min()


def _high(column: pl.Series) -> Any:
    return column.max()


def _late_dots(axis: Axes, rows: pl.DataFrame, x: str, y: str, label: str) -> None:
    """Mark late rows, the same way in every chart."""
    style: Any = {"s": 30, "color": LATE, "edgecolor": "white", "lw": 0.5, "zorder": 4}
    axis.scatter(rows[x], rows[y], label=label, **style)


def _clock(axis: Axes, day: dt.datetime, pattern: str = "%H:%M") -> None:
    from matplotlib.dates import AutoDateLocator, DateFormatter

    axis.xaxis.set_major_locator(AutoDateLocator(minticks=5, maxticks=10))  # type: ignore[no-untyped-call]
    axis.xaxis.set_major_formatter(DateFormatter(pattern))  # type: ignore[no-untyped-call]
    axis.set_xlabel(f"event time, UTC ({day:%-d %B %Y})")


def _steps(
    axis: Axes, starts: pl.Series, size: dt.timedelta, values: pl.Series, **how: Any
) -> None:
    """Draw windows as steps: one level over [start, start + size), a gap where one is missing."""
    import numpy as np

    width = np.timedelta64(size // dt.timedelta(microseconds=1), "us")
    left = starts.to_numpy().astype("datetime64[us]")
    level = values.cast(float).to_numpy()
    x = np.column_stack([left, left + width, left + width]).ravel()
    gap = np.append(np.diff(left) > width, True)
    y = np.column_stack([level, level, np.where(gap, np.nan, level)]).ravel()
    axis.plot(x, y, **how)


def crash_chart(trades: pl.DataFrame, minutes: pl.DataFrame, crash: Crash) -> Figure:
    """Return the chart of a crash: prices and VWAP above, volume below, late trades in red.

    ``trades`` has ts, price, size, late; ``minutes`` window_start, vwap, volume; both of the one
    symbol and of the stretch to show.
    """
    import polars as pl

    minute = dt.timedelta(minutes=1)
    late = trades.filter("late")
    back = (crash.stop - crash.low) // minute
    title = (
        f"{crash.symbol} lost {crash.fall:.1%} in {(crash.low - crash.start) // minute} minutes"
        f" and had half of it back {back} minutes later"
    )
    with _drawing(title, 6.4, 2, (3, 1.15)) as (figure, (price, volume)):
        for axis in (price, volume):
            axis.axvspan(crash.start, crash.stop, color=ORANGE, alpha=0.11, lw=0)
        on_time = trades.filter(~pl.col("late")).sort("ts")
        price.plot(on_time["ts"], on_time["price"], color=SKY, lw=0.9, label="each trade")
        _steps(
            price,
            minutes["window_start"],
            minute,
            minutes["vwap"],
            color=BLUE,
            lw=2.2,
            label="VWAP of each minute",
        )
        price.scatter(
            late["ts"],
            late["price"],
            s=26,
            color=LATE,
            edgecolor="white",
            lw=0.5,
            zorder=3,
            label="late: its minute had closed",
        )
        share = late.height / max(1, trades.height)
        price.set_title(
            f"{late.height} of {trades.height:,} trades ({share:.1%}) were reported after their"
            " minute had closed: no window holds them"
        )
        price.set_ylabel("price ($)".replace("$", r"\$"))
        price.legend(loc="lower right")
        price.text(
            crash.start,
            0.03,
            " crash",
            transform=price.get_xaxis_transform(),
            color="#9a6a00",
            fontsize=9,
        )
        _volume_bars(volume, minutes, late)
        _clock(volume, crash.start)
        volume.set_xlim(_low(trades["ts"]), _high(trades["ts"]))
    return figure


def _volume_bars(axis: Axes, minutes: pl.DataFrame, late: pl.DataFrame) -> None:
    import polars as pl

    width, at = 0.82 / 1440, dt.timedelta(seconds=30)
    missed = late.group_by(window_start=pl.col("ts").dt.truncate("1m")).agg(
        late_volume=pl.col("size").sum()
    )
    both = minutes.join(missed, on="window_start", how="left").with_columns(
        pl.col("late_volume").fill_null(0) / 1000, pl.col("volume") / 1000
    )
    centre = both["window_start"] + at
    axis.bar(centre, both["volume"], width=width, color=BLUE, alpha=0.75, label="in its window")
    axis.bar(
        centre,
        both["late_volume"],
        width=width,
        bottom=both["volume"],
        color=LATE,
        label="late",
    )
    axis.set_ylabel("volume\n(1,000 shares)")
    axis.legend(loc="upper right")


def host_chart(cpu: pl.DataFrame, memory: pl.DataFrame) -> Figure:
    """Return the chart of a recorded host: what each core did, and the memory in use.

    ``cpu`` has ts, core, user, system, iowait; ``memory`` ts, used_bytes, total_bytes. Windows
    are as wide as the span asks for; of more than four cores the chart shows their mean.
    """
    import polars as pl

    size = _window_for(_high(cpu["ts"]) - _low(cpu["ts"]))
    cores = sorted(cpu["core"].unique())
    if len(cores) > 4:
        cpu, cores = cpu.with_columns(core=pl.lit(-1)), [-1]
    start = pl.col("ts").dt.truncate(size)
    parts = ("user", "system", "iowait")
    busy = cpu.group_by("core", window_start=start).agg(pl.col(parts).mean()).sort("window_start")
    used = memory.group_by(window_start=start).agg(pl.col("used_bytes").max() / 1e9)
    used = used.sort("window_start")
    title = _host_title(cpu, memory)
    with _drawing(
        title, 1.9 + 1.55 * (len(cores) + 1), len(cores) + 1, [1.0] * (len(cores) + 1)
    ) as (
        figure,
        axes,
    ):
        for axis, core in zip(axes, cores, strict=False):
            rows = busy.filter(core=core)
            axis.stackplot(
                rows["window_start"],
                [rows[part] for part in parts],
                colors=[BLUE, ORANGE, PURPLE],
                labels=["user", "system", "waiting for the disk"],
                alpha=0.88,
                lw=0,
            )
            axis.set_ylim(0, 100)
            axis.set_yticks([0, 50, 100])
            axis.set_ylabel("all cores (%)" if core < 0 else f"core {core} (%)")
        axes[0].set_title(f"share of the time a core worked, in windows of {_words(size)}")
        axes[0].legend(loc="lower right", bbox_to_anchor=(1.0, 0.98), ncols=3)
        total = _high(memory["total_bytes"]) / 1e9
        axes[-1].plot(used["window_start"], used["used_bytes"], color=GREEN, lw=1.8)
        axes[-1].fill_between(
            used["window_start"], used["used_bytes"], color=GREEN, alpha=0.15, lw=0
        )
        axes[-1].set_ylim(bottom=0)
        axes[-1].set_ylabel("memory (GB)")
        axes[-1].set_title(f"greatest memory in use in each window, of {total:.1f} GB")
        axes[-1].set_xlim(_low(used["window_start"]), _high(used["window_start"]))
        _clock(axes[-1], _low(used["window_start"]))
    return figure


def _host_title(cpu: pl.DataFrame, memory: pl.DataFrame) -> str:
    import polars as pl

    five = cpu.group_by(at=pl.col("ts").dt.truncate("5m")).agg(
        busy=pl.sum_horizontal("user", "system").mean()
    )
    top = five.sort("busy").row(-1, named=True)
    most = _high(memory["used_bytes"]) / 1e9
    return (
        f"The busiest five minutes began at {top['at']:%H:%M} UTC: {top['busy']:.0f} % of all"
        f" cores; memory peaked at {most:.1f} GB"
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
    return f"{count} {unit}{'s' if count > 1 else ''}"


def live_chart(cpu: pl.DataFrame, windows: pl.DataFrame, rate: float) -> Figure:
    """Return the chart of what was just recorded: samples thin, one-second windows as steps.

    ``cpu`` has ts, core, busy; ``windows`` window_start, busy.
    """
    import polars as pl

    samples = cpu.group_by("ts").agg(
        busy=pl.col("busy").mean(),
        low=pl.col("busy").min(),
        high=pl.col("busy").max(),
    )
    samples = samples.sort("ts")
    mean, peak = windows["busy"].mean(), _high(windows["busy"])
    title = (
        f"This machine, just now: {mean:.0f} % busy on average, {peak:.0f} % in its busiest second"
    )
    with _drawing(title, 4.4, 1, (1,)) as (figure, (axis,)):
        axis.fill_between(
            samples["ts"],
            samples["low"],
            samples["high"],
            color=SKY,
            alpha=0.28,
            lw=0,
            label="idlest to busiest core",
        )
        axis.plot(
            samples["ts"],
            samples["busy"],
            color=SKY,
            lw=1,
            marker="o",
            ms=2.6,
            label=f"each sample, {rate:g} a second",
        )
        second = dt.timedelta(seconds=1)
        _steps(
            axis,
            windows["window_start"],
            second,
            windows["busy"],
            color=BLUE,
            lw=2.4,
            label="mean of each one-second window",
        )
        axis.set_ylim(0, 101)
        axis.set_ylabel("CPU busy, all cores (%)")
        axis.set_title("a sample is too short to tell; a window says how busy the machine was")
        axis.legend(loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=3)
        axis.set_xlim(_low(windows["window_start"]), _high(samples["ts"]))
        _clock(axis, _low(samples["ts"]), "%H:%M:%S")
    return figure


def lateness_chart(orders: pl.DataFrame, *, size: dt.timedelta, delay: dt.timedelta) -> Figure:
    """Return the chart of late events: all that came out of order, and one window's end in detail.

    ``orders`` has, in arrival order, ts, device, stream_time (before the row), watermark,
    window_end and late.
    """
    import polars as pl

    orders = orders.with_row_index("place").with_columns(
        behind=(pl.col("stream_time") - pl.col("ts")).dt.total_microseconds() / 1e6
    )
    late = orders.filter("late")
    phones = late.filter(pl.col("device") == "mobile").height
    title = (
        f"{late.height} of {orders.height:,} orders came too late for their window,"
        f" {phones} of them from phones"
    )
    with _drawing(title, 8.0, 2, (1, 1.25), share_x=False) as (figure, (scatter, stairs)):
        _behind(scatter, orders.filter(pl.col("behind") >= 0.05), delay)
        if late.height:
            _stairs(stairs, orders, late, size, delay)
        else:
            stairs.set_visible(False)
    return figure


def _behind(axis: Axes, rows: pl.DataFrame, delay: dt.timedelta) -> None:
    """Scatter how far behind stream time each row was that came out of order."""
    import polars as pl
    from matplotlib.ticker import FixedLocator, NullLocator

    phone = pl.col("device") == "mobile"
    kinds = (
        (rows.filter(~phone.fill_null(False) & ~pl.col("late")), BLUE, 7, "other devices"),
        (rows.filter(phone & ~pl.col("late")), ORANGE, 7, "phones"),
        (rows.filter("late"), LATE, 30, "late: the window had closed"),
    )
    for some, colour, area, label in kinds:
        edge = "white" if colour == LATE else "none"
        axis.scatter(
            some["ts"], some["behind"], s=area, color=colour, edgecolor=edge, lw=0.5, label=label
        )
    axis.axhline(delay.total_seconds(), color=INK, lw=1, ls=(0, (4, 3)))
    axis.text(
        0.003,
        delay.total_seconds() * 1.12,
        f"delay of {_words(delay)}: windows wait this long",
        transform=axis.get_yaxis_transform(),
        fontsize=9,
    )
    axis.set_yscale("log")
    ticks = {0.1: "0.1 s", 1: "1 s", 10: "10 s", 60: "1 min", 600: "10 min"}
    axis.yaxis.set_major_locator(FixedLocator(list(ticks)))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_yticklabels(list(ticks.values()))
    axis.set_ylabel("behind the newest event")
    axis.set_title(f"the {rows.height:,} orders that came 0.05 s or more behind the newest event")
    axis.legend(loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=3, markerscale=1.4)
    _clock(axis, _low(rows["ts"]))


def _stairs(
    axis: Axes, orders: pl.DataFrame, late: pl.DataFrame, size: dt.timedelta, delay: dt.timedelta
) -> None:
    """Draw stream time and watermark over arrival order where most rows of one window are late."""
    import polars as pl

    end = late["window_end"].value_counts(sort=True)["window_end"][0]
    near = orders.filter(
        pl.col("stream_time").is_between(end - 2 * delay, end + 5 * delay)
    )
    first, last = _low(near["place"]), _high(near["place"])
    closed = near.filter(pl.col("watermark") >= end)["place"].min()
    floor = max(end - 6 * delay, _low(near["ts"]))
    axis.axhline(end, color=INK, lw=1, ls=(0, (4, 3)))
    axis.fill_between(
        [closed, last],
        [floor, floor],
        [end, end],
        color=LATE,
        alpha=0.09,
        lw=0,
    )
    axis.scatter(near["place"], near["ts"], s=5, color=SKY, label="an order, at its event time")
    missed = near.filter("late")
    axis.scatter(
        missed["place"],
        missed["ts"],
        s=34,
        color=LATE,
        edgecolor="white",
        lw=0.5,
        zorder=4,
        label="late",
    )
    axis.step(
        near["place"], near["stream_time"], color=INK, lw=1.3, where="post", label="stream time"
    )
    axis.step(
        near["place"],
        near["watermark"],
        color=GREEN,
        lw=2,
        where="post",
        label=f"watermark = stream time \N{MINUS SIGN} {_words(delay)}",
    )
    begin = end - size
    axis.text(
        first,
        end,
        f" end of the window {begin:%H:%M}\N{EN DASH}{end:%H:%M}",
        va="bottom",
        fontsize=9,
    )
    axis.text(
        last,
        floor,
        "too late for it ",
        ha="right",
        va="bottom",
        color=LATE,
        fontsize=9,
    )
    _minutes_up(axis)
    axis.set_ylim(floor, _high(near["stream_time"]))
    axis.set_xlim(first, last)
    axis.set_ylabel("event time, UTC")
    axis.set_xlabel("order of arrival (row number)")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_title("when the watermark reaches the end of the window, the window closes")
    axis.legend(loc="upper left", bbox_to_anchor=(0.0, 0.93))


def _minutes_up(axis: Axes) -> None:
    from matplotlib.dates import AutoDateLocator, DateFormatter

    axis.yaxis.set_major_locator(AutoDateLocator(minticks=4, maxticks=8))  # type: ignore[no-untyped-call]
    axis.yaxis.set_major_formatter(DateFormatter("%H:%M"))  # type: ignore[no-untyped-call]


# -------------------------------------------------------------------------------------- page


@dataclass(frozen=True)
class Section:
    """A part of the page: what was found, with its tables, its chart and its checks."""

    title: str
    text: str
    tables: Sequence[Table] = ()
    chart: Path | None = None
    chart_says: str = ""
    checks: Sequence[str] = ()


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
h2 { font-size: 1.3rem; margin: 3rem 0 .4rem; padding-top: 1.2rem; border-top: 1px solid var(--line); }
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
    if section.chart:
        data = base64.b64encode(section.chart.read_bytes()).decode("ascii")
        says = _escape(section.chart_says)
        parts.append(f'<figure><img alt="{says}" src="data:image/png;base64,{data}"></figure>\n')
    parts.extend(table.html() for table in section.tables)
    if section.checks:
        items = "".join(f"<li>{_escape(check)}</li>" for check in section.checks)
        parts.append(f'<ul class="checks">{items}</ul>\n')
    return "".join([*parts, "</section>\n"])
