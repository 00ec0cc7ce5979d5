"""The time machine without a browser: what it shows is what a plain reading gives as of the instant."""

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from watching import Watched, eventually, tell

import streamlab as sl
from streamlab.notebook.panes import decimated

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


@pytest.fixture
def stream(lab, trades):
    return lab.create("trades", trades, time="ts", key="symbol")


def there(trades, instant):
    """Return the rows before the first at which stream time is at or after an instant."""
    reached = trades.select(pl.col("ts").cum_max() >= instant).to_series()
    return trades.head(int(reached.arg_max()) if reached.any() else trades.height)


@pytest.mark.parametrize("second", [0, 1, 59, 98, 500, 970, 999])
def test_every_pane_shows_what_was(lab, stream, trades, watched, second):
    """Rows, latest rows, a SELECT and a chart, all as of one instant, however it was reached."""
    machine = (
        lab.time_machine("trades")
        .table("trades", rows=7)
        .state("trades", rows=50)
        .sql("SELECT count(*) AS n, sum(size) AS total FROM trades", rows=1)
        .chart("trades", y="price", last="2m")
    )
    machine.at = START + dt.timedelta(seconds=700)
    machine.at = instant = START + dt.timedelta(seconds=second)
    was = there(trades, instant)
    assert machine.frame(0)["price"].to_list() == was["price"].tail(7).to_list()
    latest = was.group_by("symbol").last().sort("symbol")
    assert machine.frame(1).sort("symbol").select(latest.columns).equals(latest)
    assert machine.frame(2)["n"].item() == was.height
    machine.wait()
    since = there(trades, instant - dt.timedelta(minutes=2)).height
    assert machine.frame(3)["price"].to_list() == was["price"].slice(since).to_list()
    eventually(lambda: watched.last(machine.wait())["panes"][2]["stale"] is None)
    panes = watched.last(machine)["panes"]
    assert panes[2]["rows"][0]["cells"][0] == str(was.height)
    assert [row["key"] for row in panes[0]["rows"]] == list(range(min(7, was.height)))
    machine.stop()


def test_scrubbing_answers_the_newest_and_says_which(lab, stream, watched):
    """A place that is asked for is answered with its number and its instant."""
    machine = lab.time_machine().table("trades", rows=2).wait()
    for n, second in enumerate([900, 10, 300], 1):
        tell(machine, t="seek", at=(START.timestamp() + second) * 1000, n=n)
    machine.wait()
    frame = watched.last(machine)
    assert frame["asked"] == 3 and frame["at"] == (START.timestamp() + 300) * 1000
    machine.stop()


def test_a_slow_pane_is_greyed_and_then_right(lab, stream, watched):
    """While a SELECT is worked out the last answer stays, with its instant; the newest is shown in the end."""
    machine = lab.time_machine("trades").sql(
        "SELECT count(*) AS n, (SELECT sum(a.range * b.range) FROM range(8000) a, range(8000) b) AS slow FROM trades"
    )
    eventually(lambda: watched.last(machine.wait())["panes"][0]["stale"] is None)
    for second in (100, 200, 300):
        machine.at = START + dt.timedelta(seconds=second)
        machine.wait()
    assert "as of" in watched.last(machine)["panes"][0]["stale"]
    eventually(lambda: watched.last(machine.wait())["panes"][0]["stale"] is None, 30)
    assert watched.last(machine)["panes"][0]["rows"][0]["cells"][0] == str(
        machine.frame()["n"].item()
    )
    machine.stop()


def test_a_wrong_select_is_said_in_its_pane(lab, stream, watched):
    """An error of one pane is text in that pane; the others go on."""
    machine = lab.time_machine("trades").sql("SELECT nothing FROM trades").table("trades", rows=1)
    machine.at = START + dt.timedelta(seconds=50)
    eventually(lambda: "nothing" in watched.last(machine.wait())["panes"][0].get("problem", ""))
    assert watched.last(machine)["panes"][1]["rows"]
    with pytest.raises(sl.QueryError):
        machine.frame(0)
    machine.stop()


def test_what_cannot_be_shown_is_refused(lab, stream):
    """Unknown streams, columns and instants are named."""
    machine = lab.time_machine("trades")
    for wrong in (lambda: machine.table("quotes"), lambda: lab.time_machine("quotes")):
        with pytest.raises(sl.StreamNotFound):
            wrong()
    with pytest.raises(sl.QueryError):
        machine.chart("trades", y="symbol")
    with pytest.raises(sl.QueryError, match="goes by time"):
        machine.chart("trades", x="size", y="price")
    with pytest.raises(sl.InvalidTime):
        machine.at = "2030-01-01"
    with pytest.raises(ValueError, match="rows"):
        machine.table("trades", rows=0)
    machine.stop()


def test_it_ends_with_its_lab(tmp_path, trades, watched):
    """Closing the lab stops the machine and its replay."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        lab.create("trades", trades, time="ts")
        machine = lab.time_machine("trades").table("trades")
    assert machine.ended and machine._replay.stopped


@given(st.lists(st.floats(-1e6, 1e6), max_size=400), st.integers(1, 40))
def test_decimation_keeps_the_lowest_and_the_highest_of_every_stretch(values, parts):
    """However points are left out, the extremes of each stretch are kept, in order, and few remain."""
    y = np.array(values)
    x = np.arange(len(y), dtype=float)
    some_x, some_y = decimated(x, y, parts)
    assert (np.diff(some_x) >= 0).all()
    assert len(some_x) <= max(3 * parts, 2 * parts + parts)
    if len(y):
        assert some_y.min() == y.min() and some_y.max() == y.max()
    size = len(y) // parts
    if size > 2:
        for part in range(parts):
            inside = (some_x >= part * size) & (some_x < (part + 1) * size)
            assert some_y[inside].max() == y[part * size : (part + 1) * size].max()
