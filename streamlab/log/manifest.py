"""The manifest: which segment files make up a stream, in order. Nothing else says what exists.

It is one small text file, replaced as a whole: a line of JSON about the stream, a line for each
segment, a line with the checksum. It carries what pruning and counting need, so that opening a lab
opens no segment.

Invariants: segments stand in the order of offsets without gap; the last one, and only it, is active
or just closed by a crash; file numbers only grow, so that a name is never used twice.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from streamlab.clock import NEVER
from streamlab.errors import CorruptSegment, NewerFormat
from streamlab.log import disk
from streamlab.log.format import SPARSE_VERSION, VERSION, checksum
from streamlab.log.lock import FileLock

__all__ = [
    "ACTIVE",
    "CLOSED",
    "SEALED",
    "Manifest",
    "Segment",
    "dump_segment",
    "load_segment",
    "read_manifest",
    "update_manifest",
    "write_manifest",
]

ACTIVE, CLOSED, SEALED = "active", "closed", "sealed"
FILE_NAME = re.compile(r"(\d{20})-(\d+)\.(log|arrow)")


class Segment(NamedTuple):
    """One file of a stream, and what need not be read from it because it is written here."""

    file: str
    id: int
    state: str
    base: int
    stop: int  # offset after the last row; for the active one, only a lower bound
    schema: int
    bytes: int = 0
    checksum: int = 0  # of the whole file, once sealed
    synced: bool = False
    append_min: int = NEVER
    append_max: int = NEVER
    before: int = NEVER  # stream time before the first frame
    after: int = NEVER  # and after the last
    event_min: int = NEVER
    event_max: int = NEVER
    partitions: tuple[int, ...] | None = None  # rows of each, where there are several
    kept: int | None = None  # how many rows compaction left of it; None: they are all there

    @property
    def number(self) -> int:
        """The number in the file's name, which is used once."""
        return int(self.file.rsplit("-", 1)[1].split(".", 1)[0])

    @property
    def rows(self) -> int:
        return self.stop - self.base if self.kept is None else self.kept

    @property
    def sparse(self) -> bool:
        """Whether compaction wrote it: its offsets have gaps, and each row bears its own."""
        return self.kept is not None


class Manifest(NamedTuple):
    """What the manifest says."""

    stream: str  # the stream's own id, so that a stream made anew is not taken for this one
    generation: int
    next_file: int
    start: int  # offset of the first row there is; rows of a segment below it are gone
    segments: tuple[Segment, ...]
    retired: tuple[Segment, ...] = ()  # kept only because a view has them pinned
    compacted: int = 0  # below this offset only the last row of each key is there

    @property
    def active(self) -> Segment:
        return self.segments[-1]

    def numbered(self, number: int, segments: tuple[Segment, ...]) -> Manifest:
        """Return the manifest with these segments; no number up to this one is given out again."""
        return self._replace(segments=segments, next_file=max(self.next_file, number + 1))


def file_name(base: int, number: int, *, sealed: bool) -> str:
    """Return the name of a segment file."""
    return f"{base:020d}-{number}.{'arrow' if sealed else 'log'}"


@functools.lru_cache(maxsize=65_536)
def _line(segment: Segment) -> str:
    return json.dumps(dump_segment(segment))


def dump_segment(segment: Segment) -> dict[str, Any]:
    """Return a segment as plain JSON."""
    content = segment._asdict()
    content["id"] = f"{segment.id:016x}"
    content["checksum"] = f"{segment.checksum:016x}"
    if segment.kept is None:
        del content["kept"]
    return content


def load_segment(content: dict[str, Any]) -> Segment:
    """Return the segment that `dump_segment` wrote down.

    Raises:
        ValueError, LookupError, TypeError: it did not.
    """
    counts = content["partitions"]
    return Segment(
        **content
        | {
            "id": int(content["id"], 16),
            "checksum": int(content["checksum"], 16),
            "partitions": None if counts is None else tuple(counts),
        }
    )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Replace the manifest, durably."""
    about: dict[str, Any] = {
        "format": SPARSE_VERSION if manifest.compacted else VERSION,
        "stream": manifest.stream,
        "generation": manifest.generation,
        "next_file": manifest.next_file,
        "start": manifest.start,
        "segments": len(manifest.segments),
    }
    if manifest.compacted:
        about["compacted"] = manifest.compacted
    lines = [json.dumps(about)]
    lines += [_line(segment) for segment in manifest.segments + manifest.retired]
    text = "\n".join(lines).encode() + b"\n"
    disk.replace_file(path, text + b"checksum %016x\n" % checksum(text))


def read_manifest(path: Path) -> Manifest:
    """Return what the manifest says.

    Raises:
        FileNotFoundError: there is none.
        CorruptSegment: it is not what was written.
        NewerFormat: a newer streamlab wrote it.
    """
    data = disk.read(path)
    cut = data.rfind(b"checksum ")
    if cut <= 0 or data[cut:] != b"checksum %016x\n" % checksum(data[:cut]):
        raise CorruptSegment(path, 0, "the content does not fit its checksum")
    try:
        lines = data[:cut].decode().splitlines()
        about = json.loads(lines[0])
        if about["format"] > SPARSE_VERSION:
            raise NewerFormat(
                f"{path} is of format {about['format']}; this streamlab knows {SPARSE_VERSION}",
                hint="pip install --upgrade streamlab",
            )
        parsed = [load_segment(content) for content in json.loads(f"[{','.join(lines[1:])}]")]
        live = tuple(parsed[: about["segments"]])
        return Manifest(
            about["stream"],
            about["generation"],
            about["next_file"],
            about["start"],
            live,
            tuple(parsed[len(live) :]),
            about.get("compacted", 0),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise CorruptSegment(path, 0, f"{type(error).__name__}: {error}") from error


def update_manifest(
    folder: Path, lock: FileLock, change: Callable[[Manifest], Manifest]
) -> Manifest:
    """Replace the manifest by a changed one, nobody else changing it meanwhile.

    Raises:
        FileNotFoundError: there is none; a writer that opens the log puts one together.
        CorruptSegment: it is not what was written.
    """
    with lock(30.0):
        before = read_manifest(folder / "manifest")
        after = change(before)._replace(generation=before.generation + 1)
        write_manifest(folder / "manifest", after)
        return after
