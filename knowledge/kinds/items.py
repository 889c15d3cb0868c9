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
from core.matrix import MatrixWriter, open_matrix
from knowledge.log.catalogue import read_items_of, same_items
from knowledge.open_run import FOLDERS, OpenRun, slices
from knowledge.storage.compressor import FILE
from knowledge.storage.matrix import IndexedMatrix, Rows

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
    about = ("item_text", version, run.lag("item_text"), compressor.dim)
    with IndexedMatrix(folder, ("item_id", catalogue.item_ids.type), *about, earlier) as matrix:
        for part in slices(len(order), _BLOCK):
            chosen = order[part]
            hashes = pa.array([sha256_text(catalogue.texts[i]) for i in chosen], pa.string())
            matrix.write(rows.take(chosen), hashes, compressor.apply(items.raw[chosen]))
    compressor.save(folder / FILE)
    return len(order), version


def changed_items(run: OpenRun, items: Items) -> pa.Array | None:
    """The items that are new, gone, or of another text, categories or raw vector than in the artifact before; None where
    that cannot be told.
    """
    folder = run.earlier_of("item_text")
    if run.earlier is None or folder is None or run.earlier.made_of.items != run.made_of.items:
        return None
    then, now = read_items_of(run.earlier.folder), run.items
    if then.schema != now.schema:
        return None
    same = np.asarray(same_items(now, then)) & _same_vectors(items, now["item_id"].combine_chunks(), folder)
    gone = then["item_id"].filter(pc.invert(pc.is_in(then["item_id"], value_set=now["item_id"].combine_chunks())))
    return pa.concat_arrays([now["item_id"].combine_chunks().filter(pa.array(~same)), gone.combine_chunks()])


def _same_vectors(items: Items, ids: pa.Array, folder: Path) -> np.ndarray:
    """Which items have the raw vector that they had, bool [items]; that of none is none."""
    before = pq.read_table(folder / "raw_index.parquet")["item_id"].combine_chunks()
    raw = open_matrix(folder / "raw.npy")
    place = pc.fill_null(pc.index_in(ids, value_set=before.cast(ids.type)), -1).to_numpy(zero_copy_only=False)
    same = (place >= 0) == items.known
    if raw.shape[1] != items.raw.shape[1]:
        return np.zeros(len(ids), dtype=bool)
    for part in slices(len(ids), _BLOCK):
        there = np.flatnonzero(same[part] & items.known[part]) + part.start
        same[there] = (raw[place[there]].view(np.uint16) == items.raw[there].view(np.uint16)).all(axis=1)
    return same


def _places(items: Items, ids: pa.Array, earlier: Path | None) -> np.ndarray:
    """Places in the catalogue of the items with a text: those that the artifact before had in its order, then the others."""
    known = np.flatnonzero(items.known)
    if earlier is None or not (file := earlier / "raw_index.parquet").is_file():
        return known
    before = pc.index_in(pq.read_table(file)["item_id"].combine_chunks().cast(ids.type), value_set=ids)
    kept = before.drop_null().to_numpy().astype(np.int64)
    kept = kept[items.known[kept]]
    return np.concatenate([kept, np.setdiff1d(known, kept)])
