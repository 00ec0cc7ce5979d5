"""The transport bar without a browser: what it is told happens to the replay, and it says what is."""

import datetime as dt
import math

import pytest
from watching import Watched, eventually, tell

import streamlab as sl

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


@pytest.fixture
def replay(lab, trades):
    lab.create("trades", trades, time="ts")
    with lab.replay("trades", speed=60) as made:
        yield made


def milliseconds(instant):
    return instant.timestamp() * 1000


def test_it_says_where_the_replay_is_and_how_much_is_released(replay, watched):
    """A frame has the clock, the rows released, and how rows are spread over the span."""
    bar = replay.controls().wait()
    frame = watched.last(bar)
    assert frame["start"] == frame["position"] == milliseconds(START)
    assert frame["released"] == [["trades", 0, 1000]]
    assert abs(sum(frame["density"]) - 1000) < 10
    replay.seek(START + dt.timedelta(minutes=5))
    bar.wait()
    frame = watched.last(bar)
    assert frame["position"] == milliseconds(START) + 300_000
    assert frame["released"] == [["trades", replay["trades"].end_offset, 1000]]
    bar.stop()


def test_scrubbing_seeks_within_the_span(replay, watched):
    """A place on the strip is an instant; one beyond the ends is the end."""
    bar = replay.controls().wait()
    for at, want in [(120_000, 120), (-5, 0), (10**9, 999), (60_000, 60)]:
        tell(bar, t="seek", at=milliseconds(START) + at)
        assert replay.position == START + dt.timedelta(seconds=want)
    assert not watched.last(bar.wait())["problem"]
    bar.stop()


def test_steps_go_on_and_back(replay, watched):
    """Rows and lengths of time, on and back, as the replay's own methods do."""
    bar = replay.controls().wait()
    for _ in range(3):
        tell(bar, t="step", by="10 rows")
    assert replay.released["trades"][0] == 30
    tell(bar, t="back", by="1 row")
    assert replay.released["trades"][0] == 29
    tell(bar, t="step", by="1m")
    at = replay.position
    tell(bar, t="step", by="10s")
    tell(bar, t="back", by="10s")
    assert replay.position == at
    bar.stop()


def test_play_pause_and_speed(replay, watched):
    """Buttons play and pause; the speed set from Python is shown, and the other way round."""
    bar = replay.controls().wait()
    tell(bar, t="speed", value=None)
    assert replay.speed == math.inf
    replay.speed = 7.5
    assert watched.last(bar.wait())["speed"] == 7.5
    tell(bar, t="play", on=True)
    assert replay.playing
    tell(bar, t="play", on=False)
    assert not replay.playing
    tell(bar, t="speed", value=-1)
    assert "speed" in watched.last(bar.wait())["problem"]
    tell(bar, t="speed", value=None)
    tell(bar, t="play", on=True)
    replay.wait(30)
    assert watched.last(bar.wait())["done"]
    bar.stop()


def test_marks_are_kept_in_order_and_checked(replay, watched):
    """Marks come from Python and from the browser; one outside of the replay is refused."""
    bar = replay.controls()
    bar.mark("2026-01-01T00:10:00", "late <b>").mark(START + dt.timedelta(minutes=2))
    tell(bar, t="mark", at=milliseconds(START) + 1000, label="early")
    labels = [label for _, label in watched.last(bar.wait())["marks"]]
    assert labels == ["early", "", "late <b>"]
    tell(bar, t="unmark", at=milliseconds(START) + 1000)
    assert len(watched.last(bar.wait())["marks"]) == 2
    with pytest.raises(sl.InvalidTime):
        bar.mark("2027-01-01")
    bar.stop()


def test_a_stopped_replay_says_so_and_buttons_explain(replay, watched):
    """After stop() the bar says stopped; play is answered with the reason, not lost."""
    bar = replay.controls().wait()
    replay.stop()
    assert watched.last(bar.wait())["stopped"]
    tell(bar, t="play", on=True)
    eventually(lambda: "was stopped" in watched.last(bar.wait())["problem"])
    bar.stop()


def test_the_still_is_a_strip_with_the_released_part_coloured(replay):
    """What a saved notebook shows: bars, the ends, how much is released."""
    replay.seek(START + dt.timedelta(minutes=5))
    html = replay.controls()._still_bundle()["text/html"]
    assert (
        "data:image/svg+xml" in html and "of 1,000 rows" in html and "2026-01-01 00:00:00" in html
    )


def test_back_undoes_a_step(replay):
    """Back by rows is what was before the last step, for any number of steps."""
    places = []
    for _ in range(40):
        places.append((replay.released["trades"][0], replay["trades"].to_polars().height))
        replay.step(7)
    for _ in range(280):
        replay.back(1)
        if (replay.released["trades"][0]) == 0:
            break
    assert replay.released["trades"][0] == 0
    with pytest.raises(sl.StreamlabError, match="pause"):
        replay.play().back()
