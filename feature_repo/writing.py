"""Query results as parquet files whose bytes follow from their rows alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

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
    file.parent.mkdir(parents=True, exist_ok=True)
    writer, count = None, 0
    try:
        for part in _slices(connection, query):
            table = shape(part)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
            count += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return count


def _slices(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.Table]:
    """The result in tables of exactly ROW_GROUP rows (the last may be shorter; at least one, if empty)."""
    reader = connection.sql(query).to_arrow_reader(ROW_GROUP)
    left = reader.schema.empty_table()
    for batch in reader:
        left = pa.concat_tables([left, pa.Table.from_batches([batch])])
        while left.num_rows > ROW_GROUP:
            yield left.slice(0, ROW_GROUP).combine_chunks()
            left = left.slice(ROW_GROUP)
    yield left.combine_chunks()
