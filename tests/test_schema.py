"""Any dataframe becomes one Arrow batch of the stream's types: exactly, or not at all."""

import datetime as dt
import decimal
import functools

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamlab import schema as sl
from streamlab.errors import SchemaMismatch

UTC = dt.UTC
D = decimal.Decimal
NOON = dt.datetime(2026, 1, 5, 12)


def one(kind, *values, name="x"):
    """A table of one column."""
    return pa.table({name: pa.array(values, kind)})


def into(kind, table, *, nullable=True):
    """The table conformed to one column of a type."""
    return sl.conform(table, pa.schema([pa.field("x", kind, nullable)])).column(0)


def refusal(call, *args, **kwargs):
    """The SchemaMismatch that a call must raise."""
    with pytest.raises(SchemaMismatch) as caught:
        call(*args, **kwargs)
    return caught.value


# Every type a stream can hold, with values of it.

INSTANTS = st.integers(-(10**15), 10**15)
LEAVES = {
    pa.bool_(): st.booleans(),
    **{
        pa.type_for_alias(f"int{n}"): st.integers(-(2 ** (n - 1)), 2 ** (n - 1) - 1)
        for n in (8, 16, 32, 64)
    },
    **{pa.type_for_alias(f"uint{n}"): st.integers(0, 2**n - 1) for n in (8, 16, 32, 64)},
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.decimal32(5, 2): st.decimals(-999, 999, places=2),
    pa.decimal64(12, 3): st.decimals(-999, 999, places=3),
    pa.decimal128(38, 5): st.decimals(-(10**9), 10**9, places=5),
    pa.string(): st.text(max_size=5),
    pa.large_string(): st.text(max_size=5),
    pa.binary(): st.binary(max_size=5),
    pa.large_binary(): st.binary(max_size=5),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.date32(): st.dates(),
    pa.time32("s"): st.integers(0, 86_399),
    pa.time64("ns"): st.integers(0, 86_399_999_999_999),
    pa.timestamp("s"): INSTANTS,
    pa.timestamp("ms", "Europe/Paris"): INSTANTS,
    pa.timestamp("us", "UTC"): INSTANTS,
    pa.timestamp("ns"): INSTANTS,
    pa.duration("ms"): INSTANTS,
    pa.duration("ns"): INSTANTS,
}


def nested(kinds):
    """Types made of other types."""
    return st.one_of(
        kinds.map(pa.list_),
        kinds.map(pa.large_list),
        kinds.map(lambda kind: pa.list_(kind, 2)),
        st.tuples(kinds, kinds).map(lambda two: pa.struct([("a", two[0]), ("b", two[1])])),
        kinds.map(lambda kind: pa.map_(pa.string(), kind)),
    )


TYPES = st.recursive(st.sampled_from(list(LEAVES)), nested, max_leaves=4)


@functools.cache
def values(kind):
    """Values of a type, some of them null."""
    if kind in LEAVES:
        some = LEAVES[kind]
    elif pa.types.is_struct(kind):
        some = st.fixed_dictionaries({field.name: values(field.type) for field in kind})
    elif pa.types.is_map(kind):
        some = st.dictionaries(st.text(max_size=2), values(kind.item_type), max_size=3).map(
            lambda pairs: list(pairs.items())
        )
    else:
        size = (
            {"min_size": 2, "max_size": 2} if pa.types.is_fixed_size_list(kind) else {"max_size": 3}
        )
        some = st.lists(values(kind.value_type), **size)
    return st.one_of(st.none(), some)


@st.composite
def arrays(draw):
    """An array of some stored type; often a slice of a longer one."""
    kind = draw(TYPES)
    array = pa.array(draw(st.lists(values(kind), max_size=8)), kind)
    start = draw(st.integers(0, len(array)))
    return array[start:]


def same(left, right):
    """Whether two arrays hold the same values, NaN being itself."""
    return left.type == right.type and (left.equals(right) or str(left) == str(right))


FAST = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FAST
@given(arrays())
def test_every_stored_type_goes_through_unchanged(array):
    """What a stream can hold normalises to itself and conforms to the same values."""
    table = sl.to_table(pa.table({"x": array}))
    stored = sl.normalise(table.schema)
    assert stored == pa.schema([("x", array.type)])
    batch = sl.conform(table, stored)
    assert batch.schema == stored
    batch.validate(full=True)
    assert same(batch.column(0), array)


def foreign(array, draw):
    """The same values in a form that is never stored."""
    kind = array.type
    forms = [
        lambda: pa.RunEndEncodedArray.from_arrays(
            np.arange(1, len(array) + 1, dtype=np.int32), array
        )
    ]
    if pa.types.is_string(kind):
        forms.append(lambda: array.cast(pa.string_view()))
        forms.append(lambda: array.cast(pa.string_view()).cast(pa.string()).dictionary_encode())
    if pa.types.is_binary(kind):
        forms.append(lambda: array.cast(pa.binary_view()))
    if pa.types.is_primitive(kind) and not pa.types.is_boolean(kind):
        forms.append(array.dictionary_encode)
    if pa.types.is_list(kind) and not array.offset:
        sizes = pa.array([len(v) if v.is_valid else 0 for v in array], pa.int32())
        mask = array.is_null()
        forms = [
            lambda: pa.ListViewArray.from_arrays(array.offsets[:-1], sizes, array.values, mask=mask)
        ]
    return draw(st.sampled_from(forms))()


@FAST
@given(st.data())
def test_every_foreign_form_becomes_what_it_holds(data):
    """Views, dictionaries and run ends, sliced too, give the values they stand for."""
    plain = data.draw(arrays())
    array = foreign(plain, data.draw)
    start = data.draw(st.integers(0, len(array)))
    table = sl.to_table(pa.table({"x": array[start:]}))
    assert sl.normalise(table.schema) == pa.schema([("x", plain.type)])
    result = into(plain.type, table)
    result.validate(full=True)
    assert same(result, plain[start:])


@FAST
@given(st.data())
def test_a_cast_keeps_every_value_or_is_refused(data):
    """Between any two number types the result compares equal to the input, or there is none."""
    numbers = [k for k in LEAVES if pa.types.is_integer(k) or pa.types.is_floating(k)]
    old, new = data.draw(st.sampled_from(numbers)), data.draw(st.sampled_from(numbers))
    given_values = data.draw(st.lists(values(old), min_size=1, max_size=4))
    array = pa.array(given_values, old)
    try:
        result = into(new, pa.table({"x": array})).to_pylist()
    except SchemaMismatch:
        return
    for before, after in zip(array.to_pylist(), result, strict=True):
        assert before == after or (before != before and after != after)


# Producers.

ROWS = [
    {"symbol": "A", "price": 1.5, "size": 3, "at": dt.datetime(2026, 1, 5, tzinfo=UTC)},
    {"symbol": None, "price": None, "size": None, "at": None},
    {"symbol": "é", "price": -0.25, "size": 2**40, "at": dt.datetime(2026, 1, 6, tzinfo=UTC)},
]
STORED = pa.schema(
    [
        ("symbol", pa.string()),
        ("price", pa.float64()),
        ("size", pa.int64()),
        ("at", pa.timestamp("us", "UTC")),
    ]
)


class OnlyArray:
    """Something that speaks only the C interface for one batch."""

    def __init__(self, batch):
        self.batch = batch

    def __arrow_c_array__(self, requested_schema=None):
        return self.batch.__arrow_c_array__(requested_schema)


PRODUCERS = {
    "list of dicts": lambda: ROWS,
    "tuple of dicts": lambda: tuple(ROWS),
    "columns": lambda: {name: [row[name] for row in ROWS] for name in STORED.names},
    "Polars frame": lambda: pl.DataFrame(ROWS, strict=False),
    "Polars columns": lambda: dict(pl.DataFrame(ROWS).to_dict()),
    "Arrow table": lambda: pa.Table.from_pylist(ROWS),
    "Arrow table of chunks": lambda: pa.concat_tables(
        [pa.Table.from_pylist([row], STORED) for row in ROWS]
    ),
    "Arrow batch": lambda: pa.RecordBatch.from_pylist(ROWS),
    "Arrow reader": lambda: pa.Table.from_pylist(ROWS).to_reader(),
    "Arrow array": lambda: OnlyArray(pa.RecordBatch.from_pylist(ROWS)),
    "dataset": lambda: pa.dataset.dataset(pa.Table.from_pylist(ROWS)),
    "scanner": lambda: pa.dataset.dataset(pa.Table.from_pylist(ROWS)).scanner(),
    "pandas frame": lambda: pd.DataFrame(ROWS).convert_dtypes(),
    "pandas slice": lambda: pd.DataFrame([ROWS[1], *ROWS]).convert_dtypes()[1:],
    "DuckDB relation": lambda: duckdb.from_arrow(pa.Table.from_pylist(ROWS)),
}


@pytest.mark.parametrize("producer", PRODUCERS)
@pytest.mark.parametrize("read", [sl.to_table, lambda data: sl.batches(data).read_all()])
def test_every_producer_gives_the_same_batch(producer, read):
    """The same rows from any library are the same rows of a stream."""
    batch = sl.conform(read(PRODUCERS[producer]()), STORED)
    assert batch.schema == STORED
    assert batch.to_pylist() == pa.RecordBatch.from_pylist(ROWS, STORED).to_pylist()


NESTED = [
    {"tags": ["x", None], "at": {"z": 1, "who": "é"}, "kind": "a", "deep": [{"q": [b"x"]}]},
    {"tags": None, "at": None, "kind": None, "deep": None},
    {"tags": [], "at": {"z": None, "who": None}, "kind": "b", "deep": [{"q": None}, None]},
]


@pytest.mark.parametrize(
    "producer",
    [
        lambda: NESTED,
        lambda: pa.Table.from_pylist(NESTED),
        lambda: pl.DataFrame(NESTED).with_columns(pl.col("kind").cast(pl.Categorical)),
        lambda: duckdb.from_arrow(pa.Table.from_pylist(NESTED)),
    ],
)
@pytest.mark.parametrize("start", [0, 1])
def test_nested_data_goes_through_unchanged(producer, start):
    """Lists and structs of any library, cut too, become plain types with the same values."""
    table = sl.to_table(producer())[start:]
    batch = sl.conform(table, sl.normalise(table.schema))
    batch.validate(full=True)
    assert batch.schema.field("kind").type == pa.string()
    assert batch.to_pylist() == NESTED[start:]


def test_a_reader_is_read_one_batch_at_a_time():
    """Nothing beyond the batch that is asked for is pulled from a source."""
    pulled = []

    def source():
        for number in range(100):
            pulled.append(number)
            yield pa.record_batch({"x": [number]})

    reader = sl.batches(pa.RecordBatchReader.from_batches(pa.schema([("x", pa.int64())]), source()))
    assert reader.read_next_batch().to_pydict() == {"x": [0]}
    assert len(pulled) < 3


def test_rows_may_leave_out_columns_that_others_have():
    """A missing key is null; columns come in the order in which they are first seen."""
    table = sl.to_table([{"b": 1}, {"a": "x", "b": 2}, {"c": None}])
    assert table.to_pydict() == {"b": [1, 2, None], "a": [None, "x", None], "c": [None, None, None]}


def test_a_dict_is_columns_iff_a_value_is_a_list_or_an_array():
    """One dict of scalars, text, bytes or dicts is a row."""
    assert sl.to_table({"a": "xy", "b": b"z", "c": {"d": 1}}).num_rows == 1
    for values_ in (
        [1, 2],
        (1, 2),
        np.array([1, 2]),
        pa.array([1, 2]),
        pl.Series([1, 2]),
        pd.Series([1, 2]),
    ):
        assert sl.to_table({"a": values_}).to_pydict() == {"a": [1, 2]}
    row = {"a": np.float64(1.5), "b": memoryview(b"z"), "c": pa.scalar(1)}
    assert sl.to_table(row).to_pydict() == {"a": [1.5], "b": [b"z"], "c": [1]}


def test_an_index_without_a_name_is_no_column():
    """A pandas index comes along only if it has a name."""
    frame = pd.DataFrame({"a": [1, 2, 3]}).iloc[[0, 2]]
    frame.index = [5, 9]
    assert sl.to_table(frame).column_names == ["a"]
    assert sl.to_table(pa.Table.from_pandas(frame)).column_names == ["a"]
    assert sl.to_table(frame.rename_axis("day")).column_names == ["a", "day"]


def test_nanoseconds_of_pandas_instants_are_not_cut():
    """A list of pandas timestamps keeps what a datetime could not hold."""
    stamp = pd.Timestamp("2026-01-05T00:00:00.123456789Z")
    table = sl.to_table({"t": [stamp, pd.NaT], "d": [pd.Timedelta(7), None]})
    assert table.schema.types == [pa.timestamp("ns", "UTC"), pa.duration("ns")]
    assert table["t"].cast(pa.int64()).to_pylist() == [stamp.value, None]
    assert table["d"].cast(pa.int64()).to_pylist() == [7, None]


def test_integers_up_to_64_bits_without_sign_are_read():
    """Python integers beyond int64 are uint64, as long as they fit."""
    assert sl.to_table([{"a": 2**64 - 1}, {"a": None}, {"a": 0}])["a"].to_pylist() == [
        2**64 - 1,
        None,
        0,
    ]


BAD_UTF8 = pa.Array.from_buffers(
    pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
)


@pytest.mark.parametrize(
    ("data", "column", "says"),
    [
        ([{"x": 1}, {"x": "a"}], "x", "row 1 is 'a'"),
        ({"x": [None, 1.5, True]}, "x", "row 2 is True"),
        ({"x": [dt.date(2026, 1, 5), dt.datetime(2026, 1, 5)]}, "x", "got datetime, want date"),
        (
            {"x": [dt.datetime(2026, 1, 5), None, dt.datetime(2026, 1, 5, tzinfo=UTC)]},
            "x",
            "got aware, want naive",
        ),
        ({"x": ["a", b"b"]}, "x", "got bytes, want str"),
        ({"x": [D(1), 1.5]}, "x", "got float, want Decimal"),
        ({"x": [{"y": 1.5}, None, {"y": True}]}, "x.y", "got bool, want float"),
        ({"x": [[1.5], None, [True]]}, "x[]", "got bool, want float"),
        ({"x": [0, 2**64]}, "x", "row 1 is 18446744073709551616"),
        ({"x": [-1, 2**63]}, "x", "row 1 is 9223372036854775808"),
        ({"x": ["ok", "\ud800"]}, "x", "row 1"),
        ({"x": [object()]}, "x", "row 0"),
        ({"x": [1, 2], "y": 3}, "y", "one row"),
        ({"x": [1, 2], "y": [1]}, "y", "length"),
        ({"x": np.zeros((2, 2))}, "x", "plain column"),
        ({"x": np.array([1j])}, "x", "complex"),
        ({1: [1]}, "1", "not a string"),
        (pd.DataFrame({"x": pd.Series([1.5, True], dtype=object)}), "x", "row 1 is True"),
        (pl.DataFrame({"y": [1], "x": pl.Series([object()], dtype=pl.Object)}), "x", "Object"),
        (pl.DataFrame({"y": [1], "x": pl.Series([1], dtype=pl.Int128)}), "x", "Int128"),
        (pa.table({"y": [1], "x": BAD_UTF8}), "x", "UTF8"),
        (pa.table({"x": BAD_UTF8.cast(pa.binary()).cast(pa.string(), safe=False)}), "x", "UTF8"),
        (pa.table({"x": pa.DictionaryArray.from_arrays(pa.array([0]), BAD_UTF8)}), "x", "UTF8"),
        (
            pa.table({"x": pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), BAD_UTF8)}),
            "x",
            "UTF8",
        ),
    ],
)
def test_what_arrow_would_bend_or_break_is_refused_by_name(data, column, says):
    """Mixtures, values without a type, broken bytes: the column and the reason are named."""
    error = refusal(sl.to_table, data)
    assert error.column == column
    assert says in str(error)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (pl.LazyFrame({"x": [1]}), ".collect()"),
        (7, "int"),
        ("rows.csv", "str"),
        ([1, 2], "row 0 is a int"),
        ([{"x": 1}, None], "row 1 is a NoneType"),
        ({}, "without keys"),
        ([{}, {}], "without keys"),
        (pl.Series([1, 2]), "Series"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "Duplicate"),
        ((row for row in ROWS), "generator"),
    ],
)
def test_what_is_no_dataframe_is_refused(data, says):
    """Data of another kind is refused with what to give instead."""
    assert says in str(refusal(sl.to_table, data))


def test_a_broken_batch_of_a_reader_is_refused_when_it_is_read():
    """Validation follows the reader, one batch at a time."""
    good, bad = pa.record_batch({"x": ["a"]}), pa.record_batch({"x": BAD_UTF8})
    reader = sl.batches(pa.RecordBatchReader.from_batches(good.schema, [good, bad]))
    assert reader.read_next_batch().num_rows == 1
    assert refusal(reader.read_next_batch).column == "x"


# The stored form.


def test_a_stored_schema_has_plain_types_only():
    """Views, dictionaries, run ends, extensions, date64 and offsets become plain at any depth."""
    got = pa.schema(
        {
            "sv": pa.string_view(),
            "bv": pa.binary_view(),
            "lv": pa.list_view(pa.string_view()),
            "llv": pa.large_list_view(pa.dictionary(pa.int8(), pa.string_view())),
            "ree": pa.run_end_encoded(pa.int32(), pa.date64()),
            "uuid": pa.uuid(),
            "st": pa.struct([pa.field("a", pa.date64(), nullable=False)]),
            "m": pa.map_(pa.string_view(), pa.list_(pa.field("e", pa.string_view()), 3)),
            "tz": pa.timestamp("s", "+05:30"),
        },
        metadata={"k": "v"},
    )
    stored = sl.normalise(got)
    assert stored.types == [
        pa.string(),
        pa.binary(),
        pa.list_(pa.string()),
        pa.large_list(pa.string()),
        pa.date32(),
        pa.binary(16),
        pa.struct([("a", pa.date32())]),
        pa.map_(pa.string(), pa.list_(pa.string(), 3)),
        pa.timestamp("s", "UTC"),
    ]
    assert stored.metadata is None
    assert sl.normalise(stored) == stored


def test_normalising_keeps_the_promise_of_a_column():
    """A column declared not null stays so in the schema, and is nullable physically."""
    stored = sl.normalise(
        pa.schema([pa.field("x", pa.string_view(), nullable=False, metadata={"a": "b"})])
    )
    assert stored.equals(
        pa.schema([pa.field("x", pa.string(), nullable=False)]), check_metadata=True
    )
    assert sl.physical(stored).field("x").nullable


def test_system_columns_are_left_out():
    """A stream can be made from what was read from another, also through DuckDB's session zone."""
    read_back = pa.schema([*sl.SYSTEM_FIELDS.values(), ("x", pa.int64())])
    assert sl.normalise(read_back).names == ["x"]
    zoned = pa.schema([("_append_time", pa.timestamp("us", "Europe/Paris")), ("x", pa.int64())])
    assert sl.normalise(zoned).names == ["x"]
    assert sl.SYSTEM_COLUMNS == ("_partition", "_offset", "_append_time", "_deleted")


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("_offset", pa.int32(), '"_offset": "offset_"'),
        ("_OFFSET", pa.int64(), '"_OFFSET": "OFFSET_"'),
        ("_offset_right", pa.int64(), '"_offset_right": "offset_right"'),
        ("_append_time", pa.timestamp("us"), '"_append_time": "append_time_"'),
        ("_deleted", pa.int8(), '"_deleted": "deleted_"'),
        ("_partition_key", pa.string(), '"_partition_key": "partition_key"'),
    ],
)
def test_reserved_names_are_refused_with_the_renaming(name, kind, hint):
    """A column that starts like one of streamlab's own is refused everywhere, with the way out."""
    table = pa.table({"x": [1], name: pa.nulls(1, kind)})
    for error in (
        refusal(sl.normalise, table.schema),
        refusal(sl.conform, table, pa.schema([("x", pa.int64())])),
    ):
        assert error.column == name
        assert hint in error.hint


@pytest.mark.parametrize(
    ("fields", "column"),
    [
        ([("a", pa.int8()), ("a", pa.int8())], "a"),
        ([("a", pa.int8()), ("A", pa.int8())], "A"),
        ([("s", pa.struct([("b", pa.int8()), ("B", pa.int8())]))], "s.B"),
        ([("", pa.int8())], ""),
    ],
)
def test_names_must_be_there_and_differ_by_more_than_case(fields, column):
    """Empty and doubled names are refused, because SQL folds case."""
    assert refusal(sl.normalise, pa.schema(fields)).column == column


def test_a_schema_needs_a_column_of_its_own():
    """A schema without columns, or with system columns only, is refused."""
    refusal(sl.normalise, pa.schema([]))
    refusal(sl.normalise, pa.schema([sl.SYSTEM_FIELDS["_offset"]]))


REFUSED = [
    pa.null(),
    pa.float16(),
    pa.decimal256(50, 2),
    pa.decimal128(5, -2),
    pa.month_day_nano_interval(),
    pa.sparse_union([pa.field("a", pa.int8())]),
    pa.dense_union([pa.field("a", pa.int8())]),
    pa.struct([]),
    pa.list_(pa.int8(), 0),
    pa.binary(0),
    pa.timestamp("us", "Nowhere/Land"),
]


@pytest.mark.parametrize("kind", REFUSED, ids=str)
def test_types_that_a_reader_lacks_are_refused_at_any_depth(kind):
    """What Polars or DuckDB cannot read is refused with its path and something else to use."""
    for path, outer in {
        "x": kind,
        "x.y": pa.struct([("y", kind)]),
        "x[]": pa.large_list(kind),
        "x.value": pa.map_(pa.string(), kind),
    }.items():
        error = refusal(sl.normalise, pa.schema([("x", outer)]))
        assert error.column == path
        assert error.hint


@pytest.mark.parametrize("kind", list(LEAVES), ids=str)
def test_every_stored_type_is_read_by_polars_and_duckdb(kind):
    """A type that is accepted can be read by the engines that streamlab stands on."""
    rows = pa.table({"x": pa.nulls(2, kind)})
    assert pl.DataFrame(rows)["x"].null_count() == 2
    assert duckdb.from_arrow(rows).filter("x is null").count("*").fetchall() == [(2,)]


# Conforming.


def test_columns_go_by_name():
    """Order and system columns of the data do not matter."""
    table = pa.table({"b": ["x"], "_offset": pa.array([7], pa.int64()), "a": [1]})
    batch = sl.conform(table, pa.schema([("a", pa.int64()), ("b", pa.string())]))
    assert batch.to_pylist() == [{"a": 1, "b": "x"}]


def test_a_missing_column_is_named_with_the_one_that_is_near():
    """The data must have every column; a misspelt one is pointed out."""
    error = refusal(
        sl.conform, one(pa.int64(), 1, name="prise"), pa.schema([("price", pa.int64())])
    )
    assert (error.column, error.want) == ("price", pa.int64())
    assert '"prise": "price"' in error.hint


def test_a_column_too_many_is_named():
    """The data may have no column that the stream lacks."""
    error = refusal(sl.conform, pa.table({"a": [1], "b": ["x"]}), pa.schema([("a", pa.int64())]))
    assert (error.column, error.got) == ("b", pa.string())
    assert "evolve" in error.hint


def test_no_rows_conform_to_any_schema():
    """An empty list of rows, an empty frame and a table without chunks are empty batches."""
    assert sl.conform(sl.to_table([]), STORED).schema == STORED
    assert sl.conform(sl.to_table(pl.DataFrame()), STORED).num_rows == 0
    assert sl.conform(STORED.empty_table(), STORED).num_rows == 0
    assert (
        sl.conform(
            pa.table(
                {
                    n: pa.chunked_array([], t)
                    for n, t in zip(STORED.names, STORED.types, strict=True)
                }
            ),
            STORED,
        ).num_rows
        == 0
    )


def test_a_column_that_fits_is_not_copied():
    """In the common case conforming hands on the same memory."""
    for column in (pa.array([1.5, 2.5]), pa.array(["a", "b"])):
        result = into(column.type, pa.table({"x": column}))
        assert [b and b.address for b in result.buffers()] == [
            b and b.address for b in column.buffers()
        ]


EXACT = [
    (pa.int64(), pa.int8(), [-128, 127, None]),
    (pa.uint64(), pa.int64(), [2**63 - 1]),
    (pa.int8(), pa.uint64(), [5]),
    (pa.int64(), pa.float64(), [2**53, -(2**53)]),
    (pa.int64(), pa.float32(), [2**24]),
    (pa.float64(), pa.int64(), [3.0, -0.0, None]),
    (pa.float64(), pa.float32(), [0.5, float("inf"), None]),
    (pa.float16(), pa.float32(), [np.float16(1.5)]),
    (pa.float32(), pa.float64(), [0.5]),
    (pa.int64(), pa.decimal128(5, 2), [999, None]),
    (pa.uint64(), pa.decimal128(38, 18), [2**64 - 1]),
    (pa.int32(), pa.decimal32(9, 2), [12]),
    (pa.decimal128(20, 4), pa.decimal64(5, 2), [D("1.2500")]),
    (pa.decimal256(50, 4), pa.decimal128(38, 2), [D("1.2500")]),
    (pa.date64(), pa.date32(), [dt.date(2026, 1, 5), None]),
    (pa.timestamp("s"), pa.timestamp("ms"), [NOON, None]),
    (pa.timestamp("us"), pa.timestamp("s"), [NOON]),
    (pa.timestamp("us", "Asia/Tokyo"), pa.timestamp("ms", "UTC"), [NOON.replace(tzinfo=UTC)]),
    (pa.time64("us"), pa.time32("s"), [dt.time(9, 30)]),
    (pa.time32("ms"), pa.time64("ns"), [dt.time(9, 30)]),
    (pa.duration("s"), pa.duration("us"), [dt.timedelta(1), None]),
    (pa.duration("us"), pa.duration("s"), [dt.timedelta(1), None]),
    (pa.string(), pa.large_string(), ["a", None]),
    (pa.large_string(), pa.string(), ["a", None]),
    (pa.string_view(), pa.large_string(), ["a" * 20, None]),
    (pa.binary(), pa.binary(2), [b"ab", None]),
    (pa.binary_view(), pa.binary(2), [b"ab", None]),
    (pa.binary(2), pa.large_binary(), [b"ab", None]),
    (pa.null(), pa.struct([("a", pa.list_(pa.int8()))]), [None]),
    (pa.null(), pa.map_(pa.string(), pa.int8()), [None]),
    (pa.list_(pa.int64()), pa.list_(pa.int8()), [[1], None, []]),
    (pa.list_(pa.int64()), pa.large_list(pa.float64()), [[1], None, []]),
    (pa.list_(pa.int64()), pa.list_(pa.int8(), 2), [[1, 2], None]),
    (pa.list_(pa.int64(), 2), pa.list_(pa.int8()), [[1, 2], None]),
    (pa.list_(pa.null()), pa.list_(pa.string()), [[], None]),
    (pa.map_(pa.string(), pa.int64()), pa.map_(pa.large_string(), pa.int8()), [[("a", 1)], None]),
]


@pytest.mark.parametrize(("got", "want", "items"), EXACT, ids=str)
def test_a_cast_that_loses_nothing_is_made(got, want, items):
    """Every allowed cast gives equal values, of a slice too."""
    array = pa.array([*items, *items], got)[len(items) :]
    result = into(want, pa.table({"x": array}))
    result.validate(full=True)
    assert result.type == want
    assert result.equals(pa.array(items, want))


def test_a_day_is_its_midnight_and_a_naive_instant_is_utc():
    """A date becomes a timestamp at 00:00 UTC; a timestamp without a zone counts as UTC."""
    days = one(pa.date32(), dt.date(2026, 1, 5))
    for kind in (pa.timestamp("us", "Asia/Tokyo"), pa.timestamp("s")):
        assert into(kind, days).cast(pa.timestamp("s")).to_pylist() == [dt.datetime(2026, 1, 5)]
    paris = into(pa.timestamp("us", "Europe/Paris"), one(pa.timestamp("s"), NOON))
    assert paris.cast(pa.timestamp("us", "UTC")).to_pylist() == [NOON.replace(tzinfo=UTC)]


LOSSY = [
    (pa.int64(), pa.int8(), [1, None, 300], "row 2 is 300"),
    (pa.int64(), pa.uint64(), [1, -1], "row 1 is -1"),
    (pa.uint64(), pa.int64(), [2**63], "row 0 is 9223372036854775808"),
    (pa.int64(), pa.float64(), [0, 2**53 + 1], "row 1 is 9007199254740993"),
    (pa.int64(), pa.float32(), [2**24 + 1], "row 0"),
    (pa.float64(), pa.int64(), [1.0, 1.5], "row 1 is 1.5"),
    (pa.float64(), pa.int64(), [float("nan")], "row 0 is nan"),
    (pa.float64(), pa.int64(), [2.0**63], "row 0"),
    (pa.float64(), pa.uint8(), [256.0], "row 0 is 256.0"),
    (pa.float64(), pa.float32(), [0.5, 0.1], "row 1 is 0.1"),
    (pa.float64(), pa.float32(), [1e300], "row 0 is 1e+300"),
    (pa.int64(), pa.decimal128(3, 2), [9, 10], "row 1 is 10"),
    (pa.decimal128(5, 3), pa.decimal128(5, 2), [D("1.250"), D("1.255")], "row 1"),
    (pa.timestamp("us"), pa.timestamp("ms"), [1000, 1001], "row 1"),
    (pa.timestamp("s"), pa.timestamp("ns"), [2**40], "row 0"),
    (pa.date32(), pa.timestamp("ns"), [200_000], "row 0"),
    (pa.time64("us"), pa.time32("s"), [1], "row 0"),
    (pa.duration("ms"), pa.duration("s"), [1000, 1], "row 1"),
    (pa.binary(), pa.binary(2), [b"ab", b"abc"], "row 1"),
    (pa.list_(pa.int64()), pa.list_(pa.int8()), [[1], [2, 300]], "row 1 is [2, 300]"),
    (pa.list_(pa.int64()), pa.list_(pa.int64(), 2), [[1, 2], [3]], "row 1 is [3]"),
    (
        pa.struct([("a", pa.int64())]),
        pa.struct([("a", pa.int8())]),
        [{"a": 1}, {"a": 300}],
        "row 1",
    ),
]


@pytest.mark.parametrize(("got", "want", "items", "says"), LOSSY, ids=str)
def test_a_value_that_a_cast_would_bend_is_named_with_its_row(got, want, items, says):
    """A cast that loses one value is refused; row and value of the first one are named."""
    chunks = pa.chunked_array([pa.nulls(2, got), pa.array(items, got)])
    row = int(says.split()[1]) + 2
    error = refusal(into, want, pa.table({"x": chunks}))
    assert (error.column, error.got, error.want, error.row) == ("x", got, want, row)
    assert says.replace(f"row {row - 2}", f"row {row}") in str(error)


FORBIDDEN = [
    (pa.string(), pa.int64()),
    (pa.string(), pa.float64()),
    (pa.string(), pa.timestamp("us")),
    (pa.string(), pa.bool_()),
    (pa.string(), pa.binary()),
    (pa.binary(), pa.string()),
    (pa.int64(), pa.string()),
    (pa.int64(), pa.bool_()),
    (pa.bool_(), pa.int64()),
    (pa.bool_(), pa.float64()),
    (pa.int64(), pa.timestamp("us")),
    (pa.timestamp("us"), pa.int64()),
    (pa.timestamp("us"), pa.date32()),
    (pa.timestamp("us", "UTC"), pa.timestamp("us")),
    (pa.date32(), pa.int32()),
    (pa.duration("us"), pa.int64()),
    (pa.time64("us"), pa.duration("us")),
    (pa.float64(), pa.decimal128(10, 2)),
    (pa.decimal128(10, 2), pa.float64()),
    (pa.decimal128(10, 0), pa.int64()),
    (pa.int64(), pa.list_(pa.int64())),
    (pa.struct([("a", pa.int64())]), pa.map_(pa.string(), pa.int64())),
    (pa.month_day_nano_interval(), pa.duration("us")),
    (pa.dictionary(pa.int8(), pa.string()), pa.int64()),
]


@pytest.mark.parametrize(("got", "want"), FORBIDDEN, ids=str)
def test_one_class_of_values_never_becomes_another(got, want):
    """Text, numbers, instants and the rest stay what they are, even without a value to lose."""
    error = refusal(into, want, pa.table({"x": pa.nulls(1, got)}))
    assert error.column == "x"
    assert sl.describe_type(want) in str(error)
    nested_error = refusal(
        into, pa.struct([("y", want)]), pa.table({"x": pa.nulls(1, pa.struct([("y", got)]))})
    )
    assert nested_error.column == "x.y"


def test_the_message_names_column_got_and_want():
    """The refusal of a type reads as documented."""
    error = refusal(
        sl.conform, one(pa.string(), "1.5", name="price"), pa.schema([("price", pa.float64())])
    )
    assert str(error).splitlines()[0] == 'column "price": got string, want double'
    assert (error.column, error.got, error.want) == ("price", pa.string(), pa.float64())
    assert 'pl.col("price")' in error.hint


def test_fields_of_a_struct_go_by_name():
    """A struct may order its fields otherwise; it may lack none and add none."""
    want = pa.struct([("a", pa.int8()), ("b", pa.string())])
    table = one(pa.struct([("b", pa.string_view()), ("a", pa.int64())]), {"a": 1, "b": "x"}, None)
    assert into(want, table).to_pylist() == [{"a": 1, "b": "x"}, None]
    for fields in ([("a", pa.int8())], [("a", pa.int8()), ("b", pa.string()), ("c", pa.int8())]):
        assert refusal(into, want, one(pa.struct(fields), None)).column == "x"


def test_what_lies_under_a_null_struct_is_not_looked_at():
    """A value hidden by a null parent cannot make a cast fail."""
    hidden = pa.StructArray.from_arrays([pa.array([1, 300])], ["a"], mask=pa.array([False, True]))
    assert into(pa.struct([("a", pa.int8())]), pa.table({"x": hidden})).to_pylist() == [
        {"a": 1},
        None,
    ]


def test_a_null_breaks_a_promise():
    """A null in a column declared not null is refused with its row; without one it is taken."""
    table = pa.table({"x": pa.chunked_array([[1], [2, None]])})
    error = refusal(into, pa.int64(), table, nullable=False)
    assert (error.column, error.row) == ("x", 2)
    assert into(pa.int64(), table[:2], nullable=False).to_pylist() == [1, 2]


def huge(kind):
    """Two chunks that are together beyond 2 GiB, of memory that is never touched."""
    size = 1_200_000_000
    ends = pa.array([0, size], pa.int32()).buffers()[1]
    chunk = pa.Array.from_buffers(kind, 1, [None, ends, pa.py_buffer(np.zeros(size, np.uint8))])
    return pa.table({"x": pa.chunked_array([chunk, chunk])})


@pytest.mark.parametrize("kind", [pa.string(), pa.binary()], ids=str)
def test_what_cannot_lie_in_one_array_is_refused_not_broken(kind):
    """Beyond 2 GiB of text in one batch there is an error that says to split it."""
    error = refusal(into, kind, huge(kind))
    assert error.column == "x"
    assert "less" in error.hint


@pytest.mark.slow
def test_views_of_one_value_do_not_overflow_unnoticed():
    """Views repeat a value at no cost; where their text passes 2 GiB it is refused, not wrapped."""
    one_view = pa.array(["x" * 10_000_000], pa.string_view())
    views, *text = one_view.buffers()[1:]
    repeated = pa.py_buffer(views.to_pybytes()[:16] * 220)
    array = pa.Array.from_buffers(pa.string_view(), 220, [None, repeated, *text])
    assert refusal(into, pa.string(), pa.table({"x": array})).column == "x"
    assert into(pa.string(), pa.table({"x": array[:2]})).equals(pa.array(["x" * 10_000_000] * 2))


def test_a_slice_of_views_does_not_drag_its_buffers_along():
    """Ten rows of a big Polars frame are as big as ten rows."""
    frame = pl.DataFrame({"x": [f"{i:040}" for i in range(50_000)]})[100:110]
    assert into(pa.string(), sl.to_table(frame)).nbytes < 1_000


# A schema that grows.

WIDER = [
    (pa.int8(), pa.int16()),
    (pa.int32(), pa.int64()),
    (pa.uint8(), pa.uint64()),
    (pa.uint32(), pa.int64()),
    (pa.int32(), pa.float64()),
    (pa.uint32(), pa.float64()),
    (pa.float32(), pa.float64()),
    (pa.string(), pa.large_string()),
    (pa.binary(), pa.large_binary()),
    (pa.decimal64(12, 3), pa.decimal128(20, 3)),
    (pa.timestamp("s"), pa.timestamp("us")),
    (pa.timestamp("ms", "UTC"), pa.timestamp("us", "UTC")),
    (pa.duration("s"), pa.duration("ms")),
    (pa.time32("s"), pa.time64("ns")),
]
NOT_WIDER = [
    (pa.int64(), pa.int32()),
    (pa.uint8(), pa.int8()),
    (pa.int8(), pa.uint8()),
    (pa.int64(), pa.float64()),
    (pa.int8(), pa.float32()),
    (pa.float64(), pa.float32()),
    (pa.float32(), pa.int64()),
    (pa.large_string(), pa.string()),
    (pa.string(), pa.binary()),
    (pa.binary(4), pa.binary()),
    (pa.decimal128(20, 3), pa.decimal128(21, 4)),
    (pa.timestamp("us"), pa.timestamp("ns")),
    (pa.timestamp("us"), pa.timestamp("ms")),
    (pa.timestamp("s"), pa.timestamp("us", "UTC")),
    (pa.duration("ms"), pa.duration("ns")),
    (pa.bool_(), pa.int8()),
    (pa.date32(), pa.timestamp("us")),
    (pa.list_(pa.int8()), pa.list_(pa.int16())),
    (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.int8()), ("b", pa.int8())])),
]


@pytest.mark.parametrize(("old", "new"), WIDER, ids=str)
def test_a_type_may_widen_and_old_rows_keep_their_values(old, new):
    """A wider type is taken, and a batch of the old one adapts to it without a change."""
    before, after = pa.schema([("x", old)]), pa.schema([("x", new)])
    assert sl.evolve(before, after) == after
    batch = pa.record_batch(
        {
            "x": pa.array([1, None], pa.int8()).cast(old)
            if pa.types.is_integer(old)
            else pa.nulls(2, old)
        }
    )
    adapted = sl.adapt(batch, after)
    assert adapted.schema == after
    assert adapted.to_pylist() == batch.to_pylist()


@pytest.mark.parametrize(("old", "new"), NOT_WIDER, ids=str)
def test_a_type_never_changes_otherwise(old, new):
    """Narrower, coarser or other types are refused by name, got and want."""
    error = refusal(sl.evolve, pa.schema([("x", old)]), pa.schema([("x", new)]))
    assert (error.column, error.got, error.want) == ("x", old, new)


def test_new_columns_come_last_and_are_nullable():
    """Old columns keep their order and places; a new one may not be promised."""
    old = pa.schema([("a", pa.int8()), ("b", pa.string())])
    new = pa.schema([("c", pa.string_view()), ("b", pa.string()), ("a", pa.int16())])
    assert sl.evolve(old, new) == pa.schema(
        [("a", pa.int16()), ("b", pa.string()), ("c", pa.string())]
    )
    promised = pa.schema([*old, pa.field("c", pa.int8(), nullable=False)])
    assert refusal(sl.evolve, old, promised).column == "c"


def test_a_column_is_neither_dropped_nor_renamed():
    """A column that is gone is named, with the one that looks like its new name."""
    old = pa.schema([("price", pa.int8()), ("b", pa.int8())])
    error = refusal(sl.evolve, old, pa.schema([("prices", pa.int8()), ("b", pa.int8())]))
    assert error.column == "price"
    assert "prices" in error.hint


def test_a_promise_may_be_taken_back_but_not_given_later():
    """Not null may become nullable, never the other way round."""
    loose, tight = (pa.schema([pa.field("x", pa.int8(), nullable)]) for nullable in (True, False))
    assert sl.evolve(tight, loose) == loose
    assert sl.evolve(tight, tight) == tight
    assert refusal(sl.evolve, loose, tight).column == "x"


def test_a_key_widens_only_where_its_partition_stays():
    """A whole-number key may get more bits, but does not become a float."""
    old = pa.schema([("x", pa.int32())])
    assert sl.evolve(old, pa.schema([("x", pa.int64())]), key=["x"]).types == [pa.int64()]
    assert refusal(sl.evolve, old, pa.schema([("x", pa.float64())]), key=["x"]).column == "x"


def test_a_batch_adapts_to_any_selection_of_a_later_schema():
    """Columns it lacks are null, columns not asked for are left out, order is the schema's."""
    batch = pa.record_batch({"a": pa.array([1, 2], pa.int8()), "b": ["x", "y"]})
    wanted = pa.schema([("c", pa.list_(pa.int8())), ("a", pa.int64())])
    assert sl.adapt(batch, wanted).to_pydict() == {"c": [None, None], "a": [1, 2]}
    assert sl.adapt(batch, pa.schema([])).num_rows == 2
    assert sl.adapt(batch, batch.schema).equals(batch)


# Event time.


@pytest.mark.parametrize(
    ("kind", "items", "micros"),
    [
        (pa.timestamp("s"), [-1, 2], [-1_000_000, 2_000_000]),
        (pa.timestamp("ms", "Europe/Paris"), [-1, 2], [-1_000, 2_000]),
        (pa.timestamp("us", "UTC"), [-1, 2], [-1, 2]),
        (pa.timestamp("ns"), [-1, 1_999], [-1, 1]),
        (pa.date32(), [-1, 1], [-86_400_000_000, 86_400_000_000]),
    ],
    ids=str,
)
def test_event_time_is_the_floor_in_microseconds(kind, items, micros):
    """Any unit counts as its floor in microseconds UTC, also before 1970 and in a slice."""
    result = sl.event_times(
        pa.array([0, *items], pa.int32() if kind == pa.date32() else pa.int64()).cast(kind)[1:]
    )
    assert result.dtype == np.int64
    assert result.tolist() == micros


def test_event_time_is_never_null_nor_out_of_range():
    """A null and an instant beyond microseconds are refused with their row."""
    assert refusal(sl.event_times, pa.array([1, None], pa.timestamp("us")), "at").row == 1
    error = refusal(sl.event_times, pa.array([0, 2**60], pa.timestamp("s")), "at")
    assert (error.column, error.row) == ("at", 1)
    assert sl.event_times(pa.array([], pa.timestamp("us"))).tolist() == []


def test_only_an_instant_or_a_date_can_be_the_event_time():
    """Other columns are refused with the conversion; a missing one with the names there are."""
    schema = pa.schema(
        [("at", pa.timestamp("ns")), ("day", pa.date32()), ("ms", pa.int64()), ("iso", pa.string())]
    )
    sl.check_time_column(schema, "at")
    sl.check_time_column(schema, "day")
    assert 'pl.from_epoch("ms"' in refusal(sl.check_time_column, schema, "ms").hint
    assert "to_datetime" in refusal(sl.check_time_column, schema, "iso").hint
    assert refusal(sl.check_time_column, schema, "att").column == "att"
    assert refusal(sl.event_times, pa.array([1]), "ms").column == "ms"


def test_type_names_in_messages_are_short():
    """Nested types read as people write them, and never fill the screen."""
    kind = pa.struct([("a", pa.list_(pa.string())), ("m", pa.map_(pa.string(), pa.int8()))])
    assert sl.describe_type(kind) == "struct<a: list<string>, m: map<string, int8>>"
    assert len(sl.describe_type(pa.struct([(f"f{i}", pa.int8()) for i in range(99)]))) <= 80
