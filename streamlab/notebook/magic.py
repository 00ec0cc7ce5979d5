"""``%load_ext streamlab``: SQL cells over a lab, a list of streams, and completion of their names.

    %%stream [LAB] [--live] [--into NAME] [--as-of T] [--emit final|changes] [--out VARIABLE]
    SELECT ...

runs the SQL of the cell on the lab in scope and leaves the result in a variable. Nothing is put into
the text: a brace is a brace. Frames of the notebook are tables under their names.
"""

from __future__ import annotations

import argparse
import re
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

import streamlab as sl

if TYPE_CHECKING:
    import polars as pl

__all__ = ["load", "unload"]

WINDOWS = re.compile(r"\b(tumble|hop|session|cumulate)\s*\(", re.IGNORECASE)
NAME = re.compile(
    r"(?:\b(?:from|join)\s+|\b(?:tumble|hop|session|cumulate)\s*\(\s*)([\w.]*)$", re.IGNORECASE
)
OPTIONS = ("--live", "--into", "--as-of", "--emit", "--out", "--help")

HELP = """\
%%stream [LAB] [options], and below it one SELECT in DuckDB's dialect

LAB          the variable that holds the lab; needed only where there are several
--live       show the result as it comes: a chart, or a table where there is no window
--into NAME  run on in the background, into the stream of that name
--as-of T    ask the lab as it was at an instant
--emit WHAT  "final": closed windows only; "changes": each row whenever it is another one
--out NAME   the variable that gets the result; without it, _stream

Windows are table functions: FROM tumble(trades, INTERVAL '1 minute') GROUP BY ALL; hop, cumulate and
session are the others. Polars, pandas and Arrow frames of the notebook are tables under their names.
Nothing is put into the text: {name} is not replaced."""


class Refused(Exception):
    """What a cell asks for and cannot have; shown as a message, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]


class Options(argparse.ArgumentParser):
    """Options of a cell; what is wrong with them is an error of the cell."""

    def error(self, message: str) -> NoReturn:
        raise Refused(f"{message}\n\n{HELP}")


def _parser() -> Options:
    parser = Options(prog="%%stream", add_help=False, allow_abbrev=False)
    parser.add_argument("lab", nargs="?")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--into")
    parser.add_argument("--as-of", dest="as_of")
    parser.add_argument("--emit", choices=("final", "changes"))
    parser.add_argument("--out", default="_stream")
    parser.add_argument("--help", action="store_true")
    return parser


class StreamMagics:
    """The magics of one IPython shell."""

    def __init__(self, shell: Any) -> None:
        self.shell = shell

    # -- the magics --------------------------------------------------------------------------

    def stream(self, line: str, cell: str = "") -> Any:
        """Run the SQL of a cell on the lab in scope; ``%%stream --help`` says more."""
        try:
            given = _parser().parse_args(shlex.split(line))
        except ValueError as wrong:
            raise Refused(f"{wrong}\n\n{HELP}") from None
        if given.help:
            print(HELP)  # noqa: T201 - it was asked for
            return None
        if not given.out.isidentifier():
            raise Refused(f"--out {given.out}: this is no name of a variable")
        try:
            result = self._answer(given, cell)
        except sl.StreamlabError as error:
            raise Refused(f"{type(error).__name__}: {error}") from error
        self.shell.user_ns[given.out] = result
        return result

    def streams(self, line: str) -> pl.DataFrame:
        """List the streams of the labs in scope: rows, size, the last event, running jobs."""
        import polars as pl

        rows = []
        for variable, lab in self._labs().items():
            if line.strip() not in ("", variable):
                continue
            for name in lab:
                stats = lab[name].stats()
                rows.append(
                    (
                        variable,
                        name,
                        stats.rows,
                        stats.bytes,
                        stats.stream_time,
                        _jobs_of(lab, name),
                    )
                )
        if not rows and line.strip():
            self._lab(line.strip())
        names = {"lab": pl.String, "stream": pl.String, "rows": pl.Int64, "bytes": pl.Int64,
                 "last_event": pl.Int64, "job": pl.String}  # fmt: skip
        found = pl.DataFrame(rows, schema=names, orient="row")
        return found.with_columns(pl.col("last_event").cast(pl.Datetime("us", "UTC")))

    # -- what is asked -----------------------------------------------------------------------

    def _answer(self, given: argparse.Namespace, cell: str) -> Any:
        lab = self._lab(given.lab)
        text = cell.strip()
        if not text:
            raise Refused("the cell has no SELECT below its first line")
        if given.as_of:
            if given.into or given.live:
                raise Refused(
                    "--as-of shows what was, which goes on nowhere: leave out --into and --live"
                )
            lab = lab.as_of(given.as_of)
        if not (WINDOWS.search(text) or given.into or given.live or given.emit):
            return lab.sql(text, **self._frames(text, lab)).pl()
        query = lab.query(text)
        if given.into:
            return query.run(into=given.into, emit=given.emit or "final")
        if given.live:
            return query.live() if query.identity else query.live(kind="table")
        if given.emit == "changes":
            return query.follow(emit="changes").poll(float("inf"))
        return query.collect("final" if given.emit == "final" else "all")

    def _labs(self) -> dict[str, sl.Lab]:
        """Return the open labs of the notebook, by variable; the one that was made last is last."""
        return {
            name: value
            for name, value in list(self.shell.user_ns.items())
            if isinstance(value, sl.Lab) and not name.startswith("_") and not _closed(value)
        }

    def _lab(self, name: str | None) -> sl.Lab:
        labs = self._labs()
        if name is not None:
            if name not in labs:
                raise Refused(f"{name} is no open lab here; there are: {', '.join(labs) or 'none'}")
            return labs[name]
        different = {id(lab): variable for variable, lab in labs.items()}
        if not different:
            raise Refused(
                'there is no open lab here\nHint: lab = sl.open("my-lab") in a cell before'
            )
        if len(different) > 1:
            raise Refused(
                f"there are several labs: {', '.join(labs)}\nHint: %%stream {next(iter(labs))}"
            )
        return next(iter(labs.values()))

    def _frames(self, text: str, lab: sl.Lab) -> dict[str, Any]:
        """Return the frames of the notebook that the text may name, streams having the first right."""
        words = set(re.findall(r"[A-Za-z_]\w*", text)) - set(lab)
        space = self.shell.user_ns
        return {
            word: space[word]
            for word in words
            if hasattr(space.get(word), "__arrow_c_stream__") and not isinstance(space[word], type)
        }

    # -- completion --------------------------------------------------------------------------

    def complete(self, text: str, before: str) -> list[str]:
        """Return what may stand where the cursor is: a stream after FROM, an option after ``--``."""
        first = before.splitlines()[0] if before else ""
        if not first.startswith("%%stream"):
            return []
        if "\n" not in before:
            return (
                [option for option in OPTIONS if option.startswith(text)]
                if text.startswith("-")
                else []
            )
        names = {name: lab for lab in self._labs().values() for name in lab}
        if NAME.search(before):
            return [name for name in names if name.startswith(text)]
        used = [name for name in names if re.search(rf"\b{re.escape(name)}\b", before)] or list(
            names
        )
        columns = {field.name for name in used for field in names[name].get(name).schema}  # type: ignore[union-attr]
        bounds = {"window_start", "window_end", "window_time"} if WINDOWS.search(before) else set()
        return sorted(word for word in columns | bounds if text and word.startswith(text))


def _closed(lab: sl.Lab) -> bool:
    return repr(lab).endswith("(closed)")


def _jobs_of(lab: sl.Lab, name: str) -> str | None:
    job = lab.jobs.get(name)
    return None if job is None else job.status


def load(shell: Any) -> None:
    """Register the magics and the completion with a shell."""
    magics = StreamMagics(shell)
    shell.register_magic_function(magics.stream, "line_cell", "stream")
    shell.register_magic_function(magics.streams, "line", "streams")

    def matcher(context: Any) -> Any:
        lines = context.full_text.split("\n")[: context.cursor_line + 1]
        full = "\n".join([*lines[:-1], lines[-1][: context.cursor_position]])
        token = context.token if isinstance(context.token, str) else ""
        word = re.split(r"[\s(,]", full)[-1] if full else token
        found = magics.complete(word, full)
        from IPython.core.completer import SimpleCompletion

        return {"completions": [SimpleCompletion(text=name, type="stream") for name in found],
                "suppress": bool(found)}  # fmt: skip

    from IPython.core.completer import context_matcher

    described: Any = context_matcher(identifier="streamlab")
    ready = described(matcher)
    unload(shell)
    shell._streamlab_matcher = ready  # noqa: SLF001 - to be found again
    shell.Completer.custom_matchers.append(ready)


def unload(shell: Any) -> None:
    """Take the completion away; the magics stay, as IPython has it."""
    known = getattr(shell, "_streamlab_matcher", None)
    if known in shell.Completer.custom_matchers:
        shell.Completer.custom_matchers.remove(known)
