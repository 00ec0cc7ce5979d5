"""The log of one stream: a writer, a reader, maintenance, and the news that something was appended.

One `Log` serves all handles of a process on the same folder, so that a cell that opens a lab again
does not meet its own lock. It knows Arrow batches, offsets and times; columns are the business of
the layers above.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from streamlab.clock import NEVER, Clock
from streamlab.errors import CorruptSegment, StreamLocked
from streamlab.log import disk
from streamlab.log import pins as pin_files
from streamlab.log.background import CHORES
from streamlab.log.bulk import growing
from streamlab.log.compact import Compaction, Rules
from streamlab.log.head import Head, HeadFile, boot_id
from streamlab.log.maintain import Maintenance
from streamlab.log.manifest import Manifest, Segment, file_name, write_manifest
from streamlab.log.reader import LogReader, Moment
from streamlab.log.segment import Mark, SegmentWriter
from streamlab.log.writer import LogWriter, Policy

__all__ = ["History", "Log"]

IN_FLIGHT_SECONDS = 0.1
"""How long it takes at most from taking an append time to having written the frame."""

FIRST_PAUSE, LONGEST_PAUSE = 0.0002, 0.002
"""How often a follower looks at the head of a log that another process writes, in seconds."""


class History(NamedTuple):
    """What a log begins with: sealed files, the first offset of them that counts, how they end."""

    segments: tuple[Segment, ...]
    start: int
    end: Mark
    compacted: int = 0  # below it only the last row of each key is there


NOTHING = History((), 0, Mark(0, 0, NEVER, 0))


def _loss(sync: str | int) -> float:
    """Return how much a policy may lose in a power cut, in microseconds."""
    if isinstance(sync, int):
        return float(sync)
    return 0.0 if sync == "always" else float("inf")


class Log:
    """One stream's folder, open.

    It only goes forward. A replay shows a log that may be set back: `generation` counts how often,
    and `over` says that it goes no further than a moment.
    """

    generation = 0

    def __init__(
        self,
        folder: Path,
        stream: str,
        policy: Policy,
        clock: Clock,
        schema_of: Callable[[int], pa.Schema],
        *,
        retention: tuple[int | None, int | None] = (None, None),
        compaction: Rules | None = None,
        verify: bool = True,
        pins: bool = True,
    ) -> None:
        self.folder = folder
        self.stream = stream
        self.clock = clock
        self.retention = retention
        self.compaction = compaction
        self.reader = LogReader(folder, stream, verify=verify, pins=pins)
        self.writer = LogWriter(folder, stream, policy, clock, schema_of, self._rolled, self.wake)
        self.maintenance = Maintenance(
            folder, compression=policy.compression, durable=policy.sync != "os"
        )
        self.feeders: weakref.WeakSet[Any] = weakref.WeakSet()  # have a close(), and rows waiting
        self._new_locks()
        _LOGS.add(self)

    def _new_locks(self) -> None:
        self._news = threading.Condition()
        self._chore = threading.Lock()  # held while the background tidies up

    @staticmethod
    def create(
        folder: Path,
        stream: str,
        schema: pa.Schema,
        schema_id: int,
        history: History = NOTHING,
    ) -> None:
        """Make the files of a log in a folder that exists; the sealed files of its history are there.

        They are listed, and the log goes on after them. The manifest comes last.
        """
        for name in ("locks", "pins"):
            disk.make_dir(folder / name)
        segments, end = history.segments, history.end
        number = 1 + max((segment.number for segment in segments), default=0)
        path = folder / file_name(end.end, number, sealed=False)
        file = SegmentWriter(path, schema, schema_id, end)
        try:
            file.sync()
        finally:
            file.close()
        listed = (*segments, growing(file, number))
        head = Head(2, end.end, end.end, end.stream_time, end.append_time, boot_id(), number)
        HeadFile.create(folder / "head", head)
        manifest = Manifest(
            stream, 0, number + 1, history.start, listed, compacted=history.compacted
        )
        write_manifest(folder / "manifest", manifest)

    def promise(self, sync: str | int, *, verify: bool, pins: bool) -> None:
        """Keep what one more handle asks for: the strictest promise of all is kept to all."""
        self.reader.verify |= verify
        self.reader.pins |= pins
        if _loss(sync) < _loss(self.writer.policy.sync):
            self.writer.promise(sync)
            self.maintenance.durable = True

    def over(self, moment: Moment) -> bool:  # noqa: ARG002 - what a replay goes by
        """Whether nothing can follow a moment: never, of a log that is written."""
        return False

    def still(self) -> contextlib.AbstractContextManager[None]:
        """Keep what a replay shows as it is for as long as this is entered; a log goes on."""
        return contextlib.nullcontext()

    # -- news --------------------------------------------------------------------------------

    def wake(self) -> None:
        """Wake all who wait for news in this process."""
        with self._news:
            self._news.notify_all()

    def nap(self, seconds: float) -> None:
        """Wait so long at most: something that is published in this process ends it."""
        with self._news:
            self._news.wait(seconds)

    def wait(self, serial: int, timeout: float | None) -> bool:
        """Wait until something is published after the look with this ``serial``; whether it was.

        A writer in this process wakes the waiter; for one in another process the head is looked
        at, eagerly at first and every two milliseconds later.
        """
        started = time.monotonic()
        pause = FIRST_PAUSE
        while self.reader.head.serial() == serial:
            waited = time.monotonic() - started
            if timeout is not None and waited >= timeout:
                return False
            if timeout is not None:
                pause = min(pause, timeout - waited)
            with self._news:
                self._news.wait(max(pause, 0.00005))
            pause = min(LONGEST_PAUSE, FIRST_PAUSE + waited / 50)
        return True

    def settled(self, instant: int, timeout: float | None) -> bool:
        """Wait until no append can still turn up with a time at or before a past ``instant``.

        In this process that is known. In another one an append is written within moments of its
        time being taken, and from then on its frame can be seen, published or not; a big append
        says in the lock file since when it is under way.
        """
        started = time.monotonic()
        age = (self.clock.now() - instant) / 1e6
        while not self.writer.settle():
            waited = time.monotonic() - started
            busy = self.reader.moment().append_time < instant and self.writer.lock.taken()
            since = self.writer.lock.holder().get("appending_since", instant + 1) if busy else None
            fresh = busy and age + waited < IN_FLIGHT_SECONDS
            if not (
                fresh
                or (since is not None and since <= instant)
                or self.reader.unpublished(instant)
            ):
                break
            if timeout is not None and waited > timeout:
                return False
            time.sleep(LONGEST_PAUSE)
        return True

    def make_durable(self, stop: int) -> None:
        """Return when the rows below an offset are durable, whichever process wrote them.

        Raises:
            WriterPoisoned: a sync of this process failed.
            OSError: the system cannot sync.
        """
        missing: Segment | None = None
        while (moment := self.reader.moment()).durable < min(stop, moment.end):
            if self.writer.file is not None:
                with contextlib.suppress(StreamLocked):  # let go just now, and taken by another
                    self.writer.flush()
                    return
            for segment in moment.segments(moment.durable, stop):
                try:
                    if not segment.synced:
                        disk.sync_file(self.folder / segment.file)
                except FileNotFoundError:  # it was sealed or removed just now
                    if segment == missing:
                        path = self.folder / segment.file
                        raise CorruptSegment(path, 0, "the file is missing") from None
                    missing = segment
                    self.reader.manifest(again=True)
                    break
            else:
                return

    # -- holds -------------------------------------------------------------------------------

    def hold(self, name: str, offset: int) -> None:
        """Keep the rows from an offset on from age retention, also after this process is gone.

        A hold of that name is replaced. Limits of size and an explicit trim overrule it.

        Raises:
            InvalidName: it has other characters than letters, digits, ".", "_" and "-".
            StreamNotFound: the stream was dropped.
        """
        try:
            pin_files.hold(self.folder / "pins", name, offset)
        except FileNotFoundError:
            self.reader.manifest(again=True)
            raise

    def release(self, name: str) -> None:
        """Remove a hold, if there is one of that name.

        Raises:
            InvalidName: no hold can have that name.
        """
        pin_files.release(self.folder / "pins", name)

    def holds(self) -> dict[str, int]:
        """Return the offset from which each hold keeps the rows, by name."""
        return pin_files.held_back(self.folder / "pins")

    # -- maintenance -------------------------------------------------------------------------

    def _rolled(self) -> None:
        CHORES.call(self._tidy)

    def _tidy(self) -> None:
        """Seal what was closed, apply retention and compact, in the background."""
        with self._chore:
            if self.writer.closed:
                return
            try:
                self.maintenance.seal(0.0)
                self.retain()
                if self.compaction is not None and not _FORKED:
                    self._compact(only_if_dirty=True)
            except StreamLocked:  # another process is at it
                return
            except FileNotFoundError:
                if self.folder.exists():
                    raise

    def retain(self) -> int:
        """Apply retention; return the offset at which the stream begins now."""
        age, size = self.retention
        return self.maintenance.retain(self.clock.now(), age, size)

    def seal(self) -> int:
        """Close the growing file and seal all that is closed; return how many files that were."""
        self.writer.roll()
        return self.maintenance.seal()

    def compact(self) -> Compaction:
        """Seal all there is and keep only the last row of each key, as far as the rules allow."""
        self.seal()
        return self._compact()

    def _compact(self, *, only_if_dirty: bool = False) -> Compaction:
        assert self.compaction is not None, "the stream keeps its history"
        return self.maintenance.compact(
            self.compaction, self.clock.now(), only_if_dirty=only_if_dirty,
            go_on=lambda: not self.writer.closed,
        )  # fmt: skip

    def trim(self, before: int) -> int:
        """Remove the rows below an offset; return the offset at which the stream begins now."""
        with self.writer.held() as file:
            end = file.mark.end
            if before >= end:
                self.writer.roll()
        return self.maintenance.trim(min(before, end))

    def drain(self) -> list[Exception]:
        """Close what still gathers rows for this log; return what went wrong in doing so."""
        errors: list[Exception] = []
        for feeder in list(self.feeders):
            try:
                feeder.close()
            except Exception as error:  # noqa: BLE001  the others are to be closed too
                errors.append(error)
        return errors

    def close(self) -> None:
        """Let go of the writer's lock, and wait for a chore under way; the log can be opened anew."""
        self.writer.close()
        with self._chore:
            pass


_LOGS: weakref.WeakSet[Log] = weakref.WeakSet()
_FORKED = False
"""Whether this is a forked child: the threads of Polars, which compaction needs, are not there."""


def _after_fork() -> None:
    """In a forked child: the parent's threads, and what they held, are not there."""
    global _FORKED  # noqa: PLW0603
    _FORKED = True
    for log in list(_LOGS):
        log._new_locks()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
