"""One file of a table as it is: parquet with its types, CSV as text, with the columns that its folders' names give."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import DataError
from core.settings import CsvDialect
from ingest.delimited import Delimited, refuse_repeated
from ingest.parts import Part
from ingest.place import Place


class RawFile:
    """A part of a table.

    Args:
        part: the file.
        dialect: of CSV, as the settings say.
        encoding: of CSV, as the settings say.
        known: column names that the settings mention.
    """

    def __init__(self, part: Part, dialect: CsvDialect, encoding: str | None, known: Collection[str] = ()) -> None:
        self.part, self.path = part, part.path
        self._dialect, self._encoding, self._known = dialect, encoding, known

    @cached_property
    def header(self) -> list[str]:
        """Names of the file's columns, then those of its folders.

        Raises:
            DataError: the file cannot be read, or two columns have one name.
        """
        names = [*self._own, *self.part.partition]
        refuse_repeated(names, self.path)
        return names

    @property
    def rows(self) -> int:
        """How many rows the file holds."""
        return self._csv.structure.rows if self._csv else self._footer.num_rows

    def type_of(self, name: str) -> pa.DataType:
        """A column's type; text in CSV and in folders' names."""
        return pa.string() if self.is_text(name) else self._schema.field(name).type

    def is_text(self, name: str) -> bool:
        """Whether a column has no type of its own: it comes from CSV or from a folder's name."""
        return self._csv is not None or name not in self._own

    def place(self) -> Place:
        """The file's first row."""
        return self._csv.place() if self._csv else Place(self.path)

    @property
    def groups(self) -> list[int]:
        """Rows of each part of the file that can be read alone: the row groups of parquet; a CSV file is one."""
        if self._csv:
            return [self.rows]
        return [self._footer.row_group(number).num_rows for number in range(self._footer.num_row_groups)]

    def edges(self, name: str, group: int) -> pa.Array | None:
        """The smallest and the largest value of a column in a group, as the file says them, [2].

        Returns:
            None where it does not, where a value may be missing, and of an empty group.
        """
        if not (self.rows if self._csv else self._footer.row_group(group).num_rows):
            return None
        if name in self.part.partition:
            value = self.part.partition[name]
            return None if value is None else pa.array([value, value])
        if self._csv:
            return None
        column, kind = self._footer.row_group(group).column(self._schema.get_field_index(name)), self.type_of(name)
        known = column.statistics
        exact = pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind)
        if (
            column.path_in_schema != name
            or not exact
            or known is None
            or not known.has_min_max
            or known.null_count != 0
        ):
            return None
        return pa.array([known.min, known.max], kind)

    def read(self, names: Collection[str], rows: int, group: int | None = None) -> Iterator[pa.RecordBatch]:
        """Stream some columns, each once.

        Args:
            names: of the header.
            rows: of a batch of parquet.
            group: of `groups`, counted from 0; None: all.

        Raises:
            DataError: the file is damaged or wrongly encoded.
        """
        names = list(dict.fromkeys(names))
        own = [name for name in names if name in self._own]
        for batch in self._batches(own or self._own[:1], rows, group):
            arrays = [
                batch.column(batch.schema.get_field_index(name))
                if name in own
                else pa.repeat(pa.scalar(self.part.partition[name], pa.string()), batch.num_rows)
                for name in names
            ]
            yield pa.RecordBatch.from_arrays(arrays, names=names)

    @property
    def has_breaks(self) -> bool:
        """Whether values of this CSV file can hold line breaks."""
        found = self._csv.structure if self._csv else None
        return found is not None and (found.spanning is not None or found.dialect.escape is not None)

    @property
    def _own(self) -> list[str]:
        return self._csv.header if self._csv else self._schema.names

    @cached_property
    def _csv(self) -> Delimited | None:
        if self.part.kind != "csv":
            return None
        usual = self.part.usual_delimiter
        return Delimited.find(self.path, self._dialect, usual=usual, known=self._known, encoding=self._encoding)

    @cached_property
    def _footer(self) -> pq.FileMetaData:
        with self._opened() as file:
            return file.metadata

    @cached_property
    def _schema(self) -> pa.Schema:
        return self._footer.schema.to_arrow_schema()

    def _opened(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path)
        except (pa.ArrowInvalid, OSError) as error:
            raise DataError(f"not a parquet file ({error})", file=self.path) from error

    def _batches(self, names: list[str], rows: int, only: int | None) -> Iterator[pa.RecordBatch]:
        if self._csv:
            yield from self._csv.read(dict.fromkeys(names, pa.string()))
            return
        with self._opened() as file:
            try:
                # Group by group: one iterator over all of them holds memory for the whole file.
                for group in range(file.num_row_groups) if only is None else [only]:
                    yield from file.iter_batches(rows, [group], columns=names, use_threads=False)
            except OSError as error:
                raise DataError(f"damaged parquet file ({error})", file=self.path) from error
