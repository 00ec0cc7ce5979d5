"""Verbs of the time machine: replay, fork, compact, pack, and what consumers have read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlab as sl
from streamlab.cli_io import counted, opened, show_json

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["VERBS"]


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


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {
    "fork": run_fork,
    "pack": run_pack,
    "unpack": run_unpack,
}
