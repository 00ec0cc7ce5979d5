"""Laws of queries against the oracle: chunks, epochs and schedules change nothing."""

import datetime as dt
import os
import warnings

import polars as pl
import pytest
import query_oracle as oracle
from drawing import lists
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab.engines import held, joins, local, panes, sessions, sliding, source, spill, state
from streamlab.engines import rows as rows_
from streamlab.engines.batch import BEFORE
from streamlab.testing import temp_lab

EXAMPLES = int(os.environ.get("STREAMLAB_LAW_EXAMPLES", "40"))
LAWS = settings(
    max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SECOND = 1_000_000
BASE = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
BASE_US = int(BASE.timestamp()) * SECOND
SCHEMA = {
    "ts": pl.Datetime("us", "UTC"),
    "k": pl.String,
    "f": pl.Float64,
    "x": pl.Float64,
    "i": pl.Int64,
}
AGGREGATES = {
    "n": pl.len(), "count": pl.col("x").count(), "total": pl.col("i").sum(), "mean": pl.col("i").mean(),
    "low": pl.col("i").min(), "high": pl.col("x").max(), "first": pl.col("i").first(),
    "last": pl.col("i").last(), "var": pl.col("i").var(),
}  # fmt: skip
RECOMPUTED = {**AGGREGATES, "n": pl.len() + 0 * pl.col("i").n_unique()}
"""The same, but not in parts."""

FIELDS = (
    [0, 0, 1, 1, 2, 5, 30],  # seconds since the row before
    [0, 0, 0, 0, 0, 1, 3, 20, 60],  # how far behind
    ["a", "b", "ü", None],
    [1.0, float("nan"), None, 0.0, -0.0],
    [1.5, 2.5, None, float("nan")],
    [*range(-9, 10)],
)
BEATS = [-20, -1, 0, 3, 10, 40]  # seconds after the latest row


def picked(rng):
    """Return a row, or now and then a heartbeat."""
    return rng.choice(BEATS) if rng.random() < 0.08 else tuple(map(rng.choice, FIELDS))


rows = st.tuples(*map(st.sampled_from, FIELDS))
beats = st.sampled_from(BEATS)
entries = st.one_of(rows, rows, rows, rows, beats)
logs = lists(entries, 40, picked)
chunks = st.lists(st.integers(1, 9), min_size=1, max_size=5)
WINDOWS = [
    ("tumbling", 10, 10, 0), ("tumbling", 10, 10, 3), ("hopping", 30, 10, 0), ("hopping", 25, 10, 4),
    ("cumulative", 30, 10, 0), ("cumulative", 30, 10, 5),
]  # fmt: skip
keys = st.sampled_from([(), ("k",), ("f",), ("k", "f")])
delays = st.sampled_from([0, 5, 20, None])
holding = st.sampled_from(["as usual", "in small parts", "in files"])


LIMITS = {
    held: {"MERGED_ROWS": 3, "FEW_ROWS": 0, "LIMIT_BYTES": held.LIMIT_BYTES},
    joins: {"KEPT_ROWS": 3},
    panes: {"MANY_ROWS": 5},
    rows_: {"MANY_KEPT": 2},
    sessions: {"SPLIT": 2, "MANY_SHARES": 4, "LIMIT_BYTES": sessions.LIMIT_BYTES},
    sliding: {"CELLS": 3, "MANY_PAIRS": 5},
    spill: {"LIMIT_BYTES": spill.LIMIT_BYTES},
}


def hold(how):
    """Make windows and joins hold their rows as they would if there were very many."""
    for module, limits in LIMITS.items():
        for name, value in limits.items():
            if how != "as usual":
                setattr(module, name, value)
    if how == "in files":
        held.LIMIT_BYTES = spill.LIMIT_BYTES = sessions.LIMIT_BYTES = 1


@pytest.fixture(autouse=True)
def _quiet_and_whole(monkeypatch):
    monkeypatch.setattr(local, "EPOCH_ROWS", local.EPOCH_ROWS)
    monkeypatch.setattr(source, "AHEAD_ROWS", 2)  # what is sealed is left to Polars to read
    for module, limits in LIMITS.items():
        for name in limits:
            monkeypatch.setattr(module, name, getattr(module, name))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*came too late")
        yield


def made(drawn):
    """Turn what was drawn into a log: rows with times and offsets, and heartbeats."""
    log, now, offset = [], 0, 0
    for entry in drawn:
        if isinstance(entry, int):
            log.append(BASE_US + max(now + entry, 0) * SECOND)
            continue
        step, lag, k, f, x, i = entry
        now += step
        log.append(
            {"t": BASE_US + (now - lag) * SECOND, "k": k, "f": f, "x": x, "i": i, "offset": offset}
        )
        offset += 1
    return log


def stream_of(lab, name, log, delay, sizes, *, end=False):
    """Append a log in chunks of these sizes, now and then sealed, to one to three partitions."""
    text = "inf" if delay is None else f"{delay}s"
    stream = lab.create(
        name, pl.DataFrame(schema=SCHEMA), time="ts", delay=text, key="k",
        partitions=1 + sizes[0] % 3,
    )  # fmt: skip
    extend(stream, log, sizes)
    if end:
        stream.advance("end")
    return stream


def extend(stream, log, sizes):
    waiting, turn = [], 0

    def flush():
        if waiting:
            data = [
                {**r, "ts": BASE + dt.timedelta(microseconds=r["t"] - BASE_US)} for r in waiting
            ]
            stream.append(pl.DataFrame(data, schema_overrides=SCHEMA).select(list(SCHEMA)))
            waiting.clear()

    for entry in log:
        if isinstance(entry, int):
            flush()
            stream.advance(BASE + dt.timedelta(microseconds=entry - BASE_US))
            continue
        waiting.append(entry)
        if len(waiting) >= sizes[turn % len(sizes)]:
            flush()
            turn += 1
            if turn % 4 == 3:
                stream.seal()
    flush()


def window_of(kind, size, every, offset):
    text = {"offset": f"{offset}s"} if offset else {}
    if kind == "tumbling":
        return sl.tumbling(f"{size}s", **text)
    make = sl.hopping if kind == "hopping" else sl.cumulative
    return make(f"{size}s", f"{every}s", **text)


def as_table(found, by):
    """Return the oracle's windows as the frame that a query gives."""
    records = []
    for start, end, key, members, final in found:
        values = [float("nan") if part == "NaN" else part for part in key]
        records.append(
            {**dict(zip(by, values, strict=True)), "window_start": start, "window_end": end,
             "window_time": end - 1, **oracle.aggregates(members), "_final": final}
        )  # fmt: skip
    kinds = {name: SCHEMA[name] for name in by}
    kinds |= dict.fromkeys(("window_start", "window_end", "window_time"), pl.Int64)
    kinds |= {"n": pl.Int64, "count": pl.Int64, "total": pl.Int64, "mean": pl.Float64, "low": pl.Int64,
              "high": pl.Float64, "first": pl.Int64, "last": pl.Int64, "var": pl.Float64,
              "_final": pl.Boolean}  # fmt: skip
    return pl.DataFrame(records, schema=kinds)


def same(got, want, *, ordered=True):
    """Assert that a result is what the oracle says, row for row in order."""
    from polars.testing import assert_frame_equal

    instants = [c for c in ("window_start", "window_end", "window_time") if c in got.columns]
    got = got.with_columns([pl.col(c).cast(pl.Int64) for c in instants])
    got = got.with_columns([pl.col(c).cast(pl.Int64) for c in ("n", "count") if c in got.columns])
    assert got.columns == want.columns
    assert_frame_equal(got, want, check_row_order=ordered, rel_tol=1e-9, abs_tol=1e-9)


def late_offsets(frame):
    return sorted(zip(frame["_offset"].to_list(), frame["_watermark"].dt.epoch("us").to_list(),
                      frame["late_by"].dt.total_microseconds().to_list(), strict=True))  # fmt: skip


def late_of(late):
    return sorted((row["offset"], w, by) for row, w, by in late)


@given(
    logs,
    st.sampled_from(WINDOWS),
    keys,
    delays,
    chunks,
    st.booleans(),
    st.sampled_from([1, 7, 1000]),
    st.sampled_from([AGGREGATES, AGGREGATES, RECOMPUTED]),
    holding,
)
@LAWS
def test_windows_are_what_the_rules_say(drawn, window, by, delay, sizes, end, epoch, asked, how):
    """Final and open windows, late and partly late rows are the oracle's, in its order."""
    hold(how)
    log = made(drawn)
    kind, size, every, offset = window
    late_after = None if delay is None else delay * SECOND
    whole = [*log, oracle.END] if end else log
    found, late, partly = oracle.fixed(
        whole, kind, size * SECOND, every * SECOND, offset * SECOND, by, late_after
    )
    with temp_lab() as lab:
        stream = stream_of(lab, "s", log, delay, sizes, end=end)
        local.EPOCH_ROWS = epoch
        query = stream.window(window_of(*window), by=list(by)).agg(**asked)
        want = as_table(found, by)
        same(query.collect(), want)
        same(query.collect("final"), want.filter(pl.col("_final")).drop("_final"))
        assert late_offsets(query.late()) == late_of(late)
        job = query.run(None, follow=False).wait(30, caught_up=False)
        assert job.progress.rows_late == len(late)
        assert job.progress.rows_partly_late == partly
        assert job.progress.rows_in == sum(isinstance(e, dict) for e in log)


@given(logs, keys, delays, chunks, st.booleans(), st.sampled_from([1, 7, 1000]), holding)
@LAWS
def test_sessions_are_what_the_rules_say(drawn, by, delay, sizes, end, epoch, how):
    """Sessions merge, close and lose late rows as the oracle's do."""
    hold(how)
    log = made(drawn)
    late_after = None if delay is None else delay * SECOND
    whole = [*log, oracle.END] if end else log
    found, late, _ = oracle.sessions(whole, 7 * SECOND, by, late_after)
    with temp_lab() as lab:
        stream = stream_of(lab, "s", log, delay, sizes, end=end)
        local.EPOCH_ROWS = epoch
        query = stream.window(sl.session("7s"), by=list(by)).agg(**AGGREGATES)
        same(query.collect(), as_table(found, by))
        assert late_offsets(query.late()) == late_of(late)
        wider = stream.window(sl.session("7s"), by=list(by)).agg(
            **AGGREGATES, several=pl.col("i").n_unique()
        )
        same(wider.collect().drop("several"), as_table(found, by))


SUMS = {name: AGGREGATES[name] for name in ("n", "count", "total", "low")}


@given(
    logs, keys, delays, chunks, st.sampled_from([1, 7, 1000]),
    st.sampled_from([AGGREGATES, SUMS, RECOMPUTED]), holding,
)  # fmt: skip
@LAWS
def test_sliding_results_are_what_the_rules_say(drawn, by, delay, sizes, epoch, chosen, how):
    """A row's aggregates cover its key's rows up to it, wherever they were appended."""
    hold(how)
    log = made(drawn)
    late_after = None if delay is None else delay * SECOND
    found, late = oracle.sliding(log, 15 * SECOND, by, late_after)
    with temp_lab() as lab:
        stream = stream_of(lab, "s", log, delay, sizes)
        local.EPOCH_ROWS = epoch
        query = stream.window(sl.sliding("15s"), by=list(by)).agg(**chosen)
        got = query.collect()
        assert got["_offset"].to_list() == [row["offset"] for row, _, final in found if final] + [
            row["offset"] for row, _, final in found if not final
        ]
        wanted = [oracle.aggregates(near) for _, near, _ in found]
        for name in chosen:
            values = got[name].to_list()
            for value, want in zip(values, wanted, strict=True):
                assert value == pytest.approx(want[name], nan_ok=True), name
        assert got["_final"].to_list() == [final for _, _, final in found]
        assert late_offsets(query.late()) == late_of(late)


@given(
    logs,
    logs,
    st.sampled_from([(), ("k",)]),
    st.sampled_from([None, 10]),
    delays,
    chunks,
    st.sampled_from([1, 7, 1000]),
    holding,
)
@LAWS
def test_as_of_joins_are_what_the_rules_say(one, two, by, tolerance, delay, sizes, epoch, how):
    """A left row gets the latest right row at or before it, once the right side has passed it."""
    hold(how)
    left, right = made(one), made(two)
    late_after = None if delay is None else delay * SECOND
    limit = None if tolerance is None else tolerance * SECOND
    found, late = oracle.asof(left, right, by, limit, late_after)
    with temp_lab() as lab:
        a = stream_of(lab, "a", left, 0, sizes)
        b = stream_of(lab, "b", right, delay, sizes[::-1])
        local.EPOCH_ROWS = epoch
        text = None if tolerance is None else f"{tolerance}s"
        query = a.join_asof(
            b.with_columns(o=pl.col("_offset")), by=list(by) or None, tolerance=text
        )
        got = query.collect()
        assert got["_offset"].to_list() == [row["offset"] for row, _, _ in found]
        assert got["o"].to_list() == [
            None if best is None else best["offset"] for _, best, _ in found
        ]
        assert got["_final"].to_list() == [final for _, _, final in found]
        assert query.late()["_offset"].to_list() == sorted(
            row["offset"] for row, _, _ in wrapped(late)
        )


def wrapped(late):
    return [(row, None, None) for row in late]


@given(
    logs, logs, st.sampled_from([("k",), ()]), delays, delays, chunks,
    st.sampled_from([1, 7, 1000]), holding,
)  # fmt: skip
@LAWS
def test_interval_joins_are_what_the_rules_say(one, two, on, first, second, sizes, epoch, how):
    """Pairs are those whose times lie within the bounds, late rows of each side left out.

    Without keys every row meets all rows of the other side that are so near.
    """
    hold(how)
    left, right = made(one), made(two)
    micros = tuple(None if d is None else d * SECOND for d in (first, second))
    pairs = oracle.interval(left, right, on, -5 * SECOND, 10 * SECOND, micros)
    with temp_lab() as lab:
        a = stream_of(lab, "a", left, first, sizes)
        b = stream_of(lab, "b", right, second, sizes[::-1])
        local.EPOCH_ROWS = epoch
        query = a.join(b.with_columns(o=pl.col("_offset")), on=on, within=("-5s", "10s"))
        assert f"join{' on k' if on else ''} within (-5s, 10s)" in repr(query)
        got = query.collect()
        assert list(zip(got["_offset"], got["o"], strict=True)) == [
            (x["offset"], y["offset"]) for x, y in pairs
        ]
        times = [max(x["t"], y["t"]) for x, y in pairs]
        assert got["pair_time"].dt.epoch("us").to_list() == times


@given(
    logs, st.sampled_from([("k",), ("f",), ("k", "f")]), st.sampled_from([None, 8]), chunks,
    st.sampled_from([1, 7, 1000]), holding,
)  # fmt: skip
@LAWS
def test_unique_keeps_what_the_rule_keeps(drawn, on, within, sizes, epoch, how):
    """A row goes iff a kept row of its key is less than ``within`` away."""
    hold(how)
    log = made(drawn)
    kept = oracle.unique(
        [e for e in log if isinstance(e, dict)], on, None if within is None else within * SECOND
    )
    with temp_lab() as lab:
        stream = stream_of(lab, "s", log, 0, sizes)
        local.EPOCH_ROWS = epoch
        got = stream.unique(list(on), within=None if within is None else f"{within}s").collect()
        assert got["_offset"].to_list() == [row["offset"] for row in kept]


@given(
    logs,
    st.sampled_from(WINDOWS),
    keys,
    delays,
    chunks,
    st.integers(0, 40),
    st.sampled_from([1, 7, 1000]),
)
@LAWS
def test_a_job_gives_what_a_collect_gives(drawn, window, by, delay, sizes, cut, epoch):
    """A job that is fed, stopped and started again fills its stream with the collected rows."""
    log = made(drawn)
    with temp_lab() as lab:
        stream = stream_of(lab, "s", log[:cut], delay, sizes)
        local.EPOCH_ROWS = epoch
        query = stream.window(window_of(*window), by=list(by)).agg(**AGGREGATES)
        query.run("out").wait(30).stop()
        extend(stream, log[cut:], sizes[::-1])
        query.run("out").wait(30).stop()
        want = query.collect("final")
        got = lab["out"].to_polars().select(want.columns)
        assert got.equals(want, null_equal=True) or _equal_floats(got, want)
        first = stream.filter(pl.col("i") > 0).run("some", follow=False).wait(30, caught_up=False)
        assert first.status == "stopped"
        again = lab["some"].window(window_of(*window), by=list(by)).agg(**AGGREGATES)
        whole = (
            stream.filter(pl.col("i") > 0).window(window_of(*window), by=list(by)).agg(**AGGREGATES)
        )
        assert _equal_floats(again.collect(), whole.collect())


def _equal_floats(got, want):
    from polars.testing import assert_frame_equal

    assert_frame_equal(got, want, rel_tol=1e-9, abs_tol=1e-9)
    return True


@given(logs, keys, delays, chunks)
@LAWS
def test_two_steps_are_one(drawn, by, delay, sizes):
    """A 30-second window over 10-second windows equals the 30-second window over the rows."""
    log = made(drawn)
    with temp_lab() as lab:
        stream = stream_of(lab, "s", log, delay, sizes)
        ten = stream.window(sl.tumbling("10s"), by=list(by)).agg(
            n=pl.len(), total=pl.col("i").sum()
        )
        both = {"n": pl.col("n").cast(pl.Int64).sum(), "total": pl.col("total").sum()}
        direct = stream.window(sl.tumbling("30s"), by=list(by)).agg(
            n=pl.len().cast(pl.Int64), total=pl.col("i").sum()
        )
        ten.run("ten", follow=False).wait(30, caught_up=False)
        inside = ten.window(sl.tumbling("30s"), by=list(by)).agg(**both)
        outside = lab["ten"].window(sl.tumbling("30s"), by=list(by)).agg(**both)
        if not late_of_both(stream, by, delay):
            assert inside.collect("final").equals(direct.collect("final"))
        assert outside.collect("final").equals(inside.collect("final"))
        assert outside.late().is_empty()


def late_of_both(stream, by, delay):
    ten = stream.window(sl.tumbling("10s"), by=list(by)).agg(n=pl.len())
    return not ten.late().is_empty()


@given(
    logs,
    st.sampled_from([*WINDOWS, ("session", 7, 0, 0)]),
    keys,
    delays,
    chunks,
    st.sampled_from([1, 7]),
)
@LAWS
def test_the_fold_of_changes_is_the_result(drawn, window, by, delay, sizes, epoch):
    """Changes, folded by key and window, are what a collect gives; what is final is marked."""
    log = made(drawn)
    session = window[0] == "session"
    with temp_lab() as lab:
        stream = stream_of(lab, "s", log, delay, sizes)
        made_of = sl.session("7s") if session else window_of(*window)
        query = (
            stream.window(made_of, by=list(by))
            .agg(n=pl.len(), total=pl.col("i").sum())
            .top(2, "total")
        )
        local.EPOCH_ROWS = epoch
        names = [*by, "window_start", *([] if session else ["window_end"])]
        state_now = {}
        for frame in query.follow(emit="changes", timeout=0):
            for row in frame.to_dicts():
                key = tuple(oracle.normal(row[name]) for name in names)
                if row.pop("_op") == "d":
                    del state_now[key]
                else:
                    assert not state_now.get(key, {}).get("_final")
                    state_now[key] = row
        want = {tuple(oracle.normal(r[n]) for n in names): r for r in query.collect().to_dicts()}
        assert str(sorted(map(str, state_now.values()))) == str(sorted(map(str, want.values())))


# -- wrong engines are caught ----------------------------------------------------------------------

DISORDERED = [(30, 0, "a", 1.0, 1.0, 1), (0, 25, "a", 1.0, 1.0, 2), (30, 0, "a", 1.0, 1.0, 3)]


def _caught(monkeypatch=None):
    """Whether the oracle and the engine differ on a log with a late row, read in one epoch."""
    log = made(DISORDERED)
    found, late, _ = oracle.fixed(log, "tumbling", 10 * SECOND, 10 * SECOND, 0, (), 0)
    with temp_lab() as lab:
        stream = stream_of(lab, "s", log, 0, [9])
        query = stream.window(sl.tumbling("10s")).agg(**AGGREGATES)
        try:
            same(query.collect(), as_table(found, ()))
        except AssertionError:
            return True
        return len(query.late()) != len(late)


def test_the_right_engine_passes():
    """The control of the controls: nothing is caught where nothing is wrong."""
    assert not _caught()


def test_a_watermark_that_moves_by_batches_is_caught(monkeypatch):
    """Were a row judged by the stream time before its batch, the oracle would tell."""
    right = state.WindowOperator.judged

    def by_batches(self, batch):
        return right(self, batch.of(batch.frame.with_columns(pl.col(BEFORE).first())))

    monkeypatch.setattr(state.WindowOperator, "judged", by_batches)
    assert _caught()


def test_late_rows_that_are_dropped_in_silence_are_caught(monkeypatch):
    """Were late rows dropped and not counted, the oracle would tell."""
    right = state.WindowOperator.judged

    def silent(self, batch):
        self.on_late = None
        return right(self, batch)

    monkeypatch.setattr(state.WindowOperator, "judged", silent)
    assert _caught()


def test_a_split_without_the_list_is_caught(monkeypatch):
    """Were (x - x.min()).sum() split, two batches would give 2 instead of 20."""
    from streamlab import aggregate

    expression = (pl.col("i") - pl.col("i").min()).sum()
    answers = []
    for allowed in (False, True):
        with monkeypatch.context() as patch, temp_lab() as lab:
            if allowed:
                patch.setattr(aggregate, "obstacle", lambda _: None)
            stream = lab.create("s", pl.DataFrame(schema=SCHEMA), time="ts")
            for i in (1, 2, 10, 11):
                stream.append({"ts": BASE, "k": "a", "f": 1.0, "x": 1.0, "i": i})
            patch.setattr(local, "EPOCH_ROWS", 2)
            answers.append(stream.window(sl.tumbling("10s")).agg(s=expression).collect()["s"][0])
    assert answers == [20, 2]


@given(
    st.lists(logs, min_size=2, max_size=5), st.sampled_from(["tumbling", "session"]),
    st.sampled_from([0, 5, 20]), chunks,
)  # fmt: skip
@LAWS
def test_a_job_that_is_stopped_anywhere_gives_each_window_once(parts, kind, delay, sizes):
    """Stopped and run again between appends and heartbeats, a job neither loses nor doubles a window.

    Rows that it needs no more may be gone by then.
    """
    log = made([entry for part in parts for entry in part])
    if kind == "session":
        found, late, _ = oracle.sessions(log, 7 * SECOND, ("k",), delay * SECOND)
    else:
        found, late, _ = oracle.fixed(
            log, kind, 10 * SECOND, 10 * SECOND, 0, ("k",), delay * SECOND
        )
    window = sl.session("7s") if kind == "session" else sl.tumbling("10s")
    with temp_lab() as lab:
        stream = stream_of(lab, "s", [], delay, sizes)
        query = stream.window(window, by="k").agg(**AGGREGATES)
        at = 0
        for part in parts:
            extend(stream, log[at : at + len(part)], sizes)
            at += len(part)
            job = query.run("out").wait(30).stop()
            if sizes[-1] % 2:
                assert stream.trim(job._placed["since"][0]) == job._placed["since"][0]
        want = as_table(found, ["k"]).filter(pl.col("_final")).drop("_final")
        same(lab["out"].to_polars().select(want.columns), want)
        assert job.progress.rows_late == len(late)


QUERIES = {
    "windows": lambda s: s.window(sl.tumbling("10s"), by="k").agg(**AGGREGATES),
    "hopping": lambda s: s.window(sl.hopping("30s", "10s"), by=["k", "f"]).agg(**AGGREGATES),
    "a zone": lambda s: s.window(sl.tumbling("1d", tz="Europe/Berlin")).agg(**AGGREGATES),
    "sessions": lambda s: s.window(sl.session("20s"), by="k").agg(**AGGREGATES),
    "steps": lambda s: s.filter(pl.col("i") > -5).with_columns(j=pl.col("i") * 2, one=pl.lit(1))
    .window(sl.cumulative("30s", "10s"), by="k").agg(n=pl.len(), j=pl.col("j").sum()),
    "more columns": lambda s: s.with_columns(j=pl.col("i") * 2, one=pl.lit(1)),
    "more, then sliding": lambda s: s.with_columns(j=pl.col("i") * 2)
    .window(sl.sliding("15s"), by="k").agg(t=pl.col("j").sum(), mid=pl.col("i").median()),
    "more, then pairs": lambda s: s.with_columns(j=pl.col("i") * 2)
    .join(s.with_columns(y=pl.col("i")).select("ts", "k", "y"), on="k", within=("-5s", "5s")),
    "more, then unique": lambda s: s.with_columns(j=pl.col("i") * 2).unique("j", within="5s"),
    "more, then sessions": lambda s: s.with_columns(j=pl.col("i") * 2)
    .window(sl.session("20s"), by="k").agg(mid=pl.col("j").median()),
    "rows": lambda s: s.select("k", two=pl.lit(2)).filter(pl.col("k").is_not_null()),
    "all columns": lambda s: s.with_columns(pl.selectors.float() * 2).filter(pl.col("i") < 5),
    "places": lambda s: s.select("_offset", "_append_time", "i", "ts"),
    "recomputed": lambda s: s.window(sl.tumbling("10s"), by="k").agg(m=pl.col("i").median()),
    "a join": lambda s: s.with_columns(j=pl.col("i")).join_asof(s.select("ts", "k", y="i"), by="k"),
}  # fmt: skip


READINGS = [
    (1 << 17, 1 << 20, False), (1, 1 << 20, False), (1, 3, False), (1 << 17, 3, True),
    (1, 1 << 20, True), (1, 3, True), (1, 4, True),
]  # fmt: skip
"""From how many rows on Polars reads them, how many are taken at a time, whether all are sealed."""


@pytest.mark.parametrize("name", QUERIES)
@LAWS
@given(logs, chunks, delays)
def test_rows_left_to_polars_to_read_are_the_same_rows(name, log, sizes, delay):
    """Whether a sealed file is read by Polars, fused with the first steps, or batch by batch.

    So it is where the end of the stream is not sealed yet, and comes batch by batch after the rest.
    """
    query, found, whole = QUERIES[name], [], made(log)
    with temp_lab() as lab, pytest.MonkeyPatch.context() as patch:
        stream = stream_of(lab, "s", whole[: len(whole) // 2], delay, sizes)
        stream.seal()
        extend(stream, whole[len(whole) // 2 :], sizes)
        for least, epoch, sealed in READINGS:
            if sealed:
                stream.seal()
            patch.setattr(source, "AHEAD_ROWS", least)
            patch.setattr(local, "EPOCH_ROWS", epoch)
            found.append((query(stream).collect(emit="all"), query(stream).late()))
    for frame, late in found[1:]:
        _equal_floats(frame, found[0][0])
        assert late.equals(found[0][1], null_equal=True)


@pytest.mark.parametrize("epoch", [3, 4, 5, 7])
def test_a_batch_that_ends_with_a_file_loses_nothing_of_the_next(epoch, monkeypatch):
    """Many rows of one file are a batch of their own, however the frames of the next are cut."""
    monkeypatch.setattr(source, "AHEAD_ROWS", 2)
    monkeypatch.setattr(local, "EPOCH_ROWS", epoch)
    with temp_lab() as lab:
        stream = lab.create("s", pl.DataFrame(schema={"n": pl.Int64}))
        for first in range(0, 60, 6):
            stream.append({"n": list(range(first, first + 6))})
            stream.seal()
        assert stream.filter(pl.col("n") >= 0).collect()["n"].to_list() == list(range(60))


@pytest.mark.parametrize("removed", [False, True])
def test_a_file_that_is_gone_before_polars_reads_it_is_said(removed, monkeypatch):
    """Removed rows are out of range; a file that should be there is missing."""
    read = source.SourceReader.read

    def late_read(self, rows):
        batch = read(self, rows)
        if batch is not None and batch.lazy:
            if removed:
                stream.trim(6)
            for path in files:
                path.unlink(missing_ok=True)
        return batch

    with temp_lab() as lab:
        stream = lab.create("s", {"n": [0, 1, 2, 3, 4, 5]})
        stream.seal()
        files = list((lab.path / "streams" / "s").glob("*.arrow"))
        monkeypatch.setattr(source.SourceReader, "read", late_read)
        error, says = (
            (sl.OffsetOutOfRange, "has been removed") if removed
            else (sl.CorruptSegment, "the file is missing")
        )  # fmt: skip
        with pytest.raises(error, match=says):
            stream.filter(pl.col("n") > 2).collect()
