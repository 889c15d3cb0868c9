"""Streaming CSV by pyarrow, with errors that name file, row and column."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv

from core.errors import DataError

BLOCK_BYTES = 1 << 20
NULLS = [""]
_PLACE = re.compile(r"(?:In CSV column #(?P<column>\d+): )?(?:Row #(?P<row>\d+): )?(?P<message>.*)", re.DOTALL)


def read_csv(
    path: Path,
    columns: Mapping[str, pa.DataType],
    *,
    names: Sequence[str] | None = None,
    delimiter: str = ",",
    quoted: bool = True,
    newlines: bool = False,
    encoding: str | None = None,
) -> Iterator[pa.RecordBatch]:
    """Stream some columns of a CSV file (compressed or not), in blocks of 1 MiB (read ahead: at most 32 of them).

    Args:
        path: the file.
        columns: the columns wanted and their types; others are skipped unparsed.
        names: all columns of a file without a header line.
        delimiter: one character.
        quoted: whether `"` encloses values.
        newlines: whether a quoted value may hold line breaks.
        encoding: the text encoding; None is UTF-8.

    Raises:
        DataError: the file is missing, empty or wrongly encoded, a column is missing, or a value has the wrong type.
            Rows count from 1, the header line included.
    """
    header = list(names) if names is not None else header_of(path, delimiter=delimiter, encoding=encoding)
    for name in columns:
        if name not in header:
            raise DataError(f"no such column; the file has: {', '.join(header)}", file=path, column=name)
    with translated(path, header, encoding), opened(path) as stream:
        yield from csv.open_csv(
            stream,
            read_options=csv.ReadOptions(
                use_threads=False, block_size=BLOCK_BYTES, column_names=names, encoding=encoding or "utf8"
            ),
            parse_options=csv.ParseOptions(
                delimiter=delimiter, quote_char='"' if quoted else False, newlines_in_values=newlines
            ),
            convert_options=csv.ConvertOptions(
                column_types=dict(columns),
                include_columns=list(columns),
                null_values=NULLS,
                strings_can_be_null=True,
            ),
        )


def header_of(path: Path, *, delimiter: str = ",", encoding: str | None = None) -> list[str]:
    """The column names in the first line of a CSV file.

    Raises:
        DataError: the file is missing, empty or wrongly encoded.
    """
    with translated(path, [], encoding), opened(path) as stream:
        reader = csv.open_csv(
            stream,
            read_options=csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES, encoding=encoding or "utf8"),
            parse_options=csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        )
        return list(reader.schema.names)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[pa.NativeFile]:
    """A file as a byte stream, decompressed where its name says so.

    Raises:
        DataError: it does not exist or cannot be read.
    """
    try:
        stream = pa.input_stream(str(path), compression="detect")
    except FileNotFoundError as error:
        raise DataError("this file does not exist; see data.path in the settings", file=path) from error
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"cannot be read ({error})", file=path) from error
    with stream:
        yield stream


@contextlib.contextmanager
def translated(path: Path, header: Sequence[str], encoding: str | None) -> Iterator[None]:
    """Turn what pyarrow says about a file into a `DataError` with its place."""
    try:
        yield
    except LookupError as error:
        raise DataError(f"data.encoding: {error}", file=path) from error
    except UnicodeDecodeError as error:
        raise wrong_encoding(path, encoding) from error
    except pa.ArrowInvalid as error:
        message = str(error)
        if "Empty CSV" in message or "Empty JSON" in message:
            raise DataError("the file is empty", file=path) from error
        if "UTF8" in message or not _decodable(path, encoding):
            raise wrong_encoding(path, encoding) from error
        if "straddl" in message:
            raise DataError(f"a row is longer than {BLOCK_BYTES:,} bytes; is a quote left open?", file=path) from error
        raise _placed(message, path, header) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"cannot be decompressed ({error})", file=path) from error


def wrong_encoding(path: Path, encoding: str | None) -> DataError:
    """The error that says which byte of which line is not text in `encoding`, and what to do."""
    found = first_undecodable(path, encoding)
    place = f"byte {found[0]:,} is not {encoding or 'UTF-8'} text" if found else f"not {encoding or 'UTF-8'} text"
    return DataError(
        f"{place}; set data.encoding to the file's own encoding, e.g. latin-1",
        file=path,
        row=found[1] if found else None,
    )


def first_undecodable(path: Path, encoding: str | None, limit: int | None = None) -> tuple[int, int] | None:
    """Offset (from 0) and line (from 1) of the first byte that is not text in `encoding`; None: all is.

    Args:
        path: the file.
        encoding: the encoding expected; None is UTF-8.
        limit: look at this many bytes only.
    """
    decoder = codecs.getincrementaldecoder(encoding or "utf-8")()
    offset, line = 0, 1
    with opened(path) as stream:
        while limit is None or offset < limit:
            block = stream.read(1 << 20)
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return offset - held + error.start, line + block[: max(error.start - held, 0)].count(b"\n")
            if not block:
                return None
            offset += len(block)
            line += block.count(b"\n")
    return None


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


def _decodable(path: Path, encoding: str | None) -> bool:
    return first_undecodable(path, encoding, limit=1 << 22) is None


def _placed(message: str, path: Path, header: Sequence[str]) -> DataError:
    found = _PLACE.match(message.removeprefix("CSV parse error: "))
    assert found is not None
    column, row = found["column"], found["row"]
    name = header[int(column)] if column is not None and int(column) < len(header) else None
    return DataError(
        found["message"].removeprefix("CSV conversion error "), file=path, row=int(row) if row else None, column=name
    )
