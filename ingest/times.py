"""Source times to microseconds in UTC."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from core.log import logger
from core.settings import NULLS
from core.spelling import Faults, UnfitColumnError, isolate, plain, plain_integers, shown, words
from core.tables import TIMESTAMP

LOG = logger("ingest")
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_YEAR_10000 = 253_402_300_800  # seconds
_PLAUSIBLE = (631_152_000, 4_102_444_800)  # 1990 to 2100, in seconds
_NUMBER = r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$"
_WRITE = "write ISO 8601, e.g. 2024-01-31T18:30:00.250Z"
_NAIVE = pa.timestamp("us")
# In this order; each is a spelling that Arrow does not read, as the one it does.
_SPELLINGS = (
    (r"\[[^\]]*\]$", ""),  # Java names the zone behind the offset: +02:00[Europe/Berlin]
    (r"^(\d{4})/(\d\d)/(\d\d)", r"\1-\2-\3"),
    (r"^(\d{4})(\d\d)(\d\d)[Tt](\d\d)(\d\d)(\d\d)", r"\1-\2-\3T\4:\5:\6"),
    (r"^(\d{4}-\d\d-\d\d)t", r"\1T"),
    (r"(:\d\d),(\d+)", r"\1.\2"),
    (r" ?([zZ]|UTC|utc|GMT|Etc/UTC)$", "Z"),
    (r" ([+-]\d\d(:?\d\d)?)$", r"\1"),
    # .NET and Java write seven and nine decimals; the microsecond is the house's grain.
    (r"(\.\d{6})\d+", r"\1"),
)


def read_times(
    column: pa.Array,
    unit: str,
    zone: str = "UTC",
    nulls: Sequence[str] = NULLS,
    *,
    texts: bool = False,
) -> tuple[pa.Array, Faults]:
    """Times as `core.tables.TIMESTAMP`, and the rows that hold none.

    Args:
        column: Arrow timestamps or dates, numbers in `unit`, or strings (ISO 8601, or numbers in `unit`), [n].
        unit: `s`, `ms`, `us`, `ns` or `iso`.
        zone: of times that name none. Of an hour that its clocks ran twice, the first is taken; a time that they
            jumped over is a fault.
        nulls: words that stand for nothing.
        texts: whether ISO texts are good whatever the unit.

    Raises:
        UnfitColumnError: the column is of a type that holds no times.
    """
    column = plain(column)
    kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), TIMESTAMP), {}
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        # Truncates nanoseconds.
        return column.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(TIMESTAMP), {}
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _local(column.cast(_NAIVE, safe=False), zone)
    if pa.types.is_string(kind):
        return _from_text(words(column, nulls), unit, zone, texts)
    if pa.types.is_decimal(kind):
        return _from_numbers(column.cast(pa.float64()), unit)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _from_numbers(column, unit)
    raise UnfitColumnError(f"holds {kind}, which is no time")


def fitting_unit(value: float) -> str | None:
    """The unit in which a number is a time between 1990 and 2100; none: in no unit."""
    for unit, factor in _PER_SECOND.items():
        if _PLAUSIBLE[0] <= abs(value) / factor < _PLAUSIBLE[1]:
            return unit
    return None


def unit_of_micros(micros: int, unit: str) -> str | None:
    """The unit that would have fitted, where a number was read in `unit` and gave a time so many microseconds after 1970."""
    return fitting_unit(micros * _PER_SECOND[unit] / 1_000_000) if unit in _PER_SECOND else None


def _from_text(text: pa.Array, unit: str, zone: str, texts: bool) -> tuple[pa.Array, Faults]:
    if unit != "iso" and (quick := plain_integers(text)) is not None:
        return _from_numbers(quick, unit)
    number = pc.fill_null(pc.match_substring_regex(text, _NUMBER), False)
    numbers = pc.if_else(number, text, pa.scalar(None, pa.string()))
    values = pa.nulls(len(text), TIMESTAMP)
    faults: Faults = {}
    if pc.any(number).as_py():
        values, faults = _from_numbers(_parsed(numbers), unit)
    if pc.all(pc.or_(number, pc.is_null(text))).as_py() is not False:
        return values, faults
    rest = pc.if_else(number, pa.scalar(None, pa.string()), text)
    dated, wrong = _iso(rest, zone)
    if unit != "iso" and not texts:
        wrong = {}
        for row in pc.indices_nonzero(pc.is_valid(rest)).to_pylist():
            mend = "set data.timestamp_unit: iso" if dated[row].is_valid else _WRITE
            wrong[row] = f"{shown(rest[row].as_py())} is no time in unit {unit!r}; {mend}"
        dated = pa.nulls(len(text), TIMESTAMP)
    return pc.coalesce(values, dated), dict(sorted({**faults, **wrong}.items()))


def _parsed(text: pa.Array) -> pa.Array:
    text = pc.replace_substring_regex(text, r"^\+", "")
    fraction = pc.any(pc.match_substring_regex(text, "[.eE]")).as_py()
    if not fraction:
        try:
            return text.cast(pa.int64())
        except pa.ArrowInvalid:
            pass  # longer than any integer, so longer than any time
    return text.cast(pa.float64())


def _from_numbers(column: pa.Array, unit: str) -> tuple[pa.Array, Faults]:
    floating = pa.types.is_floating(column.type)
    if floating:
        column = column.cast(pa.float64())
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
    elif pa.types.is_uint64(column.type):
        large = pc.greater(column, pa.scalar(2**63 - 1, pa.uint64()))
        column = pc.if_else(large, pa.scalar(2**63 - 1, pa.uint64()), column).cast(pa.int64())
    else:
        column = column.cast(pa.int64())
    if unit == "iso":
        bad = pc.is_valid(column)
    else:
        last = _YEAR_10000 * _PER_SECOND[unit]
        limit = float(last) if floating else min(last, 2**63 - 1)
        bad = pc.or_(pc.greater_equal(column, limit), pc.less(column, -limit))
    faults = {
        row: _wrong_unit(column[row].as_py(), unit) for row in pc.indices_nonzero(pc.fill_null(bad, False)).to_pylist()
    }
    column = pc.if_else(pc.fill_null(bad, False), pa.scalar(None, column.type), column)
    if unit == "iso":
        return pa.nulls(len(column), TIMESTAMP), faults
    scale = 1_000_000 / _PER_SECOND[unit]
    if floating:
        # A fraction of a second is rounded to the microsecond; of nanoseconds what a microsecond does not tell is cut off.
        micros = pc.round(pc.multiply(column, scale)) if scale >= 1 else pc.floor(pc.divide(column, 1 / scale))
        micros = micros.cast(pa.int64())
    else:
        micros = pc.multiply(column, int(scale)) if scale >= 1 else _floor_divided(column, round(1 / scale))
    return micros.cast(TIMESTAMP), faults


def _floor_divided(column: pa.Array, divisor: int) -> pa.Array:
    quotient = pc.divide(column, divisor)  # towards zero
    below = pc.and_(pc.less(column, 0), pc.not_equal(pc.multiply(quotient, divisor), column))
    return pc.subtract(quotient, pc.cast(below, pa.int64()))


def _wrong_unit(value: float, unit: str) -> str:
    fits = fitting_unit(value)
    mend = f"set data.timestamp_unit: {fits}" if fits else "see data.timestamp_unit"
    return f"{value!r} is no time in unit {unit!r}; {mend}"


def _iso(text: pa.Array, zone: str) -> tuple[pa.Array, Faults]:
    for pattern, spelling in _SPELLINGS:
        text = pc.replace_substring_regex(text, pattern, spelling)
    zoned = pc.match_substring_regex(text, r"(Z|[+-]\d\d(:?\d\d)?)$")
    # The time part is what tells a zone (-05) from the day of a bare date (2024-01-05).
    zoned = pc.fill_null(pc.and_(zoned, pc.match_substring_regex(text, r"\d[T ]\d")), False)
    nothing = pa.scalar(None, pa.string())
    sure, bad = isolate(pc.if_else(zoned, text, nothing), lambda part: part.cast(TIMESTAMP), TIMESTAMP)
    naive, worse = isolate(pc.if_else(zoned, nothing, text), lambda part: part.cast(_NAIVE), _NAIVE)
    faults = {row: f"{shown(text[row].as_py())} is no time; {_WRITE}" for row in sorted([*bad, *worse])}
    local, gaps = _local(naive, zone)
    return pc.coalesce(sure, local), dict(sorted({**faults, **gaps}.items()))


def _local(naive: pa.Array, zone: str) -> tuple[pa.Array, Faults]:
    """Times without a zone, as those of `zone`, [n]."""
    if zone == "UTC":
        return naive.cast(TIMESTAMP), {}
    first, gaps = isolate(
        naive, lambda part: pc.assume_timezone(part, zone, ambiguous="earliest").cast(TIMESTAMP), TIMESTAMP
    )
    known = pc.if_else(pc.is_valid(first), naive, pa.scalar(None, _NAIVE))
    second = pc.assume_timezone(known, zone, ambiguous="latest").cast(TIMESTAMP)
    twice = pc.indices_nonzero(pc.fill_null(pc.not_equal(first, second), False))
    if len(twice):
        example = naive[twice[0].as_py()].as_py()
        LOG.warning(
            "%s times lie in an hour that clocks in %s ran twice, e.g. %s: the first is taken; log UTC, or an offset",
            f"{len(twice):,}",
            zone,
            example,
        )
    message = f"does not exist in {zone}, where clocks jumped over it; is data.timezone right?"
    return first, {row: f"{naive[row].as_py()} {message}" for row in gaps}
