"""What a query asks for, as a tree of frozen values; how it is answered is the engines' business.

Each node knows its input and the columns that its rows have, as users see them. A plan holds no
state and may be run any number of times, over history and live, by any engine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from streamlab.errors import QueryError
from streamlab.scan import Scan
from streamlab.window import Window

if TYPE_CHECKING:
    import polars as pl

__all__ = [
    "Aggregate", "AsofJoin", "Filter", "FrameJoin", "IntervalJoin", "MapBatches", "Node", "Project",
    "RowSqlStep", "Source", "TableJoin", "Top", "Unique", "WindowSqlStep", "appended", "describe", "inputs_of",
    "sources_of", "time_of", "time_replaced", "windowed",
]  # fmt: skip

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class Source:
    """The rows of a stream or view."""

    scan: Scan
    name: str
    schema: Schema


@dataclass(frozen=True)
class Filter:
    """Rows for which all conditions are true."""

    input: Node
    conditions: tuple[pl.Expr, ...]
    schema: Schema


@dataclass(frozen=True)
class Project:
    """Columns computed from a row; ``keep`` the others."""

    input: Node
    columns: tuple[pl.Expr, ...]
    keep: bool
    schema: Schema


@dataclass(frozen=True)
class RowSqlStep:
    """A row-wise SELECT over ``this``."""

    input: Node
    text: str
    schema: Schema


@dataclass(frozen=True)
class MapBatches:
    """A row-wise function of a frame."""

    input: Node
    function: Callable[[pl.DataFrame], pl.DataFrame]
    schema: Schema


@dataclass(frozen=True)
class Aggregate:
    """Aggregates per keys and window; for a sliding window, per row."""

    input: Node
    window: Window
    by: tuple[str, ...]
    delay: int | None
    columns: tuple[pl.Expr, ...]
    schema: Schema


@dataclass(frozen=True)
class WindowSqlStep:
    """A SELECT over the rows of windows; ``sql`` is what `engines.sql` made of the text."""

    input: Node
    window: Window
    by: tuple[str, ...]  # a session's keys
    delay: int | None
    sql: Any
    schema: Schema


@dataclass(frozen=True)
class Unique:
    """The first rows of a key, again after some time."""

    input: Node
    on: tuple[str, ...]
    within: int | None
    schema: Schema


@dataclass(frozen=True)
class Top:
    """The first rows of each window in some order."""

    input: Node
    n: int
    order: pl.Expr
    descending: bool
    schema: Schema


@dataclass(frozen=True)
class AsofJoin:
    """Each left row with the latest right row at or before it."""

    left: Node
    right: Node
    by: tuple[str, ...]
    tolerance: int | None
    schema: Schema


@dataclass(frozen=True)
class IntervalJoin:
    """Pairs of rows whose times lie so far apart."""

    left: Node
    right: Node
    on: tuple[str, ...]
    low: int
    high: int
    schema: Schema


@dataclass(frozen=True)
class FrameJoin:
    """Rows with those of a frame that never changes."""

    input: Node
    frame: pl.DataFrame
    on: tuple[str, ...]
    how: str
    schema: Schema


@dataclass(frozen=True)
class TableJoin:
    """Rows with a stream's table as it was when each of them was appended."""

    input: Node
    table: Scan
    name: str
    key: tuple[str, ...]
    on: tuple[str, ...]
    how: str
    schema: Schema


Node = (
    Source | Filter | Project | RowSqlStep | MapBatches | Aggregate | WindowSqlStep | Unique | Top
    | AsofJoin | IntervalJoin | FrameJoin | TableJoin
)  # fmt: skip


def inputs_of(node: Node) -> tuple[Node, ...]:
    """Return what a node reads from, the left one first."""
    if isinstance(node, Source):
        return ()
    if isinstance(node, AsofJoin | IntervalJoin):
        return (node.left, node.right)
    return (node.input,)


def sources_of(node: Node) -> Iterator[Source]:
    """Yield the sources of a plan, from the left."""
    if isinstance(node, Source):
        yield node
    for other in inputs_of(node):
        yield from sources_of(other)


def appended(node: Node) -> bool:
    """Whether a plan's rows are rows of a stream, which have an append time."""
    while not isinstance(node, Source):
        if isinstance(node, WindowSqlStep):
            return False
        if isinstance(node, Aggregate) and node.window.kind != "sliding":
            return False
        node = inputs_of(node)[0]
    return True


def windowed(node: Node) -> Aggregate | WindowSqlStep | None:
    """Return the last window of a plan whose columns still say which window a row is of."""
    while not isinstance(node, Source | AsofJoin | IntervalJoin):
        if isinstance(node, Aggregate) and node.window.kind != "sliding":
            return node
        if isinstance(node, WindowSqlStep):
            return node
        node = inputs_of(node)[0]
    return None


def time_of(node: Node) -> tuple[str | None, bool]:
    """Return the column with the event time of a plan's rows, and whether they still have it.

    None is append time, which is no column of its own.
    """
    path = [node]
    while (name := _made_time(node)) is None and not isinstance(node, Source):
        node = inputs_of(node)[0]
        path.append(node)
    if isinstance(node, Source):
        name = node.scan.info().time
    return name, all(name in step.schema for step in path)


def _made_time(node: Node) -> str | None:
    """Return the event time of the results of a step that makes new ones."""
    if isinstance(node, WindowSqlStep):
        return "window_time"
    if isinstance(node, Aggregate) and node.window.kind != "sliding":
        return "window_time"
    return "pair_time" if isinstance(node, IntervalJoin) else None


def time_replaced(what: str, name: str) -> QueryError:
    """Return the error for a step that gives the name of the event time to something else."""
    return QueryError(
        f"{what}: {name!r} is the event time of the rows; it is fixed in the log, and windows go by it "
        "whatever is computed",
        hint=f"choose another name, such as {name}_2; windows by another time are over a stream of "
        'their own: lab.create("other", rows, time=...)',
    )


def describe(node: Node) -> list[str]:
    """Return a plan as lines, its sources first: what `explain` prints and jobs compare."""
    from streamlab.duration import format_duration

    def exprs(columns: tuple[pl.Expr, ...]) -> str:
        return ", ".join(map(str, columns))

    lines = [line for other in inputs_of(node)[:1] for line in describe(other)]
    match node:
        case Source():
            scan = node.scan
            bounded = scan.fixed is not None or scan.since is not None or scan.until is not None
            view = f" [{scan.start}, {scan.stop})" if bounded else ""
            origin = "" if scan.origin is None else f" {scan.origin.what}"
            lines.append(f"from {node.name}{view}{origin}")
        case Filter():
            lines.append(f"filter {exprs(node.conditions)}")
        case Project():
            lines.append(f"{'with_columns' if node.keep else 'select'} {exprs(node.columns)}")
        case RowSqlStep():
            lines.append(f"sql {node.text}")
        case MapBatches():
            name = getattr(node.function, "__qualname__", repr(node.function))
            lines.append(f"map_batches {name}")
        case Aggregate() | WindowSqlStep():
            by = f" by {', '.join(node.by)}" if node.by else ""
            delay = "" if node.delay is None else f" delay {format_duration(node.delay)}"
            lines.append(f"window {node.window}{by}{delay}")
            what = node.sql.text if isinstance(node, WindowSqlStep) else exprs(node.columns)
            lines.append(f"  agg {what}")
        case Unique():
            within = "" if node.within is None else f" within {format_duration(node.within)}"
            lines.append(f"unique {', '.join(node.on)}{within}")
        case Top():
            lines.append(f"top {node.n} by {node.order} {'desc' if node.descending else 'asc'}")
        case AsofJoin() | IntervalJoin():
            lines += [f"  | {line}" for line in describe(node.right)]
            lines.append(_described_join(node))
        case FrameJoin():
            shape = f"{node.frame.height} rows"
            lines.append(f"join {node.how} a frame of {shape} on {', '.join(node.on)}")
        case TableJoin():
            lines.append(f"join {node.how} the table of {node.name} on {', '.join(node.on)}")
    return lines


def _described_join(node: AsofJoin | IntervalJoin) -> str:
    from streamlab.duration import format_duration

    if isinstance(node, AsofJoin):
        by = f" by {', '.join(node.by)}" if node.by else ""
        limit = "" if node.tolerance is None else f" within {format_duration(node.tolerance)}"
        return f"join_asof{by}{limit}"
    low, high = (
        ("-" if edge < 0 else "") + format_duration(abs(edge)) for edge in (node.low, node.high)
    )
    on = f" on {', '.join(node.on)}" if node.on else ""
    return f"join{on} within ({low}, {high})"
