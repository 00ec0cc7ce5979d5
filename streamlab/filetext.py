"""Rows as text: how CSV and JSON are parsed into types, and how rows become lines of JSON.

A type is parsed in full or the row is refused: no number is rounded, no instant cut. Instants are
ISO 8601, a naive one means UTC. JSON has no instants, decimals, durations or bytes: those are
strings there (ISO 8601, digits, ISO 8601, base64), and what is written so is read back the same.
NaN and the infinities, which JSON has not, are written as null.
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import difflib
import io
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from streamlab.duration import parse_duration
from streamlab.schema import SYSTEM_FIELDS, describe_type

__all__ = ["ParseError", "instants_as_text", "json_lines", "read_csv", "read_json"]

Rows = tuple[pa.Schema, Iterator[pa.RecordBatch]]
Opener = Callable[[], Any]

LOOK_BYTES = 32 << 20
"""So much of a file is looked at to tell the types of its columns."""

READ_BYTES = 4 << 20
"""And so much is parsed at a time once they are known."""

NULLS = ["", "NULL", "null"]
"""What stands for no value in CSV, unquoted."""

INSTANT = r"^\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d([.]\d{1,9})?)?(Z|[+-]\d\d:?\d\d)?$"
UTC_MICROS = pa.timestamp("us", "UTC")
GUESSED = (
    "the types are told by the first 32 MB: make the stream with its types first "
    '(streamlab new LAB STREAM --schema "..."), then append parses the text into them'
)


class ParseError(ValueError):
    """A text that is no value of its type: which column, what it has, what was wanted."""

    def __init__(
        self, message: str, *, column: str | None = None, got: Any = None, want: Any = None,
        hint: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.column, self.got, self.want, self.hint = column, got, want, hint


# -- CSV ---------------------------------------------------------------------------------------


def read_csv(open_: Opener, delimiter: str, schema: pa.Schema | None) -> Rows:
    """Return the columns and rows of a CSV file, parsed into the types of ``schema`` by name.

    Without one the types are what fits the first 32 MB; the file is opened twice then.

    Raises:
        ParseError: a text that is no value of its type, or a type that CSV has not.
    """
    guessed = schema is None
    wanted = _guess_csv(open_, delimiter) if schema is None else _with_system(schema)
    for field in wanted:
        if types.is_nested(field.type) or "binary" in str(field.type):
            why = f'column "{field.name}" is {describe_type(field.type)}, and CSV has none'
            raise ParseError(why, column=field.name, hint="give JSON lines, Parquet or Arrow")
    direct = {f.name: pa.string() if types.is_timestamp(f.type) else f.type for f in wanted}
    try:
        reader = _open_csv(open_(), delimiter, direct, READ_BYTES)
    except pa.ArrowInvalid as error:  # the first rows are parsed already
        if "conversion error" not in str(error):
            raise
        raise ParseError(_csv_reason(error, _names_of(open_, delimiter))) from None
    fields = [wanted.field(f.name) if f.name in wanted.names else f for f in reader.schema]
    target = pa.schema([pa.field(f.name, f.type) for f in fields])
    return target, _csv_rows(reader, target, guessed=guessed)


def _with_system(schema: pa.Schema) -> pa.Schema:
    """Return a schema that knows the system columns too, so that what was exported can be read."""
    return pa.schema([*schema, *(f for n, f in SYSTEM_FIELDS.items() if n not in schema.names)])


def _open_csv(
    file: Any, delimiter: str, column_types: dict[str, pa.DataType] | None, size: int = LOOK_BYTES
) -> Any:
    from pyarrow import csv

    return csv.open_csv(
        file,
        read_options=csv.ReadOptions(block_size=size),
        parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=column_types, null_values=NULLS, strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )  # fmt: skip


def _guess_csv(open_: Opener, delimiter: str) -> pa.Schema:
    reader = _open_csv(open_(), delimiter, {n: _read_as(f.type) for n, f in SYSTEM_FIELDS.items()})
    first = next(iter(reader), None)
    fields = []
    for place, field in enumerate(reader.schema):
        kind = field.type
        if field.name in SYSTEM_FIELDS:
            kind = SYSTEM_FIELDS[field.name].type
        elif types.is_binary(kind):
            raise ParseError(f'column "{field.name}" is not UTF-8 text', column=field.name)
        elif types.is_timestamp(kind):
            kind = UTC_MICROS
            if first is not None and not _whole_micros(first.column(place)):
                kind = pa.timestamp("ns", "UTC")
        elif types.is_time(kind):
            kind = pa.time64("us")
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def _read_as(kind: pa.DataType) -> pa.DataType:
    return pa.string() if types.is_timestamp(kind) else kind


def _whole_micros(column: pa.Array) -> bool:
    try:
        column.cast(pa.timestamp("us", column.type.tz))
    except pa.ArrowInvalid:
        return False
    return True


def _csv_rows(reader: Any, target: pa.Schema, *, guessed: bool) -> Iterator[pa.RecordBatch]:
    row = 0
    while True:
        try:
            batch = reader.read_next_batch()
        except StopIteration:
            return
        except pa.ArrowInvalid as error:
            raise ParseError(
                _csv_reason(error, target.names), hint=GUESSED if guessed else None
            ) from None
        arrays = [
            parse_instants(column, field.type, field.name, row)
            if types.is_timestamp(field.type)
            else column
            for column, field in zip(batch.columns, target, strict=True)
        ]
        row += batch.num_rows
        yield pa.RecordBatch.from_arrays(arrays, schema=target)


def _names_of(open_: Opener, delimiter: str) -> list[str]:
    try:
        names: list[str] = _open_csv(open_(), delimiter, None).schema.names
    except pa.ArrowInvalid:  # standard input is read once
        return []
    return names


def _csv_reason(error: Exception, names: list[str]) -> str:
    """Say by name which column Arrow means by its number."""
    text = str(error)
    pattern = r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to (.*?): (.*)"
    match = re.match(pattern, text, re.DOTALL)
    if not match:
        return text
    place = int(match[1])
    name = f'"{names[place]}"' if place < len(names) else f"{place + 1}"
    where = f" in line {match[2]}" if match[2] else ""
    return f"column {name}{where}: {match[4]}, want {match[3]}"


def parse_instants(texts: pa.Array, kind: pa.DataType, column: str, row: int = 0) -> pa.Array:
    """Return ISO 8601 texts as instants; a date alone is its midnight, a naive one means UTC.

    Raises:
        ParseError: one is no instant, or is finer than the type.
    """
    given, texts = texts, pc.utf8_trim_whitespace(texts)
    texts = pc.if_else(pc.equal(texts, ""), pa.scalar(None, texts.type), texts)
    alone = pc.equal(pc.utf8_length(texts), 10)
    texts = pc.if_else(alone, pc.binary_join_element_wise(texts, "T00:00", ""), texts)
    naive = pc.invert(pc.match_substring_regex(texts, r"([Zz]|[+-]\d\d:?\d\d)$"))
    texts = pc.if_else(naive, pc.binary_join_element_wise(texts, "Z", ""), texts)
    utc = pa.timestamp(kind.unit, "UTC")
    try:
        return texts.cast(utc).cast(kind)
    except pa.ArrowInvalid:
        for place, text in enumerate(texts):
            try:
                text.cast(utc)
            except pa.ArrowInvalid:
                shown = repr(given[place].as_py())
                raise ParseError(
                    f'column "{column}", row {row + place}: {shown} is no {describe_type(kind)}',
                    column=column, got=given[place].as_py(), want=kind,
                    hint='write an ISO 8601 instant, such as "2026-01-05T09:30:00Z"',
                ) from None  # fmt: skip
        raise


# -- JSON in -----------------------------------------------------------------------------------


def read_json(open_: Opener, schema: pa.Schema | None) -> Rows:
    """Return the columns and rows of JSON lines, or of one JSON array of objects.

    With ``schema`` each value is parsed into its column's type, a missing one is null, and a name
    that no column has is refused. Without, the types are what fits the first 32 MB.

    Raises:
        ParseError: a line is no object, or a value is none of its column's type.
    """
    if schema is not None:
        target = pa.schema([pa.field(f.name, f.type) for f in schema])
        return target, _json_rows(_objects(open_()), target)
    if _is_array(open_()):
        whole = json.loads(open_().read())
        lines = "\n".join(json.dumps(row) for row in whole).encode()
        return read_json(lambda: io.BytesIO(lines), None)
    target = _guess_json(open_)
    return target, _guessed_rows(open_, target)


def _is_array(file: Any) -> bool:
    start = b" "
    while start and start.isspace():
        start = file.read(1)
    return bool(start == b"[")


def _objects(file: Any) -> Iterator[tuple[str, Any]]:
    """Yield each object with where it stands."""
    decoder = json.JSONDecoder(parse_float=decimal.Decimal)
    lines = io.BufferedReader(file) if isinstance(file, io.RawIOBase) else file
    if isinstance(lines, pa.NativeFile):
        lines = io.BufferedReader(file, 1 << 20)
    for number, line in enumerate(lines, 1):
        text = line.decode().strip() if isinstance(line, bytes) else line.strip()
        if number == 1 and text.startswith("["):
            rest = b"".join(lines).decode()
            whole = json.loads(text + "\n" + rest, parse_float=decimal.Decimal)
            for place, value in enumerate(whole):
                yield f"object {place}", value
            return
        if text:
            yield f"line {number}", _decoded(decoder, text, number)


def _decoded(decoder: json.JSONDecoder, text: str, number: int) -> Any:
    try:
        return decoder.decode(text)
    except ValueError as error:
        raise ParseError(
            f"line {number} is not JSON: {error}",
            got=text[:80],
            hint="one JSON object on each line",
        ) from None


def _json_rows(objects: Iterator[tuple[str, Any]], target: pa.Schema) -> Iterator[pa.RecordBatch]:
    parse = row_parser(target)
    places: list[str] = []
    rows: list[list[Any]] = []
    for place, value in objects:
        try:
            rows.append(parse(value))
        except ParseError as error:
            raise ParseError(
                f"{place}: {error}", column=error.column, got=value, hint=error.hint
            ) from None
        places.append(place)
        if len(rows) == 1 << 14:
            yield _json_batch(rows, places, target)
            places, rows = [], []
    if rows:
        yield _json_batch(rows, places, target)


def _json_batch(rows: list[list[Any]], places: list[str], target: pa.Schema) -> pa.RecordBatch:
    columns = list(zip(*rows, strict=True))
    arrays = []
    for values, field in zip(columns, target, strict=True):
        try:
            arrays.append(pa.array(values, field.type))
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            place = _first_bad(values, field.type)
            where = places[place] if place is not None else places[0]
            got = values[place] if place is not None else values
            raise ParseError(
                f'{where}: column "{field.name}": {got!r:.60} is no {describe_type(field.type)}',
                column=field.name, got=got, want=field.type,
            ) from None  # fmt: skip
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def _first_bad(values: Any, kind: pa.DataType) -> int | None:
    for place, value in enumerate(values):
        try:
            pa.array([value], kind)
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return place
    return None


def row_parser(target: pa.Schema) -> Callable[[Any], list[Any]]:
    """Return a function from a JSON object to the values of its columns, in their order."""
    parsers = [(f.name, f.type, value_parser(f.type)) for f in target]
    known = {*target.names, *SYSTEM_FIELDS}

    def parse(row: Any) -> list[Any]:
        if not isinstance(row, dict):
            raise ParseError(f"{row!r:.60} is not an object", hint="one JSON object on each line")
        if not known.issuperset(row):
            name = next(name for name in row if name not in known)
            near = difflib.get_close_matches(name, target.names, 1)
            hint = (
                f"did you mean {near[0]!r}?"
                if near
                else f"the columns are {', '.join(target.names)}"
            )
            raise ParseError(f"there is no column {name!r}", column=name, hint=hint)
        values = []
        for name, kind, parser in parsers:
            value = row.get(name)
            try:
                values.append(None if value is None else parser(value))
            except (ValueError, TypeError, ArithmeticError, pa.ArrowException):
                shown = json.dumps(value, default=str)[:60]
                raise ParseError(
                    f'column "{name}": {shown} is no {describe_type(kind)}',
                    column=name,
                    got=value,
                    want=kind,
                ) from None
        return values

    return parse


def value_parser(kind: pa.DataType) -> Callable[[Any], Any]:
    """Return a function from a JSON value to a Python value of a type; it raises ValueError."""
    if types.is_nested(kind):
        return _nested_parser(kind)
    if types.is_timestamp(kind):
        return _instant_parser(kind)
    simple: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], Any]], ...] = (
        (types.is_boolean, _boolean),
        (types.is_integer, _integer),
        (types.is_floating, _double),
        (types.is_decimal, _decimal),
        (types.is_date, lambda v: dt.date.fromisoformat(_text(v))),
        (types.is_time, lambda v: _time(_text(v), kind)),
        (types.is_duration, lambda v: _duration(_text(v), kind)),
        (lambda t: "binary" in str(t), lambda v: base64.b64decode(_text(v), validate=True)),
    )
    return next((parser for fits, parser in simple if fits(kind)), _text)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _boolean(value: Any) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise TypeError
    return value


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str | decimal.Decimal):
        raise TypeError
    number = int(value)
    if not isinstance(value, str) and number != value:
        raise ValueError
    return number


def _double(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str | decimal.Decimal):
        raise TypeError
    number = float(value)
    if isinstance(value, int) and int(number) != value:
        raise ValueError
    return number


def _decimal(value: Any) -> decimal.Decimal:
    if isinstance(value, bool) or not isinstance(value, int | str | decimal.Decimal):
        raise TypeError
    return decimal.Decimal(value)


def _instant_parser(kind: pa.DataType) -> Callable[[Any], Any]:
    zone = None if kind.tz is None else dt.UTC

    def parse(value: Any) -> Any:
        text = _text(value)
        if kind.unit != "us" or len(text.partition(".")[2]) > len("123456+00:00"):
            return parse_instants(pa.array([text]), kind, "")[0]
        if re.search(r"\.\d{7}", text):
            raise ValueError  # finer than the type
        time = dt.datetime.fromisoformat(text)
        aware = time if time.tzinfo else time.replace(tzinfo=dt.UTC)
        return aware.astimezone(dt.UTC).replace(tzinfo=zone)

    return parse


_TIME = re.compile(r"(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?", re.ASCII)


def _time(text: str, kind: pa.DataType) -> pa.Scalar:
    match = _TIME.fullmatch(text)
    if not match or int(match[1]) > 23 or int(match[2]) > 59 or int(match[3] or 0) > 59:
        raise ValueError
    seconds = (int(match[1]) * 60 + int(match[2])) * 60 + int(match[3] or 0)
    count = seconds * 10**9 + int((match[4] or "0").ljust(9, "0"))
    return pa.scalar(count, pa.int64()).cast(pa.time64("ns")).cast(kind)


_ISO_DURATION = re.compile(r"(-?)PT(\d+)(?:\.(\d{1,9}))?S", re.ASCII)


def _duration(text: str, kind: pa.DataType) -> pa.Scalar:
    match = _ISO_DURATION.fullmatch(text)
    if match:
        count = int(match[2]) * 10**9 + int((match[3] or "0").ljust(9, "0"))
        count = -count if match[1] else count
    else:
        count = parse_duration(text) * 1_000
    return pa.scalar(count, pa.int64()).cast(pa.duration("ns")).cast(kind)


def _nested_parser(kind: pa.DataType) -> Callable[[Any], Any]:
    if types.is_struct(kind):
        fields = {f.name: value_parser(f.type) for f in kind}

        def parse_struct(value: Any) -> Any:
            if not isinstance(value, dict) or not fields.keys() >= value.keys():
                raise TypeError
            return {n: None if value.get(n) is None else p(value[n]) for n, p in fields.items()}

        return parse_struct
    if types.is_map(kind):
        key, item = value_parser(kind.key_type), value_parser(kind.item_type)

        def parse_map(value: Any) -> Any:
            pairs = (
                value.items()
                if isinstance(value, dict)
                else ((v["key"], v["value"]) for v in value)
            )
            return [(key(k), None if v is None else item(v)) for k, v in pairs]

        return parse_map
    element = value_parser(kind.value_type)

    def parse_list(value: Any) -> Any:
        if not isinstance(value, list):
            raise TypeError
        return [None if v is None else element(v) for v in value]

    return parse_list


def _open_json(file: Any, explicit: pa.Schema | None) -> Any:
    from pyarrow import json as arrow_json

    behaviour = "infer" if explicit is None else "error"
    return arrow_json.open_json(
        file,
        read_options=arrow_json.ReadOptions(
            block_size=LOOK_BYTES if explicit is None else READ_BYTES
        ),
        parse_options=arrow_json.ParseOptions(
            explicit_schema=explicit, newlines_in_values=True, unexpected_field_behavior=behaviour
        ),
    )


def _guess_json(open_: Opener) -> pa.Schema:
    reader = _open_json(open_(), None)
    first = next(iter(reader), None)
    fields = []
    for place, field in enumerate(reader.schema):
        kind = _without_instants(field.type)
        if field.name in SYSTEM_FIELDS:
            kind = SYSTEM_FIELDS[field.name].type
        elif types.is_timestamp(field.type):
            kind = UTC_MICROS
        elif types.is_string(kind) and first is not None and _are_instants(first.column(place)):
            fine = pc.any(pc.match_substring_regex(first.column(place), r"\.\d{7}")).as_py()
            kind = pa.timestamp("ns" if fine else "us", "UTC")
        fields.append(pa.field(field.name, kind))
    return pa.schema(fields)


def _are_instants(texts: pa.Array) -> bool:
    fits = pc.match_substring_regex(texts, INSTANT).drop_null()
    return bool(len(fits) and pc.all(fits).as_py())


def _without_instants(kind: pa.DataType) -> pa.DataType:
    """Return a type in which instants are text, as JSON has them."""
    if types.is_timestamp(kind):
        return pa.string()
    if types.is_list(kind):
        return pa.list_(_without_instants(kind.value_type))
    if types.is_struct(kind):
        return pa.struct([(f.name, _without_instants(f.type)) for f in kind])
    return kind


def _guessed_rows(open_: Opener, target: pa.Schema) -> Iterator[pa.RecordBatch]:
    explicit = pa.schema([pa.field(f.name, _read_as(f.type)) for f in target])
    row = 0
    try:
        for batch in _open_json(open_(), explicit):
            arrays = [
                parse_instants(c, f.type, f.name, row) if types.is_timestamp(f.type) else c
                for c, f in zip(batch.columns, target, strict=True)
            ]
            row += batch.num_rows
            yield pa.RecordBatch.from_arrays(arrays, schema=target)
    except pa.ArrowInvalid as error:
        raise ParseError(str(error), hint=GUESSED) from None


# -- JSON out ----------------------------------------------------------------------------------

_CONTROLS = {code: f"\\u{code:04x}" for code in [*range(0x7F, 0xA0), 0x2028, 0x2029]}
"""JSON itself escapes what is below a space; these would reach a terminal as they are."""


_SPECIAL = r'["\\\x00-\x1f\x7f-\x{9f}\x{2028}\x{2029}]'
_ENCODE = json.JSONEncoder(ensure_ascii=False, check_circular=False).encode


def json_lines(batch: pa.RecordBatch) -> bytes:
    """Return a batch as lines of JSON, one object for each row."""
    pieces: list[Any] = []
    for place, (name, column) in enumerate(zip(batch.schema.names, batch.columns, strict=True)):
        pieces += [f"{', ' if place else '{'}{_encoded(name)}: ", _json_texts(column)]
    if not batch.num_rows:
        return b""
    lines = pc.binary_join_element_wise(*pieces, "}\n", "")
    offsets, text = lines.buffers()[1:]  # one after the other, as they are wanted
    start, stop = np.frombuffer(offsets, np.int32)[[lines.offset, lines.offset + len(lines)]]
    return bytes(memoryview(text)[start:stop])


def _encoded(value: Any) -> str:
    return _ENCODE(value).translate(_CONTROLS)


def _json_texts(array: pa.Array) -> pa.Array:
    """Return the values of an array as JSON, a column at a time where that can be done."""
    kind = array.type
    special = types.is_string(kind) or types.is_large_string(kind)
    if types.is_floating(kind):
        array = pc.if_else(pc.is_finite(array), array, pa.scalar(None, kind)).cast(pa.string())
        whole = pc.match_substring_regex(array, r"^-?\d+$")  # a number that reads as a float again
        texts = pc.if_else(whole, pc.binary_join_element_wise(array, ".0", ""), array)
    elif types.is_integer(kind) or types.is_boolean(kind):
        texts = array.cast(pa.string())
    elif types.is_timestamp(kind):
        texts = _quoted(instants_as_text(array, "T"))
    elif (
        types.is_date(kind)
        or types.is_time(kind)
        or types.is_decimal(kind)
        or (special and not pc.any(pc.match_substring_regex(array, _SPECIAL)).as_py())
    ):
        texts = _quoted(array.cast(pa.string()))
    else:
        return pa.array(map(_encoded, _json_values(array)), pa.string())
    return texts.fill_null("null")


def _quoted(texts: pa.Array) -> pa.Array:
    return pc.binary_join_element_wise('"', texts, '"', "")


def _json_values(array: pa.Array) -> list[Any]:
    """Return the values of an array as what JSON has."""
    kind = array.type
    if types.is_floating(kind):
        array = pc.if_else(pc.is_finite(array), array, pa.scalar(None, kind))
    elif types.is_timestamp(kind):
        array = instants_as_text(array, "T")
    elif types.is_date(kind) or types.is_time(kind) or types.is_decimal(kind):
        array = array.cast(pa.string())
    elif types.is_duration(kind):
        return [
            None if n is None else _iso_duration(n, kind.unit)
            for n in array.cast(pa.int64()).to_pylist()
        ]
    elif "binary" in str(kind) and not types.is_nested(kind):
        return [None if v is None else base64.b64encode(v).decode() for v in array.to_pylist()]
    elif types.is_struct(kind):
        return _json_structs(array)
    elif types.is_map(kind):
        return _json_maps(array)
    elif types.is_nested(kind):
        items = _json_values(array.flatten())
        return _cut(items, pc.list_value_length(array).to_pylist())
    values: list[Any] = array.to_pylist()
    return values


def instants_as_text(array: pa.Array, between: str = " ") -> pa.Array:
    """Return instants as ISO 8601, those with a zone in UTC.

    They are written as naive ones: Arrow looks a zone up again for each value, at a tenth the speed.
    """
    text = array.cast(pa.timestamp(array.type.unit)).cast(pa.string())
    if between != " ":
        text = pc.replace_substring(text, " ", between)
    return text if array.type.tz is None else pc.binary_join_element_wise(text, "Z", "")


def _cut(items: list[Any], lengths: list[int | None]) -> list[Any]:
    at, found = 0, []
    for length in lengths:
        found.append(None if length is None else items[at : at + length])
        at += length or 0
    return found


def _json_structs(array: pa.Array) -> list[Any]:
    names = [field.name for field in array.type]
    columns = [_json_values(child) for child in array.flatten()]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    return [
        row if valid else None
        for row, valid in zip(rows, array.is_valid().to_pylist(), strict=True)
    ]


def _json_maps(array: pa.Array) -> list[Any]:
    kind = array.type
    entry = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
    lists = array.cast(pa.list_(entry))
    rows = _cut(_json_structs(lists.flatten()), pc.list_value_length(lists).to_pylist())
    if not types.is_string(kind.key_type):
        return rows
    return [None if row is None else {e["key"]: e["value"] for e in row} for row in rows]


def _iso_duration(count: int, unit: str) -> str:
    per = {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]
    whole, rest = divmod(abs(count), 10**per)
    fraction = f".{rest:0{per}d}".rstrip("0") if rest else ""
    return f"{'-' if count < 0 else ''}PT{whole}{fraction}S"
