"""Windowed queries in plain Python, row at a time: what the engine is compared with.

A log is a list of entries in order: rows (dicts with an integer ``t``) and heartbeats (integers).
It imports nothing of the package, and is written from the rules alone.
"""

import math

FAR_PAST = -(2**63)
END = 2**63 - 1


def watermarks(log, delay):
    """Yield (row, W) for each row of a log: W is the stream time before it, less the delay."""
    s = FAR_PAST
    for entry in log:
        if isinstance(entry, dict):
            yield entry, less(s, delay)
            s = max(s, entry["t"])
        else:
            s = max(s, entry)


def final_watermark(log, delay):
    """Return the watermark at the end of a log."""
    s = FAR_PAST
    for entry in log:
        s = max(s, entry["t"] if isinstance(entry, dict) else entry)
    return less(s, delay)


def less(s, delay):
    if s in (FAR_PAST, END):
        return s
    return FAR_PAST if delay is None else s - delay


def windows_of(kind, size, every, offset, t):
    """Return the windows [a, b) that contain a time."""
    if kind == "tumbling":
        a = (t - offset) // size * size + offset
        return [(a, a + size)]
    if kind == "hopping":
        first = (t - offset) // every * every + offset
        found, a = [], first
        while a + size > t:
            found.append((a, a + size))
            a -= every
        return sorted(found)
    a = (t - offset) // size * size + offset
    return [(a, b) for b in range(a + every, a + size + 1, every) if b > t]


def key_of(row, by):
    return tuple(normal(row[name]) for name in by)


def normal(value):
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    return value


def sort_key(key):
    """Null first, NaN last, text by bytes."""
    parts = []
    for part in key:
        if part is None:
            parts.append((0, 0))
        elif part == "NaN":
            parts.append((2, 0))
        else:
            parts.append((1, part.encode() if isinstance(part, str) else part))
    return tuple(parts)


def fixed(log, kind, size, every, offset, by, delay):
    """Return (windows, late rows, how many partly late) of tumbling, hopping, cumulative windows.

    ``windows`` are (start, end, key, rows in order of offsets, whether it is final).
    """
    found, late, partly = {}, [], 0
    for row, w in watermarks(log, delay):
        mine = windows_of(kind, size, every, offset, row["t"])
        taken = [window for window in mine if window[1] > w]
        if not taken:
            late.append((row, w, w - max(b for _, b in mine)))
        elif len(taken) < len(mine):
            partly += 1
        for window in taken:
            found.setdefault((*window, key_of(row, by)), []).append(row)
    return ordered(found, final_watermark(log, delay)), late, partly


def sessions(log, gap, by, delay):
    """Return (windows, late rows, 0) of sessions."""
    late, rows = [], {}
    for row, w in watermarks(log, delay):
        if row["t"] < w:
            late.append((row, w, w - row["t"]))
        else:
            rows.setdefault(key_of(row, by), []).append(row)
    found = {}
    for key, mine in rows.items():
        group = []
        for row in sorted(mine, key=lambda r: r["t"]):
            if group and row["t"] - group[-1]["t"] >= gap:
                keep(found, group, gap, key)
                group = []
            group.append(row)
        keep(found, group, gap, key)
    return ordered(found, final_watermark(log, delay)), late, 0


def keep(found, group, gap, key):
    bounds = (group[0]["t"], group[-1]["t"] + gap)
    found[(*bounds, key)] = sorted(group, key=lambda r: r["offset"])


def ordered(found, mark):
    items = [(a, b, key, rows, b <= mark) for (a, b, key), rows in found.items()]
    return sorted(items, key=lambda item: (item[1], item[0], sort_key(item[2])))


def sliding(log, size, by, delay):
    """Return (row, rows in reach, final) for each row in order of time and offset, and late rows."""
    late, taken = [], []
    for row, w in watermarks(log, delay):
        if row["t"] < w:
            late.append((row, w, w - row["t"]))
        else:
            taken.append(row)
    mark = final_watermark(log, delay)
    results = []
    for row in sorted(taken, key=lambda r: (r["t"], r["offset"])):
        near = [
            other for other in taken
            if key_of(other, by) == key_of(row, by) and row["t"] - size < other["t"] <= row["t"]
        ]  # fmt: skip
        results.append((row, near, mark > row["t"]))
    return results, late


def aggregates(rows):
    """Return what the tests compute of a window's rows."""
    values = [row["x"] for row in rows if row["x"] is not None]
    numbers = [value for value in values if not math.isnan(value)]
    whole = [row["i"] for row in rows]
    mean = sum(whole) / len(whole)
    spread = sum((i - mean) ** 2 for i in whole)
    return {
        "n": len(rows),
        "count": len(values),
        "total": sum(whole),
        "mean": mean,
        "low": min(whole),
        "high": max(numbers) if numbers else (math.nan if values else None),
        "first": rows[0]["i"],
        "last": rows[-1]["i"],
        "var": spread / (len(whole) - 1) if len(whole) > 1 else None,
    }


def unique(rows, on, within):
    """Return the rows that go on: none kept of the same key is less than ``within`` away."""
    kept = []
    for row in rows:
        near = [
            other for other in kept
            if key_of(other, on) == key_of(row, on)
            and (within is None or abs(other["t"] - row["t"]) < within)
        ]  # fmt: skip
        if not near:
            kept.append(row)
    return kept


def asof(left, right, by, tolerance, delay):
    """Return (left row, right row or None, final) in order of left offsets, and late right rows."""
    late, taken = [], []
    for row, w in watermarks(right, delay):
        (late if row["t"] < w else taken).append(row)
    mark = final_watermark(right, delay)
    results = []
    for row in (entry for entry in left if isinstance(entry, dict)):
        fits = [
            other for other in taken
            if (not by or (key_of(other, by) == key_of(row, by) and None not in key_of(row, by)))
            and other["t"] <= row["t"]
            and (tolerance is None or row["t"] - other["t"] <= tolerance)
        ]  # fmt: skip
        best = max(fits, key=lambda r: (r["t"], r["offset"]), default=None)
        results.append((row, best, row["t"] < mark or mark == END))
    return results, late


def interval(left, right, on, low, high, delays):
    """Return the pairs of rows that are not late on their own side, by their offsets."""
    sides = []
    for log, delay in zip((left, right), delays, strict=True):
        sides.append([row for row, w in watermarks(log, delay) if row["t"] >= w])
    return [
        (a, b) for a in sides[0] for b in sides[1]
        if key_of(a, on) == key_of(b, on) and None not in key_of(a, on)
        and low <= b["t"] - a["t"] <= high
    ]  # fmt: skip
