"""Nexmark: each of its queries gives, over closed streams, the rows that batch SQL gives."""

import sys
from pathlib import Path

import polars as pl
import pytest

import streamlab as sl

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import nexmark  # noqa: E402
from benchmarks.nexmark_data import DISORDER_US, START_US, STEP_US, chunks, generate  # noqa: E402
from benchmarks.nexmark_queries import QUERIES, Nexmark  # noqa: E402

EVENTS = 20_000


@pytest.fixture(scope="module")
def events():
    return generate(EVENTS)


@pytest.fixture(scope="module")
def lab(events, tmp_path_factory):
    with nexmark.loaded(tmp_path_factory.mktemp("nexmark") / "lab", events, chunk=3_000) as lab:
        yield lab


@pytest.fixture(scope="module")
def connection(events):
    with nexmark.database(events) as connection:
        yield connection


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_gives_what_batch_sql_gives(name, lab, connection):
    """A job into a derived stream leaves there the rows of DuckDB's answer."""
    got = nexmark.answer(lab, connection, name)
    assert got.equal, got.difference
    assert got.rows_out > 0


@pytest.mark.parametrize("name", QUERIES)
def test_a_collect_gives_what_batch_sql_gives(name, lab, connection):
    """The final rows of a collect are those of DuckDB's answer."""
    wanted = pl.DataFrame(connection.sql(QUERIES[name].batch).to_arrow_table())
    found = QUERIES[name].build(Nexmark.of(lab)).collect("final")
    assert nexmark.differences(found, wanted) is None


def begun(lab):
    """Start every query as a job, or let it go on."""
    return {
        name: query.build(Nexmark.of(lab)).run(into=f"{name}_live")
        for name, query in QUERIES.items()
    }


def test_all_queries_live_at_once(events, connection, tmp_path):
    """Jobs that run before the first event, stop, and go on in another lab give what SQL gives."""
    parts = list(chunks(events, 5_000))
    with sl.open(tmp_path / "lab", sync="os") as lab:
        nexmark.create(lab, events)
        jobs = begun(lab)
        for name, frame in parts[: len(parts) // 2]:
            lab[name].append(frame)
        jobs["q5_top"].wait(timeout=120)
        for job in jobs.values():
            job.stop()
            assert job.status == "stopped", job
    with sl.open(tmp_path / "lab", sync="os") as lab:
        jobs = begun(lab)
        for name, frame in parts[len(parts) // 2 :]:
            lab[name].append(frame)
        for name in nexmark.KEYS:
            lab[name].advance("end")
        for name, job in jobs.items():
            job.wait(timeout=120)
            wanted = pl.DataFrame(connection.sql(QUERIES[name].batch).to_arrow_table())
            found = lab[f"{name}_live"].to_polars()
            assert nexmark.differences(found, wanted) is None, name


def test_the_log_of_q10_becomes_folders(lab, tmp_path):
    """Its rows are written to a folder for each day, all of them."""
    found = QUERIES["q10"].build(Nexmark.of(lab)).collect("final")
    sl.export(found, tmp_path / "bids", format="parquet", partition_by=["day"])
    days = sorted(path.name for path in (tmp_path / "bids").iterdir() if path.is_dir())
    assert days == ["day=2026-01-05", "day=2026-01-06"]
    assert pl.read_parquet(tmp_path / "bids" / "**" / "*.parquet").height == found.height


def test_nothing_is_late(lab):
    """The disorder of the events is within the delay of the streams."""
    assert QUERIES["q12"].build(Nexmark.of(lab)).late().is_empty()


def test_a_difference_is_seen(connection):
    """A changed value, a lost row, a row twice, a lost column are told; rounding and order are not."""
    wanted = pl.DataFrame(connection.sql(QUERIES["q4"].batch).to_arrow_table())
    average = pl.col("average")
    assert nexmark.differences(wanted.reverse().with_columns(average * (1 + 1e-15)), wanted) is None
    spoilt = [
        wanted.with_columns(average * 1.0001),
        wanted.with_columns(pl.col("category") + 1),
        wanted[1:],
        pl.concat([wanted[:1], wanted[:-1]]),
        wanted.drop("window_start"),
    ]
    assert all(nexmark.differences(found, wanted) for found in spoilt)


def test_events_are_what_nexmark_says(events):
    """People, auctions and bids stand 1:3:46; a bid is on an auction that was there before it."""
    assert [frame.height for _, frame in events.items()] == [EVENTS * n // 50 for n in (1, 3, 46)]
    whole = pl.concat([f.select("event", "date_time") for _, f in events.items()]).sort("event")
    assert whole["event"].to_list() == list(range(EVENTS))
    lag = START_US + whole["event"] * STEP_US - whole["date_time"].cast(pl.Int64)
    assert -STEP_US <= lag.min() < 0 < lag.max() <= DISORDER_US
    bids = events.bids.join(events.auctions, left_on="auction", right_on="id", how="left")
    assert (bids["event"] > bids["event_right"]).all()
    sellers = events.auctions.join(events.people, left_on="seller", right_on="id", how="left")
    assert (sellers["event"] > sellers["event_right"]).all()
    hot = events.bids["auction"].value_counts(sort=True)["count"]
    assert hot[0] > 20 * hot.median()


def test_the_seed_says_all(events):
    """The same seed gives the same events, another one others."""
    again, other = generate(EVENTS), generate(EVENTS, seed=1)
    for (_, one), (_, two), (_, three) in zip(
        events.items(), again.items(), other.items(), strict=True
    ):
        assert one.equals(two)
        assert not one.equals(three)


def test_chunks_are_all_events_in_order(events):
    """The events come whole, in order, whatever the size of a chunk."""
    for name, whole in events.items():
        parts = [frame for of, frame in chunks(events, 777) if of == name]
        assert len(parts) > 10
        assert pl.concat(parts).equals(whole)


def test_the_page_lists_each_query():
    """docs/nexmark.md has a line for each query, and says what was adapted where something was."""
    page = (ROOT / "docs" / "nexmark.md").read_text()
    lines = {
        line.split("|")[1].strip(): line for line in page.splitlines() if line.startswith("| q")
    }
    assert set(lines) == set(QUERIES)
    for name, query in QUERIES.items():
        assert query.title in lines[name]
        assert query.adapted in lines[name], name


def test_the_table_is_printed(capsys):
    """The command's table says of each query that the rows are equal."""
    nexmark.table(2_000, 500, ["q1", "q5"])
    printed = capsys.readouterr().out
    assert printed.count(" yes ") == 2
    assert "Hot items" in printed
