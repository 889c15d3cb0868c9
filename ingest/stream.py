"""Files as streams of UTF-8: decompressed by what their first bytes say, decoded by their byte order mark or a setting."""

from __future__ import annotations

import codecs
import contextlib
import io
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from core.errors import DataError

READ_BYTES = 1 << 22
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
_XZ = b"\xfd7zXZ\x00"
_ARCHIVES = {
    b"PK\x03\x04": "a ZIP archive (or a workbook)",
    b"7z\xbc\xaf": "a 7z archive",
    b"\xd0\xcf\x11\xe0": "an Excel workbook",
    b"SQLite format 3": "an SQLite database",
    b"ORC": "an ORC file",
    b"Obj\x01": "an Avro file",
    b"ARROW1": "an Arrow file",
}
# The longer marks first: UTF-16's begins UTF-32's.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[IO[bytes] | pa.NativeFile]:
    """A file as a byte stream, decompressed (gzip, bzip2, xz, zstd, lz4) where its first bytes say so.

    Raises:
        DataError: it does not exist, cannot be read, or is an archive or another kind of file.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(16)
    except FileNotFoundError as error:
        raise DataError("this file does not exist; see data.path in the settings", file=path) from error
    except (PermissionError, IsADirectoryError) as error:
        raise DataError(f"cannot be read ({error})", file=path) from error
    for mark, kind in _ARCHIVES.items():
        if head.startswith(mark):
            raise DataError(f"this is {kind}, which is not read; unpack it or export it as CSV or parquet", file=path)
    if head.startswith(_XZ):
        with lzma.open(path) as stream:
            yield stream  # LZMAFile reads as a byte stream does
        return
    codec = next((codec for mark, codec in _COMPRESSED.items() if head.startswith(mark)), None)
    with pa.input_stream(str(path), compression=codec) as stream:
        yield stream


def first_bytes(path: Path, count: int = 16) -> bytes:
    """The first bytes of a file, after decompression; fewer where the file is shorter."""
    with damage_named(path), opened(path) as stream:
        return bytes(stream.read(count))


@contextlib.contextmanager
def damage_named(path: Path) -> Iterator[None]:
    """Turn what a decompressor says of a damaged or cut-off file into a `DataError`."""
    try:
        yield
    except (EOFError, lzma.LZMAError) as error:
        raise DataError(f"cannot be decompressed ({error})", file=path) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"cannot be decompressed ({error})", file=path) from error


def utf8_blocks(path: Path, encoding: str | None = None, size: int = READ_BYTES) -> Iterator[bytes]:
    """The file's text as UTF-8 in blocks of about `size` bytes, without a byte order mark.

    Args:
        path: the file.
        encoding: of the file; None: what its byte order mark says, else UTF-8, whose bytes are passed on unchecked.
        size: bytes read at a time.

    Raises:
        DataError: `encoding` is unknown, a byte is not text in it, the text holds a NUL byte, or the file is damaged.
    """
    with damage_named(path), opened(path) as stream:
        block = bytes(stream.read(size))
        if encoding is None:
            encoding = next((name for mark, name in _MARKS if block.startswith(mark)), None)
        decoder = None if encoding is None else _decoder(path, encoding)
        lines = 1
        while True:
            try:
                text = block if decoder is None else decoder.decode(block, final=not block).encode()
            except UnicodeError as error:
                raise wrong_encoding(path, encoding) from error
            if (place := text.find(b"\0")) >= 0:
                message = "a NUL byte, which no text holds: the file is damaged, or data.encoding must say utf-16-le"
                raise DataError(message, file=path, row=lines + text.count(b"\n", 0, place))
            if text:
                yield text
            if not block:
                return
            lines += text.count(b"\n")
            block = bytes(stream.read(size))


class Utf8File(io.RawIOBase):
    """Blocks of bytes as a file that pyarrow can read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._held, self._at = blocks, b"", 0

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self._held[self._at :] + b"".join(self._blocks)
        if self._at == len(self._held):
            self._held, self._at = next(self._blocks, b""), 0
        part = self._held[self._at : self._at + size]
        self._at += len(part)
        while len(part) < size and (block := next(self._blocks, b"")):
            self._held, self._at = block, min(len(block), size - len(part))
            part += block[: self._at]
        return part


def wrong_encoding(path: Path, encoding: str | None) -> DataError:
    """The error that says which byte of which line is not text in `encoding`, and what to do."""
    found = first_undecodable(path, encoding)
    name = "UTF-8" if encoding in (None, "utf-8-sig") else encoding
    place = f"byte {found[0]:,} is not {name} text" if found else f"not {name} text"
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
            block = bytes(stream.read(1 << 20))
            held = len(decoder.getstate()[0])
            try:
                decoder.decode(block, final=not block)
            except UnicodeDecodeError as error:
                return offset - held + error.start, line + block[: max(error.start - held, 0)].count(b"\n")
            except UnicodeError:
                return None
            if not block:
                return None
            offset += len(block)
            line += block.count(b"\n")
    return None


def _decoder(path: Path, encoding: str) -> Any:
    try:
        return codecs.getincrementaldecoder(encoding)()
    except LookupError as error:
        raise DataError(f"data.encoding: {error}", file=path) from error
