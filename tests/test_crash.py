"""A process may be killed at any instruction: what it acknowledged is there, whole and in order."""

import contextlib
import itertools
import json
import os
import signal

import pyarrow as pa
import pytest
from faults import (
    SCALE,
    after,
    complaints,
    dying,
    finish,
    forked,
    judge,
    play,
    scaled,
    seeded,
    warm_up,
    workload,
)

import streamlab as sl
from streamlab.log import disk, maintain
from streamlab.log import writer as writers
from streamlab.log.format import MAGIC, Kind

HOWS = ("before", "torn", "after")


def life(path, hopes, at, how):
    """A process that recovers a lab, and does operations until it dies at its n-th disk call.

    ``hopes`` are the worlds that the lab may hold, each with the operations that are left. The
    process says which it found, and then how many operations it has done.
    """

    def work(say):
        dying(at, how)
        lab = sl.open(path)
        for name in lab:
            lab[name].flush()
        said = [complaints(lab, world) for world, _ in hopes]
        assert [] in said, said
        now, ops = hopes[said.index([])]
        say(said.index([]))
        for number, op in enumerate(ops):
            if op[0] == "reopen":
                lab.close()
                lab = sl.open(path)
            else:
                play(lab, now, op)
            now = after(now, op)
            say(number + 1)
        lab.close()

    return finish(forked(work))


def lives(path, ops, deaths):
    """Let one process after the other go on with the operations, each dying at its time.

    Returns what was wrong after each death, the number of deaths, and whether all was done.
    """
    hopes, died = [({}, ops)], 0
    path.mkdir()
    for at, how in deaths:
        try:
            said, code = life(path, hopes, at, how)
        except AssertionError as error:
            return [f"{at} {how}: {error}"], died, False
        died += code == -signal.SIGKILL
        if said:
            world, ops = hopes[said[0]]
            done = said[-1] if len(said) > 1 else 0
            for op in ops[:done]:
                world = after(world, op)
            hopes = [(world, ops[done:])]
            if done < len(ops):
                hopes.append((after(world, ops[done]), ops[done + 1 :]))
        wrong = judge(path, [world for world, _ in hopes])
        if wrong or code == 0:
            return [f"{at} {how} {hopes[0][1][:1]}: {text}" for text in wrong], died, code == 0
    return [], died, False


def sweep(tmp_path, name, ops, step=1):
    """Die at each change of the disk that a workload makes, in turns before, inside and after it."""
    wrong, died, at = [], 0, 1
    while True:
        path = tmp_path / f"{name}-{at}"
        found, killed, done = lives(path, ops, [(at, HOWS[at % 3])])
        wrong += found
        died += killed
        if done:
            return wrong, died
        at += step


def test_a_kill_inside_any_disk_call_loses_nothing(tmp_path):
    """Killed before, inside or after any disk call, a lab holds all that was acknowledged."""
    warm_up(tmp_path)
    died = 0
    for seed in range(scaled(1)):
        ops = workload(seeded("sweep", seed), 25)
        wrong, killed = sweep(tmp_path, str(seed), ops, step=2 if SCALE <= 1 else 1)
        assert not wrong, wrong[:3]
        died += killed
    print(f"{died} kills")
    assert died > 100 * min(SCALE, 1)


def test_several_kills_in_a_row_lose_nothing(tmp_path):
    """A lab whose processes die again and again, also during recovery, holds what they did."""
    warm_up(tmp_path)
    died = 0
    for seed in range(scaled(20)):
        rng = seeded("row", seed)
        deaths = [(rng.randrange(1, rng.choice([5, 30, 100])), rng.choice(HOWS)) for _ in range(8)]
        wrong, killed, _ = lives(tmp_path / str(seed), workload(rng, 40), deaths)
        assert not wrong, (seed, wrong[:3])
        died += killed
    print(f"{died} kills")
    assert died > 100 * min(SCALE, 1)


# -- negative controls: a fault put into the product must be seen ---------------------------------


def rows_in_memory(monkeypatch):
    """An append is acknowledged before its rows are written: they go with the next one."""
    waiting, real = [], disk.write

    def write(fd, buffers, position):
        if bytes(buffers[0][:8]) != MAGIC or buffers[0][18] != Kind.ROWS:
            return real(fd, buffers, position)
        waiting.append((os.dup(fd), [bytes(b) for b in buffers], position))
        if len(waiting) > 1:
            real(*waiting.pop(0))
        return sum(map(len, buffers))

    monkeypatch.setattr(disk, "write", write)


def small_files_overwritten(monkeypatch):
    """A small file is overwritten where it stands instead of being replaced."""

    def overwrite(path, content, *, durable=True):
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(path)
        fd = disk.create(path)
        disk.write(fd, [content], 0)
        os.close(fd)

    monkeypatch.setattr(disk, "replace_file", overwrite)


def removed_before_replaced(monkeypatch):
    """A closed file is removed before the manifest names the sealed one."""
    real = maintain.update_manifest

    def update(folder, lock, change):
        for segment in maintain.read_manifest(folder / "manifest").segments[:-1]:
            if segment.state == "closed":
                disk.unlink(folder / segment.file)
        return real(folder, lock, change)

    monkeypatch.setattr(maintain, "update_manifest", update)


@pytest.mark.parametrize(
    "fault", [rows_in_memory, small_files_overwritten, removed_before_replaced]
)
def test_control_a_faulty_product_is_found_out(tmp_path, monkeypatch, fault):
    """The same harness counts violations when the product is made to do the wrong thing."""
    warm_up(tmp_path)
    ops = workload(seeded("control"), 25)
    fault(monkeypatch)
    violations = 0
    for at in range(20, 220):
        wrong, _, done = lives(tmp_path / str(at), ops, [(at, HOWS[at % 3]), (10_000, "before")])
        violations += bool(wrong) or not done
        if violations == 2:
            break
    print(f"control {fault.__name__}: {violations} violations")
    assert violations > 0


# -- real processes, killed at random moments -----------------------------------------------------


def appending(path, name, first, writer):
    """A process that appends to a stream until it is killed: so many rows of the same token."""

    def work(say):
        writers.IDLE_SECONDS = 0.005
        with sl.open(path, sync="os") as lab:
            for token in range(first, first + 100_000):
                rows = 1 + token % 5
                got = lab[name].append({"writer": [writer] * rows, "token": [token] * rows})
                say([token, got.start, got.stop])

    return forked(work)


def kill_after(child, acks):
    """Read so many acknowledgements of a process and kill it; return all it gave."""
    lines = [child.pipe.readline() for _ in range(acks)]
    os.kill(child.pid, signal.SIGKILL)
    with child.pipe as pipe:
        lines += pipe.read().splitlines()
    os.waitpid(child.pid, 0)
    whole = [json.loads(line) for line in lines if line.rstrip().endswith((b"]", b"}"))]
    errors = [line for line in whole if isinstance(line, dict)]
    assert not errors, errors[0]["error"]
    return whole


def check_tokens(table, acked):
    """Every acknowledged append stands at its offsets; every append is there whole, in order."""
    tokens = table.column("token").to_pylist()
    owners = table.column("writer").to_pylist()
    for writer, acks in acked.items():
        for token, start, stop in acks:
            assert tokens[start:stop] == [token] * (stop - start), (writer, token, start)
            assert owners[start:stop] == [writer] * (stop - start)
    seen = {}
    for (writer, token), group in itertools.groupby(zip(owners, tokens, strict=True)):
        assert len(list(group)) == 1 + token % 5, (writer, token)
        assert token > seen.get(writer, -1), (writer, token)
        seen[writer] = token


def test_writers_killed_at_random_moments_lose_nothing_acknowledged(tmp_path):
    """Processes on streams of their own, killed dozens of times: each acknowledged row is there."""
    warm_up(tmp_path)
    rng, names = seeded("random"), ["a", "b", "c"]
    schema = pa.schema([("writer", pa.int64()), ("token", pa.int64())])
    with sl.open(tmp_path / "lab") as lab:
        for name in names:
            lab.create(name, schema, settings=sl.Settings(segment_bytes=4096))
    acked = {name: [] for name in names}
    for _ in range(scaled(12)):
        firsts = {n: acked[n][-1][0] + 2 if acked[n] else 0 for n in names}
        children = {n: appending(tmp_path / "lab", n, firsts[n], 0) for n in names}
        for name in rng.sample(names, 3):
            acked[name] += kill_after(children[name], rng.randrange(1, 30))
    with sl.open(tmp_path / "lab") as lab:
        for name in names:
            check_tokens(lab[name].to_arrow(), {0: acked[name]})


def test_two_processes_that_compete_for_a_stream_take_turns(tmp_path):
    """Of two writers of one stream, each killed in turn, no row is lost, doubled or mixed up."""
    warm_up(tmp_path)
    rng = seeded("compete")
    schema = pa.schema([("writer", pa.int64()), ("token", pa.int64())])
    with sl.open(tmp_path / "lab") as lab:
        lab.create("s", schema, settings=sl.Settings(segment_bytes=4096))
    acked, children = {0: [], 1: []}, {}
    for turn in range(scaled(12)):
        for writer in (0, 1):
            if writer not in children:
                first = acked[writer][-1][0] + 2 if acked[writer] else 0
                children[writer] = appending(tmp_path / "lab", "s", first, writer)
        victim = turn % 2
        acked[victim] += kill_after(children.pop(victim), rng.randrange(1, 20))
    for writer, child in children.items():
        acked[writer] += kill_after(child, 1)
    with sl.open(tmp_path / "lab") as lab:
        check_tokens(lab["s"].to_arrow(), acked)
