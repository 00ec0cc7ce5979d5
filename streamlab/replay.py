"""Replays: streams of a lab once more, with a "now" that moves as it is told.

A `Replay` fixes what is recorded, and has a clock that plays, pauses, jumps and steps. What the clock
has passed is *released*: its streams are views up to there, and whatever reads, follows or queries a
stream does so with them. Nothing is copied and nothing is buffered: only offsets move, and a reader
that is slow finds its rows in the log.

Invariants: entries (rows and heartbeats) are released in the order (due, order of the names), never
reordered within a stream; within a generation what is released only grows; at any instant everything
that is due before it is released, and nothing that is due after it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from streamlab.breakpoint import Breakpoint
from streamlab.clock import FOREVER, NOTICED, Pacer
from streamlab.duration import (
    EPOCH,
    Duration,
    Instant,
    format_duration,
    format_instant,
    parse_duration,
    parse_instant,
)
from streamlab.errors import InvalidTime, StreamlabError, StreamNotFound
from streamlab.log import Log
from streamlab.played import PlayedLog, Released
from streamlab.scan import Origin
from streamlab.shown import Shown, notebook
from streamlab.stream import Stream
from streamlab.timetable import Course, Merged, Place, Timetable

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from streamlab.feed import Feed
    from streamlab.job import Job

__all__ = ["Replay"]

TICK_US = 1_000
"""What is due within so short a time is released together, if the clock is on the wall."""

SLICES = 16
"""How many slices of rows are looked through for a breakpoint before others have their turn."""

LATEST = FOREVER - 1


class Replay(Shown):
    """Streams with a moving "now"; made by ``lab.replay(...)``, paused at its start.

    ``replay["trades"]`` is a stream: read, query, follow it, run jobs over it. All streams share the
    one clock. Use it in a ``with`` block, or `stop` it; it stops when its lab closes.
    """

    def __init__(
        self,
        streams: Mapping[str, Stream],
        pacer: Pacer,
        *,
        start: Instant | None,
        stop: Instant | None,
        speed: float,
        max_gap: Duration | None,
        clock: Literal["event", "append"],
    ) -> None:
        if clock not in ("event", "append"):
            raise ValueError(f'clock is "event" or "append"; got {clock!r}')
        self._names = tuple(streams)
        self._speed = _checked_speed(speed)
        self._max_gap = None if max_gap is None else parse_duration(max_gap, what="max_gap")
        self._clock, self._pacer = clock, pacer
        self._scans = [stream._scan.freeze() for stream in streams.values()]
        self._tables = [Timetable(scan, clock) for scan in self._scans]
        self._start, self._stop = self._bounds(start, stop)
        places = tuple(table.at(self._start) for table in self._tables)
        for scan, table in zip(self._scans, self._tables, strict=True):
            if start is None or self._start <= table.due(table.first):
                scan.fix(pin=False).check_whole()
        self._begin = places
        self._course = Course(self._tables, places)
        if self._course.next_due() is None:
            raise self._nothing()
        self._released = Released(places, self._settle)
        self._lock = self._released.lock
        self._turn = threading.Condition(self._lock)  # wakes the thread that plays
        self._at = self._quiet = self._start  # the clock, and the last entry, when last set
        self._since = 0  # when the clock was set, as the pacer tells it
        self._playing = self._stopped = False
        self._breakpoint: Breakpoint | None = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._streams = self._played(streams, start)

    def _bounds(self, start: Instant | None, stop: Instant | None) -> tuple[int, int]:
        """Return where the clock starts and ends, and let the timetables end there."""
        since = None if start is None else parse_instant(start, what="start")
        until = None if stop is None else parse_instant(stop, what="stop")
        if since is not None and until is not None and until < since:
            raise InvalidTime(
                f"a replay from {format_instant(since)} to {format_instant(until)} is the wrong way round"
            )
        if until is not None:
            for table in self._tables:
                table.end_at(until)
        first = Course(self._tables, [table.first for table in self._tables]).next_due()
        if first is None:
            raise self._nothing()
        last = max(table.due(table.at(FOREVER)) for table in self._tables)
        since = first if since is None else since
        until = last if until is None else until
        if since > until:
            raise self._nothing()
        return since, until

    def _nothing(self) -> InvalidTime:
        held = []
        for name, scan in zip(self._names, self._scans, strict=True):
            table = Timetable(scan, self._clock)
            first = Course([table], [table.first]).next_due()
            last = table.due(table.at(FOREVER))
            what = f"{format_instant(first)} to {format_instant(last)}" if first else "no rows"
            held.append(f"{name}: {what}")
        return InvalidTime(
            "there is nothing to replay between this start and stop",
            hint=f"what is recorded, by {self._clock} time: {'; '.join(held)}",
        )

    def _played(self, streams: Mapping[str, Stream], start: Instant | None) -> dict[str, Stream]:
        """Return the streams as this replay shows them."""
        what = "replayed" if start is None else f"replayed from {format_instant(self._start)}"
        what += "" if self._clock == "event" else " by append time"
        found = {}
        for index, (name, stream) in enumerate(streams.items()):
            scan = self._scans[index]
            log = PlayedLog(scan, index, self._tables[index].last, self._released)
            begin = self._begin[index]
            origin = Origin(scan, begin.end, begin.stream_time, what)
            shown = replace(
                scan, log=cast("Log", log), stop=None, fixed=None, pin=None, origin=origin
            )
            found[name] = Stream(stream._catalog, shown, read_only="it is a replay")
        return found

    # -- its streams -------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Stream:
        if name not in self._streams:
            raise StreamNotFound(
                f'stream "{name}" is not in this replay', hint=f"it has {', '.join(self._names)}"
            )
        return self._streams[name]

    def __contains__(self, name: object) -> bool:
        return name in self._streams

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __bool__(self) -> bool:
        return True

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._names)

    def sql(self, query: str, params: Any = None, **frames: Any) -> duckdb.DuckDBPyRelation:
        """Run one SELECT in DuckDB's dialect over its streams, as they are released at this call.

        Raises:
            QueryError: it does not parse, names what is not there, or asks for what is locked.
        """
        from streamlab.duck import query as run

        return run(
            query,
            params,
            lambda: list(self),
            lambda name: self[name].dataset(),
            frames,
            trusted=False,
        )

    # -- where it is -------------------------------------------------------------------------

    @property
    def position(self) -> dt.datetime:
        """The instant of its clock."""
        with self._lock:
            self._settle()
            return EPOCH + dt.timedelta(microseconds=self._now())

    @property
    def span(self) -> tuple[dt.datetime, dt.datetime]:
        """Where its clock starts, and where it ends."""
        start, stop = (EPOCH + dt.timedelta(microseconds=at) for at in (self._start, self._stop))
        return start, stop

    @property
    def stopped(self) -> bool:
        """Whether it was stopped for good."""
        return self._stopped

    @property
    def released(self) -> dict[str, tuple[int, int]]:
        """For each stream how many rows are released, and how many there are to be."""
        with self._lock:
            self._settle()
            places = self._course.places
        return {
            name: (place.end - begin.end, table.last.end - begin.end)
            for name, place, begin, table in zip(
                self._names, places, self._begin, self._tables, strict=True
            )
        }

    def density(self, parts: int = 200) -> list[int]:
        """Return about how many rows are due in each of so many equal parts of its span.

        Known exactly at a few hundred places of each stream, and drawn straight between them.
        """
        edges = np.linspace(self._start, self._stop, parts + 1)
        total = np.zeros(parts)
        for begin, table in zip(self._begin, self._tables, strict=True):
            offsets, dues = table.sampled(2 * parts)
            ends = np.interp(edges, np.clip(dues, self._start, self._stop), offsets)
            ends = np.clip(ends, begin.end, table.last.end)
            ends[0], ends[-1] = begin.end, table.last.end
            total += np.diff(np.round(ends))
        return [int(count) for count in total]

    @property
    def playing(self) -> bool:
        """Whether the clock moves."""
        with self._lock:
            self._settle()
            return self._playing

    @property
    def done(self) -> bool:
        """Whether everything is released."""
        with self._lock:
            self._settle()
            return self._at_end()

    @property
    def generation(self) -> int:
        """How often it was set back; what was followed before is `ReplaySeeked` since."""
        return self._released.generation

    @property
    def speed(self) -> float:
        """How many seconds of the streams pass in a second; ``float("inf")`` waits for nothing."""
        return self._speed

    @speed.setter
    def speed(self, value: float) -> None:
        speed = _checked_speed(value)
        with self._lock:
            self._usable()
            self._settle()
            self._set(self._now())
            self._speed = speed
            self._turn.notify_all()

    def _at_end(self) -> bool:
        lasts = [table.last for table in self._tables]
        return all(p[:2] >= last[:2] for p, last in zip(self._course.places, lasts, strict=True))

    def _now(self) -> int:
        """Return what the clock shows."""
        if not self._playing or self._speed == math.inf:
            return self._at
        passed = max(self._pacer.now() - self._since, 0)
        return min(self._at + int(passed * self._speed), max(self._stop, self._at))

    def _set(self, clock: int) -> None:
        """Set the clock; a silence is counted from here."""
        self._at, self._since = clock, self._pacer.now()
        self._quiet = max(self._quiet, clock)

    def _usable(self) -> None:
        if self._stopped:
            raise StreamlabError(
                "the replay was stopped", hint="lab.replay(...) begins another; pause() waits"
            )

    # -- what users do -----------------------------------------------------------------------

    def play(self) -> Replay:
        """Let the clock move on from where it is; at the end nothing happens.

        Raises:
            StreamlabError: it was stopped.
        """
        with self._lock:
            self._usable()
            if not self._playing and not self._at_end():
                self._set(self._at)
                self._quiet, self._error = self._at, None
                self._playing = True
                self._thread = threading.Thread(
                    target=self._main,
                    name=f"streamlab replay {', '.join(self._names)}",
                    daemon=True,
                )
                self._thread.start()
                self._settle()
        return self

    def pause(self) -> Replay:
        """Let the clock stand still."""
        with self._lock:
            self._usable()
            self._settle()
            self._halt(self._now())
        return self

    def seek(self, to: Instant | Literal["start", "end"]) -> Replay:
        """Set the clock to an instant; what is due before it is released then, and nothing else.

        Forward, everything between is released, in order. Back, a new generation begins: who
        follows a stream gets `ReplaySeeked`, and what is collected is collected anew. It plays on
        if it played.

        Raises:
            InvalidTime: an instant before the start of the replay or after its stop.
        """
        with self._lock:
            self._usable()
            self._settle()
            clock = (
                {"start": self._start, "end": self._stop}.get(to) if isinstance(to, str) else None
            )
            if clock is None:
                clock = parse_instant(to, what='to (an instant, "start" or "end")')
            if not self._start <= clock <= self._stop:
                raise InvalidTime(
                    f"{format_instant(clock)} is not in this replay, which goes from "
                    f"{format_instant(self._start)} to {format_instant(self._stop)}",
                    hint="lab.replay(..., start=, stop=) says from where to where",
                )
            if to == "end":
                self._move(clock, [table.last for table in self._tables])
            else:
                self._move(clock, [table.at(clock) for table in self._tables])
        return self

    def _move(self, clock: int, places: Sequence[Place]) -> None:
        """Set clock and places; forward, what is released stays so."""
        before = self._course.places
        forward = clock >= self._now()
        if forward:
            places = [max(old, new) for old, new in zip(before, places, strict=True)]
        back = not forward and tuple(places) != before
        self._course.jump(places)
        self._quiet = clock
        self._set(clock)
        self._released.publish(tuple(places), back=back)
        if self._at_end():
            self._halt(clock)
        self._turn.notify_all()

    def step(self, by: int | Duration = 1) -> Replay:
        """Release so many rows, in order, or what is due within a length of time; then stand still.

        Raises:
            StreamlabError: it plays.
        """
        with self._lock:
            self._usable()
            self._settle()
            if self._playing:
                raise StreamlabError("the replay is playing", hint="pause() it before a step")
            if isinstance(by, int) and not isinstance(by, bool):
                if by < 1:
                    raise ValueError(f"a step is at least one row; got {by!r}")
                self._step_rows(by)
                return self
            clock = min(self._at + parse_duration(by, what="step"), self._stop)
            self._move(clock, [table.at(clock) for table in self._tables])
        return self

    def _step_rows(self, count: int) -> None:
        while count and len((ahead := self._course.ahead()).due):
            rows = np.cumsum(ahead.row)
            upto = min(int(np.searchsorted(rows, count, "left")) + 1, len(rows))
            count -= int(rows[upto - 1])
            self._course.take(ahead, upto)
            due = int(ahead.due[upto - 1])
            self._at = self._at if due == FOREVER else max(self._at, due)
        if self._at_end():
            self._at = self._stop
        self._released.publish(self._course.places)

    def back(self, by: int | Duration = 1) -> Replay:
        """Set the clock back by a length of time, or to before the last row that is released.

        Of rows that are due at one instant all go together. It begins a new generation, as `seek`.

        Raises:
            StreamlabError: it plays.
        """
        with self._lock:
            self._usable()
            self._settle()
            if self._playing:
                raise StreamlabError("the replay is playing", hint="pause() it before a step")
            if not isinstance(by, int) or isinstance(by, bool):
                clock = max(self._at - parse_duration(by, what="back"), self._start)
                self._move(clock, [table.at(clock) for table in self._tables])
                return self
            for _ in range(by):
                last = max(
                    (
                        table.due(place)
                        for place, begin, table in zip(
                            self._course.places, self._begin, self._tables, strict=True
                        )
                        if place[:2] > begin[:2]
                    ),
                    default=self._start,
                )
                self._at = clock = max(min(last, self._stop), self._start)
                self._quiet = clock
                places = [table.at(last) for table in self._tables]
                places = [max(p, b) for p, b in zip(places, self._begin, strict=True)]
                self._course.jump(places)
                self._set(clock)
                self._released.publish(tuple(places), back=True)
        return self

    def controls(self) -> Any:
        """Show the transport bar: play, pause, step, speed, and a strip of events to scrub over.

        It returns at once, the widget to be shown; whatever looks at the replay's streams moves
        with it.

        Raises:
            MissingExtra: widgets are not installed; says the pip line.
        """
        bar = notebook("transport").Transport(self)
        return next(iter(self._streams.values()))._jobs.stop_with(bar)

    def until(self, expr: pl.Expr, *, stream: str | None = None) -> Replay:
        """Play until a row for which an expression is true, and pause right after that row.

        It is looked for in the streams that have the expression's columns, or in one. `wait` returns
        when it is found, or at the end. Asked again, it goes on to the next such row.

        Raises:
            QueryError: the expression needs other rows, or columns that no stream has.
        """
        chosen = self._names if stream is None else (self[stream].name,)
        found = Breakpoint(
            expr, {n: scan for n, scan in zip(self._names, self._scans, strict=True) if n in chosen}
        )
        with self._lock:
            self._usable()
            self._settle()
            self._breakpoint = found
            self._turn.notify_all()
            return self.play()

    def wait(self, timeout: float | None = None) -> Replay:
        """Return when the clock stands: at the end, at a breakpoint, paused or stopped.

        Raises:
            TimeoutError: it still plays after ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while self.playing:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f"still playing: {self._described()}")
                self._released.news.wait(NOTICED if left is None else min(left, NOTICED))
            if self._error is not None:
                raise self._error
        return self

    async def wait_async(self, timeout: float | None = None) -> Replay:
        """`wait`, for ``await``."""
        return await asyncio.to_thread(self.wait, timeout)

    def into(self, target: Any) -> Feed | Job:
        """Hand on what is released, in the background, to a function, a lab or a database.

        A function of (name, frame), or for one stream of a frame, is given the rows in their common
        order. Another lab gets them appended to streams of the same names and settings, with new
        append times; heartbeats too, each once, also after a crash. ``sl.duckdb(path, table)`` is
        for one stream, and gives a `Job`.

        Raises:
            QueryError: a target of another kind.
        """
        from streamlab.feed import feed_into

        with self._lock:
            self._usable()
            return feed_into(self, target)

    def stop(self) -> None:
        """End the replay: what follows it ends with what is released. Doing so twice is harmless."""
        with self._lock:
            if not self._stopped:
                self._halt(self._now())
                self._stopped = self._released.ended = True
                self._released.tell()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- the clock at work -------------------------------------------------------------------

    def _halt(self, clock: int) -> None:
        """Let the clock stand, at this instant."""
        self._at = clock
        if self._playing:
            self._playing = False
            self._turn.notify_all()
            self._released.tell()

    def _main(self) -> None:
        """Release what is due, in a thread of its own, for as long as it plays."""
        me = threading.current_thread()
        with self._turn:
            while self._playing and self._thread is me:
                try:
                    more = self._settle()
                    if self._playing and not more:
                        self._pacer.wait(self._turn, self._next_wake())
                    elif more:
                        self._turn.wait(0)  # others have their turn
                except Exception as error:  # noqa: BLE001 - `wait` raises it
                    self._error = error
                    self._halt(self._at)

    def _next_wake(self) -> int:
        """Return when something is due, as the pacer tells the time."""
        due = self._course.next_due()
        assert due is not None
        if self._max_gap is not None:
            due = min(due, self._quiet + int(self._max_gap * self._speed))
        at = self._since + math.ceil((due - self._at) / self._speed)
        return max(at, self._pacer.now() + TICK_US)

    def _settle(self) -> bool:
        """Release what has become due; whether there is more of it, left for the next turn."""
        if not self._playing:
            return False
        before, more = self._course.places, False
        if self._breakpoint is None and self._speed == math.inf:
            self._course.jump([table.last for table in self._tables])
        elif self._breakpoint is None and self._max_gap is None:
            self._course.release(self._now())
        else:
            more = all(self._slice() for _ in range(SLICES))
        if self._playing and self._course.next_due() == FOREVER:  # what ends streams is last of all
            self._course.jump([table.last for table in self._tables])
        if self._course.places != before:
            self._released.publish(self._course.places)
        if self._at_end():
            self._breakpoint = None
            self._halt(max(self._stop, self._at))
        return more and self._playing

    def _slice(self) -> bool:
        """Release a slice of what is due, up to a breakpoint or a long silence; whether to go on."""
        inf = self._speed == math.inf
        limit = LATEST if inf else self._now()
        ahead = self._course.ahead()
        count = int(np.searchsorted(ahead.due, limit, "right"))
        silence = None if self._max_gap is None or inf else self._silence(ahead, count)
        if silence is not None:
            count = min(count, silence)
        hit = None if self._breakpoint is None else self._hit(ahead, count)
        count = count if hit is None else hit + 1
        self._course.take(ahead, count)
        if count:
            self._quiet = int(ahead.due[count - 1])
        if hit is not None:
            self._breakpoint = None
            self._halt(max(self._at, self._quiet))
            return False
        if silence is not None and silence == count:
            return self._skip(limit, int(ahead.due[silence]))
        return 0 < count == len(ahead.due)

    def _silence(self, ahead: Merged, count: int) -> int | None:
        """Return before which entry there is a silence that is cut short."""
        assert self._max_gap is not None
        dues = np.minimum(ahead.due[: count + 1], FOREVER // 2)
        gaps = np.diff(dues, prepend=self._quiet)
        long = np.flatnonzero(gaps > self._max_gap * self._speed)
        return int(long[0]) if len(long) else None

    def _skip(self, limit: int, due: int) -> bool:
        """Set the clock to the end of a silence that has lasted long enough; whether it has."""
        assert self._max_gap is not None
        over = self._quiet + int(self._max_gap * self._speed)
        if limit < over or due == FOREVER:
            return False
        self._since += round((over - self._at) / self._speed)
        self._at = self._quiet = due
        return True

    def _hit(self, ahead: Merged, count: int) -> int | None:
        """Return which of the first entries is a row that the breakpoint is for."""
        assert self._breakpoint is not None
        hits = []
        for index, name in enumerate(self._names):
            mine = np.flatnonzero((ahead.stream[:count] == index) & ahead.row[:count])
            start = self._course.places[index].end
            row = self._breakpoint.first(name, start, start + len(mine))
            if row is not None:
                hits.append(int(mine[row - start]))
        return min(hits, default=None)

    # -- in words ----------------------------------------------------------------------------

    def _described(self) -> str:
        state = "stopped" if self._stopped else "playing" if self._playing else "paused"
        state = "done" if state == "paused" and self._at_end() else state
        speed = "as fast as it can" if self._speed == math.inf else f"{self._speed:g}x"
        share = (self._now() - self._start) / max(self._stop - self._start, 1)
        return (
            f"Replay of {', '.join(self._names)}: {state} at {format_instant(self._now())}, "
            f"{share:.0%} of {format_instant(self._start)} to {format_instant(self._stop)}, {speed}"
        )

    def __repr__(self) -> str:
        with self._lock:
            self._settle()
            gap = "" if self._max_gap is None else f", silences {format_duration(self._max_gap)}"
            again = f", set back {self.generation}x" if self.generation else ""
            lines = [f"{self._described()}{gap}{again}"]
            width = max(map(len, self._names))
            for name, place, table in zip(
                self._names, self._course.places, self._tables, strict=True
            ):
                lines.append(f"  {name:<{width}}  {place.end:,} of {table.last.end:,} offsets")
        return "\n".join(lines)


def _checked_speed(value: Any) -> float:
    """Return a speed.

    Raises:
        ValueError: it is not a number above 0.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(
            f'speed is a number above 0: 1 as it was, 60 a minute in a second, float("inf"); got {value!r}'
        )
    return float(value)
