"""A live view of a query: results are taken as they come, and anew when a replay is set back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import streamlab as sl
from streamlab.notebook.live import Live

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Following"]

POLL_SECONDS = 0.1
"""How long a look reads on in a long history, before what there is is shown."""


class Following(Live):
    """A view that follows a query, and can be paused."""

    def __init__(self, query: sl.Query, start: Any) -> None:
        self._query, self._start = query, start
        self._identity = query.identity
        self._emit: Literal["final", "changes"] = "changes" if self._identity else "final"
        self._results = query.follow(start, self._emit)
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

    def _forget(self) -> None:
        """Forget all results: they come again."""
        raise NotImplementedError

    def _poll(self) -> pl.DataFrame:
        """Return what has come by now."""
        try:
            return self._results.poll(POLL_SECONDS)
        except sl.ReplaySeeked:
            self._results.stop()
            self._results = self._query.follow(self._start, self._emit)
            self._forget()
            return self._results.poll(POLL_SECONDS)

    def _stop_results(self) -> None:
        self._results.stop()

    def _told(self, message: dict[str, Any]) -> None:
        if message["t"] == "pause":
            self.paused = bool(message["on"])
