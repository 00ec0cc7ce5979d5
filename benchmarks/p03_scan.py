"""P3: filter and window aggregate over sealed segments, through Polars and through SQL.

The references read the very same files without streamlab: Polars' ``scan_ipc``, DuckDB over a
pyarrow dataset of them, and DuckDB over a Parquet copy. Every measurement is a process of its own:
the first run there includes what is done once (ours verifies the checksum of each file; all open
files and start threads), then come runs "after", of which the median counts.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

import streamlab as sl
from benchmarks.measure import Reach, Scale, folder, heading, report
from benchmarks.trades import SCHEMA, batches, table

ROWS = 20_000_000
AFTER = 5  # runs after the first, in each process

WINDOWS = (
    "SELECT date_trunc('minute', ts) AS minute, symbol, count(*) AS n, sum(size) AS volume, "
    "sum(price * size) / sum(size) AS vwap FROM trades WHERE price > 50 GROUP BY ALL"
)
TOTALS = "SELECT count(*) AS n, sum(size) AS volume FROM trades WHERE price > 50 AND size > 500"


def run(scale: Scale) -> None:
    """Print the tables."""
    rows = scale.rows(ROWS)
    with folder() as place:
        prepare(place, rows)
        heading("P3", f"filter + aggregate over {rows:,} rows in sealed segments, warm page cache")
        for query, what in (
            ("windows", "1-minute windows of 500 symbols"),
            ("totals", "filter and two sums"),
        ):
            compare(place, query, what, rows, scale.rounds)


def compare(place: Path, query: str, what: str, rows: int, rounds: int) -> None:
    """Print how each engine does on one query, first and after."""
    first: dict[str, list[float]] = {name: [] for name in ENGINES}
    after: dict[str, list[float]] = {name: [] for name in ENGINES}
    answers = {}
    for _ in range(rounds):
        for name in ENGINES:
            seconds, answers[name] = measured(place, name, query)
            first[name].append(seconds[0])
            after[name].append(statistics.median(seconds[1:]))
    assert len({tuple(answer) for answer in answers.values()}) == 1, answers
    pairs = [
        ("stream.scan()", "Polars scan_ipc"),
        ("lab.sql", "DuckDB, dataset"),
        ("lab.sql", "DuckDB, Parquet"),
    ]
    print(f"  {what}, first touch in a fresh process")
    report(first, [Reach(*pair) for pair in pairs], rows=rows)
    print(f"  {what}, after")
    report(after, [Reach(*pair, 0.9) for pair in pairs], rows=rows)


def measured(place: Path, engine: str, query: str) -> tuple[list[float], list[int]]:
    """Run a query several times in a fresh process; return the seconds of each, and the answer."""
    command = [sys.executable, "-m", "benchmarks.p03_scan", str(place), engine, query]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    seconds, answer = json.loads(done.stdout)
    return seconds, answer


def prepare(place: Path, rows: int) -> None:
    """Make the lab, all sealed, and the Parquet copy."""
    with sl.open(place / "lab", sync="os") as lab:
        stream = lab.create("trades", SCHEMA, time="ts")
        for batch in batches(rows):
            stream.append(batch)
        stream.seal()
    pq.write_table(table(rows), place / "trades.parquet", compression="zstd")


def files(place: Path) -> list[str]:
    return sorted(str(path) for path in (place / "lab" / "streams" / "trades").glob("*.arrow"))


def streamlab_polars(place: Path, query: str):
    lab = sl.open(place / "lab", read_only=True)
    return lambda: polars_query(lab["trades"].scan(), query)


def streamlab_sql(place: Path, query: str):
    lab = sl.open(place / "lab", read_only=True)
    return lambda: totals(lab.sql(sql_of(query)).to_arrow_table())


def polars_files(place: Path, query: str):
    import polars as pl

    return lambda: polars_query(pl.scan_ipc(files(place)), query)


def duckdb_dataset(place: Path, query: str):
    import duckdb
    import pyarrow.dataset as ds

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("trades", ds.dataset(files(place), format="ipc"))
    return lambda: totals(connection.sql(sql_of(query)).to_arrow_table())


def duckdb_parquet(place: Path, query: str):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    path = place / "trades.parquet"
    connection.execute(f"CREATE VIEW trades AS FROM read_parquet('{path}')")
    return lambda: totals(connection.sql(sql_of(query)).to_arrow_table())


def sql_of(query: str) -> str:
    return WINDOWS if query == "windows" else TOTALS


def polars_query(frame, query: str) -> list[int]:
    import polars as pl

    if query == "totals":
        kept = frame.filter(pl.col("price") > 50, pl.col("size") > 500)
        return totals(kept.select(n=pl.len(), volume=pl.col("size").sum()).collect())
    minute = pl.col("ts").dt.truncate("1m").alias("minute")
    volume = pl.col("size").sum()
    vwap = (pl.col("price") * pl.col("size")).sum() / volume
    grouped = frame.filter(pl.col("price") > 50).group_by(minute, "symbol")
    return totals(grouped.agg(n=pl.len(), volume=volume, vwap=vwap).collect())


def totals(result) -> list[int]:
    """Return rows, events and volume of a result, by which the engines are seen to agree."""
    import polars as pl

    frame = result if isinstance(result, pl.DataFrame) else pl.from_arrow(result)
    return [frame.height, int(frame["n"].sum()), int(frame["volume"].sum())]


ENGINES = {
    "stream.scan()": streamlab_polars,
    "Polars scan_ipc": polars_files,
    "lab.sql": streamlab_sql,
    "DuckDB, dataset": duckdb_dataset,
    "DuckDB, Parquet": duckdb_parquet,
}


def child(place: Path, engine: str, query: str) -> None:
    """Measure one engine: what a fresh process does."""
    import duckdb  # noqa: F401
    import polars as pl  # noqa: F401
    import pyarrow.dataset  # noqa: F401

    seconds = []
    answer: list[int] = []
    work = None
    for _ in range(1 + AFTER):
        started = time.perf_counter()
        work = work or ENGINES[engine](place, query)
        answer = work()
        seconds.append(time.perf_counter() - started)
    print(json.dumps([seconds, answer]))


if __name__ == "__main__":
    child(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
