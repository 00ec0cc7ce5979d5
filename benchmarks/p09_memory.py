"""P9: the peak memory of a job over ten times the rows, each in a process of its own.

The job is that of P5, from sealed segments into a derived stream. What counts is what the process
allocated ("own"); pages of mapped files, which the system takes back when it needs them, are shown
apart, as in `benchmarks/memory.py`.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import streamlab as sl
from benchmarks.measure import Scale, folder, heading
from benchmarks.memory import Peak, append_batches
from benchmarks.p05_windows import query

ROWS = 200_000_000
ROUNDS = 3  # at most
MORE, MOST = 1.2, 600  # times, MB
WHAT = ("own", "mapped", "both")


def run(scale: Scale) -> None:
    """Print the table."""
    rows = scale.rows(ROWS)
    heading(
        "P9", f"peak of a job, MB, median of fresh processes; {rows:,} rows and a tenth of them"
    )
    print(f"  {'':<20}" + "".join(f"{what:>10}" for what in WHAT) + f"{'rows out':>12}")
    own = []
    with folder() as place:
        for count in (max(rows // 10, 1), rows):
            measured("fill", place / str(count), count)
            peaks = [
                measured("work", place / str(count), count)
                for _ in range(min(scale.rounds, ROUNDS))
            ]
            middle = {name: statistics.median(peak[name] for peak in peaks) for name in peaks[0]}
            cells = "".join(f"{middle[what]:>10.0f}" for what in WHAT)
            print(f"  {count:<20,}{cells}{middle['out']:>12,.0f}", flush=True)
            own.append(middle["own"])
    verdict = "reached" if own[1] <= MORE * own[0] and own[1] <= MOST else "NOT reached"
    print(f"  {own[1] / own[0]:.2f} times as much   reach <= {MORE:g} and {MOST} MB: {verdict}")


def measured(task: str, path: Path, rows: int) -> dict[str, float]:
    """Do a task in a fresh process and return its peaks."""
    command = [sys.executable, "-m", "benchmarks.p09_memory", task, str(path), str(rows)]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=root)
    return json.loads(done.stdout)


def fill(path: Path, rows: int) -> int:
    """Make the lab."""
    append_batches(path, rows)
    return rows


def work(path: Path, rows: int) -> int:
    """Run the job; return how many windows came out."""
    with sl.open(path, sync="os") as lab:
        job = query(lab["trades"]).run(into="out", follow=False).wait(caught_up=False)
        assert job.progress.rows_in == rows, job.progress
        out = len(lab["out"])
        lab.drop("out")
        return out


if __name__ == "__main__":
    with Peak() as peak:
        given = globals()[sys.argv[1]](Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({**peak.most, "out": given}))
