"""The events of Nexmark: people, the auctions they open, the bids on those, from one seed.

Of every fifty events one is a person, three are auctions and 46 are bids. Half of the bids go to the
one hot auction of the moment, three quarters of them come from its hot bidder, three quarters of the
auctions from a hot seller; the others are spread over what is recent. Events come in the order of
their numbers, a hundred for each second of event time; one in five of them is late, by at most
`DISORDER_US`.

Columns are drawn as a whole, so that a million events take about a second; the same seed and number
of events give the same events.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

__all__ = ["DISORDER_US", "LONGEST_US", "START_US", "Events", "chunks", "generate", "side_input"]

CYCLE, PEOPLE, AUCTIONS = 50, 1, 3
FIRST_ID = 1_000
START_US = 1_767_657_510_000_000  # 2026-01-05 23:58:30 UTC: also a short history sees a new day
STEP_US = 10_000
DISORDER_US = 2_000_000
DISORDERED = 0.2
RECENT_PEOPLE, RECENT_AUCTIONS = 1_000, 100
HOT_AUCTION, HOT_PERSON = 0.5, 0.75
HOT_EVERY = 100  # after so many ids another one is hot
LONGEST_US = 20_000_000  # no auction is open for longer
CATEGORIES = 5
SIDE_KEYS = 10_000

STATES = {
    "AZ": "Phoenix",
    "CA": "Los Angeles",
    "ID": "Boise",
    "OR": "Portland",
    "WA": "Seattle",
    "WY": "Cheyenne",
}
FIRST = ["Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "Jim", "Leslie", "Radia", "Tony"]
LAST = ["Allen", "Codd", "Dijkstra", "Gray", "Hoare", "Hopper", "Lamport", "Liskov", "Turing"]
CHANNELS = ["Google", "Facebook", "Baidu", "Apple"]
OTHER_CHANNELS = 10_000
WORDS = ["brass", "cedar", "clock", "copper", "lamp", "map", "mirror", "radio", "teapot", "vase"]


@dataclass(frozen=True)
class Events:
    """The three kinds of events; ``event`` is a row's place among all of them."""

    people: pl.DataFrame
    auctions: pl.DataFrame
    bids: pl.DataFrame

    def __len__(self) -> int:
        return self.people.height + self.auctions.height + self.bids.height

    def items(self) -> list[tuple[str, pl.DataFrame]]:
        """Return them by name; a person stands before its auctions, an auction before its bids."""
        return [("people", self.people), ("auctions", self.auctions), ("bids", self.bids)]


def generate(events: int, seed: int = 20260105) -> Events:
    """Return so many events."""
    random = np.random.default_rng(seed)
    number = np.arange(events, dtype=np.int64)
    late = np.where(random.random(events) < DISORDERED, random.integers(0, DISORDER_US, events), 0)
    times = START_US + number * STEP_US + random.integers(0, STEP_US, events) - late
    cycle, place = np.divmod(number, CYCLE)
    parts = [place < PEOPLE, (place >= PEOPLE) & (place < PEOPLE + AUCTIONS)]
    parts.append(~(parts[0] | parts[1]))
    # how many people and auctions there are when an event comes, its own included
    people = cycle * PEOPLE + np.minimum(place + 1, PEOPLE)
    auctions = cycle * AUCTIONS + np.clip(place + 1 - PEOPLE, 0, AUCTIONS)
    makers = (_people, _auctions, _bids)
    made = [
        make(random, people[part], auctions[part], times[part])
        .with_columns(date_time=pl.Series(times[part]).cast(pl.Datetime("us", "UTC")))
        .with_columns(event=pl.Series(number[part]))
        for make, part in zip(makers, parts, strict=True)
    ]
    return Events(*made)


def chunks(events: Events, size: int) -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the rows as they would come: so many events at a time, each kind's beside the others'."""
    for start in range(0, len(events), size):
        for name, frame in events.items():
            low, high = np.searchsorted(frame["event"].to_numpy(), [start, start + size])
            if high > low:
                yield name, frame[int(low) : int(high)]


def side_input() -> pl.DataFrame:
    """Return the bounded table that q13 looks up."""
    key = np.arange(SIDE_KEYS, dtype=np.int64)
    return pl.DataFrame({"key": key}).with_columns(
        value=pl.concat_str(pl.lit("side-"), pl.col("key"))
    )


def _people(random, people, auctions, times) -> pl.DataFrame:
    del auctions, times
    count = len(people)
    state = random.integers(0, len(STATES), count)
    first, last = random.integers(0, len(FIRST), count), random.integers(0, len(LAST), count)
    names = np.array(FIRST)[first], np.array(LAST)[last]
    card = random.integers(10**15, 10**16, count)
    return pl.DataFrame(
        {
            "id": FIRST_ID + people - 1,
            "first": names[0],
            "last": names[1],
            "credit_card": card.astype(str),
            "city": np.array(list(STATES.values()))[state],
            "state": np.array(list(STATES))[state],
        }
    ).select(
        "id",
        pl.concat_str("first", pl.lit(" "), "last").alias("name"),
        pl.concat_str(
            pl.col("first").str.to_lowercase(), pl.lit("@"), "last", pl.lit(".example")
        ).alias("email_address"),
        "credit_card",
        "city",
        "state",
    )


def _auctions(random, people, auctions, times) -> pl.DataFrame:
    count = len(auctions)
    words = [np.array(WORDS)[random.integers(0, len(WORDS), count)] for _ in range(2)]
    initial = _prices(random, count)
    seller = _recent(random, people, RECENT_PEOPLE, HOT_PERSON, 0)
    return pl.DataFrame(
        {
            "id": FIRST_ID + auctions - 1,
            "a": words[0],
            "b": words[1],
            "initial_bid": initial,
            "reserve": initial + _prices(random, count),
            "expires": times + random.integers(1_000_000, LONGEST_US, count),
            "seller": seller,
            "category": random.integers(10, 10 + CATEGORIES, count),
        }
    ).select(
        "id",
        pl.concat_str("a", pl.lit(" "), "b").alias("item_name"),
        "initial_bid",
        "reserve",
        pl.col("expires").cast(pl.Datetime("us", "UTC")),
        "seller",
        "category",
    )


def _bids(random, people, auctions, times) -> pl.DataFrame:
    del times
    count = len(auctions)
    known = random.random(count) < 0.5
    number = random.integers(0, OTHER_CHANNELS, count)
    channel = np.array(CHANNELS)[number % len(CHANNELS)]
    letters = random.integers(0, 26, (4, count)) + ord("a")
    extra = letters.astype(np.uint8).T.copy().view("S4").ravel().astype(str)
    tail = pl.concat_str(pl.lit("&channel_id="), pl.col("number"))
    known_channel = pl.col("known")
    return pl.DataFrame(
        {
            "auction": _recent(random, auctions, RECENT_AUCTIONS, HOT_AUCTION, 0),
            "bidder": _recent(random, people, RECENT_PEOPLE, HOT_PERSON, 1),
            "price": _prices(random, count),
            "known": known,
            "number": number,
            "channel": channel,
            "extra": extra,
        }
    ).select(
        "auction",
        "bidder",
        "price",
        pl.when(known_channel)
        .then(pl.col("channel"))
        .otherwise(pl.concat_str(pl.lit("channel-"), "number"))
        .alias("channel"),
        pl.concat_str(
            pl.lit("https://www.nexmark.example/"),
            pl.col("extra").str.head(2),
            pl.lit("/"),
            pl.col("extra").str.tail(2),
            pl.lit("/item.htm?query=1"),
            pl.when(known_channel | (pl.col("number") % 10 == 0)).then(pl.lit("")).otherwise(tail),
        ).alias("url"),
        "extra",
    )


def _recent(random, counts, window: int, hot: float, beside: int) -> np.ndarray:
    """Return an id for each event: the hot one of the moment, or any of the last so many."""
    span = np.minimum(counts, window)
    any_ = counts - 1 - (random.random(len(counts)) * span).astype(np.int64)
    chosen = np.minimum((counts - 1) // HOT_EVERY * HOT_EVERY + beside, counts - 1)
    return FIRST_ID + np.where(random.random(len(counts)) < hot, chosen, np.maximum(any_, 0))


def _prices(random, count: int) -> np.ndarray:
    """Return prices in cents between 1 and a million dollars, evenly over the magnitudes."""
    return np.round(10.0 ** (random.random(count) * 6) * 100).astype(np.int64)
