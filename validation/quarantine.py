"""Splits a table into the rows that pass and the rows that a rule rejected; nothing is lost, nothing is changed."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.parquet import options
from core.tables import ROW_NUMBER, conform, quarantine_schema

KEEP = -1


class Splitter:
    """Streams chunks of one table into TABLE.parquet and quarantine_TABLE.parquet.

    Args:
        folder: where the two files are written.
        table: the table's name.
        clean: the strict schema of the rows that pass.
        source: the schema of the rows as they come.
        run: the run that quarantined rows name.
    """

    def __init__(self, folder: Path, table: str, clean: pa.Schema, source: pa.Schema, run: str) -> None:
        self.table, self.run = table, run
        self.clean_schema, self.quarantine_schema = clean, quarantine_schema(source)
        self.clean = self.quarantined = 0
        self._clean_file = _writer(folder / f"{table}.parquet", clean)
        self._quarantine_file = _writer(folder / f"quarantine_{table}.parquet", self.quarantine_schema)

    def write(self, chunk: pa.Table, owner: np.ndarray, rules: list[str], offset: int = 0) -> None:
        """Send each row to one of the two files.

        Args:
            chunk: n rows of the source.
            owner: int [n], position in `rules` of the rule that rejects the row, or `KEEP`.
            rules: rule names.
            offset: rows of the source before these. A source that was set aside before says itself which rows these were.
        """
        kept = chunk.filter(pa.array(owner == KEEP))
        rejected = chunk.filter(pa.array(owner != KEEP))
        if kept.num_rows:
            self._clean_file.write_table(conform(kept, self.clean_schema, self.table))
        if rejected.num_rows:
            names = pa.array([rules[index] for index in owner[owner != KEEP]], pa.string())
            run = pa.array([self.run] * rejected.num_rows, pa.string())
            places = pa.array(np.flatnonzero(owner != KEEP) + offset + 1)
            if ROW_NUMBER in chunk.column_names:
                places, rejected = rejected[ROW_NUMBER], rejected.drop_columns([ROW_NUMBER])
            columns = [*rejected.columns, names, run, places]
            self._quarantine_file.write_table(pa.Table.from_arrays(columns, schema=self.quarantine_schema))
        self.clean += kept.num_rows
        self.quarantined += rejected.num_rows

    def __enter__(self) -> Splitter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clean_file.close()
        self._quarantine_file.close()


def _writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    return pq.ParquetWriter(path, schema, **options(schema))
