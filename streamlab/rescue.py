"""Saving what is sound of a damaged lab, into a new one.

Each thing is taken from wherever it survives: the rows from their frames, one by one; the schema
from stream.json or from the files themselves; which files there are from the manifest or the folder.
Rows keep their order, their event and append times and their stream time; offsets close up, and the
report says how. Of a stream that was compacted the rows that are left are saved, and what is made of
them counts as compacted. The source is only read.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from streamlab.catalog import Catalog, StreamInfo, stored_schema
from streamlab.catalog import _parse as parse_info
from streamlab.clock import FOREVER, NEVER
from streamlab.errors import StreamlabError
from streamlab.ingest import rows_of
from streamlab.lab import Lab
from streamlab.log import disk
from streamlab.log.format import RELATIVE_RUN, Frame, Kind, load_json
from streamlab.log.head import HeadFile, boot_id
from streamlab.log.manifest import FILE_NAME, Manifest, read_manifest, update_manifest
from streamlab.log.segment import offsets_of
from streamlab.progress import progress_bar
from streamlab.schema import SYSTEM_FIELDS, adapt, event_times
from streamlab.settings import Retention, Settings
from streamlab.verify import (
    ERRORS,
    Checks,
    FrameFile,
    Gap,
    Move,
    Report,
    stream_folders,
    verify_lab,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from streamlab.stream import Stream

__all__ = ["salvage"]

Runs = npt.NDArray[np.void]

GROUP_ROWS = 65_536
"""Runs of one append are put together again, up to about so many rows."""


class Then:
    """A clock that says when the rows at hand were appended."""

    instant = 0

    def now(self) -> int:
        return self.instant


def salvage(
    path: str | os.PathLike[str], target: str | os.PathLike[str], *, progress: bool | None = None
) -> Report:
    """Copy what is sound of a damaged lab into a new lab at ``target``, and report.

    The report has the damage of the source; the rows that were saved; ``gaps``, which offsets are
    lost; and ``moves``, which offsets the others have now. ``target`` is missing or empty; the
    source is never changed.

    Raises:
        StreamlabError: there is no lab at ``path``, or ``target`` holds something already.
    """
    source, place = Path(path).expanduser().absolute(), Path(target).expanduser().absolute()
    if os.path.lexists(place) and (not place.is_dir() or any(place.iterdir())):
        raise StreamlabError(
            f"{place} is there already", hint="salvage makes a new lab: give a new folder"
        )
    if place.resolve().is_relative_to(source.resolve()):
        raise StreamlabError(
            f"{place} lies in the lab that is to be saved", hint="give a folder beside it"
        )
    damage = verify_lab(source)
    clock = Then()
    checks = Checks(source, "")
    total = Report(problems=damage.problems)
    with Lab(place, sync="os", clock=clock) as lab:
        for folder in stream_folders(Catalog(source), checks):
            total += _saved(lab, clock, folder, progress)
    return total + Report(notes=damage.notes)


def _saved(lab: Lab, clock: Then, folder: Path, progress: bool | None) -> Report:
    name, notes = folder.name, list[str]()
    manifest = _manifest(folder)
    files = _files(folder, manifest)
    info = _info(folder, files, notes)
    if info is None:
        return Report(notes=(f"{name}: nothing could be saved, not even its columns", *notes))
    final = replace(info, id=uuid.uuid4().hex)
    user = pa.schema([f for f in info.schemas[-1] if f.name not in SYSTEM_FIELDS])
    plain = stored_schema(user, partitions=info.partitions, deletions=False)
    open_settings = {**info.settings, "sync": None, "max_ahead": None}
    copy = replace(final, schemas=(plain,), retention=Retention(), settings=open_settings)
    clock.instant = int(info.created * 1e6)
    lab._catalog.add(copy)  # noqa: SLF001
    stream = lab[name]
    first = int(files[0].path.name[:20]) if files else 0
    compacted = manifest.compacted if manifest else max((f.compacted for f in files), default=0)
    saver = Saver(stream, clock, info, manifest.start if manifest else first, compacted)
    total = sum(frame.rows for file in files for frame in file.row_frames)
    with progress_bar(total, name, "rows", progress) as bar:
        for file in files:
            saver.take(file, bar)
    saver.finish(_known_end(folder, manifest))
    stream.flush()
    written = lab._catalog.info(name)  # noqa: SLF001
    lab._catalog.save(  # noqa: SLF001
        replace(written, retention=info.retention, settings=info.settings)
    )
    stats = stream.stats()
    return Report(
        1, stats.segments, stats.rows, stats.bytes, (), (*notes, *saver.notes), tuple(saver.gaps),
        tuple(saver.moves),
    )  # fmt: skip


def _manifest(folder: Path) -> Manifest | None:
    try:
        return read_manifest(folder / "manifest")
    except ERRORS:
        return None


def _files(folder: Path, manifest: Manifest | None) -> list[FrameFile]:
    """Return the segment files that can be opened, in the order of their offsets."""
    if manifest is not None:
        known: list[tuple[Path, int | None]] = [(folder / s.file, s.id) for s in manifest.segments]
    else:
        paths = [p for p in folder.iterdir() if FILE_NAME.fullmatch(p.name)]
        paths.sort(key=lambda p: (p.name[:20], p.suffix != ".arrow", p.name))
        known = [(path, None) for path in paths]
    files = []
    for path, segment in known:
        try:
            files.append(FrameFile(path, segment))
        except ERRORS:  # verify has reported it
            continue
    return files


def _known_end(folder: Path, manifest: Manifest | None) -> int:
    """Return the offset that the stream went to at least."""
    end = manifest.active.stop if manifest else 0
    head = HeadFile(folder / "head").read()
    if head is not None:
        end = max(end, head.end if head.boot == boot_id() else head.durable)
    return end


# -- what the stream is ------------------------------------------------------------------------


def _info(folder: Path, files: list[FrameFile], notes: list[str]) -> StreamInfo | None:
    """Return what the stream is: as stream.json says, or else as can be told."""
    name, path = folder.name, folder / "stream.json"
    try:
        return replace(parse_info(load_json(disk.read(path), path), path), name=name)
    except ERRORS:
        pass
    found = _schemas(files)
    try:
        text = disk.read(path)
        info = parse_info(_without_checksum(text), path)
        schemas = tuple(found.get(number, s) for number, s in enumerate(info.schemas, 1))
        settings = Settings(**info.settings).stored()
        columns = schemas[-1].names
        if {*info.key, *filter(None, [info.time])} <= set(columns):
            notes.append(
                f"{name}: stream.json is damaged; time, key and settings are taken as it reads"
            )
            return replace(info, name=name, schemas=schemas, settings=settings)
    except ERRORS:
        pass
    if not found:
        return None
    schema = found[max(found)]
    time = _time_column(files, found)
    key = _key_columns(files, found, time)
    why = f"time {time}, key {', '.join(key) or None}, as the rows tell; partitions and settings are lost"
    notes.append(f"{name}: stream.json is lost: {why}")
    user = pa.schema([f for f in schema if f.name not in SYSTEM_FIELDS])
    stored = stored_schema(user, partitions=1, deletions=bool(key))
    return StreamInfo("", name, (stored,), time=time, key=key, settings=Settings().stored())


def _without_checksum(text: bytes) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(text[: text.rfind(b"\nchecksum ")])
    for schema in content["schemas"]:
        base64.b64decode(schema["arrow"], validate=True)
    return content


def _schemas(files: list[FrameFile]) -> dict[int, pa.Schema]:
    """Return the schemas that the files carry, by id."""
    found = {}
    for file in files:
        try:
            schema = file.schema
        except ERRORS:
            continue
        if schema is not None:
            stored = [field for field in schema if field.name != "_offset"]
            found[file.frames[0].schema] = pa.schema(stored)
    return found


def _time_column(files: list[FrameFile], schemas: dict[int, pa.Schema]) -> str | None:
    """Tell the event-time column: the one whose times are those that the headers say."""
    last = schemas[max(schemas)]
    names = {f.name for f in last if pa.types.is_timestamp(f.type) or pa.types.is_date32(f.type)}
    for file in files:
        for frame in file.row_frames:
            schema = schemas.get(frame.schema)
            if schema is None or len(names) <= (frame.event_min == frame.append_time):
                continue
            batch = file.batch(frame, file.schema or schema)
            names = {n for n in names if n in schema.names and _fits(batch, n, frame)}
    return min(names) if len(names) == 1 else None


def _key_columns(
    files: list[FrameFile], schemas: dict[int, pa.Schema], time: str | None
) -> tuple[str, ...]:
    """Tell the key from the deletions, which have nothing else; without one nothing is told."""
    names: set[str] | None = None
    for file in files:
        for frame in file.row_frames:
            schema = schemas.get(frame.schema)
            if schema is None or "_deleted" not in schema.names:
                continue
            batch = file.batch(frame, file.schema or schema)
            gone = batch.filter(batch.column("_deleted").fill_null(False))
            if gone.num_rows:
                full = {n for n in schema.names if not gone.column(n).null_count}
                names = full if names is None else names & full
    return tuple(sorted((names or set()) - {time, *SYSTEM_FIELDS}))


def _fits(batch: pa.RecordBatch, name: str, frame: Frame) -> bool:
    try:
        times = event_times(batch.column(name), name)
    except StreamlabError:
        return False
    return bool(frame.event_min <= times.min() and times.max() <= frame.event_max)


# -- its rows ----------------------------------------------------------------------------------


class Saver:
    """Appends the sound rows of one stream's files to a new stream, run by run."""

    def __init__(
        self, stream: Stream, clock: Then, info: StreamInfo, start: int, compacted: int
    ) -> None:
        self.stream = stream
        self.clock = clock
        self.info = info
        self.next = start  # the old offset that comes next
        self.gaps: list[Gap] = []
        self.moves: list[Move] = []
        self.notes: list[str] = []
        self.ended = False
        self.upto = compacted  # the old offset below which the stream was
        self.compacted = 0  # and the new one
        self.user = pa.schema([f for f in info.schemas[-1] if f.name not in SYSTEM_FIELDS])

    def take(self, file: FrameFile, bar: Any) -> None:
        """Append the sound rows of a file; heartbeats between them too."""
        if any(frame.kind == Kind.SPARSE for frame in file.frames):
            self._take_sparse(file, bar)
        else:
            self._take(file, file.row_frames, file.runs, file.stop, bar)
        if file.stop <= self.upto:
            self.compacted = self.stream.end_offset

    def _take_sparse(self, file: FrameFile, bar: Any) -> None:
        """Append the sound rows of a compacted file, as if there were no gaps between them."""
        frames, stop = file.row_frames, file.stop
        if frames[0].base > self.next:
            self._gap(frames[0].base)
        for one, two in itertools.pairwise(frames):
            if one.base + one.rows < two.base:
                self.gaps.append(Gap(self.info.name, one.base + one.rows, two.base))
        first, to, moves = max(self.next, frames[0].base), self.stream.end_offset, len(self.moves)
        dense = DenseFile(file, self._schema(file, frames[0]), first)
        self.next = first
        self._take(dense, dense.row_frames, dense.runs, dense.stop, bar)
        self.next = stop
        del self.moves[moves:]
        self.notes.append(
            f"{self.info.name}: offsets [{first:,}, {stop:,}) were compacted; the rows that were left "
            f"are [{to:,}, {self.stream.end_offset:,}) now"
        )

    def _take(self, file: FrameFile, frames: list[Frame], runs: Runs, end: int, bar: Any) -> None:
        if file.path.suffix == ".arrow" and not file.closed:
            self.notes.append(
                f"{self.info.name}: append times in {file.path.name} are not all known"
            )
        at = 0
        for some, stop in _appends(runs, end):
            start = int(some["base"][0])
            self.clock.instant = int(some["append_time"][0])
            while at < len(frames) and frames[at].base + frames[at].rows <= start:
                at += 1
            if start == stop:
                self._heartbeat(int(some["after"][-1]))
                continue
            for base, batch in self._pieces(file, frames, at, start, stop):
                self._append(base, batch, some, stop)
                bar.update(batch.num_rows)

    def _pieces(
        self, file: FrameFile, frames: list[Frame], at: int, start: int, stop: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield the rows of one run that are there, in stretches without a hole."""
        waiting: list[pa.RecordBatch] = []
        base = end = start
        while at < len(frames) and frames[at].base < stop:
            frame = frames[at]
            at += 1
            low, high = max(frame.base, start, self.next), min(frame.base + frame.rows, stop)
            if low >= high:
                continue
            try:
                batch = file.batch(frame, self._schema(file, frame)).slice(
                    low - frame.base, high - low
                )
            except ERRORS:  # its checksum is right and its rows are not: a gap
                continue
            if waiting and low != end:
                yield base, pa.concat_batches(waiting)
                waiting = []
            base = base if waiting else low
            end = high
            waiting.append(adapt(batch, self._target(batch)))
        if waiting:
            yield base, pa.concat_batches(waiting)

    def _schema(self, file: FrameFile, frame: Frame) -> pa.Schema:
        if (schema := file.schema) is not None:
            return schema
        stored = self.info.stored(frame.schema)
        sparse = frame.kind == Kind.SPARSE
        return pa.schema([SYSTEM_FIELDS["_offset"], *stored]) if sparse else stored

    def _target(self, batch: pa.RecordBatch) -> pa.Schema:
        flag = [SYSTEM_FIELDS["_deleted"]] if "_deleted" in batch.schema.names else []
        return pa.schema([*flag, *self.user])

    def _append(self, base: int, batch: pa.RecordBatch, some: Runs, stop: int) -> None:
        some = some[max(int(np.searchsorted(some["base"], base, "right")) - 1, 0) :]
        if base > self.next:
            self._gap(base)
            self._heartbeat(int(some["before"][0]))  # what is lost made rows late that still are
        to = self.stream.end_offset
        if "_deleted" in batch.schema.names:
            self._append_stretches(batch)
        else:
            self._append_rows(base, batch, some, stop)
        self._moved(base, base + batch.num_rows, to)
        self.next = base + batch.num_rows

    def _append_rows(self, base: int, batch: pa.RecordBatch, some: Runs, stop: int) -> None:
        """Append rows, and with them how stream time moved on between and after them."""
        log, rest = self.stream._scan.log, base + batch.num_rows  # noqa: SLF001
        some = some[: int(np.searchsorted(some["base"], rest, "left"))]
        rows = rows_of(log, self.stream._info, pa.Table.from_batches([batch]))  # noqa: SLF001
        after = int(some["after"][-1]) if rest == stop else NEVER
        if after == FOREVER:
            self.ended, after = True, NEVER
        now = log.reader.moment().stream_time
        known = max(now, rows.events[1] if rows.events else self.clock.instant)
        if len(some) == 1 and some["before"][0] <= now and after <= known:
            self.stream.append(batch)
            return
        runs = np.zeros(len(some), RELATIVE_RUN)
        runs["base"] = np.maximum(some["base"] - base, 0)
        runs["before"] = some["before"]
        log.writer.append(rows._replace(runs=runs), stream_time=after)

    def _append_stretches(self, batch: pa.RecordBatch) -> None:
        """Append rows and deletions in their order."""
        deleted = np.asarray(batch.column("_deleted").fill_null(False))
        rows = batch.drop_columns(["_deleted"])
        cuts = np.flatnonzero(np.diff(deleted)) + 1
        bounds = [0, *cuts.tolist(), len(deleted)]
        for start, stop in itertools.pairwise(bounds):
            part = rows.slice(start, stop - start)
            if not deleted[start]:
                self.stream.append(part)
                continue
            for key in part.select(list(self.info.key)).to_pylist():
                self.stream.delete(key)

    def _gap(self, stop: int) -> None:
        if stop > self.next:
            self.gaps.append(Gap(self.info.name, self.next, stop))

    def _moved(self, start: int, stop: int, to: int) -> None:
        last = self.moves[-1] if self.moves else None
        if last and last.stop == start and last.to + last.stop - last.start == to:
            self.moves[-1] = last._replace(stop=stop)
        else:
            self.moves.append(Move(self.info.name, start, stop, to))

    def _heartbeat(self, after: int) -> None:
        if after == FOREVER:
            self.ended = True
        elif after != NEVER:
            self.stream._scan.log.writer.heartbeat(after)  # noqa: SLF001

    def finish(self, end: int) -> None:
        """Note what is missing at the end, and that of some rows there are only the last ones."""
        self._gap(max(end, self.next))
        if self.compacted:
            log, upto = self.stream._scan.log, self.compacted  # noqa: SLF001
            update_manifest(
                log.folder,
                log.maintenance.manifest_lock,
                lambda manifest: manifest._replace(compacted=upto),
            )
        if self.ended:
            self.stream.advance("end")


class DenseFile(FrameFile):
    """A compacted file with its rows numbered without gaps, from some offset on."""

    def __init__(self, file: FrameFile, schema: pa.Schema, first: int) -> None:
        self.path, self.data, self.segment = file.path, file.data, file.segment
        self.frames, self.holes, self.end = file.frames, file.holes, file.end
        self._schema = schema
        self._found: dict[int, tuple[Frame, pa.RecordBatch]] = {}
        at, offsets = first, [np.empty(0, np.int64)]
        for frame in file.row_frames:
            try:
                batch = file.batch(frame, schema)
            except ERRORS:
                continue
            stay = offsets_of(batch) >= first  # what is below was trimmed
            batch = batch.filter(pa.array(stay))
            offsets.append(offsets_of(batch))
            self._found[at] = (frame._replace(base=at, rows=batch.num_rows), batch)
            at += batch.num_rows
        self._stop = at
        self._runs = file.runs.copy()
        self._runs["base"] = first + np.searchsorted(np.concatenate(offsets), self._runs["base"])

    @property
    def row_frames(self) -> list[Frame]:
        return [frame for frame, batch in self._found.values() if batch.num_rows]

    @property
    def runs(self) -> Runs:
        return self._runs

    @property
    def stop(self) -> int:
        return self._stop

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def batch(self, frame: Frame, schema: pa.Schema) -> pa.RecordBatch:
        del schema
        return self._found[frame.base][1].drop_columns(["_offset"])


def _appends(runs: Runs, end: int) -> Iterator[tuple[Runs, int]]:
    """Yield runs of the same append together, and the offset after their rows; heartbeats alone."""
    bases, times = runs["base"].tolist(), runs["append_time"].tolist()
    stops = [*bases[1:], max(end, bases[-1])] if bases else []
    at = 0
    while at < len(bases):
        first, at = at, at + 1
        while (
            at < len(bases)
            and times[at] == times[first]
            and stops[at] > bases[at] > bases[at - 1]
            and bases[at] - bases[first] < GROUP_ROWS
        ):
            at += 1
        yield runs[first:at], stops[at - 1]
