"""Panes of a time machine: what a stream, a table or a SELECT was as of an instant.

A pane is asked with the replay set to the instant, and answers with what a browser draws. One that
answers from a few mapped rows does so in every frame; one that may take long is asked in a thread of
its own, always for the newest instant, and shows the last answer meanwhile, greyed.
"""

from __future__ import annotations

import base64
import datetime as dt
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import streamlab as sl
from streamlab.notebook.picture import figure_of, png
from streamlab.notebook.series import Line, Points, plot_of
from streamlab.notebook.table import MOST_COLUMNS, column_of
from streamlab.notebook.tail import Tail
from streamlab.notebook.values import cells_of
from streamlab.palette import SERIES

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Answer", "ChartPane", "Pane", "SlowPane", "TablePane", "decimated", "worth_showing"]

Answer = tuple[dict[str, Any], list[bytes]]

PIXELS = 1000
"""A series of more points is sent as the lowest and the highest of each of so many stretches."""

MOST_READ = 400_000
"""So many rows before the instant are read for a chart at most."""


class Pane(Protocol):
    """What is shown as of an instant."""

    def look(self, at: dt.datetime) -> Answer: ...
    def frame(self) -> pl.DataFrame: ...


class TablePane:
    """The last rows of a stream that were there; with a condition, of those it is true for."""

    def __init__(self, stream: sl.Stream, rows: int, condition: str) -> None:
        self._stream, self._rows = stream, rows
        self._tail = Tail(stream, rows, condition)

    def frame(self) -> pl.DataFrame:
        """Return the rows."""
        return self._tail.below(self._stream.end_offset)

    def look(self, at: dt.datetime) -> Answer:
        """Return them as text."""
        del at
        where = f" where {self._tail.condition}" if self._tail.condition else ""
        title = f"{self._stream.name}, the last rows{where}: {self._stream.end_offset:,} were there"
        return {"kind": "table", "title": title, **table_of(self.frame(), self._rows)}, []


def table_of(frame: pl.DataFrame, size: int) -> dict[str, Any]:
    """Return a frame as a browser's table takes it."""
    shown = worth_showing(frame)
    texts = [cells_of(frame[name]) for name in shown]
    rows = [{"key": i, "cells": list(row)} for i, row in enumerate(zip(*texts, strict=True))]
    return {
        "columns": [column_of(name, frame.schema[name]) for name in shown],
        "rows": rows[:size],
        "size": size,
    }


def worth_showing(frame: pl.DataFrame) -> list[str]:
    """Return the columns that say something: the partition does where there are several."""
    only = "_partition" in frame.columns and not (frame["_partition"] > 0).any()
    return [name for name in frame.columns if not (only and name == "_partition")][:MOST_COLUMNS]


class ChartPane:
    """The rows of a stream in the time before the instant, drawn."""

    def __init__(
        self, stream: sl.Stream, find: Callable[[dt.datetime], int], *, x: str, y: Any, color: Any,
        kind: str, last: dt.timedelta, height: int, unit: str, condition: str,
    ) -> None:  # fmt: skip
        import polars as pl

        self._stream, self._find, self._last, self._height = stream, find, last, height
        empty = pl.from_arrow(stream.schema.empty_table())
        assert isinstance(empty, pl.DataFrame)
        self.plot = plot_of(
            dict(empty.schema), [], x=x, y=y, color=color, kind=kind, title=None, unit=unit,
            keep=MOST_READ, what=stream.name,
        )  # fmt: skip
        if not self.plot.is_time:
            raise sl.QueryError(f"x={x!r} is no time", hint="a time machine goes by time")
        self._points = Points(self.plot)
        self._condition = _condition(condition, empty)

    def frame(self, at: dt.datetime | None = None) -> pl.DataFrame:
        """Return the rows that are drawn."""
        import polars as pl

        end, low = self._stream.end_offset, self._stream.earliest_offset
        if at is not None:
            low = max(low, self._find(at - self._last))
        part = self._stream.offsets(max(low, end - MOST_READ, 0), end)
        columns = list(dict.fromkeys([*self.plot.columns, *self._condition.meta.root_names()]))
        read = pl.from_arrow(part.dataset().to_table(columns=columns))
        assert isinstance(read, pl.DataFrame)
        return read.filter(self._condition).select(self.plot.columns)

    def still(self, at: dt.datetime) -> str:
        """Return the picture as HTML, drawn by matplotlib."""
        self._points.clear()
        self._points.add(self.frame(at))
        data = base64.b64encode(png(figure_of(self.plot, self._points))).decode("ascii")
        return f'<img alt="{self.plot.kind} chart" style="max-width:100%" src="data:image/png;base64,{data}">'

    def look(self, at: dt.datetime) -> Answer:
        """Return the points: of each series, and of each stretch of it, the lowest and the highest."""
        self._points.clear()
        self._points.add(self.frame(at))
        lines = list(self._points.lines.values())
        points = [decimated(*_sorted(line)) for line in lines]
        high = at.timestamp() * 1000
        content = {
            "kind": "chart",
            "title": self.plot.title,
            "range": [high - self._last.total_seconds() * 1000, high],
            "chart": {
                "full": True, "title": self.plot.title, "kind": self.plot.kind, "time": True,
                "x": self.plot.x, "y": self.plot.y_title, "value": self.plot.value_title,
                "provisional": False, "zone": "utc", "height": self._height, "colors": list(SERIES),
                "series": [{"name": line.name, "keep": MOST_READ} for line in lines],
                "parts": [{"s": i, "closed": len(x), "open": 0} for i, (x, _) in enumerate(points)],
                "status": "", "paused": False,
            },
        }  # fmt: skip
        xs, ys = ([part[i] for part in points] or [np.empty(0)] for i in (0, 1))
        x, y = np.concatenate(xs), np.concatenate(ys)
        return content, [x.astype("<f8").tobytes(), y.astype("<f4").tobytes()]


def _condition(text: str, empty: pl.DataFrame) -> pl.Expr:
    """Return a condition on a row as an expression.

    Raises:
        QueryError: it is none.
    """
    import polars as pl

    if not text.strip():
        return pl.lit(value=True)
    try:
        found = pl.sql_expr(text)
        empty.filter(found)
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise sl.QueryError(f"filter: {error}", hint="filter=\"symbol = 'NOVA'\"") from error
    return found


def _sorted(line: Line) -> tuple[np.ndarray, np.ndarray]:
    x, y = line.closed.x, line.closed.y
    if len(x) < 2 or bool((x[1:] >= x[:-1]).all()):
        return x, y
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def decimated(x: np.ndarray, y: np.ndarray, parts: int = PIXELS) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest point of each of so many stretches, in order of place.

    Stretches have equally many points; what is left over at the end is kept whole. A line through
    the result covers the pixels that a line through all would.
    """
    size = len(x) // parts
    if size <= 2:
        return x, y
    rows = y[: size * parts].reshape(parts, size)
    start = np.arange(parts) * size
    low, high = start + rows.argmin(1), start + rows.argmax(1)
    picked = np.sort(np.concatenate([low, high]))
    rest = np.arange(size * parts, len(x))
    picked = np.concatenate([picked, rest])
    return x[picked], y[picked]


class SlowPane:
    """A pane whose answer may take long: a SELECT, or a table as it was.

    `ask` fixes what is to be answered and returns how; the answer is worked out in a thread.
    """

    def __init__(
        self, title: str, rows: int, ask: Callable[[], Callable[[], pl.DataFrame]],
        told: Callable[[], None],
    ) -> None:  # fmt: skip
        self._title, self._rows, self._ask, self._told = title, rows, ask, told
        self._lock = threading.Lock()
        self._wanted: tuple[dt.datetime, Callable[[], pl.DataFrame]] | None = None
        self._working = False
        self._asked: tuple[dt.datetime, int] | None = None
        self._have: tuple[dt.datetime, pl.DataFrame | str] | None = None

    def frame(self) -> pl.DataFrame:
        """Return the answer for now, waiting for it."""
        return self._ask()()

    def look(self, at: dt.datetime) -> Answer:
        """Return the newest answer there is, and have the one for this instant worked out."""
        with self._lock:
            have = self._have
            if have is None or have[0] != at:
                self._want(at)
        content: dict[str, Any] = {"kind": "table", "title": self._title, "stale": None}
        if have is None:
            return {**content, "stale": "working it out", "columns": [], "rows": [], "size": 1}, []
        if have[0] != at:
            content["stale"] = f"as of {have[0]:%Y-%m-%d %H:%M:%S.%f} UTC"
        if isinstance(have[1], str):
            return {**content, "problem": have[1], "columns": [], "rows": [], "size": 1}, []
        note = f", {have[1].height:,} rows" if have[1].height > self._rows else ""
        return {**content, "title": self._title + note, **table_of(have[1], self._rows)}, []

    def _want(self, at: dt.datetime) -> None:
        try:
            work = self._ask()
        except Exception as error:  # noqa: BLE001 - shown in the pane
            self._have = at, f"{type(error).__name__}: {error}"
            return
        self._wanted = at, work
        if not self._working:
            self._working = True
            threading.Thread(target=self._work, name="streamlab pane", daemon=True).start()

    def _work(self) -> None:
        """Answer what is wanted, the newest only, until nothing is."""
        while True:
            with self._lock:
                if self._wanted is None:
                    self._working = False
                    return
                (at, work), self._wanted = self._wanted, None
            try:
                found: pl.DataFrame | str = work()
            except Exception as error:  # noqa: BLE001 - shown in the pane
                found = f"{type(error).__name__}: {error}"
            with self._lock:
                self._have = at, found
            self._told()
