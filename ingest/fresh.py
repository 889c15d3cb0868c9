"""The rows of a file that is pushed, as they stand in it: parquet with its types, CSV and JSON lines as text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from core.errors import DataError
from core.objects import read_json
from core.settings import DataSettings
from ingest.parts import one_part
from ingest.raw import RawFile
from ingest.stream import opened

_JSON = re.compile(r"\.(jsonl|ndjson|json)(\.\w+)?$")
_OURS = ("user_id", "item_id", "scenario", "event_timestamp", "label", "weight", "created_timestamp")


class Unread(str):
    """A line that could not be decoded, and why."""

    reason: str

    def __new__(cls, text: str, reason: str) -> Unread:
        """The line's text."""
        line = super().__new__(cls, text)
        line.reason = reason
        return line


@dataclass(frozen=True)
class FreshRows:
    """What a file holds.

    Attributes:
        count: how many rows.
        columns: by name, [count]; empty where the file is JSON lines.
        records: decoded JSON objects; of a line that is none, `Unread`.
        line: from a row (from 0) to its line in the file, or its row in parquet, as errors count.
    """

    count: int
    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    records: list[Any] | None = None
    line: Callable[[int], int] = int

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
    if _JSON.search(file.name):
        return _json_lines(file)
    raw = RawFile(one_part(file, "push"), data.csv, data.encoding, {*data.columns.values(), *_OURS})
    _check_names(raw.header, data, file)
    batches = list(raw.read(raw.header, data.batch_rows))
    columns = {
        name: pa.concat_arrays([batch.column(place) for batch in batches])
        for place, name in enumerate(raw.header)
        if batches
    }
    place = raw.place()
    return FreshRows(raw.rows, columns, line=place.number)


def column_names(header: Collection[str], data: DataSettings) -> dict[str, str]:
    """Which column of a header each field of an interaction is read from.

    Where all that the source's own rows need is there, they are the source's; else ours if it is there, else the source's.
    """

    def own(name: str) -> str:
        return data.columns.get(f"interactions.{name}", data.columns.get(name, name))

    theirs = {role: own(role) for role in ("user_id", "item_id", "event_timestamp", "weight", "created_timestamp")}
    theirs |= {"scenario": own(data.scenario.column or "scenario"), "label": own(data.label.column)}
    if data.label.op == "all":
        theirs["label"] = "label"
    needed = [role for role in theirs if role not in _optional(data)]
    foreign = all(theirs[role] in header for role in needed)
    return {role: name if name in header and (foreign or role not in header) else role for role, name in theirs.items()}


def _optional(data: DataSettings) -> tuple[str, ...]:
    """Fields that rows of the source may lack."""
    return ("weight", "created_timestamp", *(["label"] if data.label.op == "all" else []))


def _check_names(header: list[str], data: DataSettings, file: Path) -> None:
    for role, name in column_names(header, data).items():
        if name not in header and role not in _optional(data):
            raise DataError(
                f"no such column, needed as {role}; the file has: {', '.join(header)}", file=file, column=name
            )


def _json_lines(file: Path) -> FreshRows:
    records: list[Any] = []
    lines: list[int] = []
    with opened(file) as stream:
        text = bytes(stream.read())
        if text.lstrip()[:1] == b"[" and (whole := _array(text)) is not None:
            return FreshRows(len(whole), records=whole, line=lambda row: row + 1)
        for number, line in enumerate(text.split(b"\n"), start=1):
            if line.strip():
                try:
                    records.append(read_json(line))
                except ValueError as error:
                    records.append(Unread(line.decode("utf-8", "replace"), str(error)))
                lines.append(number)
    return FreshRows(len(records), records=records, line=lines.__getitem__)


def _array(text: bytes) -> list[Any] | None:
    """The objects of a text that is one JSON array; None if it is none."""
    try:
        found = read_json(text)
    except ValueError:
        return None
    return found if isinstance(found, list) else None
