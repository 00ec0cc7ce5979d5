"""Laws of joins that go on: stopped anywhere and run again, and looked at as they come."""

import polars as pl
import pytest
import query_oracle as oracle
from drawing import lists
from hypothesis import given
from hypothesis import strategies as st
from test_query_laws import (  # noqa: F401
    AGGREGATES,
    LAWS,
    SECOND,
    _quiet_and_whole,
    as_table,
    chunks,
    entries,
    extend,
    hold,
    holding,
    keys,
    made,
    picked,
    same,
    stream_of,
)

import streamlab as sl
from streamlab import job as running
from streamlab.engines import local
from streamlab.testing import temp_lab

delays = st.sampled_from([0, 5, 20])
parts = st.lists(st.tuples(st.booleans(), lists(entries, 12, picked)), min_size=1, max_size=6)
KINDS = {
    "as of": lambda a, b: a.join_asof(b, by="k"),
    "as of, near": lambda a, b: a.join_asof(b, by="k", tolerance="10s"),
    "pairs": lambda a, b: a.join(b, on="k", within=("-5s", "10s")),
}
kinds = st.sampled_from(list(KINDS))


@pytest.fixture(autouse=True)
def _restored(monkeypatch):
    monkeypatch.setattr(running, "MANY_ROWS", running.MANY_ROWS)


def wanted(kind, left, right, delay):
    """The offsets of the rows that are joined for good, by the oracle."""
    micros = delay * SECOND
    if kind == "pairs":
        found = oracle.interval(left, right, ("k",), -5 * SECOND, 10 * SECOND, (micros, micros))
        return sorted((x["offset"], y["offset"]) for x, y in found)
    limit = 10 * SECOND if kind == "as of, near" else None
    found, _ = oracle.asof(left, right, ("k",), limit, micros)
    return sorted(
        (row["offset"], -1 if best is None else best["offset"])
        for row, best, final in found
        if final
    )


def offsets(frame):
    return sorted(frame.select("left", pl.col("o").fill_null(-1)).rows())


def grown(lab, delay, sizes):
    """Two empty streams, and what makes each of them grow by what is drawn."""
    sides = [stream_of(lab, name, [], delay, sizes) for name in "ab"]
    logs_ = [[], []]

    def grow(right, drawn):
        log = logs_[right]
        before = len(log)
        shift = sum(entry[0] for entry in drawn_so_far[right])
        drawn_so_far[right] += [entry for entry in drawn if not isinstance(entry, int)]
        first = sum(isinstance(entry, dict) for entry in log)
        for entry in made(drawn):
            if isinstance(entry, dict):
                entry = {  # noqa: PLW2901
                    **entry, "t": entry["t"] + shift * SECOND, "offset": entry["offset"] + first
                }  # fmt: skip
            else:
                entry += shift * SECOND  # noqa: PLW2901
            log.append(entry)
        extend(sides[right], log[before:], sizes)

    drawn_so_far = [[], []]
    left = sides[0].with_columns(left=pl.col("_offset"))
    return left, sides[1].select("ts", "k", o=pl.col("_offset")), logs_, grow


@given(kinds, parts, delays, chunks, st.sampled_from([1, 7, 1000]), holding)
@LAWS
def test_a_join_that_is_stopped_anywhere_gives_each_row_once(kind, grows, delay, sizes, epoch, how):
    """A job that is stopped and run again between appends of either side loses and doubles nothing."""
    hold(how)
    local.EPOCH_ROWS, running.MANY_ROWS = epoch, 1
    with temp_lab() as lab:
        left, right, (one, two), grow = grown(lab, delay, sizes)
        query = KINDS[kind](left, right)
        for side, drawn in grows:
            grow(side, drawn)
            query.run("out").wait(30).stop()
        assert offsets(lab["out"].to_polars()) == wanted(kind, one, two, delay)


@given(kinds, parts, delays, chunks, st.sampled_from([1, 7, 1000]), holding)
@LAWS
def test_a_join_that_is_followed_gives_what_its_history_gives(
    kind, grows, delay, sizes, epoch, how
):
    """Looked at after each append, the rows that came are those of the whole history."""
    hold(how)
    local.EPOCH_ROWS = epoch
    with temp_lab() as lab:
        left, right, (one, two), grow = grown(lab, delay, sizes)
        query = KINDS[kind](left, right)
        results, frames = query.follow(), []
        for side, drawn in grows:
            grow(side, drawn)
            while (frame := results.poll()).height or results.behind:
                frames.append(frame)
        found = pl.concat([*frames, query.collect("final").clear()])
        assert offsets(found) == wanted(kind, one, two, delay)
        assert offsets(query.collect("final")) == wanted(kind, one, two, delay)


def test_a_join_that_lets_go_too_early_is_found_out(monkeypatch):
    """The control: were rows let go of a second too early, a pair would be missing."""
    from streamlab.engines.held import Held

    real = Held.let_go
    monkeypatch.setattr(Held, "let_go", lambda self, below: real(self, below + SECOND * 6))
    with temp_lab() as lab:
        left, right, (one, two), grow = grown(lab, 0, [5])
        query = KINDS["pairs"](left, right)
        row = lambda step: (step, 0, "a", None, 1.5, 1)  # noqa: E731
        job = query.run("out")
        for side, drawn in [(True, [row(0)]), (False, [row(2)]), (True, [row(4)])] * 2:
            grow(side, drawn)
            job.wait(30)
        found = offsets(lab["out"].to_polars())
        assert found != wanted("pairs", one, two, 0)


short = lists(entries, 20, picked)


@given(
    short, short, keys, st.sampled_from([10, 10, None]), st.sampled_from([None, 0, 0, 3, 30, "inf"]),
    delays, chunks, st.sampled_from([2, 1000]), st.booleans(), st.booleans(),
)  # fmt: skip
@LAWS
def test_a_window_after_an_as_of_join_takes_the_rows_that_it_would_without(
    one, two, by, own, waits, delay, sizes, epoch, ended, twice
):
    """Whatever its own delay is, it waits for the left rows that wait for the right side."""
    left, right = made(one), made(two)
    wait = own if waits is None else None if waits == "inf" else waits
    late_after = None if wait is None else wait * SECOND
    found, late, _ = oracle.fixed(left, "tumbling", 10 * SECOND, 10 * SECOND, 0, by, late_after)
    text = f"{waits}s" if isinstance(waits, int) else waits
    with temp_lab() as lab:
        a = stream_of(lab, "a", left, own, sizes)
        b = stream_of(lab, "b", right, delay, sizes[::-1], end=ended)
        local.EPOCH_ROWS = epoch
        both = a.join_asof(b.select("ts", "k", o=pl.col("_offset")), by="k")
        if twice:
            both = both.join_asof(b.select("ts", "k", p=pl.col("_offset")), by="k")
        query = both.window(sl.tumbling("10s"), by=list(by), delay=text).agg(**AGGREGATES)
        same(query.collect().drop("_final"), as_table(found, by).drop("_final"))
        gone = query.late()  # of the right side too
        mine = gone.filter(pl.col("i").is_not_null())["_offset"] if "i" in gone.columns else []
        assert set(mine) <= {row["offset"] for row, *_ in late}
        assert len(mine) == len(late) or not ended  # some wait for the right side still


@given(short, short, st.sampled_from([None, 0, 3, 30]), delays, chunks, st.sampled_from([2, 7]))
@LAWS
def test_a_window_after_an_interval_join_goes_by_no_order_of_reading(
    one, two, waits, delay, sizes, epoch
):
    """Whatever its own delay is, it takes the same pairs."""
    text = None if waits is None else f"{waits}s"
    with temp_lab() as lab:
        a = stream_of(lab, "a", made(one), 2, sizes)
        b = stream_of(lab, "b", made(two), delay, sizes[::-1])
        both = a.join(b.select("ts", "k", o=pl.col("_offset")), on="k", within=("-5s", "10s"))
        windows = both.window(sl.tumbling("10s"), by="k", delay=text)
        query = windows.agg(n=pl.len(), total=pl.col("i").sum(), o=pl.col("o").sum())
        whole = query.collect()
        local.EPOCH_ROWS = epoch
        assert query.collect().equals(whole)
