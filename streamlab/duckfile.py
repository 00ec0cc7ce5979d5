"""A DuckDB database that is written to for a moment: opened, taken turns at, left alone again.

DuckDB lets one process at a time have a file open for writing, and then no other may read it. So a
path is opened for one call and closed after it. A file that is found as this process left it needs
no second look at what is in it: DuckDB counts its checkpoints in the first blocks of the file.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamlab.duck import quoted
from streamlab.errors import QueryError
from streamlab.log.format import checksum

if TYPE_CHECKING:
    import duckdb

__all__ = ["Database", "folded"]

HEADERS = 3 * 4096
"""DuckDB's file begins with a header of its own and two that take turns, one at each checkpoint."""

IN_MEMORY = ("", ":memory:")

_TURNS: dict[str, threading.RLock] = {}
_LEFT: dict[str, tuple[Any, frozenset[str]]] = {}  # path: how it was left, which tables were sound
_GUARD = threading.Lock()


def folded(name: str) -> str:
    """Return what DuckDB compares names by: it folds the case of ASCII letters only."""
    return "".join(char.lower() if char.isascii() else char for char in name)


class Database:
    """A path, or a connection of the user's own, as a place to write to."""

    def __init__(self, target: Any) -> None:
        self.path: str | None = None
        self.connection: Any = None
        self.file = ""  # where the rows end up; empty: in memory
        if isinstance(target, str | os.PathLike):
            if os.fspath(target) in IN_MEMORY:
                raise QueryError(
                    "a database in memory would be gone when the call returns",
                    hint="give a path, or a connection: to_duckdb(duckdb.connect(), ...)",
                )
            self.path = self.file = os.path.realpath(Path(target).expanduser())
        elif hasattr(target, "execute") and hasattr(target, "register"):
            self.connection = target
            self.file = _file_of(target)
        else:
            raise TypeError(
                f"to_duckdb takes a path or a duckdb connection, not {type(target).__name__}"
            )

    def __repr__(self) -> str:
        return self.path or "an open connection"

    @property
    def identity(self) -> str:
        """What tells it from other databases, in this process."""
        return self.file or f"connection {id(self.connection)}"

    @contextlib.contextmanager
    def opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection, closed again at the end; other threads wait for their turn.

        Raises:
            QueryError: it cannot be opened.
        """
        with self._turn():
            connection = self._connect() if self.path else self._beside()
            try:
                yield connection
            finally:
                connection.close()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        with _GUARD:
            turn = _TURNS.setdefault(self.file, threading.RLock())
        with turn:
            yield

    def _connect(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        try:
            return duckdb.connect(str(self.path))
        except duckdb.Error as error:
            text = str(error).splitlines()[0]
            hint = None
            if "lock" in text or "different configuration" in text:
                hint = "it is open elsewhere: close it there, or pass that connection"
            raise QueryError(
                f"{self.path} cannot be opened by DuckDB: {text}", hint=hint
            ) from error

    def _beside(self) -> duckdb.DuckDBPyConnection:
        """Connect to the same database: the user's transaction is not ours to end."""
        [(catalog, schema)] = self.connection.execute(
            "SELECT current_database(), current_schema()"
        ).fetchall()
        connection: duckdb.DuckDBPyConnection = self.connection.cursor()
        try:
            connection.execute(f"USE {quoted(catalog)}.{quoted(schema)}")
        except BaseException:
            connection.close()
            raise
        return connection

    # -- whether anybody else was here -------------------------------------------------------

    def untouched(self, table: str) -> bool:
        """Whether the open file is as this process left it, and the table was sound then."""
        left, tables = _LEFT.get(self.path or "", (None, frozenset()))
        return left is not None and folded(table) in tables and self._state() == left

    def leave(self, connection: duckdb.DuckDBPyConnection, table: str, *, alone: bool) -> None:
        """Write everything into the file, and remember how it is left, with a table that is sound.

        ``alone`` says that the file was found untouched, so other tables are still sound too.
        """
        if self.path is None:
            return
        import duckdb

        _, sound = _LEFT.pop(self.path, (None, frozenset[str]()))
        try:
            connection.execute("CHECKPOINT")
        except duckdb.Error:  # somebody in this process has a transaction open
            return
        if (state := self._state()) is not None:
            _LEFT[self.path] = state, (sound if alone else frozenset()) | {folded(table)}

    def _state(self) -> tuple[int, ...] | None:
        """Return what changes whenever the file does; None while changes are still beside it."""
        assert self.path is not None
        with contextlib.suppress(FileNotFoundError):
            if Path(f"{self.path}.wal").stat().st_size:
                return None
        with Path(self.path).open("rb") as file:
            about = os.fstat(file.fileno())
            return about.st_ino, about.st_size, about.st_mtime_ns, checksum(file.read(HEADERS))


def _file_of(connection: Any) -> str:
    """Return the file of a connection's database, empty if it is in memory."""
    [(path,)] = connection.execute(
        "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchall()
    return os.path.realpath(path) if path else ""
