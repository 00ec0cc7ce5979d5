"""Verbs of the time machine: replay, fork, compact, pack, and what consumers have read."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

__all__ = ["VERBS"]


VERBS: dict[str, Callable[[argparse.Namespace], int]] = {}
