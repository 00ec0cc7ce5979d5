"""Steps that look at one row at a time, and the two that look at a key's or a window's others.

Invariants: the hidden columns go along untouched, and no expression of a user ever sees them.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from streamlab.clock import FOREVER, NEVER
from streamlab.engines.batch import HIDDEN, ORDER, TIME, Batch, Operator, Since
from streamlab.engines.held import Held, span
from streamlab.errors import QueryError, SchemaMismatch, StreamlabError
from streamlab.plan import time_replaced
from streamlab.schema import event_times

if TYPE_CHECKING:
    import polars as pl

__all__ = ["RowStep", "TopStep", "UniqueStep", "filtering", "mapping", "projecting", "sql_step"]

Step = Callable[["pl.DataFrame"], "pl.DataFrame"]
LazyStep = Callable[["pl.LazyFrame"], "pl.LazyFrame"]


class RowStep(Operator):
    """A function of rows, one at a time; ``unread`` is the same for rows that are yet to be read."""

    def __init__(self, step: Step, unread: LazyStep | None = None) -> None:
        self.step, self.unread = step, unread

    def push(self, port: int, batch: Batch) -> Batch:
        """Return what becomes of the rows."""
        if batch.lazy and self.unread is not None:
            return batch.of(self.unread(batch.rows.lazy()))
        return batch.of(self.step(batch.frame))

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return what becomes of rows that are not final."""
        return self.step(rows[0])


def hidden_of(frame: pl.DataFrame) -> list[str]:
    """Return the hidden columns that a frame has."""
    return [name for name in frame.columns if name in HIDDEN]


def _computed(compute: Callable[[], pl.DataFrame], what: str) -> pl.DataFrame:
    import polars as pl

    try:
        return compute()
    except pl.exceptions.PolarsError as error:
        raise QueryError(f"{what} failed: {str(error).splitlines()[0]}") from error


def filtering(conditions: Sequence[pl.Expr]) -> RowStep:
    """Return the step that keeps rows for which all conditions are true."""
    if not any(_many(c) for c in conditions):
        return RowStep(
            lambda frame: _computed(lambda: frame.filter(*conditions), "the filter"),
            lambda rows: rows.filter(*conditions),
        )

    def step(frame: pl.DataFrame) -> pl.DataFrame:
        visible = frame.drop(hidden_of(frame))
        kept = _computed(lambda: visible.with_row_index("\0n").filter(*conditions), "the filter")
        return frame[kept["\0n"]]

    return RowStep(step)


def _many(expression: pl.Expr) -> bool:
    return bool(expression.meta.has_multiple_outputs())


def projecting(columns: Sequence[pl.Expr], *, keep: bool) -> RowStep:
    """Return the step that computes columns, beside the others or instead of them."""
    import polars as pl

    def step(frame: pl.DataFrame) -> pl.DataFrame:
        hidden = hidden_of(frame)
        rest = frame.select(hidden)
        visible = frame.drop(hidden)
        if keep:
            done = _computed(lambda: visible.with_columns(*columns), "with_columns")
        else:
            names = _computed(lambda: visible.clear().select(*columns), "select").columns
            # A literal alone would give one row: it is put beside the others first.
            done = _computed(lambda: _beside(frame, columns, names), "select")
        return done.with_columns(rest.get_columns())

    if any(_many(column) for column in columns):  # it would see the hidden ones
        return RowStep(step)
    hidden = pl.selectors.starts_with("\0")  # they stay the last ones, as in `step`
    return RowStep(
        step,
        lambda rows: (
            rows.with_columns(*columns).select(~hidden, hidden)
            if keep
            else rows.select(*columns, hidden)
        ),
    )


def _beside(frame: pl.DataFrame, columns: Sequence[pl.Expr], names: list[str]) -> pl.DataFrame:
    anchored = frame.select(*columns, frame[ORDER].alias("\0anchor"))
    return anchored.select(names)


def mapping(
    function: Callable[[pl.DataFrame], pl.DataFrame], schema: dict[str, Any], time: str | None
) -> RowStep:
    """Return the step of a user's function, whose first batch is checked: whole = halves.

    ``time`` is the column with the event time, which the function must leave as it is.
    """
    checked = False

    def step(frame: pl.DataFrame) -> pl.DataFrame:
        nonlocal checked
        hidden = hidden_of(frame)
        rest, visible = frame.select(hidden), frame.drop(hidden)
        done = _called(function, visible, schema)
        if not checked and visible.height > 1:
            checked = True
            half = visible.height // 2
            parts = [
                _called(function, visible[:half], schema),
                _called(function, visible[half:], schema),
            ]
            import polars as pl

            if not pl.concat(parts).equals(done):
                raise QueryError(
                    f"{_name_of(function)} is not row-wise: two halves of a batch give something else "
                    "than the whole",
                    hint="what needs other rows belongs into .window(...).agg(...)",
                )
        if time in done.columns and not _are_times(done[time], frame[TIME]):
            raise time_replaced(_name_of(function), time)
        return done.with_columns(rest.get_columns())

    return RowStep(step)


def _are_times(values: pl.Series, times: pl.Series) -> bool:
    try:
        found = event_times(values.to_arrow(), values.name)
    except SchemaMismatch:
        return False
    return bool((found == times.to_numpy()).all())


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", function))


def _difference(got: Mapping[str, Any], told: Mapping[str, Any]) -> str:
    """Return how the columns that came differ from those that were told."""
    found = [f"{name!r} is missing" for name in told if name not in got]
    found += [f"{name!r} is not in it" for name in got if name not in told]
    found += [
        f"{name!r} is {got[name]}, not {kind}"
        for name, kind in told.items()
        if name in got and got[name] != kind
    ]
    return ", ".join(found) or f"they come in the order {', '.join(got)}"


def _called(function: Any, frame: pl.DataFrame, schema: dict[str, Any]) -> pl.DataFrame:
    import polars as pl

    try:
        done = function(frame)
    except StreamlabError:
        raise
    except Exception as error:
        raise QueryError(f"{_name_of(function)} failed: {type(error).__name__}: {error}") from error
    if not isinstance(done, pl.DataFrame) or done.height != frame.height:
        got = f"{done.height} rows" if isinstance(done, pl.DataFrame) else type(done).__name__
        raise QueryError(
            f"{_name_of(function)} was given {frame.height} rows and returned {got}",
            hint="map_batches takes a function that returns a pl.DataFrame of as many rows; .filter drops some",
        )
    if dict(done.schema) != dict(schema):
        raise QueryError(
            f"{_name_of(function)} returned other columns than its schema says: "
            f"{_difference(done.schema, schema)}",
            hint="map_batches(function, schema) takes the names and types of all columns that come out",
        )
    return done


def sql_step(sql: Any) -> RowStep:
    """Return the step of a row-wise SELECT."""

    def step(frame: pl.DataFrame) -> pl.DataFrame:
        hidden = hidden_of(frame)
        mask, done = sql.run(frame.drop(hidden))
        return done.with_columns(frame.select(hidden).filter(mask).get_columns())  # type: ignore[no-any-return]

    return RowStep(step)


MANY_KEPT = 1_000_000
"""So many kept times are looked up in memory; then they are put aside."""

Kept = dict[Any, "int | list[int]"]
"""Times of kept rows in order, by key; most keys have one, and a number costs less than a list."""


class UniqueStep(Operator):
    """Keeps a row iff no kept row of its key is less than ``within`` away in event time.

    However late a row is, it may meet any kept one. Those that were put aside, beyond a limit in files,
    are looked through for the keys of a batch, where they are near it in time.
    """

    def __init__(self, on: Sequence[str], within: int | None) -> None:
        self.on, self.within = list(on), within
        self.kept: Kept = {}
        self.count = 0  # of the times in it
        self.aside = Held(TIME)
        self.also: list[Kept] = []  # what stands against rows too, and is remembered elsewhere
        self.first: Since | None = None

    def push(self, port: int, batch: Batch) -> Batch:
        """Return the rows that go on."""
        import polars as pl

        if batch.frame.height:
            self.first = self.first or batch.since
        kept = batch.frame.filter(pl.Series(self._kept(batch.frame), dtype=pl.Boolean))
        if self.count > MANY_KEPT:
            self._put_aside(_keys(batch.frame, self.on).schema)
        return batch.of(kept)

    def _kept(self, frame: pl.DataFrame) -> list[bool]:
        take, keys = self._take, _keys(frame, self.on)
        if self.aside.parts and frame.height:
            self.also = [*self.also, self._recalled(keys, *span(frame[TIME]))]
        found = [take(k, t) for k, t in zip(_tuples(keys), frame[TIME].to_list(), strict=True)]
        self.also = []
        return found

    def _take(self, key: Any, time: int) -> bool:
        if self.also and any(self._against(also.get(key), time) for also in self.also):
            return False
        found = self.kept.get(key)
        if found is None:
            self.kept[key] = time
        elif self._against(found, time):
            return False
        elif isinstance(found, int):
            self.kept[key] = sorted((found, time))
        else:
            bisect.insort(found, time)
        self.count += 1
        return True

    def _against(self, found: int | list[int] | None, time: int) -> bool:
        """Return whether one of the kept times of a key stands against another time."""
        if found is None or self.within is None:
            return found is not None
        if isinstance(found, int):
            return abs(time - found) < self.within
        at = bisect.bisect_left(found, time)
        return any(abs(time - other) < self.within for other in found[max(at - 1, 0) : at + 1])

    def _put_aside(self, schema: pl.Schema) -> None:
        import polars as pl

        one = len(schema) == 1
        rows = [
            (*((key,) if one else key), time)
            for key, times in self.kept.items()
            for time in ([times] if isinstance(times, int) else times)
        ]
        self.aside.add(pl.DataFrame(rows, schema={**schema, TIME: pl.Int64}, orient="row"))
        self.kept, self.count = {}, 0

    def _recalled(self, keys: pl.DataFrame, low: int, high: int) -> Kept:
        """Return what was put aside of some keys that is near a span of time."""
        near = (low - self.within, high + self.within + 1) if self.within else (NEVER, FOREVER)
        found: Kept = {}
        for rows in self.aside.between(*near):
            mine = rows.join(keys.unique(), on=keys.columns, how="semi", nulls_equal=True)
            times = mine.drop_in_place(TIME).to_list()
            for key, time in zip(_tuples(mine), times, strict=True):
                several = found.setdefault(key, [])
                assert isinstance(several, list)
                bisect.insort(several, time)
        return found

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows that are not final and that no kept one stands against."""
        import polars as pl

        other = UniqueStep(self.on, self.within)
        other.also, other.aside = [self.kept], self.aside
        return rows[0].filter(pl.Series(other._kept(rows[0]), dtype=pl.Boolean))

    def since(self) -> Since | None:
        """Return where the first kept row stands: which rows go depends on all before them."""
        return self.first

    def report(self) -> list[str]:
        """Return how much is remembered."""
        lines = [f"{self.count:,} kept times of {len(self.kept):,} keys"]
        if self.aside.parts:
            lines[0] += f", and {self.aside.height:,} that were put aside{self.aside.where}"
        return lines


def _keys(frame: pl.DataFrame, on: Sequence[str]) -> pl.DataFrame:
    """Return each row's key in columns whose values can be looked up: NaN is NaN."""
    import polars as pl

    columns = []
    for name in on:
        values = frame[name]
        if values.dtype.is_nested():
            texts = [repr(_unsigned(value)) for value in values.to_list()]
            values = pl.Series(name, texts, dtype=pl.String)
        elif values.dtype.is_temporal():
            values = values.to_physical()  # Python's times know no nanoseconds
        elif values.dtype.is_float():
            columns.append(values.is_nan().alias(f"{name}\0nan"))
            values = values.fill_nan(0.0)
        columns.append(values)
    return pl.DataFrame(columns)


def _unsigned(value: Any) -> Any:
    """Return a value in which zero has no sign."""
    if isinstance(value, float):
        return value + 0.0
    if isinstance(value, list):
        return [_unsigned(part) for part in value]
    return {n: _unsigned(v) for n, v in value.items()} if isinstance(value, dict) else value


def _tuples(keys: pl.DataFrame) -> list[Any]:
    return keys.to_series().to_list() if keys.width == 1 else keys.rows()


class TopStep(Operator):
    """The first rows of each window in an order; ties go by the keys."""

    def __init__(self, n: int, order: pl.Expr, keys: Sequence[str], *, descending: bool) -> None:
        self.n, self.order, self.keys, self.descending = n, order, list(keys), descending

    def push(self, port: int, batch: Batch) -> Batch:
        """Return the first rows of each window."""
        return batch.of(self.peek(batch.frame))

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the first rows of each open window."""
        import polars as pl

        frame = rows[0]
        ranked = frame.with_columns(self.order.alias("\0rank")).sort(
            "\0rank", *self.keys, ORDER, maintain_order=True, nulls_last=[True, *[False] * (len(self.keys) + 1)],
            descending=[self.descending, *[False] * (len(self.keys) + 1)],
        )  # fmt: skip
        # The time of a row is the end of its window, also where that column was dropped.
        windows = [TIME, *(["window_start"] if "window_start" in frame.columns else [])]
        best = ranked.group_by(windows, maintain_order=True).head(self.n)
        return best.select(frame.columns).sort(ORDER) if frame.height else frame.select(pl.all())
