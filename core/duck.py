"""DuckDB, as every room opens it: bounded memory, spilling to a folder; results as Arrow tables."""

from __future__ import annotations

import os
import re
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
    """The path of a file to read, as an SQL string; DuckDB would take `*`, `?` and `[` of a folder's name for a pattern."""
    return to_write(re.sub(r"[*?\[]", r"[\g<0>]", str(path)))


def to_write(path: Path | str) -> str:
    """The path of a file to write, as an SQL string; there `*`, `?` and `[` mean themselves."""
    return "'" + str(path).replace("'", "''") + "'"


def name_of(column: str) -> str:
    """A column's name in SQL, whatever it is made of."""
    return '"' + column.replace('"', '""') + '"'


def arrow_of(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """A query's result with one chunk per column."""
    return connection.sql(query).to_arrow_table().combine_chunks()
