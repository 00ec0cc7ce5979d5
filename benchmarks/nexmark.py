"""Nexmark: 23 continuous queries over an auction house, each held against batch SQL.

``python -m benchmarks.nexmark [--events N] [--chunk N] [q1 q5 ...]`` generates the events, appends
them to three streams as they would come, runs each query as a job into a derived stream, runs
DuckDB's batch SQL over the same events in its own tables, and says whether the rows are the same.
The log is closed with ``advance("end")`` first, so that every window is. What was adapted, and why,
is in docs/nexmark.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl

import streamlab as sl
from benchmarks.measure import Scale, folder
from benchmarks.nexmark_data import DISORDER_US, Events, chunks, generate, side_input
from benchmarks.nexmark_queries import QUERIES, Nexmark

__all__ = ["Answer", "answer", "database", "differences", "loaded", "run", "stream_answer"]

EVENTS = 1_000_000
CHUNK = 50_000
KEYS = {"people": "id", "auctions": "id", "bids": None}


@dataclass(frozen=True)
class Answer:
    """What a query gave: rows of both sides, seconds, and what differs (nothing, one hopes)."""

    name: str
    rows_in: int
    rows_out: int
    difference: str | None
    streaming: float
    batch: float

    @property
    def equal(self) -> bool:
        """Whether both sides gave the same rows."""
        return self.difference is None


# -- streams and tables --------------------------------------------------------------------------


@contextmanager
def loaded(path: Path, events: Events, chunk: int = CHUNK) -> Iterator[sl.Lab]:
    """Give a lab that holds the events in three closed streams."""
    with sl.open(path, sync="os") as lab:
        create(lab, events)
        for name, frame in chunks(events, chunk):
            lab[name].append(frame)
        for name in KEYS:
            lab[name].advance("end")
        yield lab


def create(lab: sl.Lab, events: Events) -> None:
    """Make the three streams, empty."""
    delay = f"{DISORDER_US // 1_000}ms"
    for name, frame in events.items():
        lab.create(name, frame.clear(), time="date_time", key=KEYS[name], delay=delay)


@contextmanager
def database(events: Events) -> Iterator[duckdb.DuckDBPyConnection]:
    """Give a connection with the events in tables of DuckDB's own."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, frame in [*events.items(), ("side", side_input())]:
            connection.register("given", frame)
            connection.execute(f"CREATE TABLE {name} AS FROM given")
            connection.unregister("given")
        connection.execute("CREATE MACRO floor_us(t, width) AS t // width * width")
        yield connection


# -- one query -----------------------------------------------------------------------------------


def stream_answer(lab: sl.Lab, name: str) -> tuple[pl.DataFrame, float, int]:
    """Run a query as a job into a derived stream; return its rows, the seconds, the rows read."""
    into = f"{name}_out"
    started = time.perf_counter()
    job = QUERIES[name].build(Nexmark.of(lab)).run(into=into, follow=False)
    job.wait(caught_up=False)
    took = time.perf_counter() - started
    return lab[into].to_polars(), took, job.progress.rows_in


def answer(lab: sl.Lab, connection: duckdb.DuckDBPyConnection, name: str) -> Answer:
    """Answer a query both ways and compare."""
    found, streaming, rows_in = stream_answer(lab, name)
    started = time.perf_counter()
    wanted = connection.sql(QUERIES[name].batch).to_arrow_table()
    batch = time.perf_counter() - started
    difference = differences(found, pl.DataFrame(wanted))
    return Answer(name, rows_in, found.height, difference, streaming, batch)


def differences(found: pl.DataFrame, wanted: pl.DataFrame) -> str | None:
    """Return what differs between two results as sets of rows, None if nothing does.

    Only the columns that are wanted count, instants as microseconds; floats may differ by rounding.
    """
    missing = set(wanted.columns) - set(found.columns)
    if missing:
        return f"no column {', '.join(sorted(missing))}"
    if found.height != wanted.height:
        return f"{found.height:,} rows, and {wanted.height:,} in the batch"
    one, two = _plain(found.select(wanted.columns)), _plain(wanted)
    for column in two.columns:
        left, right = one[column], two[column]
        if right.dtype.is_float():
            near = (left - right).abs() <= 1e-9 * right.abs().clip(1.0)
            same = near.fill_null(value=False) | (left.is_null() & right.is_null())
        else:
            same = left.cast(right.dtype).eq_missing(right)
        if not same.all():
            at = int((~same).arg_true()[0])
            return f"{column} is {left[at]!r}, and {right[at]!r} in the batch; {one.row(at)}"
    return None


def _plain(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows in an order that depends on nothing but them."""
    times = pl.selectors.datetime()
    plain = frame.with_columns(times.cast(pl.Datetime("us", "UTC")).cast(pl.Int64))
    exact = [name for name, kind in plain.schema.items() if not kind.is_float()]
    return plain.sort([*exact, *(name for name in plain.columns if name not in exact)])


# -- the table -----------------------------------------------------------------------------------


def run(scale: Scale) -> None:
    """Print the table for all queries."""
    table(scale.rows(EVENTS), CHUNK, list(QUERIES))


def table(events: int, chunk: int, names: list[str]) -> None:
    """Print a line for each query."""
    made = generate(events)
    print(f"\nNexmark  {events:,} events: ", end="")
    print(", ".join(f"{frame.height:,} {name}" for name, frame in made.items()))
    print(f"  {'':<5}{'rows in':>11}{'rows out':>11}  {'equal':<6}{'streaming':>11}{'DuckDB':>11}")
    with folder() as place, loaded(place / "lab", made, chunk) as lab, database(made) as connection:
        for name in names:
            print(line(lab, connection, name), flush=True)


def line(lab: sl.Lab, connection: duckdb.DuckDBPyConnection, name: str) -> str:
    """Return the line of a query, also of one that fails."""
    try:
        got = answer(lab, connection, name)
    except sl.StreamlabError as error:
        return f"  {name:<5}{type(error).__name__}: {str(error).splitlines()[0]}"
    text = f"  {name:<5}{got.rows_in:>11,}{got.rows_out:>11,}  {'yes' if got.equal else 'NO':<6}"
    text += f"{got.streaming:>9.3f} s{got.batch:>9.3f} s  {QUERIES[name].title}"
    return text if got.equal else f"{text}\n        {got.difference}"


def main() -> None:
    """Read the command line, print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.nexmark", description=__doc__.split("\n", maxsplit=1)[0]
    )
    parser.add_argument("names", nargs="*", metavar="q1", help="some queries (all of them)")
    parser.add_argument("--events", type=int, default=EVENTS, help=f"how many ({EVENTS:,})")
    parser.add_argument("--chunk", type=int, default=CHUNK, help="events appended at a time")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in QUERIES]
    if unknown:
        raise SystemExit(f"no query {unknown[0]!r}; there are {', '.join(QUERIES)}")
    table(given.events, given.chunk, given.names or list(QUERIES))


if __name__ == "__main__":
    main()
