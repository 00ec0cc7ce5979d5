"""Where a result comes from, and why one has not come yet.

`trace` reads the input rows behind one row of a result again, from the log alone. `explain` says in
words what a query does, how, what it holds and whom it waits for.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from streamlab import plan as p
from streamlab.aggregate import Aggregation, aggregation
from streamlab.clock import FOREVER, NEVER
from streamlab.duration import EPOCH, format_duration, format_instant, parse_instant
from streamlab.engines.batch import BEFORE, ORDER, TIME, watermark
from streamlab.engines.local import Runner, visible
from streamlab.engines.state import WindowOperator, marks_of
from streamlab.errors import QueryError
from streamlab.window import Window

if TYPE_CHECKING:
    import polars as pl

__all__ = ["explain", "trace"]

BOUNDS = ("window_start", "window_end", "window_time")

MOST_INNER = 1_000
"""So many windows under another one are traced at most, each of them through the log."""


def _window_of(node: p.Node) -> p.Aggregate | p.WindowSqlStep:
    while not isinstance(node, p.Aggregate | p.WindowSqlStep):
        inputs = p.inputs_of(node)
        if len(inputs) != 1:
            raise QueryError(
                "trace needs a window: it names the rows behind one result of it",
                hint='q.window(...).agg(...).trace(symbol="A", window_start=t)',
            )
        node = inputs[0]
    return node


def trace(node: p.Node, keys: Mapping[str, Any]) -> pl.DataFrame:
    """Return the rows behind one row of a windowed result; see `Query.trace`."""
    import polars as pl

    step = _window_of(node)
    inside = step.input
    sliding = step.window.kind == "sliding"
    known = set(inside.schema) | (set() if sliding else set(BOUNDS))
    for name in keys:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=2)
            hint = (
                f"did you mean {' or '.join(near)}?"
                if near
                else f"there are {', '.join(sorted(known))}"
            )
            raise QueryError(f"trace: there is no key {name!r}", hint=hint)
    bounds = {
        name: parse_instant(keys[name], what=name)
        for name in BOUNDS
        if name in keys and not sliding
    }
    equal = {name: value for name, value in keys.items() if name not in bounds}
    _check_types(equal, inside.schema)
    runner = Runner(inside, raw=True)
    taken = []
    for frame in [runner.empty, *runner.drain()]:
        rows = _on_time(frame, step, runner.delay)
        if not sliding:
            rows = rows.filter(_equal(equal))
        if bounds and step.window.kind != "session":
            rows = _inside(rows, step.window, bounds)
        taken.append(rows)
    rows = pl.concat(taken)
    if step.window.kind == "session":
        rows = _sessions(rows, step, bounds)
    elif sliding:
        rows = _reach(rows, step, equal)
    return _originals(inside, rows.sort(ORDER))


def _equal(equal: Mapping[str, Any]) -> pl.Expr:
    import polars as pl

    terms = [pl.col(name).eq_missing(pl.lit(value)) for name, value in equal.items()]
    return pl.all_horizontal(terms) if terms else pl.lit(value=True)


def _check_types(equal: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    """See that each value can be compared with its column.

    Raises:
        QueryError: one cannot.
    """
    import polars as pl

    for name, value in equal.items():
        try:
            pl.DataFrame(schema={name: schema[name]}).filter(_equal({name: value}))
        except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
            raise QueryError(
                f"trace: the key {name!r} is {schema[name]}; {value!r} cannot be one of its values"
            ) from error


def _on_time(frame: pl.DataFrame, step: p.Aggregate | p.WindowSqlStep, delay: int) -> pl.DataFrame:
    """Return the rows that some window took, with the watermark they met."""
    import polars as pl

    marks = marks_of(frame[BEFORE].to_numpy(), delay if step.delay is None else step.delay)
    times = frame[TIME].to_numpy()
    whole = step.window.kind in ("session", "sliding")
    ends = times + 1 if whole else step.window.last_end(times)
    frame = frame.with_columns(pl.Series("\0met", marks))
    return frame.filter(pl.Series(ends > marks, dtype=pl.Boolean))


def _inside(rows: pl.DataFrame, window: Window, bounds: Mapping[str, int]) -> pl.DataFrame:
    """Return the rows in windows with these bounds, that had not closed when the row came."""
    import polars as pl

    if not rows.height:
        return rows
    panes = window.panes(rows[TIME].to_numpy())
    unique, inverse = np.unique(panes, return_inverse=True)
    index, starts, ends = window.windows(unique)
    pairs = pl.DataFrame({"\0pane": index, "\0start": starts, "\0end": ends})
    wanted = {
        "window_start": pl.col("\0start"),
        "window_end": pl.col("\0end"),
        "window_time": pl.col("\0end") - 1,
    }
    for name, value in bounds.items():
        pairs = pairs.filter(wanted[name] == value)
    joined = rows.with_columns(pl.Series("\0pane", inverse.astype(np.int64))).join(
        pairs.with_columns(pl.col("\0pane").cast(pl.Int64)), on="\0pane", how="inner"
    )
    joined = joined.filter(pl.col("\0end") > pl.col("\0met")).drop("\0start", "\0end", "\0pane")
    return joined.unique(ORDER, maintain_order=True)


def _sessions(
    rows: pl.DataFrame, step: p.Aggregate | p.WindowSqlStep, bounds: Mapping[str, int]
) -> pl.DataFrame:
    import polars as pl

    gap, by = step.window.size, list(step.by)
    rows = rows.sort(*by, TIME, maintain_order=True)
    new = (pl.col(TIME).diff() >= gap).fill_null(value=True)
    number = (new.over(by) if by else new).cast(pl.Int64).cum_sum().alias("\0session")
    rows = rows.with_columns(number)
    first, last = (getattr(pl.col(TIME), edge)().over("\0session") for edge in ("min", "max"))
    values = {"window_start": first, "window_end": last + gap, "window_time": last + gap - 1}
    for name, value in bounds.items():
        rows = rows.filter(values[name] == value)
    return rows.drop("\0session")


def _reach(
    rows: pl.DataFrame, step: p.Aggregate | p.WindowSqlStep, equal: Mapping[str, Any]
) -> pl.DataFrame:
    import polars as pl

    chosen = rows.filter(_equal(equal))
    if chosen.height != 1:
        raise QueryError(
            f"trace of a sliding window names one row; {chosen.height} fit",
            hint="trace(_offset=...) names it",
        )
    at = int(chosen[TIME][0])
    near = rows.filter((pl.col(TIME) > at - step.window.size) & (pl.col(TIME) <= at))
    return near.filter(_equal({name: chosen[name][0] for name in step.by}))


def _originals(inside: p.Node, rows: pl.DataFrame) -> pl.DataFrame:
    """Return the source's own rows, where each row is one of them; else the rows as they are."""
    import polars as pl

    sources = list(p.sources_of(inside))
    kinds = (
        p.Filter | p.Project | p.RowSqlStep | p.MapBatches | p.Unique | p.FrameJoin | p.TableJoin
    )
    node = inside
    while isinstance(node, kinds):
        node = node.input
    if len(sources) == 1 and isinstance(node, p.Aggregate | p.WindowSqlStep):
        named = [n for n in (*node.by, "window_start", "window_end") if n in rows.columns]
        if "window_start" in named and node.window.kind != "sliding":
            return _deeper(node, rows.select(named).unique(maintain_order=True))
    if len(sources) != 1 or not isinstance(node, p.Source):
        return visible(rows).drop([name for name in rows.columns if name == "\0met"])
    offsets = rows[ORDER].unique().sort()
    if not len(offsets):
        return pl.DataFrame(schema=dict(node.schema))
    scan = node.scan.within(int(offsets[0]), int(offsets[-1]) + 1)
    found = pl.from_arrow(scan.fix().reader().read_all())
    assert isinstance(found, pl.DataFrame)
    return found.filter(pl.col("_offset").is_in(offsets.implode()))


def _deeper(node: p.Node, windows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows behind several results of a window that is under another one.

    Raises:
        QueryError: they are so many that going through the log for each would take very long.
    """
    import polars as pl

    if windows.height > MOST_INNER:
        raise QueryError(
            f"{windows.height:,} windows lie behind this result, each of which would be traced",
            hint="name more keys, or trace one of the inner windows by a query of its own",
        )
    parts = [trace(node, row) for row in windows.to_dicts()]
    if not parts:
        return trace(node, {"window_start": EPOCH}).clear()
    return pl.concat(parts).unique("_offset").sort("_offset")


# -- explain -------------------------------------------------------------------------------------


def explain(node: p.Node) -> str:
    """Return what a query does and where it stands over the history there is now."""
    runner = Runner(node)
    for _ in runner.drain():
        pass
    lines = ["Plan", *(f"  {line}" for line in p.describe(node))]
    lines += ["How", *(f"  {line}" for line in _how(node))]
    lines += ["Now", *(f"  {line}" for line in runner.report())]
    late = f"{runner.rows_in:,} rows read: {runner.rows_in - runner.rows_late:,} accepted, {runner.rows_late:,} late"
    if runner.rows_partly_late:
        late += f", {runner.rows_partly_late:,} late for some of their windows"
    lines.append(f"  {late}")
    lines += [f"  {line}" for line in _awaited(runner)]
    return "\n".join(lines)


def _how(node: p.Node) -> list[str]:
    lines = []
    for source in p.sources_of(node):
        info = source.scan.info()
        time = (
            f"event time is {info.time}"
            if info.time
            else "no time column: event time is append time"
        )
        lines.append(f"{source.name}: {time}, delay {format_duration(info.delay)}")
    for step in _steps(node):
        if isinstance(step, p.WindowSqlStep):
            lines.append(f"{step.window}: recomputed by DuckDB over a window's rows when it closes")
        elif isinstance(step, p.Aggregate):
            how = aggregation(step.columns, step.input.schema)
            lines.append(f"{step.window}: {_evaluated(step.window, how)}")
    return lines


PARTS = {"session": "session", "sliding": "key and 1/64 of its length"}


def _evaluated(window: Window, how: Aggregation) -> str:
    """Return how results come about, and when."""
    sliding = window.kind == "sliding"
    when = "once stream time has passed a row" if sliding else "when a window closes"
    if how.splits:
        return f"incremental: partial results per {PARTS.get(window.kind, 'key and pane')}, merged {when}"
    rows = "the rows in reach" if sliding else "a window's rows"
    closed = when if sliding else "when it closes"
    return f"recomputed over {rows} {closed}, because {how.reason}"


def _steps(node: p.Node) -> Iterator[p.Node]:
    for other in p.inputs_of(node):
        yield from _steps(other)
    yield node


def _awaited(runner: Runner) -> list[str]:
    """Say what has to happen for the next result."""
    if not runner.stateful:
        return []
    if all(source.scan.fixed is not None for source in runner.sources):
        return [
            'the view ends here and nothing more will come; collect(emit="all") shows what is open'
        ]
    marks = [watermark(s.stream_time, s.scan.info().delay) for s in runner.sources]
    slow = min(range(len(marks)), key=marks.__getitem__)
    name, at, job = (
        runner.names[slow],
        runner.sources[slow].stream_time,
        runner.sources[slow].scan.info().job,
    )
    if at == FOREVER:
        return ["the input has ended: every window is closed"]
    if at == NEVER:
        return [f"{name} has no rows yet: nothing can close before it has"]
    if any(isinstance(o, WindowOperator) and o.late_delay == FOREVER for o in runner.operators):
        return [f'the delay is "inf": results come at the end, lab["{name}"].advance("end")']
    who = f"{name}, which has come to {format_instant(at)}"
    moves = (
        f'job "{job}" moves it on' if job else f'lab["{name}"].advance(...) moves it without a row'
    )
    return [f"the next result waits for {who}: a later row or a heartbeat moves it on; {moves}"]
