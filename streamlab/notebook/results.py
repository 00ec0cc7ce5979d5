"""A table of a query's newest results: final rows, and below them the open ones as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlab as sl
from streamlab.notebook.following import Following
from streamlab.notebook.live import module
from streamlab.notebook.table import MOST_COLUMNS, column_of, rows_html
from streamlab.notebook.values import cells_of, since

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ResultTable"]


class ResultTable(Following):
    """The last rows of a query's results; made by ``query.live(kind="table")``."""

    _esm = module("table.js", store="tableStore", render="renderTable")

    def __init__(self, query: sl.Query, rows: int, title: str | None, start: Any) -> None:
        self._size = rows
        self._title = title or " and ".join(query.sources)
        self._final: pl.DataFrame | None = None
        self._open: pl.DataFrame | None = None
        self._count = 0  # final rows so far
        self._status = ""
        super().__init__(query, start)
        self._begin()

    def frame(self) -> pl.DataFrame:
        """Return the rows that are shown, with ``_final`` where some may still change."""
        import polars as pl

        with self._lock:
            if self._final is None:
                return pl.DataFrame(schema=self._query.schema)
            if self._open is None:
                return self._final
            both = pl.concat([self._final, self._open.sort(self._identity)])
            return both.drop("_op", strict=False).tail(self._size)

    def _look(self, *, full: bool) -> tuple[dict[str, Any], list[bytes]] | None:
        if not self._paused:
            found = self._poll()
            if found.height or self._final is None:
                self._add(found)
                full = True
            status = self._say_status()
            full, self._status = full or status != self._status, status
        return (self._content(), []) if full else None

    def _forget(self) -> None:
        self._final = self._open = None
        self._count = 0

    def _add(self, found: pl.DataFrame) -> None:
        import polars as pl

        keys = self._identity
        if not keys:
            self._count += found.height
            self._final = found if self._final is None else pl.concat([self._final, found])
            self._final = self._final.tail(self._size)
            return
        last = found.unique(subset=keys, keep="last", maintain_order=True)
        kept = last.filter(pl.col("_op") != "d")
        final = kept.filter("_final")
        self._count += final.height
        self._final = final if self._final is None else pl.concat([self._final, final])
        self._final = self._final.tail(self._size)
        fresh = kept.filter(~pl.col("_final"))
        if self._open is not None:
            rest = self._open.join(last.select(keys), on=keys, how="anti", nulls_equal=True)
            fresh = pl.concat([rest, fresh])
        self._open = fresh

    def _say_status(self) -> str:
        results = self._results
        parts = [f"{results.rows_in:,} rows in", f"{self._count:,} final"]
        if self._identity:
            parts.append(f"{0 if self._open is None else self._open.height:,} open")
            parts.append(f"{results.rows_late:,} late")
            parts.append(f"watermark {since(results.watermark)}")
        if results.behind:
            parts.append(f"{results.behind:,} rows behind")
        return " · ".join(parts)

    def _content(self) -> dict[str, Any]:
        frame = self.frame()
        final = frame["_final"].to_list() if "_final" in frame.columns else [True] * frame.height
        shown = self._shown(frame)
        texts = [cells_of(frame[name]) for name in shown]
        first = self._count - sum(final)
        rows = [
            {"key": first + place, "open": not closed, "cells": list(cells)}
            for place, (closed, *cells) in enumerate(zip(final, *texts, strict=True))
        ]
        return {
            "title": self._title,
            "state": self._status + (" · italic rows are open: may still change" if not all(final) else ""),
            "columns": [column_of(name, frame.schema[name]) for name in shown],
            "rows": rows, "size": self._size, "first": 0, "end": 0, "at": 0,
            "following": not self._paused, "paused": self._paused,
            "filter": "", "history": False, "filters": False,
        }  # fmt: skip

    def _shown(self, frame: pl.DataFrame) -> list[str]:
        return [name for name in frame.columns if name not in ("_final", "_partition")][
            :MOST_COLUMNS
        ]

    def _about(self) -> str:
        return f"results over {self._title}"

    def _still_html(self) -> str:
        frame = self.frame()
        return rows_html(frame.select(self._shown(frame)))
