"""From any dataframe to one Arrow batch of a stream's stored types: exactly, or not at all.

Three steps, each of which keeps every value or raises `SchemaMismatch`:

1. `to_table` (or `batches`, which holds one batch at a time) reads what the user has: Polars,
   pandas, pyarrow, a DuckDB relation, columns or rows of Python values. All of it is validated.
2. `normalise` gives the stored form of a schema, once, when a stream is created: plain types that
   Polars, DuckDB and pandas all read; no views, dictionaries, run ends or extensions.
3. `conform` casts a batch to that form. Columns go by name. Text is never parsed, a number never
   rounded, an instant never cut: a value that would not survive is named with its row.

``nullable=False`` is a promise of a whole column that `conform` enforces; fields inside are always
nullable. In memory and on disk columns are too (`physical`): rows older than one read as null.
"""

from __future__ import annotations

import datetime as dt
import decimal
import difflib
import functools
import itertools
import re
import zoneinfo
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from streamlab.errors import SchemaMismatch

__all__ = [
    "SYSTEM_COLUMNS",
    "SYSTEM_FIELDS",
    "adapt",
    "batches",
    "check_time_column",
    "conform",
    "describe_type",
    "event_times",
    "evolve",
    "normalise",
    "physical",
    "to_table",
]

SYSTEM_FIELDS = {
    "_partition": pa.field("_partition", pa.int32()),
    "_offset": pa.field("_offset", pa.int64()),
    "_append_time": pa.field("_append_time", pa.timestamp("us", "UTC")),
    "_deleted": pa.field("_deleted", pa.bool_()),
}
"""The columns that streamlab adds to the user's, in the order in which they are read."""

SYSTEM_COLUMNS = tuple(SYSTEM_FIELDS)

# Casts stay within a family, but for those of _CASTS; whether a value survives is another matter.
_INT = pa.int8()
_LISTS = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)
_FAMILIES = {
    "bool": [pa.bool_()],
    "signed": [pa.int8(), pa.int16(), pa.int32(), pa.int64()],
    "unsigned": [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()],
    "float": [pa.float16(), pa.float32(), pa.float64()],
    "decimal": [pa.decimal32(1), pa.decimal64(1), pa.decimal128(1), pa.decimal256(1)],
    "text": [pa.string(), pa.large_string(), pa.string_view()],
    "bytes": [pa.binary(), pa.large_binary(), pa.binary_view(), pa.binary(1)],
    "date": [pa.date32(), pa.date64()],
    "timestamp": [pa.timestamp("us")],
    "time": [pa.time32("s"), pa.time64("us")],
    "duration": [pa.duration("us")],
    "list": [*(make(_INT) for make in _LISTS), pa.list_(_INT, 1)],
    "struct": [pa.struct([])],
    "map": [pa.map_(_INT, _INT)],
}
_FAMILY: dict[int, str] = {kind.id: name for name, kinds in _FAMILIES.items() for kind in kinds}
_CASTS = {name: {name} for name in _FAMILIES}
_CASTS["signed"] = _CASTS["unsigned"] = {"signed", "unsigned", "float", "decimal"}
_CASTS["float"] = {"signed", "unsigned", "float"}
_CASTS["date"] = {"date", "timestamp"}
_PLAIN = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary(), pa.date64(): pa.date32()}
_LARGE = {pa.string(): pa.large_string(), pa.string_view(): pa.large_string()}
_LARGE |= {pa.binary(): pa.large_binary(), pa.binary_view(): pa.large_binary()}
_OFFSET = r"[+-]\d\d:?\d\d"
_UNITS = {"s": 3, "ms": 2, "us": 1, "ns": 0}  # the coarser, the greater


def normalise(schema: pa.Schema) -> pa.Schema:
    """Return the stored form of a schema: plain types, no system columns, no metadata.

    Views, dictionaries, run ends and extensions become what they hold, date64 becomes date32, a
    zone that is a bare offset becomes UTC (the instants stay). Columns keep their nullability.

    Raises:
        SchemaMismatch: a name is empty, doubled or reserved, or a type cannot be stored.
    """
    fields = [schema.field(place) for place in _user_columns(schema).values()]
    if not fields:
        raise SchemaMismatch("a stream needs at least one column of its own", got=schema.names)
    return pa.schema([pa.field(f.name, _stored(f.type, f.name), f.nullable) for f in fields])


def physical(schema: pa.Schema) -> pa.Schema:
    """Return a stored schema as it lies in memory and on disk: every column nullable."""
    return pa.schema([field.with_nullable(True) for field in schema])


def _user_columns(schema: pa.Schema) -> dict[str, int]:
    """The places of the columns that are not streamlab's own, by name."""
    places = [place for place, field in enumerate(schema) if not _is_system(field)]
    names = [schema.field(place).name for place in places]
    _check_names(names)
    for name, place in zip(names, places, strict=True):
        system = next((s for s in SYSTEM_COLUMNS if name.lower().startswith(s)), None)
        if system:
            free = name.strip("_") + ("_" if name.lower() == system else "")
            why = f"names that start with {system} are streamlab's own"
            got, want = schema.field(place).type, SYSTEM_FIELDS[system].type
            raise _mismatch(name, got, want, why, f'.rename({{"{name}": "{free}"}})')
    return dict(zip(names, places, strict=True))


def _is_system(field: pa.Field) -> bool:
    if field.name == "_append_time":  # DuckDB hands it back in the zone of its session
        return bool(getattr(field.type, "tz", None) and field.type.unit == "us")
    return field.name in SYSTEM_FIELDS and field.type == SYSTEM_FIELDS[field.name].type


def _check_names(names: list[str], path: str = "") -> None:
    seen: dict[str, str] = {}
    for place, name in enumerate(names):
        column = f"{path}{name}"
        if not name:
            raise SchemaMismatch(f"column {path}{place} has no name", column=column)
        if name.lower() in seen:
            message = f'columns "{seen[name.lower()]}" and "{column}" have one name'
            raise SchemaMismatch(message, column=column, hint="rename one: SQL folds case")
        seen[name.lower()] = column


def _stored(kind: pa.DataType, path: str) -> pa.DataType:
    if isinstance(kind, pa.BaseExtensionType):
        return _stored(kind.storage_type, path)
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _stored(kind.value_type, path)
    for refuses, why, hint in _REFUSED:
        if refuses(kind):
            raise _mismatch(path, kind, None, why, hint)
    match _FAMILY[kind.id]:
        case "timestamp" if kind.tz and re.fullmatch(_OFFSET, kind.tz):
            return pa.timestamp(kind.unit, "UTC")
        case "list":
            item = _stored(kind.value_type, f"{path}[]")
            if types.is_fixed_size_list(kind):
                return pa.list_(item, kind.list_size)
            large = types.is_large_list(kind) or types.is_large_list_view(kind)
            return pa.large_list(item) if large else pa.list_(item)
        case "struct":
            _check_names([field.name for field in kind], f"{path}.")
            return pa.struct([(f.name, _stored(f.type, f"{path}.{f.name}")) for f in kind])
        case "map":
            key = _stored(kind.key_type, f"{path}.key")
            return pa.map_(key, _stored(kind.item_type, f"{path}.value"))
    return _PLAIN.get(kind, kind)


@functools.cache
def _is_zone(name: str | None) -> bool:
    try:
        return bool(name is None or re.fullmatch(_OFFSET, name) or zoneinfo.ZoneInfo(name))
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        return name == "UTC"  # also where no zones are installed


_REFUSED: tuple[tuple[Callable[[pa.DataType], bool], str, str], ...] = (
    (types.is_null, "all its values are null", "give it a type, such as pl.Float64"),
    (types.is_float16, "DuckDB cannot read it", "use float32"),
    (types.is_decimal256, "Polars and DuckDB hold 38 digits", "use decimal128"),
    (lambda t: types.is_decimal(t) and t.scale < 0, "Polars cannot read it", "use scale 0"),
    (types.is_interval, "months have no fixed length", "use a duration"),
    (types.is_union, "Polars cannot read it", "use a struct with a field for each case"),
    (lambda t: t == pa.struct([]), "it has no fields", "give it one"),
    (lambda t: getattr(t, "list_size", 1) == 0, "Polars cannot read it", "use list"),
    (lambda t: t == pa.binary(0), "Polars cannot read it", "use binary"),
    (lambda t: not _is_zone(getattr(t, "tz", None)), "its zone is unknown", 'use "UTC"'),
    (lambda t: t.id not in _FAMILY, "streamlab does not know it", "cast it"),
)


def to_table(data: Any) -> pa.Table:
    """Return data of any accepted kind as a validated Arrow table, in its own types.

    Accepted: whatever speaks the Arrow C interface (Polars, pandas, pyarrow, DuckDB; a reader is
    consumed), a dict of columns, a list of dicts, one dict. A dict is columns iff a value is a
    list or an array. Columns of rows come in the order in which they are first seen.

    >>> to_table([{"a": 1}, {"b": "x"}]).to_pydict()
    {'a': [1, None], 'b': [None, 'x']}

    Raises:
        SchemaMismatch: it is none of these, a value has no Arrow type, or bytes are broken.
    """
    return batches(data).read_all()


def batches(data: Any) -> pa.RecordBatchReader:
    """Return data of any accepted kind as a reader that holds one validated batch at a time.

    Also takes a pyarrow dataset or scanner. What is a whole already (a frame) is not copied.

    Raises:
        SchemaMismatch: as `to_table`; a broken batch raises when it is read.
    """
    if isinstance(data, Mapping) and any(map(_is_array, data.values())):
        return _columns_table(data).to_reader()
    if isinstance(data, Mapping | list | tuple):
        return _rows_table([data] if isinstance(data, Mapping) else data).to_reader()
    _check_objects(data)
    try:
        reader = data if isinstance(data, pa.RecordBatchReader) else _reader(data)
    except (pa.ArrowException, ValueError) as error:  # pandas: ValueError for a doubled name
        raise SchemaMismatch(f"a {type(data).__name__} is not rows: {error}") from None
    names = reader.schema.names
    if b"pandas" in (reader.schema.metadata or {}):  # an index without a name is no column
        names = [None if re.fullmatch(r"__index_level_\d+__", name) else name for name in names]
    places = [place for place, name in enumerate(names) if name is not None]
    schema = pa.schema([reader.schema.field(place) for place in places])
    chosen = (_validated(batch.select(places)) for batch in reader)
    return pa.RecordBatchReader.from_batches(schema, chosen)


def _reader(data: Any) -> pa.RecordBatchReader:
    if hasattr(data, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(data)
    if hasattr(data, "__arrow_c_array__"):
        return pa.table(data).to_reader()
    if hasattr(data, "scanner"):  # a pyarrow dataset
        return data.scanner().to_reader()
    if hasattr(data, "to_reader"):  # a pyarrow scanner
        return data.to_reader()
    name = type(data).__name__
    hint = "give a frame, an Arrow table, a dict of columns, a list of dicts or one dict"
    hint = "call .collect() first" if name == "LazyFrame" else hint
    raise SchemaMismatch(f"a {name} is not rows", hint=hint, got=name)


def _validated(data: pa.Table | pa.RecordBatch) -> pa.Table | pa.RecordBatch:
    for field, column in zip(data.schema, data.columns, strict=True):
        try:
            column.validate(full=True)
        except pa.ArrowException as error:
            raise _mismatch(field.name, field.type, None, f"it is broken: {error}") from None
    return data


def _check_objects(data: Any) -> None:
    """Refuse columns of a frame that would become something else on their way to Arrow."""
    if hasattr(data, "__arrow_c_stream__") and hasattr(data, "dtypes"):
        for name, kind in zip(data.columns, data.dtypes, strict=False):
            if str(kind) in {"object", *_FOREIGN}:
                _array(str(name), data[name])


_KINDS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("bool", (bool, np.bool_)),
    ("timedelta64", (np.timedelta64,)),  # NumPy calls it an integer
    ("int", (int, np.integer)),
    ("float", (float, np.floating)),
    ("str", (str,)),
    ("bytes", (bytes, bytearray, memoryview)),
    ("datetime", (dt.datetime,)),
    ("date", (dt.date,)),
    ("timedelta", (dt.timedelta,)),
    ("Decimal", (decimal.Decimal,)),
    ("dict", (dict,)),
    ("list", (list, tuple, np.ndarray)),
)
_NULLS = {"NoneType", "NAType", "NaTType"}  # the last two are what pandas has
_FOREIGN = {"Object", "Int128", "UInt128"}  # Polars' own: Arrow would see bytes, or nothing
_PYTHON_ERRORS = (pa.ArrowException, OverflowError, TypeError, ValueError)


def _kinds(values: Iterable[Any]) -> dict[Any, str]:
    """The types of the values, each with what Arrow would take it for."""
    kinds = {}
    for python_type in set(map(type, values)):
        name = python_type.__name__
        known = (kind for kind, classes in _KINDS if issubclass(python_type, classes))
        kinds[python_type] = name if name in _NULLS else next(known, name)
    return kinds


def _is_array(value: Any) -> bool:
    if isinstance(value, pa.Scalar | memoryview):  # the latter is bytes, as Arrow sees it
        return False
    speaks_arrow = hasattr(value, "__arrow_c_array__") or hasattr(value, "__arrow_c_stream__")
    is_sequence = isinstance(value, list | tuple | range) or getattr(value, "ndim", 0) >= 1
    return speaks_arrow or is_sequence


def _rows_table(rows: Collection[Any]) -> pa.Table:
    if not all(issubclass(kind, Mapping) for kind in set(map(type, rows))):
        place, row = next((i, r) for i, r in enumerate(rows) if not isinstance(r, Mapping))
        message = f"row {place} is a {type(row).__name__}, not a dict"
        raise SchemaMismatch(message, hint="give a list of dicts, one for each row", row=place)
    names = dict.fromkeys(itertools.chain.from_iterable(rows))
    if rows and not names:
        raise SchemaMismatch("a dict without keys is no row", hint="give each column a value")
    return _columns_table({name: [row.get(name) for row in rows] for name in names})


def _columns_table(columns: Mapping[Any, Any]) -> pa.Table:
    arrays: dict[str, Any] = {}
    for name, values in columns.items():
        if not isinstance(name, str):
            raise SchemaMismatch(f"column name {name!r} is not a string", column=str(name))
        arrays[name] = _array(name, values)
    lengths = {name: len(array) for name, array in arrays.items()}
    for name, length in lengths.items():
        if length != max(lengths.values()):
            raise SchemaMismatch(f'column "{name}" has another length: {lengths}', column=name)
    return _validated(pa.table(arrays))


def _array(name: str, values: Any) -> pa.Array | pa.ChunkedArray:
    got = f"{type(values).__name__} {getattr(values, 'dtype', '')}".strip()
    if not _is_array(values):
        hint = f'give a list, or for one row that holds a list: [{{"{name}": ...}}]'
        raise _mismatch(name, got, None, "other columns are lists", hint)
    if getattr(values, "ndim", 1) != 1 or got.split()[-1] in _FOREIGN:
        raise _mismatch(name, got, None, "not a plain column", "give a list, or a plain type")
    if isinstance(values, list | tuple | range) or got.endswith(" object"):
        if hasattr(values, "notna"):  # pandas marks what is missing with NaN
            values = values.where(values.notna(), None)
        return _python_array(name, list(values))
    try:
        streams = hasattr(values, "__arrow_c_stream__")
        return pa.chunked_array(values) if streams else pa.array(values)
    except _PYTHON_ERRORS as error:
        raise _mismatch(name, got, None, str(error)) from None


def _python_array(name: str, values: list[Any]) -> pa.Array:
    kinds = _kinds(values)
    if _NULLS & {*kinds.values()} - {"NoneType"}:
        values = [None if kinds[type(value)] in _NULLS else value for value in values]
    _check_kinds(name, values)
    try:
        array = pa.array(values)
        if any(k.__module__.startswith("pandas") for k in kinds) and any(map(_nanoseconds, values)):
            zone = getattr(array.type, "tz", None)
            fine = pa.timestamp("ns", zone) if types.is_timestamp(array.type) else pa.duration("ns")
            return pa.array(values, fine)
    except _PYTHON_ERRORS as error:
        present = [value for value in values if value is not None]
        if {*_kinds(present).values()} == {"int"} and 0 <= min(present) <= max(present) < 1 << 64:
            return pa.array(values, pa.uint64())
        row = _first_failing(values, pa.array)
        what = "" if row is None else f"row {row} is {_shown(values[row])}: "
        raise SchemaMismatch(f'column "{name}": {what}{error}', column=name, row=row) from None
    return array


def _nanoseconds(value: Any) -> int:
    """What pandas' instants and durations count below the microsecond, where Arrow would cut."""
    return getattr(value, "nanosecond", 0) or getattr(value, "nanoseconds", 0)


def _check_kinds(path: str, values: list[Any]) -> None:
    """Refuse a mixture that Arrow would silently make one of: True as 1.0, a datetime as a date."""
    kinds = _kinds(values)
    named = {*kinds.values()} - _NULLS
    labels = [kinds[type(value)] for value in values] if len(named) > 1 else []
    if named == {"datetime"}:
        labels = ["NoneType" if v is None else "aware" if v.tzinfo else "naive" for v in values]
    elif named in ({"int", "float"}, {"int", "Decimal"}):  # exactly so, or Arrow refuses
        labels = []
    usual = next((label for label in labels if label not in _NULLS), None)
    for row, label in enumerate(labels):
        if label != usual and label not in _NULLS:
            raise _mismatch(path, label, usual, f"row {row} is {_shown(values[row])}", row=row)
    if named not in ({"dict"}, {"list"}):
        return
    present = [value for value in values if kinds[type(value)] not in _NULLS]
    if named == {"dict"}:
        for key in dict.fromkeys(itertools.chain.from_iterable(present)):
            _check_kinds(f"{path}.{key}", [value.get(key) for value in present])
    else:
        _check_kinds(f"{path}[]", list(itertools.chain.from_iterable(present)))


def conform(data: pa.Table | pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the data as one contiguous batch of ``physical(schema)``, or refuse it.

    ``schema`` is a stored form (`normalise`). Columns are matched by name; all must be there, no
    other may be; system columns are ignored. Data without rows and columns is an empty batch.
    Columns that have their type already are neither cast nor copied.

    Raises:
        SchemaMismatch: names differ, a value cannot be held exactly, or a null breaks a promise.
    """
    target = physical(schema)
    if not data.num_rows and not data.num_columns:
        return pa.RecordBatch.from_pylist([], schema=target)
    places = _match(data.schema, schema)
    arrays = [_contiguous(data.column(place), f) for place, f in zip(places, schema, strict=True)]
    for field, array in zip(schema, arrays, strict=True):
        if not field.nullable and array.null_count:
            raise _null(array, field, "the column is declared nullable=False")
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def _match(got: pa.Schema, want: pa.Schema) -> list[int]:
    """The place in ``got`` of each column of ``want``."""
    places = _user_columns(got)
    extra = [name for name in places if name not in want.names]
    for name in want.names:
        if name not in places:
            near = difflib.get_close_matches(name, extra, 1)
            hint = f'.rename({{"{near[0]}": "{name}"}})' if near else f"it has {', '.join(places)}"
            raise _mismatch(name, None, want.field(name).type, "the data lacks it", hint)
    if extra:
        hint = "drop it from the data, or add it with stream.evolve"
        why, kind = "the stream has no such column", got.field(places[extra[0]]).type
        raise _mismatch(extra[0], kind, None, why, hint)
    return [places[name] for name in want.names]


def _contiguous(column: pa.Array | pa.ChunkedArray, field: pa.Field) -> pa.Array:
    """A column of the data as one array of the field's type, value for value."""
    chunks = getattr(column, "chunks", [column]) or [pa.nulls(0)]
    starts = itertools.accumulate(map(len, chunks), initial=0)
    try:
        arrays = [_exact(chunk, field, row) for chunk, row in zip(chunks, starts, strict=False)]
        return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)
    except pa.ArrowException as error:  # each value is sound, all together are not
        why = f"too big for one batch ({error})"
        raise _mismatch(field.name, column.type, field.type, why, "give less at a time") from None


def _exact(chunk: pa.Array, field: pa.Field, first_row: int) -> pa.Array:
    def cast(part: pa.Array) -> pa.Array:
        return _cast(part, field.type, field.name)

    try:
        return cast(chunk)
    except pa.ArrowException:
        place = _first_failing(chunk, cast)
        if place is None:
            raise
    row = first_row + place
    why = f"row {row} is {_shown(chunk[place])}, which would not be the same"
    hint = "convert it on purpose, or widen the column with stream.evolve"
    raise _mismatch(field.name, chunk.type, field.type, why, hint, row=row)


def _first_failing(rows: Any, attempt: Callable[[Any], Any]) -> int | None:
    """The first row for which an attempt fails, found by halving; None if none fails alone."""
    if len(rows) == 1:
        return 0
    middle = len(rows) // 2
    for start, part in ((0, rows[:middle]), (middle, rows[middle:])):
        try:
            attempt(part)
        except _PYTHON_ERRORS:
            place = _first_failing(part, attempt)
            return None if place is None else start + place
    return None


def _cast(array: pa.Array, want: pa.DataType, path: str) -> pa.Array:
    """The array as another type. ArrowInvalid: a value is to blame; SchemaMismatch: the types."""
    got = array.type
    if got == want:
        return array
    if isinstance(got, pa.BaseExtensionType):
        return _cast(array.storage, want, path)
    if types.is_null(got):
        return pa.nulls(len(array), want)
    if types.is_dictionary(got):
        values = _cast(array.dictionary, _stored(got.value_type, path), path)
        return _cast(values.take(array.indices), want, path)
    if types.is_run_end_encoded(got):
        values = _cast(array.values, _stored(got.value_type, path), path)
        rows = np.arange(array.offset, array.offset + len(array))
        runs = np.searchsorted(array.run_ends.to_numpy(), rows, side="right")
        return _cast(values.take(pa.array(runs)), want, path)
    family, target = _FAMILY.get(got.id), _FAMILY[want.id]
    to_naive = family == target == "timestamp" and got.tz and not want.tz
    if family is None or target not in _CASTS[family] or to_naive:
        raise _mismatch(path, got, want, hint=_hint(got, path))
    match target:
        case "list":
            return _cast_list(array, want, path)
        case "struct":
            return _cast_struct(array, want, path)
        case "map":
            return _cast_map(array, want, path)
    return _cast_flat(array, want)


def _cast_flat(array: pa.Array, want: pa.DataType) -> pa.Array:
    array = array.cast(_LARGE.get(array.type, array.type))  # views overflow unnoticed else
    if types.is_integer(array.type) and types.is_decimal(want):
        array = array.cast(pa.decimal256(76, 0))
    result = array.cast(want)
    if types.is_float64(array.type) and types.is_float32(want):
        wide = array.to_numpy(zero_copy_only=False)  # a null reads as NaN
        back = result.to_numpy(zero_copy_only=False)
        if not np.array_equal(wide, back, equal_nan=True):
            raise pa.ArrowInvalid("a double is no float")
    return result


def _cast_list(array: pa.Array, want: pa.DataType, path: str) -> pa.Array:
    values = _cast(array.flatten(), want.value_type, f"{path}[]")
    starts, mask = _starts(array), array.is_null() if array.null_count else None
    if types.is_large_list(want):
        return pa.LargeListArray.from_arrays(starts, values, type=want, mask=mask)
    lists = pa.ListArray.from_arrays(starts.cast(pa.int32()), values, mask=mask)
    return lists.cast(want)


def _cast_map(array: pa.Array, want: pa.DataType, path: str) -> pa.Array:
    entry = pa.struct([("key", array.type.key_type), ("value", array.type.item_type)])
    lists = array.cast(pa.list_(entry))
    keys, items = lists.flatten().flatten()
    keys = _cast(keys, want.key_type, f"{path}.key")
    items = _cast(items, want.item_type, f"{path}.value")
    starts, mask = _starts(lists).cast(pa.int32()), lists.is_null() if lists.null_count else None
    return pa.MapArray.from_arrays(starts, keys, items, type=want, mask=mask)


def _starts(lists: pa.Array) -> pa.Array:
    lengths = pc.list_value_length(lists).fill_null(0)
    return pa.array(np.concatenate([[0], np.cumsum(lengths.to_numpy(), dtype=np.int64)]))


def _cast_struct(array: pa.Array, want: pa.DataType, path: str) -> pa.Array:
    places = {field.name: place for place, field in enumerate(array.type)}
    if sorted(places) != sorted(f.name for f in want) or len(places) != array.type.num_fields:
        raise _mismatch(path, array.type, want, hint="a struct needs all its fields and no other")
    children = array.flatten()  # what lies under a null struct is null
    arrays = [_cast(children[places[f.name]], f.type, f"{path}.{f.name}") for f in want]
    return pa.StructArray.from_arrays(arrays, fields=list(want), mask=array.is_null())


def evolve(old: pa.Schema, new: pa.Schema, key: Collection[str] = ()) -> pa.Schema:
    """Return the stored schema that holds rows of both: old columns first, then the new ones.

    Allowed are new nullable columns, wider types (more bits, digits or a finer unit, so that no
    value is lost) and the end of a ``nullable=False``. A ``key`` column may only widen in ways
    that leave the partition of each key as it is.

    Raises:
        SchemaMismatch: any other difference; names the column, what it is and what was asked.
    """
    new = normalise(new)
    fields = [_evolved(field, old, new, is_key=field.name in key) for field in old]
    added = [field for field in new if field.name not in old.names]
    for field in added:
        if not field.nullable:
            hint = "the rows that are there read as null: make it nullable"
            raise _mismatch(field.name, None, field.type, "a new column is not null", hint)
    return normalise(pa.schema(fields + added))


def _evolved(field: pa.Field, old: pa.Schema, new: pa.Schema, *, is_key: bool) -> pa.Field:
    name = field.name
    if name not in new.names:
        near = difflib.get_close_matches(name, set(new.names) - set(old.names), 1)
        hint = "a column cannot be dropped" + (f' or renamed to "{near[0]}"' if near else "")
        raise _mismatch(name, field.type, None, "the new schema lacks it", hint)
    wanted = new.field(name)
    if field.type != wanted.type and not _widens(field.type, wanted.type):
        raise _mismatch(name, field.type, wanted.type, hint="a type can only be widened")
    if field.nullable and not wanted.nullable:
        raise _mismatch(name, field.type, wanted.type, "not null, but nulls may be there already")
    if is_key and types.is_integer(field.type) and not types.is_integer(wanted.type):
        raise _mismatch(name, field.type, wanted.type, "keys would change their partition")
    return wanted


def _widens(old: pa.DataType, new: pa.DataType) -> bool:
    match _FAMILY[old.id], _FAMILY[new.id]:
        case ("signed", "signed") | ("unsigned", "unsigned" | "signed") | ("float", "float"):
            return bool(old.bit_width < new.bit_width)
        case ("signed" | "unsigned", "float"):
            return bool(old.bit_width <= 32 and new == pa.float64())
        case ("decimal", "decimal"):
            return bool(old.scale == new.scale and old.precision < new.precision)
        case ("text", "text") | ("bytes", "bytes"):
            return bool(new == _LARGE.get(old))
        case ("timestamp", "timestamp") | ("duration", "duration"):  # not to ns: that overflows
            same_zone = getattr(old, "tz", None) == getattr(new, "tz", None)
            return same_zone and _UNITS[old.unit] > _UNITS[new.unit] > 0
        case ("time", "time"):
            return bool(_UNITS[old.unit] > _UNITS[new.unit])
    return False


def adapt(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch of an older schema with exactly the fields of a later (or narrower) one.

    A column the batch lacks is null, a widened one is cast, one that ``schema`` lacks is left out.

    Raises:
        SchemaMismatch: ``schema`` did not come from the batch's by `evolve`.
    """
    if not len(schema):  # a count of rows is all that is asked for
        return batch.select([])
    here = {name: place for place, name in enumerate(batch.schema.names)}
    arrays = []
    for name, kind in zip(schema.names, schema.types, strict=True):
        old = batch.column(here[name]) if name in here else pa.nulls(batch.num_rows)
        arrays.append(_contiguous(old, pa.field(name, kind)))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def check_time_column(schema: pa.Schema, name: str) -> None:
    """Assert that a schema has this column and that it can be an event time.

    Raises:
        SchemaMismatch: no such column, or neither a timestamp nor a date; the hint converts it.
    """
    if name not in schema.names:
        hint = f"the columns are {', '.join(schema.names)}"
        raise SchemaMismatch(f'no column "{name}" to be the event time', hint=hint, column=name)
    kind = schema.field(name).type
    if not (types.is_timestamp(kind) or types.is_date32(kind)):
        why = "an event time is a timestamp or a date"
        raise _mismatch(name, kind, None, why, _hint(kind, name))


def event_times(column: pa.Array, name: str = "time") -> npt.NDArray[np.int64]:
    """Return event times as microseconds since 1970, UTC: nanoseconds floored, dates at midnight.

    Raises:
        SchemaMismatch: a null, an instant beyond 64 bits of microseconds, or no event time at all.
    """
    kind = column.type
    check_time_column(pa.schema([(name, kind)]), name)
    if column.null_count:
        raise _null(column, pa.field(name, kind), "a row without a time has no place")
    fine = types.is_timestamp(kind) and kind.unit == "ns"
    micros = column if fine else _contiguous(column, pa.field(name, pa.timestamp("us", "UTC")))
    counts: npt.NDArray[np.int64] = micros.view(pa.int64()).to_numpy()
    return np.floor_divide(counts, 1_000) if fine else counts


_CONVERSIONS = {  # on purpose, in Polars; by the family of what there is
    "signed": 'pl.from_epoch("{0}", time_unit="ms") for a time, else pl.col("{0}").cast(...)',
    "text": 'parse it: pl.col("{0}").str.to_datetime(), .str.to_date() or .cast(pl.Float64)',
    "timestamp": 'pl.col("{0}").dt.convert_time_zone("UTC").dt.replace_time_zone(None), .dt.date()',
}


def describe_type(kind: Any) -> str:
    """Return a short name of a type, for messages.

    >>> describe_type(pa.list_(pa.struct([("a", pa.float64())])))
    'list<struct<a: double>>'
    """
    if kind is None:
        return "nothing"
    text = re.sub(r" not null|(?<=<)(item|values): |, (ordered|indices)=\w+", "", str(kind))
    return text if len(text) <= 80 else text[:77] + "..."


def _hint(kind: pa.DataType, path: str) -> str:
    hint = _CONVERSIONS.get(_FAMILY.get(kind.id, ""), 'convert it: pl.col("{0}").cast(...)')
    return hint.format(re.split(r"\.|\[", path)[0])


def _mismatch(
    column: str, got: Any, want: Any, why: str = "", hint: str | None = None, **details: Any
) -> SchemaMismatch:
    message = f'column "{column}": got {describe_type(got)}'
    message += f", want {describe_type(want)}" if want is not None else ""
    message += f": {why}" if why else ""
    return SchemaMismatch(message, hint=hint, column=column, got=got, want=want, **details)


def _null(array: pa.Array, field: pa.Field, why: str) -> SchemaMismatch:
    row = array.is_null().index(True).as_py()
    why, hint = f"row {row} is null; {why}", "fill or filter the nulls first"
    return _mismatch(field.name, None, field.type, why, hint, row=row)


def _shown(value: Any) -> str:
    try:
        text = repr(value.as_py() if isinstance(value, pa.Scalar) else value)
    except (ValueError, OverflowError):  # an instant beyond Python's own range
        text = str(value.cast(pa.int64()).as_py())
    return text if len(text) <= 60 else text[:57] + "..."
