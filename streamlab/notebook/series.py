"""The points of a chart: what a query's rows become, kept bounded, told apart as final or open.

A chart has series. A series has closed points, which never change and stand in a ring of fixed
length, and open ones: windows that may still change, which every frame of results replaces.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import streamlab as sl
from streamlab.notebook.values import label

if TYPE_CHECKING:
    import polars as pl

__all__ = ["KINDS", "Plot", "Points", "Ring", "plot_of"]

KINDS = ("line", "bar", "area", "scatter", "heat")

MOST_SERIES = {"heat": 200}
MOST = 24
"""So many series are drawn; what is beyond is said."""

TOTAL = 1_000_000
"""So many points are kept in all."""

BOUNDS = ("window_start", "window_end", "window_time")


@dataclass(frozen=True)
class Plot:
    """What is drawn: which columns, and what they are called."""

    kind: str
    x: str
    values: tuple[str, ...]  # the columns of numbers
    by: tuple[str, ...]  # the columns that tell series apart
    is_time: bool
    title: str
    unit: str = ""
    keep: int = 100_000
    identity: tuple[str, ...] = ()  # which row a changed row is; rows without one only come

    @property
    def columns(self) -> list[str]:
        """The columns that it needs, each once."""
        return list(dict.fromkeys([self.x, *self.values, *self.by, *self.identity]))

    @property
    def y_title(self) -> str:
        """What stands at the axis of numbers."""
        name = ", ".join(self.by) if self.kind == "heat" else ", ".join(self.values)
        return f"{name} ({self.unit})" if self.unit and self.kind != "heat" else name

    @property
    def value_title(self) -> str:
        """What the numbers are."""
        name = ", ".join(self.values)
        return f"{name} ({self.unit})" if self.unit else name


def plot_of(
    schema: dict[str, Any], identity: Sequence[str], *, x: str | None, y: Any, color: Any, kind: str,
    title: str | None, unit: str, keep: int, what: str,
) -> Plot:  # fmt: skip
    """Choose what was left open, and check what was said.

    Raises:
        QueryError: a column that is not there, or of a kind that cannot be drawn so.
    """
    if kind not in KINDS:
        raise sl.QueryError(
            f"kind={kind!r} is no kind of chart", hint=f"one of {', '.join((*KINDS, 'table'))}"
        )
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 2:
        raise sl.QueryError(f"keep is a number of points, at least 2; got {keep!r}")
    numbers, by = (color, y) if kind == "heat" else (y, color)  # a heat map's number is its colour
    for name in filter(None, [x, *_listed(numbers), *_listed(by)]):
        _known(name, schema)
    keys = [name for name in identity if name not in BOUNDS]
    x = x or _first_time(schema, identity)
    series = tuple(_listed(by)) if by is not None else tuple(k for k in keys if k != x)
    if kind == "heat" and not series:
        raise sl.QueryError("a heat map needs y=, the column that tells its rows apart")
    _drawable(x, schema)
    values = tuple(_listed(numbers)) or (_first_number(schema, {x, *series, *BOUNDS}),)
    for name in values:
        if not (schema[name].is_numeric() or schema[name] == _boolean()):
            raise sl.QueryError(
                f"column {name!r} is {schema[name]} and cannot be drawn as a number",
                hint="y= names columns of numbers",
            )
    missing = [key for key in keys if key not in series and key != x]
    if missing:
        raise sl.QueryError(
            f"the windows are by {', '.join(keys)}, and {', '.join(missing)} is not told apart",
            hint=f"color={[*series, *missing]!r}",
        )
    is_time = schema[x].is_temporal()
    return Plot(kind, x, values, series, is_time, title or _title(values, series, what), unit, keep,
                tuple(identity))  # fmt: skip


def _title(values: Sequence[str], series: Sequence[str], what: str) -> str:
    return f"{what}: {', '.join(values)}" + (f" by {', '.join(series)}" if series else "")


def _boolean() -> Any:
    import polars as pl

    return pl.Boolean


def _listed(names: Any) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else list(names)


def _known(name: Any, schema: dict[str, Any]) -> None:
    if not isinstance(name, str) or name not in schema:
        near = difflib.get_close_matches(str(name), schema, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(schema)}"
        raise sl.QueryError(f"there is no column {name!r} in the result", hint=hint)


def _first_time(schema: dict[str, Any], identity: Sequence[str]) -> str:
    if "window_start" in identity:
        return "window_start"
    system = ("_append_time",)
    times = [n for n, k in schema.items() if k.is_temporal() and n not in system]
    found = next(iter([*times, *(n for n in (*system, "_offset") if n in schema)]), None)
    if found is None:
        raise sl.QueryError(
            "the result has no column of times", hint="x= names the column to the right"
        )
    return found


def _first_number(schema: dict[str, Any], taken: set[str]) -> str:
    for name, kind in schema.items():
        if kind.is_numeric() and name not in taken and not name.startswith("_"):
            return name
    raise sl.QueryError("the result has no column of numbers", hint="y= names one")


def _drawable(x: str, schema: dict[str, Any]) -> None:
    import polars as pl

    kind = schema[x]
    if not (kind.is_numeric() or isinstance(kind, pl.Datetime) or kind == pl.Date):
        raise sl.QueryError(
            f"column {x!r} is {kind} and is no axis", hint="x= names times or numbers"
        )


class Ring:
    """The last points of a series, in the order in which they came."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self._x, self._y = np.empty(0), np.empty(0)
        self._start = self._stop = 0

    def __len__(self) -> int:
        return self._stop - self._start

    def add(self, x: np.ndarray, y: np.ndarray) -> None:
        """Add points at the end; the oldest go."""
        x, y = x[-self.keep :], y[-self.keep :]
        if self._stop + len(x) > len(self._x):
            self._make_room(len(x))
        self._x[self._stop : self._stop + len(x)] = x
        self._y[self._stop : self._stop + len(x)] = y
        self._stop += len(x)
        self._start = max(self._start, self._stop - self.keep)

    def _make_room(self, more: int) -> None:
        """Move to arrays twice as long as is needed: each point is moved twice at most."""
        x, y = self.x, self.y
        size = min(2 * (len(x) + more), 2 * self.keep + more)
        self._x, self._y = np.empty(size), np.empty(size)
        self._x[: len(x)], self._y[: len(x)] = x, y
        self._start, self._stop = 0, len(x)

    @property
    def x(self) -> np.ndarray:
        """Their places: milliseconds since 1970 UTC, or numbers."""
        return self._x[self._start : self._stop]

    @property
    def y(self) -> np.ndarray:
        """Their numbers; NaN is a gap."""
        return self._y[self._start : self._stop]

    def shrink(self, keep: int) -> None:
        """Keep fewer."""
        self.keep = keep
        self._start = max(self._start, self._stop - keep)


@dataclass
class Line:
    """One series."""

    name: str
    closed: Ring
    open_x: np.ndarray = field(default_factory=lambda: np.empty(0))
    open_y: np.ndarray = field(default_factory=lambda: np.empty(0))
    new: int = 0  # closed points that were not taken yet


class Points:
    """All series of a plot; `add` takes results as they come."""

    def __init__(self, plot: Plot) -> None:
        self.plot = plot
        self.lines: dict[tuple[Any, ...], Line] = {}
        self.left_out: set[tuple[Any, ...]] = set()
        self._open: pl.DataFrame | None = None

    def add(self, frame: pl.DataFrame) -> None:
        """Take rows: final ones, and changes of open ones, of which the last of each counts."""
        import polars as pl

        plot = self.plot
        if plot.identity:
            keys = list(plot.identity)
            last = frame.unique(subset=keys, keep="last", maintain_order=True)
            kept = pl.col("_op") != "d"
            closed = last.filter("_final", kept)
            fresh = last.filter(~pl.col("_final"), kept).select(plot.columns)
            if self._open is not None:
                rest = self._open.join(last.select(keys), on=keys, how="anti", nulls_equal=True)
                fresh = pl.concat([rest, fresh])
            self._open = fresh
        else:
            closed = frame
        self._close(closed)
        if self._open is not None:
            self._reopen(self._open)

    def _close(self, frame: pl.DataFrame) -> None:
        if not frame.height:
            return
        for key, x, y in self._parts(frame):
            line = self._line(key)
            if line is not None:
                line.closed.add(x, y)
                line.new += len(x)

    def _reopen(self, frame: pl.DataFrame) -> None:
        for known in self.lines.values():
            known.open_x = known.open_y = np.empty(0)
        for key, x, y in self._parts(frame.sort(self.plot.x)) if frame.height else []:
            line = self._line(key)
            if line is not None:
                line.open_x, line.open_y = x, y

    def _parts(
        self, frame: pl.DataFrame
    ) -> Iterator[tuple[tuple[Any, ...], np.ndarray, np.ndarray]]:
        """Yield the series of a frame: who it is, places, numbers."""
        plot = self.plot
        if not plot.by:
            yield from self._columns((), frame)
            return
        wanted = frame.select(list(dict.fromkeys([*plot.by, plot.x, *plot.values])))
        parts = wanted.partition_by(plot.by, as_dict=True, maintain_order=True)
        for key, part in parts.items():
            yield from self._columns(key, part)

    def _columns(
        self, key: tuple[Any, ...], frame: pl.DataFrame
    ) -> Iterator[tuple[tuple[Any, ...], np.ndarray, np.ndarray]]:
        """Yield a series for each column of numbers, without the places that are none."""
        plot, column = self.plot, frame[self.plot.x]
        x = _milliseconds(column) if plot.is_time else _floats(column)
        real = np.isfinite(x)
        whole = bool(real.all())
        for index, name in enumerate(plot.values):
            y = _floats(frame[name])
            yield (*key, index), x if whole else x[real], y if whole else y[real]

    def _line(self, key: tuple[Any, ...]) -> Line | None:
        line = self.lines.get(key)
        if line is not None:
            return line
        if len(self.lines) >= MOST_SERIES.get(self.plot.kind, MOST):
            if len(self.left_out) < 100_000:
                self.left_out.add(key)
            return None
        keep = min(self.plot.keep, max(TOTAL // (len(self.lines) + 1), 2))
        for other in self.lines.values():
            other.closed.shrink(keep)
        made = self.lines[key] = Line(self._name(key), Ring(keep))
        return made

    def _name(self, key: tuple[Any, ...]) -> str:
        *values, index = key
        names = [_said(name, value) for name, value in zip(self.plot.by, values, strict=True)]
        if len(self.plot.values) > 1 or not names:
            names.append(self.plot.values[index])
        return " · ".join(names)

    def clear(self) -> None:
        """Forget all."""
        self.lines, self.left_out, self._open = {}, set(), None

    def __len__(self) -> int:
        return sum(len(line.closed) + len(line.open_x) for line in self.lines.values())


def _milliseconds(column: pl.Series) -> np.ndarray:
    """Return a column of times as milliseconds since 1970 UTC; null is NaN."""
    import polars as pl

    micros = isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit == "us"
    return (column.to_physical() if micros else column.dt.epoch("us")).to_numpy() / 1000


def _floats(column: pl.Series) -> np.ndarray:
    """Return a column as floats; null is NaN."""
    import polars as pl

    return column.cast(pl.Float64).to_numpy()


def _said(column: str, value: Any) -> str:
    """Return what tells a series apart; a number alone would say nothing."""
    bare = isinstance(value, str) and value
    return (
        label(value)
        if bare
        else f"{column} {'null' if value is None else label(value) or repr(value)}"
    )
