"""What computes a kind of user vector, and how it is found by its declared name."""

from __future__ import annotations

import hashlib
import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from core import logger
from core.contracts.kinds import kind_named, kinds_named
from core.digest import sha256_text
from knowledge.kinds.fitting import Pieces, sample_of_items, sample_of_prompts
from knowledge.kinds.items import Items
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.open_run import BLOCK_SHARDS, OpenLog, OpenRun, slices
from knowledge.storage.buckets import Bucket
from knowledge.storage.compressor import Compressor

LOG = logger("knowledge")


class Block(NamedTuple):
    """Raw vectors of some snapshots of a log's users.

    Attributes:
        due: the n snapshots.
        hashes: SHA-256 of what each was made from, hex, n.
        raw: [n, d].
        answers: what the model said to each, n, or nothing at all.
    """

    due: Snapshots
    hashes: list[str]
    raw: np.ndarray
    answers: Sequence[str | None] = ()


class UserKind(ABC):
    """Computes a kind of user vector. One object does it for all runs, so it holds nothing of one."""

    @abstractmethod
    def recipe(self, run: OpenRun) -> dict[str, object]:
        """All that shapes the raw vectors, JSON-able: another recipe is another version of the vectors."""

    @abstractmethod
    def sample(self, run: OpenRun, items: Items) -> np.ndarray:
        """Raw vectors at snapshots up to the start of training, [n, d]: what the compressor is fitted on."""

    @abstractmethod
    def make(self, run: OpenRun, items: Items, bucket: Bucket, log: Log) -> Iterator[Block]:
        """Raw vectors at the due snapshots of a log's users, who are in the bucket."""

    def stand_in(self, items: Items) -> np.ndarray:
        """What the compressor is fitted on where there are no snapshots, [n, d]."""
        return items.raw[items.known]

    def save(self, run: OpenRun, folder: Path) -> None:  # noqa: B027
        """Write beside the vectors what else a reader of them needs."""


class OfItems(UserKind):
    """A kind that is made of the raw vectors of a user's items."""

    @abstractmethod
    def raw(self, run: OpenLog, items: Items, log: Log, due: Snapshots) -> Pieces:
        """Raw vectors of snapshots, each with at least one row whose item has a vector.

        Args:
            run: settings and the like.
            items: raw item vectors, in the order of the catalogue.
            log: rows of users: the rows of user u are those from `log.starts[u]`, in order of time.
            due: sorted by (user, watermark); snapshot i may read the rows of its user before `ends[i]`.

        Yields:
            A slice of the snapshots and their vectors, [n, d].
        """

    def options(self, run: OpenLog) -> dict[str, object]:
        """The part of the recipe that is the kind's own."""
        return {}

    def recipe(self, run: OpenRun) -> dict[str, object]:
        return {"item": run.item_recipe(), "thresholds": run.settings.thresholds, **self.options(run)}

    def sample(self, run: OpenLog, items: Items) -> np.ndarray:
        return sample_of_items(run, items, lambda log, due: self.raw(run, items, log, due))

    def make(self, run: OpenRun, items: Items, bucket: Bucket, log: Log) -> Iterator[Block]:
        due = run.due_with(log, items.known)
        for part, raw in self.raw(run, items, log, due):
            hashes = [hashlib.sha256(value.tobytes()).hexdigest() for value in raw]
            yield Block(due.take(np.arange(part.start, part.stop)), hashes, raw)


class Prompted(UserKind):
    """A kind that is made of users' prompts, which the generating reasoner reads."""

    @abstractmethod
    def snapshots(self, run: OpenRun, log: Log) -> Snapshots:
        """The due snapshots of a log's users that get a prompt."""

    @abstractmethod
    def writer(self, run: OpenRun, log: Log) -> Callable[[Snapshots], list[str]]:
        """Writes the prompts of snapshots of a log's users."""

    def texts(self, run: OpenRun, log: Log) -> Iterator[tuple[Snapshots, list[str]]]:
        """All prompts of a log's users, in blocks of the size that the cache cuts into shards."""
        due, write = self.snapshots(run, log), self.writer(run, log)
        for part in slices(len(due), BLOCK_SHARDS * run.settings.shard_rows):
            some = due.take(np.arange(part.start, part.stop))
            yield some, write(some)

    def sample(self, run: OpenRun, items: Items) -> np.ndarray:
        return sample_of_prompts(run, lambda log: self.texts(run, log))

    def make(self, run: OpenRun, items: Items, bucket: Bucket, log: Log) -> Iterator[Block]:
        cached = run.cached_users(bucket)
        for due, texts in self.texts(run, log):
            raw, said = cached.answer(texts, "encoding user prompts")
            yield Block(due, [sha256_text(text) for text in texts], raw, said or ())


@dataclass(frozen=True)
class Fitted:
    """A kind of user vector in a run: what computes it, what compresses it, and its version."""

    kind: UserKind
    compressor: Compressor
    version: str


def user_kind(name: str) -> UserKind:
    """What computes a declared kind of user vector."""
    kind = importlib.import_module(f"knowledge.kinds.{name}").KIND
    assert isinstance(kind, Prompted if kind_named(name).prompted else OfItems), f"{name} is not what it is declared as"
    return kind


def prompted_kinds(run: OpenRun) -> dict[str, Prompted]:
    """The kinds of a run that are made of prompts, by name."""
    found = {kind.name: user_kind(kind.name) for kind in kinds_named(run.settings.user_vectors)}
    return {name: kind for name, kind in found.items() if isinstance(kind, Prompted)}


def fit(name: str, run: OpenRun, items: Items) -> Fitted:
    """A kind with its compressor, which is fitted if there is none yet."""
    kind = user_kind(name)

    def fitted() -> np.ndarray:
        found = kind.sample(run, items)
        if len(found) >= 2:
            return found
        if items.known.any():
            LOG.warning(
                "fewer than 2 user snapshots before training starts: `%s` is fitted on item texts instead", name
            )
        return kind.stand_in(items)

    return Fitted(kind, *run.compressor(name, kind.recipe(run), fitted, run.settings.user_dim))
