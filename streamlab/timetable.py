"""When each row and heartbeat of a log is due in a replay, worked out a block at a time.

An *entry* is a row, or a move of stream time without a row: a heartbeat, or what a frame says of the
time after its rows. It is due at its stream time, or at its append time. A `Place` lies between two
entries. Several streams under one clock are a `Course`: their entries merged by (due, order of the
streams), never reordered within a stream.

Invariants: within a stream ends, stream times and append times never fall, and one of end and stream
time grows with each entry, so that a place is known by these two; memory holds one block of each
stream, however long the logs are; rows are not read, but for their event times.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from streamlab.clock import FOREVER, NEVER
from streamlab.log.manifest import Segment
from streamlab.scan import Scan
from streamlab.schema import event_times

__all__ = ["Course", "Entries", "Merged", "Place", "Timetable"]

Times = npt.NDArray[np.int64]

BLOCK_ROWS = 1 << 16
"""Entries are worked out for so many rows at a time."""


class Place(NamedTuple):
    """How far a log is released: the offset after the last row, and the times there."""

    end: int
    stream_time: int
    append_time: int


class Entries(NamedTuple):
    """Consecutive entries of a stream: when each is due, and the place after it."""

    due: Times
    end: Times
    stream_time: Times
    append_time: Times

    def place(self, index: int) -> Place:
        """Return the place after an entry."""
        return Place(
            int(self.end[index]), int(self.stream_time[index]), int(self.append_time[index])
        )

    def part(self, start: int, stop: int | None = None) -> Entries:
        """Return some of the entries."""
        return Entries(*(column[start:stop] for column in self))

    def reaching(self, place: Place) -> int:
        """Return how many of the entries lie before a place."""
        rows = int(np.searchsorted(self.end, place.end, "right"))
        return min(rows, int(np.searchsorted(self.stream_time, place.stream_time, "right")))


class Timetable:
    """The entries of one stream, between the earliest row of a fixed scan and its end.

    Where the stream was compacted they begin after that part: the rows there are not all of them.
    """

    def __init__(self, scan: Scan, clock: Literal["event", "append"]) -> None:
        snapshot = scan.fix()
        self._reader, self._moment = scan.log.reader, snapshot.moment
        self._column = snapshot.info.time
        self._by_append = clock == "append"
        self._segments = snapshot.moment.manifest.segments
        start = min(max(snapshot.start, snapshot.moment.compacted), snapshot.stop)
        self.first = self._place_at(start) if start else Place(0, NEVER, 0)
        self.last = self._place_at(snapshot.stop)

    def _place_at(self, offset: int) -> Place:
        """Return the place before a row, or at the end of the scan, which may be a view's."""
        moment, reader = self._moment, self._reader
        if offset >= moment.end:
            return Place(offset, moment.stream_time, moment.append_time)
        if offset > max(moment.start, moment.compacted):
            return Place(offset, *reader.times_at(moment, offset - 1, self._column))
        appended = reader.append_time_below(offset) if moment.compacted else 0
        before = reader.stream_time_before(moment, offset, self._column)
        return Place(offset, before, appended or 0)

    def due(self, place: Place) -> int:
        """Return when the entry before a place was due."""
        return place.append_time if self._by_append else place.stream_time

    def end_at(self, instant: int) -> None:
        """Leave out what is due at an instant or later."""
        self.last = self.at(instant)

    def sampled(self, count: int) -> tuple[Times, Times]:
        """Return offsets, evenly spread over the entries, and when what lies before each was due."""
        offsets = np.unique(np.linspace(self.first.end, self.last.end, count).astype(np.int64))
        dues = [self.due(self._place_at(int(offset))) for offset in offsets]
        return offsets, np.array(dues, np.int64)

    def at(self, instant: int) -> Place:
        """Return the place after all that is due before an instant."""
        instant = min(max(instant, NEVER), FOREVER)
        place = self._near(instant)
        for block in self.entries(place):
            count = int(np.searchsorted(block.due, instant, "left"))
            place = block.place(count - 1) if count else place
            if count < len(block.due):
                break
        return place

    def _near(self, instant: int) -> Place:
        """Return a place in the run that holds an instant, or before it; no row is read for it."""
        name = "append_max" if self._by_append else "after"
        index = bisect.bisect_left(self._segments[:-1], instant, key=lambda s: getattr(s, name))
        runs, _ = self._reader.runs(self._moment, self._segments[index])
        field = runs["append_time" if self._by_append else "after"]
        inside = int(np.searchsorted(runs["base"], self.last.end, "right"))
        at = min(int(np.searchsorted(field, instant, "left")), inside - 1)
        if at < 0 or int(runs["base"][at]) <= self.first.end:
            return self.first
        base, before = int(runs["base"][at]), int(runs["before"][at])
        appended = runs["append_time"][at - 1] if at else self._reader.append_time_below(base)
        return Place(base, before, int(appended or 0))

    # -- entries -----------------------------------------------------------------------------

    def entries(self, place: Place) -> Iterator[Entries]:
        """Yield what comes after a place, in blocks of bounded size."""
        for segment, stop in self._parts(place.end):
            runs, end = self._reader.runs(self._moment, segment)
            while True:
                upto = min(place.end + BLOCK_ROWS, stop)
                block = self._block(runs, end, place, upto)
                if len(block.due):
                    place = block.place(-1)
                    yield block
                if upto >= stop:
                    break
        if place[:2] < self.last[:2]:  # a heartbeat whose file was tidied away since
            columns = [np.array([value]) for value in (self.due(self.last), *self.last)]
            yield Entries(*columns)

    def _parts(self, start: int) -> Iterator[tuple[Segment, int]]:
        """Yield the segments with entries after an offset, and where their rows stop."""
        active = self._segments[-1]
        for segment in self._segments:
            stop = self.last.end if segment is active else min(segment.stop, self.last.end)
            if segment.base <= self.last.end and stop >= start:
                yield segment, stop

    def _block(self, runs: Any, end: int, place: Place, upto: int) -> Entries:
        """Return the entries after a place, up to an offset; ``runs`` are of one file."""
        start, rows = place.end, max(upto - place.end, 0)
        append_times, stream_times = self._row_times(runs, place, start, start + rows)
        stops = np.append(runs["base"][1:], end)[: len(runs)]
        low, high = np.searchsorted(stops, start, "left"), np.searchsorted(stops, upto, "right")
        reached = np.append(place.stream_time, stream_times)
        after, stops = runs["after"][low:high], stops[low:high]
        moved = after > reached[stops - start]
        moved &= (stops < self.last.end) | (after <= self.last.stream_time)
        places, after = (stops - start)[moved], after[moved]
        ends = np.insert(np.arange(start + 1, start + rows + 1), places, stops[moved])
        streams = np.insert(stream_times, places, after)
        appends = np.insert(append_times, places, runs["append_time"][low:high][moved])
        due = appends if self._by_append else streams
        return Entries(due, ends, streams, appends)

    def _row_times(self, runs: Any, place: Place, start: int, stop: int) -> tuple[Times, Times]:
        """Return append time and stream time of the rows in [start, stop)."""
        if stop <= start:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        bases = runs["base"]
        own = np.searchsorted(bases, np.arange(start, stop), "right") - 1
        appended: Times = runs["append_time"][own].astype(np.int64)
        if self._column is None:
            times = appended.copy()
        else:
            name = self._column
            chunks = self._reader.chunks(self._moment, start, stop)
            times = np.concatenate([event_times(c.batch.column(name), name) for c in chunks])
        times[0] = max(int(times[0]), place.stream_time)
        low, high = np.searchsorted(bases, start, "left"), np.searchsorted(bases, stop, "left")
        met = bases[low:high] - start
        np.maximum.at(times, met, runs["before"][low:high])
        return appended, np.maximum.accumulate(times)


# -- several streams under one clock -------------------------------------------------------------


class _Cursor:
    """A place in a timetable, and the block of entries after it."""

    def __init__(self, table: Timetable, place: Place) -> None:
        self.table = table
        self.jump(place)

    def jump(self, place: Place) -> None:
        """Go to a place; nothing is read yet."""
        self.place = place
        self._blocks: Iterator[Entries] | None = None
        self._rest: Entries | None = None

    def ahead(self) -> Entries | None:
        """Return the entries that come next, None at the end."""
        if self.place[:2] >= self.table.last[:2]:
            return None
        if self._blocks is None:
            self._blocks = self.table.entries(self.place)
        if self._rest is None or not len(self._rest.due):
            self._rest = next(self._blocks, None)
        return self._rest

    def take(self, count: int) -> None:
        """Go past so many of the entries that come next."""
        if count:
            assert self._rest is not None
            self.place = self._rest.place(count - 1)
            self._rest = self._rest.part(count)


class Merged(NamedTuple):
    """Entries of several streams in their common order."""

    due: Times
    stream: Times  # which stream, by its place in the order
    at: Times  # which of that stream's entries that come next
    row: npt.NDArray[np.bool_]  # whether it is a row


class Course:
    """Several timetables and how far each has come, in their common order."""

    def __init__(self, tables: Sequence[Timetable], places: Sequence[Place]) -> None:
        self._tables = tables
        self._cursors = [_Cursor(t, p) for t, p in zip(tables, places, strict=True)]

    @property
    def places(self) -> tuple[Place, ...]:
        """How far each stream has come."""
        return tuple(cursor.place for cursor in self._cursors)

    def next_due(self) -> int | None:
        """Return when the next entry is due, None at the end."""
        ahead = [cursor.ahead() for cursor in self._cursors]
        return min((int(block.due[0]) for block in ahead if block is not None), default=None)

    def jump(self, places: Sequence[Place]) -> None:
        """Go to these places."""
        for cursor, place in zip(self._cursors, places, strict=True):
            cursor.jump(place)

    def release(self, instant: int) -> None:
        """Go past all that is due at an instant or before it."""
        for cursor in self._cursors:
            while (block := cursor.ahead()) is not None:
                count = int(np.searchsorted(block.due, instant, "right"))
                cursor.take(count)
                if count < len(block.due):
                    break

    def ahead(self, until: Sequence[Place] | None = None) -> Merged:
        """Return entries that come next, as many as are certain from one block of each stream.

        ``until`` are places, a common prefix of all streams, that bound them.
        """
        blocks = [cursor.ahead() for cursor in self._cursors]
        counts = [0 if block is None else len(block.due) for block in blocks]
        if until is not None:
            counts = [
                0 if block is None else block.reaching(place)
                for block, place in zip(blocks, until, strict=True)
            ]
        limits = [  # of the streams that have more than their block
            (int(block.due[-1]), index)
            for index, block in enumerate(blocks)
            if block is not None and counts[index] == len(block.due) and self._goes_on(index, block)
        ]
        if limits:
            due, last = min(limits)
            for index, block in enumerate(blocks):
                if block is not None and index != last:
                    side: Literal["left", "right"] = "right" if index < last else "left"
                    counts[index] = min(counts[index], int(np.searchsorted(block.due, due, side)))
        return self._merged(blocks, counts)

    def _goes_on(self, index: int, block: Entries) -> bool:
        return block.place(-1)[:2] < self._tables[index].last[:2]

    def _merged(self, blocks: list[Entries | None], counts: list[int]) -> Merged:
        due, stream, at, row = [], [], [], []
        for index, (block, count) in enumerate(zip(blocks, counts, strict=True)):
            if block is None or not count:
                continue
            due.append(block.due[:count])
            stream.append(np.full(count, index))
            at.append(np.arange(count))
            ends = np.append(self._cursors[index].place.end, block.end[:count])
            row.append(np.diff(ends) > 0)
        if not due:
            none = np.empty(0, np.int64)
            return Merged(none, none, none, np.empty(0, np.bool_))
        order = np.lexsort((np.concatenate(stream), np.concatenate(due)))
        return Merged(*(np.concatenate(column)[order] for column in (due, stream, at, row)))

    def take(self, merged: Merged, count: int) -> list[Entries]:
        """Go past the first so many of these entries; return what each stream gave."""
        each = np.bincount(merged.stream[:count], minlength=len(self._cursors))
        given = []
        for cursor, number in zip(self._cursors, each.tolist(), strict=True):
            block = cursor.ahead() if number else None
            given.append(_NOTHING if block is None else block.part(0, number))
            cursor.take(number)
        return given


_NOTHING = Entries(*(np.empty(0, np.int64) for _ in range(4)))
