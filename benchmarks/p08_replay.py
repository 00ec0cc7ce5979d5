"""P8, first half: a replay at infinite speed into a query, against the same query by `collect()`.

The query is P5's: one-minute windows of 500 symbols over 20 million trades, and an as-of join of
trades with quotes. What comes of the replay is followed to its end, so the time is that of making
the replay, playing it, and computing. A second table says how exact the pace is at finite speeds.
"""

from __future__ import annotations

import statistics
import threading
import time
from typing import Any

import polars as pl

import streamlab as sl
from benchmarks.measure import Reach, Scale, alternate, folder, heading, report
from benchmarks.p05_windows import agree, make, query, timed
from benchmarks.trades import batches

__all__ = ["run"]

ROWS = 20_000_000
PACE_ROWS = 2_000
SPEEDS = (1.0, 10.0, 100.0)


def run(scale: Scale) -> None:
    """Print the tables."""
    rows = scale.rows(ROWS)
    heading("P8", f"1-minute windows of 500 symbols over {rows:,} rows: replayed, and collected")
    with folder() as place, make(place / "lab", {"trades": batches(rows)}) as lab:
        contenders = {
            "replay(speed=inf)": lambda: replayed(lab),
            "collect()": lambda: query(lab["trades"]).collect("final"),
        }
        agree(contenders, contenders["replay(speed=inf)"], ("n", "volume", "last"))
        times = alternate(timed(contenders), scale.rounds)
    report(times, [Reach("replay(speed=inf)", "collect()", 0.8)], rows=rows)
    pace()


def replayed(lab: sl.Lab) -> pl.DataFrame:
    """Return the results of the query, followed over a replay."""
    with lab.replay("trades", speed=float("inf")) as played:
        results = query(played["trades"]).follow()
        played.play()
        return pl.concat(list(results))


# -- how exact the pace is -----------------------------------------------------------------------


def pace() -> None:
    """Print how late rows reach a follower, for several speeds."""
    heading(
        "P8", f"pace: how much later than it should a row reaches a follower, {PACE_ROWS:,} rows"
    )
    print(f"  {'':<10}{'rows/s':>10}{'median':>12}{'p99':>12}{'most':>12}{'early':>8}")
    for speed in SPEEDS:
        late = lateness(speed)
        cuts = statistics.quantiles(late, n=100)
        early = sum(value < 0 for value in late)
        cells = "".join(f"{value / 1e3:>9.2f} ms" for value in (cuts[49], cuts[98], max(late)))
        print(f"  {f'{speed:g}x':<10}{PACE_ROWS / 4:>10,.0f}{cells}{early:>8}")


def lateness(speed: float) -> list[float]:
    """Return by how many microseconds each row came too late; four seconds of it, evenly spaced."""
    step = int(4_000_000 * speed) // PACE_ROWS
    start = 1_767_605_400_000_000
    ts = pl.Series("ts", range(start, start + step * PACE_ROWS, step)).cast(
        pl.Datetime("us", "UTC")
    )
    with folder() as place, sl.open(place / "lab", sync="os") as lab:
        lab.create("ticks", pl.DataFrame({"ts": ts}), time="ts")
        with lab.replay("ticks", speed=speed) as played:
            arrived: list[tuple[int, Any]] = []
            follower = played["ticks"].follow()

            def read() -> None:
                arrived.extend((time.monotonic_ns() // 1_000, b["_offset"]) for b in follower)

            reader = threading.Thread(target=read)
            reader.start()
            began = time.monotonic_ns() // 1_000
            played.play()
            reader.join()
    return [
        at - began - offset * step / speed
        for at, offsets in arrived
        for offset in offsets.to_pylist()
    ]
