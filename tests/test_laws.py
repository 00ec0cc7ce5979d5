"""The laws of the log, against an oracle that looks at every row in plain Python."""

import datetime as dt

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracle import FAR_PAST, OracleStream

import streamlab as sl
from streamlab.testing import ManualClock, temp_lab

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
BASE = 1_767_225_600_000_000  # 2026-01-01
STEP = 1_000_000

event = st.fixed_dictionaries(
    {
        "ts": st.integers(-50, 3_000).map(lambda s: BASE + s * STEP),
        "k": st.sampled_from(["a", "b", "ü", None]),
        "v": st.one_of(st.none(), st.integers(-(2**53), 2**53)),
    }
)
step = st.one_of(
    st.tuples(st.just("append"), st.lists(event, max_size=30)),
    st.tuples(st.just("heartbeat"), st.integers(0, 3_500).map(lambda s: BASE + s * STEP)),
    st.tuples(st.just("seal"), st.none()),
    st.tuples(st.just("reopen"), st.none()),
    st.tuples(st.just("trim"), st.floats(0, 1)),
    st.tuples(st.just("tick"), st.integers(0, 10_000_000)),
)


def instant(micros):
    return EPOCH + dt.timedelta(microseconds=micros)


def frame(rows):
    return pa.table(
        {
            "ts": pa.array([r["ts"] for r in rows], pa.timestamp("us", "UTC")),
            "k": pa.array([r["k"] for r in rows], pa.string()),
            "v": pa.array([r["v"] for r in rows], pa.int64()),
        }
    )


class Run:
    """A real stream and an oracle that are told the same things."""

    def __init__(self, lab, clock, **options):
        self.lab, self.clock = lab, clock
        self.oracle = OracleStream()
        schema = frame([]).schema
        small = sl.Settings(segment_bytes=4096, max_ahead=None)
        self.stream = lab.create("s", schema, time="ts", key="k", settings=small, **options)
        self.last = 0

    def do(self, what, value):
        if what == "append":
            before = self.oracle.end
            got = self.stream.append(frame(value))
            if value:
                self.last = max(self.last + 1, self.clock.now())
            self.oracle.append(value, self.last)
            assert got == range(before, before + len(value))
        elif what == "heartbeat":
            if value > self.oracle.stream_time:
                self.last = max(self.last + 1, self.clock.now())
            self.oracle.heartbeat(value)
            self.stream.advance(instant(value))
        elif what == "seal":
            self.stream.seal()
        elif what == "trim":
            place = self.oracle.start + int(value * (self.oracle.end - self.oracle.start))
            self.oracle.trim(place)
            assert self.stream.trim(place) == place
        elif what == "tick":
            self.clock.advance(dt.timedelta(microseconds=value))
        elif what == "reopen":
            path = self.lab.path
            self.lab.close()
            self.lab = sl.Lab(path, sync="os", clock=self.clock)
            self.stream = self.lab["s"]


def rows_of(table):
    wanted = table.select(["_offset", "_append_time", "ts", "k", "v"])
    for name in ("_append_time", "ts"):
        at = wanted.schema.get_field_index(name)
        wanted = wanted.set_column(at, name, wanted[name].cast(pa.int64()))
    return [tuple(row.values()) for row in wanted.to_pylist()]


def expected(oracle, offsets=None):
    chosen = range(oracle.start, oracle.end) if offsets is None else offsets
    rows = [(o, oracle.rows[o]) for o in chosen]
    return [(o, r["append_time"], r["ts"], r["k"], r["v"]) for o, r in rows]


LIMITS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


@LIMITS
@given(steps=st.lists(step, max_size=14), cut=st.integers(0, 3_000), chosen=st.integers(0, 400))
def test_every_way_of_reading_gives_the_rows_that_were_appended(steps, cut, chosen):
    """Arrow, Polars, DuckDB and views agree with the oracle, whatever was sealed or trimmed."""
    clock = ManualClock("2026-01-01T12:00:00Z")
    with temp_lab(clock=clock) as lab:
        run = Run(lab, clock)
        for what, value in steps:
            run.do(what, value)
        stream, oracle = run.stream, run.oracle
        clock.advance("1m")
        wanted = expected(oracle)
        assert rows_of(stream.to_arrow()) == wanted
        assert rows_of(stream.to_polars().to_arrow()) == wanted
        assert rows_of(run.lab.sql("SELECT * FROM s ORDER BY _offset").to_arrow_table()) == wanted
        assert len(stream) == len(wanted)
        assert stream.scan().select(pl.len()).collect().item() == len(wanted)

        time = BASE + cut * STEP
        assert stream.find(instant(time)) == oracle.find(time)
        part = rows_of(stream.between(instant(time), instant(time + 300 * STEP)).to_arrow())
        assert part == expected(oracle, oracle.between(time, time + 300 * STEP))

        offset = oracle.start + min(chosen, oracle.end - oracle.start)
        assert rows_of(stream.as_of(offset).to_arrow()) == expected(
            oracle, range(oracle.start, offset)
        )
        if oracle.live():
            moment = oracle.live()[len(oracle.live()) // 2][1]["append_time"]
            assert rows_of(stream.as_of(instant(moment)).to_arrow()) == expected(
                oracle, oracle.as_of(moment)
            )
            assert stream.find(instant(moment), "append") == oracle.find_appended(moment)
        filtered = stream.scan().filter(pl.col("ts") >= instant(time), pl.col("k") == "a")
        assert rows_of(filtered.collect().to_arrow()) == [
            row for row in wanted if row[2] >= time and row[3] == "a"
        ]
        dataset = stream.dataset().to_table(filter=pc.field("_offset") >= offset)
        assert rows_of(dataset) == [row for row in wanted if row[0] >= offset]
        known = stream.stats().stream_time
        assert known == (None if oracle.stream_time == FAR_PAST else oracle.stream_time)
        run.lab.close()


@LIMITS
@given(rows=st.lists(event, min_size=1, max_size=60), cuts=st.lists(st.integers(1, 20), min_size=1))
def test_nothing_depends_on_how_rows_were_divided_into_appends(rows, cuts):
    """Law 1 of the log: offsets, rows, stream times and finds are those of one append."""
    with temp_lab() as lab:
        options = {"time": "ts", "key": "k", "partitions": 3}
        whole = lab.create("whole", frame([]).schema, **options)
        parts = lab.create("parts", frame([]).schema, **options)
        whole.append(frame(rows))
        at = turn = 0
        while at < len(rows):
            size = cuts[turn % len(cuts)]
            parts.append(frame(rows[at : at + size]))
            at, turn = at + size, turn + 1
        names = ["_partition", "_offset", "ts", "k", "v"]
        assert parts.to_arrow().select(names).equals(whole.to_arrow().select(names))
        parts.seal()
        assert parts.to_arrow().select(names).equals(whole.to_arrow().select(names))
        for row in rows:
            assert parts.find(instant(row["ts"])) == whole.find(instant(row["ts"]))


@LIMITS
@given(
    before=st.lists(event, max_size=40),
    after=st.lists(
        st.tuples(
            st.sampled_from(["append", "seal", "trim", "reopen"]),
            st.lists(event, min_size=1, max_size=20),
        ),
        max_size=8,
    ),
)
def test_a_view_never_changes(before, after):
    """Law 3: what a view shows is fixed when it is taken, whatever is appended or trimmed later."""
    clock = ManualClock("2026-01-01T12:00:00Z")
    with temp_lab(clock=clock) as lab:
        run = Run(lab, clock)
        for at in range(0, len(before), 7):
            run.do("append", before[at : at + 7])
        clock.advance("1s")
        keeper = sl.Lab(lab.path, clock=clock)
        stream = keeper["s"]
        views = [stream.as_of(stream.end_offset), stream.between(instant(BASE), None)]
        views += [keeper.as_of(instant(clock.now() - 1))["s"]]
        first = [rows_of(view.to_arrow()) for view in views]
        frozen = keeper.freeze()
        trimmed = False
        for what, rows in after:
            trimmed |= what == "trim"
            run.do(what, rows if what == "append" else 1.0 if what == "trim" else None)
        assert [rows_of(view.to_arrow()) for view in views] == first
        assert [rows_of(view.to_polars().to_arrow()) for view in views] == first
        try:
            again = rows_of(keeper.as_of(frozen)["s"].to_arrow())
        except sl.OffsetOutOfRange:
            assert trimmed
        else:
            assert again == first[0]
        keeper.close()
        run.lab.close()
