"""Source times to microseconds in UTC."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from core.tables import TIMESTAMP
from ingest.place import Place, first_misfit

_FACTOR = {"s": 1_000_000, "ms": 1_000, "us": 1}
_YEAR_10000 = 253_402_300_800_000_000  # microseconds


def to_timestamps(column: pa.Array, unit: str, place: Place) -> pa.Array:
    """Times as `core.tables.TIMESTAMP`.

    Args:
        column: Arrow timestamps or dates (naive: UTC), numbers in `unit`, or strings (ISO 8601, or numbers in `unit`).
        unit: `s`, `ms`, `us` or `iso`.
        place: where the column was read.

    Raises:
        DataError: a value is no time.
    """
    try:
        return _times(column, unit)
    except _NoTimeError as error:
        value, row = error.args
        raise place.error(f"{value!r} is no time in unit {unit!r}; see data.timestamp_unit", row) from error


class _NoTimeError(Exception):
    """(value, index of its row in the batch)."""


def _times(column: pa.Array, unit: str) -> pa.Array:
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _dated(column)
    if unit == "iso":
        return _iso(column)
    return _numbers(column, unit)


def _dated(column: pa.Array) -> pa.Array:
    # Truncates nanoseconds: the microsecond is the house's grain.
    micros = column.cast(pa.timestamp("us", tz=getattr(column.type, "tz", None)), safe=False)
    return micros.cast(TIMESTAMP)


def _numbers(column: pa.Array, unit: str) -> pa.Array:
    kind, factor = column.type, _FACTOR[unit]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        column = _converted(column, pa.float64() if _has_fraction(column) else pa.int64())
    if pa.types.is_integer(column.type):
        column = _converted(column, pa.int64())
    limit = _YEAR_10000 // factor if pa.types.is_integer(column.type) else _YEAR_10000 / factor
    wrong = pc.or_(pc.greater_equal(column, limit), pc.less(column, -limit))
    if pc.any(wrong).as_py():
        row = pc.index(wrong, True).as_py()
        raise _NoTimeError(column[row].as_py(), row)
    if pa.types.is_floating(column.type):
        micros = pc.round(pc.multiply(pc.if_else(pc.is_nan(column), None, column), float(factor)))
    else:
        micros = pc.multiply(column.cast(pa.int64()), factor)
    return micros.cast(pa.int64()).cast(TIMESTAMP)


def _iso(column: pa.Array) -> pa.Array:
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise _NoTimeError(column[0].as_py() if len(column) else None, 0)
    # .NET and Java write seven and nine decimals; the microsecond is the house's grain.
    text = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"(\.\d{6})\d+", r"\1")
    zoned = pc.match_substring_regex(text, r"(Z|[+-]\d\d(:?\d\d)?)$")
    # The time part is what tells a zone (-05) from the day of a bare date (2024-01-05).
    zoned = pc.and_(zoned, pc.match_substring_regex(text, r"\d[T ]\d"))
    return _converted(pc.if_else(zoned, text, _with_zone(text)), TIMESTAMP)


def _with_zone(text: pa.Array) -> pa.Array:
    bare = pc.match_substring_regex(text, r"^\d{4}-\d\d-\d\d$")
    return pc.binary_join_element_wise(text, pc.if_else(bare, "T00:00:00Z", "Z"), "")


def _has_fraction(column: pa.Array) -> bool:
    return bool(pc.any(pc.match_substring_regex(column, "[.eE]")).as_py())


def _converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        row = first_misfit(column, kind)
        raise _NoTimeError(column[row].as_py(), row) from error
