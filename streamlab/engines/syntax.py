"""SQL text as a tree: parsed by DuckDB, and checked for what a stream can answer.

A row-wise statement may see one row at a time. A windowed one may join rows where all of them belong
to windows that close together, so that the windows can be answered one after the other. Tumbling and
hopping windows that begin together also end together; cumulative ones and sessions do not.
"""

from __future__ import annotations

import functools
import json
import threading
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

from streamlab.errors import QueryError
from streamlab.schema import SYSTEM_FIELDS

if TYPE_CHECKING:
    import duckdb

__all__ = ["BOUNDS", "Levels", "Tree", "aggregates", "check_rowwise", "no_volatile", "parsed", "parser", "parts",
           "renamed", "written"]  # fmt: skip

Tree = dict[str, Any]
BOUNDS = ("window_start", "window_end", "window_time")
WALL_CLOCK = {
    "now", "current_timestamp", "current_date", "current_time", "today", "get_current_timestamp",
    "get_current_time", "localtime", "localtimestamp", "transaction_timestamp", "current_localtimestamp",
    "current_localtime",
}  # fmt: skip
# -- parsing -------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=1)
def parser() -> tuple[duckdb.DuckDBPyConnection, threading.Lock, dict[str, str]]:
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
    connection, lock, _ = parser()
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


def parts(tree: Any) -> Iterator[Tree]:
    """Yield every node of a tree, itself first."""
    if isinstance(tree, dict):
        yield tree
        for part in tree.values():
            yield from parts(part)
    elif isinstance(tree, list):
        for part in tree:
            yield from parts(part)


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


def kind_of(name: str) -> str:
    """Return what kind of function it is to DuckDB."""
    return parser()[2].get(name.lower(), "unknown")


def no_volatile(tree: Any, text: str) -> None:
    """See that nothing looks at the clock on the wall or at chance.

    Raises:
        QueryError: something does.
    """
    for part in parts(tree):
        name = part.get("function_name")
        if part.get("class") == "COLUMN_REF" and len(part["column_names"]) == 1:
            plain = part["column_names"][0].lower()
            name = plain if plain in WALL_CLOCK else None
        if name and (name.lower() in WALL_CLOCK or kind_of(name) == "volatile"):
            raise QueryError(
                f"{name}() gives something else each time, and a query must give the same rows for ever",
                hint="event time and _append_time are columns; compute with them",
                sql=text,
            )


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
        if node[clause] or (clause == "sample" and node["from_table"].get("sample")):
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
    for part in parts([node["select_list"], node["where_clause"]]):
        name = part.get("function_name", "")
        if part.get("class") == "WINDOW":
            raise _refuse_row(
                f"{name}() OVER needs other rows", "sl.sliding(...), or a window", text
            )
        if part.get("class") == "SUBQUERY":
            raise _refuse_row("it has a subquery", "join the table: .join(frame, on=...)", text)
        if (
            part.get("class") == "FUNCTION"
            and kind_of(name) == "aggregate"
            and not part.get("is_operator")
        ):
            raise _refuse_row(f"{name}() is an aggregate", window, text)
        if name.lower() == "unnest":
            raise _refuse_row(
                "unnest() makes several rows of one", ".map_batches keeps lists", text
            )
    for name in renamed(node["select_list"]):
        if name.lower() in SYSTEM_FIELDS:
            raise _refuse_row(f"{name} is the name of a system column", "choose another name", text)
    no_volatile(node, text)
    return str(source["table_name"])


def renamed(selected: list[Tree]) -> Iterator[str]:
    """Yield the names that a SELECT gives to something else than the column of that name."""
    for part in selected:
        if part["class"] == "STAR":
            yield from (entry["key"] for entry in part["replace_list"])
            yield from (entry["value"] for entry in part["rename_list"])
        elif part["alias"] and part["alias"].lower() != _column(part):
            yield part["alias"]


# -- window by window ------------------------------------------------------------------------------


class Levels:
    """The SELECTs of a windowed statement, one inside the other.

    ``bounds`` are the columns of which one alone tells windows apart that close at different times.
    """

    def __init__(self, text: str, kind: str) -> None:
        self.text = text
        self.bounds = set(BOUNDS if kind in ("tumbling", "hopping") else BOUNDS[1:])

    def check(self, node: Tree, tables: Collection[str]) -> None:
        """See that what is joined belongs to windows that close together, and no other table is read.

        Raises:
            QueryError: saying which part does not.
        """
        if node["type"] != "SELECT_NODE":
            raise self._refused("results of several SELECTs cannot be joined in a query")
        tables = set(tables)
        for entry in node["cte_map"]["map"]:
            self.check(_body(entry["value"]), tables)
            tables.add(entry["key"].lower())
        self._check_modifiers(node)
        self._check_names(node["select_list"])
        own = list(_own_parts([node["select_list"], node["having"], node["qualify"]]))
        for over in own:
            if over.get("class") == "WINDOW" and not self._told(over["partitions"]):
                raise self._refused(f"{over['function_name']}() OVER sees rows of other windows",
                                    f"PARTITION BY {self._wanted}, ...")  # fmt: skip
        if not self._by_window(node, any(map(_is_aggregate, own))):
            raise self._refused(
                "this SELECT joins rows of several windows, which never all close",
                f"GROUP BY {self._wanted}, ... (or GROUP BY ALL with {self._wanted} in the SELECT)",
            )
        self._check_from(node["from_table"], tables)
        for part in parts([node["select_list"], node["where_clause"], node["having"]]):
            if part.get("class") == "SUBQUERY":
                raise self._refused("a subquery in an expression sees rows of other windows")

    def _refused(self, why: str, hint: str | None = None) -> QueryError:
        return QueryError(why, hint=hint, sql=self.text)

    @property
    def _wanted(self) -> str:
        return "window_start, window_end" if len(self.bounds) == len(BOUNDS) else "window_end"

    def _check_modifiers(self, node: Tree) -> None:
        if node["sample"] or node["from_table"].get("sample"):
            raise self._refused("a SAMPLE gives something else each time")
        for modifier in node["modifiers"]:
            if modifier["type"] == "ORDER_MODIFIER":
                raise self._refused(
                    "results have an order of their own: window_end, window_start, keys",
                    "leave ORDER BY out, or sort what collect() gives",
                )
            if modifier["type"] != "DISTINCT_MODIFIER":
                raise self._refused("LIMIT has no meaning in a query that goes on",
                                    ".top(n, order) keeps the first of each window")  # fmt: skip

    def _check_names(self, selected: list[Tree]) -> None:
        """See that what is named like a bound of the window is that bound."""
        for part in selected:
            name = part["alias"].lower()
            if name in BOUNDS and name != _column(part):
                raise self._refused(
                    f"{name} is a column of the window, and this gives its name to something else",
                    "choose another name: ... AS hour",
                )

    def _check_from(self, table: Tree, tables: Collection[str]) -> None:
        kind = table["type"]
        if kind == "BASE_TABLE":
            if table["table_name"].lower() not in tables:
                raise self._refused(
                    f"a query reads one stream; {table['table_name']!r} stands beside the window",
                    ".join_asof(...) and .join(...) join streams",
                )
        elif kind == "SUBQUERY":
            self.check(table["subquery"]["node"], tables)
        elif kind == "JOIN":
            raise self._refused("joins in SQL are not answered in a query",
                                ".join_asof(...) and .join(...) join streams")  # fmt: skip
        else:
            raise self._refused(f"FROM {kind.replace('_', ' ').lower()} has no place in a query")

    def _told(self, columns: list[Tree]) -> bool:
        """Whether one of these is a column that tells windows apart."""
        return any(_column(part) in self.bounds for part in columns)

    def _by_window(self, node: Tree, whole: bool) -> bool:
        """Whether rows are joined only where their windows close together."""
        selected = node["select_list"]
        plain = [part for part in selected if not aggregates(part)]
        everything = any(part["class"] == "STAR" for part in plain)
        distinct = [m for m in node["modifiers"] if m["type"] == "DISTINCT_MODIFIER"]
        for modifier in distinct:
            targets = modifier["distinct_on_targets"]
            if not self._told(targets or plain) and not (everything and not targets):
                return False
        if node["aggregate_handling"] != "STANDARD_HANDLING":
            return self._told(plain) or everything
        if not node["group_expressions"]:
            return not whole
        groups = [self._meant(part, selected) for part in node["group_expressions"]]
        return all(self._told([groups[at] for at in chosen]) for chosen in node["group_sets"])

    def _meant(self, part: Tree, selected: list[Tree]) -> Tree:
        """Return what a GROUP BY means that names a column by its place or alias."""
        if part["class"] == "CONSTANT" and part["literal"]["text"].isdigit():
            at = int(part["literal"]["text"]) - 1
            return selected[at] if at < len(selected) else part
        aliases = {other["alias"].lower(): other for other in selected if other["alias"]}
        name = _column(part)
        return part if name in BOUNDS else aliases.get(name or "", part)


def _column(part: Tree) -> str | None:
    """Return the name of a plain column, None for anything else."""
    return part["column_names"][-1].lower() if part["class"] == "COLUMN_REF" else None


def _body(value: Tree) -> Tree:
    return dict(value.get("query_node") or value["query"]["node"])


def _is_aggregate(part: Tree) -> bool:
    return part.get("class") == "FUNCTION" and kind_of(part["function_name"]) == "aggregate"


def aggregates(tree: Tree) -> bool:
    """Whether an expression joins rows."""
    return any(map(_is_aggregate, _own_parts(tree)))
