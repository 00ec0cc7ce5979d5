"""What a stream's files hold after anything: a kill, a power cut, a flipped bit.

`survey` looks and changes nothing, so that readers may use it too; the writer then does what it
says. The rule: a bad frame below what is known durable, or below what was published while this boot
of the machine lasts (the process died, not the page cache), is corruption and refused by name. Any
other bad frame is an unfinished write, and the stream ends before it.

What is known durable: the ``durable`` offset of the head, segments marked as synced in the manifest,
and the ``synced`` position of every sound frame, also of those that stand beyond a hole.
"""

from __future__ import annotations

import itertools
import logging
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from pyarrow import ipc

from streamlab.clock import NEVER
from streamlab.errors import CorruptSegment
from streamlab.log import disk
from streamlab.log.format import FRAMES_AT, Frame, checksum, decode
from streamlab.log.head import Head, HeadFile, boot_id
from streamlab.log.manifest import (
    ACTIVE,
    CLOSED,
    FILE_NAME,
    SEALED,
    Manifest,
    Segment,
    read_manifest,
)
from streamlab.log.segment import Mark, SegmentFile

__all__ = ["Survey", "load_manifest", "survey", "verify_sealed"]

logger = logging.getLogger("streamlab")


class Survey(NamedTuple):
    """What is there, and what a writer has to do before it writes."""

    manifest: Manifest  # ends with the segment in which the sound rows end
    mark: Mark  # where they end
    durable: int  # offset below which all is known durable
    closed: bool  # the last segment takes no more frames
    torn: int  # bytes of an unfinished write after the mark
    lost: tuple[Segment, ...] = ()  # unsynced segments after a hole that a power cut left


def survey(folder: Path, stream: str) -> Survey:
    """Find where the sound rows of a stream end.

    Raises:
        CorruptSegment: something is damaged that was promised to survive.
    """
    manifest = load_manifest(folder, stream)
    head = HeadFile(folder / "head").read()
    if head is not None and head.boot != boot_id():
        head = head._replace(end=head.durable, stream_time=NEVER, append_time=NEVER)
    segments = manifest.segments
    synced = itertools.takewhile(lambda segment: segment.synced, segments)
    durable = max((segment.stop for segment in synced), default=0)
    durable = max(durable, head.durable if head else 0)
    same_boot = head is not None and head.boot == boot_id()
    if head is not None and head.file > manifest.active.number & 0xFFFFFFFF:
        reason = f"it is an older one: file {head.file} of the stream was being written after it"
        raise CorruptSegment(folder / "manifest", 0, reason)
    checked = list(segments)
    for index, segment in enumerate(segments[:-1]):
        if segment.synced or same_boot:
            continue
        if not _whole(folder, segment):
            cut = segment._replace(state=CLOSED)  # read frame by frame, as far as they are sound
            kept = manifest._replace(segments=(*checked[:index], cut))
            return _tail(folder, kept, head, durable)._replace(lost=segments[index + 1 :])
        if segment.state == SEALED and not _fits(folder, segment):
            checked[index] = segment._replace(state=CLOSED)  # its footer is lost, not its frames
    return _tail(folder, manifest._replace(segments=tuple(checked)), head, durable)


def _whole(folder: Path, segment: Segment) -> bool:
    """Whether an unsynced segment came through a power cut."""
    try:
        file = SegmentFile(folder / segment.file, segment.id)
        for _ in file.walk():
            pass
    except (CorruptSegment, FileNotFoundError):
        return False
    return file.closed and file.mark.end == segment.stop


def _fits(folder: Path, segment: Segment) -> bool:
    data = disk.map_file(folder / segment.file)
    return len(data) == segment.bytes and checksum(data) == segment.checksum


def _tail(folder: Path, manifest: Manifest, head: Head | None, durable: int) -> Survey:
    """Walk the last segment to where its sound frames end, and judge what comes after."""
    last = manifest.active
    path = folder / last.file
    if last.state == SEALED and last.synced:  # a manifest that was put together again
        mark = Mark(0, last.stop, last.after, last.append_max)
        if mark.end < durable or (head is not None and head.end > mark.end):
            raise CorruptSegment(path, last.bytes, f"the file with offset {mark.end} is missing")
        return Survey(manifest, mark, durable, closed=True, torn=0)
    try:
        file = SegmentFile(path, last.id)
    except FileNotFoundError:
        raise CorruptSegment(path, 0, "the file is missing") from None
    for _ in file.walk():
        pass
    mark = file.mark
    beyond: list[Frame] = []
    if not file.closed and any(file.data[mark.position :]):
        beyond = list(file.frames_beyond(mark.position))
    synced = max([file.synced, *(frame.synced for frame in beyond)])
    published = head is not None and (
        head.end > mark.end
        or head.stream_time > mark.stream_time
        or head.append_time > mark.append_time  # a note, which has neither
    )
    if mark.position < synced or mark.end < durable or published:
        raise CorruptSegment(path, mark.position, _judge(file, mark.end))
    torn = 0 if file.closed else len(file.data) - mark.position
    return Survey(manifest, mark, durable, file.closed, torn)


def _judge(file: SegmentFile, end: int) -> str:
    sound = decode(file.data, file.mark.position, file.segment)
    if sound is None:
        return (
            f"the frame of offset {end} does not fit its checksum, and it was promised to survive"
        )
    return (
        f"a sound frame of offset {sound.base} stands where offset {end} has to follow: "
        "frames were swapped, doubled or dropped"
    )


def load_manifest(folder: Path, stream: str) -> Manifest:
    """Read the manifest; one that is lost or damaged is put together from the segment files."""
    path = folder / "manifest"
    try:
        return read_manifest(path)
    except FileNotFoundError:
        reason = "is missing"
        if not folder.is_dir():
            raise
    except CorruptSegment as error:
        reason = error.reason
    logger.warning("%s: %s; it is put together again from the segment files", path, reason)
    return rebuild(folder, stream)


def rebuild(folder: Path, stream: str) -> Manifest:
    """Put a manifest together from the segment files.

    Of two files with the same first row the sealed one counts, then the younger one; files that lie
    in the range of a compacted one are what it was made from. A file that is damaged is done without
    if another one has its rows, all of them; what does not go on from the row before is refused, not
    skipped.
    """
    found: dict[int, Segment] = {}
    compacted = 0
    damage: CorruptSegment | None = None
    for path in sorted(folder.iterdir(), key=lambda p: (p.suffix == ".arrow", p.name)):
        if FILE_NAME.fullmatch(path.name):
            try:
                segment, upto = _describe(path)
            except CorruptSegment as error:
                damage = error
                continue
            compacted = max(compacted, upto)
            rival = found.get(segment.base)
            if rival is None or _rank(segment) > _rank(rival):
                found[segment.base] = segment
    segments = _outermost([found[base] for base in sorted(found)])
    if compacted and damage is not None:  # rows may be gone that only the damaged file had
        raise damage
    if not segments:
        reason = "it is lost, and there is no segment file"
        raise damage or CorruptSegment(folder / "manifest", 0, reason)
    for before, segment in itertools.pairwise(segments):
        if before.stop != segment.base:
            reason = (
                f"it is lost, and no segment file holds offsets {before.stop} to {segment.base}"
            )
            raise damage or CorruptSegment(folder / "manifest", 0, reason)
    number = max(segment.number for segment in segments)
    start = segments[0].base
    return Manifest(stream, 1, number + 1, start, tuple(segments), compacted=compacted)


def _outermost(segments: list[Segment]) -> list[Segment]:
    """Leave out the files that a compacted one was made from."""
    found: list[Segment] = []
    for segment in segments:
        last = found[-1] if found else None
        if last is None or not last.sparse or segment.stop > last.stop or segment.base >= last.stop:
            found.append(segment)
    return found


def _rank(segment: Segment) -> tuple[bool, bool, int]:
    return segment.stop > segment.base, segment.state == SEALED, segment.number


def _describe(path: Path) -> tuple[Segment, int]:
    """Describe a segment file from its frames, every one of them checked.

    Returns also the offset below which the stream was compacted when it was written.
    """
    data = disk.map_file(path)
    first = decode(data, FRAMES_AT)
    if first is None:
        raise CorruptSegment(
            path, FRAMES_AT, "the schema frame is damaged, and the manifest is lost"
        )
    file = SegmentFile(path, first.segment)
    for _ in file.walk():
        pass
    sealed = path.suffix == ".arrow"
    if sealed and not _footer_fits(file):
        raise CorruptSegment(path, file.mark.position, "the footer does not fit the frames")
    runs = file.runs
    state = SEALED if sealed else CLOSED if file.closed else ACTIVE
    number = int(path.stem.rsplit("-", 1)[1])
    assert number >= 0
    segment = Segment(
        path.name, first.segment, state, file.base, file.mark.end, file.schema_id,
        bytes=len(file.data), checksum=checksum(file.data) if sealed else 0, synced=sealed,
        append_min=int(runs["append_time"][0]) if len(runs) else NEVER,
        append_max=file.mark.append_time, before=file.start.stream_time,
        after=file.mark.stream_time, event_min=file.event_min, event_max=file.event_max,
        kept=file.count(file.base, file.mark.end) if file.sparse else None,
    )  # fmt: skip
    return segment, file.compacted


def _footer_fits(file: SegmentFile) -> bool:
    """Whether the footer of a sealed file leads Arrow to the very batches of its frames."""
    try:
        reader = ipc.open_file(pa.py_buffer(file.data))
        if not file.closed or not reader.schema.equals(file.schema):
            return False
        blocks = file.blocks()
        if reader.num_record_batches != len(blocks):
            return False
        return all(
            _same(reader.get_batch(index), file.batch(at, prefix + body))
            for index, (at, prefix, body) in enumerate(blocks)
        )
    except (pa.ArrowException, OSError, CorruptSegment):
        return False


def _same(one: pa.RecordBatch, other: pa.RecordBatch) -> bool:
    """Whether two batches are the same; a NaN, which equals nothing, by its bytes."""
    return bool(one.equals(other) or one.serialize().equals(other.serialize()))


def verify_sealed(path: Path, segment: Segment) -> SegmentFile:
    """Open a sealed file after having checked every byte of it.

    Raises:
        CorruptSegment: with the first damaged place that can be told.
        FileNotFoundError: the file is not there (any more).
    """
    data = disk.map_file(path)
    if len(data) == segment.bytes and checksum(data) == segment.checksum:
        return SegmentFile(path, segment.id, checked=True)
    file = SegmentFile(path, segment.id)
    for _ in file.walk():
        pass
    reason = "the frame there" if not file.closed else "what follows the frames"
    raise CorruptSegment(path, file.mark.position, f"{reason} is not what was written")
