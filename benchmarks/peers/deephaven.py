"""P5 in Deephaven: slices of a table that is there already, published, and one live aggregation.

It has no watermark: its windows stay live and are given at each cycle. The clock stops when the live
result has counted the last row. JVM, imports and the table's columns are made before.
"""

import json
import sys
import time
from pathlib import Path

import pyarrow as pa
from deephaven_server import Server

SLICE = 500_000
CYCLE_MS = 100
JVM = ["-Xmx6g", f"-DPeriodicUpdateGraph.targetCycleDurationMillis={CYCLE_MS}"]


def main(place: Path) -> None:
    server = Server(port=0, jvm_args=JVM)
    server.start()
    from deephaven import agg
    from deephaven.arrow import to_table
    from deephaven.stream.table_publisher import table_publisher

    with pa.memory_map(str(place / "trades.arrow")) as source:
        trades = to_table(pa.ipc.open_file(source).read_all())
    blink, publisher = table_publisher("trades", trades.definition)
    windows = blink.update("window_start = lowerBin(ts, 'PT1m')").agg_by(
        [
            agg.count_("n"),
            agg.sum_("volume = size"),
            agg.weighted_avg("size", "vwap = price"),
            agg.min_("low = price"),
            agg.max_("high = price"),
            agg.last("last = price"),
        ],
        by=["window_start", "symbol"],
    )
    totals = windows.agg_by([agg.count_("windows"), agg.sum_(["n", "volume"])])
    parts = [
        trades.slice(start, min(start + SLICE, trades.size))
        for start in range(0, trades.size, SLICE)
    ]
    started = time.perf_counter()
    for part in parts:
        publisher.add(part)
    found = wait_for(totals, trades.size)
    print(json.dumps({"seconds": time.perf_counter() - started, **found}), flush=True)


def wait_for(totals, rows: int) -> dict[str, int]:
    """Return the sums of the live result once it holds all rows."""
    from deephaven.update_graph import shared_lock

    while True:
        with shared_lock(totals):
            if totals.size:
                first = totals.j_table.getRowSet().firstRowKey()
                found = {
                    name: totals.j_table.getColumnSource(name).getLong(first)
                    for name in ("windows", "n", "volume")
                }
                if found["n"] == rows:
                    return found
        time.sleep(0.002)


if __name__ == "__main__":
    import os

    main(Path(sys.argv[1]))
    os._exit(0)  # the server's threads would keep the process
