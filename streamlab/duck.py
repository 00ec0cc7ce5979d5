"""DuckDB over streams: SQL that is locked down.

`query` runs one statement on a connection of its own, in which every stream the statement names is
a table; filters and columns are pushed into the segments. Nothing else can be reached from it: no
file, no network, no extension, no Python variable, no setting.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from streamlab.dataset import StreamDataset
from streamlab.errors import QueryError

if TYPE_CHECKING:
    import duckdb

__all__ = ["query", "quoted"]

LOCK_DOWN = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
"""In this order: each closes a way that the next would leave open."""


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def query(
    sql: str,
    params: Any,
    streams: Callable[[], list[str]],
    dataset: Callable[[str], StreamDataset],
    frames: Mapping[str, Any],
    *,
    trusted: bool,
) -> duckdb.DuckDBPyRelation:
    """Return the result of one SELECT as a relation that can be read again and again.

    Raises:
        QueryError: the statement is not one SELECT, does not parse, or asks for what is locked.
    """
    import duckdb

    if not isinstance(sql, str):
        raise QueryError(f"a query is text; got {type(sql).__name__}")
    connection = duckdb.connect(":memory:")
    try:
        connection.execute("SET TimeZone = 'UTC'")
        _check_statement(connection, sql, trusted=trusted)
        names = streams()
        by_folded = {name.casefold(): name for name in names}  # as DuckDB compares names
        for table in _tables_of(connection, sql, names):
            name = by_folded.get(table.casefold())
            if name is not None and table not in frames:
                connection.register(table, dataset(name))
        for name, frame in frames.items():
            connection.register(name, _registrable(name, frame))
        if not trusted:
            for statement in LOCK_DOWN:
                connection.execute(statement)
        relation = connection.sql(sql, params=params)
    except duckdb.Error as error:
        raise _explained(error, sql, names if "names" in locals() else []) from error
    if relation is None:
        raise QueryError("the statement gives no rows", hint="lab.sql runs one SELECT")
    return relation


def _check_statement(connection: duckdb.DuckDBPyConnection, sql: str, *, trusted: bool) -> None:
    import duckdb

    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"one statement at a time; these are {len(statements)}")
    kind = statements[0].type
    if not trusted and kind not in (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN):
        raise QueryError(
            f"lab.sql runs SELECT; this is {str(kind).rsplit('.', 1)[-1]}",
            hint="sl.export(relation, path) writes files; trusted=True lifts every lock",
        )


def _tables_of(connection: duckdb.DuckDBPyConnection, sql: str, names: list[str]) -> list[str]:
    """Return the tables that a statement names; all streams where DuckDB cannot tell."""
    import duckdb

    try:
        return sorted(connection.get_table_names(sql))
    except duckdb.Error:  # SUMMARIZE, DESCRIBE, EXPLAIN, USING: whatever occurs in the text
        longest = sorted(names, key=len, reverse=True)
        spelt = re.compile("|".join(map(re.escape, longest)) or "(?!)", re.IGNORECASE)
        return sorted(set(spelt.findall(sql)))


def _registrable(name: str, frame: Any) -> Any:
    if hasattr(frame, "dataset") and hasattr(frame, "as_of"):
        return frame.dataset()
    if isinstance(frame, list | tuple | dict):
        from streamlab.schema import to_table

        return to_table(frame)
    if not (
        hasattr(frame, "__arrow_c_stream__")
        or hasattr(frame, "scanner")
        or hasattr(frame, "collect")
    ):
        raise QueryError(f"{name}= is a {type(frame).__name__}; give a frame, a table or a stream")
    return frame


def _explained(error: Exception, sql: str, names: list[str]) -> QueryError:
    text = str(error).strip()
    hint = None
    if "file system operations are disabled" in text or "disabled by configuration" in text:
        hint = (
            "lab.sql cannot reach files: pass a frame by name, lab.sql(sql, ref=df), write with "
            "sl.export(relation, path), or lift every lock with trusted=True"
        )
    elif "does not exist" in text and "Table with name" in text:
        missing = text.split("Table with name ", 1)[1].split(" ", 1)[0]
        text = f"there is no stream or frame {missing!r}"  # DuckDB would guess among its own tables
        near = difflib.get_close_matches(missing, names, n=3)
        spelt = [name if name.isidentifier() else quoted(name) for name in near]
        hint = f"did you mean {', '.join(spelt)}? " if near else ""
        hint += f"the streams are {', '.join(names) or 'none yet'}; other frames go by name: lab.sql(sql, ref=df)"
    elif "configuration has been locked" in text:
        hint = "settings are locked; trusted=True lifts every lock"
    elif any(char in text for char in '"') and "syntax error" in text:
        hint = 'names such as "offset", "order", "end" or with a dot need double quotes'
    return QueryError(text, hint=hint, sql=sql)
