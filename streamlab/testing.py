"""The testing kit: what users test their streams with, and what we use ourselves.

A `ManualClock` stands still until it is told otherwise, so that no test sleeps; `temp_lab` is a lab
that is gone at the end of a block; `feed` cuts a frame into appends; `assert_same_windows` compares
results where the order of rows and the last digits of float sums do not count.
"""

from __future__ import annotations

import contextlib
import random
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamlab.clock import Clock
from streamlab.duration import Duration, Instant, parse_duration, parse_instant
from streamlab.lab import Lab
from streamlab.settings import parse_sync
from streamlab.stream import Stream

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ManualClock", "assert_same_windows", "chunked", "feed", "temp_lab"]


class ManualClock:
    """A clock that moves only when it is told to.

    >>> clock = ManualClock("2026-01-01T00:00Z")
    >>> clock.advance("5s")
    >>> clock
    ManualClock('2026-01-01T00:00:05Z')
    """

    def __init__(self, start: Instant = "2026-01-01T00:00:00Z") -> None:
        self._micros = parse_instant(start)
        self._waiting: weakref.WeakSet[threading.Condition] = weakref.WeakSet()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        from streamlab.duration import format_instant

        return f"ManualClock({format_instant(self._micros)!r})"

    def now(self) -> int:
        """Return the present in microseconds since 1970, UTC."""
        return self._micros

    def advance(self, by: Duration) -> None:
        """Move forward, and wake what waits for a time to come."""
        self._micros += parse_duration(by, what="by")
        self._wake()

    def set(self, to: Instant) -> None:
        """Jump, forward or back: what a wall clock that is corrected does."""
        self._micros = parse_instant(to)
        self._wake()

    def wait(self, turn: threading.Condition, until: int) -> None:
        """Wait, holding ``turn``, until this clock is moved or ``turn`` notified; then look again."""
        with self._lock:
            self._waiting.add(turn)
        if self._micros < until:
            turn.wait()

    def _wake(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for turn in waiting:
            with turn:
                turn.notify_all()


@contextlib.contextmanager
def temp_lab(*, sync: Any = "os", clock: Clock | None = None) -> Iterator[Lab]:
    """Give a lab in a temporary folder, which is removed at the end of the block.

    >>> with temp_lab() as lab:
    ...     lab.create("numbers", {"n": [1, 2, 3]}).end_offset
    3
    """
    with tempfile.TemporaryDirectory(prefix="streamlab-") as folder:
        lab = Lab(Path(folder) / "lab", sync=parse_sync(sync), clock=clock)
        try:
            yield lab
        finally:
            lab.close()


def chunked(frame: Any, chunks: int | Sequence[int] | None, seed: int = 0) -> Iterator[Any]:
    """Cut a Polars frame into consecutive parts.

    ``chunks`` is how many rows each part has, or a list of the sizes in turn, or None for random
    ones drawn with ``seed``.

    >>> import polars as pl
    >>> [part.height for part in chunked(pl.DataFrame({"n": range(5)}), 2)]
    [2, 2, 1]
    """
    draw = random.Random(seed)  # noqa: S311
    at, turn = 0, 0
    while at < frame.height:
        if chunks is None:
            size = draw.randint(1, max(1, frame.height // 3))
        else:
            size = chunks if isinstance(chunks, int) else chunks[turn % len(chunks)]
        if size < 1:
            raise ValueError(f"a part has at least one row; got {size!r}")
        yield frame.slice(at, size)
        at, turn = at + size, turn + 1


def feed(
    stream: Stream, frame: Any, chunks: int | Sequence[int] | None = None, seed: int = 0
) -> range:
    """Append a frame in parts, and return the offsets of all of it."""
    start = stream.end_offset
    for part in chunked(frame, chunks, seed):
        stream.append(part)
    return range(start, stream.end_offset)


def assert_same_windows(a: pl.DataFrame, b: pl.DataFrame, *, tolerance: float = 1e-9) -> None:
    """Assert that two results hold the same rows: any order, floats to a relative tolerance.

    Raises:
        AssertionError: with the first rows that differ.
    """
    from polars.testing import assert_frame_equal

    if set(a.columns) != set(b.columns):
        raise AssertionError(f"columns differ: {a.columns} and {b.columns}")
    b = b.select(a.columns)
    exact = [name for name, kind in a.schema.items() if not kind.is_float()]
    if exact:
        a, b = a.sort(exact, nulls_last=False), b.sort(exact, nulls_last=False)
    assert_frame_equal(a, b, rel_tol=tolerance, abs_tol=0.0)
