"""Values as a person reads them: cells of a table, labels of a series."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__all__ = ["LONGEST", "cells_of", "label", "since", "type_name"]

LONGEST = 200
"""So many letters of a value are shown."""

DECIMALS = 6


def cells_of(column: pl.Series) -> list[str | None]:
    """Return the values of a column as text, all floats of it with as many decimals as they need."""
    decimals = _decimals(column) if column.dtype.is_float() else 0
    return [None if value is None else label(value, decimals) for value in column.to_list()]


def _decimals(column: pl.Series) -> int:
    """Return the fewest decimals, up to six, that lose nothing of what is shown."""
    finite = column.drop_nulls().filter(column.drop_nulls().is_finite())
    for decimals in range(DECIMALS):
        if ((finite - finite.round(decimals)).abs() <= finite.abs() * 1e-9).all():
            return decimals
    return DECIMALS if finite.is_empty() or bool((finite.abs() >= 1e-4).all()) else -1


def label(value: Any, decimals: int = DECIMALS) -> str:
    """Return a value as text; times are UTC."""
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return f"{value:,}" if abs(value) >= 10_000 else str(value)
        case float():
            return f"{value:,.{decimals}f}" if decimals >= 0 else f"{value:.6g}"
        case dt.datetime():
            return _instant(value)
        case bytes():
            return f"{value[:LONGEST].hex(' ')}" or "(empty)"
        case str():
            return value if len(value) <= LONGEST else f"{value[: LONGEST - 1]}…"
        case _:
            text = str(value)
            return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _instant(value: dt.datetime) -> str:
    if value.tzinfo is not None:
        value = value.astimezone(dt.UTC).replace(tzinfo=None)
    text = value.isoformat(sep=" ", timespec="microseconds")
    return text.removesuffix("000") if text.endswith("000") else text


def type_name(kind: pl.DataType) -> str:
    """Return a Polars type in a few letters."""
    import polars as pl

    if isinstance(kind, pl.Datetime):
        return f"time[{kind.time_unit}]" if kind.time_zone else f"time[{kind.time_unit}], no zone"
    return str(kind).lower().replace("string", "text")


def since(micros: int | None) -> str:
    """Return an instant in microseconds as text; a dash if there is none."""
    if micros is None:
        return "–"  # noqa: RUF001
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)
    return f"{moment:%Y-%m-%d %H:%M:%S}Z"
