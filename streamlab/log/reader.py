"""Reading a log: a moment of it, the chunks in a range, the offset of an instant.

A `Moment` is what exists at one look: a manifest and an end. It is taken without a lock. Files are
opened when they are come to; one that was sealed or removed meanwhile is looked up again by offset.

Invariants: no row at or beyond the published end is ever returned; a sealed file is verified whole
before anything of it is used, once in a process; the rows of a range come in the order of offsets
without gap, or an error does. Where the moment has compacted files the gaps are theirs, and rows that
were compacted since are an error.
"""

from __future__ import annotations

import bisect
import collections
import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamlab.clock import FOREVER, NEVER, stream_times
from streamlab.errors import CorruptSegment, OffsetOutOfRange, StreamNotFound
from streamlab.log.format import Kind
from streamlab.log.head import Head, HeadFile, boot_id
from streamlab.log.manifest import ACTIVE, SEALED, Manifest, Segment, read_manifest
from streamlab.log.pins import Pin
from streamlab.log.recovery import Survey, load_manifest, survey, verify_sealed
from streamlab.log.segment import Chunk, SegmentFile

__all__ = ["LogReader", "Moment"]

MAX_OPEN_FILES = 256
MAX_MAPPED = 1 << 30
"""How much is kept open: mapping a file again costs nothing beside reading it."""

_VERIFIED: set[tuple[int, int, int, int, int]] = set()
"""Sealed files this process has verified: device, inode, size, time of change, checksum."""


class Moment(NamedTuple):
    """A log as it was at one look."""

    manifest: Manifest
    start: int
    end: int
    durable: int
    stream_time: int
    append_time: int

    @property
    def compacted(self) -> int:
        """The offset below which only the last row of each key is there; 0: nothing was removed."""
        return self.manifest.compacted

    def segments(self, start: int, stop: int) -> list[Segment]:
        """Return the segments that hold rows of [start, stop)."""
        live = self.manifest.segments
        first = bisect.bisect_right(live, start, key=lambda segment: segment.base) - 1
        found = []
        for segment in live[max(first, 0) :]:
            if segment.base >= stop:
                break
            last = segment is live[-1]
            if (self.end if last else segment.stop) > max(start, segment.base):
                found.append(segment)
        return found

    def within(self, start: int, stop: int) -> Moment:
        """Return the part of the moment with offsets in [start, stop)."""
        if (start, stop) == (self.start, self.end):
            return self
        manifest = self.manifest._replace(segments=tuple(self.segments(start, stop)))
        return self._replace(manifest=manifest, start=start, end=stop)


def _moment(manifest: Manifest, head: Head) -> Moment:
    """Put together a head and a manifest that was read after it, and may go further."""
    active = manifest.active
    if active.base <= head.end:
        start = min(manifest.start, head.end)
        return Moment(manifest, start, *head[1:5])
    start = min(manifest.start, active.base)
    stream_time = max(head.stream_time, active.before)
    append_time = max(head.append_time, active.append_min)
    return Moment(manifest, start, active.base, head.durable, stream_time, append_time)


class LogReader:
    """Reads one stream's log; shared by all handles of a process, safe between threads."""

    def __init__(
        self, folder: Path, stream: str, *, verify: bool = True, pins: bool = True
    ) -> None:
        self.folder = folder
        self.stream = stream
        self.verify = verify
        self.pins = pins
        self.head = HeadFile(folder / "head")
        self._lock = threading.RLock()
        self._manifest: tuple[tuple[int, int], Manifest] | None = None
        self._survey: tuple[tuple[int, ...], Survey] | None = None
        self._files: collections.OrderedDict[int, SegmentFile] = collections.OrderedDict()

    # -- moments -----------------------------------------------------------------------------

    def moment(self) -> Moment:
        """Look at the log: what is published now, in whichever process it was written."""
        head = self.head.read()
        if head is not None and head.boot == boot_id():
            with contextlib.suppress(CorruptSegment):
                manifest = self.manifest()
                if head.file > manifest.active.number & 0xFFFFFFFF:
                    manifest = self.manifest(again=True)
                if head.file <= manifest.active.number & 0xFFFFFFFF:
                    return _moment(manifest, head)
        return self._surveyed()

    def manifest(self, *, again: bool = False) -> Manifest:
        """Return the manifest, read only if it was replaced, or ``again``.

        Two that follow each other closely may have the same inode and the same time of change; then
        the number of the growing file in the head, or a file that is gone, tells.

        Raises:
            StreamNotFound: the stream was dropped, and perhaps made anew.
        """
        path = self.folder / "manifest"
        try:
            stat = os.stat(path)  # noqa: PTH116
        except FileNotFoundError:
            if not self.folder.is_dir():
                raise self._gone() from None
            return load_manifest(self.folder, self.stream)
        version = (stat.st_ino, stat.st_mtime_ns)
        with self._lock:
            if again or self._manifest is None or self._manifest[0] != version:
                self._manifest = (version, read_manifest(path))
            manifest = self._manifest[1]
        if manifest.stream != self.stream:
            raise self._gone()
        return manifest

    def _gone(self) -> StreamNotFound:
        name = self.folder.name
        return StreamNotFound(
            f'stream "{name}" was dropped',
            hint=f'take it again with lab["{name}"] if it was made anew',
        )

    def _surveyed(self) -> Moment:
        """Look at a log whose head cannot be trusted: after a reboot, or a flipped bit."""
        state = self._state()
        while True:
            with self._lock:
                if self._survey is not None and self._survey[0] == state:
                    found = self._survey[1]
                    break
            if not self.folder.is_dir():
                raise self._gone()
            try:
                fresh = survey(self.folder, self.stream)
            except CorruptSegment:
                if state == (state := self._state()):
                    raise
                continue  # a writer was at work meanwhile
            with self._lock:
                self._survey = (state, fresh)
            state = self._state()
        mark, manifest = found.mark, found.manifest
        return Moment(
            manifest, min(manifest.start, mark.end), mark.end, min(found.durable, mark.end),
            mark.stream_time, mark.append_time,
        )  # fmt: skip

    def _state(self) -> tuple[int, ...]:
        """Return what changes when anything is written."""
        state = []
        for name in ("manifest", "head"):
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(self.folder / name)  # noqa: PTH116
                state += [stat.st_ino, stat.st_mtime_ns, stat.st_size]
        for path in sorted(self.folder.glob("*.log")):
            with contextlib.suppress(FileNotFoundError):
                state += [path.stat().st_ino, path.stat().st_size]
        return tuple(state)

    def pin(self, start: int, stop: int, *, passable: bool = False) -> Pin | None:
        """Keep the rows in [start, stop) from being removed while the pin lives; see `Pin`."""
        return Pin(self.folder / "pins", start, stop, passable=passable) if self.pins else None

    def holds(self, moment: Moment, start: int, stop: int) -> bool:
        """Whether the rows of a range are there still: what was pinned may be gone before."""
        try:
            now = self.manifest()
        except CorruptSegment:
            return True
        if now.start > start or now.compacted <= start:
            return now.start <= start
        files = {segment.file for segment in now.segments}  # one that is retired may go just now
        found = moment.segments(start, min(stop, now.compacted))
        return all(segment.file in files for segment in found)

    def unpublished(self, instant: int) -> bool:
        """Whether a frame with an append time at or before ``instant`` waits to be published."""
        moment = self.moment()
        active = moment.manifest.active
        try:
            return any(
                frame.kind == Kind.ROWS
                and frame.base >= moment.end
                and frame.append_time <= instant
                for frame in SegmentFile(self.folder / active.file, active.id).walk()
            )
        except FileNotFoundError:
            return False

    def last_note(self) -> bytes:
        """Return the note that was published last, b"" if none was; without any lock.

        Raises:
            CorruptSegment: the file that holds it is missing or damaged.
        """
        missing: Segment | None = None
        while True:
            moment = self.moment()
            segments = moment.manifest.segments[-2:]
            for segment in reversed(segments):
                active = segment is segments[-1]
                # A file that is listed begins with a note that is as durable as the list.
                until = max(moment.append_time, segment.append_min) if active else FOREVER
                try:
                    note = self.file(segment).note_until(until)
                except FileNotFoundError:  # it was sealed or removed just now
                    self._forget(segment)
                    if segment == missing:
                        path = self.folder / segment.file
                        raise CorruptSegment(path, 0, "the file is missing") from None
                    missing = segment
                    self.manifest(again=True)
                    break
                if note:
                    return note
            else:
                return b""

    # -- rows --------------------------------------------------------------------------------

    def chunks(self, moment: Moment, start: int, stop: int) -> Iterator[Chunk]:
        """Yield the rows in [start, stop) as they lie in the files, in order.

        Raises:
            OffsetOutOfRange: some of them have been removed.
            CorruptSegment: some of them are not what was written.
        """
        stop = min(stop, moment.end)
        at = max(start, moment.start)
        while at < stop:
            segment = self._segment_at(moment, at)
            limit = stop if segment is moment.manifest.active else min(stop, segment.stop)
            file, limit = self._reached(segment, at, limit)
            for chunk in file.chunks(at, limit):
                assert chunk.base == at or file.sparse, (chunk.base, at)
                yield chunk
                at = chunk.stop
            assert at == limit or file.sparse, (at, limit)
            at = limit

    def _segment_at(self, moment: Moment, offset: int) -> Segment:
        found = moment.segments(offset, offset + 1)
        if not found:
            raise self._removed(offset)
        return found[0]

    def _reached(self, segment: Segment, at: int, stop: int) -> tuple[SegmentFile, int]:
        """Return the file with the rows from ``at`` on, known up to ``stop`` or to its own end.

        The segment may have been closed, sealed and removed since it was looked up; where its rows
        are now, the manifest says.
        """
        while True:
            try:
                file = self.file(segment)
                file.reach(stop)
            except FileNotFoundError:
                self._forget(segment)
                now = self._moved(at, segment.number)
                if now.file == segment.file:
                    if at < self.manifest().start:
                        raise self._removed(at) from None
                    raise CorruptSegment(self.folder / now.file, 0, "the file is missing") from None
                if now.sparse:
                    raise self._compacted(at) from None
                segment = now
                if segment.state != ACTIVE:
                    stop = min(stop, segment.stop)
            else:
                return file, stop

    def _moved(self, offset: int, number: int) -> Segment:
        """Find the file that holds an offset now, the one of this number that held it being gone."""
        manifest = self.manifest(again=True)
        found = [
            segment
            for segment in manifest.segments[:-1] + manifest.retired
            if segment.base <= offset < segment.stop
        ]
        for segment in found:
            if segment.number == number:  # sealed since, and perhaps compacted: it has all rows
                return segment
        if found:
            return found[0]
        if offset >= manifest.active.base:
            return manifest.active
        raise self._removed(offset)

    def relisted(self, segment: Segment) -> Segment:
        """Return how a segment is listed now, its file being gone: it was sealed meanwhile.

        Raises:
            OffsetOutOfRange: it was removed.
            CorruptSegment: it is listed as before.
        """
        self._forget(segment)
        manifest = self.manifest(again=True)
        for known in manifest.segments + manifest.retired:
            if known.number == segment.number:
                if known.file != segment.file:
                    return known
                if segment.stop > manifest.start:
                    raise CorruptSegment(self.folder / segment.file, 0, "the file is missing")
        raise self._removed(segment.base)

    def _removed(self, offset: int) -> OffsetOutOfRange:
        manifest = self.manifest()
        return OffsetOutOfRange(
            f'offset {offset} of stream "{self.folder.name}" has been removed; '
            f"it begins at {manifest.start} now",
            asked=offset,
            available=range(manifest.start, self.moment().end),
        )

    def _compacted(self, offset: int) -> OffsetOutOfRange:
        upto = self.manifest().compacted
        return OffsetOutOfRange(
            f'stream "{self.folder.name}" was compacted up to {upto} while offset {offset} was read',
            hint="read it again",
            asked=offset,
            available=range(upto, self.moment().end),
        )

    def file(self, segment: Segment) -> SegmentFile:
        """Return a segment's file, verified if it is sealed; the last ones used are kept open.

        Raises:
            FileNotFoundError: it was sealed or removed since the moment was taken.
        """
        with self._lock:
            file = self._files.get(segment.id)
            if file is not None and file.path.name == segment.file:
                self._files.move_to_end(segment.id)
                return file
        path = self.folder / segment.file
        if segment.state == SEALED:
            file = self._open_sealed(path, segment)
        else:
            file = SegmentFile(path, segment.id)
        with self._lock:
            self._files[segment.id] = file
            while len(self._files) > 1 and self._too_many():
                self._files.popitem(last=False)
        return file

    def _too_many(self) -> bool:
        mapped = sum(len(file.data) for file in self._files.values())
        return len(self._files) > MAX_OPEN_FILES or mapped > MAX_MAPPED

    def _forget(self, segment: Segment) -> None:
        with self._lock:
            self._files.pop(segment.id, None)

    def trusts(self, segment: Segment) -> bool:
        """Whether a sealed file was verified by this process, or need not be.

        Raises:
            FileNotFoundError: it was removed since the moment was taken.
        """
        return _state(self.folder / segment.file, segment) in _VERIFIED or not self.verify

    def _open_sealed(self, path: Path, segment: Segment) -> SegmentFile:
        known = _state(path, segment)
        if known in _VERIFIED or not self.verify:
            file = SegmentFile(path, segment.id, checked=True)
        else:
            file = verify_sealed(path, segment)
            _VERIFIED.add(known)
        for _ in file.walk():
            pass
        return file

    # -- places ------------------------------------------------------------------------------

    def find_appended(self, moment: Moment, time: int) -> int:
        """Return the first offset whose append time is at or after ``time``."""
        return self._find(moment, time, "append_time", None)

    def find_event(self, moment: Moment, time: int, column: str) -> int:
        """Return the first offset whose stream time is at or after ``time``."""
        return self._find(moment, time, "after", column)

    def _find(self, moment: Moment, time: int, field: str, column: str | None) -> int:
        segments = moment.manifest.segments
        name = "append_max" if field == "append_time" else "after"
        index = bisect.bisect_left(segments[:-1], time, key=lambda s: getattr(s, name))
        while index < len(segments):
            segment = segments[index]
            last = index == len(segments) - 1
            stop = moment.end if last else segment.stop
            file, _ = self._reached(segment, segment.base, stop)
            runs = file.runs
            at = int(np.searchsorted(runs[field], time, "left"))
            if at < len(runs) and int(runs["base"][at]) < stop:
                base = int(runs["base"][at])
                if column is not None:
                    run_stop = int(runs["base"][at + 1]) if at + 1 < len(runs) else stop
                    before = int(runs["before"][at])
                    base = self._within(file, base, min(run_stop, stop), before, column, time)
                return min(max(base, moment.start), moment.end)
            index += 1
        return moment.end

    def runs(self, moment: Moment, segment: Segment) -> tuple[npt.NDArray[np.void], int]:
        """Return the runs of a segment, and the offset after the last; there may be later ones too.

        No row is read for it. Where the segment's file was merged into another, it is that one's.
        """
        active = segment is moment.manifest.active
        stop = moment.end if active else segment.stop
        file, _ = self._reached(segment, segment.base, stop)
        return file.runs_until(moment.append_time if active else FOREVER)

    def times_at(self, moment: Moment, offset: int, column: str | None) -> tuple[int, int]:
        """Return the stream time of the row at an offset, and its append time."""
        if not moment.start <= offset < moment.end:
            return NEVER, 0
        file, _ = self._reached(self._segment_at(moment, offset), offset, offset + 1)
        append_time = int(file.run_at(offset)["append_time"])
        return file.stream_time_after(offset, column), append_time

    def append_time_below(self, offset: int) -> int | None:
        """Return the append time of the row before an offset; None if there is none, or no more.

        No row is read for it: append times stand in the tables of runs.
        """
        moment, at = self.moment(), offset - 1
        if not moment.start <= at < moment.end:
            return None
        try:
            file, _ = self._reached(self._segment_at(moment, at), at, at + 1)
        except OffsetOutOfRange:
            return None
        return int(file.run_at(at)["append_time"])

    def stream_time_before(self, moment: Moment, offset: int, column: str | None) -> int:
        """Return the stream time that the row at an offset meets: what it is judged late by.

        That is S of the row before it and of the heartbeats between the two; at the end of the
        moment, the stream time of the moment. At most the rows of one run are read, up to the
        offset. ``column`` holds the event times; None: append time is event time.

        Raises:
            OffsetOutOfRange: the row has been removed.
            CorruptSegment: what is there is not what was written.
        """
        if offset >= moment.end:
            return moment.stream_time
        if offset < moment.start:
            raise self._removed(offset)
        file, _ = self._reached(self._segment_at(moment, offset), offset, offset + 1)
        return file.stream_time_before(offset, column)

    @staticmethod
    def _within(
        file: SegmentFile, base: int, stop: int, before: int, column: str, time: int
    ) -> int:
        """Find a stream time inside one run: the running maximum over its event times."""
        from streamlab.schema import event_times

        for chunk in file.chunks(base, stop):
            times = stream_times(before, event_times(chunk.batch.column(column)))
            at = int(np.searchsorted(times, time, "left"))
            if at < len(times):
                return int(chunk.offsets[at])
            before = int(times[-1]) if len(times) else before
        return stop


def _state(path: Path, segment: Segment) -> tuple[int, int, int, int, int]:
    """Return what a sealed file looks like from outside; if that changes, it is verified anew."""
    stat = os.stat(path, follow_symlinks=False)  # noqa: PTH116
    return (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, segment.checksum)
