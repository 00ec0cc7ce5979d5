"""The picture of a watermark without a browser: its counts are those of `lateness`, for any delay."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watching import Watched, tell

import streamlab as sl


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
    assert len(view._x) == 100 and watched.last(view)["rows"] == 1000
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
