"""A stream: an ordered, durable, replayable log of rows, as its users hold it.

A `Stream` is a handle; it holds no rows and no position, costs nothing to make, and may be shared
between threads. With a bound in offsets or time it is a *view*: it reads and queries like a stream,
never changes, and takes no rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, overload

import pyarrow as pa

from streamlab import ingest, views
from streamlab.catalog import Catalog, StreamInfo
from streamlab.clock import FOREVER, NEVER
from streamlab.consumer import Consumer
from streamlab.duration import (
    Duration,
    Instant,
    format_duration,
    format_instant,
    parse_duration,
    parse_instant,
)
from streamlab.errors import (
    InvalidTime,
    OffsetOutOfRange,
    QueryError,
    ReadOnly,
    SchemaMismatch,
    StreamNotFound,
)
from streamlab.follow import Follower
from streamlab.log import Compaction
from streamlab.plan import Source
from streamlab.query import Querying
from streamlab.scan import Scan, Snapshot, offset_of
from streamlab.schema import describe_type, evolve, normalise
from streamlab.settings import Settings, format_size
from streamlab.shown import Shown, notebook
from streamlab.steps import source_of
from streamlab.table import Table
from streamlab.writer import Heartbeat, Writer

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl

    from streamlab.dataset import StreamDataset
    from streamlab.job import Job
    from streamlab.verify import Report

__all__ = ["Stats", "Stream"]


class Stats(NamedTuple):
    """What `Stream.stats` says; times are microseconds since 1970 UTC, None if there is none."""

    rows: int
    bytes: int
    segments: int
    earliest_offset: int
    end_offset: int
    durable_offset: int
    stream_time: int | None
    append_time: int | None
    partitions: int
    compacted_upto: int = 0  # below it only the last row of each key is there


class Stream(Querying, Shown):
    """One stream of a lab, or a view of it; made by ``lab[name]`` and `Lab.create`."""

    def __init__(self, catalog: Catalog, scan: Scan, *, read_only: str | None = None) -> None:
        self._catalog = catalog
        self._scan = scan
        self._read_only = read_only

    @property
    def _jobs(self) -> Any:
        return self._catalog.jobs

    def _node(self) -> Source:
        return source_of(self._scan)

    # -- what it is --------------------------------------------------------------------------

    @property
    def _info(self) -> StreamInfo:
        info = self._scan.info()
        if info.id != self._scan.log.stream:
            raise StreamNotFound(
                f'stream "{info.name}" was dropped, and another one made under its name',
                hint=f'lab["{info.name}"] is the new one',
            )
        return info

    @property
    def name(self) -> str:
        """The stream's name."""
        return self._info.name

    @property
    def schema(self) -> pa.Schema:
        """The columns that an append brings; reading adds the system columns before them."""
        return self._info.schema

    @property
    def time(self) -> str | None:
        """The event-time column; None: event time is append time."""
        return self._info.time

    @property
    def key(self) -> str | tuple[str, ...] | None:
        """The key column, or several, or None."""
        key = self._info.key
        return key[0] if len(key) == 1 else key or None

    @property
    def partitions(self) -> int:
        """How many partitions keys are spread over."""
        return self._info.partitions

    @property
    def delay(self) -> str:
        """How far out of order events may come, the default for queries."""
        return format_duration(self._info.delay)

    @property
    def retention(self) -> str:
        """How long rows are kept."""
        return str(self._info.retention)

    @property
    def cleanup(self) -> str:
        """What happens to old rows: ``"delete"`` or ``"compact"``."""
        return self._info.cleanup

    @property
    def settings(self) -> Settings:
        """How the stream is kept."""
        return Settings(**self._info.settings)

    @property
    def earliest_offset(self) -> int:
        """The offset of the first row there is."""
        return self._scan.fix(pin=False).start

    @property
    def end_offset(self) -> int:
        """The offset after the last row, which the next one gets."""
        return self._scan.fix(pin=False).stop

    @property
    def durable_offset(self) -> int:
        """The offset below which every row survives a power cut."""
        snapshot = self._scan.fix(pin=False)
        return min(snapshot.moment.durable, snapshot.stop)

    def __len__(self) -> int:
        return self._scan.fix(pin=False).count()

    def __bool__(self) -> bool:
        return True  # a stream without rows is a stream

    def stats(self) -> Stats:
        """Return rows, bytes on disk, segments, offsets and times as they are now."""
        snapshot = self._scan.fix(pin=False)
        moment = snapshot.moment
        segments = moment.segments(snapshot.start, snapshot.stop)
        size = sum(s.bytes or _size_of(snapshot, s.file) for s in segments)
        stream_time, append_time = moment.stream_time, moment.append_time
        if snapshot.stop < moment.end:  # a view: its own times
            reader, column, stop = snapshot.log.reader, snapshot.info.time, snapshot.stop
            if snapshot.start < stop:
                stream_time, append_time = reader.times_at(moment, stop - 1, column)
            else:
                stream_time, append_time = reader.stream_time_before(moment, stop, column), 0
        return Stats(
            snapshot.count(), size, len(segments), snapshot.start, snapshot.stop,
            min(moment.durable, snapshot.stop),
            None if stream_time in (NEVER, FOREVER) else stream_time,
            append_time or None, snapshot.info.partitions, min(moment.compacted, snapshot.stop),
        )  # fmt: skip

    def density(self, parts: int = 48) -> tuple[int, int, list[int]]:
        """Return the first and last stream time (microseconds since 1970 UTC), and the rows between.

        About how many rows came in each of so many equal parts of that time; the list is empty where
        there are none, or all at one instant. It costs the same however long the history is.
        """
        return views.density(self._scan, parts)

    def __repr__(self) -> str:
        info, stats = self._info, self.stats()
        what = "View of stream" if self._read_only else "Stream"
        lines = [
            f"{what} {info.name!r}: {stats.rows:,} rows, {format_size(stats.bytes)}, "
            f"offsets [{stats.earliest_offset:,}, {stats.end_offset:,})"
        ]
        keyed = f", key {', '.join(info.key)}" if info.key else ""
        spread = f", {info.partitions} partitions" if info.partitions > 1 else ""
        until = format_instant(stats.stream_time)
        lines.append(f"  time {info.time or 'of append'}{keyed}{spread}, stream time {until}")
        if stats.compacted_upto > stats.earliest_offset:
            lines.append(f"  compacted up to offset {stats.compacted_upto:,}")
        width = max(len(field.name) for field in info.schema)
        lines += [f"  {f.name:<{width}}  {describe_type(f.type)}" for f in info.schema]
        return "\n".join(lines)

    # -- appending ---------------------------------------------------------------------------

    def _writable(self) -> StreamInfo:
        info = self._info  # a stream that was dropped says so
        if self._read_only:
            raise ReadOnly(
                f'stream "{info.name}" takes no rows here: {self._read_only}',
                hint="append to the stream itself: lab[name]",
            )
        if info.job is not None:
            raise ReadOnly(
                f'stream "{info.name}" holds the results of job "{info.job}" and takes no other rows',
                hint="append to a stream of your own",
            )
        return info

    def append(self, data: Any, *, timeout: float | None = 10.0) -> range:
        """Append rows and return the offsets they got.

        ``data`` is a Polars, pandas or pyarrow frame, a DuckDB relation, anything else with an Arrow
        stream, a dict of columns, a list of dicts, or one dict. All rows become visible together or
        not at all; they survive a power cut when this returns if ``sync="always"``. Columns go by
        name, all must be there, and are cast only where nothing is lost.

        Raises:
            SchemaMismatch: naming column, got and want; nothing is written then.
            FutureEvent: an event is further ahead than ``max_ahead``.
            StreamLocked: another process writes, for longer than ``timeout`` seconds.
            WriterPoisoned: a sync failed; close the lab and open it again.
        """
        info = self._writable()
        if isinstance(data, Stream):
            data = data._scan.fix().reader(list(info.schema.names))  # noqa: SLF001
        return ingest.append(self._scan.log, info, data, timeout)

    def writer(
        self,
        *,
        linger: Duration = "5ms",
        rows: int = 65_536,
        heartbeat: Duration | None = None,
        on_error: Literal["raise", "reject"] = "raise",
    ) -> Writer:
        """Return a writer for events one at a time; use it in a ``with`` block.

        An event waits ``linger`` for company, or until ``rows`` are there. ``heartbeat`` moves
        stream time on by the time passed whenever nobody appended for so long. A bad event raises at
        the next send or flush; with ``on_error="reject"`` it goes into ``<stream>.rejected``.

        Raises:
            StreamLocked: another process writes.
            InvalidDuration: ``linger`` or ``heartbeat`` is none.
        """
        self._writable()
        if on_error not in ("raise", "reject"):
            raise ValueError(f'on_error is "raise" or "reject"; got {on_error!r}')
        if rows < 1:
            raise ValueError(f"rows is at least 1; got {rows!r}")
        lingers = parse_duration(linger, what="linger") / 1e6
        beats = None if heartbeat is None else parse_duration(heartbeat, what="heartbeat") / 1e6
        log = self._scan.log
        log.writer.keep()
        writer = Writer(
            self.append,
            lambda: self.schema,
            linger=lingers,
            rows=rows,
            heartbeat=None
            if beats is None
            else Heartbeat(beats, log.reader.head.serial, self._beat),
            reject=self._reject if on_error == "reject" else None,
            on_close=log.writer.let_go,
        )
        log.feeders.add(writer)
        return writer

    def _beat(self, silent: float) -> None:
        """Move stream time on by the time that has passed, never to the wall clock itself."""
        moment = self._scan.log.reader.moment()
        if NEVER < moment.stream_time < FOREVER:
            self._scan.log.writer.heartbeat(moment.stream_time + int(silent * 1e6))

    def _reject(self, events: list[tuple[dict[str, Any], str]]) -> None:
        """Put bad events, as text and with the reason, into the stream beside this one."""
        from streamlab.lab import rejected_stream

        target = rejected_stream(self._catalog, self)
        target.append({"event": [repr(e) for e, _ in events], "reason": [r for _, r in events]})

    def advance(self, to: Instant | Literal["end"], *, timeout: float | None = 10.0) -> None:
        """Move stream time forward to an instant without a row: a heartbeat, kept in the log.

        One that is not ahead changes nothing. ``"end"`` closes every window there is and will be:
        the stream takes no more rows.

        Raises:
            InvalidTime: further ahead of now than ``max_ahead``.
        """
        self._writable()
        writer = self._scan.log.writer
        if isinstance(to, str) and to == "end":
            writer.heartbeat(FOREVER, timeout)
            return
        micros = parse_instant(to, what='to (an instant or "end")')
        ahead = self._info.settings["max_ahead"]
        if ahead is not None and micros > writer.clock.now() + parse_duration(ahead):
            raise InvalidTime(
                f"advance to {format_instant(micros)} is more than {ahead} after now",
                hint='advance("end") closes all windows; settings max_ahead=None lifts the limit',
            )
        writer.heartbeat(micros, timeout)

    def flush(self, *, timeout: float | None = 10.0) -> None:
        """Make every row durable: `durable_offset` is `end_offset` then.

        Raises:
            WriterPoisoned: the disk refused.
        """
        self._writable()
        self._scan.log.writer.flush(timeout)

    def delete(self, key: Any, *, timeout: float | None = 10.0) -> int:
        """Append the row that says that a key is deleted; return its offset.

        ``key`` is the key's value; for several key columns a tuple in their order, or a dict. From
        the first deletion on rows carry ``_deleted``.

        Raises:
            SchemaMismatch: the stream has no key, or the value does not fit it.
        """
        self._writable()
        info = self._info
        if not info.key:
            raise SchemaMismatch(
                f'stream "{info.name}" has no key to delete by', hint="create it with key="
            )
        values = ingest.key_values(info.key, key)
        log = self._scan.log
        with log.writer.held(timeout):
            if not self._info.has_deletions:
                self._catalog.save(self._info.with_schema(self.schema, deletions=True))
            return ingest.append_deletion(log, self._info, values, timeout).start

    def evolve(self, schema: pa.Schema, *, timeout: float | None = 10.0) -> None:
        """Add nullable columns or widen types; older rows read as null, or in the wider type.

        Raises:
            SchemaMismatch: a column is dropped, narrowed or changed, or a new one is not nullable.
        """
        self._writable()
        with self._scan.log.writer.held(timeout):
            info = self._info
            new = evolve(info.schema, normalise(schema), info.key)
            if not new.equals(info.schema):
                self._catalog.save(info.with_schema(new, deletions=info.has_deletions))

    # -- reading -----------------------------------------------------------------------------

    def scan(self) -> pl.LazyFrame:
        """Return a Polars LazyFrame: each collect sees one moment, the next one a new moment.

        Filters, columns and slices are pushed into the segments. Rows come in the order of offsets.
        """
        from streamlab.lazy import lazy_frame

        return lazy_frame(self._scan)

    def dataset(self) -> StreamDataset:
        """Return a pyarrow dataset of the stream as it is now, for DuckDB, Polars and pyarrow.

        >>> duckdb.sql("FROM ds WHERE _offset > 100")  # doctest: +SKIP
        """
        from streamlab.dataset import StreamDataset

        return StreamDataset(self._scan.fix())

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._scan.fix().reader().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> Any:
        return self._scan.fix(pin=False).schema.__arrow_c_schema__()

    def to_arrow(self) -> pa.Table:
        """Return all rows as a pyarrow table, mapped from disk where nothing is computed."""
        return self._scan.fix().reader().read_all()

    def to_polars(self) -> pl.DataFrame:
        """Return all rows as a Polars frame."""
        return self.scan().collect()

    def to_pandas(self) -> pd.DataFrame:
        """Return all rows as a pandas frame."""
        return cast("pd.DataFrame", self.to_arrow().to_pandas())

    def head(self, n: int = 5) -> pl.DataFrame:
        """Return the first ``n`` rows."""
        return self._few(n, last=False)

    def tail(self, n: int = 5) -> pl.DataFrame:
        """Return the last ``n`` rows."""
        return self._few(n, last=True)

    def _few(self, n: int, *, last: bool) -> pl.DataFrame:
        import polars as pl

        if n < 0:
            raise ValueError(f"n is a number of rows; got {n!r}")
        snapshot = self._scan.fix()
        if snapshot.event_filter is not None:
            lazy = self.scan()
            return (lazy.tail(n) if last else lazy.head(n)).collect()
        part = snapshot.end(n, last=last)
        frame = cast("pl.DataFrame", pl.from_arrow(part.reader().read_all()))
        return frame.tail(n) if last else frame.head(n)

    def follow(
        self, start: Any = "end", *, timeout: float | None = None, rows: int | None = None
    ) -> Follower:
        """Return an iterator, sync and async, over record batches: what there is, then what comes.

        ``start`` is ``"earliest"``, ``"end"``, an offset or an instant. It ends after ``timeout``
        seconds without a new row, or after ``rows`` rows; with neither it goes on for ever. Each
        batch carries the system columns. Nothing is committed anywhere.

        Raises:
            OffsetOutOfRange: the start, or rows that were not read yet, have been removed.
        """
        return Follower(self._scan, start, timeout, rows)

    def consumer(self, group: str, *, start: Any = "earliest") -> Consumer:
        """Return a member of a consumer group: `Consumer.poll` reads on, `Consumer.commit` keeps.

        Groups are independent; the live members of one share the stream's partitions, also those in
        other processes. ``start`` says where a group begins that is new: ``"earliest"``, ``"end"``, an
        offset or an instant; one that is known goes on from where it has committed.

        Raises:
            ReadOnly: of a view, or of a lab that was opened read-only.
            InvalidName: the group could not be a folder everywhere.
            OffsetOutOfRange: a start that is not there.
            HistoryChanged: the stream is not the one that the group has read.
        """
        if self._read_only:
            raise ReadOnly(
                f'stream "{self.name}" has no consumers here: {self._read_only}',
                hint="follow() reads without committing; lab[name].consumer(group) is of the stream itself",
            )
        return Consumer(self._scan, group, start)

    def table(self, key: str | Sequence[str] | None = None) -> Table:
        """Return the stream as a table: the latest row of each key, deletions applied.

        A stream of changes (``op``, ``before``, ``after``) is the table that they make. ``key``
        names its key where that is not the stream's own.

        Raises:
            QueryError: there is no key, or it is no column of the table.
        """
        return Table(self._scan, key)

    @overload
    def to_duckdb(
        self, path_or_connection: Any, table: str | None = None, *, follow: Literal[False] = False,
        name: str | None = None, progress: bool | None = None,
    ) -> int: ...  # fmt: skip

    @overload
    def to_duckdb(
        self, path_or_connection: Any, table: str | None = None, *, follow: Literal[True],
        name: str | None = None, progress: bool | None = None,
    ) -> Job: ...  # fmt: skip

    def to_duckdb(
        self, path_or_connection: Any, table: str | None = None, *, follow: bool = False,
        name: str | None = None, progress: bool | None = None,
    ) -> int | Job:  # fmt: skip
        """Copy the rows into a DuckDB table, and return how many were new.

        Rows and position are one transaction: call it again, after a crash or after more rows, and
        each row is there once. A path is opened and closed again; the table is named after the
        stream unless ``table`` says otherwise. With ``follow=True`` a job goes on doing so until it
        is stopped, under ``name`` in ``lab.jobs``; it leaves the file alone between deliveries.

        Raises:
            HistoryChanged: the table holds something else, or was changed by somebody.
            OffsetOutOfRange: rows that were not copied yet have been removed.
            SchemaMismatch: DuckDB has no room for a value; docs/duckdb.md has the table of types.
            QueryError: DuckDB cannot open the file, or refuses; or the job's name is another one's.
        """
        from streamlab.duckfile import Database
        from streamlab.ducktable import check_table_name, copy_rows

        called = check_table_name(self.name if table is None else table)
        database = Database(path_or_connection)
        if not follow:
            return copy_rows(self._scan, database, called, progress).added
        from streamlab.mirror import mirror

        return mirror(self._scan, self._jobs, database, called, name)

    # -- looking -----------------------------------------------------------------------------

    def live(self, rows: int = 20, **chart: Any) -> Any:
        """Show the last ``rows`` rows as they come; returns at once, the widget to be shown.

        It pauses, filters by a condition in SQL (``filter="price > 100"``), and goes back to any
        offset. With ``x=``, ``y=``, ``color=`` or ``kind=`` it is a chart of the rows instead: see
        `Query.live`.

        Raises:
            MissingExtra: widgets are not installed; says the pip line.
            QueryError: the condition, or a column of the chart, is none.
        """
        condition = chart.pop("filter", "")
        if not chart or chart.get("kind") == "table":
            if beyond := set(chart) - {"kind"}:
                raise QueryError(
                    f"a table takes rows= and filter=; got {', '.join(sorted(beyond))}"
                )
            return self._jobs.stop_with(notebook("table").live_table(self, rows, condition))
        if condition:
            return self.sql(f"SELECT * FROM this WHERE ({condition}\n)").live(**chart)
        return self._then(self._node()).live(**chart, stream=self)

    # -- views -------------------------------------------------------------------------------

    def _view(self, view: views.View) -> Stream:
        scan, why = view
        return Stream(self._catalog, scan, read_only=why)

    def as_of(self, when: int | Instant, *, timeout: float | None = 10.0) -> Stream:
        """Return the stream as it was: at an append time (inclusive), or below an offset.

        The view never changes, and its rows are kept from retention while it lives.

        Raises:
            InvalidTime: an instant that is not yet past.
            OffsetOutOfRange: an offset beyond the end, or of rows that have been removed.
        """
        return self._view(views.as_of(self._scan, when, timeout))

    def between(self, start: Instant | None = None, stop: Instant | None = None) -> Stream:
        """Return the rows with event times in [start, stop), wherever they were appended.

        Raises:
            InvalidTime: a bound is no instant, or they are the wrong way round.
        """
        return self._view(views.between(self._scan, start, stop))

    def offsets(self, start: int, stop: int | None = None) -> Stream:
        """Return the rows with offsets in [start, stop).

        Raises:
            OffsetOutOfRange: some of them are not, or no longer, there.
        """
        return self._view(views.offsets(self._scan, start, stop))

    def fork(
        self, name: str, at: int | Instant | None = None, *, timeout: float | None = 10.0
    ) -> Stream:
        """Return a new stream that shares the history of this one, then goes its own way.

        It has the rows below an offset, or those appended at or before an instant, or all there
        are now; with the same offsets, append times and stream times, and the same schema and
        settings. The next append goes on from there. What is sealed is shared on disk, not copied;
        removing either side leaves the other whole. Jobs and positions stay with the old stream.

        Raises:
            StreamExists: there is a stream of that name.
            OffsetOutOfRange: an offset beyond the end, or of rows that have been removed.
            InvalidTime: an instant that is not yet past.
        """
        from streamlab.forking import fork

        return fork(self._jobs._lab, self._scan, name, at, timeout)  # noqa: SLF001

    def view(self, *, compacted: Literal["refuse", "ok"] = "refuse") -> Stream:
        """Return the stream to be read only, moving on with its end.

        With ``compacted="ok"`` its rows, and those of views and queries of it, are what compaction
        has left: of the rows below `Stats.compacted_upto` the last one of each key. Otherwise
        reading such rows is a `QueryError`, because windows over them would be wrong.
        """
        return self._view(views.reading(self._scan, compacted))

    def find(self, time: Instant, clock: Literal["event", "append"] = "event") -> int:
        """Return the first offset whose stream time (or append time) is at or after an instant.

        The end offset if there is none yet. Where that row was compacted away, an offset from which
        on the rows are those from there on.

        Raises:
            InvalidTime: it is no instant.
        """
        return views.find(self._scan, time, clock)

    # -- maintenance -------------------------------------------------------------------------

    def trim(
        self, before: int | Instant | None = None, clock: Literal["event", "append"] = "append"
    ) -> int:
        """Remove the rows below an offset or before an instant; return where the stream begins now.

        Without ``before`` the stream's retention is applied. Offsets and stream time go on as if
        nothing had been removed; rows that a live view needs stay on disk until it is gone.

        Raises:
            OffsetOutOfRange: an offset beyond the end.
        """
        self._writable()
        log = self._scan.log
        if before is None:
            return log.retain()
        offset = offset_of(before)
        if offset is not None:
            if not 0 <= offset <= self.end_offset:
                raise OffsetOutOfRange(
                    f'cannot trim stream "{self.name}" to {offset}: it ends at {self.end_offset}',
                    asked=offset,
                    available=range(self.earliest_offset, self.end_offset),
                )
            return log.trim(offset)
        return log.trim(self.find(cast("Instant", before), clock))

    def compact(self) -> Compaction:
        """Keep of the rows there are now only the last one of each key.

        Offsets, order and times stay as they are. Deletions go once they are older than the setting
        ``delete_retention``. Left alone is what is younger than ``compact_lag``, what a view has
        pinned, and what a job has yet to read: `Compaction.stopped_by` says so. A stream with
        ``cleanup="compact"`` does this by itself in the background, when half of it is new.

        Raises:
            QueryError: the stream keeps its history.
            CorruptSegment: a file is not what was written; nothing is changed then.
        """
        self._writable()
        if self.cleanup != "compact":
            raise QueryError(
                f'stream "{self.name}" keeps its history and is not compacted',
                hint='create it with key= and cleanup="compact"; trim() removes old rows',
            )
        return self._scan.log.compact()

    def seal(self) -> int:
        """Turn everything there is into Arrow IPC files now; return how many were made.

        Raises:
            CorruptSegment: a file is not what was written.
        """
        self._writable()
        return self._scan.log.seal()

    def verify(self) -> Report:
        """Read every byte of the stream, and report what is damaged."""
        from streamlab.verify import verify_stream

        return verify_stream(self._catalog, self.name)


def _size_of(snapshot: Snapshot, file: str) -> int:
    try:
        return (snapshot.log.folder / file).stat().st_size
    except FileNotFoundError:
        return 0
