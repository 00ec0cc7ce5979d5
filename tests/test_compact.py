"""Compaction against an oracle in plain Python that never forgets a row."""

import datetime as dt
import gc
import math
import struct

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab.log import maintain
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
