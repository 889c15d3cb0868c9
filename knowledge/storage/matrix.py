"""A knowledge matrix on disk: `index.parquet` says which row of `vectors.npy` belongs to whom and when.

`digests.npy` binds each vector to its owner, so that swapped vectors are noticed.

`vectors.npy` is float32 [n, d] in C order and can be memory-mapped; index and matrix are in order of (watermark, id).
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.digest import vector_digests
from core.errors import StorageError
from core.tables import TIMESTAMP, conform, knowledge_schema, knowledge_text_schema
from knowledge.storage.compressor import FILE, Compressor


@dataclass(frozen=True)
class Rows:
    """The keys of a matrix or of texts, one entry a row.

    Attributes:
        key: `user_id`, `item_id` or `scenario`.
        ids: Arrow array [n].
        watermarks: int64 [n], microseconds.
        lag: microseconds from watermark to readable.
    """

    key: str
    ids: pa.Array
    watermarks: np.ndarray
    lag: int = 0

    def take(self, order: np.ndarray) -> Rows:
        """The rows in another order, or some of them."""
        return Rows(self.key, self.ids.take(pa.array(order)), self.watermarks[order], self.lag)

    def columns(self) -> dict[str, pa.Array]:
        """Key, event_timestamp, watermark and created_timestamp (a backfill publishes at its event time)."""
        event = pa.array(self.watermarks + self.lag).cast(TIMESTAMP)
        watermark = pa.array(self.watermarks).cast(TIMESTAMP)
        return {self.key: self.ids, "event_timestamp": event, "watermark": watermark, "created_timestamp": event}


def create(folder: Path, rows: int, dim: int) -> np.ndarray:
    """An empty `vectors.npy` to be filled, memory-mapped float32 [rows, dim], its place on the disk taken.

    Raises:
        StorageError: the disk has no room for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if rows == 0:
        np.save(folder / "vectors.npy", np.zeros((0, dim), dtype=np.float32))
        return np.zeros((0, dim), dtype=np.float32)
    path = folder / "vectors.npy"
    vectors = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, dim))
    # A page of a sparse file for which the disk has no room when it is written ends the process.
    with path.open("r+b") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise StorageError(
                f"{path}: no room for {path.stat().st_size:,} bytes ({error.strerror}); free some, or move `root`"
            ) from error
    return vectors


def write_index(folder: Path, rows: Rows, kind: str, version: str, hashes: list[str]) -> None:
    """Write the index of the folder's matrix, whose row i belongs to entry i, and digests of entries and vectors."""
    table = index_table(rows, kind, version, pa.array(hashes, pa.string()))
    pq.write_table(table, folder / "index.parquet", compression="zstd")
    vectors = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    digests = vector_digests(rows.ids.to_pylist(), version, hashes, vectors)
    np.save(folder / "digests.npy", digests, allow_pickle=False)


def index_table(rows: Rows, kind: str, version: str, hashes: pa.Array, first: int = 0) -> pa.Table:
    """The index of the matrix rows from `first` on."""
    count = len(rows.watermarks)
    table = pa.table(
        {
            **rows.columns(),
            "kind": pa.repeat(kind, count),
            "version": pa.repeat(version, count),
            "prompt_sha256": hashes,
            "row": pa.array(np.arange(first, first + count)),
        }
    )
    return conform(table, knowledge_schema(rows.key, rows.ids.type), f"{kind} knowledge")


def finish(
    folder: Path, rows: Rows, kind: str, version: str, hashes: list[str], vectors: np.ndarray, compressor: Compressor
) -> int:
    """Flush the folder's matrix and write index, digests and compressor beside it; returns the rows."""
    if isinstance(vectors, np.memmap):
        vectors.flush()
    write_index(folder, rows, kind, version, hashes)
    compressor.save(folder / FILE)
    return len(hashes)


def write_text(path: Path, rows: Rows, texts: list[str], versions: list[str], sources: list[str]) -> None:
    """Write text for people; each with the version that made it and its source, `generated` or `summary`."""
    pq.write_table(
        text_table(rows, texts, pa.array(versions, pa.string()), pa.array(sources, pa.string())),
        path,
        compression="zstd",
    )


def text_table(rows: Rows, texts: list[str], versions: pa.Array, sources: pa.Array) -> pa.Table:
    """Texts for people, one per row."""
    columns = {**rows.columns(), "text": pa.array(texts, pa.string()), "text_source": sources, "version": versions}
    return conform(pa.table(columns), knowledge_text_schema(rows.key, rows.ids.type), "knowledge text")
