"""The writer of single events: order, bad events, failures, silence, threads, the end."""

import datetime as dt
import errno
import gc
import os
import subprocess
import sys
import textwrap
import threading
import time

import polars as pl
import pyarrow as pa
import pytest

import streamlab as sl
from streamlab.testing import temp_lab
from streamlab.writer import Writer, columns_of

SCHEMA = pa.schema([("n", pa.int64()), ("name", pa.string()), ("price", pa.float64())])
T0 = dt.datetime(2026, 1, 1, 11, 0, tzinfo=dt.UTC)


def event(n, **other):
    return {"n": n, "name": f"e{n}", "price": 0.5} | other


@pytest.fixture
def stream(lab):
    return lab.create("events", SCHEMA)


def rows(stream):
    return stream.to_polars().select("n", "name", "price").to_dicts()


class Flaky:
    """Appends to a stream, except for the next few times."""

    def __init__(self, stream, error, times):
        self.stream, self.error, self.times = stream, error, times

    def __call__(self, data):
        if self.times:
            self.times -= 1
            raise self.error
        return self.stream.append(data)


def flaky_writer(stream, error, times, **options):
    flaky = Flaky(stream, error, times)
    return Writer(flaky, lambda: stream.schema, linger=3600, rows=4, **options)


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)


def test_events_come_in_the_order_in_which_they_were_sent(stream):
    """Sent one at a time, in whatever batches, events lie in the log in order."""
    with stream.writer(rows=7, linger="0s") as writer:
        for n in range(1000):
            writer.send(event(n))
    assert [row["n"] for row in rows(stream)] == list(range(1000))


def test_events_may_be_keywords_or_both(stream):
    """A dict, keywords, and a dict with keywords over it are all events."""
    with stream.writer() as writer:
        writer.send(event(1))
        writer.send(n=2, name="e2", price=1.0)
        writer.send(event(0), n=3)
    assert [row["n"] for row in rows(stream)] == [1, 2, 3]


def test_an_event_is_taken_as_it_is_at_the_call(stream):
    """A dict that is changed after it was sent changes nothing in the log, complete or not."""
    with stream.writer(linger="1h") as writer:
        whole, partial = event(1), {"n": 2}
        writer.send(whole)
        writer.send(partial)
        whole["n"], partial["n"] = 7, 8
    assert [row["n"] for row in rows(stream)] == [1, 2]


def test_flush_acknowledges(lab, stream):
    """After `flush` every event that was sent is in the log."""
    writer = stream.writer(linger="1h")
    for n in range(10):
        writer.send(event(n))
    writer.flush()
    assert len(stream) == writer.appended == writer.sent == 10
    writer.close()


def test_flush_makes_durable_where_appends_are():
    """With ``sync="always"`` what was flushed survives a power cut."""
    with temp_lab(sync="always") as lab, lab.create("events", SCHEMA).writer() as writer:
        writer.send(event(1))
        writer.flush()
        assert lab["events"].durable_offset == 1


def test_events_do_not_wait_longer_than_they_linger(stream):
    """An event is appended without a flush."""
    with stream.writer(linger="1ms") as writer:
        writer.send(event(1))
        until(lambda: len(stream) == 1)


def test_a_full_batch_does_not_linger(stream):
    """When ``rows`` events wait they are appended, however long others would linger."""
    with stream.writer(linger="1h", rows=10) as writer:
        for n in range(10):
            writer.send(event(n))
        until(lambda: len(stream) == 10)


@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_missing_keys_are_null_whatever_the_batch(stream, batch):
    """An event that lacks a key has null there, alone in its batch or not."""
    with stream.writer(rows=batch, linger="0s" if batch == 1 else "1h") as writer:
        for n in range(30):
            writer.send({"n": n} if n % 3 else event(n))
    assert [row["name"] for row in rows(stream)] == [None if n % 3 else f"e{n}" for n in range(30)]


def test_an_event_of_nulls_only_is_an_event(stream):
    """A column in which no event of a batch has a value is a column of nulls."""
    with stream.writer() as writer:
        writer.send(n=None, name=None, price=None)
        writer.send({})
    assert rows(stream) == [{"n": None, "name": None, "price": None}] * 2


BAD = {
    "text for a number": event("three"),
    "a fraction for an integer": event(1.5),
    "a truth for a number": event(True),
    "too big": event(2**70),
    "a column too many": event(3, colour="red"),
    "another name": {"n": 1, "name": "x", "prise": 2.0},
    "no dict": ["n", "name", "price"],
    "a tuple": (1, "x", 2.0),
    "no text": event(3, name="\ud800"),
    "an integer that no float is": event(3, price=2**53 + 1),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
def test_a_bad_event_is_named_and_takes_no_other_with_it(stream, bad):
    """It raises at the flush, with its index and value; all others are appended, in order."""
    with stream.writer(linger="1h") as writer:
        for n in range(20):
            writer.send(bad if n == 13 else event(n))
        with pytest.raises(sl.SchemaMismatch, match="event 13 ") as caught:
            writer.flush()
        assert caught.value.index == 13
        assert caught.value.value == bad
        writer.flush()
        assert (writer.sent, writer.appended, writer.rejected) == (20, 19, 1)
    assert [row["n"] for row in rows(stream)] == [n for n in range(20) if n != 13]


def test_several_bad_events_are_told_of_at_once(stream):
    """One error names the first and counts the others."""
    writer = stream.writer(linger="1h")
    for n in range(10):
        writer.send(event("x" if n % 2 else n))
    with pytest.raises(sl.SchemaMismatch, match=r"event 1 .* 4 more bad events"):
        writer.close()
    writer.close()
    assert len(stream) == 5


def test_a_bad_event_raises_at_the_next_send(stream):
    """The send that raises has not taken its event; the one after it has."""
    with stream.writer(linger="0s") as writer:
        writer.send(event("x"))
        until(lambda: writer.rejected)
        with pytest.raises(sl.SchemaMismatch, match="event 0 "):
            writer.send(event(1))
        writer.send(event(2))
    assert [row["n"] for row in rows(stream)] == [2]


def test_an_event_too_far_ahead_is_bad(timed_lab):
    """One that ``max_ahead`` refuses is named like any other."""
    stream = timed_lab.create("events", pa.schema([("ts", pa.timestamp("us", "UTC"))]), time="ts")
    with stream.writer(linger="1h") as writer:
        writer.send(ts=T0)
        writer.send(ts=T0 + dt.timedelta(days=300))
        with pytest.raises(sl.SchemaMismatch, match="event 1 .* more than 1d after now"):
            writer.flush()
    assert len(stream) == 1


def test_rejected_events_go_beside(lab, stream):
    """With ``on_error="reject"`` bad events stand in ``<stream>.rejected`` with the reason."""
    with stream.writer(on_error="reject", linger="1h") as writer:
        for n in range(6):
            writer.send(event("x") if n in (1, 4) else event(n))
    assert writer.rejected == 2
    found = lab["events.rejected"].to_polars()
    assert found["event"].to_list() == [repr(event("x"))] * 2
    assert found["reason"].str.contains('column "n"').all()
    assert [row["n"] for row in rows(stream)] == [0, 2, 3, 5]


def test_rejects_that_cannot_be_put_away_are_tried_again(stream):
    """No bad event is lost, and no good one is there twice, if the stream of rejects fails once."""
    kept, fails = [], [OSError(errno.ENOSPC, "no space left")]

    def reject(events):
        if fails:
            raise fails.pop()
        kept.extend(events)

    writer = Writer(stream.append, lambda: stream.schema, linger=3600, rows=4, reject=reject)
    for n in range(4):
        writer.send(event("x") if n == 2 else event(n))
    with pytest.raises(OSError, match="no space"):
        writer.flush()
    writer.close()
    assert [one for one, _ in kept] == [event("x")]
    assert [row["n"] for row in rows(stream)] == [0, 1, 3]


FAILURES = {
    "locked": sl.StreamLocked("held by another process"),
    "disk full": OSError(errno.ENOSPC, "no space left on device"),
}


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_a_failed_append_loses_nothing(stream, error):
    """What could not be appended stays waiting and is appended once, at the next flush."""
    writer = flaky_writer(stream, error, 1)
    for n in range(3):
        writer.send(event(n))
    with pytest.raises(type(error)):
        writer.flush()
    assert (writer.sent, writer.appended) == (3, 0)
    writer.close()
    assert [row["n"] for row in rows(stream)] == [0, 1, 2]


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_a_failure_amid_bad_events_loses_and_doubles_nothing(stream, error):
    """Halves of a batch that went through before the failure are not appended again."""
    flaky = Flaky(stream, error, 0)
    calls = []

    def append(data):
        calls.append(data)
        if len(calls) == 3:  # whole, first half, then this
            flaky.times = 1
        return flaky(data)

    writer = Writer(append, lambda: stream.schema, linger=3600, rows=100)
    for n in range(8):
        writer.send(event("x") if n == 6 else event(n))
    with pytest.raises(type(error)):
        writer.flush()
    with pytest.raises(sl.SchemaMismatch, match="event 6 "):
        writer.close()
    assert [row["n"] for row in rows(stream)] == [0, 1, 2, 3, 4, 5, 7]


def test_what_failed_in_the_background_is_tried_again_there(stream):
    """A failure that passes needs no flush; the next send tells of it at most."""
    error = OSError(errno.ENOSPC, "no space left on device")
    writer = Writer(Flaky(stream, error, 2), lambda: stream.schema, linger=0.0, rows=4)
    writer.send(event(1))
    until(lambda: len(stream) == 1)
    writer.close()


def test_send_tells_of_a_failure_and_does_not_take_its_event(stream):
    """While appends fail, send raises now and then; what it raised for was not taken."""
    error = OSError(errno.ENOSPC, "no space left on device")
    flaky = Flaky(stream, error, 10**9)
    writer = Writer(flaky, lambda: stream.schema, linger=0.0, rows=2)
    taken, raised = [], 0
    for n in range(200):
        try:
            writer.send(event(n))
        except OSError:
            raised += 1
        else:
            taken.append(n)
    assert raised > 100
    assert len(taken) <= 2 * 8 + 2
    flaky.times = 0
    writer.close()
    assert [row["n"] for row in rows(stream)] == taken


def test_a_close_that_fails_can_be_repeated(stream):
    """The writer stays open and says how much it holds; the second close appends it."""
    writer = flaky_writer(stream, sl.StreamLocked("held by another process"), 1)
    writer.send(event(1))
    with pytest.raises(sl.StreamLocked) as caught:
        writer.close()
    assert caught.value.__notes__ == ["1 events of this writer wait still."]
    writer.close()
    assert len(stream) == 1


def test_closing_twice_is_harmless(stream):
    """The second close does nothing; sending after it is refused."""
    writer = stream.writer()
    writer.send(event(1))
    writer.close()
    writer.close()
    with pytest.raises(sl.LabClosed, match="writer is closed"):
        writer.send(event(2))
    with pytest.raises(sl.LabClosed, match="writer is closed"):
        writer.flush()
    assert len(stream) == 1
    assert "closed: 1 sent, 1 appended" in repr(writer)


def test_a_writer_is_closed_with_its_lab(tmp_path):
    """Closing the lab appends what waits; the writer takes nothing more, and says so."""
    lab = sl.open(tmp_path / "lab", sync="os")
    writer = lab.create("events", SCHEMA).writer(linger="1h")
    writer.send(event(1))
    lab.close()
    assert (writer.sent, writer.appended) == (1, 1)
    writer.close()
    with pytest.raises(sl.LabClosed):
        writer.send(event(2))


def test_an_error_in_the_block_is_the_one_that_is_seen(stream):
    """Leaving the block by an error appends what was sent and raises that error."""
    with pytest.raises(ZeroDivisionError), stream.writer() as writer:  # noqa: PT012
        writer.send(event(1))
        writer.send(event("x"))
        1 / 0  # noqa: B018
    assert len(stream) == 1


def test_each_thread_keeps_its_order(stream):
    """Eight threads send at once: nothing is lost or doubled, each one's events are in order."""
    each = 2000

    def work(thread):
        for n in range(each):
            writer.send(n=n, name=str(thread), price=0.0)

    with stream.writer(rows=64, linger="0s") as writer:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = stream.to_polars()
    for name in map(str, range(8)):
        assert found.filter(pl.col("name") == name)["n"].to_list() == list(range(each))


def test_threads_may_close_what_others_send_to(stream):
    """An event is in the log or its send was refused, whenever the writer is closed."""
    taken = []

    def work():
        for n in range(100_000):
            try:
                writer.send(event(n))
            except sl.LabClosed:
                return
            taken.append(n)

    writer = stream.writer(rows=16, linger="0s")
    thread = threading.Thread(target=work)
    thread.start()
    until(lambda: len(stream) > 100)
    writer.close()
    thread.join()
    assert [row["n"] for row in rows(stream)] == taken


def test_a_forgotten_writer_appends_what_it_holds(stream):
    """Events outlive the handle they were sent through, and the lock is let go after them."""
    stream.writer(linger="1ms").send(event(1))
    gc.collect()
    until(lambda: len(stream) == 1)
    gc.collect()
    until(lambda: not stream._scan.log.writer._holders)


AT_EXIT = """
    import streamlab as sl
    lab = sl.open({path!r}, sync="os")
    writer = lab["events"].writer(linger="1h")
    for n in range(5):
        writer.send(n=n, name="x", price=1.0)
    {end}
"""


@pytest.mark.parametrize("end", ["pass", "raise SystemExit(0)"])
def test_a_writer_that_nobody_closed_is_closed_at_exit(lab, stream, end):
    """What an ending process had sent is in the log."""
    lab.close()
    code = textwrap.dedent(AT_EXIT).format(path=str(lab.path), end=end)
    subprocess.run([sys.executable, "-c", code], check=True)
    with sl.open(lab.path) as again:
        assert len(again["events"]) == 5


def test_a_forked_child_sends_nothing_of_its_parents(stream):
    """The child's copy of a writer is closed; events are appended once, by the parent."""
    writer = stream.writer(linger="1h")
    writer.send(event(1))
    child = os.fork()
    if not child:
        try:
            writer.send(event(2))
        except sl.LabClosed:
            writer.close()
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    writer.close()
    assert [row["n"] for row in rows(stream)] == [1]


def test_a_heartbeat_moves_stream_time_by_the_time_that_passed(timed_lab):
    """Silence moves stream time on by its own length, whatever the clock on the wall says."""
    stream = timed_lab.create("events", pa.schema([("ts", pa.timestamp("us", "UTC"))]), time="ts")
    start = int(T0.timestamp() * 1e6)  # an hour before the lab's clock, which stands still
    began = time.monotonic()
    with stream.writer(heartbeat="20ms", linger="0s") as writer:
        writer.send(ts=T0)
        until(lambda: (stream.stats().stream_time or 0) >= start + 60_000)
        passed = time.monotonic() - began
        assert stream.stats().stream_time - start <= passed * 1e6
    assert len(stream) == 1


def test_there_is_no_heartbeat_while_others_append(timed_lab):
    """A silent writer does not run ahead of a stream into which somebody else writes."""
    stream = timed_lab.create("events", pa.schema([("ts", pa.timestamp("us", "UTC"))]), time="ts")
    with stream.writer(heartbeat="30s"):
        for n in range(20):
            stream.append({"ts": [T0 + dt.timedelta(seconds=n)]})
    assert stream.stats().stream_time == int(T0.timestamp() + 19) * 1_000_000


def test_a_stream_that_has_not_begun_has_no_heartbeat(timed_lab):
    """Before the first event there is no time to go on from."""
    stream = timed_lab.create("events", pa.schema([("ts", pa.timestamp("us", "UTC"))]), time="ts")
    with stream.writer(heartbeat="1ms"):
        threading.Event().wait(0.05)
    assert stream.stats().stream_time is None


def test_a_writer_goes_on_after_its_stream_evolves(stream):
    """Events with and without the new column are taken; where it is missing it is null."""
    with stream.writer(linger="1h") as writer:
        writer.send(event(1))
        stream.evolve(pa.schema([*SCHEMA, ("venue", pa.string())]))
        writer.send(event(2))
        writer.send(event(3, venue="X"))
    assert stream.to_polars()["venue"].to_list() == [None, None, "X"]


def test_times_mean_what_they_mean_in_an_append(timed_lab):
    """Naive times are UTC, others are converted, alone or mixed in a batch."""
    stream = timed_lab.create("events", pa.schema([("ts", pa.timestamp("us", "UTC"))]), time="ts")
    zone = dt.timezone(dt.timedelta(hours=2))
    with stream.writer(linger="1h") as writer:
        for ts in (T0, T0.replace(tzinfo=None), T0.astimezone(zone)):
            writer.send(ts=ts)
    assert stream.to_polars()["ts"].to_list() == [T0] * 3


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.timestamp("ms", "UTC"), T0.replace(microsecond=5)),
        (pa.timestamp("us"), T0),
        (pa.int64(), 1.5),
        (pa.int64(), True),
        (pa.float32(), 0.1),
        (pa.string(), 1),
        (pa.date32(), T0),
    ],
)
def test_the_fast_way_takes_nothing_that_would_change(kind, value):
    """What Arrow would round, cut or reinterpret is left to the way that looks at each value."""
    with pytest.raises(TypeError):
        columns_of([value], ["x"], pa.schema([("x", kind)]))


def test_a_promise_of_no_nulls_holds_for_events(lab):
    """An event without a value that is required is bad, the others are not."""
    schema = pa.schema([pa.field("n", pa.int64(), nullable=False), ("name", pa.string())])
    stream = lab.create("strict", schema)
    with stream.writer(linger="1h") as writer:
        writer.send(n=1)
        writer.send(name="x")
        writer.send(n=3, name="z")
        with pytest.raises(sl.SchemaMismatch, match="event 1 "):
            writer.flush()
    assert stream.to_polars()["n"].to_list() == [1, 3]
