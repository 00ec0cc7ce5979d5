"""Counter-examples to queries and jobs that were found once, each a test of its own."""

import datetime as dt

import duckdb
import polars as pl
import pytest

import streamlab as sl
from streamlab.testing import temp_lab

BASE = dt.datetime(2026, 1, 5, 9, 30, tzinfo=dt.UTC)


@pytest.fixture
def lab():
    with temp_lab() as made:
        yield made


@pytest.fixture
def stream(lab):
    frame = pl.DataFrame(
        {
            "ts": [BASE + dt.timedelta(seconds=n) for n in range(100)],
            "k": ["ab"[n % 2] for n in range(100)],
            "i": list(range(100)),
        }
    )
    return lab.create("events", frame, time="ts")


def counting(stream, size="10s"):
    return stream.window(sl.tumbling(size), by="k").agg(n=pl.len())


# -- jobs ----------------------------------------------------------------------------------------


def test_restart_never_drops_a_stream_that_is_not_the_results_of_the_job(lab, stream):
    """Neither a user's stream nor the source itself is taken, begun anew or remembered for it."""
    lab.create("mine", {"a": [1]})
    for name in ("mine", "events"):
        for options in ({}, {"restart": True}, {"restart": True}):
            with pytest.raises(sl.StreamExists, match="not the result of job"):
                counting(stream).run(name, **options)
    assert sorted(lab) == ["events", "mine"]
    assert (len(lab["events"]), len(lab["mine"]), lab.jobs.known()) == (100, 1, [])


def test_restart_never_drops_a_table_that_is_not_the_results_of_the_job(lab, stream):
    """A table that the user made stays; the job's own is kept beside when it begins anew."""
    path = str(lab.path.parent / "x.duckdb")
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS a")
    job = counting(stream).run(sl.duckdb(path, table="mine"), restart=True)
    with pytest.raises(sl.QueryError, match="already exists"):
        job.wait(10)
    for size in ("10s", "20s"):
        counting(stream, size).run(sl.duckdb(path, table="t"), restart=True).wait(10).stop()
    with duckdb.connect(path) as connection:
        counts = [connection.execute(f'SELECT count(*) FROM "{t}"').fetchall()[0][0]
                  for t in ("mine", "t", "t.generation-1")]  # fmt: skip
    assert counts == [1, 8, 18]


def test_two_queries_without_a_sink_are_two_jobs(lab, stream):
    """Results held in memory have no name of their own, and are not mixed up for that."""
    one, two = counting(stream).run(), counting(stream, "20s").run()
    assert one is not two
    assert (one.wait(10).frame().height, two.wait(10).frame().height) == (18, 8)
    assert counting(stream).run() is one


def test_a_function_that_exits_fails_its_job(lab, stream):
    """Neither the job nor who waits for it ends the process."""

    def sink(frame):
        raise SystemExit(3)

    job = counting(stream).run(sink)
    with pytest.raises(sl.QueryError, match="SystemExit: 3"):
        job.wait(10)
    assert job.status == "failed"


def test_the_owner_of_a_derived_stream_is_named(lab, stream):
    """Who runs a named job without its name is told the name."""
    counting(stream).run("out", name="counts").wait(10).stop()
    with pytest.raises(sl.StreamExists, match='name="counts"'):
        counting(stream).run("out")
