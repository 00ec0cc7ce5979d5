"""A lab: a directory of streams, and the front door to everything.

Handles of one process on the same folder share the log of each stream, so that a cell that is run
again does not meet its own lock; what they share keeps the strictest promise of any of them. Closing
the last one lets go of every lock.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
import uuid
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from streamlab import views
from streamlab.catalog import Catalog, StreamInfo, require_columns, stored_schema
from streamlab.clock import Clock, Pacer, Stopwatch, WallClock
from streamlab.duration import (
    Duration,
    Instant,
    format_instant,
    parse_delay,
    parse_duration,
    parse_instant,
)
from streamlab.errors import (
    InvalidTime,
    LabClosed,
    ReadOnly,
    SchemaMismatch,
    StreamExists,
    StreamlabError,
    StreamNotFound,
)
from streamlab.groups import Groups
from streamlab.jobs import Jobs
from streamlab.log import CompactionRules, Log, Policy
from streamlab.query import Query, from_sql
from streamlab.scan import Scan
from streamlab.schema import check_time_column, normalise, to_table
from streamlab.settings import Settings, format_size, parse_retention, parse_size, parse_sync
from streamlab.shown import Shown, notebook
from streamlab.stream import Stream

if TYPE_CHECKING:
    import duckdb
    import polars as pl

    from streamlab.replay import Replay
    from streamlab.verify import Report

__all__ = ["Lab", "open_lab"]

MOST_PARTITIONS = 10_000


def open_lab(
    path: str | os.PathLike[str],
    *,
    read_only: bool = False,
    sync: str | Any = "always",
    verify: Literal["first-touch", "never"] = "first-touch",
) -> Lab:
    """Open the lab in a folder, making it if there is none.

    ``sync`` is the default of its streams: ``"always"`` (an append returns when its rows survive a
    power cut), an interval such as ``"100ms"``, or ``"os"``. ``verify="never"`` trusts sealed files.
    Locks are taken at the first append, not here. Use it in a ``with`` block, or `Lab.close` it.

    Raises:
        StreamlabError: the folder holds something else, or read-only, nothing.
        NewerFormat: a newer streamlab made it.
    """
    if verify not in ("first-touch", "never"):
        raise ValueError(f'verify is "first-touch" or "never"; got {verify!r}')
    return Lab(
        Path(path), read_only=read_only, sync=parse_sync(sync), verify=verify == "first-touch"
    )


class Lab(Mapping[str, Stream], Shown):
    """A directory of streams; made by ``sl.open(path)``."""

    def __init__(
        self,
        path: Path,
        *,
        read_only: bool = False,
        sync: str | int = "always",
        verify: bool = True,
        clock: Clock | None = None,
        views: dict[str, Stream] | None = None,
        what: str = "the lab was opened read-only",
    ) -> None:
        self._catalog = Catalog(path.expanduser().absolute())
        self._read_only = what if read_only else None
        self._sync = sync
        self._verify = verify
        self._clock = clock or WallClock()
        self._views = views
        self._logs: dict[str, Log] = {}
        self._lock = threading.RLock()
        self._closed = False
        if read_only:
            self._catalog.check()
        else:
            self._catalog.create()
        self._catalog.jobs = self._jobs = Jobs(self)
        self._replays: weakref.WeakSet[Replay] = weakref.WeakSet()
        _OPEN.add(self)

    @property
    def path(self) -> Path:
        """The lab's folder."""
        return self._catalog.path

    # -- streams -----------------------------------------------------------------------------

    def __getitem__(self, name: str) -> Stream:
        self._check_open()
        if self._views is not None:
            if name in self._views:
                return self._views[name]
            self._catalog.info(name)  # raises for a name that never was
            raise StreamNotFound(f'there was no stream "{name}" yet: {self._read_only}')
        info = self._catalog.info(name)
        scan = Scan(self._log(info), lambda: self._catalog.info(name))
        return Stream(self._catalog, scan, read_only=self._read_only)

    def __contains__(self, name: object) -> bool:
        return name in self._names()

    def __iter__(self) -> Iterator[str]:
        return iter(self._names())

    def __len__(self) -> int:
        return len(self._names())

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def _ipython_key_completions_(self) -> list[str]:
        return self._names()

    def _names(self) -> list[str]:
        self._check_open()
        return sorted(self._views) if self._views is not None else self._catalog.names()

    def _check_open(self) -> None:
        if self._closed:
            raise LabClosed(f"the lab {self.path} is closed", hint="open it again with sl.open")

    def _writable(self) -> None:
        self._check_open()
        if self._read_only:
            raise ReadOnly(f"nothing can be changed here: {self._read_only}")

    def _log(self, info: StreamInfo) -> Log:
        with self._lock:
            log = self._logs.get(info.name)
            if log is None or log.stream != info.id:
                log = self._logs[info.name] = _shared_log(self, info)
            return log

    def create(
        self,
        name: str,
        schema_or_data: Any,
        *,
        time: str | None = None,
        key: str | tuple[str, ...] | list[str] | None = None,
        partitions: int = 1,
        delay: Duration = "0s",
        retention: Any = None,
        cleanup: Literal["delete", "compact"] = "delete",
        settings: Settings | None = None,
        exist_ok: bool = False,
    ) -> Stream:
        """Make a stream and return it.

        ``schema_or_data`` is a pyarrow schema; or data (a frame, a dict, a file's path), whose
        schema is taken and whose rows are appended. ``time`` names the event-time column; without
        it event time is append time. ``key`` names the column or columns of the key, which spreads
        rows over ``partitions``. ``delay`` is how far out of order events may come. ``retention`` is
        an age, a size, or both: ``("7d", "10GB")``. With ``exist_ok`` a stream of that name is
        returned as it is, if it is the same, and nothing is appended.

        Raises:
            StreamExists: there is one of that name.
            InvalidName: the name could not be a folder everywhere.
            SchemaMismatch: a column of a type that cannot be stored, or a time or key that is none.
        """
        self._writable()
        schema, data = _schema_and_data(schema_or_data)
        info = self._described(
            name, schema, time, key, partitions, delay, retention, cleanup, settings or Settings()
        )
        try:
            self._catalog.add(info)
        except StreamExists:
            if not exist_ok:
                raise
            check_same(self._catalog.info(name), info)
            return self[name]
        stream = self[name]
        if data is not None:
            try:
                stream.append(data)
            except BaseException:
                with contextlib.suppress(StreamlabError):
                    self.drop(name)
                raise
        return stream

    def _derived(
        self, name: str, schema: pa.Schema, time: str | None, delay: Duration, job: str
    ) -> Stream:
        """Make the stream of a job's results, which is the job's from the first."""
        settings = Settings(max_ahead=None)
        info = self._described(name, schema, time, None, 1, delay, None, "delete", settings)
        self._catalog.add(replace(info, job=job))
        return self[name]

    def _described(
        self, name: str, schema: pa.Schema, time: str | None, key: Any, partitions: int,
        delay: Duration, retention: Any, cleanup: str, settings: Settings,
    ) -> StreamInfo:  # fmt: skip
        """Check what a stream is to be."""
        schema = normalise(schema)
        several = isinstance(key, tuple | list)
        keys = () if key is None else tuple(key) if several else (key,)
        if len(set(keys)) < len(keys) or not all(isinstance(name, str) for name in keys):
            raise SchemaMismatch(f"key is a column or several different ones; got {key!r}")
        if not isinstance(settings, Settings):
            raise TypeError(f"settings is an sl.Settings(...); got {settings!r}")
        require_columns(schema, keys, "key")
        if time is not None:
            require_columns(schema, [time], "time")
            check_time_column(schema, time)
        if (
            isinstance(partitions, bool)
            or not isinstance(partitions, int)
            or not 1 <= partitions <= MOST_PARTITIONS
        ):
            raise ValueError(f"partitions is between 1 and {MOST_PARTITIONS}; got {partitions!r}")
        if cleanup not in ("delete", "compact"):
            raise ValueError(f'cleanup is "delete" or "compact"; got {cleanup!r}')
        if cleanup == "compact" and not keys:
            raise SchemaMismatch(
                f'stream "{name}" cannot be compacted without a key', hint="give key="
            )
        stored = stored_schema(schema, partitions=partitions, deletions=False)
        return StreamInfo(
            uuid.uuid4().hex, name, (stored,), tuple(f.name for f in schema if not f.nullable), time,
            keys, partitions, parse_delay(delay), parse_retention(retention), cleanup,
            settings.stored(), self._clock.now() / 1e6,
        )  # fmt: skip

    def drop(self, name: str) -> None:
        """Remove a stream and all its rows.

        Raises:
            StreamNotFound: there is none of that name.
            StreamLocked: another process writes it.
        """
        self._writable()
        info = self._catalog.info(name)
        if info.job is not None:
            self._jobs.halt(info.job)
        log = self._log(info)
        with log.writer.held():  # another process may run the job: nothing is forgotten before
            if info.job is not None:
                self._jobs.forget(info.job)
            self._catalog.drop(name)
        with self._lock:
            self._logs.pop(name, None)
        log.close()

    # -- asking ------------------------------------------------------------------------------

    def sql(
        self, query: str, params: Any = None, *, trusted: bool = False, **frames: Any
    ) -> duckdb.DuckDBPyRelation:
        """Run one SELECT in DuckDB's dialect, every stream being a table under its name.

        The streams are as they are at this call, however often the relation is read. Other frames
        are passed by name: ``lab.sql("SELECT * FROM trades JOIN ref USING (symbol)", ref=df)``.
        Files, extensions, settings and Python variables are out of reach unless ``trusted=True``.

        Raises:
            QueryError: it does not parse, names what is not there, or asks for what is locked.
        """
        from streamlab.duck import query as run

        self._check_open()
        return run(
            query, params, self._names, lambda name: self[name].dataset(), frames, trusted=trusted
        )

    def query(self, sql: str) -> Query:
        """Return the query that an SQL text asks for, with window table functions.

        >>> lab.query(
        ...     "SELECT window_start, window_end, symbol, count(*) AS n "
        ...     "FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL"
        ... )  # doctest: +SKIP

        ``tumble(stream, size)``, ``hop(stream, size, every)``, ``cumulate(stream, size, step)`` and
        ``session(stream, gap, key)`` add ``window_start``, ``window_end`` and ``window_time`` to the
        rows; the rest is DuckDB's dialect. A SELECT without them is row-wise.

        Raises:
            QueryError: it does not parse, names what is not there, or does not go by windows.
        """
        self._check_open()
        return from_sql(sql, lambda name: self[name]._scan, self._jobs)  # noqa: SLF001

    @property
    def jobs(self) -> Jobs:
        """The jobs that were started here, by name."""
        return self._jobs

    @property
    def groups(self) -> Groups:
        """The consumer groups of the lab's streams, by name: positions, lag, members.

        Raises:
            ReadOnly: of a view: groups have no past.
        """
        self._check_open()
        if self._views is not None:
            raise ReadOnly(f"there are no consumer groups here: {self._read_only}")
        return Groups(self._names, lambda name: self[name]._scan, self._writable)  # noqa: SLF001

    def as_of(self, when: Instant | Mapping[str, Any]) -> Lab:
        """Return the lab as it was: read-only, every stream at that append time, for ever.

        ``when`` is an instant that is past, or what `freeze` gave.

        Raises:
            InvalidTime: an instant that is not yet past.
            OffsetOutOfRange: retention has removed rows of a frozen value; says what is left.
            HistoryChanged: a frozen stream is another one now.
        """
        self._check_open()
        if isinstance(when, Mapping):
            if not isinstance(when.get("streams"), Mapping):
                raise InvalidTime("as_of takes an instant, or what lab.freeze() gave")
            views = {name: self._reopened(name, what) for name, what in when["streams"].items()}
            what = "it is a frozen view"
        else:
            micros = parse_instant(when, what="as_of")
            past = [
                n for n in self._names() if round(self._catalog.info(n).created * 1e6) <= micros
            ]
            if micros >= self._clock.now():
                raise InvalidTime(
                    f"as_of {format_instant(micros)} is not past",
                    hint="for now, read the lab itself",
                )
            views = {name: self[name].as_of(when) for name in past}
            what = f"it is a view as of {format_instant(micros)}"
        return Lab(
            self.path, read_only=True, sync=self._sync, verify=self._verify, clock=self._clock,
            views=views, what=what,
        )  # fmt: skip

    def freeze(self) -> dict[str, Any]:
        """Return the places of every stream now, as a small value that `as_of` opens again.

        It is plain JSON. It pins nothing: reopened, it gives equal rows or raises.
        """
        return {
            "lab": str(self.path.name),
            "at": format_instant(self._clock.now()),
            "streams": {name: views.frozen(self[name]._scan) for name in self._names()},  # noqa: SLF001
        }

    def _reopened(self, name: str, value: Any) -> Stream:
        self._catalog.info(name)  # raises for a name that never was
        return self[name]._view(views.reopened(self[name]._scan, name, value))  # noqa: SLF001

    def replay(
        self,
        *names: str,
        start: Instant | None = None,
        stop: Instant | None = None,
        speed: float = 1.0,
        max_gap: Duration | None = None,
        clock: Literal["event", "append"] = "event",
    ) -> Replay:
        """Return a replay of these streams (of all, if none is named), paused at ``start``.

        Its streams end where its clock is, and grow as it plays. The clock is stream time, or with
        ``clock="append"`` append time; ``start`` and ``stop`` are instants of it, by default the
        first and the last there are now. ``speed`` is how many seconds pass in one. ``max_gap`` is
        how long a silence lasts at most, on the wall.

        Raises:
            StreamNotFound: there is no stream of that name.
            InvalidTime: there is nothing between start and stop.
        """
        from streamlab.replay import Replay

        self._check_open()
        if len(set(names)) < len(names):
            raise ValueError(f"a replay has each stream once; got {', '.join(names)}")
        streams = {name: self[name] for name in names or self._names()}
        pacer = self._clock if isinstance(self._clock, Pacer) else Stopwatch()
        made = Replay(
            streams, pacer, start=start, stop=stop, speed=speed, max_gap=max_gap, clock=clock
        )
        self._replays.add(made)
        return made

    def time_machine(
        self, *names: str, clock: Literal["event", "append"] = "event",
        start: Instant | None = None, stop: Instant | None = None,
    ) -> Any:  # fmt: skip
        """Show one slider over history; ``.table(...)``, ``.chart(...)``, ``.sql(...)`` add what was.

        Raises:
            MissingExtra: widgets are not installed; says the pip line.
            InvalidTime: there is nothing between start and stop.
        """
        replay = self.replay(*names, clock=clock, start=start, stop=stop)
        return self._jobs.stop_with(notebook("machine").TimeMachine(self, replay, clock))

    def compare(self, a: Any, b: Any, key: str | Sequence[str] | None = None) -> pl.DataFrame:
        """Return the change rows that turn one side into the other; none if they agree.

        A side is a stream (or its name), a view, a table or a frame. With a key, by default the
        streams' own, tables are compared: columns ``op`` (``d``: only in ``a``, ``c``: only in
        ``b``, ``u``: in both, and not the same), those of the key, ``before`` (``a``) and ``after``
        (``b``). Without one rows are, in any order, each as often as it is there: ``d`` and ``c``.
        Null is null, NaN is NaN; system columns do not count.

        Raises:
            SchemaMismatch: the columns differ, naming one; or a frame has a key twice.
            QueryError: the streams have different keys.
            StreamNotFound: no stream of that name.
        """
        from streamlab.changes import compare

        left, right = (self[side] if isinstance(side, str) else side for side in (a, b))
        return compare(left, right, key)

    # -- giving away -------------------------------------------------------------------------

    def pack(
        self,
        path: str | os.PathLike[str],
        *streams: str | Stream,
        overwrite: bool = False,
        progress: bool | None = None,
    ) -> Path:
        """Write streams into an archive, one file to give away, and return its path.

        ``streams`` are names, or views: a slice, such as ``stream.as_of(when)`` or
        ``stream.offsets(start, stop)``, has no row besides its own. None are all. The archive is a
        zip file of plain Arrow files with checksums; it appears when it is whole. Jobs and
        positions are not in it. `sl.unpack` makes a lab of it.

        Raises:
            StreamlabError: the file is there already and ``overwrite`` is not set; or a view in
                event time has other rows in between.
            CorruptSegment: a file of a stream is not what was written.
        """
        from streamlab.archive import pack

        self._check_open()
        chosen = [self[s] if isinstance(s, str) else s for s in streams or self._names()]
        for stream in chosen:
            if not isinstance(stream, Stream):
                raise TypeError(f"pack takes names of streams, and views; got {stream!r}")
        scans = {stream.name: stream._scan for stream in chosen}  # noqa: SLF001
        if len(scans) < len(chosen):
            raise ValueError("pack takes each stream once")
        return pack(scans, path, overwrite=overwrite, progress=progress)

    # -- care --------------------------------------------------------------------------------

    def verify(self) -> Report:
        """Read every byte of every stream, and report what is damaged."""
        from streamlab.verify import verify_lab

        self._check_open()
        return verify_lab(self._catalog)

    def close(self) -> None:
        """Let go of every lock; the last handle of a process does. Closing twice is harmless.

        Writers of its streams that are still open are closed first, so that nothing waits for ever.

        Raises:
            SchemaMismatch: one of them held a bad event; the lab is closed all the same.
        """
        for replay in list(self._replays):
            replay.stop()
        self._jobs.stop_all()
        errors = [
            e for log in list(self._logs.values()) if _is_last(self, log) for e in log.drain()
        ]
        with self._lock:
            if self._closed:
                return
            self._closed = True
            logs, self._logs = self._logs, {}
            _OPEN.discard(self)
        for log in logs.values():
            _let_go(self, log)
        if errors:
            raise errors[0]

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f"Lab {str(self.path)!r} (closed)"
        names = self._names()
        view = f" ({self._read_only})" if self._read_only else ""
        count = f"{len(names)} stream{'s' * (len(names) != 1)}"
        lines = [f"Lab {str(self.path)!r}: {count}{view}"]
        rows = []
        for name in names:
            stats = self[name].stats()
            until = format_instant(stats.stream_time)
            rows.append((name, f"{stats.rows:,} rows", format_size(stats.bytes), f"until {until}"))
        widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
        for name, count, size, until in rows:
            lines.append(
                f"  {name:<{widths[0]}}  {count:>{widths[1]}}  {size:>{widths[2]}}  {until}"
            )
        return "\n".join(lines)


def _schema_and_data(given: Any) -> tuple[pa.Schema, Any]:
    """Tell a schema from data, and take data's schema."""
    if isinstance(given, pa.Schema):
        return given, None
    if isinstance(given, str | os.PathLike):
        from streamlab.files import read_file

        given = read_file(given)
    if isinstance(given, Stream):
        return given.schema, given
    if isinstance(given, pa.RecordBatchReader):
        return given.schema, given
    if (
        hasattr(given, "__arrow_c_schema__")
        and not hasattr(given, "__arrow_c_stream__")
        and not hasattr(given, "__arrow_c_array__")
    ):
        return pa.schema(given), None
    table = to_table(given)
    return table.schema, table


def check_same(have: StreamInfo, want: StreamInfo) -> None:
    """Refuse to take a stream for another one that happens to have its name."""
    for what in ("time", "key", "partitions", "cleanup", "delay", "retention", "settings"):
        if getattr(have, what) != getattr(want, what):
            raise StreamExists(
                f'there is a stream "{have.name}" with {what}={getattr(have, what)!r}, '
                f"not {getattr(want, what)!r}",
                hint="drop it first, or choose another name",
            )
    if not have.schema.equals(want.schema):
        raise StreamExists(
            f'there is a stream "{have.name}" with other columns', hint="stream.evolve adds columns"
        )


def rejected_stream(catalog: Catalog, stream: Stream) -> Stream:
    """Return the stream beside this one that bad events go to, making it if need be."""
    for lab in list(_OPEN):
        if lab.path == catalog.path and not lab._read_only:  # noqa: SLF001
            columns = [("event", pa.string()), ("reason", pa.string())]
            return lab.create(f"{stream.name}.rejected", pa.schema(columns), exist_ok=True)
    raise LabClosed(f'the lab of stream "{stream.name}" is closed')


# -- logs, shared by the handles of a process -------------------------------------------------

_OPEN: weakref.WeakSet[Lab] = weakref.WeakSet()
_SHARED: dict[tuple[str, str], tuple[Log, weakref.WeakSet[Lab]]] = {}
_SHARED_LOCK = threading.RLock()


def _shared_log(lab: Lab, info: StreamInfo) -> Log:
    """Return the log of a stream that this process has open, or open it."""
    key = (os.path.realpath(lab.path), info.id)
    with _SHARED_LOCK:
        for known, (log, users) in list(_SHARED.items()):
            if not users:  # its labs were forgotten without a close
                del _SHARED[known]
                log.close()
        settings = info.settings
        sync = parse_sync(settings["sync"]) if settings.get("sync") else lab._sync  # noqa: SLF001
        if key not in _SHARED:
            _SHARED[key] = (_open_log(lab, info, sync), weakref.WeakSet())
        log, users = _SHARED[key]
        users.add(lab)
        log.promise(sync, verify=lab._verify, pins=_pins(lab))  # noqa: SLF001
        return log


def _pins(lab: Lab) -> bool:
    """Whether views of this handle may write down what they show."""
    return lab._read_only is None or lab._views is not None  # noqa: SLF001


def _open_log(lab: Lab, info: StreamInfo, sync: str | int) -> Log:
    settings = info.settings
    catalog, name = lab._catalog, info.name  # noqa: SLF001
    policy = Policy(
        sync=sync,
        segment_bytes=parse_size(settings["segment_bytes"]),
        compression=settings["compression"],
        partitions=info.partitions,
    )
    return Log(
        catalog.folder / name, info.id, policy, lab._clock,  # noqa: SLF001
        lambda schema_id: catalog.info(name).stored(schema_id),
        retention=(info.retention.age, info.retention.size),
        compaction=_compaction(info, policy, lambda i: catalog.info(name).stored(i)),
        verify=lab._verify, pins=_pins(lab),  # noqa: SLF001
    )  # fmt: skip


def _compaction(
    info: StreamInfo, policy: Policy, schema_of: Callable[[int], pa.Schema]
) -> CompactionRules | None:
    """Return how a stream is compacted; None: it keeps its history."""
    if info.cleanup != "compact":
        return None
    lag, retention = (parse_duration(info.settings[n]) for n in ("compact_lag", "delete_retention"))
    return CompactionRules(
        info.key, info.time, lag, retention, policy.segment_bytes, policy.compression, schema_of
    )


def _is_last(lab: Lab, log: Log) -> bool:
    """Whether no other handle of this process uses a log."""
    with _SHARED_LOCK:
        return all(set(users) <= {lab} for shared, users in _SHARED.values() if shared is log)


def _let_go(lab: Lab, log: Log) -> None:
    with _SHARED_LOCK:
        for key, (shared, users) in list(_SHARED.items()):
            if shared is log:
                users.discard(lab)
                if not users:
                    del _SHARED[key]
                    log.close()


@atexit.register
def _close_all() -> None:
    for lab in list(_OPEN):
        with contextlib.suppress(StreamlabError, OSError):
            lab.close()
