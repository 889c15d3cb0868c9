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
from knowledge.open_run import OpenLog, OpenRun, with_vectors
from knowledge.pooling import means
from knowledge.storage.buckets import Bucket
from knowledge.storage.compressor import MAX_FIT_ROWS, Compressor

LOG = logger("knowledge")


def fit_pooled(run: OpenRun, items: Items) -> tuple[Compressor, str]:
    """The compressor of pooled vectors and their version."""

    def fitted() -> np.ndarray:
        found = pooled_sample(run, items)
        if len(found) >= 2:
            return found
        if items.known.any():
            LOG.warning("fewer than 2 user snapshots before training starts: `pooled` is fitted on item texts instead")
        return texts_alone(items)

    knowledge = run.settings
    recipe: dict[str, object] = {"item": run.item_recipe(), "thresholds": knowledge.thresholds}
    if run.half_life is not None:
        recipe["half_life"] = run.half_life
    return run.compressor("pooled", recipe, fitted, knowledge.user_dim)


def fit_prompt(run: OpenRun, items: Items) -> tuple[Compressor, str]:
    """The compressor of prompt vectors and their version."""

    def fitted() -> np.ndarray:
        found = _prompt_sample(run)
        if len(found) >= 2:
            return found
        if items.known.any():
            LOG.warning("fewer than 2 user prompts before training starts: `prompt` is fitted on item texts instead")
        return items.raw[items.known]

    knowledge = run.settings
    recipe = {
        "template": run.template("user_v3").digest,
        "reasoner": run.generator.identity,
        "history": knowledge.prompt_history,
        "scenarios": run.catalogue.scenarios,
        "thresholds": knowledge.thresholds,
        "snapshots": knowledge.prompt_snapshots,
        "item_text": run.text_recipe(),
    }
    return run.compressor("prompt", recipe, fitted, knowledge.user_dim)


def pooled_sample(run: OpenLog, items: Items) -> np.ndarray:
    """Raw pooled vectors that the compressor is fitted on, float64 [n, 2 d]."""
    found = np.zeros((MAX_FIT_ROWS, 2 * items.raw.shape[1]))
    count = 0
    for bucket, log in run.log.logs(before=run.train_start):
        due = run.due(log)
        due = due.take(with_vectors(log, due, items.known))
        order = _by_hash(run, bucket, log, due)[: MAX_FIT_ROWS - count]
        place = np.empty(len(order), dtype=np.int64)
        place[np.argsort(order)] = np.arange(len(order))
        for part, values in means.pool(log, due.take(np.sort(order)), items.raw, items.known, run.half_life):
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


def _prompt_sample(run: OpenRun) -> np.ndarray:
    """Raw prompt vectors, float16 [n, d]. All prompts of a bucket are read, in the shards that are wanted later."""
    found = [np.zeros((0, run.generator.dim), dtype=np.float16)]
    count = 0
    for bucket, log in run.log.logs():
        cached = run.cached_users(bucket)
        raws, dues = [found[0]], []
        for due, texts in run.prompt_texts(log):
            early = due.watermarks <= run.train_start
            raws.append(cached.encode(texts, "encoding user prompts")[early])
            dues.append(due.take(early))
        if dues:
            due = Snapshots(*(np.concatenate([getattr(d, f) for d in dues]) for f in ("users", "watermarks", "ends")))
            order = _by_hash(run, bucket, log, due)[: MAX_FIT_ROWS - count]
            found.append(np.concatenate(raws)[order])
            count += len(order)
        if count == MAX_FIT_ROWS:
            break
    return np.concatenate(found)


def _by_hash(run: OpenLog, bucket: Bucket, log: Log, due: Snapshots) -> np.ndarray:
    """Positions of the snapshots in order of (hash of the user, user, watermark)."""
    users = run.log.users(bucket)
    place = pc.index_in(log.user_ids, value_set=users["user_id"].combine_chunks())
    hashes = users["hash"].take(place).to_numpy()
    return np.lexsort((due.watermarks, due.users, hashes[due.users]))
