"""Sessions: the rows of a key that follow each other within a gap.

Of each open session its key, its bounds and its partial results are held, in one frame; beyond a limit
the keys are divided into shares, which wait in files and are brought up to date one after the other. Where
aggregations cannot be split, rows are held until every session that might have them has closed.

Invariants: open sessions of a key lie further apart than the gap; a row that is held lies in one session
or in none that is open, for nothing comes that is earlier than what has closed.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamlab.clock import FOREVER
from streamlab.duration import format_instant
from streamlab.engines.batch import ORDER, TIME, Batch, Since, least, watermark
from streamlab.engines.held import Held
from streamlab.engines.spill import Spilled, divides, shares_of
from streamlab.engines.state import END, START, ByTime, reduced

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Sessions"]

FIRST = "\0first"
LAST = "\0last"
SESSION = "\0session"

LIMIT_BYTES = 512 << 20
"""How large a share of the open sessions may become."""

SPLIT, MANY_SHARES = 8, 512
"""How many shares are made of one that is larger, and up to how many there are."""


@dataclass(frozen=True)
class _Share:
    """The open sessions of some keys: the keys, `FIRST`, `LAST`, offsets, partial results."""

    sessions: pl.DataFrame | Spilled
    height: int
    first: int  # the least time of their rows
    last: int  # the least of their last times: what closes next
    since: Since | None
    size: int = 0  # in bytes, in memory

    @classmethod
    def of(cls, sessions: pl.DataFrame, *, in_file: bool = False) -> _Share:
        """Hold sessions, in a file if there are some."""
        import polars as pl

        if not sessions.height:
            return cls(sessions, 0, FOREVER, FOREVER, None)
        first, last = sessions.select(pl.col(FIRST).min(), pl.col(LAST).min()).row(0)
        size = int(sessions.estimated_size())
        held = Spilled(sessions) if in_file else sessions
        return cls(held, sessions.height, first, last, _since_of(sessions), size)

    def frame(self) -> pl.DataFrame:
        """Return the sessions."""
        return self.sessions.lazy().collect()


class Sessions(ByTime):
    """Sessions: the rows of a key that follow each other within a gap."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.shares: list[_Share] = []
        self.rows = Held(TIME)  # where aggregates need them

    def prepare(self, empty: pl.DataFrame) -> None:
        """Learn the columns that will come."""
        self.template = empty.select(*self.columns, ORDER, TIME)
        self.divides = not self.sql and divides(self.by, self.template.schema)
        self.nothing = self._nothing()

    def push(self, port: int, batch: Batch) -> Batch:
        """Take rows; return the sessions that close."""
        mark = watermark(batch.stream_time, self.late_delay)
        closed, since = self._advanced(self._found(batch), mark)
        frame = self._merged(closed)
        if self.rows.parts:
            self.rows.let_go(min((share.first for share in self.shares), default=FOREVER))
            self.rows.condense(self._of_open)
        return self.give(frame, batch.stream_time, since or batch.since)

    def _found(self, batch: Batch) -> pl.DataFrame | None:
        """Return the sessions that the rows of a batch make among themselves."""
        import polars as pl

        if not batch.lazy and not batch.frame.height:
            return None
        unjudged = self.incremental and self.ordered(batch)
        rows = (batch.rows if unjudged else self.on_time(batch)).lazy()
        # Rows of a key that lie in one stretch as long as the gap are of one session.
        stretch = pl.col(TIME) // self.window.size
        placed = rows.with_columns(stretch.alias(SESSION))
        bounds = [pl.col(TIME).min().alias(FIRST), pl.col(TIME).max().alias(LAST)]
        keys = [*self.by, SESSION]
        if self.incremental:
            found = reduced(placed, keys, self.how, bounds)
        else:
            self.rows.add(rows.select(*self.columns, ORDER, TIME).collect())
            found = placed.group_by(keys).agg(bounds).collect()
        if not found.height:
            return None
        found = found.drop(SESSION).with_columns(
            pl.lit(offset, pl.Int64).alias(f"\0since{i}") for i, offset in enumerate(batch.since)
        )
        return self._chained(found)

    # -- which rows are of one session -------------------------------------------------------

    def _chained(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Return the sessions that stretches of rows make, in the order of keys and times."""
        import polars as pl

        parts = parts.sort(*self.by, FIRST)
        far = (pl.col(FIRST) - pl.col(LAST).shift() >= self.window.size).fill_null(value=True)
        begins = pl.any_horizontal(far, *self._changed()).alias("\0begins")
        return self._united(parts.with_columns(begins))

    def _changed(self) -> list[pl.Expr]:
        """Return of each key whether it is another one than in the row before."""
        import polars as pl

        return [pl.col(key).ne_missing(pl.col(key).shift()) for key in self.by]

    def _united(self, parts: pl.DataFrame) -> pl.DataFrame:
        """Make one of each part that begins a session and those that follow it."""
        import polars as pl

        alone = pl.col("\0begins") & pl.col("\0begins").shift(-1, fill_value=True)
        merges = [pl.col(key).first() for key in self.by]
        merges += [pl.col(FIRST).min(), pl.col(LAST).max()]
        merges += [pl.col(c).min() for c in parts.columns if c.startswith("\0since")]
        if self.incremental:
            merges += self.how.merges
        number = pl.col("\0begins").cum_sum().alias(SESSION)
        several = parts.with_columns(number).filter(~alone)
        merged = several.group_by(SESSION, maintain_order=True).agg(merges).drop(SESSION)
        return pl.concat([parts.filter(alone).select(merged.columns), merged])

    def _joined(self, old: pl.DataFrame, new: pl.DataFrame) -> pl.DataFrame:
        """Return the sessions of both, those that touch made one; only keys that are new are looked at."""
        import polars as pl

        rest = old.clear()
        if self.by and new.height * 4 < old.height:
            keys = new.select(self.by).unique().with_columns(pl.lit(0, pl.Int8).alias("\0same"))
            same = old.with_columns(pl.lit(0, pl.Int8).alias("\0same")).with_row_index("\0n")
            on = [*self.by, "\0same"]
            touched = same.join(keys, on=on, how="semi", nulls_equal=True)["\0n"]
            mask = np.zeros(old.height, dtype=np.bool_)
            mask[touched.to_numpy()] = True
            rest, old = old.filter(~pl.Series(mask)), old.filter(pl.Series(mask))
        side = pl.lit(0, pl.Int8).alias("\0side")
        both = pl.concat([old.with_columns(side), new.select(old.columns).with_columns(side + 1)])
        both = both.sort(*self.by, FIRST, maintain_order=True)
        both = self._touching(both)
        parts = [rest, self._united(both)]
        return pl.concat([part.select(old.columns) for part in parts])

    def _touching(self, both: pl.DataFrame) -> pl.DataFrame:
        """Mark where sessions begin, in rows sorted by key and first time.

        Sessions of one side lie apart and in order, so the last of each side before a row reaches
        furthest.
        """
        import polars as pl

        group = pl.any_horizontal(*self._changed(), pl.int_range(pl.len()) == 0).cum_sum()
        both = both.with_columns(group.alias("\0g"))
        reaches = []
        for number in (0, 1):
            mine = pl.when(pl.col("\0side") == number)
            last, its = (mine.then(pl.col(c)).forward_fill().shift() for c in (LAST, "\0g"))
            reaches.append(pl.when(its == pl.col("\0g")).then(last))
        far = pl.col(FIRST) - pl.max_horizontal(reaches) >= self.window.size
        return both.with_columns(far.fill_null(value=True).alias("\0begins"))

    # -- what closes -------------------------------------------------------------------------

    def _advanced(
        self, found: pl.DataFrame | None, mark: int
    ) -> tuple[pl.DataFrame | None, Since | None]:
        """Add sessions to the open ones, and let go of those that end at or before a watermark."""
        import polars as pl

        if found is not None and not self.shares:
            self.shares = [_Share.of(found.clear())]
        news = self._divided(found) if found is not None else itertools.repeat(None)
        over = pl.lit(value=True)
        if mark != FOREVER:
            over = pl.col(LAST) + self.window.size <= mark
        gone = []
        for number, (share, new) in enumerate(zip(self.shares, news, strict=False)):
            comes = new if new is not None and new.height else None
            if comes is None and share.last > mark - self.window.size:
                continue
            sessions = share.frame() if comes is None else self._joined(share.frame(), comes)
            closed = sessions.filter(over)
            open_ = sessions.filter(~over) if closed.height else sessions
            self.shares[number] = _Share.of(open_, in_file=len(self.shares) > 1)
            if closed.height:
                gone.append(closed)
        self._split()
        return (pl.concat(gone), least(*map(_since_of, gone))) if gone else (None, None)

    def _divided(self, found: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """Yield what of sessions belongs to each share."""
        for part in shares_of(self.by, len(self.shares)):
            yield found if part is None else found.filter(part)

    def _split(self) -> None:
        """Divide the keys further where a share of them has become too large for memory."""
        before, count = self.shares, len(self.shares) * SPLIT
        large = any(share.size > LIMIT_BYTES for share in before)
        if not large or not self.divides or count > MANY_SHARES:
            return
        self.shares = [_Share.of(before[0].frame().clear())] * count
        for number, part in enumerate(shares_of(self.by, count)):
            assert part is not None
            mine = before[number % len(before)].frame().filter(part)
            self.shares[number] = _Share.of(mine, in_file=True)

    # -- results -----------------------------------------------------------------------------

    def _merged(self, closed: pl.DataFrame | None) -> pl.DataFrame:
        import polars as pl

        bounds = [pl.col(FIRST).alias(START), (pl.col(LAST) + self.window.size).alias(END)]
        if closed is None:
            return self.nothing
        if self.incremental:
            wanted = closed.select(*self.by, *bounds, pl.selectors.starts_with("\0p"))
            return self._named(self.how.finished(wanted))
        closed = closed.select(*self.by, *bounds)
        if self.sql:
            return self._by_sql(self._rows_of(closed))
        parts = shares_of(self.by, 1 + self.rows.files if self.divides else 1)
        return self._named(pl.concat([self._whole(closed, part) for part in parts]))

    def _whole(self, closed: pl.DataFrame, part: pl.Expr | None) -> pl.DataFrame:
        """Return the aggregates of the sessions of some keys, from their rows."""
        rows = self._rows_of(closed if part is None else closed.filter(part), part)
        grouped = rows.sort(ORDER).group_by(*self.by, START, END, maintain_order=True)
        return self.how.cast(grouped.agg(self.how.whole))  # type: ignore[no-any-return]

    def _nothing(self) -> pl.DataFrame:
        """Return the result of no sessions at all, which has its columns."""
        import polars as pl

        empty = self.template.clear().with_columns(
            pl.lit(0, pl.Int64).alias(START), pl.lit(0, pl.Int64).alias(END)
        )
        if self.sql:
            return self._by_sql(empty)
        grouped = empty.group_by(*self.by, START, END)
        return self._named(self.how.cast(grouped.agg(self.how.whole)))

    def _rows_of(self, sessions: pl.DataFrame, part: pl.Expr | None = None) -> pl.DataFrame:
        """Return the rows of sessions, told by `START` and `END`."""
        import polars as pl

        near = [self.template.clear()]
        if sessions.height:
            low, below = sessions.select(pl.col(START).min(), pl.col(END).max()).row(0)
            found = self.rows.between(low, below)
            near += [rows if part is None else rows.filter(part) for rows in found]
        return self._inside(pl.concat(near), sessions)

    def _inside(self, rows: pl.DataFrame, sessions: pl.DataFrame) -> pl.DataFrame:
        """Return those of rows that lie in one of some sessions, with its bounds."""
        import polars as pl

        marks = sessions.with_columns(pl.col(START).alias(TIME), pl.lit(0).alias("\0row"))
        both = pl.concat([marks, rows.with_columns(pl.lit(1).alias("\0row"))], how="diagonal")
        both = both.sort(TIME, "\0row", maintain_order=True)
        filled = [pl.col(c).forward_fill() for c in (START, END)]
        both = both.with_columns([f.over(self.by) for f in filled] if self.by else filled)
        inside = (pl.col("\0row") == 1) & (pl.col(TIME) < pl.col(END))
        return both.filter(inside).select(*rows.columns, START, END)

    def _of_open(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return the rows that are of open sessions."""
        import polars as pl

        bounds = [pl.col(FIRST).alias(START), (pl.col(LAST) + 1).alias(END)]
        kept = [
            self._inside(rows, share.frame().select(*self.by, *bounds)) for share in self.shares
        ]
        return pl.concat(kept).select(rows.columns).sort(ORDER, maintain_order=True)

    def peek(self, *rows: pl.DataFrame) -> pl.DataFrame:
        """Return the open sessions, with the rows that the step before would give."""
        other = copy.copy(self)
        other.shares, other.rows, other.on_late = list(self.shares), self.rows.copy(), None
        found = None
        if rows and rows[0].height:
            found = other._found(self._unsure(rows[0]))
        return self.placed(other._merged(other._advanced(found, FOREVER)[0]))

    def since(self) -> Since | None:
        """Return the earliest offsets that an open session rests on."""
        return least(*(share.since for share in self.shares))

    def report(self) -> list[str]:
        """Return what is open and what closes next."""
        count = sum(share.height for share in self.shares)
        if not count:
            return ["0 sessions open"]
        end = min(share.last for share in self.shares) + self.window.size
        files = sum(isinstance(share.sessions, Spilled) for share in self.shares)
        opened = (
            f"{count:,} session{'s' * (count != 1)} open{f' ({files} files on disk)' * bool(files)}"
        )
        held = "" if self.incremental else f", {self.rows.count():,} rows held{self.rows.where}"
        return [
            opened + held,
            f"the next one ends {format_instant(end)} if nothing comes, and closes {self._when(end)}",
        ]


def _since_of(frame: pl.DataFrame) -> Since | None:
    import polars as pl

    found = frame.select(pl.selectors.starts_with("\0since").min()).row(0)
    return tuple(FOREVER if value is None else int(value) for value in found)
