"""How Feast writes an online row: entity keys, values, names of tables and fields, without Feast.

Importing Feast takes seconds, a push has milliseconds. Keys are its serialization 3; values are its `Value` message in
protobuf's wire format: a tag (field number and wire type), then the value. A test holds each form against Feast's own.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

# Numbers of the fields of Feast's message Value; a key names its type by the same enumeration.
_STRING, _INT64, _FLOAT, _STRINGS, _INT64S, _FLOATS = 2, 4, 6, 12, 14, 16
_VARINT, _BYTES, _FIXED32 = 0, 2, 5
_FIRST = b"\x0a"  # field 1 of a list message, length-delimited


def safe(version: str) -> str:
    """A version id as part of a Feast name."""
    return re.sub(r"\W", "_", version)[:24]


def table_id(project: str, view: str) -> str:
    """The SQLite table of a view."""
    return f"{project}_{view}"


def field_id(view: str, column: str) -> bytes:
    """The field of a Redis hash that holds a view's column."""
    import mmh3

    return struct.pack("<I", mmh3.hash(f"{view}:{column}", signed=False))


def time_field(view: str) -> bytes:
    """The field of a Redis hash that says when a view's row is of."""
    return f"_ts:{view}".encode()


def timestamp(micros: int) -> bytes:
    """A time as protobuf's Timestamp: seconds and nanoseconds, each left out where it is 0."""
    seconds, rest = divmod(micros, 1_000_000)
    parts = ((b"\x08", seconds), (b"\x10", rest * 1000))
    return b"".join(tag + _varint(number) for tag, number in parts if number)


def entity_key(name: str, value: int | str) -> bytes:
    """The key of an entity with one join key; in Redis the project's name follows."""
    key = name.encode()
    held = (_INT64, struct.pack("<q", value)) if isinstance(value, int) else (_STRING, value.encode())
    return b"".join(
        (struct.pack("<III", 1, _STRING, len(key)), key, struct.pack("<II", held[0], len(held[1])), held[1])
    )


def encode(value: Any, kind: pa.DataType) -> bytes:
    """A value of type int64, float, string, or a list of them; None is an empty message."""
    if value is None:
        return b""
    if pa.types.is_int64(kind):
        return _tag(_INT64, _VARINT) + _varint(value)
    if pa.types.is_float32(kind):
        return _tag(_FLOAT, _FIXED32) + struct.pack("<f", value)
    if pa.types.is_string(kind):
        return _tag(_STRING, _BYTES) + _sized(value.encode())
    field, items = _list(value, kind.value_type)
    return _tag(field, _BYTES) + _sized(items)


def as_text(value: Any, kind: pa.DataType) -> str | None:
    """The readable column beside a value in SQLite; lists have none."""
    if value is None or pa.types.is_list(kind):
        return None
    return str(float(np.float32(value))) if pa.types.is_float32(kind) else str(value)


def integer(encoded: bytes | None) -> int | None:
    """An int64 value back; None where there is none."""
    if not encoded or encoded[0] != (_INT64 << 3 | _VARINT):
        return None
    value, shift = 0, 0
    for byte in encoded[1:]:
        value |= (byte & 0x7F) << shift
        shift += 7
    return value - (1 << 64) if value >= 1 << 63 else value


def _list(values: Sequence[Any], kind: pa.DataType) -> tuple[int, bytes]:
    if pa.types.is_string(kind):
        return _STRINGS, b"".join(_FIRST + _sized(value.encode()) for value in values)
    if pa.types.is_int64(kind):
        field, packed = _INT64S, b"".join(map(_varint, values))
    else:
        assert pa.types.is_float32(kind), kind
        field, packed = _FLOATS, np.asarray(values, "<f4").tobytes()
    return field, _FIRST + _sized(packed) if packed else b""


def _tag(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _sized(content: bytes) -> bytes:
    return _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Seven bits a byte, lowest first; a negative number is its two's complement of 64 bits."""
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
