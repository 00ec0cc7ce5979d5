"""Cells of a notebook: which one runs, and what to do when one is run again or deleted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import streamlab as sl

__all__ = ["here", "is_over", "watch"]

_watched: list[Callable[[str], None]] = []


def _shell() -> Any:
    """Return the IPython shell there is, or None."""
    if "IPython" not in sys.modules:
        return None
    from IPython.core.getipython import get_ipython

    return get_ipython()


def here() -> str | None:
    """Return the cell that runs now: its id, or where the front end gives none, its text."""
    request = _request()
    cell, code = request.get("metadata", {}).get("cellId"), request.get("content", {}).get("code")
    return str(cell) if cell else f"text:{code}" if code else None


def _request() -> dict[str, Any]:
    """Return what the front end asked for last; nothing outside of a kernel."""
    asked: dict[str, Any] = getattr(_shell(), "get_parent", dict)() or {}
    return asked


def watch(stop: Callable[[str], None]) -> None:
    """Call a function with each cell that is about to run, and with each that was deleted."""
    shell = _shell()
    if shell is None or stop in _watched:
        return
    _watched.append(stop)

    def before(*_: Any) -> None:
        gone = _request().get("metadata", {}).get("deletedCells") or []
        for cell in filter(None, [here(), *map(str, gone)]):
            stop(cell)

    shell.events.register("pre_run_cell", before)


def is_over(error: BaseException) -> bool:
    """Whether an error says that nothing will come any more."""
    return isinstance(error, sl.LabClosed | sl.StreamNotFound)
