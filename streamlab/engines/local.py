"""The embedded engine: a plan becomes operators, and sources push batches through them.

A `Runner` is one run of a plan. Whoever drives it (a collect, a follower, a job) asks for one step
after another and gets what is final; nothing here waits, and nothing here is durable.

Invariants: what comes out depends on the places of the rows, not on how they were cut into batches
or which source was read first; a run that starts again at `since` and is taken to the same places
is in the same state.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamlab import plan as p
from streamlab.aggregate import aggregation, columns_of
from streamlab.clock import FOREVER, NEVER
from streamlab.duration import format_instant
from streamlab.engines.batch import HIDDEN, ORDER, Batch, Operator, Since, least, watermark
from streamlab.engines.joins import AsofJoiner, FrameJoiner, IntervalJoiner, TableJoiner
from streamlab.engines.panes import Panes
from streamlab.engines.rows import (
    TopStep,
    UniqueStep,
    filtering,
    mapping,
    projecting,
    sql_step,
)
from streamlab.engines.sessions import Sessions
from streamlab.engines.sliding import Sliding
from streamlab.engines.source import SourceReader
from streamlab.engines.state import GAP, WindowOperator
from streamlab.errors import QueryError, StreamlabError
from streamlab.scan import Scan, Snapshot

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Runner", "columns_now", "cut", "visible"]

EPOCH_ROWS = 1 << 21
"""How many rows are taken through the operators at a time, at most."""


def visible(frame: pl.DataFrame) -> pl.DataFrame:
    """Return a frame without the hidden columns."""
    return frame.drop([name for name in frame.columns if name in HIDDEN])


def stacked(frames: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return rows of several kinds below each other; columns that cannot be one get another name."""
    import polars as pl

    first = frames[0].schema

    def fits(name: str, kind: pl.DataType) -> bool:
        other = first.get(name, kind)
        return other == kind or (other.is_temporal() and kind.is_temporal())

    others = [
        frame.rename({n: f"{n}_right" for n, kind in frame.schema.items() if not fits(n, kind)})
        for frame in frames
    ]
    return pl.concat(others, how="diagonal_relaxed")


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Tell what Polars cannot compute as an error of the query."""
    import polars as pl

    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise QueryError(f"the query cannot be computed: {str(error).splitlines()[0]}") from error


# -- which columns are needed --------------------------------------------------------------------


def _needed(node: p.Node, wanted: set[str] | None, found: dict[int, set[str] | None]) -> None:
    """Note for each source the columns that a plan needs; None for all."""
    if isinstance(node, p.Source):
        known = found.get(id(node), set())
        found[id(node)] = None if wanted is None or known is None else wanted | known
        return
    below: set[str] | None = None
    if isinstance(node, p.Filter):
        below = _plus(wanted, columns_of(node.conditions))
    elif isinstance(node, p.Project):
        roots = columns_of(node.columns)
        below = _plus(wanted, roots) if node.keep else roots
    elif isinstance(node, p.Aggregate) and node.window.kind != "sliding":
        below = _plus({*node.by, "_partial"}, columns_of(node.columns))
    elif isinstance(node, p.WindowSqlStep):
        below = _plus(set(node.by), set(node.sql.columns) or None)
    elif isinstance(node, p.Unique):
        below = _plus(wanted, set(node.on))
    elif isinstance(node, p.Top):
        below = None
    inputs = p.inputs_of(node)
    for other in inputs:
        kept = None if below is None else below & set(other.schema)
        _needed(other, kept if len(inputs) == 1 else None, found)


def _plus(some: set[str] | None, more: set[str] | None) -> set[str] | None:
    return None if some is None or more is None else some | more


# -- operators -----------------------------------------------------------------------------------


@dataclass
class _Compiler:
    """Builds the operators of a plan, from the sources on."""

    starts: Sequence[int] | None
    everything: bool  # late rows are wanted with all their columns
    width: int
    given_edge: int | str | None
    columns: dict[int, set[str] | None] = field(default_factory=dict)
    sources: list[SourceReader] = field(default_factory=list)
    entries: list[tuple[Operator | None, int]] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def build(self, node: p.Node, root: p.Node) -> tuple[Operator | None, pl.DataFrame, int]:
        """Return a node's operator (None for a source), its rows without rows, and their delay."""
        if isinstance(node, p.Source):
            return self._source(node, root)
        built = [self.build(other, root) for other in p.inputs_of(node)]
        empties, delays = [b[1] for b in built], [b[2] for b in built]
        operator, empty, delay = self._operator(node, empties, delays)
        for port, (child, _, _) in enumerate(built):
            if child is None:
                self._enter(node, port, operator)
            else:
                child.parent, child.port = operator, port
        operator.delay = delay
        self._made[id(node)] = operator
        self.operators.append(operator)
        return operator, empty, delay

    def _enter(self, node: p.Node, port: int, operator: Operator) -> None:
        source = p.inputs_of(node)[port]
        assert isinstance(source, p.Source)
        index = next(i for i, (e, s) in enumerate(zip(self.entries, self._nodes, strict=True))
                     if s is source and e[0] is None)  # fmt: skip
        self.entries[index] = (operator, port)

    _nodes: list[p.Source] = field(default_factory=list)
    _made: dict[int, Operator] = field(default_factory=dict)

    def _source(self, node: p.Source, root: p.Node) -> tuple[None, pl.DataFrame, int]:
        index = len(self.sources)
        wanted = None if self.everything else self.columns.get(id(node))
        kinds = {c: kind for c, kind in node.schema.items() if wanted is None or c in wanted}
        appended = _holds(root, p.TableJoin)
        start = None if self.starts is None else self.starts[index]
        reader = SourceReader(node.scan, kinds, index, self.width, appended=appended, start=start)
        self.sources.append(reader)
        self.entries.append((None, 0))
        self._nodes.append(node)
        self.names.append(node.name)
        return None, reader.empty(), node.scan.info().delay

    def _operator(
        self, node: p.Node, empties: list[pl.DataFrame], delays: list[int]
    ) -> tuple[Operator, pl.DataFrame, int]:
        empty, delay = empties[0], delays[0]
        step: Any
        match node:
            case p.Filter():
                step = filtering(node.conditions)
            case p.Project():
                step = projecting(node.columns, keep=node.keep)
            case p.RowSqlStep():
                from streamlab.engines.sql import RowSql

                step = sql_step(RowSql(node.text, visible(empty).schema))
            case p.MapBatches():
                same = dict(node.schema) == dict(node.input.schema)
                gives = visible(empty).schema if same else node.schema
                step = mapping(node.function, dict(gives), p.time_of(node.input)[0])
            case p.Aggregate() | p.WindowSqlStep():
                return self._window(node, empty, delay)
            case p.Unique():
                step = UniqueStep(node.on, node.within)
            case p.Top():
                above = p.windowed(node.input)
                keys = above.by if isinstance(above, p.Aggregate) else ()
                keys = tuple(key for key in keys if key in empty.columns)
                step = TopStep(node.n, node.order, keys, descending=node.descending)
            case p.AsofJoin() | p.IntervalJoin():
                return self._join(node, empties, delays)
            case p.FrameJoin():
                step = FrameJoiner(beside(node.input, node.frame, node.on), node.on, node.how)
            case p.TableJoin():
                below = [made for made in self.operators if isinstance(made, AsofJoiner)]
                step = _table_joiner(node, below)
            case _:
                raise AssertionError(node)
        return step, step.peek(empty), delay

    def _window(
        self, node: p.Aggregate | p.WindowSqlStep, empty: pl.DataFrame, delay: int
    ) -> tuple[Operator, pl.DataFrame, int]:
        late = delay if node.delay is None else node.delay
        self._tell_delay(node.input, late)
        schema = visible(empty).schema
        if isinstance(node, p.WindowSqlStep):
            from streamlab.engines.sql import plan_columns

            how: Any = plan_columns(node.sql, schema)
            columns = list(schema)
        else:
            import polars as pl

            ordered = node.window.kind == "tumbling" and not self._joined(node)
            asked = list(node.columns)
            if schema.get("_partial") == pl.Boolean:
                asked.append(_any_gap())
            how = aggregation(asked, schema, ordered=ordered)
            columns = [name for name in schema if name in how.columns]
        made: Any
        if node.window.kind == "session":
            made = Sessions(node.window, node.by, late, how, columns)
        elif node.window.kind == "sliding":
            made = Sliding(node.window, node.by, late, how, columns)
        else:
            made = Panes(node.window, node.by, late, how, columns)
        made.edge = self._edge(node)
        made.streams = self.width
        made.of_rows = not _holds(node, p.IntervalJoin)
        made.of_windows = _holds(node.input, p.Aggregate) or _holds(node.input, p.WindowSqlStep)
        made.prepare(empty)
        return made, made.peek(empty), 0

    def _tell_delay(self, node: p.Node, delay: int) -> None:
        """Tell as-of joins that a window goes by their rows with a delay of its own.

        Left rows wait for the right side, and so must the window, however short its own delay is.
        """
        while not isinstance(node, p.Source | p.IntervalJoin | p.Aggregate | p.WindowSqlStep):
            made = self._made[id(node)]
            if isinstance(made, AsofJoiner):
                made.given_delay = delay
            node = p.inputs_of(node)[0]

    @staticmethod
    def _joined(node: p.Node) -> bool:
        return len(list(p.sources_of(node))) > 1

    def _edge(self, node: p.Node) -> int | None:
        """Return the time before which rows may be missing on the left, None if none are."""
        if self._joined(node):
            return None
        below = [o.edge for o in self.operators if isinstance(o, WindowOperator)]
        if below:
            return below[-1]
        if not isinstance(self.given_edge, str):
            return self.given_edge
        source = self.sources[-1]
        return left_edge(source.scan, source.snapshot)

    def _join(
        self, node: p.AsofJoin | p.IntervalJoin, empties: list[pl.DataFrame], delays: list[int]
    ) -> tuple[Operator, pl.DataFrame, int]:
        names = (_name_of(node.left), _name_of(node.right))
        both = (delays[0], delays[1])
        keys = node.by if isinstance(node, p.AsofJoin) else node.on
        left, right = (visible(empty).columns for empty in empties)
        columns = right_columns(node, left, right, keys)
        made: AsofJoiner | IntervalJoiner
        if isinstance(node, p.AsofJoin):
            history = self._history(node.right)
            made = AsofJoiner(both, names, keys, node.tolerance, columns, history)
        else:
            made = IntervalJoiner(both, names, keys, node.low, node.high, columns)
        made.prepare(*empties)
        return made, made.empty, made.given_delay

    def _history(self, right: p.Node) -> Callable[[], pl.DataFrame]:
        """Return what reads the right side again, as far as this run has come with it."""
        mine = self.sources[-len(list(p.sources_of(right))) :]

        def read() -> pl.DataFrame:
            import polars as pl

            stops = [source.position for source in mine]
            times = [source.stream_time for source in mine]
            again = Runner(right, stops=stops, times=times, raw=True)
            frames = [again.empty, *again.drain()]
            for source in mine:
                source.check()
            return _on_time(pl.concat(frames), again.delay)

        return read


def left_edge(scan: Scan, snapshot: Snapshot) -> int | None:
    """Return the time before which rows may be missing on the left of a scan, None if none are."""
    if scan.since is not None:
        return scan.since - 1
    if not snapshot.start:
        return None
    reader, column = scan.log.reader, snapshot.info.time
    started = reader.stream_time_before(snapshot.moment, snapshot.start, column)
    return None if started == NEVER else started


def cut(node: p.Node) -> bool:
    """Whether windows over a plan's rows may lack some on the left, and so have `_partial`."""
    first, *others = p.sources_of(node)
    return not others and left_edge(first.scan, first.scan.fix(pin=False)) is not None


def columns_now(plan: p.Node) -> dict[str, Any]:
    """Return the columns of what a plan gives: rows may have been trimmed since it was made."""
    with contextlib.suppress(StreamlabError):  # of a lab that is closed it is what it was
        if _outdated(plan):
            return dict(visible(Runner(plan).empty).schema)
    return dict(plan.schema)


def _outdated(node: p.Node) -> bool:
    """Whether a window lacks rows by now, and did not when the plan was made."""
    here = isinstance(node, p.Aggregate | p.WindowSqlStep) and "_partial" not in node.schema
    return (here and cut(node)) or any(map(_outdated, p.inputs_of(node)))


def _any_gap() -> pl.Expr:
    import polars as pl

    return pl.col("_partial").any().alias(GAP)


def _on_time(frame: pl.DataFrame, delay: int) -> pl.DataFrame:
    import polars as pl

    from streamlab.engines.batch import BEFORE, TIME
    from streamlab.engines.state import marks_of

    marks = marks_of(frame[BEFORE].to_numpy(), delay)
    return frame.filter(pl.Series(frame[TIME].to_numpy() >= marks, dtype=pl.Boolean))


def right_columns(
    node: type | p.Node, left: Sequence[str], right: Sequence[str], keys: Sequence[str]
) -> dict[str, str]:
    """Return what a join takes from its right side, and under which names."""
    from streamlab.schema import SYSTEM_FIELDS

    made = ["pair_time"] if p.IntervalJoin in (node, type(node)) else []
    taken = [name for name in right if name not in keys and name not in SYSTEM_FIELDS]
    return free_names([*left, *made], taken)


def beside(node: p.Node, frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """Return a frame that is joined to rows, under names that these do not have."""
    others = [name for name in frame.columns if name not in keys]
    return frame.rename(free_names(list(node.schema), others))


def free_names(left: Sequence[str], right: Sequence[str]) -> dict[str, str]:
    """Return names for columns of a right side that the left does not have: with _right, perhaps twice."""
    taken, found = {*left}, {}
    for name in right:
        new = name
        while new in taken:
            new += "_right"
        taken.add(new)
        found[name] = new
    return found


def _name_of(node: p.Node) -> str:
    return ", ".join(source.name for source in p.sources_of(node))


def _holds(node: p.Node, kind: type) -> bool:
    """Whether there is a step of a kind in a plan."""
    return isinstance(node, kind) or any(_holds(other, kind) for other in p.inputs_of(node))


def _table_joiner(node: p.TableJoin, below: Sequence[AsofJoiner]) -> TableJoiner:
    import polars as pl

    def waiting() -> int:
        return min((joiner.appended() for joiner in below), default=FOREVER)

    table = node.table.recorded()  # what it held when a row was appended does not go by a replay
    schema = table.fix(pin=False).schema
    columns = right_columns(node, list(node.input.schema), schema.names, node.on)
    names = [*node.on, *columns, "_append_time"]

    def read(start: int, append_time: int) -> tuple[pl.DataFrame, int]:
        log = table.log
        end = start
        if append_time > NEVER:
            log.settled(append_time, None)
            end = table.fix(pin=False).find(append_time + 1, appended=True)
        part = table.within(start, max(end, start)).fix()
        deleted = (
            ["_deleted"] if "_deleted" in part.schema.names else []
        )  # since the first deletion
        frame = pl.from_arrow(part.reader([*names, *deleted]).read_all())
        assert isinstance(frame, pl.DataFrame)
        return frame, max(start, part.stop if end > start else start)

    return TableJoiner(node.on, node.how, columns, read, waiting)


# -- running -------------------------------------------------------------------------------------


class Runner:
    """One run of a plan over its sources.

    ``starts`` are the offsets to begin at; ``stops`` bound it, where stream time was ``times``; both
    are for a run that is to be where another one was. ``late`` gathers late rows. ``raw`` leaves
    the hidden columns in. ``edge`` is the time before which rows may be missing, where that is known.
    """

    def __init__(
        self, plan: p.Node, *, starts: Sequence[int] | None = None,
        stops: Sequence[int] | None = None, times: Sequence[int] | None = None,
        late: bool = False,
        raw: bool = False,
        edge: int | str | None = "first row",
    ) -> None:  # fmt: skip
        self.plan = plan
        columns: dict[int, set[str] | None] = {}
        _needed(plan, None, columns)
        width = len(list(p.sources_of(plan)))
        compiler = _Compiler(starts, late, width, edge, columns)
        with self._still():
            self.top, self.empty, self.delay = compiler.build(plan, plan)
            self.sources, self.entries = compiler.sources, compiler.entries
            self.names = compiler.names
            self.operators = compiler.operators
            self.raw = raw
            self.rows_out = 0
            self.mark = NEVER
            self.late: list[list[pl.DataFrame]] = [[] for _ in self.operators]
            for operator, found in zip(self.operators, self.late, strict=True):
                if late:
                    operator.on_late = found.append
            self.look(stops, times)

    # -- driving -----------------------------------------------------------------------------

    def look(self, stops: Sequence[int] | None = None, times: Sequence[int] | None = None) -> None:
        """See how far the sources reach now, or only as far as a run was that stood there.

        Those of a replay are seen at one instant of its clock.
        """
        with self._still():
            for index, source in enumerate(self.sources):
                source.refresh(stops[index] if stops else None, times[index] if times else None)

    def _still(self) -> contextlib.ExitStack:
        stack = contextlib.ExitStack()
        for source in p.sources_of(self.plan):
            stack.enter_context(source.scan.log.still())
        return stack

    def step(self, rows: int | None = None) -> pl.DataFrame | None:
        """Take one batch of one source through; return what is final now, None if nothing came.

        The source that is furthest behind in stream time goes first.
        """
        for source in sorted(self.sources, key=lambda s: s.stream_time):
            batch = source.read(rows or EPOCH_ROWS)
            if batch is not None:
                return self._deliver(source.index, batch)
        return None

    def _deliver(self, index: int, batch: Batch) -> pl.DataFrame:
        (at, port), begin = self.entries[index], batch.since[index]
        try:
            with told():
                while at is not None:
                    batch = at.push(port, batch)
                    port, at = at.port, at.parent
                frame = batch.frame
        except FileNotFoundError:
            self.sources[index].check_there(begin)
            raise
        self.mark = batch.stream_time
        self.rows_out += frame.height
        return frame if self.raw else visible(frame)

    def drain(self) -> Iterator[pl.DataFrame]:
        """Yield what is final, until nothing is left of what was there at the last look."""
        while (frame := self.step()) is not None:
            if frame.height:
                yield frame

    def peek(self, *, raw: bool = False) -> pl.DataFrame:
        """Return the rows that are not final, as they are now."""
        if not self.operators:
            return self.empty if raw else visible(self.empty)
        empties = iter([source.empty() for source in self.sources])
        with told():
            found = self._peek(self.plan, iter(self.operators), empties)
        return found if raw else visible(found)

    def _peek(
        self, node: p.Node, operators: Iterator[Operator], empties: Iterator[pl.DataFrame]
    ) -> pl.DataFrame:
        """Ask the operators from the sources on; they stand in the order in which they were built."""
        if isinstance(node, p.Source):
            return next(empties)
        rows = [self._peek(other, operators, empties) for other in p.inputs_of(node)]
        return next(operators).peek(*rows)

    # -- where it stands ---------------------------------------------------------------------

    @property
    def watermark(self) -> int:
        """The watermark of the results: nothing before it will come."""
        return watermark(self.mark, self.delay)

    @property
    def positions(self) -> tuple[int, ...]:
        """The offset that each source is read from next."""
        return tuple(source.position for source in self.sources)

    def since(self) -> Since:
        """Return the offsets from which a run has to begin to be in this state."""
        found = least(*(operator.since() for operator in self.operators))
        return tuple(
            min(source.position, FOREVER if found is None else found[index])
            for index, source in enumerate(self.sources)
        )

    @property
    def edge(self) -> int | None:
        """The time before which rows of the first window may be missing, None if none are."""
        found = [o.edge for o in self.operators if isinstance(o, WindowOperator)]
        return found[0] if found else None

    @property
    def rows_in(self) -> int:
        """How many rows were read."""
        return sum(source.rows_read for source in self.sources)

    @property
    def rows_late(self) -> int:
        """How many of them no window took."""
        return sum(operator.rows_late for operator in self.operators)

    @property
    def rows_partly_late(self) -> int:
        """How many came too late for some of their windows."""
        return sum(operator.rows_partly_late for operator in self.operators)

    def late_rows(self) -> pl.DataFrame | None:
        """Return the late rows that were gathered, those of each step in order; None if none."""
        found = [stacked(frames).sort(ORDER) for frames in self.late if frames]
        if not found:
            return None
        rows = visible(stacked(found))
        ends = ["_watermark", "late_by"]
        return rows.select(*[name for name in rows.columns if name not in ends], *ends)

    @property
    def stateful(self) -> bool:
        """Whether there may be rows that are not final."""
        return any(isinstance(o, WindowOperator | AsofJoiner) for o in self.operators)

    @property
    def unordered(self) -> bool:
        """Whether results come in an order that depends on which source was read first."""
        for operator in reversed(self.operators):
            if isinstance(operator, WindowOperator):
                return False
            if isinstance(operator, AsofJoiner | IntervalJoiner):
                return True
        return False

    def report(self) -> list[str]:
        """Return what is held and awaited, a line each."""
        lines = []
        for source, name in zip(self.sources, self.names, strict=True):
            at = source.stream_time
            now = (
                "nothing yet" if at == NEVER else "the end" if at == FOREVER else format_instant(at)
            )
            lines.append(f"{name}: read up to offset {source.position:,}, stream time {now}")
        several = sum(isinstance(operator, WindowOperator) for operator in self.operators) > 1
        for operator in self.operators:
            about = ""
            if several and isinstance(operator, WindowOperator):
                about = f"{operator.window}: "
            lines += [about + line for line in operator.report()]
        mark = self.watermark
        reached = (
            "nothing yet"
            if mark == NEVER
            else "the end"
            if mark == FOREVER
            else format_instant(mark)
        )
        lines.append(f"watermark of the results: {reached}")
        return lines


def scan_of(node: p.Node) -> Scan:
    """Return the scan of a plan's first source."""
    return next(p.sources_of(node)).scan
