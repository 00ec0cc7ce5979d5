"""Time, defined once: the clocks, and the stream time of a row.

Event time is what the data says, append time is when the log took it, and *stream time* is the
greatest event time so far, in the order of offsets. Stream time is monotone, which makes it at once
the index for `find`, the clock of a replay and the base of the watermark.

All times in the core are int64 microseconds since 1970-01-01T00:00Z; `NEVER` is before all of them.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = [
    "FOREVER",
    "NEVER",
    "NOTICED",
    "Clock",
    "Pacer",
    "Stopwatch",
    "WallClock",
    "stream_times",
]

LONGEST_WAIT = 3600.0
"""Nobody sleeps longer, in seconds, without looking again."""

NOTICED = 0.5
"""Who waits in the foreground looks up so often, in seconds: a Ctrl-C that comes right before it goes to
sleep does not wake it."""

NEVER = -(2**63)
"""The stream time of a stream in which nothing has happened yet."""

FOREVER = 2**63 - 1
"""The stream time after ``advance("end")``: every window is closed."""


class Clock(Protocol):
    """What the core asks the time of: the wall, or a test."""

    def now(self) -> int:
        """Return the present in microseconds since 1970, UTC."""
        ...


class WallClock:
    """The clock on the wall."""

    def now(self) -> int:
        return time.time_ns() // 1_000


@runtime_checkable
class Pacer(Protocol):
    """What a replay is paced by: a clock that one can also wait for."""

    def now(self) -> int:
        """Return how much time has passed since whenever, in microseconds."""
        ...

    def wait(self, turn: threading.Condition, until: int) -> None:
        """Wait, holding ``turn``, until then at most; a notification ends it."""
        ...


class Stopwatch:
    """Time that passes evenly, whatever is done to the clock on the wall."""

    def now(self) -> int:
        return time.monotonic_ns() // 1_000

    def wait(self, turn: threading.Condition, until: int) -> None:
        seconds = (until - self.now()) / 1e6
        if seconds > 0:
            turn.wait(min(seconds, LONGEST_WAIT))


def stream_times(before: int, event_times: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return S(row) for each row: the running maximum, ``before`` being that of the row before.

    >>> stream_times(5, np.array([3, 9, 7])).tolist()
    [5, 9, 9]
    """
    running = np.maximum.accumulate(event_times)
    return np.maximum(running, before)
