"""Panels without a browser: numbers are those of the jobs and groups, buttons do what they say."""

import datetime as dt

import polars as pl
import pytest
from watching import Watched, eventually, tell

import streamlab as sl
from streamlab.notebook import panels


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
    assert "no jobs yet" in watched.last(panel)["none"]
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
        assert set(row["curves"]["6"]) == {900}
        consumer.poll(1000)
        consumer.commit()
        eventually(lambda: watched.last(panel.wait())["rows"][0]["cells"][6] == "0")
    lab.close()
    eventually(lambda: panel.ended and not panel._thread.is_alive())


def test_rates_are_steady_and_how_long_ago_is_in_words():
    """Results that come once a second have one rate; a place in time is so far behind now."""
    curve = panels.Curve()
    rates = [curve.add(at / 2, 10 * (at // 2)) for at in range(40)]
    assert set(rates[4:]) == {10.0}
    now = dt.datetime.now(dt.UTC)
    ages = [panels._ago(now - dt.timedelta(seconds=s)) for s in (1, 300, 8_000, 400_000, -60)]
    assert ages[0].startswith("1.0 s") and ages[1:] == ["5 min", "2 h", "5 d", ""]
    assert panels._ago(None) == ""


def test_a_job_that_is_known_and_not_run_here_is_named(tmp_path, trades, watched):
    """What another handle has started is listed, without numbers and buttons."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        lab.create("trades", trades, time="ts").filter(pl.col("size") > 3).run(into="some").wait()
    with sl.open(tmp_path / "lab", sync="os") as lab:
        panel = lab.jobs.live().wait()
        (row,) = watched.last(panel)["rows"]
        assert row["cells"][:2] == ["some", "not running here"] and not row["buttons"]
        assert len(row["cells"]) == len(watched.last(panel)["columns"])
        panel.stop()


def test_a_pause_that_comes_after_a_stop_keeps_nothing_from_ending(stream, monkeypatch):
    """Stop and pause pressed right after each other, in the worst moment: the job ends."""
    job = stream.filter(pl.col("size") > 3).run(into="some").wait()
    wait = job._resume.wait

    def late_pause(*timeout):
        job._stop.set()  # as if both buttons had been pressed since the job looked
        job._resume.clear()
        monkeypatch.setattr(job._resume, "wait", wait)
        return wait(*timeout)

    monkeypatch.setattr(job._resume, "wait", late_pause)
    stream.append(
        {
            "ts": [dt.datetime(2026, 1, 2, tzinfo=dt.UTC)],
            "symbol": ["A"],
            "price": [1.0],
            "size": [5],
        }
    )
    job._thread.join(10)
    alive = job._thread.is_alive()
    job._resume.set()
    assert not alive and job.status == "stopped"
