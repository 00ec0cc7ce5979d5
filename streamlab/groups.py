"""The consumer groups of a lab: how far they have come, who their members are, and moving them.

A group has a name, and positions in each stream that a consumer of that name has read. Its members
move them by committing; `Group.reset` moves them by hand, while there are none.
"""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from streamlab.backlog import rows_ahead, shifted
from streamlab.catalog import NAME, remove_folder
from streamlab.consumer import group_files, place_at
from streamlab.duration import (
    Duration,
    Instant,
    format_duration,
    format_instant,
    parse_duration,
)
from streamlab.errors import CorruptSegment, StreamNotFound
from streamlab.follow import first_offset
from streamlab.log.groups import GroupFiles
from streamlab.scan import Scan, offset_of
from streamlab.shown import Shown, notebook

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Group", "Groups", "Member"]


class Member(NamedTuple):
    """A live member of a group."""

    stream: str
    pid: int
    host: str
    since: dt.datetime
    partitions: tuple[int, ...]


class Groups(Mapping[str, "Group"], Shown):
    """The consumer groups of a lab by name; ``lab.groups``."""

    def __init__(
        self,
        streams: Callable[[], list[str]],
        scan_of: Callable[[str], Scan],
        check_writable: Callable[[], None],
    ) -> None:
        self._streams, self._scan_of, self._check = streams, scan_of, check_writable

    def _found(self) -> dict[str, list[str]]:
        """Return the names of all groups, sorted, each with its streams."""
        found: dict[str, list[str]] = {}
        for stream in self._streams():
            folder = self._scan_of(stream).log.folder / "groups"
            for path in folder.glob("*/positions"):
                if NAME.fullmatch(path.parent.name):
                    found.setdefault(path.parent.name, []).append(stream)
        return dict(sorted(found.items()))

    def __getitem__(self, name: str) -> Group:
        found = self._found()
        if name not in found:
            near = difflib.get_close_matches(str(name), found, n=3, cutoff=0.4) or list(found)[:5]
            hint = (
                f"did you mean {', '.join(map(repr, near))}?"
                if near
                else "stream.consumer(group) makes one"
            )
            raise StreamNotFound(f'there is no consumer group "{name}"', hint=hint)
        return Group(name, {s: self._scan_of(s) for s in found[name]}, self._check)

    def __iter__(self) -> Iterator[str]:
        return iter(self._found())

    def __len__(self) -> int:
        return len(self._found())

    def __repr__(self) -> str:
        return _shown(self.to_polars()) if len(self) else "Groups: none"

    def live(self) -> Any:
        """Show how far all groups are; returns at once, the widget to be shown.

        Raises:
            MissingExtra: widgets are not installed; says the pip line.
        """
        return notebook("panels").GroupPanel(self)

    def to_polars(self) -> pl.DataFrame:
        """Return a row for each group, stream and partition; see `Group.to_polars`."""
        import polars as pl

        frames = [group.to_polars() for group in self.values()]
        return pl.concat(frames) if frames else pl.DataFrame(schema=_columns())


class Group(Shown):
    """One consumer group of a lab, over all streams that it reads; ``lab.groups[name]``."""

    def __init__(
        self, name: str, scans: Mapping[str, Scan], check_writable: Callable[[], None]
    ) -> None:
        self.name = name
        self._scans, self._check = scans, check_writable

    @property
    def streams(self) -> tuple[str, ...]:
        """The streams that the group has positions in."""
        return tuple(self._scans)

    @property
    def position(self) -> dict[str, dict[int, int]]:
        """The committed position of each partition of each stream."""
        return {
            stream: {p: place.offset for p, place in enumerate(self._files(stream).read().places)}
            for stream in self._scans
        }

    @property
    def lag(self) -> int:
        """How many rows are not committed yet, of all streams."""
        return int(self.to_polars()["lag"].sum())

    @property
    def members(self) -> tuple[Member, ...]:
        """The live members, those of a stream in the order in which they joined."""
        found = []
        for stream, scan in self._scans.items():
            files = self._files(stream)
            owners = files.owners(scan.info().partitions)
            for name, said in files.members().items():
                owned = tuple(p for p, who in owners.items() if who.get("member") == name)
                since = dt.datetime.fromtimestamp(said.get("since", 0.0), dt.UTC)
                found.append(
                    Member(stream, said.get("pid", 0), said.get("host", "?"), since, owned)
                )
        return tuple(found)

    def to_polars(self) -> pl.DataFrame:
        """Return a row for each stream and partition: how far the group is and how far behind.

        ``position`` is the committed one, ``lag`` the rows of the partition from there to ``end``,
        ``waiting`` how long the first of them has been there, ``pid`` the process that owns the
        partition.
        """
        import polars as pl

        rows = [row for stream in self._scans for row in self._rows(stream)]
        return pl.DataFrame(rows, schema=_columns(), orient="row")

    def _rows(self, stream: str) -> Iterator[tuple[Any, ...]]:
        scan, files = self._scans[stream], self._files(stream)
        places, snapshot = files.read().places, scan.fix(pin=False)
        owners = files.owners(len(places))
        ahead = rows_ahead(snapshot, {p: place.offset for p, place in enumerate(places)})
        now = scan.log.clock.now()
        for p, place in enumerate(places):
            waiting = dt.timedelta(0)
            if ahead[p]:
                first = shifted(snapshot, p, place.offset, 0)
                _, appended = scan.log.reader.times_at(snapshot.moment, first, None)
                waiting = dt.timedelta(microseconds=max(0, now - appended))
            pid = owners.get(p, {}).get("pid")
            yield self.name, stream, p, place.offset, snapshot.stop, ahead[p], waiting, pid

    def __repr__(self) -> str:
        return _shown(self.to_polars())

    def _files(self, stream: str) -> GroupFiles:
        return group_files(self._scans[stream], self.name)

    # -- moving it ---------------------------------------------------------------------------

    def reset(
        self,
        to: int | Instant | Mapping[int, Any] | None = None,
        shift: int | Duration | None = None,
        *,
        stream: str | None = None,
        dry_run: bool = True,
        force: bool = False,
    ) -> pl.DataFrame:
        """Move the group, and return where each partition was and where it is then.

        Nothing is changed unless ``dry_run=False``. ``to`` is ``"earliest"``, ``"end"``, an offset, an
        instant (of stream time), or a dict of partitions and these; ``shift`` so many rows of each
        partition further (back if negative), or a length of stream time such as ``"-1h"``. ``rows`` in
        the frame is how many rows of the partition are skipped, or given again if negative.
        ``stream`` is one of several. Who is a member goes on where it is: end the members first, or
        ``force`` it, and they are fenced at their next commit.

        Raises:
            StreamLocked: the group has members, and names them.
            OffsetOutOfRange: an offset that is not there.
            ReadOnly: the lab was opened read-only.
        """
        import polars as pl

        if (to is None) == (shift is None):
            raise ValueError(
                'reset takes either to= ("earliest", "end", ...) or shift= (rows, "-1h")'
            )
        if stream is not None and stream not in self._scans:
            raise StreamNotFound(
                f'group "{self.name}" does not read stream "{stream}"',
                hint=f"it reads {', '.join(self._scans)}",
            )
        chosen = [stream] if stream is not None else list(self._scans)
        if isinstance(to, Mapping) and len(chosen) > 1:
            raise ValueError("partitions are those of one stream: say which with stream=")
        moves = [_Move(self._scans[name], self._files(name), to, shift) for name in chosen]
        if not dry_run:
            self._check()
            for move in moves:
                move.apply(force=force)
        columns = {"stream": pl.String} | dict.fromkeys(
            ("partition", "before", "after", "rows"), pl.Int64
        )
        rows = [(name, *row) for name, move in zip(chosen, moves, strict=True) for row in move]
        return pl.DataFrame(rows, schema=columns, orient="row")

    def delete(self) -> None:
        """Forget the group and its positions.

        Raises:
            StreamLocked: it has members, and names them.
            ReadOnly: the lab was opened read-only.
        """
        self._check()
        for stream in self._scans:
            aside = self._files(stream).put_aside()
            for folder in aside.parent.glob(".gone-*"):  # what a crash left of others, too
                remove_folder(folder)


class _Move:
    """Where the partitions of a stream are, and where they are to be; yields them as rows."""

    def __init__(self, scan: Scan, files: GroupFiles, to: Any, shift: Any) -> None:
        self._scan, self._files = scan, files
        self._snapshot = scan.fix()
        partitions = range(self._snapshot.info.partitions)
        self._before: dict[int, int] = {}
        try:
            self._before = {p: place.offset for p, place in enumerate(files.read().places)}
        except CorruptSegment:
            if shift is not None or isinstance(to, Mapping):
                raise  # from where is not known
        if shift is not None:
            self._after = {p: self._shifted(p, self._before[p], shift) for p in partitions}
            return
        targets = to if isinstance(to, Mapping) else dict.fromkeys(partitions, to)
        if foreign := set(targets) - set(partitions):
            raise ValueError(
                f"there are the partitions {partitions}; got {sorted(foreign, key=str)}"
            )
        start, stop = self._snapshot.start, self._snapshot.stop
        found = {p: first_offset(scan, target, start, stop) for p, target in targets.items()}
        self._after = {p: found.get(p, self._before.get(p, start)) for p in partitions}

    def _shifted(self, partition: int, position: int, shift: Any) -> int:
        rows = offset_of(shift)
        if rows is not None:
            return shifted(self._snapshot, partition, position, rows)
        micros, snapshot = _signed(shift), self._snapshot
        last = min(position, snapshot.stop - 1)
        if last < snapshot.start:  # there is no row to say what time it is
            return snapshot.start
        column = snapshot.info.time
        time, _ = self._scan.log.reader.times_at(snapshot.moment, last, column)
        return first_offset(
            self._scan, format_instant(time + micros), snapshot.start, snapshot.stop
        )

    def __iter__(self) -> Iterator[tuple[int, int | None, int, int | None]]:
        now = rows_ahead(self._snapshot, self._before)
        then = rows_ahead(self._snapshot, self._after)
        for partition, after in self._after.items():
            rows = now[partition] - then[partition] if partition in now else None
            yield partition, self._before.get(partition), after, rows

    def apply(self, *, force: bool) -> None:
        """Move the positions; whoever owns a partition is fenced by it."""
        now = self._scan.log.clock.now()
        places = [
            place_at(self._scan, offset)._replace(committed=now) for offset in self._after.values()
        ]
        self._files.reset(places, force=force)


def _signed(shift: Any) -> int:
    """Return a length of time that may point back, in microseconds."""
    if isinstance(shift, str):
        micros = parse_duration(shift.strip().lstrip("+-"), what="shift")
        return -micros if shift.strip().startswith("-") else micros
    if isinstance(shift, dt.timedelta) and shift < dt.timedelta(0):
        return -parse_duration(-shift)
    return parse_duration(shift, what="shift (rows, or a length of time)")


def _columns() -> dict[str, Any]:
    import polars as pl

    return {
        "group": pl.String, "stream": pl.String, "partition": pl.Int64, "position": pl.Int64,
        "end": pl.Int64, "lag": pl.Int64, "waiting": pl.Duration("us"), "pid": pl.Int64,
    }  # fmt: skip


def _shown(frame: pl.DataFrame) -> str:
    """Return groups as a table of text, numbers to the right."""
    lines = [list(frame.columns)]
    for row in frame.iter_rows(named=True):
        row["waiting"] = _rounded(row["waiting"])
        lines.append(
            [f"{v:,}" if k in _COUNTS else "-" if v is None else str(v) for k, v in row.items()]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if name in ("group", "stream") else cell.rjust(width)
            for name, cell, width in zip(frame.columns, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


_COUNTS = {"position", "end", "lag"}


def _rounded(waiting: dt.timedelta) -> str:
    """Return how long something waits, to the second where that is more than ten."""
    unit = (
        dt.timedelta(seconds=1)
        if waiting >= dt.timedelta(seconds=10)
        else dt.timedelta(milliseconds=1)
    )
    return format_duration(waiting // unit * unit // dt.timedelta(microseconds=1))
