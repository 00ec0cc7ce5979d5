"""The partition of a row: a number made of its key, the same one that Kafka would give it.

A row goes to ``(murmur2(bytes of its key) & 0x7fffffff) % count``, as in Kafka's default
partitioner, so a mirrored or published topic keeps its keys where they were. The bytes are

- of one text or binary column: its bytes;
- of one integer column: 8 bytes, big-endian, two's complement (Kafka's ``LongSerializer``);
- of anything else: UTF-8 JSON without spaces, one value for one column, a list for several.

In JSON a number stands as it is (-0.0 as 0.0; NaN, Infinity by name), a boolean as true or false,
text as itself, bytes as base64, a decimal as its digits ("1.50"), a date, an instant and a time of
day as ISO 8601 (an instant in UTC with "Z" if it has a zone), a duration as its seconds ("1.5"),
both without trailing zeros, so that a finer unit changes nothing; a list as a list, a struct as an
object, a map as a list of pairs.

A key that is null, or all of whose columns are, goes round robin by its own offset. So nothing
depends on how rows were divided into appends.
"""

from __future__ import annotations

import base64
import decimal
import itertools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["murmur2", "partitions"]

_SEED = np.uint32(0x9747B28C)
_FACTOR = np.uint32(0x5BD1E995)
_TAIL = np.array([0, 0xFF, 0xFFFF, 0xFFFFFF], np.uint32)
_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def partitions(keys: Sequence[pa.Array], count: int, first_offset: int) -> pa.Array:
    """Return the partition of each row as int32, from 0 up to ``count``.

    ``keys`` are the key columns; ``first_offset`` is the offset of the first row.

    >>> partitions([pa.array(["foobar", "foobar", None])], 10, first_offset=7).to_pylist()
    [6, 6, 9]
    """
    assert keys, "a key has at least one column"
    assert count > 0, "a stream has at least one partition"
    rows = len(keys[0])
    if count == 1:
        return pa.array(np.zeros(rows, np.int32))
    codes, hashes = _one(keys[0]) if len(keys) == 1 else _several(keys)
    shares = np.append((hashes & 0x7FFFFFFF) % count, 0)  # the last one is for the nulls
    robin = np.arange(first_offset, first_offset + rows, dtype=np.int64) % count
    return pa.array(np.where(codes < 0, robin, shares[codes]).astype(np.int32))


def murmur2(keys: pa.Array) -> npt.NDArray[np.int32]:
    """Return Kafka's murmur2 of each of these strings or binary values; none may be null.

    >>> murmur2(pa.array(["foobar"])).tolist()
    [-790332482]
    """
    assert not keys.null_count, "a null has no bytes"
    if not len(keys):
        return np.zeros(0, np.int32)
    keys = keys.cast(pa.large_binary())
    _, places, values = keys.buffers()
    ends = np.frombuffer(places, np.int64)[keys.offset : keys.offset + len(keys) + 1]
    used = np.frombuffer(values or b"", np.uint8)[ends[0] : ends[-1]]
    padded = np.concatenate([used, np.zeros(4, np.uint8)])  # so that the last word can be read
    words = np.ndarray((len(used) + 1,), "<u4", padded, strides=(1,))
    lengths = np.diff(ends)
    order = np.argsort(-lengths, kind="stable")
    result = np.empty(len(keys), np.uint32)
    result[order] = _murmur2(words, (ends[:-1] - ends[0])[order], lengths[order])
    return result.view(np.int32)


def _murmur2(
    words: npt.NDArray[np.uint32], starts: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint32]:
    """All keys at once, longest first, block by block; ``words[i]`` is the four bytes at i."""
    hashes = _SEED ^ lengths.astype(np.uint32)
    shorter = -(lengths // 4)
    for block in range(-shorter[0]):
        active = np.searchsorted(shorter, -block)  # how many have a block of this number
        word = words[starts[:active] + 4 * block] * _FACTOR
        hashes[:active] *= _FACTOR
        hashes[:active] ^= (word ^ (word >> np.uint32(24))) * _FACTOR
    rest = lengths % 4
    tails = words[starts + lengths - rest] & _TAIL[rest]
    hashes = np.where(rest > 0, (hashes ^ tails) * _FACTOR, hashes)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * _FACTOR
    return hashes ^ (hashes >> np.uint32(15))


def _one(key: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """The place of each row's key among the distinct ones (-1: null), and the hashes of those."""
    codes, distinct = _distinct(key)
    if types.is_integer(key.type):
        wide = distinct.cast(pa.int64(), safe=False).to_numpy().astype(">i8")
        distinct = pa.Array.from_buffers(pa.binary(8), len(wide), [None, pa.py_buffer(wide)])
    elif _family(key.type) not in {"text", "bytes"}:
        distinct = pa.array(map(_json, _plain(distinct)), pa.string())
    return codes, murmur2(distinct)


def _several(keys: Sequence[pa.Array]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """As `_one`, of keys that are made of several columns."""
    columns = []
    rows = first = np.zeros(len(keys[0]), np.int64)
    for key in keys:
        codes, distinct = _distinct(key)
        texts = [*map(_json, _plain(distinct)), "null"]  # the last is what code -1 finds
        columns.append((codes, texts))
        pairs = rows * len(texts) + codes + 1
        _, first, rows = np.unique(pairs, return_index=True, return_inverse=True)
    parts = [[texts[code] for code in codes[first]] for codes, texts in columns]
    joined = pa.array([f"[{','.join(row)}]" for row in zip(*parts, strict=True)], pa.string())
    is_null = np.all([codes < 0 for codes, _ in columns], axis=0)
    return np.where(is_null, -1, rows), murmur2(joined)


def _distinct(key: pa.Array) -> tuple[npt.NDArray[np.int64], pa.Array]:
    """The code of each row (-1: null), and the values that the codes stand for."""
    try:
        encoded = key.dictionary_encode()
        values = encoded.dictionary
    except pa.ArrowNotImplementedError:  # Arrow does not compare nested values; their JSON does
        texts = [None if value is None else _json(value) for value in _plain(key)]
        encoded = pa.array(texts, pa.string()).dictionary_encode()
        _, rows = np.unique(encoded.indices.drop_null().to_numpy(), return_index=True)
        values = key.drop_null().take(pa.array(rows))
    return encoded.indices.fill_null(-1).to_numpy().astype(np.int64), values


def _plain(array: pa.Array) -> list[Any]:
    """The values as the JSON of a key has them; see the top of this file."""
    kind = array.type
    match _family(kind):
        case "float":
            return _each(array, lambda value: value + 0.0)  # -0.0 + 0.0 is 0.0
        case "decimal":
            return _each(array, lambda value: format(value, "f"))
        case "bytes":
            return _each(array, lambda value: base64.b64encode(value).decode())
        case "time":
            counts = array.view(pa.int64() if kind.bit_width == 64 else pa.int32())
            return _each(counts, lambda count: _time(count, kind))
        case "struct":
            names = [field.name for field in kind]
            rows = zip(array.is_valid().to_pylist(), *map(_plain, array.flatten()), strict=True)
            return [dict(zip(names, row, strict=True)) if ok else None for ok, *row in rows]
        case "map":
            entry = pa.struct([("key", kind.key_type), ("value", kind.item_type)])
            maps = _plain(array.cast(pa.list_(entry)))
            return [
                None if pairs is None else [[*pair.values()] for pair in pairs] for pairs in maps
            ]
        case "list":
            values = iter(_plain(array.flatten()))
            return _each(pc.list_value_length(array), lambda n: list(itertools.islice(values, n)))
    plain: list[Any] = array.to_pylist()
    return plain


def _each(array: pa.Array, write: Callable[[Any], Any]) -> list[Any]:
    return [None if value is None else write(value) for value in array.to_pylist()]


def _time(count: int, kind: pa.DataType) -> str:
    """A date, an instant, a time of day or a duration, from its count of units."""
    if types.is_date(kind):
        return str(np.datetime64(count, "D"))
    if types.is_duration(kind):
        text = format(decimal.Decimal(count).scaleb(-_DIGITS[kind.unit]), "f")
    else:
        text = str(np.datetime64(count, kind.unit))
    if types.is_time(kind):
        text = text.partition("T")[2]
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text + "Z" if types.is_timestamp(kind) and kind.tz else text


def _family(kind: pa.DataType) -> str:
    """What a type counts as here; views, dictionaries and extensions never get this far."""
    for name, tests in _FAMILIES.items():
        if any(test(kind) for test in tests):
            return name
    return "other"


_FAMILIES = {
    "float": [types.is_floating],
    "decimal": [types.is_decimal],
    "text": [types.is_string, types.is_large_string],
    "bytes": [types.is_binary, types.is_large_binary, types.is_fixed_size_binary],
    "time": [types.is_temporal],
    "struct": [types.is_struct],
    "map": [types.is_map],
    "list": [types.is_list, types.is_large_list, types.is_fixed_size_list],
}
