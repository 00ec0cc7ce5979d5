"""P8, second half: history into DuckDB, against ``CREATE TABLE AS`` from a Parquet copy of the same rows.

Both make a new file with the same table, system columns included, and close it. Every measurement is
a process of its own, so that neither finds what the other left in memory; its peak is printed too,
with the mapped pages of our segments in it.
A second table is what a call costs that finds little or nothing new.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import streamlab as sl
from benchmarks.measure import Reach, Scale, alternate, folder, heading, report
from benchmarks.trades import SCHEMA, batches

ROWS = 20_000_000
MORE = 1000


def run(scale: Scale) -> None:
    """Print the tables."""
    rows = scale.rows(ROWS)
    with folder() as place:
        prepare(place, rows)
        heading("P8", f"{rows:,} rows into a new DuckDB file, sealed segments, warm page cache")
        compare(place, rows, scale.rounds)
        heading("P8", f"the next call, on a table of {rows:,} rows")
        again(place, scale.rounds)


def prepare(place: Path, rows: int) -> None:
    """Make the lab, all sealed, and the Parquet copy."""
    with sl.open(place / "lab", sync="os") as lab:
        stream = lab.create("trades", SCHEMA, time="ts")
        for batch in batches(rows):
            stream.append(batch)
        stream.seal()
        sl.export(stream, place / "trades.parquet", progress=False)


def compare(place: Path, rows: int, rounds: int) -> None:
    """Print how long the copy takes, beside DuckDB's own."""
    peaks: dict[str, float] = {}

    def measured(engine: str) -> float:
        for file in place.glob("x.duckdb*"):
            file.unlink()
        command = [sys.executable, "-m", "benchmarks.p08_duckdb", str(place), engine]
        root = Path(__file__).parent.parent
        done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
        seconds, peak, count = json.loads(done.stdout)
        assert count == rows
        peaks[engine] = max(peak, peaks.get(engine, 0))
        return float(seconds)

    times = alternate({name: lambda name=name: measured(name) for name in ENGINES}, rounds)
    report(times, [Reach("to_duckdb", "CREATE TABLE AS", 0.8)], rows=rows)
    print(
        "  peaks: " + ", ".join(f"{name} {peak / 2**20:,.0f} MiB" for name, peak in peaks.items())
    )


def again(place: Path, rounds: int) -> None:
    """Print what a call costs on a table that is there."""
    path = place / "again.duckdb"
    with sl.open(place / "lab", sync="os") as lab:
        stream = lab["trades"]
        stream.to_duckdb(path, progress=False)
        rows = stream.head(MORE)

        def more() -> float:
            stream.append(rows)
            started = time.perf_counter()
            assert stream.to_duckdb(path, progress=False) == MORE
            return time.perf_counter() - started

        def touched() -> float:
            import duckdb

            with duckdb.connect(str(path)) as connection:
                connection.execute("CREATE OR REPLACE TABLE mine AS SELECT 1 AS i")
            started = time.perf_counter()
            assert stream.to_duckdb(path, progress=False) == 0
            return time.perf_counter() - started

        work = {
            "nothing new": lambda: stream.to_duckdb(path, progress=False) or None,
            f"{MORE:,} rows more": more,
            "nothing new, but somebody was there": touched,
        }
        report(alternate(work, rounds), [])


def copy(place: Path) -> int:
    with sl.open(place / "lab", read_only=True) as lab:
        return lab["trades"].to_duckdb(place / "x.duckdb", progress=False)


def create_as(place: Path) -> int:
    import duckdb

    with duckdb.connect(str(place / "x.duckdb")) as connection:
        source = f"read_parquet('{place / 'trades.parquet'}')"
        return connection.execute(f"CREATE TABLE trades AS FROM {source}").fetchall()[0][0]


ENGINES = {"to_duckdb": copy, "CREATE TABLE AS": create_as}


def child(place: Path, engine: str) -> None:
    """Measure one engine: what a fresh process does."""
    import duckdb  # noqa: F401
    import pyarrow.dataset  # noqa: F401

    started = time.perf_counter()
    count = ENGINES[engine](place)
    seconds = time.perf_counter() - started
    status = Path("/proc/self/status").read_text()
    peak = sum(int(kb) for kb in re.findall(r"VmHWM:\s+(\d+)", status)) * 1024
    print(json.dumps([seconds, peak, count]))


if __name__ == "__main__":
    child(Path(sys.argv[1]), sys.argv[2])
