"""DuckDB, as every room opens it: bounded memory, spilling to a folder; results as Arrow tables."""

from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pyarrow as pa


def connect(scratch: Path | str, memory: str, threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory database.

    Args:
        scratch: where it spills what does not fit; made when needed.
        memory: its limit, e.g. `2GB`.
        threads: none: one per core.
    """
    return duckdb.connect(
        config={"memory_limit": memory, "threads": threads or os.cpu_count() or 1, "temp_directory": str(scratch)}
    )


def quoted(path: Path | str) -> str:
    """A path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def arrow_of(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """A query's result with one chunk per column."""
    return connection.sql(query).to_arrow_table().combine_chunks()
