"""Archives: streams, or slices of them, as one file to give away.

An archive is a zip file without compression: every tool lists it and takes it apart, a member can be
read without the others, and the segments in it are plain Arrow IPC files. `archive.json`, the last
member, says what the streams are and has the SHA-256 of every file.

Invariants: an archive appears whole or not at all, and so does what is unpacked of it; nothing of an
archive is believed before it was checked: names, sizes, digests, frames, rows, times.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamlab import views
from streamlab.catalog import LEFTOVER_SECONDS, Catalog, StreamInfo, check_name, remove_folder
from streamlab.catalog import _content as info_content
from streamlab.errors import CorruptSegment, StreamExists, StreamlabError
from streamlab.forking import cut_of
from streamlab.log import Log, disk
from streamlab.log.fork import Cut
from streamlab.log.manifest import Segment, dump_segment
from streamlab.log.segment import SegmentFile
from streamlab.progress import progress_bar
from streamlab.unpacking import CONTENTS, FORMAT, Packed, Source, member_name, unfolded
from streamlab.verify import ERRORS, verify_stream

if TYPE_CHECKING:
    from streamlab.lab import Lab
    from streamlab.progress import Bar
    from streamlab.scan import Scan, Snapshot

__all__ = ["pack", "unpack"]

PIECE = 1 << 20
FIRST_DAY = (1980, 1, 1, 0, 0, 0)
"""The time of every member, so that equal content gives equal bytes."""

MOST_UNFOLDED = 4 << 30
"""No batch of an archive may claim to be larger than this, compressed."""


# -- packing -----------------------------------------------------------------------------------


def pack(
    scans: Mapping[str, Scan],
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    progress: bool | None = None,
) -> Path:
    """Write streams into an archive and return its path; see `Lab.pack`."""
    target = Path(path).expanduser().absolute()
    if os.path.lexists(target):
        if target.is_dir():
            raise StreamlabError(f"{target} is a folder, and a file does not replace it")
        if not overwrite:
            raise StreamlabError(f"{target} is there already", hint="overwrite=True replaces it")
    for scan in scans.values():
        if target.is_relative_to(scan.log.folder.parent.parent):
            raise StreamlabError(f"{target} lies in a lab", hint="give a file outside of it")
    snapshots = {name: views.unbroken(scan, "an archive").fix() for name, scan in scans.items()}
    with _beside(target) as folder:
        disk.make_dir(folder)
        archive = folder / "archive.zip"
        total = sum(_size(cut_of(snapshot)) for snapshot in snapshots.values())
        with (
            progress_bar(total, target.name, "B", progress) as bar,
            _Packer(archive, bar) as packer,
        ):
            streams = {name: packer.add_stream(snapshot) for name, snapshot in snapshots.items()}
            packer.add_contents(streams)
        _appear(archive, target, overwrite=overwrite)
    return target


@contextlib.contextmanager
def _beside(target: Path) -> Iterator[Path]:
    """Give a name beside the target for what is not whole yet, and remove it in the end."""
    ours = re.compile(rf"\.{re.escape(target.name)}\.\d+-[0-9a-f]{{8}}\.tmp")
    for path in target.parent.iterdir():  # left by a crash
        if ours.fullmatch(path.name) and time.time() - path.stat().st_mtime > LEFTOVER_SECONDS:
            remove_folder(path)
    folder = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield folder
    finally:
        remove_folder(folder)


def _appear(archive: Path, target: Path, *, overwrite: bool) -> None:
    if overwrite:
        disk.rename(archive, target)
    else:
        try:
            disk.link(archive, target)  # unlike a rename it never replaces
        except FileExistsError:
            raise StreamlabError(f"{target} appeared while it was written") from None
        except OSError:  # a file system without links
            disk.rename(archive, target)
    disk.sync_dir(target.parent)


def _size(cut: Cut) -> int:
    return sum(segment.bytes for segment in cut.segments())


class _File(io.RawIOBase):
    """A new file as zipfile writes it, through the one door to the disk."""

    def __init__(self, path: Path) -> None:
        self.fd = disk.create(path)
        self.at = self.size = 0

    def seekable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.size}[whence]
        return self.at

    def write(self, data: Any) -> int:
        self.at += disk.write(self.fd, [data], self.at)
        self.size = max(self.size, self.at)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self.fd)
        super().close()


class _Packer:
    """Writes an archive, member by member."""

    def __init__(self, path: Path, bar: Bar) -> None:
        self.folder = path.parent
        self.bar = bar
        self.file = _File(path)
        self.zip = zipfile.ZipFile(self.file, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> _Packer:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.zip.close()
                disk.sync(self.file.fd)
            else:
                self.zip.fp = None  # it would write to the end of what is thrown away
        finally:
            self.file.close()

    def add_stream(self, snapshot: Snapshot) -> dict[str, Any]:
        """Add the files of a stream's rows; return what is to be known of it."""
        cut, info = cut_of(snapshot), replace(snapshot.info, job=None)
        number, segments, files = cut.moment.manifest.next_file, list[Segment](), []
        for segment in cut.segments():
            if cut.takes_whole(segment, exact=True):
                entry, data = cut.whole(segment)
            else:
                copied = cut.copy(segment, self.folder, number)
                if copied is None:
                    continue
                entry, number = copied, number + 1
                data = disk.map_file(self.folder / entry.file)
                disk.unlink(self.folder / entry.file)
            segments.append(entry)
            digest = self._add(member_name(info.name, entry.file), data)
            files.append({**dump_segment(entry), "sha256": digest})
        _, start, (_, end, stream_time, append_time), compacted = cut.history(segments)
        return {
            "stream": info_content(info), "start": start, "end": end, "stream_time": stream_time,
            "append_time": append_time, "compacted": compacted, "files": files,
        }  # fmt: skip

    def add_contents(self, streams: dict[str, Any]) -> None:
        """Add the member that says what the others are."""
        from streamlab import __version__

        contents = {"format": FORMAT, "streamlab": __version__, "streams": streams}
        self._add(CONTENTS, memoryview(json.dumps(contents, indent=1).encode()))

    def _add(self, name: str, data: memoryview) -> str:
        """Add a member; return its SHA-256."""
        member = zipfile.ZipInfo(name, FIRST_DAY)
        member.create_system, member.external_attr = 3, 0o644 << 16
        member.file_size = len(data)
        digest = hashlib.sha256()
        with self.zip.open(member, "w", force_zip64=len(data) >= 1 << 31) as out:
            for at in range(0, len(data), PIECE):
                piece = data[at : at + PIECE]
                digest.update(piece)
                out.write(piece)
                self.bar.update(len(piece))
        return digest.hexdigest()


# -- unpacking ---------------------------------------------------------------------------------


def unpack(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str] | Lab | None = None,
    *,
    progress: bool | None = None,
) -> Lab:
    """Unpack an archive that `Lab.pack` made, and return the lab that its streams are in now.

    ``target`` is a folder that does not exist or is empty, for a new lab; or a lab, which is given
    the streams besides its own; None makes a new lab beside the archive, named like it without the
    ending. Rows have the offsets, append times, stream times and deletions that they had. A new lab
    opens the values that `Lab.freeze` gave of the old one. Every byte is checked; what fails leaves
    nothing behind. Jobs and positions are not in an archive.

    Raises:
        FileNotFoundError: there is no archive.
        CorruptSegment: the archive is damaged, or not one of ours; names the member.
        NewerFormat: a newer streamlab made it.
        StreamExists: the lab has a stream of that name; nothing is unpacked then.
        StreamlabError: the folder holds something else.
    """
    from streamlab.lab import Lab, open_lab

    with Source(Path(path).expanduser().absolute()) as source:
        packed = source.contents()
        if isinstance(target, Lab):
            target._writable()  # noqa: SLF001
            _add_to(target, source, packed, progress)
            return target
        folder = source.path.with_suffix("") if target is None else Path(target)
        folder = folder.expanduser().absolute()
        if (folder / "lab.json").exists():
            with open_lab(folder) as lab:
                _add_to(lab, source, packed, progress)
        else:
            _make(folder, source, packed, progress)
    return open_lab(folder)


def _make(folder: Path, source: Source, packed: list[Packed], progress: bool | None) -> None:
    """Make a new lab of an archive."""
    if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
        raise StreamlabError(
            f"{folder} is there already, and no lab", hint="give a lab, or a folder that is new"
        )
    Catalog(folder)._make_folder(folder.parent)  # noqa: SLF001
    with _beside(folder) as beside:
        _fill(beside, source, packed, progress)
        disk.rename(beside, folder)
    disk.sync_dir(folder.parent)


def _add_to(lab: Lab, source: Source, packed: list[Packed], progress: bool | None) -> None:
    """Add the streams of an archive to a lab, as streams of their own; all or none."""
    catalog, names = lab._catalog, list(lab)  # noqa: SLF001
    for info, *_ in packed:
        check_name(info.name, names)
        if info.name in names:
            raise StreamExists(
                f'there is a stream "{info.name}" in {lab.path} already; nothing was unpacked',
                hint="unpack into another folder",
            )
    anew = [p._replace(info=replace(p.info, id=uuid.uuid4().hex)) for p in packed]
    beside = catalog.folder / f".new-{uuid.uuid4().hex}"
    moved: list[tuple[Path, Path]] = []
    try:
        stage = _fill(beside, source, anew, progress)
        for name in stage.names():
            here, there = stage.folder / name, catalog.folder / name
            disk.rename(here, there)
            moved.append((here, there))
    except BaseException:
        for here, there in moved:
            disk.rename(there, here)
        raise
    finally:
        remove_folder(beside)
    disk.sync_dir(catalog.folder)


def _fill(folder: Path, source: Source, packed: list[Packed], progress: bool | None) -> Catalog:
    """Make a lab of an archive in a folder of its own, and check every byte of it."""
    catalog = Catalog(folder)
    catalog.create()
    total = sum(segment.bytes for p in packed for segment in p.history.segments)
    with progress_bar(total, source.path.name, "B", progress) as bar:
        for one in packed:
            catalog.add(one.info, _filler(one, source, bar, folder))
            _check(catalog, one.info, source)
            os.utime(folder)  # it is not a leftover
    return catalog


def _filler(packed: Packed, source: Source, bar: Bar, stage: Path) -> Callable[[Path], None]:
    info, history, digests = packed

    def fill(folder: Path) -> None:
        for segment in history.segments:
            source.extract(member_name(info.name, segment.file), folder / segment.file,
                           digests[segment.file], bar)  # fmt: skip
            _check_unfolding(source, info, folder / segment.file, segment)
            os.utime(stage)
        Log.create(folder, info.id, info.schemas[-1], info.schema_id, history)

    return fill


def _check_unfolding(source: Source, info: StreamInfo, path: Path, segment: Segment) -> None:
    """Refuse batches that would become absurdly large, before Arrow sees them."""
    name = member_name(info.name, segment.file)
    try:
        file = SegmentFile(path, segment.id)
        for _ in file.walk():
            pass
        for at, prefix, body in file.blocks():
            size = unfolded(file.data[at : at + prefix + body])
            if size > MOST_UNFOLDED:
                raise source.corrupt(name, at, f"a batch claims to unfold to {size:,} bytes")
    except ERRORS as error:
        if isinstance(error, CorruptSegment):
            raise source.corrupt(name, error.byte, error.reason) from None
        raise source.corrupt(name, 0, f"{type(error).__name__}: {error}") from error


def _check(catalog: Catalog, info: StreamInfo, source: Source) -> None:
    """Read every byte of what was unpacked, as `Lab.verify` does."""
    report = verify_stream(catalog, info.name)
    for problem in report.problems:
        member = problem.file if problem.file.endswith(".arrow") else CONTENTS
        raise source.corrupt(member, problem.byte, problem.reason)
