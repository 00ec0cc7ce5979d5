"""What is done to segments after they were written: sealing, trimming, clearing away.

Each step follows the same order: write new files, sync them, sync the folder, replace the manifest,
unlink. A crash anywhere leaves the state before or the state after, and files that nothing lists.

Invariants: only closed and sealed segments are touched, never the growing one; what is sealed is
durable, unless the policy leaves that to the system, and then it is listed as not synced; a segment in
the range of a live pin stays on disk, listed as retired; nothing that the manifest does not list is
removed here.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pyarrow as pa

from streamlab.clock import FOREVER
from streamlab.log import disk, snapshots
from streamlab.log.compact import DIRTY_RATIO, Compaction, Compactor, Rules, clear_unfinished
from streamlab.log.format import Kind, checksum, serialize
from streamlab.log.lock import FileLock
from streamlab.log.manifest import (
    CLOSED,
    SEALED,
    Manifest,
    Segment,
    file_name,
    read_manifest,
    update_manifest,
)
from streamlab.log.pins import held_back, pinned
from streamlab.log.segment import Chunk, SegmentFile, SegmentWriter, seal_footer

__all__ = ["Maintenance", "gathered"]

BATCH_ROWS = 65_536
"""Small frames are gathered into batches of about so many rows."""

READING_SECONDS = 10.0
"""A size limit that overrules pins leaves those this young: a read is under way."""

IN_PLACE_ROWS = 4_096
"""Frames of at least so many rows on average stay as they are."""


class Maintenance:
    """Seals and removes the segments of one stream, one process at a time."""

    def __init__(self, folder: Path, *, compression: str | None, durable: bool) -> None:
        self.folder = folder
        self.compression = compression
        self.durable = durable
        name = folder.name
        self.lock = FileLock(folder / "locks" / "maintenance", f'the maintenance of "{name}"')
        self.manifest_lock = FileLock(folder / "locks" / "manifest", f'the manifest of "{name}"')
        self._clean = 0  # below it nothing was left to compact at the last look

    def _manifest(self) -> Manifest:
        return read_manifest(self.folder / "manifest")

    # -- sealing -----------------------------------------------------------------------------

    def seal(self, timeout: float | None = 60.0) -> int:
        """Turn every closed segment into an Arrow IPC file; return how many there were.

        Raises:
            CorruptSegment: one of them is not what was written; it is left as it is.
        """
        count = 0
        with self.lock(timeout):
            for segment in self._manifest().segments[:-1]:
                if segment.state == CLOSED:
                    self._seal(segment)
                    count += 1
        return count

    def _seal(self, segment: Segment) -> None:
        file = SegmentFile(self.folder / segment.file, segment.id)
        file.reach(segment.stop)
        for _ in file.walk():
            pass
        frames = len(file.blocks())
        in_place = segment.rows >= frames * IN_PLACE_ROWS
        target = self.folder / file_name(segment.base, segment.number, sealed=True)
        again = target.name == segment.file  # a power cut took the footer of one not synced
        if not again:
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(target)  # of a seal that a crash cut short
        synced = self.durable or segment.synced or not in_place
        if in_place:
            sealed = self._in_place(file, target, sync=synced)
        else:
            sealed = self._coalesce(file, target)
            if not segment.synced:  # a power cut may bring back the manifest that lists this one
                disk.sync_file(file.path)
        data = disk.map_file(target)
        entry = segment._replace(
            file=target.name, id=sealed, state=SEALED, bytes=len(data), checksum=checksum(data),
            synced=synced,
        )  # fmt: skip
        disk.sync_dir(self.folder)

        def change(manifest: Manifest) -> Manifest:
            segments = tuple(entry if s.id == segment.id else s for s in manifest.segments)
            retired = tuple(entry if s.id == segment.id else s for s in manifest.retired)
            return manifest._replace(segments=segments, retired=retired)

        update_manifest(self.folder, self.manifest_lock, change)
        if not again:
            with contextlib.suppress(FileNotFoundError):  # a writer that opened just now did it
                disk.unlink(self.folder / segment.file)

    def _in_place(self, file: SegmentFile, target: Path, *, sync: bool) -> int:
        """Add the footer, and give the file the name of a sealed one."""
        footer = seal_footer(file.schema, file.segment, file.blocks())
        fd = disk.open_append(file.path)
        try:
            disk.write(fd, [footer], file.mark.position)
            disk.truncate(fd, file.mark.position + len(footer))
            if sync:
                disk.sync(fd)
        finally:
            os.close(fd)
        if file.path != target:
            disk.link(file.path, target)
        return file.segment

    def _coalesce(self, file: SegmentFile, target: Path) -> int:
        """Write the rows of many small frames into a file of larger ones."""
        out = SegmentWriter(target, file.schema, file.schema_id, file.start)
        try:
            for batch in gathered(file.chunks(file.base, file.mark.end)):
                out.put(
                    Kind.ROWS, after=out.mark.stream_time, append_time=out.mark.append_time,
                    rows=batch.num_rows, events=(file.event_min, file.event_max),
                    message=serialize(batch, self.compression),
                )  # fmt: skip
            assert out.mark.end == file.mark.end
            if file.last_note:
                out.note(file.last_note, file.mark.append_time)
            out.end(file.runs, after=file.mark.stream_time, append_time=file.mark.append_time)
            out.seal()
            out.sync()
            out.close()
        except BaseException:
            out.abandon()
            raise
        return out.segment

    # -- compacting --------------------------------------------------------------------------

    def compact(
        self, rules: Rules, now: int, *, only_if_dirty: bool = False,
        go_on: Callable[[], bool] = lambda: True, timeout: float | None = 60.0,
    ) -> Compaction:  # fmt: skip
        """Keep only the last row of each key, as far as the rules allow.

        ``only_if_dirty`` does nothing while most of what is there was compacted before. It is cut
        short when ``go_on`` says no.

        Raises:
            CorruptSegment: a file is not what was written; nothing is changed then.
        """
        with self.lock(timeout):
            clear_unfinished(self.folder)
            work = Compactor(self.folder, self.manifest_lock, rules, now, go_on)
            compacted = work.manifest.compacted
            if only_if_dirty and work.dirty(max(compacted, self._clean)) < DIRTY_RATIO:
                return Compaction(compacted, stopped_by=work.stopped_by)
            done = work.run()
            if go_on():
                self._clean = work.limit
            self._clear()
        return done

    # -- removing ----------------------------------------------------------------------------

    def trim(self, before: int, timeout: float | None = 60.0) -> int:
        """Remove the rows below an offset; return the offset at which the stream begins now."""

        def change(manifest: Manifest) -> Manifest:
            start = max(manifest.start, before)
            gone = tuple(s for s in manifest.segments[:-1] if s.stop <= start)
            return manifest._replace(
                start=start,
                segments=manifest.segments[len(gone) :],
                retired=manifest.retired + gone,
            )

        with self.lock(timeout):
            known = self._manifest()
            if change(known) != known:
                known = update_manifest(self.folder, self.manifest_lock, change)
            self._clear()
            snapshots.clear(self.folder, known.start)
        return known.start

    def retain(self, now: int, age: int | None, size: int | None) -> int:
        """Trim what retention no longer asks for; return the offset at which the stream begins.

        Age counts the append time of a segment's newest row; size counts whole files. Pins and
        holds keep rows from age, not from size: then a view raises when it comes to what is gone.
        Only what is being read just now is left until the next time.
        """
        floor = min(held_back(self.folder / "pins").values(), default=FOREVER)
        manifest = self._manifest()
        before = manifest.start
        total = sum(segment.bytes for segment in manifest.segments)
        for segment in manifest.segments[:-1]:
            old = age is not None and segment.append_max < now - age
            too_old = old and segment.stop <= floor
            too_much = size is not None and total > size
            if not (too_old or too_much):
                break
            before = segment.stop
            total -= segment.bytes
        if before > manifest.start or manifest.retired:
            self.trim(before)
        manifest = self._manifest()
        kept = sum(segment.bytes for segment in manifest.segments + manifest.retired)
        if size is not None and kept > size and manifest.retired:
            with self.lock(60.0):
                self._clear(within=READING_SECONDS)
        return manifest.start

    def _clear(self, *, within: float | None = None) -> None:
        """Unlink retired segments that no live pin holds, or none of the last seconds."""
        manifest = self._manifest()
        if not manifest.retired:
            return
        held = pinned(self.folder / "pins", within=within)
        gone = [
            segment
            for segment in manifest.retired
            if not any(start < segment.stop and segment.base < stop for start, stop in held)
        ]
        if not gone:
            return
        for segment in gone:  # first, so that a crash leaves no file that nothing lists
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(self.folder / segment.file)
        ids = {segment.id for segment in gone}
        update_manifest(
            self.folder,
            self.manifest_lock,
            lambda m: m._replace(retired=tuple(s for s in m.retired if s.id not in ids)),
        )


def gathered(chunks: Iterable[Chunk]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of chunks that follow each other in batches of about `BATCH_ROWS`."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for chunk in chunks:
        waiting.append(chunk.batch)
        rows += chunk.batch.num_rows
        if rows >= BATCH_ROWS:
            yield pa.concat_batches(waiting)
            waiting, rows = [], 0
    if waiting:
        yield pa.concat_batches(waiting)
