"""Mirrors: a table that is kept what its stream is, beside plain calls and other processes."""

import subprocess
import sys
import threading

import duckdb
import pyarrow as pa
import pytest
from test_duck import offsets_in

import streamlab as sl
from streamlab import duckfile, mirror


@pytest.fixture
def path(tmp_path):
    return tmp_path / "history.duckdb"


def reading(path):
    """Start a process that reads the table's offsets, trying again while the file is taken."""
    script = f"""
import duckdb
while True:
    try:
        with duckdb.connect({str(path)!r}, read_only=True) as connection:
            print(*(o for (o,) in connection.execute("SELECT _offset FROM s ORDER BY 1").fetchall()))
            break
    except duckdb.IOException:
        pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)  # fmt: skip
    return [int(text) for text in done.stdout.split()]


def test_a_mirror_has_what_was_there_and_what_comes(lab, path):
    """History and tail are in the table without a seam, each row once, with the system columns."""
    stream = lab.create("s", {"i": [0, 1]})
    job = stream.to_duckdb(path, follow=True)
    assert isinstance(job, sl.Job)
    for number in range(2, 40):
        stream.append({"i": [number]})
    job.wait(60)
    assert job.progress.lag_rows == 0
    assert job.progress.rows_in == 40
    assert reading(path) == list(range(40))
    job.stop()
    assert job.status == "stopped"
    with duckdb.connect(str(path)) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        assert connection.sql("FROM s ORDER BY _offset").to_arrow_table().equals(stream.to_arrow())


def test_plain_calls_and_mirrors_go_on_from_each_other(lab, path):
    """The place is the table's: whoever comes next adds what is new, also at the same time."""
    stream = lab.create("s", {"i": [0]})
    assert stream.to_duckdb(path) == 1
    stream.append({"i": [1]})
    stream.to_duckdb(path, follow=True).wait(60).stop()
    stream.append({"i": [2]})
    assert stream.to_duckdb(path) == 1
    job = stream.to_duckdb(path, follow=True)
    added = 0
    for number in range(3, 30):
        stream.append({"i": [number]})
        added += stream.to_duckdb(path)
    job.wait(60).stop()
    assert offsets_in(path, "s") == list(range(30))
    assert stream.to_duckdb(path) == 0


def test_a_mirror_is_named_and_found_again(lab, path):
    """The same call is the same job; another target is another one, or is refused by that name."""
    stream = lab.create("s", {"i": [0]})
    job = stream.to_duckdb(path, follow=True)
    assert job.name == "s-in-history-s"
    assert stream.to_duckdb(path, follow=True) is job is lab.jobs[job.name]
    other = stream.to_duckdb(path, 'a "table"', follow=True)
    assert other.name == "s-in-history-a-table-"
    assert job.name in lab.jobs.known()
    job.wait(60).stop()
    again = stream.to_duckdb(path, follow=True)
    assert again is not job
    with pytest.raises(sl.QueryError, match=r"something else(.|\n)*name="):
        stream.to_duckdb(path, "third", follow=True, name=again.name)
    third = stream.to_duckdb(path, "third", follow=True, name="mine").wait(60)
    assert "mine" in lab.jobs
    assert str(third).startswith('Job "mine" into third: running, 1 rows in')
    with pytest.raises(sl.QueryError, match="third of .*history"):
        third.frame()
    with pytest.raises(sl.InvalidName):
        stream.to_duckdb(path, follow=True, name="a/b")


def test_a_mirror_goes_on_in_the_next_process(tmp_path, path):
    """A lab that was closed and opened again has the mirror's name, and the call resumes it."""
    for number in range(3):
        with sl.open(tmp_path / "lab", sync="os") as lab:
            stream = lab["s"] if "s" in lab else lab.create("s", {"i": [0]})
            assert lab.jobs.known() == (["s-in-history-s"] if number else [])
            stream.append({"i": [1, 2]})
            stream.to_duckdb(path, follow=True).wait(60)
        assert offsets_in(path, "s") == list(range(3 + 2 * number))


def test_a_view_is_mirrored_to_its_end(lab, path):
    """Nothing can come any more: the job stops by itself."""
    stream = lab.create("s", {"i": list(range(9))})
    job = stream.offsets(2, 7).to_duckdb(path, follow=True).wait(60, caught_up=False)
    assert job.status == "stopped"
    assert offsets_in(path, "s") == list(range(2, 7))


def test_a_mirror_follows_the_schema(lab, path):
    """Columns that are added and widened under way are so in the table, with the next rows."""
    stream = lab.create("s", {"a": pa.array([1], pa.int32())})
    job = stream.to_duckdb(path, follow=True).wait(60)
    stream.evolve(pa.schema([("a", pa.int64()), ("b", pa.string())]))
    stream.append({"a": [2**40], "b": ["x"]})
    job.wait(60).stop()
    with duckdb.connect(str(path)) as connection:
        got = connection.sql("SELECT a, b FROM s ORDER BY 1").fetchall()
    assert got == [(1, None), (2**40, "x")]


def test_a_mirror_into_a_connection(lab):
    """An open database, in memory or not, is delivered to beside what its user does."""
    stream = lab.create("s", {"i": [0]})
    with duckdb.connect() as connection, duckdb.connect() as other:
        job = stream.to_duckdb(connection, follow=True)
        with pytest.raises(sl.QueryError, match="something else"):
            stream.to_duckdb(other, follow=True)
        stream.append({"i": [1]})
        job.wait(60)
        assert connection.sql("SELECT i FROM s ORDER BY 1").fetchall() == [(0,), (1,)]
        assert lab.jobs.known() == []
        job.stop()
        assert stream.to_duckdb(other, follow=True).wait(60).stop().progress.rows_in == 2


def test_a_mirror_waits_while_somebody_else_has_the_file(lab, path, monkeypatch):
    """A file that another process holds is tried again, and said to be; nothing fails or is lost."""
    stream = lab.create("s", {"i": [0]})
    tried = threading.Event()
    connect = duckfile.Database._connect

    def telling(self):
        try:
            return connect(self)
        except duckfile.Busy:
            tried.set()
            raise

    monkeypatch.setattr(duckfile.Database, "_connect", telling)
    script = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print(1, flush=True); sys.stdin.read()"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        job = stream.to_duckdb(path, follow=True)
        assert tried.wait(60)
        tried.clear()
        assert tried.wait(60)
        assert job.status == "running"
        assert "waiting: " in repr(job)
        assert job.progress.lag_rows == 1
        other.stdin.close()
        job.wait(60)
    assert "waiting" not in repr(job)
    assert job.progress.lag_rows == 0


def test_a_mirror_that_waits_can_be_stopped(lab, path):
    """A stop is heard while the file is taken."""
    stream = lab.create("s", {"i": [0]})
    script = f"import duckdb, sys; c = duckdb.connect({str(path)!r}); print(1, flush=True); sys.stdin.read()"  # fmt: skip
    with subprocess.Popen([sys.executable, "-c", script], stdin=-1, stdout=-1) as other:
        other.stdout.readline()
        assert stream.to_duckdb(path, follow=True).stop(30).status == "stopped"
        other.stdin.close()


def test_what_somebody_changed_ends_the_mirror(lab, path):
    """A table that was changed between two deliveries fails the job, and the kernel lives on."""
    stream = lab.create("s", {"i": [0, 1]})
    job = stream.to_duckdb(path, follow=True).wait(60)
    with duckdb.connect(str(path)) as connection:
        connection.execute("UPDATE s SET i = 9 WHERE i = 1")
    stream.append({"i": [2]})
    with pytest.raises(sl.HistoryChanged, match="other values"):
        job.wait(60)
    assert job.status == "failed"
    assert isinstance(job.error, sl.HistoryChanged)


def test_rows_that_a_mirror_needs_are_held(lab, path):
    """A mirror that is registered keeps what it has not copied from age retention."""
    stream = lab.create("s", {"i": [0, 1]})
    job = stream.to_duckdb(path, follow=True).wait(60).stop()
    assert stream._scan.log.holds() == {f"job-{job.name}": 2}
    lab.jobs.forget(job.name)
    assert stream._scan.log.holds() == {}
    assert lab.jobs.known() == []


def test_a_paused_mirror_takes_nothing(lab, path):
    """Paused it stands still, resumed it goes on."""
    stream = lab.create("s", {"i": [0]})
    job = stream.to_duckdb(path, follow=True).wait(60).pause()
    stream.append({"i": [1]})
    assert job.resume().wait(60).stop().progress.rows_in == 2


def test_a_mirror_of_a_read_only_lab_is_refused(lab, path):
    """Jobs are remembered in the lab: one that may not be written has none."""
    lab.create("s", {"i": [0]})
    with sl.open(lab.path, read_only=True) as reader:
        with pytest.raises(sl.ReadOnly):
            reader["s"].to_duckdb(path, follow=True)
        assert reader["s"].to_duckdb(path) == 1


def test_a_mirror_leaves_the_file_alone_between_deliveries(lab, path, monkeypatch):
    """It is open for a delivery only: as long as one takes, it is free in between."""
    stream = lab.create("s", {"i": [0]})
    rests = []
    job = stream.to_duckdb(path, follow=True).wait(60)
    wait = job._stop.wait
    monkeypatch.setattr(
        job._stop, "wait", lambda seconds: (rests.append(seconds), wait(seconds))[1]
    )
    for number in range(5):
        stream.append({"i": [number]})
        job.wait(60)
    job.stop()
    assert min(rests) >= mirror.REST_SECONDS
