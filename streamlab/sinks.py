"""Where a job's results go: a stream, a database, a function, or memory.

A sink remembers the job's place together with the results it was given: in the same frame, in the
same transaction. For a function, whose effects nobody can take back, the place to come is pinned
beforehand, so that what is given again after a crash is the same.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from streamlab.clock import NEVER
from streamlab.engines.batch import BEFORE, HIDDEN, TIME
from streamlab.engines.local import visible
from streamlab.errors import HistoryChanged, QueryError
from streamlab.ingest import rows_of
from streamlab.log import disk
from streamlab.log.format import dump_json, load_json
from streamlab.schema import SYSTEM_FIELDS, normalise
from streamlab.stream import Stream

if TYPE_CHECKING:
    import duckdb
    import polars as pl

__all__ = [
    "DuckDB",
    "DuckDBSink",
    "FunctionSink",
    "MemorySink",
    "Sink",
    "StreamSink",
    "duckdb_sink",
]

State = dict[str, Any]
KEPT_ROWS = 100_000


class Sink(Protocol):
    """What a job delivers to."""

    def open(self, empty: pl.DataFrame) -> State | None:
        """Get ready for rows like these; return the state that was recorded last."""
        ...

    def pin(self, before: State, state: State) -> None:
        """Note how far the next delivery reaches, before it is made."""
        ...

    def deliver(self, frame: pl.DataFrame, state: State, mark: int) -> None:
        """Take results and the state after them, both or neither."""
        ...

    def record(self, state: State, mark: int) -> None:
        """Take a state after which there were no results."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


def plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Return results as a user sees them in a stream or table: no hidden, no system columns."""
    import polars as pl

    hidden = {*HIDDEN, *SYSTEM_FIELDS}
    # A step of Polars would wait for the one that computes the next results meanwhile.
    return pl.DataFrame([frame.get_column(n) for n in frame.columns if n not in hidden])


def timed(frame: pl.DataFrame, time: str | None) -> pl.DataFrame:
    """Return results with their event time, which an SELECT may have left out."""
    import polars as pl

    if time != "window_time" or time in frame.columns:
        return frame
    return frame.with_columns(pl.col(TIME).cast(pl.Datetime("us", "UTC")).alias(time))


class StreamSink:
    """A derived stream: results, position and stream time are one append."""

    def __init__(self, stream: Stream, time: str | None, digest: str) -> None:
        self.stream, self.digest = stream, digest
        self.time = time
        self.log = stream._scan.log  # noqa: SLF001
        self.kept = False

    def open(self, empty: pl.DataFrame) -> State | None:
        """Return the state in the last frame that has one.

        Raises:
            HistoryChanged: it is that of another query.
        """
        self.log.writer.keep()
        self.kept = True
        note = self.log.writer.last_note()
        state = json.loads(note) if note else None
        if state is not None and state["digest"] != self.digest:
            raise HistoryChanged(
                f'stream "{self.stream.name}" holds the results of another query',
                hint="give another name, or run(..., restart=True)",
            )
        return state

    def pin(self, before: State, state: State) -> None:
        """Nothing to do: the append is the pin."""

    def deliver(self, frame: pl.DataFrame, state: State, mark: int) -> None:
        """Append results with the state."""
        note = json.dumps(state).encode()
        table = plain(timed(frame, self.time)).to_arrow()
        info = self.stream._info  # noqa: SLF001
        rows = rows_of(self.log, info, table)
        if info.time is not None:
            rows = rows._replace(runs=self._runs(frame, mark))
        limit = self.log.writer.policy.segment_bytes
        time = None if mark == NEVER else mark
        if table.nbytes > limit:
            self.log.writer.append_many(iter([rows]), note=note, stream_time=time)
        else:
            self.log.writer.append(rows, note=note, stream_time=time)

    def _runs(self, frame: pl.DataFrame, mark: int) -> np.ndarray[Any, Any] | None:
        """Return where a row's stream time is later than the rows before it tell: some were dropped.

        Joins give rows in another order than their streams have them. None may move stream time
        past what a row that comes after it has met, here or in a later frame.
        """
        from streamlab.log.format import RELATIVE_RUN

        times, before = frame[TIME].to_numpy(), frame[BEFORE].to_numpy()
        before = np.minimum(np.minimum.accumulate(before[::-1])[::-1], mark)
        if not (times < before).any():
            return None
        now = self.log.reader.moment().stream_time
        so_far = np.maximum.accumulate(np.concatenate([[now], times[:-1]]))
        places = np.flatnonzero((before > so_far) & (times < before))
        if not len(places):
            return None
        runs = np.zeros(len(places), dtype=RELATIVE_RUN)
        runs["base"], runs["before"] = places, np.maximum.accumulate(before[places])
        return runs

    def record(self, state: State, mark: int) -> None:
        """Write a frame without rows."""
        self.log.writer.note(json.dumps(state).encode(), None if mark == NEVER else mark)

    def close(self) -> None:
        """Let go of the writer's lock."""
        if self.kept:
            self.kept = False
            self.log.writer.let_go()


class FunctionSink:
    """A function of a frame; it may take ``epoch=``, the number of the delivery, to be idempotent."""

    def __init__(self, function: Callable[..., Any], path: Path) -> None:
        self.function = function
        self.path = path
        try:
            self.takes_epoch = "epoch" in inspect.signature(function).parameters
        except (TypeError, ValueError):
            self.takes_epoch = False

    def open(self, empty: pl.DataFrame) -> State | None:
        """Return the last state, which may be pinned and not delivered."""
        try:
            return load_json(disk.read(self.path), self.path)
        except FileNotFoundError:
            return None

    def _write(self, state: State) -> None:
        disk.replace_file(self.path, dump_json(state), durable=False)

    def pin(self, before: State, state: State) -> None:
        """Note the end of the epoch to come."""
        self._write({**before, "pinned": [state["positions"], state["stream_times"]]})

    def deliver(self, frame: pl.DataFrame, state: State, mark: int) -> None:
        """Call the function, then record."""
        more = {"epoch": state["epoch"]} if self.takes_epoch else {}
        self.function(visible(frame), **more)
        self.record(state, mark)

    def record(self, state: State, mark: int) -> None:
        """Record the state."""
        self._write({**state, "pinned": None})

    def close(self) -> None:
        """Nothing to let go of."""


class MemorySink:
    """The last results, held by the job."""

    def __init__(self) -> None:
        self.frames: list[pl.DataFrame] = []
        self.empty: pl.DataFrame | None = None

    def open(self, empty: pl.DataFrame) -> State | None:
        """Begin anew."""
        self.empty = visible(empty)
        return None

    def pin(self, before: State, state: State) -> None:
        """Nothing to note."""

    def deliver(self, frame: pl.DataFrame, state: State, mark: int) -> None:
        """Hold results, and let go of the oldest."""
        self.frames.append(visible(frame))
        while len(self.frames) > 1 and sum(f.height for f in self.frames[1:]) >= KEPT_ROWS:
            del self.frames[0]

    def record(self, state: State, mark: int) -> None:
        """Nothing to note."""

    def close(self) -> None:
        """Nothing to let go of."""


class DuckDB:
    """A DuckDB file and table to deliver to; made by ``sl.duckdb(path, table=...)``."""

    def __init__(self, path: Any, table: str) -> None:
        self.path = path if hasattr(path, "execute") else str(path)
        self.table = table

    def __repr__(self) -> str:
        return f"<table {self.table!r} in DuckDB {self.path}>"


def duckdb_sink(path: Any, table: str) -> DuckDB:
    """Return a table of a DuckDB file (or open connection) that a query's results go to.

    Results and the query's position are one transaction: each result is there once, whatever is
    killed when.
    """
    if not isinstance(table, str) or not table:
        raise QueryError(f"table is the name of a table; got {table!r}")
    held = path in ("", ":memory:") if isinstance(path, str) else False
    if held or not (isinstance(path, str | os.PathLike) or hasattr(path, "execute")):
        raise QueryError(
            f"results go to a DuckDB file or an open connection; got {path!r}",
            hint='sl.duckdb("results.duckdb", table="minutes"), or a connection to see them in memory',
        )
    return DuckDB(path, table)


POSITIONS = "_streamlab_jobs"


def quoted(name: str) -> str:
    """Return a name as an SQL identifier."""
    from streamlab.duck import quoted as as_duckdb_does  # DuckDB takes a while to import

    return as_duckdb_does(name)


class DuckDBSink:
    """A table of a DuckDB database; results and position are one transaction."""

    def __init__(self, target: DuckDB, job: str, digest: str) -> None:
        self.target, self.job, self.digest = target, job, digest
        self.connection: duckdb.DuckDBPyConnection | None = None

    def open(self, empty: pl.DataFrame) -> State | None:
        """Connect, make the tables, and return the state in the database."""
        import duckdb

        try:
            self.connection = self._connected()
            known = self._known(self.connection)
            if not known:
                self._create(plain(empty).to_arrow())
        except duckdb.Error as error:
            raise QueryError(f"{self.target}: {error}") from error
        if known and known[0][0] != self.digest:
            raise HistoryChanged(
                f"{self.target} holds the results of another query",
                hint="give another table, or run(..., restart=True)",
            )
        return (json.loads(known[0][1]) or None) if known else None

    def check(self) -> None:
        """See that the database can be opened, and that the table is this job's or yet to be made.

        Raises:
            QueryError: it cannot, or is not.
        """
        import duckdb

        try:
            self.connection = self._connected()
            known = self._known(self.connection)
            if not known and self.target.table.casefold() in self._tables(self.connection):
                raise QueryError(
                    f'{self.target} already exists, and is not the result of job "{self.job}"',
                    hint="give another table: sl.duckdb(path, table=...)",
                )
        except duckdb.Error as error:
            raise QueryError(f"{self.target}: {error}") from error
        finally:
            self.close()

    def _known(self, connection: duckdb.DuckDBPyConnection) -> list[Any]:
        """Return the digest and state that the database has of this job, if any."""
        found = f"SELECT digest, state FROM {POSITIONS} WHERE job = ?"
        return connection.execute(found, [self._key]).fetchall()

    @staticmethod
    def _tables(connection: duckdb.DuckDBPyConnection) -> set[str]:
        """Return the names of tables and views, as DuckDB compares them."""
        return {name.casefold() for (name,) in connection.execute("SHOW TABLES").fetchall()}

    def _connected(self) -> duckdb.DuckDBPyConnection:
        import duckdb

        path = self.target.path
        made = path.cursor() if not isinstance(path, str) else duckdb.connect(path)
        made.execute("SET TimeZone = 'UTC'")
        made.execute(
            f"CREATE TABLE IF NOT EXISTS {POSITIONS} (job VARCHAR PRIMARY KEY, digest VARCHAR, state VARCHAR)"
        )
        return made

    @property
    def _key(self) -> str:
        return f"{self.job} -> {self.target.table}"

    def _create(self, empty: pa.Table) -> None:
        with self._transaction(empty) as connection:
            connection.execute(
                f"CREATE TABLE {quoted(self.target.table)} AS SELECT * FROM _streamlab_rows LIMIT 0"
            )
            self._save({})

    def forget(self, generation: int) -> None:
        """Put the table beside and drop the position, both or neither, for a run from the beginning.

        Tables that this job has not made stay as they are.
        """
        import duckdb

        try:
            connection = self.connection = self._connected()
            connection.execute("BEGIN")  # closed before the end, it is rolled back
            made = connection.execute(
                f"DELETE FROM {POSITIONS} WHERE job = ? RETURNING job", [self._key]
            ).fetchall()
            if made:
                beside = quoted(self._beside(connection, generation))
                connection.execute(
                    f"ALTER TABLE IF EXISTS {quoted(self.target.table)} RENAME TO {beside}"
                )
            connection.execute("COMMIT")
        except duckdb.Error as error:
            raise QueryError(f"{self.target}: {error}") from error
        finally:
            self.close()

    def _beside(self, connection: duckdb.DuckDBPyConnection, generation: int) -> str:
        """Return a name that is free for the results of a generation."""
        there = self._tables(connection)
        while (name := f"{self.target.table}.generation-{generation}").casefold() in there:
            generation += 1
        return name

    def pin(self, before: State, state: State) -> None:
        """Nothing to do: the transaction is the pin."""

    def deliver(self, frame: pl.DataFrame, state: State, mark: int) -> None:
        """Insert results and the state, in one transaction.

        Raises:
            QueryError: DuckDB refuses them.
        """
        import duckdb

        assert self.connection is not None
        table = plain(frame).to_arrow()
        names = ", ".join(quoted(name) for name in table.schema.names)
        try:
            with self._transaction(table) as connection:
                connection.execute(
                    f"INSERT INTO {quoted(self.target.table)} ({names}) SELECT {names} FROM _streamlab_rows"
                )
                self._save(state)
        except duckdb.Error as error:
            raise QueryError(f"{self.target}: {error}") from error

    @contextlib.contextmanager
    def _transaction(self, rows: pa.Table) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give a connection that sees rows as a table; what is done is done as a whole."""
        assert self.connection is not None
        self.connection.register("_streamlab_rows", rows)
        self.connection.execute("BEGIN")
        try:
            yield self.connection
            self.connection.execute("COMMIT")
        except BaseException:
            self.connection.execute("ROLLBACK")
            raise
        finally:
            self.connection.unregister("_streamlab_rows")

    def _save(self, state: State) -> None:
        assert self.connection is not None
        self.connection.execute(
            f"INSERT INTO {POSITIONS} VALUES (?, ?, ?) ON CONFLICT (job) DO UPDATE SET state = excluded.state",
            [self._key, self.digest, json.dumps(state)],
        )

    def record(self, state: State, mark: int) -> None:
        """Save the state."""
        import duckdb

        try:
            self._save(state)
        except duckdb.Error as error:
            raise QueryError(f"{self.target}: {error}") from error

    def close(self) -> None:
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None


def derived_schema(empty: pl.DataFrame, time: str | None) -> pa.Schema:
    """Return the schema of the stream that results like these go to."""
    schema = plain(timed(empty, time)).to_arrow().schema
    short = {pa.large_string(): pa.string(), pa.large_binary(): pa.binary()}
    fields = [field.with_type(short.get(field.type, field.type)) for field in schema]
    return normalise(pa.schema(fields))
