"""Counter-examples that were found by hand or by chance, kept so that they stay mended."""

import datetime as dt
import os
import shutil
import subprocess
import sys
import textwrap
import zoneinfo

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import streamlab as sl

UTC = dt.UTC
NEW_YEAR = dt.datetime(2026, 1, 1, tzinfo=UTC)
NUMBERS = pa.schema([("i", pa.int64())])
TIMED = pa.schema([("ts", pa.timestamp("us", "UTC")), ("i", pa.int64())])


def seconds(lab, count, **options):
    stream = lab.create("s", TIMED, time="ts", **options)
    for n in range(count):
        stream.append({"ts": [NEW_YEAR + dt.timedelta(seconds=n)], "i": [n]})
    return stream


def test_a_link_among_the_streams_is_no_stream(tmp_path):
    """Dropping through a symbolic link touches nothing of the lab it leads to."""
    with sl.open(tmp_path / "other") as other:
        other.create("s", {"i": [1, 2, 3]})
    with sl.open(tmp_path / "lab") as lab:
        lab.create("s", NUMBERS)
        os.symlink(tmp_path / "other" / "streams" / "s", tmp_path / "lab" / "streams" / "alias")
        assert "alias" not in lab
        for touch in (lambda: lab["alias"], lambda: lab.drop("alias")):
            with pytest.raises(sl.StreamNotFound):
                touch()
    with sl.open(tmp_path / "other") as other:
        assert other["s"].to_polars()["i"].to_list() == [1, 2, 3]


def test_columns_that_are_constant_have_as_many_rows_as_there_are(lab):
    """A projection of computed and absent columns alone counts every row, in both engines."""
    stream = lab.create("s", pa.schema([("k", pa.string())]), key="k", partitions=4)
    stream.append({"k": ["a"] * 10})
    stream.seal()
    stream.evolve(pa.schema([("k", pa.string()), ("b", pa.int64())]))
    for engine in ("streaming", "in-memory"):
        assert stream.scan().select("_append_time").collect(engine=engine).height == 10
        absent = stream.scan().filter(pl.col("b").is_null())
        assert absent.select(pl.len()).collect(engine=engine).item() == 10
        assert absent.select("b").collect(engine=engine).height == 10
    stream.delete("a")
    assert stream.scan().filter(~pl.col("_deleted")).select(pl.len()).collect().item() == 10
    assert stream.scan().select("_append_time", "b").collect().height == 11


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "UTC"])
def test_filters_on_a_zoned_time_lose_no_row(lab, zone):
    """Instants in any zone are compared as instants, also where segments are pruned by them."""
    here = zoneinfo.ZoneInfo(zone)
    times = [NEW_YEAR + dt.timedelta(hours=n) for n in range(48)]
    stream = lab.create("s", pa.schema([("ts", pa.timestamp("us", zone))]), time="ts")
    for at in range(0, 48, 4):
        stream.append({"ts": times[at : at + 4]})
        stream.seal()
    for cut in times[::5]:
        local = cut.astimezone(here)
        for condition, wanted in (
            (pl.col("ts") == local, 1),
            (pl.col("ts") < local, times.index(cut)),
            (pl.col("ts") > local, 47 - times.index(cut)),
            (pl.col("ts").is_in([local]), 1),
        ):
            assert stream.scan().filter(condition).collect().height == wanted


def test_a_lazy_frame_lives_through_evolution(lab):
    """A LazyFrame made before a column was added or widened still gives the columns it had."""
    stream = lab.create("s", pa.table({"i": pa.array([1], pa.int32()), "k": ["a"]}), key="k")
    lazy = stream.scan()
    stream.evolve(pa.schema([("i", pa.int64()), ("k", pa.string()), ("b", pa.int8())]))
    stream.delete("a")
    got = lazy.collect()
    assert got.columns == ["_partition", "_offset", "_append_time", "i", "k"]
    assert got["i"].to_list() == [1, None]


def test_a_filter_that_arrow_cannot_reason_about_prunes_nothing(lab):
    """Null literals in a filter are Polars' business, not an error of ours."""
    stream = seconds(lab, 3)
    null = pl.lit(None, dtype=pl.Boolean)
    assert stream.scan().filter(null, pl.col("i") > 0).collect().height == 0
    assert stream.between("2020-01-01").scan().filter(null).collect().height == 0


def test_following_a_view_in_event_time_ends(lab):
    """Rows that are not of the view are passed over once, not for ever."""
    stream = seconds(lab, 20)
    view = stream.between(NEW_YEAR, NEW_YEAR + dt.timedelta(seconds=3))
    assert [i for b in view.follow("earliest") for i in b["i"].to_pylist()] == [0, 1, 2]


def test_handles_share_the_strictest_promise(tmp_path):
    """A handle that asks for more is given it, whoever opened the lab first in this process."""
    first = sl.open(tmp_path / "lab", sync="os")
    first.create("s", NUMBERS).append({"i": [0]})
    second = sl.open(tmp_path / "lab")
    second["s"].append({"i": [1]})
    assert second["s"].durable_offset == 2
    first.close()
    second.close()
    reader = sl.open(tmp_path / "lab", read_only=True)
    assert len(reader["s"]) == 2
    writer = sl.open(tmp_path / "lab")
    view = writer["s"].as_of(1)
    writer["s"].seal()
    writer["s"].trim(2)
    assert view.to_polars()["i"].to_list() == [0]
    reader.close()
    writer.close()


def test_a_copy_knows_its_table_by_any_case(lab):
    """DuckDB folds case: two streams never share a table, and a user's own is left alone."""
    one, two = lab.create("one", {"i": [1]}), lab.create("two", {"i": [2]})
    with duckdb.connect() as connection:
        one.to_duckdb(connection, "copy")
        with pytest.raises(sl.HistoryChanged):
            two.to_duckdb(connection, "COPY")
        assert one.to_duckdb(connection, "Copy") == 0
        connection.execute("CREATE TABLE Mine (i INT)")
        with pytest.raises(sl.HistoryChanged):
            one.to_duckdb(connection, "mine")
        connection.execute("CREATE VIEW looks AS SELECT 1 AS i")
        with pytest.raises(sl.HistoryChanged):
            one.to_duckdb(connection, "looks")


def test_a_copy_leaves_the_users_transaction_alone(lab):
    """What the user began is neither committed nor lost."""
    stream = lab.create("s", {"i": [1]})
    with duckdb.connect() as connection:
        connection.execute("BEGIN")
        connection.execute("CREATE TABLE keep AS SELECT 1 AS x")
        assert stream.to_duckdb(connection) == 1
        connection.execute("ROLLBACK")
        assert connection.execute("SELECT count(*) FROM s").fetchall() == [(1,)]
        assert connection.execute(
            "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'keep'"
        ).fetchall() == [(0,)]


def test_a_copy_of_a_view_goes_on_after_a_trim(lab):
    """Which stretch a table holds does not depend on what has been trimmed since."""
    stream = lab.create("s", {"i": [1, 5, 6]})
    with duckdb.connect() as connection:
        assert stream.as_of(2).to_duckdb(connection, "c") == 2
        stream.trim(1)
        assert stream.as_of(3).to_duckdb(connection, "c") == 1


def test_places_may_be_numpys_and_not_a_time(lab):
    """NumPy's integers are offsets; NaT, True and fractions are no places."""
    stream = seconds(lab, 5)
    assert len(stream.as_of(np.int64(3))) == 3
    assert len(stream.offsets(np.int32(1), np.int32(3))) == 2
    assert sum(b.num_rows for b in stream.follow(np.int64(2), timeout=0)) == 3
    assert stream.trim(np.int64(1)) == 1
    for ask in (stream.find, stream.as_of, lab.as_of, stream.between):
        with pytest.raises(sl.InvalidTime):
            ask(pd.NaT)
    for wrong in (True, 1.5):
        with pytest.raises(TypeError):
            stream.offsets(wrong)


def test_a_handle_on_a_stream_that_was_made_anew_says_so(lab):
    """Every use of a dropped stream's handle is StreamNotFound, whatever took its name."""
    old = lab.create("s", {"i": [1]})
    lab.drop("s")
    for use in (lambda: old.append({"i": [1]}), old.trim, lambda: old.schema, lambda: repr(old)):
        with pytest.raises(sl.StreamNotFound):
            use()
    lab.create("s", {"x": [1.0]})
    for use in (lambda: old.append({"i": [1]}), old.trim, lambda: old.schema, lambda: old.settings):
        with pytest.raises(sl.StreamNotFound, match="made"):
            use()


def test_a_view_has_its_own_times(lab):
    """Stream time and append time of a view are those of its last row."""
    stream = seconds(lab, 9)
    stats = stream.as_of(4).stats()
    assert stats.stream_time == int((NEW_YEAR.timestamp() + 3) * 1e6)
    assert stats.append_time < stream.stats().append_time
    epoch = lab.create("epoch", {"ts": [dt.datetime(1970, 1, 1, tzinfo=UTC)], "i": [0]}, time="ts")
    assert epoch.stats().stream_time == 0


def test_options_of_a_stream_are_checked(lab, tmp_path):
    """Senseless options are refused, an endless delay is not, and exist_ok compares them all."""
    for options in ({"partitions": True}, {"key": ("i", "i")}, {"key": 5}, {"retention": -5}):
        with pytest.raises((ValueError, sl.SchemaMismatch)):
            lab.create("s", NUMBERS, **options)
    assert lab.create("s", NUMBERS, delay="inf").delay == "inf"
    with pytest.raises(sl.StreamExists, match="delay"):
        lab.create("s", NUMBERS, exist_ok=True)
    (tmp_path / "file").write_text("")
    for wrong in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(sl.StreamlabError, match="cannot be a lab"):
            sl.open(wrong)
    for wrong in ({}, {"streams": {"s": {}}}):
        with pytest.raises(sl.InvalidTime):
            lab.as_of(wrong)
    with pytest.raises(sl.StreamNotFound):
        lab[5]
    with pytest.raises(sl.QueryError):
        lab.sql(None)


def test_the_last_instant_there_is_does_not_end_a_stream(lab):
    """An event time of 2^63 - 1 is refused, with max_ahead lifted too."""
    stream = lab.create("s", TIMED, time="ts", settings=sl.Settings(max_ahead=None))
    last = pa.table({"ts": pa.array([2**63 - 1], TIMED.field("ts").type), "i": [1]})
    with pytest.raises(sl.FutureEvent):
        stream.append(last)
    assert len(stream.append({"ts": [NEW_YEAR], "i": [1]})) == 1


INTERRUPTED = """
    import random, signal, sys, threading
    import streamlab as sl
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, lambda *event: signal.raise_signal(signal.SIGINT))
    lab = sl.open(sys.argv[1], sync=sys.argv[2])
    stream = lab.create("s", {"i": [-1]}, settings=sl.Settings(segment_bytes=8192))
    wanted, interrupts = [-1], 0
    for n in range(600):
        before = stream.end_offset
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 1e-3))
            stream.append({"i": [n] * 3})
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            interrupts += 1
        if stream.end_offset > before:
            wanted += [n] * 3
    assert stream.to_polars()["i"].to_list() == wanted
    thread = threading.Thread(target=stream.append, args=({"i": [1]},))
    thread.start()
    thread.join(20)
    assert not thread.is_alive() and len(stream) == len(wanted) + 1
    print(interrupts)
"""


@pytest.mark.parametrize("sync", ["always", "os"])
def test_an_interrupted_append_is_there_or_not_and_that_is_that(tmp_path, sync):
    """Ctrl-C at any moment leaves a stream that is whole, unlocked and goes on, however often."""
    code = textwrap.dedent(INTERRUPTED)
    command = [sys.executable, "-c", code, str(tmp_path / "lab"), sync]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 50


def test_folders_that_a_copy_left_out_are_made_again(tmp_path):
    """A lab whose empty folders got lost on the way (git, an archive) works as before."""
    with sl.open(tmp_path / "lab") as lab:
        lab.create("s", {"i": [1]})
    for name in ("locks", "pins"):
        shutil.rmtree(tmp_path / "lab" / "streams" / "s" / name)
    with sl.open(tmp_path / "lab") as lab:
        view = lab["s"].as_of(1)
        assert lab["s"].append({"i": [2]}) == range(1, 2)
        lab["s"].seal()
        lab["s"].trim(2)
        assert view.to_polars()["i"].to_list() == [1]


def test_closing_a_lab_closes_its_writers(tmp_path):
    """Events that wait in an open writer are appended when their lab is closed, or named."""
    lab = sl.open(tmp_path / "lab", sync="os")
    stream = lab.create("s", NUMBERS)
    writer = stream.writer(linger="10s")
    for i in range(5):
        writer.send(i=i)
    lab.close()
    assert writer.appended == 5
    lab = sl.open(tmp_path / "lab", sync="os")
    bad = lab["s"].writer(linger="10s")
    bad.send(i=5)
    bad.send(i="six")
    with pytest.raises(sl.SchemaMismatch, match="six"):
        lab.close()
    with sl.open(tmp_path / "lab") as again:
        assert again["s"].to_polars()["i"].to_list() == list(range(6))
