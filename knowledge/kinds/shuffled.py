"""The vectors of a knowledge artifact as they would be if every item had the title of another one: a placebo.

What a user's vectors hold beside the titles' meaning stays: which items the user liked, how many, and when. What differs is
what the texts say.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import logger, progress
from core.contracts.kinds import kinds_of
from core.matrix import open_matrix
from core.segments import read_segments, table_path
from knowledge.kinds.items import Items
from knowledge.kinds.user_kind import OfItems, user_kind
from knowledge.log.sources import item_positions
from knowledge.open_run import FOLDERS, OpenLog
from knowledge.storage import compressor

LOG = logger("knowledge")


def shuffled_titles(run: OpenLog, artifact: Path, groups: pa.Table, seed: int) -> dict[str, np.ndarray]:
    """Item text vectors exchanged within groups, and user vectors made from them; no reasoner reads anything.

    Args:
        run: that made the artifact; the compressor is fitted anew on rows before its start of training.
        artifact: of the stage `knowledge`.
        groups: item_id, scenario: titles move within a scenario only; items that are not there form one group.
        seed: of the exchange.

    Returns:
        `item_text` and the artifact's kinds of user vectors that are made of item vectors, e.g. `user_pooled`: float32, the
        shape and order of the artifact's matrices.
    """
    raw, known_ids = np.asarray(open_matrix(artifact / FOLDERS["item_text"] / "raw.npy")), _raw_ids(artifact)
    source = _exchange(known_ids, groups, seed)
    found = {"item_text": _items(artifact, known_ids, source)}
    there = {kind.view: user_kind(kind.name) for kind in kinds_of("user") if (artifact / kind.view).is_dir()}
    if of_items := {view: kind for view, kind in there.items() if isinstance(kind, OfItems)}:
        place = item_positions(pa.chunked_array([known_ids]), run.catalogue)
        vectors = np.zeros((len(run.catalogue.item_ids), raw.shape[1]), raw.dtype)
        known = np.zeros(len(run.catalogue.item_ids), bool)
        vectors[place], known[place] = raw[source], True
        for view, kind in of_items.items():
            found[view] = _of_users(run, kind, Items(vectors, known), artifact / view)
    return found


def _exchange(ids: pa.Array, groups: pa.Table, seed: int) -> np.ndarray:
    """Whose title each item gets, int64 [n]: a permutation within each group."""
    place = pc.index_in(ids, value_set=groups["item_id"].combine_chunks().cast(ids.type))
    group = pc.fill_null(groups["scenario"].combine_chunks().take(place), "")
    codes = pc.dictionary_encode(group).indices.to_numpy(zero_copy_only=False)
    rng, source = np.random.default_rng((10, seed)), np.arange(len(ids))
    for code in np.unique(codes):
        own = np.flatnonzero(codes == code)
        # A cycle through a random order: nobody keeps the own title where there are two.
        order = rng.permutation(own)
        source[order] = np.roll(order, 1)
    return source


def _items(artifact: Path, ids: pa.Array, source: np.ndarray) -> np.ndarray:
    """The compressed text vectors in the artifact's order, each another item's."""
    folder = artifact / FOLDERS["item_text"]
    vectors = open_matrix(folder / "vectors.npy")
    owners = read_segments(table_path(folder, "index"), ["item_id"])["item_id"].combine_chunks()
    row_of = pc.index_in(ids, value_set=owners).to_numpy(zero_copy_only=False)
    mine = pc.index_in(owners, value_set=ids).to_numpy(zero_copy_only=False)
    return vectors[row_of[source[mine]]]


def _of_users(run: OpenLog, kind: OfItems, items: Items, folder: Path) -> np.ndarray:
    """A kind's vectors at all snapshots in the order of the artifact's matrix; rows of users that the log lacks are kept."""
    sample = kind.sample(run, items)
    old = open_matrix(folder / "vectors.npy")
    compress = compressor.fit(sample if len(sample) >= 2 else kind.stand_in(items), old.shape[1])
    index = read_segments(table_path(folder, "index"), ["user_id", "watermark", "row"])
    index = index.set_column(1, "watermark", index["watermark"].cast(pa.int64()))
    out, made = np.array(old), 0
    for _, log in progress(run.log.logs(), "placebo: shuffled titles", total=len(run.log.buckets), unit="buckets"):
        due = run.due_with(log, items.known)
        keys = pa.table(
            {
                "user_id": log.user_ids.take(pa.array(due.users)).cast(index["user_id"].type),
                "watermark": due.watermarks,
                "at": np.arange(len(due)),
            }
        )
        joined = keys.join(index, ["user_id", "watermark"], join_type="inner")
        rows = np.full(len(due), -1)
        rows[joined["at"].to_numpy()] = joined["row"].to_numpy()
        for part, values in kind.raw(run, items, log, due):
            place = rows[part]
            out[place[place >= 0]] = compress.apply(values[place >= 0])
            made += int((place >= 0).sum())
    if made < len(out):
        LOG.warning(
            "%s of %s user vectors have no rows in the log any more and keep their titles", len(out) - made, len(out)
        )
    return out


def _raw_ids(artifact: Path) -> pa.Array:
    return pq.read_table(artifact / FOLDERS["item_text"] / "raw_index.parquet")["item_id"].combine_chunks()
