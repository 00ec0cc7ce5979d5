"""What the command line shows and understands: tables, values, schemas written as text.

Invariants: nothing that comes from data reaches a terminal as a control character; numbers stand
right-aligned; a table is never wider than the terminal it is printed to.
"""

from __future__ import annotations

import datetime as dt
import decimal
import difflib
import os
import re
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import streamlab as sl

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Layout",
    "cells_of",
    "clean",
    "columns_of",
    "format_ago",
    "format_size",
    "format_span",
    "format_time",
    "parse_schema",
    "table",
]

FOREVER = 2**63 - 1
EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
NARROWEST = 6
LONGEST_CELL = 1_000


def clean(text: str) -> str:
    r"""Return text in one line, with whatever a terminal would obey shown as an escape.

    >>> clean("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def format_size(size: int) -> str:
    """Return a number of bytes as people read it."""
    number = float(size)
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def format_time(micros: int | None) -> str:
    """Return an instant in UTC, to the second if it is a whole one."""
    if micros is None:
        return "-"
    if micros >= FOREVER:
        return "ended"
    try:
        return (EPOCH + dt.timedelta(microseconds=micros)).isoformat(" ").replace("+00:00", "Z")
    except OverflowError:
        return f"{micros} us"


def format_span(start: str | None, stop: str | None) -> str:
    """Return two instants, ISO 8601, as one text; the day is said once.

    >>> format_span("2026-01-05T09:30:00Z", "2026-01-05T16:00:00Z")
    '2026-01-05 09:30:00 → 16:00:00'
    """
    if start is None or stop is None:
        return "-" if stop is None else _seconds(stop)
    first, last = _seconds(start), _seconds(stop)
    same_day = first[:10] == last[:10] and len(last) > 11
    return f"{first} → {last[11:] if same_day else last}"


def _seconds(iso: str) -> str:
    return iso.replace("T", " ").removesuffix("Z").partition(".")[0]


def format_ago(iso: str | None) -> str:
    """Return how long ago an instant was, in one unit."""
    if iso is None:
        return "-"
    seconds = (dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(iso)).total_seconds()
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"


# -- tables ------------------------------------------------------------------------------------


def width_of(text: str) -> int:
    """Return how many places text takes on a terminal."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) > 0 for c in text)


def fitted(text: str, width: int, *, right: bool) -> str:
    """Return text in exactly so many places."""
    if width_of(text) > width:
        while text and width_of(text) > width - 1:
            text = text[:-1]
        text += "…"
    space = " " * (width - width_of(text))
    return space + text if right else text + space


def terminal_width() -> int | None:
    """Return the width to keep to; None where nobody looks (a pipe, a file)."""
    if os.environ.get("COLUMNS", "").isdigit():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError, AttributeError):
        return None


class Layout:
    """The columns of a table: names, widths, and which of them are numbers."""

    def __init__(self, names: Sequence[str], right: Sequence[bool]) -> None:
        self.names = [clean(name) for name in names]
        self.right = list(right)
        self.widths = [width_of(name) for name in self.names]

    def make_room(self, rows: Iterable[Sequence[str]]) -> None:
        """Widen the columns for these rows, then narrow the widest till the terminal holds them."""
        for row in rows:
            self.widths = [max(w, width_of(cell)) for w, cell in zip(self.widths, row, strict=True)]
        limit = terminal_width()
        while limit and sum(self.widths) + 2 * (len(self.widths) - 1) > limit:
            widest = max(range(len(self.widths)), key=self._spare)
            if self.widths[widest] <= NARROWEST or self.right[widest]:
                return  # a number is whole or it is another one: the line is cut at its end
            self.widths[widest] -= 1

    def _spare(self, column: int) -> tuple[bool, int]:
        roomy = not self.right[column] and self.widths[column] > NARROWEST
        return roomy, self.widths[column]

    def line(self, cells: Sequence[str]) -> str:
        shown = [
            fitted(cell, width, right=right)
            for cell, width, right in zip(cells, self.widths, self.right, strict=True)
        ]
        text = "  ".join(shown).rstrip()
        limit = terminal_width()
        return (
            fitted(text, limit, right=False).rstrip() if limit and width_of(text) > limit else text
        )

    def header(self) -> list[str]:
        rule = "  ".join("─" * width for width in self.widths)
        limit = terminal_width()
        return [self.line(self.names), rule[:limit] if limit else rule]


def table(names: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Return the lines of a table."""
    layout = Layout(names, right)
    cells = [[clean(cell) for cell in row] for row in rows]
    layout.make_room(cells)
    return [*layout.header(), *(layout.line(row) for row in cells)]


def columns_of(schema: pa.Schema) -> Layout:
    """Return the layout of a table for rows of a schema."""
    return Layout(schema.names, [_is_number(field.type) for field in schema])


def _is_number(kind: pa.DataType) -> bool:
    test = pa.types
    return bool(test.is_integer(kind) or test.is_floating(kind) or test.is_decimal(kind))


def cells_of(batch: pa.RecordBatch) -> list[list[str]]:
    """Return the rows of a batch as text."""
    columns = []
    for column in batch.columns:
        kind = column.type
        if pa.types.is_timestamp(kind):
            zone = None if kind.tz is None else "UTC"
            text = column.cast(pa.timestamp(kind.unit, zone)).cast(pa.string()).to_pylist()
            columns.append(["" if t is None else re.sub(r"\.0+(?=Z?$)", "", t) for t in text])
        else:
            columns.append([_cell(value) for value in column.to_pylist()])
    return [list(row) for row in zip(*columns, strict=True)]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.10g}" if abs(value) < 1e15 else f"{value:g}"
    if isinstance(value, decimal.Decimal):
        return f"{value:,f}"
    if isinstance(value, bytes):
        return clean(f"0x{value[:32].hex()}" + ("…" if len(value) > 32 else ""))
    text = value if isinstance(value, str) else _plain(value)
    return clean(text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…")


def _plain(value: Any) -> str:
    """Return a value, also one inside another, as short text."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_plain(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_plain, value)) + "]"
    if isinstance(value, dt.datetime):
        return value.isoformat(" ").replace("+00:00", "Z")
    if value is None:
        return "null"
    return repr(value) if isinstance(value, str | bytes) else str(value)


# -- schemas as text ---------------------------------------------------------------------------

TYPES: dict[str, pa.DataType] = {
    "bool": pa.bool_(), "boolean": pa.bool_(),
    "int8": pa.int8(), "tinyint": pa.int8(), "int16": pa.int16(), "smallint": pa.int16(),
    "int32": pa.int32(), "int": pa.int64(), "integer": pa.int64(), "int64": pa.int64(),
    "bigint": pa.int64(), "long": pa.int64(),
    "uint8": pa.uint8(), "uint16": pa.uint16(), "uint32": pa.uint32(), "uint64": pa.uint64(),
    "float": pa.float32(), "float32": pa.float32(), "real": pa.float32(),
    "double": pa.float64(), "float64": pa.float64(),
    "string": pa.string(), "text": pa.string(), "varchar": pa.string(), "str": pa.string(),
    "large_string": pa.large_string(), "binary": pa.binary(), "bytes": pa.binary(),
    "blob": pa.binary(), "large_binary": pa.large_binary(), "date": pa.date32(),
    "date32[day]": pa.date32(), "date32": pa.date32(), "time": pa.time64("us"),
    "timestamp": pa.timestamp("us", "UTC"), "timestamptz": pa.timestamp("us", "UTC"),
    "datetime": pa.timestamp("us", "UTC"), "duration": pa.duration("us"), "interval": pa.duration("us"),
}  # fmt: skip
_TOKEN = re.compile(r"\s*([A-Za-z0-9_.$\-]+|\"[^\"]+\"|[<>()\[\],:=/]|\S)")
_COMMON = "string, int64, double, bool, timestamp, date, decimal(18, 4), list<T>, struct<name: T>, map<K, V>"


class SchemaText:
    """Reads ``"ts timestamp, symbol string not null, tags list<string>"``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = [match[1] for match in _TOKEN.finditer(text)]
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if wanted and token not in wanted:
            got = repr(token) if token else "the end"
            raise self.wrong(f"{' or '.join(map(repr, wanted))} is expected, not {got}")
        self.at += 1
        return token

    def wrong(self, why: str, hint: str | None = None) -> sl.SchemaMismatch:
        example = 'write "ts timestamp, symbol string, price double"'
        return sl.SchemaMismatch(f"the schema {self.text!r}: {why}", hint=hint or example)

    def schema(self) -> pa.Schema:
        """Read all of it.

        Raises:
            SchemaMismatch: it is no schema, or names a type that there is not.
        """
        fields = [self.field()]
        while self.peek():
            self.take(",")
            if self.peek():
                fields.append(self.field())
        return pa.schema(fields)

    def field(self) -> pa.Field:
        name = self.name()
        if self.peek() == ":":
            self.take()
        kind = self.type()
        required = self.peek().lower() == "not"
        if required:
            self.take()
            if self.take().lower() != "null":
                raise self.wrong("'not' is followed by 'null'")
        return pa.field(name, kind, nullable=not required)

    def name(self) -> str:
        token = self.take()
        if not re.fullmatch(r'[\w.$\-]+|"[^"]+"', token):
            raise self.wrong(
                f"a column's name is expected, not {token!r}" if token else "a column is missing"
            )
        return token.strip('"')

    def type(self) -> pa.DataType:
        word = self.take()
        kind = self.parametric(word.lower())
        while self.peek() == "[" and self.tokens[self.at + 1 : self.at + 2] == ["]"]:
            self.take()
            self.take("]")
            kind = pa.list_(kind)
        return kind

    def parametric(self, word: str) -> pa.DataType:
        opening = self.peek()
        if word in ("list", "array", "large_list") and opening == "<":
            item = self.inside(self.type)[0]
            return pa.large_list(item) if word == "large_list" else pa.list_(item)
        if word == "struct" and opening in ("<", "("):
            return pa.struct(self.inside(self.field))
        if word == "map" and opening in ("<", "("):
            pair = self.inside(self.type)
            if len(pair) == 2:
                return pa.map_(*pair)
        if word in ("decimal", "numeric", "decimal128", "varchar") and opening == "(":
            numbers = self.inside(self.take)
            if word == "varchar":
                return pa.string()
            if all(n.isdigit() for n in numbers) and len(numbers) <= 2:
                return self.decimal(*(int(n) for n in numbers))
        if opening == "[" and word in ("timestamp", "duration", "time32", "time64", "date32"):
            return self.with_unit(word)
        if word in TYPES:
            return TYPES[word]
        near = difflib.get_close_matches(word, TYPES, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise self.wrong(
            f"there is no type {word!r}" if word else "a type is missing",
            f"{hint}there are {_COMMON}",
        )

    def decimal(self, precision: int, scale: int = 0) -> pa.DataType:
        if not 1 <= precision <= 38 or not 0 <= scale <= precision:
            raise self.wrong(f"decimal({precision}, {scale}) has more than 38 digits, or none")
        return pa.decimal128(precision, scale)

    def with_unit(self, word: str) -> pa.DataType:
        self.take("[")
        unit = self.take("s", "ms", "us", "ns", "day", "]")
        if unit == "]":
            self.at -= 2
            return TYPES.get(word, pa.time64("us"))
        zone = "UTC" if word == "timestamp" else None
        if self.peek() == ",":
            self.take()
            parts = []
            while self.peek() not in ("]", ""):
                parts.append(self.take())
            zone = "".join(parts).removeprefix("tz=")
            zone = None if zone == "naive" else zone
        self.take("]")
        make = {"timestamp": lambda: pa.timestamp(unit, zone), "duration": lambda: pa.duration(unit),
                "time32": lambda: pa.time32(unit), "time64": lambda: pa.time64(unit)}  # fmt: skip
        try:
            return make.get(word, pa.date32)()
        except (ValueError, pa.ArrowException) as error:
            raise self.wrong(f"{word}[{unit}]: {error}") from None

    def inside(self, one: Any) -> list[Any]:
        closing = {"<": ">", "(": ")"}[self.take()]
        found = [one()]
        while self.peek() == ",":
            self.take()
            found.append(one())
        self.take(closing)
        return found


def parse_schema(text: str) -> pa.Schema:
    """Return the schema that a text such as ``"ts timestamp, price double not null"`` means.

    Types are called as in SQL or as in Arrow; an instant is one of UTC, in microseconds.

    Raises:
        SchemaMismatch: it is no schema, or names a type that there is not.
    """
    return SchemaText(text).schema()
