"""The live table without a browser: what it sends is what a plain reading of the stream gives."""

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watching import Watched, eventually, tell

import streamlab as sl
from streamlab.notebook.live import live_views
from streamlab.notebook.tail import Tail


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


@pytest.fixture
def numbers(lab):
    return lab.create("numbers", {"n": list(range(100)), "even": [i % 2 == 0 for i in range(100)]})


def shown(frame):
    return [row["cells"][-2] for row in frame["rows"]]


def test_it_sends_only_the_rows_that_are_shown(numbers, watched):
    """A frame holds the last rows, however many there are."""
    view = numbers.live(rows=3).wait()
    assert shown(watched.last(view)) == ["97", "98", "99"]
    numbers.append({"n": range(100, 10_100), "even": [True] * 10_000})
    eventually(lambda: shown(watched.last(view)) == ["10,097", "10,098", "10,099"])
    assert all(len(c["rows"]) == 3 for c, _ in watched.frames(view))
    view.stop()


def test_nothing_new_is_nothing_sent(numbers, watched):
    """A stream at rest costs no message once the browser has said hello."""
    view = numbers.live(rows=3).wait()
    tell(view, t="hello")
    view.wait()
    view.wait()
    count = len(watched.frames(view))
    for _ in range(5):
        view.wait()
    assert len(watched.frames(view)) == count
    view.stop()


def test_a_pause_holds_what_is_shown_and_follow_lets_go(numbers, watched):
    """Paused, rows that come are not shown; following again, they are."""
    view = numbers.live(rows=2).wait()
    tell(view, t="pause", on=True)
    numbers.append({"n": [100], "even": [True]})
    view.wait()
    assert shown(watched.last(view)) == ["98", "99"]
    assert watched.last(view)["paused"]
    tell(view, t="pause", on=False)
    view.wait()
    assert shown(watched.last(view)) == ["99", "100"]
    view.stop()


@pytest.mark.parametrize("at", [0, 1, 7, 50, 100, -3, 10**9])
def test_as_of_an_offset_the_rows_below_it_are_shown(numbers, watched, at):
    """Whatever the browser asks for, rows are those below the offset, within what there is."""
    view = numbers.live(rows=4).wait()
    tell(view, t="at", offset=at)
    view.wait()
    below = min(max(at, 0), 100)
    assert shown(watched.last(view)) == [str(n) for n in range(max(0, below - 4), below)]
    tell(view, t="at", offset=None)
    assert view.wait().at is None
    view.stop()


def test_a_condition_in_sql_filters_and_a_bad_one_is_said(numbers, watched):
    """A filter shows the rows for which it is true; what is no condition is an error in the view."""
    view = numbers.live(rows=3, filter="even").wait()
    assert shown(watched.last(view)) == ["94", "96", "98"]
    tell(view, t="filter", text="n % 25 = 3")
    view.wait()
    assert shown(watched.last(view)) == ["28", "53", "78"]
    tell(view, t="filter", text="m = 1")
    view.wait()
    assert "QueryError" in watched.last(view)["problem"] and "m" in watched.last(view)["problem"]
    assert shown(watched.last(view)) == ["28", "53", "78"]
    tell(view, t="filter", text="")
    view.wait()
    assert watched.last(view)["problem"] == ""
    assert shown(watched.last(view)) == ["97", "98", "99"]
    with pytest.raises(sl.QueryError):
        view.condition = "1 = 1); DROP TABLE numbers; --"
    with pytest.raises(sl.QueryError):
        numbers.live(filter="n > (SELECT max(n) FROM this)")
    view.stop()


@settings(deadline=None, max_examples=10, suppress_health_check=list(HealthCheck))
@given(
    places=st.lists(st.integers(0, 60), max_size=6), size=st.integers(1, 9), step=st.integers(1, 7)
)
def test_the_tail_of_a_condition_is_what_a_filter_of_everything_gives(tmp_path, places, size, step):
    """Asked at any offsets in any order, rows coming in between, a tail is the tail of the filter."""
    with sl.open(tmp_path / f"{hash((tuple(places), size, step)):x}", sync="os") as lab:
        stream = lab.create("s", {"n": list(range(40))})
        tail = Tail(stream, size, f"n % {step} = 0")
        for at in [*places, 40]:
            below = min(at, stream.end_offset)
            stream.append({"n": [stream.end_offset]})
            found = tail.below(below)
            want = stream.to_polars().filter(pl.col("_offset") < below, pl.col("n") % step == 0)
            assert found["n"].to_list() == want.tail(size)["n"].to_list()
            assert tail.whole


def test_a_rare_row_far_back_is_found_in_the_end(lab, watched):
    """With more history than one look goes through, looks go on until the rows are there."""
    stream = lab.create("big", {"n": range(1_500_000)})
    view = stream.live(rows=2, filter="n < 2").wait()
    eventually(lambda: [row["key"] for row in watched.last(view)["rows"]] == [0, 1])
    eventually(lambda: "looking" not in watched.last(view)["state"])
    view.stop()


def test_a_replay_that_is_set_back_shows_the_past(lab, trades, watched):
    """The table of a replayed stream ends where the replay is, also after it went back."""
    stream = lab.create("trades", trades, time="ts")
    replay = lab.replay("trades")
    view = replay["trades"].live(rows=2).wait()
    for instant in ("2026-01-01T00:10Z", "2026-01-01T00:02Z", "2026-01-01T00:04Z"):
        replay.seek(instant)
        view.wait()
        end = stream.find(instant)
        assert [row["key"] for row in watched.last(view)["rows"]] == [end - 2, end - 1]
        view.condition = "size >= 0"
    view.stop()


def test_values_are_text_and_long_ones_are_cut(lab, watched):
    """Nothing that a stream holds is more than text of bounded length in a frame."""
    evil = "<script>alert(1)</script>$\\frac{1}{2}$"
    stream = lab.create(
        "evil",
        {
            evil: [evil, None],
            "long": ["x" * 10_000, ""],
            "bytes": [b"\x00\xff" * 900, b""],
            "f": [0.1, float("nan")],
        },
    )
    view = stream.live().wait()
    frame = watched.last(view)
    assert [column["name"] for column in frame["columns"]][2] == evil
    assert frame["rows"][0]["cells"][2] == evil and frame["rows"][1]["cells"][2] is None
    assert all(len(cell) <= 700 for row in frame["rows"] for cell in row["cells"] if cell)
    still = view._still_bundle()["text/html"]
    assert "<script" not in still and "$\\frac" not in still and "&lt;script" in still
    view.stop()


@pytest.mark.parametrize("rows", [0, 201, -1, 2.5, True, "ten"])
def test_a_number_of_rows_that_is_none_is_refused(numbers, rows):
    """Rows are between one and what a screen takes."""
    with pytest.raises(ValueError, match="between 1 and 200"):
        numbers.live(rows=rows)


def test_views_end_with_their_lab(tmp_path, watched):
    """Closing a lab stops the threads of its views, and each says so."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        stream = lab.create("s", {"n": [1]})
        views = [stream.live(), lab.query("SELECT * FROM s").live(kind="table")]
        assert set(views) <= set(live_views())
    for view in views:
        assert view.ended and not view._thread.is_alive()
        assert watched.messages(view, "ended")
    assert "stopped" in repr(views[0])


def test_an_error_while_looking_is_shown_once_and_kept(numbers, watched, monkeypatch):
    """What goes wrong in the thread is in the view, not lost; when it is over the view goes on."""
    view = numbers.live(rows=1).wait()
    with monkeypatch.context() as broken:
        broken.setattr(type(view), "_place", lambda self: 1 / 0)
        view.wait()
        view.wait()
        view.wait()
        assert isinstance(view.error, ZeroDivisionError)
        assert "ZeroDivisionError" in repr(view)
    texts = [message["text"] for message in watched.messages(view, "error")]
    assert texts.count("ZeroDivisionError: division by zero") <= 2  # one more if all was asked for
    numbers.append({"n": [5], "even": [False]})
    view.wait()
    assert view.error is None
    view.stop()


def test_a_view_that_is_not_looked_at_slows_down(numbers, watched):
    """When nobody looks a frame lasts a second."""
    view = numbers.live(rows=1).wait()
    tell(view, t="hello")
    tell(view, t="seen", n=0)
    view.wait()
    before = len(watched.frames(view))
    for n in range(30):
        numbers.append({"n": [n], "even": [True]})
        threading_pause()
    assert len(watched.frames(view)) - before <= 2
    view.stop()


def threading_pause():
    import threading

    threading.Event().wait(0.01)


def test_the_table_of_results_holds_the_newest_and_the_open(lab, trades, watched):
    """Its rows are the last of what a collect gives, open windows marked."""
    stream = lab.create("trades", trades, time="ts")
    query = stream.window(sl.tumbling("1m"), by="symbol", delay="1m").agg(n=pl.len())
    view = query.live(kind="table", rows=20).wait()
    want = query.collect()
    have = view.frame()
    assert have.columns == want.columns
    final = want.filter("_final").tail(20 - min(20, want.filter(~pl.col("_final")).height))
    assert (
        have.filter("_final")
        .sort("window_end", "symbol")
        .equals(final.sort("window_end", "symbol"))
    )
    assert {row["open"] for row in watched.last(view)["rows"]} == {True, False}
    stream.advance("end")
    view.wait()
    assert view.frame()["_final"].all()
    view.stop()
