"""A live view of a query: results are taken as they come, and anew when a replay is set back."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import streamlab as sl
from streamlab.notebook.live import Live

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Following"]

POLL_SECONDS = 0.1
"""How long a look reads on in a long history, before what there is is shown."""


class Polled(Protocol):
    """What is polled: results of a query, or rows of a stream."""

    def poll(self, seconds: float) -> pl.DataFrame: ...
    def stop(self) -> None: ...
    @property
    def behind(self) -> int: ...
    @property
    def rows_in(self) -> int: ...
    @property
    def rows_late(self) -> int: ...
    @property
    def watermark(self) -> int | None: ...


class Following(Live):
    """A view that follows a query, and can be paused."""

    def __init__(self, query: sl.Query, start: Any, stream: sl.Stream | None = None) -> None:
        self._query, self._start, self._stream = query, start, stream
        self._identity = query.identity
        self._results = self._followed()
        self._paused = False
        super().__init__()
        self._at_end.append(self._stop_results)

    @property
    def paused(self) -> bool:
        """Whether it stands still; what comes meanwhile is there afterwards."""
        return self._paused

    @paused.setter
    def paused(self, value: bool) -> None:
        with self._lock:
            self._paused = value
            self._full = True
            self._wake.set()

    def _followed(self) -> Polled:
        """Return what is polled: results of a query, or where it is a stream as it is, its rows."""
        if self._stream is not None:
            return Rows(self._stream, self._start, self._columns())
        return self._query.follow(self._start, "changes" if self._identity else "final")

    def _columns(self) -> list[str]:
        """Return the columns that are looked at."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Forget all results: they come again."""
        raise NotImplementedError

    def _poll(self) -> pl.DataFrame:
        """Return what has come by now."""
        try:
            return self._results.poll(POLL_SECONDS)
        except sl.ReplaySeeked:
            self._results.stop()
            self._results = self._followed()
            self._forget()
            return self._results.poll(POLL_SECONDS)

    def _stop_results(self) -> None:
        self._results.stop()

    def _told(self, message: dict[str, Any]) -> None:
        if message["t"] == "pause":
            self.paused = bool(message["on"])


class Rows:
    """The rows of a stream as they come, to be polled like results: no query stands between."""

    rows_late = 0  # no window, no row that is late for one
    watermark: int | None = None
    rows_in = behind = 0

    def __init__(self, stream: sl.Stream, start: Any, columns: list[str]) -> None:
        self._stream, self._columns = stream, columns
        self._batches = stream.follow(start, timeout=0)

    def poll(self, seconds: float) -> pl.DataFrame:
        """Return what has come by now; of a long history, so many seconds of it."""
        import polars as pl

        until, found = time.monotonic() + seconds, []
        self.behind = 0
        for batch in self._batches:
            found.append(batch.select(self._columns))
            self.rows_in += batch.num_rows
            if time.monotonic() >= until:
                self.behind = max(0, self._stream.end_offset - self._batches.position)
                break
        if not found:
            return pl.DataFrame()
        frame = pl.from_arrow(found)
        assert isinstance(frame, pl.DataFrame)
        return frame

    def stop(self) -> None:
        """There is nothing to stop."""
