"""Verbs of the time machine: replay, fork, compact, pack, and what consumers have read."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import streamlab as sl
from streamlab.cli_io import binary_out, opened, show
from streamlab.cli_text import cells_of, columns_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    import polars as pl

__all__ = ["VERBS"]


def run_replay(options: argparse.Namespace) -> int:
    """Print the rows of streams as a replay releases them, at its pace."""
    with opened(options.lab) as lab:
        played = lab.replay(
            *options.streams, start=options.start, stop=options.stop, speed=options.speed,
            max_gap=options.max_gap, clock=options.clock,
        )  # fmt: skip
        with played:
            rows = ReplayedRows(list(played), json_lines=options.json)
            feed = played.into(rows.show)
            played.play()
            feed.wait(caught_up=False)
    return 0


class ReplayedRows:
    """Prints rows of several streams, each with its stream's name, as lines of JSON or in columns."""

    def __init__(self, names: list[str], *, json_lines: bool) -> None:
        self.json_lines = json_lines
        self.named = len(names) > 1
        self.width = max(map(len, names))
        self.layouts: dict[str, Any] = {}

    def show(self, name: str, frame: pl.DataFrame) -> None:
        """Print rows of one stream, at once."""
        if self.json_lines:
            self._show_json(name, frame)
        else:
            for part in frame.iter_slices(1000):
                self._show_columns(name, part)
        if sys.stdout is not None:
            sys.stdout.flush()

    def _show_json(self, name: str, frame: pl.DataFrame) -> None:
        import polars as pl

        named = frame.select(pl.lit(name).alias("_stream"), pl.all()) if self.named else frame
        sl.export(named, binary_out(), format="jsonl")

    def _show_columns(self, name: str, frame: pl.DataFrame) -> None:
        batch = frame.to_arrow().combine_chunks().to_batches()[0]
        prefix = f"{name:<{self.width}}  " if self.named else ""
        rows = cells_of(batch)
        if name not in self.layouts:
            self.layouts[name] = columns_of(batch.schema)
            self.layouts[name].make_room(rows)
            show(prefix + line for line in self.layouts[name].header())
        show(prefix + self.layouts[name].line(row) for row in rows)


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {"replay": run_replay}
