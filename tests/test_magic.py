"""``%load_ext streamlab`` in a real IPython shell: SQL cells, lists, completion, errors in one line."""

import nbformat
import polars as pl
import pytest
from IPython.core.interactiveshell import InteractiveShell
from nbclient import NotebookClient

import streamlab as sl


@pytest.fixture
def shell(lab, trades, monkeypatch):
    InteractiveShell.clear_instance()
    made = InteractiveShell.instance(colors="nocolor")
    made.run_line_magic("load_ext", "streamlab")
    lab.create("trades", trades, time="ts", key="symbol", delay="5s")
    lab.create("other.stream", {"n": [1, 2]})
    made.user_ns.update(lab=lab, sl=sl, pl=pl)
    yield made
    made.run_line_magic("unload_ext", "streamlab")
    InteractiveShell.clear_instance()


MINUTES = "SELECT symbol, window_start, count(*) AS n FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL"


def test_a_windowed_cell_is_the_query_collected(shell, lab):
    """The result of the cell, and the variable, are what lab.query gives."""
    result = shell.run_cell_magic("stream", "--out minutes", MINUTES)
    assert result.equals(lab.query(MINUTES).collect())
    assert shell.user_ns["minutes"] is result
    final = shell.run_cell_magic("stream", "--emit final", MINUTES)
    assert final.equals(lab.query(MINUTES).collect("final"))
    assert shell.user_ns["_stream"] is final
    changes = shell.run_cell_magic("stream", "--emit changes", MINUTES)
    assert {"_op", "_final"} <= set(changes.columns)


def test_any_select_runs_with_frames_of_the_notebook(shell):
    """SQL without windows is lab.sql; a frame that it names comes along."""
    shell.user_ns["names"] = pl.DataFrame({"symbol": ["S1"], "company": ["One"]})
    result = shell.run_cell_magic(
        "stream",
        "",
        "SELECT company, count(*) AS n FROM trades JOIN names USING (symbol) GROUP BY ALL",
    )
    assert result.rows() == [("One", 143)]


def test_into_runs_on_and_leaves_the_job(shell, lab):
    """--into makes a job into a stream; run again it is the same job."""
    job = shell.run_cell_magic("stream", "--into minutes --out job", MINUTES)
    job.wait(30)
    assert lab["minutes"].end_offset == lab.query(MINUTES).collect("final").height
    assert shell.run_cell_magic("stream", "lab --into minutes", MINUTES) is job


def test_live_gives_a_view(shell):
    """--live shows a chart of windows, and a table of rows."""
    chart = shell.run_cell_magic("stream", "--live", MINUTES)
    table = shell.run_cell_magic("stream", "--live", "SELECT * FROM trades WHERE size > 3")
    assert type(chart).__name__ == "LiveChart" and type(table).__name__ == "ResultTable"
    chart.stop()
    table.stop()


def test_as_of_asks_the_past(shell, lab, trades):
    """--as-of is the lab as it was at an append time."""
    at = lab["trades"].tail(1)["_append_time"].item()
    until = at.isoformat()
    lab["trades"].append(trades.head(5))
    result = shell.run_cell_magic("stream", f"--as-of {until}", "SELECT count(*) AS n FROM trades")
    assert result["n"].item() == 1000


@pytest.mark.parametrize(
    ("line", "cell", "says"),
    [
        ("--liv", MINUTES, "unrecognized arguments"),
        ("--emit often", MINUTES, "invalid choice"),
        ("nolab", MINUTES, "no open lab"),
        ("", "SELECT * FROM trade", "trades"),
        ("", " ", "no SELECT"),
        ("--as-of 2026-01-01 --live", MINUTES, "leave out"),
        ("--out 1x", MINUTES, "no name of a variable"),
        ("--live", "SELECT sum(size) FROM trades", "QueryError"),
        ("'", MINUTES, "quotation"),
    ],
)
def test_what_is_wrong_is_said_in_a_message(shell, capsys, line, cell, says):
    """Errors are the message and its hint, not a traceback of the library."""
    shell.run_cell(f"%%stream {line}\n{cell}")
    shown = "".join(capsys.readouterr())
    assert says in shown
    assert "Traceback" not in shown and "magic.py" not in shown


def test_no_lab_and_several_labs_are_said(shell, capsys, tmp_path):
    """Without a lab, or with two, the message says what to write."""
    with sl.open(tmp_path / "second") as second:
        shell.user_ns["second"] = second
        shell.run_cell("%%stream\nSELECT 1 FROM trades")
        assert "several labs: lab, second" in capsys.readouterr().out
    del shell.user_ns["lab"], shell.user_ns["second"]
    shell.run_cell("%%stream\nSELECT 1 FROM trades")
    assert "sl.open" in capsys.readouterr().out


def test_streams_lists_and_help_helps(shell, capsys):
    """%streams is a frame with a row for each stream; --help says how."""
    listed = shell.run_line_magic("streams", "")
    assert listed["stream"].to_list() == ["other.stream", "trades"]
    assert listed["rows"].to_list() == [2, 1000]
    shell.run_cell("%%stream --help\n ")
    assert "--as-of" in capsys.readouterr().out


def test_names_are_completed(shell):
    """Streams after FROM and in a window function, columns elsewhere, options on the first line."""
    from IPython.core.completer import provisionalcompleter

    def completed(text):
        with provisionalcompleter():
            return [c.text for c in shell.Completer.completions(text, len(text))]

    assert "trades" in completed("%%stream\nSELECT * FROM tr")
    assert "trades" in completed("%%stream\nSELECT * FROM tumble(tr")
    assert "symbol" in completed("%%stream\nSELECT * FROM trades WHERE sym")
    assert "--live" in completed("%%stream --li")
    assert any("trades" in text for text in completed('lab["tr'))
    replay = shell.user_ns["lab"].replay("trades")
    shell.user_ns["replay"] = replay
    assert any("trades" in text for text in completed('replay["tr'))


def test_it_works_in_a_kernel(tmp_path):
    """A notebook that loads the extension runs a cell, shows progress, and warns of nothing."""
    cells = [
        "%load_ext streamlab\nimport streamlab as sl, polars as pl\nlab = sl.open('lab')\n"
        "s = lab.create('s', {'n': range(10)})",
        "%%stream\nSELECT sum(n)::BIGINT AS n FROM s",
        "assert _stream['n'].item() == 45\nfrom streamlab.progress import progress_bar\nimport time\n"
        "with progress_bar(10, 'work', 'rows', None) as bar:\n    time.sleep(0.6); bar.update(5)",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(
        book, kernel_name="python3", timeout=60, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in book.cells for output in cell.outputs]
    assert not [
        o
        for o in outputs
        if o.output_type == "stream" and o.name == "stderr" and "Warning" in o.text
    ]
    assert any("45" in str(o.get("data", "")) for o in outputs)
