"""What the compressors of user vectors are fitted on: snapshots up to the start of training.

Users come in the order of a hash of their id, until there are MAX_FIT_ROWS snapshots: an even sample, for which the first
buckets are read only, and the same however the users are cut into buckets.
"""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc

from core import logger
from knowledge.kinds.items import Items
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.open_run import Read, Work, with_vectors
from knowledge.pooling import means
from knowledge.storage.buckets import Bucket
from knowledge.storage.compressor import MAX_FIT_ROWS, Compressor

LOG = logger("knowledge")


def fit_pooled(work: Work, items: Items) -> tuple[Compressor, str]:
    """The compressor of pooled vectors and their version."""

    def fitted() -> np.ndarray:
        found = pooled_sample(work, items)
        if len(found) >= 2:
            return found
        if items.known.any():
            LOG.warning("fewer than 2 user snapshots before training starts: `pooled` is fitted on item texts instead")
        return texts_alone(items)

    knowledge = work.settings.knowledge
    recipe: dict[str, object] = {"item": work.item_recipe(), "thresholds": knowledge.thresholds}
    if work.half_life is not None:
        recipe["half_life"] = work.half_life
    return work.compressor("pooled", recipe, fitted, knowledge.user_dim)


def fit_prompt(work: Work, items: Items) -> tuple[Compressor, str]:
    """The compressor of prompt vectors and their version."""

    def fitted() -> np.ndarray:
        found = _prompt_sample(work)
        if len(found) >= 2:
            return found
        if items.known.any():
            LOG.warning("fewer than 2 user prompts before training starts: `prompt` is fitted on item texts instead")
        return items.raw[items.known]

    knowledge = work.settings.knowledge
    recipe = {
        "template": work.template("user_v3").digest,
        "reasoner": work.thinker.identity,
        "history": knowledge.prompt_history,
        "scenarios": work.catalogue.scenarios,
        "thresholds": knowledge.thresholds,
        "snapshots": knowledge.prompt_snapshots,
        "item_text": work.text_recipe(),
    }
    return work.compressor("prompt", recipe, fitted, knowledge.user_dim)


def pooled_sample(work: Read, items: Items) -> np.ndarray:
    """Raw pooled vectors that the compressor is fitted on, float64 [n, 2 d]."""
    found = np.zeros((MAX_FIT_ROWS, 2 * items.raw.shape[1]))
    count = 0
    for bucket, log in work.log.logs(before=work.train_start):
        due = work.due(log)
        due = due.take(with_vectors(log, due, items.known))
        order = _by_hash(work, bucket, log, due)[: MAX_FIT_ROWS - count]
        place = np.empty(len(order), dtype=np.int64)
        place[np.argsort(order)] = np.arange(len(order))
        for part, values in means.pool(log, due.take(np.sort(order)), items.raw, items.known, work.half_life):
            found[count + np.argsort(order)[part]] = values
        count += len(order)
        if count == MAX_FIT_ROWS:
            break
    return found[:count]


def texts_alone(items: Items) -> np.ndarray:
    """What stands in where there are no snapshots: each text as a user who liked it, or disliked it, float64 [2 n, 2 d]."""
    raw = items.raw[items.known]
    nothing = np.zeros_like(raw)
    return np.concatenate([np.hstack([raw, nothing]), np.hstack([nothing, raw])]).astype(np.float64)


def _prompt_sample(work: Work) -> np.ndarray:
    """Raw prompt vectors, float16 [n, d]. All prompts of a bucket are read, in the shards that are wanted later."""
    found = [np.zeros((0, work.thinker.dim), dtype=np.float16)]
    count = 0
    for bucket, log in work.log.logs():
        cached = work.cached_users(bucket)
        raws, dues = [found[0]], []
        for due, texts in work.prompt_texts(log):
            early = due.watermarks <= work.train_start
            raws.append(cached.encode(texts, "encoding user prompts")[early])
            dues.append(due.take(early))
        if dues:
            due = Snapshots(*(np.concatenate([getattr(d, f) for d in dues]) for f in ("users", "watermarks", "ends")))
            order = _by_hash(work, bucket, log, due)[: MAX_FIT_ROWS - count]
            found.append(np.concatenate(raws)[order])
            count += len(order)
        if count == MAX_FIT_ROWS:
            break
    return np.concatenate(found)


def _by_hash(work: Read, bucket: Bucket, log: Log, due: Snapshots) -> np.ndarray:
    """Positions of the snapshots in order of (hash of the user, user, watermark)."""
    users = work.log.users(bucket)
    place = pc.index_in(log.user_ids, value_set=users["user_id"].combine_chunks())
    hashes = users["hash"].take(place).to_numpy()
    return np.lexsort((due.watermarks, due.users, hashes[due.users]))
