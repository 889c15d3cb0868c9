"""A run that is open: catalogue, log and reasoner at hand, and what its steps share."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import ArtifactStore, progress
from core.contracts.kinds import KINDS, kinds_named
from core.digest import sha256_json
from core.settings import DataSettings, KnowledgeSettings
from knowledge.log import snapshots
from knowledge.log.catalogue import Catalogue
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.log.store import LogStore
from knowledge.reasoners import Reasoner
from knowledge.storage.buckets import Bucket
from knowledge.storage.cache import Cache
from knowledge.storage.compressor import Compressor, kept_compressor
from knowledge.storage.earlier import Earlier, MadeOf
from knowledge.texts import prompts
from knowledge.texts.template import Template, load_template

FOLDERS = {kind.name: kind.view for kind in KINDS}
# How an item's text is put together; raise it when `sources` changes that.
ITEM_TEXT = 1
BLOCK_SHARDS = 16


@dataclass(frozen=True)
class OpenLog:
    """What is read without any reasoner: catalogue, log and settings.

    Attributes:
        items: the catalogue's items as an artifact keeps them.
        made_of: what this run is made of, as far as it is known before users are made.
        earlier: the artifact of the window before.
    """

    settings: KnowledgeSettings
    data: DataSettings
    train_start: int
    catalogue: Catalogue
    log: LogStore
    made_of: MadeOf
    items: pa.Table
    earlier: Earlier | None

    def earlier_of(self, kind: str) -> Path | None:
        """The folder of a kind in the artifact before."""
        return None if self.earlier is None else self.earlier.folder / FOLDERS[kind]

    @property
    def half_life(self) -> int | None:
        """Of the rows in pooled vectors, microseconds."""
        return micros(self.settings.pooled_half_life)

    def due(self, log: Log) -> Snapshots:
        """All snapshots of a log that were due by the settings' rule."""
        rule = self.settings
        return snapshots.due_snapshots(log, rule.thresholds, micros(rule.max_age), micros(rule.every))

    def due_with(self, log: Log, known: np.ndarray) -> Snapshots:
        """The due snapshots with at least one row whose item has a vector.

        Args:
            log: rows of users.
            known: bool [items], which items have one.
        """
        due = self.due(log)
        return due.take(_any_row(log, due, (log.items >= 0) & np.append(known, False)[log.items]))


@dataclass(frozen=True)
class OpenRun(OpenLog):
    """Catalogue, log, reasoners and settings.

    Attributes:
        moments: microseconds; when scenario vectors are made, the start of training first.
        reasoner: reads items and scenarios.
        generator: reads the users' prompts: the reasoner, or the same model writing an answer first.
    """

    moments: Sequence[int]
    cache: Path
    compressors: ArtifactStore
    reasoner: Reasoner
    generator: Reasoner
    caches: dict[tuple[int, int] | None, Cache] = field(default_factory=dict)

    def prompted_users(self, users: pa.Array) -> pa.Array:
        """Whether each of the users gets prompts: all do, or the most active ones within the cap."""
        most = self.settings.prompt_users
        if not any(kind.prompted for kind in kinds_named(self.settings.user_vectors)):
            return pa.repeat(False, len(users))
        if most is None:
            return pa.repeat(True, len(users))
        return pc.is_in(users, value_set=self.log.most_active(most))

    def prompted(self, log: Log, due: Snapshots) -> Snapshots:
        """The due snapshots that get a prompt vector: those of users within the cap of whom there is something to tell."""
        due = due.take(np.asarray(self.prompted_users(log.user_ids))[due.users])
        due = due.take(_any_row(log, due, prompts.positives_with_text(log, self.catalogue)))
        return due.newest() if self.settings.prompt_snapshots == "newest" else due

    def prompt_builder(self, log: Log) -> prompts.UserPrompts:
        """Writes user prompts by the settings' template and length."""
        template, settings = self.template("user_v3"), self.settings
        return prompts.UserPrompts(
            log, self.catalogue, template, self.generator, settings.prompt_history, settings.max_tokens
        )

    def encode(self, texts: list[str], description: str) -> np.ndarray:
        """Raw vectors of texts that are not about single users, float16 [n, dim]."""
        cached = self.cached()
        blocks = slices(len(texts), BLOCK_SHARDS * self.settings.shard_rows)
        size: Callable[[slice], float] = lambda part: part.stop - part.start  # noqa: E731
        shown = progress(blocks, description, unit="texts", size=size, share=1.0)
        found = [cached.encode(texts[part], description) for part in shown]
        return np.concatenate([np.zeros((0, self.reasoner.dim), np.float16), *found])

    def cached(self, part: tuple[int, int] | None = None) -> Cache:
        """The reasoner's cache of items and scenarios, or a part of the work on it; its index is read once."""
        if part not in self.caches:
            shard_rows = self.settings.shard_rows
            self.caches[part] = Cache(self.cache, self.reasoner, shard_rows=shard_rows, part=part)
        return self.caches[part]

    def cached_users(self, bucket: Bucket, part: tuple[int, int] | None = None) -> Cache:
        """The cache of what reads the prompts of a bucket's users."""
        shard_rows = self.settings.shard_rows
        return Cache(self.cache, self.generator, shard_rows=shard_rows, part=part, bucket=bucket)

    def compressor(
        self, kind: str, recipe: Mapping[str, object], fitted: Callable[[], np.ndarray], dim: int | None
    ) -> tuple[Compressor, str]:
        """The kept compressor of a kind and the version of the vectors it makes."""
        compressor, digest = kept_compressor(self.compressors, kind, recipe, self.train_start, fitted, dim)
        return compressor, sha256_json({"kind": kind, "recipe": recipe, "compressor": digest})[:10]

    def lag(self, kind: str) -> int:
        """Microseconds from watermark to readable."""
        return micros(self.settings.lag.get(kind)) or 0

    def template(self, name: str) -> Template:
        """A template in the settings' language."""
        return load_template(name, self.settings.language)

    def text_recipe(self) -> dict[str, object]:
        """What shapes an item's text. What was fitted while there was none is of no use once there is."""
        data = self.data
        found: dict[str, object] = {
            "columns": data.item_text,
            "categories": data.item_categorical[:1],
            "format": ITEM_TEXT,
        }
        if data.text_length != DataSettings.model_fields["text_length"].default:
            found["length"] = data.text_length
        return found if any(self.catalogue.texts) else {**found, "texts": "none"}

    def item_recipe(self) -> dict[str, object]:
        """What shapes an item's raw vector."""
        return {"text": self.text_recipe(), "reasoner": self.reasoner.identity}


def _any_row(log: Log, due: Snapshots, chosen: np.ndarray) -> np.ndarray:
    """Which snapshots have at least one of the chosen rows, bool [n]."""
    counted = np.append(0, np.cumsum(chosen))
    return counted[due.ends] > counted[log.starts[due.users]]


def slices(count: int, size: int) -> list[slice]:
    """Consecutive slices of at most `size`."""
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def micros(value: dt.timedelta | None) -> int | None:
    """A length of time in microseconds."""
    return None if value is None else value // dt.timedelta(microseconds=1)
