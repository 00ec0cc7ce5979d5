"""A process that forks lives of copies into DuckDB, each of which may be killed; driven line by line.

It imports everything and computes nothing itself: what a library's threads hold would be lost in a
fork. `deadly.c`, preloaded, kills a life at the n-th change that it makes to the DuckDB file.
"""

import ctypes
import signal
import time

import duckdb
import polars as pl  # noqa: F401
import pyarrow as pa
import pyarrow.dataset
from job_lives import serve

import streamlab as sl
from streamlab import ducktable

BASE = 1_767_600_000_000_000


def rows(start, stop):
    """The rows of a stretch, as a formula gives them."""
    places = range(start, stop)
    return pa.table(
        {
            "ts": pa.array([BASE + n * 1000 for n in places], pa.timestamp("us", "UTC")),
            "text": pa.array([f"row {n % 1013}" if n % 7 else None for n in places], pa.string()),
            "number": pa.array([n * 0.5 for n in places], pa.float64()),
        }
    )


def setup(command):
    """Fill a lab with rows."""
    with sl.open(command["path"], sync="os") as lab:
        stream = lab.create("s", rows(0, 0).schema, time="ts")
        for start in range(0, command["rows"], 5000):
            stream.append(rows(start, min(start + 5000, command["rows"])))


def deadly(command):
    """Arrange the death of this life; return what counts its changes."""
    if command.get("after"):
        signal.setitimer(signal.ITIMER_REAL, command["after"])
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    shim = ctypes.CDLL(None)
    if hasattr(shim, "arm"):
        shim.arm(command.get("at", 0), command.get("how", 0))
        shim.changes.restype = ctypes.c_long
        return shim.changes
    return lambda: 0


def sabotage():
    """The control: the place is committed in a transaction of its own, and the check is left out."""
    added = ducktable._Copy._added

    def apart(self, place, told):
        place = added(self, place, told)
        self.connection.execute("COMMIT")
        self.connection.execute("BEGIN")
        return place

    ducktable._Copy._added = apart
    ducktable._Copy._check_table = lambda self, place: None


def life(command):
    """Copy, perhaps to die on the way; return how many changes it made."""
    ducktable.CHUNK_ROWS = command["chunk"]
    if command.get("control"):
        sabotage()
    changes = deadly(command)
    with sl.open(command["path"], sync="os") as lab:
        lab["s"].to_duckdb(command["database"])
    return changes()


def mirror(command):
    """Append rows while a mirror copies them, perhaps to die on the way."""
    deadly(command)
    with sl.open(command["path"], sync="os") as lab:
        stream = lab["s"]
        stream.flush()  # rows whose writer died before it could tell are counted from here on
        job = stream.to_duckdb(command["database"], follow=True)
        for _ in range(20):
            end = stream.end_offset
            stream.append(rows(end, end + 50))
            time.sleep(0.005)
        job.wait(60)


def found(command):
    """Return what is wrong with a table, after one more call that nobody kills."""
    with sl.open(command["path"], sync="os") as lab:
        end = lab["s"].end_offset
        try:
            lab["s"].to_duckdb(command["database"])
        except sl.StreamlabError as error:
            return [f"{type(error).__name__}: {error}"]
    with duckdb.connect(command["database"]) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        table = connection.sql("FROM s ORDER BY _offset").to_arrow_table()
    offsets = table["_offset"].to_pylist()
    doubled, missing = len(offsets) - len(set(offsets)), set(range(end)) - set(offsets)
    wrong = [f"{doubled} rows doubled"] if doubled else []
    wrong += [f"{len(missing)} rows missing"] if missing else []
    if not wrong and not table.select(["ts", "text", "number"]).equals(rows(0, end)):
        wrong.append("other values")
    return wrong


if __name__ == "__main__":
    serve({"setup": setup, "life": life, "mirror": mirror, "found": found})
