"""What the fault tests share: a workload, a model of what it must leave, and disks that misbehave.

A *world* is what a lab must hold: for each stream its rows, where it begins, its stream time. `play`
does an operation to a lab, `after` does it to a world, `complaints` compares the two. Operations are
made up beforehand by `workload`, so that a process that was killed can be judged by another one.
"""

import contextlib
import gc
import itertools
import json
import os
import random
import signal
import threading
import traceback
import warnings
from dataclasses import dataclass, replace
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.compute as pc

import streamlab as sl
from streamlab.log import disk

SCALE = float(os.environ.get("STREAMLAB_FAULT_SCALE", "1"))
CHANGES = "create write sync sync_dir rename link unlink truncate make_dir".split()
SCHEMA = pa.schema(
    [("ts", pa.timestamp("us", "UTC")), ("k", pa.int64()), ("x", pa.int64()), ("s", pa.string())]
)
WIDER = SCHEMA.append(pa.field("y", pa.int64()))
BEGINNING = 1_700_000_000_000_000
SEGMENT_BYTES = 4096


def scaled(count):
    """How often to do something: STREAMLAB_FAULT_SCALE times as often as usual."""
    return max(1, int(count * SCALE))


@dataclass(frozen=True)
class Kept:
    """What one stream must hold."""

    rows: tuple = ()  # (ts, k, x, s, y, deleted), from offset 0 on
    appends: tuple = ()  # the offset after each append
    start: int = 0
    stream_time: int | None = None
    wide: bool = False
    times: tuple = ()  # stream time of each row


# -- operations ----------------------------------------------------------------------------------


def row(token, *, wide):
    """The row of a token; every column follows from it."""
    ts = BEGINNING + (token * 7919 % 1000) * 1_000_000
    return (ts, token % 7, token, f"v{token}" * (token % 40), token * 2 if wide else None, False)


def frame(first, count, *, wide):
    """The rows of so many tokens as Arrow."""
    rows = [row(token, wide=wide) for token in range(first, first + count)]
    schema = WIDER if wide else SCHEMA
    return pa.table(
        [list(column) for column in zip(*rows, strict=True)][: len(schema)], schema=schema
    )


def after(world, op):
    """The world after an operation."""
    kind, name, *rest = op
    if kind in ("reopen", "flush", "seal"):
        return world
    kept = world.get(name)
    if kind == "create":
        return {**world, name: Kept()}
    if kind == "drop":
        return {n: k for n, k in world.items() if n != name}
    if kind == "trim":
        return {**world, name: replace(kept, start=max(kept.start, rest[0]))}
    if kind == "evolve":
        return {**world, name: replace(kept, wide=True)}
    if kind == "advance":
        return {**world, name: replace(kept, stream_time=max(kept.stream_time or 0, rest[0]))}
    if kind == "fork":
        return {**world, rest[0]: forked_at(kept, rest[1])}
    if kind == "append":
        new = tuple(row(token, wide=kept.wide) for token in range(rest[0], rest[0] + rest[1]))
    else:
        assert kind == "delete", kind
        new = ((kept.stream_time, rest[0], None, None, None, True),)
    first = max(new[0][0], kept.stream_time or 0)
    times = tuple(itertools.accumulate((r[0] for r in new), max, initial=first))[1:]
    rows = kept.rows + new
    return {
        **world,
        name: replace(
            kept, rows=rows, appends=(*kept.appends, len(rows)), stream_time=times[-1],
            times=kept.times + times,
        ),
    }  # fmt: skip


def forked_at(kept, at):
    """What a fork of a stream holds, at an offset after a row that is there."""
    stream_time = kept.stream_time if at == len(kept.rows) else kept.times[at - 1]
    appends = (*(stop for stop in kept.appends if stop < at), at)
    return replace(
        kept, rows=kept.rows[:at], times=kept.times[:at], appends=appends, stream_time=stream_time
    )


def play(lab, world, op):
    """Do an operation to a lab that holds a world; an append must return its offsets."""
    kind, name, *rest = op
    if kind == "create":
        settings = sl.Settings(sync=rest[0], segment_bytes=SEGMENT_BYTES, max_ahead=None)
        lab.create(name, SCHEMA, time="ts", key="k", settings=settings)
    elif kind == "drop":
        lab.drop(name)
    elif kind == "trim":
        lab[name].trim(rest[0])
    elif kind == "evolve":
        lab[name].evolve(WIDER)
    elif kind == "advance":
        lab[name].advance(micros(rest[0]))
    elif kind == "append":
        base = len(world[name].rows)
        got = lab[name].append(frame(*rest, wide=world[name].wide))
        assert got == range(base, base + rest[1]), (got, base, rest)
    elif kind == "delete":
        assert lab[name].delete(rest[0]) == len(world[name].rows)
    elif kind == "flush":
        lab[name].flush()
    elif kind == "fork":
        lab[name].fork(*rest)
    else:
        assert kind == "seal", kind
        lab[name].seal()


def micros(value):
    import datetime as dt

    return dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(microseconds=value)


def workload(rng, length, syncs=("always", "50ms", "os"), *, names=("a", "b"), drops=True):
    """Make up operations; every one fits the world that those before it leave."""
    world, ops, token = {}, [], rng.randrange(1000) * 1000
    while len(ops) < length:
        name = rng.choice(names)
        kept = world.get(name)
        if kept is None:
            op = ("create", name, rng.choice(syncs))
        else:
            end, big = len(kept.rows), rng.random() < 0.12
            kinds = ["append"] * 8 + ["advance", "seal", "trim", "reopen", "flush"]
            kinds += ["evolve"] * (not kept.wide) + ["delete"] * (end > 0)
            kinds += ["drop"] if drops and rng.random() < 0.3 else []
            kind = rng.choice(kinds)
            count = rng.randrange(100, 300) if big else rng.choice([1, 1, 2, 5, 20])
            arguments = {
                "append": (token, count), "delete": (rng.randrange(7),),
                "advance": (BEGINNING + rng.randrange(2000) * 1_000_000,),
                "trim": (rng.randrange(kept.start, end + 1),),
            }.get(kind, ())  # fmt: skip
            token += count
            op = (kind, name, *arguments)
        world = after(world, op)
        ops.append(op)
    return ops


# -- judging -------------------------------------------------------------------------------------


def complaints(lab, world):
    """Everything in which a lab differs from a world, as text."""
    found = []
    if sorted(lab) != sorted(world):
        return [f"streams {sorted(lab)} instead of {sorted(world)}"]
    for name, kept in world.items():
        stream = lab[name]
        found += [f"{name}: {text}" for text in _differences(stream, kept)]
    return found


def _differences(stream, kept):
    table = stream.to_arrow()
    start, end = stream.earliest_offset, stream.end_offset
    if (start, end) != (kept.start, len(kept.rows)):
        yield f"offsets [{start}, {end}) instead of [{kept.start}, {len(kept.rows)})"
        return
    if ("y" in stream.schema.names) != kept.wide:
        yield f"columns {stream.schema.names}"
    if table.column("_offset").to_pylist() != list(range(start, end)):
        yield "offsets are not contiguous"
    rows = rows_of(table)
    if rows != list(kept.rows[start:]):
        at = next(
            i
            for i, pair in enumerate(zip(rows, kept.rows[start:], strict=True))
            if pair[0] != pair[1]
        )
        yield f"row {start + at} is {rows[at]} instead of {kept.rows[start + at]}"
    if stream.stats().stream_time != kept.stream_time:
        yield f"stream time {stream.stats().stream_time} instead of {kept.stream_time}"
    times = table.column("_append_time").cast(pa.int64()).to_pylist()
    bounds = {stop for stop in kept.appends if start < stop < end}
    for at in range(1, len(times)):
        new = start + at in bounds
        if (times[at] > times[at - 1]) != new or times[at] < times[at - 1]:
            yield f"append time of row {start + at} is {times[at]} after {times[at - 1]}"
            return


def rows_of(table):
    """The rows of a stream as the tuples of `Kept`."""
    ts = pc.cast(table.column("ts"), pa.int64()).to_pylist()
    rows = len(ts)
    columns = [
        table.column(name).to_pylist() if name in table.column_names else [default] * rows
        for name, default in (
            ("k", None),
            ("x", None),
            ("s", None),
            ("y", None),
            ("_deleted", False),
        )
    ]
    return list(zip(ts, *columns, strict=True))


def judge(path, worlds, *, read_only=False):
    """Open a lab as it is; say what is wrong with it if it holds none of some worlds."""
    try:
        with sl.open(path, read_only=read_only) as lab:
            said = [complaints(lab, world) for world in worlds]
    except (sl.StreamlabError, AssertionError, OSError, ValueError, pa.ArrowException) as error:
        return [f"{type(error).__name__}: {error}"]
    return [] if [] in said else said[-1]


# -- processes -----------------------------------------------------------------------------------


def forked(work):
    """Run ``work(say)`` in a forked child; return what it said and how it ended.

    It says values, one JSON line each; an exception is the last thing it says.
    """
    reading, writing = os.pipe()
    gc.freeze()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and fork: ours restart
        pid = os.fork()
    if pid == 0:
        code = 0
        try:
            os.close(reading)
            work(lambda value: os.write(writing, json.dumps(value).encode() + b"\n"))
        except BaseException:
            code = 1
            os.write(writing, json.dumps({"error": traceback.format_exc()}).encode() + b"\n")
        finally:
            os._exit(code)
    os.close(writing)
    return SimpleNamespace(pid=pid, pipe=os.fdopen(reading, "rb"))


def finish(child):
    """Wait for a child; return what it said and its exit code, negative if it was killed."""
    with child.pipe as pipe:
        said = [json.loads(line) for line in pipe.read().splitlines()]
    _, status = os.waitpid(child.pid, 0)
    errors = [line["error"] for line in said if isinstance(line, dict) and "error" in line]
    assert not errors, errors[0]
    return said, os.waitstatus_to_exitcode(status)


def warm_up(path):
    """Do everything once, so that no child pays for imports."""
    with sl.open(path / "warm") as lab:
        for op in [("create", "w", "os"), ("append", "w", 0, 3), ("append", "w", 3, 200)]:
            play(lab, {"w": Kept(rows=(None,) * op[2] if op[0] == "append" else ())}, op)
        lab["w"].to_arrow()


# -- disks ---------------------------------------------------------------------------------------


def dying(at, how):
    """Make this process die at its n-th change of the disk: before, in the middle, or after it."""
    count, turn = 0, threading.Lock()

    def wrapped(name, real):
        def call(*args, **kwargs):
            nonlocal count
            with turn:
                count += 1
                now = count == at
            if now:
                if how == "torn" and name == "write":
                    data = b"".join(bytes(buffer) for buffer in args[1])
                    real(args[0], [data[: at * 7919 % max(len(data), 1)]], args[2])
                elif how == "after":
                    with contextlib.suppress(OSError):
                        real(*args, **kwargs)
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        return call

    quiet = {"sync": lambda fd: None, "sync_dir": lambda path: None}  # nobody cuts the power
    for name in CHANGES:
        setattr(disk, name, wrapped(name, quiet.get(name, getattr(disk, name))))


@contextlib.contextmanager
def changed_disk(monkeypatch, wrap, names=CHANGES):
    """Wrap every function that changes the disk in ``wrap(name, real)`` for a block."""
    with monkeypatch.context() as patch:
        for name in names:
            patch.setattr(disk, name, wrap(name, getattr(disk, name)))
        yield


def seeded(*parts):
    """A random generator that belongs to these words."""
    return random.Random(repr(parts))
