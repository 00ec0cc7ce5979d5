"""The live chart without a browser: its points are the rows of a collect, whatever came when."""

import math
import threading

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watching import Watched, eventually, folded, tell

import streamlab as sl
from streamlab.notebook.series import Ring


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


@pytest.fixture
def stream(lab, trades):
    return lab.create("trades", trades, time="ts", delay="30s")


def points_of(frame, value, by="symbol"):
    """Return {series: {(milliseconds, number, final)}} of a collected frame."""
    found = {}
    for row in frame.iter_rows(named=True):
        place = row["window_start"].timestamp() * 1000
        found.setdefault(row[by], set()).add((place, float(np.float32(row[value])), row["_final"]))
    return found


def drawn(watched, view):
    closed, opened = folded(watched.frames(view))
    return {
        name: {(x, y, True) for x, y in closed[name]} | {(x, y, False) for x, y in opened[name]}
        for name in closed
    }


@pytest.mark.parametrize(
    "window", [sl.tumbling("1m"), sl.hopping("2m", every="1m"), sl.session("10s")]
)
def test_the_points_are_the_rows_of_a_collect(stream, watched, window):
    """Folded as a browser folds them, frames give every window once: final, or as it is."""
    query = stream.window(window, by="symbol").agg(n=pl.len(), volume=pl.col("size").sum())
    view = query.live(y="volume").wait()
    assert drawn(watched, view) == points_of(query.collect(), "volume")
    stream.append({"ts": ["2026-01-01T00:17:00Z"], "symbol": ["S1"], "price": [1.0], "size": [5]}
                  | {"ts": pl.Series(["2026-01-01T00:17:00"]).str.to_datetime(time_zone="UTC", time_unit="us")})  # fmt: skip
    view.wait()
    assert drawn(watched, view) == points_of(query.collect(), "volume")
    stream.advance("end")
    view.wait()
    assert drawn(watched, view) == points_of(query.collect(), "volume")
    assert all(final for points in drawn(watched, view).values() for *_, final in points)
    assert view.frame()["final"].all()
    view.stop()


@pytest.mark.filterwarnings("ignore:.*came too late")
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.tuples(st.integers(0, 300), st.sampled_from("ab"), st.integers(0, 9)), max_size=60
    ),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    gap=st.booleans(),
)
def test_however_rows_come_the_picture_is_the_same(tmp_path_factory, rows, cuts, gap):
    """Appends cut anywhere, late rows, windows that merge: the frames fold to what a collect gives."""
    patch = pytest.MonkeyPatch()
    watched = Watched(patch)
    with sl.open(tmp_path_factory.mktemp("lab"), sync="os") as lab:
        kinds = {"t": pl.Datetime("us", "UTC"), "k": pl.String, "v": pl.Int64}
        frame = pl.DataFrame(
            [(sl_time(second), key, value) for second, key, value in rows],
            schema=kinds,
            orient="row",
        )
        stream = lab.create("s", frame.clear(), time="t", delay="20s")
        window = sl.session("15s") if gap else sl.tumbling("30s")
        query = stream.window(window, by="k").agg(v=pl.col("v").sum())
        view = query.live()
        edges = sorted({0, len(rows), *(min(cut, len(rows)) for cut in cuts)})
        for low, high in zip(edges, edges[1:], strict=False):
            stream.append(frame[low:high])
            view.wait()
        view.wait()
        assert {k: v for k, v in drawn(watched, view).items() if v} == points_of(
            query.collect(), "v", "k"
        )
    patch.undo()


def sl_time(second):
    import datetime as dt

    return dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=second)


def test_a_chart_of_rows_appends_and_keeps_so_many(lab, watched):
    """Rows of a stream come as deltas; no more than asked for are kept, here and in the browser."""
    stream = lab.create("s", {"t": list(range(500)), "v": [float(i) for i in range(500)]})
    view = stream.live(x="t", y="v", keep=200).wait()
    tell(view, t="hello")
    for start in range(500, 2000, 100):
        stream.append({"t": range(start, start + 100), "v": [1.0] * 100})
        view.wait()
    closed, _ = folded(watched.frames(view))
    assert [x for x, _ in closed["v"]] == list(range(1800, 2000))
    assert len(view._points) == 200
    assert view.frame()["t"].to_list() == list(range(1800, 2000))
    deltas = [c for c, _ in watched.frames(view) if not c["full"]]
    assert deltas and all(part["closed"] <= 200 for c in deltas for part in c["parts"])
    view.stop()


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(2, 25))
def test_a_ring_is_the_last_of_all_that_was_added(sizes, keep):
    """However it is filled, a ring holds the last points, in memory for a few times as many."""
    ring, everything = Ring(keep), []
    for size in sizes:
        more = [float(len(everything) + i) for i in range(size)]
        everything += more
        ring.add(np.array(more), -np.array(more))
        assert ring.x.tolist() == everything[-keep:]
        assert ring.y.tolist() == [-v for v in everything[-keep:]]
        assert len(ring._x) <= 2 * keep + 41


def test_values_that_are_no_numbers_are_gaps(lab, watched):
    """Null and NaN are gaps; a place that is null is not drawn."""
    stream = lab.create(
        "s",
        {
            "x": [1, 2, None, 4],
            "y": [1.0, None, 3.0, float("nan")],
            "ok": [True, None, False, True],
        },
    )
    view = stream.live(x="x", y=["y", "ok"]).wait()
    closed, _ = folded(watched.frames(view))
    assert [x for x, _ in closed["y"]] == [1.0, 2.0, 4.0]
    assert [math.isnan(y) for _, y in closed["y"]] == [False, True, True]
    assert closed["ok"][0] == (1.0, 1.0) and closed["ok"][2] == (4.0, 1.0)
    view.stop()


def test_too_many_series_are_said_and_bounded(lab, watched):
    """A chart of a thousand keys draws some, says how many it leaves out, and stays small."""
    stream = lab.create(
        "s", {"x": list(range(1000)), "k": [f"k{i}" for i in range(1000)], "y": [1.0] * 1000}
    )
    view = stream.live(x="x", y="y", color="k").wait()
    assert len(watched.last(view)["series"]) == 24
    assert "976 more series are not drawn" in watched.last(view)["status"]
    view.stop()


def test_what_cannot_be_drawn_is_refused_with_the_way_out(stream):
    """A column that is not there, or of the wrong kind, is named, with what to write instead."""
    query = stream.window(sl.tumbling("1m"), by="symbol").agg(
        n=pl.len(), first=pl.col("symbol").first()
    )
    for options, says in [
        ({"x": "window_strat"}, "window_start"),
        ({"y": "first"}, "cannot be drawn as a number"),
        ({"y": []}, ""),
        ({"x": "symbol"}, "is no axis"),
        ({"color": []}, r"color=\['symbol'\]"),
        ({"kind": "pie"}, "line, bar, area"),
        ({"kind": "heat", "y": [], "color": "n"}, "y="),
        ({"keep": 1}, "keep"),
        ({"height": 5}, "height"),
        ({"zone": "CET"}, "zone"),
        ({"backend": "plotly"}, "backend"),
    ]:
        if not says:
            continue
        with pytest.raises(sl.QueryError, match=says):
            query.live(**options)
    with pytest.raises(sl.QueryError, match="no column of numbers"):
        stream.select("symbol", "ts").live()


def test_a_heat_map_tells_rows_by_y_and_numbers_by_color(stream, watched):
    """In a heat map the series are the values of y, and the numbers those of color."""
    query = stream.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    view = query.live(y="symbol", color="n", kind="heat").wait()
    assert {s["name"] for s in watched.last(view)["series"]} == {f"S{i}" for i in range(7)}
    assert watched.last(view)["y"] == "symbol" and watched.last(view)["value"] == "n"
    assert drawn(watched, view) == points_of(query.collect(), "n")
    view.stop()


@pytest.mark.parametrize("kind", ["line", "bar", "area", "scatter", "heat"])
@pytest.mark.parametrize("empty", [False, True])
def test_every_kind_is_drawn_by_matplotlib_too(lab, trades, watched, kind, empty, tmp_path):
    """The still and the export have a title, both axes, and the units; without a row too."""
    stream = lab.create("trades", trades.clear() if empty else trades, time="ts", delay="30s")
    query = stream.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    options = {"y": "symbol", "color": "n"} if kind == "heat" else {"y": "n", "unit": "rows"}
    view = query.live(kind=kind, title="$x$ <b>", **options).wait()
    figure = view.figure()
    assert figure.get_suptitle() == r"\$x\$ <b>"
    assert "UTC" in figure.axes[0].get_xlabel()
    if kind != "heat":
        assert figure.axes[0].get_ylabel() == "n (rows)"
    assert view.save(tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in view.save(tmp_path / "picture.svg").read_bytes()
    html = view._still_bundle()["text/html"]
    assert "data:image/png;base64," in html and "<b>" not in html
    view.stop()


def test_the_matplotlib_backend_shows_pictures_and_opens_no_channel(stream, watched):
    """Its picture changes when rows come; nothing is sent, and an error is written into it."""
    query = stream.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    view = query.live(backend="matplotlib").wait()
    first = view.image.value
    assert bytes(first).startswith(b"\x89PNG") and view.comm is None
    stream.advance("end")
    eventually(lambda: view.image.value != first)
    view.stop()


def test_a_failing_query_is_said_in_the_chart(lab, watched):
    """A function that raises ends up as text in the view; the kernel goes on."""
    stream = lab.create("s", {"x": [1], "y": [1.0]})

    def bad(frame):
        if frame.height:
            raise ValueError("<b>broken</b>")
        return frame

    view = stream.map_batches(bad).live(x="x", y="y")
    view.wait()
    text = eventually(lambda: watched.messages(view, "error"))[0]["text"]
    assert "<b>broken</b>" in text
    assert view.error is not None and "broken" in repr(view)
    view.stop()


def test_a_replay_that_is_set_back_draws_anew(stream, lab, watched):
    """After a seek back the points are those of what is released then, and no others."""
    replay = lab.replay("trades")
    query = replay["trades"].window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    view = query.live()
    for instant in ("2026-01-01T00:12Z", "2026-01-01T00:05Z", "2026-01-01T00:07Z"):
        replay.seek(instant)
        view.wait()
        view.wait()
        assert {k: v for k, v in drawn(watched, view).items() if v} == points_of(
            query.collect(), "n"
        )
    view.stop()


def test_a_pause_holds_the_picture(stream, watched):
    """What comes during a pause is drawn when it is over, all of it."""
    query = stream.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    view = query.live().wait()
    tell(view, t="pause", on=True)
    before = drawn(watched, view)
    stream.advance("end")
    view.wait()
    assert drawn(watched, view) == before
    tell(view, t="pause", on=False)
    view.wait()
    assert drawn(watched, view) == points_of(query.collect(), "n")
    view.stop()


def test_results_can_be_polled_and_stopped_from_another_thread(stream):
    """`poll` gives what is there without waiting; `stop` ends an iteration that waits."""
    query = stream.window(sl.tumbling("1m")).agg(n=pl.len())
    results = query.follow()
    assert results.poll().equals(query.collect("final"))
    assert results.poll().height == 0 and results.behind == 0
    assert results.rows_in == 1000 and results.watermark is not None
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (list(results), ended.set()))
    thread.start()
    results.stop()
    assert ended.wait(10)
    thread.join()
