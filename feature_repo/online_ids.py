"""Which ids are online in each view, so that what no table holds any more can be taken out of the store again.

    root/feast/probes/STORE/VIEW.ids.parquet

A list may name more than is online, never less: it grows before rows are written, and shrinks after others were removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import quoted, to_write
from core.files import replace_file
from feature_repo.dimension import without_withdrawn

_BATCH = 2000


class OnlineIds:
    """The ids of one view.

    Args:
        file: where the list is kept.
        key: the id's column.
    """

    def __init__(self, file: Path, key: str) -> None:
        self.file, self.key = file, key

    def of_another_type(self, table: Path) -> bool:
        """Whether the list holds ids of another type than a table does."""
        if not self.file.is_file():
            return False
        kinds = {pq.read_schema(file).field(self.key).type for file in (self.file, table)}
        return len(kinds) > 1

    def grow(self, wanted: str, extra: pa.Table) -> None:
        """Note that the ids of a query, and some more, may come online.

        Args:
            wanted: SQL that gives the ids, see `wanted_ids`.
            extra: a table with the ids beside them.
        """
        self._write(wanted, extra, with_old=True)

    def gone(self, wanted: str, extra: pa.Table) -> Iterator[list[Any]]:
        """The ids of the list that are not wanted any more, some thousand at a time."""
        if not self.file.is_file():
            return
        with duckdb.connect() as connection:
            connection.register("extra", extra)
            query = f"SELECT {self.key} FROM {self._old()} EXCEPT {self._wanted(wanted)} ORDER BY {self.key}"
            for batch in connection.sql(query).to_arrow_reader(_BATCH):
                yield batch.column(0).to_pylist()

    def batches(self) -> Iterator[list[Any]]:
        """The list, some thousand ids at a time."""
        for batch in pq.ParquetFile(self.file).iter_batches(_BATCH):
            yield batch.column(0).to_pylist()

    def shrink(self, wanted: str, extra: pa.Table) -> None:
        """The list is what is wanted, and no more."""
        self._write(wanted, extra, with_old=False)

    def without(self, ids: Sequence[Any]) -> None:
        """Take some ids off the list."""
        table = pq.read_table(self.file)
        kept = table.filter(pa.array([one not in set(ids) for one in table[self.key].to_pylist()], pa.bool_()))
        if kept.num_rows != table.num_rows:
            replace_file(self.file, lambda path: pq.write_table(kept, path, compression="zstd"))

    def _write(self, wanted: str, extra: pa.Table, with_old: bool) -> None:
        with duckdb.connect() as connection:
            connection.register("extra", extra)
            old = f" UNION SELECT {self.key} FROM {self._old()}" if with_old and self.file.is_file() else ""
            query = f"SELECT * FROM ({self._wanted(wanted)}{old}) ORDER BY {self.key}"

            def write(path: Path) -> None:
                connection.execute(f"COPY ({query}) TO {to_write(path)} (FORMAT parquet, COMPRESSION zstd)")

            replace_file(self.file, write)

    def _wanted(self, wanted: str) -> str:
        return f"(SELECT {self.key} FROM ({wanted}) UNION SELECT {self.key} FROM extra)"

    def _old(self) -> str:
        return f"read_parquet({quoted(self.file)})"


def wanted_ids(file: Path, key: str, until: int) -> str:
    """SQL: the ids of a full history that are not withdrawn at a moment (microseconds)."""
    return without_withdrawn(f"SELECT DISTINCT {key} FROM read_parquet({quoted(file)})", key, file, until)
