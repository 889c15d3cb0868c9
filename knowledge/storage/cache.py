"""Reasoner outputs, kept by (prompt hash, reasoner): an unchanged prompt costs one hash.

    CACHE/IDENTITY/SHARD/vectors.npy    float16 [n, dim]
    CACHE/IDENTITY/SHARD/answers.json   the answers, where the reasoner writes some
    CACHE/IDENTITY/SHARD/index.json     the prompts' hashes in row order, and the checksums of the other files
    CACHE/IDENTITY.users/BUCKET/SHARD   the same for the prompts of a bucket of users

A shard is written beside its place and renamed into it: it is whole or absent, so its name is its done-mark. A killed
process loses the shard it was working on; where the reasoner fails, what it had finished is kept as a smaller one; two
processes may compute the same shard, and the first one's stays. A shard whose checksum does not fit is thrown away and made again.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.digest import sha256_file, sha256_json, sha256_text
from core.log import logger
from core.pace import progress
from knowledge.reasoners.base import AnsweringReasoner, Interrupted, Reasoner
from knowledge.storage.buckets import Bucket, named

LOG = logger("knowledge")
_batches = functools.partial(progress, share=1.0)
# 128 bits of a prompt's hash, as hex digits, are its key in memory.
_KEY = "S32"


class Cache:
    """The cached outputs of one reasoner. Open it once per job: its index is read then, and costs 40 bytes a prompt.

    Args:
        root: the cache's root; outlives artifacts.
        reasoner: whose `identity` names the folder.
        shard_rows: texts per shard.
        part: (i, n), counted from 1: work only on every n-th shard; the others are left to other processes.
        bucket: of users, whose prompts these are; only theirs are looked for, so that the index stays small.
    """

    def __init__(
        self,
        root: Path,
        reasoner: Reasoner,
        *,
        shard_rows: int = 1024,
        part: tuple[int, int] | None = None,
        bucket: Bucket | None = None,
    ) -> None:
        folder = root / reasoner.identity
        self._folder = folder if bucket is None else folder.with_name(f"{folder.name}.users") / bucket.name
        self._reasoner, self._shard_rows, self._part, self._cut = reasoner, shard_rows, part, 0
        self._shards: list[Path] = []
        self._files: dict[int, tuple[np.ndarray, list[str] | None]] = {}
        self._keys, self._places = np.zeros(0, _KEY), np.zeros((0, 2), np.int64)
        self._load_index([self._folder] if bucket is None else _overlapping(self._folder.parent, bucket))

    def encode(self, texts: Sequence[str], description: str = "encoding") -> np.ndarray:
        """Vectors of the texts in their order, float16 [n, dim], computing only those that are not there."""
        return self.answer(texts, description)[0]

    def answer(self, texts: Sequence[str], description: str = "encoding") -> tuple[np.ndarray, list[str] | None]:
        """The same, and the reasoner's answers where it writes some."""
        hashes = self.fill(texts, description)
        vectors = np.zeros((len(texts), self._reasoner.dim), dtype=np.float16)
        answers = [""] * len(texts)
        written = False
        found = self._find(hashes)
        # Shard by shard, so that each file is opened once.
        for row in np.lexsort((found[:, 1], found[:, 0])).tolist():
            shard, place = found[row].tolist()
            matrix, said = self._open(shard)
            vectors[row] = matrix[place]
            if said is not None:
                written, answers[row] = True, said[place]
        self._files.clear()
        return vectors, answers if written else None

    def fill(self, texts: Sequence[str], description: str = "encoding") -> list[str]:
        """Compute what is missing of this job's part; returns the texts' hashes."""
        self._files.clear()
        hashes = [sha256_text(text) for text in texts]
        by_hash = dict(zip(hashes, texts, strict=True))
        # Sorted by length, so that the batches inside a shard need little padding; by hash, so that a rerun cuts alike.
        wanted = sorted(by_hash, key=lambda h: (len(by_hash[h]), h))
        shards = [wanted[i : i + self._shard_rows] for i in range(0, len(wanted), self._shard_rows)]
        if self._part is not None:
            # Counted on from call to call, so that parts get the same number of shards.
            first = (self._part[0] - 1 - self._cut) % self._part[1]
            self._cut += len(shards)
            shards = shards[first :: self._part[1]]
        known = self._checked([h for shard in shards for h in shard])
        todo = [left for shard in shards if (left := [h for h in shard if h not in known])]
        # Long texts take longer: what is counted are characters, so that the time left can be told.
        size: Callable[[list[str]], float] = lambda some: sum(len(by_hash[h]) for h in some)  # noqa: E731
        for shard in progress(todo, description, unit="characters", size=size, share=1.0):
            asked = [by_hash[h] for h in shard]
            answers: list[str] | None = None
            stopped: Exception | None = None
            try:
                if isinstance(self._reasoner, AnsweringReasoner):
                    vectors, answers = self._reasoner.answer(asked, _batches)
                else:
                    vectors = self._reasoner.encode(asked, _batches)
            except Interrupted as error:
                done, stopped = error.finished, error.cause
                shard, vectors, answers = [shard[i] for i in done.rows], done.vectors, done.answers
            self._add(write_shard(self._folder, shard, vectors, answers), shard)
            if stopped is not None:
                raise stopped
        return hashes

    def share_known(self, texts: Sequence[str]) -> float:
        """Share of the texts that are here already."""
        return float((self._find([sha256_text(text) for text in texts])[:, 0] >= 0).mean()) if len(texts) else 0.0

    def _checked(self, wanted: Sequence[str]) -> set[str]:
        """Which are here; a damaged shard among theirs is thrown away first."""
        while True:
            found = self._find(wanted)
            damaged = [shard for shard in np.unique(found[:, 0]).tolist() if shard >= 0 and not self._sound(shard)]
            if not damaged:
                return {h for h, shard in zip(wanted, found[:, 0], strict=True) if shard >= 0}
            keep = ~np.isin(self._places[:, 0], damaged)
            self._keys, self._places = self._keys[keep], self._places[keep]

    def _sound(self, shard: int) -> bool:
        try:
            self._open(shard)
        except (OSError, ValueError, KeyError, TypeError) as error:
            _damaged(self._shards[shard], error)
            return False
        return True

    def _open(self, shard: int) -> tuple[np.ndarray, list[str] | None]:
        """A shard's vectors and answers, its checksums compared."""
        if shard not in self._files:
            folder = self._shards[shard]
            index = json.loads((folder / "index.json").read_text())
            if sha256_file(folder / "vectors.npy") != index["sha256"]:
                raise ValueError("checksum differs")
            answers = None
            if "answers" in index:
                if sha256_file(folder / "answers.json") != index["answers"]:
                    raise ValueError("checksum of the answers differs")
                answers = json.loads((folder / "answers.json").read_text())
            matrix = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
            self._files[shard] = (matrix, answers)
        return self._files[shard]

    def _find(self, hashes: Sequence[str]) -> np.ndarray:
        """(shard, row) of each hash, (-1, -1) where it is not here, int64 [n, 2]."""
        found = np.full((len(hashes), 2), -1, dtype=np.int64)
        if len(self._keys) and len(hashes):
            keys = np.array([h[:32] for h in hashes], dtype=_KEY)
            place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            here = self._keys[place] == keys
            found[here] = self._places[place[here]]
        return found

    def _load_index(self, folders: Sequence[Path]) -> None:
        keys, places = [], []
        for folder in (shard for group in folders if group.is_dir() for shard in sorted(group.iterdir())):
            if folder.name.startswith("."):
                continue
            try:
                hashes = json.loads((folder / "index.json").read_text())["hashes"]
                if sha256_json(hashes)[:24] != folder.name:
                    raise ValueError("the index is not the one that was written")
            except (OSError, ValueError, KeyError, TypeError) as error:
                _damaged(folder, error)
                continue
            keys.append(np.array([h[:32] for h in hashes], dtype=_KEY))
            places.append(np.column_stack([np.full(len(hashes), len(self._shards)), np.arange(len(hashes))]))
            self._shards.append(folder)
        if keys:
            self._merge(np.concatenate(keys), np.concatenate(places))

    def _add(self, folder: Path, hashes: list[str]) -> None:
        places = np.column_stack([np.full(len(hashes), len(self._shards)), np.arange(len(hashes))])
        self._shards.append(folder)
        self._merge(np.array([h[:32] for h in hashes], dtype=_KEY), places)

    def _merge(self, keys: np.ndarray, places: np.ndarray) -> None:
        keys, places = np.concatenate([self._keys, keys]), np.concatenate([self._places, places])
        order = np.argsort(keys, kind="stable")
        self._keys, self._places = keys[order], places[order]


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
    return Cache(cache, reasoner, shard_rows=shard_rows).encode(texts, description)


def _overlapping(folder: Path, bucket: Bucket) -> list[Path]:
    """The folders of the bucket and of buckets of other sizes that share users with it."""
    found = named(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return [folder / other.name for other in found if other.overlaps(bucket)]


def write_shard(folder: Path, hashes: list[str], vectors: np.ndarray, answers: list[str] | None) -> Path:
    """Write a shard and rename it into its place; returns where it is."""
    target = folder / sha256_json(hashes)[:24]
    scratch = folder / f".{target.name}.{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    try:
        with (scratch / "vectors.npy").open("wb") as stream:
            np.save(stream, vectors, allow_pickle=False)
            _sync(stream)
        index: dict[str, Any] = {"hashes": hashes, "sha256": sha256_file(scratch / "vectors.npy")}
        if answers is not None:
            with (scratch / "answers.json").open("w", encoding="utf-8") as stream:
                json.dump(answers, stream)
                _sync(stream)
            index["answers"] = sha256_file(scratch / "answers.json")
        with (scratch / "index.json").open("w") as stream:
            json.dump(index, stream)
            _sync(stream)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def _sync(stream: IO[Any]) -> None:
    stream.flush()
    os.fsync(stream.fileno())


def _damaged(shard: Path, error: Exception) -> None:
    LOG.warning("cached shard %s is damaged (%s); it is made again", shard, error)
    trash = shard.with_name(f".{shard.name}.{uuid.uuid4().hex}")
    try:
        shard.rename(trash)
    except OSError:
        return  # another process was first
    shutil.rmtree(trash, ignore_errors=True)
