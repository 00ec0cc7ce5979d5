"""Windows that overlap, put together in steps: the same as from all their panes at once."""

import datetime as dt
from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab.engines import panes
from streamlab.engines.overlap import PLACE, put_together, steps
from streamlab.testing import temp_lab

BASE = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
MERGES = [pl.col("total").sum(), pl.col("least").min()]


@pytest.mark.parametrize(
    "window",
    [
        sl.hopping("30s", every="1s"), sl.hopping("7s", every="7s"), sl.hopping("10s", every="4s"),
        sl.cumulative("7s", "1s"), sl.cumulative("1m", "1s"),
    ],
    ids=str,
)  # fmt: skip
def test_steps_cover_a_window(window):
    """Each step goes on from what the one before covered, and the last covers the window."""
    taken = list(steps(window))
    assert taken[0][0] == 1
    assert all(a * f == b for (a, f), (b, _) in pairwise(taken))
    covered, factor = taken[-1]
    whole = window.size // window.pane
    reached = covered * factor
    assert reached >= whole if window.kind == "cumulative" else reached == whole


@settings(max_examples=60, deadline=None)
@given(
    held=st.dictionaries(
        st.tuples(st.sampled_from("ab"), st.integers(-40, 40)), st.integers(-5, 5), max_size=25
    ),
    size=st.integers(1, 24),
    kind=st.sampled_from(["hopping", "cumulative"]),
    span=st.tuples(st.integers(-50, 50), st.integers(0, 60)),
)
def test_windows_are_those_of_all_their_panes(held, size, kind, span):
    """Sums and least values of any panes are those that a loop over every window finds."""
    window = sl.hopping(f"{size}s", "1s") if kind == "hopping" else sl.cumulative(f"{size}s", "1s")
    first, last = span[0], span[0] + span[1]
    wanted = {}
    for place in range(first, last + 1):
        start = place - size + 1 if kind == "hopping" else place // size * size
        for key in "ab":
            inside = [v for (k, p), v in held.items() if k == key and start <= p <= place]
            if inside:
                wanted[key, place] = (sum(inside), min(inside))
    rows = [(k, p, v, v) for (k, p), v in held.items()]
    frame = pl.DataFrame(rows, schema=["k", PLACE, "total", "least"], orient="row").cast(
        {"k": pl.String, PLACE: pl.Int64, "total": pl.Int64, "least": pl.Int64}
    )
    found = put_together(frame, window, ["k"], MERGES, first, last)
    assert {(k, p): (t, m) for k, p, t, m in found.rows()} == wanted


def test_rows_late_for_some_windows_count_in_the_others_only():
    """A row that comes after its first windows have closed is in those that were open."""
    seconds = [1, 12, 3, 25, 40]  # the third meets 12 s: the windows up to [2, 12) are closed
    rows = {"ts": [BASE + dt.timedelta(seconds=s) for s in seconds], "x": [1, 10, 100, 1000, 1]}
    with temp_lab() as lab:
        stream = lab.create("s", rows, time="ts")
        query = stream.window(sl.hopping("10s", every="1s")).agg(x=pl.col("x").sum())
        found = query.collect("final").filter(
            pl.col("window_end") <= BASE + dt.timedelta(seconds=14)
        )
        by_end = {(e - BASE).seconds: x for e, x in found.select("window_end", "x").rows()}
        assert by_end == {**dict.fromkeys(range(2, 12), 1), 13: 110, 14: 10}


def test_panes_that_are_counted_twice_are_caught(monkeypatch):
    """The control: were a step to cover one pane too few, sums would tell."""
    monkeypatch.setattr("streamlab.engines.overlap.steps", lambda _: iter([(1, 2), (1, 3)]))
    frame = pl.DataFrame({"k": ["a"] * 6, PLACE: range(6), "total": range(6), "least": [1] * 6})
    found = panes.put_together(frame, sl.hopping("6s", "1s"), ["k"], MERGES, 5, 5)
    assert found["total"].to_list() != [15]


def test_thousands_of_windows_that_share_a_pane_are_not_told_one_by_one(lab):
    """Six hours every second: each end has the sum of the rows of six hours before, and no more is made."""
    rng = np.random.default_rng(5)
    seconds = np.sort(rng.integers(0, 30_000, 400))
    values = rng.integers(0, 100, 400)
    frame = pl.DataFrame({"t": (seconds * 1_000_000).astype("datetime64[us]"), "v": values})
    stream = lab.create("s", frame, time="t")
    stream.advance("end")
    found = (
        stream.window(sl.hopping("6h", every="1s"))
        .agg(v=pl.col("v").sum(), n=pl.len())
        .collect("final")
    )
    ends = found["window_end"].dt.epoch("s").to_numpy()
    assert len(np.unique(ends)) == found.height
    before = np.searchsorted(seconds, ends, "left")
    since = np.searchsorted(seconds, ends - 6 * 3600, "left")
    total = np.concatenate([[0], np.cumsum(values)])
    assert (found["v"].to_numpy() == total[before] - total[since]).all()
    assert (found["n"].to_numpy() == before - since).all() and (before > since).all()
    covered = {int(end) for second in seconds for end in range(second + 1, second + 6 * 3600 + 1)}
    assert covered == set(ends.tolist())
