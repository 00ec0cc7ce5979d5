"""The 23 queries of Nexmark, each as a continuous query and as batch SQL for DuckDB.

Each is written the way its own kind is best written: steps on streams where aggregates are split
into partial ones, SQL where rows of a window are ranked or a row is computed. Where the original
has no end (a join or a GROUP BY without a window), a bound is given that changes no row, or a window;
``adapted`` says which.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

import streamlab as sl
from benchmarks.nexmark_data import LONGEST_US, side_input

__all__ = ["QUERIES", "Nexmark", "NexmarkQuery"]

OPEN = f"{LONGEST_US // 1_000_000}s"  # no auction is open for longer
PRICE = pl.col("price")
TIME = pl.col("date_time")
CHEAP, DEAR = 10_000, 1_000_000
LOW, MIDDLE, HIGH = PRICE < CHEAP, (PRICE >= CHEAP) & (PRICE < DEAR), PRICE >= DEAR
RANKS = {"1": LOW, "2": MIDDLE, "3": HIGH}


@dataclass(frozen=True)
class Nexmark:
    """The streams that the queries read."""

    lab: sl.Lab
    people: sl.Stream
    auctions: sl.Stream
    bids: sl.Stream

    @classmethod
    def of(cls, lab: sl.Lab) -> Nexmark:
        """Return the streams of a lab."""
        return cls(lab, lab["people"], lab["auctions"], lab["bids"])


@dataclass(frozen=True)
class NexmarkQuery:
    """A query: what it is about, how it is built, the same in batch SQL, and what is not as usual."""

    title: str
    build: Callable[[Nexmark], sl.Query]
    batch: str
    adapted: str = ""


QUERIES: dict[str, NexmarkQuery] = {}


def query(batch: str, adapted: str = ""):
    """Register a function ``q<number>`` whose docstring is the title."""

    def register(build: Callable[[Nexmark], sl.Query]) -> Callable[[Nexmark], sl.Query]:
        assert build.__doc__
        QUERIES[build.__name__] = NexmarkQuery(
            build.__doc__.rstrip("."), build, " ".join(batch.split()), adapted
        )
        return build

    return register


# -- a row at a time -----------------------------------------------------------------------------


@query("SELECT auction, bidder, price, date_time, extra FROM bids")
def q0(n: Nexmark) -> sl.Query:
    """Pass through."""
    return n.bids.select("auction", "bidder", "price", "date_time", "extra")


@query("SELECT auction, bidder, 0.908::DOUBLE * price AS price, date_time, extra FROM bids")
def q1(n: Nexmark) -> sl.Query:
    """Currency conversion."""
    return n.bids.select("auction", "bidder", PRICE * 0.908, "date_time", "extra")


@query("SELECT auction, price FROM bids WHERE auction % 123 = 0")
def q2(n: Nexmark) -> sl.Query:
    """Selection."""
    return n.bids.filter(pl.col("auction") % 123 == 0).select("auction", "price", "date_time")


@query(
    """SELECT name, city, state, a.id AS auction FROM auctions a JOIN people p ON a.seller = p.id
    WHERE category = 10 AND state IN ('OR', 'ID', 'CA')""",
    "a seller is looked up in the table of people as it was when the auction came",
)
def q3(n: Nexmark) -> sl.Query:
    """Local item suggestion."""
    opened = n.auctions.filter(category=10).select("date_time", auction="id", id="seller")
    near = opened.join(n.people.table(), on="id").filter(pl.col("state").is_in(["OR", "ID", "CA"]))
    return near.select("name", "city", "state", "auction", "date_time")


# -- winning bids --------------------------------------------------------------------------------


def offers(n: Nexmark) -> sl.Query:
    """Return pairs of an auction and a bid that came while it was open."""
    opened = n.auctions.select(
        "date_time", "expires", "item_name", "seller", "category", auction="id"
    )
    pairs = opened.join(
        n.bids.select("date_time", "price", "bidder", "auction"), on="auction", within=("0s", OPEN)
    )
    return pairs.filter(pl.col("date_time_right") <= pl.col("expires"))


ADAPTED_WINNING = (
    f"auction and bid are joined within the {OPEN} that auctions are open at most; "
    "an auction's bids are one session, whose end is when the winner is known"
)
FINAL = f"""WITH final AS (
  SELECT a.id AS auction, category, seller, max(price) AS final,
    epoch_us(max(b.date_time)) + {LONGEST_US} AS closed
  FROM auctions a JOIN bids b
    ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires GROUP BY ALL)"""


@query(
    f"""{FINAL} SELECT category, floor_us(closed - 1, 60000000) AS window_start, avg(final) AS average
    FROM final GROUP BY ALL""",
    f"{ADAPTED_WINNING}; the average is per minute, not since ever",
)
def q4(n: Nexmark) -> sl.Query:
    """Average price for a category."""
    final = offers(n).window(sl.session(OPEN), by=["auction", "category"]).agg(final=PRICE.max())
    return final.window(sl.tumbling("1m"), by="category").agg(average=pl.col("final").mean())


@query(
    """WITH counted AS (
      SELECT auction, count(*) AS num, start AS window_start FROM (
        SELECT auction, floor_us(epoch_us(date_time), 2000000) - 2000000 * unnest(range(5)) AS start
        FROM bids) GROUP BY ALL)
    SELECT * FROM counted QUALIFY num = max(num) OVER (PARTITION BY window_start)"""
)
def q5(n: Nexmark) -> sl.Query:
    """Hot items."""
    return n.lab.query(
        """SELECT auction, count(*) AS num, window_start, window_end
        FROM hop(bids, INTERVAL '10 seconds', INTERVAL '2 seconds')
        GROUP BY auction, window_start, window_end
        QUALIFY num = max(num) OVER (PARTITION BY window_start, window_end)"""
    )


@query(
    """SELECT auction, count(*) AS num, start AS window_start FROM (
      SELECT auction, floor_us(epoch_us(date_time), 2000000) - 2000000 * unnest(range(5)) AS start
      FROM bids) GROUP BY auction, start
    QUALIFY row_number() OVER (PARTITION BY window_start ORDER BY num DESC, auction) = 1""",
    "of items that are equally hot the one with the least id",
)
def q5_top(n: Nexmark) -> sl.Query:
    """Hottest item, in steps."""
    window = sl.hopping("10s", every="2s")
    return n.bids.window(window, by="auction").agg(num=pl.len()).top(1, "num")


@query(
    f"""{FINAL} SELECT seller, auction, avg(final) OVER (
      PARTITION BY seller ORDER BY closed, auction ROWS BETWEEN 9 PRECEDING AND CURRENT ROW) AS average
    FROM final""",
    f"{ADAPTED_WINNING}; the ten last of the day before it",
)
def q6(n: Nexmark) -> sl.Query:
    """Average selling price of a seller's last ten auctions."""
    final = offers(n).window(sl.session(OPEN), by=["auction", "seller"]).agg(final=PRICE.max())
    last = final.window(sl.sliding("1d"), by="seller").agg(average=pl.col("final").tail(10).mean())
    return last.select("seller", "auction", "average")


@query(
    """SELECT auction, bidder, price, date_time, floor_us(epoch_us(date_time), 10000000) AS window_start
    FROM bids QUALIFY price = max(price) OVER (PARTITION BY window_start)"""
)
def q7(n: Nexmark) -> sl.Query:
    """Highest bid."""
    return n.lab.query(
        """SELECT auction, bidder, price, date_time, window_start, window_end
        FROM tumble(bids, INTERVAL '10 seconds')
        QUALIFY price = max(price) OVER (PARTITION BY window_start, window_end)"""
    )


@query(
    """SELECT id, name, window_start, opened FROM
      (SELECT id, name, floor_us(epoch_us(date_time), 10000000) AS window_start FROM people) JOIN
      (SELECT seller AS id, floor_us(epoch_us(date_time), 10000000) AS window_start,
        count(*) AS opened FROM auctions GROUP BY ALL) USING (id, window_start)"""
)
def q8(n: Nexmark) -> sl.Query:
    """Monitor new users."""
    window = sl.tumbling("10s")
    arrived = n.people.window(window, by=["id", "name"]).agg(people=pl.len())
    sellers = n.auctions.select("date_time", id="seller")
    opened = sellers.window(window, by="id").agg(opened=pl.len())
    both = arrived.join(opened, on="id", within=("0s", "0s"))
    return both.select("id", "name", "window_start", "opened", "pair_time")


@query(
    """SELECT a.id AS auction, item_name, seller, category, bidder, price, b.date_time AS bid_time
    FROM auctions a JOIN bids b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires
    QUALIFY row_number() OVER (PARTITION BY a.id ORDER BY price DESC, b.date_time) = 1""",
    ADAPTED_WINNING,
)
def q9(n: Nexmark) -> sl.Query:
    """Winning bids."""
    best = {"by": ["price", "date_time_right"], "descending": [True, False]}
    return (
        offers(n)
        .window(sl.session(OPEN), by=["auction", "item_name", "seller", "category"])
        .agg(
            bidder=pl.col("bidder").sort_by(**best).first(),
            price=PRICE.max(),
            bid_time=pl.col("date_time_right").sort_by(**best).first(),
        )
    )


# -- logging, counting, looking up ---------------------------------------------------------------


@query(
    """SELECT auction, bidder, price, date_time, extra, strftime(date_time, '%Y-%m-%d') AS day,
    strftime(date_time, '%H:%M') AS minute FROM bids""",
    'into a stream; `sl.export(stream, folder, partition_by=["day"])` makes folders of it',
)
def q10(n: Nexmark) -> sl.Query:
    """Log to the file system."""
    parts = {"day": TIME.dt.strftime("%Y-%m-%d"), "minute": TIME.dt.strftime("%H:%M")}
    return n.bids.select("auction", "bidder", "price", "date_time", "extra", **parts)


@query(
    """SELECT bidder, epoch_us(min(date_time)) AS window_start,
      epoch_us(max(date_time)) + 10000000 AS window_end, count(*) AS bids
    FROM (SELECT *, sum(begins) OVER (PARTITION BY bidder ORDER BY date_time) AS session FROM (
      SELECT bidder, date_time, coalesce(epoch_us(date_time) - epoch_us(lag(date_time) OVER (
        PARTITION BY bidder ORDER BY date_time)) >= 10000000, true)::INT AS begins FROM bids))
    GROUP BY bidder, session"""
)
def q11(n: Nexmark) -> sl.Query:
    """User sessions."""
    return n.bids.window(sl.session("10s"), by="bidder").agg(bids=pl.len())


@query(
    """SELECT bidder, floor_us(epoch_us(date_time), 10000000) AS window_start, count(*) AS bids
    FROM bids GROUP BY ALL""",
    "by event time: a result by processing time is another one at each run",
)
def q12(n: Nexmark) -> sl.Query:
    """Bids of a user per window."""
    return n.bids.window(sl.tumbling("10s"), by="bidder").agg(bids=pl.len())


@query(
    """SELECT auction, bidder, price, date_time, value FROM bids JOIN side ON key = auction % 10000"""
)
def q13(n: Nexmark) -> sl.Query:
    """Bounded side input."""
    known = n.bids.with_columns(key=pl.col("auction") % 10_000).join(side_input(), on="key")
    return known.select("auction", "bidder", "price", "date_time", "value")


@query(
    """SELECT auction, bidder, 0.908::DOUBLE * price AS price, date_time, extra,
      CASE WHEN hour(date_time) BETWEEN 8 AND 18 THEN 'dayTime'
        WHEN hour(date_time) <= 6 OR hour(date_time) >= 20 THEN 'nightTime'
        ELSE 'otherTime' END AS bid_time_type,
      length(extra) - length(replace(extra, 'c', '')) AS c_counts
    FROM bids WHERE 0.908::DOUBLE * price > 1000000 AND 0.908::DOUBLE * price < 50000000"""
)
def q14(n: Nexmark) -> sl.Query:
    """Calculation."""
    hour, paid = TIME.dt.hour(), PRICE * 0.908
    kind = (
        pl.when(hour.is_between(8, 18)).then(pl.lit("dayTime"))
        .when((hour <= 6) | (hour >= 20)).then(pl.lit("nightTime"))
        .otherwise(pl.lit("otherTime"))
    )  # fmt: skip
    counts = pl.col("extra").str.count_matches("c", literal=True)
    kept = n.bids.filter(paid > 1_000_000, paid < 50_000_000)
    return kept.select(
        "auction", "bidder", paid, "date_time", "extra", bid_time_type=kind, c_counts=counts
    )


# -- statistics of a day -------------------------------------------------------------------------


def counted() -> dict[str, pl.Expr]:
    """Return how many bids there are, and how many of each rank."""
    ranks = {f"rank{rank}_bids": cond.sum() for rank, cond in RANKS.items()}
    return {"total_bids": pl.len(), **ranks}


def distinct(column: str) -> dict[str, pl.Expr]:
    """Return how many different values there are, and how many of each rank."""
    total = {f"total_{column}s": pl.col(column).n_unique()}
    ranks = {
        f"rank{rank}_{column}s": pl.col(column).filter(cond).n_unique()
        for rank, cond in RANKS.items()
    }
    return total | ranks


DAY = "floor_us(epoch_us(date_time), 86400000000) AS window_start"
SQL_RANKS = {
    "1": f"price < {CHEAP}",
    "2": f"price >= {CHEAP} AND price < {DEAR}",
    "3": f"price >= {DEAR}",
}
SQL_COUNTED = "count(*) AS total_bids, " + ", ".join(
    f"count(*) FILTER ({cond}) AS rank{rank}_bids" for rank, cond in SQL_RANKS.items()
)
SQL_DISTINCT = ", ".join(
    f"count(DISTINCT {column}) AS total_{column}s, "
    + ", ".join(
        f"count(DISTINCT {column}) FILTER ({cond}) AS rank{rank}_{column}s"
        for rank, cond in SQL_RANKS.items()
    )
    for column in ("bidder", "auction")
)


@query(f"SELECT {DAY}, {SQL_COUNTED}, {SQL_DISTINCT} FROM bids GROUP BY ALL")
def q15(n: Nexmark) -> sl.Query:
    """Bidding statistics."""
    day = n.bids.window(sl.tumbling("1d"))
    return day.agg(**counted(), **distinct("bidder"), **distinct("auction"))


@query(
    f"""SELECT channel, {DAY}, max(strftime(date_time, '%H:%M')) AS minute,
    {SQL_COUNTED}, {SQL_DISTINCT} FROM bids GROUP BY ALL"""
)
def q16(n: Nexmark) -> sl.Query:
    """Channel statistics."""
    day = n.bids.window(sl.tumbling("1d"), by="channel")
    minute = TIME.max().dt.strftime("%H:%M")
    return day.agg(minute=minute, **counted(), **distinct("bidder"), **distinct("auction"))


@query(
    f"""SELECT auction, {DAY}, {SQL_COUNTED}, min(price) AS min_price, max(price) AS max_price,
    avg(price) AS avg_price, sum(price)::BIGINT AS sum_price FROM bids GROUP BY ALL"""
)
def q17(n: Nexmark) -> sl.Query:
    """Auction statistics."""
    day = n.bids.window(sl.tumbling("1d"), by="auction")
    prices = {name: getattr(PRICE, name)() for name in ("min", "max", "mean", "sum")}
    renamed = {f"{'avg' if name == 'mean' else name}_price": expr for name, expr in prices.items()}
    return day.agg(**counted(), **renamed)


@query(
    f"""SELECT auction, bidder, price, channel, date_time, {DAY} FROM bids
    QUALIFY row_number() OVER (PARTITION BY bidder, auction, window_start
      ORDER BY date_time DESC) = 1""",
    "of a day, not since ever",
)
def q18(n: Nexmark) -> sl.Query:
    """Find last bid."""
    last = {name: pl.col(name).sort_by("date_time").last() for name in ("price", "channel")}
    day = n.bids.window(sl.tumbling("1d"), by=["auction", "bidder"])
    return day.agg(**last, date_time=TIME.max())


@query(
    f"""SELECT auction, bidder, price, date_time, {DAY} FROM bids
    QUALIFY row_number() OVER (PARTITION BY auction, window_start
      ORDER BY price DESC, date_time) <= 10""",
    "of a day, not since ever",
)
def q19(n: Nexmark) -> sl.Query:
    """Auction TOP-10 price."""
    return n.lab.query(
        """SELECT auction, bidder, price, date_time, window_start, window_end
        FROM tumble(bids, INTERVAL '1 day')
        QUALIFY row_number() OVER (PARTITION BY window_start, window_end, auction
          ORDER BY price DESC, date_time) <= 10"""
    )


# -- looking up, taking apart --------------------------------------------------------------------


@query(
    """SELECT b.auction, bidder, price, channel, b.date_time, item_name, initial_bid, seller,
    a.date_time AS opened, expires FROM bids b JOIN auctions a ON b.auction = a.id
    WHERE category = 10""",
    "an auction is looked up in the table of auctions as it was when the bid came",
)
def q20(n: Nexmark) -> sl.Query:
    """Expand bid with auction."""
    both = n.bids.with_columns(id=pl.col("auction")).join(n.auctions.table(), on="id")
    return both.filter(category=10).select(
        "auction", "bidder", "price", "channel", "date_time", "item_name", "initial_bid", "seller",
        "expires", opened="date_time_right",
    )  # fmt: skip


CHANNEL = r"regexp_extract(url, '(&|^)channel_id=([^&]*)', 2)"
CHANNELS = f"""SELECT auction, bidder, price, channel, date_time,
      CASE lower(channel) WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2'
        WHEN 'baidu' THEN '3' ELSE {CHANNEL} END AS channel_id
    FROM this WHERE lower(channel) IN ('apple', 'google', 'facebook', 'baidu') OR {CHANNEL} <> ''"""
DIRECTORIES = """SELECT auction, bidder, price, channel, date_time, split_part(url, '/', 4) AS dir1,
      split_part(url, '/', 5) AS dir2, split_part(url, '/', 6) AS dir3 FROM this"""


@query(CHANNELS.replace("FROM this", "FROM bids"))
def q21(n: Nexmark) -> sl.Query:
    """Add channel id."""
    return n.bids.sql(CHANNELS)


@query(DIRECTORIES.replace("FROM this", "FROM bids"))
def q22(n: Nexmark) -> sl.Query:
    """Get URL directories."""
    return n.bids.sql(DIRECTORIES)
