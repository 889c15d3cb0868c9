"""Questions about whole parquet files, answered by DuckDB without loading them: counts, repeated keys, joins.

Times are compared as they are stored (microseconds, UTC) and never fetched, only counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np

from core import duck
from core.duck import name_of, tables_of

# Of the process's memory: beside it lie a part of a table and what Great Expectations makes of it.
_SHARE = 0.5


def database() -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    """An in-memory database that spills what does not fit."""
    return duck.database(share=_SHARE)


def view(connection: duckdb.DuckDBPyConnection, name: str, *paths: Path) -> None:
    """Make parquet files of the same columns readable as `name`; `file_row_number` counts each one's rows from 0."""
    read = tables_of(paths, file_row_number="true")
    connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {read}")


def one_row(connection: duckdb.DuckDBPyConnection, query: str, parameters: Sequence[Any] = ()) -> dict[str, Any]:
    """The first row of a query's answer, by column name."""
    cursor = connection.execute(query, list(parameters))
    names = [column[0] for column in cursor.description or ()]
    row = cursor.fetchone()
    return dict(zip(names, row, strict=True)) if row is not None else {}


@dataclass(frozen=True)
class Repeats:
    """Rows whose key occurs more than once.

    Args:
        rows: int64 [r], row numbers, ascending.
        groups: int64 [r], which key each belongs to.
    """

    rows: np.ndarray
    groups: np.ndarray

    def among(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(positions, groups) of those in the rows [first, first + count); positions count from `first`."""
        low, high = np.searchsorted(self.rows, [first, first + count])
        return self.rows[low:high] - first, self.groups[low:high]


def repeats(connection: duckdb.DuckDBPyConnection, table: str, key: Sequence[str]) -> Repeats:
    """Find the rows of `table` that share their `key` with another row; keys with a null are left out."""
    columns = ", ".join(map(name_of, key))
    found = connection.execute(
        f"""SELECT file_row_number AS row, id AS "group"
        FROM {table} JOIN (
            SELECT {columns}, row_number() OVER () AS id FROM {table} GROUP BY {columns} HAVING count(*) > 1
        ) USING ({columns}) ORDER BY row"""
    ).fetchnumpy()
    return Repeats(found["row"].astype(np.int64), found["group"].astype(np.int64))
