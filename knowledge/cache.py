"""Reasoner outputs, kept by (prompt hash, reasoner): an unchanged prompt costs one hash.

    CACHE/IDENTITY/SHARD/vectors.npy    float16 [n, dim]
    CACHE/IDENTITY/SHARD/index.json     the prompts' hashes in row order, and the checksum of vectors.npy

A shard is written beside its place and renamed into it: it is whole or absent. A killed process loses the shard it was
working on; two processes may compute the same shard, and the first one's stays. A shard whose checksum does not fit is
thrown away and made again.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.digest import sha256_file, sha256_json, sha256_text
from core.log import logger, progress
from knowledge.reasoners.base import Reasoner

LOG = logger("knowledge")


def encode_cached(
    texts: Sequence[str], reasoner: Reasoner, cache: Path, *, shard_rows: int = 1024, description: str = "encoding"
) -> np.ndarray:
    """Vectors of the texts in their order, float16 [n, dim], computing only those that are not in the cache.

    Args:
        texts: equal texts are encoded once.
        reasoner: whose `identity` names the cache's folder.
        cache: the cache's root; outlives artifacts.
        shard_rows: texts per shard.
        description: what the progress bar says.
    """
    hashes = [sha256_text(text) for text in texts]
    by_hash = dict(zip(hashes, texts, strict=True))
    # Sorted by length, so that the batches inside a shard need little padding; by hash, so that a rerun cuts alike.
    wanted = sorted(by_hash, key=lambda h: (len(by_hash[h]), h))
    folder = cache / reasoner.identity
    known = _read(folder, set(wanted))
    shards = [wanted[i : i + shard_rows] for i in range(0, len(wanted), shard_rows)]
    todo = [left for shard in shards if (left := [h for h in shard if h not in known])]
    for number, shard in enumerate(todo, start=1):
        said = f"{description} (shard {number} of {len(todo)})"
        vectors = reasoner.encode([by_hash[h] for h in shard], functools.partial(_shown, said))
        _write(folder, shard, vectors)
        known.update(zip(shard, vectors, strict=True))
    if not hashes:
        return np.zeros((0, reasoner.dim), dtype=np.float16)
    return np.stack([known[h] for h in hashes])


def _shown(description: str, batches: Iterable[Any]) -> Iterator[Any]:
    return progress(batches, description, unit="batches")


def _read(folder: Path, wanted: set[str]) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for shard in sorted(folder.iterdir()) if folder.is_dir() else ():
        if shard.name.startswith("."):
            continue
        try:
            index = json.loads((shard / "index.json").read_text())
            rows = [(row, h) for row, h in enumerate(index["hashes"]) if h in wanted]
            if not rows:
                continue
            if sha256_file(shard / "vectors.npy") != index["sha256"]:
                raise ValueError("checksum differs")
            vectors = np.load(shard / "vectors.npy", allow_pickle=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            LOG.warning("cached shard %s is damaged (%s); it is made again", shard, error)
            _discard(shard)
            continue
        found.update((h, vectors[row]) for row, h in rows)
    return found


def _write(folder: Path, hashes: list[str], vectors: np.ndarray) -> None:
    target = folder / sha256_json(hashes)[:24]
    scratch = folder / f".{target.name}.{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    try:
        with (scratch / "vectors.npy").open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
            _sync(stream)
        with (scratch / "index.json").open("w") as stream:
            json.dump({"hashes": hashes, "sha256": sha256_file(scratch / "vectors.npy")}, stream)
            _sync(stream)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _sync(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _discard(shard: Path) -> None:
    trash = shard.with_name(f".{shard.name}.{uuid.uuid4().hex}")
    try:
        shard.rename(trash)
    except OSError:
        return  # another process was first
    shutil.rmtree(trash, ignore_errors=True)
