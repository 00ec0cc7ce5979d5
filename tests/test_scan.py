"""Reading opens what it needs: filters and columns reach the segments, from every engine."""

import datetime as dt

import duckdb
import polars as pl
import pyarrow.compute as pc
import pytest
from polars.testing import assert_frame_equal

import streamlab as sl
from streamlab.testing import feed

DAY = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KEPT = range(4000, 6000)  # offsets of the third and fourth segment of ten


@pytest.fixture
def frame():
    n = pl.int_range(20_000, eager=True).alias("n")
    return pl.DataFrame(n).select(
        ts=pl.lit(DAY).dt.cast_time_unit("us") + pl.duration(seconds=pl.col("n")),
        k=pl.concat_str(pl.lit("k"), pl.col("n") // 2000),
        n="n",
        x=pl.col("n") / 2,
    )


@pytest.fixture
def stream(lab, frame):
    """Ten sealed segments of 2,000 rows, of which only two are left on the disk."""
    made = lab.create("s", frame.head(0), time="ts", settings=sl.Settings(segment_bytes="40KB"))
    for at in range(0, 20_000, 2000):
        made.append(frame.slice(at, 2000))
    made.seal()
    segments = made._scan.fix().moment.manifest.segments
    assert len([s for s in segments if s.rows]) == 10
    for segment in segments:
        if segment.rows and segment.base not in KEPT:
            (lab.path / "streams" / "s" / segment.file).unlink()
    return made


BY_POLARS = {
    "offset": pl.col("_offset").is_between(4100, 5900),
    "offsets in a list": pl.col("_offset").is_in([4500, 5500]),
    "time": (pl.col("ts") >= DAY + dt.timedelta(seconds=4000)) & (pl.col("ts") < DAY + dt.timedelta(seconds=5000)),
    "time and what cannot be pushed": (pl.col("_offset") >= 4000) & (pl.col("_offset") < 6000) & (pl.col("k").str.len_chars() == 2),
}  # fmt: skip


@pytest.mark.parametrize("how", BY_POLARS)
def test_polars_opens_only_the_segments_a_filter_needs(stream, frame, how):
    """With the other files gone, a filtered scan still gives its rows."""
    got = stream.scan().filter(BY_POLARS[how]).collect()
    wanted = (
        frame.with_row_index("_offset")
        .with_columns(pl.col("_offset").cast(pl.Int64))
        .filter(BY_POLARS[how])
    )
    assert_frame_equal(got.select(wanted.columns), wanted)
    lazily = stream.scan().filter(BY_POLARS[how]).select(pl.col("x").sum(), pl.len()).collect()
    assert lazily.row(0) == (wanted["x"].sum(), wanted.height)


BY_SQL = {
    "offset": "_offset BETWEEN 4100 AND 5900",
    "expression": "_offset + 1 > 4100 AND _offset < 5900",
    "time": "ts >= TIMESTAMPTZ '2026-01-01 01:06:40+00' AND ts < '2026-01-01 01:23:20+00'",
    "time and what cannot be pushed": "_offset >= 4000 AND _offset < 6000 AND length(k) = 2",
    "list": "_offset IN (4500, 5500)",
}


@pytest.mark.parametrize("how", BY_SQL)
def test_sql_opens_only_the_segments_a_filter_needs(lab, stream, how):
    """With the other files gone, a filtered query still gives its rows."""
    count, low, high = lab.sql(
        f"SELECT count(*), min(n), max(n) FROM s WHERE {BY_SQL[how]}"
    ).fetchall()[0]
    assert count == {"offset": 1801, "expression": 1800, "time": 1000, "list": 2}.get(how, 2000)
    assert 4000 <= low <= high < 6000


def test_counting_opens_no_segment(lab, stream):
    """With files gone, counting works in every engine; and computed columns need no file either."""
    assert len(stream) == 20_000
    assert lab.sql("SELECT count(*) FROM s").fetchall() == [(20_000,)]
    assert stream.scan().select(pl.len()).collect().item() == 20_000
    assert stream.dataset().count_rows() == 20_000


def test_what_is_gone_is_an_error_and_never_fewer_rows(lab, stream):
    """A read that needs a file that is gone raises; it does not skip it."""
    for read in (
        stream.to_arrow,
        stream.to_polars,
        lambda: stream.scan().filter(pl.col("x") >= 0).collect(),
        lambda: stream.dataset().to_table(),
    ):
        with pytest.raises(sl.StreamlabError):
            read()
    with pytest.raises((sl.StreamlabError, duckdb.Error)):
        lab.sql("SELECT sum(x) FROM s").fetchall()


def test_slices_and_columns_reach_the_segments(stream, frame):
    """Rows by place and columns by name open only their files."""
    assert_frame_equal(
        stream.offsets(4000, 6000).to_polars().select(frame.columns), frame[4000:6000]
    )
    assert (
        stream.offsets(4500, 4505).scan().select("x").collect()["x"].to_list()
        == frame["x"][4500:4505].to_list()
    )
    view = stream.between(DAY + dt.timedelta(seconds=4000), DAY + dt.timedelta(seconds=6000))
    assert_frame_equal(view.to_polars().select(frame.columns), frame[4000:6000])
    assert stream.find(DAY + dt.timedelta(seconds=4321)) == 4321


def test_each_collect_sees_one_moment_and_the_next_a_new_one(lab, trades):
    """One LazyFrame is live: collected again it shows what was appended since."""
    stream = lab.create("s", trades, time="ts")
    lazy = stream.scan().select(pl.len(), pl.col("price").sum())
    assert lazy.collect()["len"][0] == 1000
    stream.append(trades)
    assert lazy.collect()["len"][0] == 2000
    twice = pl.concat([stream.scan(), stream.scan()]).collect()
    assert twice.height == 4000


def test_every_engine_agrees_on_every_column(lab, trades):
    """Arrow, Polars and DuckDB give the same rows, small frames and large, sealed and not."""
    stream = lab.create(
        "s", trades.head(0), time="ts", key="symbol", settings=sl.Settings(segment_bytes="20KB")
    )
    feed(stream, trades, [1, 400, 3])
    for _ in range(2):
        arrow = pl.from_arrow(stream.to_arrow())
        assert_frame_equal(stream.to_polars(), arrow)
        assert_frame_equal(stream.scan().collect(engine="in-memory"), arrow)
        assert_frame_equal(lab.sql("FROM s ORDER BY _offset").pl(), arrow)
        for name in arrow.columns:
            assert_frame_equal(stream.scan().select(name).collect(), arrow.select(name))
        picked = stream.scan().filter(pl.col("_append_time") > arrow["_append_time"][600]).collect()
        assert_frame_equal(
            picked, arrow.filter(pl.col("_append_time") > arrow["_append_time"][600])
        )
        assert_frame_equal(stream.scan().slice(990, 20).collect(), arrow.slice(990, 20))
        assert_frame_equal(stream.scan().tail(3).collect(), arrow.tail(3))
        assert_frame_equal(
            stream.scan().head(5).filter(pl.col("size") > 2).collect(),
            arrow.head(5).filter(pl.col("size") > 2),
        )
        stream.seal()


def test_a_dataset_answers_as_pyarrow_datasets_do(lab, trades):
    """head, take, filter, count, to_batches, dictionaries of columns, joins."""
    stream = lab.create("s", trades, time="ts")
    data = stream.dataset()
    assert data.head(3).num_rows == 3
    assert data.count_rows(filter=pc.field("_offset") < 10) == 10
    assert data.filter(pc.field("_offset") < 10).filter(pc.field("_offset") > 5).count_rows() == 4
    assert data.take([0, 999])["_offset"].to_pylist() == [0, 999]
    assert sum(b.num_rows for b in data.to_batches(columns=["price"], batch_size=100)) == 1000
    double = data.to_table(
        columns={"twice": pc.field("price") * 2}, filter=pc.field("_offset") == 1
    )
    assert double.to_pydict() == {"twice": [trades["price"][1] * 2]}
    assert data.sort_by([("_offset", "descending")]).to_table()["_offset"][0].as_py() == 999
    assert pl.scan_pyarrow_dataset(data).filter(pl.col("_offset") > 996).collect().height == 3
    with pytest.raises(KeyError, match="nope"):
        data.to_table(columns=["nope"])
    stream.append(trades)
    assert data.count_rows() == 1000


def test_column_names_that_look_like_syntax_are_only_names(lab):
    """Odd names go through filters, projections and SQL unharmed."""
    odd = {
        'we"ird': [1, 2],
        "order": [3, 4],
        "a b": [5, 6],
        "ünï": [7, 8],
        "x); DROP TABLE s; --": [9, 10],
    }
    stream = lab.create("s", odd)
    stream.seal()
    for name, values in odd.items():
        assert (
            stream.scan().filter(pl.col(name) == values[1]).select(name).collect()[name].to_list()
            == values[1:]
        )
        table = stream.dataset().to_table(columns=[name], filter=pc.field(name) == values[0])
        assert table[name].to_pylist() == values[:1]
        quoted = '"' + name.replace('"', '""') + '"'
        assert lab.sql(f"SELECT {quoted} FROM s WHERE {quoted} = {values[1]}").fetchall() == [
            (values[1],)
        ]
