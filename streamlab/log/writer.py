"""The one writer of a stream: append, publish, sync, roll, recover.

Order of an append: take the process lock if it is not held, recover if somebody else may have
written, write one frame in one call, make it durable if the policy says so (appends that come
together share one sync), publish it in the head, return.

Invariants: what is published never changes; a failed append leaves the end where it was; after a
failed sync nothing is written until the log is opened anew, because the page cache then lies; a
forked child holds nothing of its parent's.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from streamlab.clock import FOREVER, Clock
from streamlab.errors import (
    LabClosed,
    ReadOnly,
    StreamlabError,
    StreamLocked,
    WriterPoisoned,
)
from streamlab.log import disk
from streamlab.log.background import TIMERS
from streamlab.log.bulk import Layout, Rows, SealedFiles, count_partitions, describe, growing
from streamlab.log.format import Kind, serialize
from streamlab.log.head import Head, HeadFile, boot_id
from streamlab.log.interrupts import interrupts_deferred
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
from streamlab.log.recovery import Survey, survey
from streamlab.log.repair import Repair
from streamlab.log.segment import Mark, SegmentFile, SegmentWriter

__all__ = ["LogWriter", "Policy"]

logger = logging.getLogger("streamlab")

IDLE_SECONDS = 1.0


@dataclass(frozen=True)
class Policy:
    """How a log writes."""

    sync: str | int = "always"  # "always", "os", or an interval in microseconds
    segment_bytes: int = 64 << 20
    compression: str | None = None
    partitions: int = 1


class LogWriter:
    """Writes one stream; shared by all handles of a process, safe between threads."""

    def __init__(
        self,
        folder: Path,
        stream: str,
        policy: Policy,
        clock: Clock,
        schema_of: Callable[[int], pa.Schema],
        on_roll: Callable[[], None],
        on_publish: Callable[[], None],
    ) -> None:
        self.folder = folder
        self.stream = stream
        self.policy = policy
        self.clock = clock
        self.schema_of = schema_of
        self.on_roll = on_roll
        self.on_publish = on_publish
        self.name = folder.name
        self._new_handles()
        _WRITERS.add(self)

    def _new_handles(self) -> None:
        self.head = HeadFile(self.folder / "head")
        self.lock = FileLock(
            self.folder / "locks" / "writer", f'the writer\'s lock of "{self.name}"'
        )
        self.manifest_lock = FileLock(
            self.folder / "locks" / "manifest", f'the manifest of "{self.name}"'
        )
        self.mutex = threading.RLock()
        self._synced = threading.Condition(threading.Lock())
        self._syncing = False
        self.file: SegmentWriter | None = None
        self.number = 0
        self.durable = 0
        self.poison: BaseException | None = None
        self.closed = False
        self._written = self._safe = 0  # serial numbers of frames: written, and known durable
        self._holders = 0
        self._used = 0.0
        self._timed = self._interval_timed = False
        self._left: tuple[int, SegmentWriter] | None = None  # head serial, file
        self._partition_rows: list[int] = []

    # -- holding -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def held(self, timeout: float | None = 10.0) -> Iterator[SegmentWriter]:
        """Hold the stream for writing: the thread's turn, the process lock, a recovered file.

        Raises:
            StreamLocked: another process writes, and goes on for longer than ``timeout``.
            WriterPoisoned: a sync failed since the log was opened.
            CorruptSegment: what is there cannot be gone on from.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        taken = False
        try:
            with interrupts_deferred() as interrupts:
                self._take_turn(deadline, interrupts)
                taken = True
                self._check()
                if self.file is None:
                    self._open(_left(deadline), interrupts)
            assert self.file is not None
            yield self.file
        finally:
            if taken:
                self._used = time.monotonic()
                if self.file is not None and not self._timed:
                    self._timed = True
                    TIMERS.call(self._idle, IDLE_SECONDS)
                self.mutex.release()

    def _take_turn(self, deadline: float | None, interrupts: Sized) -> None:
        while True:
            left = _left(deadline)
            if self.mutex.acquire(timeout=0.1 if left is None else min(left, 0.1)):
                return
            if len(interrupts) or left == 0.0:
                raise StreamLocked(
                    f'the writer\'s lock of "{self.name}" is held by another thread',
                    holder={"pid": os.getpid()},
                )

    def keep(self) -> None:
        """Keep the lock until `let_go`, however idle: a Writer or Job is open."""
        with self.mutex:
            self._holders += 1

    def let_go(self) -> None:
        """Undo one `keep`."""
        with self.mutex:
            self._holders = max(0, self._holders - 1)

    def _check(self) -> None:
        if self.closed:
            raise LabClosed(
                f'the lab of stream "{self.name}" is closed', hint="open it again with sl.open"
            )
        if self.poison is not None:
            raise WriterPoisoned(
                f'stream "{self.name}" takes no more rows: a sync failed ({self.poison}), and what of '
                "the last appends is on disk is unknown",
                hint="close the lab and open it again; it is then read back from disk",
            ) from self.poison

    def _open(self, timeout: float | None, interrupts: Sized) -> None:
        self.lock.acquire(timeout, interrupts)
        try:
            if not self._resume():
                found = survey(self.folder, self.stream)
                self._apply(found)
        except BaseException:
            if self.file is not None:
                self.file.close()
            self.file = None
            self.head.close()
            self.lock.release()
            raise

    def _resume(self) -> bool:
        """Go on where this process let go, if nobody has written since."""
        if self._left is None:
            return False
        serial, file = self._left
        self._left = None
        manifest = read_manifest(self.folder / "manifest")
        if manifest.active.id != file.segment or self.head.serial() != serial:
            return False
        file.fd = disk.open_append(file.path)
        self.file = file
        return True

    def _apply(self, found: Survey) -> None:
        """Do what recovery found, then publish the end it found."""
        disk.sync_dir(self.folder)  # a dead writer may have left a manifest that a power cut undoes
        self.durable = found.durable
        repair = Repair(self.folder, self.manifest_lock)
        path = repair.mend(found)
        last = found.manifest.active
        if last.state == SEALED and not found.lost:
            self._start_after(found.manifest)
        else:
            file = SegmentFile(path, last.id)
            for _ in file.walk():
                pass
            self.file = SegmentWriter.resume(file)
            self.number = self._manifest().active.number
            self._count_partitions(file)
            if self.policy.sync != "os":  # a dead writer may have left what it never synced
                self._make_durable(self.file)
                self.durable = max(self.durable, file.mark.end)
            if file.closed:
                self._roll(self.file.schema_id)
        if found.manifest.start > found.mark.end:  # trimmed to where a power cut left no rows
            self._update(lambda m: m._replace(start=min(m.start, found.mark.end)))
        repair.remove_leftovers()
        self._publish()
        if any(segment.state == CLOSED for segment in self._manifest().segments[:-1]):
            self.on_roll()  # sealing was cut short

    def _start_after(self, manifest: Manifest) -> None:
        """Begin a file after a stream that ends with a sealed one."""
        last = manifest.active
        mark = Mark(0, last.stop, last.after, last.append_max)
        note = SegmentFile(self.folder / last.file, last.id).note_until(FOREVER)
        file, number = self._create(last.schema, mark, manifest.next_file, note)
        self.file, self.number = file, number
        entry = growing(file, number)
        self._update(lambda m: m.numbered(number, (*m.segments, entry)))

    def _count_partitions(self, file: SegmentFile) -> None:
        self._partition_rows = [0] * self.policy.partitions
        if self.policy.partitions > 1:
            for chunk in file.chunks(file.base, file.mark.end):
                count_partitions(chunk.batch, self._partition_rows)

    # -- writing -----------------------------------------------------------------------------

    def append(
        self,
        rows: Rows,
        timeout: float | None = 10.0,
        *,
        note: bytes = b"",
        stream_time: int | None = None,
    ) -> range:
        """Append one batch and return its offsets; durable and visible as the policy says.

        With the rows, as one, goes a ``note`` (see `last_note`), and after the last of them stream
        time is at least ``stream_time``.
        """
        with interrupts_deferred():
            with self.held(timeout) as file:
                base = file.mark.end
                batch = rows.at(base)
                message = serialize(batch, self.policy.compression)
                ready = self._ready(file, rows.schema_id)
                before, append_time = ready.mark.stream_time, self.append_time()
                told = rows.told(before, append_time, batch.num_rows, note, stream_time)
                self._put(Kind.ROWS, message=message, **told)
                if self.policy.partitions > 1:
                    count_partitions(batch, self._partition_rows)
                serial = self._after_write()
            self._commit(serial)
        return range(base, base + batch.num_rows)

    def _ready(self, file: SegmentWriter, schema_id: int) -> SegmentWriter:
        """Return a file that takes the next frame: not full, not ended, of the right schema."""
        self._not_ended(file)
        return self._roomy(file, schema_id)

    def _roomy(self, file: SegmentWriter, schema_id: int) -> SegmentWriter:
        full = file.mark.position > self.policy.segment_bytes
        if full or file.last_kind == Kind.LAST or schema_id != file.schema_id:
            return self._roll(schema_id)
        return file

    def _not_ended(self, file: SegmentWriter) -> None:
        if file.mark.stream_time == FOREVER:
            raise ReadOnly(
                f'stream "{self.name}" was ended by advance("end") and takes no more rows',
                hint="append to a new stream",
            )

    def append_time(self) -> int:
        """Return the append time of a frame that is written now."""
        assert self.file is not None
        return max(self.file.mark.append_time + 1, self.clock.now())

    def heartbeat(self, stream_time: int, timeout: float | None = 10.0) -> None:
        """Move stream time forward; one that is not ahead changes nothing."""
        with interrupts_deferred():
            with self.held(timeout) as file:
                if stream_time <= file.mark.stream_time:
                    return
                self._ready(file, file.schema_id)
                self._put(Kind.HEARTBEAT, after=stream_time, append_time=self.append_time())
                serial = self._after_write()
            self._commit(serial)

    def note(
        self, note: bytes, stream_time: int | None = None, timeout: float | None = 10.0
    ) -> None:
        """Write a note without rows, and move stream time forward if ``stream_time`` is ahead.

        It is as durable as an append. A stream that was ended takes notes still.
        """
        with interrupts_deferred():
            with self.held(timeout) as file:
                ready = self._roomy(file, file.schema_id)
                self._writing(ready.note, note, self.append_time(), stream_time)
                serial = self._after_write()
            self._commit(serial)

    def last_note(self, timeout: float | None = 10.0) -> bytes:
        """Return the note that was written last, by any process; b"" if none was."""
        with self.held(timeout) as file:
            return file.last_note

    def _put(self, kind: Kind, **content: Any) -> None:
        assert self.file is not None
        self._writing(self.file.put, kind, **content)

    def _writing(self, write: Callable[..., object], *args: object, **content: Any) -> None:
        """Write a frame; if it fails and cannot be cut off either, nothing more is written."""
        assert self.file is not None
        try:
            write(*args, **content)
        except BaseException as error:
            if self.file.broken:
                self._poison(error)
            raise

    def _after_write(self) -> int:
        self._written += 1
        if self.policy.sync != "always":
            self._publish()
            if self.policy.sync != "os" and not self._interval_timed:
                self._interval_timed = True
                TIMERS.call(self._on_interval, int(self.policy.sync) / 1e6)
        return self._written

    def _commit(self, serial: int) -> None:
        """Return when the frame with this serial is as durable as the policy promises."""
        if self.policy.sync == "always":
            self._sync_up_to(serial)

    def _sync_up_to(self, serial: int) -> None:
        """Return when the frame with this serial is durable.

        One thread syncs for all that have written by then; the others wait for it.
        """
        while True:
            with self._synced:
                while self._syncing and self._safe < serial:
                    self._synced.wait()
                if self._safe >= serial:
                    return
                self._syncing = True
            try:
                with self.mutex:
                    self._check()
                    if self.file is None:
                        raise StreamlabError(f'stream "{self.name}" was closed during an append')
                    file, target, mark = self.file, self._written, self.file.mark
                    fd = os.dup(file.fd)
                try:
                    self._sync(fd)
                finally:
                    os.close(fd)
                with self.mutex:
                    if self._safe < target and self.file is file:
                        file.synced = max(file.synced, mark.position)
                        self._settle(target, mark)
            finally:
                with self._synced:
                    self._syncing = False
                    self._synced.notify_all()

    def _settle(self, serial: int, mark: Mark) -> None:
        """Note that all frames up to ``serial`` are durable, and publish them."""
        self.durable = max(self.durable, mark.end)
        self._publish(mark if self.policy.sync == "always" else None)
        self._safe = max(self._safe, serial)

    def _publish(self, mark: Mark | None = None) -> None:
        assert self.file is not None
        mark = mark or self.file.mark
        self.head.publish(self._head(mark))
        self.on_publish()

    def _head(self, mark: Mark) -> Head:
        number = self.number & 0xFFFFFFFF
        return Head(
            0, mark.end, self.durable, mark.stream_time, mark.append_time, boot_id(), number
        )

    def settle(self) -> bool:
        """Publish whatever this process has written so far; whether the stream is its to say so."""
        with self.mutex:
            if self.file is None or not self.lock.held:
                return False
            written = self._written
        self._commit(written)
        return True

    def _poison(self, error: BaseException) -> None:
        self.poison = error

    def promise(self, sync: str | int) -> None:
        """Sync more strictly from now on; what was left to the system is made durable first."""
        with self.mutex:
            if self.file is not None:
                self.flush()
            self.policy = replace(self.policy, sync=sync)

    def flush(self, timeout: float | None = 10.0) -> None:
        """Make all rows durable: the growing file, and sealed ones that were left to the system."""
        with interrupts_deferred(), self.held(timeout) as file:
            serial = self._written
            self._make_durable(file)
            self._settle(serial, file.mark)

    def _make_durable(self, file: SegmentWriter) -> None:
        """Sync the growing file and the closed ones that were left to the system."""
        done = set()
        for segment in self._manifest().segments[:-1]:
            if not segment.synced:
                path = self.folder / segment.file
                try:
                    fd = disk.open_append(path)
                except FileNotFoundError:  # it was sealed just now
                    path = path.with_suffix(".arrow")
                    fd = disk.open_append(path)
                try:
                    self._sync(fd)
                finally:
                    os.close(fd)
                done.add(path.name)
        if file.synced < file.mark.position:
            position = file.mark.position
            self._sync(file.fd)
            file.synced = position
        if done:
            self._update(
                lambda m: m._replace(
                    segments=tuple(
                        s._replace(synced=True) if s.file in done else s for s in m.segments
                    )
                )
            )

    def _sync(self, fd: int) -> None:
        """Make a file durable; if that fails, nothing is known any more."""
        try:
            disk.sync(fd)
        except OSError as error:
            self._poison(error)
            self._check()

    # -- files -------------------------------------------------------------------------------

    def _manifest(self) -> Manifest:
        return read_manifest(self.folder / "manifest")

    def _update(self, change: Callable[[Manifest], Manifest]) -> Manifest:
        return update_manifest(self.folder, self.manifest_lock, change)

    def _create(
        self, schema_id: int, mark: Mark, number: int, note: bytes
    ) -> tuple[SegmentWriter, int]:
        """Create the next growing file, durable in name and beginning."""
        while True:
            path = self.folder / file_name(mark.end, number, sealed=False)
            try:
                file = SegmentWriter(path, self.schema_of(schema_id), schema_id, mark, note)
                break
            except FileExistsError:  # left by a crash: names are never used twice
                number += 1
        try:
            file.sync()
            disk.sync_dir(self.folder)
        except BaseException:
            file.abandon()
            raise
        self._partition_rows = [0] * self.policy.partitions
        return file, number

    def roll(self, timeout: float | None = 10.0) -> None:
        """Close the growing file, if there is anything in it, and begin the next."""
        with interrupts_deferred(), self.held(timeout) as file:
            if not file.empty:
                self._roll(file.schema_id)

    def _roll(self, schema_id: int) -> SegmentWriter:
        old = self.file
        assert old is not None
        entry = self._end(old)
        number = self._manifest().next_file
        file, number = self._create(schema_id, old.mark, number, old.last_note)
        self._change_over(old, [] if entry is None else [entry], file, number)
        return file

    def _end(self, old: SegmentWriter) -> Segment | None:
        """Write the last frame of the growing file and describe it; None if it holds nothing."""
        if old.empty:
            return None
        if old.last_kind != Kind.LAST:
            self._writing(old.end)
        if self.policy.sync != "os" and old.synced < old.mark.position:
            self._sync(old.fd)
            old.synced = old.mark.position
        counts = tuple(self._partition_rows) if self.policy.partitions > 1 else None
        return describe(old, CLOSED, self.number, counts)

    def _change_over(
        self, old: SegmentWriter, new: list[Segment], file: SegmentWriter, number: int
    ) -> None:
        """List the new segments and the new growing file instead of the old one.

        If that fails, the old one is gone on with and the new one is not there; if it cannot be
        told whether it failed, nothing more is written.
        """
        entry = growing(file, number)
        try:
            self._update(lambda m: m.numbered(number, (*m.segments[:-1], *new, entry)))
        except BaseException as error:
            if self._perhaps_listed(file):
                self._poison(error)
                file.close()
            else:
                file.abandon()
            raise
        self.file, self.number = file, number
        old.close()
        if old.empty:
            with contextlib.suppress(OSError):
                disk.unlink(old.path)
        self.on_roll()
        if self.policy.sync == "os":
            self._publish()
        else:
            self._settle(self._written, file.mark)

    def _perhaps_listed(self, file: SegmentWriter) -> bool:
        try:
            return any(segment.id == file.segment for segment in self._manifest().segments)
        except (OSError, StreamlabError):
            return True

    def append_many(
        self,
        batches: Iterator[Rows],
        timeout: float | None = 10.0,
        *,
        note: bytes = b"",
        stream_time: int | None = None,
    ) -> range:
        """Append what is too big for one frame: sealed files, which appear all at once.

        The note is in the last frame, and ``stream_time`` counts after the last row. Both need a
        row: without one there is no last frame.
        """
        with self.held(timeout) as old:
            self._not_ended(old)
            append_time = self.append_time()
            self.lock.note(appending_since=append_time)
            try:
                return self._append_many(old, iter(batches), append_time, (note, stream_time))
            finally:
                self.lock.note()

    def _append_many(
        self,
        old: SegmentWriter,
        batches: Iterator[Rows],
        append_time: int,
        last: tuple[bytes, int | None],
    ) -> range:
        policy, number = self.policy, self._manifest().next_file
        layout = Layout(policy.segment_bytes, policy.compression, policy.partitions, self.schema_of)
        sink = SealedFiles(self.folder, layout, old.mark, number, append_time, old.last_note)
        try:
            waiting = next(batches, None)
            if waiting is None and last != (b"", None):
                raise ValueError("a note or a stream time needs a row to go with")  # noqa: TRY301
            while waiting is not None:
                rows, waiting = waiting, next(batches, None)
                sink.add(rows, *(last if waiting is None else ()))
            sink.finish()
            with interrupts_deferred():
                ended = self._end(old)
                entries = ([] if ended is None else [ended]) + sink.entries
                schema_id = sink.schema_id or old.schema_id
                file, number = self._create(schema_id, sink.mark, sink.number, sink.note)
                self._written += 1
                self._change_over(old, entries, file, number)
        except BaseException:
            if self.file is old and self.poison is None:  # nothing of it is listed
                sink.abandon()
            raise
        return range(old.mark.end, sink.mark.end)

    # -- letting go --------------------------------------------------------------------------

    def _on_interval(self) -> None:
        self._interval_timed = False
        if self.file is not None and not self.poison:
            self._sync_up_to(self._written)

    def _idle(self) -> None:
        with self.mutex:
            self._timed = False
            if self.file is None:
                return
            left = self._used + IDLE_SECONDS - time.monotonic()
            if self._holders or left > 0:
                self._timed = True
                TIMERS.call(self._idle, max(left, IDLE_SECONDS / 4))
                return
            self._leave()

    def _leave(self) -> None:
        """Leave a mark that vouches for all before it, and give the lock back."""
        file = self.file
        if file is None:
            return
        try:
            if not self.poison:
                if self.policy.sync != "os" and self._safe < self._written:
                    file.sync()
                    self._settle(self._written, file.mark)
                self._write_mark(file)
                self._left = (self.head.serial(), file)
        except OSError as error:
            self._poison(error)
        finally:
            file.close()
            self.head.close()
            self.file = None
            self.lock.release()

    def _write_mark(self, file: SegmentWriter) -> None:
        durable = self._safe >= self._written and file.synced >= file.mark.position
        if durable and file.last_kind in (Kind.ROWS, Kind.HEARTBEAT, Kind.POSITION):
            _, _, stream_time, append_time = file.mark
            file.put(Kind.MARK, after=stream_time, append_time=append_time)
            file.sync()
        if self.policy.sync == "os" or durable:
            self.head.settle(self._head(file.mark))

    def close(self) -> None:
        """Let go for good; the log can be opened anew."""
        with self.mutex:
            self._leave()
            self.closed = True


def _left(deadline: float | None) -> float | None:
    """Return the seconds until a deadline, 0 after it, None if there is none."""
    return None if deadline is None else max(0.0, deadline - time.monotonic())


_WRITERS: weakref.WeakSet[LogWriter] = weakref.WeakSet()


def _after_fork() -> None:
    """In a forked child: forget the parent's descriptors and locks without touching them."""
    for writer in list(_WRITERS):
        closed = writer.closed
        if writer.file is not None and writer.file.fd >= 0:
            os.close(writer.file.fd)
        writer.head.close()
        writer._new_handles()  # noqa: SLF001
        writer.closed = closed


os.register_at_fork(after_in_child=_after_fork)
