"""Queries: what is asked of streams, written step by step, answered over history or live.

A `Query` is immutable and lazy; each step gives a new one. The same object is collected, followed,
run as a job, traced and explained, and always means the same rows. Nothing is computed here: steps
are checked and put into a plan, which an engine runs.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from streamlab import joined
from streamlab import plan as p
from streamlab.aggregate import aggregation, check_rowwise
from streamlab.duration import Duration, parse_delay, parse_duration
from streamlab.engines.batch import ORDER
from streamlab.engines.changes import identity_of
from streamlab.engines.local import Runner, columns_now, cut, visible
from streamlab.engines.run import Results
from streamlab.errors import QueryError
from streamlab.habits import hint_for, item_hint
from streamlab.lateness import Arrivals, delayed, first_windows, walk
from streamlab.scan import Scan
from streamlab.schema import SYSTEM_FIELDS
from streamlab.shown import Shown, notebook
from streamlab.steps import (
    check_emit,
    check_time,
    expression_of,
    fitting,
    flat,
    names_of,
    no_column,
    source_of,
)
from streamlab.window import Window

if TYPE_CHECKING:
    import polars as pl

    from streamlab.job import Job

__all__ = ["Query", "Querying", "Windowed", "from_sql"]

LATE_SHARE = 0.01
"""Above this share of late rows a collect says so."""

Emit = Literal["final", "changes"]

BOUNDS = ("window_start", "window_end", "window_time")
MARKS = ("_final", "_op", "_partial")
"""Columns that tell about a row of a result."""


class Querying:
    """What a stream and a query have in common: steps, and ways to the answer."""

    _jobs: Any  # runs and remembers jobs

    def _node(self) -> p.Node:
        raise NotImplementedError

    def _then(self, node: p.Node) -> Query:
        return Query(node, self._jobs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name, name=name, obj=self)
        kind = type(self).__name__.lower()
        text = hint_for(kind, name, dir(type(self)), self._node().schema)
        raise AttributeError(text, name=name, obj=self)

    def __getitem__(self, item: Any) -> Any:
        raise TypeError(item_hint(type(self).__name__.lower(), item, self._node().schema))

    # -- row-wise steps ----------------------------------------------------------------------

    def filter(self, *conditions: pl.Expr, **equal: Any) -> Query:
        """Keep rows for which all conditions are true; ``symbol="A"`` means that it equals it.

        Raises:
            QueryError: a condition that needs other rows, or a column that is not there.
        """
        import polars as pl

        node = self._node()
        given = flat(conditions)
        for text in given:
            if isinstance(text, str) and text not in node.schema and not text.isidentifier():
                raise QueryError(
                    f"filter takes Polars expressions; got the text {text!r}",
                    hint='filter(pl.col("price") > 0); .sql("SELECT * FROM this WHERE ...") takes text',
                )
        exprs = [expression_of(condition, "filter") for condition in given]
        for name, value in equal.items():
            plain = isinstance(value, str | bool)
            exprs.append(pl.col(name) == (value if plain else expression_of(value, "filter")))
        if not exprs:
            raise QueryError("filter takes a condition", hint='filter(pl.col("price") > 0)')
        for expr in exprs:
            check_rowwise(expr, "filter")
        frame = pl.LazyFrame(schema=dict(node.schema))
        fitting(lambda: frame.filter(*exprs).collect_schema(), node, "filter")
        fitting(lambda: frame.filter(*exprs).collect(), node, "filter")
        return self._then(p.Filter(node, tuple(exprs), node.schema))

    def with_columns(self, *columns: Any, **named: Any) -> Query:
        """Add columns computed from each row, or replace some.

        Raises:
            QueryError: an expression that needs other rows, or a column that is not there.
        """
        return self._project(columns, named, keep=True)

    def select(self, *columns: Any, **named: Any) -> Query:
        """Keep these columns only, computed from each row.

        Raises:
            QueryError: an expression that needs other rows, or a column that is not there.
        """
        return self._project(columns, named, keep=False)

    def _project(self, columns: Sequence[Any], named: Mapping[str, Any], *, keep: bool) -> Query:
        import polars as pl

        node, what = self._node(), "with_columns" if keep else "select"
        exprs = [expression_of(column, what) for column in flat(columns)]
        exprs += [expression_of(column, what).alias(name) for name, column in named.items()]
        for expr in exprs:
            check_rowwise(expr, what)
        frame = pl.LazyFrame(schema=dict(node.schema))
        chosen = frame.with_columns(exprs) if keep else frame.select(exprs)
        schema = dict(fitting(chosen.collect_schema, node, what))
        check_time(exprs, node, what)
        if not schema:
            raise QueryError("select takes at least one column")
        if "" in schema and "" not in node.schema:
            raise QueryError(
                f"{what}: a column needs a name", hint=f'{what}(double=pl.col("n") * 2)'
            )
        for name, kind in schema.items():
            system = name in SYSTEM_FIELDS and kind == node.schema.get(name)
            if not system and (name.startswith("\0") or name in SYSTEM_FIELDS):
                raise QueryError(f"{what}: {name!r} is the name of a system column")
        return self._then(p.Project(node, tuple(exprs), keep, schema))

    def sql(self, text: str) -> Query:
        """Compute rows with a SELECT over ``this``, in DuckDB's dialect, a row at a time.

        Raises:
            QueryError: it needs other rows (aggregates, OVER, ORDER BY, joins), or does not parse.
        """
        import polars as pl

        from streamlab.engines.sql import RowSql

        node = self._node()
        checked = RowSql(text, pl.Schema(dict(node.schema)))
        time, _ = p.time_of(node)
        if time and time in checked.output and time.casefold() in checked.renamed:
            raise p.time_replaced("sql", time)
        return self._then(p.RowSqlStep(node, text, dict(checked.output)))

    def map_batches(
        self,
        function: Callable[[pl.DataFrame], pl.DataFrame],
        schema: Mapping[str, Any] | None = None,
    ) -> Query:
        """Apply a function of a frame that treats each row alone, and returns as many rows.

        ``schema`` says what it returns (names to Polars types); without it, what it is given. The
        first batch of a run is checked: the whole must give what its halves give.
        """
        node = self._node()
        if not callable(function):
            raise QueryError(f"map_batches takes a function; got {function!r}")
        if schema is not None and not isinstance(schema, Mapping):
            raise QueryError(
                f"schema maps names to Polars types; got {schema!r}", hint='{"x": pl.Int64}'
            )
        return self._then(p.MapBatches(node, function, dict(schema or node.schema)))

    # -- windows -----------------------------------------------------------------------------

    def window(
        self, window: Window, by: Any = None, delay: Duration | Literal["inf"] | None = None
    ) -> Windowed:
        """Divide rows into windows, per values of the columns ``by``; `Windowed.agg` says of what.

        ``delay`` is how far out of order rows may come; without it, the stream's own. ``"inf"``
        waits for ``advance("end")``.

        Raises:
            QueryError: no window, or a column that is not there.
            InvalidDuration: a delay that is none.
        """
        node = self._node()
        if not isinstance(window, Window):
            raise QueryError(
                f"window takes a window; got {window!r}",
                hint='sl.tumbling("1m"), sl.hopping("5m", every="1m"), sl.session("30s"), ...',
            )
        keys = names_of(by, node, "by")
        for name in keys:
            if name in (*BOUNDS, *MARKS) and window.kind != "sliding":
                raise QueryError(
                    f"by={name!r} has the name of a column of the result",
                    hint=f"rename it: .with_columns(inner=pl.col({name!r})).window(..., by='inner')",
                )
        return Windowed(self, node, window, keys, None if delay is None else parse_delay(delay))

    def top(self, n: int, order: Any, *, descending: bool = True) -> Query:
        """Keep the ``n`` rows of each window that come first in an order; ties go by the keys.

        Raises:
            QueryError: there is no window before it.
        """
        import polars as pl

        node = self._node()
        if p.windowed(node) is None:
            raise QueryError("top is per window", hint="write it after .window(...).agg(...)")
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise QueryError(f"top takes a number of rows; got {n!r}", hint='top(3, "volume")')
        expr = expression_of(order, "order")
        if isinstance(order, list | tuple) or expr.meta.is_literal():
            raise QueryError(
                f"order is one column or expression; got {order!r}", hint='top(3, "volume")'
            )
        check_rowwise(expr, "order")
        frame = pl.LazyFrame(schema=dict(node.schema))
        fitting(lambda: frame.select(expr).collect(), node, "order")
        return self._then(p.Top(node, n, expr, descending, node.schema))

    def unique(self, on: Any, within: Duration | None = None) -> Query:
        """Drop a row if a kept row of the same key is less than ``within`` away in event time.

        Without ``within`` only the first row of a key is kept.
        """
        node = self._node()
        limit = None if within is None else parse_duration(within, what="within")
        keys = names_of(on, node, "on")
        if not keys:
            raise QueryError(
                "unique takes the columns that make a row the same", hint='unique("id")'
            )
        return self._then(p.Unique(node, keys, limit, node.schema))

    # -- joins -------------------------------------------------------------------------------

    def join_asof(
        self, other: Querying, by: Any = None, tolerance: Duration | None = None
    ) -> Query:
        """Give each row the latest row of another stream at or before its event time.

        Rows wait until the other stream's watermark has passed them.

        Raises:
            QueryError: the other side is no stream or query, or a key is missing on a side.
        """
        if not isinstance(other, Querying):
            raise joined.no_stream(other)
        return self._then(joined.as_of(self._node(), other._node(), by, tolerance))

    def join(
        self, other: Any, on: Any = None, within: tuple[str, str] | None = None,
        how: Literal["inner", "left"] = "inner",
    ) -> Query:  # fmt: skip
        """Join with another stream within an interval, with a frame, or with a stream's table.

        For two streams ``within=("-5m", "10m")`` says how far the right row's event time may lie
        from the left one's; without ``on`` each row meets all that are so near. A table is taken as
        it was when the row was appended.

        Raises:
            QueryError: two streams without ``within``, or keys that do not fit.
        """
        left = self._node()
        joined.check_how(how)
        if isinstance(other, Querying):
            return self._then(joined.pairs(left, other._node(), on, within, how))
        if within is not None:
            raise QueryError("within is for a join of two streams")
        kind = joined.with_table if hasattr(other, "_table_scan") else joined.with_frame
        return self._then(kind(left, other, on, how))

    # -- answers over history ----------------------------------------------------------------

    def _runner(self, **options: Any) -> Runner:
        return Runner(self._node(), **options)

    def collect(
        self, emit: Literal["all", "final"] = "all", *, progress: bool | None = None
    ) -> pl.DataFrame:
        """Answer over the history there is now.

        ``"final"`` gives what can no longer change; ``"all"`` the open windows too, as they are, with
        a column ``_final``. Windows come in the order (window_end, window_start, keys).
        """
        import polars as pl

        from streamlab.progress import progress_bar

        if emit not in ("all", "final"):
            raise QueryError(
                f'collect takes emit="all" or "final"; got {emit!r}',
                hint='changes come from .follow(emit="changes") or .run(into, emit="changes")',
            )
        runner = self._runner(raw=True)
        frames = [runner.empty]
        total, done = sum(source.lag for source in runner.sources), 0
        with progress_bar(total, "collect", "rows", progress) as bar:
            while (frame := runner.step()) is not None:
                frames.append(frame)
                bar.update(runner.rows_in - done)
                done = runner.rows_in
        _warn_of_late(runner)
        found = pl.concat([f for f in frames if f.height] or [runner.empty])
        if emit == "all" and runner.stateful:
            lit = pl.lit
            rest = runner.peek(raw=True).select(found.columns)
            found = pl.concat([
                found.with_columns(lit(value=True).alias("_final")),
                rest.with_columns(lit(value=False).alias("_final")),
            ])  # fmt: skip
        return visible(found.sort(ORDER) if runner.unordered else found)

    def late(self) -> pl.DataFrame:
        """Return the rows that no window took, with ``_watermark`` and ``late_by``.

        ``late_by`` is how much more delay would have kept a row.
        """
        import polars as pl

        runner = self._runner(late=True)
        for _ in runner.drain():
            pass
        found = runner.late_rows()
        if found is not None:
            return found
        windowing = next(
            (n for n in walk(self._node()) if isinstance(n, p.Aggregate | p.WindowSqlStep)), None
        )
        below = self._node() if windowing is None else windowing.input
        extra = {"_watermark": pl.Datetime("us", "UTC"), "late_by": pl.Duration("us")}
        return pl.DataFrame(schema={**below.schema, **extra})

    def lateness(self, delays: Sequence[Duration] = ("0s", "1s", "5s", "30s")) -> pl.DataFrame:
        """Count the late rows of this query's history for each of several delays.

        Columns: ``delay``, ``rows``, ``rows_late``, ``rows_partly_late``, ``late_share``. A stream
        without a window counts rows behind the watermark.
        """
        import polars as pl

        node = self._node()
        if first_windows(node) is None:
            node = Windowed(self, node, Window("session", 1), (), None).agg(pl.len())._node()
        counted = []
        several = hasattr(delays, "__iter__") and not isinstance(delays, str)
        for delay in delays if several else [delays]:
            micros = parse_delay(delay)
            runner = Runner(delayed(node, micros))
            for _ in runner.drain():
                pass
            rows = runner.rows_in
            share = runner.rows_late / rows if rows else 0.0
            counted.append((str(delay), rows, runner.rows_late, runner.rows_partly_late, share))
        names = ["delay", "rows", "rows_late", "rows_partly_late", "late_share"]
        kinds = [pl.String, pl.Int64, pl.Int64, pl.Int64, pl.Float64]
        return pl.DataFrame(counted, schema=dict(zip(names, kinds, strict=True)), orient="row")

    def watermarks(
        self, *, delay: Duration | None = None, rows: int = 200_000, height: int = 340
    ) -> Any:
        """Show event times in the order of arrival, the watermark as a staircase, late rows in red.

        A slider says how many rows another delay would keep, as `lateness` counts them; ``delay`` is
        the one it stands at first, if not the query's. The last ``rows`` rows are drawn; all are
        counted. A stream is asked as for rows behind the watermark.

        Raises:
            MissingExtra: widgets are not installed; says the pip line.
            QueryError: it reads several streams, of which each has its own watermark.
        """
        import polars as pl

        node, sources = self._node(), list(p.sources_of(self._node()))
        if len(sources) > 1:
            raise QueryError(
                f"the query reads {len(sources)} streams, and each has a watermark of its own",
                hint=f'lab["{sources[0].name}"].watermarks() shows one',
            )
        first, info = first_windows(node), sources[0].scan.info()
        below = node if first is None else first.input
        window = Window("session", 1) if first is None else first.window
        count = pl.len().alias("\0n")  # a name that no column has
        judged = Windowed(self, below, window, (), 0).agg(count)._node()
        source = Query(sources[0], self._jobs)
        came = source.select("_append_time")._node()
        own = info.delay if first is None or first.delay is None else first.delay
        view = notebook("marks").Marks(
            source, lambda: Arrivals(came, judged), measure=parse_delay, window=window, delay=own,
            chosen=delay, time=info.time or "_append_time", rows=rows, height=height,
        )  # fmt: skip
        return self._jobs.stop_with(view)

    def compare(self, other: Querying) -> pl.DataFrame:
        """Return the rows on which two queries differ, ``_side`` telling whose they are.

        Both are collected with ``emit="all"``; no row means that they agree.
        """
        from streamlab.compared import differing

        if not isinstance(other, Querying):
            raise QueryError(f"compare takes a stream or a query; got {type(other).__name__}")
        return differing(Query(self._node(), self._jobs).collect(), other.collect())

    def trace(self, **keys: Any) -> pl.DataFrame:
        """Return the input rows behind one row of the result, read from the log.

        Name it by its keys and window: ``q.trace(symbol="A", window_start=t)``. For a query over one
        stream these are the stream's own rows, with their offsets.

        Raises:
            QueryError: there is no window, or a key is none of the result's columns.
        """
        from streamlab.lineage import trace

        return trace(self._node(), keys)

    def explain(self) -> str:
        """Return what the query does, how, what is held, and what it waits for."""
        from streamlab.lineage import explain

        return explain(self._node())

    # -- answers that go on ------------------------------------------------------------------

    def run(
        self, into: Any = None, *, start: Any = "earliest", emit: Emit = "final",
        follow: bool = True, name: str | None = None, restart: bool = False,
    ) -> Job:  # fmt: skip
        """Run in the background, and deliver results; return the job.

        ``into`` is a stream's name (it is made), ``sl.duckdb(path, table=)``, a function of a
        ``pl.DataFrame``, or None (the job holds the last results). Each result gets into a stream or
        a database once, whatever is killed when. Run again, the same query is the same job, and goes
        on where it was. ``start`` says from where results are wanted. ``follow=False`` ends at the
        end of what there is now.

        Raises:
            QueryError: the name belongs to another query; ``restart=True`` begins anew.
        """
        check_emit(emit)
        job: Job = self._jobs.start(
            self._node(), into, start=start, emit=emit, follow=follow, name=name, restart=restart
        )
        return job


class Query(Querying, Shown):
    """Steps over streams, not yet run; made by the methods of `Stream` and by ``lab.query``."""

    def __init__(self, node: p.Node, jobs: Any) -> None:
        self._plan = node
        self._jobs = jobs

    def _node(self) -> p.Node:
        return self._plan

    @property
    def schema(self) -> dict[str, Any]:
        """The columns of the result: names to Polars types.

        Among them is ``_partial`` where windows may lack rows: those of a view that begins later
        than its stream, or of a stream that was trimmed.
        """
        return columns_now(self._plan)

    @property
    def columns(self) -> list[str]:
        """The names of the columns of the result."""
        return list(self.schema)

    @property
    def sources(self) -> list[str]:
        """The names of the streams that it reads."""
        return [source.name for source in p.sources_of(self._plan)]

    @property
    def identity(self) -> list[str]:
        """The columns that say which row of the result a change is of; none if rows never change."""
        return identity_of(self._plan, self.columns)

    def __repr__(self) -> str:
        return "\n  ".join(["Query", *p.describe(self._plan)])

    def follow(
        self, start: Any = "earliest", emit: Emit = "final", *, timeout: float | None = None
    ) -> Results:
        """Iterate over results in the foreground, as they come; ends after ``timeout`` idle seconds.

        ``poll()`` gives what has come by now without waiting; ``stop()`` ends it from any thread.
        """
        check_emit(emit)
        return Results(self._plan, start, emit, timeout)

    def live(
        self, x: str | None = None, y: Any = None, color: Any = None, kind: str = "line",
        **options: Any,
    ) -> Any:  # fmt: skip
        """Show the results as they come, as a chart; returns at once, the widget to be shown.

        ``x`` is a column of times or numbers, ``y`` one or several of numbers, ``color`` what tells
        series apart; ``kind`` is ``"line"``, ``"bar"``, ``"area"``, ``"scatter"``, ``"heat"`` (``y``
        tells rows apart, ``color`` is the number) or ``"table"``. Without them: windows by their
        start, the first aggregate, a series for each key. Open windows are drawn as provisional.
        Options: ``title=``, ``unit=`` (of y), ``start=`` (as `follow`), ``keep=`` (points of a series
        that are kept, 100,000), ``height=`` (pixels), ``zone="utc"`` or ``"local"``,
        ``backend="matplotlib"`` (pictures, no JavaScript). ``.figure()`` and ``.save(path)`` export.

        Raises:
            MissingExtra: widgets are not installed; says the pip line.
            QueryError: a column that is not there, or of a kind that cannot be drawn.
        """
        chart = notebook("chart").live_chart(self, x=x, y=y, color=color, kind=kind, **options)
        return self._jobs.stop_with(chart)


class Windowed(Shown):
    """Rows divided into windows, waiting to be told what to compute; see `Querying.window`."""

    def __init__(
        self, query: Querying, node: p.Node, window: Window, by: tuple[str, ...], delay: int | None
    ) -> None:
        self._query, self._input, self._window, self._by, self._delay = (
            query,
            node,
            window,
            by,
            delay,
        )

    def __repr__(self) -> str:
        by = f" by {', '.join(self._by)}" if self._by else ""
        return f"<{self._window}{by}: .agg(...) says what to compute>"

    def agg(self, *columns: Any, **named: Any) -> Query:
        """Compute aggregates of each window, with any Polars expressions.

        The result has the keys, ``window_start``, ``window_end`` (exclusive), ``window_time`` and the
        aggregates; a sliding window adds the aggregates to each row.

        Raises:
            QueryError: a column that is not there, or a name that is taken.
        """
        import polars as pl

        node = self._input
        given = [*((None, e) for e in flat(columns)), *named.items()]
        if not given:
            raise QueryError("agg takes aggregates", hint="agg(n=pl.len())")
        exprs = []
        for name, value in given:
            if not isinstance(value, pl.Expr) and (name is None or isinstance(value, str)):
                raise QueryError(
                    f"agg takes Polars expressions; got {value!r}",
                    hint='agg(n=pl.len(), total=pl.col("size").sum())',
                )
            expr = expression_of(value, "agg")
            exprs.append(expr if name is None else expr.alias(name))
        for expr in exprs:
            for name in [] if expr.meta.has_multiple_outputs() else expr.meta.root_names():
                if name not in node.schema:
                    raise no_column(name, node.schema, "agg")
        how = aggregation(exprs, node.schema)
        told = cut(node) or node.schema.get("_partial") == pl.Boolean
        schema = {**self._keys(), **how.dtypes, **({"_partial": pl.Boolean()} if told else {})}
        if "" in how.names:
            raise QueryError("an aggregate needs a name", hint="agg(n=pl.len())")
        taken = [n for n in how.names if n in self._keys() or n in MARKS or n in SYSTEM_FIELDS]
        if taken:
            raise QueryError(f"the aggregate {taken[0]!r} has the name of another column of the result",
                             hint=f"agg({taken[0]}_=...)")  # fmt: skip
        return self._query._then(
            p.Aggregate(node, self._window, self._by, self._delay, tuple(exprs), schema)
        )

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{self!r}: first .agg(...), then .{name}", name=name, obj=self)

    def _keys(self) -> dict[str, Any]:
        import polars as pl

        if self._window.kind == "sliding":
            return dict(self._input.schema)
        kind = pl.Datetime("us", "UTC")
        keys = {name: self._input.schema[name] for name in self._by}
        return {**keys, "window_start": kind, "window_end": kind, "window_time": kind}


# -- pieces --------------------------------------------------------------------------------------


def from_sql(text: str, scan_of: Callable[[str], Scan], jobs: Any) -> Query:
    """Return the query that an SQL text asks for; ``scan_of`` finds streams by name."""
    import polars as pl

    from streamlab.engines.sql import RowQuery, parse_query, plan_columns

    asked = parse_query(text)
    source: p.Node = source_of(scan_of(asked.stream))
    query = Query(source, jobs)
    if isinstance(asked, RowQuery):
        return query.sql(asked.text)
    if asked.source is not None:
        query = query.sql(asked.source)
    node = query._node()
    by = names_of(list(asked.session_key), node, "session key")
    checked = plan_columns(asked, pl.Schema(dict(node.schema)))
    schema = {**checked.output, **({"_partial": pl.Boolean()} if cut(node) else {})}
    return Query(p.WindowSqlStep(node, asked.window, by, asked.delay, asked, schema), jobs)


def _warn_of_late(runner: Runner) -> None:
    if runner.rows_late > LATE_SHARE * max(runner.rows_in, 1):
        share = runner.rows_late / runner.rows_in
        warnings.warn(
            f"{runner.rows_late:,} of {runner.rows_in:,} rows ({share:.1%}) came too late for every window; "
            ".late() shows them, .lateness() what a longer delay would keep: .window(..., delay=...)",
            stacklevel=3,
        )
