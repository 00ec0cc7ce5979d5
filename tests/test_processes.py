"""Several processes and threads on one lab: locks, followers, pins, forks, shared syncs."""

import contextlib
import gc
import os
import signal
import threading
import time

import pyarrow as pa
import pytest
from faults import finish, forked, scaled, warm_up

import streamlab as sl
from streamlab.log import disk, log, writer
from streamlab.log.manifest import read_manifest

SMALL = sl.Settings(segment_bytes=4096)


def numbers(first, count):
    return pa.table({"n": pa.array(range(first, first + count), pa.int64())})


def make(path, rows=3):
    """A lab with a stream "s" of numbers from 0 on, closed."""
    with sl.open(path) as lab:
        lab.create("s", numbers(0, rows), settings=SMALL)
    return path


def until(condition, seconds=20.0):
    """Look again and again until something is so."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be so"
        threading.Event().wait(0.002)


def test_a_second_writer_is_refused_with_the_name_of_the_first(tmp_path):
    """While one process holds a stream, another gets `StreamLocked` with its pid; readers read."""
    path = make(tmp_path / "lab")
    with sl.open(path) as lab, lab["s"].writer() as held:
        held.send(n=3)
        held.flush()

        def work(say):
            with sl.open(path) as other:
                assert other["s"].to_arrow()["n"].to_pylist() == [0, 1, 2, 3]
                with pytest.raises(sl.StreamLocked, match=f"process {parent}") as refused:
                    other["s"].append(numbers(9, 1), timeout=0.05)
                say(refused.value.holder["pid"])

        parent = os.getpid()
        assert finish(forked(work)) == ([parent], 0)


def test_a_forked_child_cannot_write_while_its_parent_holds_the_lock(tmp_path):
    """A child that inherits a handle neither writes through it nor takes the lock with it."""
    path = make(tmp_path / "lab")
    with sl.open(path) as lab:
        stream = lab["s"]
        stream.append(numbers(3, 1))

        def work(say):
            with pytest.raises(sl.StreamLocked):
                stream.append(numbers(9, 1), timeout=0.05)
            say(stream.to_arrow().num_rows)

        assert finish(forked(work)) == ([4], 0)
        assert stream.append(numbers(4, 1)) == range(4, 5)
        assert stream.to_arrow()["n"].to_pylist() == [0, 1, 2, 3, 4]


def test_a_forked_child_writes_when_its_parent_does_not(tmp_path):
    """An inherited handle of a stream that nobody holds can be written; the parent goes on after."""
    path = make(tmp_path / "lab")
    with sl.open(path) as lab:
        stream = lab["s"]
        stream.append(numbers(3, 1))
        stream._scan.log.writer._leave()

        def work(say):
            say(stream.append(numbers(4, 1)).start)
            lab.close()

        assert finish(forked(work)) == ([4], 0)
        assert stream.append(numbers(5, 1)) == range(5, 6)
        assert stream.to_arrow()["n"].to_pylist() == list(range(6))


def test_a_lock_is_free_at_the_death_of_its_holder(tmp_path):
    """A process killed while it holds a stream leaves it to the next one at once."""
    path = make(tmp_path / "lab")

    def work(say):
        with sl.open(path) as lab:
            lab["s"].writer()
            lab["s"].append(numbers(3, 1))
            say("held")
            signal.pause()

    child = forked(work)
    assert child.pipe.readline() == b'"held"\n'
    with sl.open(path) as lab:
        with pytest.raises(sl.StreamLocked, match=f"process {child.pid}"):
            lab["s"].append(numbers(4, 1), timeout=0)
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        child.pipe.close()
        assert lab["s"].append(numbers(4, 1), timeout=0) == range(4, 5)


def test_an_idle_writer_lets_another_process_in(tmp_path, monkeypatch):
    """Without a Writer the lock is given back after an idle moment, and taken again later."""
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.05)
    path = make(tmp_path / "lab")
    with sl.open(path) as lab:
        for turn in range(3):
            first = 3 + 2 * turn
            lab["s"].append(numbers(first, 1))

            def work(say, first=first):
                with sl.open(path) as other:
                    say(other["s"].append(numbers(first + 1, 1), timeout=10).start)

            assert finish(forked(work)) == ([first + 1], 0)
        assert lab["s"].to_arrow()["n"].to_pylist() == list(range(9))


def follow_all(path, rows):
    """A process that follows a stream from its beginning; it says what it saw out of order."""

    def work(say):
        say("ready")
        with sl.open(path, read_only=True) as lab:
            expected = 0
            for batch in lab["s"].follow(start="earliest", rows=rows, timeout=60):
                for name in ("_offset", "n"):
                    got = batch.column(name).to_pylist()
                    if got != list(range(expected, expected + len(got))):
                        say([name, expected, got[:3]])
                        return
                expected += batch.num_rows
                say(expected)

    child = forked(work)
    assert child.pipe.readline() == b'"ready"\n'
    return child


def write_around(path, followers, rows):
    """Append, roll, seal and trim behind the followers; return what each said last."""
    seen = [0] * len(followers)
    with sl.open(path, sync="os") as lab:
        stream, done, turn = lab["s"], 0, 0
        while done < rows:
            count = min(1 + turn % 40, rows - done)
            stream.append(numbers(done, count))
            done, turn = done + count, turn + 1
            if turn % 10 == 0:
                stream.seal()
            if turn % 25 == 0:
                for number, child in enumerate(followers):
                    while seen[number] < done - 200:
                        line = child.pipe.readline().strip()
                        if not line.isdigit():  # it has seen what should not be
                            finish(child)
                            return [line.decode()]
                        seen[number] = int(line)
                stream.trim(min(seen))
    return [finish(child)[0][-1] for child in followers]


def test_followers_elsewhere_see_every_row_once_and_in_order(tmp_path):
    """Processes that follow a writer which rolls, seals and trims miss and double nothing."""
    warm_up(tmp_path)
    rows = scaled(8000)
    with sl.open(tmp_path / "lab") as lab:
        lab.create("s", pa.schema([("n", pa.int64())]), settings=SMALL)
    followers = [follow_all(tmp_path / "lab", rows) for _ in range(2)]
    assert write_around(tmp_path / "lab", followers, rows) == [rows, rows]


def test_control_a_follower_that_forgets_rows_is_found_out(tmp_path, monkeypatch):
    """The same harness notices a reader that takes the end of the file for the published end."""
    from streamlab import follow

    real = follow.Follower._read

    def skipping(self):
        batch = real(self)
        if batch is not None and batch.num_rows > 3:
            self.position += 1
        return batch

    monkeypatch.setattr(follow.Follower, "_read", skipping)
    warm_up(tmp_path)
    with sl.open(tmp_path / "lab") as lab:
        lab.create("s", pa.schema([("n", pa.int64())]), settings=SMALL)
    said = write_around(tmp_path / "lab", [follow_all(tmp_path / "lab", 1000)], 1000)
    print("control:", said)
    assert said != [1000]


def test_a_pinned_view_elsewhere_is_readable_until_it_is_gone(tmp_path):
    """What a view in another process needs is kept from a trim, and removed when it is gone."""
    path = make(tmp_path / "lab", rows=0)
    go, come = os.pipe(), os.pipe()
    with sl.open(path) as lab:
        stream = lab["s"]
        for first in range(0, 300, 100):
            stream.append(numbers(first, 100))
            stream.seal()

        def work(say):
            with sl.open(path) as other:
                view = other["s"].as_of(250)
                say("taken")
                os.read(go[0], 1)
                say(view.to_arrow()["n"].to_pylist() == list(range(250)))
                say(other["s"].earliest_offset)
                del view
                gc.collect()
                say("gone")
                os.read(come[0], 1)

        child = forked(work)
        assert child.pipe.readline() == b'"taken"\n'
        folder = path / "streams" / "s"
        assert stream.trim(300) == 300
        assert len(read_manifest(folder / "manifest").retired) == 3
        os.write(go[1], b"x")
        assert [child.pipe.readline().strip() for _ in range(3)] == [b"true", b"300", b'"gone"']
        assert stream.trim(300) == 300
        assert read_manifest(folder / "manifest").retired == ()
        assert not list(folder.glob("*.arrow"))
        os.write(come[1], b"x")
        finish(child)
    for end in (*go, *come):
        os.close(end)


def test_the_pin_of_a_dead_process_holds_nothing(tmp_path):
    """A view whose process was killed does not keep files, nor does one killed while pinning."""
    path = make(tmp_path / "lab")

    def work(say, dies_inside):
        if dies_inside:
            disk.write = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        with sl.open(path) as other:
            view = other["s"].as_of(3)
            os.kill(os.getpid(), signal.SIGKILL)
            say(len(view))

    for dies_inside in (False, True):
        child = forked(lambda say, inside=dies_inside: work(say, inside))
        assert finish(child) == ([], -signal.SIGKILL)
    with sl.open(path) as lab:
        lab["s"].trim(3)
        assert read_manifest(path / "streams" / "s" / "manifest").retired == ()


def test_a_view_that_is_taken_during_a_trim_reads_or_is_refused_at_once(tmp_path):
    """Between looking and pinning a trim may come: then the view is of what is left."""
    path = make(tmp_path / "lab")
    with sl.open(path) as lab, sl.open(path, read_only=False) as other:
        stream = lab["s"]
        stream.append(numbers(3, 3))
        reader = stream._scan.log.reader
        real = reader.pin

        def pin_late(start, stop, **options):
            with contextlib.suppress(sl.StreamlabError):
                other["s"].trim(6)
            return real(start, stop, **options)

        reader.pin = pin_late
        try:
            assert stream.to_arrow().num_rows in (0, 6)
        finally:
            reader.pin = real


def appenders(stream, threads, each):
    """Append from several threads at once; return the offsets each got."""
    got = [[] for _ in range(threads)]

    def work(number):
        for turn in range(each):
            got[number].append((stream.append({"n": [number * 1000 + turn]}).start, turn))

    running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return got


def test_threads_that_append_together_share_syncs(tmp_path, monkeypatch):
    """Appends of many threads are all there, each in its thread's order, on fewer syncs."""
    path = make(tmp_path / "lab", rows=0)
    syncs, real = [], disk.sync

    def slow_sync(fd):
        syncs.append(fd)
        threading.Event().wait(0.002)
        real(fd)

    monkeypatch.setattr(disk, "sync", slow_sync)
    with sl.open(path) as lab:
        stream = lab["s"]
        got = appenders(stream, 8, scaled(25))
        rows = stream.to_arrow()["n"].to_pylist()
        assert len(rows) == stream.durable_offset == 8 * scaled(25)
        for number, places in enumerate(got):
            assert [rows[at] for at, _ in places] == [number * 1000 + turn for _, turn in places]
    print(f"{len(syncs)} syncs for {8 * scaled(25)} appends")
    assert len(syncs) < 8 * scaled(25) * 0.7


def test_control_syncs_that_are_not_shared_are_counted(tmp_path, monkeypatch):
    """The same count is one sync for each append when threads do not wait for each other."""
    path = make(tmp_path / "lab", rows=0)
    syncs, real, turn = [], disk.sync, threading.Lock()
    monkeypatch.setattr(disk, "sync", lambda fd: (syncs.append(fd), real(fd)))
    with sl.open(path) as lab:
        append = writer.LogWriter.append

        def alone(self, *args):
            with turn:
                return append(self, *args)

        monkeypatch.setattr(writer.LogWriter, "append", alone)
        appenders(lab["s"], 4, 20)
    assert len(syncs) >= 80


def test_closing_waits_for_a_seal_under_way(tmp_path, monkeypatch):
    """When `close` returns, no thread of ours touches the lab any more."""
    path = make(tmp_path / "lab")
    began, go_on, real = threading.Event(), threading.Event(), log.Maintenance._seal

    def slow(self, segment):
        began.set()
        assert go_on.wait(20)
        real(self, segment)

    monkeypatch.setattr(log.Maintenance, "_seal", slow)
    lab = sl.open(path)
    lab["s"].append(numbers(3, 600))
    lab["s"]._scan.log.writer.roll()
    assert began.wait(20)
    closing = threading.Thread(target=lab.close)
    closing.start()
    closing.join(0.05)
    assert closing.is_alive()
    go_on.set()
    closing.join(20)
    with sl.open(path) as lab:
        assert lab["s"].to_arrow()["n"].to_pylist() == list(range(603))
