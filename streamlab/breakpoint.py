"""Breakpoints: the next row of some streams for which an expression is true."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from streamlab.aggregate import check_rowwise
from streamlab.errors import QueryError
from streamlab.scan import Scan

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Breakpoint"]


class Breakpoint:
    """An expression of a row, and the streams that have its columns."""

    def __init__(self, expr: pl.Expr, scans: Mapping[str, Scan]) -> None:
        import polars as pl

        if not isinstance(expr, pl.Expr):
            raise QueryError(
                f"until takes a Polars expression; got {expr!r}",
                hint='until(pl.col("price") > 100)',
            )
        check_rowwise(expr, "until")
        self._expr = expr
        self._columns = sorted(set(expr.meta.root_names())) or ["_offset"]
        self._scans = {
            name: scan
            for name, scan in scans.items()
            if set(self._columns) <= set(scan.fix(pin=False).schema.names)
        }
        if not self._scans:
            wanted = ", ".join(repr(name) for name in self._columns)
            raise QueryError(f"no stream of {', '.join(scans)} has the columns {wanted}")
        for name in self._scans:
            self._check(name)

    def _check(self, name: str) -> None:
        """See that the expression is true or false of a row.

        Raises:
            QueryError: it is of another type, or does not fit the columns.
        """
        import polars as pl

        try:
            kind = self._frame(name, 0, 0).select(self._expr.alias("hit")).schema["hit"]
        except pl.exceptions.PolarsError as error:
            raise QueryError(f"until does not fit stream {name}: {error}") from error
        if kind != pl.Boolean:
            raise QueryError(
                f"until takes what is true or false; this is {kind}",
                hint='until(pl.col("price") > 100)',
            )

    def _frame(self, name: str, start: int, stop: int) -> pl.DataFrame:
        import polars as pl

        part = replace(self._scans[name], start=start, stop=stop).fix(pin=False)
        return cast("pl.DataFrame", pl.from_arrow(part.reader(self._columns).read_all()))

    def first(self, name: str, start: int, stop: int) -> int | None:
        """Return the first offset in [start, stop) whose row it is true of; None if there is none."""
        if name not in self._scans or start >= stop:
            return None
        hits = self._frame(name, start, stop).select(self._expr.alias("hit"))["hit"].arg_true()
        return start + int(hits[0]) if len(hits) else None
