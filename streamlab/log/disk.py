"""Every change that the log makes to a disk, as one small set of functions.

This is the seam at which tests kill, cut the power and fail calls: nothing else in the package
writes, syncs, renames or unlinks a file of a lab. Reading goes through `read` and `map_file`.

Invariants: a file is created exclusively and never through a symbolic link; `replace_file` leaves
the old content or the new one, whatever happens.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

__all__ = [
    "create",
    "link",
    "make_dir",
    "map_file",
    "open_append",
    "read",
    "rename",
    "replace_file",
    "sync",
    "sync_dir",
    "sync_file",
    "truncate",
    "unlink",
    "write",
]

Buffers = Sequence[bytes | bytearray | memoryview]


def create(path: Path) -> int:
    """Create a file that must not exist and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


def open_append(path: Path) -> int:
    """Open a file that exists for writing and return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)


def write(fd: int, buffers: Buffers, position: int) -> int:
    """Write all buffers at ``position``, in one system call where the kernel takes them whole."""
    views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
    total = sum(len(view) for view in views)
    done = os.pwritev(fd, views, position)
    while done < total:  # a disk that is nearly full, or more than 2 GiB at once
        rest, skipped = [], done
        for view in views:
            if skipped < len(view):
                rest.append(view[skipped:])
            skipped = max(0, skipped - len(view))
        done += os.pwritev(fd, rest, position + done)
    return total


def sync(fd: int) -> None:
    """Make the content of a file durable."""
    if sys.platform == "darwin":
        import fcntl

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)  # fsync leaves it in the drive's cache there
    else:
        os.fdatasync(fd)


def sync_file(path: Path) -> None:
    """Make the content of a file durable, whichever process wrote it."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        sync(fd)
    finally:
        os.close(fd)


def sync_dir(path: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Replace a small file as a whole: temporary file, sync, rename, sync of the folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(FileNotFoundError):
        unlink(temporary)
    fd = create(temporary)
    try:
        try:
            write(fd, [content], 0)
            if durable:
                sync(fd)
        finally:
            os.close(fd)
        rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            unlink(temporary)
        raise
    if durable:
        sync_dir(path.parent)


def rename(source: Path, target: Path) -> None:
    """Rename, replacing the target in one step."""
    os.rename(source, target)  # noqa: PTH104


def link(source: Path, target: Path) -> None:
    """Give a file a second name."""
    os.link(source, target, follow_symlinks=False)


def unlink(path: Path) -> None:
    """Remove a name; readers that have the file open or mapped keep it."""
    os.unlink(path)  # noqa: PTH108


def truncate(fd: int, size: int) -> None:
    """Cut an unpublished tail."""
    os.ftruncate(fd, size)


def make_dir(path: Path) -> None:
    """Make a folder that must not exist."""
    os.mkdir(path, 0o755)  # noqa: PTH102


def read(path: Path) -> bytes:
    """Return the content of a small file, refusing a symbolic link."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        return file.read()


def map_file(path: Path) -> memoryview:
    """Map a file for reading and return its bytes, refusing a symbolic link.

    The mapping lives as long as anything that was sliced from it, survives an unlink, and holds no
    descriptor: a table may rest on more files than a process may have open.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size
        if not size:
            return memoryview(b"")
        if sys.version_info >= (3, 13):
            return memoryview(mmap.mmap(fd, size, access=mmap.ACCESS_READ, trackfd=False))
        with pa.memory_map(f"/dev/fd/{fd}") as file:
            return memoryview(file.read_buffer()).cast("B")
    finally:
        os.close(fd)
