"""Delimited files as streams of Arrow batches by pyarrow: every row of the file, with errors that name its line."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from core.errors import DataError
from core.settings import CsvDialect
from ingest import dialect as dialects
from ingest.place import Place
from ingest.stream import Utf8File, damage_named, first_undecodable, opened, utf8_blocks, wrong_encoding
from ingest.structure import Structure

__all__ = ["BLOCK_BYTES", "Delimited", "opened", "rebatch", "translated", "wrong_encoding"]

BLOCK_BYTES = 1 << 20
AUTO = CsvDialect()
_PLACE = re.compile(r"(?:In CSV column #(?P<column>\d+): )?(?:Row #(?P<row>\d+): )?(?P<message>.*)", re.DOTALL)
_CODES = {"t": "\t", "n": "\n", "r": "\r", "b": "\b", "f": "\f", "v": "\v", "0": ""}
_DELIMITER = "\x1d"  # stands for an escaped delimiter until the fields are apart


@dataclass(frozen=True)
class Delimited:
    """A delimited file whose structure is known.

    Args:
        path: the file.
        structure: of the whole file under the dialect that it is read with.
        encoding: of the file; None: its byte order mark's, else UTF-8.
        headless: it has no line of names.
    """

    path: Path
    structure: Structure
    encoding: str | None = None
    headless: bool = False

    @classmethod
    def find(
        cls,
        path: Path,
        given: CsvDialect = AUTO,
        *,
        usual: str = ",",
        names: Sequence[str] | None = None,
        known: Collection[str] = (),
        encoding: str | None = None,
    ) -> Delimited:
        """Look at the whole file; arguments and errors as of `ingest.dialect.find`.

        Raises:
            DataError: also where two columns have one name.
        """
        with translated(path, encoding):
            structure = dialects.find(path, given, usual=usual, names=names, known=known, encoding=encoding)
        refuse_repeated(structure.header, path)
        return cls(path, structure, encoding, headless=names is not None)

    @property
    def header(self) -> list[str]:
        """The columns' names, without blanks around them."""
        return self.structure.header

    def place(self, column: str | None = None) -> Place:
        """The file's first row."""
        return Place(self.path, 0, column, self.line)

    def line(self, row: int) -> int:
        """The line of the file on which a row (from 0) begins."""
        return self.structure.lines.of(row)

    def read(self, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        """Stream some columns, in blocks of 1 MiB (read ahead: at most 32 of them).

        Args:
            columns: names and types; others are skipped unparsed.

        Raises:
            DataError: a column is missing, a value has the wrong type or is wrongly encoded, or the rows that come out
                are not as many as the file holds.
        """
        for name in columns:
            if name not in self.header:
                raise DataError(f"no such column; the file has: {', '.join(self.header)}", file=self.path, column=name)
        count = 0
        if self.structure.rows:
            with translated(self.path, self.encoding, self):
                for batch in self._batches(columns):
                    count += batch.num_rows
                    yield batch
        if count != self.structure.rows:
            message = f"{count:,} rows were read, though the file holds {self.structure.rows:,}; see data.csv"
            raise DataError(message, file=self.path)

    def _batches(self, columns: Mapping[str, pa.DataType]) -> Iterator[pa.RecordBatch]:
        dialect = self.structure.dialect
        # Columns are known by their places: a name may be any text.
        places = {str(self.header.index(name)): kind for name, kind in columns.items()}
        codes = dialect.escape if dialect.quote is None else None
        reader = csv.open_csv(
            pa.PythonFile(Utf8File(self._blocks()), mode="r"),
            read_options=csv.ReadOptions(
                use_threads=False,
                block_size=max(BLOCK_BYTES, 2 * self.structure.widest),
                column_names=[str(place) for place in range(len(self.header))],
                skip_rows_after_names=0 if self.headless else 1,
            ),
            parse_options=csv.ParseOptions(
                delimiter=dialect.delimiter,
                quote_char=dialect.quote or False,
                escape_char=False if codes else dialect.escape or False,
                newlines_in_values=self.structure.spanning is not None,
            ),
            convert_options=csv.ConvertOptions(
                column_types=places, include_columns=list(places), null_values=[""], strings_can_be_null=True
            ),
        )
        for batch in reader:
            arrays = [_decoded(column, dialect.delimiter) for column in batch.columns] if codes else batch.columns
            yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def _blocks(self) -> Iterator[bytes]:
        """The file's text from its first line on, with a line end after the last, and escapes that pyarrow knows."""
        dialect, first, held = self.structure.dialect, True, b""
        for block in utf8_blocks(self.path, self.encoding):
            block = held + block
            if first:
                block = block.lstrip(b"\r\n")
                first = not block
            cut = len(block) if dialect.escape is None else max(block.rfind(b"\n"), block.rfind(b"\r")) + 1
            part, held = block[:cut], block[cut:]
            if part:
                yield self._simplified(part)
                last = part[-1:]
        if held:
            yield self._simplified(held)
            last = held[-1:]
        if not first and last not in (b"\n", b"\r"):
            yield b"\n"

    def _simplified(self, block: bytes) -> bytes:
        dialect = self.structure.dialect
        if dialect.escape is None or dialect.escape.encode() not in block:
            return block
        escape, delimiter = re.escape(dialect.escape.encode()), re.escape(dialect.delimiter.encode())
        if dialect.quote is not None:
            if dialect.escape.encode() + b"N" not in block:
                return block
            # pyarrow would take the escape off first, and read an N.
            return re.sub(rb"(?<![^%b\r\n])%bN(?=[%b\r\n]|$)" % (delimiter, escape, delimiter), b"", block)
        own = {b"\n": b"\\n", b"\r": b"\\r", dialect.delimiter.encode(): b"\\" + _DELIMITER.encode()}
        return re.sub(escape + rb"(.)", lambda m: own.get(m[1], b"\\" + m[1]), block, flags=re.DOTALL)


def refuse_repeated(header: Sequence[str], path: Path) -> None:
    """Refuse two columns of one name; columns without a name do not count.

    Raises:
        DataError: it names the column and the file.
    """
    seen: set[str] = set()
    for name in header:
        if name and name in seen:
            places = " and ".join(str(place + 1) for place, other in enumerate(header) if other == name)
            message = f"columns {places} have this name, so that nobody can tell which is meant; rename one in the file"
            raise DataError(message, file=path, column=name)
        seen.add(name)


@contextlib.contextmanager
def translated(path: Path, encoding: str | None = None, file: Delimited | None = None) -> Iterator[None]:
    """Turn what pyarrow says about a file into a `DataError` with its place."""
    try:
        with damage_named(path):
            yield
    except LookupError as error:
        raise DataError(f"data.encoding: {error}", file=path) from error
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, encoding) from error
    except pa.ArrowInvalid as error:
        message = str(error)
        if "Empty CSV" in message or "Empty JSON" in message:
            raise DataError("the file is empty", file=path) from error
        if "UTF8" in message or first_undecodable(path, encoding, limit=1 << 22) is not None:
            raise wrong_encoding(path, encoding) from error
        if "straddl" in message:
            raise DataError(f"a row is longer than {BLOCK_BYTES:,} bytes; is a quote left open?", file=path) from error
        raise _placed(message, path, file) from error


def rebatch(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of exactly `rows` (the last may be shorter), holding at most one such batch."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        start = 0
        while batch.num_rows - start >= rows - count:
            part = batch.slice(start, rows - count)
            yield pa.concat_batches([*held, part]) if held else part
            start, held, count = start + part.num_rows, [], 0
        if start < batch.num_rows:
            held.append(batch.slice(start))
            count += batch.num_rows - start
    if held:
        yield pa.concat_batches(held)


def _decoded(column: pa.Array, delimiter: str) -> pa.Array:
    """Cells with the codes that databases write as what they stand for."""
    if not pa.types.is_string(column.type) or not pa.compute.any(pa.compute.match_substring(column, "\\")).as_py():
        return column
    codes = {**_CODES, _DELIMITER: delimiter}
    cells = [
        re.sub(r"\\(.)", lambda m: codes.get(m[1], m[1]), cell, flags=re.DOTALL)
        if cell and "\\" in cell and cell != "\\N"  # which stands for nothing
        else cell
        for cell in column.to_pylist()
    ]
    return pa.array(cells, pa.string())


def _placed(message: str, path: Path, file: Delimited | None) -> DataError:
    found = _PLACE.match(message.removeprefix("CSV parse error: "))
    assert found is not None
    name, row = None, None
    if file is not None:
        name = file.header[int(found["column"])] if found["column"] else None
        # pyarrow counts rows from 1, the header's included.
        row = file.line(max(int(found["row"]) - (1 if file.headless else 2), 0)) if found["row"] else None
    message = found["message"].removeprefix("CSV conversion error ")
    return DataError(message, file=path, row=row, column=name)
