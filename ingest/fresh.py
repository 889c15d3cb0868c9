"""The rows of a file that is pushed, as they stand in it: parquet with its types, CSV and JSON lines as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import DataError
from core.settings import DataSettings
from ingest.delimited import header_of, opened, read_csv

_JSON = (".jsonl", ".ndjson", ".json")
_PARQUET = (".parquet", ".pq")


@dataclass(frozen=True)
class FreshRows:
    """What a file holds.

    Attributes:
        count: how many rows.
        columns: by name, [count]; empty where the file is JSON lines.
        records: decoded JSON objects.
        lines: line of the file of each row, where that is not `first` and on.
        first: line (or row, of parquet) of the first row, as errors count.
    """

    count: int
    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    records: list[Any] | None = None
    lines: list[int] | None = None
    first: int = 1

    def line(self, row: int) -> int:
        """The place of a row (from 0) in the file, as errors count."""
        return self.lines[row] if self.lines is not None else self.first + row

    def text(self, row: int) -> str:
        """A row as JSON, for the dead letters: mended, it can be pushed as a JSON line."""
        if self.records is not None:
            return json.dumps(self.records[row], ensure_ascii=True)
        values = {name: column[row].as_py() for name, column in self.columns.items()}
        return json.dumps(values, ensure_ascii=False, default=str)


def fresh_rows(data: DataSettings, file: Path) -> FreshRows:
    """Read a file whole.

    Raises:
        DataError: it does not exist, cannot be read, or lacks a column.
    """
    if not file.is_file():
        raise DataError("no such file", file=file)
    kinds = [suffix.lower() for suffix in file.suffixes]
    if any(kind in _JSON for kind in kinds):
        return _json_lines(file)
    if kinds and kinds[-1] in _PARQUET:
        try:
            with pq.ParquetFile(file) as source:
                _check_names(list(source.schema_arrow.names), data, file)
                table = source.read()
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"not a parquet file ({error})", file=file) from error
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        return FreshRows(table.num_rows, columns)
    delimiter = "\t" if ".tsv" in kinds else ","
    header = header_of(file, delimiter=delimiter, encoding=data.encoding)
    _check_names(header, data, file)
    texts = pa.schema([(name, pa.string()) for name in header])
    batches = read_csv(
        file, dict.fromkeys(header, pa.string()), delimiter=delimiter, newlines=True, encoding=data.encoding
    )
    table = pa.Table.from_batches(batches, schema=texts).combine_chunks()
    return FreshRows(table.num_rows, {name: _whole(table[name]) for name in header}, first=2)


def column_names(header: list[str], data: DataSettings) -> dict[str, str]:
    """Which column of a header each field of an interaction is read from: ours if it is there, else the source's own."""

    def own(name: str) -> str:
        return data.columns.get(f"interactions.{name}", data.columns.get(name, name))

    theirs = {role: own(role) for role in ("user_id", "item_id", "event_timestamp", "weight", "created_timestamp")}
    theirs |= {"scenario": own(data.scenario.column or "scenario"), "label": own(data.label.column)}
    return {role: role if role in header or name not in header else name for role, name in theirs.items()}


def _check_names(header: list[str], data: DataSettings, file: Path) -> None:
    if len(set(header)) < len(header):
        twice = next(name for name in header if header.count(name) > 1)
        raise DataError("this name stands twice in the file", file=file, column=twice)
    for role, name in column_names(header, data).items():
        if name not in header and role not in ("weight", "created_timestamp"):
            raise DataError(
                f"no such column, needed as {role}; the file has: {', '.join(header)}", file=file, column=name
            )


def _json_lines(file: Path) -> FreshRows:
    records: list[Any] = []
    lines: list[int] = []
    with opened(file) as stream:
        for number, line in enumerate(stream.read().split(b"\n"), start=1):
            if line.strip():
                try:
                    records.append(json.loads(line))
                except (ValueError, RecursionError):
                    records.append(line.decode("utf-8", "replace"))  # a text, which is no interaction
                lines.append(number)
    return FreshRows(len(records), records=records, lines=lines)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
