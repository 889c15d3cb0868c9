"""Query results as parquet files whose bytes follow from their rows alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import arrow_of, slices

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
        for part in slices(connection, query, ROW_GROUP):
            table = shape(part)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
            count += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        pq.write_table(shape(arrow_of(connection, query)), file, compression="zstd")
    return count
