"""Panels without a browser: numbers are those of the jobs and groups, buttons do what they say."""

import polars as pl
import pytest
from watching import Watched, eventually, tell

import streamlab as sl


@pytest.fixture
def watched(monkeypatch):
    return Watched(monkeypatch)


@pytest.fixture
def stream(lab, trades):
    return lab.create("trades", trades, time="ts", key="symbol", delay="5s")


def cells(watched, panel, key):
    return next(row for row in watched.last(panel)["rows"] if row["key"] == key)["cells"]


def test_a_job_shows_its_progress_and_obeys(stream, trades, watched):
    """Rows in and out and late are those of progress; pause, resume and stop work."""
    job = stream.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len()).run(into="minutes").wait()
    panel = job.live().wait()
    assert cells(watched, panel, "minutes")[:3] == ["minutes", "running", "1,000"]
    assert cells(watched, panel, "minutes")[4] == f"{job.progress.rows_out:,}"
    tell(panel, t="pause", key="minutes")
    assert job.paused
    eventually(lambda: cells(watched, panel.wait(), "minutes")[1] == "paused")
    stream.append(trades.tail(1))
    tell(panel, t="resume", key="minutes")
    job.wait(10)
    eventually(lambda: cells(watched, panel.wait(), "minutes")[2] == "1,001")
    tell(panel, t="stop", key="minutes")
    eventually(lambda: job.status == "stopped")
    eventually(lambda: panel.ended)
    assert cells(watched, panel, "minutes")[1] == "stopped"
    assert not watched.last(panel)["rows"][0]["buttons"]


def test_all_jobs_are_there_also_those_to_come(lab, stream, watched):
    """Jobs that start appear, those that failed say why, those not running here are named."""
    panel = lab.jobs.live().wait()
    assert watched.last(panel)["rows"] == []
    stream.filter(pl.col("size") > 3).run(into="some").wait()

    def bad(frame):
        raise ValueError("<b>no</b>")

    failed = stream.run(into=bad, name="bad")
    with pytest.raises(ValueError, match="no"):
        failed.wait(10)
    eventually(lambda: len(watched.last(panel.wait())["rows"]) == 2)
    row = next(r for r in watched.last(panel)["rows"] if r["key"] == "bad")
    assert row["state"] == "failed" and "<b>no</b>" in row["error"]
    assert "<b>no</b>" not in panel._still_bundle()["text/html"]
    panel.stop()


def test_curves_are_bounded_and_of_what_is_there(lab, stream, watched):
    """A curve holds a minute at most; of a job that is gone nothing is kept."""
    job = stream.filter(pl.col("size") > 3).run(into="some").wait()
    panel = lab.jobs.live().wait()
    for second in range(1000):
        list(panel._rows(1e9 + second))
    assert all(len(curve.rates) <= 120 for curve in panel._curves.values())
    job.stop()
    lab.drop("some")
    eventually(lambda: not panel.wait()._curves)
    panel.stop()


def test_groups_show_how_far_they_are(lab, stream, watched):
    """Committed, end and lag are those of the group; it ends with its lab."""
    with stream.consumer("readers") as consumer:
        consumer.poll(100)
        consumer.commit()
        panel = lab.groups.live().wait()
        row = watched.last(panel)["rows"][0]
        assert row["cells"][:3] == ["readers", "trades", "0"]
        assert row["cells"][3] == "100" and row["cells"][6] == "900"
        consumer.poll(1000)
        consumer.commit()
        eventually(lambda: watched.last(panel.wait())["rows"][0]["cells"][6] == "0")
    lab.close()
    eventually(lambda: panel.ended and not panel._thread.is_alive())
