"""Locks between processes: `flock` on small files, which the kernel frees at death.

Invariants: a lock belongs to one process; a forked child that inherits the descriptor does not own
it (`held` compares the process id) and never releases it for its parent. The file holds who has it,
for the error message only; its content decides nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Sized
from pathlib import Path
from typing import Any

from streamlab.errors import StreamLocked
from streamlab.log import disk

__all__ = ["FileLock"]

_PAUSE = 0.005
WRITER_HINT = "one process writes a stream at a time; close the other writer, or wait with timeout="


class FileLock:
    """An exclusive lock on a file, for one process at a time."""

    def __init__(self, path: Path, what: str, *, hint: str = WRITER_HINT) -> None:
        self.path = path
        self.what = what
        self.hint = hint
        self._fd: int | None = None
        self._pid = os.getpid()
        self._turn = threading.Lock()  # between the threads of this process
        _LOCKS.add(self)

    @property
    def held(self) -> bool:
        """Whether this very process holds the lock."""
        return self._fd is not None and self._pid == os.getpid()

    @property
    def in_place(self) -> bool:
        """Whether this process holds the lock, and the file is the one that others find there."""
        if not self.held or self._fd is None:
            return False
        with contextlib.suppress(OSError):  # removed, or a descriptor that is not ours any more
            there, ours = os.stat(self.path), os.fstat(self._fd)  # noqa: PTH116
            return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)
        return False

    def acquire(self, timeout: float | None = 0.0, give_up: Sized = ()) -> None:
        """Take the lock, waiting up to ``timeout`` seconds (None: for ever), or until ``give_up``.

        Raises:
            StreamLocked: another process has it still.
        """
        if not self._turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise self._refusal({"pid": os.getpid(), "host": socket.gethostname()}, timeout)
        try:
            self._fd = self._lock_file(timeout, give_up)
        except BaseException:
            self._turn.release()
            raise

    def _lock_file(self, timeout: float | None, give_up: Sized) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = self.path.parent
        if not folder.exists() and folder.parent.exists():  # a copy that left out empty folders
            with contextlib.suppress(FileExistsError):
                disk.make_dir(folder)
        fd = os.open(self.path, flags, 0o644)
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            while not _taken_now(fd):
                if len(give_up) or (deadline is not None and time.monotonic() >= deadline):
                    raise self._refusal(_read_holder(fd), timeout)  # noqa: TRY301
                time.sleep(_PAUSE)
        except BaseException:
            os.close(fd)
            raise
        _write_holder(fd, {})
        return fd

    def note(self, **content: Any) -> None:
        """Say something to who looks at the lock; only its holder does."""
        if self.held and self._fd is not None:
            _write_holder(self._fd, content)

    def holder(self) -> dict[str, Any]:
        """Return what the holder says, or said before it died."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return {}
        try:
            return _read_holder(fd)
        finally:
            os.close(fd)

    def taken(self) -> bool:
        """Whether any process, this one included, holds the lock now."""
        if self.held:
            return True
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False

    def release(self) -> None:
        """Give the lock back."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)
            self._turn.release()

    def forget(self) -> None:
        """In a forked child: let go of the parent's lock without releasing it."""
        fd, self._fd = self._fd, None
        self._pid, self._turn = os.getpid(), threading.Lock()
        if fd is not None:
            os.close(fd)

    @contextlib.contextmanager
    def __call__(self, timeout: float | None = 0.0) -> Iterator[None]:
        """Hold the lock for a block."""
        self.acquire(timeout)
        try:
            yield
        finally:
            self.release()

    def _refusal(self, holder: dict[str, Any], timeout: float | None) -> StreamLocked:
        who = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        waited = f" (waited {timeout:g} s)" if timeout else ""
        return StreamLocked(
            f"{self.what} is held by {who}{waited}",
            hint=self.hint,
            holder=holder,
        )


def _taken_now(fd: int) -> bool:
    """Take the lock if nobody has it; whether that went well."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(fd: int, content: dict[str, Any]) -> None:
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time(), **content}
    with contextlib.suppress(OSError):  # a full disk must not keep a writer from trimming
        os.pwrite(fd, json.dumps(who).ljust(300).encode(), 0)


def _read_holder(fd: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


_LOCKS: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _after_fork() -> None:
    for lock in list(_LOCKS):
        lock.forget()


os.register_at_fork(after_in_child=_after_fork)
