"""Writing events one at a time: collected for a few milliseconds, appended as one batch.

`send` puts an event on a list and returns; a thread turns the list into columns and appends them
when `linger` has passed or `rows` are waiting. So an event costs a list append, and the log sees
batches.

Invariants: events are appended in the order in which `send` was called by each thread, each once;
what `flush` and `close` return from is acknowledged as the sync policy says; a bad event is named,
and takes no good one with it; what cannot be appended now stays waiting and is tried again; what
becomes of an event does not depend on the batch it came in; nothing is lost silently when a writer
is forgotten or the process ends.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  pyarrow may import pandas as late as at exit
import contextlib
import datetime as dt
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from operator import itemgetter
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from streamlab.errors import (
    FutureEvent,
    LabClosed,
    SchemaMismatch,
    StreamlabError,
    WriterPoisoned,
)

__all__ = ["Heartbeat", "Writer"]

logger = logging.getLogger("streamlab")

MOST_WAITING = 8
"""`send` waits when so many batches of `rows` are waiting to be appended."""

LOOK_SECONDS = 0.25
"""How often the thread looks whether it is still needed, and tries again what failed."""

Reject = Callable[[list[tuple[dict[str, Any], str]]], None]


class Heartbeat(NamedTuple):
    """What moves stream time on when nothing is appended."""

    every: float  # seconds of silence
    serial: Callable[[], int]  # a number that changes with each append, whoever appends
    beat: Callable[[float], None]  # takes the seconds of silence


class _Bad(NamedTuple):
    number: int  # how many events were sent before it
    event: Any
    reason: str


class Writer:
    """Takes events one at a time; made by `Stream.writer`, closed by ``with`` or `close`.

    ``sent`` counts the events taken, ``appended`` those in the log, ``rejected`` the bad ones.
    """

    def __init__(
        self,
        append: Callable[[Any], range],
        schema: Callable[[], pa.Schema],
        *,
        linger: float,
        rows: int,
        heartbeat: Heartbeat | None = None,
        reject: Reject | None = None,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        self._append = append
        self._schema = schema
        self._linger = linger
        self._names = schema().names
        self._width = width = len(self._names)
        self._values = itemgetter(*self._names) if width > 1 else _one_value(self._names[0])
        self._rows = rows
        self._enough = rows * width
        self._most = rows * width * MOST_WAITING
        self._reject = reject
        self._heartbeat = heartbeat
        self._waiting: list[Any] = []  # the values of one event after those of the other
        self._put = self._waiting.extend
        self._bad: list[_Bad] = []  # not told of yet
        self._failure: Exception | None = None  # why the last try did not go through
        self._taken = 0  # events that have left the list
        self.appended = 0
        self.rejected = 0
        self._turn = threading.Lock()  # one batch is appended at a time, in order
        self._count = threading.Lock()  # `_taken` and the list change together
        self._closed = False
        self._troubled = False  # the next send has to look why
        self._idle = True  # the thread sleeps until it is woken
        self._hurried = False  # it was told that a batch is full
        self._wake, self._full = threading.Event(), threading.Event()
        self._seen = heartbeat.serial() if heartbeat else 0
        self._since = time.monotonic()
        self._let_go = weakref.finalize(self, on_close)
        self._let_go.atexit = False
        pause = min(LOOK_SECONDS, heartbeat.every / 4) if heartbeat else LOOK_SECONDS
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._wake, pause), name="streamlab-writer", daemon=True
        )  # fmt: skip
        _close_at_exit()
        _OPEN.add(self)
        self._thread.start()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<Writer {state}: {self.sent} sent, {self.appended} appended, {self.rejected} rejected>"

    @property
    def sent(self) -> int:
        """How many events were taken."""
        with self._count:
            return self._taken + self._left

    @property
    def _left(self) -> int:
        return len(self._waiting) // self._width

    def send(self, event: dict[str, Any] | None = None, /, **columns: Any) -> None:
        """Take one event as it is now, as a dict or as keywords; it is appended a little later.

        >>> w.send(symbol="A", price=1.0)  # doctest: +SKIP

        Raises:
            SchemaMismatch: an event sent *before* was bad (with its ``index`` and ``value``); the
                others were appended. This one was not taken.
            StreamLocked, WriterPoisoned, OSError: what was sent before cannot be appended; it
                stays waiting. This one was not taken.
            LabClosed: the writer is closed.
        """
        if self._troubled or len(self._waiting) >= self._most:
            self._make_room()
        try:
            if event is None:
                event = columns
            elif columns:
                event = {**event, **columns}
            if len(event) == self._width:
                self._put(self._values(event))
            else:
                self._put(self._odd(event))
        except (KeyError, TypeError):  # other keys, or no dict at all
            self._put(self._odd(event))
        if self._idle or (len(self._waiting) >= self._enough and not self._hurried):
            self._nudge()

    def _odd(self, event: Any) -> list[Any]:
        """Return what takes the place of an event that has not just the columns."""
        copy = event.copy() if isinstance(event, dict) else event
        return [_Odd(copy)] + [None] * (self._width - 1)

    def _make_room(self) -> None:
        """Raise what is to be raised, and append here what the thread has not come to."""
        self._check()
        if len(self._waiting) >= self._most:
            self._drain(self._taken + self._rows)
            self._check()

    def _nudge(self) -> None:
        """Wake the thread, or tell it that a batch is full."""
        if self._closed:  # by another thread while this event was on its way
            self._drain()
        elif self._idle:
            self._idle = False
            _BUSY.add(self)
            self._wake.set()
        if len(self._waiting) >= self._enough:
            self._hurried = True
            self._full.set()

    def flush(self) -> None:
        """Append all that was sent before the call, and return when it is acknowledged.

        Raises:
            SchemaMismatch: an event was bad (with its ``index`` and ``value``); the others were
                appended.
            StreamLocked, WriterPoisoned, OSError: it could not be appended; it stays waiting.
        """
        if self._closed:
            self._check()
        self._drain(self.sent)
        self._check()

    def close(self) -> None:
        """Append all that was sent and let go of the stream; closing twice is harmless.

        If that fails for a reason that may pass, the writer stays open and what it holds stays
        waiting: close it again.

        Raises:
            SchemaMismatch: an event was bad; the others were appended, and the writer is closed.
            StreamLocked, WriterPoisoned, OSError: events could not be appended.
        """
        if self._closed:
            return
        self._closed = self._troubled = self._idle = True
        try:
            self._drain()
        except (LabClosed, WriterPoisoned) as error:
            error.add_note(f"{self._left} events of this writer were not appended.")
            self._end()
            raise
        except BaseException as error:
            error.add_note(f"{self._left} events of this writer wait still.")
            self._closed = self._idle = False
            self._wake.set()
            raise
        self._end()
        if self._bad:
            raise self._mismatch()

    def _end(self) -> None:
        _OPEN.discard(self)
        _BUSY.discard(self)
        self._full.set()
        self._wake.set()
        self._let_go()

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
        """Raise what has gone wrong since the last look, once."""
        self._troubled = self._closed
        if self._bad and self._reject is None:
            raise self._mismatch()
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure
        if self._closed:
            raise LabClosed("this writer is closed", hint="make a new one with stream.writer()")

    def _mismatch(self) -> SchemaMismatch:
        bad, self._bad = self._bad, []
        number, event, reason = bad[0]
        more = f" (and {len(bad) - 1} more bad events)" if len(bad) > 1 else ""
        return SchemaMismatch(
            f"event {number} was not appended{more}: {reason}; it was {event!r:.200}",
            hint='writer(on_error="reject") puts bad events into <stream>.rejected',
            index=number,
            value=event,
        )

    def _drain(self, upto: int | None = None) -> None:
        """Append what is waiting, batch after batch; what cannot be appended now stays waiting."""
        with self._turn:
            self._hand_over()
            while self._waiting and (upto is None or self._taken < upto):
                # New events go to the same list meanwhile: what is taken is cut off its front.
                values = self._waiting[: self._enough]
                schema = self._schema()
                try:
                    batch = columns_of(values, self._names, schema)
                    self._append(batch)
                    self._done(batch.num_rows, appended=True)
                except _NOT_SO_SIMPLE:
                    self._append_around(values, schema.names)
                    self._hand_over()
            self._failure = None

    def _done(self, count: int, *, appended: bool) -> None:
        with self._count:
            del self._waiting[: count * self._width]
            self._taken += count
        if appended:
            self.appended += count
        else:
            self.rejected += count

    def _append_around(self, values: list[Any], names: list[str]) -> None:
        """Append the good events of a batch in order: it whole, or its halves.

        An event that fails alone is bad; each that is settled leaves the list at once.
        """
        parts = [events_of(values, self._names)]
        while parts:
            part = parts.pop()
            try:
                self._append([_filled(event, names) for event in part])
            except (SchemaMismatch, FutureEvent) as error:
                if len(part) == 1:
                    self._bad.append(_Bad(self._taken, part[0], error.message))
                    self._troubled = True
                    self._done(1, appended=False)
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
            else:
                self._done(len(part), appended=True)

    def _hand_over(self) -> None:
        """Put the bad events where they were asked for; if that fails it is tried again."""
        if self._reject is not None and self._bad:
            self._reject([(bad.event, bad.reason) for bad in self._bad])
            self._bad = []

    def _tick(self) -> None:
        """Do what the thread does when it wakes: append, or beat after a silence."""
        if not self._waiting and not (self._bad and self._reject):
            self._rest()
            if self._heartbeat is not None:
                self._pulse(self._heartbeat)
            return
        if len(self._waiting) < self._enough and self._failure is None:
            self._full.wait(self._linger)
        self._full.clear()
        self._hurried = False
        try:
            self._drain()
        except Exception as error:  # noqa: BLE001  raised at the next send; what waits, waits
            if type(error) is not type(self._failure):
                logger.warning("%d events wait to be appended: %s", self._left, error)
            self._failure, self._troubled = error, True
        else:
            self._rest()

    def _rest(self) -> None:
        """Say that the thread sleeps from now on, unless an event came meanwhile."""
        _BUSY.discard(self)
        self._idle = True
        if self._waiting and not self._closed:
            self._idle = False
            _BUSY.add(self)
            self._wake.set()

    def _pulse(self, heartbeat: Heartbeat) -> None:
        """Move stream time on by the time that has passed since anybody appended."""
        now, serial = time.monotonic(), heartbeat.serial()
        if serial != self._seen:
            self._seen, self._since = serial, now
        elif now - self._since >= heartbeat.every:
            with contextlib.suppress(StreamlabError, OSError):  # the silence goes on
                heartbeat.beat(now - self._since)
                self._seen, self._since = heartbeat.serial(), now


class _Odd:
    """Stands in the place of the first value of an event that has not just the columns."""

    def __init__(self, event: Any) -> None:
        self.event = event


def _one_value(name: str) -> Callable[[dict[str, Any]], tuple[Any]]:
    return lambda event: (event[name],)


def columns_of(values: list[Any], names: list[str], schema: pa.Schema) -> pa.RecordBatch:
    """Turn events of plain values into arrays of a stream's types, fast.

    Only where that gives what each event would give alone: one kind of value in a column, which
    Arrow takes for the type or refuses.

    Raises:
        TypeError, ValueError, OverflowError: some event does not fit so simply; look closer.
    """
    width = len(names)
    arrays = []
    for field in schema:
        if field.name in names:
            column = values[names.index(field.name) :: width]
        else:  # added after the writer was made
            column = [None] * (len(values) // width)
        kinds = set(map(type, column))
        plain = kinds - {type(None)}
        if plain not in _kinds_of(field.type) or (len(plain) < len(kinds) and not field.nullable):
            raise TypeError(field.name)
        arrays.append(pa.array(column, field.type))
    return pa.RecordBatch.from_arrays(arrays, names=schema.names)


def events_of(values: list[Any], names: list[str]) -> list[Any]:
    """Return the events again that `Writer.send` took apart."""
    width = len(names)
    return [
        values[at].event
        if type(values[at]) is _Odd
        else dict(zip(names, values[at : at + width], strict=True))
        for at in range(0, len(values), width)
    ]


@functools.lru_cache(maxsize=256)
def _kinds_of(kind: pa.DataType) -> list[set[type]]:
    """Return the kinds of values, apart from None, that Arrow makes this type of exactly or refuses."""
    if pa.types.is_integer(kind):
        return [set(), {int}]
    if pa.types.is_float64(kind):
        return [set(), {float}, {int}, {int, float}]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return [set(), {str}]
    if pa.types.is_boolean(kind):
        return [set(), {bool}]
    if kind == pa.timestamp("us", "UTC"):
        return [set(), {dt.datetime}]
    return [set()]


def _filled(event: Any, names: list[str]) -> dict[str, Any]:
    """Return an event with null for what it lacks, whichever batch it came in."""
    if not isinstance(event, dict):
        raise SchemaMismatch(f"an event is a dict; got {type(event).__name__}")
    return dict.fromkeys(names) | event


_NOT_SO_SIMPLE = (
    SchemaMismatch,
    FutureEvent,
    TypeError,
    ValueError,
    OverflowError,
    pa.ArrowException,
)
_OPEN: weakref.WeakSet[Writer] = weakref.WeakSet()
_BUSY: set[Writer] = set()
"""Writers with events that wait: one that the user forgets lives until they are appended."""


def _run(reference: weakref.ref[Writer], wake: threading.Event, pause: float) -> None:
    """Serve a writer until it is closed or forgotten."""
    while True:
        wake.wait(pause)
        wake.clear()
        writer = reference()
        if writer is None or writer._closed:  # noqa: SLF001
            return
        writer._tick()  # noqa: SLF001
        del writer


@functools.cache
def _close_at_exit() -> None:
    """Have open writers closed at exit: registered late, and so done before labs are closed."""
    atexit.register(_close_all)


def _close_all() -> None:
    for writer in list(_OPEN):
        try:
            writer.close()
        except (StreamlabError, OSError):
            logger.exception("at exit %d events of a writer were lost", writer._left)  # noqa: SLF001


def _after_fork() -> None:
    """In a forked child: the events are the parent's, and so is the writer."""
    for writer in list(_OPEN):
        writer._waiting.clear()  # noqa: SLF001
        writer._let_go.detach()  # noqa: SLF001
        writer._turn, writer._count = threading.Lock(), threading.Lock()  # noqa: SLF001
        writer._closed = writer._troubled = writer._idle = True  # noqa: SLF001
    _OPEN.clear()
    _BUSY.clear()


os.register_at_fork(after_in_child=_after_fork)
