"""What the steps of a query are given, checked: columns, expressions, names, lengths of time.

Each check gives back what was meant, or raises an error that names it and what to write instead.
"""

from __future__ import annotations

import datetime as dt
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from streamlab import plan as p
from streamlab.aggregate import expand, tree
from streamlab.duration import parse_duration
from streamlab.errors import QueryError

if TYPE_CHECKING:
    import polars as pl

    from streamlab.scan import Scan

__all__ = [
    "check_emit",
    "check_time",
    "expression_of",
    "fitting",
    "flat",
    "names_of",
    "no_column",
    "same_types",
    "signed",
    "source_of",
]


def source_of(scan: Scan) -> p.Source:
    """Return the plan of a scan's rows."""
    import polars as pl

    snapshot = scan.fix(pin=False)
    frame = pl.from_arrow(snapshot.schema.empty_table())
    assert isinstance(frame, pl.DataFrame)
    return p.Source(scan, snapshot.info.name, dict(frame.schema))


def fitting(compute: Callable[[], Any], node: p.Node, what: str) -> Any:
    """Return what Polars makes of a step's columns.

    Raises:
        QueryError: a column that is not there, with the nearest ones, or types that do not fit.
    """
    import polars as pl

    try:
        return compute()
    except pl.exceptions.ColumnNotFoundError as error:
        missing = str(error).splitlines()[0].strip().split('"')
        name = missing[1] if len(missing) > 1 else missing[0].split(":")[-1].strip()
        raise no_column(name, node.schema, what) from error
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        naive = "Datetime('μs')" in reason and "UTC" in reason
        hint = "give an aware datetime: dt.datetime(..., tzinfo=dt.UTC)" if naive else None
        raise QueryError(f"{what} does not fit the rows: {reason}", hint=hint) from error


def expression_of(value: Any, what: str) -> pl.Expr:
    """Return a value as an expression: text names a column, as in Polars.

    Raises:
        QueryError: it is none.
    """
    import polars as pl

    if isinstance(value, pl.Expr):
        return value
    if what == "filter" and isinstance(value, bool):
        raise QueryError(
            f"filter got {value}, which Python made of a comparison without a column",
            hint='filter(pl.col("symbol") == "A"), or filter(symbol="A")',
        )
    try:
        return pl.col(value) if isinstance(value, str) else pl.lit(value)
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise QueryError(
            f"{what} takes Polars expressions; got {value!r}", hint=f'{what}(pl.col("price") ...)'
        ) from error


def check_time(columns: Sequence[pl.Expr], node: p.Node, what: str) -> None:
    """See that the name of the event time is given to nothing else; another zone shows the same.

    Raises:
        QueryError: it is, with the way out.
    """
    time, _ = p.time_of(node)
    for column in expand(columns, node.schema) if time else ():
        if time in _outputs(column, node) and not _shows(column, time):
            raise p.time_replaced(what, time)


def _outputs(column: pl.Expr, node: p.Node) -> list[str]:
    import polars as pl

    if not column.meta.has_multiple_outputs():
        return [column.meta.output_name()]
    return pl.LazyFrame(schema=dict(node.schema)).select(column).collect_schema().names()


def _shows(column: pl.Expr, time: str) -> bool:
    """Whether a column is the event time as it is, in some zone."""
    inner = tree(column.meta.undo_aliases())
    while isinstance(inner, dict) and _in_zone(inner.get("Function", {})):
        inner = inner["Function"]["input"][0]
    return bool(inner == {"Column": time})


def _in_zone(call: Mapping[str, Any]) -> bool:
    kind = call.get("function")
    return isinstance(kind, dict) and "ConvertTimeZone" in kind.get("TemporalExpr", ())


def check_emit(emit: Any) -> None:
    """See that it is a way to emit.

    Raises:
        QueryError: it is none.
    """
    if emit not in ("final", "changes"):
        raise QueryError(
            f'emit is "final" or "changes"; got {emit!r}',
            hint='collect(emit="all") shows open windows',
        )


def flat(given: Sequence[Any]) -> list[Any]:
    """Return arguments that were given one by one or as lists."""
    return [c for one in given for c in (one if isinstance(one, list | tuple) else [one])]


def no_column(name: str, schema: Mapping[str, Any], what: str) -> QueryError:
    """Return the error for a column that is not there."""
    near = difflib.get_close_matches(name, list(schema), n=2)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else None
    hint = hint or f"there are {', '.join(schema)}"
    return QueryError(f"{what}: there is no column {name!r}", hint=hint)


def names_of(value: Any, node: p.Node, what: str) -> tuple[str, ...]:
    """Return column names that were given as one, several or none.

    Raises:
        QueryError: one of them is not there, or is no name.
    """
    if value is None:
        return ()
    import polars as pl

    given = list(value) if isinstance(value, list | tuple | set) else [value]
    names = []
    for one in given:
        name = one.meta.output_name() if isinstance(one, pl.Expr) and one.meta.is_column() else one
        if not isinstance(name, str):
            raise QueryError(
                f"{what} takes names of columns; got {one!r}",
                hint=f"compute it first: .with_columns(k=...), then {what.split(',', maxsplit=1)[0]}='k'",
            )
        if name not in node.schema:
            raise no_column(name, node.schema, what)
        names.append(name)
    if len(set(names)) < len(names):
        raise QueryError(f"{what} names a column twice: {', '.join(names)}")
    return tuple(names)


def same_types(left: p.Node, right: p.Node, keys: tuple[str, ...]) -> None:
    """See that keys can be compared.

    Raises:
        QueryError: they have different types on both sides, or one that cannot be joined on.
    """
    for key in keys:
        if left.schema[key] != right.schema[key]:
            raise QueryError(
                f"key {key!r} is {left.schema[key]} on the left and {right.schema[key]} on the right",
                hint=f"cast one of them: .with_columns(pl.col({key!r}).cast(...))",
            )
        if left.schema[key].is_nested():
            raise QueryError(
                f"key {key!r} is a {left.schema[key]}, which cannot be joined on",
                hint="compute a plain key first: .with_columns(...)",
            )


def signed(edge: Any) -> int:
    """Return a length of time in microseconds that may be negative.

    Raises:
        InvalidDuration: it is none.
    """
    if isinstance(edge, str) and edge.lstrip().startswith("-"):
        return -parse_duration(edge.lstrip()[1:], what="within")
    if isinstance(edge, dt.timedelta) and edge < dt.timedelta(0):
        return -parse_duration(-edge, what="within")
    return parse_duration(edge, what="within")
