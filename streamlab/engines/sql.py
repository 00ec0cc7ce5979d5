"""SQL in queries: DuckDB's dialect, a row at a time or over the rows of windows.

DuckDB parses; its syntax tree is checked and taken apart here, and DuckDB evaluates what is left of
it over frames. Nothing in this file knows of streams: it is given text and frames.

Invariants: a row-wise statement sees one row at a time; every level of a windowed one that joins
rows goes by the window, so that windows can be answered one by one as they close; nothing volatile
is evaluated; the connection reaches nothing but the frames.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from streamlab.duck import LOCK_DOWN, quoted
from streamlab.duration import parse_delay, parse_duration
from streamlab.engines.syntax import (
    BOUNDS,
    Levels,
    Tree,
    aggregates,
    check_rowwise,
    no_volatile,
    parsed,
    parser,
    parts,
    renamed,
    written,
)
from streamlab.errors import QueryError
from streamlab.window import Window, cumulative, hopping, session, tumbling

if TYPE_CHECKING:
    import duckdb
    import polars as pl

__all__ = ["RowQuery", "RowSql", "SqlPlan", "WindowSql", "parse_query", "plan_columns"]

ROWS = "rows_in_windows"
FUNCTIONS = ("tumble", "hop", "cumulate", "session")
FORMS = {
    "tumble": "tumble(stream, INTERVAL '1 minute')",
    "hop": "hop(stream, INTERVAL '5 minutes', INTERVAL '1 minute')",
    "cumulate": "cumulate(stream, INTERVAL '1 hour', INTERVAL '5 minutes')",
    "session": "session(stream, INTERVAL '30 seconds', key)",
}


# -- row by row ----------------------------------------------------------------------------------


def connection() -> duckdb.DuckDBPyConnection:
    """Return a connection that reaches nothing but what is registered."""
    import duckdb

    made = duckdb.connect(":memory:", config={"threads": "1"})
    made.execute("SET TimeZone = 'UTC'")
    return made


class _Evaluator:
    """Statements over a frame, on a connection of their own."""

    def __init__(self, table: str, text: str) -> None:
        self.table, self.text = table, text
        self.lock = threading.Lock()
        self.connection = connection()
        for statement in LOCK_DOWN:
            self.connection.execute(statement)

    def run(self, frame: pl.DataFrame, *statements: str) -> list[pl.DataFrame]:
        import duckdb
        import polars as pl

        with self.lock:
            self.connection.register(self.table, frame.to_arrow())
            try:
                found = []
                for sql in statements:
                    table = self.connection.sql(sql).to_arrow_table()
                    check_columns(table.schema, self.text)
                    made = pl.from_arrow(table)
                    assert isinstance(made, pl.DataFrame)
                    found.append(made)
            except duckdb.Error as error:
                raise explained(error, list(frame.columns), self.text) from error
            finally:
                self.connection.unregister(self.table)
        return [_typed(made) for made in found]


def check_columns(schema: pa.Schema, text: str) -> None:
    """See that a result's columns can be those of a frame.

    Raises:
        QueryError: two have the same name, or one is an INTERVAL.
    """
    for field in schema:
        if schema.names.count(field.name) > 1:
            raise QueryError(f"two columns are named {field.name!r}", hint="... AS name", sql=text)
        if pa.types.is_interval(field.type):
            raise QueryError(
                f"{field.name!r} is an INTERVAL, which may be in months and has no fixed length",
                hint="compute microseconds: epoch_us(a) - epoch_us(b)", sql=text,
            )  # fmt: skip


def _typed(frame: pl.DataFrame) -> pl.DataFrame:
    """Return DuckDB's result in the types of a query: UTC microseconds, 64-bit sums."""
    import polars as pl

    casts = []
    for name, kind in frame.schema.items():
        if isinstance(kind, pl.Datetime) and kind.time_zone is not None:
            casts.append(pl.col(name).dt.convert_time_zone("UTC").cast(pl.Datetime("us", "UTC")))
        elif kind == pl.Int128 or (
            isinstance(kind, pl.Decimal) and kind.precision == 38 and kind.scale == 0
        ):
            casts.append(pl.col(name).cast(pl.Int64, strict=True))
    try:
        return frame.with_columns(casts) if casts else frame
    except pl.exceptions.InvalidOperationError as error:
        raise QueryError(
            f"an integer sum does not fit 64 bits: {str(error).splitlines()[0]}",
            hint="sum in floating point: sum(x::DOUBLE)",
        ) from error


def explained(error: Exception, columns: list[str], text: str) -> QueryError:
    """Return DuckDB's error as one of ours, with the nearest columns."""
    message = str(error).splitlines()[0].strip()
    hint = None
    if 'Referenced column "' in message:
        name = message.split('"')[1]
        near = difflib.get_close_matches(name, columns, n=2)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(columns)}"
    return QueryError(message, hint=hint, sql=text)


def _without_where(node: Tree) -> dict[str, Any]:
    return {**node, "where_clause": None}


class RowSql:
    """A row-wise SELECT over ``this``."""

    def __init__(self, text: str, schema: pl.Schema) -> None:
        import polars as pl

        statement = parsed(text)
        node = statement["node"]
        check_rowwise(node, text)
        self.renamed = {name.casefold() for name in renamed(node["select_list"])}
        self._condition = None
        if node["where_clause"] is not None:
            tested = {**_without_where(node), "select_list": [node["where_clause"]]}
            self._condition = written({**statement, "node": tested})
        self._selection = written({**statement, "node": _without_where(node)})
        self._evaluator = _Evaluator("this", text)
        empty = pl.DataFrame(schema=schema)
        self.output = self.run(empty)[1].schema

    def run(self, frame: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
        """Return which rows pass, and the selected columns of those."""
        import polars as pl

        mask = pl.repeat(value=True, n=frame.height, dtype=pl.Boolean, eager=True)
        if self._condition is not None:
            tested = self._evaluator.run(frame, self._condition)[0].to_series()
            mask = tested.cast(pl.Boolean).fill_null(value=False)
            frame = frame.filter(mask)
        return mask, self._evaluator.run(frame, self._selection)[0]


# -- over windows --------------------------------------------------------------------------------


@dataclass(frozen=True)
class RowQuery:
    """A row-wise statement: the stream, and the SELECT over ``this``."""

    stream: str
    text: str


@dataclass(frozen=True)
class WindowSql:
    """A windowed statement, taken apart.

    ``source`` is the row-wise SELECT over ``this`` that stood in the window function's place for a
    stream; ``inner`` the statement over the table of rows in windows.
    """

    text: str
    stream: str
    source: str | None
    window: Window
    delay: int | None
    session_key: tuple[str, ...]
    inner: str
    columns: tuple[str, ...]


def parse_query(text: str) -> WindowSql | RowQuery:
    """Return what a statement asks for.

    Raises:
        QueryError: it does not parse, or is neither row-wise nor by windows.
    """
    statement = parsed(text)
    calls = [part for part in parts(statement) if part.get("type") == "TABLE_FUNCTION"]
    for call in calls:
        name = call["function"]["function_name"]
        if name.lower() not in FUNCTIONS:
            raise QueryError(
                f"{name}() is no window table function",
                hint="there are " + ", ".join(FORMS.values()), sql=text,
            )  # fmt: skip
    if not calls:
        return _row_query(statement, text)
    if len(calls) > 1:
        raise QueryError(
            "a query has one window table function; these are several",
            hint="run one into a stream, and query that", sql=text,
        )  # fmt: skip
    no_volatile(statement, text)
    call = calls[0]
    stream, source, window, delay, keys = _taken_apart(call, text)
    call_tree = dict(call)
    if call["sample"]:
        raise QueryError("a SAMPLE gives something else each time", sql=text)
    call.clear()
    call.update(_base_table(ROWS, call_tree["alias"] or (stream if stream.isidentifier() else "")))
    Levels(text, window.kind).check(statement["node"], {ROWS})
    return WindowSql(text, stream, source, window, delay, keys, written(statement), ())


def _row_query(statement: Tree, text: str) -> RowQuery:
    node = statement["node"]
    try:
        stream = check_rowwise(node, text, None)
    except QueryError as error:
        raise QueryError(
            str(error).split("\n", maxsplit=1)[0],
            hint="aggregate by windows: SELECT ... FROM tumble(stream, INTERVAL '1 minute') GROUP BY ALL; "
            "lab.sql answers any SQL over what there is now",
            sql=text,
        ) from error
    table = node["from_table"]
    alias = table["alias"] or stream
    node["from_table"] = _base_table("this", alias)
    return RowQuery(stream, written(statement))


def _base_table(name: str, alias: str) -> Tree:
    table = parsed(f"SELECT * FROM {quoted(name)} AS {quoted(alias or name)}")["node"]["from_table"]
    assert table["type"] == "BASE_TABLE"
    return dict(table)


def _taken_apart(
    call: Tree, text: str
) -> tuple[str, str | None, Window, int | None, tuple[str, ...]]:
    """Return stream, source, window, delay and session keys of a window table function."""
    name = call["function"]["function_name"].lower()
    form = FORMS[name]
    given = call["function"]["arguments"]
    plain = [a["expression"] for a in given if not a["name"]]
    named = {a["name"].lower(): a["expression"] for a in given if a["name"]}
    unknown = set(named) - {"delay", "offset_by", "tz"}
    if unknown:
        raise QueryError(
            f"{name} takes no {min(unknown)} =>; it takes delay, offset_by, tz", sql=text
        )
    if not plain:
        raise QueryError(f"{name} takes a stream first", hint=form, sql=text)
    stream, source = _streams(plain[0], name, form, text)
    lengths = {"tumble": 1, "session": 1}.get(name, 2)
    if len(plain) - 1 < lengths or (name != "session" and len(plain) - 1 > lengths):
        raise QueryError(
            f"{name} takes a stream and {lengths} length{'s' * (lengths > 1)} of time",
            hint=form,
            sql=text,
        )
    sizes = [_interval(part, name, form, text) for part in plain[1 : 1 + lengths]]
    keys = tuple(_column(part, name, form, text) for part in plain[1 + lengths :])
    offset = _interval(named["offset_by"], "offset_by", form, text) if "offset_by" in named else 0
    zone = _text(named["tz"]) if "tz" in named else None
    delay = None
    if "delay" in named:
        endless = _text(named["delay"]) == "inf"
        delay = parse_delay("inf") if endless else _interval(named["delay"], "delay", form, text)
    return stream, source, _window(name, sizes, offset, zone), delay, keys


def _window(name: str, sizes: list[int], offset: int, zone: str | None) -> Window:
    import datetime as dt

    lengths = [dt.timedelta(microseconds=size) for size in sizes]
    start = dt.timedelta(microseconds=offset)
    if name == "session":
        return session(lengths[0])
    if name == "tumble":
        return tumbling(lengths[0], offset=start, tz=zone)
    make: Callable[..., Window] = hopping if name == "hop" else cumulative
    return make(lengths[0], lengths[1], offset=start, tz=zone)


def _streams(part: Tree, name: str, form: str, text: str) -> tuple[str, str | None]:
    if part["class"] == "COLUMN_REF":
        return ".".join(part["column_names"]), None
    if part["class"] == "SUBQUERY":
        node = part["subquery"]["node"]
        stream = check_rowwise(node, text, None)
        alias = node["from_table"]["alias"] or stream
        inside = {**node, "from_table": _base_table("this", alias)}
        return stream, written({"node": inside, "named_param_map": []})
    raise QueryError(
        f"{name} takes a stream's name, or a SELECT in brackets, first",
        hint=f'{form}; names with dots or dashes need double quotes: "a.b"', sql=text,
    )  # fmt: skip


def _column(part: Tree, name: str, form: str, text: str) -> str:
    if part["class"] != "COLUMN_REF":
        raise QueryError(f"{name} takes columns as keys", hint=form, sql=text)
    return str(part["column_names"][-1])


def _text(part: Tree) -> str | None:
    if part["class"] == "CONSTANT" and part.get("literal", {}).get("kind") == "STRING":
        return str(part["literal"]["text"])
    return None


def _interval(part: Tree, name: str, form: str, text: str) -> int:
    """Return a length of time in microseconds."""
    import duckdb

    plain = _text(part)
    if plain is not None:
        return parse_duration(plain, what=name)
    if part["class"] == "CONSTANT":
        raise QueryError(f"{name} is given a bare number: its unit is unknown", hint=form, sql=text)
    template = parsed("SELECT 1")
    template["node"]["select_list"] = [{**part, "alias": "i"}]
    sql = written(template)
    base, lock, _ = parser()
    try:
        with lock:
            months, micros = base.execute(
                f"SELECT 12 * extract(year FROM i) + extract(month FROM i), epoch_us(i) FROM ({sql})"
            ).fetchall()[0]
    except duckdb.Error as error:
        raise QueryError(
            f"{name} takes an INTERVAL as a length of time", hint=form, sql=text
        ) from error
    if months:
        raise QueryError(
            f"the length of {name} is in months, which have no fixed length",
            hint="write days",
            sql=text,
        )
    if micros is None or micros < 0:
        raise QueryError(f"{name} takes a length of time; this is none", hint=form, sql=text)
    return int(micros)


class SqlPlan:
    """A windowed statement over rows of known columns."""

    def __init__(self, sql: WindowSql, schema: pl.Schema) -> None:
        import polars as pl

        self.sql = sql
        self._evaluator = _Evaluator(ROWS, sql.text)
        bounds = {name: pl.Datetime("us", "UTC") for name in BOUNDS}
        empty = pl.DataFrame(schema={**schema, **bounds})
        self.output = self.run(empty).schema
        node = parsed(sql.inner)["node"]
        self.window_columns = self._found(node)
        told = set(self.window_columns)
        if sql.window.kind not in ("tumbling", "hopping"):
            told -= {"window_start"}  # windows that begin together end at different times
        if not told:
            raise QueryError(
                "the result does not say of which window a row is",
                hint="SELECT window_end, ...", sql=sql.text,
            )  # fmt: skip
        self.keys = tuple(name for name in self._plain if name not in self.window_columns.values())
        there = {name.lower() for name in schema}
        chosen = node["select_list"]
        self.identified = all(_selected(part, chosen, there) for part in _groups(node))

    def _found(self, node: Tree) -> dict[str, str]:
        """Return which output columns hold the bounds of the window, and note the plain ones."""
        names = list(self.output)
        found = {}
        plain = list(names)
        if any(part["class"] == "STAR" for part in node["select_list"]):
            found = {bound: bound for bound in BOUNDS if bound in names}
        else:
            for part, name in zip(node["select_list"], names, strict=True):
                if part["class"] == "COLUMN_REF" and part["column_names"][-1].lower() in BOUNDS:
                    found[part["column_names"][-1].lower()] = name
            plain = [
                n
                for part, n in zip(node["select_list"], names, strict=True)
                if not aggregates(part)
            ]
        self._plain = plain
        return found

    def run(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the result over the rows of some windows, in no order."""
        return self._evaluator.run(frame, self.sql.inner)[0]


def _groups(node: Tree) -> list[Tree]:
    """Return what a SELECT groups by, but for the window and what it names by its place."""
    found = node.get("group_expressions") or []
    return [
        part
        for part in found
        if part["class"] != "CONSTANT"
        and not (part["class"] == "COLUMN_REF" and part["column_names"][-1].lower() in BOUNDS)
    ]


def _selected(part: Tree, columns: list[Tree], there: set[str]) -> bool:
    """Whether a key is among the columns of a result as it is, by its name or the same words.

    A name is that of a column of the rows before it is that of a column of the result.
    """
    if part["class"] == "COLUMN_REF":
        name = part["column_names"][-1].lower()
        if name in there:
            refs = [column for column in columns if column["class"] == "COLUMN_REF"]
            star = any(column["class"] == "STAR" for column in columns)
            return star or any(ref["column_names"][-1].lower() == name for ref in refs)
        return any((column.get("alias") or "").lower() == name for column in columns)
    return any(column["class"] == "STAR" or _bare(part) == _bare(column) for column in columns)


def _bare(part: Any) -> Any:
    """Return an expression without its name and its place in the text."""
    if isinstance(part, list):
        return [_bare(other) for other in part]
    if isinstance(part, dict):
        left_out = ("alias", "query_location")
        return {key: _bare(other) for key, other in part.items() if key not in left_out}
    return part.lower() if isinstance(part, str) else part


def plan_columns(sql: WindowSql, schema: pl.Schema) -> SqlPlan:
    """Return a statement checked against the columns of its rows.

    Raises:
        QueryError: a column that is not there, or no column of the window in the result.
    """
    return SqlPlan(sql, schema)
