"""DuckDB over streams: locked-down SQL, and history as a table that is kept current.

`query` runs one statement on a connection of its own, in which every stream the statement names is
a table; filters and columns are pushed into the segments. Nothing else can be reached from it: no
file, no network, no extension, no Python variable, no setting.

`export_rows` copies a stream into a table, rows and position in one transaction: however often it
is called or killed, each row is there once.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from streamlab.dataset import StreamDataset
from streamlab.errors import HistoryChanged, OffsetOutOfRange, QueryError, SchemaMismatch
from streamlab.progress import progress_bar
from streamlab.scan import Scan, Snapshot

if TYPE_CHECKING:
    import duckdb

__all__ = ["export_rows", "query", "quoted"]

LOCK_DOWN = (
    "SET autoinstall_known_extensions = false",
    "SET autoload_known_extensions = false",
    "SET allow_community_extensions = false",
    "SET python_enable_replacements = false",
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)
"""In this order: each closes a way that the next would leave open."""

POSITIONS = "_streamlab_positions"
CHUNK_ROWS = 4_000_000
"""A long export commits so many rows at a time, so that a killed one goes on and not from the start."""


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


# -- history into a table ----------------------------------------------------------------------


@contextlib.contextmanager
def _connected(target: Any) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection: the user's own, or one to a path, closed again at the end."""
    import duckdb

    if isinstance(target, str | os.PathLike):
        try:
            connection = duckdb.connect(str(Path(target)))
        except duckdb.Error as error:
            raise QueryError(f"{target} cannot be opened by DuckDB: {error}") from error
        try:
            yield connection
        finally:
            connection.close()
    elif hasattr(target, "execute") and hasattr(target, "register"):
        # A connection of its own to the same database: the user's transaction is not ours to end.
        catalog, schema = target.execute("SELECT current_database(), current_schema()").fetchall()[
            0
        ]
        connection = target.cursor()
        try:
            connection.execute(f"USE {quoted(catalog)}.{quoted(schema)}")
            yield connection
        finally:
            connection.close()
    else:
        raise TypeError(
            f"to_duckdb takes a path or a duckdb connection, not {type(target).__name__}"
        )


def export_rows(scan: Scan, target: Any, table: str, progress: bool | None) -> int:
    """Copy what is new of a scan into a table; return how many rows that was.

    Raises:
        HistoryChanged: the table is of another stream, another stretch, or was changed meanwhile.
        OffsetOutOfRange: rows that are not in the table yet have been removed from the stream.
        SchemaMismatch: the table's columns are not the stream's.
    """
    import duckdb

    snapshot = scan.fix()
    try:
        with _connected(target) as connection:
            return _export(connection, scan, snapshot, table, progress)
    except duckdb.Error as error:
        raise QueryError(f'cannot copy into table "{table}": {error}') from error


def _export(
    connection: duckdb.DuckDBPyConnection,
    scan: Scan,
    snapshot: Snapshot,
    table: str,
    progress: bool | None,
) -> int:
    identity = _identity(scan, snapshot)
    position = _prepare(connection, snapshot, table, identity)
    added = 0
    total = max(0, snapshot.stop - position)
    with progress_bar(total, f"{snapshot.info.name} -> {table}", "rows", progress) as bar:
        while position < snapshot.stop:
            stop = min(position + CHUNK_ROWS, snapshot.stop)
            part = scan.within(position, stop).fix()
            added += _insert(connection, part, table, identity, position, stop)
            bar.update(stop - position)
            position = stop
    return added


def _identity(scan: Scan, snapshot: Snapshot) -> str:
    """Say which rows a table is to hold: the stream, and the stretch of it."""
    parts = [snapshot.info.id]
    if scan.asked:
        parts.append(f"from {scan.asked}")
    if scan.since is not None or scan.until is not None:
        parts.append(f"event time [{scan.since}, {scan.until})")
    return " ".join(parts)


def _prepare(
    connection: duckdb.DuckDBPyConnection, snapshot: Snapshot, table: str, identity: str
) -> int:
    """Make the tables if need be, and return the offset to go on from."""
    connection.execute(
        f"CREATE TABLE IF NOT EXISTS {POSITIONS} (table_name VARCHAR PRIMARY KEY, stream VARCHAR, "
        "stream_name VARCHAR, next_offset BIGINT, rows BIGINT)"
    )
    positions = connection.execute(
        f"SELECT stream, next_offset, rows FROM {POSITIONS} WHERE table_name = ?",
        [table.casefold()],
    ).fetchall()
    known = positions[0] if positions else None
    exists = _number(
        connection,
        "SELECT count(*) FROM information_schema.tables WHERE lower(table_name) = ? AND "
        "table_catalog = current_database() AND table_schema = current_schema()",
        [table.casefold()],
    )
    if known is None:
        if exists:
            raise HistoryChanged(
                f'there is a table "{table}" already that no stream was copied into',
                hint='give another name: to_duckdb(path, "name")',
            )
        return snapshot.start
    if known[0] != identity:
        raise HistoryChanged(
            f'table "{table}" holds another stream or another stretch of it',
            hint='give another name: to_duckdb(path, "name")',
        )
    rows = _number(connection, f"SELECT count(*) FROM {quoted(table)}") if exists else 0
    if rows != known[2]:
        raise HistoryChanged(
            f'table "{table}" was changed: it has {rows} rows and {known[2]} were copied',
            hint=f"DROP TABLE {quoted(table)}; DELETE FROM {POSITIONS} WHERE table_name = '{table}' to begin anew",
        )
    if known[1] < snapshot.start:
        raise OffsetOutOfRange(
            f'rows [{known[1]}, {snapshot.start}) of stream "{snapshot.info.name}" were removed before '
            f'they were copied into "{table}"',
            asked=known[1], available=range(snapshot.start, snapshot.stop),
        )  # fmt: skip
    return int(known[1])


def _number(connection: duckdb.DuckDBPyConnection, sql: str, params: Any = None) -> int:
    """Return the one number that a statement gives; a result left open would block the next one."""
    return int(connection.execute(sql, params).fetchall()[0][0])


def _insert(
    connection: duckdb.DuckDBPyConnection,
    part: Snapshot,
    table: str,
    identity: str,
    start: int,
    stop: int,
) -> int:
    """Add one part and move the position, in one transaction."""
    view = "_streamlab_part"
    connection.register(view, StreamDataset(part))
    try:
        connection.execute("BEGIN")
        try:
            connection.execute(
                f"CREATE TABLE IF NOT EXISTS {quoted(table)} AS SELECT * FROM {view} LIMIT 0"
            )
            _evolve_table(connection, part.schema, table, view)
            names = ", ".join(quoted(name) for name in part.schema.names)
            added = _number(
                connection, f"INSERT INTO {quoted(table)} ({names}) SELECT {names} FROM {view}"
            )
            connection.execute(
                f"INSERT INTO {POSITIONS} VALUES (?, ?, ?, ?, ?) ON CONFLICT (table_name) DO UPDATE SET "
                f"next_offset = excluded.next_offset, rows = {POSITIONS}.rows + excluded.rows",
                [table.casefold(), identity, part.info.name, stop, added],
            )
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    finally:
        connection.unregister(view)
    assert start <= stop
    return added


def _evolve_table(
    connection: duckdb.DuckDBPyConnection, schema: pa.Schema, table: str, view: str
) -> None:
    """Follow the stream's schema: add columns, widen types."""
    described = f"SELECT column_name, column_type FROM (DESCRIBE {quoted(table)})"
    have = dict(connection.execute(described).fetchall())
    want = dict(
        connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {view})").fetchall()
    )
    for name in schema.names:
        if name not in have:
            connection.execute(
                f"ALTER TABLE {quoted(table)} ADD COLUMN {quoted(name)} {want[name]}"
            )
        elif have[name] != want[name]:
            connection.execute(
                f"ALTER TABLE {quoted(table)} ALTER COLUMN {quoted(name)} TYPE {want[name]}"
            )
    extra = set(have) - set(schema.names)
    if extra:
        name = min(extra)
        raise SchemaMismatch(
            f'table "{table}" has a column {name!r} that the stream has not', column=name
        )
