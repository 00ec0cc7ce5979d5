"""Lengths of time and instants, as people write them.

A duration is held as whole microseconds. Accepted are `datetime.timedelta` (pandas and NumPy have
subclasses or ``.item()``), compound strings such as ``"1h30m"``, and ISO 8601 (``"PT5M"``).
Bare integers, ``"M"`` and calendar units are refused: each has two readings.

An instant is held as microseconds since 1970-01-01T00:00Z; a naive one means UTC.
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Any

from streamlab.clock import FOREVER
from streamlab.errors import InvalidDuration, InvalidTime

__all__ = [
    "Duration",
    "Instant",
    "format_duration",
    "format_instant",
    "parse_delay",
    "parse_duration",
    "parse_instant",
]

Duration = dt.timedelta | str
"""What a user may give for a length of time."""

Instant = dt.datetime | dt.date | str
"""What a user may give for an instant."""

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

LONGEST_US = 36_500_000 * 86_400_000_000  # 100,000 years: sums of times and lengths fit 64 bits

UNITS_US = {
    "us": 1,
    "µs": 1,
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_PART = re.compile(r"(\d+(?:\.\d+)?)([a-zµ]+)")
_ISO = re.compile(
    r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+(?:\.\d+)?)S)?)?", re.ASCII
)
WORDS = {
    "ms": ("msec", "msecs", "millis", "millisecond", "milliseconds"),
    "s": ("sec", "secs", "second", "seconds"),
    "m": ("min", "mins", "minute", "minutes"),
    "h": ("hr", "hrs", "hour", "hours"),
    "d": ("day", "days"),
}
_WRITE = 'write "500ms", "5s", "1m" (minute), "1h30m", "1d" or a datetime.timedelta'


def parse_duration(value: Any, *, what: str = "duration") -> int:
    """Return a length of time in microseconds.

    >>> parse_duration("1h30m"), parse_duration("PT5M"), parse_duration(dt.timedelta(seconds=1))
    (5400000000, 300000000, 1000000)

    Raises:
        InvalidDuration: it is none, or one with two readings; the message says what to write.
    """
    if hasattr(value, "item") and not isinstance(value, dt.timedelta):  # numpy.timedelta64
        value = value.item()
    micros: float
    if isinstance(value, dt.timedelta):
        micros = value // dt.timedelta(microseconds=1)
    elif isinstance(value, str):
        micros = _parse_text(value, what)
    else:
        kind = type(value).__name__
        raise InvalidDuration(
            f"{what} {value!r} is a bare {kind}: its unit is unknown", hint=_WRITE
        )
    if micros < 0:
        raise InvalidDuration(f"{what} {value!r} is negative", hint=_WRITE)
    if micros > LONGEST_US:
        hint = 'delay="inf" waits for ever' if what == "delay" else _WRITE
        raise InvalidDuration(f"{what} {value!r} is more than 100,000 years", hint=hint)
    return round(micros)


def parse_delay(value: Any) -> int:
    """Return a delay in microseconds; ``"inf"`` waits for ever.

    Raises:
        InvalidDuration: it is none.
    """
    return FOREVER if value == "inf" else parse_duration(value, what="delay")


def _parse_text(text: str, what: str) -> float:
    stripped = text.strip()
    iso = _ISO.fullmatch(stripped)
    if iso and any(iso.groups()):
        weeks, days, hours, minutes, seconds = (float(group or 0) for group in iso.groups())
        total = ((weeks * 7 + days) * 24 + hours) * 3600 + minutes * 60 + seconds
        return total * 1_000_000
    position, micros = 0, 0.0
    while part := _PART.match(stripped, position):
        number, unit = part.groups()
        if unit not in UNITS_US:
            raise InvalidDuration(f"{what} {text!r} has the unit {unit!r}", hint=_hint(unit))
        micros += float(number) * UNITS_US[unit]
        position = part.end()
    if not stripped or position != len(stripped):
        unit = stripped[position:].lstrip("0123456789.")
        raise InvalidDuration(f"{what} {text!r} is not a length of time", hint=_hint(unit))
    return micros


def _hint(unit: str) -> str:
    if unit in {"infinity", "Infinity", "Inf", "INF", "inf"}:
        return 'write delay="inf" to wait for ever'
    if unit.startswith("-"):
        return "a length of time is positive; within=(low, high) of a join takes negative ones"
    if unit in {"M", "mo", "q", "y", "month", "months", "year", "years", "Y"}:
        return f'{unit!r} is a calendar unit, or a minute spelt wrongly: write "1m" for a minute, "30d" for days'
    for short, words in WORDS.items():
        if unit.strip().lower() in words:
            return f'write "{short}" for {words[-1]}: "1{short}"'
    return _WRITE


def format_duration(micros: int) -> str:
    """Return a length of time as people write it.

    >>> format_duration(5_400_000_000)
    '1h30m'
    """
    if micros == 0:
        return "0s"
    if micros == FOREVER:
        return "inf"
    parts = []
    for unit in ("d", "h", "m", "s", "ms", "us"):
        count, micros = divmod(micros, UNITS_US[unit])
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_instant(value: Any, *, what: str = "time") -> int:
    """Return an instant in microseconds since 1970, UTC; a naive one means UTC.

    >>> parse_instant("1970-01-01T00:00:01Z"), parse_instant(dt.date(1970, 1, 2))
    (1000000, 86400000000)

    Raises:
        InvalidTime: it is not an instant.
    """
    if type(value).__name__ == "NaTType":
        raise InvalidTime(f"{what} is NaT, which is no instant")
    if isinstance(value, str):
        try:
            value = dt.datetime.fromisoformat(value.strip())
        except ValueError:
            hint = 'write an ISO 8601 instant, such as "2026-01-05T09:30:00Z"'
            raise InvalidTime(f"{what} {value!r} is not an instant", hint=hint) from None
    if hasattr(value, "to_pydatetime"):  # pandas.Timestamp: a datetime with nanoseconds
        value = value.floor("us").to_pydatetime()
    if isinstance(value, dt.datetime):
        aware = value if value.tzinfo else value.replace(tzinfo=dt.UTC)
        return (aware - EPOCH) // dt.timedelta(microseconds=1)
    if isinstance(value, dt.date):
        return (value - EPOCH.date()).days * UNITS_US["d"]
    hint = "give a datetime, a date or an ISO 8601 string"
    raise InvalidTime(f"{what} {value!r} is not an instant", hint=hint)


def format_instant(micros: int | None) -> str:
    """Return an instant as ISO 8601 in UTC, or a dash for none.

    >>> format_instant(1_000_000)
    '1970-01-01T00:00:01Z'
    """
    if micros is None:
        return "-"
    try:
        text = (EPOCH + dt.timedelta(microseconds=micros)).isoformat()
    except OverflowError:
        return f"{micros} us"
    return text.replace("+00:00", "Z")
