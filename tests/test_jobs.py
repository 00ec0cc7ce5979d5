"""Jobs: run, resumed, refused, paused, failed, begun anew; and where their results go."""

import asyncio
import contextlib
import datetime as dt
import signal
import subprocess
import sys
import threading
import time

import duckdb
import polars as pl
import pytest

import streamlab as sl
from streamlab import job as running
from streamlab.engines import local
from streamlab.sinks import StreamSink
from streamlab.testing import temp_lab

BASE = dt.datetime(2026, 1, 5, 9, 30, tzinfo=dt.UTC)


@pytest.fixture
def lab():
    with temp_lab() as made:
        yield made


def events(first, count, every=1):
    return pl.DataFrame(
        {
            "ts": [BASE + dt.timedelta(seconds=(first + n) * every) for n in range(count)],
            "k": ["ab"[(first + n) % 2] for n in range(count)],
            "i": list(range(first, first + count)),
        }
    )


def stream_of(lab, count=100, delay="0s"):
    return lab.create("events", events(0, count), time="ts", delay=delay)


def counting(stream, size="10s"):
    return stream.window(sl.tumbling(size), by="k").agg(n=pl.len())


def test_running_a_cell_twice_changes_nothing(lab):
    """The same query under the same name is the same job, running or stopped."""
    query = counting(stream_of(lab))
    job = query.run("out").wait(10)
    assert query.run("out") is job
    before = len(lab["out"])
    job.stop()
    assert query.run("out").wait(10).stop().status == "stopped"
    assert len(lab["out"]) == before == 18


def test_another_query_is_refused_with_the_difference(lab):
    """A name belongs to its query; restart=True begins anew and keeps the old results."""
    stream = stream_of(lab)
    counting(stream).run("out").wait(10).stop()
    other = counting(stream, "20s")
    with pytest.raises(
        sl.QueryError, match=r"(?s)- window tumbling\(10s\).*\+ window tumbling\(20s\)"
    ):
        other.run("out")
    other.run("out", restart=True).wait(10).stop()
    assert len(lab["out"]) == 8
    assert len(lab["out.generation-1"]) == 18


def test_a_second_generation_can_be_followed_by_a_third(lab):
    """Beginning anew works again and again, also in a database."""
    stream = stream_of(lab)
    for size, rows in (("10s", 18), ("20s", 8), ("10s", 18)):
        counting(stream, size).run("out", restart=True).wait(10).stop()
        assert len(lab["out"]) == rows
    for size, rows in (("10s", 18), ("20s", 8)):
        path = lab.path.parent / "x.duckdb"
        counting(stream, size).run(sl.duckdb(path, table="t"), restart=True).wait(10).stop()
        with duckdb.connect(str(path)) as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchall() == [(rows,)]


def test_results_follow_rows_as_they_come(lab):
    """A running job delivers what new rows close, in milliseconds, without being asked."""
    stream = stream_of(lab, 100)
    job = counting(stream).run("out").wait(10)
    stream.append(events(100, 50))
    job.wait(10)
    assert len(lab["out"]) == 28
    stream.advance("end")
    job.wait(10)
    assert lab["out"].to_polars()["n"].sum() == 150


def test_a_chain_of_three_moves_on_by_heartbeats(lab):
    """Stream time goes through derived streams, also where they have no rows."""
    stream = stream_of(lab, 100)
    one = counting(stream).run("one")
    two = lab["one"].window(sl.tumbling("30s"), by="k").agg(n=pl.col("n").sum()).run("two")
    three = lab["two"].window(sl.tumbling("1m")).agg(n=pl.col("n").sum()).run("three")
    stream.advance(BASE + dt.timedelta(minutes=30))
    for job in (one, two, three):
        job.wait(10)
    assert lab["three"].to_polars()["n"].to_list() == [60, 40]
    assert lab["three"].to_polars()["window_start"][0] == BASE


def test_a_derived_stream_takes_no_other_rows(lab):
    """Nobody but its job appends to a derived stream, and a job takes no foreign stream."""
    stream = stream_of(lab)
    counting(stream).run("out").wait(10).stop()
    with pytest.raises(sl.ReadOnly, match="holds the results of job"):
        lab["out"].append({"k": "a"})
    lab.create("mine", {"a": [1]})
    with pytest.raises(sl.StreamExists, match="not the result of job"):
        counting(stream).run("mine")


def test_a_failing_function_fails_its_job_and_not_the_kernel(lab):
    """An error ends the job, keeps its place, is raised by wait, and is gone when it is mended."""
    stream = stream_of(lab)
    got, broken = [], [True]

    def sink(frame):
        if broken[0]:
            raise ValueError("no room")
        got.append(frame)

    job = counting(stream).run(sink)
    with pytest.raises(ValueError, match="no room"):
        job.wait(10)
    assert job.status == "failed"
    assert "no room" in repr(job)
    broken[0] = False
    counting(stream).run(sink).wait(10).stop()
    assert pl.concat(got)["n"].sum() == 90


def test_a_delivery_that_fails_behind_the_job_ends_it_and_loses_nothing(lab, monkeypatch):
    """While one is made, the next results are computed: its error ends the job, its place is kept."""
    monkeypatch.setattr(running, "MANY_ROWS", 1)
    monkeypatch.setattr(local, "EPOCH_ROWS", 7)
    stream, threads, real = stream_of(lab), [], StreamSink.deliver

    def deliver(self, frame, state, mark):
        threads.append(threading.current_thread().name)
        if len(threads) == 3:
            raise OSError("no room")
        real(self, frame, state, mark)

    monkeypatch.setattr(StreamSink, "deliver", deliver)
    rows = stream.filter(pl.col("i") >= 0)
    failed = rows.run("copy", follow=False)
    with pytest.raises(OSError, match="no room"):
        failed.wait(10, caught_up=False)
    assert failed.status == "failed"
    assert 0 < len(lab["copy"]) < len(stream)
    rows.run("copy", follow=False).wait(10, caught_up=False)
    assert lab["copy"].to_polars()["i"].to_list() == stream.to_polars()["i"].to_list()
    assert {"streamlab deliveries of copy", "streamlab job copy"} == set(threads)


def test_a_function_is_told_the_number_of_its_delivery(lab):
    """A sink that takes ``epoch`` can tell a delivery that comes again."""
    epochs = []

    def sink(frame, epoch):
        epochs.append(epoch)

    stream = stream_of(lab)
    job = counting(stream).run(sink).wait(10)
    stream.append(events(100, 50))
    job.wait(10)
    assert epochs == sorted(set(epochs))
    assert len(epochs) >= 2


def test_a_table_of_a_database_is_filled_once(lab):
    """Results and place are one transaction; running on adds only what is new."""
    stream = stream_of(lab)
    path = lab.path.parent / "results.duckdb"
    into = sl.duckdb(path, table="counts")
    counting(stream).run(into).wait(10).stop()
    stream.append(events(100, 50))
    counting(stream).run(into).wait(10).stop()
    with duckdb.connect(str(path)) as connection:
        rows = connection.execute("SELECT count(*), sum(n) FROM counts").fetchall()
    assert rows == [(28, 140)]


def test_a_database_that_cannot_be_opened_is_no_job(lab):
    """A mistyped folder is said at once, and the right path is no other query for that."""
    query, right = counting(stream_of(lab)), lab.path.parent / "x.duckdb"
    (lab.path.parent / "notes.txt").write_text("no database" * 1000)
    for wrong in ("nowhere/x.duckdb", "notes.txt", "."):
        for options in ({}, {"restart": True}):
            with pytest.raises(sl.QueryError, match=wrong):
                query.run(sl.duckdb(lab.path.parent / wrong, table="t"), **options)
        assert (lab.jobs.known(), list(lab.jobs)) == ([], [])
    query.run(sl.duckdb(right, table="t")).wait(10).stop()
    with duckdb.connect(str(right)) as connection:
        assert connection.execute("SELECT sum(n) FROM t").fetchall() == [(90,)]
    with pytest.raises(
        sl.QueryError, match=r"(?s)- into table 't' of .*x.duckdb.*\+ into table 't' of"
    ):
        query.run(sl.duckdb(lab.path.parent / "y.duckdb", table="t"))


@pytest.mark.parametrize("path", ["", ":memory:", 5, None])
def test_results_go_to_a_file_or_a_connection(path):
    """What would vanish with the job, or is no path, is refused where it is written."""
    with pytest.raises(sl.QueryError, match="a DuckDB file or an open connection"):
        sl.duckdb(path, table="t")


def test_a_job_without_a_sink_holds_its_results(lab):
    """``into=None`` keeps the last results in the job."""
    job = counting(stream_of(lab)).run(None, name="look").wait(10)
    assert job.frame()["n"].sum() == 90
    assert lab.jobs["look"] is job
    with pytest.raises(sl.StreamNotFound, match="no job"):
        lab.jobs["other"]


def test_pausing_holds_rows_back_and_loses_none(lab):
    """A paused job takes nothing; resumed, it goes on."""
    stream = stream_of(lab, 50)
    job = counting(stream).run("out").wait(10)
    before = len(lab["out"])
    job.pause()
    stream.append(events(50, 100))
    with pytest.raises(TimeoutError):
        job.wait(0.2)
    assert len(lab["out"]) == before
    job.resume().wait(10)
    assert len(lab["out"]) == 28


def test_start_says_from_where_results_are_wanted(lab):
    """Windows open at the start are completed by reading back; closed ones are not given."""
    stream = stream_of(lab, 100)
    job = counting(stream).run(None, start=55, name="late-start").wait(10)
    frame = job.frame()
    assert frame["window_start"].min() == BASE + dt.timedelta(seconds=50)
    assert frame["n"].sum() == 40
    ends = counting(stream).run(None, start="end", name="ends").wait(10)
    stream.append(events(100, 50))
    ends.wait(10)
    assert ends.frame()["window_start"].min() == BASE + dt.timedelta(seconds=90)
    assert ends.frame()["n"].to_list()[:2] == [5, 5]


def test_waiting_works_in_a_notebook_too(lab):
    """``await job.wait_async()`` is `wait` for an event loop."""
    job = counting(stream_of(lab)).run("out")
    asyncio.run(job.wait_async(10))
    assert len(lab["out"]) == 18


def test_progress_counts_what_is_read_and_late(lab):
    """rows_in = accepted + rows_late, in progress and repr."""
    stream = stream_of(lab, 100)
    stream.append(events(10, 5))
    job = counting(stream).run("out").wait(10)
    progress = job.progress
    assert (progress.rows_in, progress.rows_late, progress.lag_rows) == (105, 5, 0)
    assert progress.watermark == BASE + dt.timedelta(seconds=99)
    assert "5 late" in repr(job)


def test_jobs_stop_when_their_lab_closes():
    """Closing a lab stops its jobs, and they go on when it is opened again."""
    with temp_lab() as lab:
        stream = stream_of(lab)
        job = counting(stream).run("out").wait(10)
        threads = threading.active_count()
        lab.close()
        assert job.status == "stopped"
        assert threading.active_count() < threads
        with sl.open(lab.path) as again:
            assert again.jobs.known() == ["out"]
            again["events"].append(events(100, 50))
            counting(again["events"]).run("out").wait(10)
            assert len(again["out"]) == 28


def test_a_changed_history_is_refused(lab):
    """A job whose input was dropped and made anew is another query; nothing is skipped over."""
    stream = stream_of(lab)
    counting(stream).run("out").wait(10).stop()
    lab.drop("events")
    stream = stream_of(lab, 30)
    with pytest.raises(sl.QueryError, match="another"):
        counting(stream).run("out")


def test_rows_that_open_windows_need_are_missed_by_name(lab):
    """Trimmed rows of open windows stop a resumed job with an error that names them."""
    stream = stream_of(lab, 95)
    counting(stream).run("out").wait(10).stop()
    stream.trim(94)
    job = counting(stream).run("out")
    with pytest.raises(sl.OffsetOutOfRange, match="open windows"):
        job.wait(10)


def test_sql_runs_into_a_stream(lab):
    """A windowed statement is a job like any other; its event time is added where it lacks."""
    stream_of(lab)
    query = lab.query(
        "SELECT window_start, k, count(*) AS n FROM tumble(events, INTERVAL '10 seconds') GROUP BY ALL"
    )
    query.run("out").wait(10)
    assert lab["out"].time == "window_time"
    assert lab["out"].to_polars()["n"].sum() == 90


def test_changes_tell_what_is_open_and_what_is_final(lab):
    """Changes carry ``_op`` and ``_final``; a session that is swallowed is deleted."""
    stream = lab.create("events", events(0, 1), time="ts", delay="1m")
    got = []
    job = stream.window(sl.session("10s")).agg(n=pl.len()).run(got.append, emit="changes").wait(10)
    stream.append(events(15, 1))
    job.wait(10)
    stream.append(events(7, 1))
    job.wait(10)
    last = got[-1]
    assert last["_op"].to_list() == ["d", "u"]
    assert last["n"].to_list()[1] == 3
    assert not last["_final"].any()


def test_two_jobs_at_once_do_not_meet(lab):
    """Several jobs over one stream each have a place of their own."""
    stream = stream_of(lab)
    jobs = [counting(stream, f"{n}s").run(f"out{n}") for n in (5, 10, 20)]
    for job in jobs:
        job.wait(10)
    assert [len(lab[f"out{n}"]) for n in (5, 10, 20)] == [38, 18, 8]


def test_bad_targets_are_refused(lab):
    """``into`` is a name, a database, a function or nothing."""
    query = counting(stream_of(lab))
    for into in (5, object(), ["a"]):
        with pytest.raises(sl.QueryError, match="into is"):
            query.run(into)
    with pytest.raises(sl.InvalidName):
        query.run("no/name")
    with pytest.raises(sl.QueryError, match="event time"):
        lab["events"].select("k").run("out")
    assert lab.jobs.known() == []
    with pytest.raises(sl.QueryError, match="emit"):
        query.run("x", emit="all")


def test_a_view_is_run_and_followed_like_a_stream(lab):
    """A job, and a follower, over a view give what a collect of it gives, and end."""
    stream = stream_of(lab)
    for number, view in enumerate([stream.offsets(0, 60), stream.as_of(60), stream.between(BASE)]):
        query = counting(view)
        want = query.collect("final").select("k", "n")
        assert want.height >= 10
        found = pl.concat(list(query.follow(timeout=0))).select("k", "n")
        assert found.equals(want)
        query.run(f"out{number}").wait(10, caught_up=False)
        assert lab[f"out{number}"].to_polars().select("k", "n").equals(want)


def test_dropping_a_derived_stream_forgets_its_job(lab):
    """A dropped result can be made anew, by the same query or another one."""
    stream = stream_of(lab)
    counting(stream).run("out").wait(10)
    assert stream._scan.log.holds() == {"job-out": 0}
    lab.drop("out")
    assert stream._scan.log.holds() == {}
    assert lab.jobs.known() == []
    counting(stream, "20s").run("out").wait(10)
    assert len(lab["out"]) == 8


def test_a_function_is_the_same_query_in_every_process(lab):
    """A row-wise function is known by its code, inner functions included; other code is another query."""
    stream = stream_of(lab)

    def made(factor):
        def doubled(frame):
            def inner(value):
                return value * 2

            return frame.with_columns(i=pl.Series([inner(v) for v in frame["i"]], dtype=pl.Int64))

        def tripled(frame):
            def inner(value):
                return value * 3

            return frame.with_columns(i=pl.Series([inner(v) for v in frame["i"]], dtype=pl.Int64))

        tripled.__qualname__ = doubled.__qualname__
        return doubled if factor == 2 else tripled

    stream.map_batches(made(2)).run("out").wait(10).stop()
    again = stream.map_batches(made(2)).run("out").wait(10).stop()
    assert again.progress["rows_out"] == 100
    with pytest.raises(sl.QueryError, match="another"):
        stream.map_batches(made(3)).run("out")


def test_a_function_with_other_values_from_around_it_is_another_query(lab):
    """What a function closes over, and its defaults, belong to what is asked."""
    stream = stream_of(lab)

    def scaled(factor, also=1):
        def function(frame, also=also):
            return frame.with_columns(i=pl.col("i") * factor * also)

        return function

    for _ in range(2):
        stream.map_batches(scaled(2)).run("out").wait(10).stop()
    for other in (scaled(3), scaled(2, also=5)):
        with pytest.raises(sl.QueryError, match="another"):
            stream.map_batches(other).run("out")


def test_heartbeats_at_the_place_of_a_job_count_once(lab):
    """A heartbeat that closed windows before a stop closes none again; one that came after, closes its own."""
    times = [BASE + dt.timedelta(seconds=s) for s in (15, 5)]
    for name, before in (("before", True), ("after", False)):
        stream = lab.create(name, pl.DataFrame({"ts": times, "v": [0, 1]}), time="ts", delay="20s")
        query = stream.window(sl.tumbling("10s")).agg(n=pl.len())
        for beat in (before, not before):
            if beat:
                stream.advance(BASE + dt.timedelta(seconds=31))
            query.run(f"{name}-out").wait(10).stop()
        stream.append({"ts": BASE + dt.timedelta(seconds=32), "v": 2})
        query.run(f"{name}-out").wait(10).stop()
        assert lab[f"{name}-out"].to_polars()["n"].to_list() == [1]


def elsewhere(lab, text):
    """Run Python in another process, where ``lab`` is the lab; return what it raised, by name."""
    text = (
        f"import streamlab as sl\nlab = sl.open({str(lab.path)!r})\ntry:\n    {text}\n"
        "except Exception as e:\n    print(type(e).__name__)"
    )
    made = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    return made.stdout.strip()


def test_a_job_of_another_process_is_not_forgotten_by_a_refused_drop(lab):
    """Who may not drop a stream forgets nothing; and a stream knows whose results it holds."""
    stream = stream_of(lab)
    job = counting(stream).run("out").wait(10)
    assert elsewhere(lab, "lab.drop('out')") == "StreamLocked"
    assert lab.jobs.known() == ["out"]
    assert "job-out" in stream._scan.log.holds()
    job.stop()
    lab.jobs.forget("out")  # as a process that was killed between the two
    with pytest.raises(sl.HistoryChanged, match="another query"):
        counting(stream, "20s").run("out").wait(10)
    assert counting(stream, "20s").run("out", restart=True).wait(10).stop().status == "stopped"
    assert (len(lab["out"]), len(lab["out.generation-1"])) == (8, 18)


def test_beginning_anew_replaces_nothing_that_is_there(lab):
    """Generations take names that are free, streams and tables alike."""
    stream, path = stream_of(lab), lab.path.parent / "mine.duckdb"
    lab.create("out.generation-1", {"mine": [1]})
    with duckdb.connect(str(path)) as made:
        made.execute('CREATE TABLE "t.generation-1" AS SELECT 42 AS mine')
    for into in ("out", sl.duckdb(path, table="t")):
        counting(stream).run(into).wait(10).stop()
        counting(stream, "20s").run(into, restart=True).wait(10).stop()
    assert lab["out.generation-1"].schema.names == ["mine"]
    assert len(lab["out.generation-2"]) == 18
    with duckdb.connect(str(path)) as made:
        assert made.sql('FROM "t.generation-1"').columns == ["mine"]
        assert made.sql('SELECT count(*) FROM "t.generation-2"').fetchall() == [(18,)]


def test_beginning_anew_that_is_refused_leaves_all_as_it_was(lab):
    """Neither a wrong start, nor a query of its own results, nor an index of the user's costs results."""
    stream, path = stream_of(lab), lab.path.parent / "x.duckdb"
    counting(stream).run("out").wait(10)
    with pytest.raises(sl.StreamlabError):
        counting(stream).run("out", restart=True, start="nonsense")
    with pytest.raises(sl.QueryError, match="cannot write into it"):
        lab["out"].window(sl.tumbling("1m")).agg(n=pl.len()).run("out", restart=True)
    assert len(lab["out"]) == 18
    assert "out.generation-1" not in lab
    counting(stream).run(sl.duckdb(path, table="t")).wait(10).stop()
    with duckdb.connect(str(path)) as made:
        made.execute("CREATE INDEX mine ON t(n)")
    with pytest.raises(sl.QueryError, match="depend"):
        counting(stream, "20s").run(sl.duckdb(path, table="t"), restart=True)
    with duckdb.connect(str(path)) as made:
        made.execute("DROP INDEX mine")
    assert counting(stream).run(sl.duckdb(path, table="t")).wait(10).stop().progress.rows_out == 18
    counting(stream, "20s").run(sl.duckdb(path, table="t"), restart=True).wait(10).stop()


def test_waits_that_are_given_up_keep_no_thread(lab):
    """However many awaits were cancelled, the next one returns."""
    job = counting(stream_of(lab)).run("out").wait(10)

    async def main():
        for _ in range(40):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(job.wait_async(caught_up=False), 0.001)
        await asyncio.wait_for(job.wait_async(), 20)

    asyncio.run(main())
    assert job.status == "running"


def test_a_stop_that_was_interrupted_can_be_done_again(lab):
    """After Ctrl-C in stop, the next stop waits as the first one did."""
    begun, go = threading.Event(), threading.Event()

    def slow(frame):
        begun.set()
        go.wait(30)

    job = counting(stream_of(lab)).run(slow)
    assert begun.wait(30)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            job.stop()
    finally:
        signal.signal(signal.SIGALRM, before)
    job.stop(timeout=0.0)
    assert job.status == "running"
    go.set()
    assert job.stop().status == "stopped"


def test_an_idle_job_holds_what_it_needs(lab, monkeypatch):
    """Rows that were needed a moment ago are let go of when nothing comes any more."""
    monkeypatch.setattr(running, "RECORD_SECONDS", 0.2)
    stream = stream_of(lab)
    job = counting(stream).run("out").wait(10)
    for first in range(100, 2_000, 100):
        stream.append(events(first, 100))
        job.wait(10)
    until = time.monotonic() + 20
    while stream._scan.log.holds()["job-out"] < 1_900 and time.monotonic() < until:
        threading.Event().wait(0.02)
    assert stream._scan.log.holds()["job-out"] == job._runner.since()[0] == 1_900
