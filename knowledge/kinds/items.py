"""Item text vectors, raw and compressed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import logger
from core.digest import sha256_text
from core.matrix import MatrixWriter
from knowledge.open_run import FOLDERS, OpenRun, slices
from knowledge.storage import matrix
from knowledge.storage.matrix import Rows
from knowledge.storage.user_tables import item_digests

LOG = logger("knowledge")
_BLOCK = 65_536


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
    earlier = run.earlier_of("item_text")
    place = _places(items, catalogue.item_ids, earlier)
    with MatrixWriter(folder / "raw.npy", items.raw.shape[1], np.float16, earlier and earlier / "raw.npy") as raw:
        for part in slices(len(place), _BLOCK):
            raw.write(items.raw[place[part]])
    ids = catalogue.item_ids.take(pa.array(place))
    pq.write_table(pa.table({"item_id": ids}), folder / "raw_index.parquet", compression="zstd")

    def fitted() -> np.ndarray:
        seen = np.flatnonzero((run.log.items_before(run.train_start) > 0) & items.known)
        return items.raw[seen] if len(seen) >= 2 else items.raw[items.known]

    compressor, version = run.compressor("item_text", run.item_recipe(), fitted, run.settings.item_dim)
    rows = Rows("item_id", catalogue.item_ids, catalogue.item_times, run.lag("item_text"))
    order = place[np.argsort(catalogue.item_times[place], kind="stable")]
    vectors = (compressor.apply(items.raw[order[part]]) for part in slices(len(order), _BLOCK))
    hashes = [sha256_text(catalogue.texts[i]) for i in order]
    count = matrix.write_matrix(folder, rows.take(order), "item_text", version, hashes, vectors, compressor, earlier)
    return count, version


def _places(items: Items, ids: pa.Array, earlier: Path | None) -> np.ndarray:
    """Places in the catalogue of the items with a text: those that the artifact before had in its order, then the others."""
    known = np.flatnonzero(items.known)
    if earlier is None or not (file := earlier / "raw_index.parquet").is_file():
        return known
    before = pc.index_in(pq.read_table(file)["item_id"].combine_chunks().cast(ids.type), value_set=ids)
    kept = before.drop_null().to_numpy().astype(np.int64)
    kept = kept[items.known[kept]]
    return np.concatenate([kept, np.setdiff1d(known, kept)])
