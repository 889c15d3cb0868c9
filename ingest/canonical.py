"""Raw batches of a source to batches of the canonical schemas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from core.errors import DataError
from core.spelling import numbers
from core.tables import TIMESTAMP, UNDATED_MICROS, graded, interactions_schema, items_schema, users_schema
from ingest.labels import read_labels
from ingest.scenarios import ScenarioMap
from ingest.source import VALUE, VALUES, Source


def nullable(schema: pa.Schema) -> pa.Schema:
    """The schema with nulls allowed everywhere: what is handed to validation."""
    return pa.schema([field.with_nullable(True) for field in schema])


def canonical_interactions(raw: pa.RecordBatch, source: Source, mapping: ScenarioMap) -> pa.RecordBatch:
    """One raw batch of the log as `core.tables.interactions_schema`, all columns nullable.

    Raises:
        DataError: the column of the label rule or the grade is missing or holds no numbers.
    """
    label = _label(raw, source)
    weight = pc.fill_null(raw["weight"].cast(pa.float32()), 1.0) if "weight" in raw.schema.names else _ones(raw)
    time = raw["event_timestamp"]
    columns = [raw["user_id"], raw["item_id"], mapping.apply(raw[VALUE]), time, label, weight, time]
    context = graded(source.data)
    columns += [_grade(raw, source)] if context else []
    return pa.RecordBatch.from_arrays(columns, schema=nullable(interactions_schema(source.ids, context)))


def _label(raw: pa.RecordBatch, source: Source) -> pa.Array:
    """What the label rule makes of its column, int8 [n]."""
    rule = source.label
    if rule.op == "all":
        return pa.repeat(pa.scalar(1, pa.int8()), raw.num_rows)
    if rule.column not in raw.schema.names:
        raise DataError("data.label.column is not in the log", file=source.files()[0], column=rule.column)
    label, faults = read_labels(raw[rule.column], rule, source.data.nulls)
    if faults:
        raise DataError(min(faults.items())[1], file=source.files()[0], column=rule.column)
    return label


def _grade(raw: pa.RecordBatch, source: Source) -> pa.Array:
    """The column that `data.grade` names, as numbers."""
    name = source.grade
    if name not in raw.schema.names:
        readable = sorted({source.label.column, "weight"} & set(raw.schema.names))
        raise DataError(
            f"data.grade is not read from the log of source {source.data.source!r}; {' and '.join(readable)} can be",
            file=source.files()[0],
            column=name,
        )
    grade, faults = numbers(raw[name], source.data.nulls)
    if faults:
        raise DataError(f"data.grade: {min(faults.items())[1]}", file=source.files()[0], column=name)
    return grade.cast(pa.float32(), safe=False)


@dataclass(frozen=True)
class Entities:
    """Users or items of a source, as batches of their canonical schema."""

    source: Source
    mapping: ScenarioMap
    key: str
    schema: pa.Schema
    stream: Callable[[], Iterator[pa.RecordBatch] | None]

    @classmethod
    def users(cls, source: Source, mapping: ScenarioMap) -> Entities:
        """The users' table."""
        return cls(source, mapping, "user_id", nullable(users_schema(source.ids, source.user_columns)), source.users)

    @classmethod
    def items(cls, source: Source, mapping: ScenarioMap) -> Entities:
        """The items' table."""
        return cls(source, mapping, "item_id", nullable(items_schema(source.ids, source.item_columns)), source.items)

    def batches(self, ids: pa.Array | None) -> Iterator[pa.RecordBatch]:
        """All rows; where the source has no such table, one row per id of the log.

        Args:
            ids: the log's distinct ids, where the source has no table of its own.
        """
        stream = self.stream()
        if stream is None:
            assert ids is not None
            stream = iter([pa.RecordBatch.from_arrays([ids], [self.key])])
        for raw in stream:
            yield self._canonical(raw)

    def _canonical(self, raw: pa.RecordBatch) -> pa.RecordBatch:
        columns = []
        for field in self.schema:
            if field.name in ("event_timestamp", "created_timestamp"):
                columns.append(_times(raw))
            elif field.name == "scenarios":
                columns.append(self._scenarios(raw))
            elif field.name in raw.schema.names:
                columns.append(raw[field.name])
            else:
                columns.append(pa.nulls(raw.num_rows, field.type))
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)

    def _scenarios(self, raw: pa.RecordBatch) -> pa.Array:
        """String lists [n]: names of the item's values, without those that belong to no scenario."""
        if VALUES not in raw.schema.names:
            return pa.nulls(raw.num_rows, pa.list_(pa.string()))
        names = [
            None if values is None else _known(self.mapping.name(value) for value in values)
            for values in raw[VALUES].to_pylist()
        ]
        return pa.array(names, pa.list_(pa.string()))


def _known(names: Iterator[str | None]) -> list[str]:
    return [name for name in dict.fromkeys(names) if name is not None]


def _times(raw: pa.RecordBatch) -> pa.Array:
    undated = pa.scalar(UNDATED_MICROS, pa.int64()).cast(TIMESTAMP)
    if "event_timestamp" not in raw.schema.names:
        return pa.repeat(undated, raw.num_rows)
    return pc.fill_null(raw["event_timestamp"], undated)


def _ones(raw: pa.RecordBatch) -> pa.Array:
    return pa.repeat(pa.scalar(1.0, pa.float32()), raw.num_rows)
