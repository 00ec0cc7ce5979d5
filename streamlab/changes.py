"""Changes: rows that say how a table changed, as Debezium writes them, and the way back.

A change row has an ``op``, the row ``before`` and the row ``after``, as structs: ``c`` creates, ``u``
updates, ``d`` deletes, ``r`` is a row of a first reading, ``t`` empties the table. `changes` says
what turns one frame into another, `apply_changes` does it, and a stream of change rows is a table.

Keys and values are compared alike: null is null, NaN is NaN, -0.0 is 0.0. Joins of Polars do not take
NaN for NaN where a float is the only key, so every join here has a second one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from streamlab.errors import QueryError, SchemaMismatch
from streamlab.schema import SYSTEM_FIELDS, to_table

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "GONE",
    "apply_changes",
    "changes",
    "compare",
    "frame_from",
    "key_names",
    "latest",
    "rows_of",
]

GONE = "\0gone"
"""Marks a row that says of its key that there is none any more."""

PLACE = "_offset"
PARTS = ("op", "before", "after")
PUTS = ("c", "u", "r")


def changes(before: Any, after: Any, key: str | Sequence[str]) -> pl.DataFrame:
    """Return the change rows that turn one frame into another.

    Columns: ``op`` (``c``, ``u`` or ``d``), those of the key, and ``before`` and ``after``, structs of
    all columns. Deletions come first, then updates and creations in the order of ``after``. Rows that
    are equal give none; the order of rows counts for nothing. Frames are whatever an append takes.

    >>> old = [{"id": 1, "n": 5}, {"id": 2, "n": 6}]
    >>> new = [{"id": 2, "n": 7}, {"id": 3, "n": 8}]
    >>> changes(old, new, key="id").select("op", "id").rows()
    [('d', 1), ('u', 2), ('c', 3)]

    Raises:
        SchemaMismatch: the columns differ, the key is none of them, or a key is there twice.
    """
    import polars as pl

    old, new = frame_from(before, "before"), frame_from(after, "after")
    keys = key_names(key)
    if not old.width:  # no rows at all, of whichever columns
        old = new.clear()
    new = _alike(old, new, ("before", "after")) if new.width else old.clear()
    for frame, name in ((old, "before"), (new, "after")):
        _check_key(frame, keys, name)
    names = old.columns
    same = pl.lit(0, pl.Int8).alias("\0same")
    left = old.select(*keys, same, pl.struct(names).alias("before")).with_row_index("\0i")
    right = new.select(*keys, same, pl.struct(names).alias("after")).with_row_index("\0j")
    on = [*keys, "\0same"]
    both = left.join(right, on=on, how="full", nulls_equal=True, suffix="\0r")
    there, here = pl.col("\0i").is_not_null(), pl.col("\0j").is_not_null()
    rows = both.with_columns(
        *(pl.when(here).then(pl.col(f"{k}\0r")).otherwise(pl.col(k)).alias(k) for k in keys),
        op=pl.when(there & here)
        .then(pl.lit("u"))
        .when(here)
        .then(pl.lit("c"))
        .otherwise(pl.lit("d")),
    )
    changed = rows.filter(~(there & here & pl.col("before").eq_missing(pl.col("after"))))
    ordered = changed.sort(pl.col("\0j"), pl.col("\0i"), nulls_last=False)
    return ordered.select("op", *keys, "before", "after")


def apply_changes(frame: Any, changes: Any, key: str | Sequence[str] | None = None) -> pl.DataFrame:
    """Return a frame with change rows applied to it, in their order.

    What `changes` gives for two frames turns the first into the second. ``key`` need not be said if
    its columns stand in the change rows beside ``before`` and ``after``. An update of a key that is
    not there creates it; a deletion of one does nothing. Rows that changed come last.

    >>> rows = [{"id": 1, "n": 5}]
    >>> apply_changes(rows, changes(rows, [{"id": 1, "n": 6}], key="id")).rows()
    [(1, 6)]

    Raises:
        SchemaMismatch: the change rows are none, or of other columns, or the frame has a key twice.
        QueryError: a change row does not say what it changes.
    """
    import polars as pl

    table, events = frame_from(frame, "the frame"), frame_from(changes, "the changes")
    fields = _fields_of(events)
    keys = key_names(key) if key is not None else tuple(n for n in events.columns if n in fields)
    if not keys:
        raise SchemaMismatch(
            "the change rows have no column of the key beside before and after",
            hint='say what the key is: apply_changes(frame, changes, key="id")',
        )
    after = events.select(pl.col("after").struct.unnest())
    _alike(table, after, ("the frame", "the change rows"))
    _check_key(table, keys, "the frame")
    reset, rows = rows_of(events.with_row_index(PLACE, table.height), keys)
    names = table.columns
    start = table.clear() if reset else table
    whole = pl.concat(
        [start.with_columns(pl.lit(value=False).alias(GONE)), rows.select(*names, GONE)]
    )
    return latest(whole, keys).select(names)


def latest(frame: pl.DataFrame, key: Sequence[str]) -> pl.DataFrame:
    """Return the last row of each key that is not gone, in the order of the rows."""
    import polars as pl

    last = frame.unique(list(key), keep="last", maintain_order=True)
    return last.filter(~pl.col(GONE)).drop(GONE)


# -- streams and frames of change rows -----------------------------------------------------------


def rows_of(events: pl.DataFrame, key: Sequence[str]) -> tuple[bool, pl.DataFrame]:
    """Return the rows that change rows put and remove, and whether they empty the table first.

    The rows have the fields of ``after``, `GONE`, and the ``_offset`` of their change row. An update
    that changes the key removes the old one. Change rows of other kinds say nothing about rows.

    Raises:
        QueryError: a change row does not say what it changes.
    """
    import polars as pl

    op = pl.col("op")
    emptied = events.filter(op == "t")
    if emptied.height:
        events = events.filter(pl.col(PLACE) > emptied[PLACE][-1])
    _check_events(events, key)
    fields = _fields_of(events)
    others = [pl.lit(None, kind).alias(name) for name, kind in fields.items() if name not in key]
    old, new = pl.col("before").struct, pl.col("after").struct

    def gone(rows: pl.DataFrame, values: Iterable[pl.Expr]) -> pl.DataFrame:
        named = [
            value.cast(fields[name]).alias(name) for name, value in zip(key, values, strict=True)
        ]
        found = rows.select(PLACE, *named, *others, pl.lit(value=True).alias(GONE))
        return found.select(PLACE, *fields, GONE)

    moved = pl.any_horizontal(old.field(k).ne_missing(new.field(k)) for k in key)
    told = pl.col("before").is_not_null()
    left = ((op == "d") & told) | ((op == "u") & told & moved)
    parts = [gone(events.filter(left), [old.field(k) for k in key])]
    if set(key) <= set(events.columns):
        named = (op == "d") & ~told
        if "_deleted" in events.columns:
            named = pl.col("_deleted") | named.fill_null(value=False)
        parts.append(gone(events.filter(named), map(pl.col, key)))
    put = events.filter(op.is_in(PUTS))
    parts.append(put.select(PLACE, new.unnest(), pl.lit(value=False).alias(GONE)))
    return bool(emptied.height), pl.concat(parts).sort(PLACE, maintain_order=True)


def _check_events(events: pl.DataFrame, key: Sequence[str]) -> None:
    import polars as pl

    op = pl.col("op")
    empty = op.is_in(PUTS) & pl.col("after").is_null()
    if not set(key) <= set(events.columns):
        empty |= (op == "d") & pl.col("before").is_null()
    wrong = events.filter(empty)
    if wrong.height:
        what = "before" if wrong["op"][0] == "d" else "after"
        raise QueryError(
            f'change row {wrong[PLACE][0]} has op "{wrong["op"][0]}" and a null "{what}", '
            "so it does not say which row it changes"
        )


def _fields_of(events: pl.DataFrame) -> dict[str, Any]:
    """Return the columns of the table that change rows are about.

    Raises:
        SchemaMismatch: they are no change rows.
    """
    import polars as pl

    kinds = [events.schema.get(name) for name in PARTS]
    if not (kinds[0] == pl.String and isinstance(kinds[2], pl.Struct) and kinds[1] == kinds[2]):
        raise SchemaMismatch(
            "change rows have op, a text, and before and after, structs of the same fields; "
            f"got {', '.join(f'{name}: {kind}' for name, kind in zip(PARTS, kinds, strict=True))}"
        )
    return {field.name: field.dtype for field in kinds[2].fields}


# -- comparing -----------------------------------------------------------------------------------


def compare(a: Any, b: Any, key: str | Sequence[str] | None) -> pl.DataFrame:
    """Return the change rows that turn one side into the other; see `Lab.compare`."""
    keys = key_names(key) if key is not None else _own_key(a, b)
    left, right = (_rows_of_side(side, keys, name) for side, name in ((a, "a"), (b, "b")))
    if keys:
        return changes(left, _alike(left, right, ("a", "b")), keys)
    return _surplus(left, _alike(left, right, ("a", "b")))


def _surplus(left: pl.DataFrame, right: pl.DataFrame) -> pl.DataFrame:
    """Return each row that one side has more often, as often as it has it more often."""
    import numpy as np
    import polars as pl

    count, names = pl.col("\0n"), left.columns
    both = pl.concat(
        [left.with_columns(pl.lit(1).alias("\0n")), right.with_columns(pl.lit(-1).alias("\0n"))]
    )
    uneven = both.group_by(names, maintain_order=True).agg(count.sum()).filter(count != 0)
    more = uneven["\0n"].to_numpy()
    found = uneven[np.repeat(np.arange(len(more)), np.abs(more))]
    row = pl.struct(names)
    rows = found.select(
        op=pl.when(count > 0).then(pl.lit("d")).otherwise(pl.lit("c")),
        before=pl.when(count > 0).then(row),
        after=pl.when(count < 0).then(row),
    )
    return pl.concat([rows.filter(op="d"), rows.filter(op="c")])


def _own_key(a: Any, b: Any) -> tuple[str, ...]:
    """Return the key that two sides have, or the one that one of them has.

    Raises:
        QueryError: each has one of its own.
    """
    found = {key_names(side.key) for side in (a, b) if _is_ours(side) and side.key}
    if len(found) > 1:
        said = " and ".join(", ".join(keys) for keys in sorted(found))
        raise QueryError(
            f"the keys differ: {said}", hint="say which counts: compare(a, b, key=...)"
        )
    return next(iter(found), ())


def _rows_of_side(side: Any, keys: tuple[str, ...], name: str) -> pl.DataFrame:
    if keys and _is_ours(side) and hasattr(side, "table"):
        side = side.table(keys)
    return frame_from(side.to_polars() if _is_ours(side) else side, name)


def _is_ours(side: Any) -> bool:
    """Whether a side is a stream, a view or a table; a frame may have a column of any name."""
    return hasattr(side, "_scan")


# -- frames --------------------------------------------------------------------------------------


def frame_from(data: Any, name: str) -> pl.DataFrame:
    """Return data of any kind as a Polars frame without system columns."""
    import polars as pl

    if isinstance(data, pl.LazyFrame):
        data = data.collect()
    frame = data if isinstance(data, pl.DataFrame) else pl.from_arrow(to_table(data))
    assert isinstance(frame, pl.DataFrame), name
    return frame.drop(list(SYSTEM_FIELDS), strict=False)


def key_names(key: str | Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a key.

    Raises:
        SchemaMismatch: it names none, one twice, or something else than columns.
    """
    keys = (key,) if isinstance(key, str) else tuple(key) if isinstance(key, list | tuple) else ()
    if not keys or len(set(keys)) < len(keys) or not all(isinstance(name, str) for name in keys):
        raise SchemaMismatch(f"key is a column or several different ones; got {key!r}")
    return keys


def _alike(left: pl.DataFrame, right: pl.DataFrame, names: tuple[str, str]) -> pl.DataFrame:
    """Return the right frame with its columns in the order of the left one.

    Raises:
        SchemaMismatch: a column is missing on one side, or has another type there.
    """
    for column, kind in {**left.schema, **right.schema}.items():
        lacking = [
            name
            for frame, name in zip((left, right), names, strict=True)
            if column not in frame.columns
        ]
        if lacking:
            raise SchemaMismatch(
                f'column "{column}" is not in {lacking[0]}', column=column, got=None, want=kind
            )
    for column, kind in left.schema.items():
        if right.schema[column] != kind:
            raise SchemaMismatch(
                f'column "{column}" is {kind} in {names[0]} and {right.schema[column]} in {names[1]}',
                hint="cast one of them", column=column, got=right.schema[column], want=kind,
            )  # fmt: skip
    return right.select(left.columns)


def _check_key(frame: pl.DataFrame, keys: Sequence[str], name: str) -> None:
    for column in keys:
        if column not in frame.columns:
            raise SchemaMismatch(
                f'the key "{column}" is no column of {name}',
                hint=f"it has {', '.join(frame.columns)}", column=column,
            )  # fmt: skip
        if column in PARTS:
            raise SchemaMismatch(
                f'the key "{column}" has the name of a column of change rows',
                hint="rename it", column=column,
            )  # fmt: skip
    twice = frame.select(keys).filter(frame.select(keys).is_duplicated())
    if twice.height:
        said = ", ".join(f"{k}={v!r}" for k, v in twice.row(0, named=True).items())
        raise SchemaMismatch(
            f"{name} has more than one row with {said}",
            hint='a key is there once: .unique(key, keep="last"), or name more columns',
        )
