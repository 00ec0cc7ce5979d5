"""Record this machine's metrics into Parquet files, as the host datasets were recorded.

    python datasets/record.py --hours 2 --rate 1 OUT_DIR

Writes ``host-cpu.parquet``, ``host-memory.parquet``, ``host-disk.parquet``,
``host-network.parquet`` and ``host-processes.parquet`` into OUT_DIR. Ctrl-C ends the recording
early and keeps what there is. The processes file holds the names of the busiest processes: look
into it before you share it, or leave it out with ``--streams cpu memory disk network``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

import streamlab as sl

__all__ = ["record"]

STREAMS = ("cpu", "memory", "disk", "network", "processes")


def record(folder: Path, *, hours: float, rate: float, streams: tuple[str, ...]) -> dict[str, int]:
    """Record ``streams`` for ``hours`` into one Parquet file each; return the rows of each.

    Rows stand in the order in which they were sampled. A row group is written every few minutes,
    so memory stays small however long it takes.

    Raises:
        FileExistsError: a file of that name is there already; nothing is overwritten.
    """
    source = sl.host(rate=rate, streams=streams)
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"host-{name}.parquet" for name in streams}
    for path in paths.values():
        if path.exists():
            msg = f"{path} is there already\nHint: give another folder, or move the file away"
            raise FileExistsError(msg)
    writers = {
        name: pq.ParquetWriter(paths[name], schema, compression="zstd")
        for name, schema in source.schemas.items()
    }
    recording = _Recording(writers, samples_held=max(1, int(rate * 300)))
    try:
        total = int(hours * 3600 * rate)
        with tqdm(total=total, unit=" samples", disable=None) as bar:
            for sample in source.samples(hours * 3600):
                recording.add(sample.stream, sample.batch)
                bar.update(sample.position + 1 - bar.n)
    except KeyboardInterrupt:
        print("stopped early; what was recorded is kept")
    finally:
        recording.close()
    return recording.rows


class _Recording:
    """Batches held until they make a row group, then written."""

    def __init__(self, writers: dict[str, pq.ParquetWriter], samples_held: int) -> None:
        self.writers = writers
        self.samples_held = samples_held
        self.held: dict[str, list[pa.RecordBatch]] = {name: [] for name in writers}
        self.rows = dict.fromkeys(writers, 0)

    def add(self, name: str, batch: pa.RecordBatch) -> None:
        self.held[name].append(batch)
        self.rows[name] += batch.num_rows
        if len(self.held[name]) >= self.samples_held:
            self._write(name)

    def _write(self, name: str) -> None:
        if self.held[name]:
            self.writers[name].write_table(pa.Table.from_batches(self.held[name]))
            self.held[name] = []

    def close(self) -> None:
        for name, writer in self.writers.items():
            self._write(name)
            writer.close()


def main() -> None:
    """Record, then say what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="OUT_DIR", help="where to write")
    parser.add_argument("--hours", type=float, default=2.0, help="how long (2)")
    parser.add_argument("--rate", type=float, default=1.0, help="samples a second (1)")
    parser.add_argument(
        "--streams", nargs="+", choices=STREAMS, default=STREAMS, help="which (all)"
    )
    args = parser.parse_args()
    rows = record(args.folder, hours=args.hours, rate=args.rate, streams=tuple(args.streams))
    for name, count in rows.items():
        path = args.folder / f"host-{name}.parquet"
        print(f"{path}  {count:,} rows  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
