"""The benchmarks run: at a tiny size, with nothing said about how long anything took."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.__main__ import SCRIPTS, find  # noqa: E402
from benchmarks.measure import Reach, Scale, alternate, ratios  # noqa: E402

TINY = Scale(divide=10_000, rounds=1)


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_each_benchmark_prints_its_table(script, capsys):
    """A benchmark runs through at a ten-thousandth of its size and prints what it compared."""
    importlib.import_module(f"benchmarks.{script}").run(TINY)
    printed = capsys.readouterr().out
    assert f"\nP{int(script[1:3])}  " in printed
    assert "median" in printed


@pytest.mark.slow
def test_the_memory_benchmark_prints_its_table(capsys):
    """Peaks of all tasks are printed, each from a process of its own."""
    importlib.import_module("benchmarks.memory").run(TINY)
    printed = capsys.readouterr().out
    assert "lab.sql" in printed
    assert "scan()" in printed


def test_contenders_take_turns():
    """In every round each contender runs once, in order, the warm-up included."""
    turns = []
    work = {name: lambda name=name: turns.append(name) for name in "ab"}
    times = alternate(work, 3, warm=1)
    assert turns == list("ab" * 4)
    assert [len(taken) for taken in times.values()] == [3, 3]


def test_a_ratio_says_how_many_times_as_fast():
    """The ratio of a round is the reference's time over one's own."""
    assert ratios({"a": [1.0, 2.0], "b": [2.0, 1.0]}, Reach("a", "b")) == [2.0, 0.5]


def test_a_benchmark_goes_by_its_number():
    """The names that the tables use find the scripts; another one is refused."""
    assert find("p1") == find("P01") == find("p01_append") == "p01_append"
    assert find("memory") == "memory"
    with pytest.raises(SystemExit, match="no benchmark"):
        find("p99")


def test_the_command_runs():
    """``python -m benchmarks --help`` names the scripts."""
    command = [sys.executable, "-m", "benchmarks", "--help"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    assert "p01_append" in done.stdout
    assert "--quick" in done.stdout
