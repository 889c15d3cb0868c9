"""From buckets of users to one artifact in order of (watermark, user), without ever holding it.

Keys are sorted on the disk; vectors lie in a scratch file in the order they came and are copied in the order they go.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.duck import slices, tables_of
from core.matrix import MatrixWriter
from knowledge.storage import queries
from knowledge.storage.matrix import Rows, index_table, text_table

# Rows of the output made at a time.
_ROWS = 16_384
# Bytes of a digest and of a hexadecimal hash.
_DIGEST, _HASH = 32, 64
_NOTHING = np.zeros((0, 1), dtype=np.uint8)


class Merge:
    """Takes tables in any order and writes matrices and texts in order of (watermark, user).

    Args:
        scratch: a folder for work in progress, removed at the end.
    """

    def __init__(self, scratch: Path) -> None:
        self._scratch = scratch
        self._counts: dict[str, int] = {}
        self._files: dict[str, int] = {}

    def __enter__(self) -> Merge:
        self._scratch.mkdir(parents=True)
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._scratch, ignore_errors=True)

    def add(self, name: str, table: pa.Table) -> None:
        """A bucket's table: user_id, watermark, and `vector`, `digest` and `hash`, or `text` and others.

        Vectors and texts go to the scratch file; what is sorted is narrow.
        """
        path = self._scratch / f"{name}.records"
        if "vector" in table.column_names:
            records = _records(table)
            starts, lengths = np.arange(len(table)) * records.shape[1], np.full(len(table), records.shape[1])
            body = records.tobytes()
            table = table.drop_columns(["vector", "digest", "hash"])
        else:
            texts = [text.encode() for text in table["text"].to_pylist()]
            lengths = np.array([len(text) for text in texts], dtype=np.int64)
            starts, body = np.cumsum(lengths) - lengths, b"".join(texts)
            table = table.drop_columns(["text"])
        begin = path.stat().st_size if path.is_file() else 0
        with path.open("ab") as stream:
            stream.write(body)
        table = table.append_column("start", pa.array(starts + begin)).append_column("length", pa.array(lengths))
        number = self._files[name] = self._files.get(name, 0) + 1
        pq.write_table(table, self._scratch / f"{name}.{number}.parquet")
        self._counts[name] = self._counts.get(name, 0) + table.num_rows

    def matrix(
        self, name: str, folder: Path, kind: str, version: str, lag: int, dim: int, earlier: Path | None = None
    ) -> int:
        """Write `index.parquet`, and in segments `vectors` (float32 [n, dim]) and `digests` of a kind; returns its rows.

        Args:
            name: of the tables that were added.
            folder: where to.
            kind, version: as the index names them.
            lag: microseconds from watermark to readable.
            dim: of the vectors.
            earlier: the kind's folder in the artifact before, whose first rows are linked as far as they are the same.
        """
        folder.mkdir(parents=True, exist_ok=True)
        count, row = self._counts[name], 0
        with (
            MatrixWriter(folder / "vectors.npy", dim, np.float32, earlier and earlier / "vectors.npy") as vectors,
            MatrixWriter(folder / "digests.npy", _DIGEST, np.uint8, earlier and earlier / "digests.npy") as digests,
            _Parquet(folder / "index.parquet") as index,
            _Scattered(self._scratch / f"{name}.records") as scattered,
        ):
            for table in self._sorted(name):
                records = np.frombuffer(b"".join(scattered.take(table)), np.uint8).reshape(
                    -1, 4 * dim + _DIGEST + _HASH
                )
                vectors.write(np.ascontiguousarray(records[:, : 4 * dim]).view("<f4").reshape(len(table), dim))
                digests.write(records[:, 4 * dim : 4 * dim + _DIGEST])
                hashes = np.ascontiguousarray(records[:, 4 * dim + _DIGEST :]).view(f"S{_HASH}").ravel()
                rows = Rows("user_id", table["user_id"].combine_chunks(), table["watermark"].to_numpy(), lag)
                index.write(index_table(rows, kind, version, pa.array(hashes, pa.binary()).cast(pa.string()), row))
                row += len(table)
        return count

    def texts(self, name: str, path: Path, lag: int) -> int:
        """Write a table of texts for people; returns its rows."""
        with _Parquet(path) as file, _Scattered(self._scratch / f"{name}.records") as scattered:
            for table in self._sorted(name):
                rows = Rows("user_id", table["user_id"].combine_chunks(), table["watermark"].to_numpy(), lag)
                told = [text.decode() for text in scattered.take(table)]
                file.write(text_table(rows, told, table["version"], table["text_source"]))
        return self._counts[name]

    def _sorted(self, name: str) -> Iterator[pa.Table]:
        """The rows in order; one table without rows where there are none, so that the schema is known."""
        files = [self._scratch / f"{name}.{number + 1}.parquet" for number in range(self._files[name])]
        if not self._counts[name]:
            yield pq.read_table(files[0])
            return
        with queries.database(self._scratch) as connection:
            query = f"SELECT * FROM {tables_of(files)} ORDER BY watermark, user_id"
            yield from slices(connection, query, _ROWS)


class _Parquet:
    """A parquet file written table by table."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> _Parquet:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, table: pa.Table) -> None:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)


class _Scattered:
    """Records of a file, read in any order. Not a memory map: pages around each record would come in with it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Scattered:
        self._file = os.open(self._path, os.O_RDONLY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def take(self, table: pa.Table) -> list[bytes]:
        """The records at `start`, of `length` bytes."""
        bounds = zip(table["start"].to_pylist(), table["length"].to_pylist(), strict=True)
        return [os.pread(self._file, length, start) for start, length in bounds]


def _records(table: pa.Table) -> np.ndarray:
    """Vector, digest and hash of each row side by side, uint8 [n, width]."""
    found = [np.frombuffer(_fixed(table[name].combine_chunks()), np.uint8) for name in ("vector", "digest")]
    found.append(np.array(table["hash"].to_pylist(), dtype=f"S{_HASH}").view(np.uint8))
    return np.concatenate([part.reshape(len(table), -1) for part in found], axis=1) if len(table) else _NOTHING


def vectors_column(vectors: np.ndarray) -> pa.Array:
    """Rows of a contiguous array as fixed-size binary, without a copy."""
    rows = np.ascontiguousarray(vectors)
    width = rows.shape[1] * rows.itemsize
    return pa.Array.from_buffers(pa.binary(width), len(rows), [None, pa.py_buffer(rows)])


def _fixed(column: pa.Array) -> memoryview:
    """The bytes of a fixed-size binary column."""
    width = column.type.byte_width
    return memoryview(column.buffers()[1])[column.offset * width : (column.offset + len(column)) * width]
