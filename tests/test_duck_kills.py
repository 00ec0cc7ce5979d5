"""Copies into DuckDB are killed at any change of the file and at any moment: each row is there once."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from faults import SCALE, scaled, seeded
from test_job_laws import Lives

ROWS, CHUNK = 300_000, 130_000  # more than DuckDB's row groups of 122,880: some are written early
SMALL, SMALL_CHUNK = 1000, 60
HOWS = 3  # before the change, half way through, after it


@pytest.fixture(scope="module")
def deadly(tmp_path_factory):
    """The library that kills at the n-th change of a DuckDB file."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        refuse = pytest.fail if os.environ.get("STREAMLAB_NOTHING_SKIPPED") else pytest.skip
        refuse("there is no C compiler to make what kills at the n-th change")
    made = tmp_path_factory.mktemp("deadly") / "deadly.so"
    source = Path(__file__).parent / "deadly.c"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return made


@pytest.fixture(scope="module")
def lives(deadly):
    made = Lives("duck_lives.py", LD_PRELOAD=str(deadly))
    yield made
    made.close()


@pytest.fixture(scope="module")
def quiet_lives():
    made = Lives("duck_lives.py")
    yield made
    made.close()


def filled(lives, folder, rows):
    answer = lives.ask(do="setup", path=folder / "lab", rows=rows)
    assert answer["code"] == 0, answer
    return folder / "lab"


def sweep(lives, lab, tmp_path, chunk, step, **more):
    """Die at each n-th change of a fresh file; return what was wrong, and how many died."""
    wrong, died, at = [], 0, 1
    while True:
        database = tmp_path / f"{at}.duckdb"
        how = (at // step) % HOWS
        first = lives.ask(do="life", path=lab, database=database, chunk=chunk, at=at, how=how, **more)  # fmt: skip
        died += first["killed"]
        answer = lives.ask(do="found", path=lab, database=database)
        assert answer["code"] == 0, answer
        wrong += [(at, how, what) for what in answer["said"]]
        database.unlink(missing_ok=True)
        if not first["killed"]:
            assert first["code"] == 0, first
            return wrong, died
        at += step


@pytest.mark.parametrize(("rows", "chunk"), [(SMALL, SMALL_CHUNK), (ROWS, CHUNK)])
def test_killed_at_the_nth_change_of_the_file_each_row_is_there_once(lives, tmp_path, rows, chunk):
    """Wherever a copy dies, before, in or after a write or a sync, the next call completes it."""
    lab = filled(lives, tmp_path, rows)
    whole = lives.ask(do="life", path=lab, database=tmp_path / "whole.duckdb", chunk=chunk)
    assert whole["said"] > 20
    step = 1 if SCALE > 1 else max(1, whole["said"] // 15)
    wrong, died = sweep(lives, lab, tmp_path, chunk, step)
    assert not wrong, wrong[:3]
    print(f"{died} kills at {whole['said']} changes")
    assert died > 10


def test_one_file_that_is_killed_again_and_again_gets_whole(lives, tmp_path):
    """Every life goes a little further than the one before, and at last each row is there once."""
    lab = filled(lives, tmp_path, SMALL)
    database, draw, died = tmp_path / "x.duckdb", seeded("duck chain"), 0
    while True:
        how, at = draw.randrange(HOWS), draw.randrange(2, 16)
        answer = lives.ask(do="life", path=lab, database=database, chunk=SMALL_CHUNK, at=at, how=how)  # fmt: skip
        died += answer["killed"]
        if not answer["killed"]:
            break
    assert answer["code"] == 0, answer
    assert lives.ask(do="found", path=lab, database=database)["said"] == []
    print(f"{died} kills")


def test_a_place_in_a_transaction_of_its_own_is_found_out(lives, tmp_path):
    """The control: rows between their commit and the place's are copied twice, and the sweep sees it."""
    lab = filled(lives, tmp_path, SMALL)
    wrong, died = sweep(lives, lab, tmp_path, SMALL_CHUNK, step=4, control=True)
    assert any("doubled" in what or "HistoryChanged" in what for *_, what in wrong)
    print(f"{len(wrong)} of {died} kills found out")


def test_killed_at_random_moments_each_row_is_there_once(quiet_lives, tmp_path):
    """A copy that dies at any time, dozens of times, ends with each row once."""
    lab = filled(quiet_lives, tmp_path, ROWS)
    draw, died = seeded("duck random"), 0
    for number in range(scaled(2)):
        database = tmp_path / f"{number}.duckdb"
        for _ in range(12):
            answer = quiet_lives.ask(do="life", path=lab, database=database, chunk=20_000, after=draw.uniform(0.02, 0.6))  # fmt: skip
            died += answer["killed"]
            assert answer["killed"] or answer["code"] == 0, answer
        assert quiet_lives.ask(do="found", path=lab, database=database)["said"] == []
    print(f"{died} kills")
    assert died > 0


def test_a_mirror_that_is_killed_goes_on(lives, tmp_path):
    """Killed while rows come in, at changes of the file and at any moment, a mirror has each once."""
    lab = filled(lives, tmp_path, 10)
    database, draw, died = tmp_path / "x.duckdb", seeded("duck mirror"), 0
    for number in range(scaled(8)):
        when = {"after": draw.uniform(0.05, 1.0)} if number % 2 else {"at": draw.randrange(1, 150)}
        answer = lives.ask(do="mirror", path=lab, database=database, how=draw.randrange(HOWS), **when)  # fmt: skip
        died += answer["killed"]
        assert answer["killed"] or answer["code"] == 0, answer
        assert lives.ask(do="found", path=lab, database=database)["said"] == []
    print(f"{died} kills")
    assert died > 0
