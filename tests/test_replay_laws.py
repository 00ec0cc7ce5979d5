"""Laws of replays: what is shown when is the oracle's, and what is computed of it is a collect's."""

import datetime as dt
import os
import warnings

import numpy as np
import polars as pl
import pytest
import query_oracle
import replay_oracle as oracle
from drawing import lists
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab import timetable
from streamlab.engines import local
from streamlab.testing import ManualClock, temp_lab

EXAMPLES = int(os.environ.get("STREAMLAB_LAW_EXAMPLES", "40"))
LAWS = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SECOND = 1_000_000
BASE = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
BASE_US = int(BASE.timestamp()) * SECOND
NOW = dt.datetime(2026, 1, 6, tzinfo=dt.UTC)
NOW_US = int(NOW.timestamp()) * SECOND
SCHEMA = {"ts": pl.Datetime("us", "UTC"), "k": pl.String, "i": pl.Int64}
AGGREGATES = {"n": pl.len(), "total": pl.col("i").sum(), "first": pl.col("i").first()}

FIELDS = (
    [0, 0, 1, 2, 5, 30],  # seconds since the row before
    [0, 0, 0, 1, 3, 20],  # how far behind
    ["a", "b"],
    [*range(-9, 10)],
)
BEATS = [-20, -1, 0, 3, 10, 40]  # seconds after the latest row


def picked(rng):
    """Return a row, or now and then a heartbeat."""
    return rng.choice(BEATS) if rng.random() < 0.12 else tuple(map(rng.choice, FIELDS))


rows = st.tuples(*map(st.sampled_from, FIELDS))
logs = lists(st.one_of(rows, rows, rows, rows, st.sampled_from(BEATS)), 25, picked)
several = st.lists(logs, min_size=1, max_size=3).filter(
    lambda drawn: any(isinstance(e, tuple) for log in drawn for e in log)
)
waits = st.sampled_from([0, 1, 2, 7, 60, 500])
speeds = st.sampled_from([1, 2, 10, 1000])
FORWARD = [
    st.tuples(st.just("play"), waits, speeds),
    st.tuples(st.just("rows"), st.integers(1, 9)),
    st.tuples(st.just("time"), st.sampled_from([0.5, 1, 4, 40])),
    st.tuples(st.just("ahead"), st.floats(0, 1)),
    st.tuples(st.just("until"), st.integers(-9, 9)),
]
forward = st.lists(st.one_of(FORWARD), max_size=8)
anywhere = st.lists(st.one_of(*FORWARD, st.tuples(st.just("seek"), st.floats(0, 1))), max_size=10)
starts = st.one_of(st.none(), st.none(), st.integers(0, 20))
lengths = st.one_of(st.none(), st.none(), st.integers(1, 150))
gaps = st.sampled_from([None, None, 1, 5])
blocks = st.sampled_from([1, 3, 1000])


@pytest.fixture(autouse=True)
def _quiet_and_whole(monkeypatch):
    monkeypatch.setattr(local, "EPOCH_ROWS", local.EPOCH_ROWS)
    monkeypatch.setattr(timetable, "BLOCK_ROWS", timetable.BLOCK_ROWS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*came too late")
        yield


def filled(lab, clock, drawn, *, delay=0, end=False):
    """Append what was drawn, a stream after the other, in chunks; return the logs as the oracle reads them."""
    found = []
    for number, part in enumerate(drawn):
        stream = lab.create(f"s{number}", pl.DataFrame(schema=SCHEMA), time="ts", delay=f"{delay}s")
        log, now, waiting = [], 0, []
        for at, entry in enumerate([*part, None]):
            if not isinstance(entry, tuple) or len(waiting) == 3:
                if waiting:
                    stream.append(pl.DataFrame(waiting, schema_overrides=SCHEMA))
                    stamp = stream.stats().append_time
                    log += [
                        {"t": us(row["ts"]), "at": stamp, "k": row["k"], "i": row["i"]}
                        for row in waiting
                    ]
                    waiting = []
                clock.advance(f"{at % 4 * 3}s")
                if at % 5 == 4:
                    stream.seal()
            if isinstance(entry, int):
                before = stream.stats().append_time
                beat = max(now + entry, 0)
                stream.advance(BASE + dt.timedelta(seconds=beat))
                log.append((BASE_US + beat * SECOND, max((before or 0) + 1, clock.now())))
            elif entry is not None:
                step, lag, k, i = entry
                now += step
                waiting.append({"ts": BASE + dt.timedelta(seconds=now - lag), "k": k, "i": i})
        if end:
            before = stream.stats().append_time
            stream.advance("end")
            log.append((oracle.END, max((before or 0) + 1, clock.now())))
        found.append([*log])
    for log in found:
        for offset, row in enumerate(row for row in log if isinstance(row, dict)):
            row["offset"] = offset
    return found


def us(instant):
    return (instant - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def instant(micros):
    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=micros)


def do(replay, model, clock, action, logs):
    """Do one thing with a replay and with the oracle."""
    match action:
        case ("play", seconds, speed):
            replay.speed = speed
            replay.play()
            clock.advance(f"{seconds}s")
            replay.pause()
            model.play(seconds * SECOND, speed)
        case ("rows", count):
            replay.step(count)
            model.step_rows(count)
        case ("time", seconds):
            replay.step(f"{seconds}s")
            model.step_time(int(seconds * SECOND))
        case ("ahead" | "seek" as what, share):
            low = model.clock if what == "ahead" else model.start
            to = low + int(share * (model.stop - low))
            replay.seek(instant(to))
            model.seek(to)
        case ("until", value):
            replay.speed = float("inf")
            replay.until(pl.col("i") == value).wait(10)
            values = [[row["i"] for row in log if isinstance(row, dict)] for log in logs]
            model.until(lambda stream, offset: values[stream][offset] == value)


def shown(replay):
    """Return (end, stream time) of each stream of a replay."""
    moments = [replay[name]._scan.log.reader.moment() for name in replay]
    return [(moment.end, moment.stream_time) for moment in moments]


def follows_the_oracle(drawn, actions, start, length, gap, by_append, block, end):
    """Do some things with a replay, and see after each that it shows what the oracle shows."""
    clock = ManualClock(NOW)
    timetable.BLOCK_ROWS = block
    with temp_lab(clock=clock) as lab:
        found = filled(lab, clock, drawn, end=end)
        zero = NOW_US if by_append else BASE_US
        since = None if start is None else zero + start * SECOND
        until = None if length is None else (zero if since is None else since) + length * SECOND
        every = oracle.entries(found, by_append)
        finite = [e[0] for e in every if e[0] < oracle.END and (until is None or e[0] < until)]
        options = {"clock": "append" if by_append else "event", "max_gap": gap and f"{gap}s"}
        options |= {"start": since and instant(since), "stop": until and instant(until)}
        if not finite or (since is not None and all(e < since for e in finite)):
            with pytest.raises(sl.InvalidTime):
                lab.replay(**options)
            return
        model = oracle.OracleReplay(
            found, start=since, stop=until, max_gap=gap and gap * SECOND, by_append=by_append
        )
        with lab.replay(**options) as replay:
            for action in [None, *actions]:
                if action is not None:
                    do(replay, model, clock, action, found)
                assert shown(replay) == model.shown(), action
                assert us(replay.position) == model.clock, action
                assert replay.done == model.done
                assert replay.generation == model.generation
                for name, (stop, _) in zip(replay, model.shown(), strict=True):
                    assert len(replay[name]) == stop


ANY = st.tuples(several, anywhere, starts, lengths, gaps, st.booleans(), blocks, st.booleans())


@given(ANY)
@LAWS
def test_a_replay_shows_what_the_oracle_shows(drawn):
    """Ends, stream times, clock and generation follow the rules, whatever is done with the replay."""
    follows_the_oracle(*drawn)


def by_event_time(self, runs, place, start, stop):
    """The control: rows are due at their own event time, not at the stream time."""
    appended, _ = TRUE_TIMES(self, runs, place, start, stop)
    chunks = self._reader.chunks(self._moment, start, stop) if stop > start else []
    times = [timetable.event_times(c.batch.column("ts"), "ts") for c in chunks]
    return appended, np.concatenate([np.empty(0, np.int64), *times])


def without_heartbeats(self, runs, end, place, upto):
    """The control: rows only."""
    block = TRUE_BLOCK(self, runs, end, place, upto)
    return timetable.Entries(*(c[np.diff(block.end, prepend=place.end) > 0] for c in block))


def a_stream_after_the_other(self, blocks, counts):
    """The control: the streams are not merged."""
    merged = TRUE_MERGED(self, blocks, counts)
    order = np.argsort(merged.stream, kind="stable")
    return timetable.Merged(*(column[order] for column in merged))


TRUE_TIMES = timetable.Timetable._row_times
TRUE_BLOCK = timetable.Timetable._block
TRUE_MERGED = timetable.Course._merged


@pytest.mark.parametrize(
    ("owner", "name", "wrong"),
    [
        (timetable.Timetable, "_row_times", by_event_time),
        (timetable.Timetable, "_block", without_heartbeats),
        (timetable.Course, "_merged", a_stream_after_the_other),
    ],
    ids=["by event time", "without heartbeats", "not merged"],
)
def test_wrong_replays_are_found_out(monkeypatch, owner, name, wrong):
    """The controls: the same law fails for replays that break one rule."""
    monkeypatch.setattr(owner, name, wrong)

    @given(ANY)
    @settings(LAWS, report_multiple_bugs=False, phases=[Phase.generate], max_examples=150)
    def law(drawn):
        follows_the_oracle(*drawn)

    with pytest.raises((AssertionError, TimeoutError, sl.InvalidTime)):
        law()


@given(several, forward, blocks)
@LAWS
def test_a_function_is_given_the_rows_in_their_common_order(drawn, actions, block):
    """Into a function rows come in the order (stream time, order of the names), each once."""
    clock = ManualClock(NOW)
    timetable.BLOCK_ROWS = block
    with temp_lab(clock=clock) as lab:
        found = filled(lab, clock, drawn)
        wanted = [(f"s{i}", end - 1) for _, i, end, _, row in oracle.entries(found, False) if row]
        got = []
        with lab.replay() as replay:
            feed = replay.into(lambda name, frame: got.extend((name, o) for o in frame["_offset"]))
            model = oracle.OracleReplay(found)
            for action in actions:
                do(replay, model, clock, action, found)
                feed.wait(10)
                assert len(got) == sum(end for end, _ in model.shown())
            replay.seek("end")
            feed.wait(10, caught_up=False)
        assert got == wanted
        assert feed.rows == len(wanted)


def finals(found):
    """Return the oracle's final windows of one key column as rows."""
    return [
        (key[0], a, b, len(rows), sum(r["i"] for r in rows), rows[0]["i"])
        for a, b, key, rows, final in found
        if final
    ]


def as_rows(frame):
    kinds = [pl.col("window_start", "window_end").cast(pl.Int64)]
    return frame.with_columns(kinds).select("k", "window_start", "window_end", *AGGREGATES).rows()


def plain(log):
    """Return a log as the oracle of queries reads it."""
    return [entry if isinstance(entry, dict) else entry[0] for entry in log]


def begun(log, start):
    """Return the entries of a log that are released before a replay starts."""
    s, found = oracle.FAR_PAST, []
    for entry in plain(log):
        s = max(s, entry["t"] if isinstance(entry, dict) else entry)
        if s >= start:
            break
        found.append(entry)
    return found


@given(
    logs.filter(lambda log: any(isinstance(e, tuple) for e in log)), forward, starts,
    st.sampled_from(["tumbling", "hopping", "session"]), st.sampled_from([0, 5]),
    st.sampled_from([1, 7, 1000]), st.booleans(), blocks,
)  # fmt: skip
@LAWS
def test_windows_over_a_replay_are_those_of_a_collect(
    drawn, actions, start, kind, delay, epoch, end, block
):
    """A job over a replay gives each window once, late rows and all, as a collect over the stream."""
    clock = ManualClock(NOW)
    timetable.BLOCK_ROWS = block
    with temp_lab(clock=clock) as lab:
        (log,) = filled(lab, clock, [drawn], delay=delay, end=end)
        since = None if start is None else BASE_US + start * SECOND
        try:
            replay = lab.replay("s0", start=since and instant(since))
        except sl.InvalidTime:
            return
        window = {"tumbling": sl.tumbling("10s"), "hopping": sl.hopping("30s", "10s"),
                  "session": sl.session("7s")}[kind]  # fmt: skip
        local.EPOCH_ROWS = epoch
        query = replay["s0"].window(window, by="k").agg(**AGGREGATES)
        job = query.run("out")
        model = oracle.OracleReplay([log], start=since)
        for action in actions:
            do(replay, model, clock, action, [log])
            if action[0] in ("rows", "until"):
                job.wait(10)
        replay.seek("end")
        job.wait(10, caught_up=False)
        assert as_rows(query.collect("final")) == windows(kind, plain(log), delay)[0]
        got = as_rows(lab["out"].to_polars())
        assert len(got) == len(set(got))
        before = begun(log, replay._start)
        wanted, late = windows(kind, plain(log), delay)
        assert got == [row for row in wanted if row not in windows(kind, before, delay)[0]]
        if not before:
            assert job.progress.rows_late == late
        replay.stop()


def windows(kind, log, delay):
    """Return final windows and the number of late rows."""
    if kind == "session":
        found, late, _ = query_oracle.sessions(log, 7 * SECOND, ("k",), delay * SECOND)
    else:
        size, every = (10, 10) if kind == "tumbling" else (30, 10)
        sizes = (size * SECOND, every * SECOND, 0)
        found, late, _ = query_oracle.fixed(log, kind, *sizes, ("k",), delay * SECOND)
    return finals(found), len(late)


@given(
    st.tuples(logs, logs).filter(lambda two: all(any(isinstance(e, tuple) for e in g) for g in two)),
    forward, st.sampled_from([0, 5]), st.sampled_from([1, 7, 1000]), st.booleans(), blocks,
)  # fmt: skip
@LAWS
def test_joins_of_two_replayed_streams_are_those_of_a_collect(
    drawn, actions, delay, epoch, by_append, block
):
    """As-of and interval joins over a replay give what the oracle gives, whatever the schedule."""
    clock = ManualClock(NOW)
    timetable.BLOCK_ROWS = block
    with temp_lab(clock=clock) as lab:
        found = filled(lab, clock, drawn, delay=delay)
        local.EPOCH_ROWS = epoch
        replay = lab.replay("s0", "s1", clock="append" if by_append else "event")
        left, right = replay["s0"], replay["s1"].select("ts", "k", "i")
        asof = left.join_asof(right, by="k").run("asof")
        pairs = left.join(right, on="k", within=("-5s", "5s")).run("pairs")
        model = oracle.OracleReplay(found, by_append=by_append)
        for action in actions:
            do(replay, model, clock, action, found)
            if action[0] in ("rows", "until"):
                asof.wait(10)
                assert left.join_asof(right, by="k").collect("all").height == len(left)
        replay.seek("end")
        asof.wait(10, caught_up=False)
        pairs.wait(10, caught_up=False)
        one, two = map(plain, found)
        rows, _ = query_oracle.asof(one, two, ("k",), None, delay * SECOND)
        wanted = sorted((r["t"], r["i"], best and best["i"]) for r, best, final in rows if final)
        got = lab["asof"].to_polars().select(pl.col("ts").cast(pl.Int64), "i", "i_right").rows()
        assert sorted(got, key=str) == sorted(wanted, key=str)
        both = query_oracle.interval(
            one, two, ("k",), -5 * SECOND, 5 * SECOND, (delay * SECOND, delay * SECOND)
        )
        got = lab["pairs"].to_polars().select(pl.col("ts").cast(pl.Int64), "i", "i_right").rows()
        assert sorted(got) == sorted((a["t"], a["i"], b["i"]) for a, b in both)
        replay.stop()
