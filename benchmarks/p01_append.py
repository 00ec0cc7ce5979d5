"""P1: append trades in batches until all is sealed, against pyarrow's IPC file writer.

Every side writes the same batches to the same disk and hands them to the operating system
(``sync="os"``). Ours checks each batch (types, UTF-8, event times), checksums, publishes it to
readers, and seals files; pyarrow writes one file; "raw" writes what pyarrow serialised beforehand.
"""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa

import streamlab as sl
from benchmarks.measure import Reach, Scale, alternate, folder, heading, report
from benchmarks.trades import SCHEMA, batches

ROWS = 20_000_000


def run(scale: Scale) -> None:
    """Print the table."""
    rows = scale.rows(ROWS)
    data = batches(rows)
    messages = [batch.serialize() for batch in data]
    with folder() as place:
        heading("P1", f'append {rows:,} rows in batches of 65,536, sync="os", until sealed')
        contenders = {
            "streamlab": lambda: streamlab(place, data),
            "pyarrow IPC file": lambda: arrow(place, data),
            "serialise + write": lambda: serialise(place, data),
            "raw write": lambda: raw(place, messages),
        }
        times = alternate(contenders, scale.rounds)
    reaches = [
        Reach("streamlab", "pyarrow IPC file", 0.9),
        Reach("streamlab", "raw write", 0.85),
        Reach("streamlab", "serialise + write"),
    ]
    report(times, reaches, rows=rows)


def streamlab(place: Path, data: list[pa.RecordBatch]) -> float:
    with sl.open(place / "lab", sync="os") as lab:
        stream = lab.create("trades", SCHEMA, time="ts")
        started = time.perf_counter()
        for batch in data:
            stream.append(batch)
        stream.seal()
        took = time.perf_counter() - started
        assert len(stream) == sum(batch.num_rows for batch in data)
    shutil.rmtree(place / "lab")
    return took


def arrow(place: Path, data: list[pa.RecordBatch]) -> float:
    started = time.perf_counter()
    path = place / "trades.arrow"
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in data:
            writer.write_batch(batch)
    took = time.perf_counter() - started
    path.unlink()
    return took


def serialise(place: Path, data: list[pa.RecordBatch]) -> float:
    return raw(place, (batch.serialize() for batch in data))


def raw(place: Path, messages) -> float:
    started = time.perf_counter()
    path = place / "raw"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for message in messages:
        os.write(fd, message)
    os.close(fd)
    took = time.perf_counter() - started
    path.unlink()
    return took
