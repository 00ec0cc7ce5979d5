"""Views: which rows of a stream somebody looks at, fixed when the view is taken.

Each function takes a scan and gives a narrower one, with a sentence that says what it is. Time travel
is a bound on a scan, and the bounds are worked out here: as of an append time or an offset, between
event times, a range of offsets, and a frozen value that is opened again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
import pyarrow as pa

from streamlab.clock import FOREVER, NEVER
from streamlab.duration import Instant, format_instant, parse_instant
from streamlab.errors import HistoryChanged, InvalidTime, OffsetOutOfRange, StreamlabError
from streamlab.scan import Scan, Snapshot, offset_of

__all__ = [
    "View",
    "as_of",
    "between",
    "density",
    "find",
    "frozen",
    "offsets",
    "reading",
    "reopened",
    "unbroken",
]

FEW_SEGMENTS = 4
"""Of so few segments rows are looked at, to see how they are spread."""

View = tuple[Scan, str]
"""A bounded scan, and why nothing can be appended to it."""


def as_of(scan: Scan, when: int | Instant, timeout: float | None) -> View:
    """Return the rows that were there at an append time (inclusive), or below an offset.

    Raises:
        InvalidTime: an instant that is not yet past.
        OffsetOutOfRange: an offset beyond the end, or of rows that have been removed.
    """
    fixed = scan.freeze()
    stop = fixed.stop or 0
    offset = offset_of(when)
    if offset is not None:
        if not fixed.start <= offset <= stop:
            raise OffsetOutOfRange(
                f'there is no as-of {offset} in stream "{scan.info().name}", '
                f"which holds [{fixed.start}, {stop})",
                asked=offset,
                available=range(fixed.start, stop),
            )
        return fixed.narrowed(fixed.start, offset), f"it is a view as of offset {offset}"
    micros = parse_instant(when, what="as_of")
    _await_appends(scan, micros, timeout)
    fixed = scan.freeze()
    stop = fixed.fix().find(micros + 1, appended=True)
    return fixed.narrowed(fixed.start, stop), f"it is a view as of {format_instant(micros)}"


def _await_appends(scan: Scan, micros: int, timeout: float | None) -> None:
    """Wait until no append can still get an append time at or before this instant.

    Raises:
        InvalidTime: the instant is not past.
    """
    now = scan.log.clock.now()
    if micros >= now:
        raise InvalidTime(
            f"as_of {format_instant(micros)} is not past: it is {format_instant(now)}",
            hint="lab.as_of looks back; for now, read the stream itself",
        )
    if not scan.log.settled(micros, timeout):
        raise InvalidTime(
            f"an append that began before {format_instant(micros)} is still under way"
        )


def between(scan: Scan, start: Instant | None, stop: Instant | None) -> View:
    """Return the rows with event times in [start, stop), wherever they were appended.

    Raises:
        InvalidTime: a bound is no instant, or they are the wrong way round.
    """
    since = None if start is None else parse_instant(start, what="start")
    until = None if stop is None else parse_instant(stop, what="stop")
    if since is not None and until is not None and until < since:
        raise InvalidTime(f"between {start!r} and {stop!r} is the wrong way round")
    scan = scan.freeze()
    if scan.since is not None:
        since = scan.since if since is None else max(since, scan.since)
    if scan.until is not None:
        until = scan.until if until is None else min(until, scan.until)
    if since is not None:
        scan = scan.narrowed(scan.fix().find(since), scan.stop or 0)
    return replace(scan, since=since, until=until), "it is a view between two event times"


def offsets(scan: Scan, start: int, stop: int | None) -> View:
    """Return the rows with offsets in [start, stop).

    Raises:
        OffsetOutOfRange: some of them are not, or no longer, there.
    """
    fixed = scan.freeze()
    end = fixed.stop or 0
    bounds = offset_of(start), end if stop is None else offset_of(stop)
    if None in bounds:
        raise TypeError(f"offsets are whole numbers; got {start!r} and {stop!r}")
    start, stop = cast("tuple[int, int]", bounds)
    if not fixed.start <= start <= stop <= end:
        raise OffsetOutOfRange(
            f'stream "{scan.info().name}" holds [{fixed.start}, {end}), not all of [{start}, {stop})',
            asked=range(start, stop), available=range(fixed.start, end),
        )  # fmt: skip
    view = replace(fixed.narrowed(start, stop), asked=start)
    return view, f"it is a view of offsets [{start}, {stop})"


def unbroken(scan: Scan, doing: str) -> Scan:
    """Return a scan, fixed, as a range of offsets and nothing else.

    Raises:
        StreamlabError: rows that lie between its own are not of it.
    """
    scan = scan.freeze()
    snapshot = scan.fix()
    if snapshot.event_filter is None:
        return scan
    first, last, count = snapshot.start, snapshot.start - 1, 0
    for batch in snapshot.batches(["_offset"]):
        if batch.num_rows:
            offsets = batch.column("_offset")
            first, last = offsets[0].as_py() if not count else first, offsets[-1].as_py()
            count += batch.num_rows
    if last + 1 - first > count:
        others = last + 1 - first - count
        raise StreamlabError(
            f'{doing} takes a range of offsets, and between the rows of this view of "{snapshot.info.name}" '
            f"lie {others:,} of other times",
            hint=f"stream.offsets({first}, {last + 1}) has them all",
        )
    return replace(scan.narrowed(first, last + 1), since=None, until=None)


def reading(scan: Scan, compacted: str) -> View:
    """Return the same rows, and whether what compaction left of them is what is wanted."""
    if compacted not in ("refuse", "ok"):
        raise ValueError(f'compacted is "refuse" or "ok"; got {compacted!r}')
    ok = compacted == "ok"
    return replace(scan, compacted=ok), "it is a view" + (" of what compaction left" if ok else "")


def find(scan: Scan, time: Instant, clock: Literal["event", "append"]) -> int:
    """Return the first offset whose stream time (or append time) is at or after an instant.

    Raises:
        InvalidTime: it is no instant.
    """
    micros = parse_instant(time, what="time")
    if clock not in ("event", "append"):
        raise ValueError(f'clock is "event" or "append"; got {clock!r}')
    return scan.fix().find(micros, appended=clock == "append")


# -- frozen values -------------------------------------------------------------------------------


def density(scan: Scan, parts: int) -> tuple[int, int, list[int]]:
    """Return the first and last stream time, and about how many rows came in each equal part between.

    Known where segments end, which is written beside them, and within a few segments at a few
    places more: the cost does not grow with the history.
    """
    snapshot = scan.fix(pin=False)
    moment, reader, column = snapshot.moment, snapshot.log.reader, snapshot.info.time
    start, stop = max(snapshot.start, moment.compacted), snapshot.stop
    if start >= stop:
        return 0, 0, []
    segments = moment.segments(start, stop)
    known = {s.stop: s.after for s in segments[:-1] if start < s.stop < stop and s.after > NEVER}
    few = len(segments) <= FEW_SEGMENTS
    more = np.linspace(start + 1, stop, parts if few else 2).astype(np.int64)
    for offset in map(int, more):
        known[offset] = reader.times_at(moment, offset - 1, column)[0]
    offsets, times = np.array(sorted(known.items()), np.int64).T
    low, high = int(times[0]), int(times[-1])
    if low >= high or high >= FOREVER:
        return low, low, []
    ends = np.interp(np.linspace(low, high, parts + 1), times, offsets)
    ends[0], ends[-1] = start, stop
    return low, high, [int(rows) for rows in np.diff(np.round(ends))]


def frozen(scan: Scan) -> dict[str, Any]:
    """Return the place of a scan now, as plain JSON; it pins nothing."""
    snapshot = scan.fix(pin=False)
    return {
        "id": snapshot.info.id,
        "start": snapshot.start,
        "end": snapshot.stop,
        "schema": snapshot.info.schema_id,
        "rows": snapshot.count(),
        "append_time": _append_time_below(snapshot),
    }


def reopened(scan: Scan, name: str, value: Any) -> View:
    """Return the rows that a frozen value stands for.

    Raises:
        InvalidTime: it is no frozen value.
        HistoryChanged: the stream is another one now, or holds other rows.
        OffsetOutOfRange: some of the rows have been removed; says what is left.
    """
    place = _place(value)
    if place is None:
        raise InvalidTime(f'stream "{name}" is not frozen as lab.freeze() does it')
    start, end, schema_id = place
    if scan.info().id != value["id"]:
        raise HistoryChanged(f'stream "{name}" was dropped and made anew since it was frozen')
    scan = scan.freeze()
    snapshot = scan.fix()
    available = range(scan.start, scan.stop or 0)
    if start < scan.start and start < end:
        raise OffsetOutOfRange(
            f'rows [{start}, {min(end, scan.start)}) of the frozen stream "{name}" have been removed; '
            f"what is left begins at {scan.start}",
            asked=range(start, end), available=available,
        )  # fmt: skip
    part = replace(snapshot, start=start, stop=min(end, snapshot.stop))
    if (left := part.count()) < int(value.get("rows", end - start)) and end <= available.stop:
        raise OffsetOutOfRange(
            f'of the {value.get("rows", end - start)} rows of the frozen stream "{name}" compaction '
            f"has left {left}; it is compacted up to {snapshot.moment.compacted}",
            asked=range(start, end), available=range(snapshot.moment.compacted, available.stop),
        )  # fmt: skip
    if end > available.stop or _append_time_below(part) != value["append_time"]:
        raise HistoryChanged(
            f'stream "{name}" does not hold the rows that were frozen: they were lost, and others '
            f"came in their place; it ends at {available.stop}"
        )
    info = scan.info()
    then = replace(info, schemas=info.schemas[:schema_id])  # later rows may have other columns
    scan = scan.narrowed(max(start, scan.start), end)
    return replace(scan, info=lambda: then), "it is a frozen view"


def _place(value: Any) -> tuple[int, int, int] | None:
    """Return start, end and schema of a frozen stream, None if it is none."""
    if not isinstance(value, Mapping) or not {"id", "start", "end", "append_time"} <= set(value):
        return None
    start, end = offset_of(value["start"]), offset_of(value["end"])
    schema_id = offset_of(value.get("schema", 1 << 31))
    if start is None or end is None or not 0 <= start <= end or not schema_id or schema_id < 1:
        return None
    return start, end, schema_id


def _append_time_below(snapshot: Snapshot) -> int | None:
    """Return the append time of the last row there is, which tells histories apart."""
    part = replace(snapshot, since=None, until=None, compacted=True).end(1, last=True)
    times = part.reader(["_append_time"]).read_all().column(0).cast(pa.int64())
    return int(times[-1].as_py()) if len(times) else None
