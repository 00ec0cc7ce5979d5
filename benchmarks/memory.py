"""Memory: the peak of a process while it appends, and while it scans, ten times the rows or not.

Each figure is of a process of its own. Pages of mapped files count as resident although the system
takes them back whenever it needs them, so they are shown apart: "own" is what the process allocated
(RssAnon), "mapped" what it has mapped of files (RssFile), each at its own peak.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa

import streamlab as sl
from benchmarks.measure import Scale, folder, heading
from benchmarks.trades import DAY_US, SCHEMA, START_US

ROWS = 100_000_000
BATCH = 65_536
SYMBOLS = pa.array([f"SYM{number:03d}" for number in range(500)])
QUERY = (
    "SELECT symbol, count(*) AS n, sum(price * size) / sum(size) AS vwap FROM trades GROUP BY ALL"
)


def run(scale: Scale) -> None:
    """Print the table."""
    rows = scale.rows(ROWS)
    heading("Memory", f"peak of a fresh process, MB; {rows:,} rows against {rows // 10:,}")
    print(f"  {'':<34}{'own':>9}{'mapped':>9}{'both':>9}{'own, a tenth':>14}{'ratio':>8}")
    with folder() as place:
        for count in (rows // 10, rows):
            measured("append_batches", place / f"lab{count}", count)
        for name, task in TASKS.items():
            small = measured(task, place / f"lab{rows // 10}", rows // 10)
            large = measured(task, place / f"lab{rows}", rows)
            ratio = large["own"] / small["own"]
            cells = "".join(f"{large[what]:>9.0f}" for what in ("own", "mapped", "both"))
            print(f"  {name:<34}{cells}{small['own']:>14.0f}{ratio:>8.2f}")


def measured(task: str, path: Path, rows: int) -> dict[str, float]:
    """Run a task in a fresh process and return its peaks."""
    command = [sys.executable, "-m", "benchmarks.memory", task, str(path), str(rows)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=root)
    return json.loads(done.stdout)


def resident() -> dict[str, float]:
    """Return what the process has in memory, in MB: its own, mapped from files, both."""
    status = Path("/proc/self/status").read_text()
    sizes = dict(line.split(":") for line in status.splitlines() if line.startswith("Rss"))
    own, mapped = (int(sizes[name].split()[0]) / 1e3 for name in ("RssAnon", "RssFile"))
    return {"own": own, "mapped": mapped, "both": own + mapped}


class Peak:
    """Watches the memory of this process, a hundred times a second."""

    def __enter__(self) -> Peak:
        self.most = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            now = resident()
            self.most = {name: max(now[name], size) for name, size in self.most.items()}

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def made(rows: int):
    """Yield trades batch by batch, none of them kept."""
    step = max(DAY_US // rows, 1)
    random = np.random.default_rng(1)
    for at in range(0, rows, BATCH):
        count = min(BATCH, rows - at)
        ts = START_US + np.arange(at, at + count, dtype=np.int64) * step
        columns = [
            pa.array(ts).cast(SCHEMA.field("ts").type),
            SYMBOLS.take(pa.array(random.integers(0, len(SYMBOLS), count))),
            pa.array(random.random(count) * 100),
            pa.array(random.integers(1, 1_000, count)),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)


def generate(path: Path, rows: int) -> None:
    del path
    for _ in made(rows):
        pass


def append_batches(path: Path, rows: int) -> None:
    with sl.open(path, sync="os") as lab:
        stream = lab.create("trades", SCHEMA, time="ts", exist_ok=True)
        for batch in made(rows):
            stream.append(batch)
        stream.seal()


def append_again(path: Path, rows: int) -> None:
    append_batches(path.with_name(path.name + "-again"), rows)


def append_reader(path: Path, rows: int) -> None:
    with sl.open(path.with_name(path.name + "-reader"), sync="os") as lab:
        stream = lab.create("trades", SCHEMA, time="ts")
        stream.append(pa.RecordBatchReader.from_batches(SCHEMA, made(rows)))
        assert len(stream) == rows


def scan(path: Path, rows: int) -> None:
    import polars as pl

    with sl.open(path, read_only=True) as lab:
        frame = lab["trades"].scan().group_by("symbol")
        vwap = (pl.col("price") * pl.col("size")).sum() / pl.col("size").sum()
        found = frame.agg(n=pl.len(), vwap=vwap).collect(engine="streaming")
        assert found["n"].sum() == rows


def sql(path: Path, rows: int) -> None:
    with sl.open(path, read_only=True) as lab:
        found = lab.sql(QUERY).to_arrow_table()
        assert sum(found["n"].to_pylist()) == rows


def iterate(path: Path, rows: int) -> None:
    with sl.open(path, read_only=True) as lab:
        reader = pa.RecordBatchReader.from_stream(lab["trades"])
        assert sum(batch.num_rows for batch in reader) == rows


TASKS = {
    "making the rows, nothing else": "generate",
    "append, batches of 65,536": "append_again",
    "append, one RecordBatchReader": "append_reader",
    "scan(), streaming aggregate": "scan",
    "lab.sql, aggregate": "sql",
    "reading batch by batch": "iterate",
}


if __name__ == "__main__":
    with Peak() as peak:
        globals()[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(peak.most))
