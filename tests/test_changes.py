"""Changes: what turns one frame into another, the way back, and comparing streams."""

import datetime as dt
import decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import table_oracle as oracle
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import streamlab as sl
from streamlab.testing import temp_lab

NAN = float("nan")
LIMITS = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
DAY = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)

floats = st.sampled_from([NAN, 0.0, -0.0, 1.5, -2.0])
numbers = st.integers(-2, 2)
KINDS = {
    pl.Int8(): numbers,
    pl.UInt64(): st.sampled_from([0, 2**64 - 1]),
    pl.Float32(): floats,
    pl.Float64(): floats,
    pl.Boolean(): st.booleans(),
    pl.String(): st.sampled_from(["", "a", "ü", "a\0"]),
    pl.Binary(): st.sampled_from([b"", b"a", b"\xff"]),
    pl.Decimal(20, 2): numbers.map(lambda n: decimal.Decimal(n) / 4),
    pl.Date(): numbers.map(lambda n: DAY.date() + dt.timedelta(days=n)),
    pl.Time(): numbers.map(lambda n: dt.time(12, 30 + n, 1)),
    pl.Datetime("us", "UTC"): numbers.map(lambda n: DAY + dt.timedelta(microseconds=n)),
    pl.Datetime("ns"): numbers.map(lambda n: DAY.replace(tzinfo=None) + dt.timedelta(seconds=n)),
    pl.Duration("ms"): numbers.map(lambda n: dt.timedelta(milliseconds=n)),
    pl.List(pl.Float64): st.lists(st.one_of(st.none(), floats), max_size=2),
    pl.Array(pl.Int64, 2): st.lists(st.one_of(st.none(), numbers), min_size=2, max_size=2),
    pl.Struct({"a": pl.Float64, "b": pl.List(pl.String)}): st.fixed_dictionaries(
        {"a": st.one_of(st.none(), floats), "b": st.sampled_from([None, [], ["x", None]])}
    ),
    pl.List(pl.Struct({"a": pl.Int64})): st.lists(
        st.one_of(st.none(), st.fixed_dictionaries({"a": st.one_of(st.none(), numbers)})),
        max_size=2,
    ),
}
TEXTS = [pl.Categorical(), pl.Enum(["", "a", "ü", "a\0"])]
SIMPLE = [kind for kind in KINDS if not kind.is_nested()]


@st.composite
def pairs(draw, kinds=None):
    """Two frames of the same columns, and the key of both."""
    drawn = st.sampled_from([*KINDS, *TEXTS] if kinds is None else kinds)
    schema = {name: draw(drawn) for name in draw(st.sampled_from(["kv", "kjv", "kvwx"]))}
    key = ["k", "j"] if "j" in schema else ["k"]
    row = st.fixed_dictionaries({
        name: st.one_of(st.none(), KINDS.get(kind, KINDS[pl.String()])) for name, kind in schema.items()
    })  # fmt: skip
    same = lambda r: oracle.key_of(r, key)  # noqa: E731
    sides = [draw(st.lists(row, max_size=8, unique_by=same)) for _ in "ab"]
    if draw(st.booleans()):  # most rows are the same
        taken = {same(r) for r in sides[1]}
        sides[1] += [r for r in sides[0] if same(r) not in taken]
    return *(once_each(pl.DataFrame(rows, schema=schema), key) for rows in sides), key


def once_each(frame, key):
    """Leave out rows whose key is there: a frame of dicts makes a struct of nulls of a null."""
    seen = {}
    for at, row in enumerate(frame.to_dicts()):
        seen.setdefault(oracle.key_of(row, key), at)
    return frame[list(seen.values())]


@LIMITS
@given(pairs())
def test_changes_turn_one_frame_into_the_other_and_can_be_applied(pair):
    """Of all types: the oracle's application gives the rows of the second, and so does ours."""
    before, after, key = pair
    rows = sl.changes(before, after, key)
    assert rows.columns == ["op", *key, "before", "after"]
    table = oracle.by_key(before.to_dicts(), key)
    assert oracle.same_rows(oracle.applied(table, rows.to_dicts(), key), after.to_dicts(), key)
    result = sl.apply_changes(before, rows)
    assert result.schema == after.schema
    assert oracle.same_rows(oracle.by_key(result.to_dicts(), key), after.to_dicts(), key)
    again = sl.apply_changes(before, rows.drop(key), key)
    assert oracle.same_rows(oracle.by_key(again.to_dicts(), key), after.to_dicts(), key)
    assert sl.changes(result, after.sample(fraction=1, shuffle=True, seed=1), key).is_empty()
    assert sl.changes(before, before.sample(fraction=1, shuffle=True, seed=1), key).is_empty()


@settings(LIMITS, max_examples=25)
@given(pairs(list(KINDS)))
def test_a_stream_of_changes_is_the_frame_again(pair):
    """Appended to a stream, changes from nothing to a and from a to b are the table b."""
    before, after, key = pair
    with temp_lab() as lab:
        stream = lab.create("c", sl.changes(before.clear(), before, key), key=key)
        stream.append(sl.changes(before, after, key))
        table = stream.table().to_polars()
        assert oracle.same_rows(oracle.by_key(table.to_dicts(), key), after.to_dicts(), key)
        assert sl.changes(table.cast(dict(after.schema)), after, key).is_empty()
        rows = lab.create("r", after, key=key)
        assert lab.compare(stream, rows).is_empty()


@settings(LIMITS, max_examples=25)
@given(pairs(SIMPLE))
def test_comparing_streams_is_the_changes_of_their_tables(pair):
    """By key the change rows turn a's table into b's; without one, rows are counted."""
    a, b, key = pair
    with temp_lab() as lab:
        left, right = lab.create("a", a, key=key), lab.create("b", b, key=key)
        rows = lab.compare("a", right)
        table = oracle.by_key(a.to_dicts(), key)
        assert oracle.same_rows(oracle.applied(table, rows.to_dicts(), key), b.to_dicts(), key)
        assert lab.compare(left, left.as_of(left.end_offset)).is_empty()
        assert lab.compare(left.table(), a).is_empty()

    def counted(frame):
        rows = [oracle.normal(row) for row in frame.to_dicts()]
        return {row: rows.count(row) for row in rows}

    with temp_lab() as lab:
        twice = pl.concat([a, a, b])
        rows = lab.compare(lab.create("a", twice), lab.create("b", b))
        assert rows["op"].to_list() == ["d"] * (2 * a.height)
        gone = [oracle.normal(row) for row in rows["before"].to_list()]
        assert {row: gone.count(row) for row in gone} == counted(pl.concat([a, a]))
        back = lab.compare("b", "a")
        assert back["op"].to_list() == ["c"] * (2 * a.height)
        assert lab.compare("a", twice.sample(fraction=1, shuffle=True, seed=1)).is_empty()


def test_rows_of_any_kind_are_compared():
    """Frames may be whatever an append takes; no rows at all are of whichever columns."""
    old = [{"id": 1, "n": 5}, {"id": 2, "n": 6}]
    new = pa.table({"n": [7, 8], "id": [2, 3]})
    rows = sl.changes(old, new, key="id")
    assert rows.select("op", "id").rows() == [("d", 1), ("u", 2), ("c", 3)]
    assert sl.apply_changes(old, rows).sort("id").rows() == [(2, 7), (3, 8)]
    assert sl.changes([], old, key="id")["op"].to_list() == ["c", "c"]
    assert sl.changes(old, [], key=["id"])["op"].to_list() == ["d", "d"]
    assert sl.changes(pl.LazyFrame(old), old, key="id").is_empty()
    maps = pa.table({"k": [1], "m": pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))})
    assert sl.changes(maps, maps, key="k").is_empty()
    other = pa.table({"k": [1], "m": pa.array([[("a", 2)]], pa.map_(pa.string(), pa.int64()))})
    assert sl.changes(maps, other, key="k")["op"].to_list() == ["u"]


def test_debezium_events_are_applied():
    """Events without key columns, with a truncation, moved keys and ops that say nothing."""
    kind = pl.Struct({"id": pl.Int64, "n": pl.String})
    one = {"id": 1, "n": "a"}
    events = pl.DataFrame(
        {
            "op": ["c", "t", "r", "u", "m", "d"],
            "before": [None, None, None, one, None, {"id": 9, "n": None}],
            "after": [{"id": 5, "n": "z"}, None, one, {"id": 2, "n": "b"}, None, None],
            "ts_ms": [1, 2, 3, 4, 5, 6],
        },
        schema_overrides={"before": kind, "after": kind},
    )
    assert sl.apply_changes([{"id": 7, "n": "q"}], events, key="id").rows() == [(2, "b")]
    assert sl.apply_changes([{"id": 7, "n": "q"}], events[4:], key="id").rows() == [(7, "q")]
    with pytest.raises(sl.SchemaMismatch, match="no column of the key"):
        sl.apply_changes([one], events)


@pytest.mark.parametrize(
    ("before", "after", "key", "message"),
    [
        ({"a": [1], "b": [1]}, {"a": [1]}, "a", 'column "b" is not in after'),
        ({"a": [1]}, {"a": [1], "b": [1]}, "a", 'column "b" is not in before'),
        ({"a": [1], "b": [1]}, {"a": [1], "b": ["x"]}, "a", 'column "b" is Int64 in before and String'),
        ({"a": [1]}, {"a": [1]}, "x", 'the key "x" is no column of before'),
        ({"a": [1, 2, 1]}, {"a": [1]}, "a", "before has more than one row with a=1"),
        ({"a": [1]}, {"a": [NAN, NAN]}, "a", 'column "a" is Int64'),
        ({"a": [1.0]}, {"a": [0.0, -0.0]}, "a", "after has more than one row with a="),
        ({"a": [1]}, {"a": [1]}, [], "several different"),
        ({"op": [1]}, {"op": [1]}, "op", "has the name of a column of change rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_named(before, after, key, message):
    """Columns, types and keys that do not fit are refused by name."""
    with pytest.raises(sl.SchemaMismatch, match=message):
        sl.changes(before, after, key)


def test_sides_that_do_not_fit_are_refused(lab):
    """Different keys, unknown streams and frames that are no change rows are refused."""
    lab.create("a", {"k": [1], "v": [2]}, key="k")
    lab.create("b", {"k": [1], "v": [2]}, key="v")
    with pytest.raises(sl.QueryError, match="the keys differ: k and v"):
        lab.compare("a", "b")
    assert lab.compare("a", "b", key="k").is_empty()
    with pytest.raises(sl.StreamNotFound):
        lab.compare("a", "c")
    named = pd.DataFrame({"key": [1], "table": [2]})
    assert lab.compare(named, named).is_empty()
    assert lab.compare(named, named, key="key").is_empty()
    with pytest.raises(sl.SchemaMismatch, match="change rows have op"):
        sl.apply_changes({"k": [1]}, {"k": [1]}, "k")
    with pytest.raises(sl.SchemaMismatch, match='column "w" is not in the change rows'):
        sl.apply_changes({"k": [1], "w": [1]}, sl.changes({"k": [1]}, {"k": [2]}, "k"))
