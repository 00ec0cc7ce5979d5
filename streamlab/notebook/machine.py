"""The time machine: one slider over history, and under it what was, as of that instant."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any, Literal

import streamlab as sl
from streamlab.notebook.live import escape, module, text_of
from streamlab.notebook.panes import Answer, ChartPane, Pane, SlowPane, TablePane, worth_showing
from streamlab.notebook.table import checked_rows, rows_html
from streamlab.notebook.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

__all__ = ["TimeMachine"]


class TimeMachine(Transport):
    """A slider over history with tables, charts and SQL under it; made by ``lab.time_machine(...)``.

    At an instant the rows are there that a replay has released by then: those below
    ``stream.find(instant, clock)``. Each of the methods that add a pane returns the machine.
    """

    _esm = module(
        "axes.js", "table.js", "chart.js", "transport.js", "machine.js",
        store="machineStore", render="renderMachine",
    )  # fmt: skip
    _css = text_of("live.css", "chart.css", "transport.css", "machine.css")

    def __init__(self, lab: sl.Lab, replay: sl.Replay, clock: Literal["event", "append"]) -> None:
        self._lab, self._clock = lab, clock
        self._panes: list[Pane] = []
        self._version = 0  # of the answers of slow panes
        self._seen_version = -1
        super().__init__(replay)
        self._fps = 30.0
        self._at_end.append(replay.stop)

    # -- what users do -----------------------------------------------------------------------

    @property
    def at(self) -> dt.datetime:
        """The instant; set it to go there.

        Raises:
            InvalidTime: set to an instant that is not in its span.
        """
        return self._replay.position

    @at.setter
    def at(self, instant: Any) -> None:
        with self._lock:
            self._replay.seek(instant)
            self._wake.set()

    def table(self, name: str, rows: int = 10, *, filter: str = "") -> TimeMachine:  # noqa: A002
        """Add the last rows of a stream that were there, with a condition in SQL if there is one."""
        return self._with(TablePane(self._replay[name], checked_rows(rows), filter))

    def chart(
        self, name: str, x: str | None = None, y: Any = None, color: Any = None, *,
        kind: str = "line", last: str | dt.timedelta = "10m", height: int = 220, unit: str = "",
        filter: str = "",  # noqa: A002
    ) -> TimeMachine:  # fmt: skip
        """Add a chart of the rows in the length of time before the instant.

        ``x`` is a column of times, by default the stream's event time; ``filter`` a condition in SQL.
        Of more than 400,000 rows the last are drawn.

        Raises:
            QueryError: a column that is not there, or cannot be drawn so.
        """
        stream, clock = self._lab[name], self._clock
        x = x or stream.time or "_append_time"
        length = sl.tumbling(last).size  # the one place that knows what a length of time may be
        pane = ChartPane(
            self._replay[name], lambda at: stream.find(at, clock), x=x, y=y, color=color, kind=kind,
            last=dt.timedelta(microseconds=length), height=height, unit=unit,
            condition=filter,
        )  # fmt: skip
        return self._with(pane)

    def state(self, name: str, key: Any = None, rows: int = 10) -> TimeMachine:
        """Add the stream as a table, as it was: the latest row of each key."""
        table = self._replay[name].table(key)
        return self._with(
            SlowPane(
                f"{name}, latest row of each key",
                checked_rows(rows),
                lambda: table.to_polars,
                self._news,
            )
        )

    def sql(self, query: str, rows: int = 10) -> TimeMachine:
        """Add what a SELECT over the streams gave then; while it is worked out, the last answer."""

        def ask() -> Callable[[], pl.DataFrame]:
            relation = self._replay.sql(query)
            return relation.pl

        return self._with(SlowPane(" ".join(query.split()), checked_rows(rows), ask, self._news))

    def frame(self, pane: int = 0) -> pl.DataFrame:
        """Return what a pane shows, the first added being 0."""
        with self._lock:
            chosen = self._panes[pane]
            return chosen.frame(self.at) if isinstance(chosen, ChartPane) else chosen.frame()

    def _with(self, pane: Pane) -> TimeMachine:
        with self._lock:
            self._panes.append(pane)
            self._full = True
            self._wake.set()
        return self

    def _news(self) -> None:
        """A slow pane has its answer."""
        self._version += 1
        self._wake.set()

    # -- what a view says --------------------------------------------------------------------

    def _look(self, *, full: bool) -> Answer | None:
        version = self._version
        found = super()._look(full=full or version != self._seen_version)
        if found is None:
            return None
        self._seen_version = version
        content, buffers = found
        at = self._replay.position
        panes = []
        for pane in self._panes:
            said, more = pane.look(at)
            panes.append({**said, "buffers": len(more)})
            buffers += more
        return {
            **content,
            "panes": panes,
            "asked": self._asked_number,
            "at": at.timestamp() * 1000,
        }, buffers

    _asked_number = 0

    def _told(self, message: dict[str, Any]) -> None:
        self._asked_number = int(message.get("n", self._asked_number))
        super()._told(message)

    def _about(self) -> str:
        return f"time machine of {', '.join(self._replay)} at {self._replay.position:%Y-%m-%d %H:%M:%S} UTC"

    def _still_html(self) -> str:
        parts = [super()._still_html()]
        for pane in self._panes:
            if isinstance(pane, ChartPane):
                parts.append(pane.still(self.at))
                continue
            said, _ = pane.look(self.at)
            parts.append(f"<div><b>{escape(said['title'])}</b></div>")
            frame = pane.frame().head(said["size"])
            parts.append(rows_html(frame.select(worth_showing(frame))))
        return "".join(parts)
