"""Verbs of the time machine: replay, fork, compact, pack, and what consumers have read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamlab.cli_io import counted, opened, show, show_json
from streamlab.cli_text import clean, format_size, table

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["VERBS"]


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
    "compact": run_compact,
}
