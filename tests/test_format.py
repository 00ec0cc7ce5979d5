"""The bytes of the log: the page that specifies them, and what a flipped bit or a cut does."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import ipc

from streamlab.errors import CorruptSegment, NewerFormat
from streamlab.log import format as fmt
from streamlab.log.groups import Place
from streamlab.log.head import SLOT, Head, unpack
from streamlab.log.manifest import Segment

PAGE = (Path(__file__).parent.parent / "docs" / "format.md").read_text()
ROW = re.compile(r"^\| *(\d+) *\| *(\d+) *\| *([a-z_-]+) *\|", re.MULTILINE)


def table_after(heading):
    """Return (at, size, field) of the byte table below a heading."""
    section = PAGE[PAGE.index(heading) :]
    section = section[: section.index("\n#", 5)] if "\n#" in section[5:] else section
    return [(int(at), int(size), name) for at, size, name in ROW.findall(section)]


def fields_of(layout):
    """Return (at, size) of each item of a struct format, padding as one."""
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", layout.lstrip("<")):
        repeat = int(count or 1)
        size = struct.calcsize(f"<{repeat}{code}")
        if code in "sx" or repeat == 1:
            found.append((at, size))
        else:
            found += [(at + i * size // repeat, size // repeat) for i in range(repeat)]
        at += size
    merged = []
    for place, size in found:
        merged.append((place, size))
    return merged


def test_the_page_describes_the_frame_header():
    """docs/format.md and the struct agree on every field of a frame, its place and its size."""
    rows = table_after("### Frame")
    assert [(at, size) for at, size, _ in rows] == fields_of(fmt.HEADER.format)
    assert [name for *_, name in rows[:-1]] == list(fmt.Frame._fields)
    assert sum(size for _, size, _ in rows) == fmt.HEADER_SIZE == 128


def test_the_page_describes_a_head_slot():
    """docs/format.md and the struct agree on every field of a head slot."""
    rows = table_after("## `head`")
    named = [row for row in rows if row[2] != "-"]
    assert [name for *_, name in named] == ["checksum", *Head._fields]
    assert [(at, size) for at, size, _ in named] == fields_of(SLOT.format.replace("xxxx", ""))
    assert sum(size for _, size, _ in rows) == SLOT.size == 64


def test_the_page_describes_a_run():
    """docs/format.md and the dtype agree on the table of runs."""
    rows = table_after("### Table of runs")
    assert [name for *_, name in rows] == list(fmt.RUN.names)
    assert [(at, size) for at, size, _ in rows] == [
        (fmt.RUN.fields[name][1], fmt.RUN.fields[name][0].itemsize) for name in fmt.RUN.names
    ]


def test_the_page_names_the_kinds_and_the_manifest_fields():
    """Every kind of frame and every field of a segment's line stands on the page."""
    for kind in fmt.Kind:
        assert re.search(rf"^\| {kind.value} \| {kind.name} \|", PAGE, re.MULTILINE), kind
    assert _fields_in("## `manifest`") == list(Segment._fields)


def test_the_page_names_the_fields_of_a_place():
    """Every field of a group's place in a partition stands on the page."""
    assert _fields_in("## Groups") == list(Place._fields)


def _fields_in(heading):
    """The first column of the table in a section of the page."""
    section = PAGE.split(heading)[1].split("\n## ")[0]
    return re.findall(r"^\| ([a-z_]+) \| ", section, re.MULTILINE)[1:]


@pytest.fixture
def frame():
    """One frame of ten rows at position 64, with its bytes."""
    batch = pa.record_batch({"n": list(range(10)), "s": [f"row {i}" for i in range(10)]})
    made, buffers = fmt.encode(
        fmt.Kind.ROWS, schema=1, segment=77, position=64, base=5, before=1, after=9,
        append_time=11, synced=64, rows=10, event_min=2, event_max=9, message=batch.serialize(),
    )  # fmt: skip
    return made, bytes(64) + b"".join(bytes(buffer) for buffer in buffers)


def test_what_is_encoded_is_decoded(frame):
    """A frame comes back as it was written, and its parts lie aligned."""
    made, data = frame
    assert fmt.decode(memoryview(data), 64, 77) == made
    assert made.stop == len(data)
    assert made.message_at % 64 == 0 and made.stop % 64 == 0


def test_a_frame_cut_anywhere_is_no_frame(frame):
    """Every proper prefix of a frame is no frame."""
    _, data = frame
    for cut in range(64, len(data)):
        assert fmt.decode(memoryview(data[:cut]), 64, 77) is None


def test_a_flipped_bit_anywhere_is_no_frame(frame):
    """No single bit of a frame can be flipped unseen, padding included."""
    _, data = frame
    for at in range(64, len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            assert fmt.decode(memoryview(damaged), 64, 77) is None, (at, bit)


def test_a_frame_of_another_place_or_file_is_no_frame(frame):
    """Bytes of a log that lie elsewhere, or come from another file, are never taken for a frame."""
    _, data = frame
    moved = memoryview(bytes(64) + data)
    assert fmt.decode(moved, 128, 77) is None
    assert fmt.decode(memoryview(data), 64, 78) is None


def test_a_sound_frame_of_a_later_version_is_not_a_torn_tail(frame):
    """A frame of an unknown version is refused by name, not cut off."""
    made, data = frame
    later = bytearray(data)
    struct.pack_into("<H", later, 64 + 16, fmt.VERSION + 1)
    struct.pack_into("<Q", later, 64 + 8, fmt.checksum(bytes(later[64 + 16 :])))
    with pytest.raises(NewerFormat):
        fmt.decode(memoryview(later), made.position, 77)


def test_frames_with_a_footer_are_an_arrow_file():
    """The footer leads pyarrow to batches that have other bytes between them."""
    schema = pa.schema([("n", pa.int64()), ("l", pa.list_(pa.struct([("s", pa.string())])))])
    out, blocks, wanted = bytearray(fmt.PREAMBLE), [], []
    for i in range(3):
        batch = pa.record_batch([[i, i + 1], [[{"s": "x"}], None]], schema=schema)
        out += b"between " * 8
        message = batch.serialize()
        prefix = struct.unpack_from("<i", message, 4)[0] + 8
        blocks.append((len(out), prefix, len(message) - prefix))
        out += message.to_pybytes() + bytes(fmt.padding(len(message)))
        wanted.append(batch)
    out += fmt.footer(schema, blocks, {"format": 1})
    reader = ipc.open_file(pa.py_buffer(bytes(out)))
    assert reader.read_all().equals(pa.Table.from_batches(wanted))
    assert json.loads(reader.metadata[b"streamlab"]) == {"format": 1}


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_a_compressed_message_reads_back(compression):
    """What is serialised with compression is one message that Arrow reads alone."""
    batch = pa.record_batch({"n": np.zeros(10_000, dtype=np.int64)})
    message = fmt.serialize(batch, compression)
    assert len(message) < 10_000
    assert ipc.read_record_batch(message, batch.schema).equals(batch)


def test_checked_json_shows_every_flip(tmp_path):
    """No bit of a checked JSON file can be flipped unseen."""
    data = fmt.dump_json({"format": 1, "delay": 5_000_000, "name": "ünïcode"})
    assert fmt.load_json(data, tmp_path)["delay"] == 5_000_000
    for at in range(len(data)):
        for bit in range(8):
            damaged = bytearray(data)
            damaged[at] ^= 1 << bit
            with pytest.raises((CorruptSegment, NewerFormat)):
                fmt.load_json(bytes(damaged), tmp_path)


def test_a_damaged_slot_says_nothing():
    """No bit of a head slot can be flipped unseen."""
    slot = Head(7, 100, 90, 5, 6, 123, 2).pack()
    assert unpack(slot).end == 100
    for at in range(len(slot)):
        for bit in range(8):
            damaged = bytearray(slot)
            damaged[at] ^= 1 << bit
            assert unpack(bytes(damaged)) is None
