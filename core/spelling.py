"""How single values are spelled, whoever reads them: what stands for nothing, what a blank is, what yes and no are.

A reader here takes an Arrow column and gives back the values and the faults, index of the row to the reason. A file stops
at its first fault; a push sets the faulty rows aside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.settings import NULLS

Faults = dict[int, str]

BLANKS = " \t\r\n\f\v\u0085\u00a0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
YES = ("true", "t", "yes", "y", "on")
NO = ("false", "f", "no", "n", "off")
# A double tells all whole numbers below this apart; from here on two may share one spelling.
EXACT = {pa.float16(): 2**11, pa.float32(): 2**24, pa.float64(): 2**53}
_UUID_BYTES = 16


class UnfitColumnError(ValueError):
    """A whole column is of a type that cannot be read as what it should be."""


def shown(value: Any, longest: int = 60) -> str:
    """A value for a message, cut where it is long."""
    text = repr(value)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def plain(column: pa.Array) -> pa.Array:
    """A column without its encoding: dictionaries looked up, any kind of text as string, bytes as the text they spell.

    Raises:
        UnfitColumnError: bytes that are neither UTF-8 nor a UUID.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if isinstance(column.type, pa.BaseExtensionType):
        if column.type.extension_name != "arrow.uuid":
            column = column.storage
        else:
            return _uuids(column.storage)
    kind = column.type
    if pa.types.is_fixed_size_binary(kind):
        if kind.byte_width != _UUID_BYTES:
            raise UnfitColumnError(f"holds {kind.byte_width} raw bytes a row; write them as text")
        return _uuids(column)
    if pa.types.is_string(kind):
        return column
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        try:
            return column.cast(pa.binary()).cast(pa.string())
        except pa.ArrowInvalid as error:
            raise UnfitColumnError("holds raw bytes that are no UTF-8 text; write them as text") from error
    return column


def is_text(kind: pa.DataType) -> bool:
    """Whether a type says of itself that it holds text or bytes, dictionaries of it included."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    kinds = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary)
    more = (pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary)
    return isinstance(kind, pa.UuidType) or any(test(kind) for test in (*kinds, *more))


def words(column: pa.Array, nulls: Sequence[str] = NULLS) -> pa.Array:
    """Text without blanks around it; null where it is empty or stands for nothing. Any `plain` type is spelled out.

    Numbers that are whole have no point, so that 3.0 of one file and 3 of another are one word; lists have `|` between.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_floating(kind):
        return _float_words(column)
    if pa.types.is_decimal(kind):
        text = column.cast(pa.string())
        return pc.replace_substring_regex(text, r"\.0+$", "")
    if _is_list(kind):
        # `scenarios` of an item: an empty list is none of them, not nothing.
        joined = [None if v is None else "|".join(str(x) for x in v if x is not None) for v in column.to_pylist()]
        return pa.array(joined, pa.string())
    if not pa.types.is_string(kind):
        return column.cast(pa.string())
    text = pc.utf8_trim(column, characters=BLANKS)
    nothing = pc.is_in(text, value_set=pa.array(["", *nulls], pa.string()))
    return pc.if_else(nothing, pa.scalar(None, pa.string()), text) if pc.any(nothing).as_py() else text


def numbers(column: pa.Array, nulls: Sequence[str] = NULLS) -> tuple[pa.Array, Faults]:
    """A column as float64: text is parsed, yes and no are 1 and 0, NaN is null; what is no number is a fault."""
    column = plain(column)
    kind = column.type
    if pa.types.is_boolean(kind):
        return column.cast(pa.int8()).cast(pa.float64()), {}
    faults: Faults = {}
    if pa.types.is_string(kind):
        text = words(column, nulls)
        try:
            return pc.if_else(pc.is_nan(values := text.cast(pa.float64())), pa.scalar(None, pa.float64()), values), {}
        except pa.ArrowInvalid:
            pass
        lower = pc.utf8_lower(text)
        text = pc.if_else(pc.is_in(lower, pa.array(YES)), "1", pc.if_else(pc.is_in(lower, pa.array(NO)), "0", text))
        text = pc.replace_substring_regex(text, r"^\+(\d|\.)", r"\1")
        values, bad = isolate(text, lambda part: part.cast(pa.float64()), pa.float64())
        faults = {row: f"{shown(column[row].as_py())} is no number" for row in bad}
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind) or pa.types.is_null(kind):
        values = column.cast(pa.float64(), safe=False)
    else:
        raise UnfitColumnError(f"holds {kind}, which is no number")
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values), faults


def plain_integers(text: pa.Array) -> pa.Array | None:
    """Text as int64 where every value is spelled as Python spells it; None where one is not. The quick way."""
    try:
        values = text.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    return values if pc.all(pc.equal(values.cast(pa.string()), text)).as_py() is not False else None


def isolate(column: pa.Array, convert: Callable[[pa.Array], pa.Array], kind: pa.DataType) -> tuple[pa.Array, list[int]]:
    """What `convert` makes of a column, null where it raises `ArrowInvalid`, and the rows where it does."""
    try:
        return convert(column), []
    except pa.ArrowInvalid:
        if len(column) == 1:
            return pa.nulls(1, kind), [0]
    middle = len(column) // 2
    left, first = isolate(column.slice(0, middle), convert, kind)
    right, second = isolate(column.slice(middle), convert, kind)
    return pa.concat_arrays([left, right]), [*first, *(middle + row for row in second)]


def _uuids(column: pa.Array) -> pa.Array:
    from uuid import UUID

    return pa.array([None if v is None else str(UUID(bytes=v)) for v in column.to_pylist()], pa.string())


def _float_words(column: pa.Array) -> pa.Array:
    limit = EXACT[column.type]
    values = column.cast(pa.float64())
    whole = pc.and_(pc.equal(pc.floor(values), values), pc.less(pc.abs(values), float(limit)))
    digits = pc.if_else(whole, values, None).cast(pa.int64()).cast(pa.string())
    text = pc.if_else(pc.fill_null(whole, False), digits, values.cast(pa.string()))
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.string()), text)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
