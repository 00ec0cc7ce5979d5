"""P6: what overlaps or joins, as a continuous query: hopping windows, sessions, the as-of join.

Measured as P5 is: a job from sealed segments into a derived stream, against one batch over the very
same files, and of DuckDB over tables of its own. The batches are written as well as is known: hopping
windows as ten-second panes combined by rolling functions over a full grid, not rows times thirty;
sessions by the distance to the row before. Symbols are traded unevenly here (weight rank^-1.2), since
with even ones no session would ever end.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

import streamlab as sl
from benchmarks.measure import Reach, Scale, alternate, folder, heading, report
from benchmarks.p05_windows import (
    AGGREGATES,
    agree,
    files,
    in_memory,
    job,
    make,
    memory_table,
    timed,
)
from benchmarks.trades import SCHEMA, SYMBOLS, table

ROWS, QUOTES = 20_000_000, 2_000_000
BATCH = 65_536
PANE, SIZE = "10s", "5m"
PANES = 30  # of a window
GAP_US = 30_000_000
TURNOVER = pl.col("price") * pl.col("size")
PARTIAL = {
    "n": pl.len().cast(pl.Int64),
    "volume": pl.col("size").sum(),
    "turnover": TURNOVER.sum(),
    "low": pl.col("price").min(),
    "high": pl.col("price").max(),
    "last": pl.col("price").last(),
}


def run(scale: Scale) -> None:
    """Print the tables."""
    rows, quotes = scale.rows(ROWS), scale.rows(QUOTES)
    streams = {"trades": uneven(rows, 1), "quotes": quoted(quotes)}
    with folder() as place, make(place / "lab", streams) as lab:
        frames = {name: in_memory(lab, name) for name in streams}
        del streams
        with memory_table(frames) as connection:
            del frames
            for name, question in QUESTIONS.items():
                heading("P6", f"{name} over {rows:,} rows, from the log into a stream")
                compare(lab, connection, question, scale, rows)


def compare(lab: sl.Lab, connection, question: Question, scale: Scale, rows: int) -> None:
    """Print one table."""
    ours, batch, sql, columns, at_least = question
    into = ours.__name__
    contenders: dict[str, Callable[[], Any]] = {
        "job into a stream": lambda: job(lab, ours(lab), into=into),
        "Polars, the files": lambda: batch(lab),
        "DuckDB, in memory": lambda: connection.sql(sql).to_arrow_table(),
    }
    agree(contenders, lambda: job(lab, ours(lab), into=into, keep=True), columns)
    times = alternate(timed(contenders), scale.rounds)
    reaches = [
        Reach("job into a stream", "Polars, the files", at_least),
        Reach("job into a stream", "DuckDB, in memory"),
    ]
    report(times, reaches, rows=rows)


# -- the rows ------------------------------------------------------------------------------------


def uneven(rows: int, seed: int) -> list[pa.RecordBatch]:
    """Return trades some symbols of which are traded far more often than others."""
    random = np.random.default_rng(seed)
    weight = np.arange(1, SYMBOLS + 1) ** -1.2
    drawn = np.searchsorted(np.cumsum(weight / weight.sum()), random.random(rows))
    names = pa.array([f"SYM{number:03d}" for number in range(SYMBOLS)])
    made = table(rows)
    symbols = names.take(pa.array(np.minimum(drawn, SYMBOLS - 1)))
    made = made.set_column(1, made.schema.field("symbol"), symbols)
    return made.combine_chunks().to_batches(max_chunksize=BATCH)


def quoted(rows: int) -> list[pa.RecordBatch]:
    """Return quotes of the same day and symbols."""
    made = pl.DataFrame(pa.Table.from_batches(uneven(rows, 2)))
    bid = pl.col("price").alias("bid")
    quotes = made.select("ts", "symbol", bid, ask=pl.col("price") + 0.01).to_arrow()
    prices = [pa.field("bid", pa.float64()), pa.field("ask", pa.float64())]
    return (
        quotes.cast(pa.schema([SCHEMA.field("ts"), SCHEMA.field("symbol"), *prices]))
        .combine_chunks()
        .to_batches(max_chunksize=BATCH)
    )


# -- hopping windows -----------------------------------------------------------------------------


def hopping(lab: sl.Lab) -> sl.Query:
    return lab["trades"].window(sl.hopping(SIZE, every=PANE), by="symbol").agg(**AGGREGATES)


def hopping_batch(lab: sl.Lab) -> pl.DataFrame:
    """Combine panes over all symbols and panes, those without rows too."""
    trades = pl.scan_ipc(files(lab, "trades"))
    pane = pl.col("ts").dt.truncate(PANE).alias("pane")
    panes = trades.group_by("symbol", pane).agg(**PARTIAL).collect()
    low, high = panes["pane"].min(), panes["pane"].max()
    every = pl.datetime_range(low, pl.lit(high).dt.offset_by("290s"), PANE, time_unit="us")
    grid = panes.select(pl.col("symbol").unique().sort()).join(pl.select(pane=every), how="cross")
    full = grid.join(panes, on=["symbol", "pane"], how="left", maintain_order="left")
    added = [
        pl.col(name).rolling_sum(PANES, min_samples=1).over("symbol")
        for name in ("n", "volume", "turnover")
    ]
    combined = full.lazy().with_columns(
        *added,
        pl.col("low").rolling_min(PANES, min_samples=1).over("symbol"),
        pl.col("high").rolling_max(PANES, min_samples=1).over("symbol"),
        pl.col("last").forward_fill(limit=PANES - 1).over("symbol"),
    )
    vwap = (pl.col("turnover") / pl.col("volume")).alias("vwap")
    kept = combined.filter(pl.col("n") > 0)
    return kept.select("symbol", "pane", "n", "volume", vwap, "low", "high", "last").collect()


HOPPING_SQL = f"""WITH panes AS (
  SELECT symbol, time_bucket(INTERVAL 10 SECOND, ts) AS pane, count(*) AS n, sum(size) AS volume,
    sum(price * size) AS turnover, min(price) AS low, max(price) AS high, arg_max(price, ts) AS last
  FROM trades GROUP BY ALL),
grid AS (
  SELECT symbol, pane FROM (SELECT DISTINCT symbol FROM panes), (SELECT unnest(generate_series(
    min(pane), max(pane) + INTERVAL 290 SECOND, INTERVAL 10 SECOND)) AS pane FROM panes))
SELECT symbol, pane, sum(n) OVER five AS n, sum(volume) OVER five AS volume,
  sum(turnover) OVER five / sum(volume) OVER five AS vwap, min(low) OVER five AS low,
  max(high) OVER five AS high, last_value(last IGNORE NULLS) OVER five AS last
FROM grid LEFT JOIN panes USING (symbol, pane)
WINDOW five AS (PARTITION BY symbol ORDER BY pane ROWS BETWEEN {PANES - 1} PRECEDING AND CURRENT ROW)
QUALIFY sum(n) OVER five > 0"""


# -- sessions ------------------------------------------------------------------------------------


def sessions(lab: sl.Lab) -> sl.Query:
    return lab["trades"].window(sl.session("30s"), by="symbol").agg(**AGGREGATES)


def sessions_batch(lab: sl.Lab) -> pl.DataFrame:
    trades = pl.scan_ipc(files(lab, "trades")).select("symbol", "ts", "price", "size")
    ts = pl.col("ts").to_physical()
    begins = (ts - ts.shift(1) >= GAP_US).fill_null(value=True).cum_sum().over("symbol")
    numbered = trades.with_columns(session=begins)
    return numbered.group_by("symbol", "session").agg(**AGGREGATES).collect()


SESSIONS_SQL = f"""SELECT symbol, session, count(*) AS n, sum(size) AS volume,
  sum(price * size) / sum(size) AS vwap, min(price) AS low, max(price) AS high,
  arg_max(price, ts) AS last
FROM (SELECT *, sum(begins) OVER (PARTITION BY symbol ORDER BY ts) AS session FROM (
  SELECT *, coalesce(epoch_us(ts) - epoch_us(lag(ts) OVER (PARTITION BY symbol ORDER BY ts))
    >= {GAP_US}, true)::INT AS begins FROM trades))
GROUP BY symbol, session"""


# -- as-of join ----------------------------------------------------------------------------------


def asof(lab: sl.Lab) -> sl.Query:
    trades = lab["trades"].select("ts", "symbol", "price", "size")
    return trades.join_asof(lab["quotes"].select("ts", "symbol", "bid", "ask"), by="symbol")


def asof_batch(lab: sl.Lab) -> pl.DataFrame:
    trades = pl.scan_ipc(files(lab, "trades")).select("ts", "symbol", "price", "size")
    quotes = pl.scan_ipc(files(lab, "quotes")).select("ts", "symbol", "bid", "ask")
    joined = trades.set_sorted("ts").join_asof(
        quotes.set_sorted("ts"), on="ts", by="symbol", check_sortedness=False
    )
    return joined.collect()


ASOF_SQL = """SELECT trades.ts, symbol, price, size, bid, ask
FROM trades ASOF LEFT JOIN quotes USING (symbol, ts)"""

Question = tuple[
    Callable[[sl.Lab], sl.Query], Callable[[sl.Lab], pl.DataFrame], str, tuple[str, ...], float
]
QUESTIONS: dict[str, Question] = {
    "5-minute windows every 10 s": (
        hopping, hopping_batch, HOPPING_SQL, ("n", "volume", "vwap", "low", "high", "last"), 0.6,
    ),
    "sessions with a gap of 30 s": (
        sessions, sessions_batch, SESSIONS_SQL, ("n", "volume", "vwap", "low", "high"), 0.4,
    ),
    "as-of join with quotes": (asof, asof_batch, ASOF_SQL, ("size", "bid", "ask"), 0.4),
}  # fmt: skip
