"""What a fresh interaction must be: the one check of everything that is pushed, whichever way it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import from_micros
from core.ids import read_id, read_ids
from core.settings import DataSettings, LabelRule
from core.spelling import Faults, UnfitColumnError, numbers, words
from core.tables import TIMESTAMP, UNDATED_MICROS, IdTypes, interactions_schema
from ingest.fresh import Unread, column_names
from ingest.labels import read_labels
from ingest.scenarios import ScenarioMap
from ingest.times import read_times

_NEEDED = ("user_id", "item_id", "scenario", "event_timestamp", "label")
_NOTHING = "missing: the cell is empty, or holds a word for nothing (data.nulls)"
_MEANING = {
    "scenario": "text",
    "event_timestamp": "time",
    "created_timestamp": "time",
    "label": "label",
    "weight": "number",
}
_DEFAULTS = DataSettings()
# What a column named `label` holds, unless it is the source's own and all else is, too.
_OURS = LabelRule(column="label", op="is")


@dataclass(frozen=True)
class RowFault:
    """Why a row was not taken: its place among those that came, counted from 0, the field and the reason."""

    row: int
    field: str
    reason: str


def read_records(
    records: Sequence[Any], ids: IdTypes, data: DataSettings = _DEFAULTS, scenarios: Sequence[str] = ()
) -> tuple[pa.Table, list[int], list[RowFault]]:
    """Decoded JSON objects as a table of interactions; arguments and results as of `read_columns`.

    Each record has our names or the source's, whatever the others have; fields that are neither are not looked at.
    """
    alike: dict[tuple[Any, ...], list[int]] = {}
    for place, record in enumerate(records):
        alike.setdefault(tuple(record) if isinstance(record, Mapping) else (), []).append(place)
    tables, places, faults = [interactions_schema(ids).empty_table()], [], []
    for fields, at in alike.items():
        table, sound, wrong = _read_alike([records[place] for place in at], fields, ids, data, scenarios)
        tables.append(table)
        places += [at[row] for row in sound]
        faults += [replace(fault, row=at[fault.row]) for fault in wrong]
    order = np.argsort(places, kind="stable")
    rows = pa.concat_tables(tables).take(pa.array(order, pa.int64()))
    return rows, sorted(places), sorted(faults, key=lambda fault: fault.row)


def _read_alike(
    records: Sequence[Any], fields: Sequence[Any], ids: IdTypes, data: DataSettings, scenarios: Sequence[str]
) -> tuple[pa.Table, list[int], list[RowFault]]:
    """Records with the same fields."""
    names = column_names([str(name) for name in fields], data)
    columns: dict[str, list[str | None]] = {name: [] for name in names.values() if name in fields}
    faults: dict[int, RowFault] = {}
    for place, record in enumerate(records):
        if not isinstance(record, Mapping):
            reason = record.reason if isinstance(record, Unread) else "not a JSON object"
            faults[place] = RowFault(place, "", reason)
            continue
        for role, name in names.items():
            if name not in columns or len(columns[name]) > place:
                continue
            try:
                columns[name].append(_cell(record[name], role, ids, data))
            except ValueError as error:
                columns[name].append(None)
                faults.setdefault(place, RowFault(place, name, str(error)))
    arrays = {name: pa.array(values, pa.string()) for name, values in columns.items()}
    return read_columns(arrays, len(records), ids, data, scenarios, faults)


def read_columns(
    columns: Mapping[str, pa.Array],
    count: int,
    ids: IdTypes,
    data: DataSettings = _DEFAULTS,
    scenarios: Sequence[str] = (),
    known: Mapping[int, RowFault] | None = None,
) -> tuple[pa.Table, list[int], list[RowFault]]:
    """Raw columns as a table of interactions, by the rules of ingest.

    Args:
        columns: by our names (user_id, item_id, scenario, event_timestamp, label; weight and created_timestamp may be
            left out), or by the source's, as the settings map them.
        count: how many rows they have.
        ids: types of the ids in the log.
        data: how the source spells ids, nothing, times and labels.
        scenarios: names that are known; other values are mapped as ingest maps them.
        known: faults that were found before, by row.

    Returns:
        The rows that could be read, the place of each among all, and a fault for each of the others.
    """
    names, faults = column_names(columns, data), dict(known or {})
    foreign = any(theirs != role and theirs in columns for role, theirs in names.items())
    read: dict[str, pa.Array] = {}
    schema = interactions_schema(ids)
    for role, name in names.items():
        column = columns.get(name)
        if role == "label" and data.label.op == "all" and (foreign or column is None):
            column = pa.repeat(pa.scalar("1"), count)
        if column is None:
            column = pa.nulls(count, pa.string())
        try:
            read[role], wrong = _values(role, column, name, ids, data, scenarios, foreign)
        except UnfitColumnError as error:
            read[role], wrong = pa.nulls(count, schema.field(role).type), dict.fromkeys(range(count), str(error))
        for row, reason in wrong.items():
            faults.setdefault(row, RowFault(row, name, reason))
        if role in _NEEDED:
            for row in np.flatnonzero(read[role].is_null().to_numpy(zero_copy_only=False)).tolist():
                reason = "a label is 0 or 1" if role == "label" and column[row].is_valid else _NOTHING
                faults.setdefault(row, RowFault(row, name, reason))
    read["weight"] = pc.fill_null(read["weight"], 1.0)
    read["created_timestamp"] = pc.coalesce(read["created_timestamp"], read["event_timestamp"])
    places = [row for row in range(count) if row not in faults]
    table = pa.table(
        {field.name: _typed(read[field.name].take(pa.array(places, pa.int64())), field) for field in schema}
    )
    return table.cast(schema), places, [faults[row] for row in sorted(faults)]


def find_faults(rows: pa.Table, scenarios: Sequence[str], latest: int) -> list[RowFault]:
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
    found: dict[int, RowFault] = {}
    for field, good, reason in checks:
        for row in np.flatnonzero(~pc.fill_null(good, False).to_numpy()).tolist():
            found.setdefault(row, RowFault(row, field, reason))
    return [found[row] for row in sorted(found)]


def _values(
    role: str,
    column: pa.Array,
    name: str,
    ids: IdTypes,
    data: DataSettings,
    scenarios: Sequence[str],
    foreign: bool,
) -> tuple[pa.Array, Faults]:
    if role in ("user_id", "item_id"):
        return read_ids(column, ids.user if role == "user_id" else ids.item, data.nulls)
    if role in ("event_timestamp", "created_timestamp"):
        return read_times(column, data.timestamp_unit, data.timezone, data.nulls, texts=True)
    if role == "scenario":
        return _scenarios(words(column, data.nulls), data, scenarios), {}
    if role == "weight":
        return numbers(column, data.nulls)
    if name == "label" and not (foreign and name == data.label.column):
        return read_labels(column, _OURS, data.nulls)
    return read_labels(column, data.label, data.nulls)


def _scenarios(values: pa.Array, data: DataSettings, known: Sequence[str]) -> pa.Array:
    """Names of scenarios, or the values that ingest makes them of."""
    mapping = ScenarioMap(data.scenario, "column" if data.source == "table" else "source")
    names = {v: v if v in known or not known else mapping.name(v) for v in pc.unique(values.drop_null()).to_pylist()}
    return pa.array([None if v is None else names[v] or v for v in values.to_pylist()], pa.string())


def _cell(value: Any, role: str, ids: IdTypes, data: DataSettings) -> str | None:
    """A JSON value as a file would spell it; an id at once by its rule, since only here its type is known."""
    if value is None:
        return None
    if role in ("user_id", "item_id"):
        return str(read_id(value, ids.user if role == "user_id" else ids.item, data.nulls))
    if isinstance(value, bool):
        if role != "label":
            raise ValueError(f"{_shown(value)} is no {_MEANING[role]}")
        return "1" if value else "0"
    if isinstance(value, int | float):
        return repr(int(value) if float(value).is_integer() else value)
    if not isinstance(value, str):
        raise ValueError(f"{_shown(value)} is no {_MEANING[role]}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        # JSON can spell it, UTF-8 cannot: no table and no store would take it.
        raise ValueError(f"{_shown(value)} holds half of a character (a lone surrogate)") from error
    return value


def _typed(column: pa.Array, field: pa.Field) -> pa.Array:
    return column if column.type == field.type else column.cast(field.type)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
