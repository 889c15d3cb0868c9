"""How an id is written: one rule for files, pushes, requests and the command line.

All users' ids of a project are integers (int64) or all are text, and so are the items'. What spells the same whole number is
the same integer: 102, `102`, ` +102 `, 102.0, `1.02e2`, a decimal. `007` is text, since as an integer it would be 7. Where
ids are text, a number stands for its digits. A whole number of a float column that is too large for it (2**53 in a double) is
an error, because its last digits are lost; so are fractions and booleans. Letters are compared as they are, without
Unicode normalisation; blanks around an id do not count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.settings import NULLS
from core.spelling import BLANKS, EXACT, Faults, UnfitColumnError, plain, plain_integers, shown, words

_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_INTEGER = r"^[+-]?(0|[1-9]\d*)$"
# What programs write for a whole number that went through a float: 102.0, 102., 4.005002501632002e+15.
_FLOAT = r"^[+-]?(0|[1-9]\d*)(\.\d*)?([eE][+-]?\d+)?$"
_ZERO_FIRST = r"^[+-]?0\d+$"
_PLAIN = re.compile(r"(?:0|-?[1-9]\d{0,17})\Z")
_TEXT = "set data.ids: string"


def read_ids(column: pa.Array, kind: pa.DataType, nulls: Sequence[str] = NULLS) -> tuple[pa.Array, Faults]:
    """A column as ids.

    Args:
        column: of any Arrow type, [n].
        kind: int64 or string.
        nulls: words that stand for nothing, see `data.nulls`.

    Returns:
        The ids [n], null where there is none or it is at fault, and the faults.

    Raises:
        UnfitColumnError: no column of this type holds ids.
    """
    column = plain(column)
    source = column.type
    if pa.types.is_null(source):
        return pa.nulls(len(column), kind), {}
    if pa.types.is_integer(source):
        return _from_integers(column, kind)
    if pa.types.is_floating(source):
        return _from_floats(column, kind)
    if pa.types.is_decimal(source):
        text = pc.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
        broken = pc.invert(pc.match_substring_regex(text, _INTEGER))
        return _joined(_from_text(text, kind), text, broken, "has a fraction: it is no id")
    if pa.types.is_string(source):
        return _from_text(words(column, nulls), kind)
    raise UnfitColumnError(f"holds {source}, which is no id; ids are integers or text")


def read_id(value: Any, kind: pa.DataType, nulls: Sequence[str] = NULLS) -> int | str:
    """One id of a request, a JSON line or the command line, by the rule of `read_ids`.

    Raises:
        ValueError: it is none; the message says why.
    """
    integers = pa.types.is_integer(kind)
    if type(value) is int and _SMALLEST <= value <= _LARGEST:
        return value if integers else str(value)
    if type(value) is str:
        if integers and _PLAIN.match(value):
            return int(value)
        value = value.strip(BLANKS)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            # JSON can spell it, UTF-8 cannot: no table and no store would take it.
            raise ValueError(f"{shown(value)} holds half of a character (a lone surrogate)") from error
        if not value or value in nulls:
            raise ValueError(f"{shown(value)} stands for nothing: there is no id (data.nulls lists such words)")
        if not integers:
            return value
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{shown(value)} is no id; ids are {'integers' if integers else 'text'} here")
    try:
        column = pa.array([str(value) if type(value) is int else value])
        ids, faults = read_ids(column, kind, nulls)
    except (UnfitColumnError, pa.ArrowInvalid, OverflowError) as error:
        raise ValueError(f"{shown(value)} is no id ({error})") from error
    if faults:
        raise ValueError(faults[0])
    found: int | str | None = ids[0].as_py()
    if found is None:
        raise ValueError(f"{shown(value)} stands for nothing: there is no id (data.nulls lists such words)")
    return found


@dataclass
class Spellings:
    """What the ids of some files look like, added up batch by batch."""

    text: int = 0
    floats: int = 0
    large: int = 0

    @property
    def integers(self) -> bool:
        """Whether all of them can be int64."""
        return not self.text and not self.large

    def add(self, column: pa.Array, nulls: Sequence[str] = NULLS) -> None:
        """Count a batch.

        Raises:
            UnfitColumnError: no column of this type holds ids.
        """
        column = plain(column)
        kind = column.type
        if pa.types.is_uint64(kind):
            self.large += _count(pc.greater(column, pa.scalar(_LARGEST, pa.uint64())))
        elif pa.types.is_decimal(kind):
            column = pc.replace_substring_regex(column.cast(pa.string()), r"\.0+$", "")
        if pa.types.is_string(column.type):
            text = words(column, nulls)
            if plain_integers(text) is None:
                self._add_text(text)

    def _add_text(self, text: pa.Array) -> None:
        whole = pc.match_substring_regex(text, _INTEGER)
        self.large += len(_too_large(text.filter(whole)))
        rest = text.filter(pc.and_(pc.is_valid(text), pc.invert(whole)))
        if len(rest):
            floats = pc.match_substring_regex(rest, _FLOAT)
            values = rest.filter(floats).cast(pa.float64())
            spelled = _count(pc.equal(pc.floor(values), values))
            self.floats += spelled
            self.text += len(rest) - spelled


def _from_integers(column: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Faults]:
    if pa.types.is_string(kind):
        return column.cast(pa.string()), {}
    if not pa.types.is_uint64(column.type):
        return column.cast(pa.int64()), {}
    large = pc.greater(column, pa.scalar(_LARGEST, pa.uint64()))
    fitting = pc.if_else(large, pa.scalar(None, pa.uint64()), column)
    return fitting.cast(pa.int64()), dict(_each(column, large, f"is too large for an integer id; {_TEXT}"))


def _from_floats(column: pa.Array, kind: pa.DataType, spelled: pa.Array | None = None) -> tuple[pa.Array, Faults]:
    """Whole numbers of a float column; `spelled` is what to show of them, where they were text."""
    limit, width = EXACT[column.type], column.type.bit_width
    values = column.cast(pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    where = f"as a {width}-bit float" if spelled is None else "in the spelling of a float"
    lost = f"is a whole number beyond {limit - 1:,} {where}: its last digits are lost; write ids as integers or as text"
    faults: Faults = {}
    wrong = pa.repeat(False, len(values))
    for bad, reason in (
        (pc.invert(pc.is_finite(values)), "is no id"),
        (pc.not_equal(pc.floor(values), values), "has a fraction: it is no id"),
        (pc.greater_equal(pc.abs(values), float(limit)), lost),
    ):
        found = dict(_each(values if spelled is None else spelled, bad, reason))
        faults = {**found, **faults}
        wrong = pc.or_kleene(wrong, pc.fill_null(bad, False))
    values = pc.if_else(wrong, pa.scalar(None, pa.float64()), values)
    whole = values.cast(pa.int64())
    return (whole if pa.types.is_integer(kind) else whole.cast(pa.string())), faults


def _from_text(text: pa.Array, kind: pa.DataType) -> tuple[pa.Array, Faults]:
    if pa.types.is_string(kind):
        return text, {}
    if (quick := plain_integers(text)) is not None:
        return quick, {}
    whole = pc.fill_null(pc.match_substring_regex(text, _INTEGER), False)
    places = pc.indices_nonzero(whole)
    faults: Faults = {}
    for row in _too_large(text.filter(whole)):
        place = places[row].as_py()
        faults[place] = f"{shown(text[place].as_py())} is too large for an integer id; {_TEXT}"
    if faults:
        whole = pc.and_(whole, pc.invert(pc.is_in(pa.array(range(len(text))), pa.array(list(faults)))))
    values = pc.if_else(whole, pc.replace_substring(text, "+", ""), pa.scalar(None, pa.string())).cast(pa.int64())
    others = pc.fill_null(pc.invert(pc.match_substring_regex(text, _INTEGER)), False)
    if not pc.any(others).as_py():
        return values, faults
    places, rest = pc.indices_nonzero(others), text.filter(others)
    floats = pc.match_substring_regex(rest, _FLOAT)
    spelled = pc.replace_substring_regex(pc.if_else(floats, rest, pa.scalar(None, pa.string())), r"^\+", "")
    found, wrong = _from_floats(spelled.cast(pa.float64()), kind, rest)
    for row in pc.indices_nonzero(pc.invert(floats)).to_pylist():
        wrong[row] = _no_integer(rest[row].as_py())
    faults |= {places[row].as_py(): reason for row, reason in wrong.items()}
    return pc.replace_with_mask(values, others, found), dict(sorted(faults.items()))


def _no_integer(word: str) -> str:
    if re.match(_ZERO_FIRST, word):
        return f"{shown(word)} begins with a zero: as an integer it would be {int(word)}; {_TEXT}"
    return f"{shown(word)} is no id: ids are integers here; {_TEXT} if text is meant"


def _too_large(text: pa.Array) -> list[int]:
    """Which of some spelled integers are beyond int64."""
    long = pc.indices_nonzero(pc.greater_equal(pc.utf8_length(text), 19)).to_pylist()
    return [row for row in long if not _SMALLEST <= int(text[row].as_py()) <= _LARGEST]


def _joined(read: tuple[pa.Array, Faults], column: pa.Array, bad: pa.Array, reason: str) -> tuple[pa.Array, Faults]:
    values, faults = read
    faults = {**faults, **dict(_each(column, bad, reason))}
    return pc.if_else(pc.fill_null(bad, False), pa.scalar(None, values.type), values), dict(sorted(faults.items()))


def _each(column: pa.Array, bad: pa.Array, reason: str) -> Iterator[tuple[int, str]]:
    for row in pc.indices_nonzero(pc.fill_null(bad, False)).to_pylist():
        yield row, f"{shown(column[row].as_py())} {reason}"


def _count(found: pa.Array) -> int:
    return pc.sum(found.cast(pa.int64())).as_py() or 0
