"""The caches without some users: their rows in order, and what the reasoner said to their prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.forgotten import belongs
from knowledge.storage.cache import write_shard
from knowledge.storage.cleanup import drop_superseded


def forget_in_cache(cache: Path, users: Collection[Any], prompts: Collection[str], *, act: bool) -> dict[str, int]:
    """Remove users from the caches; all of it can be made again of what is left.

    Args:
        cache: the cache's root.
        users: whom.
        prompts: hashes of their prompts, as the knowledge artifacts name them.
        act: False only counts.

    Returns:
        What was found: rows of the log, prompts.
    """
    if act:
        drop_superseded(cache)
    return {
        "rows of the log in order": _ordered_logs(cache, users, act),
        "answers to prompts": _answers(cache, set(prompts), act),
    }


def _ordered_logs(cache: Path, users: Collection[Any], act: bool) -> int:
    """A source in order is put in order again when it is needed next."""
    count = 0
    for file in sorted((cache / "log").glob("*/users.parquet")):
        table = pq.read_table(file, columns=["user_id", "rows"])
        here = table.filter(belongs(table["user_id"], users))
        count += pc.sum(here["rows"]).as_py() or 0
        if act and here.num_rows:
            shutil.rmtree(file.parent)
    return int(count)


def _answers(cache: Path, hashes: set[str], act: bool) -> int:
    """Rows of shards: each shard that holds one is written again without it."""
    count = 0
    for index in sorted(cache.glob("*.users/*/*/index.json")):
        body = json.loads(index.read_text())
        stay = [row for row, one in enumerate(body["hashes"]) if one not in hashes]
        gone = len(body["hashes"]) - len(stay)
        count += gone
        if act and gone:
            shard = index.parent
            if stay:
                vectors = np.load(shard / "vectors.npy", allow_pickle=False)[stay]
                answers = json.loads((shard / "answers.json").read_text()) if "answers" in body else None
                kept = [body["hashes"][row] for row in stay]
                write_shard(shard.parent, kept, vectors, None if answers is None else [answers[row] for row in stay])
            shutil.rmtree(shard)
    return count
