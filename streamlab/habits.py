"""What people of other tools reach for first, and what it is called here.

A name that a stream or a query does not have is looked up: a habit of Polars, pandas, Spark or Kafka,
a column, or a slip of the pen. The error says which, and what to write.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["hint_for", "item_hint", "job_hint"]

WINDOWED = '.window(sl.tumbling("1m"), by=...).agg(...) aggregates over windows'
COLLECTED = ".collect() gives a Polars frame of the history there is now: .collect().{name}"
HABITS = {
    **dict.fromkeys(["group_by", "groupby", "groupBy", "agg", "aggregate", "resample", "count"], WINDOWED),
    **dict.fromkeys(["rolling", "group_by_dynamic", "ewm"], '.window(sl.sliding("5m"), by=...).agg(...), for each row, '
        'or sl.hopping("5m", every="1m")'),
    **dict.fromkeys(["mean", "sum", "min", "max", "std", "var", "median", "quantile", "n_unique",
        "describe", "sort", "sort_values", "limit", "tail", "head", "shape", "height", "iterrows",
        "iter_rows", "rows", "sample", "pivot", "null_count", "is_empty", "to_dict", "to_dicts",
        "write_parquet", "write_csv", "to_numpy", "loc", "iloc", "values", "describe"], COLLECTED),
    **dict.fromkeys(["where", "query", "query_string"], ".filter(pl.col(...) > 0)"),
    **dict.fromkeys(["with_column", "withColumn", "assign"], ".with_columns(name=pl.col(...) * 2)"),
    **dict.fromkeys(["apply", "map", "map_elements", "foreach", "transform"],
        ".map_batches(function) for rows, or .run(function) to be given the results"),
    **dict.fromkeys(["drop", "drop_columns"], ".select(pl.exclude(...))"),
    "rename": ".select(new=pl.col('old'), ...)",
    **dict.fromkeys(["distinct", "drop_duplicates", "dropDuplicates", "deduplicate"],
        ".unique('id', within=...)"),
    "drop_nulls": ".filter(pl.col(...).is_not_null())",
    **dict.fromkeys(["merge", "merge_asof"], ".join(other, on=..., within=(...)) or .join_asof(other, by=...)"),
    **dict.fromkeys(["writeStream", "write", "sink", "to", "sink_parquet", "output"],
        ".run('name') into a stream, .run(sl.duckdb(path, table=...)), .run(function)"),
    **dict.fromkeys(["start", "awaitTermination", "execute", "execute_insert"], ".run(...) starts a job, .run(...).wait() waits for it"),
    **dict.fromkeys(["plot", "hvplot", "hist", "show", "display"], ".live() draws; .collect() gives a frame"),
    **dict.fromkeys(["columns", "dtypes"], ".schema has the columns and their types"),
    **dict.fromkeys(["to_polars", "to_pandas", "to_arrow", "fetchall", "df", "pl", "compute", "toPandas",
        "fetch", "result", "lazy"], ".collect() gives a Polars frame; .collect().to_pandas(), .to_arrow()"),
    **dict.fromkeys(["withWatermark", "with_watermark"], '.window(..., delay="5s")'),
    **dict.fromkeys(["subscribe", "poll", "consume", "read"], ".follow() gives rows as they come; stream.consumer(group) with a committed place"),
    **dict.fromkeys(["send", "produce", "publish", "push", "insert", "write_rows"], ".append(rows) of a stream"),
    "as_of_join": ".join_asof(other, by=...)",
}  # fmt: skip


JOB_HABITS = {
    **dict.fromkeys(["cancel", "kill", "close", "terminate", "shutdown", "abort"], ".stop()"),
    **dict.fromkeys(["result", "collect", "to_polars", "df"],
        "lab[name] of its stream, or .frame() if it has no into; .wait() waits"),
    **dict.fromkeys(["join", "awaitTermination", "processAllAvailable", "done"], ".wait(), .wait(caught_up=False) until it ends"),
    **dict.fromkeys(["start", "restart", "run"], "run the query again: query.run(...) goes on where the job was"),
    **dict.fromkeys(["exception", "traceback"], ".error"),
    **dict.fromkeys(["state", "is_running", "running", "isActive"], ".status"),
    "lag": ".progress.lag_rows",
}  # fmt: skip


def hint_for(kind: str, name: str, known: Iterable[str], columns: Mapping[str, Any]) -> str:
    """Return what a missing attribute's error says."""
    text = f"a {kind} has no {name!r}"
    near = difflib.get_close_matches(name, [n for n in known if n[0] != "_"], n=2, cutoff=0.7)
    if name in columns:
        return f"{text}\nHint: it is a column: pl.col({name!r})"
    if near and name not in HABITS:
        return f"{text}\nHint: did you mean {' or '.join(near)}?"
    if name in HABITS:
        return f"{text}\nHint: {HABITS[name].format(name=name)}"
    return text


def job_hint(name: str, counts: Iterable[str]) -> str:
    """Return what the error for ``job.name`` says."""
    text = f"a job has no {name!r}"
    if name in counts:
        return f"{text}\nHint: .progress.{name}"
    return f"{text}\nHint: {JOB_HABITS[name]}" if name in JOB_HABITS else text


def item_hint(kind: str, item: Any, columns: Mapping[str, Any]) -> str:
    """Return what the error for ``stream[item]`` says."""
    if isinstance(item, slice):
        hint = f".offsets({item.start or 0}, {item.stop}) are rows by offset, .between(...) by time"
    elif isinstance(item, str) and item in columns:
        hint = f"in a step it is pl.col({item!r}); its values are .select({item!r}).collect()"
    elif isinstance(item, str | list | tuple):
        hint = ".select(...) takes columns, .filter(pl.col(...) > 0) rows"
    else:
        hint = ".collect() gives a frame; .follow() rows as they come"
    return f"a {kind} is not taken apart with [...]\nHint: {hint}"
