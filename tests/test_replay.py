"""Replays: control by control, who reads them, and what is said when something is wrong."""

import asyncio
import datetime as dt
import threading

import duckdb
import polars as pl
import pytest

import streamlab as sl
from streamlab.testing import ManualClock, temp_lab

BASE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
INF = float("inf")


def at(seconds):
    return BASE + dt.timedelta(seconds=seconds)


def ticks(lab, name="ticks", count=100, *, every=1, first=0, **options):
    """Make a stream with a row each second."""
    seconds = [first + every * n for n in range(count)]
    frame = pl.DataFrame({"ts": [at(s) for s in seconds], "v": seconds})
    frame = frame.with_columns(k=pl.lit("a"), ts=pl.col("ts").dt.cast_time_unit("us"))
    return lab.create(name, frame, time="ts", **options)


def tens(stream):
    return stream.window(sl.tumbling("10s")).agg(n=pl.len())


# -- the clock -----------------------------------------------------------------------------------


def test_it_starts_paused_and_plays_by_the_clock(timed_lab, clock):
    """Nothing is released before play; then a row is there the moment it is due, at any speed."""
    ticks(timed_lab)
    replay = timed_lab.replay("ticks", start=at(10), speed=2)
    stream = replay["ticks"]
    clock.advance("60s")
    assert (len(stream), replay.position, replay.playing) == (10, at(10), False)
    replay.play()
    assert len(stream) == 11
    clock.advance("5s")
    assert (len(stream), replay.position) == (21, at(20))
    replay.speed = 0.5
    clock.advance("10s")
    assert (len(stream), replay.position) == (26, at(25))
    replay.pause()
    clock.advance("60s")
    assert (len(stream), replay.position) == (26, at(25))
    replay.speed = INF
    replay.play().wait(10)
    assert replay.done
    assert (len(stream), replay.position) == (100, at(99))


def test_steps_go_by_rows_and_by_time(timed_lab):
    """A step of rows goes in the common order; one of time is half-open; both then stand still."""
    ticks(timed_lab, "a", 20)
    ticks(timed_lab, "b", 20)
    replay = timed_lab.replay("b", "a")
    replay.step(3)
    assert (len(replay["b"]), len(replay["a"]), replay.position) == (2, 1, at(1))
    replay.step("1s")
    assert (len(replay["b"]), len(replay["a"]), replay.position) == (2, 2, at(2))
    replay.step(1000)
    assert replay.done
    replay.seek("start").play()
    with pytest.raises(sl.StreamlabError, match="playing"):
        replay.step()


def test_a_seek_agrees_with_find(timed_lab):
    """After a seek the end of each stream is what find says, whatever the direction."""
    stream = ticks(timed_lab, count=50, every=3)
    stream.append({"ts": at(20), "v": -1, "k": "late"})
    stream.advance(at(200))
    with timed_lab.replay("ticks") as replay:
        for seconds in (30, 31, 140, 7, 0, 150):
            replay.seek(at(seconds))
            assert replay["ticks"].end_offset == stream.find(at(seconds))
        assert replay.generation == 2
        for beyond in (at(-1), at(201)):
            with pytest.raises(
                sl.InvalidTime, match="2026-01-01T00:00:00Z to 2026-01-01T00:03:20Z"
            ):
                replay.seek(beyond)


def test_until_stops_right_after_the_row(timed_lab, clock):
    """A breakpoint pauses the clock after the first row it is true of; asked again, it goes on."""
    ticks(timed_lab)
    ticks(timed_lab, "others", 100, first=0.5)
    replay = timed_lab.replay("ticks", "others", speed=10)
    wanted = pl.col("v") % 30 == 20
    replay.until(wanted)
    clock.advance("1s")
    assert replay.playing
    clock.advance("1s")
    replay.wait(10)
    assert (len(replay["ticks"]), len(replay["others"]), replay.position) == (21, 20, at(20))
    replay.speed = INF
    assert len(replay.until(wanted).wait(10)["ticks"]) == 51
    assert replay.until(pl.col("v") == 60.5, stream="others").wait(10).position == at(60.5)
    assert replay.until(pl.col("v") > 1e9).wait(10).done
    for wrong in (pl.col("v").shift() > 1, pl.col("nothing") > 1, pl.col("v") + 1, "v > 1"):
        with pytest.raises(sl.QueryError):
            replay.until(wrong)


def test_silences_are_cut_short(timed_lab, clock):
    """With max_gap a night without rows takes two seconds on the wall, at any speed."""
    stream = ticks(timed_lab, count=3)
    stream.append({"ts": at(3600), "v": 0, "k": "a"})
    stream.append({"ts": at(3601), "v": 0, "k": "a"})
    for speed in (1, 40):
        replay = timed_lab.replay("ticks", speed=speed, max_gap="2s").play()
        clock.advance("2s" if speed == 1 else "50ms")
        assert len(replay["ticks"]) == 3
        clock.advance("1999ms")
        assert len(replay["ticks"]) == 3
        clock.advance("1ms")
        assert (len(replay["ticks"]), replay.position) == (4, at(3600))


def test_by_append_time_rows_come_as_they_arrived(timed_lab, clock):
    """With clock="append" the clock is when rows were appended, whatever they say of themselves."""
    stream = ticks(timed_lab, count=1)
    begun = clock.now()
    for n in range(1, 5):
        clock.advance("10s")
        stream.append({"ts": at(100 - n), "v": n, "k": "a"})
    replay = timed_lab.replay("ticks", clock="append", speed=10).play()
    assert len(replay["ticks"]) == 1
    clock.advance("1s")
    assert len(replay["ticks"]) == 2
    clock.advance("3s")
    assert replay.done
    assert replay.position.timestamp() * 1e6 == pytest.approx(begun + 40e6, abs=10)


def test_heartbeats_are_replayed(timed_lab, clock):
    """Stream time moves without rows at its place, so windows close when they did."""
    stream = ticks(timed_lab, count=5)
    stream.advance(at(15))
    stream.advance("end")
    replay = timed_lab.replay("ticks").play()
    clock.advance("9s")
    assert tens(replay["ticks"]).collect("final").height == 0
    clock.advance("6s")
    assert tens(replay["ticks"]).collect("final").height == 1
    assert replay.done
    assert replay["ticks"]._scan.log.reader.moment().stream_time == 2**63 - 1


def test_real_time_passes_as_it_should(lab):
    """Without a clock of its own a lab replays by the time that passes."""
    ticks(lab, count=100)
    with lab.replay("ticks", speed=1000) as replay:
        got = [len(b) for b in replay.play()["ticks"].follow("earliest")]
        assert sum(got) == 100
        assert len(got) > 3
        asyncio.run(replay.wait_async(10))
        assert replay.done


# -- who reads -----------------------------------------------------------------------------------


def test_everything_that_reads_a_stream_reads_a_replay(lab):
    """Frames, datasets, SQL, views, tables and databases see the rows up to the clock."""
    stream = ticks(lab, key="k")
    stream.seal()
    stream.append({"ts": at(100), "v": 100, "k": "b"})
    replay = lab.replay("ticks").seek(at(40))
    shown = replay["ticks"]
    want = stream.to_polars().head(40)
    assert shown.to_polars().equals(want)
    assert shown.scan().filter(pl.col("v") > 30).collect().equals(want.filter(pl.col("v") > 30))
    assert duckdb.sql("SELECT count(*) FROM shown").fetchall() == [(40,)]
    assert shown.tail(1)["v"].item() == 39
    assert shown.find(at(20)) == 20
    assert shown.between(at(5), at(10)).to_polars().height == 5
    assert shown.as_of(7).to_polars().height == 7
    assert shown.table().to_polars()["v"].to_list() == [39]
    with duckdb.connect() as connection:
        assert shown.to_duckdb(connection) == 40
        replay.seek(at(60))
        assert shown.to_duckdb(connection) == 20
    assert "View of stream 'ticks': 60 rows" in repr(shown)
    with pytest.raises(sl.ReadOnly, match="it is a replay"):
        shown.append({"ts": at(1), "v": 1, "k": "a"})


def test_followers_begin_at_the_start_and_end_with_the_replay(lab):
    """Rows before the start are history: a follower does not give them, a collect does."""
    ticks(lab)
    replay = lab.replay("ticks", start=at(30), stop=at(50), speed=INF).play()
    assert [v for b in replay["ticks"].follow("earliest") for v in b["v"].to_pylist()] == list(
        range(30, 50)
    )
    query = tens(replay["ticks"])
    assert pl.concat(query.follow())["window_start"].to_list() == [at(20), at(30)]
    assert query.collect("final").height == 4


def test_back_in_time_followers_are_told(lab):
    """A seek back is a new generation: iterators and jobs get ReplaySeeked, a collect answers anew."""
    ticks(lab)
    replay = lab.replay("ticks", speed=INF)
    query = tens(replay["ticks"])
    rows, results = replay["ticks"].follow("earliest"), query.follow()
    job, feed = query.run("out"), replay.into(lambda frame: None)
    replay.seek(at(50))
    next(rows), next(results), job.wait(10), feed.wait(10)
    assert query.collect("final").height == 4
    replay.seek(at(25))
    for follower in (rows, results):
        with pytest.raises(sl.ReplaySeeked, match="set back"):
            next(follower)
    for background in (job, feed):
        with pytest.raises(sl.ReplaySeeked):
            background.wait(10, caught_up=False)
        assert background.status == "failed"
    assert query.collect("final").height == 2
    assert len(lab["out"]) == 4

    again = query.run("out")  # the same job: it waits for its place
    assert again.wait(10).status == "running"
    replay.seek(at(45))
    again.wait(10)
    assert len(lab["out"]) == 4
    replay.play()
    again.wait(10, caught_up=False)
    assert lab["out"].to_polars()["window_start"].to_list() == [at(10 * n) for n in range(9)]


def test_a_job_goes_on_over_another_replay_of_the_same_start(lab):
    """Positions are offsets of the log: a new replay resumes the job, another start is another query."""
    ticks(lab)
    with lab.replay("ticks", start=at(15), speed=INF) as first:
        job = tens(first["ticks"]).run("out")
        first.seek(at(60))
        job.wait(10)
    assert job.wait(10, caught_up=False).status == "stopped"
    with lab.replay("ticks", start=at(15), speed=INF) as second:
        job = tens(second["ticks"]).run("out")
        second.play()
        job.wait(10, caught_up=False)
    got = lab["out"].to_polars()
    assert got["window_start"].to_list() == [at(10 * n) for n in range(1, 9)]
    assert got["n"].to_list() == [10] * 8
    with pytest.raises(sl.QueryError, match="replayed from 2026-01-01T00:00:15Z"):
        tens(lab.replay("ticks")["ticks"]).run("out")
    with pytest.raises(sl.QueryError, match="another query"):
        tens(lab["ticks"]).run("out")


def test_a_job_whose_place_the_replay_does_not_reach_ends(lab):
    """A replay that stops before a job's place leaves the job's results as they are."""
    ticks(lab)
    with lab.replay("ticks", speed=INF) as whole:
        job = tens(whole["ticks"]).run("out")
        whole.play()
        job.wait(10, caught_up=False)
    with lab.replay("ticks", stop=at(30), speed=INF) as part:
        job = tens(part["ticks"]).run("out")
        part.play()
        assert job.wait(10, caught_up=False).status == "stopped"
    assert len(lab["out"]) == 9


def test_a_join_sees_both_streams_at_one_instant(lab):
    """While a replay plays, a collect over two streams never sees one further than the clock of the other."""
    ticks(lab, "a", 3000)
    ticks(lab, "b", 3000)
    replay = lab.replay("a", "b", speed=10_000)
    pairs = replay["a"].join_asof(replay["b"].select("ts", "v", "k"), by="k")
    replay.play()
    while replay.playing:
        found = pairs.collect("final").filter(pl.col("v") != pl.col("v_right"))
        assert found.height == 0
    assert pairs.collect().height == 3000


def test_a_table_in_a_join_is_as_it_was(timed_lab, clock):
    """A join with a replayed table goes by append times, which the replay's clock does not change."""
    schema = {"ts": pl.Datetime("us", "UTC"), "k": pl.String, "rate": pl.Int64}
    ref = timed_lab.create("ref", pl.DataFrame(schema=schema), time="ts", key="k")
    ref.append({"ts": at(1000), "k": "a", "rate": 1})  # its event time is late in the replay
    clock.advance("1s")
    ticks(timed_lab, count=10)
    clock.advance("1s")
    ref.append({"ts": at(0), "k": "a", "rate": 2})
    live = timed_lab["ticks"].join(timed_lab["ref"].table(), on="k").collect()
    replay = timed_lab.replay("ticks", "ref").seek(at(10))
    played = replay["ticks"].join(replay["ref"].table(), on="k").collect()
    assert played.equals(live)
    assert played["rate"].to_list() == [1] * 10
    assert replay["ref"].table().to_polars().height == 0


def test_views_of_a_lab_are_replayed(timed_lab, clock):
    """A lab as of an instant replays what there was then, also while more is appended."""
    stream = ticks(timed_lab, count=10)
    clock.advance("1s")
    then = dt.datetime.fromtimestamp(clock.now() / 1e6, dt.UTC)
    clock.advance("1s")
    stream.append({"ts": at(11), "v": 1, "k": "a"})
    past = timed_lab.as_of(then).replay("ticks", speed=INF).play().wait(10)
    now = timed_lab.replay("ticks", speed=INF)
    stream.append({"ts": at(12), "v": 1, "k": "a"})
    assert len(past["ticks"]) == 10
    assert len(now.play().wait(10)["ticks"]) == 11


def test_trimmed_and_compacted_files_are_replayed(lab):
    """Sealing, merging and trimming while a replay plays change nothing of it."""
    stream = ticks(lab, count=10)
    for n in range(10, 60):
        stream.append({"ts": at(n), "v": n, "k": "a"})
        stream.advance(at(n + 0.5))
        if n % 10 == 0:
            stream.seal()
    replay = lab.replay("ticks").seek(at(20.2))
    stream.seal()
    stream.trim(at(15), clock="event")
    for n in range(21, 60):
        assert len(replay.step(1)["ticks"]) == n + 1
    assert replay["ticks"].to_polars()["v"].to_list() == list(range(60))
    assert lab.replay("ticks").position >= at(14)


# -- into ----------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*came too late")
def test_into_another_lab_windows_stay_what_they_are(lab, tmp_path):
    """A copy has the same settings, rows, deletions and stream times, each once, however often it is begun."""
    stream = ticks(lab, count=50, key="k", delay="3s", partitions=2)
    stream.append({"ts": at(20), "v": -1, "k": "late"})
    stream.advance(at(77))
    stream.delete("a")
    tens(stream).run("bars", follow=False).wait(10, caught_up=False)
    with sl.open(tmp_path / "other", sync="os") as other:
        for stop in (at(30), None, None):
            with lab.replay("ticks", "bars", stop=stop, speed=INF) as replay:
                feed = replay.into(other)
                replay.play()
                feed.wait(10, caught_up=False)
        copy = other["ticks"]
        hidden = ["_append_time"]
        assert copy.to_polars().drop(hidden).equals(stream.to_polars().drop(hidden))
        assert (copy.delay, copy.partitions, copy.key) == ("3s", 2, "k")
        assert copy.stats().stream_time == stream.stats().stream_time
        for q in (tens, lambda s: s.window(sl.session("5s"), by="k").agg(n=pl.len())):
            assert q(copy).collect().equals(q(stream).collect())
            hidden = ["_append_time"]
            assert q(copy).late().drop(hidden).equals(q(stream).late().drop(hidden))
        later = other["bars"].window(sl.tumbling("30s")).agg(n=pl.col("n").sum())
        same = lab["bars"].window(sl.tumbling("30s")).agg(n=pl.col("n").sum())
        assert later.collect().equals(same.collect())
        copy.append({"ts": at(99), "v": 1, "k": "mine"})
        with pytest.raises(sl.HistoryChanged, match="somebody else"):
            lab.replay("ticks").into(other)
    with pytest.raises(sl.StreamExists, match="no copy"):
        lab.replay("ticks").into(lab)


def test_into_a_database_each_row_is_there_once(lab, tmp_path):
    """DuckDB holds each row once over several replays; one table takes one stream."""
    ticks(lab)
    target = sl.duckdb(tmp_path / "d.duckdb", table="ticks")
    for stop in (at(30), None):
        with lab.replay("ticks", stop=stop, speed=INF) as replay:
            job = replay.into(target)
            replay.play()
            job.wait(20, caught_up=False)
    with duckdb.connect(str(tmp_path / "d.duckdb")) as connection:
        found = connection.sql("SELECT v FROM ticks ORDER BY rowid").fetchall()
    assert [v for (v,) in found] == list(range(100))
    ticks(lab, "more")
    with pytest.raises(sl.QueryError, match="one table"):
        lab.replay("ticks", "more").into(target)


def test_a_slow_function_loses_nothing(timed_lab, clock):
    """A function that stands still while the clock runs gets every row afterwards."""
    ticks(timed_lab)
    go, got = threading.Event(), []

    def slow(frame):
        assert go.wait(10)
        got.extend(frame["v"])

    replay = timed_lab.replay("ticks")
    feed = replay.into(slow)
    replay.play()
    clock.advance("100s")
    replay.wait(10)
    assert not got
    go.set()
    feed.wait(10)
    assert got == list(range(100))
    assert "100 rows" in repr(feed)


def test_a_function_that_fails_says_so(timed_lab):
    """An error ends the feed, not the replay; of two streams a function takes the names too."""
    ticks(timed_lab)
    ticks(timed_lab, "more")
    replay = timed_lab.replay("ticks", "more")
    feed = replay.into(lambda name, frame: 1 / 0)
    replay.step(5)
    with pytest.raises(ZeroDivisionError):
        feed.wait(10)
    assert "ZeroDivisionError" in repr(feed)
    assert len(replay.step(5)["ticks"]) == 5
    with pytest.raises(sl.QueryError, match=r"\(name, frame\)"):
        replay.into(lambda frame: None)
    with pytest.raises(sl.QueryError, match="into takes"):
        replay.into("somewhere")


# -- ends and errors -----------------------------------------------------------------------------


def test_a_replay_stops_with_its_lab(tmp_path):
    """Closing a lab stops its replays, their threads and what follows them."""
    before = threading.active_count()
    with sl.open(tmp_path / "lab", sync="os") as lab:
        ticks(lab, count=100_000)
        replay = lab.replay("ticks").play()
        job = tens(replay["ticks"]).run("out")
        feed = replay.into(lambda frame: None)
    assert not replay.playing
    assert job.status == "stopped"
    assert feed.wait(10, caught_up=False).status == "stopped"
    assert threading.active_count() <= before + 2  # the chores of all logs
    with pytest.raises(sl.StreamlabError, match="was stopped"):
        replay.play()


def test_after_stop_nothing_is_controlled(lab):
    """A replay that was stopped says so, its streams stay readable, and a follower ends."""
    ticks(lab)
    with lab.replay("ticks", speed=INF) as replay:
        replay.seek(at(10))
        follower = replay["ticks"].follow("earliest")
    assert sum(len(b) for b in follower) == 10
    assert len(replay["ticks"]) == 10
    uses = (replay.play, replay.pause, replay.step, lambda: replay.seek("end"),
            lambda: replay.until(pl.col("v") > 1), lambda: replay.into(print))  # fmt: skip
    for use in uses:
        with pytest.raises(sl.StreamlabError, match="was stopped"):
            use()
    replay.stop()
    assert "stopped" in repr(replay)


def test_what_cannot_be_replayed_is_refused(lab):
    """Unknown streams, bounds, speeds and clocks are refused with the thing and the way out."""
    ticks(lab)
    lab.create("empty", pl.DataFrame(schema={"v": pl.Int64}))
    with pytest.raises(sl.StreamNotFound, match="tick"):
        lab.replay("tick")
    with pytest.raises(sl.StreamNotFound, match="it has ticks"):
        lab.replay("ticks")["empty"]
    for bounds in ({"start": at(200)}, {"stop": at(-5)}, {"start": at(98.5), "stop": at(99)}):
        with pytest.raises(
            sl.InvalidTime, match="ticks: 2026-01-01T00:00:00Z to 2026-01-01T00:01:39Z"
        ):
            lab.replay("ticks", **bounds)
    with pytest.raises(sl.InvalidTime, match="wrong way round"):
        lab.replay("ticks", start=at(2), stop=at(1))
    with pytest.raises(sl.InvalidTime, match="empty: no rows"):
        lab.replay("empty")
    for speed in (0, -1, float("nan"), True, "fast"):
        with pytest.raises(ValueError, match="above 0"):
            lab.replay("ticks", speed=speed)
    with pytest.raises(ValueError, match="clock"):
        lab.replay("ticks", clock="wall")
    with pytest.raises(ValueError, match="once"):
        lab.replay("ticks", "ticks")
    with pytest.raises(sl.InvalidDuration):
        lab.replay("ticks", max_gap=5)
    with pytest.raises(ValueError, match="at least one row"):
        lab.replay("ticks").step(0)
    replay = lab.replay("ticks", speed=1e-3).play()
    with pytest.raises(TimeoutError, match="still playing"):
        replay.wait(0)
    assert sorted(lab.replay("ticks", "empty")) == ["empty", "ticks"]
    assert len(lab.replay()) == 2


def test_it_says_where_it_is(timed_lab):
    """The text of a replay has its streams, state, place, share, speed, and how often it went back."""
    ticks(timed_lab, count=101)
    replay = timed_lab.replay("ticks", speed=60, max_gap="2s").seek(at(50))
    assert repr(replay).splitlines() == [
        "Replay of ticks: paused at 2026-01-01T00:00:50Z, 50% of 2026-01-01T00:00:00Z to "
        "2026-01-01T00:01:40Z, 60x, silences 2s",
        "  ticks  50 of 101 offsets",
    ]
    assert "playing" in repr(replay.play())
    assert "set back 1x" in repr(replay.seek("start"))
    replay.speed = INF
    assert "done" in repr(replay.wait(10))
    assert "as fast as it can" in repr(replay)


def test_a_manual_clock_wakes_whoever_plays():
    """Moving a manual clock releases rows to a follower that waits in another thread."""
    clock = ManualClock()
    with temp_lab(clock=clock) as lab:
        ticks(lab, count=3)
        with lab.replay("ticks") as replay:
            got, some = [], threading.Semaphore(0)

            def read():
                for batch in replay["ticks"].follow("earliest"):
                    got.extend(batch["v"].to_pylist())
                    some.release()

            thread = threading.Thread(target=read)
            thread.start()
            replay.play()
            for count in (1, 2, 3):
                assert some.acquire(timeout=10)
                assert len(got) == count
                clock.advance("1s")
            thread.join(10)
            assert not thread.is_alive()
