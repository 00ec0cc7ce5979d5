"""What every verb of the command line does: open a lab that is there, say something, print rows."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import streamlab as sl
from streamlab.cli_text import format_time

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["binary_out", "counted", "iso", "no_lab", "opened", "show", "show_json"]


def opened(path: str, *, write: bool = False, verify: Any = "first-touch") -> sl.Lab:
    """Open a lab that is there; never make one.

    Raises:
        StreamlabError: there is none.
    """
    folder = Path(path).expanduser()
    if not (folder / "lab.json").exists():
        raise no_lab(folder)
    return sl.open(folder, read_only=not write, verify=verify)


def no_lab(folder: Path) -> sl.StreamlabError:
    """Return the error that there is no lab here, with the nearest way to one."""
    inside = sorted(p.parent for p in folder.glob("*/lab.json")) if folder.is_dir() else []
    hint = f'make one: streamlab new {folder} STREAM --schema "ts timestamp, price double"'
    if inside:
        hint = f"there is one at {inside[0]}"
    return sl.StreamlabError(f"there is no lab at {folder}", hint=hint)


def counted(count: int, what: str) -> str:
    return f"{count:,} {what}" + "s" * (count != 1)


def show(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


def show_json(content: Any) -> None:
    print(json.dumps(content))


def binary_out() -> BinaryIO:
    """Return standard output for bytes, what was printed before having gone out.

    Raises:
        BrokenPipeError: it is closed.
    """
    if sys.stdout is None:
        raise BrokenPipeError
    sys.stdout.flush()
    return sys.stdout.buffer


def iso(micros: int | None) -> str | None:
    return None if micros is None else format_time(micros).replace(" ", "T")
