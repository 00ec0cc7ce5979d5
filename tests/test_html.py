"""HTML reprs: well formed, escaped, fetched from nowhere, and never an error."""

import base64
import html.parser
import re
import shutil

import polars as pl
import pytest

import streamlab as sl
from streamlab.notebook.html import html as drawn
from streamlab.notebook.html import sparkline

EVIL = '<script>alert(1)</script> & "quoted" $\\frac{1}{2}$ \' \n'


class Checker(html.parser.HTMLParser):
    """Every tag that is opened is closed, in order."""

    VOID = {"br", "img", "rect"}

    def __init__(self):
        super().__init__()
        self.open, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe")
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def checked(thing):
    page = thing._repr_html_()
    checker = Checker()
    checker.feed(page)
    assert not checker.open
    assert "http" not in page and "<script" not in page
    assert not re.search(r"\$\\", page), "mathematics would begin"
    assert len(page) < 16_000
    return checker.text


@pytest.fixture
def stream(lab, trades):
    return lab.create("trades", trades, time="ts", key="symbol", delay="5s")


def test_every_thing_shows_itself(lab, stream, tmp_path):
    """What each repr has to say: name, rows, span, columns; plan; progress; position; lag."""
    query = stream.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    job = query.run(into="minutes").wait()
    with stream.consumer("readers") as consumer, lab.replay("trades") as replay:
        consumer.poll(10)
        consumer.commit()
        replay.seek("2026-01-01T00:05Z")
        says = [
            (lab, ["trades", "1,000", "minutes", "running jobs: minutes", "2026-01-01 00:16:39Z"]),
            (
                stream,
                [
                    "Stream trades",
                    "1,000 rows",
                    "symbol",
                    "key",
                    "event time",
                    "delay 5s",
                    "double",
                ],
            ),
            (stream.as_of(500), ["View of stream trades", "500 rows"]),
            (stream.table(), ["Table of stream", "key"]),
            (query, ["Query over trades", "tumbling(1m)", "window_start", ".collect()"]),
            (stream.window(sl.tumbling("1m")), ["tumbling(1m)"]),
            (job, ["Job minutes", "running", "1,000", "into minutes"]),
            (lab.jobs, ["minutes", "running"]),
            (replay, ["Replay of trades", "paused", "of", "1,000", "00:05:00"]),
            (consumer, ["Consumer of", "readers"]),
            (lab.groups, ["readers", "trades"]),
            (lab.groups["readers"], ["readers", "lag"]),
        ]
        for thing, words in says:
            text = checked(thing)
            for word in words:
                assert word in text, (type(thing).__name__, word)


def test_what_is_malicious_is_text(lab):
    """Names of columns, values, errors and titles are escaped; nothing runs, nothing is typeset."""
    stream = lab.create("evil", {EVIL: ["a"], "v": [1.0]})
    assert "<script>alert(1)</script>" in checked(stream)
    checked(stream.filter(pl.col(EVIL) == EVIL))

    def bad(frame):
        raise ValueError(EVIL)

    job = stream.run(into=bad)
    with pytest.raises(ValueError):
        job.wait(10)
    assert "alert(1)" in checked(job)
    checked(lab.jobs)
    checked(lab)


def test_nothing_to_show_is_shown(lab):
    """Empty labs, streams without rows, with heartbeats only, or all rows at one instant."""
    assert "no streams yet" in checked(lab)
    empty = lab.create(
        "empty", pl.DataFrame({"t": []}, schema={"t": pl.Datetime("us", "UTC")}), time="t"
    )
    assert "no rows yet" in checked(empty)
    empty.advance("2026-01-01T00:00Z")
    checked(empty)
    empty.advance("end")
    checked(empty)
    checked(lab.create("once", {"v": [1]}))
    checked(lab)
    assert "none was started" in checked(lab.jobs)
    assert "none yet" in checked(lab.groups)


def test_a_repr_never_raises(tmp_path):
    """Closed, dropped or damaged: the plain text and the reason, not an error."""
    lab = sl.open(tmp_path / "lab", sync="os")
    stream = lab.create("s", {"v": [1, 2]})
    dropped = lab.create("d", {"v": [1]})
    lab.drop("d")
    assert "dropped" in checked(dropped) or "no stream" in checked(dropped)
    query = stream.filter(pl.col("v") > 1)
    lab.close()
    assert "closed" in checked(lab)
    shutil.rmtree(tmp_path / "lab")
    checked(stream)
    checked(query)
    assert "object" in drawn(object())


def test_a_sparkline_has_a_bar_for_each_part_and_says_its_unit():
    """Heights are in proportion; what it counts is in its title."""
    page = sparkline([0, 5, 10], (0, 3_600_000_000 * 3))
    (data,) = re.findall(r"base64,([^\"]+)", page)
    assert base64.b64decode(data).count(b"<rect") == 2
    assert "rows per 1 h, at most 10" in page
    assert sparkline([], (0, 0)) == ""


def test_density_is_where_the_rows_are(lab):
    """Rows over time, however they are spread over frames and segments."""
    seconds = [*range(100), *([100] * 400), *range(101, 1000)]
    times = (pl.Series(seconds) * 1_000_000).cast(pl.Datetime("us", "UTC"))
    stream = lab.create("s", pl.DataFrame({"t": times[:700]}), time="t")
    stream.seal()
    stream.append({"t": times[700:]})
    low, high, counts = stream.density(10)
    assert sum(counts) == stream.end_offset
    assert (low, high) == (0, 999_000_000)
    assert counts[1] > 3 * counts[5] or counts[0] > 3 * counts[5]
