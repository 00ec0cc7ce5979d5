"""History into DuckDB: incremental, exactly once, and noticing what others did."""

import os

import duckdb
import pyarrow as pa
import pytest

import streamlab as sl
from streamlab import ducktable
from streamlab.testing import feed


def offsets_in(path, table="trades"):
    with duckdb.connect(str(path), read_only=True) as connection:
        return [
            o for (o,) in connection.execute(f'SELECT _offset FROM "{table}" ORDER BY 1').fetchall()
        ]


def test_a_second_call_adds_only_what_is_new(lab, trades, tmp_path):
    """Rows and position go together: each call adds what came since the last, once."""
    stream = lab.create("trades", trades, time="ts")
    path = tmp_path / "history.duckdb"
    assert [stream.to_duckdb(path), stream.to_duckdb(path)] == [1000, 0]
    stream.append(trades.head(10))
    assert stream.to_duckdb(path) == 10
    assert offsets_in(path) == list(range(1010))
    with duckdb.connect(str(path)) as connection:
        got = connection.execute(
            "SELECT sum(size), min(ts), count(DISTINCT symbol) FROM trades"
        ).fetchall()
    assert got[0][0] == trades["size"].sum() + trades["size"].head(10).sum()


def test_a_connection_of_the_users_own_is_left_open(lab, trades):
    """A connection is used, not closed; tables are named as asked."""
    stream = lab.create("trades", trades, time="ts")
    with duckdb.connect() as connection:
        assert stream.to_duckdb(connection, "copy of trades") == 1000
        assert connection.sql('SELECT count(*) FROM "copy of trades"').fetchall() == [(1000,)]
        assert (
            stream.between("2026-01-01T00:05Z", "2026-01-01T00:06Z").to_duckdb(connection, "minute")
            == 61
        )
    with pytest.raises(TypeError, match="path or a duckdb connection"):
        stream.to_duckdb(42)


def test_a_table_of_something_else_is_not_touched(lab, trades, tmp_path):
    """Another stream, another stretch, a table of the user's, or a changed one: refused."""
    stream = lab.create("trades", trades, time="ts")
    other = lab.create("other", trades, time="ts")
    path = tmp_path / "x.duckdb"
    stream.to_duckdb(path)
    for wrong in (other, stream.between("2026-01-01T00:05Z"), stream.offsets(10, 20)):
        with pytest.raises(sl.HistoryChanged, match="another"):
            wrong.to_duckdb(path, "trades")
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine (x INT)")
        connection.execute("DELETE FROM trades WHERE _offset < 5")
    with pytest.raises(sl.HistoryChanged, match="mine"):
        stream.to_duckdb(path, "mine")
    with pytest.raises(sl.HistoryChanged, match="995 rows and 1000 were copied"):
        stream.to_duckdb(path)


def test_rows_removed_before_they_were_copied_are_an_error(lab, trades, tmp_path):
    """A table with a hole would be silent loss."""
    stream = lab.create("trades", trades, time="ts")
    stream.offsets(0, 1000)
    path = tmp_path / "x.duckdb"
    stream.to_duckdb(path)
    stream.append(trades)
    stream.trim(1500)
    with pytest.raises(sl.OffsetOutOfRange, match=r"\[1000, 1500\)"):
        stream.to_duckdb(path)


def test_the_table_follows_the_schema(lab, tmp_path):
    """Columns that were added and widened since are added and widened in the table."""
    stream = lab.create("s", pa.table({"a": pa.array([1], pa.int32())}))
    path = tmp_path / "x.duckdb"
    stream.to_duckdb(path)
    stream.evolve(pa.schema([("a", pa.int64()), ("b", pa.string())]))
    stream.append({"a": [2**40], "b": ["x"]})
    assert stream.to_duckdb(path) == 1
    with duckdb.connect(str(path)) as connection:
        assert connection.execute("SELECT a, b FROM s ORDER BY a").fetchall() == [
            (1, None),
            (2**40, "x"),
        ]


def test_an_export_in_parts_is_the_same_table(lab, trades, tmp_path, monkeypatch):
    """However an export is cut into transactions, each row is there once."""
    monkeypatch.setattr(ducktable, "CHUNK_ROWS", 64)
    stream = lab.create(
        "trades", trades.head(0), time="ts", settings=sl.Settings(segment_bytes="8KB")
    )
    feed(stream, trades, None, seed=3)
    path = tmp_path / "x.duckdb"
    assert stream.to_duckdb(path) == 1000
    view = stream.between("2026-01-01T00:05Z", "2026-01-01T00:06Z")
    assert view.to_duckdb(path, "minute") == len(view) == 61
    assert offsets_in(path) == list(range(1000))
    assert offsets_in(path, "minute") == view.to_polars()["_offset"].to_list()


def test_progress_is_shown_where_it_was_asked_for(lab, trades, tmp_path, capsys):
    """progress=False is quiet, and None is quiet where nobody looks."""
    stream = lab.create("trades", trades, time="ts")
    stream.to_duckdb(tmp_path / "a.duckdb", progress=False)
    stream.to_duckdb(tmp_path / "b.duckdb")
    assert capsys.readouterr().err == ""
    assert os.path.getsize(tmp_path / "a.duckdb") > 0
