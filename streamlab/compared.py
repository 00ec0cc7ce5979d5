"""Which rows two answers differ in, each as often as it is there."""

from __future__ import annotations

import polars as pl

from streamlab.errors import QueryError

__all__ = ["differing"]


def differing(one: pl.DataFrame, two: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that one frame has and the other has not, ``_side`` telling whose they are.

    Raises:
        QueryError: the columns differ, or a type of one does.
    """
    if set(one.columns) != set(two.columns):
        missing = set(one.columns) ^ set(two.columns)
        raise QueryError(f"the two queries have different columns: {', '.join(sorted(missing))}")
    two = two.select(one.columns)
    for name, kind in one.schema.items():
        if two.schema[name] != kind and not (kind.is_numeric() and two.schema[name].is_numeric()):
            raise QueryError(
                f"the two queries differ in the type of {name!r}: {kind} and {two.schema[name]}",
                hint=f"cast one of them: .with_columns(pl.col({name!r}).cast(...))",
            )
    two = two.cast(pl.Schema(one.schema))
    left, right = _others(one, two), _others(two, one)
    return pl.concat([
        left.with_columns(pl.lit("left").alias("_side")),
        right.with_columns(pl.lit("right").alias("_side")),
    ])  # fmt: skip


def _others(one: pl.DataFrame, two: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of one frame that the other has not, or not as often; NaN equals NaN."""
    floats = [name for name, kind in one.schema.items() if kind.is_float()]
    marks = [pl.col(name).is_nan().alias(f"\0{name}") for name in floats]
    plain = [pl.col(name).fill_nan(0.0) for name in floats]
    mine, other = (
        f.with_columns(marks).with_columns(plain).with_columns(_nth(f.columns)) for f in (one, two)
    )
    numbered = mine.with_row_index("\0n")
    found = numbered.join(other, on=mine.columns, how="anti", nulls_equal=True)
    return one[found["\0n"].sort()]


def _nth(columns: list[str]) -> pl.Expr:
    """Number the rows that are equal."""
    return pl.int_range(pl.len()).over(columns).alias("\0nth")
