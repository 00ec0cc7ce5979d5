"""What every step of the demo works with: the datasets, the queries asked of them, and comparing.

A step says "equal" only through `same`, which compares and stops the demo where two answers differ.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlab as sl
from streamlab.report import Crash, Table

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "BY_STREAM", "CHUNK", "LOADS", "MINUTE", "SECOND", "Load", "Stage", "bars", "busy", "find_crash",
    "plain", "progress", "same", "same_windows",
]  # fmt: skip

CHUNK = 5_000  # rows of one append
SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
INEXACT = ("vwap", "busy")  # sums of floats: equal to rounding, whatever the order of adding


@dataclass(frozen=True)
class Load:
    """A shipped dataset and the stream it goes into."""

    file: str
    stream: str
    key: str | None
    delay: dt.timedelta
    window: dt.timedelta


LOADS = (
    Load("host-cpu", "host_cpu", "core", dt.timedelta(), 5 * MINUTE),
    Load("host-memory", "host_memory", None, dt.timedelta(), 5 * MINUTE),
    Load("host-disk", "host_disk", "device", dt.timedelta(), 5 * MINUTE),
    Load("host-network", "host_network", "interface", dt.timedelta(), 5 * MINUTE),
    Load("host-processes", "host_processes", "pid", dt.timedelta(), 5 * MINUTE),
    Load("trades", "trades", "symbol", dt.timedelta(seconds=5), MINUTE),
    Load("quotes", "quotes", "symbol", dt.timedelta(seconds=5), MINUTE),
    Load("orders", "orders", "user_id", MINUTE, 15 * MINUTE),
)
BY_STREAM = {load.stream: load for load in LOADS}


@dataclass(frozen=True)
class Stage:
    """What every step works with."""

    lab: Any
    folder: Path
    seconds: float
    rate: float
    show: Callable[[str], None]

    def table(self, table: Table) -> Table:
        self.show(table.text() + "\n")
        return table


def progress(total: int, unit: str, what: str) -> Any:
    from tqdm import tqdm

    shown: Any = {"desc": f"  {what}", "unit": unit, "unit_scale": total > 10_000, "ncols": 80}
    return tqdm(total=total, leave=False, disable=None, **shown)


def bars(trades: Any) -> Any:
    """Return the query for open, high, low, close, VWAP and volume of each symbol and minute."""
    import polars as pl

    price, size = pl.col("price"), pl.col("size")
    return trades.window(sl.tumbling(MINUTE), by="symbol").agg(
        open=price.first(),
        high=price.max(),
        low=price.min(),
        close=price.last(),
        vwap=(price * size).sum() / size.sum(),
        volume=size.sum(),
        trades=pl.len().cast(pl.Int64),
    )


def busy(cpu: Any, size: dt.timedelta) -> Any:
    """Return the query for how busy the cores were in each window."""
    import polars as pl

    return cpu.window(sl.tumbling(size)).agg(
        samples=pl.col("ts").n_unique(), busy=pl.col("busy").mean(), most=pl.col("busy").max()
    )


def plain(windows: pl.DataFrame) -> pl.DataFrame:
    """Return windows by their start alone."""
    return windows.drop("window_end", "window_time", "_final", strict=False)


def find_crash(minutes: pl.DataFrame) -> Crash:
    """Return the deepest fall from the highest price of the ten minutes before."""
    import polars as pl

    recent = pl.col("high").rolling_max(10, min_samples=1).over("symbol", order_by="window_start")
    falls = minutes.with_columns(recent=recent).with_columns(
        fall=1.0 - pl.col("low") / pl.col("recent")
    )
    worst = falls.sort("fall").row(-1, named=True)
    own = minutes.filter(symbol=worst["symbol"]).sort("window_start")
    low, high = worst["window_start"], worst["recent"]
    before = own.filter((pl.col("window_start") <= low) & (pl.col("high") >= high))
    half = (high + worst["low"]) / 2
    after = own.filter((pl.col("window_start") > low) & (pl.col("vwap") >= half))
    stop = (after if after.height else own)["window_start"][0 if after.height else -1] + MINUTE
    return Crash(worst["symbol"], before["window_start"][-1], low, stop, worst["fall"])


def same(
    left: pl.DataFrame,
    right: pl.DataFrame,
    what: str,
    *,
    tolerance: float = 0.0,
    unit: str = "rows",
) -> str:
    """Return a line that says two answers are equal, having compared them.

    Everything must be equal exactly; floats within ``tolerance``, relative.

    Raises:
        StreamlabError: they are not.
    """
    from polars.testing import assert_frame_equal

    exact = tolerance == 0.0
    try:
        assert_frame_equal(left, right, check_exact=exact, rel_tol=tolerance, abs_tol=0.0)
    except AssertionError as error:
        msg = f"the demo compared {what}, and they differ: {error}"
        raise sl.StreamlabError(msg, hint="please report this: it should be impossible") from error
    return f"equal: {what} ({left.height:,} {unit})"


def same_windows(left: pl.DataFrame, right: pl.DataFrame, what: str) -> list[str]:
    """Compare windows: counts and prices exactly, means to 1e-9."""
    sums = [name for name in right.columns if name in INEXACT]
    exact = same(left.drop(sums), right.drop(sums), what, unit="windows")
    same(left.select(sums), right.select(sums), f"{what}, means", tolerance=1e-9)
    return [exact[:-1] + f"; {', '.join(sums)} to 1e-9)"]
