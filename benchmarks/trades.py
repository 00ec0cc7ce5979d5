"""The rows that are measured with: trades of 500 symbols over a day, in order, 33 bytes a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["SCHEMA", "batches", "events", "table"]

SYMBOLS = 500
START_US = 1_767_605_400_000_000  # 2026-01-05 09:30 UTC
DAY_US = 8 * 3600 * 1_000_000
SCHEMA = pa.schema(
    [
        ("ts", pa.timestamp("us", "UTC")),
        ("symbol", pa.string()),
        ("price", pa.float64()),
        ("size", pa.int64()),
    ]
)


def table(rows: int, seed: int = 20260105) -> pa.Table:
    """Return so many trades as one contiguous table; the day is the same however many there are."""
    random = np.random.default_rng(seed)
    step = max(DAY_US // rows, 1)
    ts = START_US + np.arange(rows, dtype=np.int64) * step + random.integers(0, step, rows)
    names = pa.array([f"SYM{number:03d}" for number in range(SYMBOLS)])
    columns = [
        pa.array(ts).cast(SCHEMA.field("ts").type),
        names.take(pa.array(random.integers(0, SYMBOLS, rows))),
        pa.array(np.round(random.gamma(4.0, 25.0, rows), 2)),
        pa.array(random.integers(1, 1_000, rows)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA).combine_chunks()


def batches(rows: int, size: int = 65_536) -> list[pa.RecordBatch]:
    """Return so many trades in batches."""
    return table(rows).to_batches(max_chunksize=size)


def events(rows: int) -> list[dict[str, Any]]:
    """Return so many trades as dicts; times are integers, in microseconds, as JSON would have them."""
    columns = table(rows)
    whole = columns.set_column(0, "ts", columns["ts"].cast(pa.int64()))
    return whole.to_pylist()
