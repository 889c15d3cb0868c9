"""The caches without some users: their rows in order, their states, and what the reasoner said to their prompts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contracts.kinds import KINDS
from core.forgotten import belongs
from knowledge.storage.buckets import named
from knowledge.storage.cache import write_shard
from knowledge.storage.user_tables import UserTables


def forget_in_cache(cache: Path, users: Collection[Any], prompts: Collection[str], *, act: bool) -> dict[str, int]:
    """Remove users from the caches; all of it can be made again of what is left.

    Args:
        cache: the cache's root.
        users: whom.
        prompts: hashes of their prompts, as the knowledge artifacts name them; those of kept states are added.
        act: False only counts.

    Returns:
        What was found: rows of the log, kept states, prompts.
    """
    states, found = _kept_states(cache, users, act)
    hashes = set(prompts) | found
    return {
        "rows of the log in order": _ordered_logs(cache, users, act),
        "kept states": states,
        "answers to prompts": _answers(cache, hashes, act),
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


def _kept_states(cache: Path, users: Collection[Any], act: bool) -> tuple[int, set[str]]:
    """How many states there were, and the hashes of the prompts they were made of."""
    count, hashes = 0, set()
    for folder in sorted((cache / "users").glob("*")):
        if folder.name == "items" or not folder.is_dir():
            continue
        tables = UserTables(cache, folder.name)
        for bucket in named(path.name for path in folder.iterdir()):
            for kept in tables.load(bucket):
                of = {name: belongs(table["user_id"], users) for name, table in kept.tables.items()}
                here = sum(pc.sum(mask).as_py() or 0 for mask in of.values())
                if not here:
                    continue
                count += int(pc.sum(of["users"]).as_py() or 0)
                for name in (kind.name for kind in KINDS if kind.prompted and kind.name in kept.tables):
                    hashes.update(kept.tables[name].filter(of[name])["hash"].to_pylist())
                if act:
                    left = {name: table.filter(pc.invert(of[name])) for name, table in kept.tables.items()}
                    tables.save(bucket, kept.catalogue, left)
    return count, hashes


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
