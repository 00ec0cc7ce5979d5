"""Frames that are held for a while: in memory, and beyond a limit in Arrow files.

Invariants: rows come back in the order in which they were added; a file is gone when nobody holds what
is in it.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Spilled", "Store", "divides", "shares_of"]

LIMIT_BYTES = 512 << 20
"""How much a store holds in memory."""

MANY_PARTS, MANY_ROWS = 16, 200_000


MANY_FILES = 256
"""So many files at most are open without a name."""


class Spilled:
    """A frame in a file, which is gone when nobody holds it any more, or the process is killed.

    Where the system gives open files a path, its name is removed at once; but not of so many files that
    no others could be opened.
    """

    def __init__(self, frame: pl.DataFrame) -> None:
        fd, name = tempfile.mkstemp(prefix="streamlab-state-", suffix=".arrow")
        self.path = Path(name)
        frame.write_ipc(self.path)
        opened = Path(f"/proc/self/fd/{fd}")
        if fd < MANY_FILES and opened.exists():
            self.path.unlink()
            self.path = opened
            weakref.finalize(self, os.close, fd)
        else:
            os.close(fd)
            weakref.finalize(self, _remove, self.path, os.getpid())

    def lazy(self) -> pl.LazyFrame:
        """Return the rows, to be read."""
        import polars as pl

        return pl.scan_ipc(self.path)


def _remove(path: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked child leaves its parent's files alone
        path.unlink(missing_ok=True)


def divides(keys: Sequence[str], schema: Mapping[str, Any]) -> bool:
    """Return whether rows can be divided by their keys."""
    return bool(keys) and not any(schema[key].is_nested() for key in keys)


def shares_of(keys: Sequence[str], count: int) -> list[pl.Expr | None]:
    """Return conditions that divide keys into shares; None is for all of them.

    A share is divided further by a multiple of ``count``: its keys are in those with its number, and that
    and ``count``, and so on.
    """
    import polars as pl

    if count < 2:
        return [None]
    number = pl.struct(keys).hash() % count
    return [number == share for share in range(count)]


class Store:
    """Frames of one schema, in the order in which they were added."""

    def __init__(self) -> None:
        self.parts: list[pl.DataFrame | Spilled] = []
        self.merged_rows = 0
        self._heights: list[int] = []

    def copy(self) -> Store:
        """Return another store with the same frames."""
        other = Store()
        other.parts, other.merged_rows = list(self.parts), self.merged_rows
        other._heights = list(self._heights)
        return other

    @property
    def height(self) -> int:
        """How many rows are held."""
        return sum(self._heights)

    @property
    def where(self) -> str:
        """A remark on what is held on disk."""
        files = sum(isinstance(part, Spilled) for part in self.parts)
        return f" ({files} files on disk)" if files else ""

    @property
    def crowded(self) -> bool:
        """Whether there is more than a merge would leave."""
        if len(self.parts) > MANY_PARTS * 4:
            return True
        return len(self.parts) > 1 and self.height > 2 * self.merged_rows + MANY_ROWS

    def add(self, frame: pl.DataFrame) -> None:
        """Hold a frame."""
        self.parts.append(frame)
        self._heights.append(frame.height)
        held = [part for part in self.parts if not isinstance(part, Spilled)]
        if held and sum(part.estimated_size() for part in held) > LIMIT_BYTES:
            self.parts = [p if isinstance(p, Spilled) else Spilled(p) for p in self.parts]

    def shares(self, keys: Sequence[str], schema: Mapping[str, Any]) -> list[pl.Expr | None]:
        """Return conditions that divide the keys, so that the rows of each fit in memory."""
        files = sum(isinstance(part, Spilled) for part in self.parts)
        return shares_of(keys, 1 + files) if divides(keys, schema) else [None]

    def gather(
        self, empty: pl.DataFrame, chosen: pl.Series | None, column: str,
        share: pl.Expr | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """Return the rows held whose ``column`` is one of ``chosen``, all for None; of a share only."""
        import polars as pl

        if chosen is not None and not len(chosen):
            return empty
        # Files come first; a call of Polars costs a millisecond, so that the rest is one.
        held = [part for part in self.parts if not isinstance(part, Spilled)]
        lazy = [part.lazy() for part in self.parts if isinstance(part, Spilled)]
        lazy += [pl.concat(held).lazy()] if held else []
        if chosen is not None:
            lazy = [part.filter(pl.col(column).is_in(chosen.implode())) for part in lazy]
        if share is not None:
            lazy = [part.filter(share) for part in lazy]
        return pl.concat([empty, *(part.collect().select(empty.columns) for part in lazy)])

    def replace(self, frame: pl.DataFrame) -> None:
        """Hold this instead of everything."""
        self.parts, self._heights = ([frame], [frame.height]) if frame.height else ([], [])

    def drop(self, kept: Container[int], column: str) -> None:
        """Let go of rows whose ``column`` is not among ``kept``; of a file only when all are."""
        import polars as pl

        parts: list[pl.DataFrame | Spilled] = []
        heights = []
        for part, height in zip(self.parts, self._heights, strict=True):
            if isinstance(part, Spilled):
                values = part.lazy().select(pl.col(column).unique()).collect()[column]
                if any(value in kept for value in values.to_list()):
                    parts.append(part)
                    heights.append(height)
                continue
            there = part[column].unique().to_list()
            keep = [value for value in there if value in kept]
            rest = part if len(keep) == len(there) else part.filter(pl.col(column).is_in(keep))
            if rest.height:
                parts.append(rest)
                heights.append(rest.height)
        self.parts, self._heights = parts, heights

    def merge(self, how: Callable[[pl.DataFrame], pl.DataFrame]) -> None:
        """Make one frame of those in memory."""
        import polars as pl

        held = [part for part in self.parts if not isinstance(part, Spilled)]
        files = [p for p in self.parts if isinstance(p, Spilled)]
        if len(held) < 2:
            return
        counts = [
            h for p, h in zip(self.parts, self._heights, strict=True) if isinstance(p, Spilled)
        ]
        merged = how(pl.concat(held)).select(held[0].columns)
        self.parts, self._heights = [*files, merged], [*counts, merged.height]
        self.merged_rows = merged.height
