"""Files in and out: what is written is read back, and what is no file of its kind is refused."""

import datetime as dt
import decimal
import io
import json

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamlab as sl
from streamlab.files import export, read_file

UTC = dt.UTC
FLAT = pa.table(
    {
        "s": ["a", "", None, 'x"y', "l\nf\x9b"],
        "ts": pa.array([1, 2, 3, -4, None], pa.timestamp("us", "UTC")),
        "ns": pa.array([1, None, 3, 4, 10**18], pa.timestamp("ns")),
        "n": pa.array([1, None, 2**53 + 1, 4, -5]),
        "f": [1.0, None, 0.1, 1e300, -0.0],
        "dec": pa.array(["1.5", None, "-0.05", "7", "123.45"]).cast(pa.decimal128(5, 2)),
        "t": pa.array([1, None, 0, 3, 86_399_999_999], pa.time64("us")),
        "b": [True, None, False, True, True],
        "d": pa.array([1, None, 0, -1, 20_000], pa.date32()),
    }
)
NESTED = FLAT.append_column("l", pa.array([[1], None, [], [2, 3], [None]]))
for name, array in {
    "st": pa.array(
        [{"a": dt.datetime(2026, 1, 1, tzinfo=UTC), "b": [b"x"]}, None, {"a": None}, None, None]
    ),
    "m": pa.array([[("k", 1)], None, [], [("a", None)], None], pa.map_(pa.string(), pa.int64())),
    "du": pa.array([-1_500_000, None, 0, 1, 10**15], pa.duration("us")),
    "bi": pa.array([b"\xff\x00", None, b"", b"a", b"b"]),
}.items():
    NESTED = NESTED.append_column(name, array)

TYPED = ["parquet", "arrow", "feather", "ipc"]
TEXT = ["csv", "tsv", "csv.gz", "tsv.zst", "csv.bz2"]
JSON = ["jsonl", "ndjson", "json", "jsonl.gz"]


@pytest.mark.parametrize("ending", TYPED + JSON)
def test_nested_rows_come_back_as_they_were(tmp_path, ending):
    """What Parquet, Arrow and JSON lines are given, nested or not, is read back equal."""
    path = tmp_path / f"rows.{ending}"
    assert export(NESTED, path) == 5
    assert read_file(path, schema=NESTED.schema).read_all().equals(NESTED)


@pytest.mark.parametrize("ending", TEXT)
def test_flat_rows_come_back_from_csv(tmp_path, ending):
    """Text with a schema is read back equal: empty is not null, no digit is lost."""
    path = tmp_path / f"rows.{ending}"
    assert export(FLAT, path) == 5
    assert read_file(path, schema=FLAT.schema).read_all().equals(FLAT)


@pytest.mark.parametrize("ending", ["parquet", "csv", "jsonl", "arrow"])
def test_a_stream_goes_out_and_in_with_its_system_columns(tmp_path, ending):
    """An exported stream is appended to another one, whose own columns are the same."""
    with sl.open(tmp_path / "lab") as lab:
        source = lab.create("source", {"t": [dt.datetime(2026, 1, 1)], "n": [1]}, time="t")
        source.append({"t": [dt.datetime(2026, 1, 2)], "n": [2]})
        assert sl.export(source, tmp_path / f"out.{ending}") == 2
        target = lab.create("target", source.schema, time="t")
        target.append(read_file(tmp_path / f"out.{ending}", schema=target.schema))
        assert target.to_polars()["n"].to_list() == [1, 2]
        assert target.to_polars()["t"].equals(source.to_polars()["t"])
        fresh = lab.create("fresh", tmp_path / f"out.{ending}", time="t")
        assert fresh.schema.names == ["t", "n"]


def test_without_the_system_columns_only_the_users_are_written(tmp_path):
    """``system=False`` leaves out what streamlab added."""
    with sl.open(tmp_path / "lab") as lab:
        sl.export(lab.create("s", {"a": [1]}), tmp_path / "a.csv", system=False)
    assert (tmp_path / "a.csv").read_text() == '"a"\n1\n'


def test_guessed_instants_are_utc_in_microseconds(tmp_path):
    """Naive, zoned, fractional and day-long texts become instants of one type."""
    (tmp_path / "a.csv").write_text(
        "a,b,c\n2026-01-05 09:30:00,2026-01-05T09:30:00+02:00,2026-01-05T09:30:00.5\n"
    )
    (tmp_path / "a.jsonl").write_text(
        '{"a": "2026-01-05 09:30:00", "b": "2026-01-05T09:30:00+02:00"}\n'
    )
    csv, jsonl = (
        read_file(tmp_path / "a.csv").read_all(),
        read_file(tmp_path / "a.jsonl").read_all(),
    )
    assert set(csv.schema.types) | set(jsonl.schema.types) == {pa.timestamp("us", "UTC")}
    assert (
        csv["b"][0].as_py() == jsonl["b"][0].as_py() == dt.datetime(2026, 1, 5, 7, 30, tzinfo=UTC)
    )


@pytest.mark.parametrize(
    ("text", "want", "says"),
    [
        ('{"x": 1.5}', pa.int64(), "1.5"),
        ('{"x": "2026-13-01"}', pa.timestamp("us", "UTC"), "2026-13-01"),
        ('{"x": "2026-01-01T00:00:00.1234567Z"}', pa.timestamp("us", "UTC"), "1234567"),
        ('{"x": 300}', pa.int8(), "300"),
        ('{"x": true}', pa.float64(), "true"),
        ('{"x": 1}', pa.string(), "1"),
        ('{"x": "not base64!"}', pa.binary(), "base64"),
        ('{"x": 9007199254740993}', pa.float64(), "9007199254740993"),
        ("[1]\n", pa.int64(), "not an object"),
        ('{"x": 1}\n{"x":', pa.int64(), "line 2 is not JSON"),
        ('{"x": 1}\n\n{"x": "a"}', pa.int64(), 'line 3: column "x": "a"'),
        ('{"y": 1}', pa.int64(), "no column 'y'"),
    ],
)
def test_what_is_no_value_of_its_type_is_named(tmp_path, text, want, says):
    """JSON is parsed in full or refused with file, line, column and value."""
    path = tmp_path / "rows.jsonl"
    path.write_text(text)
    with pytest.raises(sl.SchemaMismatch, match="rows.jsonl") as caught:
        read_file(path, schema=pa.schema([("x", want)])).read_all()
    assert says in str(caught.value)


def test_a_bad_cell_of_csv_is_named(tmp_path):
    """A CSV cell that is no value of its column's type is refused by file, column and value."""
    (tmp_path / "a.csv").write_text("n,t\n1,2026-01-01\nx,2026-01-01\n")
    schema = pa.schema([("n", pa.int64()), ("t", pa.timestamp("us"))])
    with pytest.raises(sl.SchemaMismatch, match='a.csv.*"n".*invalid value'):
        read_file(tmp_path / "a.csv", schema=schema).read_all()
    (tmp_path / "a.csv").write_text("n,t\n1,2026-01-01\n2,noon\n")
    with pytest.raises(sl.SchemaMismatch, match="row 1: 'noon'"):
        read_file(tmp_path / "a.csv", schema=schema).read_all()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.parquet", b"garbage"), ("a.csv", b""), ("a.csv", b"a,b\n1\n"), ("a.csv.gz", b"no gzip"),
        ("a.jsonl", b'{"a":1}\n{"a":\n'), ("a.arrow", b"ARROW1garbage"), ("a.arrow", b"nope"),
        ("a.csv", b"a\n\xff\xfe\n"), ("a.feather", b"FEA1...."), ("a.xyz", b"?"), ("a.parquet.gz", b"?"),
    ],
)  # fmt: skip
def test_what_is_no_file_of_its_kind_is_refused_by_name(tmp_path, name, content):
    """Broken, empty and unknown files raise a StreamlabError that names the file."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(sl.StreamlabError, match=name):
        read_file(tmp_path / name).read_all()


def test_a_missing_file_is_refused_with_near_names(tmp_path):
    """A mistyped name, a pattern and a folder without files say what is there."""
    (tmp_path / "trades.csv").write_text("a\n1\n")
    with pytest.raises(sl.StreamlabError, match="did you mean trades.csv"):
        read_file(tmp_path / "trade.csv")
    with pytest.raises(sl.StreamlabError, match="no file fits"):
        read_file(tmp_path / "*.parquet")
    with pytest.raises(sl.StreamlabError, match="without Parquet"):
        read_file(tmp_path)


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_every_flipped_byte_is_refused_or_harmless(tmp_path, ending):
    """Damage in a foreign file ends in rows or in a StreamlabError, never in anything else."""
    path = tmp_path / f"a.{ending}"
    with sl.open(tmp_path / "lab") as lab:
        stream = lab.create("s", pa.schema([("a", pa.string()), ("n", pa.int64())]))
        export(pa.table({"a": ["one", "two"], "n": [1, 2]}), path)
        sound = path.read_bytes()
        for at in range(0, len(sound), 7):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 0x55]) + sound[at + 1 :])
            try:
                stream.append(read_file(path))
            except sl.StreamlabError:
                continue


def test_hive_folders_are_columns_again(tmp_path):
    """A partitioned export is a folder a value, and reads back with dates, text and nulls."""
    days = [dt.date(2026, 1, 1 + i % 2) for i in range(6)]
    rows = pa.table({"x": list(range(6)), "day": days, "s": ["a/b", "c", None] * 2})
    assert export(rows, tmp_path / "out", partition_by=["day", "s"]) == 6
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "day=2026-01-01",
        "day=2026-01-02",
    ]
    back = read_file(tmp_path / "out").read_all().select(rows.schema.names).sort_by("x")
    assert back.equals(rows)
    assert len(duckdb.sql(f"FROM read_parquet('{tmp_path}/out/**/*.parquet')").fetchall()) == 6


VALUES = {
    "text": [
        "a",
        "ü☃",
        "x/y",
        "50%",
        "a=b",
        "..",
        ".hidden",
        "_under",
        "new\nline",
        "007",
        "",
        None,
    ],
    "integers": [1, -5, 2**62, None],
    "floats": [0.1, 1e300, -2.5, None],
    "switches": [True, False, None],
    "days": [dt.date(2026, 1, 1), dt.date(1960, 2, 29), None],
    "instants": [dt.datetime(2026, 1, 1, 1, 2, 3, 456789, tzinfo=UTC), None],
    "naive": [dt.datetime(2026, 1, 1, 1, 2, 3), None],
    "nothing": pa.array([None, None], pa.string()),
}
TYPED_VALUES = {
    "decimals": [decimal.Decimal("1.50"), decimal.Decimal("-0.05"), None],
    "digits": ["1", "2"],
    "great": pa.array([2**64 - 1], pa.uint64()),
    "nanoseconds": pa.array([1, None], pa.timestamp("ns")),
    "times": [dt.time(1, 2, 3, 4), None],
}


@pytest.mark.parametrize("name", [*VALUES, *TYPED_VALUES])
def test_a_value_in_a_folders_name_comes_back(tmp_path, name):
    """Of any type, with slashes, in Unicode, null: typed by a schema, and where letters tell by them."""
    values = {**VALUES, **TYPED_VALUES}[name]
    rows = pa.table({"the key": values, "x": list(range(len(values)))})
    assert export(rows, tmp_path / "out", partition_by="the key") == len(values)
    for schema in (rows.schema, *([None] if name in VALUES else [])):
        back = read_file(tmp_path / "out", schema=schema).read_all()
        assert back.select(["the key", "x"]).sort_by("x").equals(rows)


def test_what_no_folder_can_be_named_after_is_refused(tmp_path):
    """Bytes, lists and the text that stands for null would not come back."""
    for odd in ([b"\xff"], [[1]], ["__HIVE_DEFAULT_PARTITION__"]):
        with pytest.raises(sl.SchemaMismatch, match='"k"'):
            export(pa.table({"k": odd, "x": [1]}), tmp_path / "out", partition_by="k")
    assert not list(tmp_path.iterdir())


def test_a_stream_goes_out_into_folders_and_in_again(tmp_path):
    """A partitioned export of a stream, a view and a relation is a stream again, row for row."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        rows = pa.table({"k": ["a/b", "ü", None] * 10, "n": list(range(30))})
        stream = lab.create("s", rows)
        for number, source in enumerate((stream, stream.as_of(20), lab.sql("FROM s WHERE n < 20"))):
            assert export(source, tmp_path / f"{number}", partition_by="k") == (
                20 if number else 30
            )
            back = lab.create(f"back{number}", tmp_path / f"{number}")
            got = back.to_arrow().select(["k", "n"]).sort_by("n")
            assert got.to_pylist() == rows.slice(0, 20 if number else 30).to_pylist()


def test_the_order_of_rows_stays_within_a_partition(tmp_path):
    """A partition's file has its rows in the order of offsets."""
    rows = pa.table({"x": range(200_000), "k": [i % 3 for i in range(200_000)]})
    export(rows, tmp_path / "out", partition_by="k")
    for part in (tmp_path / "out").rglob("*.parquet"):
        values = pq.read_table(part, partitioning=None)["x"].to_pylist()
        assert values == sorted(values)


def test_columns_of_all_files_are_united(tmp_path):
    """A column that only some files of a folder have is null in the others, not dropped."""
    (tmp_path / "d").mkdir()
    pq.write_table(pa.table({"a": [1]}), tmp_path / "d" / "1.parquet")
    pq.write_table(pa.table({"a": [2], "b": ["x"]}), tmp_path / "d" / "2.parquet")
    assert read_file(tmp_path / "d").read_all().to_pydict() == {"a": [1, 2], "b": [None, "x"]}


def test_a_pattern_reads_its_files_in_the_order_of_their_names(tmp_path):
    """All files of a pattern are one, with the types of the first; other columns are refused."""
    for number in range(3):
        (tmp_path / f"{number}.csv").write_text(f"n,s\n{number},{number}x\n")
    assert read_file(tmp_path / "*.csv").read_all()["n"].to_pylist() == [0, 1, 2]
    (tmp_path / "3.csv").write_text("n,t\n1,2\n")
    with pytest.raises(sl.StreamlabError, match=r"3\.csv.*different columns"):
        read_file(tmp_path / "*.csv").read_all()


def test_a_target_is_whole_or_not_there(tmp_path):
    """A failing source leaves neither a target nor anything beside it."""

    def rows():
        yield pa.record_batch({"a": [1]})
        raise RuntimeError("broken source")

    for target in ("a.parquet", "a.csv", "a.jsonl"):
        reader = pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), rows())
        with pytest.raises(RuntimeError, match="broken source"):
            export(reader, tmp_path / target)
    assert not list(tmp_path.iterdir())


def test_a_target_that_is_there_is_kept(tmp_path):
    """Nothing is replaced without ``overwrite``, and a folder of other things never."""
    path = tmp_path / "a.csv"
    path.write_text("precious")
    with pytest.raises(sl.StreamlabError, match="is there already"):
        export(FLAT, path)
    assert path.read_text() == "precious"
    export(pa.table({"a": [1]}), path, overwrite=True)
    assert path.read_text() == '"a"\n1\n'
    folder = tmp_path / "home"
    folder.mkdir()
    (folder / "letter.txt").write_text("precious")
    with pytest.raises(sl.StreamlabError, match=r"letter\.txt"):
        export(FLAT, folder, partition_by="b", overwrite=True)
    assert (folder / "letter.txt").read_text() == "precious"


@pytest.mark.parametrize(
    "source",
    [
        lambda: pl.LazyFrame({"a": [1, 2]}),
        lambda: pl.DataFrame({"a": [1, 2]}),
        lambda: duckdb.sql("SELECT unnest([1, 2]) AS a"),
        lambda: {"a": [1, 2]},
        lambda: [{"a": 1}, {"a": 2}],
        lambda: pa.table({"a": [1, 2]}).to_reader(),
    ],
)
def test_whatever_has_rows_can_be_exported(tmp_path, source):
    """Polars, DuckDB, Arrow and plain Python give the same file."""
    assert export(source(), tmp_path / "a.csv") == 2
    assert (tmp_path / "a.csv").read_text() == '"a"\n1\n2\n'


def test_what_csv_cannot_say_is_refused(tmp_path):
    """A nested or binary column is named, and nothing is written."""
    for column in ("l", "st", "m", "bi"):
        with pytest.raises(sl.StreamlabError, match=f'column "{column}"'):
            export(NESTED.select([column]), tmp_path / "a.csv")
    assert not list(tmp_path.iterdir())


def test_what_is_no_rows_or_column_is_refused(tmp_path):
    """Paths, scalars, doubled names, missing folders and unknown partition columns are refused."""
    with pytest.raises(sl.SchemaMismatch, match="is a path"):
        export("a.csv", tmp_path / "b.csv")
    with pytest.raises(sl.SchemaMismatch):
        export(42, tmp_path / "b.csv")
    with pytest.raises(sl.SchemaMismatch, match="there twice"):
        export(pa.table([[1], [2]], names=["a", "a"]), tmp_path / "b.csv")
    with pytest.raises(sl.SchemaMismatch, match="partition by"):
        export(FLAT, tmp_path / "out", partition_by="nope")
    with pytest.raises(sl.StreamlabError, match="no folder"):
        export(FLAT, tmp_path / "nope" / "a.csv")
    with pytest.raises(sl.StreamlabError, match="ending"):
        export(FLAT, tmp_path / "a.xlsx")
    assert not list(tmp_path.iterdir())


def test_lines_of_json_are_plain_json():
    """NaN is null, instants are ISO 8601, decimals text, bytes base64, controls escaped."""
    out = io.BytesIO()
    row = {"f": float("nan"), "d": decimal.Decimal("1.50"), "b": b"\xff", "s": "\x9b[31m\x1b"}
    export([{**row, "t": dt.datetime(2026, 1, 5, 9, 30, tzinfo=UTC)}], out, format="jsonl")
    text = out.getvalue().decode()
    assert "\x9b" not in text
    assert json.loads(text) == {
        "f": None, "d": "1.50", "b": "/w==", "s": "\x9b[31m\x1b", "t": "2026-01-05T09:30:00.000000Z",
    }  # fmt: skip


def test_an_array_of_objects_is_read_like_lines(tmp_path):
    """A JSON file that is one array gives the same rows."""
    (tmp_path / "a.json").write_text(
        '[{"a": 1, "t": "2026-01-05T09:30:00Z"},\n {"a": 2, "t": null}]'
    )
    rows = read_file(tmp_path / "a.json").read_all()
    assert rows["a"].to_pylist() == [1, 2]
    typed = read_file(tmp_path / "a.json", schema=rows.schema).read_all()
    assert typed.equals(rows)


def test_an_open_file_needs_its_format():
    """What has no ending is read with ``format`` and refused without."""
    with pytest.raises(sl.StreamlabError, match="no ending"):
        read_file(io.BytesIO(b"a\n1\n"))
    assert read_file(io.BytesIO(b"a\n1\n"), format="csv").read_all().to_pydict() == {"a": [1]}
    with pytest.raises(sl.StreamlabError, match="open file"):
        read_file(io.BytesIO(b""), format="parquet")
    with pytest.raises(sl.StreamlabError, match="open file"):
        export(FLAT, io.BytesIO(), format="parquet")
