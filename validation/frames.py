"""Arrow chunks as the pandas frames that expectations read; null-safe integers, microsecond times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import progress
from core.errors import DataError, MissingArtifactError
from core.segments import segments

_NULLABLE = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
}


def open_parquet(path: Path) -> pq.ParquetFile:
    """A parquet file, not read yet.

    Raises:
        MissingArtifactError: there is no such file.
        DataError: it is not parquet, or is cut short.
    """
    if not path.is_file():
        raise MissingArtifactError(f"{path} does not exist; run the stage that writes it first")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot be read as parquet ({error})", file=path) from error


def open_segments(table: Path) -> list[pq.ParquetFile]:
    """The files of a table in segments, not read yet.

    Raises:
        MissingArtifactError: there is none.
        DataError: one is not parquet, or is cut short.
    """
    return [open_parquet(file) for file in segments(table)]


def row_count(files: Sequence[pq.ParquetFile]) -> int:
    """How many rows files have together."""
    return sum(file.metadata.num_rows for file in files)


def chunks(file: pq.ParquetFile, rows: int, columns: list[str] | None = None) -> Iterator[tuple[int, pa.Table]]:
    """(number of the first row, table of at most `rows` rows), in file order."""
    offset = 0
    for batch in file.iter_batches(batch_size=rows, columns=columns):
        yield offset, pa.Table.from_batches([batch], schema=batch.schema)
        offset += batch.num_rows


def shown(files: Sequence[pq.ParquetFile], rows: int, description: str) -> Iterator[tuple[int, pa.Table]]:
    """As `chunks` of all columns of files one after the other, with progress."""
    starts = accumulate((file.metadata.num_rows for file in files), initial=0)
    found = (
        (start + offset, chunk)
        for start, file in zip(starts, files, strict=False)
        for offset, chunk in chunks(file, rows)
    )
    return progress(found, description, row_count(files), "rows", size=lambda chunk: chunk[1].num_rows)


def to_frame(table: pa.Table, columns: Iterable[str]) -> pd.DataFrame:
    """The named columns that the table has; integers stay integers where nulls are about."""
    names = [name for name in dict.fromkeys(columns) if name in table.column_names]
    return table.select(names).to_pandas(types_mapper=_NULLABLE.get)


def blank_to_null(table: pa.Table, columns: Iterable[str]) -> pa.Table:
    """Texts of nothing but white space become null: a blank id names nobody."""
    for name in columns:
        index = table.schema.get_field_index(name)
        if index >= 0 and is_text(table.schema.field(index).type):
            column = table.column(index)
            blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(column)), 0)
            table = table.set_column(index, name, pc.if_else(blank, pa.scalar(None, column.type), column))
    return table


def is_text(kind: pa.DataType) -> bool:
    """Whether an Arrow type is a text."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_number(kind: pa.DataType) -> bool:
    """Whether an Arrow type is an integer, a float or a boolean."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def type_problems(actual: pa.Schema, expected: pa.Schema) -> list[str]:
    """Columns that are missing or of another type, one sentence each."""
    found = []
    for field in expected:
        if field.name not in actual.names:
            found.append(f"column {field.name!r} is missing")
        elif actual.field(field.name).type != field.type:
            found.append(f"column {field.name!r} is {actual.field(field.name).type}, needs {field.type}")
    return found


def id_type(schema: pa.Schema, name: str) -> pa.DataType:
    """The type an id column has if that is allowed, else int64 (so that the check against it fails)."""
    own = schema.field(name).type if name in schema.names else None
    return own if own in (pa.int64(), pa.string()) else pa.int64()
