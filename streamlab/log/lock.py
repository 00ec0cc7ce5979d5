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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from streamlab.errors import StreamLocked

__all__ = ["FileLock"]

_PAUSE = 0.005


class FileLock:
    """An exclusive lock on a file, for one process at a time."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self._fd: int | None = None
        self._pid = os.getpid()
        self._turn = threading.Lock()  # between the threads of this process

    @property
    def held(self) -> bool:
        """Whether this very process holds the lock."""
        return self._fd is not None and self._pid == os.getpid()

    def acquire(self, timeout: float | None = 0.0) -> None:
        """Take the lock, waiting up to ``timeout`` seconds (None: for ever).

        Raises:
            StreamLocked: another process has it still.
        """
        if self._pid != os.getpid():  # a forked child starts afresh
            self._fd, self._pid, self._turn = None, os.getpid(), threading.Lock()
        if not self._turn.acquire(timeout=-1 if timeout is None else max(0.0, timeout)):
            raise self._refusal({"pid": os.getpid(), "host": socket.gethostname()}, timeout)
        try:
            self._fd = self._lock_file(timeout)
        except BaseException:
            self._turn.release()
            raise

    def _lock_file(self, timeout: float | None) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(self.path, flags, 0o644)
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline is not None and time.monotonic() >= deadline:
                    holder = _read_holder(fd)
                    os.close(fd)
                    raise self._refusal(holder, timeout) from None
                time.sleep(_PAUSE)
            except BaseException:
                os.close(fd)
                raise
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}
        with contextlib.suppress(OSError):  # a full disk must not keep a writer from trimming
            os.pwrite(fd, json.dumps(who).ljust(200).encode(), 0)
        return fd

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
        """Give the lock back; in a forked child, only forget it."""
        if self._fd is not None:
            fd, self._fd = self._fd, None
            if self._pid == os.getpid():
                fcntl.flock(fd, fcntl.LOCK_UN)
                self._turn.release()
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
            hint="one process writes a stream at a time; close the other writer, or wait with timeout=",
            holder=holder,
        )


def _read_holder(fd: int) -> dict[str, Any]:
    try:
        holder = json.loads(os.pread(fd, 4096, 0))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}
