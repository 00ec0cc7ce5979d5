"""A stream as its users hold it: appending, reading, views, evolving, deleting."""

import datetime as dt
import decimal
import threading

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from polars.testing import assert_frame_equal

import streamlab as sl
from streamlab.testing import chunked, feed

UTC = dt.UTC
NOON = dt.datetime(2026, 1, 1, 12, tzinfo=UTC)

EVERY_TYPE = {
    "bool": (pa.bool_(), [True, None, False]),
    "i8": (pa.int8(), [-128, None, 127]),
    "i64": (pa.int64(), [-(2**63), None, 2**63 - 1]),
    "u64": (pa.uint64(), [0, None, 2**64 - 1]),
    "f32": (pa.float32(), [1.5, None, float("-inf")]),
    "f64": (pa.float64(), [1e308, None, -0.0]),
    "d32": (pa.decimal32(5, 2), [decimal.Decimal("1.25"), None, decimal.Decimal("-999.99")]),
    "d128": (pa.decimal128(38, 10), [decimal.Decimal("1.0000000001"), None, decimal.Decimal(0)]),
    "text": (pa.string(), ["ü😀", None, ""]),
    "large": (pa.large_string(), ["x" * 1000, None, ""]),
    "bytes": (pa.binary(), [b"\x00\xff", None, b""]),
    "fixed": (pa.binary(3), [b"abc", None, b"\0\0\0"]),
    "date": (pa.date32(), [dt.date(1, 1, 1), None, dt.date(9999, 12, 31)]),
    "time": (pa.time64("us"), [dt.time(23, 59, 59, 999999), None, dt.time(0)]),
    "ts_s": (pa.timestamp("s"), [dt.datetime(2026, 1, 1), None, dt.datetime(1969, 12, 31)]),
    "ts_ns": (pa.timestamp("ns", "UTC"), [NOON, None, NOON]),
    "ts_zone": (pa.timestamp("us", "Europe/Berlin"), [NOON, None, NOON]),
    "span": (pa.duration("us"), [dt.timedelta(days=-1, microseconds=1), None, dt.timedelta(0)]),
    "list": (pa.list_(pa.int64()), [[1, None], None, []]),
    "fixed_list": (pa.list_(pa.float64(), 2), [[1.0, 2.0], None, [None, 3.0]]),
    "struct": (pa.struct([("a", pa.int32()), ("b", pa.string())]), [{"a": 1, "b": "x"}, None, {"a": None, "b": None}]),
    "map": (pa.map_(pa.string(), pa.int64()), [[("k", 1)], None, []]),
    "deep": (pa.list_(pa.struct([("a", pa.list_(pa.string()))])), [[{"a": ["q", None]}], None, [{"a": None}]]),
}  # fmt: skip


def table_of_every_type(rows=3):
    columns = {
        name: pa.array((values * rows)[:rows], kind) for name, (kind, values) in EVERY_TYPE.items()
    }
    return pa.table(columns)


@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("sealed", [False, True])
def test_every_type_round_trips_through_every_engine(lab, sealed, compression):
    """What is appended comes back with the same types and values, from Arrow, Polars and DuckDB."""
    table = table_of_every_type(30)
    stream = lab.create("all", table, settings=sl.Settings(compression=compression))
    stream.append(table.slice(0, 0))
    stream.append(table.slice(5, 7))
    if sealed:
        stream.seal()
    wanted = pa.concat_tables([table, table.slice(5, 7)])
    got = stream.to_arrow().select(table.schema.names)
    assert got.schema.equals(wanted.schema)
    assert got.equals(wanted)
    twice = [pl.from_arrow(table), pl.from_arrow(table.take(list(range(5, 12))))]
    as_polars = pl.concat(twice).drop("ts_s", "map")
    assert_frame_equal(stream.to_polars().select(as_polars.columns), as_polars)
    assert stream.to_polars()["ts_s"].to_list() == wanted["ts_s"].to_pylist()
    assert_frame_equal(stream.tail(9).select(as_polars.columns), as_polars.tail(9))
    assert_frame_equal(stream.offsets(3, 9).to_polars().select(as_polars.columns), as_polars[3:9])
    relation = lab.sql(
        'SELECT * EXCLUDE (_partition, _offset, _append_time) FROM "all" ORDER BY _offset'
    )
    found = relation.to_arrow_table()
    for name in table.schema.names:
        if name != "span":  # an interval in DuckDB
            assert found[name].to_pylist() == wanted[name].to_pylist(), name


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (pa.float16(), [np.float16(1)]),
        (pa.decimal256(50, 1), [decimal.Decimal(1)]),
        (pa.month_day_nano_interval(), [None]),
        (pa.null(), [None]),
    ],
)
def test_a_type_that_an_engine_cannot_read_is_refused_by_name(lab, kind, values):
    """A column that some engine could not read is refused at creation, named, with a way out."""
    with pytest.raises(sl.SchemaMismatch, match='"odd"') as caught:
        lab.create("s", pa.table({"fine": [1], "odd": pa.array(values, kind)}))
    assert caught.value.hint
    assert "s" not in lab


def test_five_libraries_append_the_same_rows(lab, trades):
    """Polars, pandas, pyarrow, DuckDB and Python values of the same data give the same rows."""
    stream = lab.create("trades", trades.to_arrow().schema, time="ts", key="symbol")
    rows = trades.head(20)
    arrow = rows.to_arrow()
    for data in (
        rows,
        rows.to_pandas(),
        arrow,
        arrow.to_batches()[0],
        pa.RecordBatchReader.from_batches(arrow.schema, arrow.to_batches()),
        duckdb.sql("SELECT * FROM rows"),
        rows.to_dict(as_series=False),
        rows.to_dicts(),
    ):
        assert len(stream.append(data)) == 20
    stream.append(rows.to_dicts()[0])
    wanted = pl.concat([rows] * 8 + [rows.head(1)])
    assert_frame_equal(stream.to_polars().select(rows.columns), wanted)


def test_what_does_not_fit_is_refused_whole(lab, trades):
    """A column missing, too many, of another type or lossy: named, and nothing is written."""
    stream = lab.create("trades", trades, time="ts")
    for bad, column in (
        (trades.drop("price"), "price"),
        (trades.with_columns(extra=1), "extra"),
        (trades.with_columns(price=pl.lit("12.5")), "price"),
        (trades.with_columns(size=pl.lit(1.5)), "size"),
        (trades.with_columns(ts=pl.lit(None, dtype=pl.Datetime("us", "UTC"))), "ts"),
    ):
        with pytest.raises(sl.SchemaMismatch, match=column):
            stream.append(bad)
    assert len(stream) == trades.height
    with pytest.raises(sl.SchemaMismatch):
        stream.append(42)


def test_an_event_too_far_ahead_is_refused_with_row_and_value(timed_lab):
    """One bad timestamp is refused before it makes everything after it late."""
    stream = timed_lab.create("s", {"ts": [NOON], "v": [1]}, time="ts")
    with pytest.raises(sl.FutureEvent, match="row 1.*2031") as caught:
        stream.append({"ts": [NOON, NOON.replace(year=2031)], "v": [2, 3]})
    assert caught.value.row == 1
    assert len(stream) == 1
    free = timed_lab.create("free", stream.schema, time="ts", settings=sl.Settings(max_ahead=None))
    assert len(free.append({"ts": [NOON.replace(year=2031)], "v": [2]})) == 1


def test_append_times_grow_even_when_the_clock_goes_back(timed_lab, clock):
    """Append time is strictly increasing from append to append, whatever the wall clock does."""
    stream = timed_lab.create("s", pa.schema([("v", pa.int64())]))
    for jump in ("2026-01-01T12:00Z", "2026-01-01T11:00Z", "2020-01-01", "2026-01-01T12:30Z"):
        clock.set(jump)
        stream.append({"v": [1, 2]})
    times = stream.to_polars()["_append_time"].to_list()
    assert times[0::2] == times[1::2]
    assert all(a < b for a, b in zip(times[0::2], times[2::2], strict=False))


def test_a_big_append_is_whole_and_in_order(lab):
    """What is bigger than a segment becomes several files and appears all at once."""
    small = sl.Settings(segment_bytes=65_536)
    stream = lab.create("s", pa.schema([("v", pa.int64())]), settings=small)
    stream.append({"v": [-1]})
    frame = pl.DataFrame({"v": range(200_000)})
    assert stream.append(frame) == range(1, 200_001)
    assert (
        len(
            stream.append(
                pa.RecordBatchReader.from_batches(
                    frame.to_arrow().schema, frame.to_arrow().to_batches(1000)
                )
            )
        )
        == 200_000
    )
    got = stream.to_polars()
    assert got["v"].to_list() == [-1, *range(200_000), *range(200_000)]
    assert got["_append_time"].n_unique() == 3
    assert stream.durable_offset >= 0


def test_a_big_append_that_fails_leaves_nothing(lab, tmp_path):
    """If the last batch of a stream of batches does not fit, none of it is there."""
    stream = lab.create(
        "s", pa.schema([("v", pa.int32())]), settings=sl.Settings(segment_bytes=4096)
    )
    schema = pa.schema([("v", pa.int64())])
    batches = [
        pa.record_batch([pa.array(range(5000), pa.int64())], schema=schema) for _ in range(20)
    ]
    batches.append(pa.record_batch([pa.array([2**40])], schema=schema))
    with pytest.raises(sl.SchemaMismatch):
        stream.append(pa.RecordBatchReader.from_batches(schema, iter(batches)))
    assert len(stream) == 0
    assert stream.append({"v": [1]}) == range(1)
    assert stream.to_polars()["v"].to_list() == [1]


def test_nothing_appended_is_nothing_written(lab, trades):
    """An empty append gives an empty range and changes nothing."""
    stream = lab.create("trades", trades)
    before = stream.stats()
    assert stream.append(trades.head(0)) == range(1000, 1000)
    assert stream.stats() == before


def test_reading_back_and_appending_again_ignores_system_columns(lab, trades):
    """A frame read from a stream can be appended to one; a look-alike column is refused."""
    stream = lab.create("trades", trades, time="ts")
    copy = lab.create("copy", stream.to_polars(), time="ts")
    assert copy.schema.equals(stream.schema)
    assert_frame_equal(
        copy.to_polars().drop("_append_time"), stream.to_polars().drop("_append_time")
    )
    with pytest.raises(sl.SchemaMismatch, match="_offset"):
        stream.append(trades.with_columns(_offset=pl.lit("x")))


def test_partitions_follow_the_key_and_null_keys_go_round(lab):
    """Rows of one key share a partition; rows without one are spread by their offset."""
    stream = lab.create("s", {"k": ["a", "b", "a", None, None, None, None]}, key="k", partitions=4)
    rows = stream.to_polars()
    assert rows.filter(pl.col("k") == "a")["_partition"].n_unique() == 1
    nulls = rows.filter(pl.col("k").is_null())
    assert nulls["_partition"].to_list() == [o % 4 for o in nulls["_offset"].to_list()]
    stream.seal()
    assert_frame_equal(stream.to_polars(), rows)
    chosen = rows["_partition"][0]
    got = stream.scan().filter(pl.col("_partition") == chosen).collect()
    assert_frame_equal(got, rows.filter(pl.col("_partition") == chosen))


def test_a_heartbeat_moves_stream_time_and_never_goes_back(timed_lab):
    """advance moves find and stream time on without a row, at most max_ahead past now."""
    stream = timed_lab.create("s", {"ts": [NOON], "v": [1]}, time="ts")
    stream.advance("2026-01-01T12:00:10Z")
    stream.advance("2026-01-01T12:00:05Z")
    assert stream.stats().stream_time == int((NOON.timestamp() + 10) * 1e6)
    stream.append({"ts": [NOON], "v": [2]})
    assert stream.find("2026-01-01T12:00:07Z") == 1
    with pytest.raises(sl.InvalidTime, match="more than 1d"):
        stream.advance("2026-01-03")
    stream.advance("end")
    with pytest.raises(sl.ReadOnly, match="ended"):
        stream.append({"ts": [NOON], "v": [3]})


def test_evolving_reads_older_rows_as_null_or_wider(lab):
    """Added columns are null in older rows, widened ones wider, in every engine and when sealed."""
    stream = lab.create("s", pa.table({"a": pa.array([1, 2], pa.int32())}))
    stream.evolve(pa.schema([("a", pa.int64()), ("b", pa.string())]))
    stream.append({"a": [2**40], "b": ["x"]})
    wanted = {"a": [1, 2, 2**40], "b": [None, None, "x"]}
    for _ in range(2):
        assert stream.to_polars().select("a", "b").to_dict(as_series=False) == wanted
        assert stream.to_arrow().select(["a", "b"]).to_pydict() == wanted
        assert lab.sql("SELECT a, b FROM s ORDER BY _offset").to_arrow_table().to_pydict() == wanted
        assert stream.scan().filter(pl.col("b").is_null()).collect().height == 2
        stream.seal()
    for bad in ({"a": pa.int32(), "b": pa.string()}, {"a": pa.int64()}):
        with pytest.raises(sl.SchemaMismatch):
            stream.evolve(pa.schema(list(bad.items())))
    with pytest.raises(sl.SchemaMismatch, match="c"):
        stream.evolve(
            pa.schema(
                [("a", pa.int64()), ("b", pa.string()), pa.field("c", pa.int64(), nullable=False)]
            )
        )


def test_a_deletion_is_a_row_that_says_so(timed_lab):
    """delete appends the key, stream time and nulls; from then on every row says whether it is one."""
    stream = timed_lab.create(
        "s", {"ts": [NOON], "k": ["a"], "v": [1]}, time="ts", key="k", partitions=2
    )
    assert stream.delete("a") == 1
    stream.append({"ts": [NOON], "k": ["b"], "v": [2]})
    rows = stream.to_polars()
    assert rows.columns[:4] == ["_partition", "_offset", "_append_time", "_deleted"]
    assert rows["_deleted"].to_list() == [False, True, False]
    assert rows["v"].to_list() == [1, None, 2]
    assert rows["ts"].to_list() == [NOON] * 3
    assert rows["_partition"][0] == rows["_partition"][1]
    assert timed_lab.sql("SELECT count(*) FROM s WHERE NOT _deleted").fetchall() == [(2,)]
    with pytest.raises(sl.SchemaMismatch):
        stream.delete(1)
    bare = timed_lab.create("bare", {"v": [1]})
    with pytest.raises(sl.SchemaMismatch, match="no key"):
        bare.delete("a")


def test_required_columns_take_no_nulls(lab):
    """A field that was declared not nullable is enforced, and shown as such."""
    schema = pa.schema([pa.field("id", pa.int64(), nullable=False), pa.field("v", pa.string())])
    stream = lab.create("s", schema)
    assert stream.schema.equals(schema)
    with pytest.raises(sl.SchemaMismatch, match="id"):
        stream.append({"id": [1, None], "v": ["a", "b"]})
    assert len(stream.append({"id": [1], "v": [None]})) == 1


def test_views_take_no_rows_and_say_what_they_are(lab, trades):
    """A view refuses every change, naming the view."""
    stream = lab.create("trades", trades, time="ts", key="symbol")
    view = stream.as_of(10)
    for change in (
        lambda: view.append(trades),
        lambda: view.advance(NOON),
        lambda: view.trim(5),
        lambda: view.writer(),
        lambda: view.delete("S1"),
        view.seal,
    ):
        with pytest.raises(sl.ReadOnly, match="as of offset 10"):
            change()
    assert "View" in repr(view)


def test_views_of_views_narrow(lab, trades):
    """A view taken of a view shows what both show."""
    stream = lab.create("trades", trades, time="ts")
    view = stream.offsets(100, 900).as_of(500).between("2026-01-01T00:02Z", "2026-01-01T00:04Z")
    rows = trades.with_row_index("o").filter(
        pl.col("o").is_between(100, 499),
        pl.col("ts") >= dt.datetime(2026, 1, 1, 0, 2, tzinfo=UTC),
        pl.col("ts") < dt.datetime(2026, 1, 1, 0, 4, tzinfo=UTC),
    )
    assert view.to_polars()["_offset"].to_list() == rows["o"].to_list()
    assert view.head(3)["_offset"].to_list() == rows["o"].to_list()[:3]
    assert view.tail(3)["_offset"].to_list() == rows["o"].to_list()[-3:]
    assert len(view) == rows.height


def test_what_is_not_there_is_named_with_what_is(lab, trades, clock):
    """Offsets out of range and instants that are not past are refused, saying what there is."""
    stream = lab.create("trades", trades, time="ts")
    stream.trim(100)
    for ask in (
        lambda: stream.as_of(99),
        lambda: stream.as_of(1001),
        lambda: stream.offsets(0, 200),
    ):
        with pytest.raises(sl.OffsetOutOfRange) as caught:
            ask()
        assert caught.value.available == range(100, 1000)
    with pytest.raises(sl.InvalidTime, match="not past"):
        stream.as_of(dt.datetime.now(UTC) + dt.timedelta(hours=1))
    with pytest.raises(sl.InvalidTime, match="wrong way round"):
        stream.between("2026-01-02", "2026-01-01")
    for nonsense in ("yesterday", 1.5, None):
        with pytest.raises(sl.InvalidTime):
            stream.find(nonsense)


def test_retention_by_size_and_age_trims_whole_files(timed_lab, clock):
    """Old files go when retention says so; offsets and stream time go on as before."""
    small = sl.Settings(segment_bytes=4096)
    stream = timed_lab.create(
        "s", pa.schema([("v", pa.int64())]), retention=("1h", "1GB"), settings=small
    )
    for _ in range(5):
        stream.append({"v": list(range(1000))})
        clock.advance("30m")
    stream.seal()
    start = stream.trim()
    assert start == stream.earliest_offset == 3000
    assert stream.append({"v": [1]}) == range(5000, 5001)
    assert stream.to_polars()["_offset"][0] == 3000
    sized = timed_lab.create(
        "sized", pa.schema([("v", pa.int64())]), retention="20KB", settings=small
    )
    for _ in range(5):
        sized.append({"v": list(range(1000))})
    sized.seal()
    assert sized.trim() > 0
    assert sized.stats().bytes <= 20_000


def test_trimming_everything_keeps_the_next_offset(lab, trades):
    """A stream trimmed to its end holds nothing, and goes on where it was."""
    stream = lab.create("trades", trades, time="ts")
    assert stream.trim(1000) == 1000
    assert len(stream) == 0
    assert stream.to_polars().height == 0
    assert stream.find("2020-01-01") == 1000
    assert stream.append(trades.head(1)) == range(1000, 1001)
    assert stream.stats().stream_time == int(trades["ts"].max().timestamp() * 1e6)


def test_sealed_files_are_plain_arrow(lab, trades, tmp_path):
    """Sealed files open in pyarrow, Polars and DuckDB without this package, rows in order."""
    import pyarrow.dataset as ds
    from pyarrow import ipc

    for name, chunks in (("whole", None), ("small", 1), ("mixed", [5000, 3])):
        stream = lab.create(name, trades.to_arrow().schema, time="ts")
        if chunks is None:
            feed(stream, pl.concat([trades] * 10), 5000)
        else:
            feed(stream, trades, chunks)
        stream.seal()
        files = sorted((lab.path / "streams" / name).glob("*.arrow"))
        assert len(files) == 1
        wanted = stream.to_polars().select(trades.columns)
        assert_frame_equal(pl.read_ipc(files[0], use_pyarrow=False), wanted)
        assert_frame_equal(pl.from_arrow(ipc.open_file(files[0]).read_all()), wanted)
        source = ds.dataset(files[0], format="ipc")
        count, total = duckdb.sql("SELECT count(*), sum(size) FROM source").fetchall()[0]
        assert (count, total) == (wanted.height, wanted["size"].sum())


def test_threads_append_side_by_side(tmp_path):
    """Appends of many threads are whole, in each thread's order, none lost, and share syncs."""
    with sl.open(tmp_path / "lab", sync="always") as lab:
        stream = lab.create("s", pa.schema([("t", pa.int64()), ("i", pa.int64())]))

        def work(thread):
            for i in range(25):
                stream.append({"t": [thread] * 3, "i": [i] * 3})

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        rows = stream.to_polars()
        assert rows.height == 8 * 25 * 3
        assert stream.durable_offset == rows.height
        for thread in range(8):
            assert rows.filter(t=thread)["i"].to_list() == [i for i in range(25) for _ in range(3)]


def test_a_stream_is_an_arrow_stream(lab, trades):
    """Polars, pyarrow, pandas and DuckDB take a stream itself."""
    stream = lab.create("trades", trades, time="ts")
    assert pl.DataFrame(stream).height == 1000
    assert pa.table(stream).equals(stream.to_arrow())
    assert duckdb.sql("SELECT count(*) FROM stream").fetchall() == [(1000,)]
    assert list(stream.to_pandas()["price"]) == trades["price"].to_list()
    assert isinstance(stream.to_pandas(), pd.DataFrame)
    assert len(lab.create("copy", stream)) == 1000


def test_an_empty_stream_answers_every_question(lab):
    """A stream without rows has a schema, no rows, and no error."""
    stream = lab.create(
        "s", pa.schema([("ts", pa.timestamp("us", "UTC")), ("v", pa.int64())]), time="ts"
    )
    assert len(stream) == 0 == stream.end_offset == stream.find("2026-01-01")
    for frame in (stream.to_polars(), stream.head(), stream.tail(), stream.scan().collect()):
        assert frame.shape == (0, 5)
    assert lab.sql("SELECT count(*) FROM s").fetchall() == [(0,)]
    assert list(stream.follow("earliest", timeout=0)) == []
    assert stream.between("2026-01-01").to_polars().height == 0
    assert stream.seal() == 0
    assert "0 rows" in repr(stream)


def test_chunked_cuts_without_loss(trades):
    """The testing kit's cutting gives back the frame, for every way of cutting."""
    for chunks in (1, 7, [3, 1, 50], None):
        assert_frame_equal(pl.concat(list(chunked(trades, chunks))), trades)
