"""Whatever happens to the bytes of a closed lab: the original rows come back, or an error of ours."""

import contextlib
import json
import logging
import os
import shutil
import struct
from types import SimpleNamespace

import pyarrow as pa
import pytest
from faults import SCALE, seeded

import streamlab as sl
from streamlab.log import format as formats
from streamlab.log import head, maintain, reader, recovery, segment
from streamlab.log.format import FRAMES_AT, HEADER, MAGIC, checksum, decode, dump_json

SCHEMA = pa.schema([("x", pa.int64()), ("s", pa.string())])
OTHER_BOOT = 4711


@pytest.fixture(autouse=True)
def quiet(caplog):
    """What recovery logs about damage is not of interest here."""
    caplog.set_level(logging.CRITICAL, logger="streamlab")


def make_lab(path):
    """A lab of about 12 KB with every kind of file; returns the manifests it had on the way."""
    manifests = []
    folder = path / "streams" / "s"
    with pytest.MonkeyPatch.context() as patch, sl.open(path) as lab:
        settings = sl.Settings(segment_bytes="1MiB")
        stream = lab.create("s", SCHEMA, delay="3s", key="x", settings=settings)
        log = stream._scan.log
        patch.setattr(log.writer, "on_roll", lambda: None)

        def append(first, count):
            stream.append({"x": list(range(first, first + count)), "s": ["v"] * count})
            manifests.append((folder / "manifest").read_bytes())

        append(0, 3)
        append(3, 4)
        stream.seal()  # coalesced
        append(7, 5)
        patch.setattr(maintain, "IN_PLACE_ROWS", 1)
        stream.seal()  # in place
        append(12, 2)
        log.writer.roll()  # closed, not sealed
        append(14, 3)
        append(17, 3)
    with sl.open(path) as lab:
        manifests.append((folder / "manifest").read_bytes())
        return SimpleNamespace(
            path=path, folder=folder, manifests=manifests, whole=observe(lab),
            files=sorted(p for p in path.rglob("*") if p.is_file() and "locks" not in p.parts),
        )  # fmt: skip


def observe(lab):
    """All that a user can see of the stream."""
    stream = lab["s"]
    stats = stream.stats()
    return (
        stream.to_arrow().to_pydict(), stream.earliest_offset, stream.end_offset, stream.delay,
        stream.key, str(stream.schema), stats.stream_time, stats.append_time, stats.rows,
        stream.find("2020-01-01"),
    )  # fmt: skip


def reads(made):
    """Open and read the lab; whether it is the original, None if an error of ours was raised."""
    reader._VERIFIED.clear()  # bytes change faster than the time of change of a file
    try:
        with sl.open(made.path, read_only=True) as lab:
            return observe(lab) == made.whole
    except sl.StreamlabError:
        return None


def goes_on(made, copy):
    """Append to a copy of the lab; whether all rows are there then, None if it was refused."""
    shutil.copytree(made.path, copy)
    reader._VERIFIED.clear()
    try:
        with sl.open(copy, sync="os") as lab:
            lab["s"].append({"x": [99], "s": ["new"]})
            return lab["s"].to_arrow()["x"].to_pylist() == [*made.whole[0]["x"], 99]
    except sl.StreamlabError:
        return None
    finally:
        shutil.rmtree(copy)


@contextlib.contextmanager
def content_of(path, content):
    """The file holds something else for a block."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def in_boot(monkeypatch, boot):
    for module in (head, recovery, reader):
        monkeypatch.setattr(module, "boot_id", lambda: boot)


@pytest.mark.parametrize("boot", ["same boot", "other boot"])
def test_every_flipped_byte_is_seen_or_harmless(tmp_path, monkeypatch, boot):
    """Any byte of any file with a bit flipped: the original rows, or an error of ours."""
    made = make_lab(tmp_path / "lab")
    if boot == "other boot":
        in_boot(monkeypatch, OTHER_BOOT)
    rng, wrong, flips, refused = seeded(boot), [], 0, 0
    for path in made.files:
        data = bytearray(path.read_bytes())
        fd = os.open(path, os.O_RDWR)
        step = 1 if boot == "same boot" or SCALE > 1 else 5
        for at in range(0, len(data), step):
            for bit in range(8) if SCALE >= 8 or path.name == "head" else [rng.randrange(8)]:
                os.pwrite(fd, bytes([data[at] ^ 1 << bit]), at)
                result = reads(made)
                flips += 1
                refused += result is None
                if result is False:
                    wrong.append((path.name, at, bit))
            os.pwrite(fd, data[at : at + 1], at)
        os.close(fd)
    print(f"{flips} flips, {refused} refused, {len(wrong)} wrong")
    assert not wrong, wrong[:10]
    assert reads(made) is True


def test_a_writer_goes_on_with_all_rows_or_refuses_a_flipped_lab(tmp_path, monkeypatch):
    """A writer that opens a damaged lab keeps every row or refuses; it never cuts one off."""
    made = make_lab(tmp_path / "lab")
    rng, wrong, tried = seeded("writer"), [], 0
    for path in made.files:
        data = path.read_bytes()
        for at in range(rng.randrange(17), len(data), max(1, int(31 / SCALE))):
            flipped = data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
            tried += 1
            with content_of(path, flipped):
                if goes_on(made, tmp_path / "copy") is False:
                    wrong.append((path.name, at))
    print(f"{tried} flips before a writer, {len(wrong)} wrong")
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("boot", ["same boot", "other boot"])
def test_every_truncation_is_seen_or_harmless(tmp_path, monkeypatch, boot):
    """Any file cut to any length, or gone: the original rows, or an error of ours."""
    made = make_lab(tmp_path / "lab")
    if boot == "other boot":
        in_boot(monkeypatch, OTHER_BOOT)
    wrong, cuts = [], 0
    for path in made.files:
        data = path.read_bytes()
        step = 1 if SCALE >= 4 or len(data) < 300 else 16
        for size in sorted({*range(0, len(data), step), len(data) - 1}):
            cuts += 1
            with content_of(path, data[:size]):
                if reads(made) is False:
                    wrong.append((path.name, size))
                if size % 256 == 0 and goes_on(made, tmp_path / "copy") is False:
                    wrong.append((path.name, size, "writer"))
        with content_of(path, data):
            path.unlink()
            if reads(made) is False or goes_on(made, tmp_path / "copy") is False:
                wrong.append((path.name, "gone"))
    print(f"{cuts} truncations, {len(wrong)} wrong")
    assert not wrong, wrong[:10]


def frames_of(path):
    """(position, stop) of each frame of a file."""
    data, at, found = memoryview(path.read_bytes()), FRAMES_AT, []
    while (frame := decode(data, at)) is not None:
        found.append((at, frame.stop))
        at = frame.stop
    return found


def test_swapped_doubled_and_misplaced_bytes_are_seen(tmp_path):
    """Frames exchanged, written twice or moved, and files exchanged: the rows, or an error."""
    made = make_lab(tmp_path / "lab")
    tried = 0

    def see(path, content):
        nonlocal tried
        with content_of(path, content):
            tried += 1
            assert reads(made) is not False, path
            assert goes_on(made, tmp_path / "copy") is not False, path

    segments = [p for p in made.files if p.suffix in (".log", ".arrow")]
    for path in segments:
        data, frames = path.read_bytes(), frames_of(path)
        for (a, b), (c, d) in zip(frames, frames[1:], strict=False):
            see(path, data[:a] + data[c:d] + data[a:b] + data[d:])  # exchanged
            see(path, data[:c] + data[a:b] + data[c:])  # doubled
            see(path, data[:a] + data[c:])  # dropped
            see(path, data[:a] + (data[c:d] * 9)[: b - a] + data[b:])  # overwritten by the next
        for other in segments:
            see(path, other.read_bytes())
    print(f"{tried} misplacements")


def test_an_older_manifest_is_seen(tmp_path):
    """A whole manifest of an earlier day put back: the original rows, or an error of ours."""
    made = make_lab(tmp_path / "lab")
    for content in made.manifests:
        with content_of(made.folder / "manifest", content):
            assert reads(made) is not False
            assert goes_on(made, tmp_path / "copy") is not False


def test_a_lost_manifest_is_put_together_again(tmp_path):
    """Without its manifest a lab gives all its rows, takes more, and has a manifest again."""
    made = make_lab(tmp_path / "lab")
    (made.folder / "manifest").unlink()
    assert reads(made) is True
    assert not (made.folder / "manifest").exists()
    assert goes_on(made, tmp_path / "copy") is True


def test_a_lost_manifest_is_put_together_from_twins(tmp_path):
    """A seal that a crash cut short, and then no manifest: the whole twin counts, not the half."""
    made = make_lab(tmp_path / "lab")
    (made.folder / "manifest").unlink()
    (closed,) = [p for p in made.files if p.name.startswith("0" * 18 + "12-")]
    whole = closed.read_bytes()
    for size in (0, 100, len(whole) // 2, len(whole)):
        closed.with_suffix(".arrow").write_bytes(whole[:size])
        assert reads(made) is True
        assert goes_on(made, tmp_path / "copy") is True


def test_files_of_others_are_left_alone(tmp_path):
    """No file that is not understood is removed, whatever is done to the stream."""
    made = make_lab(tmp_path / "lab")
    strays = ["notes.txt", "0-1.log", ".hidden", "0" * 20 + "-1.log.bak", "x.arrow", "manifest.old"]
    for name in strays:
        (made.folder / name).write_bytes(b"mine")
    with sl.open(made.path, sync="os") as lab:
        lab["s"].append({"x": [1], "s": ["a"]})
        lab["s"].seal()
        lab["s"].trim(10)
        assert lab["s"].to_arrow()["x"].to_pylist() == [*range(10, 20), 1]
    assert [(made.folder / name).read_bytes() for name in strays] == [b"mine"] * len(strays)


def newer_frame(data, at):
    """The bytes of the file with the frame at a position said to be of the next version."""
    frame = decode(memoryview(data), at)
    newer = HEADER.pack(*frame._replace(version=frame.version + 1))
    rest = data[at + len(newer) : frame.stop]
    sound = struct.pack("<Q", checksum(newer[16:], rest))
    return data[:at] + newer[:8] + sound + newer[16:] + rest + data[frame.stop :]


def test_what_a_newer_version_wrote_is_refused_by_name(tmp_path, monkeypatch):
    """A version that is not known is `NewerFormat`, not a torn tail; nothing is changed."""
    made = make_lab(tmp_path / "lab")
    (active,) = [p for p in made.files if p.name.startswith("0" * 18 + "14-")]
    changes = [(active, newer_frame(active.read_bytes(), at)) for at, _ in frames_of(active)]
    for name in ("lab.json", "streams/s/stream.json"):
        content = json.loads(b"\n".join((made.path / name).read_bytes().splitlines()[:-1]))
        changes.append((made.path / name, dump_json(content | {"format": 2})))
    lines = (made.folder / "manifest").read_bytes().splitlines()[:-1]
    lines[0] = json.dumps(json.loads(lines[0]) | {"format": 3}).encode()
    text = b"\n".join(lines) + b"\n"
    changes.append((made.folder / "manifest", text + b"checksum %016x\n" % checksum(text)))
    for path, content in changes:
        with content_of(path, content):
            in_boot(monkeypatch, OTHER_BOOT)
            reader._VERIFIED.clear()
            with pytest.raises(sl.NewerFormat), sl.open(made.path) as lab:
                lab["s"].append({"x": [1], "s": ["a"]})
            with pytest.raises(sl.NewerFormat), sl.open(made.path, read_only=True) as lab:
                observe(lab)
            assert path.read_bytes() == content


def test_bytes_of_a_log_inside_a_value_are_not_taken_for_frames(tmp_path, monkeypatch):
    """A torn append whose values hold frames, also of its own file, is cut off like any other."""
    path = tmp_path / "lab"
    with sl.open(path, sync="os") as lab:
        stream = lab.create("s", pa.schema([("raw", pa.binary())]))
        stream.append({"raw": [b"first"]})
        stream.flush()
        (log,) = (path / "streams" / "s").glob("*.log")
        for _ in range(3):
            inside = log.read_bytes()
            before, rows = log.stat().st_size, stream.end_offset
            stream.append({"raw": [bytes(shift) + inside for shift in (0, 8, 24, 56)]})
    whole = log.read_bytes()
    in_boot(monkeypatch, OTHER_BOOT)
    for hole in (before, before + 100, before + 130, before + 4096):
        log.write_bytes(whole[:hole] + bytes(64) + whole[hole + 64 :])
        assert any(MAGIC in whole[at : at + 64] for at in range(before + 64, len(whole), 64))
        with sl.open(path, read_only=True) as lab:
            assert lab["s"].end_offset == rows
        shutil.copytree(path, tmp_path / str(hole))
        with sl.open(tmp_path / str(hole), sync="os") as lab:
            assert lab["s"].append({"raw": [b"next"]}).start == rows


def test_control_without_checksums_wrong_rows_come_back(tmp_path, monkeypatch):
    """The same harness counts wrong rows when the checksums are not looked at."""
    made = make_lab(tmp_path / "lab")
    monkeypatch.setattr(segment, "decode", formats.decode_header)
    monkeypatch.setattr(recovery, "decode", formats.decode_header)
    monkeypatch.setattr(
        reader, "verify_sealed", lambda path, s: segment.SegmentFile(path, s.id, checked=True)
    )
    wrong = 0
    for path in made.files:
        data = path.read_bytes()
        for value in range(20):
            at = data.find(struct.pack("<qq", value, value + 1))
            if path.suffix in (".log", ".arrow") and at > 0:
                with content_of(path, data[:at] + b"\xff" + data[at + 1 :]):
                    wrong += reads(made) is False
    print(f"control: {wrong} wrong")
    assert wrong > 0
