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
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path

from streamlab.log import disk

__all__ = ["Pin", "pinned"]


class Pin:
    """Keeps the rows in [start, stop) readable until `release`, or until it is collected."""

    def __init__(self, folder: Path, start: int, stop: int) -> None:
        self.start, self.stop = start, stop
        self._release: Callable[[], object] = lambda: None
        path = folder / f"{uuid.uuid4().hex}.pin"
        beside = path.with_suffix(".new")  # not a pin until it is locked and filled
        if not folder.exists():  # a copy that left out empty folders
            with contextlib.suppress(OSError):
                disk.make_dir(folder)
        try:
            fd = disk.create(beside)
        except OSError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            content = json.dumps({"start": start, "stop": stop, "pid": os.getpid()})
            disk.write(fd, [content.encode()], 0)
            disk.rename(beside, path)
        except BaseException as error:
            _drop(beside, fd, os.getpid())
            if not isinstance(error, OSError):
                raise
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


def pinned(folder: Path, *, within: float | None = None) -> list[tuple[int, int]]:
    """Return the ranges that live pins hold, and remove the pins of the dead.

    ``within`` counts only the pins of so many seconds: those of reads that are under way.
    """
    ranges = []
    for path in folder.glob("*.pin"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if within is None or time.time() - os.fstat(fd).st_mtime < within:
                    ranges.append(_range(os.pread(fd, 4096, 0)))
                continue
            with contextlib.suppress(OSError):
                disk.unlink(path)
        finally:
            os.close(fd)
    return ranges


def _range(content: bytes) -> tuple[int, int]:
    """Return what a live pin holds; one that cannot be read holds everything."""
    try:
        held = json.loads(content)
        return int(held["start"]), int(held["stop"])
    except (ValueError, LookupError, TypeError):
        return 0, 2**63 - 1
