"""A range of a log as sealed files: what a fork begins with, and what an archive holds.

A sealed file that lies in the range is taken as it is. Of one that reaches over an edge, and of one
that is not sealed, the rows are copied into a sealed file of their own. Nothing is sealed, locked or
changed for it, and a growing file is never shared.

Invariants: offsets, append times and stream times of the rows are the log's own, and so are the
heartbeats between them; those after the last row are part of the range only at the end of the log.
No note is copied: it is of the job that wrote the log.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamlab.errors import OffsetOutOfRange
from streamlab.log import disk
from streamlab.log.bulk import count_partitions, describe
from streamlab.log.format import Kind, checksum, serialize
from streamlab.log.log import History, Log
from streamlab.log.maintain import gathered
from streamlab.log.manifest import SEALED, Segment, file_name
from streamlab.log.reader import Moment
from streamlab.log.recovery import verify_sealed
from streamlab.log.segment import Mark, SegmentFile, SegmentWriter

__all__ = ["Cut", "branch"]

NO_LINKS = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS}
"""What a file system says that cannot give this file a second name."""


class Cut:
    """The rows of a log with offsets in [start, stop), at one moment; somebody holds a pin on them.

    ``column`` has the event times; None: append time is event time.
    """

    def __init__(self, log: Log, moment: Moment, start: int, stop: int, column: str | None) -> None:
        self.log = log
        self.moment = moment
        self.start, self.stop = start, stop
        self.column = column
        self.to_end = stop == moment.end
        self.end = Mark(0, stop, *self._times())

    def _times(self) -> tuple[int, int]:
        """Return stream time and append time at the end of the range."""
        reader, moment = self.log.reader, self.moment
        if self.to_end:
            return moment.stream_time, moment.append_time
        if self.start < self.stop:
            return reader.times_at(moment, self.stop - 1, self.column)
        stream_time = reader.stream_time_before(moment, self.stop, self.column)
        return stream_time, reader.append_time_below(self.stop) or 0

    def segments(self) -> Iterator[Segment]:
        """Yield the segments with rows of the range or heartbeats between them, in order."""
        if self.start == self.stop:
            return
        for segment in self.moment.manifest.segments:
            rows = min(self._stop_of(segment), self.stop) > max(segment.base, self.start)
            inside = segment.base < self.stop or (self.to_end and segment.base == self.stop)
            if rows or (inside and segment.base > self.start):
                yield segment

    def _stop_of(self, segment: Segment) -> int:
        growing = segment is self.moment.manifest.active
        return self.moment.end if growing else segment.stop

    def takes_whole(self, segment: Segment, *, exact: bool = False) -> bool:
        """Whether the file may be taken as it is; if ``exact``, it has no row before the range."""
        if segment.state != SEALED or segment.stop > self.stop:
            return False
        if exact and segment.base < self.start:
            return False
        silent_after = segment.stop < self.stop or segment.after == self.end.stream_time
        return silent_after or self.to_end

    def file(self, segment: Segment) -> SegmentFile:
        """Return a segment's file with all that is in the range walked; verified if it is sealed.

        Raises:
            OffsetOutOfRange: it was removed.
            CorruptSegment: it is not what was written.
        """
        while True:
            try:
                file = self.log.reader.file(segment)
                file.reach(min(self._stop_of(segment), self.stop))
                file.note_until(self.end.append_time)
            except FileNotFoundError:
                segment = self.log.reader.relisted(segment)
            else:
                return file

    def whole(self, segment: Segment) -> tuple[Segment, memoryview]:
        """Return the bytes of a sealed file, each of them checked, and how it is listed.

        Raises:
            OffsetOutOfRange: it was removed.
            CorruptSegment: it is not what was written.
        """
        while True:
            try:
                return segment, verify_sealed(self.log.folder / segment.file, segment).data
            except FileNotFoundError:
                segment = self.log.reader.relisted(segment)

    def share(self, segment: Segment, folder: Path) -> Segment:
        """Give a sealed file a second name in a folder; return its entry for a manifest there.

        It is durable then. On a file system without hard links it is copied.

        Raises:
            OffsetOutOfRange: it was removed.
        """
        while True:
            target = folder / segment.file
            try:
                self._link(self.log.folder / segment.file, target)
            except FileNotFoundError:
                segment = self.log.reader.relisted(segment)
            else:
                break
        if not segment.synced:
            disk.sync_file(target)
        return segment._replace(synced=True)

    def _link(self, source: Path, target: Path) -> None:
        try:
            disk.link(source, target)
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            data = disk.map_file(source)
            fd = disk.create(target)
            try:
                disk.write(fd, [data], 0)
                disk.sync(fd)
            finally:
                os.close(fd)

    def copy(self, segment: Segment, folder: Path, number: int) -> Segment | None:
        """Copy what a segment has of the range into a sealed file, durably; return its entry.

        None if that is nothing: no row, no heartbeat.

        Raises:
            OffsetOutOfRange: the range begins in the middle of a compacted file.
        """
        if segment.sparse:
            raise OffsetOutOfRange(
                f"offset {self.start} lies among compacted rows, which are only given away as whole files",
                asked=self.start, available=range(segment.stop, self.moment.end),
            )  # fmt: skip
        low = max(segment.base, self.start)
        high = max(low, min(self._stop_of(segment), self.stop))
        try:
            file = self.file(segment)
        except OffsetOutOfRange:
            if low < high:
                raise
            return None  # it had nothing in it, and another one was begun in its place
        before = self._before(segment, low)
        runs = self._runs(file, low, high, before)
        if not len(runs):
            return None
        last = high == self.stop
        after = self.end.stream_time if last else int(runs["after"][-1])
        append_time = self.end.append_time if last else int(runs["append_time"][-1])
        runs["after"][-1] = after
        start = Mark(0, low, before, int(runs["append_time"][0]))
        # The same rows of the same file get the same bytes, whenever they are copied.
        segment_id = checksum(b"%d %d %d %d" % (file.segment, low, high, append_time)) >> 1 | 1
        out = SegmentWriter(
            folder / file_name(low, number, sealed=True), file.schema, file.schema_id, start,
            segment=segment_id,
        )  # fmt: skip
        try:
            counts = self._put_rows(out, file, high, runs)
            out.end(runs, after=after, append_time=append_time)
            out.seal()
            out.sync()
            out.close()
        except BaseException:
            out.abandon()
            raise
        entry = describe(out, SEALED, number, counts)
        return entry._replace(append_min=int(runs["append_time"].min()), synced=True)

    def _before(self, segment: Segment, low: int) -> int:
        if low == segment.base:
            return segment.before
        return self.log.reader.stream_time_before(self.moment, low, self.column)

    def _runs(self, file: SegmentFile, low: int, high: int, before: int) -> npt.NDArray[np.void]:
        """Return the runs of [low, high), as if the file began and ended there."""
        table = file.runs
        first = 0
        if low > file.base:
            first = int(np.searchsorted(table["base"], low, "right")) - 1
        last = int(np.searchsorted(table["base"], high, "left"))
        if high < self.stop or self.to_end:  # the heartbeats after the last row belong to it
            last = int(np.searchsorted(table["append_time"], self.end.append_time, "right"))
        runs = table[first : max(first, last)].copy()
        if len(runs):
            runs["base"][0] = max(int(runs["base"][0]), low)
            runs["before"][0] = max(int(runs["before"][0]), before)
        return runs

    def _put_rows(
        self, out: SegmentWriter, file: SegmentFile, stop: int, runs: npt.NDArray[np.void]
    ) -> tuple[int, ...] | None:
        """Write the rows from the file's mark on in batches; return how many of each partition."""
        policy = self.log.writer.policy
        counts = [0] * policy.partitions
        for batch in gathered(file.chunks(out.mark.end, stop)):
            out.put(
                Kind.ROWS, after=out.mark.stream_time, append_time=out.mark.append_time,
                rows=batch.num_rows, events=self._events(batch, out.mark.end, runs),
                message=serialize(batch, policy.compression),
            )  # fmt: skip
            if policy.partitions > 1:
                count_partitions(batch, counts)
        assert out.mark.end == stop, (out.mark.end, stop)
        return tuple(counts) if policy.partitions > 1 else None

    def _events(
        self, batch: pa.RecordBatch, base: int, runs: npt.NDArray[np.void]
    ) -> tuple[int, int]:
        """Return the smallest and the greatest event time of some rows."""
        if self.column is None:
            places = np.array([base, base + batch.num_rows - 1])
            at = np.searchsorted(runs["base"], places, "right") - 1
            low, high = runs["append_time"][at].tolist()
            return low, high
        from streamlab.schema import event_times

        times = event_times(batch.column(self.column), self.column)
        return int(times.min()), int(times.max())

    def history(self, segments: list[Segment]) -> History:
        """Return what a log begins with that is to go on after these files of the range."""
        stream_time = segments[-1].after if segments else self.end.stream_time
        end = self.end._replace(stream_time=stream_time)
        compacted = self.moment.compacted if any(s.sparse for s in segments) else 0
        return History(tuple(segments), self.start, end, compacted)


def branch(cut: Cut, folder: Path, stream: str, schema: pa.Schema, schema_id: int) -> None:
    """Make the files of a log in a folder that exists, which begins with the rows of a cut.

    Sealed files are shared; at most the rows of the files at the edges are copied. The manifest
    comes last.

    Raises:
        OffsetOutOfRange: rows were removed meanwhile, by a limit of size.
    """
    number = cut.moment.manifest.next_file
    segments: list[Segment] = []
    for segment in cut.segments():
        if cut.takes_whole(segment):
            segments.append(cut.share(segment, folder))
        elif (entry := cut.copy(segment, folder, number)) is not None:
            segments.append(entry)
            number += 1
    Log.create(folder, stream, schema, schema_id, cut.history(segments))
