"""A log as a replay shows it: the same rows, with an end that moves with the replay's clock.

Readers, followers and jobs ask a log for a moment, and wait for news of it. Here the moment is the
recorded one, cut at the place that is released; the news is that a place was. So everything that
reads a stream reads a replay, and does not know.

Invariants: the places of all streams are published as one; within a generation they only go forward;
a look that is taken between two looks at the same generation was of that generation.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from streamlab.log import Log, Moment
from streamlab.scan import Scan
from streamlab.timetable import Place

__all__ = ["PlayedLog", "Released"]


class Released:
    """How far each stream of a replay is released, and the news of it.

    ``settle`` is called before each look: it releases what has become due.
    """

    def __init__(self, places: tuple[Place, ...], settle: Callable[[], object]) -> None:
        self.lock = threading.RLock()
        self.news = threading.Condition(self.lock)
        self.places = places
        self.generation = 0
        self.ended = False  # the replay was stopped: nothing follows
        self._settle = settle
        self._serial = 1
        self._held = 0

    def publish(self, places: tuple[Place, ...], *, back: bool = False) -> None:
        """Show these places from now on; ``back`` begins a new generation."""
        with self.news:
            self.places = places
            self.generation += back
            self.tell()

    def tell(self) -> None:
        """Wake all who wait: something is other than it was."""
        with self.news:
            self._serial += 1
            self.news.notify_all()

    def serial(self) -> int:
        """Return a number that grows with each publication."""
        return self._serial

    def look(self) -> tuple[Place, ...]:
        """Return the places as of now."""
        with self.lock:
            if not self._held:
                self._settle()
            return self.places

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Let all looks within see the same places."""
        with self.lock:
            self.look()
            self._held += 1
            try:
                yield
            finally:
                self._held -= 1

    def wait(self, serial: int, timeout: float | None) -> bool:
        """Wait until something was published after this ``serial``; whether it was."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self.news:
            while self._serial == serial:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self.news.wait(left)
        return True

    def nap(self, seconds: float) -> None:
        """Wait so long at most: a publication ends it."""
        with self.news:
            self.news.wait(seconds)


class _PlayedReader:
    """Reads what is recorded; its moments end at what is released."""

    def __init__(self, scan: Scan, index: int, released: Released) -> None:
        assert scan.fixed is not None
        self._reader, self._moment = scan.log.reader, scan.fixed
        self._index = index
        self.head = released  # its serial tells of news

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    def moment(self) -> Moment:
        """Return the recorded moment, cut at what is released."""
        end, stream_time, append_time = self.head.look()[self._index]
        moment = self._moment
        return moment._replace(
            start=min(moment.start, end), end=end, durable=min(moment.durable, end),
            stream_time=stream_time, append_time=append_time,
        )  # fmt: skip

    def pin(self, start: int, stop: int, *, passable: bool = False) -> None:
        """Pin nothing: the replay keeps its rows for as long as anybody reads it."""


class PlayedLog:
    """The log of one replayed stream: the recorded one's, but for its end and its news."""

    def __init__(self, scan: Scan, index: int, last: Place, released: Released) -> None:
        self._log: Log = scan.log
        self._pin = scan.pin
        self._index, self._last, self._released = index, last, released
        self.reader = _PlayedReader(scan, index, released)
        self.still, self.wait, self.nap = released.still, released.wait, released.nap
        self.wake = released.tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    @property
    def generation(self) -> int:
        """How often the replay was set back."""
        return self._released.generation

    def over(self, moment: Moment) -> bool:
        """Whether nothing can follow a moment, unless the replay is set back."""
        here = (moment.end, moment.stream_time)
        ended = self._released.ended and here == self._released.places[self._index][:2]
        return here == self._last[:2] or ended
