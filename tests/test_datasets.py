"""The shipped datasets: made the same way each time, out of order as documented, as described."""

import importlib.util
import re
import sys
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

DATASETS = Path(__file__).parent.parent / "datasets"
README = (DATASETS / "README.md").read_text(encoding="utf-8")
GENERATED = ("trades", "quotes", "orders")


def load_script(name: str):
    """Import a script of the datasets folder, which is not a package."""
    spec = importlib.util.spec_from_file_location(f"datasets_{name}", DATASETS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def make():
    return load_script("make")


@pytest.fixture(scope="module")
def small(make):
    trades, quotes = make.market(4_000, 6_000)
    return {"trades": trades, "quotes": quotes, "orders": make.orders(3_000)}


def behind(frame: pl.DataFrame) -> pl.Series:
    """Return by how many seconds each row is behind the newest event before it."""
    seconds = (pl.col("ts").cum_max().shift(1) - pl.col("ts")).dt.total_microseconds() / 1e6
    return frame.select(seconds).to_series().fill_null(0.0).clip(0.0)


def rows_of_readme() -> dict[str, list[str]]:
    """Return the cells of the README's table by file."""
    lines = [line for line in README.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in cells}


def test_the_same_seed_makes_the_same_rows(make, small):
    """Generating twice from one seed gives equal tables."""
    trades, quotes = make.market(4_000, 6_000)
    assert trades.equals(small["trades"])
    assert quotes.equals(small["quotes"])
    assert make.orders(3_000).equals(small["orders"])


def test_another_seed_makes_other_rows(make, small):
    """The seed is what decides: another one gives another market and another day."""
    trades, _ = make.market(4_000, 6_000, seed=1)
    assert not trades.equals(small["trades"])
    assert not make.orders(3_000, seed=1).equals(small["orders"])


def test_the_same_table_makes_the_same_file(make, small, tmp_path):
    """Writing a table twice gives the same bytes."""
    for name in ("a", "b"):
        make.write(small["trades"], tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("name", GENERATED)
def test_generated_tables_have_the_declared_schema(make, small, name):
    """A generated table's schema is the one that the generator declares."""
    assert small[name].schema == make.SCHEMAS[name]


def test_trades_lie_within_their_quotes(small):
    """Every trade's price lies between bid and ask of the newest quote of its symbol."""
    trades, quotes = (pl.from_arrow(small[name]) for name in ("trades", "quotes"))
    met = trades.sort("symbol", "ts").join_asof(
        quotes.sort("symbol", "ts"), on="ts", by="symbol", check_sortedness=False
    )
    assert met["bid"].null_count() == 0
    assert met.select(pl.col("price").is_between("bid", "ask").all()).item()


def test_event_ids_follow_event_time(small):
    """Orders are numbered by event time, so their numbers show what arrived out of order."""
    orders = pl.from_arrow(small["orders"])
    assert orders.sort("order_id")["ts"].is_sorted()
    assert not orders["order_id"].is_sorted()


@pytest.mark.parametrize("name", GENERATED)
def test_shipped_rows_are_what_the_generator_makes(make, name):
    """A shipped file starts with the rows that the generator makes today."""
    made = make.market()[GENERATED.index(name)] if name != "orders" else make.orders()
    assert pq.read_table(DATASETS / f"{name}.parquet").equals(made)


@pytest.mark.parametrize("name", GENERATED)
def test_shipped_rows_are_late_as_documented(name):
    """The share of rows a second or more behind is the README's, and between 0.5 and 1 %."""
    seconds = behind(pl.read_parquet(DATASETS / f"{name}.parquet"))
    share = 100 * (seconds >= 1.0).mean()
    assert 0.5 <= share <= 1.0
    assert (
        f"{share:.2f} % of the rows come a second or more"
        in rows_of_readme()[f"{name}.parquet"][-1]
    )
    assert 0 < (seconds > 0).mean() < 0.2


def test_nova_crashes_when_the_readme_says(make):
    """NOVA loses 11 % between 14:42 and 14:45 and has most of it back at 14:55."""
    trades = pl.read_parquet(DATASETS / "trades.parquet").filter(symbol=make.CRASH.name).sort("ts")
    price = [trades.filter(pl.col("ts") < moment)["price"][-1] for moment in make.CRASH[1:]]
    assert 0.10 < 1 - price[1] / price[0] < 0.13
    assert price[2] > price[0] - 0.25 * (price[0] - price[1])


def test_the_sale_multiplies_the_orders(make):
    """The quarter of an hour after the sale's start has over four times the orders of the one before."""
    orders = pl.read_parquet(DATASETS / "orders.parquet")
    quarter = pl.duration(minutes=15)
    start = pl.lit(make.SALE.start)
    before = orders.filter(pl.col("ts").is_between(start - quarter, start, closed="left"))
    after = orders.filter(pl.col("ts").is_between(start, start + quarter, closed="left"))
    assert after.height > 4 * before.height


def test_the_readme_lists_every_file():
    """The table has one row for each shipped file, and no other."""
    assert set(rows_of_readme()) == {path.name for path in DATASETS.glob("*.parquet")}


@pytest.mark.parametrize("file", sorted(rows_of_readme()))
def test_files_have_the_columns_of_the_readme(file):
    """Names, types and number of rows are what the table says."""
    rows, columns, *_ = rows_of_readme()[file]
    parquet = pq.ParquetFile(DATASETS / file)
    described = dict(re.findall(r"`(\w+)` ([^`]+?)(?:, (?=`)|$)", columns))
    assert described == {field.name: str(field.type) for field in parquet.schema_arrow}
    if rows[0].isdigit():
        assert int(rows.replace(",", "")) == parquet.metadata.num_rows


def test_no_event_time_is_null():
    """Every shipped row can be placed in event time."""
    for path in DATASETS.glob("*.parquet"):
        assert pq.read_table(path, columns=["ts"])["ts"].null_count == 0


def test_the_files_are_small():
    """All shipped files together take at most 8 MB."""
    assert sum(path.stat().st_size for path in DATASETS.glob("*.parquet")) <= 8_000_000


def test_recording_writes_one_file_a_stream(tmp_path):
    """A short recording gives each stream's file in its schema, and never overwrites."""
    record = load_script("record")
    streams = ("cpu", "memory")
    rows = record.record(tmp_path, hours=0.3 / 3600, rate=20, streams=streams)
    for name in streams:
        table = pq.read_table(tmp_path / f"host-{name}.parquet")
        assert table.num_rows == rows[name] > 0
        assert table.schema.field("ts").type == pa.timestamp("us", "UTC")
    with pytest.raises(FileExistsError, match=r"is there already"):
        record.record(tmp_path, hours=0.3 / 3600, rate=20, streams=streams)
