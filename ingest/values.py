"""Raw columns of any source to canonical values, by the settings: the one place where a cell gets its meaning.

Files stop at their first fault, which names file, row, column and the setting to change. The functions below are in
`core.spelling`, `core.ids`, `ingest.times` and `ingest.labels`; pushes use them, too, and set faulty rows aside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from core.ids import read_ids
from core.settings import DataSettings, LabelRule
from core.spelling import Faults, UnfitColumnError, numbers, words
from ingest.labels import outcomes
from ingest.place import Place
from ingest.times import read_times


@dataclass(frozen=True)
class Values:
    """Reads columns as section `data` of the settings says; each method raises `DataError` where a value does not fit."""

    data: DataSettings

    def read(self, batch: pa.RecordBatch, kinds: Mapping[str, pa.DataType], place: Place) -> pa.RecordBatch:
        """Columns of a batch by their types: int64 is an id, float64 a number, all else text; `place` is its first row."""
        columns = {}
        for name, kind in kinds.items():
            here = place.at(name)
            if pa.types.is_integer(kind):
                columns[name] = self.ids(batch[name], kind, here)
            elif pa.types.is_floating(kind):
                columns[name] = self.numbers(batch[name], here)
            else:
                columns[name] = self.text(batch[name], here)
        return pa.RecordBatch.from_pydict(columns)

    def ids(self, column: pa.Array, kind: pa.DataType, place: Place) -> pa.Array:
        """Ids as int64 or string, [n]."""
        with _whole(place):
            return _sound(read_ids(column, kind, self.data.nulls), place)

    def text(self, column: pa.Array, place: Place) -> pa.Array:
        """Words: categories, scenarios, titles; string [n]."""
        with _whole(place):
            return words(column, self.data.nulls)

    def numbers(self, column: pa.Array, place: Place) -> pa.Array:
        """float64 [n]."""
        with _whole(place):
            return _sound(numbers(column, self.data.nulls), place)

    def times(self, column: pa.Array, place: Place, unit: str | None = None) -> pa.Array:
        """`core.tables.TIMESTAMP` [n]; `unit` where the source fixes it."""
        with _whole(place):
            return _sound(
                read_times(column, unit or self.data.timestamp_unit, self.data.timezone, self.data.nulls), place
            )

    def outcomes(self, column: pa.Array, rule: LabelRule, place: Place) -> pa.Array:
        """What the label rule looks at: words or numbers, [n]."""
        with _whole(place):
            return _sound(outcomes(column, rule, self.data.nulls), place)


@contextlib.contextmanager
def _whole(place: Place) -> Iterator[None]:
    """Turns a column that cannot be read at all into an error with its place."""
    try:
        yield
    except UnfitColumnError as error:
        raise place.error(str(error)) from error


def _sound(read: tuple[pa.Array, Faults], place: Place) -> pa.Array:
    values, faults = read
    if faults:
        row = min(faults)
        raise place.error(faults[row], row)
    return values
