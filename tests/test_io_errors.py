"""A disk that is full or failing: an append raises or is there whole, and the stream stays readable."""

import contextlib
import errno
import gc
import logging
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from faults import (
    BEGINNING,
    CHANGES,
    SCALE,
    SCHEMA,
    Kept,
    after,
    changed_disk,
    complaints,
    finish,
    forked,
    frame,
    play,
    warm_up,
)

import streamlab as sl
from streamlab.log import log

ERRORS = [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.EFBIG]
FAULTS = [
    *((number, False) for number in ERRORS),
    (KeyboardInterrupt, False),
    *((number, True) for number in ERRORS),
    ("after", False),  # KeyboardInterrupt, the call having been done
]
OPENING = ("open_append", "read", "map_file")
SYNCING = ("sync", "sync_dir")


def operations(sync):
    """Operations that come to every change of a disk that there is."""
    return [
        ("create", "a", sync), ("append", "a", 0, 3), ("append", "a", 3, 40), ("append", "a", 43, 40),
        ("append", "a", 83, 1), ("advance", "a", BEGINNING + 5_000_000_000), ("append", "a", 84, 300),
        ("delete", "a", 3), ("append", "a", 384, 2), ("flush", "a"), ("seal", "a"), ("trim", "a", 50),
        ("evolve", "a"), ("append", "a", 386, 5), ("reopen", "a"), ("append", "a", 391, 2),
        ("create", "b", sync), ("append", "b", 900, 2), ("drop", "b"), ("append", "a", 393, 2),
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def calm(caplog, monkeypatch):
    """Sealing happens when it is asked for, so that the n-th call is always the same."""
    caplog.set_level(logging.CRITICAL, logger="streamlab")
    monkeypatch.setattr(log.Log, "_rolled", lambda self: None)


class Failing:
    """Makes the n-th call to the disk fail, and with ``always`` all that follow."""

    def __init__(self, at, what, always):
        self.at, self.what, self.always = at, what, always
        self.count, self.on, self.hit = 0, True, None

    def wrap(self, name, real):
        def call(*args, **kwargs):
            if name in OPENING and self.what != errno.EMFILE:
                return real(*args, **kwargs)
            self.count += 1
            if self.on and (self.count == self.at or (self.always and self.count > self.at)):
                self.hit = self.hit or name
                self.fail(name, real, args)
            quiet = name in SYNCING
            return None if quiet else real(*args, **kwargs)

        return call

    def fail(self, name, real, args):
        if self.what == "after":
            done = None if name in SYNCING else real(*args)
            if name == "create":
                os.close(done)
            raise KeyboardInterrupt
        if self.what is KeyboardInterrupt:
            raise KeyboardInterrupt
        if name == "write" and self.what in (errno.ENOSPC, errno.EFBIG):
            data = b"".join(bytes(b) for b in args[1])
            real(args[0], [data[: len(data) // 2]], args[2])
        raise OSError(self.what, os.strerror(self.what))


class Run:
    """Operations on a lab whose disk fails once or for ever; `wrong` is what should not be."""

    def __init__(self, path, failing):
        self.path, self.failing = path, failing
        self.world, self.wrong, self.poisoned = {}, [], False
        self.lab = None

    def open(self):
        lab, self.lab = self.lab, None
        if lab is not None:
            with contextlib.suppress(OSError, sl.StreamlabError, KeyboardInterrupt):
                lab.close()
        self.lab = sl.open(self.path)

    def attempt(self, op):
        try:
            if op[0] == "reopen" or self.lab is None:
                self.open()
            if op[0] != "reopen":
                play(self.lab, self.world, op)
        except (OSError, sl.StreamlabError, KeyboardInterrupt) as error:
            return error
        return None

    def do(self, op):
        """Do an operation, if need be again after it failed; judge what is there in between."""
        error = self.attempt(op)
        if error is None:
            self.world = after(self.world, op)
            return
        if self.lab is not None:
            self.compare("after the error", op, must_read=self.failing.what != errno.EMFILE)
        if self.failing.always:
            self.attempt(("flush", "a"))
        self.failing.on = False
        self.settle(op)
        self.compare("afterwards", op)
        if self.wrong:
            return
        held = [world for world in self.hopes(op) if not complaints(self.lab, world)]
        done = held[-1] != self.world or after(self.world, op) == self.world
        self.world = held[-1]
        error = None if done else self.attempt(op)
        if error is not None:
            self.wrong.append(f"{op[:2]} again: {error!r}")
        self.world = after(self.world, op) if not done else self.world

    def settle(self, op):
        """Go on writing; where that is refused because of a failed sync, after opening anew."""
        if self.lab is None:
            self.open()
        for name in self.lab:
            error = self.attempt(("flush", name))
            if isinstance(error, sl.WriterPoisoned):
                self.poisoned = True
                unsure = self.failing.hit in SYNCING or self.failing.what == "after"
                if not unsure and not self.failing.always:
                    self.wrong.append(f"{op[:2]} poisoned by {self.failing.hit}")
                self.open()
                error = self.attempt(("flush", name))
            if error is not None:
                self.wrong.append(f"flush after {op[:2]}: {error!r}")

    def hopes(self, op):
        return [self.world, after(self.world, op)]

    def compare(self, when, op, *, must_read=True):
        try:
            said = [complaints(self.lab, world) for world in self.hopes(op)]
        except (OSError, sl.StreamlabError, KeyboardInterrupt) as error:
            said = [[repr(error)]] if must_read else [[]]
        if [] not in said:
            self.wrong.append(f"{when} of {op[:2]}: {said[0][:1]}")


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def run(path, sync, failing, monkeypatch):
    """Do all operations once; return what was wrong."""
    path.mkdir()
    before = descriptors()
    with changed_disk(monkeypatch, failing.wrap, (*CHANGES, *OPENING)):
        todo = Run(path, failing)
        for op in operations(sync):
            todo.do(op)
            if todo.wrong:
                break
        failing.on = False
        todo.open()
        todo.compare("at the end", ("flush", "a"))
        todo.lab.close()
    left = descriptors() - before
    if left > 0:
        gc.collect()  # an error keeps the frames that it came through, and their pins
        left = descriptors() - before
    wrong = [f"{failing.at} {failing.hit} {failing.what} {failing.always}: {w}" for w in todo.wrong]
    return wrong + ([f"{left} descriptors left, {failing.at} {failing.hit}"] if left > 0 else [])


def sweep(tmp_path, sync, monkeypatch):
    """Let each call to the disk fail in turn, in one of the ways (or each, if there is time)."""
    wrong, runs, at = [], 0, 1
    while True:
        fired = False
        for turn in range(len(FAULTS) if len(FAULTS) <= SCALE else 1):
            what, always = FAULTS[(at + turn + (sync == "os") * 3) % len(FAULTS)]
            failing = Failing(at, what, always)
            path = tmp_path / f"{sync}-{at}-{turn}"
            wrong += run(path, sync, failing, monkeypatch)
            shutil.rmtree(path)
            runs += 1
            fired = fired or failing.hit is not None
        if not fired:
            return wrong, runs
        at += 1 if sync == "always" or SCALE > 1 else 2


@pytest.mark.parametrize("sync", ["always", "os"])
def test_a_failing_disk_call_loses_nothing_and_doubles_nothing(tmp_path, monkeypatch, sync):
    """Whichever call fails, once or from then on: whole appends, readable, and it goes on."""
    wrong, runs = sweep(tmp_path, sync, monkeypatch)
    print(f"{sync}: {runs} runs, {len(wrong)} wrong")
    assert not wrong, "\n".join(wrong[:8])
    assert runs > 100


def test_control_errors_that_are_swallowed_are_found_out(tmp_path, monkeypatch):
    """The same harness counts what is wrong when a failed write is taken for a good one."""
    real, wrong = Failing.wrap, 0

    def wrap(self, name, done):
        call = real(self, name, done)

        def deaf(*args, **kwargs):
            with contextlib.suppress(OSError):
                return call(*args, **kwargs)

        return deaf if name == "write" else call

    monkeypatch.setattr(Failing, "wrap", wrap)
    for at in range(30, 90, 4):
        with contextlib.suppress(OSError):  # the lab may be beyond opening then
            wrong += bool(
                run(
                    tmp_path / str(at),
                    "always",
                    Failing(at, errno.ENOSPC, always=False),
                    monkeypatch,
                )
            )
    print(f"control: {wrong} wrong")
    assert wrong > 0


def test_after_a_failed_sync_nothing_is_written_until_opened_anew(tmp_path, monkeypatch):
    """A failed fsync poisons the writer; opened anew, all promised rows are there."""
    path = tmp_path / "lab"
    with sl.open(path) as lab:
        stream = lab.create("s", SCHEMA, time="ts", settings=sl.Settings(max_ahead=None))
        play(lab, {"s": Kept()}, ("append", "s", 0, 5))
        failing = Failing(1, errno.EIO, always=False)
        with changed_disk(monkeypatch, failing.wrap, ["sync"]), pytest.raises(sl.WriterPoisoned):
            play(lab, {"s": Kept(rows=(1,) * 5)}, ("append", "s", 5, 5))
        assert stream.end_offset == 5
        for op in [("append", "s", 5, 5), ("flush", "s"), ("advance", "s", 2 * BEGINNING)]:
            with pytest.raises(sl.WriterPoisoned, match="sync failed"):
                play(lab, {"s": Kept(rows=(1,) * 5)}, op)
        assert stream.to_arrow().num_rows == 5
    with sl.open(path) as lab:
        assert lab["s"].to_arrow()["x"].to_pylist()[:5] == [0, 1, 2, 3, 4]
        assert lab["s"].append(frame(5, 1, wide=False)).stop in (6, 11)


def test_a_file_size_limit_refuses_whole_appends(tmp_path):
    """Under RLIMIT_FSIZE appends fail whole, the stream is readable, and it goes on after."""
    warm_up(tmp_path)

    def work(say):
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        with sl.open(tmp_path / "lab") as lab:
            stream = lab.create("s", {"x": [1]})
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
            refused = 0
            while refused < 3:
                before = stream.end_offset
                try:
                    stream.append({"x": list(range(200))})
                except OSError as error:
                    said = error.errno
                    assert said == errno.EFBIG
                    assert stream.end_offset == before
                    refused += 1
            rows = stream.to_arrow().num_rows
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
            assert stream.append({"x": [7]}).start == rows
            say(
                stream.to_arrow()["x"].to_pylist()
                == [1, *list(range(200)) * ((rows - 1) // 200), 7]
            )

    said, code = finish(forked(work))
    assert (said, code) == ([True], 0)


def test_a_folder_that_cannot_be_written_is_readable(tmp_path):
    """Where nothing can be written, reading works and an append is a clear error."""
    with tempfile.TemporaryDirectory() as folder:
        warm_up(tmp_path)
        path = Path(folder) / "lab"
        with sl.open(path) as lab:
            lab.create("s", pa.table({"x": [1, 2, 3]}))
        Path(folder).chmod(0o755)
        listing = sorted(p for p in path.rglob("*"))

        def work(say):
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            for read_only in (False, True):
                with sl.open(path, read_only=read_only) as lab:
                    assert lab["s"].as_of(2).to_arrow()["x"].to_pylist() == [1, 2]
                    with pytest.raises(PermissionError):
                        lab["s"].append({"x": [4]})
                    assert lab["s"].to_arrow()["x"].to_pylist() == [1, 2, 3]
            say("fine")

        if os.geteuid() != 0:
            for part in (path, *path.rglob("*")):
                part.chmod(0o555 if part.is_dir() else 0o444)
        said, _ = finish(forked(work))
        for part in (path, *path.rglob("*")):
            part.chmod(0o755 if part.is_dir() else 0o644)
        assert said == ["fine"]
        assert sorted(p for p in path.rglob("*")) == listing


def test_a_table_may_rest_on_more_files_than_a_process_may_open(tmp_path):
    """Rows that are mapped hold no descriptor, however many segments they come from."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        stream = lab.create("s", {"x": [0]})
        for number in range(1, 30):
            stream.append({"x": [number]})
            stream.seal()
        before = descriptors()
        table = stream.to_arrow()
        gc.collect()
        assert descriptors() <= before
        assert table["x"].to_pylist() == list(range(30))
