"""P7: how long after an append its rows are seen: by a follower, here and elsewhere, and in a result.

A hundred rows are appended every 50 ms. A follower of this process, one of another process, and a job
of changed windows (its function is what would draw them), each alone and then all three at once,
note when they have the rows of which batch. The time counts from the call of ``append``.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

import streamlab as sl
from benchmarks.measure import Scale, folder, heading

BATCHES, FIRST, LEAST = 220, 20, 10  # the first ones do not count
ROWS, EVERY = 100, 0.05
SYMBOLS = 500
PATIENCE = 30.0  # seconds
WHO = {
    "follower, same process": (0.5, 3.0),
    "follower, another process": (2.0, 6.0),
    "changed windows": (3.0, 6.0),
}
SCHEMA = {
    "ts": pl.Datetime("us", "UTC"),
    "symbol": pl.String,
    "price": pl.Float64,
    "size": pl.Int64,
    "batch": pl.Int64,
}


def run(scale: Scale) -> None:
    """Print the tables."""
    batches = FIRST + max(scale.rows(BATCHES - FIRST), LEAST)
    for sync in ("os", "always"):
        heading("P7", f'append {ROWS} rows every {EVERY * 1e3:.0f} ms until seen, sync="{sync}"')
        print(f"  {'':<28}{'median':>10}{'p90':>10}{'p99':>10}{'most':>10}")
        for names in [*([name] for name in WHO), list(WHO)]:
            with folder() as place:
                appended, seen = measured(place / "lab", batches, sync, names)
            if len(names) > 1:
                print("  all at once")
            for name, at in seen.items():
                print(line(name, appended, at, reach=sync == "os" and len(names) == 1))


def line(name: str, appended: list[int], at: list[int], *, reach: bool) -> str:
    """Return the line of one that sees rows."""
    assert all(at), f"{name}: batch {at.index(0)} was not seen"
    delays = (np.array(at[FIRST:]) - np.array(appended[FIRST:])) / 1e6
    p50, p90, p99 = np.percentile(delays, [50, 90, 99])
    text = "".join(f"{value:>7.2f} ms" for value in (p50, p90, p99, delays.max()))
    if reach:
        half, most = WHO[name]
        verdict = "reached" if p50 <= half and p99 <= most else "NOT reached"
        text += f"   reach <= {half:g} ms, p99 {most:g} ms: {verdict}"
    return f"  {name:<28}{text}"


def measured(
    path: Path, batches: int, sync: str, names: list[str]
) -> tuple[list[int], dict[str, list[int]]]:
    """Return when each batch was given, and when each saw it, in nanoseconds of one clock."""
    frames = [made(number) for number in range(batches)]
    with sl.open(path, sync=sync) as lab, contextlib.ExitStack() as ends:
        stream = lab.create("trades", frames[0].clear(), time="ts")
        begun = {name: WATCH[name](lab, batches, ends) for name in names}
        appended = append(stream, frames)
        return appended, {name: at() for name, at in begun.items()}


Watch = Callable[[], list[int]]  # waits, and tells when each batch was seen


def follower(lab: sl.Lab, batches: int, ends: contextlib.ExitStack) -> Watch:
    seen = Seen(batches)
    thread = threading.Thread(target=follow, args=(lab["trades"], seen), daemon=True)
    thread.start()
    ends.callback(thread.join, PATIENCE)
    return seen.wait


def other_process(lab: sl.Lab, batches: int, ends: contextlib.ExitStack) -> Watch:
    child = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.p07_latency", str(lab.path), str(batches)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    ends.enter_context(child)
    ends.callback(child.kill)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return lambda: json.loads(child.communicate(timeout=PATIENCE)[0])


def changes(lab: sl.Lab, batches: int, ends: contextlib.ExitStack) -> Watch:
    seen = Seen(batches)
    job = asked(lab["trades"]).run(into=seen.frame, emit="changes", name="changed")
    ends.callback(job.stop)

    def wait() -> list[int]:
        found = seen.wait()
        if job.error is not None:
            raise job.error
        return found

    return wait


def asked(stream: sl.Stream) -> sl.Query:
    """Return windows that tell which batch they have seen."""
    price = (pl.col("price") * pl.col("size")).sum() / pl.col("size").sum()
    window = stream.window(sl.tumbling("1m"), by="symbol", delay="5s")
    return window.agg(n=pl.len(), vwap=price, batch=pl.col("batch").max())


def append(stream: sl.Stream, frames: list[pl.DataFrame]) -> list[int]:
    """Append a frame at each tick; return when each was given."""
    given = []
    start = time.monotonic()
    for number, frame in enumerate(frames):
        time.sleep(max(start + number * EVERY - time.monotonic(), 0))
        given.append(time.monotonic_ns())
        stream.append(frame)
    return given


def made(number: int) -> pl.DataFrame:
    """Return the rows of one batch."""
    random = np.random.default_rng(number)
    first = 1_767_605_400_000_000 + round(number * EVERY * 1e6)
    return pl.DataFrame(
        {
            "ts": first + np.sort(random.integers(0, round(EVERY * 1e6), ROWS)),
            "symbol": [f"SYM{at:03d}" for at in random.integers(0, SYMBOLS, ROWS)],
            "price": random.random(ROWS) * 100,
            "size": random.integers(1, 1_000, ROWS),
            "batch": np.full(ROWS, number),
        },
        schema=SCHEMA,
    )


class Seen:
    """When each batch was seen first."""

    def __init__(self, batches: int) -> None:
        self.at = [0] * batches
        self.whole = threading.Event()

    def upto(self, batch: int) -> None:
        """Note that this batch and all before it are there."""
        now = time.monotonic_ns()
        while batch >= 0 and not self.at[batch]:
            self.at[batch] = now
            batch -= 1
        if self.at[-1]:
            self.whole.set()

    def wait(self) -> list[int]:
        """Return when each batch was seen, all of them; 0 for one that never was."""
        self.whole.wait(PATIENCE)
        return self.at

    def frame(self, frame: pl.DataFrame) -> None:
        """Note what a frame of changed windows tells."""
        newest = frame["batch"].max()
        if newest is not None:
            self.upto(int(newest))


def follow(stream: sl.Stream, seen: Seen) -> None:
    for batch in stream.follow("earliest", timeout=PATIENCE):
        seen.upto(batch.column("batch")[batch.num_rows - 1].as_py())
        if seen.whole.is_set():
            return


WATCH = dict(zip(WHO, (follower, other_process, changes), strict=True))


def follow_elsewhere(path: Path, batches: int) -> None:
    """Follow from another process, and print when each batch was seen."""
    seen = Seen(batches)
    with sl.open(path, read_only=True) as lab:
        print("ready", flush=True)
        follow(lab["trades"], seen)
    print(json.dumps(seen.at))


if __name__ == "__main__":
    follow_elsewhere(Path(sys.argv[1]), int(sys.argv[2]))
