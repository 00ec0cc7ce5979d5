"""A process that forks lives of jobs, each of which may be killed; driven line by line.

It imports everything and computes nothing itself: what a library's threads hold would be lost in a
fork. Commands are JSON on stdin: ``{"do": "setup" | "life" | "rows", ...}``; answers are JSON lines.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import duckdb
import polars as pl
from faults import dying

import streamlab as sl
from streamlab import job
from streamlab.engines import local, source

BASE = 1_767_600_000_000_000


def setup(command):
    """Fill a lab with events, a few at a time, some of them late."""
    with sl.open(command["path"]) as lab:
        schema = {"ts": pl.Datetime("us", "UTC"), "k": pl.String, "i": pl.Int64}
        stream = lab.create("events", pl.DataFrame(schema=schema), time="ts", delay="5s")
        for at in range(0, command["rows"], 7):
            seconds = [n * 4 - (40 if n % 11 == 0 else n % 3) for n in range(at, at + 7)]
            times = pl.Series([BASE + s * 1_000_000 for s in seconds]).cast(schema["ts"])
            names = ["ab"[n % 2] for n in range(at, at + 7)]
            stream.append(pl.DataFrame({"ts": times, "k": names, "i": list(range(at, at + 7))}))
            if at < command["rows"] / 2:
                stream.seal()
        stream.advance("end")


def queries(lab, path, events):
    """Yield the jobs of a life in order: a window, a window over it, a row-wise one, a table."""
    ten = events.window(sl.tumbling("10s"), by="k").agg(n=pl.len(), s=pl.col("i").sum())
    yield ten, "ten"
    yield (
        lab["ten"].window(sl.session("15s")).agg(n=pl.col("n").sum(), m=pl.col("s").median()),
        "five",
    )
    yield events.filter(pl.col("i") % 3 > 0), "some"
    if path:
        hop = events.window(sl.hopping("30s", "10s")).agg(n=pl.len(), last=pl.col("i").last())
        yield hop, sl.duckdb(path, table="hop")


def life(command):
    """Run the jobs to their ends, perhaps to die on the way."""
    local.EPOCH_ROWS = command["epoch"]
    source.AHEAD_ROWS = 2  # what is sealed is left to Polars to read
    job.MANY_ROWS = 1  # while one delivery is made, the next is computed
    if command.get("control") == "late place":
        late_place()
    elif command.get("control"):
        place_first()
    if command.get("at"):
        dying(command["at"], command["how"])
    if command.get("after"):
        signal.setitimer(signal.ITIMER_REAL, command["after"])
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    path = str(Path(command["path"]).parent / "results.duckdb") if command.get("database") else None
    lab = sl.open(command["path"])
    if "steps" in command:
        replayed(lab, path, command)
    else:
        for query, into in queries(lab, path, lab["events"]):
            query.run(into, follow=False).wait(60, caught_up=False)
    lab.close()


def replayed(lab, path, command):
    """Run the jobs over a replay that begins anew and goes in these steps; copy it to another lab."""
    other = sl.open(Path(command["path"]).parent / "copy", sync="os")
    with lab.replay("events", speed=float("inf")) as replay:
        feed = replay.into(other)
        jobs = []
        for query, into in queries(lab, path, replay["events"]):
            follow = into != "five"  # what runs over results ends with them
            jobs.append((query, into, query.run(into, follow=follow)))
        for step in command["steps"]:
            replay.step(step)
            jobs[0][2].wait(60)
        replay.seek("end")
        for query, into, running in jobs:
            running.wait(60, caught_up=False)
            if into == "five":
                query.run(into, follow=False).wait(60, caught_up=False)
        feed.wait(60, caught_up=False)
    other.close()


def place_first():
    """The control: the place is committed before the results."""
    from streamlab.sinks import StreamSink, plain, timed

    def deliver(self, frame, state, mark):
        self.record(state, None or mark)
        table = plain(timed(frame, self.time)).to_arrow()
        from streamlab.ingest import rows_of

        self.log.writer.append(rows_of(self.log, self.stream._info, table))

    StreamSink.deliver = deliver


def late_place():
    """The control: a delivery made behind notes the place at which the runner is by then."""
    real = job.Job._delivery

    def delivery(self, runner, out):
        def work():
            time.sleep(0.02)  # the runner goes on
            real(self, runner, out)()

        return work

    job.Job._delivery = delivery


def rows(command):
    """Return all results."""
    found = {}
    with sl.open(command["path"]) as lab:
        for name in ("ten", "five", "some"):
            if name in lab:
                frame = lab[name].to_polars().drop("_partition", "_append_time")
                found[name] = [str(row) for row in frame.rows()]
    copy = Path(command["path"]).parent / "copy"
    if copy.exists():
        with sl.open(copy) as lab, sl.open(command["path"]) as real:
            both = [one["events"].to_polars().drop("_append_time") for one in (lab, real)]
            times = [one["events"].stats().stream_time for one in (lab, real)]
            found["copied"] = both[0].equals(both[1]) and times[0] == times[1]
    database = Path(command["path"]).parent / "results.duckdb"
    if database.exists():
        with duckdb.connect(str(database)) as connection:
            found["hop"] = [str(row) for row in connection.execute("FROM hop").fetchall()]
    return found


def serve(deeds):
    """Do what each line of standard input asks for, each in a process of its own."""
    for line in sys.stdin:
        command = json.loads(line)
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read)
            code = 1
            try:
                answer = deeds[command["do"]](command)
                os.write(write, json.dumps(answer).encode())
                code = 0
            except BaseException as error:
                os.write(write, json.dumps(f"{type(error).__name__}: {error}").encode())
            finally:
                os._exit(code)
        os.close(write)
        with os.fdopen(read, "rb") as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        answer = {"killed": os.WIFSIGNALED(status), "code": os.waitstatus_to_exitcode(status),
                  "said": json.loads(said) if said else None}  # fmt: skip
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve({"setup": setup, "life": life, "rows": rows})
