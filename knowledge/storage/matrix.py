"""A knowledge matrix on disk: `index.parquet` says which row of the matrix `vectors` belongs to whom and when.

`digests` binds each vector to its owner, so that swapped vectors are noticed. Both lie in segments (`core.matrix`): float32
[n, d] and uint8 [n, 32]. Index and matrix are in order of (watermark, id).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.digest import vector_digests
from core.matrix import MatrixWriter
from core.tables import TIMESTAMP, conform, knowledge_schema, knowledge_text_schema
from knowledge.storage.compressor import FILE, Compressor

# Bytes of a digest.
DIGEST = 32


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


def write_matrix(
    folder: Path,
    rows: Rows,
    kind: str,
    version: str,
    hashes: list[str],
    vectors: Iterable[np.ndarray],
    compressor: Compressor,
    earlier: Path | None = None,
) -> int:
    """Write a matrix, its index and digests, and its compressor.

    Args:
        folder: where to.
        rows: whose they are, n.
        kind, version: as the index names them.
        hashes: SHA-256 of what each was made from, hex, n.
        vectors: some rows at a time, float32 [m, d], n in all.
        compressor: what made them.
        earlier: the same folder of the artifact before, whose first rows are linked as far as they are the same.

    Returns:
        n.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = index_table(rows, kind, version, pa.array(hashes, pa.string()))
    pq.write_table(index, folder / "index.parquet", compression="zstd")
    place = 0
    with (
        MatrixWriter(folder / "vectors.npy", compressor.dim, np.float32, earlier and earlier / "vectors.npy") as made,
        MatrixWriter(folder / "digests.npy", DIGEST, np.uint8, earlier and earlier / "digests.npy") as digests,
    ):
        for block in vectors:
            made.write(block)
            ids, own = rows.ids.slice(place, len(block)).to_pylist(), hashes[place : place + len(block)]
            digests.write(vector_digests(ids, version, own, block))
            place += len(block)
    compressor.save(folder / FILE)
    return len(hashes)


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
