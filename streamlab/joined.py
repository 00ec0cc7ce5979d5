"""The joins of a plan: what each takes, checked, and which columns it gives.

Each function gives the step for a plan, or raises an error that says what does not fit and what to write
instead.
"""

from __future__ import annotations

from typing import Any

from streamlab import plan as p
from streamlab.duration import Duration, parse_duration
from streamlab.engines.local import beside, right_columns
from streamlab.errors import QueryError
from streamlab.steps import fitting, names_of, same_types, signed, source_of

__all__ = ["as_of", "check_how", "no_stream", "pairs", "with_frame", "with_table"]


def no_stream(other: Any) -> QueryError:
    """Return the error for an as-of join with what has no event times."""
    return QueryError(
        f"join_asof takes a stream or a query; got {type(other).__name__}",
        hint="join_asof(lab['quotes'], by=...); a frame has no event time: join(frame, on=...), or "
        "lab.create('quotes', frame, time=...)",
    )


def check_how(how: Any) -> None:
    """See that it is a way to join.

    Raises:
        QueryError: it is none.
    """
    if how not in ("inner", "left"):
        raise QueryError(f'how is "inner" or "left"; got {how!r}')


def as_of(left: p.Node, right: p.Node, by: Any, tolerance: Duration | None) -> p.AsofJoin:
    """Return the join of rows with the latest of another stream at or before each."""
    keys = names_of(by, left, "by")
    names_of(by, right, "by, on the right side")
    same_types(left, right, keys)
    limit = None if tolerance is None else parse_duration(tolerance, what="tolerance")
    return p.AsofJoin(left, right, keys, limit, _schema(p.AsofJoin, left, right, keys))


def pairs(left: p.Node, right: p.Node, on: Any, within: Any, how: str) -> p.IntervalJoin:
    """Return the join of rows with those of another stream that are so near in time."""
    import polars as pl

    keys = names_of(on, left, "on")
    if within is None:
        raise QueryError(
            "two streams never end: a join of them needs within=(low, high)",
            hint='join(other, on="id", within=("-5m", "10m")), join_asof for the latest row before, '
            "or join(stream.table(), on=...) for the table as it was",
        )
    if how != "inner":
        raise QueryError("a join of two streams is inner", hint="join_asof keeps all left rows")
    names_of(on, right, "on, on the right side")
    same_types(left, right, keys)
    if isinstance(within, str) or not hasattr(within, "__len__") or len(within) != 2:
        raise QueryError(f"within is (low, high); got {within!r}", hint='within=("-5m", "10m")')
    low, high = (signed(edge) for edge in within)
    if low > high:
        raise QueryError(f"within={within!r} is the wrong way round")
    schema = _schema(p.IntervalJoin, left, right, keys)
    schema["pair_time"] = pl.Datetime("us", "UTC")
    return p.IntervalJoin(left, right, keys, low, high, schema)


def with_frame(left: p.Node, other: Any, on: Any, how: str) -> p.FrameJoin:
    """Return the join of rows with those of a frame that never changes."""
    import polars as pl

    keys = _keys(left, on)
    if not isinstance(other, pl.DataFrame):
        if not hasattr(other, "__arrow_c_stream__"):
            raise QueryError(
                f"join takes a stream, a query, a table or a frame; got {other!r}",
                hint="lab['name'] is a stream; collect a LazyFrame; pl.DataFrame(...) makes a frame "
                "of a dict",
            )
        other = pl.DataFrame(other)
    for name in keys:
        if name not in other.columns:
            raise QueryError(
                f"on: the frame has no column {name!r}", hint=f"it has {', '.join(other.columns)}"
            )
    lazy = pl.LazyFrame(schema=dict(left.schema)).join(
        beside(left, other.clear(), keys).lazy(),
        on=list(keys),
        how=how,  # type: ignore[arg-type]
    )
    return p.FrameJoin(left, other, keys, how, dict(fitting(lazy.collect_schema, left, "join")))


def with_table(left: p.Node, table: Any, on: Any, how: str) -> p.TableJoin:
    """Return the join of rows with a stream's table as it was when each of them was appended."""
    keys, scan = _keys(left, on), table._table_scan  # noqa: SLF001
    if not p.appended(left):
        raise QueryError(
            "a table is taken as it was when a row was appended, and the result of a window was not",
            hint="join before the window, or run it into a stream: lab['out'].join(table, on=...)",
        )
    if set(keys) != set(table.key):
        raise QueryError(
            f"a table is joined by its key, {', '.join(table.key)}; got on={', '.join(keys)}"
        )
    right = source_of(scan)
    schema = _schema(p.TableJoin, left, right, keys)
    return p.TableJoin(left, scan, right.name, table.key, keys, how, schema)


def _keys(left: p.Node, on: Any) -> tuple[str, ...]:
    keys = names_of(on, left, "on")
    if not keys:
        raise QueryError("a join with a table needs on=", hint='join(frame, on="symbol")')
    return keys


def _schema(kind: type, left: p.Node, right: p.Node, keys: tuple[str, ...]) -> dict[str, Any]:
    taken = right_columns(kind, list(left.schema), list(right.schema), keys)
    return {**left.schema, **{new: right.schema[old] for old, new in taken.items()}}
