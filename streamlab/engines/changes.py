"""What a run emits: final rows, or changes of rows that may still change.

Changes are the difference between what was shown and what is: a row that is new or other than shown
(``u``), one that is no more (``d``: a session that another one swallowed, a row that fell out of a
top-n), and the final ones. So their fold is right whatever the operators are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamlab import plan as p
from streamlab.engines.batch import HIDDEN
from streamlab.engines.local import Runner, visible

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Changes", "Finals", "identity_of"]


class Finals:
    """Each final row, once."""

    def __init__(self, runner: Runner) -> None:
        self.empty = runner.empty

    def take(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return what is to be delivered after a step."""
        return frame

    def resume(self) -> None:
        """Nothing was shown that is not final."""


class Changes:
    """Rows with ``_op`` and ``_final``."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.identity = identity_of(runner.plan, visible(runner.empty).columns)
        self.shown = visible(runner.empty).clear()
        self.empty = self._marked(runner.empty, "u", final=True)

    def resume(self) -> None:
        """Take for shown what is open now: it was delivered with the state."""
        if self.identity:
            self.shown = self.runner.peek()

    @staticmethod
    def _marked(frame: pl.DataFrame, op: str, *, final: bool) -> pl.DataFrame:
        import polars as pl

        return frame.with_columns(pl.lit(op).alias("_op"), pl.lit(final).alias("_final"))

    def take(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return what changed with a step, deletions first."""
        import polars as pl

        if not self.identity:
            return self._marked(frame, "u", final=True)
        now = self.runner.peek(raw=True).select(frame.columns)
        keys = self.identity
        plain = visible(now)
        changed = _other(now, plain, self.shown)
        gone = self.shown.join(plain, on=keys, how="anti", nulls_equal=True)
        if frame.height:
            gone = gone.join(frame.select(keys), on=keys, how="anti", nulls_equal=True)
        self.shown = plain
        parts = [self._marked(frame, "u", final=True), self._marked(changed, "u", final=False)]
        if gone.height:
            kinds: dict[str, Any] = {n: frame.schema[n] for n in frame.columns if n in HIDDEN}
            hidden = [pl.lit(0).cast(kind).alias(name) for name, kind in kinds.items()]
            parts.insert(
                0, self._marked(gone.with_columns(hidden).select(frame.columns), "d", final=False)
            )
        return pl.concat([part.select(parts[-1].columns) for part in parts])


def identity_of(plan: p.Node, names: list[str]) -> list[str]:
    """Return the columns that say which row of the result a row is; none if none do."""
    window = p.windowed(plan)
    if window is None:
        return []
    wanted = _told_apart(window, names)
    return wanted if set(wanted) <= set(names) and _kept(plan, window, wanted) else []


def _told_apart(window: p.Aggregate | p.WindowSqlStep, names: list[str]) -> list[str]:
    """Return the columns that tell the rows of a window's result apart."""
    if isinstance(window, p.Aggregate):
        session = window.window.kind == "session"
        return [*window.by, *(["window_start"] if session else ["window_start", "window_end"])]
    import polars as pl

    from streamlab.engines.sql import plan_columns

    made = plan_columns(window.sql, pl.Schema(dict(window.input.schema)))
    if not made.identified:
        return []
    bounds = list(made.window_columns.values())
    return [*(n for n in names if n in made.keys), *(n for n in names if n in bounds)]


def _kept(plan: p.Node, window: p.Node, wanted: list[str]) -> bool:
    """Whether the steps after a window leave these columns as they are, each once."""
    import polars as pl

    while plan is not window:
        if isinstance(plan, p.Project):
            for column in plan.columns:
                name = column.meta.output_name(raise_if_undetermined=False)
                if name in wanted and not column.meta.eq(pl.col(name)):
                    return False
        elif isinstance(plan, p.FrameJoin) and plan.frame.select(plan.on).is_duplicated().any():
            return False
        plan = p.inputs_of(plan)[0]
    return True


def _other(now: pl.DataFrame, plain: pl.DataFrame, shown: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that were not shown as they are."""
    import polars as pl

    if not shown.height or not plain.height:
        return now
    numbered = plain.with_row_index("\0n")
    new = numbered.join(shown, on=plain.columns, how="anti", nulls_equal=True)
    return now[new["\0n"].sort()] if new.height else now.clear().select(pl.all())
