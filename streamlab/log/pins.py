"""Pins and holds: what keeps rows from being removed.

A view writes a small file that says which offsets it looks at, and holds a shared `flock` on it.
Who removes segments publishes the manifest first and looks at the pins then; a pin whose lock can be
had belongs to a process that is gone. So nothing is pulled away from under a reader, and nothing
stays pinned after a crash.

Where nothing can be written (a read-only file system) there is no pin, and no writer either.

A hold is for one who comes back after the process is gone: a small file with a name and an offset,
which stays until it is released. It keeps age retention from rows at or beyond the offset.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path

from streamlab.errors import InvalidName, StreamlabError
from streamlab.log import disk
from streamlab.log.format import dump_json, load_json

__all__ = ["Pin", "held_back", "hold", "pinned", "release"]

HOLD_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")


class Pin:
    """Keeps the rows in [start, stop) readable until `release`, or until it is collected.

    One that is ``passable`` keeps the files, and lets compaction go on beyond it: what it is for is
    the latest rows, not the history.
    """

    def __init__(self, folder: Path, start: int, stop: int, *, passable: bool = False) -> None:
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
            content = {"start": start, "stop": stop, "pid": os.getpid()}
            if passable:
                content["passable"] = True
            disk.write(fd, [json.dumps(content).encode()], 0)
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


def pinned(
    folder: Path, *, within: float | None = None, history: bool = False
) -> list[tuple[int, int]]:
    """Return the ranges that live pins hold, and remove the pins of the dead.

    ``within`` counts only the pins of so many seconds: those of reads that are under way;
    ``history`` leaves out those that compaction may pass.
    """
    ranges = []
    for path in folder.glob("[0-9a-f]*.pin"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if within is None or time.time() - os.fstat(fd).st_mtime < within:
                    start, stop, passable = _range(os.pread(fd, 4096, 0))
                    if not (history and passable):
                        ranges.append((start, stop))
                continue
            with contextlib.suppress(OSError):
                disk.unlink(path)
        finally:
            os.close(fd)
    return ranges


def _range(content: bytes) -> tuple[int, int, bool]:
    """Return what a live pin holds; one that cannot be read holds everything."""
    try:
        held = json.loads(content)
        return int(held["start"]), int(held["stop"]), bool(held.get("passable"))
    except (ValueError, LookupError, TypeError):
        return 0, 2**63 - 1, False


def hold(folder: Path, name: str, offset: int) -> None:
    """Keep the rows from an offset on, durably; a hold of that name is replaced.

    Raises:
        InvalidName: the name could not be that of a file.
    """
    path = _hold_path(folder, name)
    if not folder.exists():  # a copy that left out empty folders
        with contextlib.suppress(FileExistsError):
            disk.make_dir(folder)
    disk.replace_file(path, dump_json({"format": 1, "name": name, "offset": offset}))


def release(folder: Path, name: str) -> None:
    """Remove a hold; doing so twice is harmless.

    Raises:
        InvalidName: no hold can have that name.
    """
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(_hold_path(folder, name))


def held_back(folder: Path) -> dict[str, int]:
    """Return the holds by name; one that cannot be read holds everything."""
    found = {}
    for path in sorted(folder.glob("hold-*")):
        with contextlib.suppress(FileNotFoundError):
            try:
                offset = int(load_json(disk.read(path), path)["offset"])
            except (StreamlabError, ValueError, LookupError, TypeError):
                offset = 0
            found[path.name.removeprefix("hold-")] = offset
    return found


def _hold_path(folder: Path, name: str) -> Path:
    if not HOLD_NAME.fullmatch(name):
        raise InvalidName(
            f"{name!r} cannot be the name of a hold",
            hint="a name has letters, digits, '.', '_' and '-', and is at most 200 long",
        )
    return folder / f"hold-{name}"
