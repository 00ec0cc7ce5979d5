"""Types on their way into DuckDB: each value arrives as it is, or is refused by name."""

import datetime as dt
import decimal
import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import streamlab as sl

MAX = 2**63 - 1
D38 = decimal.Decimal("9" * 38)


def ints(values, kind):
    """An array of a type whose values are counted by integers, the extreme ones included."""
    width = pa.int32() if kind in (pa.date32(), pa.time32("s"), pa.time32("ms")) else pa.int64()
    return pa.array(values, width).cast(kind)


EDGES = [0, 1, -1, None, MAX, -MAX, -MAX - 1, MAX - 1]
WHOLE = {
    f"{sign}int{bits}": pa.array([*((0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)), None],
                                 getattr(pa, f"{sign}int{bits}")())
    for sign in ("", "u") for bits in (8, 16, 32, 64)
}  # fmt: skip
PLAIN = {
    **WHOLE,
    "bool": pa.array([True, False, None]),
    "float32": pa.array([-0.0, float("inf"), float("nan"), 1e-45, None], pa.float32()),
    "float64": pa.array([-0.0, float("-inf"), float("nan"), 5e-324, None]),
    "decimal32": pa.array([decimal.Decimal("-9.99"), None], pa.decimal32(3, 2)),
    "decimal64": pa.array([decimal.Decimal("0.01"), None], pa.decimal64(18, 2)),
    "decimal128": pa.array([D38, D38.copy_negate(), None], pa.decimal128(38, 0)),
    "fraction": pa.array([decimal.Decimal("0." + "9" * 38), None], pa.decimal128(38, 38)),
    "string": pa.array(["", "nul\0inside", "ü\U0001f600", "x" * 5000, None]),
    "large_string": pa.array(["", "y", None], pa.large_string()),
    "binary": pa.array([b"", b"\0\xff", None]),
    "large_binary": pa.array([b"", b"\0\xff", None], pa.large_binary()),
    "fixed_binary": pa.array([b"a\0b", None], pa.binary(3)),
    "date32": ints([0, -1, 2**31 - 1, -(2**31), 2_932_896, None], pa.date32()),
    "time32[s]": ints([0, 86_399, None], pa.time32("s")),
    "time32[ms]": ints([0, 86_399_999, None], pa.time32("ms")),
    "time64[us]": ints([0, 86_399_999_999, None], pa.time64("us")),
    "time64[ns]": ints([0, 1, 86_399_999_999_999, None], pa.time64("ns")),
    **{f"timestamp[{u}]": ints(EDGES, pa.timestamp(u)) for u in ("s", "ms", "us", "ns")},
    **{f"timestamp[{u},UTC]": ints(EDGES, pa.timestamp(u, "UTC")) for u in ("us", "ns")},
    "timestamp[us,Berlin]": ints(EDGES, pa.timestamp("us", "Europe/Berlin")),
    "timestamp[s,UTC]": ints([0, 1, -1, MAX // 10**6, -(MAX // 10**6), None], pa.timestamp("s", "UTC")),
    "timestamp[ms,UTC]": ints([0, 1, -1, MAX // 1000, -(MAX // 1000), None], pa.timestamp("ms", "UTC")),
}  # fmt: skip
DURATIONS = {
    "duration[us]": ints(EDGES, pa.duration("us")),
    "duration[s]": ints([0, 1, -1, MAX // 10**6, None], pa.duration("s")),
    "duration[ms]": ints([0, 1, -1, MAX // 10**3, None], pa.duration("ms")),
    "duration[ns]": ints([0, 1000, -1000, MAX // 1000 * 1000, None], pa.duration("ns")),
}
TYPES = {
    "BOOLEAN": "bool", "TINYINT": "int8", "SMALLINT": "int16", "INTEGER": "int32",
    "BIGINT": "int64", "UTINYINT": "uint8", "USMALLINT": "uint16", "UINTEGER": "uint32",
    "UBIGINT": "uint64", "FLOAT": "float32", "DOUBLE": "float64", "DECIMAL(3,2)": "decimal32",
    "DECIMAL(18,2)": "decimal64", "DECIMAL(38,0)": "decimal128", "DECIMAL(38,38)": "fraction",
    "VARCHAR": "string large_string", "BLOB": "binary large_binary fixed_binary", "DATE": "date32",
    "TIME": "time32[s] time32[ms] time64[us]", "TIME_NS": "time64[ns]",
    "TIMESTAMP_S": "timestamp[s]", "TIMESTAMP_MS": "timestamp[ms]", "TIMESTAMP": "timestamp[us]",
    "TIMESTAMP_NS": "timestamp[ns]", "TIMESTAMPTZ_NS": "timestamp[ns,UTC]",
    "TIMESTAMP WITH TIME ZONE":
        "timestamp[us,UTC] timestamp[us,Berlin] timestamp[s,UTC] timestamp[ms,UTC]",
    "INTERVAL": "duration[us] duration[s] duration[ms] duration[ns]",
}  # fmt: skip


def inside(array):
    """Yield an array in all the ways in which one can be inside another, with nulls around it."""
    fields = [pa.array(range(len(array))), array]
    starts = list(range(len(array) + 1))
    hidden = pa.array([row == 1 for row in range(len(array))])
    yield "list", pa.ListArray.from_arrays(starts, array)
    yield "large_list", pa.LargeListArray.from_arrays(starts, array)
    yield "fixed_list", pa.FixedSizeListArray.from_arrays(array, 1)
    yield "struct", pa.StructArray.from_arrays(fields, ["i", "v"], mask=hidden)
    yield "map", pa.MapArray.from_arrays(starts, fields[0], array)
    deep = pa.StructArray.from_arrays([pa.ListArray.from_arrays(starts, array)], ["l"])
    yield "deep", pa.ListArray.from_arrays(starts, deep, mask=hidden)


def copied(lab, columns):
    """Copy columns through a stream; return their types in DuckDB and their values back in Arrow."""
    stream = lab.create("s", pa.table(columns))
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        stream.to_duckdb(connection)
        kinds = dict(connection.sql("SELECT column_name, column_type FROM (DESCRIBE s)").fetchall())
        return kinds, connection.sql("FROM s ORDER BY _offset").to_arrow_table()


def assert_equal(back, array):
    """Compare value for value: NaN and -0.0 too, and instants beyond Python's own."""
    assert len(back) == len(array)
    same = back if back.type == array.type else back.cast(array.type)
    if "float" in str(array.type) or "double" in str(array.type):
        assert str(same.to_pylist()) == str(array.to_pylist())
    else:
        assert same.equals(array) or str(same) == str(array)


@pytest.mark.parametrize("name", PLAIN)
def test_a_value_in_duckdb_is_the_value_in_the_stream(lab, name):
    """Every type that a stream can store arrives with its extremes and nulls, also inside others."""
    ways = {"flat": PLAIN[name], **dict(inside(PLAIN[name]))}
    kinds, back = copied(lab, ways)
    assert name in TYPES[kinds["flat"]].split()
    assert kinds["list"] == kinds["flat"] + "[]"
    for how, array in ways.items():
        assert_equal(back[how].combine_chunks(), array)


@pytest.mark.parametrize("name", DURATIONS)
def test_a_duration_is_an_interval_of_as_many_microseconds(lab, name):
    """Durations arrive in microseconds, without months or days, also inside a list."""
    array = DURATIONS[name]
    stream = lab.create("s", pa.table({"v": array, "l": pa.ListArray.from_arrays(range(len(array) + 1), array)}))  # fmt: skip
    with duckdb.connect() as connection:
        stream.to_duckdb(connection)
        kinds = connection.sql("SELECT column_type FROM (DESCRIBE s) OFFSET 3").fetchall()
        assert sorted(kinds) == [("INTERVAL",), ("INTERVAL[]",)]
        counts = "datepart('us', {0}) + 60000000 * datepart('minute', {0}) + 3600000000 * datepart('hour', {0}), datepart('day', {0}) + datepart('month', {0})"
        got = connection.sql(f"SELECT {counts.format('v')}, {counts.format('l[1]')} FROM s ORDER BY _offset").fetchall()  # fmt: skip
    per = {"s": 1_000_000, "ms": 1_000, "us": 1, "ns": 1 / 1_000}[array.type.unit]
    values = array.cast(pa.int64()).to_pylist()
    wanted = [None if v is None else v // 1000 if per < 1 else v * per for v in values]
    assert [us for us, *_ in got] == [us for _, _, us, _ in got] == wanted
    assert {rest for _, a, _, b in got for rest in (a, b)} == {0, None}


@pytest.mark.parametrize(
    "array",
    [
        ints([1], pa.duration("ns")), ints([MAX // 1000], pa.duration("s")),
        ints([-MAX // 10], pa.duration("ms")), ints([MAX], pa.timestamp("s", "UTC")),
        ints([-MAX], pa.timestamp("ms", "Europe/Berlin")),
    ],
    ids=lambda array: str(array.type),
)  # fmt: skip
def test_what_duckdb_would_cut_is_refused_by_name(lab, array, tmp_path):
    """A value that DuckDB has no room for is refused with its column, on any level; nothing stays."""
    path = tmp_path / "x.duckdb"
    ways = [("flat", array), *inside(array)]
    for number, (how, nested) in enumerate(ways):
        stream = lab.create(f"s{number}", pa.table({"odd one": nested, "n": [1]}))
        with pytest.raises(sl.SchemaMismatch, match='"odd one".*DuckDB') as caught:
            stream.to_duckdb(path)
        assert caught.value.column == "odd one", how
        with duckdb.connect(str(path)) as connection:
            assert connection.sql(f"SELECT count(*) FROM s{number}").fetchall() == [(0,)]


def test_what_lies_under_a_null_is_not_looked_at(lab):
    """A value that a null hides is no value, however odd."""
    odd = ints([1], pa.duration("ns"))
    hidden = pa.StructArray.from_arrays([odd], ["v"], mask=pa.array([True]))
    _, back = copied(lab, {"v": hidden})
    assert back["v"].to_pylist() == [None]


def test_a_map_with_a_key_twice_is_refused_by_name(lab):
    """DuckDB's maps have a key once; the error names the columns that are maps."""
    stream = lab.create("s", pa.table({"pairs": pa.array([[("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int64()))}))  # fmt: skip
    with (
        duckdb.connect() as connection,
        pytest.raises(sl.QueryError, match=r"duplicate(.|\n)*pairs"),
    ):
        stream.to_duckdb(connection)


def test_every_storable_type_is_in_the_table_of_the_page():
    """docs/duckdb.md has a line for each type that is copied here."""
    page = (Path(__file__).parent.parent / "docs" / "duckdb.md").read_text()
    for kind in TYPES:
        assert f"`{re.sub(r'[(].*', '', kind)}" in page, kind


def test_a_wider_type_is_a_wider_column(lab):
    """Every widening that a stream allows is made in DuckDB too, and old values stay."""
    steps = [
        ("int8", "int64"), ("uint32", "int64"), ("int32", "float64"), ("float32", "float64"),
        ("timestamp[s]", "timestamp[us]"), ("time32[s]", "time64[ns]"), ("duration[s]", "duration[us]"),
        ("string", "large_string"), ("binary", "large_binary"),
    ]  # fmt: skip
    kinds = {name: array.type for name, array in {**PLAIN, **DURATIONS}.items()}
    old = {f"c{i}": kinds[a] for i, (a, _) in enumerate(steps)} | {"d": pa.decimal128(5, 2)}
    new = {f"c{i}": kinds[b] for i, (_, b) in enumerate(steps)} | {"d": pa.decimal128(38, 2)}
    plain = [1, 2, 3, 0.5, dt.datetime(2026, 1, 1), dt.time(1), dt.timedelta(1), "x", b"y"]
    row = {f"c{i}": [value] for i, value in enumerate(plain)} | {"d": [decimal.Decimal("1.50")]}
    stream = lab.create("s", pa.table({n: pa.array(row[n], k) for n, k in old.items()}))
    fresh = lab.create("fresh", pa.table({n: pa.array(row[n], k) for n, k in new.items()}))
    with duckdb.connect() as connection:
        stream.to_duckdb(connection)
        stream.evolve(pa.schema(new))
        assert stream.to_duckdb(connection) == 0
        fresh.to_duckdb(connection)
        columns = "SELECT * EXCLUDE (_append_time)"
        assert connection.sql(f"{columns} FROM s").fetchall() == connection.sql(f"{columns} FROM fresh").fetchall()  # fmt: skip
        assert connection.sql("DESCRIBE s").fetchall() == connection.sql("DESCRIBE fresh").fetchall()  # fmt: skip
