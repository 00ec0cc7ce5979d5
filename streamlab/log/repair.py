"""What a writer does to the files before it goes on where recovery says: mend, cut, clear away.

Recovery looks (`survey`), this acts, under the writer's lock. Nothing that may hold rows is thrown
away: what lies beyond a hole that a power cut left is renamed ``*.lost``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from streamlab.errors import CorruptSegment
from streamlab.log import disk
from streamlab.log.lock import FileLock
from streamlab.log.manifest import (
    ACTIVE,
    CLOSED,
    FILE_NAME,
    SEALED,
    Manifest,
    file_name,
    read_manifest,
    update_manifest,
    write_manifest,
)
from streamlab.log.recovery import Survey

__all__ = ["Repair"]

logger = logging.getLogger("streamlab")


class Repair:
    """Mends the files of one stream; its writer's lock is held."""

    def __init__(self, folder: Path, manifest_lock: FileLock) -> None:
        self.folder = folder
        self.manifest_lock = manifest_lock

    def _manifest(self) -> Manifest:
        return read_manifest(self.folder / "manifest")

    def _update(self, change: Callable[[Manifest], Manifest]) -> None:
        update_manifest(self.folder, self.manifest_lock, change)

    def mend(self, found: Survey) -> Path:
        """Make the files what recovery found them to be; return the one in which the rows end."""
        self._keep_rebuilt(found.manifest)
        self._reopen(found.manifest)
        path = self.folder / found.manifest.active.file
        if found.lost:
            return self._cut_copy(found)
        if found.torn:
            self._cut_tail(path, found)
        return path

    def _reopen(self, manifest: Manifest) -> None:
        """List as closed what was sealed and lost its footer in a power cut; it is sealed again."""
        closed = {
            segment.id: segment for segment in manifest.segments[:-1] if segment.state == CLOSED
        }
        known = self._manifest().segments
        if any(s.state == SEALED and s.id in closed for s in known):
            self._update(
                lambda m: m._replace(segments=tuple(closed.get(s.id, s) for s in m.segments))
            )

    def _keep_rebuilt(self, manifest: Manifest) -> None:
        """Write a manifest that had to be put together again."""
        try:
            self._manifest()
        except (FileNotFoundError, CorruptSegment):
            with self.manifest_lock(30.0):
                write_manifest(self.folder / "manifest", manifest)

    def _cut_tail(self, path: Path, found: Survey) -> None:
        fd = disk.open_append(path)
        try:
            disk.truncate(fd, found.mark.position)
        finally:
            os.close(fd)
        logger.warning(
            "%s: an unfinished write of %d bytes was cut off; the stream ends at offset %d",
            path, found.torn, found.mark.end,
        )  # fmt: skip

    def _cut_copy(self, found: Survey) -> Path:
        """Go on in a copy of the sound frames; what a power cut left beyond is set aside."""
        last = found.manifest.active
        data = disk.map_file(self.folder / last.file)[: found.mark.position]
        number = found.manifest.next_file
        while True:
            path = self.folder / file_name(last.base, number, sealed=False)
            try:
                fd = disk.create(path)
                break
            except FileExistsError:  # left by a crash: names are never used twice
                number += 1
        try:
            disk.write(fd, [data], 0)
            disk.sync(fd)
        finally:
            os.close(fd)
        disk.sync_dir(self.folder)
        kept = last._replace(file=path.name, state=ACTIVE, stop=last.base, synced=False)
        before = len(found.manifest.segments) - 1
        self._update(lambda m: m.numbered(number, (*m.segments[:before], kept)))
        for segment in (last, *found.lost):
            with contextlib.suppress(FileNotFoundError):
                disk.rename(self.folder / segment.file, self.folder / f"{segment.file}.lost")
        logger.warning(
            "%s: a power cut lost rows that were never synced; the stream ends at offset %d, and "
            "%d files with what remains are kept as *.lost",
            self.folder, found.mark.end, 1 + len(found.lost),
        )  # fmt: skip
        return path

    def remove_leftovers(self) -> None:
        """Remove what a crash cut short: files of a roll or a big append, and half-written ones.

        They were never listed nor published: recovery has just found all that was. A file that was
        sealed may have its growing form left beside it.
        """
        with self.manifest_lock(30.0):
            known = self._manifest()
            listed = {segment.file for segment in known.segments + known.retired}
            for path in self.folder.iterdir():
                name = FILE_NAME.fullmatch(path.name)
                new = name is not None and int(name[2]) >= known.next_file
                twin = path.suffix == ".log" and path.with_suffix(".arrow").name in listed
                half = re.fullmatch(r"\.(manifest|head)\.\d+\.tmp", path.name) is not None
                if path.name not in listed and (new or twin or half):
                    with contextlib.suppress(OSError):
                        disk.unlink(path)
