"""The picture of a watermark without a browser: its counts are those of `lateness`, for any delay."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watching import Watched, eventually, tell

import streamlab as sl
from streamlab.notebook import marks


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


WINDOWS = [
    sl.tumbling("10s"), sl.hopping("30s", every="10s"), sl.cumulative("1m", step="10s"),
    sl.sliding("10s"), sl.session("5s"), None,
]  # fmt: skip
DELAYS = [0, 1, 5, 9.999999, 10, 10.000001, 30, 75]


def late_of_last_frame(watched, view, delay):
    """Count as the browser does: rows that need at least the delay."""
    content, buffers = watched.frames(view)[-1]
    curve = np.frombuffer(buffers[5], "<f8")
    assert content["every"] == 1 and (np.diff(curve) <= 0).all()
    return int((curve >= delay * 1e6).sum())


@settings(deadline=None, max_examples=12, suppress_health_check=list(HealthCheck))
@given(
    seconds=st.lists(st.integers(0, 120), min_size=1, max_size=60),
    window=st.sampled_from(WINDOWS),
    own=st.sampled_from(["0s", "7s"]),
)
def test_any_delay_is_counted_as_lateness_counts_it(tmp_path_factory, seconds, window, own):
    """For every window, and none, what the slider says is what a run with that delay says."""
    patch = pytest.MonkeyPatch()
    watched = Watched(patch)
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    with sl.open(tmp_path_factory.mktemp("lab"), sync="os") as lab:
        times = pl.Series(
            [start + dt.timedelta(seconds=s) for s in seconds], dtype=pl.Datetime("us", "UTC")
        )
        stream = lab.create(
            "s", pl.DataFrame({"t": times, "k": [s % 2 for s in seconds]}), time="t", delay=own
        )
        query = stream if window is None else stream.window(window, by="k").agg(n=pl.len())
        view = query.watermarks().wait(30)
        delays = [dt.timedelta(seconds=d) for d in DELAYS]
        want = query.lateness(delays)["rows_late"].to_list()
        assert [late_of_last_frame(watched, view, d) for d in DELAYS] == want
        assert [view.late_rows(d if d else "0s") for d in delays] == want
    patch.undo()


def test_rows_that_come_are_drawn_and_counted(lab, trades, watched):
    """The picture is live: counts and the staircase go on with the stream."""
    stream = lab.create("s", trades, time="ts", delay="5s")
    view = stream.window(sl.tumbling("1m")).agg(n=pl.len()).watermarks().wait(30)
    assert watched.last(view)["rows"] == 1000
    before = view.late_rows("1s")
    old = trades.head(3).with_columns(pl.col("ts") - pl.duration(hours=1))
    stream.append(old)
    view.wait(30)
    assert watched.last(view)["rows"] == 1003
    assert view.late_rows("1s") == before + 3
    _, buffers = watched.frames(view)[-1]
    x, _, _, stream_time, needed, _ = (np.frombuffer(b, "<f8") for b in buffers)
    assert (np.diff(stream_time) >= 0).all() and (np.diff(x) > 0).all()
    assert (needed[-3:] > 3.5e9).all()
    assert stream_time[-1] == stream_time[-4]
    view.stop()


def test_a_pause_stops_it_and_what_is_kept_is_bounded(lab, trades, watched):
    """Only the last rows are kept for drawing; all are counted."""
    stream = lab.create("s", trades, time="ts")
    view = stream.watermarks(rows=100).wait(30)
    assert len(view._rows) == 100 and watched.last(view)["rows"] == 1000
    assert watched.last(view)["kept"] == 100
    tell(view, t="pause", on=True)
    stream.append(trades.tail(5))
    view._look(full=False)
    assert watched.last(view)["rows"] == 1000
    view.stop()


def test_several_streams_have_several_watermarks(lab, trades):
    """A join is refused, with what to ask instead."""
    left, right = lab.create("a", trades, time="ts"), lab.create("b", trades, time="ts")
    with pytest.raises(sl.QueryError, match=r'lab\["a"\]'):
        left.join_asof(right, by="symbol").watermarks()
    with pytest.raises(ValueError, match="rows"):
        left.watermarks(rows=0)


@pytest.mark.parametrize("rows", [0, 1, 1000])
def test_the_still_has_axes_and_a_legend(lab, trades, rows, tmp_path):
    """The picture of matplotlib says how many are late, also of a stream without a row."""
    stream = lab.create("s", trades.head(rows), time="ts", delay="5s")
    view = stream.window(sl.tumbling("10s")).agg(n=pl.len()).watermarks().wait(30)
    figure = view.figure()
    assert f"of {rows:,} rows are late" in figure.axes[0].get_title("left")
    assert figure.axes[0].get_ylabel() == "ts (UTC)"
    assert view.save(tmp_path / "marks.png").exists()
    assert "data:image/png" in view._still_bundle()["text/html"]
    view.stop()


def test_whatever_the_query_does_late_rows_are_counted_and_drawn(lab, trades, watched):
    """Columns left out, filters, SQL, joined frames, windows of windows: as `lateness` has it."""
    stream = lab.create("s", trades, time="ts", delay="5s")
    minute, n = sl.tumbling("10s"), pl.len().alias("n")
    several = pl.DataFrame({"symbol": ["S1", "S1", "S2"], "side": [1, 2, 3]})
    queries = [
        stream.select("ts", "symbol").window(minute).agg(n),
        stream.filter(pl.col("size") > 3).window(minute, by="symbol").agg(n),
        stream.join(several, on="symbol").window(minute).agg(n),
        stream.window(minute, delay="1s").agg(n).window(sl.tumbling("1m"), delay="9m").agg(n.sum()),
        lab.query("SELECT window_start, count(*) AS n FROM tumble(s, INTERVAL '10 seconds') GROUP BY ALL"),
    ]  # fmt: skip
    for query in queries:
        view = query.watermarks().wait(30)
        want = query.lateness(["0s", "1s", "5s", "25s"])["rows_late"].to_list()
        assert want[0] > 0
        assert [view.late_rows(d) for d in ("0s", "1s", "5s", "25s")] == want
        needed = np.frombuffer(watched.frames(view)[-1][1][4], "<f8")
        assert (needed >= 0).sum() == want[0]
        view.stop()
    assert watched.last(view)["delay"] == 5_000_000


def test_the_delay_is_that_of_the_first_window(lab, trades, watched):
    """Rows meet the first window; what a second one is given is never late."""
    stream = lab.create("s", trades, time="ts", delay="5s")
    query = stream.window(sl.tumbling("10s")).agg(n=pl.len())
    view = query.window(sl.tumbling("1m"), delay="9m").agg(n=pl.col("n").sum()).watermarks()
    assert watched.last(view.wait(30))["delay"] == 5_000_000
    assert len(query.late()) == view.late_rows("5s")
    view.stop()


def test_the_staircase_knows_heartbeats_and_what_came_before_a_view(lab, watched):
    """Stream time moves on without rows too, and a view begins at that of its place."""
    at = [dt.datetime(2026, 1, 1, 0, 0, s, tzinfo=dt.UTC) for s in (0, 5, 10)]
    stream = lab.create("s", {"t": at[:2]}, time="t")
    stream.advance("2026-01-01T00:01:00Z")
    stream.append({"t": at[2:]})
    for seen, want in ((stream, [0, 5, 60]), (stream.offsets(2, 3), [60])):
        view = seen.watermarks().wait(30)
        stream_time = np.frombuffer(watched.frames(view)[-1][1][3], "<f8") / 1000
        assert (stream_time - at[0].timestamp()).tolist() == want
        view.stop()


def test_of_many_rows_the_latest_are_drawn_and_memory_is_bounded(lab, watched, monkeypatch):
    """Rows drawn are few and the furthest behind among them; counts go on, said to be about right."""
    monkeypatch.setattr(marks, "MOST_COUNTED", 2_000)
    monkeypatch.setattr(marks, "MOST_CURVE", 500)
    start, rows = dt.datetime(2026, 1, 1, tzinfo=dt.UTC), 30_000
    spread = np.random.default_rng(7).integers(0, 3_000_000, rows)
    micros = pl.Series(np.arange(rows) * 1000 - spread).cast(pl.Duration("us"))
    frame = pl.DataFrame({"t": micros}).select(
        t=(pl.lit(start) + pl.col("t")).cast(pl.Datetime("us", "UTC"))
    )
    stream = lab.create("s", frame[:1000], time="t", delay="1s")
    view = stream.watermarks(rows=5_000).wait(30)
    for at in range(1000, rows, 1000):
        stream.append(frame[at : at + 1000])
        view.wait(30)
    want = stream.lateness(["0s", "500ms", "1s", "2s"])["rows_late"].to_list()
    got = [view.late_rows(d) for d in ("0s", "500ms", "1s", "2s")]
    assert got == pytest.approx(want, rel=0.01) and got[0] == want[0] and got[2] == want[2]
    content, buffers = watched.frames(view)[-1]
    x, needed, curve = (np.frombuffer(buffers[i], "<f8") for i in (0, 4, 5))
    assert len(x) <= 2 * marks.POINTS + marks.MOST_LATE and len(curve) <= 501
    assert content["every"] > 1 and len(view._tally.values) <= 2048 * 12  # 12 bits, 2**10 to 2**22
    assert len(view._rows) == 5_000
    kept = np.sort(view._rows["needed"].to_numpy())[-marks.MOST_LATE :]
    assert np.isin(kept, needed).all()
    view.stop()


def test_another_delay_may_be_drawn_and_edges_of_windows_are(lab, trades, watched, tmp_path):
    """The delay that is drawn first may be chosen; the query's own is still marked."""
    stream = lab.create("s", trades, time="ts", delay="5s")
    view = (
        stream.window(sl.hopping("30s", every="10s"))
        .agg(n=pl.len())
        .watermarks(delay="1m")
        .wait(30)
    )
    last = watched.last(view)
    assert (last["delay"], last["chosen"]) == (5_000_000, 60_000_000)
    assert last["edges"] == {"every": 10_000, "first": 0}
    assert "with a delay of 60 s" in view.figure().axes[0].get_title("left")
    view.stop()
    with pytest.raises(sl.InvalidDuration):
        stream.watermarks(delay="soon")
    view = stream.watermarks(delay="1s").wait(30)
    assert watched.last(view)["edges"] is None
    view.stop()


def test_a_long_history_is_looked_at_in_steps_and_what_comes_costs_what_it_is(lab, watched):
    """Half a million rows out of order: a row more is seen within seconds, not counted all anew."""
    rows = 500_000
    behind = np.random.default_rng(1).integers(0, 3_000_000, rows)
    micros = pl.Series(np.arange(rows) * 1000 - behind + 1_767_225_600_000_000)
    stream = lab.create("s", {"t": micros.cast(pl.Datetime("us", "UTC"))}, time="t", delay="1s")
    view = stream.watermarks().wait(60)
    assert watched.last(view)["rows"] == rows
    stream.append({"t": micros[-1:].cast(pl.Datetime("us", "UTC"))})
    eventually(lambda: watched.last(view)["rows"] == rows + 1, timeout=5)
    view.stop()
