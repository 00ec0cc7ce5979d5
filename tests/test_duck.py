"""History into DuckDB: incremental, exactly once, and noticing what others did."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import duckdb
import polars as pl
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


TAMPERING = {
    "a row deleted": ("DELETE FROM t WHERE _offset = 5", "7 rows and 8 were copied"),
    "a row doubled": ("INSERT INTO t SELECT * FROM t WHERE _offset = 5", "9 rows and 8"),
    "a row swapped": (
        "DELETE FROM t WHERE _offset = 5; INSERT INTO t SELECT * FROM t WHERE _offset = 6",
        "other values",
    ),
    "a value updated": ("UPDATE t SET b = 'z' WHERE a = 3", "other values"),
    "a null made": ("UPDATE t SET b = NULL WHERE a = 3", "other values"),
    "offsets moved": ("UPDATE t SET _offset = _offset + 1", "other values"),
    "values swapped": ("UPDATE t SET a = 7 - a WHERE a IN (3, 4)", "other values"),
    "a column added": ("ALTER TABLE t ADD COLUMN mine INT", "others than were made: mine"),
    "a column dropped": ("ALTER TABLE t DROP COLUMN b", "others than were made: b"),
    "a column renamed": ("ALTER TABLE t RENAME b TO c", "others than were made: b, c"),
    "a type changed": ("ALTER TABLE t ALTER a TYPE DOUBLE", "others than were made: a"),
    "the table dropped": ("DROP TABLE t", "dropped, and 8 rows"),
    "the table emptied": ("TRUNCATE t", "0 rows and 8"),
    "the table made anew": ("CREATE OR REPLACE TABLE t AS SELECT 1 AS a", "others than were made"),
    "the place moved": (
        "UPDATE _streamlab_positions SET next_offset = 4",
        "not what was written",
    ),
    "the place of other rows": ("UPDATE _streamlab_positions SET rows = 9", "not what was written"),
    "the record broken": ("UPDATE _streamlab_positions SET details = '{}'", "not what was written"),
    "the place forgotten": ("DELETE FROM _streamlab_positions", "no stream was copied into"),
}


@pytest.mark.parametrize("what", TAMPERING)
@pytest.mark.parametrize("in_memory", [False, True], ids=["file", "connection"])
def test_what_somebody_changed_meanwhile_is_noticed(lab, tmp_path, what, in_memory):
    """Any change to table or place is refused, by name; nothing is added; there is a way out."""
    stream = lab.create("s", {"a": list(range(8)), "b": list("abcdefgh")})
    path = tmp_path / "x.duckdb"
    target = duckdb.connect() if in_memory else path
    stream.to_duckdb(target, "t")
    statements, says = TAMPERING[what]
    with target.cursor() if in_memory else duckdb.connect(str(path)) as connection:
        connection.execute(statements)
    for _ in range(2):
        with pytest.raises(sl.HistoryChanged, match=says) as caught:
            stream.to_duckdb(target, "t")
    if "to begin anew" in str(caught.value):
        with target.cursor() if in_memory else duckdb.connect(str(path)) as connection:
            connection.execute(caught.value.hint.split(": ", 1)[1])
        assert stream.to_duckdb(target, "t") == 8


def test_without_the_checksum_an_update_would_be_missed(lab, tmp_path, monkeypatch):
    """The control: if values were not summed up, the same change would go unseen."""
    monkeypatch.setattr(ducktable._Copy, "_contents", lambda self, columns, where="": (
        self._one(f"SELECT count(*) FROM {ducktable.quoted(self.table)} {where}"), 0))  # fmt: skip
    stream = lab.create("s", {"a": [1, 2]})
    with duckdb.connect() as connection:
        stream.to_duckdb(connection)
        connection.execute("UPDATE s SET a = 9")
        assert stream.to_duckdb(connection) == 0


def test_a_file_that_nobody_touched_is_not_read_again(lab, tmp_path, monkeypatch):
    """Found as it was left, a file is trusted; after anybody else's visit, or a new table, it is not."""
    looked = []
    check = ducktable._Copy._check_table
    monkeypatch.setattr(ducktable._Copy, "_check_table", lambda self, place: (
        looked.append(self.table), check(self, place)))  # fmt: skip
    stream = lab.create("s", {"a": [1]})
    path = tmp_path / "x.duckdb"
    for _ in range(3):
        stream.append({"a": [2]})
        stream.to_duckdb(path)
        stream.to_duckdb(path, "other")
    assert looked == []
    with duckdb.connect(str(path)) as connection:
        connection.execute("FROM s")
    stream.to_duckdb(path)
    assert looked == []
    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE mine (i INT)")
    stream.to_duckdb(path)
    stream.to_duckdb(path)
    assert looked == ["s"]
    stream.to_duckdb(path, "OTHER")
    assert looked == ["s", "OTHER"]


def test_a_database_of_another_version_is_checked_by_count_and_columns(lab, tmp_path):
    """Hashes of another DuckDB are not compared; what can be is, and the next check has new ones."""
    stream = lab.create("s", {"a": [1, 2]})
    with duckdb.connect() as connection:
        stream.to_duckdb(connection)
        details = connection.sql("SELECT details FROM _streamlab_positions").fetchall()[0][0]
        place = ducktable.Place(stream=lab["s"]._info.id, next_offset=2, rows=2, version="v0", columns=tuple(map(tuple, json.loads(details)["columns"])), appended=json.loads(details)["appended"], values=1)  # fmt: skip
        connection.execute("UPDATE _streamlab_positions SET details = ?", [place.details()])
        assert stream.to_duckdb(connection) == 0
        connection.execute("UPDATE s SET a = 9")
        with pytest.raises(sl.HistoryChanged, match="other values"):
            stream.to_duckdb(connection)


def test_a_file_of_the_first_layout_is_taken_over(lab, tmp_path):
    """A place without details, as it was first written, is gone on from and gets them."""
    stream = lab.create("s", {"a": [1, 2]})
    with duckdb.connect() as connection:
        stream.to_duckdb(connection)
        connection.execute("ALTER TABLE _streamlab_positions DROP COLUMN details")
        stream.append({"a": [3]})
        assert [stream.to_duckdb(connection), stream.to_duckdb(connection)] == [1, 0]
        connection.execute("UPDATE s SET a = 9")
        with pytest.raises(sl.HistoryChanged):
            stream.to_duckdb(connection)


def test_a_stream_that_lost_rows_and_got_others_is_refused(tmp_path):
    """What was copied has to be below the place still: a lab set back and gone on is another."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        lab.create("s", {"a": [1, 2]})
    shutil.copytree(tmp_path / "lab", tmp_path / "kept")
    with sl.open(tmp_path / "lab") as lab:
        lab["s"].append({"a": [3, 4]})
        assert lab["s"].to_duckdb(tmp_path / "x.duckdb") == 4
    with sl.open(tmp_path / "kept") as lab:
        with pytest.raises(sl.HistoryChanged, match="up to offset 4.*ends at 2"):
            lab["s"].to_duckdb(tmp_path / "x.duckdb")
        lab["s"].append({"a": [5, 6, 7]})
        with pytest.raises(sl.HistoryChanged, match="other rows below offset 4"):
            lab["s"].to_duckdb(tmp_path / "x.duckdb")


def test_rows_are_durable_before_they_are_copied(tmp_path):
    """A power cut never takes rows from the stream that its table has."""
    with sl.open(tmp_path / "lab", sync="1h") as lab:
        stream = lab.create("s", {"a": [1, 2]})
        stream.append({"a": [3]})
        assert stream.durable_offset < 3
        stream.to_duckdb(tmp_path / "x.duckdb")
        assert stream.durable_offset == 3


def test_views_and_the_stream_share_a_table_where_that_is_exact(lab, trades, tmp_path):
    """A later end goes on; an earlier one, or another beginning, is refused and changes nothing."""
    stream = lab.create("trades", trades, time="ts")
    path = tmp_path / "x.duckdb"
    assert stream.as_of(100).to_duckdb(path) == 100
    assert stream.as_of(300).to_duckdb(path) == 200
    with pytest.raises(sl.HistoryChanged, match=r"up to offset 300.*ends at 100"):
        stream.as_of(100).to_duckdb(path)
    assert stream.to_duckdb(path) == 700
    assert stream.offsets(10, 20).to_duckdb(path, "part") == 10
    assert stream.offsets(10, 40).to_duckdb(path, "part") == 20
    for other in (stream.offsets(11, 50), stream, stream.between("2026-01-01T00:05Z")):
        with pytest.raises(sl.HistoryChanged, match="another"):
            other.to_duckdb(path, "part")
    assert offsets_in(path) == list(range(1000))
    assert offsets_in(path, "part") == list(range(10, 40))


def test_a_stretch_of_time_gets_the_rows_that_come_later(lab, trades, tmp_path):
    """A view between two instants is incremental too, from before its first row on, with late rows."""
    stream = lab.create("trades", trades.head(100), time="ts")
    path = tmp_path / "x.duckdb"

    def view():
        return stream.between("2026-01-01T00:05Z", "2026-01-01T00:06Z")

    assert view().to_duckdb(path, "minute") == 0
    assert offsets_in(path, "minute") == []
    for start, stop in ((100, 250), (250, 320), (320, 1000)):
        stream.append(trades[start:stop])
        view().to_duckdb(path, "minute")
    stream.append(trades[310:312])
    assert view().to_duckdb(path, "minute") == 2
    assert offsets_in(path, "minute") == view().to_polars()["_offset"].to_list()


def test_an_empty_stream_makes_an_empty_table(lab):
    """A table is there after the call, whether there are rows or not."""
    stream = lab.create("s", pa.schema([("a", pa.int64())]))
    with duckdb.connect() as connection:
        assert stream.to_duckdb(connection) == 0
        assert connection.sql("SELECT a FROM s").fetchall() == []
        stream.append({"a": [1]})
        assert stream.to_duckdb(connection) == 1


NAMES = [
    "select",
    "Table",
    'with "quotes"',
    "ünïcode ☃",
    "a b",
    "x.y",
    "'",
    "ß",
    "SS",
    "1st",
    "%s;--",
]


def test_names_of_any_kind_go_in_and_out(lab, tmp_path):
    """Keywords, quotes, spaces and Unicode are names of columns and tables like others."""
    columns = {name: [number] for number, name in enumerate(NAMES)}
    stream = lab.create("s", columns)
    path = tmp_path / "x.duckdb"
    for table in NAMES:
        assert stream.to_duckdb(path, table) == 1
    stream.evolve(pa.schema([*stream.schema, ("new, 'one'", pa.int64())]))
    stream.append({**columns, "new, 'one'": [1]})
    for table in NAMES:
        assert [stream.to_duckdb(path, table), stream.to_duckdb(path, table)] == [1, 0]
    with duckdb.connect(str(path)) as connection:
        for table in NAMES:
            rows = connection.sql(f"FROM {ducktable.quoted(table)}").to_arrow_table().drop(["_partition", "_offset", "_append_time"])  # fmt: skip
            assert rows.schema.names == [*NAMES, "new, 'one'"]
            assert rows.to_pylist()[1] == {name: v[0] for name, v in columns.items()} | {"new, 'one'": 1}  # fmt: skip


@pytest.mark.parametrize("table", ["", 3, "_streamlab_positions", "_STREAMLAB_x", "a\0b"])
def test_a_table_that_cannot_be_named_so_is_refused(lab, table, tmp_path):
    """No name, no text, and the names of our own tables are refused before a file is made."""
    stream = lab.create("s", {"a": [1]})
    with pytest.raises(sl.QueryError, match="table"):
        stream.to_duckdb(tmp_path / "x.duckdb", table)
    assert not (tmp_path / "x.duckdb").exists()


def test_names_that_differ_by_case_never_meet(lab):
    """DuckDB folds the case of ASCII: a stream has no two such columns, and other case is another."""
    with pytest.raises(sl.SchemaMismatch, match="fold"):
        lab.create("s", {"a": [1], "A": [2]})
    one, two = lab.create("one", {"i": [1]}), lab.create("two", {"i": [2]})
    with duckdb.connect() as connection:
        one.to_duckdb(connection, "Straße")
        two.to_duckdb(connection, "STRASSE")
        one.to_duckdb(connection, "Ä")
        two.to_duckdb(connection, "ä")
        assert connection.sql('SELECT i FROM "ä"').fetchall() == [(2,)]


def test_the_column_of_deletions_is_false_in_older_rows(lab):
    """What the stream says of a row the table says too: a row from before was not deleted."""
    stream = lab.create("s", {"k": ["a", "b"], "v": [1, 2]}, key="k")
    with duckdb.connect() as connection:
        stream.to_duckdb(connection)
        stream.delete("a")
        assert stream.to_duckdb(connection) == 1
        got = connection.sql("SELECT _offset, _deleted FROM s ORDER BY 1").fetchall()
    assert got == stream.to_polars().select("_offset", "_deleted").rows()


def test_a_database_in_memory_by_name_is_refused(lab):
    """What would be gone at the end of the call is not filled."""
    stream = lab.create("s", {"a": [1]})
    for path in (":memory:", ""):
        with pytest.raises(sl.QueryError, match="in memory"):
            stream.to_duckdb(path)


def test_what_is_no_database_or_open_elsewhere_is_refused(lab, tmp_path):
    """A file of another kind, a folder, and a file that another process has: each by its name."""
    stream = lab.create("s", {"a": [1]})
    (tmp_path / "text.duckdb").write_text("hello " * 4000)
    (tmp_path / "folder").mkdir()
    for name in ("text.duckdb", "folder", "nowhere/x.duckdb"):
        with pytest.raises(sl.QueryError, match=name):
            stream.to_duckdb(tmp_path / name)
    script = f"import duckdb, sys; c = duckdb.connect({str(tmp_path / 'x.duckdb')!r}); print(1, flush=True); sys.stdin.read()"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        with pytest.raises(sl.QueryError, match=r"x\.duckdb(.|\n)*open elsewhere"):
            stream.to_duckdb(tmp_path / "x.duckdb")
        other.stdin.close()
    assert stream.to_duckdb(tmp_path / "x.duckdb") == 1


def test_threads_copy_into_one_file_in_turns(lab, trades, tmp_path):
    """However many threads copy into one table at a time, each row is there once."""
    stream = lab.create("trades", trades, time="ts")
    path = tmp_path / "x.duckdb"
    with duckdb.connect(str(path)) as connection, ThreadPoolExecutor(6) as pool:
        targets = [t for _ in range(4) for t in (path, connection.cursor(), str(path))]
        calls = [pool.submit(stream.to_duckdb, target) for target in targets]
        stream.append(trades)
        assert sum(call.result() for call in calls) + stream.to_duckdb(path) == 2000
    assert offsets_in(path) == list(range(2000))


def test_damage_in_the_stream_is_told_as_such(lab, trades, tmp_path):
    """An error of the stream comes through DuckDB as itself; what was committed before stays."""
    stream = lab.create("trades", trades, time="ts")
    stream.seal()
    file = next((lab.path / "streams" / "trades").glob("*.arrow"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(sl.CorruptSegment, match=file.name):
        stream.to_duckdb(tmp_path / "x.duckdb")
    assert offsets_in(tmp_path / "x.duckdb") == []


def test_a_relation_goes_back_into_a_stream(lab, trades, tmp_path):
    """What DuckDB holds is created and appended again, in its types, without the system columns."""
    stream = lab.create("trades", trades, time="ts")
    stream.to_duckdb(tmp_path / "x.duckdb")
    with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        again = lab.create("again", connection.sql("FROM trades ORDER BY _offset"), time="ts")
        again.append(connection.sql("FROM trades WHERE _offset < 10"))
    assert again.to_polars()[stream.schema.names].equals(pl.concat([trades, trades.head(10)]))


def test_progress_is_shown_where_it_was_asked_for(lab, trades, tmp_path, capsys):
    """progress=False is quiet, and None is quiet where nobody looks."""
    stream = lab.create("trades", trades, time="ts")
    stream.to_duckdb(tmp_path / "a.duckdb", progress=False)
    stream.to_duckdb(tmp_path / "b.duckdb")
    assert capsys.readouterr().err == ""
    assert os.path.getsize(tmp_path / "a.duckdb") > 0
