"""Labs of every format version that there ever was still open, with the rows they hold."""

import importlib.util
import json
import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import streamlab as sl

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.glob("v*") if path.is_dir())


def maker():
    spec = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def copied(version, tmp_path):
    """A copy of a golden lab, made on another boot of another machine, and what it holds."""
    shutil.copytree(GOLDEN / version / "lab", tmp_path / "lab")
    return tmp_path / "lab", json.loads((GOLDEN / version / "expected.json").read_text())


@pytest.fixture
def golden(tmp_path):
    return copied("v1", tmp_path)


def first_rows(name):
    return {"sealed-in-place": 5000, "gathered": 300, "compressed": 500, "growing": 40}.get(name, 0)


def check(lab, expected):
    """Compare every stream with what follows from row numbers, and with what was noted down."""
    rows = maker().rows
    assert list(lab) == sorted(expected["streams"])
    for name, wanted in expected["streams"].items():
        stream = lab[name]
        stats = stream.stats()
        assert (stats.earliest_offset, stats.end_offset) == (wanted["start"], wanted["end"]), name
        assert stats.stream_time == wanted["stream_time"], name
        got = stream.to_arrow()
        assert got["_append_time"].cast(pa.int64()).to_pylist() == wanted["append_times"], name
        assert stream.to_polars().equals(pl.from_arrow(got)), name
        if first_rows(name):
            columns = rows(0, first_rows(name))
            assert got["ts"].cast(pa.int64()).to_pylist() == columns["ts"], name
            assert got["key"].to_pylist() == columns["key"], name
            assert got["value"].to_pylist() == columns["value"], name
            assert got["tags"].to_pylist() == columns["tags"], name
    assert lab["trimmed"].to_arrow()["value"].to_pylist() == rows(1500, 500)["value"]
    assert lab["evolved"].to_arrow()["n"].to_pylist() == [1, 2, 2**40]
    assert lab["evolved"].to_arrow()["note"].to_pylist() == [None, None, "wide"]
    deleted = lab["partitions"].scan().filter("_deleted").collect()
    assert deleted["key"].to_list() == ["schlüssel 2"]


def test_there_is_a_golden_lab_of_the_format_in_force():
    """The versions that are written now have labs that are kept for ever."""
    from streamlab.log.format import SPARSE_VERSION, VERSION

    assert {f"v{VERSION}", f"v{SPARSE_VERSION}"} == set(VERSIONS)


def test_a_golden_lab_reads_and_stays_as_it_is(golden):
    """Opened read-only it holds its rows, verifies, and not a byte of it changes."""
    path, expected = golden
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with sl.open(path, read_only=True) as lab:
        check(lab, expected)
        assert lab.verify().ok
        frozen = lab.as_of(expected["frozen"])
        assert len(frozen["sealed-in-place"]) == 5000
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_a_golden_lab_goes_on(golden):
    """Opened for writing it takes rows where it ended, seals, and holds the old ones too."""
    path, expected = golden
    with sl.open(path, sync="os") as lab:
        check(lab, expected)
        for name in ("growing", "sealed-in-place", "empty"):
            stream = lab[name]
            end = stream.end_offset
            assert stream.append(maker().table(0, 10)) == range(end, end + 10)
            stream.seal()
            assert (
                stream.offsets(end, end + 10).to_arrow()["value"].to_pylist()
                == maker().rows(0, 10)["value"]
            )
        assert lab.verify().ok


def check_compacted(lab, expected):
    """Compare what compaction left with what was noted down."""
    for name, wanted in expected["streams"].items():
        stream = lab[name]
        stats, left = stream.stats(), stream.view(compacted="ok").to_arrow()
        assert (stats.earliest_offset, stats.end_offset) == (wanted["start"], wanted["end"])
        assert stats.compacted_upto == wanted["compacted_upto"] > 0
        assert stats.stream_time == wanted["stream_time"]
        assert stats.rows == len(wanted["offsets"]) < wanted["end"]
        assert left["_offset"].to_pylist() == wanted["offsets"]
        assert left["_append_time"].cast(pa.int64()).to_pylist() == wanted["append_times"]
        assert left["ts"].cast(pa.int64()).to_pylist() == wanted["ts"]
        assert left["value"].to_pylist() == wanted["value"]
        assert sorted(stream.table().to_polars()["key"]) == wanted["keys"]
        with pytest.raises(sl.QueryError):
            stream.to_polars()


def test_a_golden_compacted_lab_reads_and_stays_as_it_is(tmp_path):
    """What compaction wrote once reads for ever, and is not changed by reading."""
    path, expected = copied("v2", tmp_path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    with sl.open(path, read_only=True) as lab:
        check_compacted(lab, expected)
        assert lab.verify().ok
        frozen = lab.as_of(expected["frozen"])
        assert len(frozen["once"]) == len(expected["streams"]["once"]["offsets"])
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before


def test_a_golden_compacted_lab_goes_on(tmp_path):
    """It takes rows where it ended, and is compacted again with them."""
    path, expected = copied("v2", tmp_path)
    with sl.open(path, sync="os") as lab:
        check_compacted(lab, expected)
        stream = lab["once"]
        end = stream.end_offset
        assert stream.append(maker().table(0, 5)) == range(end, end + 5)
        assert stream.compact().compacted_upto == end + 5
        keys = set(expected["streams"]["once"]["keys"]) | {f"schlüssel {n}" for n in range(5)}
        assert sorted(stream.table().to_polars()["key"]) == sorted(keys)
        assert lab.verify().ok
