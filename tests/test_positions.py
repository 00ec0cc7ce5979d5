"""Notes, stream time beside rows, frames of several runs, holds: what a derived stream rests on.

The oracle is plain Python: a list of what was written, row by row, heartbeat by heartbeat.
"""

import random
import re
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import streamlab as sl
from streamlab.clock import FOREVER, NEVER
from streamlab.errors import CorruptSegment, InvalidName, OffsetOutOfRange, ReadOnly
from streamlab.log import Log, Policy, Rows, disk
from streamlab.log import format as fmt
from streamlab.log.format import Kind
from streamlab.log.manifest import read_manifest
from streamlab.log.segment import SegmentFile
from streamlab.testing import ManualClock
from streamlab.verify import FrameFile

SCHEMA = pa.schema([("ts", pa.timestamp("us", "UTC")), ("n", pa.int64())])
PAGE = (Path(__file__).parent.parent / "docs" / "format.md").read_text()


def runs_of(*pairs):
    """Relative runs from (base, before)."""
    runs = np.zeros(len(pairs), fmt.RELATIVE_RUN)
    for at, (base, before) in enumerate(pairs):
        runs["base"][at], runs["before"][at] = base, before
    return runs


def rows_of(times, runs=None, first=0):
    batch = pa.record_batch(
        [pa.array(times, SCHEMA.field("ts").type), pa.array(range(first, first + len(times)))],
        schema=SCHEMA,
    )
    return Rows(batch, 1, (min(times), max(times)), runs)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "s"
    path.mkdir()
    Log.create(path, "id", SCHEMA, 1)
    return path


@pytest.fixture
def opened(folder, monkeypatch):
    """A function that opens the log, as another process would; nothing is sealed unasked."""
    monkeypatch.setattr(Log, "_rolled", lambda self: None)
    logs = []

    def opens(**options):
        retention = options.pop("retention", (None, None))
        clock = options.pop("clock", ManualClock())
        policy = Policy(**({"sync": "always"} | options))
        log = Log(folder, "id", policy, clock, lambda _: SCHEMA, retention=retention)
        logs.append(log)
        return log

    yield opens
    for log in logs:
        log.close()


def kinds(path):
    return [Kind(frame.kind).name for frame in FrameFile(path).frames]


def growing(folder):
    return folder / read_manifest(folder / "manifest").active.file


def notes(log):
    """The last note, as its writer and a reader without a lock know it."""
    found = {log.writer.last_note(), log.reader.last_note()}
    assert len(found) == 1, found
    return found.pop()


def read_rows(log):
    moment = log.reader.moment()
    chunks = list(log.reader.chunks(moment, moment.start, moment.end))
    return [n for chunk in chunks for n in chunk.batch.column("n").to_pylist()]


# -- bytes ---------------------------------------------------------------------------------------


def test_the_page_describes_the_runs_of_a_frame():
    """docs/format.md and the dtype agree on a run in the metadata of a frame."""
    section = PAGE[PAGE.index("| at | size | run |") :].split("\n\n")[0]
    found = re.findall(r"^\| *(\d+) *\| *(\d+) *\| *([a-z]+) *\|", section, re.MULTILINE)
    kind = fmt.RELATIVE_RUN
    assert found == [
        (str(kind.fields[name][1]), str(kind.fields[name][0].itemsize), name) for name in kind.names
    ]


@pytest.mark.parametrize("note", [b"", b"x", bytes(range(256))])
@pytest.mark.parametrize("pairs", [(), ((0, 5),), ((1, 5), (3, 9))])
def test_metadata_comes_back(note, pairs):
    """A note and runs are read as they were written, and nothing takes no byte."""
    data = fmt.dump_extra(note, runs_of(*pairs))
    got, runs = fmt.load_extra(memoryview(data))
    assert got == note and runs.tolist() == runs_of(*pairs).tolist()
    assert bool(data) == bool(note or pairs)


def test_what_has_no_note_is_written_as_ever(opened, folder):
    """Appends and heartbeats without anything new have no metadata."""
    log = opened()
    log.writer.append(rows_of([5, 3]))
    log.writer.append(rows_of([6], runs_of((0, 5))))  # what it would be anyway
    log.writer.heartbeat(9)
    frames = FrameFile(growing(folder)).frames
    assert [f.metadata_size for f in frames] == [0] * len(frames)
    assert kinds(growing(folder)) == ["SCHEMA", "ROWS", "ROWS", "HEARTBEAT"]
    assert notes(log) == b""


# -- notes ---------------------------------------------------------------------------------------


def test_a_note_goes_with_the_rows(opened):
    """What is appended with a note is there with it, and stream time moves as it is told."""
    log = opened()
    assert log.writer.append(rows_of([5, 3]), note=b"one", stream_time=8) == range(2)
    assert notes(log) == b"one"
    assert log.reader.moment().stream_time == 8
    log.writer.append(rows_of([7]), stream_time=1)
    assert notes(log) == b"one"
    assert log.reader.moment().stream_time == 8
    assert log.reader.times_at(log.reader.moment(), 2, "ts")[0] == 8


def test_a_note_needs_no_rows(opened, folder):
    """A note alone changes neither rows nor stream time, unless it is to move it."""
    log = opened()
    log.writer.append(rows_of([5]))
    before = log.reader.moment()
    log.writer.note(b"alone")
    after = log.reader.moment()
    assert notes(log) == b"alone"
    assert (after.end, after.stream_time) == (before.end, before.stream_time)
    log.writer.note(b"on", stream_time=9)
    assert log.reader.moment().stream_time == 9
    log.writer.note(b"back", stream_time=2)
    assert log.reader.moment().stream_time == 9
    file = SegmentFile(growing(folder), read_manifest(folder / "manifest").active.id)
    assert file.note_until(FOREVER) == b"back"
    assert [int(b) for b in file.runs["base"]] == [0, 1]  # the rows, and the one that moved on


def test_a_stream_that_was_ended_takes_notes(opened):
    """After the end of time there are no more rows, and what the job says last is kept."""
    log = opened()
    log.writer.append(rows_of([5]), stream_time=FOREVER, note=b"a")
    log.writer.note(b"b")
    with pytest.raises(ReadOnly):
        log.writer.append(rows_of([6]))
    assert notes(log) == b"b"


def test_a_stream_time_without_rows_wakes_a_reader(opened):
    """A note is published: who waits for news has it."""
    log, other = opened(), opened()
    serial = other.reader.head.serial()
    log.writer.note(b"x")
    assert other.wait(serial, 1.0)
    assert other.reader.last_note() == b"x"


def test_a_nap_ends_with_a_publication(opened):
    """Whoever naps is woken by an append of this process, or by hand, and by time at the latest."""
    log = opened()
    log.nap(0.001)
    for wake in (lambda: log.writer.append(rows_of([1])), log.wake):
        done = threading.Event()

        def napping(done=done):
            log.nap(60)
            done.set()

        thread = threading.Thread(target=napping)
        thread.start()
        while not done.is_set():  # the nap may not have begun at the first time
            wake()
            done.wait(0.005)
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("rows", [1, 5000], ids=["coalesced", "in place"])
def test_every_file_begins_with_the_note(opened, folder, rows):
    """Rolled, sealed either way and opened again, the note is there, first in the growing file."""
    log = opened()
    for n in range(3):
        log.writer.append(rows_of(range(n * rows, n * rows + rows)), note=b"n%d" % n)
    log.writer.roll()
    assert kinds(growing(folder)) == ["SCHEMA", "POSITION"]
    assert notes(log) == b"n2"
    assert log.maintenance.seal() == 1
    sealed = read_manifest(folder / "manifest").segments[0]
    assert log.reader.file(sealed).last_note == b"n2"
    log.writer.roll()  # nothing was written since: nothing to roll
    assert len(read_manifest(folder / "manifest").segments) == 2
    log.close()
    again = opened()
    assert again.reader.last_note() == b"n2"
    assert notes(again) == b"n2"
    assert again.writer.append(rows_of([9])).start == 3 * rows
    assert notes(again) == b"n2"


def test_the_note_survives_the_rows(opened, folder):
    """Trimmed to nothing, the stream has its next offset, its stream time and its note."""
    log = opened()
    log.writer.append(rows_of([5, 6]), note=b"kept", stream_time=9)
    assert log.trim(2) == 2
    assert [path.name for path in folder.glob("0*")] == [growing(folder).name]
    log.close()
    again = opened()
    assert notes(again) == b"kept"
    moment = again.reader.moment()
    assert (moment.start, moment.end, moment.stream_time) == (2, 2, 9)


def test_a_full_file_of_notes_is_replaced(opened, folder):
    """Notes alone fill a file too: it is begun anew with the last one, and no rows are made up."""
    log = opened(segment_bytes=2048)
    for n in range(50):
        log.writer.note(b"note %d" % n)
    assert notes(log) == b"note 49"
    assert len(list(folder.glob("0*"))) == 1
    assert growing(folder).stat().st_size < 4096
    assert log.reader.moment().end == 0


@pytest.mark.parametrize("policy", ["always", "os"])
def test_big_appends_carry_the_note_in_the_last_frame(opened, folder, policy):
    """The note of a big append is with its last rows, each file has the one before, and it lasts."""
    log = opened(segment_bytes=2048, sync=policy)
    log.writer.append(rows_of([0]), note=b"old")
    pieces = (rows_of(range(n * 100, n * 100 + 100)) for n in range(6))
    assert log.writer.append_many(pieces, note=b"new", stream_time=10_000) == range(1, 601)
    manifest = read_manifest(folder / "manifest")
    sealed = [s for s in manifest.segments[:-1] if s.base > 0]
    assert len(sealed) > 1
    found = [log.reader.file(segment).last_note for segment in sealed]
    assert found == [b"old"] * (len(sealed) - 1) + [b"new"]
    assert notes(log) == b"new"
    assert log.reader.moment().stream_time == 10_000
    assert log.reader.times_at(log.reader.moment(), 600, "ts")[0] == 599
    with pytest.raises(ValueError, match="needs a row"):
        log.writer.append_many(iter(()), note=b"lost")
    log.writer.append_many(iter([rows_of([1])]))
    log.close()
    assert notes(opened()) == b"new"


def test_a_torn_frame_takes_its_note_with_it(opened, folder):
    """Cut anywhere in its last frame, the stream has the note before it, on another boot."""
    log = opened(sync="os")
    log.writer.append(rows_of([1]), note=b"first")
    stop = growing(folder).stat().st_size
    log.writer.append(rows_of([2]), note=b"second", stream_time=7)
    whole = growing(folder).read_bytes()
    head = (folder / "head").read_bytes()
    log.close()
    for cut in (stop + 1, stop + 128, len(whole) - 1):
        growing(folder).write_bytes(whole[:cut])
        (folder / "head").write_bytes(bytes(len(head)))  # not to be trusted
        found = opened(sync="os")
        assert found.reader.last_note() == b"first"
        assert notes(found) == b"first"
        assert found.reader.moment().stream_time == 1
        found.close()


def test_a_published_note_is_not_cut_off(opened, folder):
    """While the boot lasts, damage to a note that was published is damage, not a torn write."""
    log = opened(sync="os")
    log.writer.append(rows_of([1]))
    log.writer.note(b"precious")
    path = growing(folder)
    data = bytearray(path.read_bytes())
    data[-64] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptSegment):
        opened(sync="os").writer.last_note()


def test_a_lost_growing_file_and_manifest_leave_the_note_of_the_sealed_one(opened, folder):
    """Put together from a sealed file alone, the stream goes on with that file's last note."""
    log = opened()
    log.writer.append(rows_of([1, 2]), note=b"sealed")
    log.writer.roll()
    log.maintenance.seal()
    log.close()
    growing(folder).unlink()
    (folder / "manifest").unlink()
    (folder / "head").unlink()
    again = opened()
    assert again.writer.append(rows_of([3])) == range(2, 3)
    assert notes(again) == b"sealed"
    assert read_rows(again) == [0, 1, 0]


def test_an_unpublished_note_is_not_read(opened, folder):
    """What was written and not yet synced and published says nothing to readers."""
    log = opened()
    log.writer.note(b"said")
    with log.writer.held() as file:
        file.note(b"not yet", log.writer.append_time())
        assert opened().reader.last_note() == b"said"
        assert log.reader.last_note() == b"said"
    assert growing(folder).read_bytes().count(b"not yet") == 1


# -- runs ----------------------------------------------------------------------------------------


class Written:
    """Writes random frames to a log and to a list: the stream time that each row meets."""

    def __init__(self, log, seed):
        self.log, self.rng = log, random.Random(seed)
        self.met, self.after, self.times = [], [], []  # stream time before and after each row
        self.now = NEVER

    def rows(self, count):
        """Rows with, now and then, more stream time before one of them."""
        times, pairs = [], []
        for at in range(count):
            if self.rng.random() < 0.3:
                self.now = max(self.now, 0) + self.rng.randrange(50)
                pairs.append((at, self.now))
            time = max(self.now, 0) + self.rng.randrange(-40, 10)
            self.met.append(self.now)
            self.now = max(self.now, time)
            self.after.append(self.now)
            times.append(time)
        self.times += times
        return rows_of(times, runs_of(*pairs) if pairs else None, len(self.times) - count)

    def push(self):
        if self.rng.random() < 0.5:
            return None
        self.now = max(self.now, 0) + self.rng.randrange(20)
        return self.now

    def step(self):
        writer, what = self.log.writer, self.rng.random()
        if what < 0.1:
            self.now = max(self.now, 0) + self.rng.randrange(20)
            writer.heartbeat(self.now)
        elif what < 0.2:
            writer.note(b"n", stream_time=self.push())
        elif what < 0.25:
            writer.roll()
        elif what < 0.3:
            self.log.maintenance.seal()
        elif what < 0.35:
            pieces = [self.rows(self.rng.randrange(1, 9)) for _ in range(3)]
            writer.append_many(iter(pieces), note=b"m", stream_time=self.push())
        else:
            rows = self.rows(self.rng.randrange(1, 12))
            writer.append(rows, note=b"r" * self.rng.randrange(3), stream_time=self.push())


def check(log, written):
    """Compare stream times, at each place and sought, with the list."""
    reader = log.reader
    moment = reader.moment()
    assert moment.end == len(written.met)
    assert moment.stream_time == written.now
    for offset, (met, after) in enumerate(zip(written.met, written.after, strict=True)):
        assert reader.stream_time_before(moment, offset, "ts") == met, offset
        assert reader.times_at(moment, offset, "ts")[0] == after, offset
        first = next(i for i, s in enumerate(written.after) if s >= after)
        assert reader.find_event(moment, after, "ts") == first
    assert reader.stream_time_before(moment, moment.end, "ts") == written.now
    for chunk in reader.chunks(moment, 0, moment.end):
        runs = chunk.runs
        assert runs["base"][0] == chunk.base
        for run in runs[1:]:
            if chunk.base < run["base"] < chunk.base + chunk.batch.num_rows:
                assert written.after[run["base"] - 1] <= run["before"] <= written.met[run["base"]]
    assert read_rows(log) == list(range(moment.end))


@pytest.mark.parametrize("seed", range(12))
def test_stream_times_are_those_of_a_plain_list(opened, seed):
    """With runs, heartbeats, notes, rolls and seals, each row meets the stream time it should."""
    log = opened(segment_bytes=4096, sync="os")
    written = Written(log, seed)
    for _ in range(40):
        written.step()
    check(log, written)
    log.seal()
    check(log, written)
    log.close()
    check(opened(), written)


def test_a_lab_with_notes_and_runs_verifies_and_is_salvaged(tmp_path):
    """Nothing of it is taken for damage, and what is saved meets the same stream times."""
    with sl.open(tmp_path / "lab") as lab:
        stream = lab.create("s", SCHEMA, time="ts")
        log = stream._scan.log
        written = Written(log, 3)
        for _ in range(30):
            written.step()
        log.writer.append(written.rows(3), note=b"x", stream_time=written.now + 100)
        written.now += 100
        assert lab.verify().ok
        stream.seal()
        assert lab.verify().ok
    report = sl.salvage(tmp_path / "lab", tmp_path / "saved", progress=False)
    assert not report.gaps
    with sl.open(tmp_path / "saved") as lab:
        reader = lab["s"]._scan.log.reader
        moment = reader.moment()
        assert moment.stream_time == written.now
        met = [reader.stream_time_before(moment, n, "ts") for n in range(moment.end)]
        assert met[1:] == written.met[1:]
        assert lab.verify().ok


def test_without_a_time_column_each_row_meets_the_append_time(opened):
    """Append time is event time: the rows of one frame share it, and a push counts after them."""
    log = opened()
    batch = rows_of([0, 0, 0]).batch
    log.writer.append(Rows(batch, 1, None, runs_of((1, 5))))
    moment = log.reader.moment()
    time = moment.append_time
    assert [log.reader.stream_time_before(moment, n, None) for n in range(4)] == [NEVER] + [
        time
    ] * 3
    log.writer.append(Rows(batch, 1, None), stream_time=time + 10**9)
    moment = log.reader.moment()
    assert log.reader.times_at(moment, 3, None) == (moment.append_time,) * 2
    assert log.reader.stream_time_before(moment, 6, None) == time + 10**9


def test_runs_out_of_order_are_our_mistake(opened):
    """Runs that go back, or beyond the rows, are never written."""
    log = opened()
    for pairs in (((1, 5), (1, 6)), ((1, 5), (2, 4)), ((3, 5),), ((-1, 5),)):
        with pytest.raises(AssertionError):
            log.writer.append(rows_of([1, 2, 3], runs_of(*pairs)))
    assert log.reader.moment().end == 0


def test_an_append_time_needs_no_row(opened):
    """The append time below an offset comes from the tables; what is not there has none."""
    clock = ManualClock()
    log = opened(clock=clock)
    said = []
    for n in range(4):
        clock.advance("1s")
        log.writer.append(rows_of([n, n]))
        said += [log.reader.moment().append_time] * 2
    log.seal()
    found = [log.reader.append_time_below(n) for n in range(10)]
    assert found == [None, *said, None]
    log.trim(8)
    assert log.reader.append_time_below(8) is None
    with pytest.raises(OffsetOutOfRange):
        log.reader.stream_time_before(log.reader.moment(), 3, "ts")


# -- durability and holds ------------------------------------------------------------------------


def test_rows_of_another_process_are_made_durable(opened, folder, monkeypatch):
    """Who reads rows that nobody synced can sync them: each file that holds some, and no other."""
    log, other = opened(sync="os"), opened(sync="os")
    log.writer.append(rows_of([1]))
    log.writer.roll()
    log.writer.append(rows_of([2]))
    names, real = [], disk.sync_file
    monkeypatch.setattr(disk, "sync_file", lambda path: names.append(path.name) or real(path))
    first, second = (s.file for s in read_manifest(folder / "manifest").segments)
    other.make_durable(1)
    assert names == [first]
    other.make_durable(2)
    assert names == [first, first, second]
    other.make_durable(0)
    assert len(names) == 3


def test_rows_of_this_process_are_made_durable_by_its_writer(opened):
    """The process that writes syncs as ever, and says so in the head."""
    log = opened(sync="os")
    log.writer.append(rows_of([1]))
    assert log.reader.moment().durable == 0
    log.make_durable(1)
    assert log.reader.moment().durable == 1


def test_a_file_that_was_sealed_meanwhile_is_looked_up_again(opened):
    """Rows are found where they are now, and a file that is really gone is named."""
    log, other = opened(sync="os"), opened(sync="os")
    log.writer.append(rows_of([1]))
    stale = other.reader.moment()
    log.seal()
    looks = [stale]
    moment = other.reader.moment
    other.reader.moment = lambda: looks.pop() if looks else moment()
    other.make_durable(1)
    assert not looks


def test_a_hold_keeps_rows_from_age(opened, folder):
    """Retention by age stops at the lowest hold, also in another process, until it is released."""
    clock = ManualClock()
    log = opened(clock=clock, retention=(1_000_000, None))
    for n in range(4):
        log.writer.append(rows_of([n, n]))
        log.seal()
    log.hold("job-1", 3)
    log.hold("job_2.x", 8)
    log.hold("late.pin", 7)
    other = opened(clock=clock, retention=(1_000_000, None))
    assert other.holds() == {"job-1": 3, "job_2.x": 8, "late.pin": 7}
    clock.advance("1h")
    assert other.retain() == 2
    assert log.retain() == 2
    log.hold("job-1", 5)
    assert log.retain() == 4
    other.release("job-1")
    other.release("job-1")
    assert log.retain() == 6
    other.release("late.pin")
    assert log.retain() == 8
    assert log.holds() == {"job_2.x": 8}


def test_size_and_trim_overrule_a_hold(opened):
    """A limit of size, and who trims by hand, go over holds."""
    log = opened()
    for n in range(3):
        log.writer.append(rows_of([n]))
        log.seal()
    log.hold("job", 0)
    assert log.trim(1) == 1
    log.retention = (None, 1)
    assert log.retain() == 3


def test_a_hold_that_cannot_be_read_holds_everything(opened, folder):
    """Nothing is removed because a small file was damaged."""
    clock = ManualClock()
    log = opened(clock=clock, retention=(1_000_000, None))
    log.writer.append(rows_of([1]))
    log.seal()
    log.hold("job", 1)
    path = folder / "pins" / "hold-job"
    path.write_bytes(path.read_bytes()[:-3])
    clock.advance("1h")
    assert log.retain() == 0
    assert log.holds() == {"job": 0}


@pytest.mark.parametrize("name", ["", "a/b", "..\0", "ü", "a b", "x" * 201])
def test_a_hold_has_the_name_of_a_file(opened, name):
    """What could not be a file's name everywhere is refused."""
    log = opened()
    for attempt in (lambda: log.hold(name, 0), lambda: log.release(name)):
        with pytest.raises(InvalidName):
            attempt()
