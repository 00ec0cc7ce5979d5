"""How many rows of a partition lie ahead of a position, and which row is so many further.

Offsets count the rows of the whole log, so neither follows from them. The manifest knows the rows
per partition of every file that is closed; of the growing one, and of those that a position lies in,
only the column with the partitions is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from streamlab.clock import FOREVER
from streamlab.log.manifest import Segment
from streamlab.scan import Snapshot

__all__ = ["begins_at", "rows_ahead", "shifted"]

Offsets = npt.NDArray[np.int64]


def begins_at(positions: Mapping[int, int], partitions: int) -> Offsets:
    """Return by partition the offset from which its rows count; of the others none does."""
    begins = np.full(partitions, FOREVER)
    begins[list(positions)] = list(positions.values())
    return begins


def rows_ahead(snapshot: Snapshot, positions: Mapping[int, int]) -> dict[int, int]:
    """Return how many rows of each of these partitions lie at or beyond its position."""
    partitions = snapshot.info.partitions
    counts = np.zeros(partitions, dtype=np.int64)
    for segment in snapshot.segments():
        unread = {}
        for partition, at in positions.items():
            rows = _known(snapshot, segment, partition)
            if at <= segment.base and rows is not None:
                counts[partition] += rows
            else:
                unread[partition] = at
        if unread:
            begins = begins_at(unread, partitions)
            for numbers, offsets in _columns(snapshot, segment):
                ahead = numbers[offsets >= begins[numbers]]
                counts += np.bincount(ahead, minlength=partitions)
    return {partition: int(counts[partition]) for partition in positions}


def shifted(snapshot: Snapshot, partition: int, position: int, rows: int) -> int:
    """Return the offset of the row of a partition that is so many further, or earlier if negative.

    Counted from the first row at or beyond the position; 0 is that one. Where there are not so many
    it is the end of the snapshot, or its start.
    """
    forward = rows >= 0
    low, high = (position, snapshot.stop) if forward else (snapshot.start, position)
    part = replace(snapshot, start=max(low, snapshot.start), stop=min(high, snapshot.stop))
    segments = part.segments()
    for segment in segments if forward else reversed(segments):
        known = _known(part, segment, partition)
        if known is None or known > (rows if forward else -rows - 1):
            found = [offsets[numbers == partition] for numbers, offsets in _columns(part, segment)]
            offsets = np.concatenate(found) if found else np.empty(0, np.int64)
            if -len(offsets) <= rows < len(offsets):
                return int(offsets[rows])
            known = len(offsets)
        rows += -known if forward else known
    return snapshot.stop if forward else snapshot.start


def _known(snapshot: Snapshot, segment: Segment, partition: int) -> int | None:
    """Return how many rows of a partition a segment has, where that need not be read."""
    growing = segment is snapshot.moment.manifest.active
    if growing or segment.base < snapshot.start or segment.stop > snapshot.stop:
        return None
    if snapshot.info.partitions == 1:
        return segment.rows
    return None if segment.partitions is None else segment.partitions[partition]


def _columns(snapshot: Snapshot, segment: Segment) -> Iterator[tuple[Any, Offsets]]:
    """Yield the partitions and the offsets of a segment's rows that lie in the range."""
    growing = segment is snapshot.moment.manifest.active
    stop = snapshot.stop if growing else min(segment.stop, snapshot.stop)
    part = replace(snapshot, start=max(segment.base, snapshot.start), stop=stop)
    for batch in part.raw(["_partition", "_offset"]):
        yield batch.column(0).to_numpy(), batch.column(1).to_numpy()
