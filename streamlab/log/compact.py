"""Compaction: of the older rows only the last one of each key is kept, by Kafka's rules.

It works on the sealed segments below a limit: no younger than the lag asks for, beyond no live pin and
no hold, never the growing file. Which rows stay is told by the key columns alone, a segment at a time;
then the segments that lose rows are written anew, and small neighbours become one file. A file of
compacted rows is an Arrow IPC file like any sealed one, with ``_offset`` as its first column.

Invariants: offsets, order, append times and stream times of the rows that stay are what they were; a
deletion goes only with all that is older of its key; the new files appear all at once, when all are
durable; what they were made from stays on disk, retired, while a view has it pinned.
"""

from __future__ import annotations

import contextlib
import itertools
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamlab.clock import FOREVER, NEVER
from streamlab.errors import CorruptSegment, StreamlabError
from streamlab.log import disk
from streamlab.log.bulk import count_partitions
from streamlab.log.format import RUN, Kind, checksum, serialize
from streamlab.log.lock import FileLock
from streamlab.log.manifest import (
    SEALED,
    Manifest,
    Segment,
    file_name,
    read_manifest,
    update_manifest,
)
from streamlab.log.pins import held_back, pinned
from streamlab.log.segment import Chunk, Mark, SegmentFile, SegmentWriter
from streamlab.schema import SYSTEM_FIELDS, adapt, event_times

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Compaction", "Compactor", "Rules", "clear_unfinished"]

Offsets = npt.NDArray[np.int64]

BATCH_ROWS = 65_536
"""Rows that stay are gathered into batches of about so many."""

FOLD_ROWS = 1 << 20
"""Keys are folded when at least so many rows wait, and as many as there are keys."""

DIRTY_RATIO = 0.5
"""In the background, the part of the bytes below the limit that has to be new."""


@dataclass(frozen=True)
class Rules:
    """How a stream is compacted; times in microseconds."""

    key: tuple[str, ...]
    time: str | None  # the event-time column
    lag: int  # rows younger than this keep their full history
    delete_retention: int  # deletions older than this go
    segment_bytes: int
    compression: str | None
    schema_of: Callable[[int], pa.Schema]


class Compaction(NamedTuple):
    """What a compaction did: how far it goes now, what is gone, and what kept it from going on."""

    compacted_upto: int
    rows_removed: int = 0
    bytes_freed: int = 0
    stopped_by: str = ""


class Written(NamedTuple):
    """A new file that nothing lists yet, and what it stands for."""

    path: Path
    group: tuple[Segment, ...]
    entry: Segment  # its file name is given when it is listed


class Compactor:
    """Compacts one stream; the lock of its maintenance is held."""

    def __init__(
        self, folder: Path, manifest_lock: FileLock, rules: Rules, now: int,
        go_on: Callable[[], bool] = lambda: True,
    ) -> None:  # fmt: skip
        self.folder = folder
        self.manifest_lock = manifest_lock
        self.rules = rules
        self.now = now
        self.go_on = go_on
        self.manifest = read_manifest(folder / "manifest")
        self.segments, self.stopped_by = self._reach()
        self.limit = self.segments[-1].stop if self.segments else self.manifest.compacted
        self.visible = dict.fromkeys((segment.id for segment in self.segments), 0)  # rows of each

    def _reach(self) -> tuple[tuple[Segment, ...], str]:
        """Return the segments that may be compacted, and what ends them."""
        floors = {f'hold "{name}"': at for name, at in held_back(self.folder / "pins").items()}
        for start, stop in pinned(self.folder / "pins", history=True):
            if start < stop:
                floors[f"a view of offsets [{start}, {stop})"] = start
        by, floor = min(floors.items(), key=lambda item: item[1], default=("", FOREVER))
        found: list[Segment] = []
        for segment in self.manifest.segments[:-1]:
            if segment.state != SEALED:
                return tuple(found), "a segment that is not sealed yet"
            if segment.stop > floor:
                return tuple(found), by
            if self.rules.lag and segment.append_max > self.now - self.rules.lag:
                return tuple(found), "compact_lag"
            found.append(segment)
        return tuple(found), ""

    def dirty(self, clean: int) -> float:
        """Return which part of the bytes below the limit lies beyond an offset."""
        sizes = [(segment.base >= clean, segment.bytes) for segment in self.segments]
        total = sum(size for _, size in sizes)
        return sum(size for new, size in sizes if new) / total if total else 0.0

    def run(self) -> Compaction:
        """Compact up to the limit, all or nothing.

        Raises:
            CorruptSegment: a file is not what was written; nothing is changed then.
        """
        kept = self._kept()
        groups = [] if kept is None else self._groups(kept)
        if kept is None or not groups:
            return Compaction(self.manifest.compacted, stopped_by=self.stopped_by)
        removed = sum(self.visible[s.id] - _count(kept, s) for group in groups for s in group)
        self._make_durable()
        written: list[Written] = []
        try:
            for group in groups:
                if not self.go_on():
                    return Compaction(self.manifest.compacted, stopped_by="the lab was closed")
                written.append(self._write(group, kept))
            self._list(written)
        finally:
            for new in written:  # those that were listed have another name now
                with contextlib.suppress(FileNotFoundError):
                    disk.unlink(new.path)
        freed = sum(s.bytes for g in groups for s in g) - sum(n.entry.bytes for n in written)
        return Compaction(self.limit, removed, freed, self.stopped_by)

    # -- which rows stay ---------------------------------------------------------------------

    def _kept(self) -> Offsets | None:
        """Return the offsets of the rows that stay, in order; None if it was told to stop.

        Of each key no more than its last offset is held at a time, and the keys of some segments.
        """
        import polars as pl

        names = [f"k{number}" for number in range(len(self.rules.key))]
        latest: pl.DataFrame | None = None
        waiting: list[pl.DataFrame] = []
        rows = 0
        for frame in itertools.chain(self._keys(names), [None]):
            if not self.go_on():
                return None
            if frame is not None:
                waiting.append(frame)
                rows += frame.height
            known = 0 if latest is None else latest.height
            if waiting and (frame is None or rows >= max(FOLD_ROWS, known)):
                parts = waiting if latest is None else [latest, *waiting]
                latest = pl.concat(parts).unique(names, keep="last")  # NaN is NaN, -0.0 is 0.0
                waiting, rows = [], 0
        if latest is None:
            return np.empty(0, np.int64)
        offsets: Offsets = latest.filter(~pl.col("gone"))["offset"].sort().to_numpy()
        return offsets

    def _keys(self, names: list[str]) -> Iterator[pl.DataFrame]:
        """Yield key, offset, and whether it is a deletion that is old enough to go."""
        import polars as pl

        if not self.segments:
            return
        newest = self.rules.schema_of(self.segments[-1].schema)
        schema = pa.schema([newest.field(name) for name in self.rules.key])
        old = self.now - self.rules.delete_retention
        for segment in self.segments:
            for chunk in self._chunks(segment):
                self.visible[segment.id] += chunk.batch.num_rows
                batch = adapt(chunk.batch.select(list(self.rules.key)), schema)
                whole = batch.take(
                    pa.array(np.arange(batch.num_rows))
                )  # a slice of lists is not read
                frame = pl.DataFrame(pa.Table.from_batches([whole]).rename_columns(names))
                gone = np.zeros(batch.num_rows, bool)
                if "_deleted" in chunk.batch.schema.names:
                    deleted = chunk.batch.column("_deleted").fill_null(False)
                    gone = np.asarray(deleted) & (chunk.append_times < old)
                yield frame.with_columns(
                    pl.Series("offset", chunk.offsets), pl.Series("gone", gone)
                )

    def _chunks(self, segment: Segment) -> Iterator[Chunk]:
        """Yield the rows of a segment from the start of the stream on, every frame checked."""
        file = self._file(segment)
        yield from file.chunks(max(segment.base, self.manifest.start), segment.stop)

    def _file(self, segment: Segment) -> SegmentFile:
        path = self.folder / segment.file
        try:
            file = SegmentFile(path, segment.id)
        except FileNotFoundError:
            raise CorruptSegment(path, 0, "the file is missing") from None
        for _ in file.walk():
            pass
        if not file.closed or file.mark.end != segment.stop:
            raise CorruptSegment(
                path, file.mark.position, "the frame there is not what was written"
            )
        return file

    # -- which files are written anew ----------------------------------------------------------

    def _groups(self, kept: Offsets) -> list[tuple[Segment, ...]]:
        """Return the neighbours that become one file each: where rows go, with small ones beside."""
        groups: list[list[Segment]] = []
        filled, alone = 0.0, True
        for segment in self.segments:
            stay, rows = _count(kept, segment), self.visible[segment.id]
            size = segment.bytes * stay / max(rows, 1)
            big = stay == rows and size > self.rules.segment_bytes / 2
            fits = groups and groups[-1][-1].schema == segment.schema
            if not fits or big or alone or filled + size > self.rules.segment_bytes:
                groups.append([])
                filled = 0.0
            groups[-1].append(segment)
            filled, alone = filled + size, big
        return [
            tuple(group)
            for group in groups
            if any(_count(kept, s) < self.visible[s.id] for s in group)
        ]

    def _make_durable(self) -> None:
        """Sync what was left to the system: rows that go rest on rows that stay."""
        lax = {segment.id for segment in self.segments if not segment.synced}
        if not lax:
            return
        for segment in self.segments:
            if segment.id in lax:
                disk.sync_file(self.folder / segment.file)
        update_manifest(
            self.folder,
            self.manifest_lock,
            lambda m: m._replace(
                segments=tuple(s._replace(synced=True) if s.id in lax else s for s in m.segments)
            ),
        )

    # -- writing -------------------------------------------------------------------------------

    def _write(self, group: Sequence[Segment], kept: Offsets) -> Written:
        """Write the rows of some neighbours that stay into one file, durable and not listed."""
        rules, first, last = self.rules, group[0], group[-1]
        files = [self._file(segment) for segment in group]
        stored = rules.schema_of(first.schema)
        schema = pa.schema([SYSTEM_FIELDS["_offset"], *stored])
        path = self.folder / f".compact-{secrets.token_hex(16)}.tmp"
        start = files[0].start
        out = SegmentWriter(path, schema, first.schema, start, compacted=self.limit)
        counts = [0] * len(first.partitions or ())
        rows = 0
        try:
            for batch, stop in _gathered(files, schema, kept):
                events = self._events(batch, group)
                message = serialize(batch, rules.compression)
                out.put(
                    Kind.SPARSE, after=out.mark.stream_time, append_time=out.mark.append_time,
                    rows=stop - out.mark.end, events=events, message=message,
                )  # fmt: skip
                rows += batch.num_rows
                if counts:
                    count_partitions(batch, counts)
            assert out.mark.end == last.stop, (out.mark.end, last.stop)
            end: Mark = files[-1].mark
            for note in [file.last_note for file in files if file.last_note][-1:]:
                out.note(note, end.append_time)
            runs = _runs(files, kept, rules.time)
            out.end(runs, after=end.stream_time, append_time=end.append_time)
            out.seal()
            out.sync()
            out.close()
        except BaseException:
            out.abandon()
            raise
        data = disk.map_file(path)
        entry = first._replace(
            id=out.segment, stop=last.stop, bytes=len(data), checksum=checksum(data), synced=True,
            append_min=int(runs["append_time"][0]), append_max=last.append_max, after=last.after,
            event_min=out.event_min, event_max=out.event_max,
            partitions=tuple(counts) if counts else None, kept=rows,
        )  # fmt: skip
        return Written(path, tuple(group), entry)

    def _events(self, batch: pa.RecordBatch, group: Sequence[Segment]) -> tuple[int, int]:
        """Return the smallest and the greatest event time of some rows, as far as it matters."""
        if not batch.num_rows:
            return FOREVER, NEVER
        if self.rules.time is None:
            return group[0].append_min, group[-1].append_max
        times = event_times(batch.column(self.rules.time), self.rules.time)
        return int(times.min()), int(times.max())

    def _list(self, written: Sequence[Written]) -> None:
        """Give the new files their names and list them instead of the old ones, all at once."""
        groups = {new.group[0].id: new for new in written}
        old = {segment.id for new in written for segment in new.group}
        names: list[Path] = []

        def change(manifest: Manifest) -> Manifest:
            if not old <= {segment.id for segment in manifest.segments}:
                raise StreamlabError(
                    f'the files of "{self.folder.name}" changed while it was compacted'
                )
            segments: list[Segment] = []
            for segment in manifest.segments:
                if (new := groups.get(segment.id)) is not None:
                    number = manifest.next_file + len(names)
                    names.append(self.folder / file_name(segment.base, number, sealed=True))
                    disk.rename(new.path, names[-1])
                    segments.append(new.entry._replace(file=names[-1].name))
                elif segment.id not in old:
                    segments.append(segment)
            disk.sync_dir(self.folder)
            retired = tuple(segment for segment in manifest.segments if segment.id in old)
            return manifest._replace(
                next_file=manifest.next_file + len(names), segments=tuple(segments),
                retired=manifest.retired + retired, compacted=max(manifest.compacted, self.limit),
            )  # fmt: skip

        try:
            update_manifest(self.folder, self.manifest_lock, change)
        except BaseException:
            known = read_manifest(self.folder / "manifest")
            listed = {segment.file for segment in known.segments}
            for path in names:
                if path.name not in listed:
                    with contextlib.suppress(FileNotFoundError):
                        disk.unlink(path)
            raise


def clear_unfinished(folder: Path) -> None:
    """Remove what a compaction left that was cut short; nothing refers to it."""
    for path in folder.glob(".compact-*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(path)


def _count(kept: Offsets, segment: Segment) -> int:
    """Return how many rows of a segment stay."""
    low, high = np.searchsorted(kept, [segment.base, segment.stop])
    return int(high - low)


def _staying(chunk: Chunk, kept: Offsets) -> tuple[Offsets, npt.NDArray[np.int64]]:
    """Return the offsets of the rows of a chunk that stay, and where in it they are."""
    low, high = np.searchsorted(kept, [chunk.base, chunk.stop])
    offsets = kept[low:high]
    return offsets, np.searchsorted(chunk.offsets, offsets)


def _gathered(
    files: Sequence[SegmentFile], schema: pa.Schema, kept: Offsets
) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yield the rows that stay, in batches, each with the offset up to which it stands for all."""
    waiting: list[pa.RecordBatch] = []
    rows, done, end = 0, files[0].base, files[-1].mark.end
    for chunk in itertools.chain.from_iterable(f.chunks(f.base, f.mark.end) for f in files):
        offsets, places = _staying(chunk, kept)
        if len(offsets):
            some = chunk.batch.take(pa.array(places))
            columns = [some.column(name) for name in schema.names[1:]]
            arrays = [pa.array(offsets), *columns]
            waiting.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
            rows += len(offsets)
        if rows >= BATCH_ROWS:
            yield pa.concat_batches(waiting), chunk.stop
            waiting, rows, done = [], 0, chunk.stop
    if waiting:
        yield pa.concat_batches(waiting), end
    elif done < end:
        columns = [pa.array([], field.type) for field in schema]
        yield pa.RecordBatch.from_arrays(columns, schema=schema), end


def _runs(files: Sequence[SegmentFile], kept: Offsets, time: str | None) -> npt.NDArray[np.void]:
    """Return the table of runs of the rows that stay: one for each stretch of neighbours.

    The first and the last offset that the file stands for have runs in any case, so that an instant
    between two files is found on the right side.
    """
    full = [file for file in files if file.base < file.mark.end]
    first, last = full[0].base, full[-1].mark.end - 1
    table = np.concatenate([_stretches(file, kept, time) for file in full])
    if not len(table) or table["base"][0] != first:
        table = np.concatenate([_lone_run(full[0], first, time), table])
    at = int(np.searchsorted(kept, last))
    stays = at < len(kept) and int(kept[at]) == last
    if not stays:
        lone = _lone_run(full[-1], last, time)
        if first == last:
            table = table[:0]
        # Twice: with the stream time that it met, and that it left, which heartbeats may follow.
        left = lone.copy()
        left["before"] = full[-1].stream_time_after(last, time)
        table = np.concatenate([table, lone, left])
    table["after"][:-1] = table["before"][1:]
    table["after"][-1] = files[-1].mark.stream_time
    return table


def _lone_run(file: SegmentFile, offset: int, time: str | None) -> npt.NDArray[np.void]:
    """Return the run of one offset whose row goes."""
    append_time, before = file.run_at(offset)["append_time"], file.stream_time_before(offset, time)
    return np.array([(offset, append_time, before, before)], RUN)


def _stretches(file: SegmentFile, kept: Offsets, time: str | None) -> npt.NDArray[np.void]:
    """Return a run for each stretch of rows of a file that stay, with the stream time it met."""
    parts, now = [np.empty(0, RUN)], NEVER
    for chunk in file.chunks(file.base, file.mark.end):
        appended = chunk.append_times
        events = appended if time is None else event_times(chunk.batch.column(time), time)
        before = chunk.stream_times_before(events, now)
        now = max(int(before[-1]), int(events[-1]))
        offsets, places = _staying(chunk, kept)
        begins = np.isin(offsets, chunk.runs["base"])
        begins[:1] = True
        begins[1:] |= np.diff(places) > 1
        runs = np.empty(int(begins.sum()), RUN)
        runs["base"] = offsets[begins]
        runs["append_time"] = appended[places[begins]]
        runs["before"] = runs["after"] = before[places[begins]]
        parts.append(runs)
    return np.concatenate(parts)
