"""P4: seek to an instant and read the rows from there; open a lab with a long history.

The reference of a seek is a raw read of the very same rows: the file mapped, the batches at their
known places made Arrow, every column summed up by both sides. Each is measured over a short and a
long history, since neither is to grow with it.
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

import streamlab as sl
from benchmarks.measure import Bound, Reach, Scale, alternate, folder, heading, print_bounds, report
from benchmarks.trades import SCHEMA, batches
from streamlab.clock import NEVER
from streamlab.log.bulk import describe
from streamlab.log.format import Kind
from streamlab.log.manifest import SEALED, Segment, file_name, read_manifest, write_manifest
from streamlab.log.segment import Mark, SegmentWriter

LONG, SHORT = 20_000_000, 2_000_000
READ = 100_000
MANY, FEW = 10_000, 100
TINY = 10  # rows of each segment of the many
MORE_MS = 5


def run(scale: Scale) -> None:
    """Print the tables."""
    seek(scale)
    opening(scale)


def seek(scale: Scale) -> None:
    heading("P4", f"seek to an instant, read {scale.rows(READ):,} rows")
    differences = []
    for length in (scale.rows(SHORT), scale.rows(LONG)):
        print(f"  a history of {length:,} rows")
        rows = min(scale.rows(READ), max(length // 4, 1))
        times = seek_in(length, rows, scale.rounds * 4)
        report(times, [Reach("find + read", "raw mapped read")], rows=rows)
        pairs = zip(times["find + read"], times["raw mapped read"], strict=True)
        more = statistics.median(own - reference for own, reference in pairs) * 1e3
        differences.append(more)
        verdict = "reached" if more <= MORE_MS else "NOT reached"
        print(f"  find + read takes {more:.2f} ms more   reach <= {MORE_MS} ms more: {verdict}")
    print(f"  the long history costs {differences[1] - differences[0]:+.2f} ms")


def seek_in(length: int, rows: int, rounds: int) -> dict[str, list[float]]:
    with folder() as place, sl.open(place / "lab", sync="os") as lab:
        stream = lab.create("trades", SCHEMA, time="ts")
        for batch in batches(length):
            stream.append(batch)
        stream.seal()
        middle = length // 2
        instant = stream.offsets(middle, middle + 1).to_arrow()["ts"][0].as_py()
        first = stream.find(instant)
        contenders = {
            "find + read": lambda: ours(stream, instant, rows),
            "raw mapped read": lambda: raw(place, first, rows),
        }
        return alternate(contenders, rounds, warm=2)


def ours(stream: sl.Stream, instant, rows: int) -> None:
    at = stream.find(instant)
    consume(stream.offsets(at, at + rows).to_arrow().select(SCHEMA.names))


def raw(place: Path, first: int, rows: int) -> None:
    """Read rows from the files that are known to hold them, each batch where it lies."""
    wanted, parts = rows, []
    for path in sorted((place / "lab" / "streams" / "trades").glob("*.arrow")):
        base = int(path.name.split("-")[0])
        if base > first + rows:
            break
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            length = reader.get_batch(0).num_rows
            last = base + reader.num_record_batches * length
            if last <= first or not wanted:
                continue
            for index in range(max(0, (first - base) // length), reader.num_record_batches):
                start = base + index * length
                batch = reader.get_batch(index)
                low = max(first - start, 0)
                parts.append(batch.slice(low, wanted))
                wanted -= parts[-1].num_rows
                if not wanted:
                    break
    consume(pa.Table.from_batches(parts))


def consume(table: pa.Table) -> None:
    pc.sum(table["price"]), pc.sum(table["size"]), pc.max(table["ts"])
    pc.sum(pc.binary_length(table["symbol"]))


def opening(scale: Scale) -> None:
    many, few = max(scale.rows(MANY), 200), FEW
    with folder() as place:
        for count in (many, few):
            make_long(place / str(count), count)
        contenders = {
            f"open, {count:,} segments": lambda count=count: open_lab(place / str(count))
            for count in (many, few)
        }
        contenders |= {
            f"open + last {TINY} rows, {count:,} segments": lambda count=count: open_lab(
                place / str(count), rows=TINY
            )
            for count in (many, few)
        }
        times = alternate(contenders, scale.rounds)
    heading("P4", f"open a lab of {many:,} segments: count, stats, end")
    print_bounds(times, [Bound(name, 0.3) for name in contenders])


def open_lab(path: Path, rows: int = 0) -> float:
    started = time.perf_counter()
    with sl.open(path, read_only=True) as lab:
        stream = lab["trades"]
        assert len(stream) == stream.end_offset == stream.stats().rows
        if rows:
            assert stream.tail(rows).height == rows
        return time.perf_counter() - started


def make_long(path: Path, count: int) -> None:
    """Make a lab with a long history: real sealed files, small ones, and a real manifest.

    As appending would leave it, but for the syncs and for one manifest written instead of many.
    """
    data = batches(TINY)[0]
    message = data.serialize()
    times = data.column("ts").cast(pa.int64())
    low, high = times[0].as_py(), pc.max(times).as_py()
    with sl.open(path, sync="os") as lab:
        lab.create("trades", SCHEMA, time="ts")
    home = path / "streams" / "trades"
    manifest = read_manifest(home / "manifest")
    mark, entries = Mark(0, 0, NEVER, 0), []
    for number in range(2, count + 1):
        file = SegmentWriter(home / file_name(mark.end, number, sealed=True), SCHEMA, 1, mark)
        file.put(
            Kind.ROWS,
            after=high,
            append_time=mark.append_time + 1,
            rows=TINY,
            events=(low, high),
            message=message,
        )
        file.end()
        file.seal()
        file.close()
        entries.append(describe(file, SEALED, number, None)._replace(synced=True))
        mark = file.mark
    path_of_active = home / file_name(mark.end, count + 1, sealed=False)
    file = SegmentWriter(path_of_active, SCHEMA, 1, mark)
    file.close()
    active = Segment(
        path_of_active.name,
        file.segment,
        "active",
        mark.end,
        mark.end,
        1,
        append_min=mark.append_time,
        append_max=mark.append_time,
        before=mark.stream_time,
        after=mark.stream_time,
    )
    (home / manifest.active.file).unlink()
    (home / "head").unlink()
    whole = manifest._replace(next_file=count + 2, segments=(*entries, active))
    write_manifest(home / "manifest", whole)
    from streamlab.log.head import Head, HeadFile, boot_id

    end = Head(2, mark.end, mark.end, mark.stream_time, mark.append_time, boot_id(), count + 1)
    HeadFile.create(home / "head", end)
