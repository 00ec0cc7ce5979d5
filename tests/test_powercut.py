"""The power may fail at any moment: what the sync policy promised is there, and the lab opens.

The disk is modelled as strictly as POSIX allows. What was written to a file since its last sync may
be there or not, sector by sector, and the file may have grown without it; a name is there only since
the sync of its folder, and until then any subset of the names that changed may be. All that the log
does to the disk is recorded; then states that the disk may be in after a cut are made and opened.
"""

import contextlib
import itertools
import logging
import os
import random
import threading

import polars as pl
import pytest
from faults import (
    BEGINNING,
    CHANGES,
    SCALE,
    SCHEMA,
    WIDER,
    after,
    frame,
    micros,
    play,
    rows_of,
    seeded,
    workload,
)

import streamlab as sl
from streamlab.log import background, disk, head, maintain, reader, recovery, segment, writer
from streamlab.log import format as formats

SECTOR = 512
POLICIES = ("always", "20ms", "os", None)  # None: as the lab was opened, in turns os and always


@pytest.fixture(autouse=True)
def quiet(caplog):
    """What recovery logs about cut tails is not of interest here."""
    caplog.set_level(logging.CRITICAL, logger="streamlab")


# -- a disk that remembers ------------------------------------------------------------------------


class File:
    """The content of a file: what is durable, and what was done to it since."""

    def __init__(self, durable=b""):
        self.durable = bytearray(durable)
        self.pending = []

    def sync(self):
        for change in self.pending:
            done_to(self.durable, change)
        self.pending = []

    def after_cut(self, rng):
        """Return a content that may be found after a cut."""
        content, mode = bytearray(self.durable), rng.random()
        for position, data in self.pending:
            if mode < 0.25 or (mode > 0.5 and rng.random() < 0.2):
                continue  # lost
            if mode < 0.5 or data is None:
                done_to(content, (position, data))
                continue
            if rng.random() < 0.4 and len(content) < position + len(data):
                content.extend(bytes(position + len(data) - len(content)))
            for at in sectors(position, len(data)):
                if rng.random() < 0.6:
                    low, high = max(at, position), min(at + SECTOR, position + len(data))
                    done_to(content, (low, data[low - position : high - position]))
        return bytes(content)


def sectors(position, size):
    return range(position - position % SECTOR, position + size, SECTOR)


def done_to(content, change):
    """Do a write, or with None for data a truncation, to a content."""
    position, data = change
    if len(content) < position:
        content.extend(bytes(position - len(content)))
    if data is None:
        del content[position:]
    else:
        content[position : position + len(data)] = data


class Folder:
    """The names of a folder: now, durable, and what changed between."""

    def __init__(self):
        self.now, self.durable, self.pending = {}, {}, []

    def change(self, **changes):
        self.now = named(self.now, changes)
        self.pending.append(changes)

    def sync(self):
        self.durable, self.pending = dict(self.now), []

    def after_cut(self, rng):
        names, mode = dict(self.durable), rng.random()
        stop = rng.randrange(len(self.pending) + 1)
        for index, changes in enumerate(self.pending):
            if mode < 0.4 or (mode < 0.6 and index < stop) or (mode > 0.8 and rng.random() < 0.5):
                names = named(names, changes)
        return names


def named(names, changes):
    return {name: node for name, node in {**names, **changes}.items() if node is not None}


class Disk:
    """What was done to a disk, in order, and what it may be after a cut."""

    def __init__(self, root):
        self.root, self.path = Folder(), root
        self.ops = []
        self.turn = threading.RLock()
        self._adopt(self.root, root)

    def _adopt(self, folder, path):
        """Take over what is there as durable."""
        for entry in os.scandir(path):
            if entry.is_dir():
                node = Folder()
                self._adopt(node, entry.path)
            else:
                with open(entry.path, "rb") as file:
                    node = File(file.read())
            folder.now[entry.name] = node
        folder.sync()

    def record(self, name, real):
        def call(*args, **kwargs):
            with self.turn:
                op = getattr(self, f"_{name}")(*args)
                result = real(*args, **kwargs)
                elsewhere = op[1].startswith("..")  # a background thread, busy with another lab
                if not elsewhere and not op[1].endswith(" (deleted)"):
                    self.ops.append(op)
            return result

        return call

    def _relative(self, path):
        return os.path.relpath(path, self.path)

    def _of(self, fd):
        path = os.readlink(f"/proc/self/fd/{fd}")
        sealed = path.replace(".log (deleted)", ".arrow")
        if sealed != path and os.path.exists(sealed):
            same = os.stat(sealed).st_ino == os.fstat(fd).st_ino
            path = sealed if same else path  # it was sealed meanwhile, in place
        return self._relative(path)

    def _create(self, path):
        return "create", self._relative(path)

    def _make_dir(self, path):
        return "make_dir", self._relative(path)

    def _write(self, fd, buffers, position):
        return "change", self._of(fd), (position, b"".join(bytes(b) for b in buffers))

    def _truncate(self, fd, size):
        return "change", self._of(fd), (size, None)

    def _sync(self, fd):
        return "sync", self._of(fd)

    def _sync_dir(self, path):
        return "sync", self._relative(path)

    def _rename(self, source, target):
        return "rename", self._relative(source), self._relative(target)

    def _link(self, source, target):
        return "link", self._relative(source), self._relative(target)

    def _unlink(self, path):
        os.stat(path, follow_symlinks=False)  # what is not there is not unlinked
        return "unlink", self._relative(path)

    # -- doing it again --------------------------------------------------------------------------

    def node(self, path):
        node = self.root
        for part in path.split("/"):
            if part != ".":
                node = node.now[part]
        return node

    def redo(self, op):
        """Do a recorded operation to the model."""
        kind, path, *rest = op
        folder, _, name = path.rpartition("/")
        if kind in ("create", "make_dir"):
            self.node(folder or ".").change(**{name: File() if kind == "create" else Folder()})
        elif kind == "change":
            self.node(path).pending.append(rest[0])
        elif kind == "sync":
            with contextlib.suppress(KeyError):  # a file that has no name any more
                self.node(path).sync()
        elif kind == "unlink":
            self.node(folder or ".").change(**{name: None})
        else:
            node = self.node(path)
            beside, _, target = rest[0].rpartition("/")
            gone = {name: None} if kind == "rename" else {}
            if folder == beside:
                self.node(folder or ".").change(**{target: node, **gone})
                return
            assert kind == "link", "a rename within a folder"
            self.node(beside or ".").change(**{target: node})

    def cut(self, target, rng):
        """Write a state that the disk may be in after a cut to a folder."""

        def put(folder, path):
            os.mkdir(path)
            for name, node in folder.after_cut(rng).items():
                if isinstance(node, Folder):
                    put(node, f"{path}/{name}")
                else:
                    with open(f"{path}/{name}", "wb") as file:
                        file.write(node.after_cut(rng))

        put(self.root, target)


# -- what is promised -----------------------------------------------------------------------------


def promised(lab, world, said):
    """Offsets and stream times that the policy of each stream promises from now on."""
    floors = {}
    for name, kept in world.items():
        before = said.get(name, (0, None))
        if lab[name].settings.sync == "always":
            floors[name] = len(kept.rows), kept.stream_time
        else:
            floors[name] = max(before[0], lab[name].durable_offset), before[1]
    return floors


def broken_promises(path, worlds, floors, *, more=False):
    """Open a lab after a cut; say what it lacks of what was promised. Perhaps go on with it."""
    reader._VERIFIED.clear()
    try:
        with sl.open(path) as lab:
            if not set.intersection(*map(set, worlds)) <= set(lab) <= set.union(*map(set, worlds)):
                return [f"streams {sorted(lab)}"]
            found = [f"{n}: {text}" for n in lab for text in _lacks(lab[n], worlds, floors.get(n))]
            if more and not found:
                found = [f"{n}: {text}" for n in lab for text in _goes_on(lab[n])]
            return found
    except (sl.StreamlabError, AssertionError, OSError, ValueError) as error:
        return [f"{type(error).__name__}: {error}"]


def _lacks(stream, worlds, floor):
    hopes = [world[stream.name] for world in worlds if stream.name in world]
    table, start, end = stream.to_arrow(), stream.earliest_offset, stream.end_offset
    if not any(end == 0 or end in kept.appends for kept in hopes):
        yield f"end {end} is inside of an append"
        return
    if start not in {min(kept.start, end) for kept in hopes}:
        yield f"begins at {start}"
        return
    full = max(hopes, key=lambda kept: len(kept.rows))
    if rows_of(table) != list(full.rows[start:end]):
        yield f"other rows than were appended in [{start}, {end})"
    if floor is not None and end < floor[0]:
        yield f"ends at {end}, promised {floor[0]}"
    time = stream.stats().stream_time
    least = max([row[0] for row in full.rows[:end]] + [floor[1] or 0 if floor else 0])
    if (time or 0) < least:
        yield f"stream time {time}, at least {least}"


def _goes_on(stream):
    before, end = stream.to_arrow(), stream.end_offset
    got = stream.append({"ts": [micros(BEGINNING)], "k": [1], "x": [-1], "s": ["new"]} | (
        {"y": [None]} if "y" in stream.schema.names else {}))  # fmt: skip
    after_it = stream.to_arrow()
    if got != range(end, end + 1) or rows_of(after_it)[: before.num_rows] != rows_of(before):
        yield f"after an append at {got}: other rows than before"
    if after_it.num_rows != before.num_rows + 1:
        yield f"after an append at {got}: {after_it.num_rows} rows instead of {before.num_rows + 1}"


# -- runs -----------------------------------------------------------------------------------------


def recorded(root, ops, monkeypatch, world=None, floors=None):
    """Do operations on a lab; return the disk, and what is promised after each of its changes."""
    disk_, world, floors = Disk(root), world or {}, floors or {}
    acks = [(0, world, floors)]
    with monkeypatch.context() as patch:
        for name in CHANGES:
            real = {"sync": lambda fd: None, "sync_dir": lambda path: None}.get(name)
            patch.setattr(disk, name, disk_.record(name, real or getattr(disk, name)))
        syncs = itertools.cycle(["os", "always"])
        lab = sl.open(root / "lab", sync=next(syncs))
        for op in ops:
            if op[0] == "reopen":
                lab.close()
                lab = sl.open(root / "lab", sync=next(syncs))
            else:
                play(lab, world, op)
            world = after(world, op)
            floors = promised(lab, world, floors)
            acks.append((len(disk_.ops), world, floors))
        lab.close()
    return disk_, acks


def cuts(root, ops, monkeypatch, rng, states, *, again=False):
    """Cut the power so many times during the operations; return how often, and what was broken."""
    root.mkdir()
    boots = itertools.count(1)
    in_boot(monkeypatch, next(boots))
    disk_, acks = recorded(root, ops, monkeypatch)
    wrong, count, at = [], 0, 0
    chances = states / max(1, len(disk_.ops))
    for done, op in enumerate(disk_.ops, 1):
        disk_.redo(op)
        while at + 1 < len(acks) and acks[at + 1][0] <= done:
            at += 1
        for _ in range(int(chances + rng.random())):
            count += 1
            target = root / f"cut-{count}"
            disk_.cut(target, rng)
            worlds = [acks[at][1], acks[min(at + 1, len(acks) - 1)][1]]
            in_boot(monkeypatch, next(boots))
            if again and rng.random() < 0.3:
                target = cut_again(target, monkeypatch, rng, next(boots))
                count += 1
            found = broken_promises(target / "lab", worlds, acks[at][2], more=rng.random() < 0.3)
            wrong += [f"{done} of {len(disk_.ops)}, after {op[:2]}: {text}" for text in found]
    return count, wrong


def cut_again(root, monkeypatch, rng, boot):
    """Let the power fail during recovery too; return where the state after that is."""

    def recover():
        with sl.open(root / "lab") as lab:
            for name in lab:
                lab[name].flush()

    disk_ = Disk(root)
    with monkeypatch.context() as patch, contextlib.suppress(sl.StreamlabError):
        for name in CHANGES:
            real = {"sync": lambda fd: None, "sync_dir": lambda path: None}.get(name)
            patch.setattr(disk, name, disk_.record(name, real or getattr(disk, name)))
        recover()
    for op in disk_.ops[: rng.randrange(len(disk_.ops) + 1)]:
        disk_.redo(op)
    target = root.with_name(root.name + "-again")
    disk_.cut(target, rng)
    in_boot(monkeypatch, boot)
    return target


def in_boot(monkeypatch, number):
    for module in (head, recovery, reader, writer):
        monkeypatch.setattr(module, "boot_id", lambda: number)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_power_cut_keeps_what_the_policy_promised(tmp_path, monkeypatch, policy):
    """Cut at any moment: whole appends in order, all promised ones, and it opens without help."""
    total, broken = 0, []
    for seed in range(4):
        rng = seeded("cut", policy, seed)
        monkeypatch.setattr(maintain, "IN_PLACE_ROWS", 1 if seed % 2 else 4096)
        ops = workload(rng, 40, [policy], names=["a"], drops=seed == 3)
        count, wrong = cuts(
            tmp_path / str(seed), ops, monkeypatch, rng, 130 * SCALE, again=seed % 2 == 1
        )
        total += count
        broken += wrong
    print(f"{policy}: {total} states, {len(broken)} broken")
    assert not broken, "\n".join(broken[:5])
    assert total > 400 * min(SCALE, 1)


# -- negative controls: a fault put into the product must be seen ---------------------------------


def no_sync_of_data(monkeypatch):
    """Files are never synced."""
    monkeypatch.setattr(Disk, "_sync", lambda self, fd: ("sync", "lab/nothing"))


def no_sync_of_folders(monkeypatch):
    """Folders are never synced."""
    monkeypatch.setattr(Disk, "_sync_dir", lambda self, path: ("sync", "lab/nothing"))


def manifest_before_data(monkeypatch):
    """The manifest is replaced before the files that it names are synced."""
    late, real_sync, real_replace = [], disk.sync, disk.replace_file

    def sync(fd):
        late.append(os.dup(fd))

    def replace_file(path, content, *, durable=True):
        with monkeypatch.context() as patch:
            patch.setattr(disk, "sync", real_sync)
            real_replace(path, content, durable=durable)
            while late:
                disk.sync(late[-1])
                os.close(late.pop())

    monkeypatch.setattr(disk, "sync", sync)
    monkeypatch.setattr(disk, "replace_file", replace_file)


def tail_not_checked(monkeypatch):
    """What stands at the end of the log is taken for rows, whatever its checksum."""
    monkeypatch.setattr(segment, "decode", formats.decode_header)
    monkeypatch.setattr(recovery, "decode", formats.decode_header)


@pytest.mark.parametrize(
    "fault", [no_sync_of_data, no_sync_of_folders, manifest_before_data, tail_not_checked]
)
def test_control_a_faulty_product_is_found_out(tmp_path, monkeypatch, fault):
    """The same harness counts broken promises when the product is made to do the wrong thing."""
    rng = seeded("control")
    policy = "os" if fault is tail_not_checked else "always"
    ops = workload(rng, 30, [policy], names=["a"], drops=False)
    fault(monkeypatch)
    total, wrong = cuts(tmp_path / "lab", ops, monkeypatch, rng, 100)
    print(f"control {fault.__name__}: {len(wrong)} of {total} states broken")
    assert wrong


# -- between the replacing of a manifest and the sync of its folder -------------------------------


class Lost(random.Random):
    """The worst cut: nothing is left but what was synced."""

    def random(self):
        return 0.7  # neither names nor sectors: see File and Folder

    def randrange(self, *bounds):
        return 0


@contextlib.contextmanager
def on_a_disk(root, monkeypatch):
    """Record what is done to the disk; nothing is done in the background."""
    root.mkdir()
    disk_ = Disk(root)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "sync", lambda fd: None)
        patch.setattr(disk, "sync_dir", lambda path: None)
        patch.setattr(background.CHORES, "call", lambda method, delay=0.0: None)
        for name in CHANGES:
            patch.setattr(disk, name, disk_.record(name, getattr(disk, name)))
        yield disk_


def end_after_cut(disk_, count, target, monkeypatch):
    """Return where the stream ends if only what was synced by the first ops is left."""
    for op in disk_.ops[:count]:
        disk_.redo(op)
    disk_.cut(target, Lost())
    in_boot(monkeypatch, 4711)
    reader._VERIFIED.clear()
    with sl.open(target / "lab") as lab:
        return lab["a"].end_offset


def two_files(lab, policy):
    """A stream of 20 rows in a closed file and one in the next."""
    stream = lab.create("a", SCHEMA, time="ts", key="k", settings=sl.Settings(sync=policy))
    stream.append(frame(0, 20, wide=False))
    stream.evolve(WIDER)
    return stream, lambda: stream.append(frame(20, 1, wide=True))


def test_a_flush_while_a_seal_is_being_listed_promises_what_survives(tmp_path, monkeypatch):
    """The list that says so is there to be read before it is there to stay."""
    promised_at = {}
    with on_a_disk(tmp_path / "0", monkeypatch) as disk_:
        with sl.open(tmp_path / "0" / "lab") as lab, monkeypatch.context() as patch:
            stream, append = two_files(lab, "os")
            append()
            real = disk.rename

            def rename(source, target):
                real(source, target)
                stream.flush()
                promised_at[stream.durable_offset] = len(disk_.ops)

            patch.setattr(disk, "rename", rename)
            stream._scan.fix(pin=False).log.maintenance.seal()
    assert end_after_cut(disk_, promised_at[21], tmp_path / "cut", monkeypatch) == 21


def test_a_writer_makes_sure_of_the_manifest_that_a_dead_one_left(tmp_path, monkeypatch):
    """It was replaced, and the folder never synced."""
    with on_a_disk(tmp_path / "0", monkeypatch) as disk_:
        with sl.open(tmp_path / "0" / "lab") as lab, monkeypatch.context() as patch:
            _, append = two_files(lab, "always")
            real = disk.rename

            def gone(path):
                raise OSError("the process is gone")

            def rename(source, target):
                real(source, target)
                patch.setattr(disk, "sync_dir", gone)

            patch.setattr(disk, "rename", rename)
            with pytest.raises(OSError, match="gone"):
                append()
        with sl.open(tmp_path / "0" / "lab") as lab:
            lab["a"].append(frame(20, 1, wide=True))
            count = len(disk_.ops)
    assert end_after_cut(disk_, count, tmp_path / "cut", monkeypatch) == 21


def test_a_footer_that_a_power_cut_took_is_written_again(tmp_path, monkeypatch):
    """A file sealed without a sync under "os" keeps its rows when only its footer is lost."""
    path = tmp_path / "lab"
    rows = {"v": list(range(10_000))}
    with sl.open(path, sync="os") as lab:
        stream = lab.create("s", rows)
        stream.seal()
        stream.append(rows)
    (sealed,) = (path / "streams" / "s").glob("*.arrow")
    first = reader.read_manifest(path / "streams" / "s" / "manifest").segments[0]
    assert not first.synced
    frames = segment.SegmentFile(sealed, first.id)
    assert list(frames.walk())
    content = sealed.read_bytes()
    sealed.write_bytes(content[: frames.mark.position] + bytes(len(content) - frames.mark.position))
    with monkeypatch.context() as patch:
        for module in (head, recovery, reader, writer):
            patch.setattr(module, "boot_id", lambda: 4711)
        with sl.open(path, read_only=True) as lab:
            assert lab["s"].to_arrow()["v"].to_pylist() == rows["v"] * 2
        with sl.open(path, sync="os") as lab:
            assert lab["s"].append({"v": [1]}) == range(20_000, 20_001)
            lab["s"].seal()
            assert lab["s"].to_polars()["v"].to_list() == [*rows["v"], *rows["v"], 1]
            assert lab.verify().ok
    assert pl.read_ipc(sealed)["v"].to_list() == rows["v"]
