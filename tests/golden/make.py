"""Make the golden lab of a format: `python tests/golden/make.py v2`; v2 is what compaction writes.

A golden lab is made once, when a format version is born, and only read ever after: it is how we know
that what users recorded years ago still opens. So this refuses to write where there is one.
"""

import json
import sys
from pathlib import Path

import pyarrow as pa

import streamlab as sl
from streamlab.lab import Lab
from streamlab.testing import ManualClock

START = 1_767_225_600_000_000  # 2026-01-01T00:00Z
KIND = pa.timestamp("us", "UTC")


def rows(first, count):
    """Return columns that follow from the row numbers alone; every seventh row is late."""
    numbers = range(first, first + count)
    late = [90 if n % 7 == 3 else 0 for n in numbers]
    return {
        "ts": [START + (n - back) * 1_000_000 for n, back in zip(numbers, late, strict=True)],
        "key": [None if n % 11 == 5 else f"schlüssel {n % 5}" for n in numbers],
        "value": [n / 8 for n in numbers],
        "tags": [None if n % 4 == 0 else [f"t{n % 3}"] * (n % 3) for n in numbers],
    }


def table(first, count):
    """Return the same as Arrow."""
    columns = rows(first, count)
    return pa.table(
        {
            "ts": pa.array(columns["ts"], KIND),
            "key": columns["key"],
            "value": columns["value"],
            "tags": pa.array(columns["tags"], pa.list_(pa.string())),
        }
    )


def make(folder):
    """Make the lab and, beside it, what its streams hold."""
    clock = ManualClock("2026-01-02T00:00:00Z")
    schema = table(0, 1).schema
    small = sl.Settings(segment_bytes=16_384)
    with Lab(folder / "lab", clock=clock) as lab:
        whole = lab.create("sealed-in-place", schema, time="ts", key="key")
        whole.append(table(0, 5000))
        whole.seal()
        many = lab.create("gathered", schema, time="ts", settings=small)
        for first in range(0, 300, 3):
            clock.advance("1ms")
            many.append(table(first, 3))
        many.seal()
        squeezed = lab.create(
            "compressed", schema, time="ts", settings=sl.Settings(compression="zstd")
        )
        squeezed.append(table(0, 400))
        squeezed.seal()
        squeezed.append(table(400, 100))
        spread = lab.create(
            "partitions", schema, time="ts", key="key", partitions=4, cleanup="compact"
        )
        spread.append(table(0, 50).filter(pa.array([n % 11 != 5 for n in range(50)])))
        spread.delete("schlüssel 2")
        spread.advance("2026-01-01T01:00Z")
        grown = lab.create("evolved", pa.table({"n": pa.array([1, 2], pa.int32())}))
        grown.evolve(pa.schema([("n", pa.int64()), ("note", pa.string())]))
        grown.append({"n": [2**40], "note": ["wide"]})
        trimmed = lab.create("trimmed", schema, time="ts", settings=small)
        trimmed.append(table(0, 2000))
        trimmed.trim(1500)
        growing = lab.create("growing", schema, time="ts")
        for first in range(0, 40, 10):
            clock.advance("1s")
            growing.append(table(first, 10))
        growing.advance("2026-01-01T00:05Z")
        lab.create("empty", schema, time="ts")
        wanted = {}
        for name, stream in lab.items():
            stats = stream.stats()
            got = stream.to_arrow()
            wanted[name] = {
                "start": stats.earliest_offset,
                "end": stats.end_offset,
                "stream_time": stats.stream_time,
                "append_times": got["_append_time"].cast(pa.int64()).to_pylist(),
            }
        frozen = lab.freeze()
    keep(folder, {"streams": wanted, "frozen": frozen})


def make_compacted(folder):
    """Make a lab with streams that were compacted, once and again, and what is left of them."""
    clock = ManualClock("2026-01-02T00:00:00Z")
    schema = table(0, 1).schema
    keyed = pa.array([n % 11 != 5 for n in range(600)])
    with Lab(folder / "lab", clock=clock) as lab:
        for name, options in {
            "once": {},
            "again": {"partitions": 3, "settings": sl.Settings(compression="zstd")},
        }.items():
            stream = lab.create(name, schema, time="ts", key="key", cleanup="compact", **options)
            stream.append(table(0, 300).filter(keyed.slice(0, 300)))
            clock.advance("1s")
            stream.delete("schlüssel 2")
            stream.compact()
            if name == "again":
                clock.advance("2d")
                stream.append(table(300, 100).filter(keyed.slice(300, 100)))
                stream.advance("2026-01-01T01:00Z")
                stream.compact()
            stream.append(table(400, 20).filter(keyed.slice(400, 20)))
        wanted = {}
        for name, stream in lab.items():
            stats = stream.stats()
            left = stream.view(compacted="ok").to_arrow()
            wanted[name] = {
                "start": stats.earliest_offset,
                "end": stats.end_offset,
                "compacted_upto": stats.compacted_upto,
                "stream_time": stats.stream_time,
                "offsets": left["_offset"].to_pylist(),
                "append_times": left["_append_time"].cast(pa.int64()).to_pylist(),
                "ts": left["ts"].cast(pa.int64()).to_pylist(),
                "value": left["value"].to_pylist(),
                "keys": sorted(stream.table().to_polars()["key"]),
            }
        frozen = lab.freeze()
    keep(folder, {"streams": wanted, "frozen": frozen})


def keep(folder, expected):
    """Put beside a lab what it holds, and take out what only this machine knows."""
    for lock in (folder / "lab").rglob("locks/*"):
        lock.unlink()  # they say which process of which machine had them
    (folder / "expected.json").write_text(json.dumps(expected, indent=1))


MAKERS = {"v1": make, "v2": make_compacted}

if __name__ == "__main__":
    target = Path(__file__).parent / sys.argv[1]
    if target.exists():
        sys.exit(f"{target} is there: a golden lab is never rewritten")
    target.mkdir()
    MAKERS[sys.argv[1]](target)
