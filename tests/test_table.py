"""Tables: the state at any place is the fold of the rows below it, whatever lies on disk."""

import datetime as dt
import errno
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faults
import polars as pl
import pyarrow as pa
import pytest
import table_oracle as oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab import fold
from streamlab.fold import Fold, Keyed
from streamlab.log import snapshots
from streamlab.testing import ManualClock, temp_lab

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
NAN = float("nan")
KEY = ("k", "g")
SCHEMA = pa.schema(
    [("k", pa.float64()), ("g", pa.string()), ("v", pa.int32()), ("l", pa.list_(pa.float64()))]
)
WIDER = pa.schema([*SCHEMA.set(2, pa.field("v", pa.int64())), ("w", pa.string())])

key = st.tuples(st.sampled_from([0.0, -0.0, 1.0, NAN, None]), st.sampled_from(["a", None]))
row = st.tuples(key, st.one_of(st.none(), st.integers(-9, 9)), st.sampled_from([None, [], [NAN]]))
step = st.one_of(
    st.tuples(st.just("append"), st.lists(row, max_size=20)),
    st.tuples(st.just("append"), st.lists(row, min_size=1, max_size=20)),
    st.tuples(st.just("delete"), key),
    st.tuples(st.just("tick"), st.integers(1, 5_000)),
    st.tuples(st.sampled_from(["seal", "evolve", "reopen"]), st.none()),
    st.tuples(st.just("trim"), st.floats(0, 1)),
    st.tuples(st.just("look"), st.floats(0, 1)),
)
LIMITS = settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def close_snapshots(monkeypatch):
    """Let snapshots lie close together, so that small logs have some."""
    monkeypatch.setattr(fold, "SPACING_ROWS", 7)
    monkeypatch.setattr(fold, "SPACING_KEYS", 1)


class Run:
    """A real stream and a log in plain Python that are told the same things."""

    def __init__(self, lab, clock):
        self.lab, self.clock = lab, clock
        self.log, self.start, self.last, self.wide = [], 0, 0, False
        small = sl.Settings(segment_bytes=4096)
        self.stream = lab.create("s", SCHEMA, key=KEY, settings=small)

    def do(self, what, value):
        if what == "append":
            rows = [dict(zip(("k", "g", "v", "l"), (*k, v, l), strict=True)) for k, v, l in value]
            rows = [{**r, "w": f"w{r['v']}"} if self.wide else r for r in rows]
            self.stream.append(pa.Table.from_pylist(rows, schema=WIDER if self.wide else SCHEMA))
            self._logged([(r, False) for r in rows])
        elif what == "delete":
            self.stream.delete(value)
            self._logged([({"k": value[0], "g": value[1], "v": None, "l": None}, True)])
        elif what == "tick":
            self.clock.advance(dt.timedelta(microseconds=value))
        elif what == "seal":
            self.stream.seal()
        elif what == "evolve":
            self.stream.evolve(WIDER)
            self.wide = True
        elif what == "trim":
            self.start = self.place(value)
            self.stream.trim(self.start)
        elif what == "look":  # leaves snapshots
            self.stream.table().as_of(self.place(value)).to_polars()
        else:
            path = self.lab.path
            self.lab.close()
            self.lab = sl.Lab(path, sync="os", clock=self.clock)
            self.stream = self.lab["s"]

    def _logged(self, rows):
        if rows:
            self.last = max(self.last + 1, self.clock.now())
        self.log += [{"row": r, "deleted": deleted, "at": self.last} for r, deleted in rows]

    def place(self, part):
        return self.start + round(part * (len(self.log) - self.start))

    def state(self, stop):
        names = [*SCHEMA.names, *(["w"] if self.wide else [])]
        table = oracle.fold(self.log, KEY, self.start, stop)
        return {k: {name: row.get(name) for name in names} for k, row in table.items()}


def instant(micros):
    return EPOCH + dt.timedelta(microseconds=micros)


def shown(frame):
    return [oracle.normal(row) for row in frame.to_dicts()]


def check(run, parts, chosen):
    """Hold the table of a run against the fold, at some places and for some keys."""
    table = run.stream.table()
    places = [run.place(part) for part in parts]
    for place in places:
        wanted = run.state(place)
        was = table.as_of(place)
        assert shown(was.to_polars()) == oracle.shown(wanted)
        assert len(was) == len(wanted)
        got = was.get(chosen)
        assert (got is None) == (chosen not in was)
        there = wanted.get(oracle.normal(list(chosen))[1:])
        assert oracle.normal(got) == oracle.normal(there)
        assert shown(was.scan().select("v").collect()) == [
            oracle.normal({"v": r["v"]}) for r in wanted.values()
        ]
    for a, b in zip(places, reversed(places), strict=True):
        turned = oracle.applied(run.state(a), table.diff(a, b).to_dicts(), KEY)
        assert oracle.same_rows(turned, list(run.state(b).values()), KEY)
    states = table.states(places)
    for place in places:
        rows = states.unique(maintain_order=True).filter(_as_of=place).drop("_as_of")
        assert shown(rows) == oracle.shown(run.state(place))
    history = table.history(chosen)
    wanted = [
        (offset, entry["at"], entry["deleted"])
        for offset, entry in enumerate(run.log)
        if offset >= run.start
        and oracle.key_of(entry["row"], KEY) == oracle.normal(list(chosen))[1:]
    ]
    deleted = (
        history["_deleted"].to_list() if "_deleted" in history.columns else [False] * len(wanted)
    )
    times = history["_append_time"].cast(pl.Int64).to_list()
    assert list(zip(history["_offset"].to_list(), times, deleted, strict=True)) == wanted


@LIMITS
@given(
    steps=st.lists(step, max_size=18),
    parts=st.lists(st.floats(0, 1), min_size=1, max_size=4),
    chosen=key,
)
def test_a_table_is_the_fold_of_its_rows(steps, parts, chosen):
    """State, get, diff, states and history equal the oracle's at random places, whatever was done."""
    clock = ManualClock("2026-01-01T12:00:00Z")
    with temp_lab(clock=clock) as lab:
        run = Run(lab, clock)
        for what, value in steps:
            run.do(what, value)
        check(run, parts, chosen)
        run.do("reopen", None)
        check(run, parts, chosen)
        run.lab.close()


@LIMITS
@given(steps=st.lists(step, min_size=3, max_size=18), parts=st.lists(st.floats(0, 1), max_size=4))
def test_the_state_as_of_an_instant_is_that_of_the_rows_appended_by_then(steps, parts):
    """States as of random instants are the oracle's, one by one and several in one query."""
    clock = ManualClock("2026-01-01T12:00:00Z")
    with temp_lab(clock=clock) as lab:
        run = Run(lab, clock)
        begin = clock.now()
        for what, value in steps:
            run.do(what, value)
        clock.set(instant(max(clock.now(), run.last) + 1))
        table = run.stream.table()
        instants = [begin + int(part * (clock.now() - 1 - begin)) for part in parts]
        for micros in instants:
            wanted = run.state(oracle.appended_by(run.log, micros, run.start))
            assert shown(table.as_of(instant(micros)).to_polars()) == oracle.shown(wanted)
        together = table.states([instant(micros) for micros in instants])
        for micros in instants:
            wanted = run.state(oracle.appended_by(run.log, micros, run.start))
            rows = together.unique(maintain_order=True).filter(pl.col("_as_of") == instant(micros))
            assert shown(rows.drop("_as_of")) == oracle.shown(wanted)
        run.lab.close()


def test_states_every_so_often_are_a_time_series(timed_lab, clock):
    """``every=`` gives the whole steps from the first row on that are past; start and stop bound it."""
    stream = timed_lab.create("s", pa.schema([("k", pa.int64()), ("v", pa.int64())]), key="k")
    assert stream.table().states(every="1m").is_empty()
    clock.advance("30s")
    for minute in range(4):  # at 12:00:30, 12:01:30, ...
        stream.append({"k": minute % 2, "v": minute})
        clock.advance("1m")
    table = stream.table()
    found = table.states(every="1m").group_by("_as_of", maintain_order=True).agg("k", "v").rows()
    noon = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
    assert [(at - noon).seconds // 60 for at, *_ in found] == [1, 2, 3, 4]
    assert [values for *_, values in found] == [[0], [0, 1], [1, 2], [2, 3]]
    part = table.states(every="30s", start="2026-01-01T12:02Z", stop="2026-01-01T12:03Z")
    assert part["_as_of"].n_unique() == 2
    with pytest.raises(sl.QueryError, match="too many"):
        table.states(every="1us")
    with pytest.raises(sl.InvalidTime, match="not past"):
        table.states(every="1m", stop="2026-01-01T13:00Z")
    with pytest.raises(sl.QueryError, match="not both"):
        table.states([1, "2026-01-01T12:02Z"])
    with pytest.raises(sl.QueryError, match="states needs places"):
        table.states()
    assert table.states([]).is_empty()


# -- snapshots -----------------------------------------------------------------------------------

NUMBERS = pa.schema([("k", pa.int64()), ("v", pa.int64())])


def numbers(first, count, keys=5):
    values = range(first, first + count)
    return pa.table({"k": [v % keys for v in values], "v": list(values)}, schema=NUMBERS)


def state_of(values, keys=5):
    """The table that these values make, by key."""
    return {v % keys: v for v in values}


def read(table):
    return dict(table.to_polars().rows())


def files(stream):
    return sorted((stream._scan.log.folder / "snapshots").glob("*.arrow"))


def distance(table):
    """How many rows have to be read for the table as it is now."""
    snapshot = table._folded.fix()
    return table._fold(snapshot).distance(snapshot.stop)


def test_the_state_costs_what_its_keys_cost(lab):
    """After one look a state reads no more rows than lie between snapshots, however long the log is."""
    for length in (100, 1000):
        stream = lab.create(f"s{length}", numbers(0, length), key="k")
        assert read(stream.table()) == state_of(range(length))
        for place in random.Random(7).sample(range(length), 30):
            was = stream.table().as_of(place)
            assert distance(was) <= 2 * fold.SPACING_ROWS
            assert read(was) == state_of(range(place))
        rows = sum(snapshots.load(path)[1].num_rows for path in files(stream))
        assert rows <= length
        assert not stream.verify().problems
        assert not stream.verify().notes


def test_views_and_tables_of_another_key_have_their_own_states(lab):
    """A view from an offset on, a view by event time and another key are folded by themselves."""
    stream = lab.create("s", numbers(0, 100), key="k")
    read(stream.table())
    assert read(stream.offsets(50, 53).table()) == {0: 50, 1: 51, 2: 52}
    assert read(stream.offsets(20, 90).table()) == state_of(range(20, 90))
    known = len(files(stream))
    assert len(stream.table("v")) == 100
    assert len(files(stream)) > known
    assert read(stream.table().as_of(73)) == state_of(range(73))
    timed = lab.create(
        "t", {"k": [1, 1, 2] * 20, "at": pa.array(range(60), pa.timestamp("s"))}, key="k", time="at"
    )
    assert len(timed.table()) == 2
    part = timed.between("1970-01-01T00:00:10Z", "1970-01-01T00:00:11Z")
    assert read(part.table()) == {1: dt.datetime(1970, 1, 1, 0, 0, 10)}


def test_another_process_uses_the_snapshots(lab, tmp_path):
    """What one process left another one begins from; a lab that is read only leaves nothing."""
    stream = lab.create("s", numbers(0, 100), key="k")
    program = """
        import sys
        import streamlab as sl
        from streamlab import fold
        fold.SPACING_ROWS, fold.SPACING_KEYS = 7, 1
        with sl.open(sys.argv[1], read_only=sys.argv[2] == "True") as lab:
            print(sorted(lab["s"].table().to_polars().rows()))
            lab["s"].as_of(33).table().to_polars()
    """

    def other(*, read_only):
        command = [sys.executable, "-c", textwrap.dedent(program), str(lab.path), str(read_only)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    wanted = f"{sorted(state_of(range(100)).items())}\n"
    assert other(read_only=True) == wanted
    assert not files(stream)
    assert distance(stream.table()) == 100
    assert other(read_only=False) == wanted
    assert distance(stream.table()) <= fold.SPACING_ROWS
    assert read(stream.table()) == state_of(range(100))
    with sl.open(lab.path, read_only=True) as reading:
        assert read(reading["s"].table()) == state_of(range(100))


def test_a_full_disk_is_no_reason_to_fail(lab, monkeypatch):
    """Without room for a snapshot the state is right, and none is there."""
    stream = lab.create("s", numbers(0, 100), key="k")

    def full(name, real):
        def fail(*args, **kwargs):
            raise OSError(errno.ENOSPC, "no space left")

        return fail

    with faults.changed_disk(monkeypatch, full, ["write"]):
        assert read(stream.table()) == state_of(range(100))
    assert not list(files(stream))
    assert read(stream.table()) == state_of(range(100))
    assert files(stream)


def damages(data, draw):
    """Yield what may become of a file."""
    yield b""
    for _ in range(20):
        yield data[: draw.randrange(len(data))]
        place = draw.randrange(len(data))
        yield data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def test_a_damaged_snapshot_is_not_used_and_goes(lab):
    """Whatever bit of a snapshot is flipped and wherever it is cut, states are right."""
    stream = lab.create("s", numbers(0, 30), key="k")
    read(stream.table())
    path = files(stream)[-1]
    for content in damages(path.read_bytes(), random.Random(3)):
        path.write_bytes(content)
        assert [path.name in note for note in stream.verify().notes] == [True]
        assert read(stream.table()) == state_of(range(30))
        assert path.read_bytes() != content  # it was written again
        assert not stream.verify().notes


def forged(stream, path):
    """Return the content of a snapshot that says it is this one, and has other values."""
    label, rows = snapshots.load(path)
    wrong = pa.table(
        {**{n: rows[n] for n in rows.schema.names}, "v": pa.array([-1] * rows.num_rows)}
    )
    other = stream._scan.log.folder / "elsewhere"
    other.mkdir(exist_ok=True)
    return snapshots.put(other, label, wrong.select(rows.schema.names)).read_bytes()


def test_a_snapshot_counts_only_if_its_checksum_fits(lab, monkeypatch):
    """One with other values under a good one's name is not used; unless nobody looks at checksums."""
    stream = lab.create("s", numbers(0, 30), key="k")
    read(stream.table())
    path = files(stream)[-1]
    content = forged(stream, path)

    def look():
        path.write_bytes(content)
        return read(stream.table())

    assert look() == state_of(range(30))
    with monkeypatch.context() as patch:  # the control
        patch.setattr(snapshots, "checksum", lambda data: int(path.stem.rsplit("-", 1)[1], 16))
        assert -1 in look().values()


def restored(tmp_path):
    """Make a lab that was put back to 20 rows, went on otherwise, and has snapshots from before."""
    for name in ("lab", "copy"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    with sl.open(tmp_path / "lab", sync="os") as lab:
        stream = lab.create("s", numbers(0, 20), key="k")
        shutil.copytree(lab.path, tmp_path / "copy")
        stream.append(numbers(20, 30))
        assert read(stream.table()) == state_of(range(50))
    kept = tmp_path / "lab" / "streams" / "s" / "snapshots"
    shutil.copytree(kept, tmp_path / "copy" / "streams" / "s" / "snapshots")
    lab = sl.open(tmp_path / "copy", sync="os")
    for first in range(1000, 1035, 5):
        lab["s"].append(numbers(first, 5))
    return lab


def test_a_snapshot_of_another_history_is_not_used(tmp_path, monkeypatch):
    """A lab that was put back and went on otherwise goes by its own rows; but not if none looks."""
    with restored(tmp_path) as lab:
        for place in range(20, 55, 3):
            wanted = [*range(20), *range(1000, 1000 + place - 20)]
            assert read(lab["s"].table().as_of(place)) == state_of(wanted)
    monkeypatch.setattr(Fold, "_fits", lambda self, label: True)  # the control
    with restored(tmp_path) as lab:
        wrong = [read(lab["s"].table().as_of(place)) for place in range(45, 55)]
        assert any(set(state.values()) & set(range(20, 50)) for state in wrong)


def test_a_stream_made_anew_goes_by_its_own_rows(lab):
    """A stream of the same name that was dropped leaves its snapshots to nobody."""
    stream = lab.create("s", numbers(0, 50), key="k")
    read(stream.table())
    kept = stream._scan.log.folder / "snapshots"
    shutil.copytree(kept, lab.path / "kept")
    lab.drop("s")
    stream = lab.create("s", numbers(500, 50), key="k")
    shutil.copytree(lab.path / "kept", kept)
    assert read(stream.table()) == state_of(range(500, 550))


def test_what_was_trimmed_is_in_no_state_and_no_snapshot(lab, monkeypatch):
    """A trim takes its rows out of the snapshots; without that they would stay on the disk."""

    def oldest(name):
        stream = lab.create(name, pa.concat_tables([numbers(99, 1, 100), numbers(0, 90)]), key="k")
        read(stream.table())
        view = stream.as_of(60)
        before = read(view.table())
        stream.trim(10)
        assert read(view.table()) == before  # it was taken before, and holds its rows
        assert read(stream.table()) == state_of(range(85, 90))
        assert 99 not in stream.table()
        assert 99 in view.table()
        rows = [snapshots.load(path)[1]["_offset"].to_pylist() for path in files(stream)]
        assert read(stream.table().as_of(30)) == state_of(range(24, 29))
        return min(offset for offsets in rows for offset in offsets)

    assert oldest("s") >= 10
    monkeypatch.setattr(snapshots, "clear", lambda folder, start: None)  # the control
    assert oldest("t") < 10


def test_a_snapshot_that_a_trim_overtakes_is_not_left_behind(lab, monkeypatch):
    """A trim between the fold and the writing of its snapshot leaves no trimmed row on the disk."""
    stream = lab.create("s", numbers(0, 50), key="k")
    real = snapshots.put

    def late(folder, label, rows):
        monkeypatch.setattr(snapshots, "put", real)
        stream.trim(9)
        return real(folder, label, rows)

    monkeypatch.setattr(snapshots, "put", late)
    assert read(stream.table()) == state_of(range(50))
    assert all(snapshots.load(path)[0].oldest >= 9 for path in files(stream))
    assert read(stream.table()) == state_of(range(45, 50))


def test_a_reader_keeps_what_a_remover_takes_away(lab, monkeypatch):
    """Snapshots that go while somebody folds are no loss: what is mapped stays, the rest is read."""
    stream = lab.create("s", numbers(0, 100), key="k")
    read(stream.table())
    real = snapshots.load

    def load(path):
        found = real(path)
        shutil.rmtree(path.parent, ignore_errors=True)
        return found

    monkeypatch.setattr(snapshots, "load", load)
    for place in (100, 51, 13):
        assert read(stream.table().as_of(place)) == state_of(range(place))


KILLS = [(5, "before"), (6, "torn"), (6, "after"), (7, "before"), (7, "after"), (15, "torn")]
"""At which change of the disk: a view is pinned first, then each snapshot is made."""


def test_threads_that_fold_at_once_see_the_same(lab):
    """Readers of one process that leave the same snapshots do not disturb each other."""
    stream = lab.create("s", numbers(0, 300), key="k")
    with ThreadPoolExecutor(8) as pool:
        for place in (300, 200, 100) * 5:
            shutil.rmtree(stream._scan.log.folder / "snapshots", ignore_errors=True)
            tables = [stream.table().as_of(place) for _ in range(8)]
            assert list(pool.map(read, tables)) == [state_of(range(place))] * 8
    assert read(stream.table()) == state_of(range(300))
    assert not stream.verify().notes


def test_a_process_that_is_killed_at_a_snapshot_leaves_right_states(tmp_path):
    """Killed at any change of the disk while it reads a table: the next one has the right state."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        stream = lab.create("s", numbers(0, 100), key="k")
        read(stream.table())
        folder = stream._scan.log.folder / "snapshots"
    program = """
        import sys
        sys.path.insert(0, sys.argv[1])
        import faults
        import streamlab as sl
        from streamlab import fold
        fold.SPACING_ROWS, fold.SPACING_KEYS = 7, 1
        with sl.open(sys.argv[2], sync="os") as lab:
            faults.dying(int(sys.argv[3]), sys.argv[4])
            lab["s"].table().to_polars()
    """
    killed = 0  # in processes of their own: Polars does not survive a fork
    for at, how in KILLS:
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-c", textwrap.dedent(program), str(Path(__file__).parent)]
        done = subprocess.run([*command, str(tmp_path / "lab"), str(at), how], check=False)
        killed += done.returncode == -signal.SIGKILL
        with sl.open(tmp_path / "lab", sync="os") as lab:
            for place in (100, 64, 20):
                assert read(lab["s"].table().as_of(place)) == state_of(range(place))
            assert lab["s"].verify().ok
    assert killed == len(KILLS)


# -- what a table is for others ------------------------------------------------------------------


def test_a_table_is_a_frame_for_whoever_takes_arrow(lab):
    """Polars, pyarrow and SQL read a table; in SQL it is the table of the call."""
    stream = lab.create("s", numbers(0, 12), key="k")
    table = stream.table()
    wanted = state_of(range(12))
    assert dict(pl.DataFrame(table).rows()) == wanted
    assert pa.table(table).schema == table.schema == stream.schema
    relation = lab.sql("SELECT sum(book.v), count(*) FROM book JOIN s USING (k)", book=table)
    lazy = table.scan()
    stream.append(numbers(12, 1))
    assert relation.fetchall()[0][1] == 12
    assert table.dataset().count_rows() == 5
    assert dict(lazy.collect().rows()) == state_of(range(13))
    assert lazy.filter(pl.col("k") == 2).select("v").collect().rows() == [(12,)]
    assert lazy.select("k").head(2).collect().columns == ["k"]
    assert table.as_of(3).to_polars().rows() == [(0, 0), (1, 1), (2, 2)]
    assert bool(table) and not len(lab.create("e", NUMBERS, key="k").table())


def test_a_lazy_table_keeps_the_columns_it_was_made_with(lab):
    """After an evolution a LazyFrame made before gives its own columns; a new one has all."""
    stream = lab.create("s", pa.table({"k": [1], "v": pa.array([5], pa.int32())}), key="k")
    lazy = stream.table().scan()
    stream.evolve(pa.schema([("k", pa.int64()), ("v", pa.int64()), ("w", pa.string())]))
    stream.append([{"k": 2, "v": 6, "w": "x"}])
    assert lazy.collect().schema == pl.Schema({"k": pl.Int64(), "v": pl.Int32()})
    assert stream.table().to_polars().rows() == [(1, 5, None), (2, 6, "x")]


def test_a_table_says_what_it_is(lab, monkeypatch):
    """The repr has the rows, or the columns where those would take long to read."""
    stream = lab.create("s", numbers(0, 12), key="k")
    assert repr(stream.table()).startswith("Table of stream 's' by k: 5 rows, as of offset 12")
    assert "│ 4   ┆ 9   │" in repr(stream.table())
    monkeypatch.setattr("streamlab.table.SHOWN_ROWS", 1)
    assert repr(stream.table()).endswith("\n  k  int64\n  v  int64")
    assert "as of offset 0\n" in repr(lab.create("e", NUMBERS, key="k").table())


def test_what_a_table_refuses_it_names(lab):
    """Keys and places that do not fit are refused with the way out."""
    stream = lab.create("s", pa.table({"k": [1, 1], "g": ["a", "b"], "v": [1, 2]}), key=("k", "g"))
    table = stream.table()
    assert table.get((1, "a")) == table.get({"g": "a", "k": 1}) == {"k": 1, "g": "a", "v": 1}
    assert table.get((2, "a")) is None
    for wrong, what in [(1, "2 columns"), ((1, "a", 2), "2 columns"), ({"k": 1}, "the key is k, g"),
                        (("x", "a"), 'column "k": got string, want int64')]:  # fmt: skip
        with pytest.raises(sl.SchemaMismatch, match=what):
            table.get(wrong)
    with pytest.raises(sl.QueryError, match='no column "x"'):
        stream.table("x")
    with pytest.raises(sl.SchemaMismatch, match="several different"):
        stream.table([])
    with pytest.raises(sl.OffsetOutOfRange):
        table.diff(0, 3)
    stream.delete((1, "a"))
    with pytest.raises(sl.QueryError, match="own key, k, g"):
        stream.table("k")
    assert table.get((1, "a")) is None


# -- streams of changes --------------------------------------------------------------------------


def events(*changes):
    row = pa.struct([("id", pa.int64()), ("n", pa.string())])
    rows = [{"op": op, "before": before, "after": after} for op, before, after in changes]
    return pa.Table.from_pylist(
        rows, schema=pa.schema([("op", pa.string()), ("before", row), ("after", row)])
    )


def one(key, n="x"):
    return {"id": key, "n": n}


def test_change_events_are_the_table_that_they_make(lab):
    """Debezium's ops: c, r and u put, d removes, a changed key moves, t empties, others say nothing."""
    stream = lab.create("c", events(
        ("r", None, one(1)), ("c", None, one(2)), ("u", one(1), one(1, "y")), ("m", None, None),
        ("u", None, one(3)), ("u", one(2), one(4, "z")), ("d", one(9), None), (None, None, None),
        ("d", one(3), None), ("c", None, one(None)), ("t", None, None), ("c", None, one(5)),
    ))  # fmt: skip
    with pytest.raises(sl.QueryError, match="no key"):
        stream.table()
    table = stream.table(key="id")
    assert table.schema.names == ["id", "n"]
    wanted = [[], [1], [1, 2], [2, 1], [2, 1], [2, 1, 3], [1, 3, 4], [1, 3, 4], [1, 3, 4], [1, 4],
              [1, 4, None], [], [5]]  # fmt: skip
    for place, ids in enumerate(wanted):
        assert table.as_of(place).to_polars()["id"].to_list() == ids
    assert table.as_of(10).get(4) == one(4, "z")
    assert table.history(2)["_offset"].to_list() == [1, 5, 10]
    assert table.history(4)["_offset"].to_list() == [5, 10]
    assert table.diff(2, 6).select("op", "id").rows() == [("d", 2), ("u", 1), ("c", 3), ("c", 4)]
    with pytest.raises(sl.QueryError, match="holds changes"):
        stream.filter(pl.col("op") == "c").join(table, on="op")
    with pytest.raises(sl.QueryError, match='no column "op"'):
        stream.table("op")


def test_a_change_that_does_not_say_of_what_is_named(lab):
    """A deletion without before needs the key beside it; a creation needs its row."""
    stream = lab.create("c", events(("c", None, one(1)), ("d", None, None)))
    with pytest.raises(sl.QueryError, match='change row 1 has op "d" and a null "before"'):
        stream.table("id").to_polars()
    assert len(stream.as_of(1).table("id")) == 1
    beside = events(("c", None, one(1)), ("d", None, None)).append_column("id", pa.array([1, 1]))
    keyed = lab.create("k", beside, key="id")
    assert len(keyed.as_of(1).table()) == 1
    assert not len(keyed.table())
    keyed.append(events(("c", None, one(7))).append_column("id", pa.array([7])))
    keyed.delete(7)
    assert not len(keyed.table())
    assert len(keyed.as_of(3).table()) == 1


@LIMITS
@given(
    steps=st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from("crud"),
                st.sampled_from([0.0, -0.0, 1.0, NAN, None]),
                st.integers(0, 3),
            ),
            st.just(("t", None, None)),
        ),
        max_size=60,
    ),
    cuts=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    part=st.floats(0, 1),
)
def test_a_table_of_changes_is_their_fold(steps, cuts, part):
    """At random places, with snapshots and appends cut at random, as in plain Python."""
    kind = pa.struct([("id", pa.float64()), ("n", pa.int64())])
    schema = pa.schema([("op", pa.string()), ("before", kind), ("after", kind)])
    rows, states, table = [], [[]], {}
    for op, k, n in steps:
        row = None if op == "t" else {"id": k, "n": n}
        before, after = (row, None) if op == "d" else (None, row)
        rows.append({"op": op, "before": before, "after": after})
        table.pop(oracle.normal(k), None)
        if op == "t":
            table.clear()
        elif op != "d":
            table[oracle.normal(k)] = row
        states.append(oracle.shown(table))
    with temp_lab() as lab:
        stream = lab.create("c", schema)
        at = turn = 0
        while at < len(rows):
            size = cuts[turn % len(cuts)]
            stream.append(pa.Table.from_pylist(rows[at : at + size], schema=schema))
            at, turn = at + size, turn + 1
        for place in (round(part * len(rows)), len(rows), 0, round(part * len(rows))):
            was = stream.as_of(place).table("id")
            assert shown(was.to_polars()) == states[place]


def test_the_way_rows_are_read_is_part_of_what_a_snapshot_is_of():
    """Tables of one stream with different keys have different snapshots."""
    schema = events().schema
    names = [
        Keyed(k, own=False).identity(schema) for k in (("id",), ("n",), ("id", "n"), ("n", "id"))
    ]
    assert len(set(names)) == 4
    assert all(len(name) == 16 for name in names)
