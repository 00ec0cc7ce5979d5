"""Writing events one at a time: collected for a few milliseconds, appended as one batch.

`send` puts an event on a list and returns; a thread turns the list into columns and appends them
when `linger` has passed or `rows` are waiting. So an event costs a list append, and the log sees
batches.

Invariants: events are appended in the order in which `send` was called by each thread; what `flush`
and `close` return from is acknowledged as the sync policy says; a bad event is named, and takes no
good one with it; nothing is lost silently when the process ends (an unclosed writer is closed).
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal

import pyarrow as pa

from streamlab.errors import FutureEvent, LabClosed, SchemaMismatch, StreamlabError

__all__ = ["Writer"]

MOST_WAITING = 8
"""`send` waits when so many batches of `rows` are waiting to be appended."""

Reject = Callable[[list[tuple[dict[str, Any], str]]], None]


class Writer:
    """Takes events one at a time; made by `Stream.writer`, closed by ``with`` or `close`.

    ``sent`` counts the events taken, ``appended`` those in the log, ``rejected`` the bad ones.
    """

    def __init__(
        self,
        append: Callable[[Any], range],
        schema: pa.Schema,
        *,
        linger: float,
        rows: int,
        heartbeat: Callable[[float], None] | None = None,
        heartbeat_every: float = 0.0,
        reject: Reject | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._append = append
        self._schema = schema
        self._linger = linger
        self._rows = rows
        self._reject = reject
        self._heartbeat, self._heartbeat_every = heartbeat, heartbeat_every
        self._on_close = on_close
        self._waiting: list[dict[str, Any]] = []
        self._put = self._waiting.append
        self._wake = threading.Event()
        self._turn = threading.Lock()  # one batch is appended at a time, in order
        self._errors: list[Exception] = []
        self._closed = False
        self._taken = 0  # events that have left the list
        self.appended = 0
        self.rejected = 0
        self._last = time.monotonic()
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._wake), name="streamlab-writer", daemon=True
        )
        self._thread.start()
        _OPEN.add(self)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Writer {state}: {self.sent} sent, {self.appended} appended, {self.rejected} rejected>"

    @property
    def sent(self) -> int:
        """How many events were taken."""
        return self._taken + len(self._waiting)

    def send(self, event: dict[str, Any] | None = None, /, **columns: Any) -> None:
        """Take one event, as a dict or as keywords; it is appended a little later.

        >>> w.send(symbol="A", price=1.0)  # doctest: +SKIP

        Raises:
            SchemaMismatch: an event sent *before* was bad (with its number and value); the others
                of its batch were appended.
            LabClosed: the writer is closed.
        """
        if self._errors or self._closed:
            self._check()
        self._put(columns if event is None else event if not columns else {**event, **columns})
        waiting = len(self._waiting)
        if waiting == 1 or waiting == self._rows:
            self._wake.set()
        elif waiting > self._rows * MOST_WAITING:
            self._drain()

    def flush(self) -> None:
        """Append all that was sent, and return when it is acknowledged.

        Raises:
            SchemaMismatch: one of the events was bad; the others were appended.
        """
        if self._closed:
            self._check()
        self._drain()
        self._check()

    def close(self) -> None:
        """Append all that was sent and let go of the stream; closing twice is harmless.

        Raises:
            SchemaMismatch: one of the events was bad; the others were appended.
        """
        if self._closed:
            return
        try:
            self._drain()
        finally:
            self._closed = True
            _OPEN.discard(self)
            self._wake.set()
            self._on_close()
        if self._errors:
            raise self._errors.pop(0)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: Any, *_: object) -> Literal[False]:
        if kind is None:
            self.close()
        else:
            with contextlib.suppress(StreamlabError):  # the error that is under way says more
                self.close()
        return False

    def _check(self) -> None:
        if self._errors:
            raise self._errors.pop(0)
        if self._closed:
            raise LabClosed("this writer is closed", hint="make a new one with stream.writer()")

    def _drain(self) -> None:
        """Append what is waiting, batch after batch; what cannot be appended now stays waiting."""
        with self._turn:
            while self._waiting:
                # New events go to the same list meanwhile: what is taken is cut off its front.
                batch = self._waiting[: self._rows]
                try:
                    self._append(columns_of(batch, self._schema))
                    self.appended += len(batch)
                except _NOT_SO_SIMPLE:
                    self._append_around(batch)
                del self._waiting[: len(batch)]
                self._taken += len(batch)
            self._last = time.monotonic()

    def _append_around(self, batch: list[Any]) -> None:
        """Append the good events of a batch in order, and name the bad ones."""
        bad: list[tuple[int, Any, str]] = []
        self._halve(batch, self._taken, bad)
        if not bad:
            return
        self.rejected += len(bad)
        if self._reject is not None:
            self._reject([(event, reason) for _, event, reason in bad])
            return
        number, event, reason = bad[0]
        more = f" (and {len(bad) - 1} more bad events)" if len(bad) > 1 else ""
        self._errors.append(
            SchemaMismatch(
                f"event {number} was not appended{more}: {reason}; it was {event!r:.200}",
                hint='writer(on_error="reject") puts bad events into <stream>.rejected',
                index=number,
                value=event,
            )
        )

    def _halve(self, batch: list[Any], first: int, bad: list[tuple[int, Any, str]]) -> None:
        """Append a batch whole, or its halves; an event that fails alone is bad."""
        try:
            self._append([self._filled(event) for event in batch])
            self.appended += len(batch)
        except (SchemaMismatch, FutureEvent) as error:
            if len(batch) == 1:
                bad.append((first, batch[0], error.message))
                return
            middle = len(batch) // 2
            self._halve(batch[:middle], first, bad)
            self._halve(batch[middle:], first + middle, bad)

    def _filled(self, event: Any) -> dict[str, Any]:
        """Return an event with null for what it lacks, whichever batch it came in."""
        if not isinstance(event, dict):
            raise SchemaMismatch(f"an event is a dict; got {type(event).__name__}")
        return dict.fromkeys(self._schema.names) | event

    def _tick(self) -> None:
        """Do what the thread does when it wakes: append, or beat after a silence."""
        if self._waiting:
            time.sleep(self._linger if len(self._waiting) < self._rows else 0)
            try:
                self._drain()
            except Exception as error:  # noqa: BLE001  raised at the next send; what waits, waits
                if not self._errors:
                    self._errors.append(error)
        elif self._heartbeat is not None:
            silent = time.monotonic() - self._last
            if silent >= self._heartbeat_every:
                with contextlib.suppress(StreamlabError):
                    self._heartbeat(silent)
                self._last = time.monotonic()


def columns_of(batch: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Turn events that have exactly the stream's columns into arrays of its types, fast.

    Raises:
        KeyError, TypeError, ValueError: some event does not fit so simply; look closer.
    """
    arrays = []
    width = len(schema)
    if any(len(event) != width for event in batch):
        raise KeyError("columns")
    for field in schema:
        name = field.name
        values = [event[name] for event in batch]
        array = pa.array(values)
        if not array.type.equals(field.type) and array.null_count == len(array):
            array = array.cast(field.type)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=schema.names)


_NOT_SO_SIMPLE = (SchemaMismatch, FutureEvent, KeyError, TypeError, ValueError, pa.ArrowException)
_OPEN: weakref.WeakSet[Writer] = weakref.WeakSet()


def _run(reference: weakref.ref[Writer], wake: threading.Event) -> None:
    """Serve a writer until it is closed or forgotten."""
    while True:
        wake.wait(0.25)
        wake.clear()
        writer = reference()
        if writer is None or writer._closed:  # noqa: SLF001
            return
        writer._tick()  # noqa: SLF001
        if writer._waiting:  # noqa: SLF001
            wake.set()
        del writer


@atexit.register
def _close_all() -> None:
    for writer in list(_OPEN):
        with contextlib.suppress(StreamlabError):
            writer.close()
