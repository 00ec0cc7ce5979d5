"""What the documentation says is true: snippets run as printed, commands exist, names are real."""

import doctest
import importlib
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import streamlab
import streamlab as sl

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A folder that looks like the checkout to what reads datasets."""
    (tmp_path / "datasets").symlink_to(ROOT / "datasets")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def blocks(language, page=README):
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def test_the_readme_runs_as_printed(checkout):
    """Every Python session of the README gives what stands there, in one go from the top."""
    text = "\n".join(blocks("python"))
    parser = doctest.DocTestParser()
    session = parser.get_doctest(text, {}, "README.md", "README.md", 0)
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    report = []
    runner.run(session, out=report.append)
    assert runner.tries > 15
    assert not runner.failures, "".join(report)


def test_the_queries_of_the_page_run(checkout):
    """One query, collected, followed and run as a job as docs/queries.md has it, gives one answer."""
    (code,) = blocks("python", (ROOT / "docs" / "queries.md").read_text())
    with sl.open("lab") as lab:
        trades = lab.create("trades", "datasets/trades.parquet", time="ts", delay="5s")
        names = {"sl": sl, "pl": pl, "lab": lab, "trades": trades}
        exec(code, names)
        final = names["minutes"].collect("final")
        names["job"].wait()
        assert lab["minutes"].to_polars().select(final.columns).equals(final)
        assert names["frame"].columns == final.columns
        said = names["minutes"].explain().splitlines()
        assert [line for line in said if not line.startswith(" ")] == ["Plan", "How", "Now"]


def test_the_notebook_of_the_page_runs(checkout):
    """Every view of docs/notebook.md is made as it stands there, and shows something."""
    with sl.open("lab") as lab:
        trades = lab.create(
            "trades", "datasets/trades.parquet", time="ts", key="symbol", delay="5s"
        )
        lab.create("quotes", "datasets/quotes.parquet", time="ts", key="symbol")
        names = {"sl": sl, "pl": pl, "lab": lab, "trades": trades}
        for code in blocks("python", (ROOT / "docs" / "notebook.md").read_text()):
            exec(code, names)
        assert names["view"].wait(30).frame().height == 10
        assert names["chart"].wait(30).frame().height > 1000
        assert len(names["bar"].wait(30)._marks) == 1


def test_the_replay_of_the_page_runs(checkout):
    """The session of docs/replay.md runs, and its job gives what a collect gives."""
    (code,) = blocks("python", (ROOT / "docs" / "replay.md").read_text())
    with sl.open("lab") as lab:
        trades = lab.create("trades", "datasets/trades.parquet", time="ts", delay="5s")
        names = {"sl": sl, "pl": pl, "lab": lab}
        code = code.replace("2026-01-05 09:30", str(trades.head(1)["ts"][0]))
        code = code.replace("> 120", f"> {trades.to_polars()['price'].quantile(0.9)}")
        exec(code, names)
        whole = trades.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len()).collect("final")
        assert lab["minutes_again"].to_polars().select(whole.columns).equals(whole)
        assert 0 < names["before"].height < whole.height
        assert names["found"].height == 1


def test_the_commands_of_the_readme_run(checkout):
    """Every `streamlab` line of the README runs, one after the other, in an empty folder."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    lines = [line for block in blocks("sh") for line in block.splitlines() if "streamlab " in line]
    assert len(lines) >= 6
    for line in lines:
        done = subprocess.run(
            line, shell=True, env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"


def test_make_knows_every_target_the_readme_names():
    """What the README tells to make is there to make."""
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"make (\w+) ", README)) - {"without"}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_links_and_files_of_the_documentation_are_there():
    """Every relative link and every test that a page names exists."""
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
        for path in re.findall(r"`((?:tests|docs|benchmarks|streamlab|datasets)/[\w./]+)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"


MODULES = [m.name for m in pkgutil.walk_packages(streamlab.__path__, "streamlab.")]


@pytest.mark.parametrize("name", [n for n in MODULES if not n.endswith("__main__")])
def test_examples_in_docstrings_run(name):
    """Every doctest of every module gives what stands there."""
    result = doctest.testmod(importlib.import_module(name), optionflags=FLAGS)
    assert not result.failed
