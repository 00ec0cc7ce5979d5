"""A fork has the rows, places and times of what it was made of, and neither side can hurt the other."""

import datetime as dt
import json
import logging
import os

import polars as pl
import pyarrow as pa
import pytest
from faults import SCALE, finish, forked, scaled, seeded, warm_up, workload
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import FAR_PAST
from test_crash import HOWS, lives, sweep
from test_laws import LIMITS, Run, event, expected, frame, instant, rows_of, step
from test_powercut import cuts

import streamlab as sl
from streamlab import catalog as catalogs
from streamlab.log import disk
from streamlab.log import fork as forks
from streamlab.log.log import Log
from streamlab.log.manifest import read_manifest
from streamlab.testing import ManualClock, temp_lab

SMALL = sl.Settings(segment_bytes=4096, max_ahead=None)
START = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
SCHEMA = pa.schema([("ts", pa.timestamp("us", "UTC")), ("k", pa.string()), ("v", pa.int64())])


def ticks(first, count, minute=0):
    """So many rows, a second apart."""
    times = [START + dt.timedelta(minutes=minute, seconds=first + i) for i in range(count)]
    return {
        "ts": times,
        "k": [f"k{(first + i) % 3}" for i in range(count)],
        "v": range(first, first + count),
    }


def filled(lab, name="s", appends=30, **options):
    """A stream of many small appends, some of them sealed, with heartbeats between."""
    stream = lab.create(name, SCHEMA, time="ts", key="k", settings=SMALL, **options)
    for turn in range(appends):
        stream.append(ticks(10 * turn, 10))
        if turn % 4 == 0:
            stream.advance(START + dt.timedelta(seconds=10 * turn + 12))
        if turn == appends * 2 // 3:
            stream.seal()
    return stream


def files_of(stream):
    folder = stream._scan.log.folder
    return {p.name: p.stat().st_ino for p in folder.iterdir() if p.is_file()}


def met(stream):
    """The stream time that each row met, and its own."""
    log = stream._scan.log
    moment = log.reader.moment()
    return [
        (
            log.reader.stream_time_before(moment, offset, stream.time),
            log.reader.times_at(moment, offset, stream.time),
        )
        for offset in range(moment.start, moment.end)
    ]


def same(fork, stream, at):
    """Assert that a fork is the stream below an offset, in rows and in times."""
    view = stream.as_of(at)
    assert fork.to_arrow().equals(view.to_arrow())
    assert met(fork) == met(stream)[: at - stream.earliest_offset]
    assert (fork.earliest_offset, fork.end_offset) == (view.earliest_offset, at)


# -- the law -----------------------------------------------------------------------------------


class Pair:
    """A run, and a fork of it that goes its own way, each with its oracle."""

    def __init__(self, run, at):
        self.run = run
        self.other = object.__new__(Run)
        rows, whole = run.oracle.rows, at == run.oracle.end
        last = run.last if whole else rows[at - 1]["append_time"]
        self.other.__dict__.update(lab=run.lab, clock=run.clock, last=last)
        self.other.stream = run.stream.fork("fork", at)
        oracle = type(run.oracle)()
        oracle.rows, oracle.start = run.oracle.rows[:at], run.oracle.start
        oracle.stream_time = oracle.rows[-1]["S"] if oracle.rows else FAR_PAST
        if at == run.oracle.end:
            oracle.stream_time = run.oracle.stream_time
        self.other.oracle = oracle

    def agree(self):
        for run in (self.run, self.other):
            assert rows_of(run.stream.to_arrow()) == expected(run.oracle)
            for _, row in run.oracle.live()[::7]:
                assert run.stream.find(instant(row["S"])) == run.oracle.find(row["S"])
            known = run.stream.stats().stream_time
            want = run.oracle.stream_time
            assert known == (None if want == FAR_PAST else want)


@settings(LIMITS, max_examples=scaled(25))
@given(
    before=st.lists(step, max_size=12),
    place=st.floats(0, 1),
    after=st.lists(st.tuples(st.booleans(), step.filter(lambda s: s[0] != "reopen")), max_size=10),
)
def test_a_fork_is_the_stream_up_to_a_place_and_then_its_own(before, place, after):
    """Whatever was appended, sealed, advanced or trimmed, before and after, on either side."""
    clock = ManualClock("2026-01-01T12:00:00Z")
    with temp_lab(clock=clock) as lab:
        run = Run(lab, clock)
        for what, value in before:
            run.do(what, value)
        oracle = run.oracle
        at = oracle.end - int(place * (oracle.end - oracle.start))
        if at == oracle.start:
            at = oracle.end
        pair = Pair(run, at)
        pair.agree()
        assert met(pair.other.stream) == met(run.stream)[: at - oracle.start]
        for here, (what, value) in after:
            (run if here else pair.other).do(what, value)
        pair.agree()
        assert run.lab.verify().ok
        run.lab.drop("s")
        assert rows_of(pair.other.stream.to_arrow()) == expected(pair.other.oracle)
        pair.other.do("append", [{"ts": 1_767_225_600_000_000, "k": "a", "v": 1}])
        assert rows_of(pair.other.stream.to_arrow()) == expected(pair.other.oracle)
        run.lab.close()


@settings(LIMITS, max_examples=scaled(25))
@given(st.lists(event, min_size=1, max_size=40), st.integers(1, 40), st.integers(1, 9))
def test_the_next_append_to_a_fork_is_after_all_that_it_has(rows, at, size):
    """Its offset is the place of the fork, its append time is greater than any before."""
    clock = ManualClock("2026-01-01T12:00:00Z")
    with temp_lab(clock=clock) as lab:
        stream = lab.create("s", frame([]).schema, time="ts", key="k", partitions=3, settings=SMALL)
        for start in range(0, len(rows), size):
            stream.append(frame(rows[start : start + size]))
        clock.set("2026-01-01T11:00:00Z")
        at = min(at, len(rows))
        fork = stream.fork("f", at)
        assert fork.append(frame(rows[:2])).start == at
        times = fork.to_polars()["_append_time"]
        assert times.is_sorted()
        assert times[at] > times[at - 1]


# -- what is shared ----------------------------------------------------------------------------


def test_sealed_files_are_shared_and_nothing_is_sealed_for_it(lab):
    """A fork has the very files below the place; those at the edges are copied, none is touched."""
    stream = filled(lab)
    stream._scan.log.maintenance.seal()
    before = files_of(stream)
    fork = stream.fork("f", 295)
    assert {n: i for n, i in files_of(stream).items() if n in before} == before
    sealed = [
        s
        for s in read_manifest(stream._scan.log.folder / "manifest").segments
        if s.state == "sealed"
    ]
    shared = set(files_of(fork).values()) & set(before.values())
    assert len(sealed) > 3
    assert len(shared) == len([s for s in sealed if s.stop <= 295])
    assert not any(name.endswith(".log") for name, i in files_of(fork).items() if i in shared)
    same(fork, stream, 295)


def test_a_heartbeat_that_ends_a_sealed_file_is_part_of_it_only_at_the_end(lab):
    """A fork right after a row has its stream time; one at the end has the log's."""
    stream = filled(lab)
    stream.advance(START + dt.timedelta(hours=1))
    stream.seal()
    end = stream.end_offset
    here = stream.fork("here")
    stream.append(ticks(0, 1, minute=120))
    there = stream.fork("there", end)
    assert here.stats().stream_time == stream.as_of(end).stats().stream_time + 3_301_000_000
    assert there.stats().stream_time == stream.as_of(end).stats().stream_time
    same(here, stream, end)
    same(there, stream, end)
    assert lab.verify().ok


def test_without_hard_links_files_are_copied(lab, monkeypatch):
    """On a file system that has none a fork is as whole; any other error is not hidden."""
    stream = filled(lab)

    def refused(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(disk, "link", refused)
    fork = stream.fork("f", 200)
    assert not set(files_of(fork).values()) & set(files_of(stream).values())
    same(fork, stream, 200)

    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk, "link", broken)
    with pytest.raises(OSError, match="Input/output"):
        stream.fork("g", 200)
    assert "g" not in lab
    assert not list(lab.path.glob("streams/.new-*"))


def test_a_file_that_is_sealed_meanwhile_is_looked_up_again(lab, monkeypatch):
    """Sealing between the look and the copy changes nothing of the fork."""
    stream = filled(lab)
    stream._scan.log.writer.roll()
    real = forks.Cut.copy

    def late(self, segment, folder, number):
        stream.seal()
        return real(self, segment, folder, number)

    monkeypatch.setattr(forks.Cut, "copy", late)
    same(stream.fork("f", 299), stream, 299)
    assert lab.verify().ok


def test_an_empty_file_that_is_replaced_meanwhile_is_done_without(lab, monkeypatch):
    """A new schema begins a new file instead of one with nothing in it; the fork is as of before."""
    stream = filled(lab)
    stream.seal()
    real = forks.Cut.copy

    def late(self, segment, folder, number):
        if segment.base == 300 and "extra" not in stream.schema.names:
            stream.evolve(SCHEMA.append(pa.field("extra", pa.int32())))
            stream.append({**ticks(300, 2), "extra": [1, None]})
            stream._scan.log.reader._files.clear()
        return real(self, segment, folder, number)

    monkeypatch.setattr(forks.Cut, "copy", late)
    fork = stream.fork("f")
    assert "extra" in stream.schema.names
    assert fork.end_offset == 300
    assert fork.to_polars()["v"].to_list() == stream.as_of(300).to_polars()["v"].to_list()
    assert lab.verify().ok


# -- of what -----------------------------------------------------------------------------------


def test_forks_of_trimmed_and_empty_streams(lab):
    """What is gone stays gone, offsets go on, and a stream without rows forks into one."""
    stream = filled(lab)
    stream.trim(77)
    same(stream.fork("mid", 150), stream, 150)
    assert lab["mid"].earliest_offset == 77
    none = stream.fork("none", 77)
    assert (len(none), none.end_offset) == (0, 77)
    assert none.append(ticks(0, 3)) == range(77, 80)
    stream.trim(300)
    gone = stream.fork("gone")
    assert (len(gone), gone.end_offset) == (0, 300)
    assert gone.stats().stream_time == stream.stats().stream_time
    empty = lab.create("empty", SCHEMA, time="ts")
    empty.advance(START)
    assert empty.fork("e").stats() == empty.stats()
    assert lab["e"].append(ticks(0, 2)) == range(2)
    with pytest.raises(sl.OffsetOutOfRange):
        stream.fork("x", 299)
    assert lab.verify().ok


def test_forks_of_views(lab):
    """A view forks into a stream of its rows; one with other rows in between is refused by range."""
    stream = filled(lab)
    part = stream.offsets(33, 250).fork("part")
    assert part.to_arrow().equals(stream.offsets(33, 250).to_arrow())
    assert part.append(ticks(0, 1)) == range(250, 251)
    later = stream.between(START + dt.timedelta(seconds=50), None)
    assert later.fork("later").to_arrow().equals(later.to_arrow())
    again = part.fork("again", 100)
    assert again.to_arrow().equals(stream.offsets(33, 100).to_arrow())
    stream.append(ticks(0, 5))
    with pytest.raises(
        sl.StreamlabError, match=r"lie 290 of other times\nHint: stream.offsets\(0, 305\)"
    ):
        stream.between(START, START + dt.timedelta(seconds=10)).fork("broken")
    assert "broken" not in lab
    assert lab.verify().ok


def test_a_fork_at_an_instant_is_as_of_it(timed_lab, clock):
    """The rows with an append time at or before the instant; one that is not past is refused."""
    stream = timed_lab.create("s", {"v": [1, 2]})
    clock.advance("1m")
    stream.append({"v": [3]})
    clock.advance("1m")
    assert stream.fork("f", "2026-01-01T12:00:30Z").to_polars()["v"].to_list() == [1, 2]
    assert timed_lab.as_of("2026-01-01T12:00:30Z")["s"].fork("g").end_offset == 2
    with pytest.raises(sl.InvalidTime, match="not past"):
        stream.fork("h", "2026-01-01T13:00:00Z")
    assert list(timed_lab.as_of("2026-01-01T12:01:30Z")) == ["s"]


def test_a_fork_keeps_schemas_deletions_partitions_and_settings(lab):
    """Everything that a stream is, but for its name and identity."""
    stream = filled(lab, partitions=4, delay="3s", retention=("9d", "1GB"))
    stream.delete("k1")
    stream.evolve(SCHEMA.append(pa.field("extra", pa.int32())))
    stream.append({**ticks(300, 2), "extra": [1, None]})
    fork = stream.fork("f")
    for what in "schema time key partitions delay retention cleanup settings".split():
        assert getattr(fork, what) == getattr(stream, what), what
    same(fork, stream, stream.end_offset)
    assert fork.to_polars()["_deleted"].sum() == 1
    early = stream.fork("early", 100)
    assert early.schema == stream.schema
    assert early.append({**ticks(300, 1), "extra": [7]}) == range(100, 101)
    lab.close()
    with sl.open(lab.path) as again:
        assert again["f"].to_arrow().equals(again["s"].to_arrow())
        assert again.verify().ok


def test_a_fork_of_results_is_an_ordinary_stream(lab):
    """It takes rows, its job goes on with the old one, and no note leads back to the job."""
    stream = filled(lab)
    query = stream.window(sl.tumbling("10s"), by="k").agg(n=pl.len())
    job = query.run("out", name="counts").wait(timeout=60)
    out = lab["out"]
    out._scan.log.writer.roll()
    out._scan.log.seal()
    fork = out.fork("f")
    assert fork.to_arrow().equals(out.to_arrow())
    assert out._scan.log.writer.last_note()
    assert not fork._scan.log.writer.last_note()
    fork.append(fork.head(1))
    with pytest.raises(sl.ReadOnly, match="counts"):
        out.append(fork.head(1))
    with pytest.raises(sl.StreamExists, match="not the result of job"):
        query.run("f", name="more")
    before = len(out)
    stream.append(ticks(900, 3))
    job.wait(timeout=60)
    assert len(out) > before
    job.stop()


def test_old_results_of_a_job_are_kept_as_a_fork(lab):
    """A query that is run anew leaves what it gave before as it was: offsets and times included."""
    stream = filled(lab)
    first = stream.window(sl.tumbling("10s"), by="k").agg(n=pl.len())
    first.run("out", name="counts").wait(timeout=60).stop()
    was = lab["out"].to_arrow()
    second = stream.window(sl.tumbling("20s"), by="k").agg(n=pl.len())
    second.run("out", name="counts", restart=True).wait(timeout=60).stop()
    assert lab["out.generation-1"].to_arrow().equals(was)


def test_pins_and_holds_stay_behind(lab):
    """What keeps rows of a stream keeps nothing of its fork."""
    stream = filled(lab)
    view = stream.as_of(100)
    stream._scan.log.hold("mine", 0)
    fork = stream.fork("f")
    assert fork._scan.log.holds() == {}
    fork.trim(300)
    assert not [n for n in files_of(fork) if n.endswith(".arrow")]
    assert len(view) == 100
    assert view.to_arrow().num_rows == 100


def test_what_cannot_be_forked_is_refused_and_leaves_nothing(lab):
    """Names that are taken or none, closed and read-only labs, places that are not there."""
    stream = filled(lab, appends=3)
    with pytest.raises(sl.StreamExists):
        stream.fork("s")
    with pytest.raises(sl.InvalidName):
        stream.fork("../x")
    for at in (31, -1):
        with pytest.raises(sl.OffsetOutOfRange):
            stream.fork("x", at)
    with sl.open(lab.path, read_only=True) as reading, pytest.raises(sl.ReadOnly):
        reading["s"].fork("x")
    with pytest.raises(sl.ReadOnly):
        lab.as_of(lab.freeze()).create("x", SCHEMA)
    assert sorted(p.name for p in lab.path.glob("streams/*")) == ["s"]
    assert sorted(p.name for p in lab.path.glob("streams/.*")) == []


# -- what if -----------------------------------------------------------------------------------


def test_a_query_over_a_stream_and_its_fork_differs_only_after_the_place(lab):
    """What-if: the same windows, until the fork is given other rows."""
    stream = lab.create("s", SCHEMA, time="ts", key="k", settings=SMALL)
    for turn in range(30):
        stream.append(ticks(10 * turn, 10))
    fork = stream.fork("whatif", 150)
    q = lambda s: s.window(sl.tumbling("10s"), by="k").agg(total=pl.col("v").sum())  # noqa: E731
    assert q(stream.as_of(150)).compare(q(fork)).is_empty()
    fork.append({**ticks(150, 150), "v": [v + (v > 220) for v in range(150, 300)]})
    fork.advance(START + dt.timedelta(seconds=500))
    stream.advance(START + dt.timedelta(seconds=500))
    difference = q(stream).compare(q(fork))
    assert difference.height
    assert difference["window_start"].min() == START + dt.timedelta(seconds=220)


# -- other processes, crashes ------------------------------------------------------------------


def test_a_fork_made_while_another_process_appends_is_a_prefix(tmp_path):
    """A writer elsewhere rolls, seals and trims; every fork made meanwhile has whole appends."""
    warm_up(tmp_path)
    schema = pa.schema([("n", pa.int64())])
    with sl.open(tmp_path / "lab", sync="os") as lab:
        lab.create("s", schema, settings=sl.Settings(segment_bytes=4096))

    def work(say):
        with sl.open(tmp_path / "lab", sync="os") as mine:
            stream, done = mine["s"], 0
            for turn in range(scaled(600)):
                stream.append({"n": range(done, done + 7)})
                done += 7
                if turn % 10 == 0:
                    stream.seal()
                    say(done)
                if turn % 90 == 0:
                    stream.trim(max(0, done - 2000))

    child = forked(work)
    with sl.open(tmp_path / "lab", sync="os") as lab:
        for number in range(scaled(25)):
            if not child.pipe.readline():
                break
            fork = lab["s"].fork(f"f{number}")
            rows = fork.to_arrow()
            assert rows["n"].to_pylist() == list(range(fork.earliest_offset, fork.end_offset))
            assert fork.end_offset % 7 == 0
        finish(child)
        assert lab.verify().ok


def forking(seed, syncs):
    """Operations with forks among them, at places old and new; the forks are appended to as well."""
    rng, ops, token = seeded("fork", seed), [], 50_000
    names = {"a": 0}
    for op in workload(rng, 16, syncs, names=["a"], drops=False):
        ops.append(op)
    from faults import after

    world = {}
    for op in ops:
        world = after(world, op)
    for number in range(3):
        source = rng.choice(sorted(names))
        kept = world[source]
        if len(kept.rows) == kept.start:
            extra = ("append", source, token, 30)
            token += 30
            ops.append(extra)
            world = after(world, extra)
            kept = world[source]
        at = rng.choice([len(kept.rows), rng.randrange(kept.start, len(kept.rows)) + 1])
        name = f"f{number}"
        names[name] = 0
        more = [
            ("fork", source, name, at),
            ("append", name, token, 5),
            ("trim", source, kept.start),
        ]
        more += [("seal", name), ("drop", source)] if number == 2 else [("reopen", name)]
        token += 5
        for op in more:
            ops.append(op)
            world = after(world, op)
        if number == 2:
            del names[source]
    return ops


def test_a_kill_inside_any_disk_call_of_a_fork_leaves_all_or_nothing(tmp_path):
    """Killed before, inside or after any disk call, each side is whole, or the fork is not there."""
    warm_up(tmp_path)
    died = 0
    for seed in range(scaled(2)):
        ops = forking(seed, ("always", "50ms", "os"))
        wrong, killed = sweep(tmp_path, str(seed), ops, step=2 if SCALE <= 1 else 1)
        assert not wrong, wrong[:3]
        died += killed
    print(f"{died} kills")
    assert died > 100 * min(SCALE, 1)


def in_its_place(monkeypatch):
    """A stream's files are made where they are to be, not beside."""

    def add(self, info, fill=None):
        folder = self.folder / info.name
        disk.make_dir(folder)
        disk.replace_file(folder / "stream.json", catalogs.dump_json(catalogs._content(info)))
        (fill or (lambda path: Log.create(path, info.id, info.stored(1), 1)))(folder)

    monkeypatch.setattr(catalogs.Catalog, "add", add)


def moved(monkeypatch):
    """Files are taken away from the stream instead of being shared."""
    monkeypatch.setattr(disk, "link", lambda source, target: disk.rename(source, target))


@pytest.mark.parametrize("fault", [in_its_place, moved])
def test_control_a_faulty_fork_is_found_out(tmp_path, monkeypatch, fault):
    """The same harness counts violations when a fork is made in the wrong way."""
    warm_up(tmp_path)
    ops = forking(0, ("always",))
    fault(monkeypatch)
    violations = 0
    for at in range(10, 400, 7):
        deaths = [(at, HOWS[at % 3]), (10_000, "before")]
        wrong, _, done = lives(tmp_path / str(at), ops, deaths)
        violations += bool(wrong) or not done
        if violations == 3:
            break
    print(f"control {fault.__name__}: {violations} violations")
    assert violations


@pytest.fixture
def quiet(caplog):
    """What recovery logs about cut tails is not of interest here."""
    caplog.set_level(logging.CRITICAL, logger="streamlab")


@pytest.mark.parametrize("policy", ["always", "os"])
def test_a_power_cut_leaves_a_fork_whole_or_none(tmp_path, monkeypatch, policy, quiet):
    """Cut at any moment: what a fork was promised is there, under either name."""
    total, broken = 0, []
    for seed in range(2):
        rng = seeded("cut fork", policy, seed)
        ops = forking(seed, [policy])
        count, wrong = cuts(tmp_path / str(seed), ops, monkeypatch, rng, 150 * SCALE)
        total += count
        broken += wrong
    print(f"{policy}: {total} states, {len(broken)} broken")
    assert not broken, "\n".join(broken[:5])


def test_control_a_fork_that_is_not_synced_is_found_out(tmp_path, monkeypatch, quiet):
    """The same harness counts broken promises when the copied rows are left to the system."""
    from streamlab.log import segment

    monkeypatch.setattr(
        segment.SegmentWriter, "sync", lambda self: setattr(self, "synced", self.mark.position)
    )
    rng = seeded("cut control")
    total, wrong = cuts(tmp_path / "lab", forking(1, ["always"]), monkeypatch, rng, 150)
    print(f"control: {len(wrong)} of {total} states broken")
    assert wrong


# -- typed -------------------------------------------------------------------------------------


def test_json_and_table_of_the_verb(lab, capsys):
    """``streamlab fork`` says what it made; a place may be an offset or an instant."""
    from streamlab.cli import main

    filled(lab)
    assert main(["fork", str(lab.path), "s", "one", "--at", "120"]) == 0
    assert "one" in capsys.readouterr().out
    assert main(["fork", str(lab.path), "s", "two", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "stream": "two", "of": "s", "earliest_offset": 0, "end_offset": 300,
    }  # fmt: skip
    assert lab["one"].end_offset == 120
    assert main(["fork", str(lab.path), "s", "three", "--at", "2020-01-01"]) == 0
    assert lab["three"].end_offset == 0
    assert os.path.isdir(lab.path / "streams" / "three")
    assert main(["fork", str(lab.path), "s", "one"]) == 1
    assert "already" in capsys.readouterr().err
