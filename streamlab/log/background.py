"""The only threads of the log: one that keeps appointments, one that does the slow chores.

Syncing by interval and letting go of an idle lock must be on time, sealing takes as long as it
takes: so there are two. Both are started when first needed, are daemons, and are started anew in a
forked child.

Invariants: a task is a method of an object that is held weakly, so that a forgotten lab is not kept
alive; an error in a task is logged with its traceback and never ends the thread.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable

__all__ = ["CHORES", "TIMERS", "Worker"]

logger = logging.getLogger("streamlab")


class Worker:
    """A daemon thread that calls methods at their time."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._due: list[tuple[float, int, weakref.WeakMethod[Callable[[], None]]]] = []
        self._order = itertools.count()
        self._wake = threading.Condition(threading.Lock())
        self._thread: threading.Thread | None = None

    def call(self, method: Callable[[], None], delay: float = 0.0) -> None:
        """Call a bound method once, ``delay`` seconds from now."""
        if self._pid != os.getpid():
            self._reset()
        entry = (time.monotonic() + delay, next(self._order), weakref.WeakMethod(method))
        with self._wake:
            heapq.heappush(self._due, entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)
                self._thread.start()
            elif self._due[0] is entry:
                self._wake.notify()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._due or self._due[0][0] > time.monotonic():
                    pause = self._due[0][0] - time.monotonic() if self._due else None
                    self._wake.wait(pause)
                _, _, reference = heapq.heappop(self._due)
            method = reference()
            if method is not None:
                try:
                    method()
                except Exception:
                    logger.exception("a background task of streamlab failed")
            del method


TIMERS = Worker("streamlab-timers")
CHORES = Worker("streamlab-chores")


def _after_fork() -> None:
    for worker in (TIMERS, CHORES):
        worker._reset()  # noqa: SLF001


os.register_at_fork(after_in_child=_after_fork)
