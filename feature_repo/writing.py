"""Query results as parquet files whose bytes follow from their rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import arrow_of, regrouped, slices
from core.parquet import options

ROW_GROUP = 131_072


def write_query(
    connection: duckdb.DuckDBPyConnection, query: str, file: Path, shape: Callable[[pa.Table], pa.Table]
) -> int:
    """Stream a query's result into a file in row groups of one size, so that equal rows make equal bytes.

    Args:
        connection: where the query runs.
        query: SQL that says the order of its rows.
        file: is written; its folder is made.
        shape: gives the rows of some of the result as they are to be written.

    Returns:
        How many rows were written.
    """
    count = write_tables((shape(part) for part in slices(connection, query, ROW_GROUP)), file)
    if not count:
        empty = shape(arrow_of(connection, query))
        pq.write_table(empty, file, **options(empty.schema))
    return count


def write_tables(tables: Iterable[pa.Table], file: Path) -> int:
    """Write tables of one schema one after the other into a file in row groups of one size; without rows there is no file.

    Returns:
        How many rows were written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    writer, count = None, 0
    try:
        for table in regrouped((batch for one in tables for batch in one.to_batches()), ROW_GROUP):
            writer = writer or pq.ParquetWriter(file, table.schema, **options(table.schema))
            writer.write_table(table, row_group_size=ROW_GROUP)
            count += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return count


def rows_in(files: Iterable[Path]) -> Iterator[pa.Table]:
    """The rows of parquet files, some at a time."""
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(ROW_GROUP):
            yield pa.Table.from_batches([batch])
