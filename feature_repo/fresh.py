"""What a fresh interaction must be: the one check of everything that is pushed, whichever way it comes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import as_utc, from_micros, to_micros
from core.tables import TIMESTAMP, UNDATED_MICROS, IdTypes, from_values, interactions_schema

_NEEDED = ("user_id", "item_id", "scenario", "event_timestamp", "label")
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Fault:
    """Why a row was not taken: its place among those that came, counted from 0, the field and the reason."""

    row: int
    field: str
    reason: str


def read_records(records: Sequence[Any], ids: IdTypes) -> tuple[pa.Table, list[int], list[Fault]]:
    """Decoded JSON objects as a table of interactions; other fields than its columns are not looked at.

    Times are ISO 8601 texts, UTC where no zone is named. `weight` is 1 and `created_timestamp` the event's time where
    they are left out. A number may stand for a text id, and digits for a number id.

    Args:
        records: the objects.
        ids: types of the ids in the log.

    Returns:
        The rows that could be read, the place of each among the records, and a fault for each of the others.
    """
    schema = interactions_schema(ids)
    readers = _readers(ids)
    rows, places, faults = [], [], []
    for place, record in enumerate(records):
        row, fault = _read(record, readers, place)
        if fault is None:
            rows.append(row)
            places.append(place)
        else:
            faults.append(fault)
    return from_values({name: [row[name] for row in rows] for name in schema.names}, schema), places, faults


def find_faults(rows: pa.Table, scenarios: Sequence[str], latest: int) -> list[Fault]:
    """Rows whose values no later stage could use, each once, in order.

    Args:
        rows: in the schema of interactions.
        scenarios: those that are known.
        latest: no row may be later, in microseconds.
    """
    if not rows.num_rows:
        return []
    times = rows["event_timestamp"].cast(TIMESTAMP).cast(pa.int64())
    weight = rows["weight"]
    known = f"unknown scenario; known: {', '.join(scenarios)}"
    checks = [
        ("scenario", pc.is_in(rows["scenario"], pa.array(scenarios, pa.string())), known),
        ("event_timestamp", pc.less_equal(times, latest), f"later than {from_micros(latest).isoformat()}"),
        ("event_timestamp", pc.greater(times, UNDATED_MICROS), "before 1990: is it in the wrong unit?"),
        ("label", pc.is_in(rows["label"], pa.array([0, 1], pa.int8())), "a label is 0 or 1"),
        ("weight", pc.and_(pc.is_finite(weight), pc.greater_equal(weight, 0)), "a weight is a number from 0 on"),
    ]
    found: dict[int, Fault] = {}
    for field, good, reason in checks:
        for row in np.flatnonzero(~pc.fill_null(good, False).to_numpy()).tolist():
            found.setdefault(row, Fault(row, field, reason))
    return [found[row] for row in sorted(found)]


def _read(record: Any, readers: Mapping[str, Callable[[Any], Any]], place: int) -> tuple[dict[str, Any], Fault | None]:
    if not isinstance(record, Mapping):
        return {}, Fault(place, "", "not a JSON object")
    row: dict[str, Any] = {}
    for name in _NEEDED:
        if record.get(name) is None:
            return {}, Fault(place, name, "missing")
    for name, reader in readers.items():
        value = record.get(name)
        try:
            row[name] = reader(value) if value is not None else None
        except (TypeError, ValueError, OverflowError) as error:
            return {}, Fault(place, name, str(error))
    row["weight"] = 1.0 if row["weight"] is None else row["weight"]
    if row["created_timestamp"] is None:
        row["created_timestamp"] = row["event_timestamp"]
    return row, None


def _readers(ids: IdTypes) -> dict[str, Callable[[Any], Any]]:
    return {
        "user_id": _text_id if pa.types.is_string(ids.user) else _number_id,
        "item_id": _text_id if pa.types.is_string(ids.item) else _number_id,
        "scenario": _text,
        "event_timestamp": _time,
        "label": _label,
        "weight": _number,
        "created_timestamp": _time,
    }


def _number_id(value: Any) -> int:
    if isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not _SMALLEST <= value <= _LARGEST:
        raise ValueError(f"{_shown(value)} is no id: ids are integers here")
    return value


def _text_id(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or not str(value).strip():
        raise ValueError(f"{_shown(value)} is no id: ids are texts here")
    return _text(str(value))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell it, UTF-8 cannot: no table and no store would take it.
        raise ValueError(f"{_shown(value)} holds half of a character (a lone surrogate)") from error
    return value


def _time(value: Any) -> int:
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no time; write ISO 8601, e.g. 2024-01-31T18:30:00.250Z")
    try:
        return to_micros(as_utc(value))
    except ValueError as error:
        raise ValueError(f"{_shown(value)} is no time; write ISO 8601, e.g. 2024-01-31T18:30:00.250Z") from error


def _label(value: Any) -> int:
    if value not in (0, 1):
        raise ValueError(f"{_shown(value)} is no label; a label is 0 or 1")
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{_shown(value)} is no number")
    return float(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
