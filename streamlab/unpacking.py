"""An archive that comes from anywhere, read without believing any of it.

The file is a zip; what it may hold is narrow, and all else is refused before anything is written:
members of known names, stored as they are, none twice, together no larger than the file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import pyarrow as pa

from streamlab.catalog import NAME, StreamInfo, check_name, require_columns, stored_schema
from streamlab.catalog import _parse as parse_info
from streamlab.clock import FOREVER, NEVER
from streamlab.errors import CorruptSegment, NewerFormat, StreamlabError
from streamlab.log import disk
from streamlab.log.log import History
from streamlab.log.manifest import FILE_NAME, SEALED, Segment, load_segment
from streamlab.log.segment import Mark
from streamlab.schema import SYSTEM_FIELDS, check_time_column, normalise, physical
from streamlab.settings import Settings

if TYPE_CHECKING:
    from streamlab.progress import Bar

__all__ = ["CONTENTS", "FORMAT", "Packed", "Source", "member_name", "unfolded"]

FORMAT = 1
CONTENTS = "archive.json"
MEMBER = re.compile(rf"streams/(?P<stream>{NAME.pattern})/{FILE_NAME.pattern}")
MOST_CONTENTS = 256 << 20
PIECE = 1 << 20
LAST_TIME = 253_402_300_800_000_000  # the year 10000
WHOLE = ("id", "base", "stop", "schema", "bytes", "checksum", "append_min", "append_max", "before",
         "after", "event_min", "event_max")  # fmt: skip
"""The fields of a segment that are whole numbers."""

UNREADABLE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, EOFError, ValueError, LookupError,
    TypeError, AttributeError, OverflowError, struct.error,
)  # fmt: skip
"""What damaged bytes make of zipfile, JSON and us."""


class Packed(NamedTuple):
    """A stream of an archive: what it is, what its log begins with, the digests of its files."""

    info: StreamInfo
    history: History
    digests: dict[str, str]


def member_name(stream: str, file: str) -> str:
    """Return the name of a segment file in an archive."""
    return f"streams/{stream}/{file}"


class Source:
    """An archive, open for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("rb")
        try:
            with self._naming():
                self.zip = zipfile.ZipFile(self.file)
                self.members = self._members()
        except BaseException:
            self.file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def corrupt(self, member: str, byte: int, reason: str) -> CorruptSegment:
        """Return the error that a member is not what was packed."""
        where = f"{self.path}: {member}" if member else self.path
        hint = "ask for the archive once more; `unzip -t` tells damage by CRC"
        return CorruptSegment(where, byte, reason, hint=hint)

    @contextmanager
    def _naming(self, member: str = "") -> Iterator[None]:
        """Turn whatever reading raises into an error that names the member."""
        try:
            yield
        except StreamlabError:
            raise
        except UNREADABLE as error:
            raise self.corrupt(member, 0, f"{type(error).__name__}: {error}") from error

    def _members(self) -> dict[str, zipfile.ZipInfo]:
        """Return what there is by name, if it is what an archive may hold."""
        found: dict[str, zipfile.ZipInfo] = {}
        for member in self.zip.infolist():
            name = member.orig_filename
            if name in found:
                raise self.corrupt(name, 0, "it is there twice")
            if why := _refused(member):
                raise self.corrupt(name, 0, why)
            found[name] = member
        size = os.fstat(self.file.fileno()).st_size
        if sum(member.file_size for member in found.values()) > size:
            raise self.corrupt("", 0, "its members claim to be larger than the file is")
        return found

    def read(self, name: str, most: int) -> bytes:
        """Return a small member.

        Raises:
            CorruptSegment: it is missing, too large or damaged.
        """
        member = self.members.get(name)
        if member is None:
            raise self.corrupt(name, 0, "it is missing")
        if member.file_size > most:
            raise self.corrupt(name, 0, f"it has {member.file_size:,} bytes, more than {most:,}")
        with self._naming(name):
            return self.zip.read(member)

    def extract(self, name: str, target: Path, sha256: str, bar: Bar) -> None:
        """Write a member to a new file, durably.

        Raises:
            CorruptSegment: it is not what was packed.
        """
        digest, at = hashlib.sha256(), 0
        fd = disk.create(target)
        try:
            for piece in self._pieces(name):
                digest.update(piece)
                at += disk.write(fd, [piece], at)
                bar.update(len(piece))
            if digest.hexdigest() != sha256:
                raise self.corrupt(name, 0, "it does not fit its SHA-256")
            disk.sync(fd)
        finally:
            os.close(fd)

    def _pieces(self, name: str) -> Iterator[bytes]:
        with self._naming(name):
            member = self.zip.open(self.members[name])
        with member:
            while True:
                with self._naming(name):
                    piece = member.read(PIECE)
                if not piece:
                    return
                yield piece

    def contents(self) -> list[Packed]:
        """Return the streams there are, as far as can be checked without their files.

        Raises:
            CorruptSegment: they do not fit together.
            NewerFormat: a newer streamlab made the archive.
        """
        text = self.read(CONTENTS, MOST_CONTENTS)
        with self._naming(CONTENTS):
            contents = json.loads(text)
            if contents["format"] > FORMAT:
                raise NewerFormat(
                    f"{self.path} is of format {contents['format']}; this streamlab knows {FORMAT}",
                    hint="pip install --upgrade streamlab",
                )
            packed = [self._packed(*item) for item in contents["streams"].items()]
        known = {CONTENTS, *(member_name(p.info.name, f) for p in packed for f in p.digests)}
        if strays := sorted(set(self.members) - known):
            raise self.corrupt(strays[0], 0, "no stream has it")
        return packed

    def _packed(self, name: str, content: dict[str, Any]) -> Packed:
        try:
            info = checked_info(name, parse_info(content["stream"], self.path))
        except (StreamlabError, pa.ArrowException) as error:
            raise ValueError(f"stream {name!r}: {error}") from error
        digests, segments = {}, []
        for described in content["files"]:
            entry = dict(described)
            digest = entry.pop("sha256")
            segment = checked_segment(load_segment(entry), info)
            member = self.members.get(member_name(name, segment.file))
            if member is None:
                raise self.corrupt(member_name(name, segment.file), 0, "it is missing")
            require(member.file_size == segment.bytes, f"the size of {segment.file}")
            digests[segment.file] = str(digest)
            segments.append(segment._replace(synced=True))
        require(len(digests) == len(segments), "a file is there twice")
        end = Mark(0, content["end"], content["stream_time"], content["append_time"])
        begun = History(tuple(segments), content["start"], end, content["compacted"])
        history = checked_history(begun)
        return Packed(info, history, digests)


def _refused(member: zipfile.ZipInfo) -> str | None:
    """Say why a member may not be in an archive."""
    kind = stat.S_IFMT(member.external_attr >> 16)
    if member.orig_filename != CONTENTS and not MEMBER.fullmatch(member.orig_filename):
        return "no archive holds a file of that name"
    if kind not in (0, stat.S_IFREG) or member.is_dir():
        return "it is no plain file"
    if member.flag_bits & 0x1:
        return "it is encrypted"
    if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
        return "it is compressed, and an archive holds files as they are"
    return None


# -- what is said of a stream ------------------------------------------------------------------


def require(fits: bool, what: str) -> None:
    """Refuse what does not fit.

    Raises:
        ValueError: naming it.
    """
    if not fits:
        raise ValueError(f"{what} does not fit")


def whole(value: Any, low: int = NEVER, high: int = FOREVER) -> bool:
    """Whether something is a whole number within bounds."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def checked_info(name: str, info: StreamInfo) -> StreamInfo:
    """Return what a stream is, if that is something that a lab could have made.

    Raises:
        StreamlabError, ValueError, TypeError: it is not.
    """
    check_name(name, [])
    require(info.name == name, "its name")
    require(re.fullmatch(r"[0-9a-f]{32}", info.id) is not None, "its id")
    require(whole(info.partitions, 1, 10_000), "its partitions")
    require(whole(info.delay, 0), "its delay")
    require(info.cleanup in ("delete", "compact"), "its cleanup")
    require(isinstance(info.created, int | float) and 0 <= info.created < 1e11, "its creation")
    for limit in (info.retention.age, info.retention.size):
        require(limit is None or whole(limit, 0), "its retention")
    require(Settings(**info.settings).stored() == info.settings, "its settings")
    require(0 < len(info.schemas) <= 100_000, "its schemas")
    for stored in info.schemas:
        user = pa.schema([f for f in stored if f.name not in SYSTEM_FIELDS])
        require(physical(normalise(user)).equals(user), "a schema")
        deletions = "_deleted" in stored.names
        plain = stored_schema(user, partitions=info.partitions, deletions=deletions)
        require(plain.equals(stored), "a schema")
    require_columns(info.schema, info.key, "key")
    require_columns(info.schema, info.required, "required")
    if info.time is not None:
        require_columns(info.schema, [info.time], "time")
        check_time_column(info.schema, info.time)
    return replace(info, job=None)


def checked_segment(segment: Segment, info: StreamInfo) -> Segment:
    """Return a segment, if it may be one of a stream.

    Raises:
        ValueError: it may not.
    """
    for field in WHOLE:
        high = 2**64 - 1 if field == "checksum" else FOREVER
        require(whole(getattr(segment, field), high=high), f"{field} of a file")
    name = FILE_NAME.fullmatch(str(segment.file))
    require(name is not None and name[3] == "arrow", f"the name {segment.file!r}")
    require(name is not None and int(name[1]) == segment.base, f"the base of {segment.file}")
    require(segment.number < 1 << 53 and segment.state == SEALED, f"the state of {segment.file}")
    require(0 <= segment.base <= segment.stop < 1 << 62, f"the offsets of {segment.file}")
    require(1 <= segment.schema <= len(info.schemas), f"the schema of {segment.file}")
    require(segment.append_max < LAST_TIME, f"the append times of {segment.file}")
    kept = segment.kept
    require(kept is None or whole(kept, 0, segment.stop - segment.base), f"rows of {segment.file}")
    counts = segment.partitions
    if info.partitions > 1:
        fits = counts is not None and len(counts) == info.partitions and all(map(whole, counts))
        require(fits, f"the partitions of {segment.file}")
    else:
        require(counts is None, f"the partitions of {segment.file}")
    return segment


def checked_history(history: History) -> History:
    """Return what a log begins with, if its files go on from each other.

    Raises:
        ValueError: they do not.
    """
    segments, start, (_, end, stream_time, append_time), compacted = history
    require(whole(start, 0, end if whole(end) else 0), "where it begins")
    require(whole(compacted, 0, end), "how far it is compacted")
    require(all(s.stop <= compacted for s in segments if s.sparse), "its compacted files")
    require(whole(stream_time) and whole(append_time, 0, LAST_TIME), "its times")
    require(len({segment.number for segment in segments}) == len(segments), "a number")
    for before, after in itertools.pairwise(segments):
        follows = (before.stop, before.after) == (after.base, after.before)
        require(follows and before.append_max <= after.append_max, f"where {after.file} begins")
    if segments:
        first, last = segments[0], segments[-1]
        require(first.base <= start, "where it begins")
        require((end, stream_time) == (last.stop, last.after), "where it ends")
        require(append_time >= last.append_max, "its last append time")
    else:
        require(start == end < 1 << 62, "where it ends")
    return history


# -- how large a batch becomes -----------------------------------------------------------------


def unfolded(message: memoryview) -> int:
    """Return how many bytes the buffers of a record batch claim to unfold to; 0 if none is compressed.

    Each begins with that number; where it lies is read from the message's flatbuffer.

    Raises:
        struct.error: it does not lie in the message.
    """
    size = struct.unpack_from("<i", message, 4)[0]
    flat, body = message[8 : 8 + size], message[8 + size :]
    batch = _child(flat, struct.unpack_from("<I", flat)[0], 2)
    if batch is None or _slot(flat, batch, 3) is None:
        return 0
    buffers = _child(flat, batch, 2)
    if buffers is None:
        return 0
    total = 0
    for at in range(struct.unpack_from("<I", flat, buffers)[0]):
        offset, length = struct.unpack_from("<qq", flat, buffers + 4 + 16 * at)
        if length > 0 and offset >= 0:
            claimed = struct.unpack_from("<q", body, offset)[0]
            total += length if claimed == -1 else max(claimed, 0)  # -1: it is as it was
    return total


def _slot(flat: memoryview, table: int, number: int) -> int | None:
    """Return where a field of a flatbuffer's table stands, None if it is not there."""
    places = table - int(struct.unpack_from("<i", flat, table)[0])
    if 4 + 2 * number >= struct.unpack_from("<H", flat, places)[0]:
        return None
    at = int(struct.unpack_from("<H", flat, places + 4 + 2 * number)[0])
    return table + at if at else None


def _child(flat: memoryview, table: int, number: int) -> int | None:
    """Return where the table or vector begins that a field refers to."""
    at = _slot(flat, table, number)
    return None if at is None else at + int(struct.unpack_from("<I", flat, at)[0])
