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
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from streamlab import plan as p
from streamlab.behind import Behind
from streamlab.clock import FOREVER, NEVER
from streamlab.duration import EPOCH
from streamlab.engines.changes import Changes, Finals
from streamlab.engines.local import Runner
from streamlab.engines.run import await_news, await_places, bounded, serials
from streamlab.errors import (
    HistoryChanged,
    OffsetOutOfRange,
    QueryError,
    StreamlabError,
)
from streamlab.habits import job_hint
from streamlab.log.lock import FileLock
from streamlab.shown import Shown, notebook
from streamlab.sinks import MemorySink, Sink, StreamSink

if TYPE_CHECKING:
    import datetime as dt

    import polars as pl


__all__ = ["Job", "Progress", "Spec"]

LOOK_SECONDS = 0.5
RECORD_SECONDS = 1.0
"""Places after which there were no results are recorded at most so often."""

MANY_ROWS = 50_000
"""So many results are delivered while the next are computed, if there is more to take."""


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

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)

    def __str__(self) -> str:
        mark = "-" if self.watermark is None else self.watermark.isoformat().replace("+00:00", "Z")
        return (
            f"{self.rows_in:,} rows in, {self.rows_out:,} out, {self.rows_late:,} late, "
            f"{self.rows_partly_late:,} partly late, {self.lag_rows:,} behind, "
            f"{self.rows_per_s:,.0f} rows/s, watermark {mark}"
        )


def _counted(counts: dict[str, int]) -> Progress:
    return Progress(
        counts["rows_in"], counts["rows_out"], counts["rows_late"], counts["rows_partly_late"]
    )


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
    times: list[int]
    reading: list[int]
    edge: int | None = None  # rows at or before this time may have been missing from the first
    generation: int = 1
    created: float = 0.0

    def content(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"format": 1, **self.__dict__}


class Job(Shown):
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
        self._ended = threading.Event()
        self._resume.set()
        self._turn = threading.Condition()
        self._runner: Runner | None = None
        self._seen: tuple[tuple[int, int], ...] = ()
        self._base = dict.fromkeys(("rows_in", "rows_out", "rows_late", "rows_partly_late"), 0)
        self._epoch = 0
        self._dirty = False
        self._placed: dict[str, Any] = {}
        self._behind = Behind(f"streamlab deliveries of {spec.name}")
        self._recorded = 0.0
        self._kept = float("-inf")
        self._held_back = False  # rows are kept that are needed no more
        self._rate: list[tuple[float, int]] = []
        self._thread = threading.Thread(
            target=self._main, name=f"streamlab job {spec.name}", daemon=True
        )

    def _begin(self) -> Job:
        self._thread.start()
        return self

    # -- what users do -----------------------------------------------------------------------

    def stop(self, timeout: float | None = 60.0) -> Job:
        """Stop after what is under way, and record the place; run the query again to go on."""
        self._stop.set()
        self._resume.set()
        if threading.current_thread() is not self._thread:
            until = time.monotonic() + (threading.TIMEOUT_MAX if timeout is None else timeout)
            # A join that Ctrl-C broke off would not wait again; in a forked process there is no thread.
            while self._thread.is_alive() and (left := until - time.monotonic()) > 0:
                if self._ended.wait(min(left, LOOK_SECONDS)):
                    break
        return self

    def pause(self) -> Job:
        """Take no more rows until `resume`."""
        self._resume.clear()
        return self

    def resume(self) -> Job:
        """Go on after a `pause`."""
        self._resume.set()
        return self

    @property
    def paused(self) -> bool:
        """Whether it takes no rows until `resume`."""
        return not self._resume.is_set()

    def live(self) -> Any:
        """Show what it does: rows, rates, late rows, how far behind, with buttons; returns at once.

        Raises:
            MissingExtra: widgets are not installed; says the pip line.
        """
        title = f"Job {self.name}"
        return notebook("panels").JobPanel(
            lambda: {self.name: self}, list, title, self, single=True
        )

    def wait(self, timeout: float | None = None, *, caught_up: bool = True) -> Job:
        """Return when everything there was at the call is processed and delivered.

        With ``caught_up=False``: when the job ends.

        Raises:
            TimeoutError: it takes longer than ``timeout`` seconds.
            StreamlabError: the job failed; its error is raised.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        target = self._target() if caught_up else None
        while not self._awaited(target, deadline):
            pass
        return self

    def _awaited(self, target: Any, deadline: float | None) -> bool:
        """Wait for a moment; return whether what is waited for is there.

        An untimed wait would miss Ctrl-C, and keep a thread that nobody awaits any more.
        """
        with self._turn:
            left = LOOK_SECONDS if deadline is None else deadline - time.monotonic()
            if self.status == "running" and not self._reached(target):
                if left <= 0:
                    raise TimeoutError(f'job "{self.name}" is not there yet: {self.progress}')
                self._turn.wait(min(left, LOOK_SECONDS))
            if self.status == "running" and not self._reached(target):
                return False
        if self.error is not None:
            raise self.error
        if target is None:
            self._ended.wait()
        return True

    async def wait_async(self, timeout: float | None = None, *, caught_up: bool = True) -> Job:
        """`wait`, for ``await``."""
        deadline = None if timeout is None else time.monotonic() + timeout
        target = await asyncio.to_thread(self._target) if caught_up else None
        while not await asyncio.to_thread(self._awaited, target, deadline):
            pass
        return self

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
            where = self._where
            raise QueryError(
                f'the results of job "{self.name}" are not in memory: they go into {where}',
                hint=f"lab[{where!r}]" if "stream" in self._spec.into else None,
            )
        empty = self._sink.empty
        return pl.concat([*([] if empty is None else [empty]), *self._sink.frames])

    @property
    def progress(self) -> Progress:
        """How far it has come."""
        runner = self._runner
        if runner is None:
            return _counted(self._base)
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
        return replace(_counted(counts), watermark=when, lag_rows=lag, rows_per_s=self._speed())

    def _speed(self) -> float:
        recent = list(self._rate)
        if len(recent) < 2 or time.monotonic() - recent[-1][0] > 2.0:
            return 0.0
        return (recent[-1][1] - recent[0][1]) / max(recent[-1][0] - recent[0][0], 1e-9)

    @property
    def _where(self) -> str:
        into = self._spec.into
        return into.get("stream") or into.get("table") or into.get("function") or "memory"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name, name=name, obj=self)
        raise AttributeError(job_hint(name, Progress.__annotations__), name=name, obj=self)

    def __repr__(self) -> str:
        text = f'Job "{self.name}" into {self._where}: {self.status}, {self.progress}'
        return (
            text if self.error is None else f"{text}\n  {type(self.error).__name__}: {self.error}"
        )

    # -- the thread --------------------------------------------------------------------------

    def _main(self) -> None:
        status = "stopped"
        try:
            self._run()
        except BaseException as caught:  # noqa: BLE001 - an error ends the job, not the kernel
            error = caught
            if not isinstance(error, Exception):  # sys.exit(), or a panic of a library
                error = QueryError(f"{type(caught).__name__}: {caught}")
                error.__cause__ = caught
            error.__notes__ = [*getattr(error, "__notes__", []), f'in job "{self.name}"']
            self.error, status = error, "failed"
            self._trace = traceback.format_exc()
        finally:
            with contextlib.suppress(BaseException):  # it is that error, or comes of it
                self._behind.finish()
            with contextlib.suppress(Exception):
                self._sink.close()
            self._lock.release()
            with self._turn:
                self.status = status
                self._turn.notify_all()
            self._ended.set()

    def _run(self) -> None:
        runner = self._restored()
        if runner is None:
            return
        while not self._stop.is_set():
            looked = serials(runner)
            runner.look()
            while not self._stop.is_set():
                if not self._resume.wait(LOOK_SECONDS):  # a stop may have come before the pause
                    continue
                if not self._step(runner):
                    break
            self._turned(runner)
            if self._stop.is_set() or not self._follow or bounded(runner):
                break
            if not await_news(
                runner,
                looked,
                time.monotonic(),
                RECORD_SECONDS if self._dirty or self._held_back else None,
                self._stop,
            ):
                self._record(runner)
                self._keep(runner, now=True)
        self._record(runner)
        self._keep(runner, now=True)

    def _step(self, runner: Runner) -> bool:
        frame = runner.step()
        if frame is None:
            return False
        out = self._emission.take(frame)
        now = time.monotonic()
        self._rate = [*self._rate[-20:], (now, runner.rows_in)]
        if out.height:
            self._epoch += 1
            self._recorded, self._dirty = now, False
            work = self._delivery(runner, out)
            many = out.height >= MANY_ROWS and any(source.lag for source in runner.sources)
            if many and isinstance(self._sink, StreamSink):  # a function stays in its thread
                self._behind.begin(work)
            else:
                self._behind.finish()
                work()
        else:
            self._dirty = True
            if now - self._recorded > RECORD_SECONDS:
                self._record(runner)
        return True

    def _delivery(self, runner: Runner, out: pl.DataFrame) -> Callable[[], None]:
        """Return what delivers results with the place at which the runner is now."""
        state, mark = self._state(runner), runner.mark
        secure = self._secure(runner)

        def work() -> None:
            secure()
            self._sink.pin(self._placed, state)
            self._sink.deliver(out, state, mark)
            self._placed = state
            self._keep(runner)

        return work

    def _record(self, runner: Runner) -> None:
        self._behind.finish()
        if self._dirty:
            self._secure(runner)()
            state = self._state(runner)
            self._sink.record(state, runner.mark)
            self._placed = state
            self._keep(runner)
            self._recorded, self._dirty = time.monotonic(), False

    def _turned(self, runner: Runner) -> None:
        """Tell those who wait how far everything is delivered."""
        self._behind.finish()
        if self._dirty and all(source.lag == 0 for source in runner.sources):
            self._record(runner)
        with self._turn:
            self._seen = tuple((s.position, s.stream_time) for s in runner.sources)
            self._turn.notify_all()

    def _secure(self, runner: Runner) -> Callable[[], None]:
        """Return what makes the rows durable that a place rests on, to be done before the place is."""
        places = [
            (source.scan.log, source.position)
            for source in runner.sources
            if source.scan.log.writer.policy.sync != "os"
        ]

        def secure() -> None:
            for log, position in places:
                log.make_durable(position)

        return secure

    def _state(self, runner: Runner) -> dict[str, Any]:
        counts = {name: base + getattr(runner, name) for name, base in self._base.items()}
        return {
            "job": self.name,
            "digest": self._spec.digest,
            "epoch": self._epoch,
            "positions": list(runner.positions),
            "since": list(runner.since()),
            "stream_times": [source.stream_time for source in runner.sources],
            "appended": [
                source.scan.log.reader.append_time_below(source.position)
                for source in runner.sources
            ],
            **counts,
        }

    def _keep(self, runner: Runner, *, now: bool = False) -> None:
        """Keep the rows from retention that are needed to go on; an older hold keeps more."""
        self._held_back = time.monotonic() - self._kept < RECORD_SECONDS and not now
        if self._held_back:
            return
        self._kept = time.monotonic()
        for source, offset in zip(runner.sources, self._placed["since"], strict=True):
            if source.scan.fixed is None:
                source.scan.log.hold(f"job-{self.name}", offset)

    def _restored(self) -> Runner | None:
        """Return a runner in the state in which the job was; None if its replay does not get there."""
        template = Runner(self._plan, edge=self._spec.edge, raw=True)
        emission = Changes if self._spec.emit == "changes" else Finals
        state = self._sink.open(emission(template).empty)
        starts = self._spec.reading if state is None else state["since"]
        stops = self._spec.wanted if state is None else state["positions"]
        times = self._spec.times if state is None else state["stream_times"]
        reached = [NEVER] * len(stops)
        if state is not None:
            self._check_history(state)
            reached = state["stream_times"]
            self._base = {name: int(state[name]) for name in self._base}
            self._epoch = int(state["epoch"])
            with self._turn:
                self._seen = tuple(zip(stops, reached, strict=True))
                self._turn.notify_all()
        if not await_places(self._plan, stops, reached, self._stop):
            return None
        runner = Runner(
            self._plan, starts=starts, stops=stops, times=times, edge=self._spec.edge, raw=True
        )
        while not self._stop.is_set() and runner.step() is not None:
            pass
        self._emission = emission(runner)
        if state is not None:
            self._emission.resume()
        self._base = {name: base - getattr(runner, name) for name, base in self._base.items()}
        self._runner = runner
        self._placed = self._state(runner)
        self._keep(runner)
        if state is not None and state.get("pinned") and not self._stop.is_set():
            self._again(runner, *state["pinned"])
        return runner

    def _again(self, runner: Runner, pinned: list[int], times: list[int]) -> None:
        """Deliver the epoch again that was pinned and perhaps not delivered."""
        import polars as pl

        runner.look(pinned, times)
        frames = []
        while (frame := runner.step()) is not None:
            frames.append(self._emission.take(frame))
        frames = [frame for frame in frames if frame.height]
        if frames:
            self._epoch += 1
            self._placed = self._state(runner)
            self._sink.deliver(pl.concat(frames), self._placed, runner.mark)
            self._keep(runner)

    def _check_history(self, state: dict[str, Any]) -> None:
        """See that the inputs are the ones that the state rests on.

        Raises:
            HistoryChanged: they are others: rows were lost and others came in their place.
            OffsetOutOfRange: rows that the open windows need are gone.
        """
        for source, position, since, appended in zip(
            p.sources_of(self._plan),
            state["positions"],
            state["since"],
            state["appended"],
            strict=True,
        ):
            scan = source.scan.recorded()
            snapshot = scan.fix(pin=False)
            found = scan.log.reader.append_time_below(position) if position <= snapshot.stop else -1
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
