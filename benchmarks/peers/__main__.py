"""``python -m benchmarks.peers [deephaven spark bytewax]``: P5 against other stream processors.

The question is P5's: windows of a minute for each of 500 symbols, six aggregates, a delay of five
seconds, over the first rows of P5's day. Each peer runs in a fresh process of its own environment
(``.peers/<name>``), from the source that is its fastest without a broker, and its start, its imports
and making its rows of ours do not count. Ours reads its log and writes each closed window to a
stream, with its position; of the peers only Spark keeps anything on disk. In each round every one
has its turn; what is compared is rows a second over the very same rows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Scale, folder
from benchmarks.p05_windows import ROWS as DAY_ROWS
from benchmarks.p05_windows import job, make, query
from benchmarks.trades import table

ROOT = Path(__file__).parent.parent.parent
PART = 1_000_000  # rows of a Parquet file: Spark takes one at a time
BATCH = 65_536
PEERS = {"deephaven": (10_000_000, 5.0), "spark": (5_000_000, 15.0), "bytewax": (500_000, 100.0)}
JAVA = {"deephaven", "spark"}
LAST_MINUTES = 2  # a peer that closes nothing at the end of its input lacks these


def main() -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="peer", help=f"{', '.join(PEERS)} (all)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, one round")
    parser.add_argument("--rounds", type=int, help="how often each is measured (3)")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in PEERS]
    if unknown:
        raise SystemExit(f"no peer {unknown[0]!r}; there are {', '.join(PEERS)}")
    scale = Scale(10, given.rounds or 1) if given.quick else Scale(1, given.rounds or 3)
    run(scale, given.names or list(PEERS))


def run(scale: Scale, names: list[str]) -> None:
    """Print a line for each peer."""
    print("\nPeers  1-minute windows of 500 symbols, rows/s, median; ratios of each round")
    print(f"  {'':<12}{'rows':>12}{'peer':>12}{'streamlab':>12}{'ratio':>9}  load")
    day = None
    for name in names:
        reason = missing(name)
        if reason:
            print(f"  {name:<12}{reason}")
            continue
        day = table(DAY_ROWS) if day is None else day
        full, at_least = PEERS[name]
        rows = scale.rows(full)
        theirs, ours = measured(name, day.slice(0, rows), scale.rounds)
        each = [other / own for other, own in zip(theirs, ours, strict=True)]
        middle = statistics.median(each)
        speeds = "".join(f"{rows / statistics.median(t) / 1e6:>10.3f} M" for t in (theirs, ours))
        verdict = "reached" if middle >= at_least else "NOT reached"
        print(f"  {name:<12}{rows:>12,}{speeds}{middle:>9.1f}", end="")
        print(f"  {os.getloadavg()[0]:.1f}   reach >= {at_least:g}: {verdict}", flush=True)


def missing(name: str) -> str | None:
    """Return what a peer lacks to run, None if nothing."""
    if name in JAVA and not os.environ.get("JAVA_HOME") and not shutil.which("java"):
        return "needs Java 17: apt-get install openjdk-17-jre-headless"
    if not python(name).exists():
        return "is not installed: make bench-peers"
    return None


def python(name: str) -> Path:
    return ROOT / ".peers" / name / "bin" / "python"


def measured(name: str, rows: pa.Table, rounds: int) -> tuple[list[float], list[float]]:
    """Return the seconds of the peer and of ours in each round."""
    theirs, ours = [], []
    with folder() as place:
        write(place, rows)
        batches = rows.to_batches(max_chunksize=BATCH)
        with make(place / "lab", {"trades": batches}) as lab:
            asked = query(lab["trades"])
            wanted = job(lab, asked, keep=True)
            for _ in range(rounds):
                found = peer(name, place)
                check(name, found, wanted)
                theirs.append(found["seconds"])
                ours.append(job(lab, asked))
    return theirs, ours


def write(place: Path, rows: pa.Table) -> None:
    """Write the rows as the peers take them: an Arrow file, and Parquet in parts."""
    with pa.ipc.new_file(place / "trades.arrow", rows.schema) as file:
        file.write_table(rows, max_chunksize=BATCH)
    (place / "parquet").mkdir()
    for number, start in enumerate(range(0, rows.num_rows, PART)):
        part = rows.slice(start, PART)
        pq.write_table(part, place / "parquet" / f"{number:05d}.parquet", compression="zstd")


def peer(name: str, place: Path) -> dict[str, float]:
    """Run a peer in a fresh process; return its seconds, and what its windows add up to."""
    # -P: the scripts are named after what they import
    command = [str(python(name)), "-P", str(Path(__file__).parent / f"{name}.py"), str(place)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def check(name: str, found: dict[str, float], wanted: pl.DataFrame) -> None:
    """See that a peer's windows are ours, the last minutes perhaps left out."""
    minutes = wanted["window_start"].unique().sort(descending=True)
    sums = [
        (kept.height, kept["n"].sum(), kept["volume"].sum())
        for left_out in range(LAST_MINUTES + 1)
        if left_out < len(minutes)
        for kept in [wanted.filter(pl.col("window_start") <= minutes[left_out])]
    ]
    got = tuple(found[key] for key in ("windows", "n", "volume") if key in found)
    assert any(got == one[: len(got)] for one in sums), f"{name} gives {got}, not one of {sums}"


if __name__ == "__main__":
    main()
