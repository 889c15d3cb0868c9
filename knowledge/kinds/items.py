"""Item text vectors, raw and compressed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core import logger
from core.digest import sha256_text
from knowledge.open_run import FOLDERS, OpenRun, slices
from knowledge.storage import matrix
from knowledge.storage.matrix import Rows
from knowledge.storage.user_tables import item_digests

LOG = logger("knowledge")


@dataclass(frozen=True)
class Items:
    """Raw vectors of all items of the catalogue.

    Attributes:
        raw: float16 [items, d]; zeros where there is no text.
        known: bool [items], which have a text.
    """

    raw: np.ndarray
    known: np.ndarray

    def digests(self, run: OpenRun) -> pa.Table:
        """A digest per item of all that a user's vectors and text read of it."""
        catalogue = run.catalogue
        told = [f"{text}\n{'|'.join(c)}" for text, c in zip(catalogue.texts, catalogue.categories, strict=True)]
        return item_digests(catalogue.item_ids, told, [row.tobytes() for row in self.raw])


def read_items(run: OpenRun) -> Items:
    """Let the reasoner read all items' texts."""
    texts = run.catalogue.texts
    known = np.array([bool(text) for text in texts], dtype=bool)
    most = run.settings.max_tokens
    # A token is a character at the least.
    long = [text for text in texts if len(text) > most]
    if cut := int((run.reasoner.tokens(long) > most).sum()) if long else 0:
        LOG.warning("%s texts of items are longer than knowledge.max_tokens (%s) and lose their end", f"{cut:,}", most)
    raw = np.zeros((len(known), run.reasoner.dim), dtype=np.float16)
    raw[known] = run.encode([text for text in texts if text], "encoding item texts")
    return Items(raw, known)


def write_items(run: OpenRun, items: Items, out: Path) -> tuple[int, str]:
    """Write raw vectors for the push path, and compressed ones: standardise + PCA, fitted on items of the log before
    training starts.

    Returns:
        Rows and version.
    """
    folder, catalogue = out / FOLDERS["item_text"], run.catalogue
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "raw.npy", items.raw[items.known], allow_pickle=False)
    ids = catalogue.item_ids.filter(pa.array(items.known))
    pq.write_table(pa.table({"item_id": ids}), folder / "raw_index.parquet", compression="zstd")

    def fitted() -> np.ndarray:
        seen = np.flatnonzero((run.log.items_before(run.train_start) > 0) & items.known)
        return items.raw[seen] if len(seen) >= 2 else items.raw[items.known]

    compressor, version = run.compressor("item_text", run.item_recipe(), fitted, run.settings.item_dim)
    rows = Rows("item_id", catalogue.item_ids, catalogue.item_times, run.lag("item_text"))
    order = np.lexsort((np.arange(len(items.raw)), catalogue.item_times))
    order = order[items.known[order]]
    vectors = matrix.create(folder, len(order), compressor.dim)
    for part in slices(len(order), 65_536):
        vectors[part] = compressor.apply(items.raw[order[part]])
    hashes = [sha256_text(catalogue.texts[i]) for i in order]
    return matrix.finish(folder, rows.take(order), "item_text", version, hashes, vectors, compressor), version
