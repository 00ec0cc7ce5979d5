"""A stream as a table: the latest row of each key, deletions applied.

A table is the fold of a stream's rows in the order of offsets. It holds nothing itself; what it
shows is read from the log.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from streamlab.errors import QueryError
from streamlab.scan import Scan
from streamlab.schema import SYSTEM_FIELDS

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Table"]


class Table:
    """The latest row of each key of a stream; made by ``stream.table()``."""

    def __init__(self, scan: Scan, name: str, key: tuple[str, ...]) -> None:
        if not key:
            raise QueryError(
                f'stream "{name}" has no key, so it is no table', hint="create it with key="
            )
        self._table_scan = scan
        self.name, self.key = name, key

    def __repr__(self) -> str:
        return f'Table of "{self.name}" by {", ".join(self.key)}'

    def scan(self) -> pl.LazyFrame:
        """Return the table as a Polars LazyFrame, keys in the order of their latest rows.

        Raises:
            OffsetOutOfRange: it is as of a place in the compacted part of the stream.
        """
        import polars as pl

        from streamlab.lazy import lazy_frame

        self._table_scan.fix(pin=False).check_exact()
        rows = lazy_frame(replace(self._table_scan, compacted=True))
        last = rows.unique(list(self.key), keep="last", maintain_order=True)
        if "_deleted" in self._table_scan.fix(pin=False).schema.names:
            last = last.filter(~pl.col("_deleted"))
        return last.drop(list(SYSTEM_FIELDS), strict=False)

    def to_polars(self) -> pl.DataFrame:
        """Return the table as a Polars frame."""
        return self.scan().collect()
