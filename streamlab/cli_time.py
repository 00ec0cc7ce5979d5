"""Verbs of the time machine: replay, fork, compact, pack, and what consumers have read."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Any

import streamlab as sl
from streamlab.cli_io import binary_out, counted, opened, show, show_json
from streamlab.cli_text import cells_of, clean, columns_of, format_size, table

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


# -- groups ------------------------------------------------------------------------------------


def run_groups(options: argparse.Namespace) -> int:
    """Show consumer groups, or move one."""
    moving = options.reset_to is not None or options.shift is not None
    if moving and options.group is None:
        raise sl.StreamlabError(
            "which group is to be moved?", hint="streamlab groups LAB GROUP ..."
        )
    if not moving and (options.yes or options.dry_run or options.stream):
        raise sl.StreamlabError(
            "there is nothing to move", hint="--reset-to earliest, or --shift=-1h, says where to"
        )
    with opened(options.lab, write=moving and options.yes) as lab:
        if not moving:
            groups = lab.groups if options.group is None else lab.groups[options.group]
            show_frame(
                groups.to_polars(), json=options.json, none=f"{options.lab} has no groups yet"
            )
            return 0
        moved = lab.groups[options.group].reset(
            place(options.reset_to), place(options.shift), stream=options.stream,
            dry_run=not options.yes,
        )  # fmt: skip
        show_frame(moved, json=options.json, none="")
    if not options.yes:
        print("nothing was moved; --yes does it", file=sys.stderr)
    return 0


def place(text: str | None) -> Any:
    """Return a number as one, any other text as it is."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return text


def show_frame(frame: pl.DataFrame, *, json: bool, none: str) -> None:
    """Print a frame as a table or as lines of JSON; durations in seconds."""
    rows = [{name: plain(value) for name, value in row.items()} for row in frame.to_dicts()]
    if json:
        for row in rows:
            show_json(row)
    elif rows:
        right = [kind.is_numeric() or kind.is_temporal() for kind in frame.dtypes]
        cells = [[shown(name, value) for name, value in row.items()] for row in rows]
        show(table(frame.columns, cells, right))
    else:
        print(none)


def plain(value: Any) -> Any:
    return round(value.total_seconds(), 3) if isinstance(value, dt.timedelta) else value


def shown(name: str, value: Any) -> str:
    """Return a value of a table on groups as text."""
    if value is None:
        return "-"
    if name == "waiting":
        return f"{value:,.0f} s" if value >= 10 else f"{value:.1f} s"
    counts = isinstance(value, int) and name not in ("partition", "pid")
    return f"{value:,}" if counts else str(value)


def run_fork(options: argparse.Namespace) -> int:
    """Make a stream that shares the history of another one up to a place."""
    at = options.at
    with opened(options.lab, write=True) as lab:
        fork = lab[options.stream].fork(options.name, int(at) if at and at.isdigit() else at)
        start, end = fork.earliest_offset, fork.end_offset
    if options.json:
        show_json(
            {
                "stream": options.name,
                "of": options.stream,
                "earliest_offset": start,
                "end_offset": end,
            }
        )
    else:
        print(f"{options.name} has offsets [{start:,}, {end:,}) of {options.stream}")
    return 0


def run_pack(options: argparse.Namespace) -> int:
    """Write streams, or slices of them, into one file."""
    with opened(options.lab) as lab:
        past = lab.as_of(options.as_of) if options.as_of else lab
        chosen = [past[name] for name in options.streams or past]
        if options.offsets:
            chosen = [stream.offsets(*options.offsets) for stream in chosen]
        path = lab.pack(options.path, *chosen, overwrite=options.overwrite)
        rows, size = sum(map(len, chosen)), path.stat().st_size
    if options.json:
        show_json({"path": str(path), "streams": len(chosen), "rows": rows, "bytes": size})
    else:
        print(
            f"{counted(len(chosen), 'stream')}, {counted(rows, 'row')} packed into {options.path}"
        )
    return 0


def run_unpack(options: argparse.Namespace) -> int:
    """Make a lab of an archive, or give its streams to one that is there."""
    with sl.unpack(options.archive, options.lab) as lab:
        if options.json:
            show_json({"lab": str(lab.path), "streams": list(lab)})
        else:
            print(f"{lab.path} has {', '.join(lab) or 'no stream'}")
    return 0


def run_compact(options: argparse.Namespace) -> int:
    """Keep the last row of each key of some streams, or of all that are made for it."""
    rows = []
    with opened(options.lab, write=True) as lab:
        names = options.streams or [name for name in lab if lab[name].cleanup == "compact"]
        for name in names:
            done = lab[name].compact()
            rows.append({"stream": name, "rows": len(lab[name]), **done._asdict()})
    if options.json:
        for row in rows:
            show_json(row)
        return 0
    if not rows:
        print(f'{options.lab} has no stream with cleanup "compact"')
        return 0
    cells = [
        [clean(row["stream"]), f"{row['compacted_upto']:,}", f"{row['rows']:,}",
         f"{row['rows_removed']:,}", format_size(row["bytes_freed"]), clean(row["stopped_by"])]
        for row in rows
    ]  # fmt: skip
    names = ["stream", "compacted up to", "rows", "removed", "freed", "stopped by"]
    show(table(names, cells, [False, True, True, True, True, False]))
    print(f"{counted(sum(row['rows_removed'] for row in rows), 'row')} removed")
    return 0


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "replay": run_replay,
    "groups": run_groups,
    "fork": run_fork,
    "pack": run_pack,
    "unpack": run_unpack,
    "compact": run_compact,
}
