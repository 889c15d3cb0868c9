"""One user's pooled vector from an artifact: what the push path computes when fresh rows arrive."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contracts.contract import SpecFile
from core.contracts.kinds import PUSHED
from core.contracts.knowledge_versions import KnowledgeVersions
from core.errors import MissingArtifactError
from core.matrix import Rows, open_matrix
from knowledge.pooling.means import pool_one, weights
from knowledge.storage.compressor import FILE, Compressor


class Decay(SpecFile):
    """`decay.json` beside pooled vectors whose rows count less with age: after how many microseconds half."""

    FILE: ClassVar[str] = "decay.json"
    REMAKE: ClassVar[str] = KnowledgeVersions.REMAKE

    half_life: int


class Pooler:
    """Computes `pooled` vectors with the same bytes as the batch path.

    Attributes:
        version: the version of the `pooled` vectors it makes.
        dim: their length.
    """

    def __init__(
        self, item_ids: pa.Array, raw: Rows, compressor: Compressor, version: str, half_life: int | None = None
    ) -> None:
        self._ids, self._raw, self._compressor, self._half_life = item_ids, raw, compressor, half_life
        self.version, self.dim = version, compressor.dim

    def pool(
        self, positives: Sequence[tuple[int | str, int]], negatives: Sequence[tuple[int | str, int]], watermark: int
    ) -> np.ndarray | None:
        """The vector of a user with these rows, float32 [dim]; None if no item has a vector.

        Args:
            positives: item id and event time (microseconds) of all the user's positive rows before the watermark, in any
                order.
            negatives: the same for the negative rows. Unknown items do not count.
            watermark: of the snapshot, microseconds.
        """
        raw = pool_one(self._rows(positives, watermark), self._rows(negatives, watermark))
        return None if raw is None else self._compressor.apply(raw[None, :])[0]

    def _rows(self, rows: Sequence[tuple[int | str, int]], watermark: int) -> tuple[np.ndarray, np.ndarray]:
        places = pc.index_in(pa.array([item for item, _ in rows], self._ids.type), value_set=self._ids)
        known = np.asarray(places.is_valid())
        times = np.array([time for _, time in rows], dtype=np.int64)[known]
        found = np.asarray(places.drop_null()).astype(np.int64)
        return self._raw[found], weights(times, np.array([watermark]), self._half_life)


def load_pooler(folder: Path) -> Pooler:
    """The pooler of a knowledge artifact; raw item vectors are memory-mapped.

    Raises:
        MissingArtifactError: the artifact holds no pooled vectors.
    """
    own = folder / PUSHED.view
    if not (own / FILE).is_file():
        raise MissingArtifactError(
            f"{folder} holds no {PUSHED.name} vectors; put `{PUSHED.name}` into knowledge.user_vectors"
        )
    ids = pq.read_table(folder / "item_text" / "raw_index.parquet").column("item_id").combine_chunks()
    raw = open_matrix(folder / "item_text" / "raw.npy")
    version = KnowledgeVersions.of(folder, PUSHED.name)
    half_life = Decay.read(own).half_life if (own / Decay.FILE).is_file() else None
    return Pooler(ids, raw, Compressor.load(own / FILE), version, half_life)


def save_decay(folder: Path, half_life: int | None) -> None:
    """Let `load_pooler` know the half-life (microseconds) of the pooled vectors in the folder, if there is one."""
    if half_life is not None:
        Decay(half_life=half_life).write(folder)
