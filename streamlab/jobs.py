"""The jobs of a lab: started, remembered, begun anew.

A job is remembered by name in ``jobs/<name>.json``: what was asked, in words and as a fingerprint,
and where it began. So a cell that is run twice finds its own job, and another query under the same
name is refused with the difference.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamlab import plan as p
from streamlab.aggregate import tree
from streamlab.catalog import check_name
from streamlab.clock import FOREVER
from streamlab.engines.changes import Changes, Finals
from streamlab.engines.local import Runner, visible
from streamlab.engines.run import begin_at
from streamlab.errors import InvalidName, QueryError, StreamExists, StreamNotFound
from streamlab.fingerprint import digest as digest_of
from streamlab.fingerprint import digest_of_expression
from streamlab.job import Job, Spec
from streamlab.log import disk
from streamlab.log.format import checksum, dump_json, load_json
from streamlab.log.lock import FileLock
from streamlab.schema import SYSTEM_FIELDS
from streamlab.shown import Shown, notebook
from streamlab.sinks import (
    DuckDB,
    DuckDBSink,
    FunctionSink,
    MemorySink,
    Sink,
    StreamSink,
    derived_schema,
)

if TYPE_CHECKING:
    import polars as pl

    from streamlab.lab import Lab

__all__ = ["OPEN", "Jobs"]

OPEN = ":open:"
"""What stands for a database that is not a path."""


class Jobs(Mapping[str, Job], Shown):
    """The jobs of a lab that this handle has started; ``lab.jobs``."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._running: dict[str, Job] = {}
        self._lock = threading.RLock()
        self._views: weakref.WeakSet[Any] = weakref.WeakSet()

    def __getitem__(self, name: str) -> Job:
        try:
            return self._running[name]
        except KeyError:
            known = ", ".join(self._running) or "none yet"
            raise StreamNotFound(f'no job "{name}" was started here; there are: {known}') from None

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._running))

    def __len__(self) -> int:
        return len(self._running)

    def __repr__(self) -> str:
        if not self._running and not self.known():
            return "Jobs: none"
        lines = [repr(job) for job in self._running.values()]
        lines += [f'Job "{n}": not running here' for n in self.known() if n not in self._running]
        return "\n".join(lines)

    @property
    def _folder(self) -> Path:
        return self._lab.path / "jobs"

    def known(self) -> list[str]:
        """Return the names of all jobs that the lab remembers, running or not."""
        return sorted(
            path.stem for path in self._folder.glob("*.json") if ".state" not in path.name
        )

    def live(self) -> Any:
        """Show what all jobs do, those to come as well; returns at once, the widget to be shown.

        Raises:
            MissingExtra: widgets are not installed; says the pip line.
        """
        panel = notebook("panels").JobPanel(lambda: dict(self), self.known, "Jobs", self)
        return self.stop_with(panel)

    def stop_with(self, view: Any) -> Any:
        """Return what is looked at, and stop it when the lab closes."""
        self._views.add(view)
        return view

    def stop_all(self) -> None:
        """Stop every job that runs, and every view that is live."""
        for view in list(self._views):
            view.stop()
        with self._lock:
            jobs = list(self._running.values())
        for job in jobs:
            job._stop.set()
            job._resume.set()
        for job in jobs:
            job.stop()

    def halt(self, name: str) -> None:
        """Stop a job if it runs here."""
        with self._lock:
            job = self._running.get(name)
        if job is not None:
            job.stop()

    def forget(self, name: str) -> None:
        """Stop a job and forget it; its results are let go of or dropped by whoever asks."""
        self.halt(name)
        with self._lock:
            self._running.pop(name, None)
        for stream in self._lab:
            self._lab[stream]._scan.log.release(f"job-{name}")
        for path in (self._folder / f"{name}.json", self._folder / f"{name}.state.json"):
            with contextlib.suppress(FileNotFoundError):
                disk.unlink(path)

    def start(
        self,
        plan: p.Node,
        into: Any,
        *,
        start: Any,
        emit: str,
        follow: bool,
        name: str | None,
        restart: bool,
    ) -> Job:
        """Start a job, or return the one that is this query already.

        Raises:
            QueryError: the name is another query's.
        """
        self._lab._writable()
        target = _target_of(into)
        digest = fingerprint(plan, emit, start, target)
        with self._lock:
            name = name or self._free_name(_name_of(plan, target), digest, target)
            check_name(name, [])
            if "stream" in target:  # refused before anything is remembered
                _time_of(plan, emit, list(plan.schema))
                self._own(target["stream"], name)
                self._not_its_own(plan, target["stream"])
            running = self._running.get(name)
            same = self._same(name, plan, emit, target, digest, restart=restart)
            if running is not None and running.status == "running":
                if not restart and same:
                    return running
                running.stop()
            lock = FileLock(self._folder / f"{name}.lock", f'job "{name}"')
            lock.acquire(10.0)  # another process may have it: nothing is changed before
            try:
                self._same(name, plan, emit, target, digest, restart=restart)
                known = self._remembered(name)
                if isinstance(into, DuckDB):  # as a stream, refused before anything is remembered
                    DuckDBSink(into, name, digest).check()
                if known is None or restart:
                    spec = self._spec(name, plan, target, emit, start, digest, known)
                    if restart:
                        self._forget(spec, known, into)
                    known = self._remember(spec)
                sink = self._sink(known, plan, into)
            except BaseException:
                lock.release()
                raise
            job = Job(known, plan, sink, lock, follow=follow)
            self._running[name] = job
            return job._begin()

    def _free_name(self, name: str, digest: str, target: dict[str, Any]) -> str:
        """Return a name; several queries whose results are held in memory are numbered."""
        number, found = 1, name
        while "memory" in target and found in self._running:
            if self._running[found]._spec.digest == digest:
                break
            number += 1
            found = f"{name}-{number}"
        return found

    def _own(self, stream: str, name: str) -> None:
        """See that a stream, if there is one, is the result of this job.

        Raises:
            StreamExists: it is another job's, or nobody's.
        """
        if stream not in self._lab:
            return
        owner = self._lab[stream]._info.job
        if owner is None:
            raise StreamExists(
                f'there is a stream "{stream}" already that is not the result of job "{name}"',
                hint="choose another name for the results",
            )
        if owner != name:
            raise StreamExists(
                f'stream "{stream}" is the result of job "{owner}", not the result of job "{name}"',
                hint=f'run(..., name="{owner}") is that job; another stream name makes a new one',
            )

    def _not_its_own(self, plan: p.Node, stream: str) -> None:
        """See that a query does not read what it writes.

        Raises:
            QueryError: it does.
        """
        if stream not in self._lab:
            return
        folder = self._lab[stream]._scan.log.folder
        if any(source.scan.log.folder == folder for source in p.sources_of(plan)):
            raise QueryError(
                f'the query reads stream "{stream}", and cannot write into it',
                hint="choose another name for the results",
            )

    def _same(
        self, name: str, plan: p.Node, emit: str, target: dict[str, Any], digest: str, *,
        restart: bool,
    ) -> bool:  # fmt: skip
        """Whether a job of this name is this query; there may be none.

        Raises:
            QueryError: it is another one, and that is not to begin anew.
        """
        running = self._running.get(name)
        known = self._remembered(name)
        if known is None and running is not None and running.status == "running":
            known = running._spec
        if known is None or known.digest == digest:
            return known is not None
        if not restart:
            raise _another(known, _lines(plan, emit), target)
        return False

    def begin(self, spec: Spec, make: Callable[[FileLock], Job]) -> Job:
        """Start a job that keeps its own place, or return the one that does this already.

        Raises:
            QueryError: the name is another one's.
        """
        self._lab._writable()
        check_name(spec.name, [])
        with self._lock:
            running = self._running.get(spec.name)
            if running is not None and running.status != "running":
                running = None
            known = self._remembered(spec.name) if running is None else running._spec
            if known is not None and known.digest != spec.digest:
                raise QueryError(
                    f'job "{spec.name}" does something else: {"; ".join(known.lines)}',
                    hint="name= makes a job of its own",
                )
            if running is not None:
                return running
            with contextlib.suppress(FileExistsError):
                disk.make_dir(self._folder)
            lock = FileLock(self._folder / f"{spec.name}.lock", f'job "{spec.name}"')
            lock.acquire(10.0)
            try:
                if spec.into["database"] != OPEN:  # what is in memory is gone with it
                    path = self._folder / f"{spec.name}.json"
                    disk.replace_file(path, dump_json(spec.content()))
                job = self._running[spec.name] = make(lock)
            except BaseException:
                lock.release()
                raise
            return job._begin()

    def _remembered(self, name: str) -> Spec | None:
        path = self._folder / f"{name}.json"
        try:
            content = load_json(disk.read(path), path)
        except FileNotFoundError:
            return None
        content.pop("format")
        return Spec(**content)

    @staticmethod
    def _spec(
        name: str, plan: p.Node, target: dict[str, Any], emit: str, start: Any, digest: str,
        before: Spec | None,
    ) -> Spec:  # fmt: skip
        wanted, times, reading = begin_at(plan, start)
        generation = 1 if before is None else before.generation + 1
        return Spec(
            name, target, emit, [*_lines(plan, emit), f"start {start}"], digest,
            wanted, times, reading, Runner(plan).edge, generation, time.time(),
        )  # fmt: skip

    def _remember(self, spec: Spec) -> Spec:
        with contextlib.suppress(FileExistsError):
            disk.make_dir(self._folder)
        if "memory" not in spec.into:
            disk.replace_file(self._folder / f"{spec.name}.json", dump_json(spec.content()))
        return spec

    def _forget(self, spec: Spec, known: Spec | None, into: Any) -> None:
        """Make room for a new generation; the results of the old one stay beside it.

        What a restart that was killed left beside stays too, and what is nobody's result.
        """
        old = known or spec  # a job that is not remembered may have left results
        if isinstance(into, DuckDB):
            DuckDBSink(into, old.name, old.digest).forget(old.generation)
        state = self._folder / f"{old.name}.state.json"
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(state)
        stream = old.into.get("stream")
        if stream and stream in self._lab and self._lab[stream]._info.job == old.name:
            number = old.generation
            while f"{stream}.generation-{number}" in self._lab:
                number += 1
            self._lab[stream].fork(f"{stream}.generation-{number}")
            self._lab.drop(stream)
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(self._folder / f"{old.name}.json")

    def _sink(self, spec: Spec, plan: p.Node, into: Any) -> Sink:
        if "stream" in spec.into:
            return self._stream_sink(spec, plan)
        if isinstance(into, DuckDB):
            return DuckDBSink(into, spec.name, spec.digest)
        if callable(into):
            return FunctionSink(into, self._folder / f"{spec.name}.state.json")
        return MemorySink()

    def _stream_sink(self, spec: Spec, plan: p.Node) -> StreamSink:
        name = spec.into["stream"]
        runner = Runner(plan, edge=spec.edge, raw=True)
        empty = (Changes if spec.emit == "changes" else Finals)(runner).empty
        time_column = _time_of(plan, spec.emit, visible(empty).columns)
        if name not in self._lab:
            schema = derived_schema(empty, time_column)
            delay = _delay_text(runner.delay)
            self._lab._derived(name, schema, time_column, delay, spec.name)
        stream = self._lab[name]
        return StreamSink(stream, time_column, spec.digest)


def _delay_text(delay: int) -> Any:
    return "inf" if delay == FOREVER else dt.timedelta(microseconds=delay)


def _time_of(plan: p.Node, emit: str, names: list[str]) -> str | None:
    """Return the event-time column of what a plan gives."""
    if emit == "changes":
        return None  # rows of windows to come would run ahead of stream time
    column, kept = p.time_of(plan)
    added = column == "window_time" and column not in names  # it is known for every window
    if column is not None and not kept and not added:
        raise QueryError(
            f"the results lack {column!r}, the event time of {next(p.sources_of(plan)).name}",
            hint=f"keep it: .select(..., {column!r})",
        )
    return column


FILE_ENDINGS = (
    ".duckdb", ".db", ".sqlite", ".parquet", ".csv", ".json", ".arrow", ".feather", ".ipc",
)  # fmt: skip
"""What ends like this is meant for a file, and is no name for a stream of results."""


def _of_file(name: str) -> bool:
    return "/" in name or "\\" in name or name.lower().endswith(FILE_ENDINGS)


def _target_of(into: Any) -> dict[str, Any]:
    if into is None:
        return {"memory": True}
    if isinstance(into, str | Path) and (isinstance(into, Path) or _of_file(into)):
        raise InvalidName(
            f"{str(into)!r} is a path, and no name for a stream",
            hint='into a database: sl.duckdb(path, table="..."); into files: run(function)',
        )
    if isinstance(into, str):
        return {"stream": into}
    if isinstance(into, DuckDB):
        return {
            "table": into.table,
            "database": into.path if isinstance(into.path, str) else OPEN,
        }
    if callable(into):
        return {"function": getattr(into, "__qualname__", type(into).__name__)}
    raise QueryError(
        f"into is a stream's name, sl.duckdb(path, table=...), a function or None; "
        f"got {type(into).__name__}"
    )


def _told(target: dict[str, Any]) -> str:
    """Return in words where results go."""
    if "database" in target:
        where = "an open connection" if target["database"] == OPEN else target["database"]
        return f"table {target['table']!r} of {where}"
    kind, name = next(iter(target.items()))
    return kind if kind == "memory" else f"{kind} {name}"


def _name_of(plan: p.Node, target: dict[str, Any]) -> str:
    if "stream" in target:
        return str(target["stream"])
    source = next(p.sources_of(plan)).name
    end = target.get("table") or target.get("function", "memory").rsplit(".", 1)[-1].strip("<>")
    return f"{source}-{end}"


def fingerprint(plan: p.Node, emit: str, start: Any, target: dict[str, Any]) -> str:
    """Return a text that is the same for the same query, and for no other."""
    parts = [*_lines(plan, emit), str(start), str(sorted(target.items()))]
    parts += [source.scan.log.stream for source in p.sources_of(plan)]
    parts += list(_contents(plan))
    return f"{checksum(chr(10).join(parts).encode()):016x}"


def _contents(node: p.Node) -> Iterator[str]:
    """Yield what a description leaves out: literals, the code of functions, frames."""
    for other in p.inputs_of(node):
        yield from _contents(other)
    if isinstance(node, p.Filter):
        yield from map(_told_whole, node.conditions)
    elif isinstance(node, p.Project | p.Aggregate):
        yield from map(_told_whole, node.columns)
    elif isinstance(node, p.MapBatches):
        yield digest_of(node.function)
    elif isinstance(node, p.FrameJoin):
        yield str(node.frame.hash_rows(seed=0).sum())
    elif isinstance(node, p.Top):
        yield _told_whole(node.order)


def _told_whole(expression: pl.Expr) -> str:
    """Return all that an expression is made of, which its own text leaves out."""
    parts = tree(expression)
    return digest_of_expression(expression) if parts is None else str(parts)


def _lines(plan: p.Node, emit: str) -> list[str]:
    left_out = {*SYSTEM_FIELDS, "_partial"}  # it comes when rows are trimmed
    columns = [f"column {n} {kind}" for n, kind in plan.schema.items() if n not in left_out]
    return [*p.describe(plan), *columns, f"emit {emit}"]


def _another(known: Spec, now: list[str], target: dict[str, Any]) -> QueryError:
    was = known.lines
    gone = [
        f"  - {line.strip()}" for line in was if line not in now and not line.startswith("start")
    ]
    new = [f"  + {line.strip()}" for line in now if line not in was]
    if target != known.into:
        gone, new = [*gone, f"  - into {_told(known.into)}"], [*new, f"  + into {_told(target)}"]
    difference = "\n".join([*gone, *new]) or "  another start, or other functions or values in it"
    return QueryError(
        f'job "{known.name}" is another query:\n{difference}',
        hint="restart=True begins anew and keeps the old results beside; name= makes a job of its own",
    )
