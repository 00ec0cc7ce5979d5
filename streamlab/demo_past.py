"""The steps of the demo that look back: the lab as it was, replayed, and taken into DuckDB."""

from __future__ import annotations

import datetime as dt
import time
from typing import Any

import streamlab as sl
from streamlab.demo_stage import (
    BY_STREAM,
    MINUTE,
    Stage,
    bars,
    find_crash,
    plain,
    progress,
    same,
    same_windows,
)
from streamlab.report import Crash, Section, Table

__all__ = ["look_back", "play_again"]

SPEED = 60.0


def look_back(stage: Stage) -> Section:
    """Show the lab as it was, and take the trades and their windows into a DuckDB file."""
    table, as_of_check = _as_of(stage)
    stage.table(table)
    checks = [as_of_check, *_to_duckdb(stage)]
    stage.show("".join(f"  {check}\n" for check in checks))
    text = (
        "The lab as it was at an earlier moment, whatever has come since; and the trades in DuckDB,"
        " where SQL that knows nothing of streamlab gives the same rows and the same windows."
    )
    return Section("Look back", text, [table], checks=checks)


def _as_of(stage: Stage) -> tuple[Table, str]:
    import polars as pl

    lab = stage.lab
    appended = lab["cpu"].scan().select("_append_time").collect().to_series()
    moment = appended[appended.len() // 2]
    then = lab.as_of(moment)
    rows, counted = [], []
    for name in sl.host().schemas:
        before, now = len(then[name]), len(lab[name])
        rows.append({"stream": name, "rows then": before, "rows now": now, "since": now - before})
        until = lab[name].scan().filter(pl.col("_append_time") <= moment)
        counted.append(until.select(pl.len()).collect().item())
    frame = pl.DataFrame(rows)
    what = "the lab as of that moment, and its rows appended until then"
    check = same(
        frame.select("rows then"), pl.DataFrame({"rows then": counted}), what, unit="streams"
    )
    return Table(f"As of {moment:%H:%M:%S.%f} UTC, in the middle of the recording", frame), check


WINDOWS_SQL = """
with met as (
  select *, epoch_us(ts) - epoch_us(ts) % $size as start_us,
         max(epoch_us(ts)) over (order by _offset rows between unbounded preceding
                                 and 1 preceding) - $delay as watermark_us
  from trades
)
select symbol, start_us,
       arg_min(price, _offset) as open, max(price) as high, min(price) as low,
       arg_max(price, _offset) as close, sum(price * size) / sum(size) as vwap,
       cast(sum(size) as bigint) as volume, count(*) as trades
from met
where coalesce(start_us + $size > watermark_us, true)
group by symbol, start_us
order by symbol, start_us
"""


def _to_duckdb(stage: Stage) -> list[str]:
    """Write the trades and their windows to DuckDB; return what was compared."""
    import duckdb
    import polars as pl

    trades, path = stage.lab["trades"], stage.folder / "history.duckdb"
    added = trades.to_duckdb(path, table="trades")
    again = trades.to_duckdb(path, table="trades")
    query = bars(trades)
    for _ in range(2):  # run again, it is the same job, and adds nothing
        query.run(sl.duckdb(path, "bars"), follow=False).wait(60, caught_up=False)
    load = BY_STREAM["trades"]
    micros = {"size": load.window, "delay": load.delay}
    with duckdb.connect(str(path), read_only=True) as connection:
        connection.execute("set timezone = 'UTC'")
        copied = connection.sql("from trades order by _offset").pl()
        delivered = connection.sql("from bars order by window_end, symbol").pl()
        parameters = {name: value // dt.timedelta(microseconds=1) for name, value in micros.items()}
        by_sql = connection.sql(WINDOWS_SQL, params=parameters).pl()
    original = trades.to_polars()
    if (added, again) != (original.height, 0):
        msg = f"to_duckdb added {added} rows, then {again}; wanted {original.height}, then 0"
        raise sl.StreamlabError(msg)
    final = query.collect("final")
    start_us = pl.col("window_start").dt.epoch("us").alias("start_us")
    windows = query.collect().with_columns(start_us).sort("symbol", "start_us")
    windows = windows.select(by_sql.columns)
    return [
        f"to_duckdb added {added:,} rows to {path.name}; called again it added {again}",
        same(copied.select(original.columns), original, "the trades in DuckDB and in the log"),
        *same_windows(by_sql, windows, "windows by query and by SQL in DuckDB"),
        *same_windows(delivered.select(final.columns), final, "a job's rows in DuckDB, run twice"),
    ]


# ---------------------------------------------------------------------------- play it again


def play_again(stage: Stage) -> Section:
    """Replay the crash for real: play, pause at its lowest price, look back, go on to the end."""
    import polars as pl

    lab = stage.lab
    minutes = plain(bars(lab["trades"]).collect())
    crash = find_crash(minutes)
    lowest = minutes.filter(symbol=crash.symbol, window_start=crash.low)["low"][0]
    at_lowest = (pl.col("symbol") == crash.symbol) & (pl.col("price") <= lowest)
    start, stop = crash.low - 4 * MINUTE, crash.low + 4 * MINUTE
    stage.show(
        f"  trades and quotes from {start:%H:%M} to {stop:%H:%M}, {SPEED:g} times as fast as they were;\n"
        f"  it stops at the first trade of {crash.symbol} at its lowest price, and goes on later\n"
    )
    with lab.replay("trades", "quotes", start=start, stop=stop, speed=SPEED) as replay:
        seen = [_seen(replay, crash, "at its start", 0.0)]
        took = _play(replay, crash.low + MINUTE, until=at_lowest)
        seen.append(_seen(replay, crash, "paused at the low", took))
        replay.seek(crash.low - MINUTE)
        seen.append(_seen(replay, crash, "set back", 0.0))
        took = _play(replay, stop)
        seen.append(_seen(replay, crash, "played to the end", took))
        checks = _replayed_equals(stage, replay)
    table = stage.table(_seen_table(seen, crash))
    stage.show("".join(f"  {check}\n" for check in checks))
    text = (
        f"The minutes around the crash of {crash.symbol} once more, at {SPEED:g} times their own pace, by"
        " one clock for trades and quotes: played, paused at a breakpoint, set back, played to the"
        " end. Queries over a replay are the same queries, and give the same windows."
    )
    return Section("Play it again", text, [table], checks=checks)


def _play(replay: sl.Replay, stop: dt.datetime, until: Any = None) -> float:
    """Play to a breakpoint or the end, showing how far it is; return how many seconds that took."""
    begin, began, shown = replay.position, time.monotonic(), 0
    total = int((stop - begin).total_seconds())
    if until is None:
        replay.play()
    else:
        replay.until(until, stream="trades")
    with progress(total, " s", f"playing at {SPEED:g}x") as bar:
        while replay.playing:
            now = int((replay.position - begin).total_seconds())
            bar.update(min(now, total) - shown)
            shown = min(now, total)
            try:
                replay.wait(timeout=0.1)
            except TimeoutError:
                continue
    replay.wait()
    return time.monotonic() - began


def _seen(replay: sl.Replay, crash: Crash, what: str, took: float) -> dict[str, Any]:
    """Return what the replay shows at its instant."""
    import polars as pl

    last = replay["trades"].filter(symbol=crash.symbol).collect()["price"].tail(1).to_list()
    quote = replay["quotes"].table().get(crash.symbol) or {}
    windows = bars(replay["trades"]).filter(pl.col("symbol") == crash.symbol).collect()
    return {
        "the replay": what,
        "clock (UTC)": f"{replay.position:%H:%M:%S.%f}"[:-3],
        "seconds": took or None,
        "trades": len(replay["trades"]),
        "last price": last[0] if last else None,
        "bid": quote.get("bid"),
        "ask": quote.get("ask"),
        "closed": windows["_final"].sum(),
    }


def _seen_table(seen: list[dict[str, Any]], crash: Crash) -> Table:
    import polars as pl

    note = (
        f"price, bid and ask of {crash.symbol}; seconds on the wall; closed: windows that are final"
    )
    return Table(
        "What a replay showed, and when", pl.DataFrame(seen), note=note, decimals={"seconds": 2}
    )


def _replayed_equals(stage: Stage, replay: sl.Replay) -> list[str]:
    """Compare the windows of the replayed trades with those of the trades up to the same place."""
    played = replay["trades"]
    wanted = bars(stage.lab["trades"].as_of(played.end_offset)).collect("final")
    return same_windows(bars(played).collect("final"), wanted, "windows replayed and from history")
