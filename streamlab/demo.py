"""The demo: record this machine, load history, ask for windows, look back, draw, report.

`run` needs no network and no server. It makes a folder of its own (and never deletes one), writes
a lab into it, and shows at each step what came out. It says "equal" only where it has compared:
what two ways of asking give, or what was written and what is read, and where they differ it stops
with an error.

The windows are streamlab's own queries; two of them run as jobs while the rows come in. Beside them
stands the rule for late rows in plain Polars (`placed`) and in SQL, and the answers are compared.
"""

from __future__ import annotations

import datetime as dt
import os
import shlex
import shutil
import sys
import textwrap
import threading
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import streamlab as sl
from streamlab import report
from streamlab.demo_past import look_back, play_again
from streamlab.demo_stage import (
    BY_STREAM,
    CHUNK,
    LOADS,
    MINUTE,
    SECOND,
    Stage,
    bars,
    busy,
    find_crash,
    plain,
    progress,
    same,
    same_windows,
)
from streamlab.report import Crash, Section, Table

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

__all__ = ["dataset", "run"]

LATE_STREAMS = ("trades", "quotes", "orders")


def dataset(name: str) -> Path:
    """Return the path of a shipped dataset, in an installed streamlab or in a checkout.

    Raises:
        FileNotFoundError: there is none of that name; the message lists those there are.
    """
    package = Path(str(resources.files("streamlab")))
    folders = (package / "datasets", package.parent / "datasets")
    for folder in folders:
        path = folder / f"{name}.parquet"
        if path.is_file():
            return path
    there = sorted(path.stem for folder in folders for path in folder.glob("*.parquet"))
    msg = (
        f"there is no dataset {name!r} in {' or '.join(map(str, folders))}\n"
        f"Hint: {'there are ' + ', '.join(there) if there else 'reinstall streamlab'}"
    )
    raise FileNotFoundError(msg)


def run(
    folder: Path | None = None,
    *,
    seconds: float = 12.0,
    rate: float = 20.0,
    show: Callable[[str], None] = print,
) -> Path:
    """Run the demo into a new folder and return it.

    ``seconds`` and ``rate`` are of the live recording. A folder that holds something is left as it
    is: the demo takes the next free name, ``streamlab-demo-2`` and so on. ``show`` receives what is
    to be read, a piece at a time.

    Raises:
        StreamlabError: two answers that must be equal are not, or the recording failed.
        FileNotFoundError: a shipped dataset is missing.
        ValueError: the recording would be too short to show anything.
    """
    if seconds < 1 or seconds * rate < 5:
        msg = f"the recording needs a second and five samples; got {seconds:g} s at {rate:g} Hz"
        raise ValueError(msg)
    began = time.monotonic()
    folder = new_folder(folder or Path("streamlab-demo"))
    show(f"The streamlab demo, into {folder}\n")
    sections = []
    with sl.open(folder / "lab") as lab:
        stage = Stage(lab, folder, seconds, rate, show)
        for number, (headline, step) in enumerate(STEPS, 1):
            show(f"{number}  {headline}\n")
            sections.append(step(stage))
    show(f"{len(STEPS) + 1}  One page of all of it\n")
    recorded, *answers, charts = sections
    _write_report(folder, [charts, *answers, recorded])
    show(report.contents(folder))
    show(f"\nDone in {time.monotonic() - began:.0f} s. Three commands to try next:\n")
    show(next_commands(folder))
    return folder


def new_folder(wanted: Path) -> Path:
    """Make and return the wanted folder, or the next free name if it holds something."""
    folder, number = wanted, 1
    while folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        number += 1
        folder = wanted.with_name(f"{wanted.name}-{number}")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---------------------------------------------------------------------- 1  record and load


class Recorder(threading.Thread):
    """Appends this machine's samples to their streams until the time is over or `stop`."""

    def __init__(self, lab: Any, rate: float, seconds: float) -> None:
        super().__init__(name="demo recorder", daemon=True)
        self.source = sl.host(rate=rate)
        self.lab = lab
        self.seconds = seconds
        self.samples = 0
        self.stopping = threading.Event()
        self.error: Exception | None = None
        for name, schema in self.source.schemas.items():
            lab.create(name, schema, time="ts", key=self.source.keys[name])

    def run(self) -> None:
        try:
            for sample in self.source.samples(self.seconds):
                self.lab[sample.stream].append(sample.batch)
                self.samples = sample.position + 1
                if self.stopping.is_set():
                    break
        except Exception as error:  # noqa: BLE001  (raised again by `check`, in the foreground)
            self.error = error

    def check(self) -> None:
        if self.error:
            raise self.error

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed:
            self.stopping.set()
        self.join()
        if not failed:
            self.check()


def record_and_load(stage: Stage) -> Section:
    """Record this machine in the background while history is loaded in the foreground."""
    import polars as pl

    lab, began = stage.lab, time.monotonic()
    recorder = Recorder(lab, stage.rate, stage.seconds)
    busy(lab["cpu"], SECOND).run("cpu_seconds")
    with recorder:
        loaded = _load_history(lab, recorder)
        took = time.monotonic() - began
        stage.show(
            f"  {loaded:,} rows of history in {took:.1f} s, {CHUNK:,} to an append, each append\n"
            f"  on disk before the next; this machine is recorded meanwhile, {stage.rate:g} Hz;\n"
            "  two jobs keep windows of what comes in\n"
        )
        _wait_for(recorder, int(stage.seconds * stage.rate))
    names = [*recorder.source.schemas, *BY_STREAM]
    frame = pl.DataFrame([_describe(lab[name]) for name in names])
    note = "the first five are this machine, live; the others are shipped with streamlab"
    table = stage.table(Table("The lab: streams of Arrow segments on your disk", frame, note=note))
    text = (
        f"{recorder.samples:,} samples of this machine were recorded live while {loaded:,} rows of"
        f" history were loaded in {took:.1f} seconds."
    )
    return Section("Record and load", text, [table])


def _describe(stream: Any) -> dict[str, Any]:
    import polars as pl

    ts = pl.col("ts")
    asked = stream.scan().select(
        appends=pl.col("_append_time").n_unique(),
        first=ts.min().dt.to_string("%Y-%m-%d %H:%M:%S"),
        last=ts.max().dt.to_string("%H:%M:%S"),
    )
    appends, first, last = asked.collect().row(0)
    key = stream.key if isinstance(stream.key, str) else ", ".join(stream.key or ())
    return {
        "stream": stream.name,
        "key": key or None,
        "rows": len(stream),
        "appends": appends,
        "first event (UTC)": first,
        "last event": last,
    }


def _load_history(lab: Any, recorder: Recorder) -> int:
    import polars as pl

    frames = [pl.read_parquet(dataset(load.file)) for load in LOADS]
    total = sum(frame.height for frame in frames)
    with progress(total, " rows", "loading") as bar:
        for load, rows in zip(LOADS, frames, strict=True):
            columns = rows.clear()
            stream = lab.create(load.stream, columns, time="ts", key=load.key, delay=load.delay)
            if load.stream == "trades":
                bars(stream).run("bars")
            for chunk in rows.iter_slices(CHUNK):
                stream.append(chunk)
                recorder.check()
                bar.update(chunk.height)
    return total


def _wait_for(recorder: Recorder, samples: int) -> None:
    with progress(samples, " samples", "recording") as bar:
        while recorder.is_alive():
            recorder.join(timeout=0.1)
            bar.update(min(samples, recorder.samples) - bar.n)


# ------------------------------------------------------------------------------ 2  windows


def placed(rows: pl.LazyFrame, size: dt.timedelta, delay: dt.timedelta) -> pl.LazyFrame:
    """Return the rows with their tumbling window, the watermark they meet, and whether late.

    The rows must stand in the order of their offsets. The watermark a row meets is the greatest
    event time of the rows *before* it, less the delay; the row is late if its window had closed.
    """
    import polars as pl

    start = pl.col("ts").dt.truncate(size)
    before = pl.col("ts").cum_max().shift(1)
    return rows.with_columns(
        window_start=start, window_end=start + size, stream_time=before, watermark=before - delay
    ).with_columns(late=(pl.col("window_end") <= pl.col("watermark")).fill_null(value=False))


def windows(stage: Stage) -> Section:
    """Ask for windows of every kind of stream, and count the rows that no window took."""
    lab = stage.lab
    query = bars(lab["trades"])
    minutes = plain(query.collect())
    crash = find_crash(minutes)
    trace, trace_check = _trace_table(query, crash, minutes)
    late, late_checks = _late_table(stage)
    jobs, job_checks = _jobs_table(stage)
    tables = [_crash_table(minutes, crash), trace, _orders_table(stage), _host_table(stage)]
    tables += [_live_table(stage), late, jobs]
    for table in tables:
        stage.table(table)
    checks = [trace_check, *late_checks, *job_checks]
    stage.show("".join(f"  {check}\n" for check in checks))
    said = report.wrapped(query.explain())
    stage.show(f"  What explain says of the windows of trades\n\n{textwrap.indent(said, '  ')}\n")
    text = (
        "Tumbling windows over event time. A row that comes after its window has closed is not"
        " forgotten: it is counted, and can be looked at. Each window can be traced to its rows."
        " Last, what explain says of the windows of trades."
    )
    return Section("Windows", text, tables, checks=checks, said=said)


def _trace_table(query: Any, crash: Crash, minutes: pl.DataFrame) -> tuple[Table, str]:
    """Take the lowest window of the crash back to its trades, and compute it again from them."""
    import polars as pl

    rows = query.trace(symbol=crash.symbol, window_start=crash.low).sort("_offset")
    price = pl.col("price")
    again = rows.select(
        open=price.first(), high=price.max(), low=price.min(), close=price.last(),
        volume=pl.col("size").sum(), trades=pl.len().cast(pl.Int64),
    )  # fmt: skip
    window = minutes.filter(symbol=crash.symbol, window_start=crash.low).select(again.columns)
    what = f"the window of {crash.symbol} at {crash.low:%H:%M}, and {rows.height} trades traced"
    check = same(again, window, what, unit="window")
    lowest = rows.sort("price", "_offset").head(5).select("_offset", "ts", "price", "size", "venue")
    names = {"_offset": "offset", "ts": "event time (UTC)", "size": "size (shares)"}
    title = (
        f"Behind the window of {crash.symbol} at {crash.low:%H:%M}: the lowest of its"
        f" {rows.height} trades, by their place in the log"
    )
    return Table(title, lowest.rename(names)), check


def _crash_table(minutes: pl.DataFrame, crash: Crash) -> Table:
    import polars as pl

    near = pl.col("window_start").is_between(crash.start - MINUTE, crash.stop + MINUTE)
    shown = minutes.filter(near, symbol=crash.symbol).drop("symbol")
    shown = shown.rename({"window_start": "minute (UTC)", "volume": "volume (shares)"})
    title = f"{crash.symbol} around its crash: one-minute windows of trades, prices in dollars"
    return Table(title, shown)


def _orders_table(stage: Stage) -> Table:
    import polars as pl

    size, orders = BY_STREAM["orders"].window, stage.lab["orders"]
    countries = orders.scan().select("country").collect().to_series()
    top = countries.value_counts(sort=True)["country"].head(4).to_list()
    counts = [(pl.col("country") == name).sum().cast(pl.Int64).alias(name) for name in top]
    query = orders.window(sl.tumbling(size)).agg(
        *counts,
        pl.len().cast(pl.Int64).alias("all countries"),
        pl.col("amount").sum().cast(pl.Float64).alias("revenue (€)"),
    )
    table = plain(query.collect())
    peak = table.sort("all countries").row(-1, named=True)["window_start"]
    near = pl.col("window_start").is_between(peak - 3 * size, peak + 3 * size)
    shown = table.filter(near).rename({"window_start": "from (UTC)"})
    title = f"Orders in windows of 15 minutes around the busiest, {peak:%-d %B %Y}"
    return Table(title, shown, decimals={"revenue (€)": 0})


def _busy_table(title: str, frame: pl.DataFrame) -> Table:
    names = {
        "window_start": "from (UTC)",
        "busy": "CPU busy (%)",
        "most": "busiest core in a sample (%)",
        "_final": "closed",
    }
    shown = frame.drop("window_end", "window_time").rename(names, strict=False)
    return Table(title, shown, decimals=dict.fromkeys(names.values(), 1))


def _host_table(stage: Stage) -> Table:
    query = busy(stage.lab["host_cpu"], BY_STREAM["host_cpu"].window)
    five = query.collect().drop("_final")
    busiest = five.top_k(5, by="busy").sort("window_start")
    day = f"{five['window_start'][0]:%-d %B %Y}"
    return _busy_table(f"A recorded machine, {day}: its five busiest windows of 5 minutes", busiest)


def _live_table(stage: Stage) -> Table:
    seconds = busy(stage.lab["cpu"], SECOND).collect()
    return _busy_table("This machine, just now: the last windows of one second", seconds.tail(5))


def _late_table(stage: Stage) -> tuple[Table, list[str]]:
    """Count the rows that no window took, and hold them against the rule in plain Polars."""
    import polars as pl

    rows, by_rule, by_query = [], [], []
    for name in LATE_STREAMS:
        load, stream = BY_STREAM[name], stage.lab[name]
        query = stream.window(sl.tumbling(load.window)).agg(taken=pl.len().cast(pl.Int64))
        late = query.late()
        marked = placed(stream.scan(), load.window, load.delay).filter("late")
        by_rule.append(marked.select("_offset").collect())
        by_query.append(late.select("_offset"))
        rows.append(
            {
                "stream": name,
                "window": f"{load.window // MINUTE} min",
                "delay": f"{load.delay.total_seconds():g} s",
                "rows": len(stream),
                "in windows": query.collect()["taken"].sum(),
                "late": late.height,
                "late (%)": 100 * late.height / len(stream),
                "late by up to (s)": late["late_by"].dt.total_microseconds().max() / 1e6,
                "late if delay 0 s": query.lateness(["0s"])["rows_late"].item(),
            }
        )
    frame = pl.DataFrame(rows)
    both = frame.select(rows=pl.col("in windows") + pl.col("late"))
    checks = [
        same(frame.select("rows"), both, "rows read, and rows in windows + late", unit="streams"),
        same(pl.concat(by_query), pl.concat(by_rule), "late rows by query and by the rule"),
    ]
    note = (
        "late: the window had ended when the greatest event time of the rows before, less the"
        "\ndelay, had reached its end; rows = in windows + late"
    )
    decimals = {"late (%)": 3, "late by up to (s)": 1}
    return Table("Rows that no window took", frame, note=note, decimals=decimals), checks


def _jobs_table(stage: Stage) -> tuple[Table, list[str]]:
    """Say what the jobs did while rows came in, and compare it with the answer over history."""
    import polars as pl

    lab = stage.lab
    queries = {"bars": bars(lab["trades"]), "cpu_seconds": busy(lab["cpu"], SECOND)}
    rows, checks = [], []
    for name, query in queries.items():
        progress = lab.jobs[name].wait(60).progress
        rows.append(
            {
                "job and its stream": name,
                "rows read": progress.rows_in,
                "late": progress.rows_late,
                "windows delivered": progress.rows_out,
                "watermark (UTC)": f"{progress.watermark:%Y-%m-%d %H:%M:%S}",
            }
        )
        wanted = query.collect("final")
        kept = lab[name].to_polars().select(wanted.columns)
        checks += same_windows(kept, wanted, f"{name}, by the job as rows came and by one collect")
    return Table("Jobs: windows kept as rows came in", pl.DataFrame(rows)), checks


# ----------------------------------------------------------------------- 4  draw, 5  report


def draw(stage: Stage) -> Section:
    """Draw the four charts; the page shows them."""
    import polars as pl

    lab, folder = stage.lab, stage.folder
    query = bars(lab["trades"])
    minutes = plain(query.collect())
    crash = find_crash(minutes)
    begin, end = crash.start - 6 * MINUTE, crash.stop + 10 * MINUTE
    late = pl.col("_offset").is_in(query.late()["_offset"].implode())
    own = lab["trades"].between(begin, end).filter(symbol=crash.symbol).collect()
    near = pl.col("window_start").is_between(begin, end, closed="left")
    own_minutes = minutes.filter(near, symbol=crash.symbol)
    live = lab["cpu"].to_polars()
    load = BY_STREAM["orders"]
    orders = placed(lab["orders"].scan(), load.window, load.delay).collect()
    figures = {
        "crash": report.crash_chart(own.with_columns(late=late), own_minutes, crash),
        "lateness": report.lateness_chart(orders, size=load.window, delay=load.delay),
        "host": report.host_chart(lab["host_cpu"].to_polars(), lab["host_memory"].to_polars()),
        "live": report.live_chart(live, busy(lab["cpu"], SECOND).collect(), stage.rate),
    }
    for name, figure in figures.items():
        path = report.save(figure, folder / f"{name}.png")
        stage.show(f"  {path.name:<13} {figure.get_suptitle()}")
    stage.show("")
    charts = [(folder / f"{name}.png", figure.get_suptitle()) for name, figure in figures.items()]
    return Section("Charts", "Red always means late.", charts=charts)


STEPS: tuple[tuple[str, Callable[[Stage], Section]], ...] = (
    ("Record this machine, load history", record_and_load),
    ("Ask for windows", windows),
    ("Look back", look_back),
    ("Play it again", play_again),
    ("Draw", draw),
)


def _write_report(folder: Path, sections: list[Section]) -> None:
    lead = (
        f"Written by streamlab demo on {dt.datetime.now(dt.UTC):%-d %B %Y at %H:%M} UTC."
        " Everything on this page comes from the lab in the same folder."
    )
    page = report.page("What the streams said", lead, sections)
    (folder / "report.html").write_text(page, encoding="utf-8")


def next_commands(folder: Path) -> str:
    """Return three commands to try on the lab, with its path quoted for a shell."""
    lab = shlex.quote(str(folder / "lab"))
    command = _command()
    query = "select symbol, count(*) as n from trades group by all order by n desc limit 5"
    verbs = (f"ls {lab}", f"sql {lab} {shlex.quote(query)}", f"tail {lab} cpu")
    return "\n".join(f"  {command} {verb}" for verb in verbs)


def _command() -> str:
    """Return how a shell here calls streamlab: by name if it finds it, else by its place."""
    if shutil.which("streamlab"):
        return "streamlab"
    script = Path(sys.executable).with_name("streamlab")
    return shlex.quote(os.path.relpath(script)) if script.exists() else "python -m streamlab"
