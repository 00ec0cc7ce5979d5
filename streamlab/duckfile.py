"""A DuckDB database that is written to for a moment: opened, taken turns at, left alone again.

DuckDB lets one process at a time have a file open for writing, and then no other may read it. So a
path is opened for one call and closed after it. A file that is found as this process left it needs
no second look at what is in it: DuckDB counts its checkpoints in the first blocks of the file.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamlab.duck import quoted
from streamlab.errors import QueryError
from streamlab.log import disk
from streamlab.log.format import checksum

if TYPE_CHECKING:
    import duckdb

__all__ = ["Busy", "Database", "folded"]

HEADERS = 3 * 4096
"""DuckDB's file begins with a header of its own and two that take turns, one at each checkpoint."""

IN_MEMORY = ("", ":memory:")

_TURNS: dict[str, threading.RLock] = {}
_LEFT: dict[str, tuple[Any, frozenset[str]]] = {}  # path: how it was left, which tables were sound
_GUARD = threading.Lock()


def folded(name: str) -> str:
    """Return what DuckDB compares names by: it folds the case of ASCII letters only."""
    return "".join(char.lower() if char.isascii() else char for char in name)


class Busy(QueryError):
    """Somebody else has the database, or changes the same rows at this moment: try again."""


class Database:
    """A path, or a connection of the user's own, as a place to write to."""

    def __init__(self, target: Any) -> None:
        self.path: str | None = None
        self.file = ""  # where the rows end up; empty: in memory
        self._own: Any = None  # a connection to the user's database that nobody else uses
        if isinstance(target, str | os.PathLike):
            if os.fspath(target) in IN_MEMORY:
                raise QueryError(
                    "a database in memory would be gone when the call returns",
                    hint="give a path, or a connection: to_duckdb(duckdb.connect(), ...)",
                )
            self.path = self.file = os.path.realpath(Path(target).expanduser())
        elif hasattr(target, "execute") and hasattr(target, "register"):
            self._connect_beside(target)
        else:
            raise TypeError(
                f"to_duckdb takes a path or a duckdb connection, not {type(target).__name__}"
            )

    def __repr__(self) -> str:
        return self.path or "an open connection"

    @property
    def identity(self) -> str:
        """What tells it from other databases, in this process."""
        return self.file or f"connection {id(self._given)}"

    @contextlib.contextmanager
    def opened(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection, closed again at the end; other threads wait for their turn.

        Raises:
            Busy: somebody else has it open.
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

        assert self.path is not None
        try:
            if not Path(self.path).exists():
                _create(Path(self.path))
            return duckdb.connect(self.path)
        except (duckdb.Error, OSError) as error:
            text = str(error).splitlines()[0]
            said = f"{self.path} cannot be opened by DuckDB: {text}"
            if "Could not set lock" in text or "different configuration" in text:
                hint = "it is open elsewhere: close it there, or pass that connection"
                raise Busy(said, hint=hint) from error
            raise QueryError(said) from error

    def _connect_beside(self, connection: Any) -> None:
        """Connect to the user's database once more: the user's transaction is not ours to end."""
        [(file, catalog, schema)] = connection.execute(
            "SELECT path, current_database(), current_schema() FROM duckdb_databases() "
            "WHERE database_name = current_database()"
        ).fetchall()
        self.file = os.path.realpath(file) if file else ""
        self._given, self._own = connection, connection.cursor()
        self._schema = f"{quoted(catalog)}.{quoted(schema)}"

    def _beside(self) -> duckdb.DuckDBPyConnection:
        connection: duckdb.DuckDBPyConnection = self._own.cursor()
        connection.execute(f"USE {self._schema}")
        return connection

    # -- whether anybody else was here -------------------------------------------------------

    def sound(self) -> frozenset[str]:
        """Return the tables that are as this process left them: none, if the open file is not."""
        if self.path is None:
            return frozenset()
        left, tables = _LEFT.get(self.path, (None, frozenset[str]()))
        return tables if left is not None and self._state() == left else frozenset()

    def leave(self, connection: duckdb.DuckDBPyConnection, sound: frozenset[str]) -> None:
        """Write everything into the file, and remember how it is left, with the tables that are sound."""
        if self.path is None:
            return
        import duckdb

        _LEFT.pop(self.path, None)
        try:
            connection.execute("CHECKPOINT")
        except duckdb.Error:  # somebody in this process has a transaction open
            return
        if (state := self._state()) is not None:
            _LEFT[self.path] = state, sound

    def _state(self) -> tuple[int, ...] | None:
        """Return what changes whenever the file does; None while changes are still beside it."""
        with contextlib.suppress(FileNotFoundError):
            if Path(f"{self.file}.wal").stat().st_size:
                return None
        with Path(self.file).open("rb") as file:
            about = os.fstat(file.fileno())
            return about.st_ino, about.st_size, about.st_mtime_ns, checksum(file.read(HEADERS))


def _create(path: Path) -> None:
    """Make an empty database under this name at once, as no killed process leaves half of it.

    DuckDB writes the first blocks of a new file one by one, and never opens again what lacks some.
    """
    import duckdb

    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.new")
    try:
        duckdb.connect(str(beside)).close()
        try:
            disk.link(beside, path)  # unlike a rename it never replaces
        except FileExistsError:  # somebody else was faster
            return
        except OSError:  # a file system without links
            disk.rename(beside, path)
        disk.sync_dir(path.parent)
    finally:
        beside.unlink(missing_ok=True)
