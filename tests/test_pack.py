"""What is packed is what is unpacked, and an archive that somebody made or broke is refused by name."""

import contextlib
import datetime as dt
import hashlib
import io
import json
import os
import shutil
import struct
import zipfile

import polars as pl
import pyarrow as pa
import pytest
from faults import SCALE, dying, finish, forked, scaled, seeded, warm_up
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import ipc
from test_crash import HOWS
from test_fork import SCHEMA, SMALL, filled, met, ticks
from test_laws import LIMITS, Run, expected, rows_of, step

import streamlab as sl
from streamlab import archive as archives
from streamlab import unpacking
from streamlab.log import disk
from streamlab.log.format import checksum
from streamlab.testing import ManualClock, temp_lab

WHAT = "schema time key partitions delay retention cleanup settings".split()


def equal(unpacked, stream):
    """Assert that two streams are the same in everything but the lab they are in."""
    for what in [*WHAT, "earliest_offset", "end_offset"]:
        assert getattr(unpacked, what) == getattr(stream, what), what
    assert unpacked.to_arrow().equals(stream.to_arrow())
    assert met(unpacked) == met(stream)
    here, there = stream.stats(), unpacked.stats()
    assert (there.stream_time, there.append_time) == (here.stream_time, here.append_time)


def packed(lab, *streams, **options):
    return lab.pack(lab.path.parent / "packed.zip", *streams, **options)


@pytest.fixture
def rich(lab):
    """A lab with streams of every kind."""
    stream = filled(lab, "trades", partitions=3, delay="2s", retention=("9d", "1GB"))
    stream.delete("k1")
    stream.evolve(SCHEMA.append(pa.field("extra", pa.int32())))
    stream.append({**ticks(300, 2), "extra": [1, None]})
    stream.trim(45)
    tight = sl.Settings(segment_bytes=4096, compression="zstd")
    plain = lab.create("plain", {"a": ["x" * 500] * 9}, settings=tight)
    for _ in range(30):
        plain.append({"a": ["y" * 400]})
    lab.create("empty", SCHEMA, time="ts").advance(dt.datetime(2026, 1, 6, tzinfo=dt.UTC))
    ended = lab.create("ended", {"n": [1, 2, 3]})
    ended.advance("end")
    gone = filled(lab, "gone", appends=4)
    gone.trim(40)
    return lab


# -- the law -----------------------------------------------------------------------------------


@settings(LIMITS, max_examples=scaled(20))
@given(steps=st.lists(step, max_size=12), low=st.floats(0, 1), high=st.floats(0, 1))
def test_what_is_unpacked_is_what_was_packed(steps, low, high):
    """Rows, offsets and all three times, of a whole stream and of any slice; and it goes on."""
    clock = ManualClock("2026-01-01T12:00:00Z")
    with temp_lab(clock=clock) as lab:
        run = Run(lab, clock)
        for what, value in steps:
            run.do(what, value)
        oracle, width = run.oracle, run.oracle.end - run.oracle.start
        start, stop = sorted([oracle.start + int(low * width), oracle.start + int(high * width)])
        whole = packed(run.lab, "s")
        part = run.lab.pack(whole.with_name("part.zip"), run.stream.offsets(start, stop))
        with sl.unpack(whole) as one, sl.unpack(part) as two:
            equal(one["s"], run.stream)
            assert rows_of(one["s"].to_arrow()) == expected(oracle)
            assert rows_of(two["s"].to_arrow()) == expected(oracle, range(start, stop))
            if start < stop:
                assert met(two["s"]) == met(run.stream)[start - oracle.start : stop - oracle.start]
            assert one.verify().ok
            assert two.verify().ok
            assert two["s"].append(run.stream.head(3)).start == stop
        run.lab.close()


def test_streams_of_every_kind_come_back(rich):
    """Partitions, deletions, schemas, compression, trimmed, empty and ended streams."""
    with sl.unpack(packed(rich)) as other:
        assert list(other) == list(rich)
        for name in rich:
            equal(other[name], rich[name])
        assert other["trades"].table().to_polars().equals(rich["trades"].table().to_polars())
        assert other["gone"].append(ticks(0, 1)) == range(40, 41)
        with pytest.raises(sl.ReadOnly, match="ended"):
            other["ended"].append({"n": [1]})
        assert other["trades"].append({**ticks(400, 1), "extra": [3]}).start == 303


def test_a_member_is_a_plain_arrow_file(rich, tmp_path):
    """Any zip tool takes an archive apart, and Arrow and Polars read what comes out."""
    path = packed(rich, "plain", "trades")
    assert shutil.which("unzip") is None or os.system(f"unzip -tqq {path}") == 0
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "out")
        contents = json.loads(archive.read("archive.json"))
    assert (contents["format"], contents["streamlab"]) == (1, sl.__version__)
    files = sorted((tmp_path / "out/streams/plain").iterdir())
    values = [v for f in files for v in ipc.open_file(f).read_all()["a"].to_pylist()]
    assert values == rich["plain"].to_arrow()["a"].to_pylist()
    assert pl.read_ipc(files[0])["a"][0] == "x" * 500
    for described in contents["streams"]["trades"]["files"]:
        data = (tmp_path / "out/streams/trades" / described["file"]).read_bytes()
        assert described["checksum"] == f"{checksum(data):016x}"


def test_equal_content_gives_equal_bytes(rich):
    """Packing again, from here or after unpacking, gives the same file."""
    first = packed(rich, "plain", "ended").read_bytes()
    assert packed(rich, "plain", "ended", overwrite=True).read_bytes() == first


def test_slices_hold_no_row_besides_their_own(rich):
    """A view packs as its rows alone, also in the files; one with others between is refused."""
    trades = rich["trades"]
    with sl.unpack(packed(rich, trades.offsets(100, 103)), rich.path.with_name("one")) as other:
        assert other["trades"].to_arrow().equals(trades.offsets(100, 103).to_arrow())
    with zipfile.ZipFile(packed(rich, trades.offsets(100, 103), overwrite=True)) as archive:
        names = [n for n in archive.namelist() if n.endswith(".arrow")]
        rows = [ipc.open_file(io.BytesIO(archive.read(n))).read_all().num_rows for n in names]
    assert rows == [3]
    late = dt.datetime(2026, 1, 5, 0, 4, tzinfo=dt.UTC)
    view = trades.between(late, late + dt.timedelta(seconds=30))
    with sl.unpack(packed(rich, view, overwrite=True)) as other:
        assert other["trades"].to_arrow().equals(view.to_arrow())
    trades.append({**ticks(250, 1), "extra": [0]})
    with pytest.raises(sl.StreamlabError, match="of other times"):
        packed(rich, trades.between(late, late + dt.timedelta(seconds=30)), overwrite=True)


def test_the_lab_as_it_was_is_packed(timed_lab, clock):
    """A lab as of an instant packs as it was then."""
    timed_lab.create("s", {"v": [1]})
    clock.advance("1m")
    timed_lab["s"].append({"v": [2]})
    timed_lab.create("later", {"v": [3]})
    clock.advance("1m")
    past = timed_lab.as_of("2026-01-01T12:00:30Z")
    with sl.unpack(packed(past)) as other:
        assert list(other) == ["s"]
        assert other["s"].to_polars()["v"].to_list() == [1]
        assert len(other.as_of("2026-01-01T12:00:30Z")["s"]) == 1


def test_a_frozen_value_opens_in_the_unpacked_lab(rich, tmp_path):
    """A notebook that pinned its results gives them again from the archive; other rows are refused."""
    frozen = json.loads(json.dumps(rich.freeze()))
    path = packed(rich)
    rich["plain"].append({"a": ["new"]})
    with sl.unpack(path, tmp_path / "one") as other:
        for name in rich:
            then = rich.as_of(frozen)[name]
            assert other.as_of(frozen)[name].to_arrow().equals(then.to_arrow())
        newer = rich.freeze()
        other["plain"].append({"a": ["other"]})
        with pytest.raises(sl.HistoryChanged):
            other.as_of(newer)


def test_results_of_a_job_unpack_as_an_ordinary_stream(lab):
    """They take rows there: the job stayed behind."""
    query = filled(lab).window(sl.tumbling("10s"), by="k").agg(n=pl.len())
    query.run("out", name="counts").wait(timeout=60).stop()
    with sl.unpack(packed(lab)) as other:
        assert other["out"].to_arrow().equals(lab["out"].to_arrow())
        other["out"].append(other["out"].head(1))
        assert other.jobs.known() == []


# -- where to ----------------------------------------------------------------------------------


def test_an_archive_adds_its_streams_to_a_lab(rich, tmp_path):
    """All of them, or none if a name is taken; the others of the lab are as they were."""
    path = packed(rich, "plain", "trades")
    with sl.open(tmp_path / "mine") as mine:
        mine.create("own", {"a": [1]})
        assert sl.unpack(path, mine) is mine
        assert list(mine) == ["own", "plain", "trades"]
        equal(mine["trades"], rich["trades"])
        mine.drop("plain")
        with pytest.raises(sl.StreamExists, match='"trades"'):
            sl.unpack(path, mine)
        assert list(mine) == ["own", "trades"]
        mine.drop("trades")
        with sl.unpack(path, mine.path) as again:
            equal(again["plain"], rich["plain"])
        mine["plain"].append({"a": ["here"]})
        assert mine.verify().ok
    with sl.open(tmp_path / "mine", read_only=True) as reading, pytest.raises(sl.ReadOnly):
        sl.unpack(path, reading)
    assert not list((tmp_path / "mine/streams").glob(".*"))


def test_what_is_there_is_not_replaced(rich, tmp_path):
    """Neither an archive, unless asked for, nor a folder with something in it."""
    path = packed(rich, "plain")
    with pytest.raises(sl.StreamlabError, match="overwrite=True"):
        packed(rich, "plain")
    assert packed(rich, "plain", overwrite=True) == path
    with pytest.raises(sl.StreamlabError, match="folder"):
        rich.pack(tmp_path)
    with pytest.raises(sl.StreamlabError, match="lies in a lab"):
        rich.pack(rich.path / "streams" / "x.zip")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(sl.StreamlabError, match="no lab"):
        sl.unpack(path, tmp_path / "full")
    (tmp_path / "free").mkdir()
    sl.unpack(path, tmp_path / "free").close()
    sl.unpack(path, tmp_path / "a" / "b").close()
    with pytest.raises(FileNotFoundError):
        sl.unpack(tmp_path / "nothing.zip")
    for bad, error in (
        (["nope"], sl.StreamNotFound),
        ([3], TypeError),
        (["plain"] * 2, ValueError),
    ):
        with pytest.raises(error):
            rich.pack(tmp_path / "new.zip", *bad)
    assert not (tmp_path / "new.zip").exists()
    assert not list(tmp_path.glob(".*.tmp"))


def test_damage_in_the_lab_is_not_packed(rich):
    """A flipped bit in a sealed file is found before it is given away."""
    plain = rich["plain"]
    plain.seal()
    victim = sorted(plain._scan.log.folder.glob("*.arrow"))[1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    with pytest.raises(sl.CorruptSegment, match=victim.name):
        packed(rich, "plain")
    assert not list(rich.path.parent.glob("*.zip"))
    assert not list(rich.path.parent.glob(".*"))


# -- damage ------------------------------------------------------------------------------------


def refused(path, target):
    """Unpack; return the error, None if all went well; nothing may be left of a failure."""
    try:
        sl.unpack(path, target).close()
    except sl.StreamlabError as error:
        assert not target.exists(), "something is left"
        assert not list(target.parent.glob(f".{target.name}*")), "something is left beside"
        return error
    return None


def test_every_flipped_bit_is_refused_or_harmless(rich, tmp_path):
    """A damaged archive is never unpacked to something else; the member is named."""
    path = packed(rich, "plain", "ended")
    good, chance = path.read_bytes(), seeded("flips")
    with zipfile.ZipFile(path) as archive:
        spans = {
            m.filename: (m.header_offset + 30 + len(m.filename), m.file_size)
            for m in archive.infolist()
        }
    named = found = 0
    for number in range(scaled(250)):
        at = chance.randrange(len(good))
        bad = bytearray(good)
        bad[at] ^= 1 << chance.randrange(8)
        path.write_bytes(bad)
        target = tmp_path / f"flip-{number}"
        error = refused(path, target)
        inside = [n for n, (start, size) in spans.items() if start <= at < start + size]
        if inside:
            found += 1
            assert error is not None, (at, inside)
            named += inside[0] in str(error)
        if error is None:
            with sl.open(target, read_only=True) as other:
                for name in other:
                    assert other[name].to_arrow().equals(rich[name].to_arrow()), at
            shutil.rmtree(target)
    print(f"{found} flips inside members, {named} named it")
    assert named == found > 50 * min(SCALE, 1)


def test_every_truncation_is_refused(rich, tmp_path):
    """An archive that is cut off anywhere is none."""
    path = packed(rich, "plain")
    good = path.read_bytes()
    for size in range(0, len(good), max(1, len(good) // 40)):
        path.write_bytes(good[:size])
        assert isinstance(refused(path, tmp_path / "cut"), sl.CorruptSegment), size


def rebuilt(path, change=lambda contents: contents, members=None, **more):
    """Write an archive anew with changed contents and members; digests fit again."""
    with zipfile.ZipFile(path) as archive:
        files = {n: archive.read(n) for n in archive.namelist()}
    contents = json.loads(files.pop("archive.json"))
    files.update(members or {})
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
        for name, (data, edit) in more.items():
            member = zipfile.ZipInfo(name)
            edit(member)
            archive.writestr(member, data)
        changed = change(contents)
        archive.writestr("archive.json", json.dumps(contents if changed is None else changed))
    return path


def setting(*place, to):
    """Set something in the contents of an archive."""

    def change(contents):
        *path, last = place
        for part in path:
            contents = contents[part]
        contents[last] = to

    return change


S = ("streams", "s")
FILE = (*S, "files", 0)
LIES = {
    "another format": setting("format", to=2),
    "no format": setting("format", to="x"),
    "no streams": setting("streams", to=[1]),
    "a name of its own": setting(*S, "stream", "name", to="other"),
    "a negative delay": setting(*S, "stream", "delay", to=-1),
    "absurd partitions": setting(*S, "stream", "partitions", to=10**9),
    "partitions it has not": setting(*S, "stream", "partitions", to=2),
    "a time it has not": setting(*S, "stream", "time", to="nope"),
    "a key it has not": setting(*S, "stream", "key", to=["nope"]),
    "no id": setting(*S, "stream", "id", to="../../x"),
    "bad settings": setting(*S, "stream", "settings", to={"sync": "never"}),
    "bad retention": setting(*S, "stream", "retention", to={"age": "x", "size": None}),
    "a schema that is none": setting(*S, "stream", "schemas", 0, "arrow", to="AAAA"),
    "no schema": setting(*S, "stream", "schemas", to=[]),
    "a start before": setting(*S, "start", to=-1),
    "a start after": setting(*S, "start", to=10**6),
    "an end after": setting(*S, "end", to=10**6),
    "an end that is text": setting(*S, "end", to="40"),
    "another stream time": setting(*S, "stream_time", to=5),
    "an append time before": setting(*S, "append_time", to=5),
    "an append time in another age": setting(*S, "append_time", to=2**62),
    "a path": setting(*FILE, "file", to="../../../etc/passwd"),
    "another base": setting(*FILE, "base", to=5),
    "another stop": setting(*FILE, "stop", to=41),
    "another id": setting(*FILE, "id", to="00000000000000ff"),
    "another checksum": setting(*FILE, "checksum", to="00000000000000ff"),
    "another size": setting(*FILE, "bytes", to=10),
    "a schema it has not": setting(*FILE, "schema", to=2),
    "not sealed": setting(*FILE, "state", to="active"),
    "another event time": setting(*FILE, "event_min", to=5),
    "another digest": setting(*FILE, "sha256", to="00" * 32),
    "a field too many": setting(*FILE, "more", to=1),
    "a file too few": setting(*S, "files", to=[]),
}


@pytest.fixture
def small(lab):
    stream = lab.create("s", SCHEMA, time="ts", key="k", settings=SMALL)
    stream.append(ticks(0, 40))
    return packed(lab)


@pytest.mark.parametrize("lie", LIES)
def test_contents_that_lie_are_refused(small, tmp_path, lie):
    """Whatever the contents say that the files do not is found, and nothing is unpacked."""
    error = refused(rebuilt(small, LIES[lie]), tmp_path / "out")
    assert isinstance(error, sl.NewerFormat if lie == "another format" else sl.CorruptSegment), (
        error
    )


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "streams/../../x", "streams/s/../x", "streams/s/x.txt", "x",
             "streams/s\\x", "streams/.new-1/00000000000000000000-1.arrow", "streams/s/",
             "streams/s/00000000000000000000-9.arrow", "streams/s/00000000000000000000-9.log"],
)  # fmt: skip
def test_members_of_other_names_are_refused(small, tmp_path, name):
    """Nothing is written anywhere but where a stream's files are."""
    error = refused(rebuilt(small, members={name: b"data"}), tmp_path / "out")
    assert isinstance(error, sl.CorruptSegment)
    assert name.rstrip("/") in str(error)


def test_links_bombs_and_doubles_are_refused(small, tmp_path):
    """Symbolic links, compressed and encrypted members, two of a name, sizes that are not there."""
    good, name = small.read_bytes(), "streams/s/00000000000000000000-9.arrow"

    def squeezed(member):
        member.compress_type = zipfile.ZIP_DEFLATED

    def linked(member):
        member.create_system, member.external_attr = 3, 0o120777 << 16

    for edit, why in ((squeezed, "compressed"), (linked, "no plain file")):
        small.write_bytes(good)
        error = refused(rebuilt(small, **{name: (b"\0" * 9999, edit)}), tmp_path / "out")
        assert why in str(error)
    small.write_bytes(good)
    with zipfile.ZipFile(small, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive.json", "{}")
    assert "twice" in str(refused(small, tmp_path / "out"))
    huge = bytearray(good)
    entry = huge.index(b"PK\x01\x02")
    struct.pack_into("<II", huge, entry + 20, 10**9, 10**9)
    small.write_bytes(huge)
    assert "larger than the file" in str(refused(small, tmp_path / "out"))
    locked = bytearray(good)
    locked[locked.index(b"PK\x01\x02") + 8] |= 1
    small.write_bytes(locked)
    assert "encrypted" in str(refused(small, tmp_path / "out"))


def forged(path, edit):
    """Change bytes of the segment in an archive, and make every checksum of it fit again."""
    with zipfile.ZipFile(path) as archive:
        contents = json.loads(archive.read("archive.json"))
        described = contents["streams"]["s"]["files"][0]
        name = f"streams/s/{described['file']}"
        data = bytearray(archive.read(name))
    edit(data)
    changes = {
        "sha256": hashlib.sha256(data).hexdigest(), "checksum": f"{checksum(bytes(data)):016x}",
        "bytes": len(data),
    }  # fmt: skip
    return rebuilt(
        path, lambda c: c["streams"]["s"]["files"][0].update(changes), {name: bytes(data)}
    )


def reframed(data, position):
    """Make the checksum of a frame fit again."""
    sizes = struct.unpack_from("<III", data, position + 56)
    metadata, message = sizes[0], struct.unpack_from("<Q", data, position + 64)[0]
    stop = position + 128 + metadata + -metadata % 64 + message + -message % 64
    struct.pack_into("<Q", data, position + 8, checksum(bytes(data[position + 16 : stop])))


def test_hostile_arrow_is_refused_whatever_its_checksums(small, tmp_path):
    """Bytes of a record batch are changed and all checksums made to fit: rows or an error, no crash."""
    good, chance, refusals = small.read_bytes(), seeded("hostile"), 0
    for number in range(scaled(150)):
        small.write_bytes(good)

        def edit(data):
            at = data.index(b"SLABFRM\n", data.index(b"SLABFRM\n") + 1)
            message = struct.unpack_from("<Q", data, at + 64)[0]
            for _ in range(chance.randrange(1, 4)):
                data[at + 128 + chance.randrange(message)] = chance.randrange(256)
            reframed(data, at)

        forged(small, edit)
        target = tmp_path / f"out-{number}"
        error = refused(small, target)
        refusals += error is not None
        if error is None:
            with sl.open(target) as other:
                assert other["s"].to_arrow().num_rows == 40
    print(f"{refusals} refused")
    assert refusals > 20 * min(SCALE, 1)


@pytest.mark.parametrize("field", ["base", "append_time", "before", "after"])
def test_hostile_times_are_refused_whatever_their_checksums(small, tmp_path, field):
    """A table of runs that does not cover the rows, or goes back, is found."""
    place = ["base", "append_time", "before", "after"].index(field)

    def edit(data):
        at = data.rindex(b"SLABFRM\n")
        (old,) = struct.unpack_from("<q", data, at + 128 + 8 * place)
        lie = {"base": 3, "append_time": -5, "before": 2**60, "after": -(2**62)}[field]
        struct.pack_into("<q", data, at + 128 + 8 * place, lie)
        assert old != lie
        reframed(data, at)

    error = refused(forged(small, edit), tmp_path / "out")
    assert isinstance(error, sl.CorruptSegment), error


def test_a_batch_that_would_unfold_to_too_much_is_refused(lab, tmp_path, monkeypatch):
    """What a compressed batch claims to be is looked at before it is unfolded."""
    tight = sl.Settings(compression="zstd")
    lab.create("s", {"n": [0] * 100_000}, settings=tight)
    path = packed(lab)
    with sl.unpack(path, tmp_path / "fine") as other:
        assert len(other["s"]) == 100_000
    monkeypatch.setattr(archives, "MOST_UNFOLDED", 700_000)
    assert "unfold to 800,000 bytes" in str(refused(path, tmp_path / "out"))


def test_the_size_that_a_batch_unfolds_to_is_read_from_its_message():
    """For every compression, and nothing for none."""
    batch = pa.record_batch({"n": [0] * 9000, "s": ["ab"] * 9000})
    from streamlab.log.format import serialize

    assert unpacking.unfolded(memoryview(serialize(batch, None))) == 0
    size = 9000 * 8 + 9001 * 4 + 9000 * 2
    for kind in ("lz4", "zstd"):
        assert unpacking.unfolded(memoryview(serialize(batch, kind))) == size


def test_control_an_archive_that_is_believed_is_found_out(small, tmp_path, monkeypatch):
    """Without the checks of rows and digests, lies and flips get into a lab."""
    monkeypatch.setattr(archives, "_check", lambda *_: None)
    good, lies = small.read_bytes(), []
    for lie, change in LIES.items():
        small.write_bytes(good)
        if refused(rebuilt(small, change), tmp_path / lie) is None:
            lies.append(lie)
    print("control:", lies)
    assert "another event time" in lies


# -- crashes -----------------------------------------------------------------------------------


def swept(tmp_path, work, judge, step=1):
    """Kill a process at each change of the disk that some work makes; judge what is left."""
    wrong, died, at = [], 0, 1
    while True:
        folder = tmp_path / str(at)
        folder.mkdir()

        def life(_, folder=folder, at=at):
            dying(at, HOWS[at % 3])
            work(folder)

        _, code = finish(forked(life))
        wrong += [f"{at} {HOWS[at % 3]}: {text}" for text in judge(folder)]
        shutil.rmtree(folder)
        if code == 0:
            return wrong, died
        died += 1
        at += step


def pack_judge(lab, good):
    """Say what is wrong with an archive that a killed process may have left."""

    def judge(folder):
        archive = folder / "a.zip"
        if archive.exists() and archive.read_bytes() != good:
            yield "half an archive"
        if not archive.exists() and list(folder.glob("[!.]*")):
            yield f"{list(folder.iterdir())} are left"
        if not sl.verify_lab(lab).ok:
            yield "the lab was damaged"

    return judge


def test_a_kill_inside_any_disk_call_leaves_an_archive_or_none(rich, tmp_path):
    """Killed while packing: the archive is whole or not there, and the lab is as it was."""
    warm_up(tmp_path)
    good = packed(rich, "plain", "trades").read_bytes()
    path, runs = rich.path, tmp_path / "runs"
    rich.close()
    runs.mkdir()

    def work(folder):
        with sl.open(path) as lab:
            lab.pack(folder / "a.zip", "plain", "trades")

    wrong, died = swept(runs, work, pack_judge(path, good))
    print(f"{died} kills")
    assert not wrong, wrong[:3]
    assert died > 50


def test_control_an_archive_written_in_its_place_is_found_out(rich, tmp_path, monkeypatch):
    """The same harness finds half an archive where it is not written beside."""
    warm_up(tmp_path)
    good = packed(rich, "plain").read_bytes()
    path, runs = rich.path, tmp_path / "runs"
    rich.close()
    runs.mkdir()
    monkeypatch.setattr(archives, "_appear", lambda *_, **__: None)

    @contextlib.contextmanager
    def here(target):
        yield target.parent / "x"

    real = archives._Packer.__init__
    monkeypatch.setattr(archives, "_beside", here)
    monkeypatch.setattr(
        archives._Packer, "__init__",
        lambda self, archive, bar: real(self, archive.parent.parent / "a.zip", bar),
    )  # fmt: skip

    def work(folder):
        with sl.open(path) as lab:
            lab.pack(folder / "a.zip", "plain")

    wrong, _ = swept(runs, work, pack_judge(path, good), step=7)
    print(f"control: {len(wrong)} violations")
    assert wrong


@pytest.mark.parametrize("into", ["new", "there"])
def test_a_kill_inside_any_disk_call_of_unpacking_leaves_whole_streams(rich, tmp_path, into):
    """Killed while unpacking: a new lab is whole or not there; of a lab, so is each stream."""
    warm_up(tmp_path)
    archive = packed(rich, "plain", "ended")
    want = {name: rich[name].to_arrow() for name in ("plain", "ended")}

    def work(folder):
        if into == "there":
            sl.open(folder / "out").close()
        sl.unpack(archive, folder / "out").close()

    def judge(folder):
        out = folder / "out"
        if not (out / "lab.json").exists():
            return
        with sl.open(out) as lab:
            if into == "new" and sorted(lab) != sorted(want):
                yield f"streams {sorted(lab)}"
            for name in lab:
                if not lab[name].to_arrow().equals(want[name]):
                    yield f"{name} has other rows"
            if not lab.verify().ok:
                yield "damaged"

    runs = tmp_path / "runs"
    runs.mkdir()
    wrong, died = swept(runs, work, judge, step=1 if SCALE > 1 else 2)
    print(f"{died} kills")
    assert not wrong, wrong[:3]
    assert died > 20


def test_an_error_at_any_disk_call_leaves_nothing(rich, tmp_path, monkeypatch):
    """A disk that is full at the n-th call: an error, no archive, nothing beside."""
    names = ["create", "write", "sync", "rename", "link", "make_dir", "sync_dir"]
    at = 0
    while True:
        at += 1
        left = at

        def failing(real):
            def call(*args, **options):
                nonlocal left
                left -= 1
                if left == 0:
                    raise OSError(28, "No space left on device")
                return real(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(disk, name, failing(getattr(disk, name)))
            with contextlib.suppress(OSError):
                rich.pack(tmp_path / "a.zip", rich["plain"].offsets(3, 30))
        if left > 0:
            break
        assert not list(tmp_path.glob(".*")), at
        (tmp_path / "a.zip").unlink(missing_ok=True)  # nothing failed but a pin, or the last sync
    assert at > 10


# -- typed -------------------------------------------------------------------------------------


def test_the_verbs_pack_and_unpack(rich, tmp_path, capsys):
    """``streamlab pack`` and ``unpack`` say what they did, and refuse in one line."""
    from streamlab.cli import main

    archive, lab = str(tmp_path / "x.zip"), str(rich.path)
    assert main(["pack", lab, archive, "trades", "--offsets", "50", "60", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["streams"], said["rows"], said["path"]) == (1, 10, archive)
    assert main(["pack", lab, archive]) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main(["pack", lab, archive, "--overwrite"]) == 0
    assert "5 streams" in capsys.readouterr().out
    assert main(["unpack", archive, str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["streams"] == list(rich)
    assert main(["unpack", archive, str(tmp_path / "out")]) == 1
    assert "already" in capsys.readouterr().err
