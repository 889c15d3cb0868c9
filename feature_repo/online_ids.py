"""Which ids are online in each view, so that what no table holds any more can be taken out of the store again.

    root/feast/probes/STORE/VIEW.ids.parquet       the ids
    root/feast/probes/STORE/VIEW.rows.parquet      id, digest: what catalogues said last of them (see `row_digests`)

A list may name more than is online, never less: it grows before rows are written, and shrinks after others were removed.
What is noted of rows may lack some that are online, never name one that is not: it is noted after they were written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.duck import database, quoted, tables_of, to_write
from core.files import replace_file
from core.forgotten import belongs
from core.segments import schema_of, segments
from feature_repo.dimension import without_withdrawn
from feature_repo.online_source import row_digests

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
        kinds = {schema_of(file).field(self.key).type for file in (self.file, table)}
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
        with database(self.file.parent) as connection:
            connection.register("extra", extra)
            query = f"SELECT {self.key} FROM {self._old()} EXCEPT {self._wanted(wanted)} ORDER BY {self.key}"
            for batch in connection.sql(query).to_arrow_reader(_BATCH):
                yield batch.column(0).to_pylist()

    def digests(self) -> pa.Table:
        """The id and `digest` of each row that was noted."""
        if self._rows.is_file():
            return pq.read_table(self._rows)
        kind = pq.read_schema(self.file).field(self.key).type if self.file.is_file() else pa.string()
        return pa.schema([(self.key, kind), ("digest", pa.binary())]).empty_table()

    def note(self, written: Path) -> None:
        """Note the rows of a file, which were written; of who left the list, none is noted any more."""
        kind = pq.read_schema(self.file).field(self.key).type
        schema = pa.schema([(self.key, kind), ("digest", pa.binary())])
        batches = pq.ParquetFile(written).iter_batches(_BATCH)
        rows = [[batch.column(self.key).cast(kind), row_digests(batch)] for batch in batches]
        fresh = pa.Table.from_batches([pa.RecordBatch.from_arrays(row, schema=schema) for row in rows], schema=schema)
        held = self.digests().cast(schema)
        kept = held.filter(pc.invert(pc.is_in(held[self.key], value_set=fresh[self.key].combine_chunks())))
        table = pa.concat_tables([kept, fresh])
        listed = pq.read_table(self.file)[self.key].combine_chunks()
        table = table.filter(pc.is_in(table[self.key], value_set=listed))
        replace_file(self._rows, lambda path: pq.write_table(table, path, compression="zstd"))

    def unnote(self, ids: Sequence[Any]) -> None:
        """Nothing is known of some ids' rows any more; before they are taken away."""
        self._take_out(self._rows, ids)

    def drop(self) -> None:
        """Forget all that is listed and noted."""
        for file in (self._rows, self.file):
            file.unlink(missing_ok=True)

    @property
    def _rows(self) -> Path:
        return self.file.with_name(self.file.name.replace(".ids.parquet", ".rows.parquet"))

    def batches(self) -> Iterator[list[Any]]:
        """The list, some thousand ids at a time."""
        for batch in pq.ParquetFile(self.file).iter_batches(_BATCH):
            yield batch.column(0).to_pylist()

    def shrink(self, wanted: str, extra: pa.Table) -> None:
        """The list is what is wanted, and no more."""
        self._write(wanted, extra, with_old=False)

    def without(self, ids: Sequence[Any]) -> None:
        """Take some ids off the list."""
        self.unnote(ids)
        self._take_out(self.file, ids)

    def _take_out(self, file: Path, ids: Sequence[Any]) -> None:
        if not file.is_file():
            return
        table = pq.read_table(file)
        kept = table.filter(pc.invert(belongs(table[self.key], ids)))
        if kept.num_rows != table.num_rows:
            replace_file(file, lambda path: pq.write_table(kept, path, compression="zstd"))

    def _write(self, wanted: str, extra: pa.Table, with_old: bool) -> None:
        with database(self.file.parent) as connection:
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
    return without_withdrawn(f"SELECT DISTINCT {key} FROM {tables_of(segments(file))}", key, file, until)
