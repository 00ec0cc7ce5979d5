"""History as a table of a DuckDB database: each row of a stream once, whatever was killed when.

Beside the table, in ``_streamlab_positions``, lies its `Place`: which stream and which stretch of it,
the offset to go on from, and what the table held then. Rows and place change in one transaction.

Invariants: before rows are added the table is what its place says, by count, by columns and by a
checksum of all values, or it is refused; the stream still holds the rows that the place rests on;
rows are durable in the stream before they are in the table; the table has all columns of the
stream's newest schema, and rows older than a column are null there.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from streamlab.duck import quoted
from streamlab.duckfile import Busy, Database, folded
from streamlab.ducktypes import check_exact, is_narrower
from streamlab.errors import HistoryChanged, OffsetOutOfRange, QueryError
from streamlab.log.format import checksum
from streamlab.progress import progress_bar
from streamlab.scan import Scan, Snapshot

if TYPE_CHECKING:
    import duckdb

__all__ = ["Copied", "check_table_name", "copy_rows", "identity_of"]

POSITIONS = "_streamlab_positions"
OWN_NAMES = "_streamlab"
ROWS = "_streamlab_rows"

CHUNK_ROWS = 8_000_000
"""A long copy commits so many rows at a time, so that a killed one goes on and not from the start."""

Told = Callable[[int], Any]


class Copied(NamedTuple):
    """What a copy did: how many rows are new, how many there are, the offset it will go on from."""

    added: int
    rows: int
    position: int


@dataclass(frozen=True)
class Place:
    """How far a table has come, and what it held then."""

    stream: str  # the stream's id, and which stretch of it
    next_offset: int
    rows: int = 0
    values: int = 0  # the sum of the hashes of all rows
    columns: tuple[tuple[str, str], ...] = ()
    appended: int | None = None  # the append time of the row before the next offset
    version: str = ""  # of DuckDB, whose hashes may differ from one version to another

    @property
    def seal(self) -> str:
        """A checksum of it all."""
        return f"{checksum(repr(self).encode()):016x}"

    def details(self) -> str:
        """Return what has no column of its own, as JSON."""
        return json.dumps(
            {
                "values": str(self.values), "columns": self.columns, "appended": self.appended,
                "version": self.version, "seal": self.seal,
            }
        )  # fmt: skip


def check_table_name(table: Any) -> str:
    """Return the name of a table.

    Raises:
        QueryError: it is none, or begins as our own tables do.
    """
    if not isinstance(table, str) or not table or "\0" in table:
        raise QueryError(f"table is the name of a table; got {table!r}")
    if folded(table).startswith(OWN_NAMES):
        raise QueryError(f'tables named "{OWN_NAMES}..." are streamlab\'s own; got "{table}"')
    return table


def copy_rows(scan: Scan, database: Database, table: str, progress: bool | None) -> Copied:
    """Copy what is new of a scan into a table, in one transaction for each `CHUNK_ROWS` rows.

    Raises:
        HistoryChanged: the table is of another stream, another stretch, or was changed meanwhile.
        OffsetOutOfRange: rows that are not in the table yet have been removed from the stream.
        SchemaMismatch: a value that DuckDB cannot hold.
        Busy: somebody else has the file, or changes the table at this moment.
        QueryError: DuckDB refuses, or cannot open the file.
    """
    import duckdb

    try:
        with database.opened() as connection:
            snapshot = scan.fix()  # not before: whoever had the file then may have copied more
            _make_durable(snapshot)
            sound = database.sound()
            copy = _Copy(connection, snapshot, table, identity_of(scan, snapshot))
            copied = copy.run(progress, trusted=folded(table) in sound)
            database.leave(connection, sound | {folded(table)})
            return copied
    except duckdb.TransactionException as error:
        raise Busy(f'somebody else changes table "{table}" at this moment: {error}') from error
    except duckdb.Error as error:
        raise QueryError(
            f'cannot copy into table "{table}": {error}', hint=_hint(scan, error)
        ) from error


def _make_durable(snapshot: Snapshot) -> None:
    if snapshot.log.writer.policy.sync != "os":
        snapshot.log.make_durable(snapshot.stop)


def _hint(scan: Scan, error: Exception) -> str | None:
    if "duplicate key" not in str(error) or "map" not in str(error):
        return None
    maps = [f.name for f in scan.info().schema if "map<" in str(f.type)]
    return f"DuckDB's MAP has a key once; look at {', '.join(maps)}"


def identity_of(scan: Scan, snapshot: Snapshot) -> str:
    """Say which rows a table is to hold: the stream, and the stretch of it."""
    parts = [snapshot.info.id]
    if scan.asked:
        parts.append(f"from {scan.asked}")
    if scan.since is not None or scan.until is not None:
        parts.append(f"event time [{scan.since}, {scan.until})")
    return " ".join(parts)


class _Copy:
    """One copy into one table, over an open connection."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, snapshot: Snapshot, table: str, identity: str
    ) -> None:
        self.connection = connection
        self.snapshot = snapshot
        self.table = table
        self.identity = identity
        self.version = str(self._one("SELECT version()"))

    def _one(self, sql: str, params: Any = None) -> Any:
        """Return the one value that a statement gives; a result left open would block the next."""
        return self.connection.execute(sql, params).fetchall()[0][0]

    # -- the transactions --------------------------------------------------------------------

    def run(self, progress: bool | None, *, trusted: bool) -> Copied:
        """Add all rows of the snapshot that are not there yet."""
        stop = self.snapshot.stop
        with self._transaction():
            place = first = self._begun(trusted=trusted)
        what, missing = f"{self.snapshot.info.name} -> {self.table}", stop - place.next_offset
        with progress_bar(missing, what, "rows", progress) as bar:
            while place.next_offset < stop:
                with self._transaction():
                    found = self._place()
                    if found != place:
                        raise self._changed("somebody changed its record while it was copied into")
                    place = self._added(place, bar.update)
                    self._save(place)
        return Copied(place.rows - first.rows, place.rows, place.next_offset)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        """All that is done inside is done, or nothing of it."""
        import duckdb

        self.connection.execute("BEGIN")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(duckdb.Error):  # the first error is the one to tell
                self.connection.execute("ROLLBACK")
            raise

    def _begun(self, *, trusted: bool) -> Place:
        """Make the table, or see that it is sound and let it follow the stream's schema."""
        place = self._place()
        if place is None:
            made = self._created()
        else:
            self._check(place, trusted=trusted)
            made = self._evolved(place)
        if made != place:
            self._save(made)
        return made

    def _added(self, place: Place, told: Told) -> Place:
        """Add the next rows to the table, and return the place after them."""
        start = max(place.next_offset, self.snapshot.start)
        stop = min(start + CHUNK_ROWS, self.snapshot.stop)
        self._insert(replace(self.snapshot, start=start, stop=stop), told)
        rows, values = self._contents(place.columns, f"WHERE _offset >= {start}")
        return replace(
            place, next_offset=stop, rows=place.rows + rows, values=place.values + values,
            appended=self.snapshot.log.reader.append_time_below(stop),
        )  # fmt: skip

    def _insert(self, part: Snapshot, told: Told) -> None:
        import duckdb

        rows = _Rows(part, told)
        self.connection.register(ROWS, rows.reader())
        names = ", ".join(map(quoted, part.schema.names))
        try:
            self.connection.execute(
                f"INSERT INTO {quoted(self.table)} ({names}) SELECT {names} FROM {ROWS}"
            )
        except duckdb.Error:
            if rows.error is not None:
                raise rows.error from None
            raise
        self.connection.unregister(ROWS)

    # -- the place ---------------------------------------------------------------------------

    def _place(self) -> Place | None:
        """Return the recorded place of the table, None if it has none.

        Raises:
            HistoryChanged: the record is not what was written.
        """
        self.connection.execute(
            f"CREATE TABLE IF NOT EXISTS {POSITIONS} (table_name VARCHAR PRIMARY KEY, stream VARCHAR, "
            "stream_name VARCHAR, next_offset BIGINT, rows BIGINT, details VARCHAR)"
        )
        self.connection.execute(  # the first version of the table had no details
            f"ALTER TABLE {POSITIONS} ADD COLUMN IF NOT EXISTS details VARCHAR"
        )
        found = self.connection.execute(
            f"SELECT stream, next_offset, rows, details FROM {POSITIONS} WHERE table_name = ?",
            [folded(self.table)],
        ).fetchall()
        if not found:
            return None
        stream, next_offset, rows, details = found[0]
        if details is None:
            return Place(stream, next_offset, rows, columns=self._described(quoted(self.table)))
        try:
            more = json.loads(details)
            columns = tuple((name, kind) for name, kind in more["columns"])
            place = Place(stream, next_offset, rows, int(more["values"]), columns, more["appended"], more["version"])  # fmt: skip
        except (KeyError, TypeError, ValueError):
            place = None
        if place is None or place.seal != more["seal"]:
            raise self._changed("the record of how far it has come is not what was written")
        return place

    def _save(self, place: Place) -> None:
        self.connection.execute(
            f"INSERT INTO {POSITIONS} VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (table_name) DO UPDATE SET "
            "stream_name = excluded.stream_name, next_offset = excluded.next_offset, "
            "rows = excluded.rows, details = excluded.details",
            [
                folded(self.table), place.stream, self.snapshot.info.name, place.next_offset,
                place.rows, place.details(),
            ],
        )  # fmt: skip

    def _created(self) -> Place:
        """Make the table.

        Raises:
            HistoryChanged: there is one of that name that no stream was copied into.
        """
        if self._exists():
            raise HistoryChanged(
                f'there is a table "{self.table}" already that no stream was copied into',
                hint='give another name: to_duckdb(path, "name")',
            )
        columns = self._wanted()
        described = ", ".join(f"{quoted(name)} {kind}" for name, kind in columns)
        self.connection.execute(f"CREATE TABLE {quoted(self.table)} ({described})")
        return Place(self.identity, self.snapshot.start, columns=columns, version=self.version)

    def _exists(self) -> bool:
        names = self.connection.execute(
            "SELECT table_name FROM information_schema.tables WHERE "
            "table_catalog = current_database() AND table_schema = current_schema()"
        ).fetchall()
        return folded(self.table) in {folded(name) for (name,) in names}

    # -- the check ---------------------------------------------------------------------------

    def _check(self, place: Place, *, trusted: bool) -> None:
        """See that table, place and stream belong together, and that nobody changed one of them.

        Raises:
            HistoryChanged: they do not, or somebody did.
            OffsetOutOfRange: rows that are to be added have been removed.
        """
        snapshot = self.snapshot
        if place.stream != self.identity:
            raise HistoryChanged(
                f'table "{self.table}" holds another stream or another stretch of it',
                hint='give another name: to_duckdb(path, "name")',
            )
        if not trusted:
            self._check_table(place)
        if place.next_offset > snapshot.stop:
            raise HistoryChanged(
                f'table "{self.table}" holds rows up to offset {place.next_offset}, and '
                f'"{snapshot.info.name}" as it is read here ends at {snapshot.stop}',
                hint="an earlier view goes into a table of its own",
            )
        earliest = snapshot.moment.start
        if place.next_offset < earliest:
            raise OffsetOutOfRange(
                f'rows [{place.next_offset}, {earliest}) of stream "{snapshot.info.name}" were removed '
                f'before they were copied into "{self.table}"',
                asked=place.next_offset, available=range(snapshot.start, snapshot.stop),
            )  # fmt: skip
        appended = snapshot.log.reader.append_time_below(place.next_offset)
        if None not in (appended, place.appended) and appended != place.appended:
            raise HistoryChanged(
                f'stream "{snapshot.info.name}" holds other rows below offset {place.next_offset} than '
                f'were copied into "{self.table}": they were lost, and others came in their place',
                hint='copy it anew: to_duckdb(path, "name")',
            )

    def _check_table(self, place: Place) -> None:
        if not self._exists():
            raise self._changed(f"it was dropped, and {place.rows} rows were copied")
        have = self._described(quoted(self.table))
        if have != place.columns:
            odd = sorted({name for name, _ in {*have} ^ {*place.columns}}) or ["their order"]
            raise self._changed(f"its columns are others than were made: {', '.join(odd)}")
        rows, values = self._contents(place.columns)
        if rows != place.rows:
            raise self._changed(f"it has {rows} rows and {place.rows} were copied")
        if place.version == self.version and values != place.values:
            raise self._changed("it holds other values than were copied")

    def _changed(self, what: str) -> HistoryChanged:
        name = folded(self.table).replace("'", "''")
        return HistoryChanged(
            f'table "{self.table}" was changed: {what}',
            hint=f"to begin anew: DROP TABLE IF EXISTS {quoted(self.table)}; "
            f"DELETE FROM {POSITIONS} WHERE table_name = '{name}'",
        )

    def _contents(self, columns: tuple[tuple[str, str], ...], where: str = "") -> tuple[int, int]:
        """Return how many rows there are, and the sum of their hashes."""
        names = ", ".join(quoted(name) for name, _ in columns)
        [(rows, values)] = self.connection.execute(
            f"SELECT count(*), coalesce(sum(hash({names})), 0) FROM {quoted(self.table)} {where}"
        ).fetchall()
        return rows, values

    # -- columns -----------------------------------------------------------------------------

    def _described(self, table: str) -> tuple[tuple[str, str], ...]:
        return tuple(
            self.connection.execute(
                f"SELECT column_name, column_type FROM (DESCRIBE {table})"
            ).fetchall()
        )

    def _wanted(self) -> tuple[tuple[str, str], ...]:
        """Return the columns of the stream, with DuckDB's types."""
        self.connection.register(ROWS, self.snapshot.schema.empty_table())
        wanted = self._described(ROWS)
        self.connection.unregister(ROWS)
        return wanted

    def _evolved(self, place: Place) -> Place:
        """Add and widen the columns that the stream's schema has added and widened since."""
        have, wanted = dict(place.columns), self._wanted()
        for name, kind in wanted:
            if name not in have:
                # A row from before the first deletion is not deleted; other columns begin as null.
                default = " DEFAULT false" if name == "_deleted" else ""
                self._alter(f"ADD COLUMN {quoted(name)} {kind}{default}")
            elif have[name] != kind:
                self._alter(f"ALTER COLUMN {quoted(name)} TYPE {kind}")
        if place.version == self.version and set(wanted) == set(place.columns):
            return place
        columns = self._described(quoted(self.table))
        _, values = self._contents(columns)
        return replace(place, columns=columns, values=values, version=self.version)

    def _alter(self, change: str) -> None:
        self.connection.execute(f"ALTER TABLE {quoted(self.table)} {change}")


class _Rows:
    """Rows on their way into DuckDB, which tells errors as text only: they are kept here."""

    def __init__(self, part: Snapshot, told: Told) -> None:
        self.part = part
        self.told = told
        self.error: BaseException | None = None
        self.narrower = any(is_narrower(field.type) for field in part.schema)

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self.part.schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self.part.batches():
                if self.narrower:
                    check_exact(batch)
                self.told(batch.num_rows)
                yield batch
        except BaseException as error:
            self.error = error
            raise
