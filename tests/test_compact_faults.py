"""Compaction that is killed, cut off from power, or read meanwhile: the state before or after it."""

import contextlib
import itertools
import logging
import shutil
import signal

import compact_lives
import pytest
from compact_lives import KEYS, state
from faults import CHANGES, scaled, seeded
from test_powercut import Disk, in_boot, no_sync_of_data, no_sync_of_folders

import streamlab as sl
from streamlab.log import compact, disk, maintain, reader

HOWS = ("before", "torn", "after")


@pytest.fixture(autouse=True)
def by_hand(monkeypatch, caplog):
    """Compaction comes when it is called for, and what recovery logs is not of interest."""
    monkeypatch.setattr(maintain, "DIRTY_RATIO", 2.0)
    monkeypatch.setattr(
        disk, "sync", lambda fd: None
    )  # where the power fails, the model counts them
    monkeypatch.setattr(disk, "sync_dir", lambda path: None)
    caplog.set_level(logging.CRITICAL, logger="streamlab")


def filled(lab, sync="always"):
    """A stream of several sealed files: row n has key n % 7, every eleventh is a deletion."""
    settings = sl.Settings(sync=sync, segment_bytes=4096, delete_retention="0s")
    lab.create("s", {"k": [0], "x": [0], "s": [""]}, key="k", cleanup="compact", settings=settings)
    return grow(lab["s"], 1, 60)


def grow(stream, first, stop):
    """Append the rows with these numbers, a file for about every twenty."""
    for n in range(first, stop):
        if n % 11 == 3:
            assert stream.delete(n % KEYS) == n
        else:
            stream.append({"k": n % KEYS, "x": n, "s": "v" * (n % 40)})
        if n % 20 == 19:
            stream.seal()
    return stream


def left(limit, end):
    """The rows of a stream that was compacted up to a limit."""
    last = {n % KEYS: n for n in range(limit)}
    kept = sorted(n for n in last.values() if n % 11 != 3)
    return kept + list(range(limit, end))


def complaints(path, end=None):
    """Open a lab; say in what it is neither as before a compaction nor as after it."""
    reader._VERIFIED.clear()
    try:
        with sl.open(path) as lab:
            stream = lab["s"]
            upto, stop = stream.stats().compacted_upto, stream.end_offset
            found = []
            if end is not None and stop != end:
                found.append(f"ends at {stop}, not {end}")
            if upto > stop:
                found.append(f"compacted up to {upto}, beyond the end {stop}")
            rows = stream.view(compacted="ok").to_arrow()
            if rows["_offset"].to_pylist() != left(upto, stop):
                found.append(f"compacted up to {upto}: {rows['_offset'].to_pylist()}")
            values = [(n, None if n % 11 == 3 else n) for n in rows["_offset"].to_pylist()]
            if list(zip(*values, strict=True))[1:] != [tuple(rows["x"].to_pylist())]:
                found.append("rows are not what was appended")
            table = stream.table().to_polars()
            if sorted(table.select("k", "x").iter_rows()) != state(stop):
                found.append(f"the table is {sorted(table.select('k', 'x').iter_rows())}")
            return found
    except (sl.StreamlabError, AssertionError, OSError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]


def killed(path, at, how, fault):
    """Compact in a process that dies at its n-th change of the disk; whether it did die."""
    child = compact_lives.process(compact_lives.compact, path, at, how, fault)
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL), child.exitcode
    return child.exitcode != 0


def without_manifest(path, target):
    """A copy of a lab whose manifest is lost."""
    shutil.copytree(path, target)
    (target / "streams" / "s" / "manifest").unlink()
    return target


def swept(tmp_path, source, end, fault=None):
    """Kill a compaction of a lab at each change of the disk; return the deaths and what was wrong."""
    wrong, died, at = [], True, 0
    while died and not (fault and wrong):
        at += 1
        path = tmp_path / f"at-{at}"
        shutil.copytree(source, path)
        died = killed(path, at, HOWS[at % 3], fault)
        wrong += [f"{at}: {text}" for text in complaints(path, end)]
        bare = without_manifest(path, tmp_path / f"bare-{at}")
        with contextlib.suppress(sl.StreamlabError), sl.open(bare) as lab:
            table = sorted(lab["s"].table().to_polars().select("k", "x").iter_rows())
            if table != state(end):
                wrong.append(f"{at}, manifest lost: the table is {table}")
        shutil.rmtree(bare)
        if not wrong:
            with sl.open(path) as lab:
                assert lab["s"].compact().compacted_upto == end
                assert not list((path / "streams" / "s").glob(".compact-*"))
                assert lab.verify().ok
            wrong += [f"{at}, again: {text}" for text in complaints(path, end)]
        shutil.rmtree(path)
    return at - 1, wrong


@pytest.fixture
def source(tmp_path):
    """A lab to be compacted for the first time."""
    with sl.open(tmp_path / "source") as lab:
        filled(lab).seal()
    return tmp_path / "source"


def test_a_kill_inside_compaction_leaves_the_state_before_or_after(tmp_path, source):
    """Killed at any disk call, nothing is lost, also if the manifest is; the next one finishes."""
    deaths, wrong = swept(tmp_path, source, 60)
    print(f"{deaths} kills")
    assert not wrong, wrong[:3]
    assert deaths > 20


def test_a_kill_inside_a_later_compaction_loses_nothing(tmp_path, source):
    """The same where compacted files are compacted again with newer ones."""
    with sl.open(source) as lab:
        assert lab["s"].compact().rows_removed
        grow(lab["s"], 60, 110).seal()
    deaths, wrong = swept(tmp_path, source, 110)
    assert not wrong, wrong[:3]
    assert deaths > 20


@pytest.mark.parametrize("fault", [compact_lives.removed_first, compact_lives.one_by_one])
def test_control_a_faulty_compaction_is_found_out(tmp_path, source, fault):
    """The same harness counts violations when compaction is made to do the wrong thing."""
    _, wrong = swept(tmp_path, source, 60, fault)
    print(f"control {fault.__name__}: {len(wrong)} violations")
    assert wrong


# -- power cuts -----------------------------------------------------------------------------------


def cuts(root, monkeypatch, sync, states):
    """Cut the power so many times while a stream grows and is compacted; return what was broken."""
    root.mkdir()
    rng, boots = seeded("compact", sync), itertools.count(1)
    in_boot(monkeypatch, next(boots))
    monkeypatch.setattr(maintain, "IN_PLACE_ROWS", 1)  # as what is big is sealed: not synced
    disk_, acks = Disk(root), [(0, 0)]
    with monkeypatch.context() as patch:
        for name in CHANGES:
            real = {"sync": lambda fd: None, "sync_dir": lambda path: None}.get(name)
            patch.setattr(disk, name, disk_.record(name, real or getattr(disk, name)))
        with sl.open(root / "lab") as lab:
            stream = filled(lab, sync)
            for stop in (60, 75, 110):
                grow(stream, stream.end_offset, stop)
                acks.append((len(disk_.ops), stream.durable_offset))
                assert stream.compact().compacted_upto == stop
                acks.append((len(disk_.ops), stream.durable_offset))
    wrong, count = [], 0
    for done, op in enumerate(disk_.ops, 1):
        disk_.redo(op)
        if done <= acks[1][0]:
            continue
        promised = max(durable for at, durable in acks if at <= done)
        for _ in range(int(states / len(disk_.ops) + rng.random())):
            count += 1
            target = root / f"cut-{count}"
            disk_.cut(target, rng)
            in_boot(monkeypatch, next(boots))
            found = complaints(target / "lab")
            with contextlib.suppress(sl.StreamlabError), sl.open(target / "lab") as lab:
                if lab["s"].end_offset < promised:
                    found.append(f"ends at {lab['s'].end_offset}, promised {promised}")
            wrong += [f"{done} of {len(disk_.ops)}, after {op[:2]}: {text}" for text in found]
            shutil.rmtree(target)
    return count, wrong


@pytest.mark.parametrize("sync", ["always", "os"])
def test_a_power_cut_during_compaction_loses_no_key(tmp_path, monkeypatch, sync):
    """Cut at any moment, a lab holds all rows up to its end but for those compacted by the rule."""
    count, wrong = cuts(tmp_path / sync, monkeypatch, sync, scaled(600))
    print(f"{sync}: {count} states")
    assert not wrong, wrong[:3]
    assert count > 100


def rests_on_what_is_not_synced(monkeypatch):
    """Rows go although those that replace them are not durable."""
    monkeypatch.setattr(compact.Compactor, "_make_durable", lambda self: None)


@pytest.mark.parametrize(
    "fault", [no_sync_of_data, no_sync_of_folders, rests_on_what_is_not_synced]
)
def test_control_a_lazy_compaction_is_found_out(tmp_path, monkeypatch, fault):
    """Without a sync that is needed the same harness finds rows that are lost."""
    fault(monkeypatch)
    _, wrong = cuts(tmp_path / "lab", monkeypatch, "os", scaled(1500))
    print(f"control {fault.__name__}: {len(wrong)} violations")
    assert wrong


# -- readers meanwhile ----------------------------------------------------------------------------


def test_readers_in_another_process_see_whole_states(tmp_path):
    """While a stream grows and is compacted, every table that is read is that of its place."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        filled(lab, "os")

    results = compact_lives.results()
    child = compact_lives.process(compact_lives.read, tmp_path / "lab", 400, results)
    with sl.open(tmp_path / "lab", sync="os") as lab:
        stream = lab["s"]
        for stop in range(70, 401, 10):
            grow(stream, stream.end_offset, stop)
            stream.compact()
    said = results.get()
    child.join()
    assert isinstance(said, tuple), said
    assert said[0] > 3
    print(f"{said[0]} states read while compaction came to {said[1]}")
