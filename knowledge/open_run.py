"""The material of a knowledge run and what its steps share."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import ArtifactStore, Clock, Settings, logger, progress
from core.digest import sha256_json
from core.settings import DataSettings
from knowledge.log import snapshots
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Catalogue, Log, read_catalogue
from knowledge.log.store import LogStore, open_log
from knowledge.reasoners import Reasoner, make_reasoner, make_thinker
from knowledge.storage.buckets import Bucket
from knowledge.storage.cache import Cache
from knowledge.storage.compressor import Compressor, kept_compressor
from knowledge.texts import prompts
from knowledge.texts.template import Template, load_template

LOG = logger("knowledge")
FOLDERS = {"item_text": "item_text", "pooled": "user_pooled", "prompt": "user_prompt", "scenario": "scenario"}
# How an item's text is put together; raise it when `sources` changes that.
ITEM_TEXT = 1
BLOCK_SHARDS = 16


@dataclass(frozen=True)
class Read:
    """What is read without any reasoner: catalogue, log and settings."""

    settings: Settings
    train_start: int
    catalogue: Catalogue
    log: LogStore

    @property
    def half_life(self) -> int | None:
        """Of the rows in pooled vectors, microseconds."""
        return micros(self.settings.knowledge.pooled_half_life)

    def due(self, log: Log) -> Snapshots:
        """All snapshots of a log that were due by the settings' rule."""
        knowledge = self.settings.knowledge
        return snapshots.due_snapshots(log, knowledge.thresholds, micros(knowledge.max_age), micros(knowledge.every))


@dataclass(frozen=True)
class Work(Read):
    """Catalogue, log, reasoner and settings."""

    cache: Path
    compressors: ArtifactStore
    reasoner: Reasoner
    thinker: Reasoner
    caches: dict[tuple[int, int] | None, Cache] = field(default_factory=dict)

    def prompted_users(self, users: pa.Array) -> pa.Array:
        """Whether each of the users gets prompts: all do, or the most active ones within the cap."""
        knowledge = self.settings.knowledge
        if "prompt" not in knowledge.user_vectors:
            return pa.repeat(False, len(users))
        if knowledge.prompt_users is None:
            return pa.repeat(True, len(users))
        return pc.is_in(users, value_set=self.log.most_active(knowledge.prompt_users))

    def prompted(self, log: Log, due: Snapshots) -> Snapshots:
        """The due snapshots that get a prompt vector: those of users within the cap of whom there is something to tell."""
        due = due.take(np.asarray(self.prompted_users(log.user_ids))[due.users])
        due = due.take(_any_row(log, due, prompts.told_positives(log, self.catalogue)))
        return due.newest() if self.settings.knowledge.prompt_snapshots == "newest" else due

    def prompt_builder(self, log: Log) -> prompts.UserPrompts:
        """Writes user prompts by the settings' template and length."""
        knowledge = self.settings.knowledge
        return prompts.UserPrompts(
            log,
            self.catalogue,
            self.template("user_v3"),
            self.thinker,
            knowledge.prompt_history,
            knowledge.max_tokens,
        )

    def prompt_texts(self, log: Log) -> Iterator[tuple[Snapshots, list[str]]]:
        """All prompts of a log's users, in blocks of the size that the cache cuts into shards."""
        due, builder = self.prompted(log, self.due(log)), self.prompt_builder(log)
        for part in parts(len(due), BLOCK_SHARDS * self.settings.knowledge.shard_rows):
            some = due.take(np.arange(part.start, part.stop))
            yield some, builder.build(some)

    def encode(self, texts: list[str], description: str) -> np.ndarray:
        """Raw vectors of texts that are not about single users, float16 [n, dim]."""
        cached = self.cached()
        blocks = parts(len(texts), BLOCK_SHARDS * self.settings.knowledge.shard_rows)
        size: Callable[[slice], float] = lambda part: part.stop - part.start  # noqa: E731
        shown = progress(blocks, description, unit="texts", size=size, share=1.0)
        found = [cached.encode(texts[part], description) for part in shown]
        return np.concatenate([np.zeros((0, self.reasoner.dim), np.float16), *found])

    def cached(self, part: tuple[int, int] | None = None) -> Cache:
        """The reasoner's cache of items and scenarios, or a part of the work on it; its index is read once."""
        if part not in self.caches:
            shard_rows = self.settings.knowledge.shard_rows
            self.caches[part] = Cache(self.cache, self.reasoner, shard_rows=shard_rows, part=part)
        return self.caches[part]

    def cached_users(self, bucket: Bucket, part: tuple[int, int] | None = None) -> Cache:
        """The cache of what reads the prompts of a bucket's users."""
        shard_rows = self.settings.knowledge.shard_rows
        return Cache(self.cache, self.thinker, shard_rows=shard_rows, part=part, bucket=bucket)

    def compressor(
        self, kind: str, recipe: Mapping[str, object], fitted: Callable[[], np.ndarray], dim: int | None
    ) -> tuple[Compressor, str]:
        """The kept compressor of a kind and the version of the vectors it makes."""
        compressor, digest = kept_compressor(self.compressors, kind, recipe, self.train_start, fitted, dim)
        return compressor, sha256_json({"kind": kind, "recipe": recipe, "compressor": digest})[:10]

    def lag(self, kind: str) -> int:
        """Microseconds from watermark to readable."""
        return micros(self.settings.knowledge.lag.get(kind)) or 0

    def template(self, name: str) -> Template:
        """A template in the settings' language."""
        return load_template(name, self.settings.knowledge.language)

    def text_recipe(self) -> dict[str, object]:
        """What shapes an item's text. What was fitted while there was none is of no use once there is."""
        data = self.settings.data
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


@contextmanager
def open_work(
    sources: Sequence[Path],
    settings: Settings,
    clock: Clock,
    train_start: int,
    cache: Path,
    compressors: ArtifactStore,
) -> Iterator[Work]:
    """Read the catalogue, put new parts of the log in order, and load the reasoner."""
    catalogue = read_catalogue(sources, settings.data)
    with open_log(sources, cache, catalogue, clock.now_micros()) as log:
        reasoner = make_reasoner(settings.knowledge)
        thinker = make_thinker(settings.knowledge, reasoner)
        yield Work(settings, train_start, catalogue, log, cache, compressors, reasoner, thinker)


def marks_of(sources: Sequence[Path], settings: Settings, cache: Path) -> Path:
    """The folder of the done-marks of a run's parts, I-of-N.json."""
    key = sha256_json({"sources": [str(s) for s in sources], "knowledge": settings.section("knowledge")})
    return cache / "done" / key[:16]


def warn_of_missing_parts(marks: Path) -> None:
    """Say which parts have not reported where others of the same number have, and none of another number all."""
    reported: dict[int, set[int]] = {}
    for path in marks.iterdir() if marks.is_dir() else ():
        if match := re.fullmatch(r"(\d+)-of-(\d+)\.json", path.name):
            reported.setdefault(int(match.group(2)), set()).add(int(match.group(1)))
    missing = {of: sorted(set(range(1, of + 1)) - done) for of, done in reported.items()}
    for of, left in sorted(missing.items()) if all(missing.values()) else ():
        told = ", ".join(f"{number}/{of}" for number in left)
        LOG.warning("shard %s has not reported; what it left out is read here", told)


def with_vectors(log: Log, due: Snapshots, known: np.ndarray) -> np.ndarray:
    """Which snapshots have at least one row whose item has a vector, bool [n]."""
    return _any_row(log, due, (log.items >= 0) & np.append(known, False)[log.items])


def _any_row(log: Log, due: Snapshots, chosen: np.ndarray) -> np.ndarray:
    """Which snapshots have at least one of the chosen rows, bool [n]."""
    counted = np.append(0, np.cumsum(chosen))
    return counted[due.ends] > counted[log.starts[due.users]]


def parts(count: int, size: int) -> list[slice]:
    """Consecutive slices of at most `size`."""
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def micros(value: dt.timedelta | None) -> int | None:
    """A length of time in microseconds."""
    return None if value is None else value // dt.timedelta(microseconds=1)
