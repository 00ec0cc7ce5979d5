"""SQL in queries: DuckDB's dialect, a row at a time or over the rows of windows.

DuckDB parses; its syntax tree is checked and taken apart here, and DuckDB evaluates what is left of
it over frames. Nothing in this file knows of streams: it is given text and frames.

Invariants: a row-wise statement sees one row at a time; every level of a windowed one that joins
rows goes by the window, so that windows can be answered one by one as they close; nothing volatile
is evaluated; the connection reaches nothing but the frames.
"""

from __future__ import annotations

import difflib
import functools
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamlab.duck import LOCK_DOWN, quoted
from streamlab.duration import parse_delay, parse_duration
from streamlab.errors import QueryError
from streamlab.window import Window, cumulative, hopping, session, tumbling

if TYPE_CHECKING:
    import duckdb
    import polars as pl

__all__ = ["RowQuery", "RowSql", "SqlPlan", "WindowSql", "parse_query", "plan_columns"]

Tree = dict[str, Any]
ROWS = "rows_in_windows"
FUNCTIONS = ("tumble", "hop", "cumulate", "session")
BOUNDS = ("window_start", "window_end", "window_time")
FORMS = {
    "tumble": "tumble(stream, INTERVAL '1 minute')",
    "hop": "hop(stream, INTERVAL '5 minutes', INTERVAL '1 minute')",
    "cumulate": "cumulate(stream, INTERVAL '1 hour', INTERVAL '5 minutes')",
    "session": "session(stream, INTERVAL '30 seconds', key)",
}
WALL_CLOCK = {
    "now", "current_timestamp", "current_date", "current_time", "today", "get_current_timestamp",
    "get_current_time", "localtime", "localtimestamp", "transaction_timestamp", "current_localtimestamp",
    "current_localtime",
}  # fmt: skip
BY_WINDOW = (
    "GROUP BY window_start, window_end, ... (or GROUP BY ALL with window_start in the SELECT)"
)


# -- parsing -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def _parser() -> tuple[duckdb.DuckDBPyConnection, threading.Lock, dict[str, str]]:
    """Return a connection that parses, its lock, and the kind of each function there is."""
    import duckdb

    connection = duckdb.connect(":memory:")
    found = connection.execute(
        "SELECT function_name, function_type, stability FROM duckdb_functions()"
    ).fetchall()
    kinds: dict[str, str] = {}
    for name, kind, stability in found:
        volatile = stability == "VOLATILE" or name in WALL_CLOCK
        kinds[name.lower()] = "volatile" if volatile else kind
    return connection, threading.Lock(), kinds


def _call(sql: str, argument: str) -> str:
    connection, lock, _ = _parser()
    with lock:
        return str(connection.execute(sql, [argument]).fetchall()[0][0])


def parsed(text: str) -> Tree:
    """Return the tree of one SELECT.

    Raises:
        QueryError: it does not parse, or is something else.
    """
    if not isinstance(text, str):
        raise QueryError(f"SQL is text; got {type(text).__name__}")
    found = json.loads(_call("SELECT json_serialize_sql(?)", text))
    if found["error"]:
        hint = None
        if "Only SELECT" in found["error_message"]:
            hint = "a query is one SELECT"
        raise QueryError(f"this SQL does not parse: {found['error_message']}", hint=hint, sql=text)
    if len(found["statements"]) != 1:
        raise QueryError(f"one statement at a time; these are {len(found['statements'])}", sql=text)
    statement: Tree = found["statements"][0]
    return statement


def written(statement: Tree) -> str:
    """Return the text of a tree."""
    whole = {"error": False, "statements": [statement]}
    return _call("SELECT json_deserialize_sql(?)", json.dumps(whole))


def _parts(tree: Any) -> Iterator[Tree]:
    """Yield every node of a tree, itself first."""
    if isinstance(tree, dict):
        yield tree
        for part in tree.values():
            yield from _parts(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _parts(part)


def _own_parts(tree: Any) -> Iterator[Tree]:
    """Yield the nodes of one level: subqueries and CTEs are left out."""
    if isinstance(tree, dict):
        if tree.get("type") in ("SELECT_NODE", "SET_OPERATION_NODE"):
            return
        yield tree
        for part in tree.values():
            yield from _own_parts(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from _own_parts(part)


def _kind(name: str) -> str:
    return _parser()[2].get(name.lower(), "unknown")


def _no_volatile(tree: Any, text: str) -> None:
    for part in _parts(tree):
        name = part.get("function_name")
        if part.get("class") == "COLUMN_REF" and len(part["column_names"]) == 1:
            plain = part["column_names"][0].lower()
            name = plain if plain in WALL_CLOCK else None
        if name and (name.lower() in WALL_CLOCK or _kind(name) == "volatile"):
            raise QueryError(
                f"{name}() gives something else each time, and a query must give the same rows for ever",
                hint="event time and _append_time are columns; compute with them",
                sql=text,
            )


def _without_where(node: Tree) -> dict[str, Any]:
    return {**node, "where_clause": None}


# -- row by row ----------------------------------------------------------------------------------


def _refuse_row(why: str, hint: str, text: str) -> QueryError:
    return QueryError(f"this SELECT is not row-wise: {why}", hint=hint, sql=text)


def check_rowwise(node: Tree, text: str, table: str | None = "this") -> str:
    """See that a SELECT looks at one row at a time; return the table it is from.

    Raises:
        QueryError: with what needs other rows, and what to write instead.
    """
    window = "aggregate over a window: .window(...).agg(...), or lab.query with FROM tumble(...)"
    if node["type"] != "SELECT_NODE":
        raise _refuse_row("it joins results of several", "write one SELECT", text)
    if node["cte_map"]["map"]:
        raise _refuse_row(
            "it has WITH", "write one SELECT after the other: .sql(...).sql(...)", text
        )
    for modifier in node["modifiers"]:
        kind = modifier["type"].split("_")[0]
        words = {"ORDER": "ORDER BY", "LIMIT": "LIMIT", "DISTINCT": "DISTINCT"}
        raise _refuse_row(
            f"it has {words.get(kind, kind)}", "a stream has no end: collect it first", text
        )
    for clause, spelt in (("group_expressions", "GROUP BY"), ("having", "HAVING"), ("qualify", "QUALIFY"),
                          ("sample", "SAMPLE")):  # fmt: skip
        if node[clause]:
            raise _refuse_row(f"it has {spelt}", window, text)
    if node["aggregate_handling"] != "STANDARD_HANDLING":
        raise _refuse_row("it has GROUP BY", window, text)
    source = node["from_table"]
    if source["type"] != "BASE_TABLE":
        raise _refuse_row(
            f"it reads from a {source['type'].replace('_', ' ').lower()}",
            "FROM this; joins are .join_asof(...) and .join(...)", text,
        )  # fmt: skip
    if table is not None and source["table_name"].lower() != table:
        raise _refuse_row(f"there is no table {source['table_name']!r} here", f"FROM {table}", text)
    for part in _parts([node["select_list"], node["where_clause"]]):
        name = part.get("function_name", "")
        if part.get("class") == "WINDOW":
            raise _refuse_row(
                f"{name}() OVER needs other rows", "sl.sliding(...), or a window", text
            )
        if part.get("class") == "SUBQUERY":
            raise _refuse_row("it has a subquery", "join the table: .join(frame, on=...)", text)
        if (
            part.get("class") == "FUNCTION"
            and _kind(name) == "aggregate"
            and not part.get("is_operator")
        ):
            raise _refuse_row(f"{name}() is an aggregate", window, text)
        if name.lower() == "unnest":
            raise _refuse_row(
                "unnest() makes several rows of one", ".map_batches keeps lists", text
            )
    _no_volatile(node, text)
    return str(source["table_name"])


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
                    made = pl.from_arrow(self.connection.sql(sql).to_arrow_table())
                    assert isinstance(made, pl.DataFrame)
                    found.append(made)
            except duckdb.Error as error:
                raise explained(error, list(frame.columns), self.text) from error
            finally:
                self.connection.unregister(self.table)
        return [_typed(made) for made in found]


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


class RowSql:
    """A row-wise SELECT over ``this``."""

    def __init__(self, text: str, schema: pl.Schema) -> None:
        import polars as pl

        statement = parsed(text)
        node = statement["node"]
        check_rowwise(node, text)
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
    calls = [part for part in _parts(statement) if part.get("type") == "TABLE_FUNCTION"]
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
    _no_volatile(statement, text)
    call = calls[0]
    stream, source, window, delay, keys = _taken_apart(call, text)
    call_tree = dict(call)
    call.clear()
    call.update(_base_table(ROWS, call_tree["alias"] or (stream if stream.isidentifier() else "")))
    _check_levels(statement["node"], text, {ROWS})
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
            f"{name} takes a stream and {lengths} lengths of time", hint=form, sql=text
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
    base, lock, _ = _parser()
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
            f"{name} is in months, which have no fixed length", hint="write days", sql=text
        )
    if micros is None or micros < 0:
        raise QueryError(f"{name} is no length of time", hint=form, sql=text)
    return int(micros)


def _check_levels(node: Tree, text: str, tables: set[str]) -> None:
    """See that every level which joins rows goes by the window, and none reads another table.

    Raises:
        QueryError: saying which does not.
    """
    if node["type"] != "SELECT_NODE":
        raise QueryError("results of several SELECTs cannot be joined in a query", sql=text)
    tables = set(tables)
    for entry in node["cte_map"]["map"]:
        _check_levels(_body(entry["value"]), text, tables)
        tables.add(entry["key"].lower())
    for modifier in node["modifiers"]:
        if modifier["type"] == "ORDER_MODIFIER":
            raise QueryError("results have an order of their own: window_end, window_start, keys",
                             hint="leave ORDER BY out, or sort what collect() gives", sql=text)  # fmt: skip
        if modifier["type"] != "DISTINCT_MODIFIER":
            raise QueryError("LIMIT has no meaning in a query that goes on",
                             hint=".top(n, order) keeps the first of each window", sql=text)  # fmt: skip
    own = list(_own_parts([node["select_list"], node["having"], node["qualify"]]))
    overs = [part for part in own if part.get("class") == "WINDOW"]
    for over in overs:
        if not _names_window(over["partitions"]):
            raise QueryError(f"{over['function_name']}() OVER sees rows of other windows",
                             hint="PARTITION BY window_start, window_end, ...", sql=text)  # fmt: skip
    whole = any(
        p.get("class") == "FUNCTION" and _kind(p["function_name"]) == "aggregate" for p in own
    )
    grouped = bool(node["group_expressions"]) or node["aggregate_handling"] != "STANDARD_HANDLING"
    distinct = any(m["type"] == "DISTINCT_MODIFIER" for m in node["modifiers"])
    if (whole or grouped or distinct) and not _by_window(
        node, distinct=distinct and not (whole or grouped)
    ):
        raise QueryError(
            "this SELECT joins rows of several windows, which never all close",
            hint=BY_WINDOW,
            sql=text,
        )
    _check_from(node["from_table"], text, tables)
    for part in _parts([node["select_list"], node["where_clause"], node["having"]]):
        if part.get("class") == "SUBQUERY":
            raise QueryError("a subquery in an expression sees rows of other windows", sql=text)


def _body(value: Tree) -> Tree:
    node = value.get("query_node") or value["query"]["node"]
    return dict(node)


def _check_from(table: Tree, text: str, tables: set[str]) -> None:
    kind = table["type"]
    if kind == "BASE_TABLE":
        if table["table_name"].lower() not in tables:
            raise QueryError(f"a query reads one stream; {table['table_name']!r} stands beside the window",
                             hint=".join_asof(...) and .join(...) join streams", sql=text)  # fmt: skip
    elif kind == "SUBQUERY":
        _check_levels(table["subquery"]["node"], text, tables)
    elif kind == "JOIN":
        raise QueryError("joins in SQL are not answered in a query",
                         hint=".join_asof(...) and .join(...) join streams", sql=text)  # fmt: skip
    else:
        raise QueryError(f"FROM {kind.replace('_', ' ').lower()} has no place in a query", sql=text)


def _names_window(parts: Any) -> bool:
    names = {
        part["column_names"][-1].lower()
        for part in _parts(parts)
        if part.get("class") == "COLUMN_REF"
    }
    return bool(names & set(BOUNDS))


def _by_window(node: Tree, *, distinct: bool) -> bool:
    selected = node["select_list"]
    plain = [part for part in selected if not _aggregates(part)]
    if distinct or node["aggregate_handling"] == "FORCE_AGGREGATES":
        return _names_window(plain) or any(part["class"] == "STAR" for part in plain)
    if _names_window(node["group_expressions"]):
        return True
    aliases = {part["alias"].lower(): part for part in selected if part["alias"]}
    for part in node["group_expressions"]:
        if part["class"] == "CONSTANT" and part["literal"]["text"].isdigit():
            at = int(part["literal"]["text"]) - 1
            if at < len(selected) and _names_window(selected[at]):
                return True
        name = part["column_names"][-1].lower() if part["class"] == "COLUMN_REF" else ""
        if name in aliases and _names_window(aliases[name]):
            return True
    return False


def _aggregates(tree: Tree) -> bool:
    return any(
        p.get("class") == "FUNCTION" and _kind(p["function_name"]) == "aggregate"
        for p in _own_parts(tree)
    )


class SqlPlan:
    """A windowed statement over rows of known columns."""

    def __init__(self, sql: WindowSql, schema: pl.Schema) -> None:
        import polars as pl

        self.sql = sql
        self._evaluator = _Evaluator(ROWS, sql.text)
        bounds = {name: pl.Datetime("us", "UTC") for name in BOUNDS}
        empty = pl.DataFrame(schema={**schema, **bounds})
        self.output = self.run(empty).schema
        self.window_columns = self._found(parsed(sql.inner)["node"])
        if not self.window_columns:
            raise QueryError(
                "the result does not say of which window a row is",
                hint="SELECT window_start, window_end, ...", sql=sql.text,
            )  # fmt: skip
        self.keys = tuple(name for name in self._plain if name not in self.window_columns.values())

    def _found(self, node: Tree) -> dict[str, str]:
        """Return which output columns hold the bounds of the window, and note the plain ones."""
        names = list(self.output)
        found = {bound: bound for bound in BOUNDS if bound in names}
        plain = list(names)
        if not any(part["class"] == "STAR" for part in node["select_list"]):
            for part, name in zip(node["select_list"], names, strict=True):
                if part["class"] == "COLUMN_REF" and part["column_names"][-1].lower() in BOUNDS:
                    found[part["column_names"][-1].lower()] = name
            plain = [
                n
                for part, n in zip(node["select_list"], names, strict=True)
                if not _aggregates(part)
            ]
        self._plain = plain
        return found

    def run(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the result over the rows of some windows, in no order."""
        return self._evaluator.run(frame, self.sql.inner)[0]


def plan_columns(sql: WindowSql, schema: pl.Schema) -> SqlPlan:
    """Return a statement checked against the columns of its rows.

    Raises:
        QueryError: a column that is not there, or no column of the window in the result.
    """
    return SqlPlan(sql, schema)
