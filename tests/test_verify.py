"""Verification finds every flipped byte and says where; salvage saves the rest and says what is lost."""

import datetime as dt
import random
import threading

import pyarrow as pa
import pytest

import streamlab as sl
from streamlab.verify import FrameFile, Gap, Move

START = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
ROWS = 401  # of "trades": forty appends, a deletion
SCHEMA = pa.schema([("ts", pa.timestamp("us", "UTC")), ("sym", pa.string()), ("n", pa.int64())])


def event(number: int) -> dict:
    return {"ts": START + dt.timedelta(seconds=number), "sym": f"s{number % 4}", "n": number}


@pytest.fixture
def lab(tmp_path):
    """A lab with sealed, coalesced, growing, partitioned, keyless, deleted and heartbeat content."""
    path = tmp_path / "lab"
    with sl.open(path, sync="os") as lab:
        small = sl.Settings(segment_bytes=4096)
        trades = lab.create(
            "trades", SCHEMA, time="ts", key="sym", partitions=3, delay="2s", settings=small
        )
        for at in range(0, 400, 10):
            trades.append([event(number) for number in range(at, at + 10)])
            if at == 50:
                trades.advance(START + dt.timedelta(hours=1))
            if at == 70:
                trades.delete("s1")
        lab.create("plain", {"a": [1, 2, 3]}).append({"a": range(5000)})
        lab["plain"].seal()
        lab["plain"].append({"a": [9]})
        lab.create("empty", pa.schema([("x", pa.int8())]))
    return path


def files_of(lab, stream="*"):
    """The files of a lab that hold bytes of it."""
    found = [*lab.glob(f"streams/{stream}/*"), lab / "lab.json"]
    return sorted(path for path in found if path.is_file())


def flip(path, at, bit=0):
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def rows(path, name):
    with sl.open(path, read_only=True) as lab:
        return lab[name].to_arrow()


def test_a_sound_lab_is_sound(lab):
    """Nothing is reported of a lab that nothing happened to, and everything is counted."""
    report = sl.verify_lab(lab)
    assert report
    assert report.ok
    assert (report.streams, report.rows, report.problems, report.notes) == (3, ROWS + 5004, (), ())
    assert repr(report).startswith("sound: 3 streams")
    with sl.open(lab) as opened:
        assert opened.verify() == report
        assert opened["plain"].verify().rows == 5004


def test_verifying_changes_nothing(lab):
    """Every byte of the lab is the same afterwards, and no file is added."""
    before = {path: path.read_bytes() for path in lab.rglob("*") if path.is_file()}
    flip(files_of(lab)[0], 5)
    sl.verify_lab(lab)
    flip(files_of(lab)[0], 5)
    assert {path: path.read_bytes() for path in lab.rglob("*") if path.is_file()} == before


def test_each_flipped_bit_is_found_and_the_file_named(lab):
    """Wherever a bit flips, the report names that file; no other stream is blamed."""
    chance = random.Random(7)
    for path in files_of(lab):
        size = path.stat().st_size
        for at in {0, size - 1, *(chance.randrange(size) for _ in range(6))}:
            bit = chance.randrange(8)
            flip(path, at, bit)
            report = sl.verify_lab(lab)
            assert not report, (path.name, at, bit)
            assert any(str(path.relative_to(lab)) == p.file for p in report.problems), report
            stream = path.parent.name if path.name != "lab.json" else ""
            assert {p.stream for p in report.problems} == {stream}
            flip(path, at, bit)
    assert sl.verify_lab(lab)


def test_each_truncation_of_a_sealed_file_is_found(lab):
    """A sealed file that is shorter than it was is damage, wherever it was cut."""
    path = next(p for p in files_of(lab, "plain") if p.suffix == ".arrow")
    whole = path.read_bytes()
    for size in range(0, len(whole), 997):
        path.write_bytes(whole[:size])
        assert not sl.verify_lab(lab), size


@pytest.mark.parametrize("name", ["stream.json", "manifest", "head", "lab.json"])
def test_a_missing_file_is_found(lab, name):
    """What must be there and is not is reported; the other streams are read all the same."""
    next(path for path in files_of(lab, "trades") if path.name == name).unlink()
    report = sl.verify_lab(lab)
    assert report.problems[0].reason.startswith(("the file is missing", "there is no lab"))
    assert report.rows == ROWS + 5004


def test_two_damaged_files_are_two_problems(lab):
    """One damaged file does not stop the rest."""
    damaged = [p for p in files_of(lab, "trades") if p.suffix in (".arrow", ".log")][:2]
    damaged.append(next(p for p in files_of(lab, "plain") if p.suffix == ".arrow"))
    for path in damaged:
        flip(path, 600)
    report = sl.verify_lab(lab)
    assert {p.file for p in report.problems} == {str(p.relative_to(lab)) for p in damaged}
    assert "byte" in repr(report)


def test_a_manifest_that_lies_is_found(lab):
    """A manifest with a right checksum and wrong bounds is held against the frames."""
    from streamlab.log.manifest import read_manifest, write_manifest

    path = lab / "streams" / "trades" / "manifest"
    manifest = read_manifest(path)
    first = manifest.segments[0]
    for change in (
        {"event_max": first.event_max - 1},
        {"append_min": 5},
        {"after": first.after + 1},
    ):
        wrong = (first._replace(**change), *manifest.segments[1:])
        write_manifest(path, manifest._replace(segments=wrong))
        assert any(p.file.endswith("manifest") for p in sl.verify_lab(lab).problems), change


def test_strays_are_notes(lab):
    """Files that nothing lists are noted, and are no damage."""
    (lab / "streams" / "trades" / "letter.txt").write_text("hello")
    (lab / "streams" / ".new-abc").mkdir()
    report = sl.verify_lab(lab)
    assert report.ok
    assert len(report.notes) == 2
    assert "letter.txt" in repr(report)


def test_an_unfinished_write_is_a_note(lab):
    """The beginning of a frame after the last one, which a kill may leave, is no damage."""
    log = max(p for p in files_of(lab, "plain") if p.suffix == ".log")
    head = log.parent / "head"
    before = log.read_bytes(), head.read_bytes()
    with sl.open(lab, sync="os") as opened:
        opened["plain"].append({"a": range(1000)})
    after = log.read_bytes()
    assert after[: len(before[0])] == before[0]
    head.write_bytes(before[1])
    for size in (1, 127, 128, 500, 4000):
        log.write_bytes(after[: len(before[0]) + size])
        report = sl.verify_lab(lab)
        assert report.ok, size
        assert "unfinished write" in repr(report)
    log.write_bytes(before[0] + b"neither frame nor beginning" * 10)
    assert not sl.verify_lab(lab)


def test_a_damaged_marker_is_found(tmp_path):
    """A flipped bit in the frame that vouches for all before it is told from an unfinished write."""
    with sl.open(tmp_path / "lab") as lab:
        lab.create("s", {"a": [1, 2, 3]})
    path = next((tmp_path / "lab" / "streams" / "s").glob("*.log"))
    last = FrameFile(path).frames[-1]
    for at in range(last.position, last.stop):
        flip(path, at)
        report = sl.verify_lab(tmp_path / "lab")
        assert not report or "unfinished write" in repr(report), at
        flip(path, at)
    assert sl.verify_lab(tmp_path / "lab")


def test_a_lab_can_be_verified_while_it_is_written(tmp_path):
    """Rolls, seals and appends under way are never taken for damage."""
    with sl.open(tmp_path / "lab", sync="os") as lab:
        settings = sl.Settings(segment_bytes=4096)
        stream = lab.create("s", pa.schema([("a", pa.int64())]), settings=settings)
        stopped = threading.Event()

        def write() -> None:
            while not stopped.is_set():
                stream.append({"a": range(50)})

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for _ in range(30):
                report = sl.verify_lab(tmp_path / "lab")
                assert report.ok, report
        finally:
            stopped.set()
            thread.join()


def test_a_stream_that_is_not_there_is_refused(lab):
    """A mistyped name is said to be one; a folder without a lab too."""
    from streamlab.catalog import Catalog
    from streamlab.verify import verify_stream

    with pytest.raises(sl.StreamNotFound, match="trades"):
        verify_stream(Catalog(lab), "trade")
    with pytest.raises(sl.StreamlabError, match="no lab"):
        sl.verify_lab(lab / "nothing")


# ------------------------------------------------------------------------------ salvage


def test_a_sound_lab_is_salvaged_to_an_equal_one(lab, tmp_path):
    """Rows, offsets, append times, partitions, deletions, schema and settings come through."""
    report = sl.salvage(lab, tmp_path / "saved")
    assert report.ok
    assert report.rows == ROWS + 5004
    assert not report.gaps
    for name in ("trades", "plain", "empty"):
        assert rows(lab, name).equals(rows(tmp_path / "saved", name))
    with sl.open(lab) as one, sl.open(tmp_path / "saved") as two:
        for what in ("schema", "time", "key", "partitions", "delay", "retention", "settings"):
            assert getattr(one["trades"], what) == getattr(two["trades"], what), what
        assert one["trades"].stats().stream_time == two["trades"].stats().stream_time
        assert two["trades"].append([event(401)]).start == ROWS
    assert sl.verify_lab(tmp_path / "saved")


def test_a_damaged_frame_is_a_gap_and_the_rest_is_saved(lab, tmp_path):
    """The rows of the one frame are lost; those before and behind it are there, in order."""
    path = sorted(p for p in files_of(lab, "trades") if p.suffix in (".arrow", ".log"))[-1]
    frames = FrameFile(path).row_frames
    lost = frames[0]
    before = rows(lab, "trades")
    flip(path, lost.position + 200)
    report = sl.salvage(lab, tmp_path / "saved")
    gap = Gap("trades", lost.base, lost.base + lost.rows)
    assert report.gaps == (gap,)
    assert [m for m in report.moves if m.stream == "trades"] == [
        Move("trades", 0, gap.start, 0),
        Move("trades", gap.stop, ROWS, gap.start),
    ]
    kept = [*range(gap.start), *range(gap.stop, ROWS)]
    saved = rows(tmp_path / "saved", "trades")
    assert saved.drop_columns("_offset").equals(before.take(kept).drop_columns("_offset"))
    assert f"offsets [{gap.start}, {gap.stop}) are lost" in repr(report)
    assert sl.verify_lab(tmp_path / "saved")


@pytest.mark.parametrize("how", ["missing", "garbage", "flipped"])
@pytest.mark.parametrize("name", ["stream.json", "manifest", "head", "lab.json"])
def test_rows_survive_the_loss_of_what_describes_them(lab, tmp_path, name, how):
    """Without stream.json, manifest, head or lab.json all rows, the time and the key are saved."""
    path = next(path for path in files_of(lab, "trades") if path.name == name)
    before = rows(lab, "trades")
    if how == "missing":
        path.unlink()
    elif how == "garbage":
        path.write_bytes(b"\xff\x00garbage" * 20)
    else:
        flip(path, path.stat().st_size // 2)
    report = sl.salvage(lab, tmp_path / "saved")
    assert not report.ok
    assert not report.gaps
    saved = rows(tmp_path / "saved", "trades")
    same = ["_offset", "_append_time", "_deleted", *SCHEMA.names]
    assert saved.select(same).equals(before.select(same))
    with sl.open(tmp_path / "saved", read_only=True) as opened:
        assert (opened["trades"].time, opened["trades"].key) == ("ts", "sym")
    if name == "stream.json":
        assert "stream.json" in " ".join(report.notes)


def test_a_missing_segment_is_a_gap(lab, tmp_path):
    """All rows of a file that is gone are one gap, and the others are saved."""
    path = sorted(p for p in files_of(lab, "trades") if p.suffix in (".arrow", ".log"))[0]
    count = FrameFile(path).stop
    path.unlink()
    report = sl.salvage(lab, tmp_path / "saved")
    assert report.gaps == (Gap("trades", 0, count),)
    assert rows(tmp_path / "saved", "trades").num_rows == ROWS - count


def test_whatever_bit_flips_no_row_is_saved_wrong(lab, tmp_path):
    """Saved rows and gaps together are always all rows, and each saved row is as it was."""
    chance = random.Random(11)
    before = {name: rows(lab, name) for name in ("trades", "plain")}
    for number in range(15):
        path = chance.choice(files_of(lab, "*"))
        at, bit = chance.randrange(path.stat().st_size), chance.randrange(8)
        flip(path, at, bit)
        target = tmp_path / f"saved-{number}"
        report = sl.salvage(lab, target)
        assert not report.ok
        for name, all_rows in before.items():
            kept = [o for m in report.moves if m.stream == name for o in range(m.start, m.stop)]
            lost = sum(gap.stop - gap.start for gap in report.gaps if gap.stream == name)
            assert len(kept) + lost == all_rows.num_rows, (path.name, at, bit)
            columns = SCHEMA.names if name == "trades" else ["a"]
            assert rows(target, name).select(columns).equals(all_rows.take(kept).select(columns))
        assert sl.verify_lab(target)
        flip(path, at, bit)


def test_an_ended_stream_stays_ended(tmp_path):
    """What ``advance("end")`` closed takes no rows after a salvage either."""
    with sl.open(tmp_path / "lab") as lab:
        stream = lab.create("s", {"a": [1]})
        stream.advance("end")
    sl.salvage(tmp_path / "lab", tmp_path / "saved")
    with sl.open(tmp_path / "saved") as lab, pytest.raises(sl.ReadOnly):
        lab["s"].append({"a": [2]})


def test_a_trimmed_stream_has_no_gap_where_it_was_trimmed(tmp_path):
    """Rows that retention removed are not reported as lost, nor brought back."""
    with sl.open(tmp_path / "lab") as lab:
        stream = lab.create("s", {"a": list(range(10))})
        stream.append({"a": list(range(10, 20))})
        stream.trim(5)
    report = sl.salvage(tmp_path / "lab", tmp_path / "saved")
    assert not report.gaps
    assert report.moves == (Move("s", 5, 20, 0),)
    assert rows(tmp_path / "saved", "s")["a"].to_pylist() == list(range(5, 20))


def test_older_rows_are_saved_in_the_newest_schema(tmp_path):
    """After an evolution the saved stream has one schema, and older rows read as they did."""
    with sl.open(tmp_path / "lab") as lab:
        stream = lab.create("s", pa.schema([("a", pa.int32())]))
        stream.append({"a": pa.array([1], pa.int32())})
        stream.evolve(pa.schema([("a", pa.int64()), ("b", pa.string())]))
        stream.append({"a": [2], "b": ["x"]})
    sl.salvage(tmp_path / "lab", tmp_path / "saved")
    assert rows(tmp_path / "saved", "s").equals(rows(tmp_path / "lab", "s"))


def test_nothing_that_is_there_is_written_over(lab, tmp_path):
    """A target that holds something, or lies in the lab, is refused; the source is only read."""
    before = {path: path.read_bytes() for path in lab.rglob("*") if path.is_file()}
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("precious")
    with pytest.raises(sl.StreamlabError, match="already"):
        sl.salvage(lab, tmp_path / "full")
    with pytest.raises(sl.StreamlabError, match="lies in the lab"):
        sl.salvage(lab, lab / "saved")
    with pytest.raises(sl.StreamlabError, match="no lab"):
        sl.salvage(tmp_path / "nothing", tmp_path / "saved")
    sl.salvage(lab, tmp_path / "saved")
    assert {path: path.read_bytes() for path in lab.rglob("*") if path.is_file()} == before
