"""A table that follows the end of a stream, or shows it as it was at an offset."""

from __future__ import annotations

import collections
import time
from typing import TYPE_CHECKING, Any

import streamlab as sl
from streamlab.notebook.live import Live, escape, module
from streamlab.notebook.tail import Tail
from streamlab.notebook.values import cells_of, since, type_name

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LiveTable", "checked_rows", "column_of", "live_table", "rows_html"]

MOST_ROWS, MOST_COLUMNS = 200, 40

SYSTEM = ("_partition", "_offset", "_append_time", "_deleted")


class LiveTable(Live):
    """The newest rows of a stream, as they come; made by ``stream.live()``.

    ``paused``, ``condition`` (in SQL) and ``at`` (an offset; None: the end) are what the
    buttons set, and can be set from Python.
    """

    _esm = module("table.js", store="tableStore", render="renderTable")

    def __init__(self, stream: sl.Stream, rows: int, condition: str = "") -> None:
        self._stream, self._size = stream, rows
        self._name = stream.name
        self._tail = Tail(stream, rows, condition)
        self._paused: tuple[int, int] | None = None  # the offsets when it was paused
        self._at: int | None = None
        self._last: Any = None
        self._counts: collections.deque[tuple[float, int]] = collections.deque(maxlen=40)
        self._frame: pl.DataFrame | None = None
        super().__init__()
        self._begin()

    # -- what users do -----------------------------------------------------------------------

    @property
    def paused(self) -> bool:
        """Whether it stands still while the stream goes on."""
        return self._paused is not None

    @paused.setter
    def paused(self, value: bool) -> None:
        with self._lock:
            if value != self.paused:
                self._paused = (self._first(), self._stream.end_offset) if value else None
            self._wake.set()

    @property
    def at(self) -> int | None:
        """Below which offset the rows are; None follows the end."""
        return self._at

    @at.setter
    def at(self, offset: int | None) -> None:
        with self._lock:
            if offset is not None:
                first, end = self._first(), self._stream.end_offset
                offset = min(max(int(offset), first), end)
            else:
                self._paused = None
            self._at = offset
            self._wake.set()

    @property
    def condition(self) -> str:
        """The condition in SQL that rows are shown for; an empty one is none.

        Raises:
            QueryError: set to what is no condition on a row.
        """
        return self._tail.condition

    @condition.setter
    def condition(self, condition: str) -> None:
        with self._lock:
            self._tail = Tail(self._stream, self._size, condition)
            self._full = True
            self._wake.set()

    def frame(self) -> pl.DataFrame:
        """Return the rows that are shown."""
        with self._lock:
            return self._rows_at(self._place()[2])

    # -- what a view says --------------------------------------------------------------------

    def _first(self) -> int:
        return self._stream.earliest_offset

    def _place(self) -> tuple[int, int, int]:
        """Return the first offset, the end as it is shown, and the offset below which rows are shown."""
        first, end = self._paused or (self._first(), self._stream.end_offset)
        return first, end, end if self._at is None else min(max(self._at, first), end)

    def _rows_at(self, at: int) -> pl.DataFrame:
        return self._tail.below(at)

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        first, end, at = self._place()
        if not self.paused:
            self._counts.append((time.monotonic(), end))
        state = (first, end, at, self._tail, self._tail.whole, self._rate())
        if state == self._last and self._tail.whole and not full:
            return None
        frame = self._rows_at(at)
        self._last = (first, end, at, self._tail, self._tail.whole, self._rate())
        return self._content(frame, first, end, at), []

    def _rate(self) -> int:
        """Return how many rows a second came of late."""
        (since, low), (now, high) = self._counts[0], self._counts[-1]
        return round((high - low) / (now - since)) if now > since and high > low else 0

    def _state(self, end: int, at: int) -> str:
        stats = self._stream.stats()
        parts = [f"{stats.rows:,} rows", f"{self._rate():,} rows/s"]
        parts.append(f"stream time {since(stats.stream_time)}")
        if not self._tail.whole:
            parts.append("looking further back …")
        if self.paused:
            parts.append(f"paused at offset {end:,}")
        if at < end:
            parts.append(f"as of offset {at:,}")
        return " · ".join(parts)

    def _content(self, frame: pl.DataFrame, first: int, end: int, at: int) -> dict[str, Any]:
        shown = self._columns(frame)
        offsets = frame["_offset"].to_list() if "_offset" in frame.columns else range(frame.height)
        texts = [cells_of(frame[name]) for name in shown]
        rows = [
            {"key": key, "cells": list(cells)} for key, *cells in zip(offsets, *texts, strict=True)
        ]
        return {
            "title": self._name,
            "state": self._state(end, at),
            "columns": [column_of(name, frame.schema[name]) for name in shown],
            "rows": rows,
            "size": self._size,
            "first": first,
            "end": end,
            "at": at,
            "following": self._at is None and not self.paused,
            "paused": self.paused,
            "filter": self._tail.condition,
            "history": True,
            "filters": True,
        }

    def _columns(self, frame: pl.DataFrame) -> list[str]:
        hidden = {"_partition"} if self._stream.partitions == 1 else set()
        return [name for name in frame.columns if name not in hidden][:MOST_COLUMNS]

    def _told(self, message: dict[str, Any]) -> None:
        match message["t"]:
            case "pause":
                self.paused = bool(message["on"])
            case "at":
                offset = message["offset"]
                self.at = None if offset is None else int(offset)
            case "filter":
                self.condition = str(message["text"])

    def _about(self) -> str:
        return f"stream {self._name!r}"

    def _still_html(self) -> str:
        with self._lock:
            frame = self.frame()
            return rows_html(frame.select(self._columns(frame)))


def column_of(name: str, kind: pl.DataType) -> dict[str, Any]:
    """Return what a table says of a column."""
    right = kind.is_numeric() or kind.is_temporal()
    return {"name": name, "type": type_name(kind), "right": right, "system": name in SYSTEM}


def rows_html(frame: pl.DataFrame) -> str:
    """Return a frame as a plain table, every value escaped."""
    columns = [column_of(name, kind) for name, kind in frame.schema.items()]
    sides = ["right" if column["right"] else "left" for column in columns]
    style = 'style="text-align:{};padding:2px 10px;white-space:pre"'
    head = "".join(
        f"<th {style.format(side)}>{escape(column['name'])}</th>"
        for column, side in zip(columns, sides, strict=True)
    )
    texts = [cells_of(frame[name]) for name in frame.columns]
    body = "".join(
        "<tr>" + "".join(
            f"<td {style.format(side)}>{escape('null' if cell is None else cell)}</td>"
            for cell, side in zip(row, sides, strict=True)
        ) + "</tr>"
        for row in zip(*texts, strict=True)
    )  # fmt: skip
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def live_table(stream: sl.Stream, rows: int, condition: str = "") -> LiveTable:
    """Return a live table of a stream.

    Raises:
        ValueError: a number of rows that is none, or more than a screen takes.
        QueryError: what is no condition on a row.
    """
    return LiveTable(stream, checked_rows(rows), condition)


def checked_rows(rows: int) -> int:
    """Return a number of rows that a screen takes.

    Raises:
        ValueError: it is none.
    """
    if isinstance(rows, bool) or not isinstance(rows, int) or not 1 <= rows <= MOST_ROWS:
        raise ValueError(f"rows is between 1 and {MOST_ROWS}; got {rows!r}")
    return rows
