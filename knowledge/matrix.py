"""A knowledge matrix on disk: `index.parquet` says which row of `vectors.npy` belongs to whom and when.

`vectors.npy` is float32 [n, d] in C order and can be memory-mapped; index and matrix are in order of (watermark, id).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.tables import TIMESTAMP, conform, knowledge_schema, knowledge_text_schema


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
    """An empty `vectors.npy` to be filled, memory-mapped float32 [rows, dim]."""
    folder.mkdir(parents=True, exist_ok=True)
    if rows == 0:
        np.save(folder / "vectors.npy", np.zeros((0, dim), dtype=np.float32))
        return np.zeros((0, dim), dtype=np.float32)
    return np.lib.format.open_memmap(folder / "vectors.npy", mode="w+", dtype=np.float32, shape=(rows, dim))


def write_index(folder: Path, rows: Rows, kind: str, version: str, hashes: list[str]) -> None:
    """Write the index of a matrix whose row i belongs to entry i."""
    count = len(rows.watermarks)
    table = pa.table(
        {
            **rows.columns(),
            "kind": pa.array([kind] * count, pa.string()),
            "version": pa.array([version] * count, pa.string()),
            "prompt_sha256": pa.array(hashes, pa.string()),
            "row": pa.array(np.arange(count)),
        }
    )
    schema = knowledge_schema(rows.key, rows.ids.type)
    pq.write_table(conform(table, schema, f"{kind} knowledge"), folder / "index.parquet", compression="zstd")


def write_text(path: Path, rows: Rows, texts: list[str], version: str) -> None:
    """Write text for people; all of it is marked `summary`."""
    count = len(texts)
    table = pa.table(
        {
            **rows.columns(),
            "text": pa.array(texts, pa.string()),
            "text_source": pa.array(["summary"] * count, pa.string()),
            "version": pa.array([version] * count, pa.string()),
        }
    )
    schema = knowledge_text_schema(rows.key, rows.ids.type)
    pq.write_table(conform(table, schema, "knowledge text"), path, compression="zstd")
