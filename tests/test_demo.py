"""The demo: it runs without help, says "equal" only after comparing, and its page is self-contained."""

import datetime as dt
import html
import re
import subprocess

import duckdb
import polars as pl
import pytest

import streamlab as sl
from streamlab import demo, report
from streamlab.testing import temp_lab

DAY = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """Run the demo once; give its folder and what it showed."""
    lines: list[str] = []
    folder = demo.run(tmp_path_factory.mktemp("demo") / "run", seconds=2, show=lines.append)
    return folder, "\n".join(lines)


def at(*seconds: float) -> pl.LazyFrame:
    ts = [DAY + s * SECOND for s in seconds]
    return pl.LazyFrame({"ts": pl.Series(ts, dtype=pl.Datetime("us", "UTC"))})


def lateness(rows: pl.LazyFrame, size: int, delay: int) -> list[bool]:
    return demo.placed(rows, size * SECOND, delay * SECOND).collect()["late"].to_list()


# ------------------------------------------------------------------------------ the rules


def test_a_row_is_late_once_its_window_has_closed():
    """A row is late iff its window's end is at or before the watermark of the rows before it."""
    assert lateness(at(1, 14.9, 2, 15, 3), size=10, delay=5) == [False, False, False, False, True]


def test_a_row_does_not_make_itself_late():
    """The watermark a row meets comes from the rows before it: its own time does not count."""
    assert lateness(at(0, 1000, 999), size=10, delay=0) == [False, False, True]
    assert lateness(at(1000), size=10, delay=0) == [False]


def test_open_and_close_go_by_the_order_of_rows():
    """The first and last price of a window are by offset, high and low by price."""
    rows = at(3, 1, 2).with_columns(
        symbol=pl.lit("A"), price=pl.Series([5.0, 9.0, 4.0]), size=pl.Series([1, 1, 2])
    )
    with temp_lab() as lab:
        trades = lab.create("trades", rows.collect(), time="ts", key="symbol")
        bar = demo.bars(trades).collect().row(0, named=True)
    assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (5.0, 9.0, 4.0, 4.0)
    assert (bar["vwap"], bar["volume"], bar["trades"]) == (22.0 / 4, 4, 3)


def test_the_crash_is_found():
    """The deepest fall within ten minutes is found, with its start, low and half recovery."""
    price = [100.0, 101.0, 80.0, 85.0, 95.0, 96.0]
    bars = pl.DataFrame(
        {
            "symbol": "A",
            "window_start": [DAY + i * demo.MINUTE for i in range(6)],
            "high": price,
            "low": price,
            "vwap": price,
        }
    )
    crash = demo.find_crash(bars)
    assert crash.symbol == "A"
    assert [crash.start, crash.low, crash.stop] == [DAY + i * demo.MINUTE for i in (1, 2, 5)]
    assert crash.fall == pytest.approx(21 / 101)


def test_different_answers_are_an_error():
    """Where two answers differ, the demo stops and names what it compared."""
    left, right = pl.DataFrame({"n": [1, 2]}), pl.DataFrame({"n": [1, 3]})
    with pytest.raises(sl.StreamlabError, match=r"compared the counts, and they differ"):
        demo.same(left, right, "the counts")
    nearly = pl.DataFrame({"x": [1.0 + 1e-12]})
    with pytest.raises(sl.StreamlabError):
        demo.same(nearly, pl.DataFrame({"x": [1.0]}), "sums")
    assert demo.same(nearly, pl.DataFrame({"x": [1.0]}), "sums", tolerance=1e-9).startswith("equal")


def test_a_missing_dataset_is_named():
    """Asking for a dataset that is not shipped says which there are."""
    with pytest.raises(FileNotFoundError, match=r"no dataset 'nonsense'(.|\n)*trades"):
        demo.dataset("nonsense")


def test_shipped_datasets_are_found():
    """Each dataset that the demo loads is there."""
    assert all(demo.dataset(load.file).is_file() for load in demo.LOADS)


# ------------------------------------------------------------------------------ end to end


def test_the_demo_leaves_what_it_says(shown):
    """A run leaves a lab, a DuckDB file, four charts and a page, and lists them."""
    folder, text = shown
    names = {path.name for path in folder.iterdir()}
    charts = {"crash.png", "lateness.png", "host.png", "live.png"}
    assert names == {"lab", "history.duckdb", "report.html"} | charts
    assert all(name in text for name in names)
    assert all((folder / name).read_bytes().startswith(b"\x89PNG") for name in charts)


def test_the_demo_loads_every_row(shown):
    """Each history stream holds the rows of its file, in their order."""
    folder, _ = shown
    with sl.open(folder / "lab", read_only=True) as lab:
        for load in demo.LOADS:
            original = pl.read_parquet(demo.dataset(load.file))
            kept = lab[load.stream].to_polars().select(original.columns)
            assert kept.equals(original)


def test_the_demo_records_this_machine(shown):
    """Two seconds at 20 Hz give samples of every stream, in order of event time."""
    folder, _ = shown
    with sl.open(folder / "lab", read_only=True) as lab:
        for name in sl.host().schemas:
            ts = lab[name].to_polars()["ts"]
            assert ts.len() > 0
            assert ts.is_sorted()


def test_the_demo_compares(shown):
    """The run says "equal" for all that it compared; the second copy adds nothing."""
    folder, text = shown
    said = re.findall(r"^  equal: (.*)", text, re.MULTILINE)
    assert len(said) == 10
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert all(html.escape(line) in page for line in said)
    added = re.search(r"to_duckdb added ([\d,]+) rows .* it added 0", text)
    with duckdb.connect(str(folder / "history.duckdb"), read_only=True) as connection:
        rows = connection.sql("select count(*) from trades").fetchall()[0][0]
    assert f"{rows:,}" == added[1]


def test_the_jobs_of_the_demo_deliver_into_streams(shown):
    """The lab keeps the windows that two jobs delivered, and remembers both and the one into DuckDB."""
    folder, _ = shown
    with sl.open(folder / "lab") as lab:
        assert sorted(lab.jobs.known()) == ["bars", "cpu_seconds", "trades-bars"]
        final = demo.bars(lab["trades"]).collect("final")
        assert (
            lab["bars"]
            .to_polars()
            .select("symbol", "window_start", "low")
            .equals(final.select("symbol", "window_start", "low"))
        )


def test_the_demo_explains_its_query(shown):
    """What explain says is shown and stands on the page, in lines that fit."""
    folder, text = shown
    page = (folder / "report.html").read_text(encoding="utf-8")
    for place in (text, page):
        assert "window tumbling(1m) by symbol" in place
        assert re.search(r"200,000 rows read: [\d,]+ accepted, [\d,]+ late", place)


def test_the_demo_ends_with_three_commands_that_run(shown):
    """The last lines are three commands on the lab that was made, and each of them runs."""
    folder, text = shown
    commands = [line.strip() for line in text.rstrip().splitlines()[-3:]]
    assert [re.search(r"streamlab (\w+)", command)[1] for command in commands] == [
        "ls",
        "sql",
        "tail",
    ]
    for command in commands:
        assert str(folder / "lab") in command
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) > 5


def test_what_the_demo_prints_fits_a_terminal(shown):
    """No line is wider than 100 columns, but for paths and the commands with them."""
    folder, text = shown
    wide = [line for line in text.splitlines() if len(line) > 100]
    assert all(str(folder) in line for line in wide)


def test_a_folder_in_use_is_left_alone(tmp_path):
    """A folder that holds something is never written into: the next free name is taken."""
    (tmp_path / "d").mkdir()
    assert demo.new_folder(tmp_path / "d") == tmp_path / "d"
    (tmp_path / "d" / "mine").write_text("keep")
    assert demo.new_folder(tmp_path / "d") == tmp_path / "d-2"
    (tmp_path / "d-2" / "mine").write_text("keep")
    assert demo.new_folder(tmp_path / "d") == tmp_path / "d-3"


def test_commands_quote_their_paths(tmp_path):
    """A folder with a space in its name is quoted in the commands to try."""
    assert f"'{tmp_path / 'a b' / 'lab'}'" in demo.next_commands(tmp_path / "a b")


def test_an_error_while_recording_comes_to_the_front(tmp_path):
    """An append that fails in the recording thread ends the demo with that error."""
    with sl.open(tmp_path / "lab") as lab:
        recorder = demo.Recorder(lab, rate=50, seconds=5)
        lab.drop("memory")
        with pytest.raises(sl.StreamNotFound), recorder:
            recorder.join()


# ------------------------------------------------------------------------------ the page


def test_the_page_fetches_nothing(shown):
    """The page has no address in it: no link, no script, no font, no picture from elsewhere."""
    folder, _ = shown
    page = (folder / "report.html").read_text(encoding="utf-8")
    page = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "data:", page)
    for sign in ("http://", "https://", "//cdn", "<script", "<link", "@import", "url("):
        assert sign not in page
    assert page.count('src="data:"') == 4


def test_the_page_escapes_every_value():
    """Markup and quotes in titles, texts, column names, cells and checks stay text."""
    bad = "<b onclick=\"x('y')\">&"
    table = report.Table(bad, pl.DataFrame({bad: [bad]}), note=bad)
    page = report.page(bad, bad, [report.Section(bad, bad, [table], checks=[bad])])
    assert "<b " not in page
    assert 'onclick="' not in page
    assert page.count("&lt;b onclick=&quot;x(&#x27;y&#x27;)&quot;&gt;&amp;") == 10


def test_the_page_escapes_what_a_picture_says(tmp_path):
    """The text of a picture cannot leave its attribute."""
    picture = tmp_path / "p.png"
    picture.write_bytes(b"png")
    section = report.Section("t", "t", charts=[(picture, '"><script>')])
    assert "<script>" not in report.page("t", "t", [section])


def test_what_is_said_is_escaped_and_kept_in_lines():
    """Lines to show as they are stay lines, and markup in them stays text."""
    page = report.page("t", "t", [report.Section("t", "t", said="a < b\n  c")])
    assert "<pre>a &lt; b\n  c</pre>" in page


def test_long_lines_are_broken_deeper_in():
    """A line that is too long goes on four columns further in than it began."""
    first, second = report.wrapped("  " + "word " * 25).splitlines()
    assert len(first) <= 94
    assert second.startswith("      word")


def test_a_table_is_aligned():
    """Numbers end, and text begins, in the same column; wide letters count double."""
    frame = pl.DataFrame({"country": ["日本", "Côte d'Ivoire"], "orders": [12, 3456]})
    lines = report.Table("t", frame).text().splitlines()
    assert lines[-2:] == ["  日本               12", "  Côte d'Ivoire   3,456"]


def test_a_dollar_sign_in_a_chart_is_no_mathematics(tmp_path):
    """A symbol with dollar signs is drawn as it is."""
    crash = report.Crash("$A$B", DAY, DAY + demo.MINUTE, DAY + 2 * demo.MINUTE, 0.1)
    trades = at(1, 61, 121).with_columns(
        price=pl.Series([3.0, 2.0, 3.0]), size=pl.Series([1, 2, 3]), late=pl.Series([False] * 3)
    )
    minutes = pl.DataFrame(
        {
            "window_start": [DAY + i * demo.MINUTE for i in range(3)],
            "vwap": [3.0, 2.0, 3.0],
            "volume": [1, 2, 3],
        }
    )
    figure = report.crash_chart(trades.collect(), minutes, crash)
    assert figure.get_suptitle().startswith(r"\$A\$B lost")
    assert report.save(figure, tmp_path / "a.png").stat().st_size > 10_000
