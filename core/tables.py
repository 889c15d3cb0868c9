"""The canonical tables: Arrow schemas, checked at every stage border.

Timestamps are microseconds in UTC. Ids are int64 or string, as the source has them. `watermark` says that a derived
row was built from source rows strictly before it; `event_timestamp` says when it could first be read online;
`created_timestamp` is its logical publish time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from core.clock import UNDATED, to_micros
from core.contracts.statistics import statistic_columns
from core.errors import DataError
from core.settings import DataSettings

TIMESTAMP = pa.timestamp("us", tz="UTC")
ROW_NUMBER = "row_number"  # of a row in quarantine
GRADE = "grade"  # context column of interactions: an outcome in steps, float32, null where unknown
UNDATED_MICROS = to_micros(UNDATED)


@dataclass(frozen=True)
class IdTypes:
    """Arrow types of the ids: int64 or string."""

    user: pa.DataType
    item: pa.DataType


def graded(data: DataSettings) -> dict[str, pa.DataType]:
    """The interactions' context columns as the settings ask for them: GRADE or none."""
    return {GRADE: pa.float32()} if data.grade else {}


def interactions_schema(ids: IdTypes, context: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """user_id, item_id, scenario, event_timestamp, label (0/1), weight, created_timestamp, then context columns."""
    return pa.schema(
        [
            pa.field("user_id", ids.user, nullable=False),
            pa.field("item_id", ids.item, nullable=False),
            pa.field("scenario", pa.string(), nullable=False),
            pa.field("event_timestamp", TIMESTAMP, nullable=False),
            pa.field("label", pa.int8(), nullable=False),
            pa.field("weight", pa.float32(), nullable=False),
            pa.field("created_timestamp", TIMESTAMP, nullable=False),
            *(pa.field(name, kind) for name, kind in (context or {}).items()),
        ]
    )


def users_schema(ids: IdTypes, columns: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """user_id, event_timestamp, created_timestamp, then the declared categorical, dense and text columns."""
    return _entity("user_id", ids.user, columns)


def items_schema(ids: IdTypes, columns: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """item_id, event_timestamp, created_timestamp, title, scenarios (null: all), then the declared columns."""
    own = {"title": pa.string(), "scenarios": pa.list_(pa.string())}
    return _entity("item_id", ids.item, {**own, **(columns or {})})


SCENARIOS = pa.schema(
    [
        pa.field("scenario", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("description", pa.string(), nullable=False),
    ]
)


def _times() -> list[pa.Field]:
    return [
        pa.field("event_timestamp", TIMESTAMP, nullable=False),
        pa.field("watermark", TIMESTAMP, nullable=False),
        pa.field("created_timestamp", TIMESTAMP, nullable=False),
    ]


def user_stats_schema(ids: IdTypes) -> pa.Schema:
    """Rows, positives and the smoothed positive rate of a user before `watermark`."""
    return _stats("user", ids.user)


def item_stats_schema(ids: IdTypes) -> pa.Schema:
    """Rows, positives and the smoothed positive rate of an item before `watermark`."""
    return _stats("item", ids.item)


def user_history_schema(ids: IdTypes) -> pa.Schema:
    """`history_end`: how many of the user's positives, in order, lie before `watermark`."""
    return pa.schema(
        [pa.field("user_id", ids.user, nullable=False), *_times(), pa.field("history_end", pa.int64(), nullable=False)]
    )


def user_log_schema(ids: IdTypes) -> pa.Schema:
    """The user's positives in order of (event_timestamp, item_id); `position` counts from 0 within the user."""
    return pa.schema(
        [
            pa.field("user_id", ids.user, nullable=False),
            pa.field("position", pa.int64(), nullable=False),
            pa.field("item_id", ids.item, nullable=False),
            pa.field("event_timestamp", TIMESTAMP, nullable=False),
        ]
    )


def knowledge_schema(key: str, key_type: pa.DataType) -> pa.Schema:
    """Index of a knowledge matrix: which row of the matrix `vectors` holds the vector of `key` at `watermark`."""
    return pa.schema(
        [
            pa.field(key, key_type, nullable=False),
            *_times(),
            pa.field("kind", pa.string(), nullable=False),
            pa.field("version", pa.string(), nullable=False),
            pa.field("prompt_sha256", pa.string(), nullable=False),
            pa.field("row", pa.int64(), nullable=False),
        ]
    )


def knowledge_text_schema(key: str, key_type: pa.DataType) -> pa.Schema:
    """Text for people: `text_source` is `generated` or `summary`."""
    return pa.schema(
        [
            pa.field(key, key_type, nullable=False),
            *_times(),
            pa.field("text", pa.string(), nullable=False),
            pa.field("text_source", pa.string(), nullable=False),
            pa.field("version", pa.string(), nullable=False),
        ]
    )


def quarantine_schema(source: pa.Schema) -> pa.Schema:
    """The source's columns, all nullable; the rule that rejected the row, the run that saw it, and which row it was.

    `row_number` counts from 1 in what was ingested for the window.
    """
    return pa.schema(
        [
            *(field.with_nullable(True) for field in source if field.name != ROW_NUMBER),
            pa.field("rule", pa.string(), nullable=False),
            pa.field("run", pa.string(), nullable=False),
            pa.field(ROW_NUMBER, pa.int64()),
        ]
    )


def from_values(columns: Mapping[str, Sequence[Any]], schema: pa.Schema) -> pa.Table:
    """Plain values as a table of a schema; times are microseconds since 1970-01-01 UTC."""
    arrays = []
    for field in schema:
        values, timed = list(columns[field.name]), field.type == TIMESTAMP
        arrays.append(pa.array(values, pa.int64()).cast(TIMESTAMP) if timed else pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def conform(table: pa.Table, schema: pa.Schema, name: str, file: str | Path | None = None) -> pa.Table:
    """Bring a table to a schema: columns by name, in order, cast without loss, and no null where none may be.

    Raises:
        DataError: a column is missing, has a wrong type, or holds a null; the message names table and column.
    """
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            raise DataError(f"table {name} lacks this column", file=file, column=field.name)
        column = table.column(field.name)
        if column.type != field.type:
            try:
                column = column.cast(field.type)
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                message = f"table {name} needs {field.type} here, not {column.type} ({error})"
                raise DataError(message, file=file, column=field.name) from error
        if not field.nullable and column.null_count:
            row = pc.index(column.is_null(), True).as_py() + 1
            raise DataError(f"table {name} allows no null here", file=file, row=row, column=field.name)
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=schema)


def _entity(key: str, key_type: pa.DataType, columns: Mapping[str, pa.DataType] | None) -> pa.Schema:
    return pa.schema(
        [
            pa.field(key, key_type, nullable=False),
            pa.field("event_timestamp", TIMESTAMP, nullable=False),
            pa.field("created_timestamp", TIMESTAMP, nullable=False),
            *(pa.field(name, kind) for name, kind in (columns or {}).items()),
        ]
    )


def _stats(entity: str, key_type: pa.DataType) -> pa.Schema:
    return pa.schema(
        [
            pa.field(f"{entity}_id", key_type, nullable=False),
            *_times(),
            *(
                pa.field(name, pa.type_for_alias(statistic.type), nullable=False)
                for name, statistic in statistic_columns(entity).items()
            ),
        ]
    )
