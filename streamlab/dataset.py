"""A snapshot as a pyarrow dataset: the one object that DuckDB, Polars and pandas all read from.

Apart from `streamlab.scan`, because pyarrow's datasets take a while to import.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from streamlab.scan import Snapshot

__all__ = ["StreamDataset"]


class StreamDataset(ds.InMemoryDataset):  # type: ignore[misc]
    """A stream as a pyarrow dataset, as of the moment it was made.

    DuckDB, Polars and pandas read through `scanner`, which opens only the segments that the filter
    leaves. What pyarrow would do in C++ alone (`join`, `sort_by`) works on the rows in memory.
    """

    def __init__(self, snapshot: Snapshot, condition: pc.Expression | None = None) -> None:
        snapshot.check_whole()
        super().__init__(snapshot.schema.empty_table())
        self._snapshot = snapshot
        self._condition = condition

    @property
    def schema(self) -> pa.Schema:
        return self._snapshot.schema

    def scanner(self, columns: Any = None, filter: Any = None, **options: Any) -> ds.Scanner:  # noqa: A002
        """Return a scanner over the rows; see `pyarrow.dataset.Dataset.scanner`."""
        if self._condition is not None:
            filter = self._condition if filter is None else self._condition & filter  # noqa: A001
        return self._snapshot.scanner(columns, filter, **options)

    def count_rows(self, filter: Any = None, **options: Any) -> int:  # noqa: A002
        """Return how many rows there are; without a filter nothing is read for it."""
        if filter is None and self._condition is None:
            return self._snapshot.count()
        scanner = self.scanner(["_partition"], filter, **options)
        return sum(batch.num_rows for batch in scanner.to_batches())

    def filter(self, expression: pc.Expression) -> StreamDataset:
        """Return the dataset with a filter applied to every scan."""
        both = expression if self._condition is None else self._condition & expression
        return StreamDataset(self._snapshot, both)

    def _in_memory(self) -> ds.Dataset:
        return ds.InMemoryDataset(self.to_table())

    def join(self, *args: Any, **options: Any) -> Any:
        return self._in_memory().join(*args, **options)

    def join_asof(self, *args: Any, **options: Any) -> Any:
        return self._in_memory().join_asof(*args, **options)

    def sort_by(self, *args: Any, **options: Any) -> Any:
        return self._in_memory().sort_by(*args, **options)

    def get_fragments(self, filter: Any = None) -> Any:  # noqa: A002
        return self._in_memory().get_fragments(filter)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a stream's dataset lives in its process; send the lab's path and open it there"
        )
