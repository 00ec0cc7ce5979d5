"""Consumers: every row at least once, a committed one never again, one owner for a partition."""

import contextlib
import gc
import os
import threading

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from consumer_oracle import Broken, Group
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab import consumer as consumers
from streamlab.log.groups import GroupFiles, Membership
from streamlab.log.lock import FileLock
from streamlab.testing import temp_lab

SCHEMA = pa.schema([("k", pa.int64()), ("n", pa.int64())])


def stream_of(lab, partitions=4, **options):
    return lab.create("s", SCHEMA, key="k", partitions=partitions, **options)


def numbers(start, count):
    return {
        "k": [n * 7 % 11 for n in range(start, start + count)],
        "n": [*range(start, start + count)],
    }


def offsets_of(table):
    return table.column("_offset").to_pylist()


def dropped(consumer):
    """Let a member die as `kill -9` would: its locks are free, its files are as they were."""
    consumer._leave.detach()
    for claim in consumer._claims.values():
        claim.lock.release()
    consumer._member._lock.release()


# -- the laws --------------------------------------------------------------------------------------


class Play:
    """Members of one group in this process, and the oracle that watches them."""

    def __init__(self, lab, partitions):
        self.stream = stream_of(lab, partitions, settings=sl.Settings(segment_bytes=4096))
        self.oracle = Group(partitions)
        self.members, self.names = {}, iter(range(1000))
        self.rows = 0

    def look(self):
        self.oracle.owning({name: set(c.position) for name, c in self.members.items()})

    def chosen(self, number):
        return sorted(self.members)[number % len(self.members)]

    def join(self):
        self.members[next(self.names)] = self.stream.consumer("g")
        self.look()

    def append(self, count):
        self.stream.append(numbers(self.rows, count))
        self.rows += count
        self.oracle.rows = self.stream.to_arrow().column("_partition").to_pylist()

    def poll(self, name, rows):
        member = self.members[name]
        claims = dict(member._claims)
        table = member.poll(rows, timeout=0)
        again = [p for p, claim in claims.items() if member._claims.get(p) is not claim]
        self.oracle.gave_up(name, again)
        self.look()
        self.oracle.polled(name, offsets_of(table), member.position)

    def commit(self, name):
        member = self.members[name]
        with contextlib.suppress(sl.Fenced):
            member.commit()
        self.look()
        self.oracle.committing(name, member.committed)

    def leave(self, name, how):
        how(self.members.pop(name))
        self.look()

    def step(self, step):
        kind, number, rows = step
        if kind == "append":
            self.append(rows)
        elif kind == "seal":
            self.stream.seal()
        elif kind == "join" or not self.members:
            if len(self.members) < 6:
                self.join()
        elif kind == "poll":
            self.poll(self.chosen(number), rows)
        elif kind == "commit":
            self.commit(self.chosen(number))
        else:
            self.leave(self.chosen(number), dropped if kind == "kill" else sl.Consumer.close)

    def finish(self):
        if not self.members:
            self.join()
        for _ in range(3):
            for name in self.members:
                self.poll(name, 1)
        self.oracle.shared({name: set(c.position) for name, c in self.members.items()})
        while any(c.lag for c in self.members.values()):
            for name in self.members:
                self.poll(name, 50)
        for name in self.members:
            self.commit(name)
        self.oracle.done()


STEPS = st.tuples(
    st.sampled_from(["append", "poll", "poll", "poll", "commit", "commit", "join", "close", "kill", "seal"]),
    st.integers(0, 5),
    st.integers(1, 40),
)  # fmt: skip


def played(partitions, steps):
    with temp_lab() as lab:
        play = Play(lab, partitions)
        try:
            for step in steps:
                play.step(step)
            play.finish()
        finally:
            for member in play.members.values():
                member.close()


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(partitions=st.integers(1, 6), steps=st.lists(STEPS, min_size=5, max_size=40))
def test_a_group_reads_every_row_and_none_again_that_is_committed(partitions, steps):
    """However members come, go and die: each row at least once, in order, to one owner at a time."""
    played(partitions, steps)


def ownership_without_locks(patch):
    """A partition is taken whoever owns it."""
    real = FileLock.acquire

    def acquire(self, timeout=0.0, give_up=()):
        with contextlib.suppress(sl.StreamLocked):
            real(self, timeout, give_up)

    patch.setattr(FileLock, "acquire", acquire)


def positions_ahead_of_the_rows(patch):
    """A poll moves the positions to the end of what there is, not of what it gave."""
    real = consumers._Feed.take

    def take(self, rows):
        taken = real(self, rows)
        self.reached = self.snapshot.stop
        return taken

    patch.setattr(consumers._Feed, "take", take)


def every_owner_begins_anew(patch):
    """Who takes a partition over reads it from the start of the stream."""
    real = GroupFiles.take

    def take(self, *given):
        claims = real(self, *given)
        for claim in claims:
            claim.position = 0
        return claims

    patch.setattr(GroupFiles, "take", take)


def members_that_give_nothing_up(patch):
    """A member wants every partition."""
    patch.setattr(Membership, "share", lambda self, partitions: ([*range(partitions)], partitions))


def partitions_not_told_apart(patch):
    """A member is given the rows of all partitions."""
    real = consumers.begins_at
    patch.setattr(
        consumers, "begins_at", lambda at, n: real(dict.fromkeys(range(n), min(at.values())), n)
    )


@pytest.mark.parametrize(
    "fault",
    [
        ownership_without_locks, positions_ahead_of_the_rows, every_owner_begins_anew,
        members_that_give_nothing_up, partitions_not_told_apart,
    ],
)  # fmt: skip
def test_control_a_faulty_group_is_found_out(monkeypatch, fault):
    """The oracle sees a group that breaks a rule."""
    steps = [("append", 0, 40), ("join", 0, 0), ("poll", 0, 9), ("commit", 0, 0), ("join", 0, 0)]
    steps += [("poll", 0, 5), ("poll", 1, 5), ("kill", 0, 0), ("poll", 0, 9), ("join", 0, 0)]
    played(4, steps)
    fault(monkeypatch)
    with pytest.raises(Broken):
        played(4, steps)


# -- polling ---------------------------------------------------------------------------------------


def test_a_group_goes_on_where_it_has_committed(lab):
    """What was polled and not committed comes again, what was committed does not."""
    stream = stream_of(lab, 1)
    stream.append(numbers(0, 10))
    with stream.consumer("g") as one:
        assert offsets_of(one.poll(rows=4)) == [0, 1, 2, 3]
        assert one.commit() == {0: 4}
        assert offsets_of(one.poll(rows=3)) == [4, 5, 6]
        assert (one.position, one.committed, one.lag) == ({0: 7}, {0: 4}, 3)
    with stream.consumer("g") as two:
        assert offsets_of(two.poll()) == [4, 5, 6, 7, 8, 9]


def test_groups_are_independent(lab):
    """Each group reads all rows, wherever the others are."""
    stream = stream_of(lab)
    stream.append(numbers(0, 50))
    with stream.consumer("a") as a, stream.consumer("b") as b:
        assert offsets_of(a.poll()) == offsets_of(b.poll()) == [*range(50)]
        a.commit()
    with stream.consumer("a") as a, stream.consumer("b") as b:
        assert (a.poll(timeout=0).num_rows, b.poll(timeout=0).num_rows) == (0, 50)


@pytest.mark.parametrize(("start", "first"), [("earliest", 0), ("end", 30), (12, 12)])
def test_start_is_where_a_new_group_begins(lab, start, first):
    """All partitions begin there, also those that are taken later; a known group goes on."""
    stream = stream_of(lab)
    stream.append(numbers(0, 30))
    stream.consumer("g", start=start).close()
    stream.append(numbers(30, 10))
    with stream.consumer("g", start="earliest") as consumer:
        assert offsets_of(consumer.poll()) == [*range(first, 40)]


def test_start_may_be_an_instant(timed_lab, clock):
    """A group begins at the first row whose stream time is at or after the instant."""
    stream = stream_of(timed_lab, 2)
    for n in range(4):
        stream.append(numbers(n, 1))
        clock.advance("1m")
    with stream.consumer("g", start="2026-01-01T12:02:00Z") as consumer:
        assert offsets_of(consumer.poll()) == [2, 3]


def test_an_empty_poll_has_the_schema(lab):
    """At the timeout a poll returns a table without rows and with all columns."""
    stream = stream_of(lab)
    with stream.consumer("g") as consumer, stream.consumer("g") as idle:
        for one in (consumer, idle):
            table = one.poll(timeout=0.01)
            assert table.num_rows == 0
            assert table.schema.names == ["_partition", "_offset", "_append_time", "k", "n"]
    stream.append(numbers(0, 3))
    with stream.consumer("g") as consumer:
        assert consumer.poll().schema == table.schema


def test_a_poll_waits_for_rows(lab):
    """A poll returns when another thread appends, long before its timeout."""
    stream = stream_of(lab)
    with stream.consumer("g") as consumer:
        found = []
        thread = threading.Thread(target=lambda: found.append(consumer.poll(timeout=60)))
        thread.start()
        stream.append(numbers(0, 1))
        thread.join(30)
        assert offsets_of(found[0]) == [0]


def test_small_appends_come_as_one_batch(lab):
    """Rows that were appended one at a time are given as one batch, in order."""
    stream = stream_of(lab)
    for n in range(100):
        stream.append(numbers(n, 1))
    with stream.consumer("g") as consumer:
        table = consumer.poll()
        assert table.column("n").to_pylist() == [*range(100)]
        assert table.column("n").num_chunks == 1


def test_members_share_partitions_and_the_rows_of_each_stay_in_order(lab):
    """Of three members each has its partitions; together they read everything."""
    stream = stream_of(lab, 7)
    stream.append(numbers(0, 500))
    stream.seal()
    stream.append(numbers(500, 500))
    members = [stream.consumer("g") for _ in range(3)]
    for _ in range(2):
        for member in members:
            member.poll(1, timeout=0)
            member.seek("committed")
    assert sorted(len(m.position) for m in members) == [2, 2, 3]
    seen = []
    for member in members:
        while (table := member.poll(rows=97, timeout=0)).num_rows:
            assert set(table.column("_partition").to_pylist()) <= set(member.position)
            seen += offsets_of(table)
        member.commit()
    assert sorted(seen) == [*range(1000)]
    assert lab.groups["g"].lag == 0


def test_rows_of_a_rare_partition_are_found_without_opening_every_file(lab, monkeypatch):
    """Files in which a member's partitions have no rows are skipped."""
    stream = stream_of(lab, 4)
    for n in range(8):
        stream.append({"k": [0] * 50, "n": [n] * 50})
        stream.seal()
    stream.append({"k": [5, 2], "n": [8, 9]})
    home = stream.to_arrow().column("_partition")[0].as_py()
    opened = []
    real = type(stream._scan.log.reader).file
    monkeypatch.setattr(
        type(stream._scan.log.reader), "file",
        lambda self, segment: opened.append(segment.file) or real(self, segment),
    )  # fmt: skip
    feed = consumers._Feed(stream._scan, {p: 0 for p in range(4) if p != home})
    table, _ = feed.take(10)
    assert table.column("n").to_pylist() == [8, 9]
    assert not [file for file in opened if file.endswith(".arrow")]


def test_a_stream_may_gain_columns_and_deletions_while_it_is_read(lab):
    """After `evolve` and `delete` the next poll has the new columns."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 5))
    with stream.consumer("g") as consumer:
        assert consumer.poll(rows=2).column_names[-1] == "n"
        stream.evolve(SCHEMA.append(pa.field("more", pa.string())))
        stream.delete(3)
        seen = [consumer.poll(), consumer.poll()]
        assert seen[-1].column_names == [
            "_partition", "_offset", "_append_time", "_deleted", "k", "n", "more"
        ]  # fmt: skip
        assert [o for table in seen for o in offsets_of(table)] == [2, 3, 4, 5]


# -- committing, seeking ---------------------------------------------------------------------------


def test_a_commit_that_changes_nothing_writes_nothing(lab, monkeypatch):
    """Committing twice, or before a poll, leaves the file as it is."""
    stream = stream_of(lab)
    stream.append(numbers(0, 10))
    with stream.consumer("g") as consumer:
        consumer.poll()
        consumer.commit()
        monkeypatch.setattr(GroupFiles, "_write", lambda *_: pytest.fail("written"))
        assert consumer.commit() == dict.fromkeys(range(4), 10)


def test_seek_goes_anywhere_and_commit_keeps_it(lab):
    """A seek moves what is read next; a commit makes it the group's place, also further back."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 20))
    with stream.consumer("g") as consumer:
        consumer.poll()
        consumer.commit()
        assert consumer.seek(5) == {0: 5, 1: 5}
        assert offsets_of(consumer.poll()) == [*range(5, 20)]
        assert consumer.seek("committed") == {0: 20, 1: 20}
        assert consumer.seek({1: 3}) == {0: 20, 1: 3}
        assert consumer.seek("earliest", partition=0) == {0: 0, 1: 3}
        assert consumer.seek("end") == {0: 20, 1: 20}
        consumer.seek("earliest")
        assert consumer.commit() == {0: 0, 1: 0}
    with stream.consumer("g") as consumer:
        assert consumer.position == {0: 0, 1: 0}


def test_what_cannot_be_is_refused_with_the_reason(lab):
    """Bad arguments name the thing, and leave the consumer as it is."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 3))
    with stream.consumer("g") as consumer:
        with pytest.raises(ValueError, match="at least 1; got 0"):
            consumer.poll(rows=0)
        with pytest.raises(sl.OffsetOutOfRange, match="offset 4 is not in stream 's'"):
            consumer.seek(4)
        with pytest.raises(sl.InvalidTime):
            consumer.seek("soon")
        with pytest.raises(
            ValueError, match="partition 7 is not this member's: it has partitions 0, 1"
        ):
            consumer.seek({7: 0})
        assert consumer.position == {0: 0, 1: 0}
    for name in ("", "a/b", "..", "con", 3):
        with pytest.raises(sl.InvalidName, match="no name for a group"):
            stream.consumer(name)
    with pytest.raises(sl.InvalidName, match="by case only"):
        stream.consumer("G")
    with pytest.raises(sl.OffsetOutOfRange):
        stream.consumer("new", start=9)
    assert list(lab.groups) == ["g"]


def test_views_and_read_only_labs_have_no_consumers(lab):
    """A consumer of what cannot be committed to is refused, with the reason and the way out."""
    stream = stream_of(lab)
    stream.append(numbers(0, 3))
    with pytest.raises(sl.ReadOnly, match=r"(?s)as of offset 2.*lab\[name\]\.consumer"):
        stream.as_of(2).consumer("g")
    with sl.open(lab.path, read_only=True) as other, pytest.raises(sl.ReadOnly, match="read-only"):
        other["s"].consumer("g")


def test_a_closed_consumer_says_so(lab):
    """After `close`, or the close of its lab, a consumer refuses, and its partitions are free."""
    stream = stream_of(lab)
    consumer = stream.consumer("g")
    consumer.close()
    consumer.close()
    for use in (consumer.poll, consumer.commit, lambda: consumer.seek(0)):
        with pytest.raises(sl.LabClosed, match=r'the consumer in group "g" is closed'):
            use()
    assert repr(consumer) == 'Consumer of "s" in group "g" (closed)'
    last = stream.consumer("g")
    lab.close()
    with pytest.raises(sl.LabClosed):
        last.poll()


def test_a_forgotten_consumer_gives_its_partitions_back(lab):
    """A cell that is run again takes over from the consumer that it made before."""
    stream = stream_of(lab, 2)
    consumer = stream.consumer("g")
    consumer = None
    gc.collect()
    consumer = stream.consumer("g")
    assert consumer.position == {0: 0, 1: 0}
    consumer.close()


def test_a_consumer_shows_what_it_has(lab):
    """The repr says which partitions a member has, where it is, and that it stands by."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 3))
    with stream.consumer("g") as one, stream.consumer("g") as two:
        assert repr(one) == (
            'Consumer of "s" in group "g": 2 of 2 partitions, 3 rows to read\n  0 at 0, 1 at 0'
        )
        assert repr(two) == 'Consumer of "s" in group "g": 0 of 2 partitions; it stands by'
        assert two.lag == 0


def test_an_interrupt_inside_a_poll_loses_no_row(lab, monkeypatch):
    """Ctrl-C while rows are read leaves the positions as they were."""
    stream = stream_of(lab)
    stream.append(numbers(0, 10))
    with stream.consumer("g") as consumer:
        real = consumers.with_system
        monkeypatch.setattr(
            consumers, "with_system", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt)
        )
        with pytest.raises(KeyboardInterrupt):
            consumer.poll()
        monkeypatch.setattr(consumers, "with_system", real)
        assert offsets_of(consumer.poll()) == [*range(10)]


# -- what may happen to the log --------------------------------------------------------------------


def test_rows_that_were_removed_before_they_were_read_are_named(lab):
    """Retention does not wait for groups; the error says what is left, and seek goes on there."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 10))
    with stream.consumer("g") as consumer:
        consumer.poll(rows=4)
        consumer.commit()
        stream.trim(7)
        assert consumer.commit() == {0: 4, 1: 4}
        consumer._feed = None
        with pytest.raises(sl.OffsetOutOfRange, match=r"(?s)up to offset 4.*\[7, 10\).*seek"):
            consumer.poll()
        consumer.seek("earliest")
        assert offsets_of(consumer.poll()) == [7, 8, 9]
        consumer.commit()
    stream.trim(10)
    with stream.consumer("g") as consumer:
        assert consumer.poll(timeout=0).num_rows == 0
        stream.append(numbers(10, 1))
        assert offsets_of(consumer.poll()) == [10]


def test_rows_removed_while_they_are_read_are_named_too(lab):
    """A file that is trimmed in the middle of a read gives the error, not other rows."""
    stream = stream_of(lab, 2, settings=sl.Settings(segment_bytes=4096))
    for n in range(0, 3000, 100):
        stream.append(numbers(n, 100))
    stream.seal()
    with stream.consumer("g") as consumer:
        assert offsets_of(consumer.poll(rows=10)) == [*range(10)]
        stream.trim(2500)
        seen = []

        def read():
            while (table := consumer.poll(rows=500)).num_rows:
                seen.extend(offsets_of(table))

        with pytest.raises(sl.OffsetOutOfRange, match=r'group "g" has read'):
            read()
        assert seen == [*range(10, 10 + len(seen))]


def test_a_stream_that_was_dropped_says_so(lab):
    """After `drop` a consumer raises; a stream made anew has no groups."""
    stream = stream_of(lab)
    with stream.consumer("g") as consumer:
        lab.drop("s")
        with pytest.raises(sl.StreamNotFound, match="was dropped"):
            consumer.poll()
        stream_of(lab)
        assert not lab.groups


@pytest.mark.parametrize("more", [0, 30])
def test_another_history_is_noticed(tmp_path, more):
    """A stream that was put back to an older state, and perhaps went on otherwise, is refused."""
    import shutil

    path = tmp_path / "lab"
    with sl.open(path) as lab:
        stream_of(lab).append(numbers(0, 10))
    shutil.copytree(path, tmp_path / "old")
    with sl.open(path) as lab:
        lab["s"].append(numbers(10, 10))
        with lab["s"].consumer("g") as consumer:
            consumer.poll()
            consumer.commit()
    shutil.copytree(path / "streams/s/groups", tmp_path / "old/streams/s/groups")
    with sl.open(tmp_path / "old") as lab:
        if more:
            lab["s"].append(numbers(10, more))
        text = "holds other rows below offset 20" if more else "ends at offset 10, below 20"
        with pytest.raises(sl.HistoryChanged, match=rf'(?s){text}.*group "g".*reset'):
            lab["s"].consumer("g")
        lab.groups["g"].reset(to="earliest", dry_run=False)
        with lab["s"].consumer("g") as consumer:
            assert consumer.poll().num_rows == 10 + more


# -- being fenced ----------------------------------------------------------------------------------


def test_what_was_polled_and_handed_over_cannot_be_committed(lab):
    """A member that polled, and gave partitions up at a later poll, is told; the rest is committed."""
    stream = stream_of(lab)
    stream.append(numbers(0, 100))
    with stream.consumer("g") as one:
        one.poll(rows=50)
        with stream.consumer("g") as two:
            one.poll(rows=10)
            given = two.poll()
            assert len(one.position) == len(two.position) == 2
            with pytest.raises(sl.Fenced, match=r"(?s)partitions .* commit before") as caught:
                one.commit()
            assert set(caught.value.partitions) == set(two.position)
            assert caught.value.group == "g"
            assert one.committed == one.position
            one.commit()
            assert min(offsets_of(given)) < 50


def test_a_commit_before_the_next_poll_hands_over_nothing_twice(lab):
    """With a commit after each poll a new member gets only rows that nobody had."""
    stream = stream_of(lab)
    stream.append(numbers(0, 100))
    seen = []
    with stream.consumer("g") as one, stream.consumer("g") as two:
        for _ in range(30):
            for member in (one, two):
                seen += offsets_of(member.poll(rows=7, timeout=0))
                member.commit()
    assert sorted(seen) == [*range(100)]


def test_a_lock_that_is_lost_fences_its_member(lab):
    """Who has lost a partition's lock, whyever, cannot commit after another took it."""
    stream = stream_of(lab, 1)
    stream.append(numbers(0, 10))
    zombie = stream.consumer("g")
    zombie.poll(rows=5)
    dead = os.dup(zombie._claims[0].lock._fd)
    os.close(dead)
    os.close(zombie._claims[0].lock._fd)
    zombie._claims[0].lock._fd = os.open(os.devnull, os.O_RDONLY)
    os.close(zombie._member._lock._fd)
    zombie._member._lock._fd = os.open(os.devnull, os.O_RDONLY)
    with stream.consumer("g") as heir:
        assert offsets_of(heir.poll(rows=3)) == [0, 1, 2]
        with pytest.raises(sl.Fenced, match="partition 0"):
            zombie.commit()
        assert heir.commit() == {0: 3}
    zombie.close()


def test_control_without_the_check_the_zombie_commits(lab, monkeypatch):
    """The test above sees a commit that is not fenced."""
    monkeypatch.setattr("streamlab.log.groups.Claim.fits", lambda self, positions: True)
    with pytest.raises(pytest.fail.Exception):
        test_a_lock_that_is_lost_fences_its_member(lab)


def test_a_group_that_was_deleted_fences_its_members(lab):
    """Deleting refuses while there are members; where the files vanish all the same, they are told."""
    import shutil

    stream = stream_of(lab)
    stream.append(numbers(0, 10))
    consumer = stream.consumer("g")
    consumer.poll(rows=5)
    with pytest.raises(
        sl.StreamLocked, match=rf"(?s)not deleted.*{os.getpid()}.*close the consumers"
    ):
        lab.groups["g"].delete()
    shutil.rmtree(lab.path / "streams/s/groups/g")
    with stream.consumer("g") as another:
        with pytest.raises(sl.Fenced, match="partitions"):
            consumer.commit()
        assert offsets_of(another.poll()) == [*range(10)]
    with pytest.raises(sl.Fenced, match="was deleted"):
        consumer.poll()


def test_types_of_every_kind_come_through(lab):
    """Nested columns, lists of fixed size and nulls are given as they were appended, cut anywhere."""
    import polars as pl

    frame = pa.table(
        {
            "k": pa.array(range(50), pa.int64()),
            "f": pa.array([[n, n + 1] for n in range(50)], pa.list_(pa.int32(), 2)),
            "l": pa.array([[str(n)] * (n % 3) if n % 5 else None for n in range(50)]),
            "s": pa.array([{"a": n, "b": None} for n in range(50)], pa.struct([("a", pa.int64()), ("b", pa.string())])),
        }
    )  # fmt: skip
    stream = lab.create("all", frame, key="k", partitions=3)
    with stream.consumer("g") as consumer:
        parts = []
        while (table := consumer.poll(rows=7, timeout=0)).num_rows:
            assert pl.from_arrow(table)["f"].to_list() == table.column("f").to_pylist()
            parts.append(table)
        whole = pa.concat_tables(parts).select(frame.column_names)
        assert whole.to_pylist() == frame.to_pylist()
        assert pc.all(pc.equal(whole.column("k"), frame.column("k"))).as_py()
