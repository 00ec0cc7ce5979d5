"""Following a stream: its history, then what comes, without a seam.

A follower holds nothing but an offset. It reads up to the end that is published, waits for the head
to move, and reads on: history and tail are the same rows read by the same code, so nothing is missed
or doubled between them, whichever process writes, rolls, seals or trims meanwhile.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from streamlab.duration import parse_instant
from streamlab.errors import InvalidTime, OffsetOutOfRange, ReplaySeeked
from streamlab.log.log import LONGEST_PAUSE
from streamlab.scan import Scan, offset_of

__all__ = ["Follower", "first_offset", "same_generation"]


class Follower(Iterator[pa.RecordBatch], AsyncIterator[pa.RecordBatch]):
    """An iterator, sync or async, over record batches: what there is, then what comes.

    It ends after ``timeout`` seconds without a new row, or after ``rows`` rows, or at the end of a
    view; otherwise it goes on for ever. ``position`` is the offset it will read next.
    """

    def __init__(self, scan: Scan, start: Any, timeout: float | None, rows: int | None) -> None:
        if rows is not None and rows < 0:
            raise ValueError(f"rows is a count; got {rows!r}")
        self._scan = scan
        self._timeout = timeout
        self._left = rows
        self._ready: Iterator[pa.RecordBatch] = iter(())
        self._ready_until = 0  # the offset that what is ready reaches to
        self._generation = scan.log.generation
        self._over = False  # whether nothing can follow what was looked at
        snapshot = scan.fix(pin=False)
        self.position = first_offset(scan, start, snapshot.start, snapshot.stop)
        replace(snapshot, start=self.position).check_whole()

    def __repr__(self) -> str:
        return f"<Follower of {self._scan.info().name!r} at offset {self.position}>"

    def __iter__(self) -> Follower:
        return self

    def __aiter__(self) -> Follower:
        return self

    def __next__(self) -> pa.RecordBatch:
        started = time.monotonic()
        while True:
            serial = self._scan.log.reader.head.serial()
            batch = self._read()
            if batch is not None:
                return batch
            left = self._waiting_time(started)
            if left is not None and left <= 0:
                raise StopIteration
            self._scan.log.wait(serial, left)

    async def __anext__(self) -> pa.RecordBatch:
        started = time.monotonic()
        while True:
            serial = self._scan.log.reader.head.serial()
            batch = self._read()
            if batch is not None:
                return batch
            left = self._waiting_time(started)
            if left is not None and left <= 0:
                raise StopAsyncIteration
            while self._scan.log.reader.head.serial() == serial:
                left = self._waiting_time(started)
                if left is not None and left <= 0:
                    break
                await asyncio.sleep(
                    LONGEST_PAUSE / 2 if left is None else min(left, LONGEST_PAUSE / 2)
                )

    def _waiting_time(self, started: float) -> float | None:
        """Return how long to wait for more at most; 0 when nothing more can come."""
        bounded = self._scan.stop is not None and self.position >= self._scan.stop
        if self._left == 0 or self._scan.fixed is not None or bounded or self._over:
            return 0.0
        if self._timeout is None:
            return None
        return max(0.0, started + self._timeout - time.monotonic())

    def _read(self) -> pa.RecordBatch | None:
        """Return the next rows that are there, None if there are none now."""
        if self._left == 0:
            return None
        batch = self._next_piece()
        if batch is None or self._left is None:
            return batch
        batch = batch.slice(0, self._left)
        self._left -= batch.num_rows
        self.position = batch.column("_offset")[-1].as_py() + 1
        return batch

    def _next_piece(self) -> pa.RecordBatch | None:
        """Return the next batch that has rows, and note where it ends."""
        for batch in self._ready:
            if batch.num_rows:
                self.position = batch.column("_offset")[-1].as_py() + 1
                return batch
        # The last rows that were looked at may not have been of the view.
        self.position = max(self.position, self._ready_until)
        snapshot = replace(self._scan, start=max(self._scan.start, self.position)).fix(pin=False)
        same_generation(self._scan, self._generation)
        self._over = self._scan.log.over(snapshot.moment)
        if snapshot.start > self.position:
            raise OffsetOutOfRange(
                f"offset {self.position} of stream {snapshot.info.name!r} was removed before it "
                f"was read; it begins at {snapshot.start} now",
                asked=self.position,
                available=range(snapshot.start, snapshot.stop),
            )
        if snapshot.stop <= self.position:
            return None
        self._ready, self._ready_until = iter(snapshot.batches()), snapshot.stop
        return self._next_piece()


def same_generation(scan: Scan, generation: int) -> None:
    """See that a replay was not set back since; called after a look, so that the look was before.

    Raises:
        ReplaySeeked: it was.
    """
    if scan.log.generation != generation:
        raise ReplaySeeked(
            f'the replay of stream "{scan.info().name}" has been set back: what comes now was there before',
            hint="follow it again, or run the query again, from where the replay is now",
        )


OTHER_WORDS = {
    **dict.fromkeys(("latest", "now", "last", "newest", "tail", "largest"), "end"),
    **dict.fromkeys(
        ("beginning", "begin", "start", "first", "oldest", "smallest", "head"), "earliest"
    ),
}
"""What other tools call the ends of a stream."""


def first_offset(scan: Scan, start: Any, earliest: int, end: int) -> int:
    """Return the offset that a ``start`` means: ``"earliest"``, ``"end"``, an offset, an instant.

    The earliest of a replay is where it starts: the rows before are history.

    Raises:
        OffsetOutOfRange: an offset that is not there.
    """
    if start == "earliest":
        return earliest if scan.origin is None else max(earliest, min(scan.origin.begin, end))
    if start == "end":
        return end
    offset = offset_of(start)
    if offset is not None:
        if not earliest <= offset <= end:
            raise OffsetOutOfRange(
                f"offset {start} is not in stream {scan.info().name!r}, which holds "
                f"[{earliest}, {end})",
                asked=offset, available=range(earliest, end),
            )  # fmt: skip
        return offset
    if isinstance(start, str) and start.strip().lower() in OTHER_WORDS:
        raise InvalidTime(
            f"start is no {start!r}",
            hint=f'write "{OTHER_WORDS[start.strip().lower()]}"; also an offset, or an instant',
        )
    micros = parse_instant(start, what='start (or "earliest", "end", an offset)')
    return max(scan.fix(pin=False).find(micros), earliest)
