"""Groups as a lab shows them: lag, members, moving them by hand, and the verb for it."""

import json
import os
import re

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_consumer import SCHEMA, numbers, stream_of

import streamlab as sl
from streamlab.backlog import rows_ahead, shifted
from streamlab.cli import main
from streamlab.testing import temp_lab


def committed(stream, group, rows):
    """Let a group commit so many rows."""
    with stream.consumer(group) as consumer:
        consumer.poll(rows=rows)
        consumer.commit()


@pytest.fixture
def group(timed_lab, clock):
    """A group that has read ten rows of forty, one appended each minute."""
    stream = stream_of(timed_lab, 2)
    for n in range(40):
        stream.append(numbers(n, 1))
        clock.advance("1m")
    committed(stream, "billing", 10)
    return timed_lab.groups["billing"]


def partition_rows(stream):
    """Offsets of each partition, in plain lists."""
    found = stream.to_arrow().column("_partition").to_pylist()
    start = stream.earliest_offset
    return [[start + i for i, q in enumerate(found) if q == p] for p in range(stream.partitions)]


# -- what is shown ---------------------------------------------------------------------------------


def test_groups_are_found_by_name_over_all_streams(lab):
    """A mapping of names to groups; each knows the streams that it reads."""
    a, b = lab.create("a", SCHEMA), lab.create("b", SCHEMA)
    a.append(numbers(0, 5))
    b.append(numbers(0, 3))
    assert repr(lab.groups) == "Groups: none"
    assert lab.groups.to_polars().columns[:3] == ["group", "stream", "partition"]
    committed(a, "x", 2)
    committed(b, "x", 1)
    committed(b, "y", 3)
    assert list(lab.groups) == ["x", "y"] and len(lab.groups) == 2 and "y" in lab.groups
    assert lab.groups["x"].streams == ("a", "b")
    assert lab.groups["x"].position == {"a": {0: 2}, "b": {0: 1}}
    assert (lab.groups["x"].lag, lab.groups["y"].lag) == (5, 0)
    assert lab.groups.to_polars().select("group", "stream", "lag").rows() == [
        ("x", "a", 3), ("x", "b", 2), ("y", "b", 0)
    ]  # fmt: skip
    with pytest.raises(KeyError, match=r"(?s)no consumer group \"z\".*did you mean 'x', 'y'"):
        lab.groups["z"]


def test_lag_counts_the_rows_of_the_partition_and_how_long_the_first_waits(group, clock):
    """Rows at or beyond the position, whatever offsets lie between them; waiting since its append."""
    stream = group._scans["s"]
    frame = group.to_polars()
    offsets = partition_rows_of(stream)
    assert frame["lag"].to_list() == [sum(at >= 10 for at in rows) for rows in offsets]
    firsts = [min((at for at in rows if at >= 10), default=None) for rows in offsets]
    minutes = [40 - first for first in firsts]
    assert frame["waiting"].dt.total_minutes().to_list() == minutes
    lines = repr(group).splitlines()
    assert lines[0].split() == [
        "group", "stream", "partition", "position", "end", "lag", "waiting", "pid"
    ]  # fmt: skip
    assert len({len(line.rstrip("-")) for line in lines[1:]}) == 1
    assert lines[1].split()[-2:] == [f"{minutes[0]}m", "-"]


def partition_rows_of(scan):
    snapshot = scan.fix(pin=False)
    table = snapshot.reader(["_partition", "_offset"]).read_all()
    pairs = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return [[at for q, at in pairs if q == p] for p in range(snapshot.info.partitions)]


def test_members_are_named_with_what_they_own(lab):
    """Each live member has its process, host, start and partitions; who owns one shows in the table."""
    stream = stream_of(lab, 3)
    with stream.consumer("g") as one, stream.consumer("g") as two:
        for consumer in (one, two):
            consumer.poll(timeout=0)
        first, second = lab.groups["g"].members
        assert first.pid == second.pid == os.getpid()
        assert first.since <= second.since
        assert (set(first.partitions), set(second.partitions)) == (
            set(one.position),
            set(two.position),
        )
        assert lab.groups["g"].to_polars()["pid"].to_list() == [os.getpid()] * 3
    assert lab.groups["g"].members == ()
    assert lab.groups["g"].to_polars()["pid"].to_list() == [None] * 3


def test_a_read_only_lab_shows_groups_and_changes_nothing(lab):
    """Positions and lag can be looked at and moves be tried; a reset and a delete are refused."""
    stream = stream_of(lab, 1)
    stream.append(numbers(0, 5))
    committed(stream, "g", 2)
    with sl.open(lab.path, read_only=True) as other:
        seen = other.groups["g"]
        assert seen.lag == 3
        assert seen.reset(to="earliest")["rows"].to_list() == [-2]
        for change in (lambda: seen.reset(to="earliest", dry_run=False), seen.delete):
            with pytest.raises(sl.ReadOnly):
                change()
    with pytest.raises(sl.ReadOnly, match="no consumer groups"):
        _ = lab.as_of(lab.freeze()).groups
    assert lab.groups["g"].position == {"s": {0: 2}}


# -- counting --------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_rows_ahead_and_shifts_are_those_of_plain_lists(data):
    """Over files that are growing, closed, sealed and trimmed, counts and moves are what lists say."""
    partitions = data.draw(st.integers(1, 4))
    with temp_lab() as lab:
        stream = stream_of(lab, partitions, settings=sl.Settings(segment_bytes=4096))
        for at in range(data.draw(st.integers(0, 6))):
            stream.append(numbers(at * 40, data.draw(st.integers(1, 90))))
            if data.draw(st.booleans()):
                stream.seal()
        end = stream.end_offset
        stream.trim(data.draw(st.integers(0, end)))
        snapshot = stream._scan.fix()
        rows, start = partition_rows(stream), stream.earliest_offset
        for p in range(partitions):
            at = data.draw(st.integers(0, end))
            ahead = [offset for offset in rows[p] if offset >= at]
            before = [offset for offset in rows[p] if offset < at]
            assert rows_ahead(snapshot, {p: at}) == {p: len(ahead)}
            by = data.draw(st.integers(-end - 1, end + 1))
            want = (
                (ahead[by] if by < len(ahead) else end)
                if by >= 0
                else (before[by] if -by <= len(before) else start)
            )
            assert shifted(snapshot, p, at, by) == want
        positions = {p: data.draw(st.integers(0, end)) for p in range(partitions)}
        assert rows_ahead(snapshot, positions) == {
            p: sum(offset >= at for offset in rows[p]) for p, at in positions.items()
        }


# -- moving ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "after"),
    [
        ({"to": "earliest"}, [0, 0]),
        ({"to": "end"}, [40, 40]),
        ({"to": np.int64(7)}, [7, 7]),
        ({"to": "2026-01-01T12:30:00Z"}, [30, 30]),
        ({"to": {1: 3}}, [10, 3]),
        ({"shift": "-5m"}, [5, 5]),
        ({"shift": "1h"}, [40, 40]),
        ({"shift": "-1d"}, [0, 0]),
    ],
)
def test_a_reset_says_before_and_after_and_then_does_it(group, how, after):
    """Trying changes nothing; doing moves to the places that were shown, rows counted with sign."""
    tried = group.reset(**how)
    assert tried.columns == ["stream", "partition", "before", "after", "rows"]
    assert tried["after"].to_list() == after
    assert group.position == {"s": {0: 10, 1: 10}}
    for p, rows in enumerate(partition_rows_of(group._scans["s"])):
        ahead = [sum(at >= place for at in rows) for place in (10, after[p])]
        assert tried["rows"][p] == ahead[0] - ahead[1]
    assert group.reset(**how, dry_run=False).equals(tried)
    assert group.position == {"s": dict(enumerate(after))}


def test_a_shift_by_rows_counts_rows_of_each_partition(group):
    """Three rows back are three rows of the partition, whatever lies between."""
    moved = group.reset(shift=-3, dry_run=False)
    for p, rows in enumerate(partition_rows_of(group._scans["s"])):
        assert moved["after"][p] == [at for at in rows if at < 10][-3]
    assert moved["rows"].to_list() == [-3, -3]
    assert group.reset(shift=3)["rows"].to_list() == [3, 3]


def test_a_reset_waits_for_nobody(lab):
    """While there are members a reset is refused, naming them; forced, it fences them."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 20))
    with stream.consumer("g") as consumer:
        consumer.poll(rows=10)
        with pytest.raises(
            sl.StreamLocked, match=rf"(?s)not reset.*process {os.getpid()}.*force=True"
        ):
            lab.groups["g"].reset(to="end", dry_run=False)
        consumer.commit()
        consumer.poll(rows=5)
        lab.groups["g"].reset(to=3, dry_run=False, force=True)
        with pytest.raises(sl.Fenced, match="partitions 0, 1"):
            consumer.commit()
        assert consumer.poll(rows=1).column("_offset").to_pylist() == [3]
        consumer.commit()
        lab.groups["g"].reset(to=17, dry_run=False, force=True)
        assert consumer.poll().column("_offset").to_pylist() == [17, 18, 19]
        assert consumer.commit() == {0: 20, 1: 20}


def test_a_reset_may_be_of_one_stream(lab):
    """`stream=` moves the group there only; partitions need it where there are several."""
    for name in ("a", "b"):
        stream = lab.create(name, SCHEMA)
        stream.append(numbers(0, 5))
        committed(stream, "g", 5)
    group = lab.groups["g"]
    group.reset(to=2, stream="b", dry_run=False)
    assert group.position == {"a": {0: 5}, "b": {0: 2}}
    with pytest.raises(ValueError, match="stream="):
        group.reset(to={0: 1})
    with pytest.raises(sl.StreamNotFound, match=r"(?s)does not read stream \"c\".*a, b"):
        group.reset(to=1, stream="c")


def test_a_reset_that_cannot_be_is_refused(group):
    """Neither or both of to and shift, places that are not there, other partitions, bad units."""
    for how, error in [
        ({}, ValueError), ({"to": 1, "shift": 1}, ValueError), ({"to": 41}, sl.OffsetOutOfRange),
        ({"to": {5: 1}}, ValueError), ({"shift": "5 months"}, sl.InvalidDuration),
        ({"shift": 1.5}, sl.InvalidDuration), ({"to": "yesterday"}, sl.InvalidTime),
    ]:  # fmt: skip
        with pytest.raises(error):
            group.reset(**how, dry_run=False)
    assert group.position == {"s": {0: 10, 1: 10}}


def test_an_empty_stream_has_only_one_place(lab):
    """Every reset of a group of an empty stream leads to its start."""
    stream = stream_of(lab, 2)
    stream.consumer("g").close()
    for how in ({"to": "end"}, {"shift": -5}, {"shift": 5}, {"shift": "-1h"}):
        assert lab.groups["g"].reset(**how)["after"].to_list() == [0, 0]


def test_a_deleted_group_begins_anew(lab):
    """After `delete` there is no trace of it, and a consumer makes it again."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 5))
    committed(stream, "g", 3)
    lab.groups["g"].delete()
    assert not lab.groups
    assert os.listdir(lab.path / "streams/s/groups") == []
    with stream.consumer("g") as consumer:
        assert consumer.poll().num_rows == 5


def test_a_lab_with_groups_is_sound(lab):
    """`verify` knows the files of groups, and a dropped stream takes them along."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 5))
    with stream.consumer("g"):
        report = lab.verify()
        assert report.ok and not report.notes
    lab.drop("s")
    assert os.listdir(lab.path / "streams") == []


# -- the verb --------------------------------------------------------------------------------------


@pytest.fixture
def run(capsys):
    """Run a command; return its exit code, what it printed and what it complained of."""

    def command(*arguments):
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return command


@pytest.fixture
def path(lab):
    """A closed lab whose group has read 5 of 20 rows."""
    stream = stream_of(lab, 2)
    stream.append(numbers(0, 20))
    committed(stream, "billing", 5)
    lab.close()
    return lab.path


def test_the_verb_shows_groups(path, run):
    """A line for each partition, or JSON with the same."""
    code, out, _ = run("groups", path)
    assert code == 0
    assert re.match(r"group +stream +partition +position +end +lag +waiting +pid\n", out)
    assert len(out.splitlines()) == 4
    code, out, _ = run("groups", path, "billing", "--json")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["position"] for row in rows] == [5, 5]
    assert rows[0]["pid"] is None and rows[0]["waiting"] > 0
    code, _, err = run("groups", path, "biling")
    assert code == 1 and "did you mean 'billing'" in err


def test_the_verb_of_a_lab_without_groups_says_so(tmp_path, run):
    """No groups is a sentence, and no line of JSON."""
    sl.open(tmp_path / "lab").close()
    assert run("groups", tmp_path / "lab")[1] == f"{tmp_path / 'lab'} has no groups yet\n"
    assert run("groups", tmp_path / "lab", "--json")[1] == ""


def test_the_verb_moves_a_group_only_with_yes(path, run):
    """Without --yes it shows the moves and says so; with it they are done."""
    code, out, err = run("groups", path, "billing", "--reset-to", "earliest")
    assert code == 0 and "nothing was moved; --yes" in err and out.startswith("stream")
    code, out, err = run("groups", path, "billing", "--shift=-2", "--yes", "--json")
    assert code == 0 and not err
    assert [json.loads(line)["rows"] for line in out.splitlines()] == [0, -2]
    code, _, _ = run("groups", path, "billing", "--reset-to", "12", "--yes", "--stream", "s")
    with sl.open(path) as lab:
        assert lab.groups["billing"].position == {"s": {0: 12, 1: 12}}
        with lab["s"].consumer("billing"):
            code, _, err = run("groups", path, "billing", "--reset-to", "end", "--yes")
            assert code == 1 and "it has members" in err and "force" not in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--reset-to", "end"], "which group"),
        (["billing", "--yes"], "nothing to move"),
        (["billing", "--shift", "1 month"], "month"),
        (["billing", "--reset-to", "99"], "not in stream"),
    ],
)
def test_a_mistake_of_the_verb_is_one_line_and_1(path, run, arguments, says):
    """What is missing or wrong is said on stderr."""
    code, out, err = run("groups", path, *arguments)
    assert code == 1 and says in err and not out


def test_frames_have_the_types_of_the_page(group):
    """Counts are integers, waiting is a duration, also where there is nothing."""
    assert group.to_polars().schema["waiting"] == pl.Duration("us")
    assert group.reset(to="end").schema["rows"] == pl.Int64
    assert pa.types.is_int64(group.to_polars().to_arrow().schema.field("lag").type)
