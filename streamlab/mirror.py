"""A mirror: a job that keeps a table of a DuckDB database what its stream is.

It does what a plain ``to_duckdb`` does, again whenever there are new rows; its place is the table's own,
so plain calls and mirrors of one table take turns as they like, in any process. Between two
deliveries it leaves the file alone for at least as long as a delivery took, so that others can read.
"""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

from streamlab.clock import NEVER
from streamlab.duckfile import Busy, Database
from streamlab.ducktable import Copied, copy_rows, identity_of
from streamlab.errors import QueryError, StreamlabError
from streamlab.job import Job, Progress, Spec
from streamlab.jobs import OPEN, Jobs
from streamlab.log.format import checksum
from streamlab.sinks import MemorySink
from streamlab.steps import source_of

if TYPE_CHECKING:
    import polars as pl

    from streamlab.log.lock import FileLock
    from streamlab.scan import Scan

__all__ = ["Mirror", "mirror"]

REST_SECONDS = 0.02
"""The file is left alone for so long at least between two deliveries."""

RETRY_SECONDS = 0.1
LOOK_SECONDS = 0.1


def mirror(scan: Scan, jobs: Jobs, database: Database, table: str, name: str | None) -> Mirror:
    """Start the job that mirrors a scan in a table, or return it if it runs.

    Raises:
        QueryError: a job of that name does something else.
    """
    snapshot = scan.fix(pin=False)
    stream = snapshot.info.name
    lines = [f"{stream} -> {table} in {database}", f"rows {identity_of(scan, snapshot)}"]
    digest = f"{checksum(chr(10).join([*lines, database.identity]).encode()):016x}"
    into = {"table": table, "database": database.file or OPEN}
    name = name or _name_of(stream, database, table)
    spec = Spec(name, into, "final", lines, digest, [0], [NEVER], [0], created=time.time())
    found = jobs.begin(spec, lambda lock: Mirror(spec, scan, database, lock))
    assert isinstance(found, Mirror)
    return found


def _name_of(stream: str, database: Database, table: str) -> str:
    """Return the name of a mirror: of letters that a file may have."""
    file = Path(database.file).stem or "memory"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{stream}-in-{file}-{table}")[:150].rstrip(".")


class Mirror(Job):
    """A job that keeps a DuckDB table current; made by ``stream.to_duckdb(..., follow=True)``."""

    def __init__(self, spec: Spec, scan: Scan, database: Database, lock: FileLock) -> None:
        super().__init__(spec, source_of(scan), MemorySink(), lock, follow=scan.fixed is None)
        self._scan, self._database, self._table = scan, database, spec.into["table"]
        self._copied = Copied(0, 0, 0)
        self._added = 0
        self._busy: str | None = None

    def _run(self) -> None:
        log, begun = self._scan.log, False
        while not self._stop.is_set():
            serial = log.reader.head.serial()
            self._resume.wait()
            if begun and not self._has_news():
                log.wait(serial, LOOK_SECONDS)
                continue
            took = self._deliver()
            begun = self._busy is None
            if begun and not self._follow:
                return
            self._stop.wait(max(took, REST_SECONDS) if begun else RETRY_SECONDS)

    def _has_news(self) -> bool:
        seen = self._scan.fix(pin=False)
        self._tell(seen.moment.stream_time)
        return seen.stop > self._copied.position

    def _deliver(self) -> float:
        """Bring the table up to the moment that is now; return how long that took."""
        started = time.monotonic()
        now = self._scan.fix(pin=False).moment.stream_time
        try:
            self._copied = copy_rows(self._scan, self._database, self._table, progress=False)
        except Busy as error:
            self._busy = error.message
            return 0.0
        self._busy = None
        self._added += self._copied.added
        self._rate = [*self._rate[-20:], (time.monotonic(), self._added)]
        if self._scan.fixed is None:
            self._scan.log.hold(f"job-{self.name}", self._copied.position)
        self._tell(now)
        return time.monotonic() - started

    def _tell(self, stream_time: int) -> None:
        with self._turn:
            self._seen = ((self._copied.position, stream_time),)
            self._turn.notify_all()

    @property
    def progress(self) -> Progress:
        """How far the table is: rows in it, and rows of the stream that are not."""
        rows, lag = self._copied.rows, 0
        with contextlib.suppress(StreamlabError, OSError):
            lag = max(0, self._scan.fix(pin=False).stop - self._copied.position)
        return Progress(rows, rows, lag_rows=lag, rows_per_s=self._speed())

    def frame(self) -> pl.DataFrame:
        """Say where the rows are.

        Raises:
            QueryError: always.
        """
        raise QueryError(f'the rows of job "{self.name}" are in {self._table} of {self._database}')

    def __repr__(self) -> str:
        waiting = f"\n  waiting: {self._busy}" if self._busy and self.status == "running" else ""
        return super().__repr__() + waiting
