"""P10: what one waits for: recovery after a kill, the import, the command line.

A process is killed with a full growing file, which the next writer has to check byte by byte before
it writes. Import and command line run in fresh processes, as they do in life.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import streamlab as sl
from benchmarks.measure import Bound, Scale, alternate, folder, heading, print_bounds
from benchmarks.trades import SCHEMA, batches

SEGMENT_BYTES = 64 << 20
ROW_BYTES = 34

IMPORT = "import time; a = time.perf_counter(); import streamlab; print(time.perf_counter() - a)"
LIST = "import sys; sys.argv[:] = ['streamlab', 'ls', sys.argv[1]]; from streamlab.cli import main; main()"


def run(scale: Scale) -> None:
    """Print the table."""
    rows = scale.rows(SEGMENT_BYTES // ROW_BYTES)
    with folder() as place:
        killed(place / "killed", rows)
        size = max(
            p.stat().st_size for p in (place / "killed" / "streams" / "trades").glob("*.log")
        )
        contenders = {
            "recover, first append": lambda: recover(place),
            "recover, first read": lambda: recover(place, read=True),
            "import streamlab": imported,
            "bare python": lambda: fresh("pass"),
        }
        bounds = [
            Bound("recover, first append", 0.2),
            Bound("recover, first read", 0.2),
            Bound("import streamlab", 0.5),
            Bound("bare python"),
        ]
        if has_cli():
            contenders["streamlab ls"] = lambda: fresh(LIST, str(place / "killed"))
            bounds.insert(3, Bound("streamlab ls", 0.7))
        times = alternate(contenders, scale.rounds)
    heading("P10", f"recover after a kill with {size / 1e6:.0f} MB in the growing file; start")
    print_bounds(times, bounds)
    if not has_cli():
        print("  streamlab ls: there is no command line in this installation")


def killed(path: Path, rows: int) -> None:
    """Let a process append and be killed in the middle of it."""
    command = [sys.executable, "-m", "benchmarks.p10_start", str(path), str(rows)]
    done = subprocess.run(command, check=False, cwd=Path(__file__).parent.parent)
    assert done.returncode == -signal.SIGKILL, done.returncode


def recover(place: Path, *, read: bool = False) -> float:
    shutil.copytree(place / "killed", place / "copy")
    started = time.perf_counter()
    with sl.open(place / "copy", sync="os") as lab:
        stream = lab["trades"]
        if read:
            assert stream.tail(5).height == 5
        else:
            stream.append(batches(10)[0])
        took = time.perf_counter() - started
    shutil.rmtree(place / "copy")
    return took


def imported() -> float:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def fresh(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", code, *arguments], check=True, capture_output=True)


def has_cli() -> bool:
    import importlib.util

    return importlib.util.find_spec("streamlab.cli") is not None


def child(path: Path, rows: int) -> None:
    """Fill the growing file and die."""
    lab = sl.open(path, sync="os")
    stream = lab.create("trades", SCHEMA, time="ts")
    for batch in batches(rows):
        stream.append(batch)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    child(Path(sys.argv[1]), int(sys.argv[2]))
