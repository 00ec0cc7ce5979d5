"""P5 in Bytewax: one worker, rows as Python tuples made beforehand, windows into a list.

Its clock is the events' alone: the system clock, which would move its watermark too, stands still.
"""

import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
from bytewax.dataflow import Dataflow
from bytewax.operators import input as read
from bytewax.operators import output as write
from bytewax.operators.windowing import EventClock, TumblingWindower, fold_window
from bytewax.testing import TestingSink, TestingSource, run_main

NOW = datetime(2026, 11, 1, tzinfo=UTC)


def event_time(row):
    return row[0]


def fixed_now():
    return NOW


def empty():
    return [0, 0, 0.0, float("inf"), float("-inf"), None]


def fold(state, row):
    _, price, size = row
    state[0] += 1
    state[1] += size
    state[2] += price * size
    state[3] = min(state[3], price)
    state[4] = max(state[4], price)
    state[5] = price
    return state


def merge(one, two):
    return [
        one[0] + two[0],
        one[1] + two[1],
        one[2] + two[2],
        min(one[3], two[3]),
        max(one[4], two[4]),
        two[5],
    ]


def main(place: Path) -> None:
    with pa.memory_map(str(place / "trades.arrow")) as source:
        columns = pa.ipc.open_file(source).read_all()
    times, symbols, prices, sizes = (column.to_pylist() for column in columns.columns)
    rows = list(zip(symbols, zip(times, prices, sizes, strict=True), strict=True))
    out = []
    flow = Dataflow("windows")
    keyed = read("rows", flow, TestingSource(rows, batch_size=1_000))
    clock = EventClock(event_time, timedelta(seconds=5), now_getter=fixed_now)
    minute = TumblingWindower(timedelta(minutes=1), datetime(2026, 1, 1, tzinfo=UTC))
    windows = fold_window("minutes", keyed, clock, minute, empty, fold, merge, ordered=False)
    write("windows", windows.down, TestingSink(out))
    started = time.perf_counter()
    run_main(flow)
    seconds = time.perf_counter() - started
    states = [state for _, (_, state) in out]
    found = {
        "windows": len(states),
        "n": sum(s[0] for s in states),
        "volume": sum(s[1] for s in states),
    }
    print(json.dumps({"seconds": seconds, **found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
