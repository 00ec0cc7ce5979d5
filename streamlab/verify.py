"""Reading every byte of a lab: what is damaged, and what can be saved of it.

`verify_lab` reads and reports, and changes nothing. It trusts no file's word for another: frames
are checked one by one, and the manifest, the head and the footer are held against them. One damaged
file does not stop the rest. `salvage` copies what is sound into a new lab.

What a kill or a power cut may leave (an unfinished write at the end, files that nothing lists) is no
damage: it is noted. A lab may be verified while it is written.
"""

from __future__ import annotations

import contextlib
import struct
from array import array
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import ipc

from streamlab.catalog import NAME, Catalog, StreamInfo
from streamlab.clock import FOREVER, NEVER
from streamlab.errors import CorruptSegment, StreamlabError
from streamlab.log import disk, snapshots
from streamlab.log.format import (
    ALIGNMENT,
    COMPACTED,
    FRAMES_AT,
    HEADER_SIZE,
    PREAMBLE,
    RUN,
    Frame,
    Kind,
    add_runs,
    checksum,
    decode,
    decode_header,
)
from streamlab.log.groups import GroupFiles
from streamlab.log.head import HEAD_SIZE, HeadFile, boot_id
from streamlab.log.manifest import ACTIVE, FILE_NAME, SEALED, Manifest, Segment, read_manifest
from streamlab.log.recovery import Survey, _footer_fits, survey
from streamlab.log.segment import SegmentFile, offsets_of
from streamlab.schema import SYSTEM_FIELDS, event_times
from streamlab.settings import format_size

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

__all__ = ["FrameFile", "Gap", "Move", "Problem", "Report", "verify_lab", "verify_stream"]

T = TypeVar("T")

OWN_FILES = {"stream.json", "manifest", "head", "locks", "pins", "groups", "snapshots"}
MISSING, OLDER = "the file is missing", "it is an older one"
ATTEMPTS = 5
"""A stream that is written meanwhile is looked at again, so many times at most."""

ERRORS = (
    StreamlabError, pa.ArrowException, OSError, ValueError, KeyError, TypeError, IndexError,
    OverflowError, AssertionError, struct.error,
)  # fmt: skip
"""What damaged bytes make of code that reads them."""


class Problem(NamedTuple):
    """Damage: in which stream ("" is the lab itself), file and byte, and what is wrong there."""

    stream: str
    file: str
    byte: int
    reason: str


class Gap(NamedTuple):
    """Rows that could not be saved: offsets [start, stop) of the damaged stream."""

    stream: str
    start: int
    stop: int


class Move(NamedTuple):
    """Rows that were saved: offsets [start, stop) of the damaged stream begin at ``to`` now."""

    stream: str
    start: int
    stop: int
    to: int


@dataclass(frozen=True)
class Report:
    """What a verification found; true if all is sound.

    ``streams``, ``segments``, ``rows`` and ``bytes`` count what was read and is sound. ``notes`` say
    what is unusual and no damage. ``gaps`` and ``moves`` are of a salvage.
    """

    streams: int = 0
    segments: int = 0
    rows: int = 0
    bytes: int = 0
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()
    gaps: tuple[Gap, ...] = ()
    moves: tuple[Move, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems

    def __bool__(self) -> bool:
        return self.ok

    def __add__(self, other: Report) -> Report:
        return Report(
            self.streams + other.streams, self.segments + other.segments, self.rows + other.rows,
            self.bytes + other.bytes, self.problems + other.problems, self.notes + other.notes,
            self.gaps + other.gaps, self.moves + other.moves,
        )  # fmt: skip

    def __repr__(self) -> str:
        state = "sound" if self.ok else _count(len(self.problems), "problem")
        parts = [
            _count(self.streams, "stream"),
            _count(self.segments, "segment"),
            _count(self.rows, "row"),
        ]
        lines = [f"{state}: {', '.join(parts)}, {format_size(self.bytes)}"]
        rows = [(p.stream, p.file, f"byte {p.byte:,}", p.reason) for p in self.problems]
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
        for stream, file, byte, reason in rows:
            lines.append(
                f"  {stream:<{widths[0]}}  {file:<{widths[1]}}  {byte:>{widths[2]}}  {reason}"
            )
        lines += [f"  {g.stream}: offsets [{g.start:,}, {g.stop:,}) are lost" for g in self.gaps]
        for move in self.moves:
            was = f"  {move.stream}: offsets [{move.start:,}, {move.stop:,}) are "
            stop = move.to + move.stop - move.start
            same = move.to == move.start
            lines.append(was + ("saved" if same else f"saved, as [{move.to:,}, {stop:,})"))
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def verify_lab(lab: Catalog | str | os.PathLike[str]) -> Report:
    """Read every byte of a lab and report what is damaged.

    Raises:
        StreamlabError: there is no lab.
    """
    catalog = lab if isinstance(lab, Catalog) else Catalog(Path(lab).expanduser().absolute())
    if not catalog.folder.is_dir():
        catalog.check()
    checks = Checks(catalog.path, "")
    with checks.noting(catalog.path / "lab.json"):
        catalog.check()
    _note_strays(checks, catalog.path, {"lab.json", "streams", "jobs"})
    total = checks.report(streams=0)
    for folder in stream_folders(catalog, checks):
        total += verify_stream(catalog, folder.name)
    return total + Report(notes=tuple(checks.notes))


def stream_folders(catalog: Catalog, checks: Checks) -> Iterator[Path]:
    """Yield the folders that hold streams, also those that are too damaged to be listed."""
    for folder in sorted(catalog.folder.iterdir()) if catalog.folder.is_dir() else []:
        if folder.is_symlink() or not folder.is_dir() or not NAME.fullmatch(folder.name):
            checks.notes.append(f"streams/{folder.name} is no stream")
        elif not any(folder.iterdir()):
            checks.notes.append(f"streams/{folder.name} is an empty folder")
        else:
            yield folder


def verify_stream(catalog: Catalog, name: str) -> Report:
    """Read every byte of a stream and report what is damaged.

    Raises:
        StreamNotFound: there is none of that name.
    """
    folder = catalog.folder / name
    if not NAME.fullmatch(name) or not folder.is_dir():
        catalog.info(name)
    seen: set[Problem] = set()
    for _ in range(ATTEMPTS):
        before = _versions(folder)
        report = _verified(catalog, folder)
        found = set(report.problems)
        if found & seen or not found or before == _versions(folder):
            break  # what is found twice is there, whoever writes meanwhile
        seen = found
    return report if before == _versions(folder) else _without_moved(folder, report)


def _without_moved(folder: Path, report: Report) -> Report:
    """Leave out what is so because somebody writes.

    That is a manifest that was replaced during the look, and segments that have been sealed or
    removed by now.
    """
    try:
        manifest = read_manifest(folder / "manifest")
    except (OSError, StreamlabError):
        return report
    listed = {segment.file for segment in manifest.segments + manifest.retired}
    missing = {p: Path(p.file).name for p in report.problems if p.reason == MISSING}
    moved = {p for p, name in missing.items() if FILE_NAME.fullmatch(name) and name not in listed}
    moved |= {p for p in report.problems if p.reason.startswith(OLDER)}
    kept = tuple(p for p in report.problems if p not in moved)
    told = [f"{p.file} was replaced or removed while it was to be read" for p in moved]
    return replace(report, problems=kept, notes=(*report.notes, *sorted(told)))


def _versions(folder: Path) -> list[tuple[int, int]]:
    """Return what tells whether somebody changed the stream while it was read."""
    found = []
    for name in ("stream.json", "manifest"):
        with contextlib.suppress(OSError):
            stat = (folder / name).stat()
            found.append((stat.st_ino, stat.st_mtime_ns))
    return found


class Checks:
    """Collects what is found in one stream, whatever it raises."""

    def __init__(self, lab: Path, stream: str) -> None:
        self.lab = lab
        self.stream = stream
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.segments = self.rows = self.bytes = 0

    def report(self, *, streams: int = 1) -> Report:
        return Report(
            streams, self.segments, self.rows, self.bytes, tuple(self.problems), tuple(self.notes)
            if streams else (),
        )  # fmt: skip

    def name(self, path: Path | str) -> str:
        path = Path(path)
        return str(path.relative_to(self.lab)) if path.is_relative_to(self.lab) else str(path)

    def problem(self, path: Path | str, byte: int, reason: str) -> None:
        found = Problem(self.stream, self.name(path), byte, reason.splitlines()[0])
        if not any(p.file == found.file and p.byte == found.byte for p in self.problems):
            self.problems.append(found)

    @contextlib.contextmanager
    def noting(self, path: Path) -> Iterator[None]:
        """Turn whatever is raised into a problem with this file."""
        try:
            yield
        except ERRORS as error:
            self.note(path, error)

    def attempt(self, path: Path, read: Callable[[], T]) -> T | None:
        """Return what reading this file gives, or note why it gives nothing."""
        try:
            return read()
        except ERRORS as error:
            self.note(path, error)
            return None

    def note(self, path: Path, error: Exception) -> None:
        """Note what was raised while this file was read."""
        if isinstance(error, CorruptSegment):
            self.problem(error.file, error.byte, error.reason)
            return
        causes = (error, error.__cause__, error.__context__)
        missing = any(isinstance(cause, FileNotFoundError) for cause in causes)
        text = getattr(error, "message", None) or str(error) or type(error).__name__
        self.problem(path, 0, MISSING if missing else text)


def _verified(catalog: Catalog, folder: Path) -> Report:
    checks = Checks(catalog.path, folder.name)
    info = checks.attempt(folder / "stream.json", lambda: Catalog(catalog.path).info(folder.name))
    if info is not None and info.name != folder.name:
        checks.problem(folder / "stream.json", 0, f'it is of a stream named "{info.name}"')
    manifest = checks.attempt(folder / "manifest", lambda: read_manifest(folder / "manifest"))
    if info is not None and manifest is not None and manifest.stream != info.id:
        checks.problem(folder / "manifest", 0, "it is of another stream")
    _check_head(checks, folder)
    _check_groups(checks, folder, info)
    listed: set[str] = set()
    if manifest is not None:
        listed = {s.file for s in manifest.segments + manifest.retired}
        _check_segments(checks, folder, manifest, info)
        with checks.noting(folder / manifest.active.file):
            _check_tail(checks, folder, survey(folder, manifest.stream))
    else:
        for path in sorted(p for p in folder.iterdir() if FILE_NAME.fullmatch(p.name)):
            listed.add(path.name)
            _check_unlisted(checks, path, info)
    for path in snapshots.damaged(folder):
        checks.notes.append(f"{folder.name}: snapshot {path.name} is damaged, and will not be used")
    _note_strays(checks, folder, OWN_FILES | listed)
    return checks.report()


def _check_tail(checks: Checks, folder: Path, found: Survey) -> None:
    """Tell an unfinished write from damage where recovery need not: it would cut off both.

    A process that was killed leaves the beginning of a frame. While this boot lasts, whole frames
    and what is no beginning are something else.
    """
    active, at = found.manifest.active, found.mark.position
    if not found.torn or active.state == SEALED:
        return
    path = folder / active.file
    tail = disk.map_file(path)[at:]
    if not any(tail):
        return
    head = HeadFile(folder / "head").read()
    frame = decode_header(disk.map_file(path), at, active.id)
    begun = frame is not None and frame.stop > at + len(tail)
    if head is not None and head.boot == boot_id() and len(tail) >= HEADER_SIZE and not begun:
        checks.problem(path, at, f"{len(tail):,} bytes at the end are not what was written")
    else:
        checks.notes.append(f"{folder.name}: {len(tail):,} bytes of an unfinished write at the end")


def _note_strays(checks: Checks, folder: Path, known: set[str]) -> None:
    for path in sorted(folder.iterdir()):
        if path.name not in known:
            checks.notes.append(f"{checks.name(path)} is listed nowhere; it was not read")


def _check_groups(checks: Checks, folder: Path, info: StreamInfo | None) -> None:
    if info is None:
        return
    for path in sorted((folder / "groups").glob("[!.]*/positions")):
        with checks.noting(path):
            checks.bytes += path.stat().st_size
            GroupFiles(folder, info.id, path.parent.name).read()


def _check_head(checks: Checks, folder: Path) -> None:
    path = folder / "head"
    with checks.noting(path):
        data = disk.read(path)
        checks.bytes += len(data)
        if len(data) != HEAD_SIZE:
            raise CorruptSegment(path, len(data), f"it has {len(data)} bytes, not {HEAD_SIZE}")
        if HeadFile(path).read() is None:
            half = HEAD_SIZE // 2
            good = [
                struct.unpack_from("<Q", data, at)[0] == checksum(data[at + 8 : at + half])
                for at in (0, half)
            ]
            byte = 0 if not good[0] else half
            raise CorruptSegment(
                path, byte, "a slot does not fit its checksum; the next writer renews it"
            )


# -- segments ----------------------------------------------------------------------------------


class FrameFile:
    """A segment file, taken apart: the sound frames, and the holes between them.

    Unlike a reader it goes on beyond a hole: at each aligned place that a sound frame of the same
    file says to be its own.
    """

    def __init__(self, path: Path, segment: int | None = None) -> None:
        self.path = path
        self.data = disk.map_file(path)
        self.frames: list[Frame] = []
        self.holes: list[tuple[int, int]] = []
        self.end = FRAMES_AT  # of the last sound frame
        self.segment = segment
        self._walk()

    def _walk(self) -> None:
        at = FRAMES_AT
        while at + HEADER_SIZE <= len(self.data):
            frame = decode(self.data, at, self.segment)
            if frame is None:
                at += ALIGNMENT
                continue
            if at > self.end:
                self.holes.append((self.end, at))
            self.segment = frame.segment
            self.frames.append(frame)
            at = self.end = frame.stop
            if frame.kind == Kind.LAST:
                break

    @property
    def closed(self) -> bool:
        return bool(self.frames) and self.frames[-1].kind == Kind.LAST

    @property
    def schema(self) -> pa.Schema | None:
        """The schema, None if its frame is damaged."""
        first = self.frames[0] if self.frames else None
        if first is None or first.kind != Kind.SCHEMA or first.position != FRAMES_AT:
            return None
        return ipc.read_schema(self.message(first))

    @property
    def stop(self) -> int:
        """The offset after the last row of the last sound frame."""
        return self.frames[-1].base + self.frames[-1].rows if self.frames else 0

    @property
    def row_frames(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.kind in (Kind.ROWS, Kind.SPARSE)]

    @property
    def compacted(self) -> int:
        """The offset below which the stream was compacted when the file was written; 0: nothing."""
        first = self.frames[0] if self.frames else None
        if first is None or first.kind != Kind.SCHEMA or not first.metadata_size:
            return 0
        return int(COMPACTED.unpack(self.metadata(first))[0])

    @property
    def kept(self) -> int | None:
        """How many rows compaction left; None: they are all there."""
        sparse = [frame for frame in self.frames if frame.kind == Kind.SPARSE]
        schema = self.schema
        if not sparse or schema is None:
            return None
        return sum(int(self.batch(frame, schema).num_rows) for frame in sparse)

    @property
    def runs(self) -> npt.NDArray[np.void]:
        """The appends and heartbeats: from the table at the end, or else from the frames."""
        if self.closed:
            return np.frombuffer(bytes(self.metadata(self.frames[-1])), dtype=RUN)
        table = array("q")
        for frame in self.frames:
            add_runs(table, frame, self.metadata(frame))
        return np.frombuffer(table.tobytes(), dtype=RUN)

    def metadata(self, frame: Frame) -> memoryview:
        return self.data[frame.metadata_at : frame.metadata_at + frame.metadata_size]

    def message(self, frame: Frame) -> pa.Buffer:
        return pa.py_buffer(self.data[frame.message_at : frame.message_at + frame.message_size])

    def batch(self, frame: Frame, schema: pa.Schema) -> pa.RecordBatch:
        """Return the rows of a frame, validated.

        Raises:
            CorruptSegment: they are not what the header or the schema says.
        """
        try:
            batch = ipc.read_record_batch(self.message(frame), schema)
            batch.validate(full=True)
        except (pa.ArrowException, OSError) as error:
            raise CorruptSegment(self.path, frame.message_at, str(error)) from error
        if frame.kind == Kind.SPARSE:
            offsets = offsets_of(batch)
            inside = (offsets >= frame.base) & (offsets < frame.base + frame.rows)
            if not inside.all() or (np.diff(offsets) <= 0).any():
                reason = f"offsets are not in order from {frame.base} to {frame.base + frame.rows}"
                raise CorruptSegment(self.path, frame.position, reason)
        elif batch.num_rows != frame.rows:
            reason = f"the header says {frame.rows} rows, and there are {batch.num_rows}"
            raise CorruptSegment(self.path, frame.position, reason)
        return batch


def _check_segments(
    checks: Checks, folder: Path, manifest: Manifest, info: StreamInfo | None
) -> None:
    path = folder / "manifest"
    checks.bytes += path.stat().st_size
    for segment in manifest.segments + manifest.retired:
        with checks.noting(folder / segment.file):
            _check_segment(checks, folder / segment.file, segment, manifest, info)
    for one, two in zip(manifest.segments, manifest.segments[1:], strict=False):
        if (one.stop, one.after) != (two.base, two.before):
            checks.problem(path, 0, f"{two.file} does not go on where {one.file} ends")
    if any(s.sparse and s.stop > manifest.compacted for s in manifest.segments):
        checks.problem(path, 0, f"a file is compacted beyond offset {manifest.compacted}")
    if not manifest.segments[0].base <= manifest.start:
        checks.problem(path, 0, f"the first segment begins after offset {manifest.start}")


def _check_segment(
    checks: Checks, path: Path, segment: Segment, manifest: Manifest, info: StreamInfo | None
) -> None:
    growing = segment.state == ACTIVE
    file = FrameFile(path, segment.id)
    checks.segments += 1
    checks.bytes += len(file.data)
    _check_frames(checks, file, info, start=manifest.start, counts=segment.partitions)
    whole = not file.holes and file.frames
    if growing:
        if not file.frames:
            checks.problem(path, FRAMES_AT, "there is no sound frame")
        return
    if not file.closed:
        checks.problem(path, file.end, f"the frame of offset {file.stop} is not what was written")
    elif whole:
        _check_bounds(checks, file, segment)
    if segment.state == SEALED and not any(p.file == checks.name(path) for p in checks.problems):
        if len(file.data) != segment.bytes:
            checks.problem(
                path, len(file.data), f"it has {len(file.data)} bytes, not {segment.bytes}"
            )
        elif checksum(file.data) != segment.checksum:
            checks.problem(path, file.end, "what follows the frames is not what was written")
        else:
            sealed = SegmentFile(path, segment.id)
            sealed.reach(segment.stop)
            for _ in sealed.walk():
                pass
            if not _footer_fits(sealed):
                checks.problem(path, file.end, "the footer does not fit the frames")


def _check_unlisted(checks: Checks, path: Path, info: StreamInfo | None) -> None:
    """Check a file that a lost manifest may have listed."""
    with checks.noting(path):
        file = FrameFile(path)
        checks.segments += 1
        checks.bytes += len(file.data)
        _check_frames(checks, file, info, start=0, counts=None)
        if path.suffix == ".arrow" and not file.closed:
            checks.problem(
                path, file.end, f"the frame of offset {file.stop} is not what was written"
            )


def _check_frames(
    checks: Checks, file: FrameFile, info: StreamInfo | None, *, start: int, counts: Any
) -> None:
    """Check what the frames say of one another and of their rows."""
    path = file.path
    if bytes(file.data[:FRAMES_AT]) != PREAMBLE:
        checks.problem(path, 0, "the file does not begin as a segment does")
    for begin, stop in file.holes:
        checks.problem(
            path, begin, f"{stop - begin:,} bytes up to {stop:,} are not what was written"
        )
    schema = file.schema
    if info is not None and file.frames:
        known = info.stored(file.frames[0].schema)
        if schema is not None and "_offset" in schema.names:
            known = pa.schema([SYSTEM_FIELDS["_offset"], *known])
        if schema is not None and not schema.equals(known):
            checks.problem(path, FRAMES_AT, "the schema is not the stream's")
        schema = known
    seen = [0] * len(counts or ())
    before: Frame | None = None
    for frame in file.frames:
        follows = before is None or before.stop != frame.position or (
            before.base + before.rows == frame.base and before.after == frame.before
        )  # fmt: skip
        if not follows:
            checks.problem(
                path, frame.position, f"offset {frame.base} does not follow the frame before"
            )
        if frame.kind in (Kind.ROWS, Kind.SPARSE) and schema is not None:
            with checks.noting(path):
                batch = file.batch(frame, schema)
                _check_times(path, frame, batch, info)
                _add_counts(batch, seen)
                if frame.kind == Kind.SPARSE:
                    checks.rows += int((offsets_of(batch) >= start).sum())
                else:
                    checks.rows += max(0, frame.base + frame.rows - max(start, frame.base))
        before = frame
    if counts is not None and file.closed and not file.holes and tuple(seen) != tuple(counts):
        checks.problem(
            path.parent / "manifest", 0, f"the rows per partition of {path.name} are not {counts}"
        )


def _check_times(path: Path, frame: Frame, batch: pa.RecordBatch, info: StreamInfo | None) -> None:
    """Hold event times against what the header says; a query leaves out whole frames by it."""
    if info is None or info.time is None or not batch.num_rows:
        return
    times = event_times(batch.column(info.time), info.time)
    low, high = int(times.min()), int(times.max())
    if not (frame.event_min <= low and high <= frame.event_max):
        reason = "event times are not within what the header says"
        raise CorruptSegment(path, frame.position, reason)


def _add_counts(batch: pa.RecordBatch, seen: list[int]) -> None:
    if seen and "_partition" in batch.schema.names:
        found = np.bincount(batch.column("_partition").to_numpy(), minlength=len(seen))
        for number, rows in enumerate(found.tolist()):
            seen[number] += rows


def _check_bounds(checks: Checks, file: FrameFile, segment: Segment) -> None:
    """Hold what the manifest says of a segment against its frames."""
    first, last, rows, runs = file.frames[0], file.frames[-1], file.row_frames, file.runs
    found = {
        "base": first.base,
        "stop": file.stop,
        "schema": first.schema,
        "before": first.before,
        "after": last.after,
        "append_min": int(runs["append_time"].min()) if len(runs) else NEVER,
        "append_max": last.append_time,
        "event_min": min((f.event_min for f in rows), default=FOREVER),
        "event_max": max((f.event_max for f in rows), default=NEVER),
        "kept": file.kept,
    }
    for name, value in found.items():
        if getattr(segment, name) != value:
            said = getattr(segment, name)
            reason = f"{name} of {file.path.name} is {value}, and the manifest says {said}"
            checks.problem(file.path.parent / "manifest", 0, reason)
    if not _runs_fit(runs, first.base, file.stop) or (
        len(runs) and runs["after"][-1] != last.after
    ):
        checks.problem(file.path, last.position, "the table of runs is out of order")


def _runs_fit(runs: npt.NDArray[np.void], base: int, stop: int) -> bool:
    """Whether runs cover the rows in [base, stop), and nothing in them goes back."""
    if not len(runs):
        return base == stop
    ahead, behind = runs[1:], runs[:-1]
    forward = all((ahead[name] >= behind[name]).all() for name in ("base", "append_time"))
    times = (runs["before"] <= runs["after"]).all() and (ahead["before"] >= behind["after"]).all()
    covers = base <= runs["base"][0] and runs["base"][-1] <= stop
    whole = base == stop or runs["base"][0] == base
    return bool(forward and times and covers and whole)
