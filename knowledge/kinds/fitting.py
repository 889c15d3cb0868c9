"""What the compressors of user vectors are fitted on: snapshots up to the start of training.

Users come in the order of a hash of their id, until there are MAX_FIT_ROWS snapshots: an even sample, for which the first
buckets are read only, and the same however the users are cut into buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from knowledge.kinds.items import Items
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.open_run import OpenLog, OpenRun
from knowledge.storage.compressor import MAX_FIT_ROWS

Pieces = Iterator[tuple[slice, np.ndarray]]
"""Slices of snapshots and their raw vectors, [n, d]."""


def sample_of_items(run: OpenLog, items: Items, raw: Callable[[Log, Snapshots], Pieces]) -> np.ndarray:
    """Raw vectors that are made of items' vectors, float64 [n, d].

    Args:
        run: whose log is read.
        items: raw item vectors.
        raw: makes the vectors of a log's snapshots, in pieces.
    """
    found = np.zeros((0, 0))
    count = 0
    for _, log in run.log.logs(before=run.train_start):
        due = run.due_with(log, items.known)
        order = _by_hash(run, log, due)[: MAX_FIT_ROWS - count]
        for part, values in raw(log, due.take(np.sort(order))):
            if not found.size:
                found = np.zeros((MAX_FIT_ROWS, values.shape[1]))
            found[count + np.argsort(order)[part]] = values
        count += len(order)
        if count == MAX_FIT_ROWS:
            break
    return found[:count]


def sample_of_prompts(run: OpenRun, prompts: Callable[[Log], Iterable[tuple[Snapshots, list[str]]]]) -> np.ndarray:
    """Raw prompt vectors, float16 [n, d]. All prompts of a bucket are read, in the shards that are wanted later.

    Args:
        run: whose log is read.
        prompts: writes those of a log's users, in blocks.
    """
    found = [np.zeros((0, run.generator.dim), dtype=np.float16)]
    count = 0
    for bucket, log in run.log.logs():
        cached = run.cached_users(bucket)
        raws, dues = [found[0]], []
        for due, texts in prompts(log):
            early = due.watermarks <= run.train_start
            raws.append(cached.encode(texts, "encoding user prompts")[early])
            dues.append(due.take(early))
        if dues:
            due = Snapshots(*(np.concatenate([getattr(d, f) for d in dues]) for f in ("users", "watermarks", "ends")))
            order = _by_hash(run, log, due)[: MAX_FIT_ROWS - count]
            found.append(np.concatenate(raws)[order])
            count += len(order)
        if count == MAX_FIT_ROWS:
            break
    return np.concatenate(found)


def _by_hash(run: OpenLog, log: Log, due: Snapshots) -> np.ndarray:
    """Positions of the snapshots in order of (hash of the user, user, watermark)."""
    hashes = run.log.hashes(log.user_ids)
    return np.lexsort((due.watermarks, due.users, hashes[due.users]))
