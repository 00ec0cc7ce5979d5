"""Driving a run: where it begins, how it waits, and results in the foreground.

Invariants: results are wanted from a place on, and windows that are open there are completed by
reading back; a run waits without asking more often than a follower does, and is woken by an append
in its own process at once.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from streamlab import plan as p
from streamlab.clock import FOREVER, NEVER
from streamlab.engines.changes import Changes, Finals
from streamlab.engines.local import Runner, visible
from streamlab.follow import first_offset

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Results", "await_news", "await_places", "begin_at", "bounded", "serials"]

FIRST_PAUSE, LONGEST_PAUSE = 0.0002, 0.002

LONGEST_SLEEP = 0.05
"""How long it takes at most, in seconds, until a stop is noticed."""


def begin_at(plan: p.Node, start: Any) -> tuple[list[int], list[int], list[int]]:
    """Return from where of each source results are wanted, the stream times there, and the begin.

    Windows that are open at the start are completed by reading back, from the begin on.
    """
    wanted, times, reading = [], [], []
    span = _span(plan)
    sources = list(p.sources_of(plan))
    for index, source in enumerate(sources):
        snapshot = source.scan.fix(pin=False)
        at = first_offset(source.scan, start if index == 0 or not _is_offset(start) else "earliest",
                          snapshot.start, snapshot.stop)  # fmt: skip
        wanted.append(at)
        reader, column = source.scan.log.reader, source.scan.info().time
        now = reader.stream_time_before(snapshot.moment, at, column)
        origin = source.scan.origin
        times.append(now if origin is None or at != origin.begin else origin.stream_time)
        if at == snapshot.start or span is None:
            reading.append(snapshot.start)
            continue
        since = max(now - span - 1, NEVER) if now > NEVER + span else NEVER
        reading.append(min(snapshot.find(since), at))
    for source, at in zip(sources, reading, strict=True):
        replace(source.scan.fix(pin=False), start=at).check_whole()
    return wanted, times, reading


def _is_offset(start: Any) -> bool:
    return hasattr(start, "__index__") and not isinstance(start, bool)


def _span(node: p.Node) -> int | None:
    """Return how far an open window reaches back from stream time; None: not known beforehand."""
    if isinstance(node, p.Source):
        return 0
    if isinstance(node, p.AsofJoin | p.IntervalJoin | p.Unique | p.TableJoin):
        return None
    below = _span(node.input)
    if below is None or not isinstance(node, p.Aggregate | p.WindowSqlStep):
        return below
    delay = node.delay if node.delay is not None else next(p.sources_of(node)).scan.info().delay
    if node.window.kind == "session" or delay == FOREVER:
        return None
    longest = node.window.size if node.window.kind == "sliding" else node.window.longest
    return below + longest + delay


class Results(Iterator["pl.DataFrame"]):
    """What comes of a query, frame by frame; made by ``query.follow(...)``.

    Iterating waits for more; `poll` does not. `stop` ends it, from any thread. It begins at the first
    use.
    """

    def __init__(self, plan: p.Node, start: Any, emit: str, timeout: float | None) -> None:
        self._plan, self._start, self._emit, self._timeout = plan, start, emit, timeout
        self._stop = threading.Event()
        self._begun: tuple[Runner, Changes | Finals] | None = None
        self._error: BaseException | None = None  # after one it is over: rows were taken and lost

    def _begin(self) -> tuple[Runner, Changes | Finals]:
        if self._begun is None:
            wanted, times, reading = begin_at(self._plan, self._start)
            runner = Runner(self._plan, starts=reading, stops=wanted, times=times, raw=True)
            emission = Changes(runner) if self._emit == "changes" else Finals(runner)
            while not self._stop.is_set() and runner.step() is not None:
                pass
            self._begun = runner, emission
        return self._begun

    def __iter__(self) -> Results:
        return self

    def __next__(self) -> pl.DataFrame:
        with self._failing():
            return self._next()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        """Raise what it has failed with, now and ever after."""
        if self._error is not None:
            raise self._error
        try:
            yield
        except Exception as error:
            if not isinstance(error, StopIteration):
                self._error = error
            raise

    def _next(self) -> pl.DataFrame:
        runner, emission = self._begin()
        idle = time.monotonic()
        while not self._stop.is_set():
            looked = serials(runner)
            runner.look()
            while (frame := runner.step()) is not None:
                out = emission.take(frame)
                idle = time.monotonic()
                if out.height:
                    return visible(out)
            if bounded(runner) or not await_news(runner, looked, idle, self._timeout, self._stop):
                break
        raise StopIteration

    def poll(self, seconds: float = 0.1) -> pl.DataFrame:
        """Return what has come by now, without waiting; of a long history, so many seconds of it.

        An empty frame says that nothing has; `behind` then, whether there is more.
        """
        with self._failing():
            return self._poll(time.monotonic() + seconds)

    def _poll(self, until: float) -> pl.DataFrame:
        import polars as pl

        runner, emission = self._begin()
        frames = [visible(emission.empty)]
        runner.look()
        while (frame := runner.step()) is not None:
            out = emission.take(frame)
            if out.height:
                frames.append(visible(out))
            if time.monotonic() >= until:
                break
        return pl.concat(frames)

    def stop(self) -> None:
        """End it: whoever waits for the next frame gets none."""
        self._stop.set()

    @property
    def behind(self) -> int:
        """How many rows of the input it has yet to take."""
        return 0 if self._begun is None else sum(source.lag for source in self._begun[0].sources)

    @property
    def rows_in(self) -> int:
        """How many rows of the input it has taken."""
        return 0 if self._begun is None else self._begun[0].rows_in

    @property
    def rows_late(self) -> int:
        """How many of them came too late for every window."""
        return 0 if self._begun is None else self._begun[0].rows_late

    @property
    def watermark(self) -> int | None:
        """Its watermark in microseconds since 1970 UTC; None before there is one."""
        mark = NEVER if self._begun is None else self._begun[0].watermark
        return None if mark in (NEVER, FOREVER) else mark


def await_places(
    plan: p.Node, offsets: Sequence[int], stream_times: Sequence[int], stop: threading.Event
) -> bool:
    """Wait until replays have come to where a run was; False if they end before, or on a stop."""
    for source, offset, stream_time in zip(p.sources_of(plan), offsets, stream_times, strict=True):
        log = source.scan.log
        while source.scan.origin is not None:
            moment = source.scan.fix(pin=False).moment
            if (moment.end, moment.stream_time) >= (offset, stream_time):
                break
            if stop.is_set() or log.over(moment):
                return False
            log.nap(LONGEST_SLEEP)
    return True


def bounded(runner: Runner) -> bool:
    """Whether nothing can come any more: all sources are views that were read, or replays that are over."""
    return all(source.over for source in runner.sources)


def serials(runner: Runner) -> list[int]:
    return [source.scan.log.reader.head.serial() for source in runner.sources]


def await_news(
    runner: Runner, looked: list[int], since: float, timeout: float | None,
    stop: threading.Event | None,
) -> bool:  # fmt: skip
    """Wait until a source has news; whether it has, before the timeout or a stop."""
    started, pause = time.monotonic(), FIRST_PAUSE
    logs = [source.scan.log for source in runner.sources]
    while serials(runner) == looked:
        if stop is not None and stop.is_set():
            return False
        now = time.monotonic()
        if timeout is not None and now - since >= timeout:
            return False
        logs[0].nap(pause)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE + (now - started) / 50)
    return True
