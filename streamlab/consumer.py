"""Consumers: a group reads each row of a stream once, however many members share the work.

A consumer is a member of a group. Members own partitions, each of them one member at a time; they
hand them over at a poll and when they end, however they end. What a member has done it commits; what
it has read and not committed goes to the next owner again. So every row is processed at least once,
and a committed one never again, unless somebody says so.

Invariants: rows come in the order of offsets, those of a partition that was taken over from where its
last commit stands; a position moves only when a poll has its rows ready; what is committed is
durable, and the rows that it rests on are before it is.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from streamlab.backlog import begins_at, rows_ahead
from streamlab.catalog import check_name
from streamlab.errors import Fenced, HistoryChanged, LabClosed, OffsetOutOfRange
from streamlab.follow import first_offset
from streamlab.log.groups import Claim, GroupFiles, Membership, Place, Positions
from streamlab.log.interrupts import interrupts_deferred
from streamlab.log.manifest import Segment
from streamlab.scan import Scan, with_system
from streamlab.shown import Shown

__all__ = ["Consumer", "group_files", "place_at"]

LOOK_SECONDS = 0.1
"""How often a member that waits for rows looks whether others came or went."""

PIECE_ROWS = 1 << 16
"""So many rows of a batch are looked at at once."""

FEW_ROWS = 1_000
"""Batches that are smaller on the average are put together into one."""


class Consumer(Shown):
    """A member of a consumer group, which shares the stream's partitions with the others.

    Made by ``stream.consumer(group)``; use it in a ``with`` block, or `close` it. It may be used by
    several threads. It polls, and commits when its user says so::

        with lab["trades"].consumer("billing") as consumer:
            while (rows := consumer.poll(timeout=5.0)).num_rows:
                bill(rows)
                consumer.commit()
    """

    def __init__(self, scan: Scan, group: str, start: Any = "earliest") -> None:
        info = scan.info()
        self.stream, self.group = info.name, group
        self._scan, self._partitions = scan, info.partitions
        self._files = group_files(scan, group)
        self._claims: dict[int, Claim] = {}
        self._lost: set[int] = set()  # given up with rows that were handed out and not committed
        self._feed: _Feed | None = None
        self._seen: Positions | None = None
        self._pid, self._closed = os.getpid(), False
        self._turn = threading.RLock()
        self._files.make(lambda: _first_places(scan, start))
        with interrupts_deferred(), self._group_exists():
            self._member = self._files.join()
            self._leave = weakref.finalize(self, _leave, self._member, self._claims)
        scan.log.feeders.add(self)
        try:
            self._share()
        except BaseException:
            self._leave()
            raise

    # -- reading -----------------------------------------------------------------------------

    def poll(self, rows: int = 65_536, timeout: float | None = 1.0) -> pa.Table:
        """Return the next rows of this member's partitions, at most so many, in order of offsets.

        It returns as soon as there are any; after ``timeout`` seconds (None: never) the table is
        empty. Here members share the partitions anew: one that has more than its share gives some
        up, and what it polled of those and did not commit goes to the next owner.

        Raises:
            OffsetOutOfRange: rows that the group has not read were removed; says what is left.
            HistoryChanged: the stream is not the one that the group has read.
            Fenced: the group was deleted, or this process was forked from the member.
        """
        if rows < 1:
            raise ValueError(f"rows is at least 1; got {rows!r}")
        started = time.monotonic()
        while True:
            with self._used():
                serial = self._scan.log.reader.head.serial()
                self._share()
                table = self._next(rows)
            left = None if timeout is None else timeout - (time.monotonic() - started)
            if table.num_rows or (left is not None and left <= 0):
                return table
            self._scan.log.wait(serial, LOOK_SECONDS if left is None else min(left, LOOK_SECONDS))

    def _next(self, rows: int) -> pa.Table:
        """Read on, and move the positions when the rows are there."""
        feed, self._feed = self._feed, None  # nothing is kept of one that fails
        if not self._claims:
            return replace(self._scan, stop=0).fix(pin=False).schema.empty_table()
        before = self._positions()
        try:
            feed = feed or _Feed(self._scan, before)
            self._see_none_removed(feed)
            table, owners = feed.take(rows)
            for claim in self._claims.values():
                claim.position = max(claim.position, feed.reached)
                claim.dirty |= claim.partition in owners
        except BaseException as error:
            for partition, claim in self._claims.items():
                claim.position = before[partition]
            if isinstance(error, OffsetOutOfRange):
                self._see_none_removed(_Feed(self._scan, before))
            raise
        self._feed = None if feed.done else feed
        return table

    def _see_none_removed(self, feed: _Feed) -> None:
        """Raise if rows were removed that this member has not read."""
        start, stop = feed.snapshot.start, feed.snapshot.stop
        behind = {p: at for p, at in feed.positions.items() if at < start}
        if behind:
            first = min(behind.values())
            raise OffsetOutOfRange(
                f'group "{self.group}" has read {_named(behind)} of stream "{self.stream}" up to '
                f"offset {first}, and rows beyond it have been removed: there are [{start}, {stop})",
                hint='consumer.seek("earliest") goes on with what is left; without members, '
                f'lab.groups["{self.group}"].reset(to="earliest", dry_run=False)',
                asked=first,
                available=range(start, stop),
            )

    def commit(self) -> dict[int, int]:
        """Commit what was polled: rows before these positions are never given to the group again.

        All partitions are committed as one, durably, and returned with their positions. Rows are
        durable before the commit that rests on them is (but for ``sync="os"``).

        Raises:
            Fenced: partitions with rows that were polled belong to another member now, which gets
                those rows again; what this one still owns is committed all the same.
            StreamLocked: somebody else replaces the group's positions, for ten seconds.
        """
        with self._used():
            moved = [c for c in self._claims.values() if c.position != c.place.offset]
            lost = self._commit(moved) if moved else []
            for claim in lost:
                self._give_up(claim)
            for claim in self._claims.values():
                claim.dirty = False
            gone, self._lost = self._lost, set()
            if gone:
                raise self._fenced(gone)
            return self._positions()

    def _commit(self, claims: list[Claim]) -> list[Claim]:
        log = self._scan.log
        if log.writer.policy.sync != "os":
            log.make_durable(max(claim.position for claim in claims))
        now, known = log.clock.now(), dict[int, Place]()
        places = []
        for claim in claims:
            if claim.position not in known:
                known[claim.position] = place_at(self._scan, claim.position)
            place = known[claim.position]
            places.append((claim, place._replace(generation=claim.generation, committed=now)))
        with interrupts_deferred(), self._group_exists():
            return self._files.commit(places)

    def seek(self, to: Any, *, partition: int | None = None) -> dict[int, int]:
        """Go on reading elsewhere, in all partitions that this member owns, or in one of them.

        ``to`` is ``"earliest"``, ``"end"``, ``"committed"``, an offset, an instant (of stream time), or
        a dict of partitions and these. Nothing is committed by it; the next commit is of the new
        place, also where that is further back. Returns the positions.

        Raises:
            OffsetOutOfRange: an offset that is not there.
            ValueError: a partition that this member does not own.
        """
        with self._used():
            wanted = to if isinstance(to, Mapping) else dict.fromkeys(self._claims, to)
            if partition is not None and not isinstance(to, Mapping):
                wanted = {partition: to}
            foreign = set(wanted) - set(self._claims)
            if foreign:
                raise ValueError(
                    f"{_named(foreign)} is not this member's: it has "
                    f"{_named(self._claims) if self._claims else 'none'}"
                )
            snapshot = self._scan.fix(pin=False)
            found = {
                p: self._claims[p].place.offset
                if isinstance(place, str) and place == "committed"
                else first_offset(self._scan, place, snapshot.start, snapshot.stop)
                for p, place in wanted.items()
            }
            for number, offset in found.items():
                claim = self._claims[number]
                claim.position, claim.dirty = offset, offset != claim.place.offset
            self._feed = None
            return self._positions()

    # -- what it is --------------------------------------------------------------------------

    @property
    def position(self) -> dict[int, int]:
        """The offset from which each partition of this member is read on."""
        with self._turn:
            return self._positions()

    @property
    def committed(self) -> dict[int, int]:
        """The offset up to which each partition of this member is committed."""
        with self._turn:
            return {p: self._claims[p].place.offset for p in sorted(self._claims)}

    @property
    def lag(self) -> int:
        """How many rows of this member's partitions it has not polled yet."""
        positions = self.position
        if not positions:
            return 0
        snapshot = replace(self._scan, start=min(positions.values())).fix(pin=False)
        return sum(rows_ahead(snapshot, positions).values())

    def _positions(self) -> dict[int, int]:
        return {p: self._claims[p].position for p in sorted(self._claims)}

    def __repr__(self) -> str:
        what = f'Consumer of "{self.stream}" in group "{self.group}"'
        if self._closed or os.getpid() != self._pid:
            return f"{what} (closed)"
        positions = self.position
        share = f"{len(positions)} of {self._partitions} partitions"
        if not positions:
            return f"{what}: {share}; it stands by"
        places = ", ".join(f"{p} at {at:,}" for p, at in list(positions.items())[:8])
        more = ", …" if len(positions) > 8 else ""
        return f"{what}: {share}, {self.lag:,} rows to read\n  {places}{more}"

    def close(self) -> None:
        """Leave the group, so that others take over at once; what was not committed is not done.

        Closing twice is harmless.
        """
        if os.getpid() == self._pid:
            with self._turn:
                self._closed = True
                self._leave()

    def __enter__(self) -> Consumer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- sharing -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        """Let one thread at a time use an open consumer, in the process that made it."""
        if os.getpid() != self._pid:
            raise Fenced(
                f'the member of group "{self.group}" is process {self._pid}, which this one was '
                "forked from",
                hint="open a lab and a consumer of its own in the child",
                group=self.group, partitions=tuple(sorted(self._claims)),
            )  # fmt: skip
        with self._turn:
            if self._closed:
                raise LabClosed(
                    f'the consumer in group "{self.group}" is closed',
                    hint="stream.consumer(group) makes another one, which goes on from the commit",
                )
            yield

    def _share(self) -> None:
        """Give up partitions that are more than this member's share, or take some that are free.

        One that was moved by hand is given up too, and taken again at its new place.
        """
        with interrupts_deferred(), self._group_exists():
            positions = self._files.look()
            if positions is not self._seen:
                self._seen = positions
                for claim in [c for c in self._claims.values() if not c.fits(positions)]:
                    self._give_up(claim)
            wanted, share = self._member.share(self._partitions)
            surplus = len(self._claims) - share
            if surplus > 0:
                order = [p for p in reversed(wanted) if p in self._claims]
                order.sort(key=lambda p: self._claims[p].dirty)  # the committed ones first
                for partition in order[:surplus]:
                    self._give_up(self._claims[partition])
            elif surplus < 0:
                free = [p for p in wanted if p not in self._claims]
                self._take(self._files.take(free, -surplus, self._member.name))

    def _take(self, claims: list[Claim]) -> None:
        self._claims.update({claim.partition: claim for claim in claims})
        self._lost.difference_update(claim.partition for claim in claims)
        if claims:
            self._feed = None
        try:
            for claim in claims:
                _check_history(self._scan, self.group, claim)
        except BaseException:
            for claim in claims:
                self._give_up(claim)
            raise

    def _give_up(self, claim: Claim) -> None:
        del self._claims[claim.partition]
        claim.lock.release()
        self._feed = None
        if claim.dirty:
            self._lost.add(claim.partition)

    @contextlib.contextmanager
    def _group_exists(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            partitions = tuple(sorted(self._claims))
            if hasattr(self, "_leave"):
                self.close()
            self._scan.log.reader.moment()  # a stream that was dropped says so
            raise Fenced(
                f'group "{self.group}" of stream "{self.stream}" was deleted',
                hint="stream.consumer(group) makes it anew",
                group=self.group,
                partitions=partitions,
            ) from error

    def _fenced(self, partitions: set[int]) -> Fenced:
        return Fenced(
            f'group "{self.group}" has taken {_named(partitions)} of stream "{self.stream}" from '
            "this member: what it polled there and did not commit goes to the next owner",
            hint="go on polling: the other partitions are committed; commit before the next poll "
            "to hand over nothing twice",
            group=self.group, partitions=tuple(sorted(partitions)),
        )  # fmt: skip


class _Feed:
    """The rows of some partitions at one moment, of each from its own position on."""

    def __init__(self, scan: Scan, positions: Mapping[int, int]) -> None:
        self.positions = positions
        self.snapshot = replace(scan, start=min(positions.values())).fix(pin=False)
        self.reached = self.snapshot.start  # all rows of these partitions below it were taken
        self.done = False
        self._begins = begins_at(positions, self.snapshot.info.partitions)
        self._pieces = self._read()
        self._rest: pa.RecordBatch | None
        self._rest, self._until = next(self._pieces, (None, self.snapshot.stop))

    def take(self, rows: int) -> tuple[pa.Table, set[int]]:
        """Return the next rows, at most so many, and the partitions that they are of."""
        taken, owners = [], set[int]()
        while rows and self._rest is not None:
            part, rest = self._rest.slice(0, rows), self._rest.slice(rows)
            rows -= part.num_rows
            if part.num_rows:
                taken.append(part)
                owners.update(np.unique(part.column("_partition").to_numpy()).tolist())
            if rest.num_rows:
                self._rest, self.reached = rest, part.column("_offset")[-1].as_py() + 1
            else:
                self.reached = self._until
                self._rest, self._until = next(self._pieces, (None, self.snapshot.stop))
        if self._rest is None:
            self.reached, self.done = max(self.reached, self.snapshot.stop), True
        table = pa.Table.from_batches(taken, self.snapshot.schema)
        return table.combine_chunks() if table.num_rows < FEW_ROWS * len(taken) else table, owners

    def _read(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Yield batches of the rows that are wanted, each with the offset that it reaches to."""
        snapshot = self.snapshot
        for chunk in snapshot.chunks([s for s in snapshot.segments() if self._may_hold(s)]):
            for at in range(0, chunk.batch.num_rows, PIECE_ROWS):
                batch = with_system(chunk.part(at, PIECE_ROWS), snapshot.schema)
                offsets = batch.column("_offset").to_numpy()
                wanted = offsets >= self._begins[batch.column("_partition").to_numpy()]
                rows = batch if wanted.all() else batch.filter(pa.array(wanted))
                yield rows, int(offsets[-1]) + 1

    def _may_hold(self, segment: Segment) -> bool:
        counts = segment.partitions
        growing = segment is self.snapshot.moment.manifest.active
        return growing or counts is None or any(counts[p] for p in self.positions)


def group_files(scan: Scan, group: str) -> GroupFiles:
    """Return the files of a group of a stream.

    Raises:
        InvalidName: the name could not be that of a folder everywhere.
    """
    taken = [path.name for path in (scan.log.folder / "groups").glob("[!.]*")]
    check_name(group, taken, "group")
    return GroupFiles(scan.log.folder, scan.log.stream, group)


def place_at(scan: Scan, offset: int) -> Place:
    """Return a place, with what tells later whether the rows before it are still the same."""
    return Place(offset, scan.log.reader.append_time_below(offset))


def _first_places(scan: Scan, start: Any) -> list[Place]:
    """Return where a new group begins, the same in every partition."""
    snapshot = scan.fix(pin=False)
    place = place_at(scan, first_offset(scan, start, snapshot.start, snapshot.stop))
    return [place._replace(committed=scan.log.clock.now())] * snapshot.info.partitions


def _check_history(scan: Scan, group: str, claim: Claim) -> None:
    """See that the stream is the one that the group has read.

    Raises:
        HistoryChanged: rows were lost, or lost and others came in their place.
    """
    place, snapshot = claim.place, scan.fix(pin=False)
    end = snapshot.stop
    found = scan.log.reader.append_time_below(place.offset)
    other = None not in (found, place.appended) and found != place.appended
    other &= (
        place.offset >= snapshot.moment.compacted
    )  # the row before it may be gone, and its time
    if place.offset > end or other:
        what = (
            f"holds other rows below offset {place.offset} than"
            if place.offset <= end
            else f"ends at offset {end}, below {place.offset}, which"
        )
        raise HistoryChanged(
            f'stream "{scan.info().name}" {what} group "{group}" has read in partition '
            f"{claim.partition}",
            hint=f'lab.groups["{group}"].reset(to=..., dry_run=False) says where it goes on',
        )


def _named(partitions: Iterable[int]) -> str:
    """Return partitions as a sentence names them."""
    numbers = sorted(partitions)
    return f"partition{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"


def _leave(member: Membership, claims: dict[int, Claim]) -> None:
    """Let go of every lock; a forked child holds none."""
    for claim in claims.values():
        claim.lock.release()
    claims.clear()
    member.leave()
