"""Make the generated datasets: a market day of trades and quotes, and a day of web orders.

    python datasets/make.py     # rewrites the Parquet files beside this one

Everything follows from one seed, so two runs write equal rows. Rows stand in *arrival order*: each
event has a delay of its own, mostly milliseconds and now and then much more, and the order is that
of event time + delay. So event times go back now and then, as they do in real feeds, and a window
that closes too early misses rows.

The market is invented, and so are its symbols, venues and prices. Its rules are real ones: every
trade happens at the bid, the ask or the middle of the quote of its moment; activity is U-shaped
over the session; a few symbols make most of the trades; the dark venue reports late, and much later
while one symbol crashes.
"""

from __future__ import annotations

import argparse
import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["CRASH", "SALE", "SCHEMAS", "make", "market", "orders", "write"]

HERE = Path(__file__).parent
SEED = 20260105
SECOND = 1_000_000  # microseconds, the unit of every time below

OPEN = dt.datetime(2026, 1, 5, 9, 30, tzinfo=dt.UTC)
SESSION_S = 23_400  # six and a half hours
SHOP_DAY = dt.datetime(2025, 11, 28, tzinfo=dt.UTC)


class Episode(NamedTuple):
    """Something that happens at a known time, so that a reader can look for it."""

    name: str
    start: dt.datetime
    peak: dt.datetime
    stop: dt.datetime


CRASH = Episode(
    "NOVA",
    dt.datetime(2026, 1, 5, 14, 42, tzinfo=dt.UTC),
    dt.datetime(2026, 1, 5, 14, 45, tzinfo=dt.UTC),
    dt.datetime(2026, 1, 5, 14, 55, tzinfo=dt.UTC),
)
SALE = Episode(
    "flash sale",
    dt.datetime(2025, 11, 28, 18, 0, tzinfo=dt.UTC),
    dt.datetime(2025, 11, 28, 18, 4, tzinfo=dt.UTC),
    dt.datetime(2025, 11, 28, 18, 45, tzinfo=dt.UTC),
)

_TS = pa.field("ts", pa.timestamp("us", "UTC"))

SCHEMAS: dict[str, pa.Schema] = {
    "trades": pa.schema(
        [
            _TS,
            pa.field("symbol", pa.string()),
            pa.field("price", pa.float64()),
            pa.field("size", pa.int64()),
            pa.field("venue", pa.string()),
        ]
    ),
    "quotes": pa.schema(
        [
            _TS,
            pa.field("symbol", pa.string()),
            pa.field("bid", pa.float64()),
            pa.field("ask", pa.float64()),
            pa.field("bid_size", pa.int64()),
            pa.field("ask_size", pa.int64()),
        ]
    ),
    "orders": pa.schema(
        [
            _TS,
            pa.field("order_id", pa.int64()),
            pa.field("user_id", pa.int64()),
            pa.field("country", pa.string()),
            pa.field("device", pa.string()),
            pa.field("item", pa.string()),
            pa.field("quantity", pa.int32()),
            pa.field("amount", pa.decimal128(10, 2)),
            pa.field("status", pa.string()),
        ]
    ),
}

BUSY = ["ACME", "FLUX", "HALO", "NOVA", "BOLT", "ECHO", "IRIS", "KITE", "LUMA", "MESA"]
QUIET = ["ONYX", "CYAN", "DUNE", "GLYF", "JADE", "PEAK", "QUAY", "RUNE", "SOLA", "TIDE"]
SYMBOLS = BUSY + QUIET
VENUES = ["AXIS", "BAYX", "CORE", "DARK"]  # the last one matches at the middle and reports late
VENUE_SHARES = [0.41, 0.27, 0.20, 0.12]
DARK = 3

# name, share of orders, hours from UTC
COUNTRIES = [
    ("Deutschland", 0.19, 1.0),
    ("France", 0.14, 1.0),
    ("United Kingdom", 0.14, 0.0),
    ("España", 0.10, 1.0),
    ("Türkiye", 0.08, 3.0),
    ("United States", 0.16, -5.0),
    ("México", 0.06, -6.0),
    ("日本", 0.07, 9.0),
    ("Côte d'Ivoire", 0.03, 0.0),
    ("Curaçao", 0.01, -4.0),
    ("Åland", 0.02, 2.0),
]

# name, price in cents, weight
ITEMS = [
    ("Headphones, over-ear", 12900, 10.0),
    ("Café press 1 l", 3490, 8.0),
    ("Matcha whisk 茶筅", 1890, 6.0),
    ("Crème brûlée torch", 2790, 5.0),
    ("Jalapeño seeds 🌶", 349, 5.0),
    ("Wool socks (3 pairs)", 2250, 7.0),
    ("USB-C cable 2 m", 1199, 9.0),
    ("Smørrebrød board", 3950, 3.0),
    ("Raincoat, Größe M", 8900, 3.0),
    ("Çay glasses (6)", 1650, 4.0),
    ("Notebook A5, dotted", 990, 7.0),
    ("Fountain pen “Nº 3”", 4500, 2.0),
    ("Desk lamp", 5990, 4.0),
    ("Board game <Élan>", 3299, 3.0),
    ("Salt & pepper mill", 2999, 3.0),
    ("Gift card $50", 5000, 4.0),
    ("Bicycle bell", 1450, 2.0),
    ("Espresso machine", 44900, 1.0),
]


def market(
    n_trades: int = 200_000, n_quotes: int = 200_000, *, seed: int = SEED
) -> tuple[pa.Table, pa.Table]:
    """Return a session of trades and of quotes, each in arrival order.

    A trade's price lies within the newest quote of its symbol at its event time. Fewer rows give
    a thinner market on the same price paths, not a shorter day.
    """
    rng = np.random.default_rng(seed)
    paths = _mid_prices(rng)
    shares = 1.0 / np.arange(1, len(SYMBOLS) + 1) ** 0.9
    shares /= shares.sum()
    trade_counts = rng.multinomial(n_trades, shares)
    quote_counts = np.maximum(rng.multinomial(n_quotes, shares), 1)
    trade_parts, quote_parts = [], []
    for number in range(len(SYMBOLS)):
        intensity = _intensity(SYMBOLS[number])
        quote = _quotes_of(rng, paths[number], intensity, int(quote_counts[number]), number)
        trade = _trades_of(rng, quote, intensity, int(trade_counts[number]), number)
        quote_parts.append(quote)
        trade_parts.append(trade)
    quotes = {name: np.concatenate([p[name] for p in quote_parts]) for name in quote_parts[0]}
    trades = {name: np.concatenate([p[name] for p in trade_parts]) for name in trade_parts[0]}
    trades_table = _arrive(trades, _trade_delays(rng, trades), SCHEMAS["trades"])
    return trades_table, _arrive(quotes, _quote_delays(rng, quotes), SCHEMAS["quotes"])


def _crash_s() -> tuple[int, int, int]:
    return tuple(int((t - OPEN).total_seconds()) for t in CRASH[1:])  # type: ignore[return-value]


def _crash_shape() -> np.ndarray:
    """Return how deep the crash is in each second of the session, 0 to 1."""
    start, peak, _ = _crash_s()
    second = np.arange(SESSION_S + 1, dtype=float)
    falling = np.clip((second - start) / (peak - start), 0.0, 1.0) ** 1.8
    rising = 0.13 + 0.87 * np.exp(-np.clip(second - peak, 0.0, None) / 170.0)
    return np.where(second <= peak, falling, rising)


def _mid_prices(rng: np.random.Generator) -> np.ndarray:
    """Return the middle price of each symbol at each second: random walks with a common part."""
    x = np.linspace(-1.0, 1.0, SESSION_S)
    swing = 0.75 + 0.9 * x**4  # the open and the close are wilder
    common = rng.standard_normal(SESSION_S) * swing * 6e-5
    shape = _crash_shape()
    rows = []
    for symbol in SYMBOLS:
        start = np.exp(rng.uniform(np.log(18.0), np.log(420.0)))
        beta, own = rng.uniform(0.6, 1.4), rng.uniform(5e-5, 1.3e-4)
        steps = beta * common + rng.standard_normal(SESSION_S) * swing * own
        walk = np.concatenate([[0.0], np.cumsum(steps)])
        depth = 0.118 if symbol == CRASH.name else 0.007 * beta
        shiver = rng.standard_normal(SESSION_S + 1) * shape * depth * 0.035
        rows.append(start * np.exp(walk - depth * shape + shiver))
    return np.array(rows)


def _intensity(symbol: str) -> np.ndarray:
    """Return the activity in each second: U-shaped, with a burst in the crash."""
    x = np.linspace(-1.0, 1.0, SESSION_S)
    level = 1.0 + 1.6 * x**4 + 1.4 * np.exp(-(x + 1.0) * 30.0)
    burst = _crash_shape()[:SESSION_S]
    after = np.arange(SESSION_S) <= _crash_s()[2] + 600
    return level * (1.0 + (11.0 if symbol == CRASH.name else 0.8) * burst * after)


def _draw_times(rng: np.random.Generator, intensity: np.ndarray, n: int) -> np.ndarray:
    """Return ``n`` sorted times since the start, in microseconds, as dense as the intensity."""
    total = np.concatenate([[0.0], np.cumsum(intensity)])
    at = np.interp(rng.random(n) * total[-1], total, np.arange(len(total)))
    return np.sort((at * SECOND).astype(np.int64))


def _quotes_of(
    rng: np.random.Generator, path: np.ndarray, intensity: np.ndarray, n: int, number: int
) -> dict[str, np.ndarray]:
    times = np.unique(_draw_times(rng, intensity, n))
    times[0] = 0  # the book is there when the session opens
    second = times / SECOND
    mid = np.interp(second, np.arange(len(path)), path)
    stress = np.interp(second, np.arange(len(path)), _crash_shape())
    stress = stress * (6.0 if SYMBOLS[number] == CRASH.name else 0.6)
    half = mid * rng.uniform(0.8e-4, 2.4e-4) * (1.0 + stress) * rng.uniform(0.7, 1.4, len(mid))
    bid = np.floor((mid - half) * 100.0).astype(np.int64)
    ask = np.maximum(np.ceil((mid + half) * 100.0).astype(np.int64), bid + 1)
    lots = np.exp(rng.normal(1.6, 0.8, (2, len(mid)))) / (1.0 + stress)
    bid_size, ask_size = np.maximum(1, np.rint(lots)).astype(np.int64) * 100
    symbol = np.full(len(times), number)
    columns = {"ts": times, "symbol": symbol, "bid": bid, "ask": ask}
    return columns | {"bid_size": bid_size, "ask_size": ask_size}


def _trades_of(
    rng: np.random.Generator,
    quotes: dict[str, np.ndarray],
    intensity: np.ndarray,
    n: int,
    number: int,
) -> dict[str, np.ndarray]:
    times = _draw_times(rng, intensity, n)
    newest = np.searchsorted(quotes["ts"], times, side="right") - 1
    bid, ask = quotes["bid"][newest], quotes["ask"][newest]
    venue = rng.choice(len(VENUES), size=n, p=VENUE_SHARES)
    down = np.interp(times / SECOND, np.arange(SESSION_S + 1), _crash_shape())
    buys = rng.random(n) < 0.5 - 0.15 * down * (SYMBOLS[number] == CRASH.name)
    half_ticks = np.where(venue == DARK, bid + ask, 2 * np.where(buys, ask, bid))
    odd = rng.random(n) < 0.35
    size = np.where(
        odd, rng.integers(1, 100, n), 100 * np.rint(np.exp(rng.normal(0.7, 0.8, n))).clip(1)
    )
    symbol = np.full(n, number)
    columns = {"ts": times, "symbol": symbol, "price": half_ticks}
    return columns | {"size": size.astype(np.int64), "venue": venue}


def _trade_delays(rng: np.random.Generator, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Return delays in microseconds; the dark venue is late, in the crash badly so."""
    n = len(rows["ts"])
    dark = rows["venue"] == DARK
    start, _, stop = (s * SECOND for s in _crash_s())
    crashing = (rows["symbol"] == SYMBOLS.index(CRASH.name)) & (rows["ts"] >= start)
    swamped = crashing & (rows["ts"] < stop) & dark
    usual_ms = np.exp(rng.normal(np.log(np.where(dark, 4.0, 1.5)), 0.7))
    late_s = np.clip(np.exp(rng.normal(np.log(np.where(swamped, 50.0, 11.0)), 0.8)), 1.5, 150.0)
    chance = np.where(swamped, 0.6, np.where(dark, 0.030, 0.0025))
    is_late = rng.random(n) < chance
    return np.where(is_late, late_s * SECOND, usual_ms * 1000.0).astype(np.int64)


def _quote_delays(rng: np.random.Generator, rows: dict[str, np.ndarray]) -> np.ndarray:
    """Return delays in microseconds; one quote in 170 comes again from a slow line."""
    n = len(rows["ts"])
    usual_ms = np.exp(rng.normal(np.log(0.6), 0.6, n))
    late_s = np.clip(np.exp(rng.normal(np.log(3.0), 0.7, n)), 1.0, 30.0)
    is_late = rng.random(n) < 0.006
    return np.where(is_late, late_s * SECOND, usual_ms * 1000.0).astype(np.int64)


def _arrive(rows: dict[str, np.ndarray], delay_us: np.ndarray, schema: pa.Schema) -> pa.Table:
    """Return the market's rows in order of arrival, in their types."""
    order = np.argsort(rows["ts"] + delay_us, kind="stable")
    opened = int(OPEN.timestamp()) * SECOND
    columns = {name: column[order] for name, column in rows.items()}
    columns["ts"] = columns["ts"] + opened
    columns["symbol"] = np.array(SYMBOLS)[columns["symbol"]]
    for name, per_unit in (("price", 200.0), ("bid", 100.0), ("ask", 100.0)):
        if name in columns:
            columns[name] = columns[name] / per_unit
    if "venue" in columns:
        columns["venue"] = np.array(VENUES)[columns["venue"]]
    return pa.table([pa.array(columns[f.name], f.type) for f in schema], schema=schema)


def orders(n: int = 60_000, *, seed: int = SEED) -> pa.Table:
    """Return a day of web orders in arrival order, with a flash sale in the evening.

    Phones lose their network: their orders come minutes late at times. The device is null where
    the shop could not tell.
    """
    rng = np.random.default_rng(seed + 1)
    minute, country = _draw_orders(rng, n)
    ts = np.sort((minute * 60 * SECOND + rng.integers(0, 60 * SECOND, n)).astype(np.int64))
    country = country[np.argsort(minute, kind="stable")]
    start, _, stop = ((t - SHOP_DAY).total_seconds() * SECOND for t in SALE[1:])
    in_sale = (ts >= start) & (ts < stop)
    device = rng.choice(4, size=n, p=[0.57, 0.33, 0.07, 0.03])
    weights = np.array([item[2] for item in ITEMS])
    item = rng.choice(len(ITEMS), size=n, p=weights / weights.sum())
    item = np.where(in_sale & (rng.random(n) < 0.4), 0, item)  # what the sale is about
    quantity = 1 + rng.poisson(0.3, n)
    price = np.array([item[1] for item in ITEMS])[item]
    off = np.where(in_sale, rng.choice([0.2, 0.3, 0.5], size=n), 0.0)
    cents = np.rint(price * (1.0 - off)).astype(np.int64) * quantity
    status = rng.choice(4, size=n, p=[0.91, 0.05, 0.03, 0.01])
    status = np.where(in_sale & (rng.random(n) < 0.05), 2, status)  # banks are slow, too
    user = 1000 + country * 4000 + (4000 * rng.beta(0.7, 2.5, n)).astype(np.int64)
    delay_us = _order_delays(rng, device)
    order = np.argsort(ts + delay_us, kind="stable")
    names = [
        np.array(["mobile", "desktop", "tablet", None], dtype=object)[device],
        np.array(["paid", "pending", "declined", "cancelled"])[status],
    ]
    columns = {
        "ts": ts + int(SHOP_DAY.timestamp()) * SECOND,
        "order_id": np.arange(7_000_001, 7_000_001 + n),
        "user_id": user,
        "country": np.array([c[0] for c in COUNTRIES])[country],
        "device": names[0],
        "item": np.array([i[0] for i in ITEMS])[item],
        "quantity": quantity.astype(np.int32),
        "amount": np.array([Decimal(int(c)).scaleb(-2) for c in cents], dtype=object),
        "status": names[1],
    }
    schema = SCHEMAS["orders"]
    return pa.table([pa.array(columns[f.name][order], f.type) for f in schema], schema=schema)


def _draw_orders(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the minute and the country of each order, from each country's day and the sale."""
    minute = np.arange(24 * 60)
    level = np.empty((len(COUNTRIES), len(minute)))
    for number, (_, share, hours) in enumerate(COUNTRIES):
        hour = (minute / 60.0 + hours) % 24.0
        noon = np.exp(-(((hour - 12.5) / 2.8) ** 2))
        evening = np.exp(-(((hour - 20.3) / 2.0) ** 2))
        level[number] = share * (0.08 + 0.75 * noon + 1.0 * evening)
    start, peak, stop = ((t - SHOP_DAY).total_seconds() / 60.0 for t in SALE[1:])
    ramp = np.clip((minute - start + 1.0) / (peak - start), 0.0, 1.0)
    spike = ramp * np.exp(-np.clip(minute - peak, 0.0, None) / 14.0) * (minute < stop)
    level *= 1.0 + 6.0 * np.where(minute >= start, spike, 0.0)
    cell = rng.choice(level.size, size=n, p=(level / level.sum()).ravel())
    return cell % len(minute), cell // len(minute)


def _order_delays(rng: np.random.Generator, device: np.ndarray) -> np.ndarray:
    """Return delays in microseconds: a page answers at once, a phone in a tunnel does not."""
    n = len(device)
    mobile = device == 0
    usual_ms = np.exp(rng.normal(np.log(np.where(mobile, 240.0, 90.0)), 0.6))
    late_s = np.clip(np.exp(rng.normal(np.log(75.0), 1.1, n)), 3.0, 1500.0)
    is_late = rng.random(n) < np.where(mobile, 0.014, 0.0008)
    return np.where(is_late, late_s * SECOND, usual_ms * 1000.0).astype(np.int64)


def make(*, seed: int = SEED) -> dict[str, pa.Table]:
    """Return every generated dataset under its name, in its full size."""
    trades, quotes = market(seed=seed)
    return {"trades": trades, "quotes": quotes, "orders": orders(seed=seed)}


def write(table: pa.Table, path: Path) -> None:
    """Write a table as Parquet with zstd: one row group, times and integers as differences."""
    encodings = {}
    for field in table.schema:
        if pa.types.is_timestamp(field.type) or pa.types.is_integer(field.type):
            encodings[field.name] = "DELTA_BINARY_PACKED"
    pq.write_table(
        table,
        path,
        compression="zstd",
        compression_level=15,
        use_dictionary=[f.name for f in table.schema if f.name not in encodings],
        column_encoding=encodings,
        row_group_size=1 << 20,
    )


def main() -> None:
    """Write the files and say how big they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=HERE, help="where to write")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in make().items():
        path = folder / f"{name}.parquet"
        write(table, path)
        print(f"{path}  {table.num_rows:,} rows  {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
