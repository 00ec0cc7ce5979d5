"""Counter-examples to queries and jobs that were found once, each a test of its own."""

import datetime as dt
import math
import random

import duckdb
import numpy as np
import polars as pl
import pytest

import streamlab as sl
from streamlab.engines import joins, local, sliding
from streamlab.testing import temp_lab

BASE = dt.datetime(2026, 1, 5, 9, 30, tzinfo=dt.UTC)


@pytest.fixture
def lab():
    with temp_lab() as made:
        yield made


@pytest.fixture
def stream(lab):
    frame = pl.DataFrame(
        {
            "ts": [BASE + dt.timedelta(seconds=n) for n in range(100)],
            "k": ["ab"[n % 2] for n in range(100)],
            "i": list(range(100)),
        }
    )
    return lab.create("events", frame, time="ts")


def counting(stream, size="10s"):
    return stream.window(sl.tumbling(size), by="k").agg(n=pl.len())


# -- jobs ----------------------------------------------------------------------------------------


def test_restart_never_drops_a_stream_that_is_not_the_results_of_the_job(lab, stream):
    """Neither a user's stream nor the source itself is taken, begun anew or remembered for it."""
    lab.create("mine", {"a": [1]})
    for name in ("mine", "events"):
        for options in ({}, {"restart": True}, {"restart": True}):
            with pytest.raises(sl.StreamExists, match="not the result of job"):
                counting(stream).run(name, **options)
    assert sorted(lab) == ["events", "mine"]
    assert (len(lab["events"]), len(lab["mine"]), lab.jobs.known()) == (100, 1, [])


def test_restart_never_drops_a_table_that_is_not_the_results_of_the_job(lab, stream):
    """A table that the user made stays; the job's own is kept beside when it begins anew."""
    path = str(lab.path.parent / "x.duckdb")
    with duckdb.connect(path) as connection:
        connection.execute("CREATE TABLE mine AS SELECT 1 AS a")
    with pytest.raises(sl.QueryError, match=r"(?s)already exists.*another table"):
        counting(stream).run(sl.duckdb(path, table="mine"), restart=True)
    assert lab.jobs.known() == []
    for size in ("10s", "20s"):
        counting(stream, size).run(sl.duckdb(path, table="t"), restart=True).wait(10).stop()
    with duckdb.connect(path) as connection:
        counts = [connection.execute(f'SELECT count(*) FROM "{t}"').fetchall()[0][0]
                  for t in ("mine", "t", "t.generation-1")]  # fmt: skip
    assert counts == [1, 8, 18]


def test_two_queries_without_a_sink_are_two_jobs(lab, stream):
    """Results held in memory have no name of their own, and are not mixed up for that."""
    one, two = counting(stream).run(), counting(stream, "20s").run()
    assert one is not two
    assert (one.wait(10).frame().height, two.wait(10).frame().height) == (18, 8)
    assert counting(stream).run() is one


def test_a_function_that_exits_fails_its_job(lab, stream):
    """Neither the job nor who waits for it ends the process."""

    def sink(frame):
        raise SystemExit(3)

    job = counting(stream).run(sink)
    with pytest.raises(sl.QueryError, match="SystemExit: 3"):
        job.wait(10)
    assert job.status == "failed"


def test_the_owner_of_a_derived_stream_is_named(lab, stream):
    """Who runs a named job without its name is told the name."""
    counting(stream).run("out", name="counts").wait(10).stop()
    with pytest.raises(sl.StreamExists, match='name="counts"'):
        counting(stream).run("out")


def heartbeat(stream, seconds):
    stream.advance(BASE + dt.timedelta(seconds=seconds))


def later(first, count):
    return pl.DataFrame({
        "ts": [BASE + dt.timedelta(seconds=first + n) for n in range(count)],
        "k": ["a"] * count, "i": list(range(count)),
    })  # fmt: skip


@pytest.mark.parametrize("end", [False, True])
def test_a_heartbeat_that_comes_while_a_job_is_stopped_closes_its_windows(lab, stream, end):
    """What is closed by a heartbeat right after the last row read is delivered after the resume."""
    counting(stream).run("out").wait(10).stop()
    stream.advance("end") if end else heartbeat(stream, 200)
    counting(stream).run("out").wait(10).stop()
    assert lab["out"].to_polars()["n"].sum() == 100


def test_a_heartbeat_that_a_job_has_read_closes_windows_once(lab, stream):
    """Rows that come after it while the job is stopped do not open those windows again."""
    query = stream.window(sl.session("1s"), by="i").agg(n=pl.len())
    job = query.run("out").wait(10)
    heartbeat(stream, 200)
    job.wait(10).stop()
    stream.append(later(300, 5))
    query.run("out").wait(10).stop()
    assert lab["out"].to_polars()["i"].len() == 100 + 4
    assert (
        lab["out"]
        .to_polars()
        .equals(lab["out"].to_polars().unique("window_start", maintain_order=True))
    )


def test_a_delivery_to_a_function_is_made_again_as_it_was(lab, stream):
    """A heartbeat, or rows, that came after the delivery failed are not in its repetition."""
    got, broken = [], [True]

    def sink(frame, epoch):
        got.append((epoch, frame))
        if broken[0]:
            raise ValueError("no room")

    with pytest.raises(ValueError, match="no room"):
        counting(stream).run(sink).wait(10)
    heartbeat(stream, 200)
    broken[0] = False
    counting(stream).run(sink).wait(10).stop()
    (first, one), (again, two), *rest = got
    assert first == again
    assert one.equals(two)
    assert [epoch for epoch, _ in rest] == [first + 1]


def test_results_are_wanted_from_the_start_on_whatever_comes_before_the_first_row(lab, stream):
    """``start="end"`` is the place and the stream time at the call, also if the job starts later."""
    query = counting(stream)
    job = query.run("out", start="end")
    heartbeat(stream, 200)
    job.wait(10).stop()
    assert lab["out"].to_polars()["n"].to_list() == [5, 5]


# -- results -------------------------------------------------------------------------------------


def test_a_sliding_window_sees_each_row_of_a_join_once(stream):
    """Rows that a frame has made two of have one offset, and are two rows all the same."""
    frame = pl.DataFrame({"k": ["a", "a"], "v": [1, 2]})
    joined = stream.join(frame, on="k").window(sl.sliding("3s"), by="k")
    found = joined.agg(n=pl.len(), last=pl.col("v").last(), m=pl.col("v").median()).collect("final")
    assert found["n"].to_list()[:6] == [2, 2, 4, 4, 4, 4]
    assert found["last"].to_list() == [2] * found.height
    assert found["m"].to_list() == [1.5] * found.height


def test_rows_that_a_join_multiplies_are_late_once(lab):
    """rows_in = accepted + rows_late, also where one late row has become several."""
    stream = lab.create("events", later(0, 10).vstack(later(0, 5)), time="ts")
    frame = pl.DataFrame({"k": ["a", "a", "a"]})
    query = stream.join(frame, on="k").window(sl.tumbling("5s")).agg(n=pl.len())
    progress = query.run("out").wait(10).stop().progress
    assert (progress.rows_in, progress.rows_late) == (15, 5)


def test_a_table_whose_first_deletion_comes_while_a_job_runs(lab, stream):
    """A deleted key is no row of the table, also for a job that began before there was a deletion."""
    ref = lab.create("ref", {"k": ["a"], "v": [1]}, key="k")
    job = stream.join(ref.table(), on="k").run("out").wait(10)
    stream.append(later(100, 1))
    job.wait(10)
    ref.delete("a")
    stream.append(later(101, 2))
    job.wait(10)
    assert lab["out"].to_polars()["v"].to_list() == [1]


def test_late_rows_of_a_join_may_have_other_types(lab, stream):
    """Both sides' late rows are told, whatever their columns are."""
    times = [BASE + dt.timedelta(seconds=n) for n in (50, 0)]
    other = pl.DataFrame({"ts": times, "k": ["a", "a"], "i": ["x", "y"]})
    right = lab.create("other", other.cast({"ts": pl.Datetime("ms", "UTC")}), time="ts")
    stream.append(later(3, 1))
    late = stream.join(right, on="k", within=("-1s", "1s")).late()
    assert late["i"].to_list() == [0, None]
    assert late["i_right"].to_list() == [None, "y"]


def test_open_windows_after_a_join_hold_no_late_rows(lab):
    """A left row that waits and will be late for its window is not shown in it."""
    left = lab.create("left", later(0, 10).vstack(later(0, 1)), time="ts")
    right = lab.create("right", later(0, 1).drop("i"), time="ts")
    query = left.join_asof(right, by="k").window(sl.tumbling("5s")).agg(n=pl.len())
    assert query.collect()["n"].to_list() == [5, 5]
    right.advance("end")
    left.advance("end")
    with pytest.warns(UserWarning, match="1 of 12 rows"):
        assert query.collect("final")["n"].to_list() == [5, 5]


def test_top_is_per_window_also_where_the_end_of_the_window_is_dropped(stream):
    """Cumulative windows that begin together are told apart by their ends, however they close."""
    counts = stream.window(sl.cumulative("1m", "10s"), by="k").agg(n=pl.len())
    best = counts.select("k", "window_start", "n").top(1, "n")
    assert best.collect("final").height == counts.top(1, "n").collect("final").height == 9


def test_a_table_is_joined_to_rows_of_a_stream_only(lab, stream):
    """The result of a window was never appended: it meets no state of the table."""
    ref = lab.create("ref", {"k": ["a"], "v": [1]}, key="k")
    with pytest.raises(
        sl.QueryError, match=r"(?s)result of a window was not.*run it into a stream"
    ):
        counting(stream).join(ref.table(), on="k")


def test_windows_over_partial_windows_are_partial(stream):
    """Two steps say `_partial` where one step would; a sliding window says it too."""
    view = stream.offsets(35, 90)
    once = view.window(sl.tumbling("20s")).agg(n=pl.len())
    inner = view.window(sl.tumbling("10s")).agg(n=pl.len())
    twice = inner.window(sl.tumbling("20s")).agg(n=pl.col("n").sum().cast(pl.UInt32))
    assert twice.collect().equals(once.collect())
    assert once.collect()["_partial"].to_list() == [True, False, False, False]
    sliding = view.window(sl.sliding("10s")).agg(n=pl.len()).collect()
    assert sliding["_partial"].to_list() == [True] * 9 + [False] * 46


def test_comparing_counts_rows(lab, stream):
    """A row that one side has twice is a difference, once."""
    twice = stream.join(pl.DataFrame({"k": ["a", "b", "b"]}), on="k").select("k", "i")
    found = twice.compare(stream.select("k", "i"))
    assert (found.height, found["_side"].unique().to_list()) == (50, ["left"])


def test_rows_are_unique_by_every_kind_of_key(lab, stream):
    """NaN is NaN, 0.0 is -0.0, null is a key, lists are told apart, near times are kept in order."""
    times = [BASE + dt.timedelta(seconds=n) for n in (0, 9, 4, 4, 13, 20, 5)]
    keys = [float("nan"), float("nan"), 0.0, -0.0, None, None, float("nan")]
    frame = pl.DataFrame({"ts": times, "f": keys, "l": [[1], [1], [1], [2], [1], [1], [1]]})
    made = lab.create("mixed", frame, time="ts")
    assert made.unique("f", within="5s").collect()["_offset"].to_list() == [0, 1, 2, 4, 5]
    assert made.unique(["f", "l"]).collect()["_offset"].to_list() == [0, 2, 3, 4]
    assert made.unique("l").collect()["_offset"].to_list() == [0, 3]
    near = pl.Series([1, 2, 1])
    for kind in (pl.Datetime("ns"), pl.Duration("ns"), pl.Time):
        fine = lab.create(
            f"{kind}"[:4], pl.DataFrame({"ts": times[:3], "k": near.cast(kind)}), time="ts"
        )
        assert fine.unique("k").collect()["_offset"].to_list() == [0, 1]
    zeros = lab.create(
        "zeros", pl.DataFrame({"ts": times[:2], "z": [{"p": 0.0}, {"p": -0.0}]}), time="ts"
    )
    assert zeros.unique("z").collect().height == 1


def test_columns_that_a_stream_gets_while_a_job_runs_are_not_the_querys(lab, stream):
    """An evolved stream goes through running jobs of every kind; a query made anew has them."""
    queries = {
        "rows": stream.filter(pl.col("i") >= 0),
        "sliding": stream.window(sl.sliding("5s")).agg(n=pl.len()),
        "joined": stream.join_asof(stream, by="k"),
    }
    jobs = [query.run(name).wait(10) for name, query in queries.items()]
    more = later(100, 10).with_columns(z=pl.lit(1))
    stream.evolve(more.to_arrow().schema)
    stream.append(more)
    for job in jobs:
        assert job.wait(10).stop().progress.rows_in >= 110
    with pytest.raises(sl.QueryError, match=r"(?s)another query:\n  \+ column z Int32"):
        lab["events"].filter(pl.col("i") >= 0).run("rows")


# -- mistakes ------------------------------------------------------------------------------------

MISTAKES = [
    (lambda s: s.filter(pl.len() > 3), "Len is an aggregation"),
    (lambda s: s.filter(lambda row: row), "filter takes Polars expressions"),
    (lambda s: s.filter(pl.col("ts") > dt.datetime(2026, 1, 5)), "(?s)aware datetime"),
    (lambda s: s.window(sl.tumbling("9" * 400 + "d")), "more than 100,000 years"),
    (lambda s: s.window(sl.tumbling("1m"), delay="9999999999999d"), '(?s)more than.*delay="inf"'),
    (lambda s: s.window(sl.tumbling("1m"), delay="infinity"), '(?s)delay="inf"'),
    (lambda s: s.window(sl.tumbling("1m"), by=5), "names of columns; got 5"),
    (lambda s: counting(s).window(sl.tumbling("1m"), by="window_start"), "rename it"),
    (lambda s: s.window(sl.tumbling("1m")).agg(a="i"), "takes Polars expressions; got 'i'"),
    (lambda s: s.window(sl.tumbling("1m")).agg(a=len), "takes Polars expressions"),
    (lambda s: s.window(sl.tumbling("1m")).agg(_final=pl.len()), "name of another column"),
    (lambda s: s.window(sl.tumbling("1m")).agg(pl.col("k").cast(pl.Int64).sum()).collect(),
     "conversion from `str`"),
    (lambda s: s.window(sl.tumbling("1m")).agg(pl.col("k").cast(pl.Int64).median()).collect(),
     "conversion from `str`"),
    (lambda s: counting(s).follow(emit="all"), 'emit is "final" or "changes"'),
    (lambda s: counting(s).top(1, ["n"]), "order is one column"),
    (lambda s: counting(s).top(1, 5), "order is one column"),
    (lambda s: s.join(s, on="k", within="5m"), r"within is \(low, high\)"),
    (lambda s: s.map_batches(lambda f: f, ["i"]), "schema maps names"),
    (lambda s: counting(s).trace(k=5), "is String; 5 cannot be"),
    (lambda s: counting(s).trace(k=["a"]), "cannot be one of its values"),
    (lambda s: counting(s).compare(5), "compare takes"),
    (lambda s: counting(s).compare(s.window(sl.tumbling("10s"), by="k").agg(n=pl.col("k").min())),
     "differ in the type of 'n'"),
    (lambda s: s.sql("SELECT i, i FROM this"), "two columns are named 'i'"),
    (lambda s: s.sql("SELECT ts - ts AS gap FROM this"), "(?s)INTERVAL.*epoch_us"),
    (lambda s: s.sql("SELECT i AS _offset FROM this"), "system column"),
    (lambda s: s.sql("SELECT * REPLACE (1 AS _offset) FROM this"), "name of a system column"),
    (lambda s: s.sql("SELECT i FROM this TABLESAMPLE 3 ROWS"), "SAMPLE"),
]  # fmt: skip


@pytest.mark.parametrize(("mistake", "said"), MISTAKES, ids=[said for _, said in MISTAKES])
def test_a_mistake_is_named_with_the_way_out(stream, mistake, said):
    """No error of a library below comes through, and nothing wrong is answered."""
    with pytest.raises(sl.StreamlabError, match=said):
        mistake(stream)


def test_text_names_a_column_as_in_polars(stream):
    """``with_columns(z="i")`` is the column, not the letter."""
    assert stream.with_columns(z="i").collect()["z"].sum() == sum(range(100))


TUMBLE = "FROM tumble(events, INTERVAL '10 seconds')"
CUMULATE = "FROM cumulate(events, INTERVAL '1 minute', INTERVAL '10 seconds')"
JOINING = [
    f"SELECT window_start, window_end, k, count(*) {TUMBLE} GROUP BY ROLLUP (window_start, window_end, k)",
    f"SELECT window_start, k, count(*) {TUMBLE} GROUP BY GROUPING SETS ((window_start), (k))",
    f"SELECT date_trunc('minute', window_start) AS window_start, count(*) {TUMBLE} GROUP BY 1",
    f"SELECT DISTINCT date_trunc('minute', window_end) AS window_end {TUMBLE}",
    f"SELECT DISTINCT ON (k) window_start, k {TUMBLE}",
    f"SELECT window_end, row_number() OVER (PARTITION BY date_trunc('minute', window_end)) {TUMBLE}",
    f"SELECT window_start, count(*) {CUMULATE} GROUP BY window_start",
    f"SELECT window_end, row_number() OVER (PARTITION BY window_start) {CUMULATE}",
    "SELECT window_start, count(*) FROM session(events, INTERVAL '3 seconds', k) GROUP BY ALL",
    f"SELECT k, window_start AS at, count(*) AS window_end {TUMBLE} GROUP BY ALL",
    f"SELECT window_end, i {TUMBLE} TABLESAMPLE 3 ROWS",
    f"WITH w AS (SELECT i AS window_end {TUMBLE}) SELECT window_end, count(*) FROM w GROUP BY ALL",
]


@pytest.mark.parametrize("text", JOINING)
def test_sql_that_joins_windows_which_close_apart_is_refused(lab, stream, text):
    """What such a statement gives would depend on which windows happen to close together."""
    with pytest.raises(sl.QueryError):
        lab.query(text)


def test_a_window_over_windows_is_traced_to_the_log(lab):
    """The rows behind a window over windows are those of the log, each once, by their offsets."""
    rows = {"ts": [BASE + dt.timedelta(seconds=s) for s in range(0, 240, 7)]}
    rows |= {"k": ["ab"[n % 2] for n in range(35)], "x": list(range(35))}
    stream = lab.create("s", rows, time="ts")
    inner = stream.window(sl.tumbling("10s"), by="k").agg(n=pl.len(), x=pl.col("x").sum())
    outer = inner.filter(pl.col("n") > 0).window(sl.tumbling("1m"), by="k").agg(x=pl.col("x").sum())
    for row in outer.collect("final").to_dicts():
        behind = outer.trace(k=row["k"], window_start=row["window_start"])
        assert behind["x"].sum() == row["x"]
        assert behind["_offset"].is_sorted() and behind["_offset"].is_unique().all()
        assert behind["ts"].is_between(row["window_start"], row["window_end"], closed="left").all()
    assert outer.trace(k="a", window_start=BASE - dt.timedelta(days=1)).height == 0


def test_late_pairs_are_no_late_rows(lab):
    """Pairs that come too late for a window after a join are shown, and not counted as rows read."""
    at = lambda *s: [BASE + dt.timedelta(seconds=x) for x in s]  # noqa: E731
    left = lab.create("l", {"ts": at(0, 100, 200, 1), "k": [1, 1, 1, 1]}, time="ts", delay="1h")
    right = lab.create("r", {"ts": at(0, 100, 200, 1), "k": [1, 1, 1, 1]}, time="ts", delay="1h")
    pairs = left.join(right, on="k", within=("-5s", "5s"))
    query = pairs.window(sl.tumbling("10s"), delay="0s").agg(n=pl.len())
    job = query.run(follow=False).wait(10, caught_up=False)
    assert query.late().height > 0
    assert (job.progress.rows_in, job.progress.rows_late) == (8, 0)


# -- sums ----------------------------------------------------------------------------------------


def test_small_values_outlive_large_ones_in_overlapping_windows(lab):
    """A sum that is kept rolling takes large values away again, and small ones with them."""
    rng = np.random.default_rng(1)
    values = rng.standard_normal(5000) * 10.0 ** rng.uniform(0, 16, 5000)
    ts = [BASE + dt.timedelta(seconds=n) for n in range(len(values))]
    stream = lab.create("magnitudes", pl.DataFrame({"ts": ts, "v": values}), time="ts")
    wanted = [math.fsum(values[max(n - 2, 0) : n + 1]) for n in range(len(values))]
    size = [np.abs(values[max(n - 2, 0) : n + 1]).sum() for n in range(len(values))]
    for window in (sl.sliding("3s"), sl.hopping("3s", every="1s")):
        query = stream.window(window).agg(total=pl.col("v").sum())
        found = query.collect()["total"].to_numpy()[: len(values)]
        assert (np.abs(found - wanted) <= 1e-14 * np.array(size)).all()


def test_a_long_sliding_window_of_many_keys(lab):
    """Nothing is laid end to end that does not fit: a window of 900 years, and 2,000 keys."""
    keys = [n % 2000 for n in range(4000)]
    ts = [BASE + dt.timedelta(seconds=n) for n in range(4000)]
    stream = lab.create("many", pl.DataFrame({"ts": ts, "k": keys, "v": [1] * 4000}), time="ts")
    found = stream.window(sl.sliding("330000d"), by="k").agg(n=pl.col("v").sum()).collect()
    assert found["n"].to_list() == [1] * 2000 + [2] * 2000


def test_a_step_of_a_sliding_window_looks_at_what_comes_in_it(lab, monkeypatch):
    """Not at everything that is held: 18,000 rows are, and 500 come at a time."""
    count = 20_000
    ts = [BASE + dt.timedelta(milliseconds=50 * n) for n in range(count)]
    stream = lab.create("t", pl.DataFrame({"ts": ts, "v": range(count)}), time="ts")
    monkeypatch.setattr(local, "EPOCH_ROWS", 500)
    looked_at = []
    reduced = sliding.reduced

    def counted(rows, keys, *more):
        looked_at.append(rows.height)
        return reduced(rows, keys, *more)

    monkeypatch.setattr(sliding, "reduced", counted)
    found = stream.window(sl.sliding("15m")).agg(n=pl.col("v").sum()).collect()
    sums = [sum(range(max(n - 17_999, 0), n + 1)) for n in (0, 1, 17_999, 18_000, count - 1)]
    assert found["n"][[0, 1, 17_999, 18_000, count - 1]].to_list() == sums
    assert sum(looked_at) < 5 * count


@pytest.mark.parametrize("kind", ["short", "short, joins in a row", "endless"])
def test_a_window_after_an_as_of_join_waits_for_left_rows_that_wait(lab, kind):
    """The left row at 9s waits for the right side: whatever the delay is, no window closes before it."""
    at = [BASE + dt.timedelta(seconds=n) for n in (9, 30, 5, 50)]
    own, waits = ("inf", None) if kind == "endless" else ("10s", "0s")
    left = lab.create("a", {"ts": at[:1], "k": ["x"]}, time="ts", delay=own)
    right = lab.create("b", {"ts": at[2:3], "k": ["x"], "v": [1]}, time="ts")
    both = left.join_asof(right, by="k")
    if kind == "short, joins in a row":
        ahead = lab.create("c", {"ts": at[3:], "k": ["x"], "w": [3]}, time="ts")
        both = both.join_asof(ahead, by="k")
    query = both.window(sl.tumbling("10s"), delay=waits).agg(v=pl.col("v").sum())
    job = query.run("out")
    if kind == "endless":
        left.advance("end")
    else:
        left.append({"ts": at[1:2], "k": ["x"]})
    job.wait(30)
    assert len(lab["out"]) == 0
    right.append({"ts": at[3:], "k": ["x"], "v": [2]})
    right.advance("end")
    assert job.wait(30).stop().progress.rows_late == 0
    assert lab["out"].to_polars()["v"].to_list()[:1] == [1]
    assert query.collect("final")["v"].to_list()[:1] == [1]


@pytest.mark.filterwarnings("ignore:.*late")
@pytest.mark.parametrize("kind", ["as of", "interval"])
@pytest.mark.parametrize("seed", [1, 2])
def test_windows_over_a_derived_stream_of_a_join_call_no_row_late_that_is_not(lab, kind, seed):
    """Joins give rows in an order of their own: one that came late moves no time past those that wait."""
    draw = random.Random(seed)
    lists, schema = [], {"ts": pl.Datetime("us", "UTC"), "k": pl.String, "i": pl.Int64}
    for name in ("a", "b"):
        lab.create(name, pl.DataFrame(schema=schema), time="ts", delay="2s")
        now, rows = 0.0, []
        for number in range(200):
            now += 2 * draw.random()
            behind = draw.random() * (3 if draw.random() < 0.8 else 30)
            rows.append((BASE + dt.timedelta(seconds=now - behind), draw.choice("xy"), number))
        lists.append(pl.DataFrame(rows, schema=schema, orient="row"))

    left, right = lab["a"], lab["b"]
    both = (
        left.join_asof(right, by="k", tolerance="30s") if kind == "as of"
        else left.join(right, on="k", within=("-3s", "4s"))
    )  # fmt: skip

    def windows(of):
        counted = of.window(sl.tumbling("10s"), by="k")
        return counted.agg(pairs=pl.struct("i", "i_right").sort()).collect("final")

    def pairs(found):
        return {tuple(pair.values()) for row in found["pairs"] for pair in row}

    job = both.run("both")
    while any(rows.height for rows in lists):
        for at, name in enumerate(("a", "b")):
            many = draw.randint(1, 8)
            if lists[at].height:
                lab[name].append(lists[at].head(many))
            lists[at] = lists[at].slice(many)
            job.wait(30)
    for name in ("a", "b"):
        lab[name].advance("end")
    job.wait(30).stop()
    direct, chained = windows(both), windows(lab["both"])
    assert pairs(direct) <= pairs(chained)
    if kind == "interval":  # whose rows are none of them late
        assert chained.equals(direct)


def summed(of, column="n"):
    return of.window(sl.tumbling("2s")).agg(n=pl.col(column).sum())


OVER_OPEN = {
    "sliding over windows": lambda a, b: summed(a).window(sl.sliding("5s")).agg(m=pl.col("n").max()),
    "medians over windows": lambda a, b: summed(a).window(sl.sliding("5s")).agg(m=pl.col("n").median()),
    "sessions over windows": lambda a, b: summed(a).window(sl.session("3s")).agg(m=pl.col("n").max()),
    "sessions over a join": lambda a, b: (
        a.join_asof(b).window(sl.session("3s")).agg(m=pl.col("n_right").max())),
    "sliding over a join": lambda a, b: (
        a.join_asof(b).window(sl.sliding("3s")).agg(m=pl.col("n_right").max())),
    "sessions over windows over a join": lambda a, b: (
        summed(a.join_asof(b), "n_right").window(sl.session("3s")).agg(m=pl.col("n").max())),
}  # fmt: skip


@pytest.mark.parametrize("kind", OVER_OPEN)
def test_changes_of_windows_over_rows_that_are_not_final(lab, kind):
    """Windows are shown with what the step before them would give, also while they hold nothing."""
    schema = {"ts": pl.Datetime("us", "UTC"), "n": pl.Int64}
    left, right = (lab.create(name, pl.DataFrame(schema=schema), time="ts") for name in "ab")
    query, shown = OVER_OPEN[kind](left, right), []
    job = query.run(shown.append, emit="changes", name="changed")
    for at in (0, 1, 2, 3, 4, 6, 20, 60):
        for stream, step in ((left, at), (right, at + 1)):
            stream.append({"ts": [BASE + dt.timedelta(seconds=step)], "n": [at]})
            job.wait(30)
    job.stop()
    final = query.collect("final")
    left.append({"ts": [BASE + dt.timedelta(seconds=200)], "n": [200]})
    assert (
        query.collect().height > query.collect("final").height
    )  # a row waits, or a window is open
    changes = pl.concat(shown).filter("_final")
    assert changes.select(final.columns).equals(final)
    assert final.height > 1


def test_a_table_is_kept_as_it_was_for_rows_that_wait(lab, monkeypatch):
    """A left row of an as-of join may meet the table after one that was appended later."""
    monkeypatch.setattr(joins, "MANY_CHANGES", 0)
    left = lab.create("a", {"ts": [BASE], "k": ["x"], "n": [0]}, time="ts", delay="1h")
    right = lab.create("b", {"ts": [BASE], "z": [5]}, time="ts")
    table = lab.create("t", {"k": ["x"], "v": [1]}, key="k")
    left.append({"ts": [BASE + dt.timedelta(seconds=100)], "k": ["x"], "n": [1]})
    table.append({"k": ["x"], "v": [2]})
    left.append({"ts": [BASE + dt.timedelta(seconds=50)], "k": ["x"], "n": [2]})
    query = left.join_asof(right).join(table.table(), on="k").select("ts", "n", "v")
    job = query.run("out")
    for seconds in (60, 200):
        right.advance(BASE + dt.timedelta(seconds=seconds))
        job.wait(30)
    job.stop()
    assert lab["out"].to_polars().select("n", "v").sort("n").rows() == [(1, 1), (2, 2)]


AMBIGUOUS = {
    "a key left out": "SELECT window_end, count(*) AS n FROM tumble(a, INTERVAL '10 seconds') GROUP BY window_end, k",
    "a coarser key": "SELECT window_end, length(k) AS k, count(*) AS n FROM tumble(a, INTERVAL '10 seconds') "
    "GROUP BY window_end, a.k",
}


def test_changes_say_which_row_they_are_of_or_are_final(lab):
    """A bound may be named otherwise; where rows cannot be told apart only final ones are given out."""
    rows = {"ts": [BASE, BASE + dt.timedelta(seconds=12)], "k": ["x", "x"], "v": [1, 7]}
    stream = lab.create("a", rows, time="ts", delay="30s")
    query = lab.query(
        "SELECT window_end AS we, k, sum(v) AS n FROM tumble(a, INTERVAL '10 seconds') "
        "GROUP BY window_end, k HAVING sum(v) > 0"
    )
    assert query.identity == ["k", "we"]
    follow = query.follow(emit="changes")
    assert follow.poll().height == 2
    stream.append({"ts": [BASE + dt.timedelta(seconds=1)], "k": ["x"], "v": [-5]})
    assert follow.poll()["_op"].to_list() == ["d"]
    for text in AMBIGUOUS.values():
        assert lab.query(text).identity == []
    same = "SELECT window_end, upper(k) AS u, count(*) FROM tumble(a, INTERVAL '10 seconds') GROUP BY window_end, upper(k)"
    assert lab.query(same).identity == ["u", "window_end"]
    counted = stream.window(sl.tumbling("10s"), by="k").agg(n=pl.len())
    keys = ["k", "window_start", "window_end"]
    assert counted.with_columns(m=pl.col("n") * 2).select(pl.all()).identity == keys
    assert counted.with_columns(k=pl.col("k").str.head(0)).identity == []
    for many in (1, 2):
        frame = pl.DataFrame({"k": ["x"] * many, "w": range(many)})
        assert counted.join(frame, on="k").identity == (keys if many == 1 else [])
