"""Where a batch of rows came from, for errors that name file, row and column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from core.errors import DataError


@dataclass(frozen=True)
class Place:
    """A column of a file, from `first_row` on, counted as `DataError` shows it.

    Where rows may go over several lines, rows count from 0 and `line` says on which line each begins.
    """

    file: Path
    first_row: int = 1
    column: str | None = None
    line: Callable[[int], int] | None = None

    def at(self, column: str) -> Place:
        """The same rows, another column."""
        return replace(self, column=column)

    def after(self, rows: int) -> Place:
        """The rows that follow `rows` more rows."""
        return replace(self, first_row=self.first_row + rows)

    def error(self, message: str, row: int | None = None) -> DataError:
        """An error here; `row` counts from 0 within the batch."""
        return DataError(message, file=self.file, row=None if row is None else self.number(row), column=self.column)

    def number(self, row: int) -> int:
        """How errors count a row, which counts from 0 within the batch."""
        return self.first_row + row if self.line is None else self.line(self.first_row + row)


def cast(column: pa.Array, kind: pa.DataType, place: Place) -> pa.Array:
    """`column` as `kind`, without loss; lists become one string with `|` between.

    Raises:
        DataError: a value does not fit.
    """
    if column.type == kind:
        return column
    try:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pa.array(
                ["|".join(map(str, v)) if v is not None else None for v in column.to_pylist()], pa.string()
            )
        return column.cast(kind)
    except pa.ArrowInvalid as error:
        row = first_misfit(column, kind)
        raise place.error(f"{column[row].as_py()!r} is no {kind}", row) from error
    except pa.ArrowNotImplementedError as error:
        raise place.error(f"holds {column.type}, which is no {kind}") from error


def first_misfit(column: pa.Array, kind: pa.DataType) -> int:
    """Index of the first value that cannot be cast to `kind`."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if not _fits(column.slice(low, middle - low), kind) else (middle, high)
    return low


def _fits(part: pa.Array, kind: pa.DataType) -> bool:
    try:
        part.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True
