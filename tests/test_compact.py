"""Compaction against an oracle in plain Python that never forgets a row."""

import datetime as dt
import gc
import math
import struct

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab.lab import Lab
from streamlab.log import format as formats
from streamlab.log import maintain, manifest, reader
from streamlab.testing import ManualClock, temp_lab

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
BASE = 1_767_225_600_000_000  # 2026-01-01
STEP = 1_000_000
NEVER = -(2**63)
SCHEMA = pa.schema(
    [
        ("ts", pa.timestamp("us", "UTC")),
        ("f", pa.float64()),
        ("s", pa.string()),
        ("v", pa.int64()),
    ]
)


def instant(micros):
    return EPOCH + dt.timedelta(microseconds=micros)


def bits(number):
    return None if number is None else struct.pack("<d", number)


class Oracle:
    """Every row there ever was, and which of them compaction would have left."""

    def __init__(self, timed):
        self.timed = timed
        self.rows = []  # dicts with append_time, S and the S that the row met
        self.kept = set()  # offsets
        self.start = 0
        self.compacted = 0
        self.stream_time = NEVER

    def append(self, rows, append_time):
        for row in rows:
            met = self.stream_time
            event = row["ts"] if self.timed else append_time
            self.stream_time = max(met, event)
            self.kept.add(len(self.rows))
            self.rows.append(
                {"deleted": False, **row, "event": event, "append_time": append_time, "met": met,
                 "S": self.stream_time}
            )  # fmt: skip

    def there(self):
        return sorted(o for o in self.kept if o >= self.start)

    @staticmethod
    def key(row):
        number = row["f"]
        if number is not None:
            number = "nan" if math.isnan(number) else number + 0.0  # -0.0 + 0.0 is 0.0
        return number, row["s"]

    def fold(self, place):
        """The table as of a place, from all rows there ever were from the start on."""
        last = {}
        for offset in range(self.start, place):
            last[self.key(self.rows[offset])] = offset
        return sorted(o for o in last.values() if not self.rows[o]["deleted"])

    def after(self, limit, now, delete_retention):
        """What compaction up to a limit leaves below it."""
        last = {}
        for offset in self.there():
            if offset < limit:
                last[self.key(self.rows[offset])] = offset
        return {
            o
            for o in last.values()
            if not (
                self.rows[o]["deleted"] and self.rows[o]["append_time"] < now - delete_retention
            )
        }

    def compact(self, limit, left):
        self.kept = {o for o in self.kept if o < self.start or o >= limit} | left
        self.compacted = limit


class Run:
    """A real stream and the oracle, told the same things."""

    def __init__(self, lab, clock, timed, lag, delete_retention, partitions=1):
        self.lab, self.clock, self.lag, self.delete_retention = lab, clock, lag, delete_retention
        self.oracle = Oracle(timed)
        self.stream = lab.create(
            "s", SCHEMA, time="ts" if timed else None, key=["f", "s"], cleanup="compact",
            partitions=partitions,
            settings=sl.Settings(
                segment_bytes=4096, max_ahead=None, compact_lag=dt.timedelta(microseconds=lag),
                delete_retention=dt.timedelta(microseconds=delete_retention),
            ),
        )  # fmt: skip
        self.last = 0

    def tick(self):
        self.last = max(self.last + 1, self.clock.now())
        return self.last

    def do(self, what, value):
        oracle = self.oracle
        if what == "append":
            columns = {f.name: pa.array([r[f.name] for r in value], f.type) for f in SCHEMA}
            self.stream.append(pa.table(columns, schema=SCHEMA))
            if value:
                oracle.append(value, self.tick())
        elif what == "delete":
            ts = None
            if oracle.timed:  # a deletion bears stream time, the append time while there is none
                ts = oracle.stream_time
                if ts == NEVER:
                    ts = max(self.last + 1, self.clock.now())
            self.stream.delete((value["f"], value["s"]))
            row = {"ts": ts, "f": value["f"], "s": value["s"], "v": None, "deleted": True}
            oracle.append([row], self.tick())
        elif what == "heartbeat":
            if value > oracle.stream_time:
                self.tick()
            oracle.stream_time = max(oracle.stream_time, value)
            self.stream.advance(instant(value))
        elif what == "seal":
            self.stream.seal()
        elif what == "trim":
            place = oracle.start + int(value * (len(oracle.rows) - oracle.start))
            oracle.start = place
            self.stream.trim(place)
        elif what == "wait":
            self.clock.advance(dt.timedelta(microseconds=value))
        elif what == "compact":
            self.compact()
        else:
            assert what == "reopen"
            path = self.lab.path
            self.lab.close()
            self.lab = type(self.lab)(path, clock=self.clock)
            self.stream = self.lab["s"]

    def compact(self):
        oracle, now = self.oracle, self.clock.now()
        end = len(oracle.rows)
        gc.collect()  # views that were looked at are gone
        done = self.stream.compact()
        assert done.stopped_by in ("", "compact_lag"[: 99 * bool(self.lag)]), done
        limit = done.compacted_upto
        assert oracle.compacted <= limit <= end
        if not done.rows_removed:
            assert limit == oracle.compacted
            if not self.lag:
                left = oracle.after(end, now, self.delete_retention)
                assert left == set(oracle.there()), "there was something to remove"
            return
        if self.lag:
            young = [o for o, r in enumerate(oracle.rows) if r["append_time"] > now - self.lag]
            assert limit <= min(young, default=end)
        else:
            assert limit == end
        left = oracle.after(limit, now, self.delete_retention)
        gone = sum(o < limit for o in oracle.there()) - len(left)
        assert done.rows_removed == gone
        oracle.compact(limit, left)

    # -- comparing ---------------------------------------------------------------------------

    def check(self):
        oracle, stream = self.oracle, self.stream
        there = oracle.there()
        view = stream.view(compacted="ok")
        assert len(stream) == len(view) == stream.stats().rows == len(there)
        assert stream.stats().compacted_upto == oracle.compacted
        assert (stream.earliest_offset, stream.end_offset) == (oracle.start, len(oracle.rows))
        for frame in (view.to_polars(), pl.from_arrow(view.to_arrow()), view.tail(10**6),
                      pl.from_arrow(view.dataset().to_table())):  # fmt: skip
            self.same_rows(frame, there)
        self.same_rows(view.tail(3), there[-3:])
        self.same_rows(view.head(3), there[:3])
        cut = there[len(there) // 2 :]
        if cut:
            self.same_rows(view.offsets(cut[0]).to_polars(), cut)
            self.same_rows(
                view.scan().filter(pl.col("_offset") < cut[0]).collect(), there[: -len(cut)]
            )
        self.check_places(there)
        self.check_tables()
        self.check_refusals()
        report = self.lab.verify()
        assert report.ok, report
        assert report.rows >= len(there)  # retired files are read too

    def same_rows(self, frame, offsets):
        rows = [self.oracle.rows[o] for o in offsets]
        assert frame["_offset"].to_list() == offsets
        times = frame["_append_time"].cast(pl.Int64).to_list()
        assert times == [r["append_time"] for r in rows]
        assert frame["ts"].cast(pl.Int64).to_list() == [r["ts"] for r in rows]
        assert [bits(f) for f in frame["f"]] == [bits(r["f"]) for r in rows]
        assert frame["s"].to_list() == [r["s"] for r in rows]
        assert frame["v"].to_list() == [r["v"] for r in rows]
        if "_deleted" in frame.columns:
            assert frame["_deleted"].to_list() == [r["deleted"] for r in rows]

    def check_places(self, there):
        """Stream times and what follows from an instant are as if no row had gone."""
        oracle, stream = self.oracle, self.stream
        reader = stream._scan.log.reader
        moment, column = reader.moment(), stream.time
        rows = oracle.rows
        for offset in there:
            met = reader.stream_time_before(moment, offset, column)
            assert met == rows[offset]["met"], offset
            found = reader.times_at(moment, offset, column)
            assert found == (rows[offset]["S"], rows[offset]["append_time"])
        all_of_it = range(oracle.start, len(rows))
        for field, clock in (("S", "event"), ("append_time", "append")):
            marks = {rows[o][field] + d for o in list(all_of_it)[::3] for d in (0, 1)}
            for mark in sorted(marks):
                exact = next((o for o in all_of_it if rows[o][field] >= mark), len(rows))
                found = stream.find(instant(mark), clock)
                assert [o for o in there if o >= found] == [o for o in there if o >= exact]
                assert (found >= oracle.compacted) == (exact >= oracle.compacted)
                if exact >= oracle.compacted:
                    assert found == exact
        self.check_lateness(there)

    def check_lateness(self, there):
        """A row that stays is late if and only if it was."""
        rows, view = self.oracle.rows, self.stream.view(compacted="ok")
        size = 10 * STEP
        late = view.window(sl.tumbling("10s"), delay="0s").agg(n=pl.len()).late()
        expected = [
            o for o in there
            if rows[o]["met"] > NEVER and (rows[o]["event"] // size + 1) * size <= rows[o]["met"]
        ]  # fmt: skip
        assert late["_offset"].to_list() == expected

    def check_tables(self):
        """A table is what it was as of each place that compaction has not passed."""
        oracle, stream = self.oracle, self.stream
        places = sorted({oracle.compacted, (oracle.compacted + len(oracle.rows)) // 2,
                         len(oracle.rows)})  # fmt: skip
        for place in places:
            if place >= oracle.start:
                got = stream.as_of(place).table().to_polars()
                rows = [oracle.rows[o] for o in oracle.fold(place)]
                assert got["v"].to_list() == [r["v"] for r in rows], place
                assert got["s"].to_list() == [r["s"] for r in rows]
        if oracle.start < oracle.compacted - 1:
            with pytest.raises(sl.OffsetOutOfRange, match="compacted up to"):
                stream.as_of(oracle.compacted - 1).table().to_polars()

    def check_refusals(self):
        oracle, stream = self.oracle, self.stream
        if oracle.start < oracle.compacted:
            with pytest.raises(sl.QueryError, match='compacted="ok"'):
                stream.to_polars()
            with pytest.raises(sl.QueryError, match="compacted up to"):
                stream.offsets(oracle.compacted - 1).to_arrow()
        since = max(oracle.compacted, oracle.start)
        recent = [o for o in oracle.there() if o >= since]
        self.same_rows(stream.offsets(since).to_polars(), recent)


keys = st.fixed_dictionaries(
    {
        "f": st.sampled_from([0.0, -0.0, 1.5, math.nan, -math.nan, math.inf]),
        "s": st.sampled_from(["a", "ü", "ü", "", None]),
    }
)
event = st.builds(
    lambda key, ts, v: {"ts": BASE + ts * STEP, **key, "v": v},
    keys, st.integers(-50, 400), st.integers(0, 10**6),
)  # fmt: skip
step = st.one_of(
    st.tuples(st.just("append"), st.lists(event, min_size=1, max_size=12)),
    st.tuples(st.just("append"), st.lists(event, min_size=1, max_size=12)),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("heartbeat"), st.integers(0, 450).map(lambda s: BASE + s * STEP)),
    st.tuples(st.just("seal"), st.none()),
    st.tuples(st.just("compact"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("trim"), st.floats(0, 0.6)),
    st.tuples(st.just("wait"), st.integers(0, 30 * STEP)),
)
RARELY = settings(
    max_examples=50, deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    """Compaction comes when it is called for, not in the background."""
    monkeypatch.setattr(maintain, "DIRTY_RATIO", 2.0)


@RARELY
@given(
    st.lists(step, min_size=3, max_size=25),
    st.booleans(),
    st.sampled_from([0, 0, 10 * STEP]),
    st.sampled_from([0, 20 * STEP]),
    st.sampled_from([1, 3]),
)
@example(  # a deletion that went had moved stream time, and a heartbeat after it too
    [("delete", {"f": 0.0, "s": "a"}), ("heartbeat", BASE), ("wait", 1)], True, 0, 0, 1
)
@example(
    [("delete", {"f": 0.0, "s": "a"}), ("wait", 1), ("compact", None), ("heartbeat", BASE),
     ("delete", {"f": 1.5, "s": ""}), ("wait", 1)], True, 0, 0, 1,
)  # fmt: skip
def test_compaction_leaves_what_the_oracle_leaves(steps, timed, lag, delete_retention, partitions):
    """Whatever was appended, deleted, cut and compacted when: rows, places and tables are right."""
    clock = ManualClock("2026-01-02T00:00Z")
    with temp_lab(clock=clock) as lab:
        run = Run(lab, clock, timed, lag, delete_retention, partitions)
        for what, value in [*steps, ("compact", None)]:
            run.do(what, value)
            if what == "compact":
                run.check()
        run.lab.close()


# -- cases --------------------------------------------------------------------------------------


@pytest.fixture
def clock():
    return ManualClock("2026-01-02T00:00Z")


@pytest.fixture
def lab(tmp_path, clock):
    with Lab(tmp_path / "lab", clock=clock, sync="os") as lab:
        yield lab


def grown(lab, rows=60, name="s", **options):
    """A stream of rows n with key n % 5 and event time n, a file for every twenty."""
    settings = options.pop("settings", sl.Settings(segment_bytes=65_536))
    schema = pa.schema([("ts", pa.timestamp("us", "UTC")), ("k", pa.int64()), ("n", pa.int64())])
    stream = lab.create(
        name, schema, time="ts", key="k", cleanup="compact", settings=settings, **options
    )
    return more(stream, rows)


def more(stream, rows):
    for n in range(stream.end_offset, stream.end_offset + rows):
        stream.append({"ts": [instant(BASE + n * STEP)], "k": [n % 5], "n": [n]})
        if n % 20 == 19:
            stream.seal()
    return stream


def offsets(stream):
    return stream.to_polars()["_offset"].to_list()


def left(stream):
    return offsets(stream.view(compacted="ok"))


def test_compaction_stops_before_a_view_and_says_so(lab):
    """A view's rows stay while it lives; then they go too."""
    stream = grown(lab)
    view = stream.offsets(30, 50)
    done = stream.compact()
    assert done.compacted_upto == 20
    assert done.stopped_by == "a view of offsets [30, 51)"  # and of the row after it
    assert left(stream) == [15, 16, 17, 18, 19, *range(20, 60)]
    assert offsets(view) == list(range(30, 50))
    del view
    gc.collect()
    assert stream.compact()[:2] == (60, 40)
    assert left(stream) == [55, 56, 57, 58, 59]


def test_a_hold_stops_compaction(lab):
    """What a job has yet to read stays, also when its process is gone."""
    stream = grown(lab)
    stream._scan.log.hold("job-x", 45)
    done = stream.compact()
    assert (done.compacted_upto, done.stopped_by) == (40, 'hold "job-x"')
    assert left(stream) == [35, 36, 37, 38, 39, *range(40, 60)]
    stream._scan.log.release("job-x")
    assert stream.compact().compacted_upto == 60


def test_rows_younger_than_the_lag_keep_their_history(lab, clock):
    """`compact_lag` counts append time of a file's newest row."""
    settings = sl.Settings(segment_bytes=65_536, compact_lag="1h")
    stream = grown(lab, 40, settings=settings)
    clock.advance("2h")
    more(stream, 20)
    done = stream.compact()
    assert (done.compacted_upto, done.stopped_by) == (40, "compact_lag")
    clock.advance("2h")
    assert stream.compact().compacted_upto == 60


def test_a_deletion_goes_after_its_time_with_all_that_is_older(lab, clock):
    """A tombstone outlives `delete_retention`, and its key never comes back."""
    stream = grown(lab, 20)
    stream.delete(3)
    stream.compact()
    assert left(stream) == [15, 16, 17, 19, 20]
    assert sorted(stream.table().to_polars()["k"]) == [0, 1, 2, 4]
    clock.advance("2d")
    assert stream.compact().rows_removed == 1
    assert left(stream) == [15, 16, 17, 19]
    assert sorted(stream.table().to_polars()["k"]) == [0, 1, 2, 4]


def test_a_table_and_what_is_left_do_not_stop_compaction(lab):
    """Their files stay while they are read, and so does what they show."""
    stream = grown(lab, 20)
    table, view = stream.table().scan(), stream.view(compacted="ok").as_of(20)
    table.collect()
    more(stream, 20)
    assert stream.compact().compacted_upto == 40
    assert offsets(view) == list(range(20))
    assert view.table().to_polars()["n"].to_list() == [15, 16, 17, 18, 19]
    assert table.collect()["n"].to_list() == [35, 36, 37, 38, 39]


def test_a_reader_without_a_pin_is_told_that_its_rows_are_gone(lab):
    """A moment from before a compaction gives its rows or an error, never fewer."""
    stream = grown(lab)
    snapshot = stream._scan.fix(pin=False)
    stream.compact()
    stream._scan.log.reader._files.clear()
    with pytest.raises(sl.OffsetOutOfRange, match="was compacted up to 60"):
        snapshot.reader().read_all()
    follower = more(stream, 5).follow(60, timeout=0)
    assert [n for batch in follower for n in batch["n"].to_pylist()] == [60, 61, 62, 63, 64]


def test_a_follower_that_compaction_overtakes_is_told(lab):
    """Rows that a follower has not read are no longer all there: an error, not a gap."""
    stream = grown(lab, 20)
    follower = stream.follow("earliest", timeout=0)
    next(follower)
    more(stream, 40).compact()
    stream._scan.log.reader._files.clear()
    with pytest.raises((sl.QueryError, sl.OffsetOutOfRange), match="compacted"):
        list(follower)
    kept = stream.view(compacted="ok").follow("earliest", timeout=0)
    assert [n for batch in kept for n in batch["n"].to_pylist()] == [55, 56, 57, 58, 59]


def test_what_touches_the_compacted_part_is_refused(lab, tmp_path):
    """Whatever reads rows below `compacted_upto` is a `QueryError` with the ways out."""
    stream = grown(lab)
    stream.compact()
    more(stream, 3)
    windows = stream.window(sl.tumbling("10s")).agg(n=pl.len())
    asks = [
        stream.to_polars, stream.to_arrow, stream.to_pandas, stream.dataset, stream.head,
        stream.scan().select(pl.len()).collect, windows.collect, windows.late, windows.explain,
        lambda: stream.follow("earliest"), lambda: lab.sql("FROM s"), lambda: pl.DataFrame(stream),
        lambda: windows.run("out"), lambda: stream.filter(pl.col("n") > 1).run(print),
        lambda: stream.to_duckdb(tmp_path / "x.duckdb"), lambda: stream.between(EPOCH).to_polars(),
        lambda: stream.offsets(59).to_polars(), lambda: stream.as_of(61).to_polars(),
        lambda: stream.between(instant(BASE)).table().to_polars(),
        lambda: windows.trace(window_start=instant(BASE)),
        lambda: stream.offsets(60).join(stream.table(), on="k").collect(),
    ]  # fmt: skip
    for ask in asks:
        with pytest.raises(
            sl.QueryError, match=r"compacted up to offset 60(?s:.*)Hint: .table\(\)"
        ):
            ask()
    assert offsets(stream.offsets(60)) == stream.tail(3)["_offset"].to_list() == [60, 61, 62]
    assert stream.offsets(60).window(sl.tumbling("10s")).agg(n=pl.len()).collect()["n"].sum() == 3
    view = stream.view(compacted="ok")
    assert view.window(sl.tumbling("10s")).agg(n=pl.len()).collect()["n"].sum() == 8
    assert view.to_duckdb(tmp_path / "x.duckdb") == 8
    assert len(lab.sql("FROM v", v=view).fetchall()) == 8
    with pytest.raises(sl.ReadOnly):
        view.append({"ts": [instant(BASE)], "k": [1], "n": [1]})
    with pytest.raises(ValueError, match='"refuse" or "ok"'):
        stream.view(compacted="yes")


def test_a_job_goes_on_over_a_stream_that_is_compacted_behind_it(tmp_path, clock):
    """What a job has read may be compacted; it resumes, and its results are each there once."""
    with Lab(tmp_path / "lab", clock=clock) as lab:
        stream = grown(lab)
        stream.filter(pl.col("n") >= 0).run("copy", follow=False).wait(caught_up=False)
        stream._scan.log.hold("job-copy", 60)  # as it is a second later
    with Lab(tmp_path / "lab", clock=clock) as lab:
        stream = more(lab["s"], 1)
        gc.collect()  # the job and what it read
        assert stream.compact().compacted_upto == 60
        more(stream, 19)
        stream.filter(pl.col("n") >= 0).run("copy", follow=False).wait(caught_up=False)
        assert lab["copy"].to_polars()["n"].to_list() == list(range(80))


def test_only_a_stream_that_is_made_for_it_is_compacted(lab):
    """Without `cleanup="compact"` history stays; with it a null key is refused."""
    plain = lab.create("plain", {"k": [1, 1]}, key="k")
    with pytest.raises(sl.QueryError, match="keeps its history"):
        plain.compact()
    stream = grown(lab, 1)
    with pytest.raises(sl.SchemaMismatch, match='key "k" is null in row 1'):
        stream.append({"ts": [instant(BASE)] * 2, "k": [1, None], "n": [1, 1]})
    with pytest.raises(sl.SchemaMismatch, match="is null"):
        stream.delete(None)
    assert len(stream) == 1


def test_a_frozen_value_is_equal_or_raises(lab):
    """`lab.as_of(frozen)` gives equal rows, or says that compaction removed some."""
    stream = grown(lab, 20)
    stream.compact()
    frozen = lab.freeze()
    again = lab.as_of(frozen)["s"]
    assert len(again) == 5
    assert left(again) == [15, 16, 17, 18, 19]
    with pytest.raises(sl.QueryError, match="compacted up to offset 20"):
        again.to_polars()
    del again
    gc.collect()
    more(stream, 20).compact()
    with pytest.raises(sl.OffsetOutOfRange, match="of the 5 rows"):
        lab.as_of(frozen)["s"].to_polars()


def test_a_stream_compacts_itself_when_half_of_it_is_new(lab, monkeypatch):
    """In the background, and not again for a little."""
    monkeypatch.setattr(maintain, "DIRTY_RATIO", 0.5)
    stream = grown(lab, 0)
    log = stream._scan.log
    more(stream, 100)
    while stream.stats().compacted_upto < 80:  # the background is at it
        log.nap(0.01)
        log._tidy()
    files = {s.file for s in log.reader.manifest().segments[:1]}
    monkeypatch.setattr(log.writer, "on_roll", lambda: None)
    more(stream, 5).append({"ts": [instant(BASE)], "k": [1], "n": [1]})
    stream.seal()
    log._tidy()
    assert {s.file for s in log.reader.manifest().segments[:1]} == files or len(stream) < 20
    log.close()


def test_files_that_lose_nothing_are_left_alone(lab):
    """Only where rows go a file is written anew; small ones become one."""
    settings = sl.Settings(segment_bytes=8192)
    stream = grown(lab, 0, settings=settings)
    n = 2000
    stream.append({"ts": [instant(BASE)] * n, "k": list(range(n)), "n": [0] * n})
    stream.seal()
    whole = stream._scan.log.reader.manifest().segments[0].file
    for _ in range(3):
        stream.append({"ts": [instant(BASE)], "k": [5000], "n": [1]})
        stream.seal()
    stream.compact()
    segments = stream._scan.log.reader.manifest().segments
    assert [s.file == whole for s in segments] == [True, False, False]
    assert [s.kept for s in segments] == [None, 1, None]
    assert len(stream) == n + 1


def test_a_flipped_bit_in_a_compacted_file_is_corruption(lab, tmp_path):
    """Any byte: `CorruptSegment` before a row is shown, and nothing is compacted on top of it."""
    stream = grown(lab, 40)
    stream.compact()
    lab.close()
    (path,) = (tmp_path / "lab" / "streams" / "s").glob("*.arrow")
    sound = path.read_bytes()
    for at in range(0, len(sound), 97):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
        reader._VERIFIED.clear()
        with Lab(tmp_path / "lab") as again:
            with pytest.raises(sl.CorruptSegment):
                again["s"].table().to_polars()
            assert not again.verify().ok
    path.write_bytes(sound)
    with Lab(tmp_path / "lab") as again:
        assert again.verify().ok


def test_a_damaged_file_stops_compaction(lab, tmp_path):
    """Rows are not judged by what cannot be read: an error, and all is as it was."""
    stream = grown(lab, 40)
    path = min((tmp_path / "lab" / "streams" / "s").glob("*.arrow"))
    sound = path.read_bytes()
    path.write_bytes(sound[:900] + bytes([sound[900] ^ 4]) + sound[901:])
    with pytest.raises(sl.CorruptSegment):
        stream.compact()
    path.write_bytes(sound)
    assert stream.stats().compacted_upto == 0
    assert offsets(stream) == list(range(40))


def test_a_lost_manifest_remembers_compaction(lab, tmp_path):
    """How far a stream was compacted, and what is left of it, stands in the files."""
    stream = grown(lab)
    stream.compact()
    more(stream, 5)
    rows, table = left(stream), stream.table().to_polars()
    lab.close()
    (tmp_path / "lab" / "streams" / "s" / "manifest").unlink()
    with Lab(tmp_path / "lab") as again:
        stream = again["s"]
        assert stream.stats().compacted_upto == 60
        assert left(stream) == rows
        assert stream.table().to_polars().equals(table)
        with pytest.raises(sl.QueryError):
            stream.to_polars()
        more(stream, 5)
        assert stream.compact().compacted_upto == 70
        assert again.verify().ok


def test_code_that_knows_no_compaction_refuses_the_stream(lab, tmp_path, monkeypatch):
    """What it would take for whole is of a newer format to it, with the manifest and without."""
    grown(lab).compact()
    lab.close()
    folder = tmp_path / "lab" / "streams" / "s"
    monkeypatch.setattr(manifest, "SPARSE_VERSION", 1)
    monkeypatch.setattr(formats, "SPARSE_VERSION", 1)
    for _ in range(2):
        with pytest.raises(sl.NewerFormat), Lab(tmp_path / "lab") as again:
            again["s"].table().to_polars()
        (folder / "manifest").unlink(missing_ok=True)


def test_what_is_left_is_salvaged_with_its_times(lab, tmp_path, clock):
    """A compacted lab that is saved holds the same rows at the same times, and knows its gaps."""
    stream = grown(lab)
    stream.delete(3)
    stream.compact()
    more(stream, 9)
    rows = stream.view(compacted="ok").to_polars()
    lab.close()
    report = sl.salvage(tmp_path / "lab", tmp_path / "saved")
    assert report.ok
    assert not report.gaps
    assert any("were compacted" in note for note in report.notes)
    with Lab(tmp_path / "saved") as saved:
        copy = saved["s"]
        assert copy.view(compacted="ok").to_polars().drop("_offset").equals(rows.drop("_offset"))
        assert copy.stats().compacted_upto == len(rows) - 9
        with pytest.raises(sl.QueryError):
            copy.to_polars()
        assert saved.verify().ok


def test_a_foreign_reader_finds_the_offsets(lab, tmp_path):
    """A compacted file is an Arrow file like any other, with `_offset` first."""
    grown(lab).compact()
    (path,) = (tmp_path / "lab" / "streams" / "s").glob("*.arrow")
    with pa.ipc.open_file(path) as file:
        table = file.read_all()
    assert table.column_names == ["_offset", "ts", "k", "n"]
    assert table["_offset"].to_pylist() == [55, 56, 57, 58, 59]
    assert pl.read_ipc(path)["n"].to_list() == [55, 56, 57, 58, 59]


@pytest.mark.parametrize("checked", [True, False])
def test_a_view_that_is_taken_during_a_compaction_is_of_before_or_after(lab, monkeypatch, checked):
    """The moment is taken anew if compaction came before the pin; without that look rows are gone."""
    stream = grown(lab)
    log = stream._scan.log
    real = log.reader.pin

    def pin_late(start, stop, **options):
        log.reader.pin = real
        stream.compact()
        return real(start, stop, **options)

    monkeypatch.setattr(log.reader, "pin", pin_late)
    if not checked:
        monkeypatch.setattr(log.reader, "holds", lambda moment, start, stop: True)
    view = stream.view(compacted="ok").as_of(60)
    log.reader._files.clear()
    if checked:
        assert offsets(view) == [55, 56, 57, 58, 59]
    else:
        with pytest.raises(sl.OffsetOutOfRange, match="was compacted up to 60"):
            offsets(view)


def test_a_table_by_another_key_needs_all_rows(lab):
    """Compaction keeps the last row of the stream's own key: by another one rows would be missed."""
    stream = grown(lab)
    assert stream.table(key="n").to_polars().height == 60
    stream.compact()
    assert stream.table().to_polars().height == 5
    with pytest.raises(sl.QueryError, match="compacted up to offset 60"):
        stream.table(key="n").to_polars()


def test_a_job_that_ended_holds_no_more_than_it_needs(lab):
    """A job that came to its end within a moment lets compaction go on behind it."""
    stream = grown(lab)
    job = stream.filter(pl.col("n") >= 0).run("out", follow=False).wait(10, caught_up=False)
    del job
    gc.collect()
    assert stream._scan.log.holds() == {"job-out": 60}
