"""Rows that are held: in the order they came, in parts, in files, and gone when they are."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamlab.clock import FOREVER, NEVER
from streamlab.engines import held as holding
from streamlab.engines import spill
from streamlab.engines.batch import ORDER, TIME
from streamlab.engines.held import Held
from streamlab.engines.spill import Spilled

times = st.lists(st.integers(-20, 20), min_size=1, max_size=6)
places = st.one_of(st.integers(-25, 25), st.sampled_from([NEVER, FOREVER]))
DEEDS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), times),
        st.tuples(st.just("take"), places),
        st.tuples(st.just("let go"), places),
        st.tuples(st.just("look"), st.tuples(places, places)),
    ),
    max_size=25,
)


def frame_of(rows):
    return pl.DataFrame(rows, schema={TIME: pl.Int64, ORDER: pl.Int64}, orient="row")


def rows_of(frames):
    return [row for frame in frames for row in frame.rows()]


@pytest.fixture(autouse=True)
def _limits(monkeypatch):
    for name in ("MERGED_ROWS", "LIMIT_BYTES"):
        monkeypatch.setattr(holding, name, getattr(holding, name))


@settings(max_examples=300, deadline=None, derandomize=True)
@given(DEEDS, st.sampled_from([0, 4, 10_000]), st.sampled_from([1, 200, 1 << 30]))
def test_rows_are_held_until_they_are_taken_or_let_go(deeds, merged, limit):
    """What is held is what a plain list holds, in its order, however it is kept."""
    holding.MERGED_ROWS, holding.LIMIT_BYTES = merged, limit
    held, known, count = Held(TIME), [], 0
    for deed, what in deeds:
        if deed == "add":
            new = [(time, count + n) for n, time in enumerate(what)]
            held.add(frame_of(new), (count,))
            known, count = known + new, count + len(new)
        elif deed == "take":
            gone = [row for row in known if row[0] < what or what == FOREVER]
            assert rows_of(held.take(what)) == gone
            known = [row for row in known if row not in gone]
        elif deed == "let go":
            held.let_go(what)
            known = [row for row in known if row[0] >= what]
        else:
            low, below = what
            near = [row for row in known if low <= row[0] < below]
            assert sorted(rows_of(held.between(low, below))) == sorted(near)
        assert rows_of(held.copy().all()) == known
        assert held.count() == len(known) <= held.height
        if known:
            assert held.least_time <= min(known)[0]
            assert max(known)[0] == held.greatest_time
            assert held.since()[0] <= min(row[1] for row in known)
        else:
            assert (held.least_time, held.since()) == (FOREVER, None)


def files_in(folder):
    """The files of a folder that have a name, or are open still without one."""
    opened, table = set(), Path("/proc/self/fd")
    for fd in table.iterdir() if table.exists() else ():
        with contextlib.suppress(OSError):
            opened.add(os.readlink(fd))
    named = {str(path) for path in folder.iterdir()}
    return named | {name for name in opened if name.startswith(str(folder))}


@pytest.mark.parametrize("many", [0, 256])
def test_files_of_rows_that_are_gone_are_gone(many, monkeypatch, tmp_path):
    """A file stays as long as a copy holds it, and no longer; `report` says that there are some."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(spill, "MANY_FILES", many)
    holding.LIMIT_BYTES = 1
    held = Held(TIME)
    for at in range(3):
        held.add(frame_of([(at, at)]))
    assert held.where == " (3 files on disk)"
    copy = held.copy()
    assert rows_of(held.take(2)) == [(0, 0), (1, 1)]
    assert len(files_in(tmp_path)) == 3
    del copy
    gc.collect()
    assert len(files_in(tmp_path)) == 1
    held.let_go(3)
    assert not files_in(tmp_path)


KILLED = """
import os, signal, sys, tempfile
import polars as pl
from streamlab.engines import spill
tempfile.tempdir, spill.MANY_FILES = sys.argv[1], int(sys.argv[2])
held = [spill.Spilled(pl.DataFrame({"n": [n]})) for n in range(3)]
assert [file.lazy().collect().item() for file in held] == [0, 1, 2]
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only there have open files a path")
@pytest.mark.parametrize(("many", "left"), [(256, 0), (0, 3)])
def test_a_process_that_is_killed_leaves_no_files(many, left, tmp_path):
    """They lost their names when they were written; the control keeps them, and leaves them behind."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(many)], check=False, timeout=60
    )
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == left


def test_many_small_parts_become_few(monkeypatch):
    """Rows that come one at a time are copied a few times each, not at each arrival."""
    copied, real = [], Held._part

    def part(self, frame):
        copied.append(frame.height)
        return real(self, frame)

    monkeypatch.setattr(Held, "_part", part)
    held = Held(TIME)
    for at in range(1000):
        held.add(frame_of([(at, at)]))
    assert len(held.parts) < 12
    assert sum(copied) < 1000 * 15
    assert not any(isinstance(p.rows, Spilled) for p in held.parts)
