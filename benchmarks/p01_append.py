"""P1: append trades in batches until all is sealed, against pyarrow's IPC file writer.

Every side writes the same batches to the same disk, and leaves them to the operating system
(``sync="os"``). Ours also checks each batch (types, UTF-8, event times), checksums it, publishes it
to readers, and rolls and seals files. Sealing in place syncs nothing under this policy, so pyarrow's
writer is the peer of both; the one with an fdatasync shows what durability would cost it.
"Raw write" writes what pyarrow serialised beforehand.
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
    appended: list[float] = []
    with folder() as place:
        heading("P1", f'append {rows:,} rows in batches of 65,536, sync="os"')
        contenders = {
            "until sealed": lambda: streamlab(place, data, appended),
            "pyarrow IPC file": lambda: arrow(place, data),
            "pyarrow + fdatasync": lambda: arrow(place, data, durable=True),
            "serialise + write": lambda: raw(place, (batch.serialize() for batch in data)),
            "raw write": lambda: raw(place, messages),
        }
        times = alternate(contenders, scale.rounds)
    times = {"appended": appended[-scale.rounds :]} | times
    reaches = [
        Reach("appended", "pyarrow IPC file", 0.9),
        Reach("appended", "raw write", 0.85),
        Reach("until sealed", "pyarrow IPC file", 0.9),
        Reach("until sealed", "pyarrow + fdatasync", 0.9),
    ]
    report(times, reaches, rows=rows)


def streamlab(place: Path, data: list[pa.RecordBatch], appended: list[float]) -> float:
    with sl.open(place / "lab", sync="os") as lab:
        stream = lab.create("trades", SCHEMA, time="ts")
        started = time.perf_counter()
        for batch in data:
            stream.append(batch)
        appended.append(time.perf_counter() - started)
        stream.seal()
        took = time.perf_counter() - started
        assert len(stream) == sum(batch.num_rows for batch in data)
    shutil.rmtree(place / "lab")
    return took


def arrow(place: Path, data: list[pa.RecordBatch], *, durable: bool = False) -> float:
    path = place / "trades.arrow"
    started = time.perf_counter()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        for batch in data:
            writer.write_batch(batch)
    if durable:
        fd = os.open(path, os.O_RDWR)
        os.fdatasync(fd)
        os.close(fd)
    took = time.perf_counter() - started
    path.unlink()
    return took


def raw(place: Path, messages) -> float:
    path = place / "raw"
    started = time.perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    for message in messages:
        os.write(fd, message)
    os.close(fd)
    took = time.perf_counter() - started
    path.unlink()
    return took
