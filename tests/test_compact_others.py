"""What forks, archives, tables, replays and consumer groups make of a stream that was compacted."""

import pytest
from test_compact import BASE, STEP, grown, instant, left, more, offsets

import streamlab as sl
from streamlab import fold


def state(stream):
    return sorted(stream.table().to_polars().rows())


def uncompacted(lab, **options):
    """A stream of sixty rows that nobody compacts until the hold "test" is let go."""
    stream = grown(lab, rows=0, **options)
    stream._scan.log.hold("test", 0)
    return more(stream, 60)


def compacted(lab, name="s"):
    """A stream whose offsets below 60 hold the last row of each of five keys, and five rows more."""
    stream = grown(lab, name=name)
    assert stream.compact().compacted_upto == 60
    return more(stream, 5)


def test_a_fork_of_a_compacted_stream_is_whole_without_it(lab):
    """It has the same rows and the same state, says how far it is compacted, and goes its own way."""
    stream = compacted(lab)
    fork = stream.fork("f")
    assert left(fork) == left(stream)
    assert state(fork) == state(stream)
    assert fork.stats().compacted_upto == 60
    with pytest.raises(sl.QueryError, match="compacted up to offset 60"):
        fork.to_polars()
    want, rows = state(stream), left(stream)
    lab.drop("s")
    assert (state(fork), left(fork)) == (want, rows)
    assert more(fork, 3).end_offset == 68
    assert lab.verify().ok


def test_a_fork_ends_at_or_above_what_is_compacted(lab):
    """Below it nobody knows any more which rows were there."""
    stream = compacted(lab)
    assert offsets(stream.fork("at", at=60).view(compacted="ok")) == [55, 56, 57, 58, 59]
    assert offsets(stream.fork("on", at=63).offsets(60)) == [60, 61, 62]
    with pytest.raises(sl.OffsetOutOfRange, match="compacted up to 60"):
        stream.fork("below", at=30)
    assert "below" not in lab


def test_a_compacted_stream_unpacks_as_it_was(lab, tmp_path):
    """Rows, offsets, state and how far it is compacted come back; so does what was not compacted."""
    stream = compacted(lab)
    lab.pack(tmp_path / "s.zip")
    with sl.unpack(tmp_path / "s.zip", tmp_path / "other") as other:
        there = other["s"]
        assert left(there) == left(stream)
        assert state(there) == state(stream)
        assert there.stats().compacted_upto == 60
        assert other.verify().ok
    lab.pack(tmp_path / "new.zip", stream.offsets(60))
    with sl.unpack(tmp_path / "new.zip", tmp_path / "newer") as other:
        assert offsets(other["s"]) == [60, 61, 62, 63, 64]


def _with_snapshot_and_deletion(lab, monkeypatch):
    """A stream with a table snapshot of a key that was deleted later, the deletion compacted away."""
    monkeypatch.setattr(fold, "SPACING_ROWS", 7)
    monkeypatch.setattr(fold, "SPACING_KEYS", 1)
    settings = sl.Settings(segment_bytes=65_536, delete_retention="0s")
    stream = uncompacted(lab, settings=settings)
    assert 3 in stream.table().to_polars()["k"]  # which leaves snapshots
    assert list((stream._scan.log.folder / "snapshots").iterdir())
    stream._scan.log.release("test")
    stream.delete(3)
    for _ in range(3):  # a deletion goes at the pass after the one that saw it
        stream.compact()
        stream.append({"ts": [instant(BASE + 99 * STEP)], "k": [2], "n": [99]})
        stream.seal()
    assert not stream.view(compacted="ok").to_polars().filter(_deleted=True).height
    return stream


def test_snapshots_from_before_a_compaction_bring_nothing_back(lab, monkeypatch):
    """A key whose deletion is gone does not come back from what was written before it."""
    stream = _with_snapshot_and_deletion(lab, monkeypatch)
    assert stream.table().get(3) is None
    assert 3 not in stream.table().to_polars()["k"]


def test_snapshots_that_are_used_all_the_same_are_found_out(lab, monkeypatch):
    """The control: were they not left aside, the key would be back."""
    stream = _with_snapshot_and_deletion(lab, monkeypatch)
    real = fold.Fold.__init__

    def careless(self, *arguments, **options):
        real(self, *arguments, **options)
        self._compacted = 0

    monkeypatch.setattr(fold.Fold, "__init__", careless)
    assert 3 in stream.table().to_polars()["k"]


def test_replays_begin_where_all_rows_are(lab):
    """From the compacted part there is no replay; after it there is, with all that comes."""
    compacted(lab)
    with pytest.raises(sl.QueryError, match="compacted up to offset 60"):
        lab.replay("s")
    with pytest.raises(sl.QueryError, match="compacted up to offset 60"):
        lab.replay("s", start=instant(BASE + 30 * STEP))
    with lab.replay("s", start=instant(BASE + 60 * STEP), speed=float("inf")) as replay:
        replay.play().wait(10)
        assert offsets(replay["s"].offsets(60)) == [60, 61, 62, 63, 64]
        assert replay["s"].table().get(4)["n"] == 64


def test_groups_read_on_behind_a_compaction(lab):
    """One that has read what was compacted goes on; one that has not is told."""
    stream = uncompacted(lab)
    with stream.consumer("far") as far:
        assert far.poll(timeout=0).num_rows == 60
        far.commit()
    with stream.consumer("near") as near:
        near.poll(rows=10, timeout=0)
        near.commit()
    stream._scan.log.release("test")
    stream.compact()
    more(stream, 5)
    with stream.consumer("far") as far:
        assert far.poll(timeout=0)["n"].to_pylist() == [60, 61, 62, 63, 64]
    with stream.consumer("near") as near:
        with pytest.raises(sl.QueryError, match="compacted up to offset 60"):
            near.poll(timeout=0)
        near.seek(60)
        assert near.poll(timeout=0).num_rows == 5
