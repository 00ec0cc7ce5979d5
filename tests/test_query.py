"""Queries: steps and their refusals, windows of calendars, joins with tables, lineage, explanations."""

import datetime as dt
import warnings

import polars as pl
import pytest

import streamlab as sl
from streamlab.engines import held, panes, sessions, spill
from streamlab.engines import rows as steps
from streamlab.testing import ManualClock, temp_lab

BASE = dt.datetime(2026, 1, 5, 9, 30, tzinfo=dt.UTC)


@pytest.fixture
def lab():
    with temp_lab() as made:
        yield made


@pytest.fixture
def trades(lab):
    count = 200
    frame = pl.DataFrame(
        {
            "ts": [BASE + dt.timedelta(seconds=n) for n in range(count)],
            "symbol": ["AB"[n % 2] for n in range(count)],
            "price": [float(n) for n in range(count)],
            "size": list(range(count)),
        }
    )
    return lab.create("trades", frame, time="ts", delay="5s")


REFUSED = [
    (lambda t: t.filter(pl.col("prize") > 0), "no column 'prize'(?s:.*)did you mean 'price'"),
    (lambda t: t.filter(), "takes a condition"),
    (lambda t: t.select("symbol", "prce"), "did you mean 'price'"),
    (lambda t: t.with_columns(x=pl.col("price").shift()), "Shift needs rows it cannot see"),
    (lambda t: t.with_columns(x=pl.col("price").cum_sum()), "CumSum needs rows"),
    (lambda t: t.with_columns(x=pl.col("price").rank()), "Rank needs rows"),
    (lambda t: t.with_columns(x=pl.col("price").sum().over("symbol")), "Over needs rows"),
    (lambda t: t.filter(pl.col("price") > pl.col("price").mean()), "Mean is an aggregation"),
    (lambda t: t.filter(pl.col("price").is_in(pl.col("size"))), "IsIn of another column"),
    (lambda t: t.with_columns(x=pl.col("price").map_elements(abs, pl.Float64)), "map_batches"),
    (lambda t: t.with_columns(_offset=pl.lit(1)), "system column"),
    (lambda t: t.window("1m"), r"sl\.tumbling"),
    (lambda t: t.window(sl.tumbling("1m"), by="symbl"), "did you mean 'symbol'"),
    (lambda t: t.window(sl.tumbling("1m"), by=["symbol", "symbol"]), "twice"),
    (lambda t: t.window(sl.tumbling("1m")).agg(), "takes aggregates"),
    (lambda t: t.window(sl.tumbling("1m")).agg(pl.len(), pl.len()), "two aggregates"),
    (lambda t: t.window(sl.tumbling("1m"), by="symbol").agg(symbol=pl.len()), "has the name"),
    (lambda t: t.window(sl.tumbling("1m")).agg(n=pl.col("prize").sum()), "no column 'prize'"),
    (lambda t: t.top(3, "price"), "per window"),
    (lambda t: t.window(sl.tumbling("1m")).agg(n=pl.len()).top(0, "n"), "number of rows"),
    (lambda t: t.unique([]), "columns that make a row the same"),
    (lambda t: t.join(t, on="symbol"), "within"),
    (lambda t: t.join(t, on="symbol", within=("5s", "-5s")), "wrong way round"),
    (lambda t: t.join(5, on="symbol"), "join takes"),
    (lambda t: t.join(pl.DataFrame({"symbol": ["A"]})), "needs on="),
    (lambda t: t.join_asof(5), "takes a stream"),
    (lambda t: t.join_asof(t.with_columns(size=pl.col("size").cast(pl.Int32)), by="size"), "Int64 on"),
    (lambda t: t.collect("changes"), "follow"),
    (lambda t: t.map_batches(5), "takes a function"),
    (lambda t: t.table(), "no key"),
    (lambda t: t.trace(symbol="A"), "needs a window"),
    (lambda t: t.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len()).trace(symbl="A"), "did you mean"),
]  # fmt: skip


@pytest.mark.parametrize(("step", "message"), REFUSED)
def test_mistakes_are_named_with_the_way_out(trades, step, message):
    """What cannot be answered is refused when it is written, with the reason."""
    with pytest.raises(sl.QueryError, match=message):
        step(trades)


@pytest.mark.parametrize("size", [60, 5.0, "1M", "1 month"])
def test_lengths_without_a_unit_are_refused(size):
    """Windows take durations, not numbers or months."""
    with pytest.raises(sl.InvalidDuration):
        sl.tumbling(size)


def test_a_query_is_written_down_and_says_its_columns(trades):
    """A query shows its steps, and the columns of its result before it runs."""
    query = trades.filter(symbol="A").window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    assert "window tumbling(1m) by symbol" in repr(query)
    assert query.columns == ["symbol", "window_start", "window_end", "window_time", "n"]
    assert query.collect("final").schema == query.schema
    assert "agg(...)" in repr(trades.window(sl.tumbling("1m")))


def test_row_wise_steps_give_rows_with_their_places(trades):
    """Filters and columns keep the system columns; select keeps what it names."""
    found = trades.filter(pl.col("price") > 197).with_columns(twice=pl.col("price") * 2).collect()
    assert found["_offset"].to_list() == [198, 199]
    assert found["twice"].to_list() == [396.0, 398.0]
    chosen = trades.select("symbol", p=pl.col("price").round(0), one=1).collect()
    assert chosen.columns == ["symbol", "p", "one"]
    assert chosen.height == 200
    assert trades.select(pl.all().exclude("price")).collect().columns[-1] == "size"
    assert trades.collect().equals(trades.to_polars())


def test_sql_steps_see_one_row_at_a_time(trades):
    """A SELECT over ``this`` is a step like any other; what fails on excluded rows does not run."""
    found = trades.sql("SELECT symbol, 100 / size AS x FROM this WHERE size > 198").collect()
    assert found.to_dicts() == [{"symbol": "B", "x": pytest.approx(100 / 199)}]
    query = (
        trades.sql("SELECT * FROM this WHERE symbol = 'A'")
        .window(sl.tumbling("1m"))
        .agg(n=pl.len())
    )
    assert query.collect("final")["n"].to_list() == [30, 30, 30]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT sum(price) FROM this", "aggregate"),
        ("SELECT price FROM this ORDER BY 1", "ORDER BY"),
        ("SELECT DISTINCT symbol FROM this", "DISTINCT"),
        ("SELECT lag(price) OVER () FROM this", "OVER"),
        ("SELECT prce FROM this", "did you mean price"),
        ("SELECT now() AS t FROM this", "something else each time"),
        ("SELECT current_timestamp AS t FROM this", "something else each time"),
        ("SELECT random() AS r FROM this", "something else each time"),
        ("SELECT * FROM that", "no table 'that'"),
        ("SELECT * FROM this JOIN this t USING (ts)", "reads from a join"),
        ("SELECT (SELECT max(price) FROM this) FROM this", "subquery"),
        ("SELECT unnest([1, 2]) FROM this", "several rows of one"),
        ("SELECT * FROM this LIMIT 3", "LIMIT"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("DROP TABLE this", "one SELECT"),
        ("SELEC", "does not parse"),
    ],
)
def test_sql_that_needs_other_rows_is_refused(trades, text, message):
    """A row-wise statement with anything that joins rows says which part does."""
    with pytest.raises(sl.QueryError, match=message):
        trades.sql(text)


def test_functions_of_batches_are_checked(trades):
    """A function must return as many rows, of its schema, and treat each alone."""
    doubled = trades.map_batches(
        lambda f: f.select(pl.col("price") * 2), {"price": pl.Float64}
    ).collect()
    assert doubled["price"].sum() == 2 * sum(range(200))
    for wrong, message in [
        (lambda f: f.head(3), "returned 3 rows"),
        (lambda f: f.with_columns(pl.col("price").cum_sum()), "not row-wise"),
        (lambda f: f.select("price"), "'symbol' is missing"),
        (lambda f: f.nothing, "AttributeError"),
    ]:
        with pytest.raises(sl.QueryError, match=message):
            trades.map_batches(wrong).collect()


SQL = [
    ("SELECT window_start, window_end, symbol, count(*) AS n FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL",
     lambda t: t.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())),
    ("SELECT window_start, window_end, sum(size) AS n FROM hop(trades, INTERVAL '1 minute', '20s') WHERE symbol = 'A' GROUP BY ALL",
     lambda t: t.filter(symbol="A").window(sl.hopping("1m", "20s")).agg(n=pl.col("size").sum())),
    ("SELECT window_start, window_end, count(*) AS n FROM cumulate(trades, INTERVAL 1 MINUTE, INTERVAL 20 SECONDS) GROUP BY ALL",
     lambda t: t.window(sl.cumulative("1m", "20s")).agg(n=pl.len())),
    ("SELECT window_start, window_end, symbol, last(price) AS n FROM session(trades, INTERVAL 30 SECONDS, symbol) GROUP BY ALL",
     lambda t: t.window(sl.session("30s"), by="symbol").agg(n=pl.col("price").last())),
    ("SELECT * FROM (SELECT window_start, window_end, symbol, max(price) AS n FROM tumble((SELECT * FROM trades WHERE price > 50), '1m') GROUP BY ALL) WHERE n > 100",
     lambda t: t.filter(pl.col("price") > 50).window(sl.tumbling("1m"), by="symbol").agg(n=pl.col("price").max()).filter(pl.col("n") > 100)),
    ("WITH w AS (SELECT window_start, window_end, symbol, count(*) c FROM tumble(trades, INTERVAL 1 MINUTE) GROUP BY 1, 2, 3) SELECT window_start, window_end, sum(c) AS n FROM w GROUP BY window_start, window_end HAVING sum(c) > 30",
     lambda t: t.window(sl.tumbling("1m")).agg(n=pl.len()).filter(pl.col("n") > 30)),
    ("SELECT window_start, window_end, count(*) AS n FROM tumble(trades, INTERVAL '1 minute', offset_by => INTERVAL 15 SECONDS, delay => INTERVAL '0 seconds') GROUP BY ALL",
     lambda t: t.window(sl.tumbling("1m", offset="15s"), delay="0s").agg(n=pl.len())),
]  # fmt: skip


@pytest.mark.parametrize(("text", "fluent"), SQL)
def test_sql_and_expressions_give_the_same(lab, trades, text, fluent):
    """Each window table function answers as the fluent window does, open and closed."""
    asked, wanted = lab.query(text).collect(), fluent(trades).collect()
    wanted = wanted.select(asked.columns).with_columns(pl.col("n").cast(asked.schema["n"]))
    keys = [c for c in asked.columns if c not in ("n", "_final")]
    assert asked.sort(keys).equals(wanted.sort(keys))
    assert asked["_final"].to_list() == sorted(asked["_final"].to_list(), reverse=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SELECT count(*) FROM trades", "tumble"),
        ("SELECT symbl, window_start FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL", "did you mean symbol"),
        ("SELECT window_start FROM tumble('trades', 60) GROUP BY ALL", "stream's name"),
        ("SELECT window_start FROM tumble(trades, 60) GROUP BY ALL", "unit is unknown"),
        ("SELECT window_start FROM tumble(trades) GROUP BY ALL", "length of time"),
        ("SELECT window_start FROM tumble(trades, INTERVAL '1 month') GROUP BY ALL", "months"),
        ("SELECT symbol, count(*) FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL", "several windows"),
        ("SELECT window_start, count(*) FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL LIMIT 3", "LIMIT"),
        ("SELECT window_start, count(*) FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL ORDER BY 1", "order of their own"),
        ("SELECT window_start, now() FROM tumble(trades, INTERVAL '1 minute')", "something else each time"),
        ("SELECT window_start, count(*) FROM trades, tumble(trades, INTERVAL '1 minute') GROUP BY ALL", "join"),
        ("SELECT window_start FROM slide(trades, INTERVAL '1 minute')", "no window table function"),
        ("SELECT price, rank() OVER (ORDER BY price) AS r, window_end FROM tumble(trades, INTERVAL '1 minute')", "other windows"),
    ],
)  # fmt: skip
def test_sql_that_does_not_go_by_windows_is_refused(lab, trades, text, message):
    """A windowed statement must go by its window at each level, and says where it does not."""
    assert trades.name == "trades"
    with pytest.raises(sl.QueryError, match=message):
        lab.query(text)


def test_days_follow_the_zone(lab):
    """A day in Berlin has 23 hours in spring and 25 in autumn; windows begin at its midnights."""
    starts = [
        dt.datetime(2026, 3, 28, 20, tzinfo=dt.UTC),
        dt.datetime(2026, 10, 24, 20, tzinfo=dt.UTC),
    ]
    for number, start in enumerate(starts):
        hours = [start + dt.timedelta(hours=n) for n in range(60)]
        settings = sl.Settings(max_ahead=None)
        stream = lab.create(
            f"s{number}", {"ts": hours, "n": list(range(60))}, time="ts", settings=settings
        )
        days = stream.window(sl.tumbling("1d", tz="Europe/Berlin")).agg(n=pl.len()).collect("final")
        assert days["n"].to_list()[1] == (23, 25)[number]
        local = days["window_start"].dt.convert_time_zone("Europe/Berlin")
        assert local.dt.hour().to_list() == [0] * len(local)


def test_a_stream_without_time_goes_by_append_time():
    """Without an event-time column windows are of append time, and `explain` says so."""
    clock = ManualClock("2026-01-05T10:00:00Z")
    with temp_lab(clock=clock) as lab:
        stream = lab.create("s", {"n": [1]})
        for n in range(5):
            clock.advance("20s")
            stream.append({"n": n})
        query = stream.window(sl.tumbling("1m")).agg(n=pl.len())
        assert query.collect()["n"].to_list() == [3, 3]
        assert "event time is append time" in query.explain()


def test_a_frame_joins_each_row(trades):
    """A static frame is joined by its keys; inner drops rows without a match, left keeps them."""
    names = pl.DataFrame({"symbol": ["A"], "name": ["Alpha"]})
    assert trades.join(names, on="symbol").collect().height == 100
    left = trades.join(names, on="symbol", how="left").collect()
    assert left["name"].null_count() == 100
    assert left["_offset"].to_list() == list(range(200))


def test_a_table_joins_as_it_was_when_the_row_was_appended():
    """A row meets the table's row of its own append time, whatever came later; deletions apply."""
    clock = ManualClock("2026-01-05T10:00:00Z")
    with temp_lab(clock=clock) as lab:
        rates = lab.create(
            "rates", pl.DataFrame(schema={"cur": pl.String, "rate": pl.Float64}), key="cur"
        )
        orders = lab.create("orders", pl.DataFrame(schema={"cur": pl.String, "n": pl.Int64}))
        query = orders.join(rates.table(), on="cur", how="left")
        orders.append({"cur": "EUR", "n": 0})
        for rate in (1.1, 1.2):
            clock.advance("1s")
            rates.append({"cur": "EUR", "rate": rate})
            clock.advance("1s")
            orders.append({"cur": "EUR", "n": int(rate * 10)})
        clock.advance("1s")
        rates.delete("EUR")
        clock.advance("1s")
        orders.append({"cur": "EUR", "n": 13})
        clock.advance("1s")
        found = query.collect()
        assert found["rate"].to_list() == [None, 1.1, 1.2, None]
        inner = orders.join(rates.table(), on="cur").collect()
        assert inner["n"].to_list() == [11, 12]
        assert rates.table().to_polars().is_empty()
        with pytest.raises(sl.QueryError, match="by its key"):
            orders.join(rates.table(), on="n")


def test_old_left_rows_find_right_rows_that_were_let_go(lab, monkeypatch):
    """A left row from before what a join still holds is joined all the same."""
    from streamlab.engines import joins, local

    monkeypatch.setattr(joins, "KEPT_ROWS", 3)
    monkeypatch.setattr(local, "EPOCH_ROWS", 5)
    left = lab.create(
        "left", pl.DataFrame(schema={"ts": pl.Datetime("us", "UTC"), "n": pl.Int64}), time="ts"
    )
    right = lab.create(
        "right", pl.DataFrame(schema={"ts": pl.Datetime("us", "UTC"), "v": pl.Int64}), time="ts"
    )
    for n in range(0, 100, 5):
        right.append(
            {
                "ts": [BASE + dt.timedelta(seconds=n + m) for m in range(5)],
                "v": list(range(n, n + 5)),
            }
        )
        left.append(
            {
                "ts": [BASE + dt.timedelta(seconds=n + m) for m in range(5)],
                "n": list(range(n, n + 5)),
            }
        )
    left.append({"ts": [BASE + dt.timedelta(seconds=7)], "n": [1000]})
    found = left.join_asof(right).collect()
    assert found.filter(pl.col("n") == 1000)["v"].to_list() == [7]
    assert found.filter(pl.col("n") < 1000).select((pl.col("n") == pl.col("v")).all()).item()


def test_top_keeps_the_first_of_each_window(trades):
    """The rows of a window that come first in an order, ties by the keys."""
    query = trades.window(sl.tumbling("1m"), by="size").agg(p=pl.col("price").max()).top(2, "p")
    assert query.collect("final")["p"].to_list() == [58.0, 59.0, 118.0, 119.0, 178.0, 179.0]
    lowest = trades.window(sl.tumbling("1m"), by="size").agg(p=pl.col("price").max())
    assert lowest.top(1, "p", descending=False).collect("final")["p"].to_list() == [
        0.0,
        60.0,
        120.0,
    ]


def test_a_result_is_traced_to_its_rows(trades):
    """The rows behind a window, a session and a sliding result are the stream's own."""
    start = BASE + dt.timedelta(minutes=1)
    query = (
        trades.filter(pl.col("price") > 70).window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    )
    found = query.trace(symbol="A", window_start=start)
    assert found["_offset"].to_list() == list(range(72, 120, 2))
    assert found.columns == trades.to_polars().columns
    session = trades.window(sl.session("30s"), by="symbol").agg(n=pl.len())
    assert session.trace(symbol="B").height == 100
    sliding = trades.window(sl.sliding("10s"), by="symbol").agg(n=pl.len())
    assert sliding.trace(_offset=50)["_offset"].to_list() == [42, 44, 46, 48, 50]
    assert query.trace(symbol="C", window_start=start).is_empty()


def test_late_rows_are_told_and_explained(lab):
    """`collect` warns of many late rows and names the remedy; `lateness` counts them per delay."""
    seconds = [0, 50, 100, 30, 150, 60, 200]
    stream = lab.create(
        "s", {"ts": [BASE + dt.timedelta(seconds=s) for s in seconds], "n": seconds}, time="ts"
    )
    query = stream.window(sl.tumbling("10s")).agg(n=pl.len())
    with pytest.warns(UserWarning, match=r"2 of 7 rows .* too late .*lateness"):
        query.collect()
    late = query.late()
    assert late["n"].to_list() == [30, 60]
    assert late["late_by"].to_list() == [dt.timedelta(seconds=60), dt.timedelta(seconds=80)]
    assert late["_watermark"][0] == BASE + dt.timedelta(seconds=100)
    counted = query.lateness(["0s", "61s", "2m"])
    assert counted["rows_late"].to_list() == [2, 1, 0]
    assert stream.lateness(["0s"])["rows_late"].to_list() == [2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stream.window(sl.tumbling("10s"), delay="2m").agg(n=pl.len()).collect()


def test_nothing_is_late_where_the_delay_is_endless(lab):
    """With delay="inf" nothing closes until the stream is ended, and then everything does."""
    stream = lab.create(
        "s", {"ts": [BASE, BASE - dt.timedelta(days=30)], "n": [1, 2]}, time="ts", delay="inf"
    )
    query = stream.window(sl.tumbling("1d")).agg(n=pl.len())
    assert query.collect("final").is_empty()
    assert 'closes only when advance("end") ends the stream' in query.explain()
    stream.advance("end")
    assert query.collect("final")["n"].to_list() == [1, 1]
    assert "every window is closed" in query.explain()


def test_explain_says_how_and_who_waits(lab, trades):
    """A reader learns the plan, how it is evaluated, what is open and whom it waits for."""
    text = trades.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len()).explain()
    for part in ("window tumbling(1m) by symbol", "delay 5s", "incremental", "2 partial results held",
                 "closes when stream time reaches 2026-01-05T09:34:05Z", "200 accepted, 0 late"):  # fmt: skip
        assert part in text
    again = trades.window(sl.tumbling("1m")).agg(m=pl.col("price").median()).explain()
    assert "because Median needs all rows of a window together" in again
    sliding = trades.window(sl.sliding("1m"), by="symbol")
    assert "sliding(1m): incremental: partial results" in sliding.agg(n=pl.len()).explain()
    median = sliding.agg(m=pl.col("price").median()).explain()
    assert "sliding(1m): recomputed over the rows in reach" in median
    minutes = trades.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    above = minutes.window(sl.tumbling("5m")).agg(n=pl.col("n").sum()).explain()
    assert "tumbling(5m): 1 window open" in above
    assert "closes when the windows before it are done up to 2026-01-05T09:35:00Z" in above
    quotes = lab.create(
        "quotes",
        pl.DataFrame(schema={"ts": pl.Datetime("us", "UTC"), "symbol": pl.String}),
        time="ts",
    )
    waits = trades.join_asof(quotes, by="symbol").explain()
    assert "trades waits for quotes, which has no rows yet" in waits


def test_comparing_queries_shows_the_rows_that_differ(trades):
    """`compare` is empty for equal queries and tells whose each other row is."""
    one = trades.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    assert one.compare(
        trades.window(sl.tumbling("1m"), by="symbol").agg(n=pl.col("price").len())
    ).is_empty()
    other = (
        trades.filter(pl.col("price") != 3).window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    )
    found = one.compare(other)
    assert found["_side"].to_list() == ["left", "right"]
    assert found["n"].to_list() == [30, 29]
    with pytest.raises(sl.QueryError, match="different columns"):
        one.compare(trades)


def test_windows_over_the_left_edge_of_a_view_are_marked(trades):
    """A window that may lack rows on its left carries ``_partial``; a whole one does not."""
    view = trades.offsets(90, 200).window(sl.tumbling("1m")).agg(n=pl.len()).collect("final")
    assert view.select("n", "_partial").rows() == [(30, True), (60, False)]
    later = (
        trades.between(BASE + dt.timedelta(seconds=90)).window(sl.tumbling("1m")).agg(n=pl.len())
    )
    assert later.collect("final").select("n", "_partial").rows() == [(30, True), (60, False)]
    trades.trim(90)
    left = trades.window(sl.tumbling("1m")).agg(n=pl.len()).collect("final")
    assert left.select("n", "_partial").rows() == [(30, True), (60, False)]
    past = trades.as_of(150).window(sl.tumbling("1m")).agg(n=pl.len()).collect()
    assert past["n"].to_list()[-1] == 30


HOUR = dt.timedelta(hours=1)
REPLACED = [
    lambda t: t.with_columns(ts=pl.col("ts") + HOUR),
    lambda t: t.with_columns(pl.col("ts").dt.cast_time_unit("ms")),
    lambda t: t.with_columns(pl.col("ts", "due") + HOUR),
    lambda t: t.select("symbol", ts="due"),
    lambda t: t.select("symbol").with_columns(ts=pl.lit(BASE)),
    lambda t: t.sql("SELECT symbol, due AS ts FROM this"),
    lambda t: t.sql("SELECT * REPLACE (due AS ts) FROM this"),
    lambda t: t.sql("SELECT * EXCLUDE (ts) RENAME (due AS ts) FROM this"),
    lambda t: t.map_batches(lambda f: f.with_columns(ts=pl.col("due"))).collect(),
    lambda t: t.map_batches(lambda f: f.with_columns(ts=None, due="ts"),
                            {**t.schema, "ts": pl.Null}).collect(),
    lambda t: t.window(sl.sliding("5s")).agg(n=pl.len()).with_columns(ts=pl.col("due")),
    lambda t: t.join_asof(t, by="symbol").with_columns(ts=pl.col("ts_right")),
]  # fmt: skip


@pytest.mark.parametrize("step", REPLACED)
def test_the_event_time_of_a_row_is_not_replaced(trades, step):
    """Windows go by the time in the log: giving its name to something else is refused."""
    with pytest.raises(
        sl.QueryError, match=r"(?s)'ts' is the event time.*another name.*time="
    ) as told:
        step(trades.with_columns(due=pl.col("ts") + HOUR))
    assert "window" in str(told.value)


def test_results_have_an_event_time_of_their_own(trades):
    """After a window or an interval join it is another column that stays as it is."""
    minutes = trades.window(sl.tumbling("1m")).agg(ts=pl.col("ts").max())
    assert minutes.with_columns(ts=pl.col("ts") + HOUR).collect().height == 4
    pairs = trades.join(trades, on="symbol", within=("0s", "0s"))
    assert pairs.with_columns(ts=pl.col("ts") + HOUR).collect().height == 200
    for query, time in ((minutes, "window_time"), (pairs, "pair_time")):
        with pytest.raises(sl.QueryError, match=f"'{time}' is the event time"):
            query.with_columns(pl.lit(BASE).alias(time))


def test_the_event_time_may_be_shown_in_another_zone_renamed_or_dropped(trades):
    """Windows go by the time of the rows, whatever is left of it in the columns."""
    local = pl.col("ts").dt.convert_time_zone("Asia/Tokyo")
    for step in (
        trades.with_columns(local),
        trades.with_columns(pl.all()),
        trades.select("symbol", "size"),
        trades.select("size", at="ts"),
        trades.sql("SELECT size, ts FROM this"),
        trades.sql("SELECT size, ts AS at FROM this"),
        trades.map_batches(lambda f: f.with_columns(local)[f.columns], {**trades.select(pl.all()).schema, "ts": pl.Datetime("us", "Asia/Tokyo")}),
        trades.map_batches(lambda f: f.select("size"), {"size": pl.Int64}),
    ):  # fmt: skip
        found = step.window(sl.tumbling("1m")).agg(n=pl.len())
        assert found.compare(trades.window(sl.tumbling("1m")).agg(n=pl.len())).is_empty()


def test_a_column_that_took_the_name_of_the_event_time_is_not_taken_for_it(lab, trades):
    """A derived stream has the time of its rows, or is refused: never that of a right side."""
    joined = trades.select("symbol", "size").join_asof(trades, by="symbol")
    assert "ts" in joined.columns
    with pytest.raises(sl.QueryError, match="lack 'ts', the event time of trades"):
        joined.run("out")
    minutes = trades.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len())
    minutes.join_asof(trades, by="symbol").run("closes").wait(10).stop()
    assert lab["closes"].time == "window_time"
    assert lab["closes"].to_polars()["price"].to_list() == [58.0, 59.0, 118.0, 119.0, 178.0, 179.0]


SAID = {
    "tumbling": lambda s: s.window(sl.tumbling("1m"), by="symbol").agg(n=pl.len()),
    "hopping": lambda s: s.window(sl.hopping("1m", "20s")).agg(m=pl.col("price").median()),
    "session": lambda s: s.window(sl.session("30s")).agg(n=pl.len()),
    "sliding": lambda s: s.window(sl.sliding("30s"), by="symbol").agg(n=pl.len()),
    "twice": lambda s: SAID["tumbling"](s).window(sl.tumbling("2m")).agg(n=pl.col("n").sum()),
    "slid": lambda s: SAID["tumbling"](s).window(sl.sliding("2m")).agg(m=pl.col("n").sum()),
    "function": lambda s: SAID["tumbling"](s).map_batches(lambda f: f),
    "joined": lambda s: SAID["tumbling"](s).join_asof(SAID["session"](s)),
    "over": lambda s: SAID["joined"](s).window(sl.tumbling("2m")).agg(n=pl.col("n").sum()),
    "chosen": lambda s: SAID["tumbling"](s).select("n"),
    "rows": lambda s: s.filter(symbol="A"),
}  # fmt: skip
BY_SQL = "SELECT window_end, count(*) AS n FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL"


@pytest.mark.parametrize("query", SAID.values(), ids=SAID)
def test_the_schema_is_what_comes(lab, trades, query):
    """`schema` says the columns of collect, follow and run, also where rows are missing on the left."""
    before = query(trades)
    for number, place in enumerate((0, 90)):
        trades.trim(place)
        views = [trades, trades.offsets(95), trades.between(BASE + dt.timedelta(seconds=95))]
        asked = [before, *map(query, views)]
        for at, one in enumerate(asked):
            assert one.collect("final").schema == one.schema
            assert dict(one.follow(timeout=0).poll().schema) == one.schema
            assert one.columns == list(one.schema)
            job = one.run(name=f"job-{number}-{at}", follow=False).wait(10, caught_up=False)
            assert dict(job.frame().schema) == one.schema
    assert dict(before.schema) == dict(query(trades).schema)


def test_windows_that_may_lack_rows_can_be_left_out(lab, trades):
    """``_partial`` is a column like any other, in the derived stream and in windows over it too."""
    by_minute = SAID["tumbling"](trades.offsets(90))
    whole = by_minute.filter(~pl.col("_partial"))
    assert whole.collect("final")["n"].to_list() == [30, 30]
    by_minute.run("minutes").wait(10, caught_up=False)
    for window in (sl.tumbling("2m"), sl.sliding("2m")):
        found = lab["minutes"].window(window, by="symbol").agg(m=pl.col("n").sum()).collect()
        assert found["_partial"].to_list()[0] and "\0" not in "".join(found.columns)
    trades.trim(90)
    by_sql = lab.query(BY_SQL).collect("final")
    assert by_sql["_partial"].to_list() == [True, False]
    assert by_sql.schema == lab.query(BY_SQL).schema


def test_a_job_goes_on_when_rows_it_has_read_are_trimmed(trades, monkeypatch):
    """That windows say now if they lack rows makes no other query of the one that ran before."""
    from streamlab.engines import local

    monkeypatch.setattr(local, "EPOCH_ROWS", 10)
    SAID["tumbling"](trades).run("minutes").wait(10).stop()
    trades.trim(70)
    assert SAID["tumbling"](trades).run("minutes").wait(10).stop().status == "stopped"


def test_a_follower_marks_what_a_job_marks(trades):
    """Windows that were completed by reading back lack no rows, from wherever results are wanted."""
    trades.trim(60)
    query = trades.window(sl.tumbling("10s")).agg(n=pl.len())
    followed = pl.concat(list(query.follow(start=95, timeout=0)))
    job = query.run(start=95, name="same", follow=False).wait(10, caught_up=False)
    assert followed.equals(job.frame())
    assert not followed["_partial"].any()


def test_integer_sums_that_do_not_fit_are_errors(lab):
    """A sum beyond 64 bits is refused, not wrapped; one that fits in the end is right."""
    big = 2**62
    stream = lab.create("s", {"ts": [BASE] * 3, "n": [big, big, -big]}, time="ts")
    assert stream.window(sl.tumbling("1m")).agg(s=pl.col("n").sum()).collect()["s"].to_list() == [
        big
    ]
    stream.append({"ts": [BASE], "n": [big]})
    for more in ({}, {"u": pl.col("n").n_unique()}):
        with pytest.raises(sl.QueryError, match="does not fit 64 bits"):
            stream.window(sl.tumbling("1m")).agg(s=pl.col("n").sum(), **more).collect()


@pytest.mark.parametrize("window", [sl.tumbling("1m"), sl.hopping("2m", "1m"), sl.session("1m")])
def test_values_beyond_64_bits_have_sums_that_fit_or_are_refused(lab, window):
    """A value may be beyond 64 bits if the sum is not; the error says so where it is."""
    unsigned = pl.Series("u", [2**63, 5, 2**64 - 1], dtype=pl.UInt64)
    frame = pl.DataFrame({"ts": [BASE] * 3, "n": [2**62, -(2**62), 7]}).with_columns(unsigned)
    windows = lab.create("s", frame, time="ts").window(window)
    total = (pl.col("n").cast(pl.Int128) * 8).sum()
    assert set(windows.agg(s=total).collect()["s"]) == {56}
    with pytest.raises(sl.QueryError, match="does not fit 64 bits"):
        windows.agg(s=pl.col("u").sum()).collect()


def test_state_beyond_memory_goes_to_files(trades, monkeypatch):
    """Rows held beyond the limit are in files, and the results are the same."""
    query = trades.window(sl.hopping("1m", "20s"), by="symbol").agg(m=pl.col("price").median())
    whole = query.collect()
    monkeypatch.setattr(spill, "LIMIT_BYTES", 100)
    assert query.collect().equals(whole)
    assert "files on disk" in query.explain()


HELD_LONG = {
    "sessions": lambda t: t.window(sl.session("1h"), by="size").agg(n=pl.len()),
    "sessions, rows": lambda t: t.window(sl.session("1h"), by="size").agg(m=pl.median("price")),
    "sliding": lambda t: t.window(sl.sliding("1h"), by="symbol").agg(n=pl.len()),
    "sliding, rows": lambda t: t.window(sl.sliding("1h"), by="symbol").agg(m=pl.median("price")),
    "unique": lambda t: t.unique("size"),
}


@pytest.mark.parametrize("kind", list(HELD_LONG))
def test_what_is_held_for_long_goes_to_files(trades, kind, monkeypatch):
    """Open sessions, rows in reach and kept times are in files beyond a limit; explain says so."""
    query = HELD_LONG[kind](trades)
    whole = query.collect()
    assert "files on disk" not in query.explain()
    for module in (held, sessions):
        monkeypatch.setattr(module, "LIMIT_BYTES", 100)
    monkeypatch.setattr(steps, "MANY_KEPT", 10)
    assert query.collect().equals(whole)
    assert "files on disk" in query.explain()


SQL = """
    SELECT symbol, window_start, window_end, median(price) AS m, count(*) AS n
    FROM {}(trades, INTERVAL '1 minute', INTERVAL '20 seconds') GROUP BY ALL"""


@pytest.mark.parametrize("kind", ["median", "hop", "cumulate"])
def test_windows_of_many_rows_are_answered_some_at_a_time(trades, lab, kind, monkeypatch):
    """Rows that are in many windows that close together are not laid side by side all at once."""
    query = (
        trades.window(sl.hopping("1m", "20s"), by="symbol").agg(m=pl.col("price").median())
        if kind == "median"
        else lab.query(SQL.format(kind))
    )
    looked_at = []
    open_in = panes.Panes._open_in

    def counted(self, rows, pairs):
        found = open_in(self, rows, pairs)
        looked_at.append((found.height, pairs["\0end"].n_unique()))
        return found

    monkeypatch.setattr(panes.Panes, "_open_in", counted)
    whole = query.collect()
    at_once = max(height for height, _ in looked_at)
    monkeypatch.setattr(panes, "MANY_ROWS", at_once // 10)
    monkeypatch.setattr(spill, "LIMIT_BYTES", 100)
    looked_at.clear()
    assert query.collect().equals(whole)
    assert max(height for height, count in looked_at if count > 1) < at_once // 2


def test_empty_streams_have_empty_results(lab):
    """A query over no rows gives no rows, with all columns."""
    stream = lab.create(
        "s",
        pl.DataFrame(schema={"ts": pl.Datetime("us", "UTC"), "k": pl.String, "n": pl.Int64}),
        time="ts",
    )
    for window in (sl.tumbling("1m"), sl.hopping("1m", "10s"), sl.session("1m"), sl.sliding("1m")):
        query = stream.window(window, by="k").agg(s=pl.col("n").sum())
        assert query.collect("final").schema == query.schema
        assert query.collect("final").is_empty()
        assert query.late().is_empty()
        assert "has no rows yet" in query.explain()


def test_a_stream_that_only_has_heartbeats_lets_others_pass(lab):
    """A right side without rows, moved on by a heartbeat or ended, holds no left row back."""
    empty = pl.DataFrame(schema={"ts": pl.Datetime("us", "UTC"), "v": pl.Int64})
    left = lab.create("left", {"ts": [BASE], "n": [1]}, time="ts")
    for number, to in enumerate([BASE + dt.timedelta(seconds=60), "end"]):
        right = lab.create(f"right{number}", empty, time="ts")
        assert left.join_asof(right).collect("final").is_empty()
        right.advance(to)
        assert left.join_asof(right).collect("final").height == 1


def test_nan_keys_meet_however_the_input_is_cut(lab, monkeypatch):
    """NaN equals NaN in joins, also where one row meets one row."""
    from streamlab.engines import local

    data = {"ts": [BASE] * 3, "g": [float("nan"), 1.0, float("nan")], "v": [1, 2, 3]}
    one, two = lab.create("one", data, time="ts"), lab.create("two", data, time="ts")
    for rows in (1, 1000):
        monkeypatch.setattr(local, "EPOCH_ROWS", rows)
        pairs = one.join(two, on="g", within=("0s", "0s")).collect().select("v", "v_right").rows()
        assert pairs == [(1, 1), (1, 3), (2, 2), (3, 1), (3, 3)]
        frame = pl.DataFrame({"g": [float("nan")], "name": ["none"]})
        assert one.join(frame, on="g").collect()["v"].to_list() == [1, 3]


def test_sliding_results_stand_on_their_rows(lab):
    """Keys that are null or NaN get their own aggregates, in both ways of computing them."""
    nan = float("nan")
    data = {
        "ts": [BASE] * 4,
        "k": ["a", None, "b", None],
        "g": [nan, 1.0, None, nan],
        "x": [1, 2, 3, 4],
    }
    stream = lab.create("s", data, time="ts")
    for more in ({}, {"f": pl.col("x").first()}):
        by_text = stream.window(sl.sliding("2s"), by="k").agg(m=pl.col("x").sum(), **more)
        assert by_text.collect().select("x", "m").rows() == [(1, 1), (2, 6), (3, 3), (4, 6)]
        by_float = stream.window(sl.sliding("2s"), by="g").agg(m=pl.col("x").sum(), **more)
        assert by_float.collect().select("x", "m").rows() == [(1, 5), (2, 2), (3, 3), (4, 5)]


def joined_thrice(lab):
    """Queries whose joins give the same names again and again."""
    times = [BASE + dt.timedelta(seconds=n) for n in range(5)]
    one, two, three = (
        lab.create(name, {"ts": times, "k": list("abaab"), "v": values}, time="ts")
        for name, values in [("one", [1, 2, 3, 4, 5]), ("two", list("vwxyz")), ("three", [0.5] * 5)]
    )
    near = {"on": "k", "within": ("-1s", "1s")}
    return {
        "as of, as of": one.join_asof(two, by="k").join_asof(three, by="k"),
        "as of what was joined": one.join_asof(two.join_asof(three, by="k"), by="k"),
        "pairs as of": one.join(two, **near).join_asof(three, by="k"),
        "pairs of pairs": one.join(two, **near).join(three, **near),
        "with pairs": one.join(two.join(three, **near), **near),
        "a frame": one.join_asof(two, by="k").join(
            pl.DataFrame({"k": ["a"], "v": [True], "v_right": [b"x"]}), on="k"
        ),
        "itself": one.join_asof(one, by="k").join_asof(one, by="k"),
    }


def test_joins_in_a_row_give_what_the_schema_says(lab):
    """A name that is taken gets _right until it is free: no column is lost, none is another's."""
    for name, query in joined_thrice(lab).items():
        found = query.collect("final")
        assert dict(found.schema) == dict(query.schema), name
        assert found.height, name
        assert query.schema["v"] == pl.Int64
        values = [column for column in found.columns if column.startswith("v")]
        assert len(values) == (4 if name == "a frame" else 3), name
        job = query.run(f"out {name}".replace(" ", "-").replace(",", ""), follow=False)
        job.wait(10, caught_up=False)
        stored = lab[job.name].schema
        assert [n for n in stored.names if n[0] != "_"] == [n for n in query.schema if n[0] != "_"]
        query.late()
        if name == "with pairs":  # those on the right have a time of their own
            times = [n for n in query.schema if "ts" in n or n.startswith("pair")]
            assert times == ["ts", "ts_right", "ts_right_right", "pair_time_right", "pair_time"]
