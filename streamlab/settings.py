"""The settings of a stream: what a user may choose, parsed and checked once.

`Settings` is what users write; what is stored is plain numbers (microseconds, bytes).
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import asdict, dataclass
from typing import Any

from streamlab.duration import Duration, format_duration, parse_duration

__all__ = ["Retention", "Settings", "format_size", "parse_retention", "parse_size", "parse_sync"]

SIZE_UNITS = {"B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
SIZE_UNITS |= {"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
COMPRESSIONS = (None, "lz4", "zstd")


@dataclass(frozen=True)
class Settings:
    """How a stream is kept; each has a default that is right for most.

    ``sync``: ``"always"`` (an append returns when its rows survive a power cut), an interval such
    as ``"100ms"``, or ``"os"``; None takes the lab's. ``segment_bytes``: when a file is full.
    ``compression``: None, ``"lz4"`` or ``"zstd"``. ``max_ahead``: how far ahead of its append time
    an event may be; None lifts it. ``compact_lag`` and ``delete_retention``: how long compaction
    leaves full history and tombstones alone.

    Raises:
        ValueError: a setting that is none of these.
    """

    sync: str | dt.timedelta | None = None
    segment_bytes: int | str = 64 << 20
    compression: str | None = None
    max_ahead: Duration | None = "1d"
    compact_lag: Duration = "0s"
    delete_retention: Duration = "1d"

    def __post_init__(self) -> None:
        if self.compression not in COMPRESSIONS:
            raise ValueError(f'compression {self.compression!r} is none of None, "lz4", "zstd"')
        if not 4096 <= parse_size(self.segment_bytes, what="segment_bytes") <= 4 << 30:
            raise ValueError(f"segment_bytes {self.segment_bytes!r} is not between 4 KiB and 4 GiB")
        if self.sync is not None:
            parse_sync(self.sync)
        if self.max_ahead is not None:
            parse_duration(self.max_ahead, what="max_ahead")
        parse_duration(self.compact_lag, what="compact_lag")
        parse_duration(self.delete_retention, what="delete_retention")

    def stored(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        content = asdict(self)
        content["segment_bytes"] = parse_size(self.segment_bytes)
        for name in ("sync", "max_ahead", "compact_lag", "delete_retention"):
            if isinstance(content[name], dt.timedelta):
                content[name] = format_duration(parse_duration(content[name]))
        return content


@dataclass(frozen=True)
class Retention:
    """How long rows are kept: by age in microseconds, by size in bytes, or both."""

    age: int | None = None
    size: int | None = None

    def __str__(self) -> str:
        parts = [format_duration(self.age)] if self.age is not None else []
        parts += [format_size(self.size)] if self.size is not None else []
        return ", ".join(parts) or "for ever"


def parse_sync(value: str | dt.timedelta) -> str | int:
    """Return ``"always"``, ``"os"`` or an interval in microseconds."""
    if value in ("always", "os"):
        return str(value)
    interval = parse_duration(value, what="sync")
    if not 1_000 <= interval <= 3_600_000_000:
        raise ValueError(f"sync {value!r} is not between 1ms and 1h")
    return interval


def parse_size(value: int | str, *, what: str = "size") -> int:
    """Return a number of bytes.

    >>> parse_size("10GB"), parse_size("64MiB")
    (10000000000, 67108864)
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError(f'{what} {value!r} is not a size: write "10GB" or a number of bytes')
    if isinstance(value, int):
        if value < 0:
            raise ValueError(f"{what} {value!r} is negative")
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)\s*", value)
    if not match or match[2].upper() not in SIZE_UNITS:
        raise ValueError(f'{what} {value!r} is not a size: write "500MB", "10GB" or "64MiB"')
    return int(float(match[1]) * SIZE_UNITS[match[2].upper()])


def format_size(size: int) -> str:
    """Return a number of bytes as people read it.

    >>> format_size(67_108_864)
    '67.1 MB'
    """
    number, unit = float(size), "B"
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 1000 or unit == "TB":
            break
        number /= 1000
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def parse_retention(value: Any) -> Retention:
    """Return a retention from ``"7d"``, ``"10GB"``, a timedelta, or a tuple of both kinds."""
    if value is None:
        return Retention()
    if isinstance(value, Retention):
        return value
    age = size = None
    for part in value if isinstance(value, tuple | list) else (value,):
        if isinstance(part, int) or (isinstance(part, str) and part.strip()[-1:] in "bB"):
            size = parse_size(part, what="retention")
        else:
            age = parse_duration(part, what="retention")
    return Retention(age, size)
