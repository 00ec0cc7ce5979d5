"""Members are killed, stopped and forked, the power fails: every row at least once, no commit twice."""

import contextlib
import itertools
import json
import os
import random
import select
import signal
import threading

import pyarrow as pa
import pytest
from faults import CHANGES, SCALE, dying, finish, forked, scaled, seeded
from test_consumer import (
    SCHEMA,
    numbers,
    offsets_of,
    ownership_without_locks,
    positions_ahead_of_the_rows,
    stream_of,
)
from test_powercut import Disk, in_boot

import streamlab as sl
from streamlab.log import Log, disk
from streamlab.log import groups as group_files
from streamlab.log.format import dump_json

# -- many processes, killed at random ---------------------------------------------------------------


def member(path, diary, seed):
    """A process that polls, notes what it got, commits, and notes that too, until it is killed."""

    def work(say):
        rng = random.Random(seed)
        out = os.open(diary, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        consumer = sl.open(path)["s"].consumer("g")
        pending = False  # rows that were left uncommitted; without more rows these are committed
        while True:
            asked = now()
            rows = offsets_of(consumer.poll(rows=rng.randrange(1, 40), timeout=1.0))
            note(out, at=asked, rows=rows)
            pending = pending or bool(rows)
            if not pending or (rows and rng.random() < 0.2):
                continue
            pending = False
            before = {p: (c.place.offset, c.generation) for p, c in consumer._claims.items()}
            with contextlib.suppress(sl.Fenced):
                consumer.commit()
            done = {p: to for p, to in consumer.committed.items() if p in before}
            note(out, at=now(), commits=[(p, *before[p], to) for p, to in done.items()])
            say(len(rows))

    return forked(work)


def now():
    import time

    return time.monotonic_ns()


def note(out, **content):
    os.write(out, json.dumps(content).encode() + b"\n")


def massacre(path, kills, seed, *, members=3, patience=300):
    """Let members work while rows come, kill one after the other; return what each has noted."""
    rng, started, diaries = seeded("kill", seed), itertools.count(), path / "diaries"
    diaries.mkdir(parents=True)
    with sl.open(path / "lab", sync="os") as lab:
        stream = stream_of(lab, 4, settings=sl.Settings(segment_bytes=16_384))
        rows = itertools.count(0, 20)
        children = []

        def begin():
            number = next(started)
            children.append(member(path / "lab", diaries / str(number), f"{seed}-{number}"))

        def heard():
            """Wait until some member has committed."""
            ready, _, _ = select.select([c.pipe for c in children], [], [], 30)
            assert ready, "nobody goes on"
            for pipe in ready:
                os.read(pipe.fileno(), 4096)

        try:
            for _ in range(members):
                begin()
            for _ in range(kills):
                for _ in range(rng.randrange(1, 6)):
                    stream.append(numbers(next(rows), 20))
                    heard()
                end(children.pop(rng.randrange(len(children))))
                begin()
            for _ in range(patience):  # a faulty group never comes to an end
                if not lab.groups["g"].lag:
                    break
                select.select([c.pipe for c in children], [], [], 0.2)
                for child in children:
                    os.set_blocking(child.pipe.fileno(), False)
                    with contextlib.suppress(BlockingIOError):
                        os.read(child.pipe.fileno(), 65_536)
        finally:
            for child in children:
                end(child)
        partitions = stream.to_arrow().column("_partition").to_pylist()
    return partitions, [read(diary) for diary in sorted(diaries.iterdir())]


def end(child):
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    child.pipe.close()


def read(diary):
    """The notes of a process; the last one may be cut off."""
    lines = diary.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def broken_rules(partitions, diaries):
    """What must not be in the notes of a group's members, as text."""
    notes = sorted((n for diary in diaries for n in diary), key=lambda n: n["at"])
    seen = {offset for n in notes for offset in n.get("rows", ())}
    if missing := set(range(len(partitions))) - seen:
        yield f"{len(missing)} rows were never processed, such as {min(missing)}"
    done, generations = {}, {}
    for who, diary in enumerate(diaries):
        for n in diary:
            for p, start, generation, stop in n.get("commits", ()):
                done.setdefault(p, []).append((start, stop))
                if generations.setdefault((p, generation), who) != who:
                    yield f"generation {generation} of partition {p} was two members'"
    for p, ranges in done.items():
        ranges.sort()
        for (_, stop), (start, _) in itertools.pairwise(ranges):
            if start < stop:
                yield f"partition {p} was committed twice in [{start}, {stop})"
                break
    floors = {}
    for n in notes:
        again = [at for at in n.get("rows", ()) if at < floors.get(partitions[at], 0)]
        if again:
            yield f"rows {again} were given again after their commit"
        for p, _, _, stop in n.get("commits", ()):
            floors[p] = max(floors.get(p, 0), stop)
    if skipped := [at for at in missing if at < floors.get(partitions[at], 0)]:
        yield f"{len(skipped)} rows were committed and never processed, such as {skipped[0]}"


@pytest.mark.parametrize("seed", range(2))
def test_members_killed_at_random_lose_no_row_and_commit_none_twice(tmp_path, seed):
    """Dozens of kills while all poll and commit: the notes of the dead and the living agree."""
    kills = scaled(30)
    partitions, diaries = massacre(tmp_path, kills, seed)
    commits = sum("commits" in n for diary in diaries for n in diary)
    print(f"{kills} kills, {len(partitions)} rows, {commits} commits")
    assert not list(broken_rules(partitions, diaries))
    assert commits > kills


def no_fence(patch):
    """A partition is taken whoever owns it, and every commit is let through."""
    ownership_without_locks(patch)
    patch.setattr(group_files.Claim, "fits", lambda self, positions: True)


@pytest.mark.parametrize(
    ("fault", "rule"),
    [
        (no_fence, "was committed twice"),
        (positions_ahead_of_the_rows, "were committed and never processed"),
    ],
)
def test_control_a_faulty_group_breaks_the_rules(tmp_path, monkeypatch, fault, rule):
    """The notes show a group whose members are not kept apart, or that skips rows."""
    fault(monkeypatch)
    for again in range(3):  # where a kill falls is chance
        (tmp_path / str(again)).mkdir()
        notes = massacre(tmp_path / str(again), 6, f"control {again}", patience=10)
        found = [text for text in broken_rules(*notes) if rule in text]
        print(f"control {fault.__name__}: {len(found)} times, such as: {found[:1]}")
        if found:
            return
    raise AssertionError(f"nobody noticed {fault.__name__}")


# -- one member and its heir ------------------------------------------------------------------------


def holder(path, *, rows):
    """A process that polls so many rows, says so, and waits to be killed."""

    def work(say):
        consumer = sl.open(path)["s"].consumer("g")
        say(offsets_of(consumer.poll(rows=rows)))
        signal.pause()

    child = forked(work)
    assert json.loads(child.pipe.readline()) == [*range(rows)]
    return child


def test_a_killed_member_is_followed_while_others_wait(lab):
    """One that waits in a poll takes over when the owner is killed, and gets what that had in hand."""
    stream = stream_of(lab, 1)
    stream.append(numbers(0, 10))
    child = holder(lab.path, rows=4)
    with stream.consumer("g") as heir:
        assert heir.poll(timeout=0).num_rows == 0
        assert [m.pid for m in lab.groups["g"].members] == [child.pid, os.getpid()]
        killer = threading.Timer(0.05, end, [child])
        killer.start()
        assert offsets_of(heir.poll(timeout=30)) == [*range(10)]
        killer.join()
        assert [m.pid for m in lab.groups["g"].members] == [os.getpid()]


def test_a_stopped_member_keeps_what_it_has_until_it_ends(lab):
    """A process that is stopped owns its partitions still; ending it frees them."""
    stream = stream_of(lab, 1)
    stream.append(numbers(0, 10))
    child = holder(lab.path, rows=4)
    os.kill(child.pid, signal.SIGSTOP)
    with stream.consumer("g") as heir:
        assert heir.poll(timeout=0.3).num_rows == 0
        assert lab.groups["g"].to_polars()["pid"].to_list() == [child.pid]
        end(child)
        assert offsets_of(heir.poll(timeout=30)) == [*range(10)]


def test_a_forked_child_can_neither_poll_nor_commit(lab):
    """A child has no part in its parent's membership, and takes nothing from it when it ends."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 10))
    consumer = stream.consumer("g")
    consumer.poll(rows=4)

    def work(say):
        for use in (consumer.poll, consumer.commit, lambda: consumer.seek(0)):
            try:
                use()
            except sl.Fenced as error:
                say(error.message)
        consumer.close()

    said, code = finish(forked(work))
    assert code == 0
    assert len(said) == 3
    assert all(f"is process {os.getpid()}, which this one was forked from" in s for s in said)
    assert consumer.commit() == {0: 4, 1: 4}
    consumer.close()


def test_a_childs_life_does_not_keep_the_partitions_of_a_dead_parent(lab):
    """A member that forked and was killed is followed, though its child lives on."""
    stream = stream_of(lab, 1)
    stream.append(numbers(0, 3))

    def work(say):
        consumer = sl.open(lab.path)["s"].consumer("g")
        consumer.poll()
        grandchild = os.fork()
        if grandchild == 0:
            signal.pause()
        say(grandchild)
        signal.pause()

    child = forked(work)
    grandchild = json.loads(child.pipe.readline())
    os.kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    try:
        with stream.consumer("g") as heir:
            assert offsets_of(heir.poll(timeout=30)) == [0, 1, 2]
    finally:
        os.kill(grandchild, signal.SIGKILL)
        child.pipe.close()


# -- killed at every change of the disk -------------------------------------------------------------


def life(path, group, at, how):
    """A member that polls and commits three times and dies at its n-th change of the disk."""

    def work(say):
        lab = sl.open(path)
        dying(at, how)
        with lab["s"].consumer(group) as consumer:
            for _ in range(3):
                consumer.poll(rows=3, timeout=0)
                say(consumer.commit())

    said, code = finish(forked(work))
    return [int(next(iter(places.values()))) for places in said], code


def deaths(path, hows):
    """Kill a member at each change of the disk in turn; yield what is wrong afterwards."""
    with sl.open(path, sync="os") as lab:
        stream = stream_of(lab, 2)
        stream.append(numbers(0, 30))
        for how in hows:
            for at in itertools.count(1):
                group = f"{how}-{at}"
                said, code = life(path, group, at, how)
                for text in _heir(stream, group, said[-1] if said else 0):
                    yield f"{how} {at}: {text}"
                if code == 0:
                    assert at > 15
                    break


def _heir(stream, group, acknowledged):
    """Say what the next member of a group finds that it should not."""
    try:
        with stream.consumer(group) as heir:
            places = set(heir.position.values())
            if len(places) != 1 or min(places) not in (acknowledged, acknowledged + 3):
                yield f"goes on at {places} after a commit of {acknowledged}"
            if offsets_of(heir.poll(timeout=0)) != [*range(min(places), 30)]:
                yield "other rows than there are"
    except (sl.StreamlabError, OSError) as error:
        yield f"{type(error).__name__}: {error}"


def test_a_member_killed_at_any_change_of_the_disk_leaves_a_commit_whole(tmp_path):
    """All partitions are at the last commit that was acknowledged, or all at the one under way."""
    assert not list(deaths(tmp_path / "lab", ["before", "torn", "after"]))


def test_control_positions_written_in_place_are_found_out(tmp_path, monkeypatch):
    """The same deaths leave a broken file when positions are not replaced as a whole."""

    def replace_file(path, content, *, durable=True):
        with contextlib.suppress(FileNotFoundError):
            disk.unlink(path)
        fd = disk.create(path)
        disk.write(fd, [content], 0)
        os.close(fd)

    monkeypatch.setattr(disk, "replace_file", replace_file)
    monkeypatch.setattr("test_consumer_faults.itertools.count", lambda start=0: range(start, 17))
    found = list(deaths(tmp_path / "lab", ["torn"]))
    print(f"control in place: {len(found)} complaints, such as {found[:1]}")
    assert found


def test_a_full_disk_fails_the_commit_and_keeps_the_place(lab, monkeypatch):
    """A commit that the disk refuses changes nothing, and works when there is room again."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 10))
    with stream.consumer("g") as consumer:
        consumer.poll(rows=4)

        def full(*_):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(disk, "write", full)
            with pytest.raises(OSError, match="No space"):
                consumer.commit()
        assert lab.groups["g"].position == {"s": {0: 0, 1: 0}}
        assert offsets_of(consumer.poll(rows=2)) == [4, 5]
        assert consumer.commit() == {0: 6, 1: 6}
        assert lab.groups["g"].position == {"s": {0: 6, 1: 6}}


# -- the power fails --------------------------------------------------------------------------------


def recorded(root, monkeypatch, rng, sync):
    """Let a member work on a disk that remembers; return it, and what was promised when."""
    model, acks = Disk(root), [(0, None)]
    with monkeypatch.context() as patch:
        for name in CHANGES:
            real = {"sync": lambda fd: None, "sync_dir": lambda path: None}.get(name)
            patch.setattr(disk, name, model.record(name, real or getattr(disk, name)))
        with sl.open(root / "lab", sync=sync) as lab:
            stream = lab.create("s", SCHEMA, key="k", partitions=2)
            stream.append(numbers(0, 10))
            for turn in range(4):
                with stream.consumer("g") as consumer:
                    for _ in range(3):
                        stream.append(numbers(10 * turn, rng.randrange(1, 30)))
                        consumer.poll(rows=rng.randrange(1, 30), timeout=0)
                        places = consumer.commit()
                        acks.append((len(model.ops), places))
    return model, acks


def cuts(root, monkeypatch, rng, sync, states):
    """Cut the power so many times while a member works; return how often, and what was broken."""
    root.mkdir()
    boots, count, wrong, at = itertools.count(1), 0, [], 0
    in_boot(monkeypatch, next(boots))
    model, acks = recorded(root, monkeypatch, rng, sync)
    for done, op in enumerate(model.ops, 1):
        model.redo(op)
        while at + 1 < len(acks) and acks[at + 1][0] <= done:
            at += 1
        for _ in range(int(states / len(model.ops) + rng.random())):
            count += 1
            target = root / f"cut-{count}"
            model.cut(target, rng)
            in_boot(monkeypatch, next(boots))
            wrong += [f"{done}: {text}" for text in _after_cut(target / "lab", acks[at][1])]
    return count, wrong


def _after_cut(path, promised):
    """Say what a group lacks of what it has committed."""
    try:
        with sl.open(path) as lab:
            if promised is None and "s" not in lab:
                return
            with lab["s"].consumer("g") as consumer:
                for p, offset in (promised or {}).items():
                    if consumer.position[p] < offset:
                        yield f"partition {p} is at {consumer.position[p]}, committed was {offset}"
                while consumer.poll(timeout=0).num_rows:
                    consumer.commit()
    except (sl.StreamlabError, OSError, pa.ArrowException) as error:
        yield f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("sync", ["always", "1h"])
def test_a_commit_survives_a_power_cut_and_so_do_its_rows(tmp_path, monkeypatch, sync):
    """Cut at any moment: the group is where its last commit said, or further, on rows that are there."""
    count, wrong = cuts(tmp_path / "disk", monkeypatch, seeded("group", sync), sync, 250 * SCALE)
    print(f"{sync}: {count} states, {len(wrong)} broken")
    assert not wrong, "\n".join(wrong[:5])


def rows_not_made_durable(patch):
    """A commit does not wait for its rows."""
    patch.setattr(Log, "make_durable", lambda self, stop: None)


def positions_not_synced(patch):
    """The file with the positions is renamed before it is durable."""
    real = disk.replace_file
    patch.setattr(
        group_files.disk, "replace_file",
        lambda path, content, **_: real(path, content, durable=path.name != "positions"),
    )  # fmt: skip


def folders_not_synced(patch):
    """The folders of a group are made, and not made durable."""
    patch.setattr(
        Disk, "_sync_dir",
        lambda self, path: ("sync", "lab/nothing" if "groups" in str(path) else self._relative(path)),
    )  # fmt: skip


@pytest.mark.parametrize("fault", [rows_not_made_durable, positions_not_synced, folders_not_synced])
def test_control_a_commit_that_does_not_last_is_found_out(tmp_path, monkeypatch, fault):
    """The same cuts show commits that are lost, or that rest on rows that are."""
    fault(monkeypatch)
    count, wrong = cuts(tmp_path / "disk", monkeypatch, seeded("control"), "1h", 120)
    print(f"control {fault.__name__}: {len(wrong)} of {count} states broken")
    assert wrong


def test_under_os_a_power_cut_is_noticed_where_it_took_committed_rows(tmp_path, monkeypatch):
    """With sync="os" rows may be lost under a commit; the group says so and never skips others."""
    count, wrong = cuts(tmp_path / "disk", monkeypatch, seeded("os"), "os", 150 * SCALE)
    print(f"os: {count} states, {len(wrong)} noticed")
    assert all("HistoryChanged" in text for text in wrong), wrong[:5]


# -- damage -----------------------------------------------------------------------------------------


def test_a_flipped_bit_in_the_positions_is_damage_and_a_reset_mends_it(lab):
    """No bit of the file can change without being noticed; verify names it, reset writes it anew."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 10))
    with stream.consumer("g") as consumer:
        consumer.poll(rows=4)
        consumer.commit()
    path = lab.path / "streams/s/groups/g/positions"
    content = path.read_bytes()
    files = group_files.GroupFiles(stream._scan.log.folder, stream._scan.log.stream, "g")
    for at in range(0, 8 * len(content), 5):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        path.write_bytes(flipped)
        with pytest.raises((sl.CorruptSegment, UnicodeDecodeError)):
            files.read()
    with pytest.raises(sl.CorruptSegment):
        stream.consumer("g")
    (problem,) = lab.verify().problems
    assert problem.file.endswith("groups/g/positions")
    moved = lab.groups["g"].reset(to=4, dry_run=False)
    assert moved["before"].to_list() == [None, None]
    assert lab.verify().ok
    with stream.consumer("g") as consumer:
        assert offsets_of(consumer.poll()) == [4, 5, 6, 7, 8, 9]


def test_positions_of_another_stream_are_not_taken(lab):
    """Files that were copied from a stream to another, or lack something, are refused."""
    for name in ("a", "b"):
        stream = lab.create(name, SCHEMA)
        stream.consumer("g").close()
    source, target = (lab.path / f"streams/{name}/groups/g/positions" for name in "ab")
    target.write_bytes(source.read_bytes())
    with pytest.raises(sl.CorruptSegment, match="of another stream"):
        lab["b"].consumer("g")
    target.write_bytes(dump_json({"format": 1, "stream": lab["b"]._scan.log.stream}))
    with pytest.raises(sl.CorruptSegment, match="KeyError"):
        lab["b"].consumer("g")
    target.write_bytes(dump_json({"format": 2}))
    with pytest.raises(sl.NewerFormat):
        lab["b"].consumer("g")
