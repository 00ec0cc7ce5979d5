"""What a beginner gets wrong: each mistake is an error that names the thing and says what to write."""

import datetime as dt

import polars as pl
import pytest

import streamlab as sl
from streamlab.habits import HABITS
from streamlab.testing import temp_lab

BASE = dt.datetime(2026, 1, 5, 9, 30, tzinfo=dt.UTC)
MINUTE = sl.tumbling("1m")
N = pl.len()
col = pl.col


@pytest.fixture(scope="module")
def made():
    with temp_lab() as lab:
        rows = {
            "ts": [BASE + dt.timedelta(seconds=n) for n in range(100)], "symbol": list("AB") * 50,
            "price": [float(n) for n in range(100)], "size": list(range(100)),
            "is fine": [True] * 100,
        }  # fmt: skip
        lab.create("trades", rows, time="ts", delay="5s")
        lab.create("plain", {"a": [1, 2, 3], "b": ["x", "y", "z"]})
        yield lab


MISTAKES = {
    "a key that is not there": (lambda t: t.window(MINUTE, by="simbol"), "mean 'symbol'"),
    "an aggregate of nothing": (lambda t: t.window(MINUTE).agg(col("prise").sum()), "mean 'price'"),
    "a condition on nothing": (lambda t: t.filter(col("prise") > 3), "did you mean 'price'"),
    "a condition as text": (lambda t: t.filter("price > 3"), "text 'price > 3'\nHint: filter(pl.col"),
    "a comparison of texts": (lambda t: t.filter("price" == "x"), "got False, which Python made"),
    "a function as condition": (lambda t: t.filter(lambda row: row), "filter takes Polars expr"),
    "a number as condition": (lambda t: t.filter(col("price")), "must be of type `Boolean`"),
    "a column by its dot": (lambda t: t.filter(t.price > 3), "it is a column: pl.col('price')"),
    "a column in brackets": (lambda t: t["price"], "in a step it is pl.col('price')"),
    "rows in brackets": (lambda t: t[3:5], ".offsets(3, 5) are rows by offset"),
    "rows by a list": (lambda t: t[["ts", "price"]], ".select(...) takes columns"),
    "a query that is iterated": (lambda t: list(t.select("ts")), ".follow() rows as they come"),
    "seconds as a window": (lambda t: t.window(60), "window takes a window; got 60"),
    "text as a window": (lambda t: t.window("1m"), "sl.tumbling"),
    "seconds as a length": (lambda t: sl.tumbling(60), "60 is a bare int: its unit is unknown"),
    "a length in words": (lambda t: sl.tumbling("1 minute"), 'write "m" for minutes'),
    "hours in words": (lambda t: sl.tumbling("2 Hours"), 'write "h" for hours: "1h"'),
    "a capital month": (lambda t: sl.tumbling("1M"), '"1m" for a minute'),
    "no length": (lambda t: sl.tumbling("0s"), "is zero"),
    "no place of that name": (lambda t: sl.tumbling("1d", tz="Berlin"), "did you mean Europe/Berlin"),
    "steps longer than windows": (lambda t: sl.hopping("1m", every="5m"), "would be in none"),
    "a gap in seconds": (lambda t: sl.session(30), "gap 30 is a bare int"),
    "a negative reach": (lambda t: sl.sliding("-1s"), "is positive"),
    "windows and no aggregate": (lambda t: t.window(MINUTE).collect(), "first .agg(...), then .collect"),
    "aggregates and no window": (lambda t: t.select("ts").agg(n=N), "aggregates over windows"),
    "a database's file as a stream": (
        lambda t: t.select("ts").run("x.duckdb"), 'sl.duckdb(path, table="..."'),
    "another word for the end": (lambda t: next(t.select("ts").follow(start="latest")), 'write "end"'),
    "the largest of unsigned numbers": (
        lambda t: t.window(MINUTE).agg(n=N).top(3, -col("n")), "order does not fit the rows"),
    "a schema that is not what comes": (
        lambda t: t.map_batches(lambda f: f.select(x="size"), {"x": pl.String}).collect(),
        "other columns than its schema says: 'x' is Int64, not String"),
    "a schema that lacks a column": (
        lambda t: t.map_batches(lambda f: f.select("size", "price"), {"size": pl.Int64}).collect(),
        "'price' is not in it"),
    "a format that is guessed": (
        lambda t: t.with_columns(at=col("symbol").str.to_datetime(strict=False)),
        'guessed from other rows\nHint: write it: .str.to_datetime("%Y'),
    "lots": (
        lambda t: t.with_columns(one=pl.concat_list("size").list.sample(1)), "Sample needs rows"),
    "an aggregate without a name": (
        lambda t: t.window(MINUTE).agg(N.alias("")), "an aggregate needs a name"),
    "a column without a name": (
        lambda t: t.with_columns(col("size").alias("")), "a column needs a name"),
    "no aggregates": (lambda t: t.window(MINUTE).agg(), "agg(n=pl.len())"),
    "a column as aggregate": (lambda t: t.window(MINUTE).agg("price"), "got 'price'"),
    "as pandas has it": (lambda t: t.window(MINUTE).agg({"price": "sum"}), "agg takes Polars expr"),
    "a name of a function": (lambda t: t.window(MINUTE).agg(x="sum"), "got 'sum'"),
    "a call that was forgotten": (lambda t: t.window(MINUTE).agg(n=pl.len), "got <function len"),
    "one name twice": (
        lambda t: t.window(MINUTE).agg(col("price").sum(), col("price").mean()),
        "two aggregates are named 'price'",
    ),
    "a name that is taken": (lambda t: t.window(MINUTE).agg(window_start=N), "agg(window_start_=...)"),
    "a sum of texts": (lambda t: t.window(MINUTE).agg(n=N, s=col("symbol").sum()), 'col("symbol").sum()'),
    "the row before": (lambda t: t.with_columns(d=col("price").diff()), "Diff needs rows it cannot see"),
    "a running sum": (lambda t: t.with_columns(d=col("size").cum_sum()), "sl.sliding"),
    "an aggregate in a row": (lambda t: t.select(col("price").sum()), "the rows of a stream never end"),
    "a function of a value": (
        lambda t: t.with_columns(x=col("price").map_elements(abs, return_dtype=pl.Float64)),
        "map_batches",
    ),
    "another event time": (lambda t: t.with_columns(ts=col("ts").dt.truncate("1m")), "ts_2"),
    "a text that names nothing": (lambda t: t.with_columns(x="hello"), "no column 'hello'"),
    "nothing selected": (lambda t: t.select(), "at least one column"),
    "groups in SQL": (lambda t: t.sql("SELECT sum(price) FROM this GROUP BY symbol"), "FROM tumble"),
    "the stream in SQL": (lambda t: t.sql("SELECT price FROM trades"), "FROM this"),
    "SQL with a slip": (lambda t: t.sql("SELCT price FROM this"), "does not parse"),
    "a column SQL lacks": (lambda t: t.sql("SELECT prce FROM this"), "did you mean price"),
    "order in SQL": (lambda t: t.sql("SELECT * FROM this ORDER BY price"), "a stream has no end"),
    "no SQL": (lambda t: t.sql(""), "one statement at a time"),
    "top, turned round": (lambda t: t.window(MINUTE).agg(n=N).top("n", 3), 'top(3, "volume")'),
    "top without windows": (lambda t: t.top(3, "price"), "after .window(...).agg(...)"),
    "top by nothing": (lambda t: t.window(MINUTE).agg(n=N).top(3, "m"), "no column 'm'"),
    "unique within a number": (lambda t: t.unique("symbol", within=5), "within 5 is a bare int"),
    "a delay in seconds": (lambda t: t.window(MINUTE, delay=5), "delay 5 is a bare int"),
    "delays in seconds": (lambda t: t.lateness(delays=[5]), "delay 5 is a bare int"),
    "one delay in seconds": (lambda t: t.lateness(delays=5), "delay 5 is a bare int"),
    "an as-of join with a frame": (lambda t: t.join_asof(pl.DataFrame({"ts": [BASE]})), "join(frame, on"),
    "an as-of join with a name": (lambda t: t.join_asof("plain"), "lab['quotes']"),
    "a join with a name": (lambda t: t.join("plain", on="symbol"), "lab['name'] is a stream"),
    "a join without a bound": (lambda t: t.join(t, on="symbol"), "within=(low, high)"),
    "a bound in seconds": (lambda t: t.join(t, on="symbol", within=(-5, 5)), "within -5 is a bare int"),
    "one bound": (lambda t: t.join(t, on="symbol", within="5s"), 'within=("-5m", "10m")'),
    "a frame without the key": (lambda t: t.join(pl.DataFrame({"s": [1]}), on="symbol"), "it has s"),
    "an outer join": (lambda t: t.join(pl.DataFrame({"symbol": [""]}), on="symbol", how="outer"), "inner"),
    "a computed key": (lambda t: t.window(MINUTE, by=col("size") % 2), "with_columns(k=...)"),
    "a slip of the pen": (lambda t: t.select("ts").colect(), "did you mean collect"),
    "results into a path": (lambda t: t.select("ts").run("/tmp/x.duckdb"), "sl.duckdb(path"),
    "results into a frame": (lambda t: t.select("ts").run(pl.DataFrame()), "got DataFrame"),
    "results into the source": (lambda t: t.filter(col("size") > 3).run("trades"), "another name"),
    "an unknown emission": (lambda t: t.window(MINUTE).agg(n=N).run("o", emit="change"), '"changes"'),
    "an unknown start": (lambda t: t.window(MINUTE).agg(n=N).run("o", start="begin"), '"earliest"'),
    "a batch that is a number": (lambda t: t.map_batches(lambda f: f.height).collect(), "as many rows"),
    "a batch that fails": (lambda t: t.map_batches(lambda f: f["x"]).collect(), "ColumnNotFound"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_the_way_out(made, mistake):
    """The error is one of streamlab or of Python's own kind, and says what to write instead."""
    make, says = MISTAKES[mistake]
    with pytest.raises((sl.StreamlabError, AttributeError, TypeError)) as caught:
        make(made["trades"])
    assert says in str(caught.value)
    assert list(made) == ["plain", "trades"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT symbol, count(*) FROM trades GROUP BY symbol", "FROM tumble(stream, INTERVAL"),
        ("SELECT * FROM tradez", "did you mean 'trades'"),
        ("SELECT count(*) FROM tumble(trades, 60) GROUP BY ALL", "its unit is unknown"),
        ("SELECT count(*) FROM tumble(trades, '1 minute') GROUP BY ALL", 'write "m" for minutes'),
        ("SELECT count(*) FROM hop(trades, INTERVAL '1 minute') GROUP BY ALL", "2 lengths of time"),
        ("SELECT count(*) FROM tumble(trades, INTERVAL '1 minute')", "GROUP BY window_start"),
        ("SELECT prce FROM trades", "did you mean price"),
        (5, "SQL is text"),
    ],
)
def test_a_mistake_in_sql_is_named_with_the_way_out(made, text, says):
    """The error of a query in SQL says which part of it, and what to write."""
    with pytest.raises(sl.StreamlabError) as caught:
        made.query(text)
    assert says in str(caught.value)


def test_a_column_may_be_named_like_a_condition(made):
    """A text that is a column's name is that column, whatever is in it."""
    trades = made["trades"]
    assert trades.filter("is fine").collect().height == 100
    assert trades.with_columns(odd=col("size") % 2 == 1).filter(odd=True).collect().height == 50
    assert trades.filter(symbol="A", size=2).collect().height == 1


@pytest.mark.parametrize("habit", HABITS)
def test_habits_are_names_that_are_free(made, habit):
    """What another tool calls by a name is told where there is nothing of that name."""
    stream = made["trades"]
    query = stream.select("ts")
    missing = [thing for thing in (stream, query) if not hasattr(type(thing), habit)]
    for thing in missing:
        with pytest.raises(AttributeError, match="Hint: ") as caught:
            getattr(thing, habit)
        assert "{" not in str(caught.value)
    assert missing


def test_what_a_job_is_called_elsewhere():
    """A job says where its counts are, and what other tools' words are here; a dropped stream by name."""
    with temp_lab() as lab:
        stream = lab.create("trades", {"ts": [BASE]}, time="ts")
        job = stream.select("ts").run("times").wait(30)
        for name, says in [
            ("rows_in", ".progress.rows_in"),
            ("cancel", ".stop()"),
            ("oops", "has no 'oops'"),
        ]:
            with pytest.raises(AttributeError, match=says):
                getattr(job, name)
        with pytest.raises(sl.QueryError, match=r"they go into times\nHint: lab\['times'\]"):
            job.frame()
        lab.drop("trades")
        job.stop()
        assert isinstance(job.error, sl.StreamNotFound)


def test_what_is_asked_for_by_tools_is_plainly_not_there(made):
    """Notebooks and libraries ask for names with an underscore: they are told no, and no more."""
    with pytest.raises(AttributeError) as caught:
        getattr(made["trades"], "_ipython_canary_method_should_not_exist_")  # noqa: B009
    assert "Hint" not in str(caught.value)
    assert not hasattr(made["trades"].select("ts"), "__len__")
