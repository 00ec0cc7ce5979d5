"""Pins: what keeps the files of a view from being removed.

A view writes a small file that says which offsets it looks at, and holds a shared `flock` on it.
Who removes segments publishes the manifest first and looks at the pins then; a pin whose lock can be
had belongs to a process that is gone. So nothing is pulled away from under a reader, and nothing
stays pinned after a crash.

Where nothing can be written (a read-only file system) there is no pin, and no writer either.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import uuid
import weakref
from pathlib import Path

from streamlab.log import disk

__all__ = ["Pin", "pinned"]


class Pin:
    """Keeps the rows in [start, stop) readable until `release`, or until it is collected."""

    def __init__(self, folder: Path, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._release = lambda: None
        path = folder / f"{uuid.uuid4().hex}.pin"
        try:
            fd = disk.create(path)
        except OSError:
            return
        # Between its creation and the lock the file looks like the pin of a dead process. Content
        # comes after the lock, and `pinned` leaves empty files alone.
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            content = json.dumps({"start": start, "stop": stop, "pid": os.getpid()})
            disk.write(fd, [content.encode()], 0)
        except OSError:
            os.close(fd)
            return
        self._release = weakref.finalize(self, _drop, path, fd, os.getpid())

    def release(self) -> None:
        """Let go; doing so twice is harmless."""
        self._release()


def _drop(path: Path, fd: int, pid: int) -> None:
    if os.getpid() == pid:  # a forked child leaves its parent's pins alone
        with contextlib.suppress(OSError):
            disk.unlink(path)
    with contextlib.suppress(OSError):
        os.close(fd)


def pinned(folder: Path) -> list[tuple[int, int]]:
    """Return the ranges that live pins hold, and remove the pins of the dead."""
    ranges = []
    for path in folder.glob("*.pin"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            content = os.pread(fd, 4096, 0)
            if not content:
                ranges.append((0, 2**63 - 1))  # being made just now: hold everything
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with contextlib.suppress(ValueError, KeyError):
                    held = json.loads(content)
                    ranges.append((held["start"], held["stop"]))
                continue
            with contextlib.suppress(OSError):
                disk.unlink(path)
        finally:
            os.close(fd)
    return ranges
