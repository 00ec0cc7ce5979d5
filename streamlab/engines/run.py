"""Driving a run: where it begins, how it waits, and results in the foreground.

Invariants: results are wanted from a place on, and windows that are open there are completed by
reading back; a run waits without asking more often than a follower does, and is woken by an append
in its own process at once.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from streamlab import plan as p
from streamlab.clock import FOREVER, NEVER
from streamlab.engines.changes import Changes, Finals
from streamlab.engines.local import Runner, visible
from streamlab.follow import first_offset

if TYPE_CHECKING:
    import polars as pl

__all__ = ["await_news", "begin_at", "bounded", "results", "serials"]

FIRST_PAUSE, LONGEST_PAUSE = 0.0002, 0.002


def begin_at(plan: p.Node, start: Any) -> tuple[list[int], list[int]]:
    """Return for each source where results are wanted from, and where reading has to begin.

    Windows that are open at the start are completed by reading back.
    """
    wanted, reading = [], []
    span = _span(plan)
    sources = list(p.sources_of(plan))
    for index, source in enumerate(sources):
        snapshot = source.scan.fix(pin=False)
        at = first_offset(source.scan, start if index == 0 or not _is_offset(start) else "earliest",
                          snapshot.start, snapshot.stop)  # fmt: skip
        wanted.append(at)
        if at == snapshot.start or span is None:
            reading.append(snapshot.start)
            continue
        reader, column = source.scan.log.reader, source.scan.info().time
        now = reader.stream_time_before(snapshot.moment, at, column)
        since = max(now - span - 1, NEVER) if now > NEVER + span else NEVER
        found = (
            reader.find_appended(snapshot.moment, since)
            if column is None
            else reader.find_event(snapshot.moment, since, column)
        )
        reading.append(min(max(found, snapshot.start), at))
    for source, at in zip(sources, reading, strict=True):
        replace(source.scan.fix(pin=False), start=at).check_whole()
    return wanted, reading


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


def results(plan: p.Node, start: Any, emit: str, timeout: float | None) -> Iterator[pl.DataFrame]:
    """Yield result frames in the foreground, as they come."""
    wanted, reading = begin_at(plan, start)
    runner = Runner(plan, starts=reading, stops=wanted, raw=True)
    emission = Changes(runner) if emit == "changes" else Finals(runner)
    while runner.step() is not None:
        pass
    idle = time.monotonic()
    while True:
        looked = serials(runner)
        runner.look()
        while (frame := runner.step()) is not None:
            out = emission.take(frame)
            idle = time.monotonic()
            if out.height:
                yield visible(out)
                idle = time.monotonic()
        if bounded(runner) or not await_news(runner, looked, idle, timeout, None):
            return


def bounded(runner: Runner) -> bool:
    """Whether nothing can come any more: all sources are views that were read."""
    return all(source.scan.fixed is not None for source in runner.sources)


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
