"""Polars expressions under streaming: which see one row only, and how an aggregation is split.

Two questions are answered from the serialised tree of an expression. *Is it row-wise?* Then it may
stand in a filter or a projection. *Can it be split?* Then batches are reduced to partial results,
partials are merged, and the merged ones finished; what cannot be split is computed over a window's
rows again when the window closes.

Invariants: a node that is not on the list of element-wise ones is never taken for one; what is split
gives what the whole gives (integers exactly, float sums to rounding); integer sums are Int64, and
one that does not fit is an error, not a wrapped number.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamlab.errors import QueryError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["ORDER", "OTHER", "Aggregation", "aggregation", "check_rowwise", "columns_of", "expand"]

ORDER = "\0order"
"""The column that says in which order rows came: first and last go by it."""

OTHER = "\0other"
"""What the name of another partial result ends with, where two are merged."""

Node = Any

_FAMILIES = {
    "StringExpr", "TemporalExpr", "ListExpr", "ArrayExpr", "StructExpr", "BinaryExpr", "Pow",
    "Categorical", "Trigonometry", "ReplaceStrict", "Round", "RoundSF", "FillNull", "Log", "Cut",
    "Clip", "SumHorizontal", "MeanHorizontal", "Hash", "Extension",
}  # fmt: skip
_FLAT = {
    "Abs", "Negate", "FillNull", "AsStruct", "MaxHorizontal", "MinHorizontal", "Coalesce", "Floor",
    "Ceil", "Sign", "Log", "Log1p", "Exp", "Atan2", "Replace", "ReplaceStrict", "Degrees", "Radians",
    "ToPhysical", "Pow", "Clip", "Truncate", "NullIf", "Cbrt", "Sqrt",
}  # fmt: skip
_BOOLEAN = {
    "Not", "IsNull", "IsNotNull", "IsNan", "IsNotNan", "IsFinite", "IsInfinite", "IsBetween", "IsIn",
    "IsClose", "AllHorizontal", "AnyHorizontal",
}  # fmt: skip
_NOT_ROWWISE = {"ConcatVertical", "Sample"}  # of their families, they join rows, or draw lots
GUESSED = "a time without a format"
"""Polars guesses the format from the first rows that it is given."""

_FIXED_SECOND = {"IsIn", "Replace", "ReplaceStrict"}  # a column there would be looked at as a whole
_CALLS = ("AnonymousFunction", "AnonymousAgg", "callback")
_WHOLE = {
    "Len", "Agg", "Any", "All", "Quantile", "NullCount", "Product", "Skew", "Kurtosis", "ArgMin",
    "ArgMax", "Unique", "ValueCounts", "Implode",
}  # fmt: skip


def tree(expression: pl.Expr) -> Node | None:
    """Return an expression's tree, None if it has none: a Python function is in it."""
    import polars as pl

    try:
        text = expression.meta.serialize(format="json")
    except (pl.exceptions.ComputeError, ModuleNotFoundError):
        return None
    # With cloudpickle, or a name that pickle can look up, Polars writes the function down.
    return None if any(f'"{key}":' in text for key in _CALLS) else json.loads(text)


def load(node: Node) -> pl.Expr:
    """Return the expression of a tree."""
    import polars as pl

    return pl.Expr.deserialize(io.StringIO(json.dumps(node)), format="json")


# -- one row at a time ---------------------------------------------------------------------------


def obstacle(node: Node) -> str | None:
    """Return the name of the first node that needs other rows, None if there is none."""
    if isinstance(node, list):
        return next((found for part in node if (found := obstacle(part))), None)
    if not isinstance(node, dict):
        return str(node) if node == "Len" else None
    kind, content = next(iter(node.items()))
    if kind in ("Column", "Selector", "Field"):
        return None
    if kind == "Literal":
        return None if set(content) <= {"Dyn", "Scalar"} else "a literal of several rows"
    if kind in ("Alias", "KeepName", "RenameAlias"):
        return obstacle(content[0] if isinstance(content, list) else content.get("expr", content))
    if kind == "Cast":
        return obstacle(content["expr"])
    if kind in ("BinaryExpr", "Ternary"):
        return obstacle([p for p in content.values() if isinstance(p, dict | list) or p == "Len"])
    if kind == "Eval" and content.get("variant") in ("List", "Array"):
        return obstacle(content["expr"])
    if kind == "Function":
        return _function_obstacle(content)
    if kind == "Agg":
        return str(next(iter(content)))
    return str(kind)


def _function_obstacle(content: dict[str, Any]) -> str | None:
    name, inner = _named(content["function"])
    if inner in _NOT_ROWWISE:
        return inner
    if inner == "Strptime" and content["function"][name][inner][-1]["format"] is None:
        return GUESSED
    boolean = name == "Boolean"
    if not (inner in _BOOLEAN if boolean else name in _FLAT or name in _FAMILIES):
        return inner if boolean else name
    inputs = content["input"]
    if {name, inner} & _FIXED_SECOND:
        if any("Literal" not in other for other in inputs[1:]):
            return f"{inner or name} of another column"
        inputs = inputs[:1]
    return obstacle(inputs)


def _named(function: Any) -> tuple[str, str | None]:
    if isinstance(function, str):
        return function, None
    name, inner = next(iter(function.items()))
    if isinstance(inner, dict) and inner:
        inner = next(iter(inner))
    return name, inner if isinstance(inner, str) else None


def check_rowwise(expression: pl.Expr, what: str) -> None:
    """See that an expression looks at one row at a time.

    Raises:
        QueryError: it needs other rows; says which part does, and what to write instead.
    """
    node = tree(expression)
    if node is None:
        raise QueryError(
            f"{what} {expression} calls a Python function, which may see any rows",
            hint="write .map_batches(fn, schema) for a row-wise function of a frame",
        )
    found = obstacle(node)
    if found is None:
        return
    if found == GUESSED:
        reason = f"the format of {found} is guessed from other rows"
        hint = 'write it: .str.to_datetime("%Y-%m-%d %H:%M:%S")'
    elif found in _WHOLE or found in ("Sum", "Mean", "Min", "Max", "Count", "First", "Last", "Std"):
        hint = "aggregate over a window: .window(sl.tumbling(...), by=...).agg(...)"
        reason = f"{found} is an aggregation, and the rows of a stream never end"
    else:
        hint = (
            "a row of a stream sees no others: use .window(sl.sliding(...), by=...).agg(...), or "
            "aggregate over a window, where every expression is allowed"
        )
        reason = f"{found} needs rows it cannot see"
    raise QueryError(f"{what} {expression} is not row-wise: {reason}", hint=hint)


def columns_of(expressions: Iterable[pl.Expr]) -> set[str] | None:
    """Return the columns that expressions read, None if that cannot be told."""
    found: set[str] = set()
    for expression in expressions:
        if expression.meta.has_multiple_outputs():
            return None
        found.update(expression.meta.root_names())
    return found


# -- splitting -----------------------------------------------------------------------------------


@dataclass
class Aggregation:
    """Aggregations over a schema: how to compute them whole, and, if possible, in parts.

    ``whole`` are for a group's rows together. If ``splits``: ``partials`` are for the rows of a
    batch, ``merges`` for several partials of a group, ``values`` and then ``finals`` are row-wise
    over what was merged. ``pairs`` merge two partials of one row, of which the other's names end in
    `OTHER`. ``wide`` names the partials that are integer sums, ``scans`` those that can be merged in
    one go along a column, and how: "sum", "min" or "max".
    """

    names: list[str]
    dtypes: dict[str, Any]
    whole: list[pl.Expr]
    splits: bool = False
    reason: str = ""
    partials: list[pl.Expr] = field(default_factory=list)
    merges: list[pl.Expr] = field(default_factory=list)
    pairs: list[pl.Expr] = field(default_factory=list)
    values: list[pl.Expr] = field(default_factory=list)
    finals: list[pl.Expr] = field(default_factory=list)
    wide: dict[str, pl.Expr] = field(default_factory=dict)
    scans: dict[str, str] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)

    @property
    def parts(self) -> list[str]:
        """The columns of partial results."""
        return [expression.meta.output_name() for expression in self.merges]

    def finished(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return merged partials with the aggregates in place of them."""
        keep = [name for name in frame.columns if not name.startswith("\0p")]
        valued = _checked(lambda: frame.with_columns(self.values)) if self.values else frame
        done = valued.with_columns([f.alias(f"\0f{i}") for i, f in enumerate(self.finals)])
        outputs = [_as(f"\0f{i}", name, self.dtypes[name]) for i, name in enumerate(self.names)]
        return _checked(lambda: done.select(*keep, *outputs))

    def cast(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return aggregates that were computed whole in the types they are to have."""
        return _checked(
            lambda: frame.with_columns(
                [_as(name, name, dtype) for name, dtype in self.dtypes.items()]
            )
        )


def _as(name: str, output: str, dtype: Any) -> pl.Expr:
    import polars as pl

    return pl.col(name).cast(dtype, strict=True).alias(output)


def _checked(compute: Any) -> pl.DataFrame:
    import polars as pl

    try:
        result: pl.DataFrame = compute()
    except pl.exceptions.InvalidOperationError as error:
        raise QueryError(
            f"an integer sum does not fit 64 bits: {str(error).splitlines()[0]}",
            hint="sum in floating point: pl.col(...).cast(pl.Float64).sum()",
        ) from error
    return result


def expand(expressions: Iterable[pl.Expr], schema: Mapping[str, Any]) -> Iterator[pl.Expr]:
    """Yield expressions of one output each: selectors are replaced by the columns they select."""
    import polars as pl

    for expression in expressions:
        if not expression.meta.has_multiple_outputs():
            yield expression
            continue
        node = tree(expression)
        selectors = list(_selectors(node))
        if node is None or len(selectors) != 1:
            yield expression
            continue
        chosen = pl.LazyFrame(schema=dict(schema)).select(load(selectors[0])).collect_schema()
        for name in chosen.names():
            yield load(_put(node, selectors[0], {"Column": name}))


def _selectors(node: Node) -> Iterator[Node]:
    if isinstance(node, dict):
        if node.keys() == {"Selector"}:
            yield node
            return
        for part in node.values():
            yield from _selectors(part)
    elif isinstance(node, list):
        for part in node:
            yield from _selectors(part)


def _put(node: Node, old: Node, new: Node) -> Node:
    if node == old:
        return new
    if isinstance(node, dict):
        return {key: _put(part, old, new) for key, part in node.items()}
    if isinstance(node, list):
        return [_put(part, old, new) for part in node]
    return node


def aggregation(
    expressions: Iterable[pl.Expr], schema: Mapping[str, Any], *, ordered: bool = True
) -> Aggregation:
    """Return how to compute aggregations over rows of a schema.

    ``ordered=False`` says that batches, in which rows are in the order of `ORDER`, are not.

    Raises:
        QueryError: a column that is not there, twice the same name, or a type that does not fit.
    """
    import polars as pl

    single = list(expand(expressions, schema))
    names = [expression.meta.output_name() for expression in single]
    for name in names:
        if names.count(name) > 1:
            raise QueryError(
                f"two aggregates are named {name!r}", hint="name them: agg(n=pl.len(), ...)"
            )
    trees = [tree(expression) for expression in single]
    whole = [
        e if node is None else load(_widened(node, schema, "Int128")).alias(n)
        for e, node, n in zip(single, trees, names, strict=True)
    ]
    narrow = [
        e if node is None else load(_widened(node, schema, "Int64")).alias(n)
        for e, node, n in zip(single, trees, names, strict=True)
    ]
    frame = pl.LazyFrame(schema={**schema, "\0g": pl.Int8})
    try:
        found = frame.group_by("\0g").agg(narrow).drop("\0g").collect_schema()
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise QueryError(
            f"agg does not fit the rows: {_first_misfit(frame, single)}{reason}"
        ) from error
    columns: set[str] = set()
    for expression in single:
        columns.update(expression.meta.root_names())
    result = Aggregation(names, dict(found), whole, columns=columns)
    splitter = _Splitter(schema, ordered)
    try:
        finals = [splitter.split(node) for node in trees]
    except _NotSplit as reason:
        result.reason = str(reason)
        return result
    result.splits = True
    result.partials, result.merges = splitter.partials, splitter.merges
    result.pairs = splitter.pairs
    result.values, result.wide = splitter.values, splitter.wide
    result.scans = splitter.scans
    result.finals = [load(node) for node in finals]
    return result


def _first_misfit(frame: pl.LazyFrame, expressions: Iterable[pl.Expr]) -> str:
    import polars as pl

    for expression in expressions:
        try:
            frame.group_by("\0g").agg(expression).collect_schema()
        except pl.exceptions.PolarsError:
            return f"{expression}: "
    return ""


def _widened(node: Node, schema: Mapping[str, Any], to: str) -> Node:
    """Return a tree whose integer sums are sums of a wide type."""
    if isinstance(node, list):
        return [_widened(part, schema, to) for part in node]
    if not isinstance(node, dict):
        return node
    node = {key: _widened(part, schema, to) for key, part in node.items()}
    operand = node.get("Agg", {}).get("Sum") if isinstance(node.get("Agg"), dict) else None
    if operand is not None and _is_integer(operand, schema):
        cast = {"expr": operand, "dtype": {"Literal": to}, "options": "Strict"}
        return {"Agg": {"Sum": {"Cast": cast}}}
    return node


def _dtype(operand: Node, schema: Mapping[str, Any]) -> Any:
    import polars as pl

    try:
        found = pl.LazyFrame(schema=dict(schema)).select(load(operand).alias("x")).collect_schema()
    except pl.exceptions.PolarsError:
        return None
    return found["x"]


def _is_integer(operand: Node, schema: Mapping[str, Any]) -> bool:
    dtype = _dtype(operand, schema)
    return dtype is not None and dtype.is_integer()


class _NotSplit(Exception):
    """Says why an aggregation cannot be split."""


class _Splitter:
    """Walks trees, and gathers what their aggregations come down to."""

    def __init__(self, schema: Mapping[str, Any], ordered: bool) -> None:
        self.schema = schema
        self.ordered = ordered
        self.partials: list[pl.Expr] = []
        self.merges: list[pl.Expr] = []
        self.pairs: list[pl.Expr] = []
        self.values: list[pl.Expr] = []
        self.wide: dict[str, pl.Expr] = {}
        self.scans: dict[str, str] = {}
        self.known: dict[str, str] = {}

    def split(self, node: Node) -> Node:
        """Return the tree over merged values."""
        if node is None:
            raise _NotSplit("it calls a Python function")
        if isinstance(node, list):
            return [self.split(part) for part in node]
        if not isinstance(node, dict):
            return {"Column": self.leaf("Len", None, {})} if node == "Len" else node
        kind, content = next(iter(node.items()))
        if kind == "Agg":
            return {"Column": self._aggregate(content)}
        if kind == "Column":
            raise _NotSplit(f"it gathers the values of {content} in a list")
        if kind == "Function":
            name, inner = _named(content["function"])
            if name == "Boolean" and inner in ("Any", "All"):
                options = content["function"]["Boolean"][inner]
                return {"Column": self.leaf(inner, content["input"][0], options)}
            if name == "NullCount":
                return {"Column": self.leaf("NullCount", content["input"][0], {})}
            if _function_obstacle({**content, "input": []}) is not None:
                raise _NotSplit(f"{inner or name} needs all rows of a window together")
            parts = content["input"]
            if {name, inner} & _FIXED_SECOND:
                return {kind: {**content, "input": [self.split(parts[0]), *parts[1:]]}}
            return {kind: {**content, "input": self.split(parts)}}
        if kind == "Literal":
            if obstacle(node):
                raise _NotSplit(obstacle(node))
            return node
        if kind == "Cast":
            return {kind: {**content, "expr": self.split(content["expr"])}}
        if kind == "Alias":
            return {kind: [self.split(content[0]), content[1]]}
        if kind in ("KeepName", "RenameAlias"):  # the name is known, and given again at the end
            return self.split(content.get("expr", content))
        if kind in ("BinaryExpr", "Ternary"):
            return {kind: {key: self.split(part) if isinstance(part, dict) or part == "Len" else part
                           for key, part in content.items()}}  # fmt: skip
        raise _NotSplit(f"{kind} needs all rows of a window together")

    def _aggregate(self, content: dict[str, Any]) -> str:
        kind, operand = next(iter(content.items()))
        options: dict[str, Any] = {}
        if isinstance(operand, list):
            operand, options = operand[0], {"ddof": operand[1]}
        elif isinstance(operand, dict) and "input" in operand and kind in ("Count", "Min", "Max"):
            operand, options = (
                operand["input"],
                {k: v for k, v in operand.items() if k != "input"},
            )
        known = ("Sum", "Min", "Max", "Count", "Mean", "Std", "Var", "First", "Last")
        if kind not in known:
            raise _NotSplit(f"{kind} needs all rows of a window together")
        return self.leaf(kind, operand, options)

    def leaf(self, kind: str, operand: Node, options: dict[str, Any]) -> str:
        """Return the column that one aggregation's value stands in after merging."""
        key = json.dumps([kind, operand, options], sort_keys=True)
        if key in self.known:
            return self.known[key]
        if operand is not None:
            inside = operand
            if isinstance(operand, dict) and "Filter" in operand and kind not in ("First", "Last"):
                parts = operand["Filter"]
                found = obstacle([parts["input"], parts["by"]])
            else:
                found = obstacle(inside)
            if found:
                raise _NotSplit(f"{found} inside {kind} needs all rows of a window together")
        index = len(self.known)
        value = f"\0v{index}"
        self._add(kind, operand, options, f"\0p{index}", value)
        self.known[key] = value
        return value

    def _add(self, kind: str, operand: Node, options: dict[str, Any], p: str, v: str) -> None:
        import polars as pl

        x = None if operand is None else load(operand)
        dtype = None if operand is None else _dtype(operand, self.schema)
        if kind == "Len":
            self._one(p, v, pl.len(), "sum", "UInt32")
        elif kind == "Count":
            e = x.len() if options.get("include_nulls") else x.count()  # type: ignore[union-attr]
            self._one(p, v, e, "sum", "UInt32")
        elif kind == "NullCount":
            self._one(p, v, x.null_count(), "sum", "UInt32")  # type: ignore[union-attr]
        elif kind == "Sum":
            self._sum(x, dtype, p, v)
        elif kind in ("Min", "Max"):
            if options.get("propagate_nans"):
                raise _NotSplit(f"nan_{kind.lower()} needs all rows of a window together")
            name = kind.lower()
            self._one(p, v, getattr(x, name)(), name, text=dtype == pl.Categorical)
            if dtype is not None and (dtype.is_numeric() or dtype.is_temporal()):
                self.scans[p] = name
        elif kind in ("Any", "All"):
            name, ignore = kind.lower(), options["ignore_nulls"]
            self.merges.append(getattr(pl.col(p), name)(ignore_nulls=ignore).alias(p))
            self.partials.append(getattr(x, name)(ignore_nulls=ignore).alias(p))
            mine, its = pl.col(p), pl.col(p + OTHER)
            self.pairs.append((mine | its if kind == "Any" else mine & its).alias(p))
            self.values.append(pl.col(p).alias(v))
        elif kind in ("First", "Last"):
            self._ends(kind, x, p, v)
        else:
            if dtype is None or not (dtype.is_numeric() and not dtype.is_decimal()):
                raise _NotSplit(f"the {kind.lower()} of {dtype} needs all rows together")
            self._moments(kind, x, dtype, options.get("ddof", 1), p, v)

    def _one(
        self, p: str, v: str, partial: Any, merge: str, wide: str | None = None, *,
        text: bool = False,
    ) -> None:  # fmt: skip
        import polars as pl

        kind = pl.Int64 if wide else None
        self.partials.append((partial.cast(kind) if kind else partial).alias(p))
        self.merges.append(getattr(pl.col(p), merge)().alias(p))
        self.pairs.append(_pair(p, merge, text=text))
        if merge == "sum":
            self.scans[p] = "sum"
        value = pl.col(p).cast(getattr(pl, wide)) if wide else pl.col(p)
        self.values.append(value.alias(v))

    def _sum(self, x: Any, dtype: Any, p: str, v: str) -> None:
        import polars as pl

        if dtype is None or not (dtype.is_numeric() or dtype in (pl.Boolean, pl.Duration)):
            raise _NotSplit(f"the sum of {dtype} needs all rows together")
        if dtype.is_integer():
            if dtype in (pl.Int64, pl.UInt64, pl.Int128):
                self.wide[p] = x
            self.partials.append(x.cast(pl.Int64).sum().alias(p))
            self.merges.append(pl.col(p).sum().alias(p))
            self.pairs.append(_pair(p, "sum"))
            self.scans[p] = "sum"
            self.values.append(pl.col(p).cast(pl.Int64).alias(v))
            if p not in self.wide:
                self.wide[p] = pl.lit(0)
        else:
            self._one(p, v, x.sum(), "sum", "UInt32" if dtype == pl.Boolean else None)

    def _ends(self, kind: str, x: Any, p: str, v: str) -> None:
        import polars as pl

        name = kind.lower()
        if self.ordered:
            self._one(p, v, getattr(x, name)(), name)
            return
        place = f"{p}o"
        first = kind == "First"  # the rows of a batch are in order; batches need not be
        edge = pl.col(ORDER).min() if first else pl.col(ORDER).max()
        self.partials += [getattr(x, name)().alias(p), edge.alias(place)]
        far = pl.col(place).min() if first else pl.col(place).max()
        value = pl.col(p).min_by(place) if first else pl.col(p).max_by(place)
        self.merges += [value.alias(p), far.alias(place)]
        mine, its = pl.col(place), pl.col(place + OTHER)
        take = (its < mine if first else its > mine).fill_null(value=False)
        self.pairs += [
            pl.when(take).then(pl.col(p + OTHER)).otherwise(pl.col(p)).alias(p),
            pl.when(take).then(its).otherwise(mine).alias(place),
        ]
        self.values.append(pl.col(p).alias(v))

    def _moments(self, kind: str, x: Any, dtype: Any, ddof: int, p: str, v: str) -> None:
        """Mean and variance in parts, merged as Chan, Golub and LeVeque do (1979)."""
        import polars as pl

        n, m, s = f"{p}n", f"{p}m", f"{p}s"
        wide = x.cast(pl.Float64)
        out = pl.Float32 if dtype == pl.Float32 else pl.Float64
        self.partials += [x.count().cast(pl.Int64).alias(n)]
        self.merges += [pl.col(n).sum().alias(n)]
        self.pairs += [_pair(n, "sum")]
        if kind == "Mean":
            self.partials.append(wide.sum().alias(m))
            self.merges.append(pl.col(m).sum().alias(m))
            self.pairs.append(_pair(m, "sum"))
            self.scans |= {n: "sum", m: "sum"}
            share = pl.when(pl.col(n) > 0).then(pl.col(m) / pl.col(n))
            self.values.append(share.cast(out).alias(v))
            return
        self.partials += [wide.mean().fill_null(0.0).alias(m),
                          (wide.var(ddof=0) * x.count()).fill_null(0.0).alias(s)]  # fmt: skip
        total = pl.col(n).sum()
        mean = (pl.col(n) * pl.col(m)).sum() / total
        spread = (pl.col(s) + pl.col(n) * (pl.col(m) - mean) ** 2).sum()
        self.merges += [
            pl.when(total > 0).then(mean).otherwise(0.0).alias(m),
            pl.when(total > 0).then(spread).otherwise(0.0).alias(s),
        ]
        both = pl.col(n) + pl.col(n + OTHER)
        mean = (pl.col(n) * pl.col(m) + pl.col(n + OTHER) * pl.col(m + OTHER)) / both
        spread = pl.col(s) + pl.col(n) * (pl.col(m) - mean) ** 2
        spread += pl.col(s + OTHER) + pl.col(n + OTHER) * (pl.col(m + OTHER) - mean) ** 2
        self.pairs += [
            pl.when(both > 0).then(mean).otherwise(0.0).alias(m),
            pl.when(both > 0).then(spread).otherwise(0.0).alias(s),
        ]
        var = pl.when(pl.col(n) > ddof).then(pl.col(s) / (pl.col(n) - ddof))
        self.values.append((var.sqrt() if kind == "Std" else var).cast(out).alias(v))


def _pair(p: str, merge: str, *, text: bool = False) -> pl.Expr:
    """Return what a merge makes of two partial results, the other of which lies before.

    ``text`` says that they are compared as texts, as an aggregation of categories does.
    """
    import polars as pl

    mine, its = pl.col(p), pl.col(p + OTHER)
    if merge in ("first", "last"):
        return (mine if merge == "last" else its).alias(p)
    if text:
        far = its.cast(pl.String), mine.cast(pl.String)
        take = far[0] < far[1] if merge == "min" else far[0] > far[1]
        return pl.when(take | mine.is_null()).then(its).otherwise(mine).alias(p)
    both: pl.Expr = getattr(pl, f"{merge}_horizontal")(mine, its)
    return both.alias(p)
