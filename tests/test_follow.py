"""Following: history and tail without a seam, sync and async, and across processes."""

import asyncio
import subprocess
import sys
import textwrap
import threading

import polars as pl
import pyarrow as pa
import pytest

import streamlab as sl

SMALL = sl.Settings(segment_bytes=4096)


def numbers(lab, **options):
    return lab.create("s", pa.schema([("v", pa.int64())]), settings=SMALL, **options)


def test_a_follower_reads_history_then_what_comes(lab):
    """From the earliest row on, each row comes once and in order, while the writer rolls and seals."""
    stream = numbers(lab)
    stream.append({"v": list(range(1000))})

    def write():
        for i in range(100):
            stream.append({"v": list(range(1000 + 10 * i, 1010 + 10 * i))})
            if i % 30 == 0:
                stream.seal()

    thread = threading.Thread(target=write)
    thread.start()
    got = [v for b in stream.follow("earliest", rows=2000, timeout=20) for v in b["v"].to_pylist()]
    thread.join()
    assert got == list(range(2000))


def test_where_a_follower_starts(timed_lab, clock):
    """It starts at the end, at the earliest row, at an offset, or at an instant of stream time."""
    schema = pa.schema([("ts", pa.timestamp("us", "UTC")), ("v", pa.int64())])
    stream = timed_lab.create("s", schema, time="ts")
    start = 1767268800  # 2026-01-01T12:00Z
    for v in range(10):
        stream.append({"ts": pa.array([(start + v) * 10**6], schema.field("ts").type), "v": [v]})
    stream.trim(2)

    def read(place):
        return [v for b in stream.follow(place, timeout=0) for v in b["v"].to_pylist()]

    assert read("end") == []
    assert read("earliest") == read(2) == list(range(2, 10))
    assert read(10) == []
    assert read("2026-01-01T12:00:05Z") == list(range(5, 10))
    for wrong in (1, 11, -1):
        with pytest.raises(sl.OffsetOutOfRange):
            stream.follow(wrong)
    with pytest.raises(sl.InvalidTime):
        stream.follow("latest")


def test_rows_and_timeout_end_a_follower(lab):
    """rows counts rows over all batches; timeout counts only the waiting."""
    stream = numbers(lab)
    stream.append({"v": list(range(50))})
    follower = stream.follow("earliest", rows=7, timeout=5)
    assert sum(batch.num_rows for batch in follower) == 7
    assert follower.position == 7
    assert "offset 7" in repr(follower)
    assert sum(batch.num_rows for batch in stream.follow("earliest", timeout=0.01)) == 50
    assert list(stream.follow("earliest", rows=0)) == []


def test_a_follower_of_a_view_ends_with_it(lab):
    """A view has an end: its followers stop there."""
    stream = numbers(lab)
    stream.append({"v": list(range(50))})
    assert sum(batch.num_rows for batch in stream.as_of(20).follow("earliest")) == 20
    assert sum(batch.num_rows for batch in stream.offsets(5, 9).follow("earliest")) == 4


def test_rows_that_were_removed_before_they_were_read_are_an_error(lab):
    """A follower that is overtaken by retention says so, and skips nothing."""
    stream = numbers(lab)
    stream.append({"v": list(range(10))})
    follower = stream.follow("earliest", timeout=0)
    stream.trim(5)
    with pytest.raises(sl.OffsetOutOfRange, match="removed before"):
        next(follower)


def test_batches_carry_the_system_columns(lab):
    """What a follower gives has partition, offset and append time, as every read has."""
    stream = numbers(lab)
    stream.append({"v": [1]})
    batch = next(stream.follow("earliest"))
    assert batch.schema.names == ["_partition", "_offset", "_append_time", "v"]
    assert pl.from_arrow(batch).equals(stream.to_polars())


def test_an_async_follower_waits_without_blocking(lab):
    """`async for` gives rows as they come while other tasks of the loop go on."""
    stream = numbers(lab)
    stream.append({"v": [0]})

    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.001)

        async def write():
            for v in range(1, 20):
                await asyncio.sleep(0.002)
                stream.append({"v": [v]})

        ticking, writing = asyncio.create_task(tick()), asyncio.create_task(write())
        got = [
            v
            async for b in stream.follow("earliest", rows=20, timeout=20)
            for v in b["v"].to_pylist()
        ]
        ticking.cancel()
        await writing
        assert [b async for b in stream.follow("end", timeout=0.01)] == []
        return got, ticks

    got, ticks = asyncio.run(main())
    assert got == list(range(20))
    assert ticks > 5


def test_another_process_follows_without_gap_or_double(lab):
    """A writer in another process appends, rolls, seals and trims; every row is seen once."""
    stream = numbers(lab)
    code = """
        import sys, streamlab as sl
        with sl.open(sys.argv[1], sync="os") as lab:
            stream = lab["s"]
            for i in range(300):
                stream.append({"v": list(range(20 * i, 20 * i + 20))})
                if i % 50 == 49:
                    stream.seal()
            print("done")
    """
    writer = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(lab.path)], stdout=subprocess.PIPE
    )
    with writer:
        got = [
            v for b in stream.follow("earliest", rows=6000, timeout=60) for v in b["v"].to_pylist()
        ]
        assert writer.stdout.read().strip() == b"done"
    assert got == list(range(6000))
    assert stream.append({"v": [1]}) == range(6000, 6001)
