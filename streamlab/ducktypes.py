"""Arrow values that DuckDB has no room for, found before it would cut or misread them.

DuckDB reads nearly every stored type as one that holds all of its values. Two are narrower: an
INTERVAL counts microseconds, and so does TIMESTAMP WITH TIME ZONE but for the one in nanoseconds.
DuckDB cuts a duration in nanoseconds without a word; here such a value is refused by name.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pyarrow as pa
from pyarrow import types

from streamlab.errors import SchemaMismatch
from streamlab.schema import describe_type

__all__ = ["check_exact", "is_narrower"]


@functools.lru_cache(maxsize=1024)
def is_narrower(kind: pa.DataType) -> bool:
    """Whether DuckDB's type for this one, or for one inside it, does not hold all of its values."""
    if _as_held(kind) is not None:
        return True
    return any(is_narrower(kind.field(place).type) for place in range(kind.num_fields))


def _as_held(kind: pa.DataType) -> pa.DataType | None:
    """Return the narrower type that DuckDB holds a flat one as; None if it holds all values."""
    if types.is_duration(kind) and kind.unit != "us":
        return pa.duration("us")
    if types.is_timestamp(kind) and kind.tz and kind.unit in ("s", "ms"):
        return pa.timestamp("us", kind.tz)
    return None


def check_exact(batch: pa.RecordBatch) -> None:
    """See that DuckDB holds every value of a batch as it is.

    Raises:
        SchemaMismatch: it does not; names the column and a value.
    """
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if is_narrower(field.type):
            for flat in _flat(column):
                _check_flat(flat, field)


def _flat(array: pa.Array) -> Iterator[pa.Array]:
    """Yield the flat arrays that a nested one is made of, without what lies under a null."""
    kind = array.type
    if types.is_map(kind):
        entry = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
        yield from _flat(array.cast(pa.list_(entry)))
    elif types.is_struct(kind):
        for child in array.flatten():
            yield from _flat(child)
    elif kind.num_fields:
        yield from _flat(array.flatten())
    else:
        yield array


def _check_flat(array: pa.Array, field: pa.Field) -> None:
    held = _as_held(array.type)
    if held is None:
        return
    try:
        array.cast(held)
    except pa.ArrowInvalid as error:
        raise SchemaMismatch(
            f'column "{field.name}": DuckDB counts {describe_type(array.type)} in microseconds: {error}',
            hint=f'copy a query that converts it: stream.with_columns(pl.col("{field.name}").cast(...))'
            ".run(sl.duckdb(path, table))",
            column=field.name, got=field.type, want=held,
        ) from None  # fmt: skip
