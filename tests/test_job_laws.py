"""Exactly once: jobs are killed at any instruction, and their results are those of one quiet run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faults import SCALE, scaled, seeded

ROWS = 42
HOWS = ("before", "torn", "after")


class Lives:
    """Talks to the process that forks lives."""

    def __init__(self, script="job_lives.py", **environment):
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / script)], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True, env={**os.environ, **environment},
        )  # fmt: skip

    def ask(self, **command):
        self.process.stdin.write(json.dumps({k: str(v) if isinstance(v, Path) else v
                                             for k, v in command.items()}) + "\n")  # fmt: skip
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def lives():
    made = Lives()
    yield made
    made.close()


@pytest.fixture(scope="module")
def template(lives, tmp_path_factory):
    """A lab full of events, and the results of a run that nobody killed."""
    folder = tmp_path_factory.mktemp("template")
    assert lives.ask(do="setup", path=folder / "lab", rows=ROWS)["code"] == 0
    quiet = folder / "quiet"
    shutil.copytree(folder / "lab", quiet / "lab")
    answer = lives.ask(do="life", path=quiet / "lab", epoch=10, database=True)
    assert answer["code"] == 0, answer
    wanted = lives.ask(do="rows", path=quiet / "lab")["said"]
    assert len(wanted["ten"]) > 10
    assert len(wanted["hop"]) > 10
    return folder / "lab", wanted


def fresh(template, tmp_path, name):
    lab = tmp_path / name / "lab"
    shutil.copytree(template[0], lab)
    return lab


def sweep(lives, template, tmp_path, name, step, **more):
    """Die at each n-th change of the disk; return what was wrong, and how many died."""
    wrong, died, at = [], 0, 1
    while True:
        lab = fresh(template, tmp_path, f"{name}-{at}")
        first = lives.ask(do="life", path=lab, epoch=10, at=at, how=HOWS[at // step % 3], **more)
        died += first["killed"]
        again = lives.ask(do="life", path=lab, epoch=10, **more)
        if again["code"] != 0:
            wrong.append((at, again["said"]))
        found = lives.ask(do="rows", path=lab)["said"]
        wrong += [(at, n) for n in ("ten", "five", "some") if found.get(n) != template[1][n]]
        shutil.rmtree(lab.parent)
        if not first["killed"]:
            return wrong, died
        at += step


def test_killed_at_any_change_of_the_disk_each_result_is_there_once(lives, template, tmp_path):
    """Chains of derived streams hold each result once, wherever their process died."""
    wrong, died = sweep(lives, template, tmp_path, "sweep", step=4 if SCALE <= 1 else 1)
    assert not wrong, wrong[:3]
    assert died > 10
    print(f"{died} kills")


@pytest.mark.parametrize("control", ["place first", "late place"])
def test_a_place_that_is_ahead_of_its_results_is_found_out(lives, template, tmp_path, control):
    """The control: results between the place and the kill are lost, and the sweep sees it."""
    wrong, died = sweep(lives, template, tmp_path, "control", step=3, control=control)
    assert wrong
    print(f"{len(wrong)} of {died} kills found out")


def test_killed_over_replays_each_result_is_there_once(lives, template, tmp_path):
    """Each life replays anew in other steps, and is killed at a change of the disk: as one quiet run."""
    draw = seeded("replays")
    died = 0
    for at in range(2, 90, 22 if SCALE <= 1 else 2):
        lab = fresh(template, tmp_path, f"replayed-{at}")
        for life in (at, at + draw.randint(0, 40), None):
            steps = [draw.choice([1, 3, 10, "1s", "30s", "2m"]) for _ in range(draw.randint(0, 5))]
            more = {} if life is None else {"at": life, "how": draw.choice(HOWS)}
            answer = lives.ask(
                do="life", path=lab, epoch=draw.choice([3, 10]), database=True, steps=steps, **more
            )
            died += answer["killed"]
            assert answer["killed"] or answer["code"] == 0, answer
        found = lives.ask(do="rows", path=lab)["said"]
        assert found.pop("copied") is True
        assert found == template[1], at
        shutil.rmtree(lab.parent)
    print(f"{died} kills")
    assert died > 4


def test_a_replay_whose_jobs_begin_anew_is_found_out(lives, template, tmp_path):
    """The control: places that are committed before their results are lost over a replay too."""
    wrong = 0
    for at in range(6, 60, 18):
        lab = fresh(template, tmp_path, f"replayed-control-{at}")
        for more in ({"at": at, "how": "after"}, {}):
            lives.ask(do="life", path=lab, epoch=10, steps=[10], control=True, **more)
        found = lives.ask(do="rows", path=lab)["said"]
        wrong += any(found.get(name) != template[1][name] for name in ("ten", "five", "some"))
    assert wrong


def test_killed_at_random_moments_streams_and_tables_hold_each_result_once(
    lives, template, tmp_path
):
    """Streams and a DuckDB table hold each result once after many kills at any time."""
    draw = seeded("jobs")
    died = 0
    for number in range(scaled(3)):
        lab = fresh(template, tmp_path, f"random-{number}")
        for _ in range(12):
            answer = lives.ask(
                do="life", path=lab, epoch=draw.choice([3, 10]), database=True,
                after=draw.uniform(0.02, 0.9),
            )  # fmt: skip
            died += answer["killed"]
            if answer["code"] == 0:
                break
            assert answer["killed"], answer
        last = lives.ask(do="life", path=lab, epoch=10, database=True)
        assert last["code"] == 0, last
        assert lives.ask(do="rows", path=lab)["said"] == template[1]
    print(f"{died} kills")
    assert died > 0
