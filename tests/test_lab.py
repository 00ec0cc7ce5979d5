"""A lab: streams by name, handles that share, what is locked, what is frozen."""

import json
import os
import subprocess
import sys

import polars as pl
import pyarrow as pa
import pytest

import streamlab as sl

ROWS = {"k": ["a", "b"], "v": [1, 2]}


def test_a_lab_is_a_mapping_of_streams(lab):
    """Names, membership, length, iteration and completion say the same."""
    for name in ("trades", "web-orders", "a.b_c"):
        lab.create(name, ROWS)
    assert list(lab) == sorted(["trades", "web-orders", "a.b_c"]) == lab._ipython_key_completions_()
    assert "trades" in lab and "trade" not in lab and 7 not in lab and len(lab) == 3
    lab.drop("trades")
    assert list(lab) == ["a.b_c", "web-orders"]
    assert "web-orders" in repr(lab) and "2 rows" in repr(lab)


def test_an_unknown_name_is_answered_with_the_nearest(lab):
    """A misspelt name raises a KeyError that says what may have been meant."""
    lab.create("trades", ROWS)
    with pytest.raises(KeyError, match="did you mean 'trades'") as caught:
        lab["tardes"]
    assert isinstance(caught.value, sl.StreamNotFound)
    for name in ("../trades", "", "a/b", "x" * 300, "trades\0"):
        with pytest.raises(sl.StreamNotFound):
            lab[name]


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".hidden",
        "../x",
        "a/b",
        "a\\b",
        "a\0b",
        "x" * 201,
        "ü",
        "con",
        "COM1.x",
        "dot.",
        "-x",
        " a",
        "a\n",
    ],
)
def test_a_name_that_could_not_be_a_folder_everywhere_is_refused(lab, name):
    """Names are letters, digits, dots, dashes and underscores, and no device of old."""
    with pytest.raises(sl.InvalidName):
        lab.create(name, ROWS)
    assert len(lab) == 0


def test_names_that_differ_by_case_only_are_refused(lab):
    """Two streams that some file systems could not tell apart cannot both be."""
    lab.create("Trades", ROWS)
    with pytest.raises(sl.InvalidName, match="case"):
        lab.create("trades", ROWS)


def test_creating_twice_is_an_error_or_the_same_stream(lab):
    """exist_ok takes a stream that is the same, appends nothing, and refuses another one."""
    lab.create("s", ROWS, key="k")
    with pytest.raises(sl.StreamExists):
        lab.create("s", ROWS, key="k")
    assert len(lab.create("s", ROWS, key="k", exist_ok=True)) == 2
    with pytest.raises(sl.StreamExists, match="key"):
        lab.create("s", ROWS, exist_ok=True)
    with pytest.raises(sl.StreamExists, match="columns"):
        lab.create("s", {"k": ["a"], "w": [1]}, key="k", exist_ok=True)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"time": "tss"}, sl.SchemaMismatch, "did you mean 'ts'"),
        ({"time": "v"}, sl.SchemaMismatch, "v"),
        ({"key": "kk"}, sl.SchemaMismatch, "kk"),
        ({"partitions": 0}, ValueError, "partitions"),
        ({"delay": "5M"}, sl.InvalidDuration, "minute"),
        ({"delay": 5}, sl.InvalidDuration, "unit is unknown"),
        ({"retention": "7x"}, sl.InvalidDuration, "retention"),
        ({"cleanup": "shred"}, ValueError, "cleanup"),
        ({"cleanup": "compact"}, sl.SchemaMismatch, "key"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_made(lab, options, error, match):
    """A bad option names itself and leaves no stream behind."""
    schema = pa.schema([("ts", pa.timestamp("us", "UTC")), ("k", pa.string()), ("v", pa.int64())])
    with pytest.raises(error, match=match):
        lab.create("s", schema, **options)
    assert len(lab) == 0


def test_settings_are_kept_and_checked(lab, tmp_path):
    """Settings survive a reopening; a bad one is refused by name."""
    settings = sl.Settings(sync="100ms", segment_bytes="1MB", compression="zstd", max_ahead="2h")
    lab.create("s", ROWS, settings=settings, retention=("7d", "10GB"), delay="5s")
    with sl.open(lab.path) as again:
        stream = again["s"]
        assert stream.settings.segment_bytes == 1_000_000
        assert (stream.settings.sync, stream.settings.max_ahead) == ("100ms", "2h")
        assert (stream.retention, stream.delay) == ("7d, 10.0 GB", "5s")
    for bad in (
        {"sync": "sometimes"},
        {"compression": "gzip"},
        {"segment_bytes": 1},
        {"max_ahead": 3},
    ):
        with pytest.raises(ValueError, match=r".+"):
            sl.Settings(**bad)


def test_handles_of_one_process_share(tmp_path):
    """A lab opened twice in a process is one: no handle meets another one's lock."""
    one, two = sl.open(tmp_path / "lab"), sl.open(tmp_path / "lab")
    stream = one.create("s", ROWS)
    assert two["s"].append(ROWS) == range(2, 4)
    assert stream.append(ROWS) == range(4, 6)
    one.close()
    assert two["s"].append(ROWS) == range(6, 8)
    with pytest.raises(sl.LabClosed):
        stream_of_closed = one["s"]
    two.close()
    with pytest.raises(sl.LabClosed):
        stream.append(ROWS)
    with sl.open(tmp_path / "lab") as again:
        assert len(again["s"]) == 8


def test_a_read_only_lab_changes_no_byte(tmp_path):
    """Read-only, nothing is created, appended, dropped, or written, and everything is read."""
    with sl.open(tmp_path / "lab") as lab:
        lab.create("s", ROWS)
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path / "lab").rglob("*")}
    with sl.open(tmp_path / "lab", read_only=True) as lab:
        assert lab["s"].to_polars()["v"].to_list() == [1, 2]
        assert lab["s"].as_of(1).to_polars().height == 1
        assert lab.sql("SELECT sum(v) FROM s").fetchall() == [(3,)]
        for change in (
            lambda: lab.create("t", ROWS),
            lambda: lab.drop("s"),
            lambda: lab["s"].append(ROWS),
        ):
            with pytest.raises(sl.ReadOnly):
                change()
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in (tmp_path / "lab").rglob("*")}
    assert {p for p in after if p.is_file()} == {p for p in before if p.is_file()}
    assert {p: v for p, v in after.items() if p.is_file()} == {
        p: v for p, v in before.items() if p.is_file()
    }
    with pytest.raises(sl.StreamlabError, match="no lab"):
        sl.open(tmp_path / "nothing", read_only=True)
    assert not (tmp_path / "nothing").exists()


def test_a_folder_with_something_else_is_not_taken_for_a_lab(tmp_path):
    """Opening a folder of other files refuses, and touches none of them."""
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(sl.StreamlabError, match="thesis"):
        sl.open(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_sql_sees_streams_and_frames_passed_by_name_only(lab):
    """Every stream is a table; other frames are passed; Python variables are out of reach."""
    lab.create("trades", ROWS)
    lab.create("web-orders", {"k": ["a"], "x": [10]})
    secret = pl.DataFrame({"password": ["hunter2"]})
    got = lab.sql('SELECT t.v, o.x, r.z FROM Trades t JOIN "web-orders" o USING (k) JOIN ref r USING (k)',
                  ref=pl.DataFrame({"k": ["a"], "z": [7]}))  # fmt: skip
    assert got.fetchall() == [(1, 10, 7)]
    assert got.pl().height == 1  # a relation can be read again
    assert lab.sql("SELECT v FROM trades WHERE v > ?", [1]).fetchall() == [(2,)]
    with pytest.raises(sl.QueryError, match="secret"):
        lab.sql("SELECT * FROM secret")
    with pytest.raises(sl.QueryError, match="did you mean trades"):
        lab.sql("SELECT * FROM tradse")


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_text('/etc/passwd')",
        "COPY (SELECT 1) TO '/tmp/streamlab-should-not-exist'",
        "ATTACH '/tmp/streamlab-should-not-exist' AS x",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET threads = 1",
        "PRAGMA database_list",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW s",
        "EXPORT DATABASE '/tmp/streamlab-should-not-exist'",
        "CALL pragma_version()",
        "SELECT 1; SELECT 2",
        "",
        "SELECT getenv('HOME')",
        "SELEC 1",
    ],
)
def test_sql_reaches_nothing_but_streams(lab, sql):
    """Files, settings, extensions, other statements: refused with an error of ours."""
    lab.create("s", ROWS)
    with pytest.raises(sl.QueryError):
        lab.sql(sql).fetchall()
    assert not os.path.exists("/tmp/streamlab-should-not-exist")


def test_sql_is_as_of_the_call(lab):
    """A relation shows the streams as they were when it was made, however often it is read."""
    stream = lab.create("s", ROWS)
    relation = lab.sql("SELECT count(*) FROM s")
    stream.append(ROWS)
    assert relation.fetchall() == [(2,)] == relation.fetchall()
    assert lab.sql("SELECT count(*) FROM s").fetchall() == [(4,)]


def test_as_of_shows_the_whole_lab_as_it_was(timed_lab, clock):
    """Every stream is cut at one append time; streams made later are not there."""
    one, two = timed_lab.create("one", ROWS), timed_lab.create("two", ROWS)
    clock.advance("1m")
    then = "2026-01-01T12:00:30Z"
    one.append(ROWS)
    timed_lab.create("three", ROWS)
    past = timed_lab.as_of(then)
    assert list(past) == ["one", "two"] and len(past["one"]) == 2 == len(past["two"])
    assert past.sql("SELECT count(*) FROM one").fetchall() == [(2,)]
    with pytest.raises(sl.StreamNotFound, match="yet"):
        past["three"]
    with pytest.raises(sl.ReadOnly):
        past["one"].append(ROWS)
    with pytest.raises(sl.ReadOnly):
        past.create("x", ROWS)
    two.append(ROWS)
    assert len(past["two"]) == 2


def test_a_frozen_value_reopens_to_equal_rows_or_raises(lab):
    """freeze is plain JSON; reopened it gives the same rows, or says what happened to them."""
    stream = lab.create("s", ROWS)
    frozen = json.loads(json.dumps(lab.freeze()))
    stream.append(ROWS)
    assert lab.as_of(frozen)["s"].to_polars()["v"].to_list() == [1, 2]
    stream.trim(1)
    with pytest.raises(sl.OffsetOutOfRange, match="begins at 1"):
        lab.as_of(frozen)
    lab.drop("s")
    lab.create("s", ROWS)
    with pytest.raises(sl.HistoryChanged):
        lab.as_of(frozen)


def test_a_stream_made_anew_is_not_taken_for_the_old_one(lab):
    """A handle on a stream that was dropped says so, and a new one reads the new stream."""
    old = lab.create("s", ROWS)
    lab.drop("s")
    with pytest.raises(sl.StreamNotFound):
        old.append(ROWS)
    lab.create("s", {"x": [1.5]})
    assert lab["s"].to_polars()["x"].to_list() == [1.5]


def test_a_stream_whose_first_rows_do_not_fit_is_not_made(lab):
    """Data that its own options refuse leaves no stream behind."""
    with pytest.raises(sl.SchemaMismatch):
        lab.create("s", {"ts": [None, None], "v": [1, 2]}, time="ts")
    assert len(lab) == 0


def test_importing_is_light():
    """`import streamlab` loads neither Polars nor DuckDB, pandas, matplotlib or a notebook."""
    heavy = ("polars", "duckdb", "pandas", "matplotlib", "IPython", "tqdm", "psutil")
    code = f"import sys, streamlab; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
