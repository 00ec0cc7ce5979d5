"""P5: one-minute windows as a continuous query, from the log into a derived stream.

A job reads 20 million trades from sealed segments, keeps the windows of 500 symbols open with a
delay of five seconds, and appends each closed window to a stream, with its position. The references
do none of that: one Polars batch over the very same files, one over a frame in memory, one of DuckDB
over its own table in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl

import streamlab as sl
from benchmarks.measure import Contender, Reach, Scale, alternate, folder, heading, report
from benchmarks.trades import batches

__all__ = [
    "AGGREGATES",
    "DELAY",
    "agree",
    "files",
    "in_memory",
    "job",
    "make",
    "memory_table",
    "query",
    "timed",
]

ROWS = 20_000_000
DELAY = "5s"
SIZE, PRICE = pl.col("size"), pl.col("price")
AGGREGATES: dict[str, pl.Expr] = {
    "n": pl.len(),
    "volume": SIZE.sum(),
    "vwap": (PRICE * SIZE).sum() / SIZE.sum(),
    "low": PRICE.min(),
    "high": PRICE.max(),
    "last": PRICE.last(),
}
SQL = """SELECT symbol, time_bucket(INTERVAL '1 minute', ts) AS window_start, count(*) AS n,
    sum(size) AS volume, sum(price * size) / sum(size) AS vwap, min(price) AS low,
    max(price) AS high, arg_max(price, ts) AS last FROM trades GROUP BY ALL"""


def run(scale: Scale) -> None:
    """Print the table."""
    rows = scale.rows(ROWS)
    heading("P5", f"1-minute windows of 500 symbols over {rows:,} rows, from the log into a stream")
    with folder() as place, make(place / "lab", {"trades": batches(rows)}) as lab:
        frame = in_memory(lab, "trades")
        with memory_table({"trades": frame}) as connection:
            contenders: dict[str, Callable[[], Any]] = {
                "job into a stream": lambda: job(lab, query(lab["trades"])),
                "Polars, the files": lambda: windows(pl.scan_ipc(files(lab, "trades"))),
                "Polars, in memory": lambda: windows(frame.lazy()),
                "DuckDB, in memory": lambda: connection.sql(SQL).to_arrow_table(),
            }
            agree(
                contenders,
                lambda: job(lab, query(lab["trades"]), keep=True),
                ("n", "volume", "last"),
            )
            times = alternate(timed(contenders), scale.rounds)
    ours = "job into a stream"
    reaches = [
        Reach(ours, "Polars, the files", 1.0),
        Reach(ours, "Polars, in memory", 0.8),
        Reach(ours, "DuckDB, in memory", 0.5),
    ]
    report(times, reaches, rows=rows)


def query(trades: sl.Stream, delay: str = DELAY) -> sl.Query:
    """Return the continuous query."""
    return trades.window(sl.tumbling("1m"), by="symbol", delay=delay).agg(**AGGREGATES)


def windows(frame: pl.LazyFrame) -> pl.DataFrame:
    """Answer in one batch; ``truncate`` and ``group_by`` is what Polars is fastest with."""
    minute = pl.col("ts").dt.truncate("1m").alias("window_start")
    return frame.group_by("symbol", minute).agg(**AGGREGATES).collect()


# -- what P6 measures in the same way ------------------------------------------------------------


@contextmanager
def make(path: Path, streams: Mapping[str, list]):
    """Give a lab with these streams, sealed and closed, so that every window is final."""
    with sl.open(path, sync="os") as lab:
        for name, parts in streams.items():
            stream = lab.create(name, parts[0].schema, time="ts", delay=DELAY)
            for batch in parts:
                stream.append(batch)
            stream.advance("end")
            stream.seal()
        yield lab


def in_memory(lab: sl.Lab, stream: str) -> pl.DataFrame:
    """Return the rows of a stream as one frame of contiguous columns, copied."""
    rows = pl.scan_ipc(files(lab, stream)).select(pl.exclude("^_.*$"))
    return rows.collect().rechunk()


@contextmanager
def memory_table(frames: Mapping[str, pl.DataFrame]):
    """Give a DuckDB connection with these frames in tables of its own, in memory."""
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, frame in frames.items():
            connection.register("given", frame)
            connection.execute(f"CREATE TABLE {name} AS FROM given")
            connection.unregister("given")
        yield connection


def files(lab: sl.Lab, stream: str) -> list[str]:
    """Return the sealed files of a stream, in order."""
    return sorted(str(path) for path in (lab.path / "streams" / stream).glob("*.arrow"))


def job(lab: sl.Lab, asked: sl.Query, *, into: str = "out", keep: bool = False) -> Any:
    """Run a query into a new stream, to the end; return the seconds, or the rows to ``keep``."""
    started = time.perf_counter()
    asked.run(into=into, follow=False).wait(caught_up=False)
    took = time.perf_counter() - started
    found = lab[into].to_polars() if keep else took
    lab.drop(into)
    return found


def timed(contenders: Mapping[str, Callable[[], Any]]) -> dict[str, Contender]:
    """Return contenders that give their seconds if they know them, and no result."""

    def measured(work: Callable[[], Any]) -> Contender:
        def seconds() -> float | None:
            given = work()
            return given if isinstance(given, float) else None

        return seconds

    return {name: measured(work) for name, work in contenders.items()}


def agree(
    contenders: Mapping[str, Callable[[], Any]],
    ours: Callable[[], pl.DataFrame],
    columns: tuple[str, ...],
) -> None:
    """See that each contender gives the rows and sums that ours gives, but for rounding."""
    wanted = totals(ours(), columns)
    for name, work in contenders.items():
        found = work()
        if isinstance(found, float):
            continue
        other = totals(found, columns)
        near = [abs(a - b) <= 1e-9 * max(abs(a), 1.0) for a, b in zip(wanted, other, strict=True)]
        assert all(near), f"{name} gives {other}, not {wanted}"


def totals(result: Any, columns: tuple[str, ...]) -> list[float]:
    """Return rows and sums of a result."""
    frame = result if isinstance(result, pl.DataFrame) else pl.DataFrame(result)
    return [frame.height, *frame.select(pl.col(columns).cast(pl.Float64).sum()).row(0)]
