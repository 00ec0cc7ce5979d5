"""Segments that are written whole: one big append, as sealed files that appear all at once.

Also here: what a manifest says of a segment that was just written, growing or sealed.

Invariants: nothing refers to the files of an append until all of them are durable; one that fails
leaves none of them behind.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamlab.clock import FOREVER, NEVER
from streamlab.log import disk
from streamlab.log.format import RELATIVE_RUN, Kind, checksum, dump_extra, serialize
from streamlab.log.manifest import ACTIVE, SEALED, Segment, file_name
from streamlab.log.segment import Mark, SegmentWriter

__all__ = ["Layout", "Rows", "SealedFiles", "count_partitions", "describe", "growing"]


class Rows(NamedTuple):
    """What one append brings: a batch of the stream's physical schema, and its event times.

    ``batch`` may be a function of the offset that the first row gets. ``runs`` say where stream
    time moved on between the rows, because of rows that were left out there: ``before`` is the
    stream time that the row at ``base`` met, at least that of the rows before it. ``base`` counts
    from the first row and grows; ``before`` never falls; ``after`` is filled in.
    """

    batch: pa.RecordBatch | Callable[[int], pa.RecordBatch]
    schema_id: int
    events: tuple[int, int] | None  # smallest and greatest; None: append time is event time
    runs: npt.NDArray[np.void] | None = None  # of RELATIVE_RUN; None: the rows are one run

    def at(self, base: int) -> pa.RecordBatch:
        return self.batch(base) if callable(self.batch) else self.batch

    def told(
        self, before: int, append_time: int, rows: int, note: bytes, stream_time: int | None
    ) -> dict[str, Any]:
        """Return what a frame says of these rows, for `SegmentWriter.put`."""
        low, high = self.events or (append_time, append_time)
        after = max(before, high, NEVER if stream_time is None else stream_time)
        runs = self.runs
        if runs is not None and len(runs):
            after = max(after, int(runs["before"][-1]))
            runs = self._chained(runs, before, append_time, after)
            assert runs["base"][-1] < rows, (int(runs["base"][-1]), rows)
            if len(runs) == 1 and runs["base"][0] == 0 and runs["before"][0] == before:
                runs = None  # an ordinary frame
        return {
            "rows": rows,
            "after": after,
            "append_time": append_time,
            "events": (low, high),
            "metadata": dump_extra(note, runs),
        }

    def _chained(
        self, runs: npt.NDArray[np.void], before: int, append_time: int, after: int
    ) -> npt.NDArray[np.void]:
        """Return the runs, each from where the one before it left stream time."""
        base, met = runs["base"], runs["before"]
        assert runs.dtype == RELATIVE_RUN, runs.dtype
        assert base[0] >= 0, int(base[0])
        assert (base[1:] > base[:-1]).all(), "the runs of a frame are not in order"
        assert (met[1:] >= met[:-1]).all(), "stream time goes back between the runs of a frame"
        chained = runs.copy()
        chained["before"] = np.maximum(met, before)
        if self.events is None:  # each row before it has moved stream time to the append time
            late = base > 0
            chained["before"][late] = np.maximum(chained["before"][late], append_time)
        chained["after"][:-1] = chained["before"][1:]
        chained["after"][-1] = after
        return chained


class Layout(NamedTuple):
    """How the files of an append are to look."""

    segment_bytes: int
    compression: str | None
    partitions: int
    schema_of: Callable[[int], pa.Schema]


class SealedFiles:
    """Writes the files of one big append; nothing refers to them until all are there."""

    def __init__(
        self,
        folder: Path,
        layout: Layout,
        mark: Mark,
        number: int,
        append_time: int,
        note: bytes = b"",
    ) -> None:
        self.folder = folder
        self.layout = layout
        self.mark = mark
        self.number = number
        self.append_time = append_time
        self.note = note  # the last one
        self.schema_id: int | None = None
        self.entries: list[Segment] = []
        self.file: SegmentWriter | None = None
        self.counts: list[int] = []

    def add(self, rows: Rows, note: bytes = b"", stream_time: int | None = None) -> None:
        """Write one frame, with what is told of it."""
        layout = self.layout
        if self.file is not None and self.file.mark.position > layout.segment_bytes:
            self.finish()
        if self.file is None:
            self._begin(rows.schema_id)
        assert self.file is not None
        _, end, before, _ = self.file.mark
        batch = rows.at(end)
        told = rows.told(before, self.append_time, batch.num_rows, note, stream_time)
        self.file.put(Kind.ROWS, message=serialize(batch, layout.compression), **told)
        self.note = note or self.note
        if layout.partitions > 1:
            count_partitions(batch, self.counts)

    def _begin(self, schema_id: int) -> None:
        self.schema_id = schema_id
        schema = self.layout.schema_of(schema_id)
        while self.file is None:
            path = self.folder / file_name(self.mark.end, self.number, sealed=True)
            with contextlib.suppress(FileExistsError):
                self.file = SegmentWriter(path, schema, schema_id, self.mark, self.note)
            self.number += 1
        self.counts = [0] * self.layout.partitions

    def finish(self) -> None:
        """Seal the file at hand."""
        file, self.file = self.file, None
        if file is None:
            return
        try:
            file.end()
            file.seal()
            disk.sync(file.fd)
            file.close()
            disk.sync_dir(self.folder)
        except BaseException:
            file.abandon()
            raise
        counts = tuple(self.counts) if self.layout.partitions > 1 else None
        self.entries.append(describe(file, SEALED, self.number - 1, counts)._replace(synced=True))
        self.mark = file.mark

    def abandon(self) -> None:
        if self.file is not None:
            self.file.abandon()
        for entry in self.entries:
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(self.folder / entry.file)


def growing(file: SegmentWriter, number: int) -> Segment:
    """Describe the growing file for the manifest."""
    end = file.mark.end
    assert file.path.name == file_name(end, number, sealed=False)
    return Segment(
        file.path.name, file.segment, ACTIVE, end, end, file.schema_id,
        append_min=file.mark.append_time, append_max=file.mark.append_time,
        before=file.mark.stream_time, after=file.mark.stream_time,
    )  # fmt: skip


def describe(
    file: SegmentWriter, state: str, number: int, counts: tuple[int, ...] | None
) -> Segment:
    """Describe a file that was written to its end, closed or sealed, for the manifest."""
    size, whole = file.mark.position, 0
    if state == SEALED:
        data = disk.map_file(file.path)
        size, whole = len(data), checksum(data)
    assert file.path.name == file_name(file.base, number, sealed=state == SEALED)
    return Segment(
        file.path.name, file.segment, state, file.base, file.mark.end, file.schema_id,
        bytes=size, checksum=whole, synced=file.synced >= file.mark.position,
        append_min=file.append_min if file.append_min != FOREVER else NEVER,
        append_max=file.mark.append_time, before=file.before, after=file.mark.stream_time,
        event_min=file.event_min, event_max=file.event_max, partitions=counts,
    )  # fmt: skip


def count_partitions(batch: pa.RecordBatch, counts: list[int]) -> None:
    """Add the rows of each partition to ``counts``."""
    found = batch.column("_partition").value_counts()
    for value, count in zip(found.field("values"), found.field("counts"), strict=True):
        counts[value.as_py()] += count.as_py()
