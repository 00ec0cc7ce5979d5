"""Jobs: queries that run on, deliver once, and go on where they were.

A job is a thread with a runner and a sink. It takes what the sources have, delivers what came of it
together with its place, and waits for more. The place says how far the input was read and from
where a run must begin to be in the same state: the log is the state, and a restart needs offsets
only.

Invariants: results and place are delivered together; an input row that a place rests on is durable
before the place is; a place that no longer fits the input's history is refused, never skipped over;
an error ends the job, not the kernel.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamlab import plan as p
from streamlab.catalog import check_name
from streamlab.clock import FOREVER, NEVER
from streamlab.duration import EPOCH
from streamlab.engines.changes import Changes, Finals
from streamlab.engines.local import Runner, visible
from streamlab.errors import (
    HistoryChanged,
    OffsetOutOfRange,
    QueryError,
    StreamExists,
    StreamlabError,
    StreamNotFound,
)
from streamlab.follow import first_offset
from streamlab.log import disk
from streamlab.log.format import checksum, dump_json, load_json
from streamlab.log.lock import FileLock
from streamlab.settings import Settings
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
    import datetime as dt

    import polars as pl

    from streamlab.lab import Lab

__all__ = ["Job", "Jobs", "Progress", "results"]

RECORD_SECONDS = 1.0
"""Places after which there were no results are recorded at most so often."""

FIRST_PAUSE, LONGEST_PAUSE = 0.0002, 0.002


@dataclass(frozen=True)
class Progress:
    """How far a job has come; ``rows_in`` = accepted + ``rows_late``."""

    rows_in: int = 0
    rows_out: int = 0
    rows_late: int = 0
    rows_partly_late: int = 0
    watermark: dt.datetime | None = None
    lag_rows: int = 0
    rows_per_s: float = 0.0

    def __str__(self) -> str:
        mark = "-" if self.watermark is None else self.watermark.isoformat().replace("+00:00", "Z")
        return (
            f"{self.rows_in:,} rows in, {self.rows_out:,} out, {self.rows_late:,} late, "
            f"{self.rows_partly_late:,} partly late, {self.lag_rows:,} behind, "
            f"{self.rows_per_s:,.0f} rows/s, watermark {mark}"
        )


# -- where a run begins --------------------------------------------------------------------------


def begin_at(plan: p.Node, start: Any) -> tuple[list[int], list[int]]:
    """Return for each source where results are wanted from, and where reading has to begin.

    Windows that are open at the start are completed by reading back.
    """
    wanted, reading = [], []
    span = _span(plan)
    sources = list(p.sources_of(plan))
    for index, source in enumerate(sources):
        snapshot = source.scan.fix(pin=False)
        at = first_offset(source.scan, start if index == 0 or not _is_offset(start) else "earliest",
                          snapshot.start, snapshot.stop)  # fmt: skip
        wanted.append(at)
        if at == snapshot.start or span is None:
            reading.append(snapshot.start)
            continue
        reader, column = source.scan.log.reader, source.scan.info().time
        now = reader.stream_time_before(snapshot.moment, at, column)
        since = max(now - span - 1, NEVER) if now > NEVER + span else NEVER
        found = (
            reader.find_appended(snapshot.moment, since)
            if column is None
            else reader.find_event(snapshot.moment, since, column)
        )
        reading.append(min(max(found, snapshot.start), at))
    return wanted, reading


def _is_offset(start: Any) -> bool:
    return hasattr(start, "__index__") and not isinstance(start, bool)


def _span(node: p.Node) -> int | None:
    """Return how far an open window reaches back from stream time; None: not known beforehand."""
    if isinstance(node, p.Source):
        return 0
    if isinstance(node, p.AsofJoin | p.IntervalJoin | p.Unique | p.TableJoin):
        return None
    below = _span(node.input)
    if below is None or not isinstance(node, p.Aggregate | p.WindowSqlStep):
        return below
    delay = node.delay if node.delay is not None else next(p.sources_of(node)).scan.info().delay
    if node.window.kind == "session" or delay == FOREVER:
        return None
    longest = node.window.size if node.window.kind == "sliding" else node.window.longest
    return below + longest + delay


def results(plan: p.Node, start: Any, emit: str, timeout: float | None) -> Iterator[pl.DataFrame]:
    """Yield result frames in the foreground, as they come."""
    wanted, reading = begin_at(plan, start)
    runner = Runner(plan, starts=reading, stops=wanted, raw=True)
    emission = Changes(runner) if emit == "changes" else Finals(runner)
    while runner.step() is not None:
        pass
    idle = time.monotonic()
    while True:
        serials = _serials(runner)
        runner.look()
        while (frame := runner.step()) is not None:
            out = emission.take(frame)
            idle = time.monotonic()
            if out.height:
                yield visible(out)
                idle = time.monotonic()
        if _bounded(runner) or not _await(runner, serials, idle, timeout, None):
            return


def _bounded(runner: Runner) -> bool:
    """Whether nothing can come any more: all sources are views that were read."""
    return all(source.scan.fixed is not None for source in runner.sources)


def _serials(runner: Runner) -> list[int]:
    return [source.scan.log.reader.head.serial() for source in runner.sources]


def _await(
    runner: Runner, serials: list[int], since: float, timeout: float | None,
    stop: threading.Event | None,
) -> bool:  # fmt: skip
    """Wait until a source has news; whether it has, before the timeout or a stop."""
    started, pause = time.monotonic(), FIRST_PAUSE
    logs = [source.scan.log for source in runner.sources]
    while _serials(runner) == serials:
        if stop is not None and stop.is_set():
            return False
        now = time.monotonic()
        if timeout is not None and now - since >= timeout:
            return False
        logs[0].nap(pause)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE + (now - started) / 50)
    return True


# -- one job -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spec:
    """What a job is to do, as it is remembered."""

    name: str
    into: dict[str, Any]
    emit: str
    lines: list[str]
    digest: str
    wanted: list[int]
    reading: list[int]
    generation: int = 1
    created: float = 0.0

    def content(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"format": 1, **self.__dict__}


class Job:
    """A query that runs; made by ``query.run(...)``.

    ``status`` is ``"running"``, ``"stopped"`` or ``"failed"``; `error` says why it failed.
    """

    def __init__(
        self, spec: Spec, plan: p.Node, sink: Sink, lock: FileLock, *, follow: bool
    ) -> None:
        self.name = spec.name
        self.status = "running"
        self.error: BaseException | None = None
        self._spec, self._plan, self._sink, self._lock = spec, plan, sink, lock
        self._follow = follow
        self._stop, self._resume = threading.Event(), threading.Event()
        self._resume.set()
        self._turn = threading.Condition()
        self._runner: Runner | None = None
        self._seen: tuple[tuple[int, int], ...] = ()
        self._base = dict.fromkeys(("rows_in", "rows_out", "rows_late", "rows_partly_late"), 0)
        self._epoch = 0
        self._dirty = False
        self._recorded = 0.0
        self._rate: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._main, name=f"streamlab job {spec.name}", daemon=True)

    def _begin(self) -> Job:
        self._thread.start()
        return self

    # -- what users do -----------------------------------------------------------------------

    def stop(self, timeout: float | None = 60.0) -> Job:
        """Stop after what is under way, and record the place; run the query again to go on."""
        self._stop.set()
        self._resume.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
        return self

    def pause(self) -> Job:
        """Take no more rows until `resume`."""
        self._resume.clear()
        return self

    def resume(self) -> Job:
        """Go on after a `pause`."""
        self._resume.set()
        return self

    def wait(self, timeout: float | None = None, *, caught_up: bool = True) -> Job:
        """Return when everything there was at the call is processed and delivered.

        With ``caught_up=False``: when the job ends.

        Raises:
            TimeoutError: it takes longer than ``timeout`` seconds.
            StreamlabError: the job failed; its error is raised.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        target = self._target() if caught_up else None
        with self._turn:
            while self.status == "running" and not self._reached(target):
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise TimeoutError(f'job "{self.name}" is not there yet: {self.progress}')
                self._turn.wait(left)
        if self.error is not None:
            raise self.error
        if not caught_up:
            self._thread.join()
        return self

    async def wait_async(self, timeout: float | None = None, *, caught_up: bool = True) -> Job:
        """`wait`, for ``await``."""
        return await asyncio.to_thread(self.wait, timeout, caught_up=caught_up)

    def _target(self) -> list[tuple[int, int]]:
        found = []
        for source in p.sources_of(self._plan):
            snapshot = source.scan.fix(pin=False)
            whole = snapshot.stop == snapshot.moment.end
            found.append((snapshot.stop, snapshot.moment.stream_time if whole else NEVER))
        return found

    def _reached(self, target: list[tuple[int, int]] | None) -> bool:
        if target is None or not self._seen:
            return False
        return all(
            seen >= stop and now >= stream_time
            for (seen, now), (stop, stream_time) in zip(self._seen, target, strict=True)
        )

    def frame(self) -> pl.DataFrame:
        """Return the last results of a job without a sink (the last 100,000 rows or so)."""
        import polars as pl

        if not isinstance(self._sink, MemorySink):
            raise QueryError(f'the results of job "{self.name}" are in {self._spec.into}')
        empty = self._sink.empty
        return pl.concat([*([] if empty is None else [empty]), *self._sink.frames])

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        runner = self._runner
        if runner is None:
            return Progress(**self._base)
        mark = runner.watermark
        when = None
        with contextlib.suppress(OverflowError):
            import datetime as dt

            when = None if mark in (NEVER, FOREVER) else EPOCH + dt.timedelta(microseconds=mark)
        lag = 0
        with contextlib.suppress(StreamlabError, OSError):
            lag = sum(
                max(0, source.scan.fix(pin=False).stop - source.position)
                for source in runner.sources
            )
        counts = {name: base + getattr(runner, name) for name, base in self._base.items()}
        return Progress(**counts, watermark=when, lag_rows=lag, rows_per_s=self._speed())

    def _speed(self) -> float:
        recent = list(self._rate)
        if len(recent) < 2 or time.monotonic() - recent[-1][0] > 2.0:
            return 0.0
        return (recent[-1][1] - recent[0][1]) / max(recent[-1][0] - recent[0][0], 1e-9)

    def __repr__(self) -> str:
        into = self._spec.into
        where = into.get("stream") or into.get("table") or into.get("function") or "memory"
        text = f'Job "{self.name}" into {where}: {self.status}, {self.progress}'
        return text if self.error is None else f"{text}\n  {type(self.error).__name__}: {self.error}"

    # -- the thread --------------------------------------------------------------------------

    def _main(self) -> None:
        status = "stopped"
        try:
            self._run()
        except Exception as error:  # noqa: BLE001 - an error ends the job, not the kernel
            error.__notes__ = [*getattr(error, "__notes__", []), f'in job "{self.name}"']
            self.error, status = error, "failed"
            self._trace = traceback.format_exc()
        finally:
            with contextlib.suppress(Exception):
                self._sink.close()
            self._lock.release()
            with self._turn:
                self.status = status
                self._turn.notify_all()

    def _run(self) -> None:
        runner = self._restored()
        while not self._stop.is_set():
            serials = _serials(runner)
            runner.look()
            while not self._stop.is_set():
                self._resume.wait()
                if not self._step(runner):
                    break
            self._turned(runner)
            if self._stop.is_set() or not self._follow or _bounded(runner):
                break
            if not _await(runner, serials, time.monotonic(), RECORD_SECONDS if self._dirty else None, self._stop):
                self._record(runner)
        self._record(runner)

    def _step(self, runner: Runner) -> bool:
        frame = runner.step()
        if frame is None:
            return False
        out = self._emission.take(frame)
        now = time.monotonic()
        self._rate = [*self._rate[-20:], (now, runner.rows_in)]
        if out.height:
            self._epoch += 1
            state = self._state(runner)
            self._secure(runner)
            self._sink.pin(state)
            self._sink.deliver(out, state, runner.mark)
            self._recorded, self._dirty = now, False
        else:
            self._dirty = True
            if now - self._recorded > RECORD_SECONDS:
                self._record(runner)
        return True

    def _record(self, runner: Runner) -> None:
        if self._dirty:
            self._secure(runner)
            self._sink.record(self._state(runner), runner.mark)
            self._recorded, self._dirty = time.monotonic(), False

    def _turned(self, runner: Runner) -> None:
        """Tell those who wait how far everything is delivered."""
        if self._dirty and all(source.lag == 0 for source in runner.sources):
            self._record(runner)
        with self._turn:
            self._seen = tuple((s.position, s.stream_time) for s in runner.sources)
            self._turn.notify_all()

    def _secure(self, runner: Runner) -> None:
        """Make the rows durable that a place rests on, before the place is."""
        for source in runner.sources:
            if source.scan.log.writer.policy.sync != "os":
                source.scan.log.make_durable(source.position)

    def _state(self, runner: Runner) -> dict[str, Any]:
        counts = {name: base + getattr(runner, name) for name, base in self._base.items()}
        since = runner.since()
        for source, offset in zip(runner.sources, since, strict=True):
            if source.scan.fixed is None:
                source.scan.log.hold(self._hold, offset)
        return {
            "job": self.name,
            "digest": self._spec.digest,
            "epoch": self._epoch,
            "positions": list(runner.positions),
            "since": list(since),
            "stream_times": [source.stream_time for source in runner.sources],
            "appended": [
                source.scan.log.reader.append_time_below(source.position) for source in runner.sources
            ],
            **counts,
        }

    @property
    def _hold(self) -> str:
        return f"job-{self.name}"

    def _restored(self) -> Runner:
        """Return a runner in the state in which the job was."""
        template = Runner(self._plan, starts=self._spec.reading, stops=self._spec.reading, raw=True)
        emission = Changes if self._spec.emit == "changes" else Finals
        state = self._sink.open(emission(template).empty)
        starts = self._spec.reading if state is None else state["since"]
        stops = self._spec.wanted if state is None else state["positions"]
        if state is not None:
            self._check_history(state)
        runner = Runner(self._plan, starts=starts, stops=stops, raw=True)
        while runner.step() is not None:
            if self._stop.is_set():
                break
        self._emission = emission(runner)
        if state is not None:
            self._emission.resume()
            self._base = {name: int(state[name]) for name in self._base}
            self._epoch = int(state["epoch"])
        self._base = {name: base - getattr(runner, name) for name, base in self._base.items()}
        self._runner = runner
        if state is not None and state.get("pinned"):
            self._again(runner, state["pinned"])
        return runner

    def _again(self, runner: Runner, pinned: list[int]) -> None:
        """Deliver the epoch again that was pinned and perhaps not delivered."""
        import polars as pl

        runner.look(pinned)
        frames = []
        while (frame := runner.step()) is not None:
            frames.append(self._emission.take(frame))
        frames = [frame for frame in frames if frame.height]
        if frames:
            self._epoch += 1
            self._sink.deliver(pl.concat(frames), self._state(runner), runner.mark)

    def _check_history(self, state: dict[str, Any]) -> None:
        """See that the inputs are the ones that the state rests on.

        Raises:
            HistoryChanged: they are others: rows were lost and others came in their place.
            OffsetOutOfRange: rows that the open windows need are gone.
        """
        for source, position, since, appended in zip(
            p.sources_of(self._plan), state["positions"], state["since"], state["appended"], strict=True
        ):
            snapshot = source.scan.fix(pin=False)
            found = source.scan.log.reader.append_time_below(position) if position <= snapshot.stop else -1
            if found != appended and not (found is None and position > 0 and since == position):
                raise HistoryChanged(
                    f'stream "{source.name}" does not hold the rows that job "{self.name}" has read: it '
                    f"read up to offset {position}, and the stream ends at {snapshot.stop}"
                    if found == -1 else
                    f'stream "{source.name}" holds other rows below offset {position} than job '
                    f'"{self.name}" has read',
                    hint="run(..., restart=True) begins anew",
                )  # fmt: skip
            if since < snapshot.start:
                raise OffsetOutOfRange(
                    f'rows [{since}, {snapshot.start}) of stream "{source.name}", which the open windows '
                    f'of job "{self.name}" need, have been removed',
                    asked=since, available=range(snapshot.start, snapshot.stop),
                )  # fmt: skip


# -- all jobs of a lab ---------------------------------------------------------------------------


class Jobs(Mapping[str, Job]):
    """The jobs of a lab that this handle has started; ``lab.jobs``."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._running: dict[str, Job] = {}
        self._lock = threading.RLock()

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
        return sorted(path.stem for path in self._folder.glob("*.json") if ".state" not in path.name)

    def stop_all(self) -> None:
        """Stop every job that runs."""
        with self._lock:
            jobs = list(self._running.values())
        for job in jobs:
            job._stop.set()
            job._resume.set()
        for job in jobs:
            job.stop()

    def start(
        self, plan: p.Node, into: Any, *, start: Any, emit: str, follow: bool, name: str | None, restart: bool
    ) -> Job:
        """Start a job, or return the one that is this query already.

        Raises:
            QueryError: the name is another query's.
        """
        self._lab._writable()
        target = _target_of(into)
        name = name or _name_of(plan, target)
        check_name(name, [])
        with self._lock:
            running = self._running.get(name)
            known = self._remembered(name)
            digest = fingerprint(plan, emit, start, target)
            if known is not None and known.digest != digest and not restart:
                raise _another(known, p.describe(plan), emit, target)
            if running is not None and running.status == "running":
                if not restart:
                    return running
                running.stop()
            if restart and known is not None:
                self._forget(known, into)
            if known is None or restart:
                known = self._remember(name, plan, target, emit, start, digest, known)
            lock = FileLock(self._folder / f"{name}.lock", f'job "{name}"')
            lock.acquire(10.0)
            try:
                sink = self._sink(known, plan, into)
            except BaseException:
                lock.release()
                raise
            job = Job(known, plan, sink, lock, follow=follow)
            self._running[name] = job
            return job._begin()

    def _remembered(self, name: str) -> Spec | None:
        path = self._folder / f"{name}.json"
        try:
            content = load_json(disk.read(path), path)
        except FileNotFoundError:
            return None
        content.pop("format")
        return Spec(**content)

    def _remember(
        self, name: str, plan: p.Node, target: dict[str, Any], emit: str, start: Any, digest: str,
        before: Spec | None,
    ) -> Spec:  # fmt: skip
        wanted, reading = begin_at(plan, start)
        generation = 1 if before is None else before.generation + 1
        spec = Spec(
            name, target, emit, [*p.describe(plan), f"emit {emit}", f"start {start}"], digest,
            wanted, reading, generation, time.time(),
        )  # fmt: skip
        if "memory" not in target:
            with contextlib.suppress(FileExistsError):
                disk.make_dir(self._folder)
            disk.replace_file(self._folder / f"{name}.json", dump_json(spec.content()))
        else:
            with contextlib.suppress(FileExistsError):
                disk.make_dir(self._folder)
        return spec

    def _forget(self, known: Spec, into: Any) -> None:
        """Make room for a new generation; the results of the old one stay beside it."""
        state = self._folder / f"{known.name}.state.json"
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(state)
        stream = known.into.get("stream")
        if stream and stream in self._lab:
            old = self._lab[stream]
            self._lab.create(f"{stream}.generation-{known.generation}", old, time=old.time)
            self._lab.drop(stream)
        if isinstance(into, DuckDB):
            DuckDBSink(into, known.name, known.digest).forget()
        disk.unlink(self._folder / f"{known.name}.json")

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
        runner = Runner(plan, starts=spec.reading, stops=spec.reading, raw=True)
        empty = (Changes if spec.emit == "changes" else Finals)(runner).empty
        time_column = _time_of(plan, spec.emit, visible(empty).columns)
        if name not in self._lab:
            schema = derived_schema(empty)
            delay = _delay_text(runner.delay)
            stream = self._lab.create(name, schema, time=time_column, delay=delay,
                                      settings=Settings(max_ahead=None))  # fmt: skip
            catalog = stream._catalog
            catalog.save(replace(catalog.info(name), job=spec.name))
        stream = self._lab[name]
        owner = stream._info.job
        if owner != spec.name:
            raise StreamExists(
                f'there is a stream "{name}" already that is not the result of job "{spec.name}"',
                hint="choose another name for the results",
            )
        return StreamSink(stream, time_column)


def _delay_text(delay: int) -> Any:
    import datetime as dt

    return "inf" if delay == FOREVER else dt.timedelta(microseconds=delay)


def _time_of(plan: p.Node, emit: str, names: list[str]) -> str | None:
    """Return the event-time column of what a plan gives."""
    if emit == "changes":
        return None  # rows of windows to come would run ahead of stream time
    if p.windowed(plan) is not None:
        if "window_time" in names:
            return "window_time"
        raise QueryError(
            "the results have no window_time, which is the event time of a derived stream",
            hint="keep window_time in the select",
        )
    node = plan
    while not isinstance(node, p.Source):
        if isinstance(node, p.IntervalJoin):
            return "pair_time"
        node = p.inputs_of(node)[0]
    column = node.scan.info().time
    if column is not None and column not in names:
        raise QueryError(
            f"the results lack {column!r}, the event time of {node.name}",
            hint=f"keep it: .select(..., {column!r})",
        )
    return column


def _target_of(into: Any) -> dict[str, Any]:
    if into is None:
        return {"memory": True}
    if isinstance(into, str):
        return {"stream": into}
    if isinstance(into, DuckDB):
        return {"table": into.table, "database": into.path if isinstance(into.path, str) else ":open:"}
    if callable(into):
        return {"function": getattr(into, "__qualname__", type(into).__name__)}
    raise QueryError(
        f"into is a stream's name, sl.duckdb(path, table=...), a function or None; got {into!r}"
    )


def _name_of(plan: p.Node, target: dict[str, Any]) -> str:
    if "stream" in target:
        return str(target["stream"])
    source = next(p.sources_of(plan)).name
    end = target.get("table") or target.get("function", "memory").rsplit(".", 1)[-1].strip("<>")
    return f"{source}-{end}"


def fingerprint(plan: p.Node, emit: str, start: Any, target: dict[str, Any]) -> str:
    """Return a text that is the same for the same query, and for no other."""
    parts = [*p.describe(plan), emit, str(start), str(sorted(target.items()))]
    parts += [source.scan.log.stream for source in p.sources_of(plan)]
    parts += list(_contents(plan))
    return f"{checksum(chr(10).join(parts).encode()):016x}"


def _contents(node: p.Node) -> Iterator[str]:
    """Yield what a description leaves out: literals, the code of functions, frames."""
    from streamlab.aggregate import tree

    for other in p.inputs_of(node):
        yield from _contents(other)
    if isinstance(node, p.Filter):
        yield from (str(tree(e)) for e in node.conditions)
    elif isinstance(node, p.Project | p.Aggregate):
        yield from (str(tree(e)) for e in node.columns)
    elif isinstance(node, p.MapBatches):
        code = getattr(node.function, "__code__", None)
        yield "" if code is None else f"{code.co_code.hex()} {code.co_consts}"
    elif isinstance(node, p.FrameJoin):
        yield str(node.frame.hash_rows(seed=0).sum())


def _another(known: Spec, lines: list[str], emit: str, target: dict[str, Any]) -> QueryError:
    now = [*lines, f"emit {emit}"]
    was = known.lines
    gone = [f"  - {line.strip()}" for line in was if line not in now and not line.startswith("start")]
    new = [f"  + {line.strip()}" for line in now if line not in was]
    where = f"into {target}" if target != known.into else ""
    difference = "\n".join([*gone, *new]) or f"  another start or content {where}"
    return QueryError(
        f'job "{known.name}" is another query:\n{difference}',
        hint="restart=True begins anew and keeps the old results beside; name= makes a job of its own",
    )


