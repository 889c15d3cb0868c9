"""One user's pooled vector from an artifact: what the push path computes when fresh rows arrive."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import MissingArtifactError
from knowledge.compressor import FILE, Compressor
from knowledge.pooled import pool_one


class Pooler:
    """Computes `pooled` vectors with the same bytes as the batch path.

    Attributes:
        version: the version of the `pooled` vectors it makes.
        dim: their length.
    """

    def __init__(self, item_ids: pa.Array, raw: np.ndarray, compressor: Compressor, version: str) -> None:
        self._ids, self._raw, self._compressor = item_ids, raw, compressor
        self.version, self.dim = version, compressor.dim

    def pool(self, positives: Sequence[int | str], negatives: Sequence[int | str]) -> np.ndarray | None:
        """The vector of a user with these rows, float32 [dim]; None if no item has a vector.

        Args:
            positives: item ids of all the user's positive rows before the watermark, one per row.
            negatives: the same for the negative rows. Unknown items do not count.
        """
        raw = pool_one(self._rows(positives), self._rows(negatives))
        return None if raw is None else self._compressor.apply(raw[None, :])[0]

    def _rows(self, ids: Sequence[int | str]) -> np.ndarray:
        found = pc.index_in(pa.array(ids, self._ids.type), value_set=self._ids).drop_null()
        return self._raw[np.asarray(found).astype(np.int64)]


def load_pooler(folder: Path) -> Pooler:
    """The pooler of a knowledge artifact; raw item vectors are memory-mapped.

    Raises:
        MissingArtifactError: the artifact holds no pooled vectors.
    """
    if not (folder / "user_pooled" / FILE).is_file():
        raise MissingArtifactError(f"{folder} holds no pooled vectors; put `pooled` into knowledge.user_vectors")
    ids = pq.read_table(folder / "item_text" / "raw_index.parquet").column("item_id").combine_chunks()
    raw = np.load(folder / "item_text" / "raw.npy", mmap_mode="r", allow_pickle=False)
    version = json.loads((folder / "versions.json").read_text())["pooled"]
    return Pooler(ids, raw, Compressor.load(folder / "user_pooled" / FILE), version)
