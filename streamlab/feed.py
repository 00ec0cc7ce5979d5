"""Feeds: what hands on the rows of a replay, as they are released, to a function or another lab.

A feed holds a place of each stream and nothing else; it reads what lies between there and what is
released from the log, in the common order of the streams, at its own pace. A copy in another lab
keeps its place in the same frame as the rows, so that each is there once.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from streamlab import ingest
from streamlab.catalog import StreamInfo
from streamlab.clock import NEVER, NOTICED
from streamlab.errors import HistoryChanged, QueryError, StreamExists
from streamlab.follow import same_generation
from streamlab.job import Job
from streamlab.lab import Lab, check_same
from streamlab.log.format import RELATIVE_RUN
from streamlab.scan import Scan
from streamlab.schema import event_times
from streamlab.sinks import DuckDB
from streamlab.stream import Stream
from streamlab.timetable import Course, Entries, Merged, Place

if TYPE_CHECKING:
    from streamlab.replay import Replay

__all__ = ["Feed", "feed_into"]


class Taker(Protocol):
    """Who takes what a feed hands on."""

    def begin(self, places: Sequence[Place]) -> Sequence[Place]:
        """Get ready; return the places to begin at, if they are not these."""
        ...

    def take(self, merged: Merged, given: list[Entries], stop: threading.Event, /) -> int:
        """Take some entries, which each stream gave a part of; return how many rows that was."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class Feed:
    """Hands on the rows of a replay; made by ``replay.into(...)``.

    ``status`` is ``"running"``, ``"stopped"`` or ``"failed"``; `error` says why, `rows` how many
    were handed on. It ends with the replay, and fails as `ReplaySeeked` if that is set back.
    """

    def __init__(self, played: Replay, taker: Taker, what: str) -> None:
        self.status = "running"
        self.error: BaseException | None = None
        self.rows = 0
        self._what = what
        self._taker = taker
        self._scans = [played[name]._scan for name in played]
        self._released = played._released
        self._generation = self._released.generation
        self._tables = played._tables
        self._course = Course(self._tables, taker.begin(played._begin))
        self._seen: Sequence[Place] = ()
        self._stop = threading.Event()
        self._turn = threading.Condition()
        self._thread = threading.Thread(
            target=self._main, name=f"streamlab feed {what}", daemon=True
        )
        self._thread.start()

    def stop(self, timeout: float | None = 60.0) -> Feed:
        """Stop after what is under way."""
        self._stop.set()
        self._released.tell()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return self

    def wait(self, timeout: float | None = None, *, caught_up: bool = True) -> Feed:
        """Return when everything that was released at the call is handed on.

        With ``caught_up=False``: when the feed ends, which it does with the replay.

        Raises:
            TimeoutError: it takes longer than ``timeout`` seconds.
            ReplaySeeked: the replay was set back.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        target = self._released.look()
        with self._turn:
            while self.status == "running" and not (caught_up and self._reached(target)):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"not there yet: {self}")
                self._turn.wait(NOTICED if left is None else min(left, NOTICED))
        if self.error is not None:
            raise self.error
        return self

    def _reached(self, target: Sequence[Place]) -> bool:
        return bool(self._seen) and all(
            seen[:2] >= place[:2] for seen, place in zip(self._seen, target, strict=True)
        )

    def __repr__(self) -> str:
        text = f"Feed into {self._what}: {self.status}, {self.rows:,} rows"
        return (
            text if self.error is None else f"{text}\n  {type(self.error).__name__}: {self.error}"
        )

    # -- the thread --------------------------------------------------------------------------

    def _main(self) -> None:
        status = "stopped"
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - an error ends the feed, not the kernel
            self.error, status = error, "failed"
        finally:
            with contextlib.suppress(Exception):
                self._taker.close()
            with self._turn:
                self.status = status
                self._turn.notify_all()

    def _run(self) -> None:
        while not self._stop.is_set():
            serial = self._released.serial()
            target = self._released.look()
            over = self._over(target)
            same_generation(self._scans[0], self._generation)
            while not self._stop.is_set() and len((ahead := self._course.ahead(target)).due):
                given = self._course.take(ahead, len(ahead.due))
                self.rows += self._taker.take(ahead, given, self._stop)
            with self._turn:
                self._seen = target
                self._turn.notify_all()
            if over:
                return
            self._released.wait(serial, None)

    def _over(self, target: Sequence[Place]) -> bool:
        """Whether nothing is released after these places."""
        lasts = [table.last[:2] for table in self._tables]
        ended = self._released.ended and self._released.places == target
        return ended or [place[:2] for place in target] == lasts


def feed_into(played: Replay, target: Any) -> Feed | Job:
    """Begin to hand on what is released to a target.

    Raises:
        QueryError: nothing can be handed on to it.
        StreamExists: a stream of the other lab holds something else.
    """
    names = list(played)
    if isinstance(target, DuckDB):
        if len(names) > 1:
            raise QueryError(
                f"{target} is one table, and the replay has the streams {', '.join(names)}",
                hint=f'replay["{names[0]}"].run(sl.duckdb(path, table="{names[0]}")) for each',
            )
        return played[names[0]].run(target)
    if isinstance(target, Lab):
        return Feed(played, _Copies(played, target), str(target))
    if callable(target):
        what = getattr(target, "__qualname__", type(target).__name__)
        return Feed(played, _Calls(played, target), what)
    raise QueryError(
        f"into takes a function, a lab or sl.duckdb(path, table); got {target!r}",
        hint='a stream of this lab is made by a query: replay["trades"].run("name")',
    )


def _row_span(entries: Entries, before: int) -> tuple[int, int]:
    """Return the offsets of the rows among entries that come after an offset."""
    return before, int(entries.end[-1]) if len(entries.end) else before


class _Calls:
    """A function that is called with the rows in their common order."""

    def __init__(self, played: Replay, function: Callable[..., Any]) -> None:
        self._function = function
        self._names = list(played)
        self._scans = [played[name]._scan.recorded() for name in played]
        self._ends: list[int] = []
        self._named = _takes_two(function)
        if not self._named and len(self._names) > 1:
            raise QueryError(
                f"the replay has the streams {', '.join(self._names)}: the function takes (name, frame)"
            )

    def begin(self, places: Sequence[Place]) -> Sequence[Place]:
        self._ends = [place.end for place in places]
        return places

    def take(self, merged: Merged, given: list[Entries], stop: threading.Event) -> int:
        """Call the function with rows of one stream that follow each other in the common order."""
        frames = [self._frame(index, entries) for index, entries in enumerate(given)]
        streams = merged.stream[merged.row]
        bounds = np.flatnonzero(np.diff(streams, prepend=-1, append=-1))
        at, count = [0] * len(frames), 0
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            if stop.is_set():
                break
            index = int(streams[start])
            frame = frames[index].slice(at[index], end - start)
            at[index] += end - start
            self._function(*([self._names[index]] if self._named else []), frame)
            count += end - start
        return count

    def _frame(self, index: int, entries: Entries) -> Any:
        import polars as pl

        start, end = _row_span(entries, self._ends[index])
        self._ends[index] = end
        return pl.from_arrow(_table(self._scans[index], start, end))

    def close(self) -> None:
        """Nothing to let go of."""


def _takes_two(function: Callable[..., Any]) -> bool:
    """Whether a function takes a name and a frame."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return True
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in parameters if p.kind in plain and p.default is p.empty]
    return len(needed) > 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters)


def _table(scan: Scan, start: int, stop: int) -> pa.Table:
    return replace(scan, start=start, stop=stop).fix(pin=False).reader().read_all()


class _Copies:
    """Streams of another lab that rows and heartbeats are appended to, each once."""

    def __init__(self, played: Replay, lab: Lab) -> None:
        self._copies = []
        for name in played:
            scan = played[name]._scan.recorded()
            self._copies.append(_Copy(scan, _like(lab, scan.info())))

    def begin(self, places: Sequence[Place]) -> Sequence[Place]:
        return [copy.begin(place) for copy, place in zip(self._copies, places, strict=True)]

    def take(self, _merged: Merged, given: list[Entries], _stop: threading.Event) -> int:
        """Append what each stream gave; the order within a stream is kept."""
        return sum(copy.take(entries) for copy, entries in zip(self._copies, given, strict=True))

    def close(self) -> None:
        for copy in self._copies:
            copy.close()


def _like(lab: Lab, info: StreamInfo) -> Stream:
    """Return the stream of another lab that is like this one, making it if need be.

    Raises:
        StreamExists: there is one that is otherwise.
        ReadOnly: the lab takes no streams.
    """
    lab._writable()
    wanted = replace(
        info, id=uuid.uuid4().hex, schemas=info.schemas[-1:], created=time.time(), job=None
    )
    if info.name in lab:
        check_same(lab[info.name]._info, wanted)
    else:
        lab._catalog.add(wanted)
    return lab[info.name]


class _Copy:
    """A copy of one stream; its last note says how far it goes."""

    def __init__(self, scan: Scan, stream: Stream) -> None:
        self._scan, self._log = scan, stream._scan.log
        self._stream = stream
        self._kept = False
        self._place = Place(0, NEVER, 0)

    def begin(self, place: Place) -> Place:
        """Take the writer's lock, and return the place that the copy has come to.

        Raises:
            StreamExists: the stream holds other rows.
            HistoryChanged: somebody else appended to the copy.
        """
        self._log.writer.keep()
        self._kept = True
        try:
            self._place = self._known() or place
        except BaseException:
            self.close()
            raise
        return self._place

    def _known(self) -> Place | None:
        """Return the place in the last note, None if nothing was copied yet."""
        note = self._log.writer.last_note()
        known = json.loads(note) if note else {}
        end = self._log.reader.moment().end
        if known.get("copy_of") != self._scan.log.stream:
            if end:
                raise StreamExists(
                    f'there is a stream "{self._stream.name}" already that is no copy of this one',
                    hint="replay into another lab, or drop it first",
                )
            return None
        if known["rows"] != end:
            raise HistoryChanged(
                f'stream "{self._stream.name}", a copy made by a replay, was appended to by somebody else'
            )
        return Place(known["end"], known["stream_time"], 0)

    def take(self, entries: Entries) -> int:
        """Append rows and heartbeats, in order; return how many rows."""
        rows = np.diff(entries.end, prepend=self._place.end) > 0
        at = 0
        for beat in [*np.flatnonzero(~rows).tolist(), len(rows)]:
            if beat > at:
                self._append(entries.part(at, beat))
            if beat < len(rows):
                place = entries.place(beat)
                self._log.writer.note(self._note(place, 0), place.stream_time)
                self._place = place
            at = beat + 1
        return int(rows.sum())

    def _append(self, entries: Entries) -> None:
        before, self._place = self._place, entries.place(-1)
        if self._scan.log.writer.policy.sync != "os":
            self._scan.log.make_durable(self._place.end)
        info = self._stream._info
        table = _table(self._scan, before.end, self._place.end)
        rows = ingest.rows_again(self._log, info, table)
        if info.time is not None:
            met = np.append(before.stream_time, entries.stream_time[:-1])
            times = event_times(table.column(info.time).combine_chunks(), info.time)
            rows = rows._replace(runs=_runs(entries.stream_time, np.maximum(met, times)))
        note = self._note(self._place, table.num_rows)
        self._log.writer.append(rows, note=note, stream_time=self._place.stream_time)

    def _note(self, place: Place, more: int) -> bytes:
        rows = self._log.reader.moment().end + more
        known = {"copy_of": self._scan.log.stream, "end": place.end,
                 "stream_time": place.stream_time, "rows": rows}  # fmt: skip
        return json.dumps(known).encode()

    def close(self) -> None:
        """Let go of the writer's lock."""
        if self._kept:
            self._kept = False
            self._log.writer.let_go()


def _runs(stream_times: Any, told: Any) -> Any:
    """Return where a row's stream time is later than the rows tell, None if nowhere."""
    places = np.flatnonzero(stream_times > told)
    if not len(places):
        return None
    runs = np.zeros(len(places), dtype=RELATIVE_RUN)
    runs["base"], runs["before"] = places, stream_times[places]
    return runs
