"""Law 3: what a view shows is fixed when it is taken, here and in other processes, or it raises."""

import contextlib
import datetime as dt
import gc
import json
import os
import random
import shutil
import signal

import polars as pl
import pyarrow as pa
import pytest
from faults import finish, forked, scaled, seeded, warm_up
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fork import SCHEMA, SMALL, START, filled, ticks
from test_laws import LIMITS, Run, expected, instant, rows_of, step

import streamlab as sl
from streamlab import views
from streamlab.log.manifest import read_manifest
from streamlab.log.reader import LogReader
from streamlab.testing import ManualClock, temp_lab

# -- the law, in one process -------------------------------------------------------------------

WAYS = {
    "arrow": lambda v, _: rows_of(v.to_arrow()),
    "polars": lambda v, _: rows_of(v.to_polars().to_arrow()),
    "dataset": lambda v, _: rows_of(v.dataset().to_table()),
    "stream": lambda v, _: rows_of(pa.table(v)),
    "sql": lambda v, lab: rows_of(
        lab.sql("SELECT * FROM v ORDER BY _offset", v=v).to_arrow_table()
    ),
    "query": lambda v, _: rows_of(v.filter(pl.col("_offset") >= 0).collect().to_arrow()),
    "head": lambda v, _: rows_of(v.head(10**6).to_arrow()),
    "tail": lambda v, _: rows_of(v.tail(10**6).to_arrow()),
    "follow": lambda v, _: [r for b in v.follow("earliest") for r in rows_of(pa.table(b))],
    "copy": lambda v, _: rows_of(v.as_of(v.end_offset).to_arrow()),
}

taken = st.tuples(
    st.just("take"),
    st.tuples(st.sampled_from(["offset", "time", "between", "offsets", "lab", "frozen"]),
              st.floats(0, 1), st.floats(0, 1)),
)  # fmt: skip
happening = st.one_of(
    step.filter(lambda s: s[0] != "reopen"),
    taken,
    st.tuples(st.just("retain"), st.none()),
    st.tuples(st.just("fork"), st.none()),
    st.tuples(st.just("let go"), st.floats(0, 1)),
)


def from_disk(view):
    """Forget the files that are mapped, so that the next read finds what is there now."""
    view._scan.log.reader._files.clear()
    return view


class Held:
    """Views that somebody holds, each with the rows that it must show."""

    def __init__(self, run):
        self.run = run
        self.views = []
        self.forks = 0

    def do(self, what, value):
        run = self.run
        if what == "take":
            self.take(*value)
        elif what == "retain":
            kept = run.stream.trim()
            assert kept >= run.oracle.start
            run.oracle.trim(kept)
        elif what == "fork":
            self.forks += 1
            fork = run.stream.fork(f"fork-{self.forks}")
            self.views.append((fork.as_of(fork.end_offset), expected(run.oracle)))
        elif what == "let go":
            del self.views[: int(value * len(self.views))]
            gc.collect()
        else:
            run.do(what, value)

    def take(self, how, low, high):
        run, oracle = self.run, self.run.oracle
        run.clock.advance("1s")
        self.do("retain", None)  # or the stream does so by itself, while the oracle is asked
        width = oracle.end - oracle.start
        a, b = sorted([oracle.start + int(low * width), oracle.start + int(high * width)])
        time = oracle.rows[a]["append_time"] if a < oracle.end else run.clock.now() - 1
        since = oracle.rows[a]["ts"] if a < oracle.end else 0
        view, offsets = {
            "offset": lambda: (run.stream.as_of(b), range(oracle.start, b)),
            "time": lambda: (run.stream.as_of(instant(time)), oracle.as_of(time)),
            "between": lambda: (
                run.stream.between(instant(since), None), oracle.between(since, 2**62)
            ),
            "offsets": lambda: (run.stream.offsets(a, b), range(a, b)),
            "lab": lambda: (run.lab.as_of(instant(time))["s"], oracle.as_of(time)),
            "frozen": lambda: (run.lab.as_of(run.lab.freeze())["s"], None),
        }[how]()  # fmt: skip
        self.views.append((view, expected(oracle, offsets)))

    def check(self, rng):
        for view, rows in self.views:
            from_disk(view)
            way = rng.choice(sorted(WAYS))
            assert WAYS[way](view, self.run.lab) == rows, way
            assert len(view) == len(rows)


def held_through(steps, rng, retention):
    """Do what happens, looking at every view that is held after each step."""
    clock = ManualClock("2026-01-01T12:00:00Z")
    with temp_lab(clock=clock) as lab:
        held = Held(Run(lab, clock, retention=retention))
        for what, value in steps:
            held.do(what, value)
            held.check(rng)
        held.run.lab.close()


@settings(LIMITS, max_examples=scaled(30))
@given(steps=st.lists(happening, max_size=20), seed=st.integers(0, 9))
def test_a_held_view_shows_the_same_rows_whatever_happens(steps, seed):
    """Appends, heartbeats, seals, trims, retention by age and forks change nothing of a view."""
    held_through(steps, random.Random(seed), "5s")


def test_control_views_without_pins_are_found_out(monkeypatch):
    """The same harness finds rows missing when a view does not pin them."""
    monkeypatch.setattr(LogReader, "pin", lambda *_, **__: None)
    rng = seeded("control")
    event = {"ts": 1_767_225_600_000_000, "k": "a", "v": 1}
    steps = [("append", [event] * 30), ("seal", None)] * 3
    steps += [("take", ("offset", 1.0, 1.0)), ("seal", None), ("trim", 1.0)]
    gone = (sl.OffsetOutOfRange, pa.ArrowInvalid, pl.exceptions.ComputeError)
    with pytest.raises(gone, match="has been removed") as caught:
        held_through(steps, rng, None)
    print("control:", str(caught.value)[:80])


# -- other processes ---------------------------------------------------------------------------


class Other:
    """A child process that does what it is told, and answers."""

    def __init__(self, path, answer):
        self.reading, self.writing = os.pipe()

        def work(say):
            os.close(self.writing)
            commands = os.fdopen(self.reading, "rb")
            with sl.open(path, sync="os") as lab:
                keep = {}
                for line in commands:
                    say(answer(lab, keep, *json.loads(line)))

        self.child = forked(work)
        os.close(self.reading)

    def ask(self, *command):
        os.write(self.writing, json.dumps(command).encode() + b"\n")
        answer = json.loads(self.child.pipe.readline())
        assert not (isinstance(answer, dict) and "error" in answer), answer["error"]
        return answer

    def end(self):
        os.close(self.writing)
        assert finish(self.child)[1] == 0

    def kill(self):
        os.kill(self.child.pid, signal.SIGKILL)
        os.waitpid(self.child.pid, 0)
        self.child.pipe.close()
        os.close(self.writing)


def numbers(view):
    return view.to_arrow()["n"].to_pylist()


def viewing(lab, keep, what, *rest):
    """What the process with the views does."""
    stream = lab["s"]
    if what == "take":
        name, start, stop = rest
        view = stream.offsets(max(start, stream.earliest_offset), stop)
        keep[name] = view, list(range(view.earliest_offset, stop))
        return [view.earliest_offset, stop]
    if what == "let go":
        del keep[rest[0]]
        gc.collect()
        return None
    wrong = []
    for name, (view, want) in keep.items():
        try:
            got = numbers(from_disk(view))
        except sl.StreamlabError as error:
            wrong.append(f"{name}: {error}")
        else:
            wrong += [f"{name}: {got[:3]}"] * (got != want)
    return wrong


def writing(lab, _, what, *rest):
    """What the process with the rows does."""
    stream = lab["s"]
    if what == "append":
        stream.append({"n": range(rest[0], rest[0] + rest[1])})
    elif what == "seal":
        stream.seal()
    elif what == "trim":
        stream.trim(rest[0])
    elif what == "let go":
        stream._scan.log.writer._leave()
    return


def between_processes(path, rng, turns, *, child_views):
    """Views in one process and trims in the other, at random; return what was wrong, and the pair."""
    with sl.open(path, sync="os") as lab:
        lab.create("s", pa.schema([("n", pa.int64())]), settings=SMALL)
    child = Other(path, viewing if child_views else writing)
    keep, wrong, end, held = {}, [], 0, {}
    with sl.open(path, sync="os") as lab:
        here = lambda *command: (writing if child_views else viewing)(lab, keep, *command)  # noqa: E731
        view, write = (child.ask, here) if child_views else (here, child.ask)
        for turn in range(turns):
            for _ in range(rng.randrange(1, 4)):
                write("append", end, count := rng.choice([3, 40, 400]))
                end += count
                if rng.random() < 0.5:
                    write("seal")
            stop = rng.randrange(end + 1)
            start = rng.randrange(stop + 1)
            with contextlib.suppress(sl.OffsetOutOfRange):
                held[str(turn)] = view("take", str(turn), min(start, stop), end)
            write("trim", rng.randrange(end + 1))
            wrong += view("check")
            if held and rng.random() < 0.3:
                name = rng.choice(sorted(held))
                del held[name]
                view("let go", name)
        return wrong, child, held


@pytest.mark.parametrize("child_views", [True, False])
def test_views_in_one_process_outlive_trims_in_another(tmp_path, child_views):
    """At random: each view shows its rows until it is let go; then nothing of it is left on disk."""
    warm_up(tmp_path)
    rng = seeded("processes", child_views)
    for number in range(scaled(2)):
        path = tmp_path / f"lab-{number}"
        wrong, child, _ = between_processes(path, rng, 12, child_views=child_views)
        assert not wrong, wrong[:3]
        child.end()
        with sl.open(path) as lab:
            lab["s"].trim(lab["s"].end_offset)
            assert read_manifest(path / "streams/s/manifest").retired == ()
            assert not list((path / "streams/s").glob("*.arrow"))
            assert not list((path / "streams/s/pins").iterdir())


def test_the_views_of_a_process_that_was_killed_hold_nothing(tmp_path):
    """Its pins are dead with it: the next trim removes what they held."""
    warm_up(tmp_path)
    path = tmp_path / "lab"
    wrong, child, held = between_processes(path, seeded("killed"), 8, child_views=True)
    assert not wrong
    assert held
    with sl.open(path) as lab:
        lab["s"].trim(lab["s"].end_offset)
        kept = read_manifest(path / "streams/s/manifest").retired
        child.kill()
        lab["s"].trim(lab["s"].end_offset)
        assert len(kept) > len(read_manifest(path / "streams/s/manifest").retired) == 0


def test_control_views_elsewhere_without_pins_are_found_out(tmp_path, monkeypatch):
    """The same harness finds views broken by trims when they do not pin."""
    warm_up(tmp_path)
    monkeypatch.setattr(LogReader, "pin", lambda *_, **__: None)
    wrong, child, _ = between_processes(tmp_path / "lab", seeded("c"), 12, child_views=True)
    child.end()
    print(f"control: {len(wrong)} violations")
    assert wrong
    assert all("removed" in text for text in wrong), "other rows were shown"


# -- limits of size ----------------------------------------------------------------------------


def test_a_size_limit_takes_rows_from_a_view_and_it_says_so(timed_lab, clock, monkeypatch):
    """Then the view raises with what is left; it never shows other rows."""
    from streamlab.log import maintain

    monkeypatch.setattr(maintain, "READING_SECONDS", 0.0)
    stream = timed_lab.create("s", SCHEMA, time="ts", settings=SMALL, retention="20KB")
    for turn in range(10):
        stream.append(ticks(turn * 100, 100))
    view, last = stream.as_of(1000), stream.offsets(990, 1000)
    frozen = timed_lab.freeze()
    want = last.to_arrow()
    for turn in range(10, 60):
        stream.append(ticks(turn * 100, 100))
        stream.seal()
        stream.trim()
    assert 990 < stream.earliest_offset < 6000
    for read in (view.to_arrow, view.to_polars, view.head, view.collect, last.to_pandas,
                 lambda: list(view.follow("earliest")), lambda: view.fork("f"),
                 lambda: timed_lab.pack(timed_lab.path.parent / "x.zip", view)):  # fmt: skip
        from_disk(stream)
        with pytest.raises(
            sl.OffsetOutOfRange, match=f"begins at {stream.earliest_offset}"
        ) as caught:
            read()
        assert caught.value.available == range(stream.earliest_offset, 6000)
    with pytest.raises(
        sl.OffsetOutOfRange, match=f"what is left begins at {stream.earliest_offset}"
    ):
        timed_lab.as_of(frozen)
    assert len(view) == 1000
    assert want.num_rows == 10
    assert "f" not in timed_lab


# -- frozen values -----------------------------------------------------------------------------


def test_a_frozen_value_opens_in_another_process(tmp_path):
    """It is JSON: what one process froze, another one reads, whatever came since."""
    warm_up(tmp_path)
    path = tmp_path / "lab"
    with sl.open(path, sync="os") as lab:
        stream = filled(lab)
        lab.create("t", {"n": [1, 2]})
        text = json.dumps(lab.freeze())
        want = [stream.to_arrow()["v"].to_pylist(), [1, 2]]
        stream.append(ticks(500, 50))
        stream.seal()
        lab["t"].append({"n": [3]})

        def work(say):
            with sl.open(path) as other:
                then = other.as_of(json.loads(text))
                say([then["s"].to_arrow()["v"].to_pylist(), numbers(then["t"])])
                say(then.freeze()["streams"] == json.loads(text)["streams"])

        assert finish(forked(work)) == ([want, True], 0)


def restored(tmp_path):
    """A lab that was frozen, put back as it was before, and appended to again."""
    path, copy = tmp_path / "lab", tmp_path / "copy"
    with sl.open(path) as lab:
        lab.create("s", {"n": [1, 2]})
    shutil.copytree(path, copy)
    with sl.open(path) as lab:
        lab["s"].append({"n": [3, 4]})
        frozen = lab.freeze()
    shutil.rmtree(path)
    copy.rename(path)
    with sl.open(path) as lab:
        lab["s"].append({"n": [30]})
        lab["s"].append({"n": [40, 50]})
        return numbers(lab.as_of(frozen)["s"])


def test_a_lab_that_was_restored_is_not_taken_for_what_was_frozen(tmp_path):
    """Other rows at the same offsets are HistoryChanged, not an answer."""
    with pytest.raises(sl.HistoryChanged, match="does not hold the rows that were frozen"):
        restored(tmp_path)


def test_control_a_frozen_value_that_is_not_checked_is_found_out(tmp_path, monkeypatch):
    """Without the check the same lab gives other rows."""
    monkeypatch.setattr(views, "_append_time_below", lambda *_: 0)
    assert restored(tmp_path) == [1, 2, 30, 40]


def test_frozen_rows_that_were_lost_are_missed(tmp_path):
    """A lab that was restored and ends before what was frozen says where it ends."""
    path, copy = tmp_path / "lab", tmp_path / "copy"
    with sl.open(path) as lab:
        lab.create("s", {"n": [1, 2]})
    shutil.copytree(path, copy)
    with sl.open(path) as lab:
        lab["s"].append({"n": [3]})
        frozen = lab.freeze()
    with sl.open(copy) as lab, pytest.raises(sl.HistoryChanged, match="ends at 2"):
        lab.as_of(frozen)


def test_a_stream_that_was_dropped_and_made_anew_is_not_what_was_frozen(lab):
    """Nor is one that is not there; a fork in its place is another stream."""
    stream = filled(lab)
    frozen, fork = lab.freeze(), stream.fork("f")
    lab.drop("s")
    with pytest.raises(sl.StreamNotFound):
        lab.as_of(frozen)
    fork.fork("s")
    with pytest.raises(sl.HistoryChanged, match="made anew"):
        lab.as_of(frozen)


@pytest.mark.parametrize(
    "value",
    [{}, {"streams": []}, {"streams": {"s": 1}}, {"streams": {"s": {"id": "x"}}}]
    + [{"streams": {"s": {"id": "", "start": a, "end": b, "append_time": 1}}}
       for a, b in ((2, 1), (-1, 1), ("a", 1), (0, None), (0.5, 1), (True, 2))],
)  # fmt: skip
def test_what_is_no_frozen_value_is_refused(lab, value):
    """Anything but what `freeze` gave is named as such."""
    lab.create("s", {"n": [1]})
    with pytest.raises(sl.InvalidTime, match="freeze"):
        lab.as_of(value)


def test_a_view_of_the_lab_freezes_to_itself(timed_lab, clock):
    """What is frozen of a past is that past."""
    stream = timed_lab.create("s", {"n": [1]})
    clock.advance("1m")
    stream.append({"n": [2]})
    timed_lab.create("later", {"n": [1]})
    clock.advance("1m")
    past = timed_lab.as_of("2026-01-01T12:00:30Z")
    frozen = past.freeze()
    assert list(frozen["streams"]) == ["s"]
    assert numbers(timed_lab.as_of(frozen)["s"]) == [1]
    assert numbers(past.as_of(frozen)["s"]) == [1]
    assert list(past.as_of("2026-01-01T12:00:10Z")) == ["s"]
    assert numbers(past.as_of("2026-01-01T12:01:30Z")["s"]) == [1]
    with pytest.raises(sl.StreamNotFound):
        past.as_of(timed_lab.freeze())
    assert list(timed_lab.as_of("2026-01-01T12:00:00Z")) == ["s"]  # the very instant it was made


# -- every way of asking -----------------------------------------------------------------------


def answers(lab, stream, tmp_path):
    """Everything that can be asked of a stream, as things that compare."""
    window = stream.window(sl.tumbling("7s"), by="k", delay="1s")
    counted = window.agg(n=pl.len(), total=pl.col("v").sum())
    at = START + dt.timedelta(seconds=60)
    name = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    yield "rows", stream.to_arrow()
    yield "frame", stream.to_polars()
    yield "pandas", pl.from_pandas(stream.to_pandas()[["_offset", "v"]])
    yield "lazy", stream.scan().filter(pl.col("v") > 70).select("v", "_offset").collect()
    yield "dataset", stream.dataset().to_table(columns=["v"])
    yield "ends", (stream.head(3), stream.tail(3), len(stream), stream.end_offset)
    yield "times", (stream.stats().stream_time, stream.stats().append_time)
    yield "places", (stream.find(at), stream.find(at, "append"), stream.find("2030-01-01"))
    yield "narrower", stream.between(at, at + dt.timedelta(seconds=20)).to_arrow()
    yield "from a time", pa.concat_tables(pa.table(b) for b in stream.follow(at, timeout=0))
    yield "windows", counted.collect()
    yield "final", counted.collect(emit="final")
    yield "late", window.agg(pl.len()).late()
    yield "lateness", counted.lateness()
    yield "trace", counted.trace(k="k1", window_start=START + dt.timedelta(seconds=63))
    yield "followed", pl.concat(counted.follow(timeout=0))
    yield "unique", stream.unique("k", within="5s").collect()
    yield "sessions", stream.window(sl.session("3s"), by="k").agg(pl.col("v").median()).collect()
    yield "as of join", stream.join_asof(stream.select("ts", w="v"), tolerance="5s").collect()
    yield "table", stream.table().to_polars().sort("k")
    yield "with table", stream.select("ts", "k").join(stream.table(), on="k").collect()
    yield "sql", lab.sql("SELECT k, sum(v) FROM s GROUP BY k ORDER BY k", s=stream).pl()
    yield "exported", sl.export(stream, f"{name}.parquet") and pl.read_parquet(f"{name}.parquet")
    yield "copied", stream.to_duckdb(f"{name}.duckdb", "t")


def shown(value):
    if isinstance(value, pa.Table):
        value = pl.from_arrow(value)
    if isinstance(value, pl.DataFrame):
        value = value.drop("_append_time", strict=False)
        return value.columns, value.rows()
    return [shown(part) for part in value] if isinstance(value, tuple) else value


@pytest.mark.filterwarnings("ignore:.*came too late")
def test_every_read_and_query_accepts_a_view(lab, tmp_path):
    """What a view answers is what a stream of just those rows answers, also after they are trimmed."""
    stream = filled(lab, appends=20)
    stream.append(ticks(20, 30))
    fork = stream.fork("f", 150)
    want = [(what, shown(value)) for what, value in answers(lab, fork, tmp_path)]
    stream.append(ticks(900, 30))
    by_offset = stream.as_of(150)
    by_place = stream.offsets(0, 150)
    frozen = lab.as_of({**lab.freeze(), "streams": {"s": views.frozen(by_offset._scan)}})
    stream.seal()
    stream.trim(stream.end_offset)
    from_disk(stream)
    for view in (by_offset, by_place, frozen["s"]):
        for (what, expected_), (_, got) in zip(want, answers(lab, view, tmp_path), strict=True):
            assert shown(got) == expected_, what


def test_sql_and_queries_of_a_lab_as_it_was(timed_lab, clock):
    """``lab.as_of(t).sql`` and ``.query`` see every stream as of then, also when all is trimmed."""
    stream = filled(timed_lab, appends=20)
    other = timed_lab.create("other", {"n": [1, 2]})
    text = "SELECT window_start, count(*) AS n FROM tumble(s, INTERVAL '10 seconds') GROUP BY ALL"
    want = timed_lab.query(text).collect()
    clock.advance("1m")
    then = timed_lab.as_of("2026-01-01T12:00:30Z")
    relation = then.sql("SELECT count(*), sum(v) FROM s, other")
    stream.append(ticks(900, 30))
    other.append({"n": [3]})
    for one in (stream, other):
        one.seal()
        one.trim(one.end_offset)
    assert relation.fetchall() == [(400, sum(range(200)) * 2)]
    assert then.sql("SELECT count(*) FROM other JOIN s ON true").fetchall() == [(400,)]
    assert then.query(text).collect().equals(want)
    assert "as of 2026-01-01T12:00:30Z" in repr(then)
    with pytest.raises(sl.QueryError):
        then.sql("SELECT * FROM nothing")
    for change in (then.drop, then["s"].trim, then["s"].delete, then["s"].append):
        with pytest.raises(sl.ReadOnly):
            change("s")


def test_a_relation_keeps_its_rows_after_everything_else_is_forgotten(lab):
    """What was made of a view pins as the view did."""
    stream = filled(lab)
    stream.seal()
    made = [
        lab.sql("SELECT sum(v) FROM s"),
        stream.as_of(300).scan().select(pl.col("v").sum()),
        stream.as_of(300).dataset(),
        stream.as_of(300).select("ts", "v"),
        stream.as_of(300).table(),
        pa.RecordBatchReader.from_stream(stream.as_of(300)),
    ]
    gc.collect()
    stream.trim(300)
    from_disk(stream)
    total = sum(range(300))
    assert made[0].fetchall() == [(total,)]
    assert made[1].collect().item() == total
    assert sum(made[2].to_table()["v"].to_pylist()) == total
    assert made[3].collect()["v"].sum() == total
    assert made[4].to_polars().height == 3
    assert sum(made[5].read_all()["v"].to_pylist()) == total
    del made
    gc.collect()
    stream.trim(300)
    assert read_manifest(stream._scan.log.folder / "manifest").retired == ()


# -- what was found ----------------------------------------------------------------------------


def test_a_view_pins_no_more_than_its_rows(lab):
    """A view of a few rows does not keep the files of all the others."""
    stream = filled(lab)
    stream.seal()
    some = [stream.offsets(100, 110), stream.as_of(5), stream.between(START, START).offsets(0, 0)]
    stream.trim(300)
    kept = read_manifest(stream._scan.log.folder / "manifest").retired
    assert all(s.base <= 110 < s.stop or s.base <= 5 < s.stop for s in kept)
    assert len(kept) == 2
    assert [len(view) for view in some] == [10, 5, 0]
    assert some[0].find("2030-01-01") == 110


def test_a_view_keeps_its_columns(lab):
    """A stream that evolves or takes its first deletion leaves its views, and frozen values, as they were."""
    stream = filled(lab)
    view, frozen, want = stream.as_of(300), lab.freeze(), stream.to_arrow()
    stream.evolve(SCHEMA.append(pa.field("extra", pa.int32())))
    stream.delete("k1")
    for one in (view, lab.as_of(frozen)["s"]):
        assert one.to_arrow().equals(want)
        assert one.to_polars().columns == want.column_names
        assert one.schema == SCHEMA
        assert one.table().to_polars().height == 3
    assert "extra" in stream.as_of(300).to_arrow().column_names


def test_a_view_of_a_stream_that_was_made_anew_never_shows_the_new_one(lab):
    """Its own rows in its own columns, or that the stream was dropped."""
    stream = filled(lab)
    view, lazy, want = stream.as_of(300), stream.as_of(300).scan(), stream.to_arrow()
    follower, said = stream.follow("earliest"), []
    lab.drop("s")
    lab.create("s", {"other": [1, 2, 3]})
    for read in (view.to_arrow, lambda: lazy.collect().to_arrow(), lambda: pa.table(view)):
        try:
            got = read()
        except (sl.StreamNotFound, pa.ArrowInvalid) as error:
            said.append(str(error))
            continue
        assert rows_like(got) == rows_like(want)
    assert all("was dropped" in text for text in said)
    for read in (stream.to_arrow, lambda: stream.filter(pl.col("v") > 0), lambda: repr(stream)):
        with pytest.raises(sl.StreamNotFound, match="dropped"):
            read()
    with pytest.raises(sl.StreamNotFound, match="dropped"):
        next(follower)


def rows_like(table):
    return pl.from_arrow(table).select("_offset", "ts", "k", "v").rows()


def test_following_a_view_from_an_instant_begins_there_after_a_trim(lab):
    """The place of an instant is looked for in the view, not in what is left of the stream."""
    stream = filled(lab)
    view = stream.as_of(300)
    at = START + dt.timedelta(seconds=100)
    want = view.find(at)
    stream.seal()
    stream.trim(250)
    from_disk(view)
    assert next(view.follow(at)).column("_offset")[0].as_py() == want
    assert view.find(at) == want
    assert view.between(at, None).earliest_offset == want


def test_a_join_with_the_table_of_a_view_is_as_before_the_trim(timed_lab, clock):
    """Rows meet the table as it was when they were appended, also when that was removed since."""
    prices = timed_lab.create("prices", {"k": ["a"], "p": [0]}, key="k", settings=SMALL)
    orders = timed_lab.create("orders", pa.schema([("k", pa.string()), ("n", pa.int64())]))
    for number in range(1, 6):
        clock.advance("1s")
        orders.append({"k": ["a"], "n": [number]})
        clock.advance("1s")
        prices.append({"k": ["a"], "p": [number]})
        prices.seal()
    query = orders.join(prices.as_of(6).table(), on="k")
    want = query.collect()
    assert want["p"].to_list() == [0, 1, 2, 3, 4]
    prices.trim(4)
    from_disk(prices)
    assert query.collect().equals(want)


def test_an_empty_view_answers_after_everything_is_gone(lab):
    """It has no rows, and the stream time of its place."""
    stream = filled(lab)
    views_ = [stream.offsets(at, at) for at in (0, 55, 150, 300)]
    counted = [v.window(sl.tumbling("10s"), by="k").agg(n=pl.len()) for v in views_]
    before = [(v.stats(), q.collect().height) for v, q in zip(views_, counted, strict=True)]
    stream.seal()
    stream.trim(300)
    from_disk(stream)
    after = [(v.stats(), q.collect().height) for v, q in zip(views_, counted, strict=True)]
    assert [(s.stream_time, s.rows, n) for s, n in after] == [
        (s.stream_time, s.rows, n) for s, n in before
    ]
    assert "0 rows" in repr(views_[1])
