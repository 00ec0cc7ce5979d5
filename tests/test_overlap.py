"""Windows that overlap, put together in steps: the same as from all their panes at once."""

import datetime as dt

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

import streamlab as sl
from streamlab.aggregate import ORDER, aggregation
from streamlab.engines import overlap
from streamlab.engines.overlap import PLACE, put_together
from streamlab.engines.state import reduced
from streamlab.testing import temp_lab

BASE = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)


def aggregates(schema, *expressions):
    return aggregation(expressions, pl.Schema(schema), ordered=False)


SUMS = aggregates({"v": pl.Int64}, pl.col("v").sum().alias("total"), pl.col("v").min())


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
    frame = pl.DataFrame(rows, schema=["k", PLACE, *SUMS.parts], orient="row").cast(
        {"k": pl.String, PLACE: pl.Int64, **dict.fromkeys(SUMS.parts, pl.Int64)}
    )
    found = put_together(frame, window, ["k"], SUMS, first, last)
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


def test_a_stretch_that_is_taken_twice_is_caught(monkeypatch):
    """The control: were a merge to reach one part too far, sums would tell."""
    frame = pl.DataFrame({"k": ["a"] * 6, PLACE: range(6), "\0p0": range(1, 7), "\0p1": [1] * 6})
    window = sl.hopping("5s", "1s")
    found = put_together(frame, window, ["k"], SUMS, 4, 5)
    assert sorted(found["\0p0"]) == [15, 20]
    real = overlap.merged
    far = lambda p, low, high, how: real(p, np.maximum(low - 1, 0), high, how)  # noqa: E731
    monkeypatch.setattr(overlap, "merged", far)
    found = put_together(frame, window, ["k"], SUMS, 4, 5)
    assert sorted(found["\0p0"]) != [15, 20]


VALUES = {
    "i": st.integers(-9, 9), "f": st.floats(-9, 9) | st.just(float("nan")), "b": st.booleans(),
    "s": st.sampled_from(["b", "a", "", "ä"]), "t": st.sampled_from(["b", "a", "", "ä"]),
    "e": st.sampled_from(["b", "a"]), "g": st.floats(-9, 9, width=16),
    "d": st.decimals(-9, 9, places=2), "l": st.timedeltas(dt.timedelta(-9), dt.timedelta(9)),
    "u": st.datetimes(dt.datetime(2020, 1, 1), dt.datetime(2030, 1, 1)),
}  # fmt: skip
KINDS = {
    "i": pl.Int64, "f": pl.Float64, "b": pl.Boolean, "s": pl.Categorical(), "t": pl.String(),
    "e": pl.Enum(["b", "a"]), "g": pl.Float32, "d": pl.Decimal(10, 2), "l": pl.Duration("us"),
    "u": pl.Datetime("us"), ORDER: pl.Int64,
}  # fmt: skip
EACH = [
    pl.len().alias("n"),
    *(pl.col(c).count().name.prefix("count_") for c in VALUES),
    *(pl.col(c).sum().name.prefix("sum_") for c in "ibdgl"),
    *(pl.col(c).min().name.prefix("min_") for c in VALUES),
    *(pl.col(c).max().name.prefix("max_") for c in VALUES),
    *(pl.col(c).first().name.prefix("first_") for c in VALUES),
    *(pl.col(c).last().name.prefix("last_") for c in VALUES),
    *(getattr(pl.col("b"), k)(ignore_nulls=i).alias(f"{k}{i}") for k in ("any", "all") for i in (True, False)),
    pl.col("i").mean().alias("mean"), pl.col("i").var().alias("var"), pl.col("i").std(ddof=0).alias("std"),
]  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries({k: v | st.none() for k, v in VALUES.items()}), min_size=1, max_size=20
    ),
    ends=st.lists(st.tuples(st.integers(0, 19), st.integers(1, 20)), min_size=1, max_size=12),
    order=st.permutations(range(20)),
)  # fmt: skip
def test_stretches_are_merged_as_their_rows_together(rows, ends, order):
    """Whatever is aggregated, over any stretch: the same as of its rows at once, in their order."""
    frame = pl.DataFrame(
        [{**row, ORDER: at} for row, at in zip(rows, order, strict=False)], schema=KINDS
    )
    how = aggregates({k: v for k, v in KINDS.items() if k != ORDER}, *EACH)
    assert how.splits
    parts = reduced(frame.with_row_index("\0row"), ["\0row"], how).sort("\0row").drop("\0row")
    high = np.array([min(high, len(rows) - 1) + 1 for high, _ in ends])
    low = np.array([max(h - length, 0) for h, (_, length) in zip(high, ends, strict=True)])
    found = how.finished(overlap.merged(parts, low, high, how))
    for at, (a, b) in enumerate(zip(low, high, strict=True)):
        wanted = frame[a:b].sort(ORDER).select(how.whole).cast(how.dtypes)
        assert_frame_equal(found[at], wanted, check_exact=False, abs_tol=1e-9)


@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(
        st.fixed_dictionaries({k: v | st.none() for k, v in VALUES.items()}), min_size=1, max_size=20
    ),
    cuts=st.lists(st.integers(1, 19), max_size=8),
    picks=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 19), st.integers(0, 19)), min_size=1),
    order=st.permutations(range(20)),
)  # fmt: skip
def test_stretches_over_cells_are_merged_as_their_rows_together(rows, cuts, picks, order):
    """Where stretches end one cell and begin the next, all kinds are what their rows give at once."""
    frame = pl.DataFrame(
        [{**row, ORDER: at} for row, at in zip(rows, order, strict=False)], schema=KINDS
    )
    how = aggregates({k: v for k, v in KINDS.items() if k != ORDER}, *EACH)
    assert 20 < len(how.scans) < len(how.parts)
    parts = reduced(frame.with_row_index("\0row"), ["\0row"], how).sort("\0row").drop("\0row")
    edges = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    cells = np.searchsorted(edges, np.arange(len(rows)), "right")
    stretches = []
    for which, before, after in picks:  # from within a cell to its end, and on into the next
        start, middle, *more = edges[which % (len(edges) - 1) :][:3]
        low = start + before % (middle - start)
        high = middle + (after % (more[0] - middle + 1) if more else 0)
        stretches += [(low, high), (start, start + 1 + after % (middle - start))]
    low, high = np.array(stretches).T
    found = how.finished(overlap.merged(parts, low, high, how, cells))
    for at, (a, b) in enumerate(stretches):
        wanted = frame[a:b].sort(ORDER).select(how.whole).cast(how.dtypes)
        assert_frame_equal(found[at], wanted, check_exact=False, abs_tol=1e-9)


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
