"""The stage `knowledge`: from the validated log to versioned, point-in-time vectors and texts."""

from __future__ import annotations

import datetime as dt
import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core import ArtifactStore, Built, Clock, Settings, logger, progress
from core.digest import sha256_json, sha256_text
from core.store import write_json
from knowledge import matrix, pooled, prompts, snapshots, summary
from knowledge.cache import Cache
from knowledge.compressor import FILE, MAX_FIT_ROWS, Compressor, kept_compressor
from knowledge.matrix import Rows
from knowledge.reasoners import Reasoner, make_reasoner, make_thinker
from knowledge.snapshots import Snapshots
from knowledge.sources import Catalogue, Log, read_catalogue, read_log
from knowledge.template import Template, load_template

LOG = logger("knowledge")
FOLDERS = {"item_text": "item_text", "pooled": "user_pooled", "prompt": "user_prompt", "scenario": "scenario"}
# How an item's text is put together; raise it when `sources` changes that.
ITEM_TEXT = 1
_BLOCK_SHARDS = 16


def build_knowledge(
    sources: Sequence[Path],
    out: Path,
    settings: Settings,
    clock: Clock,
    *,
    train_start: int,
    cache: Path,
    compressors: ArtifactStore,
    window_ends: Sequence[int] = (),
) -> Built:
    """Build every knowledge kind the settings ask for.

    Args:
        sources: folders of validated tables, in order of their windows.
        out: where to write; see `docs/rooms/knowledge.md` for the files.
        settings: `data` and `knowledge` count.
        clock: rows at or after its now are not read.
        train_start: microseconds; compressors see rows before it only.
        cache: reasoner outputs by prompt hash; outlives artifacts.
        compressors: keeps fitted compressors, so that later windows use the same.
        window_ends: microseconds; a scenario vector is also made at each that lies after `train_start`.

    Returns:
        Rows per folder and the version per kind.

    Raises:
        UserError: input or settings must change; the message says how.
    """
    work = Work.open(sources, out, settings, clock, train_start, cache, compressors)
    raw, known = work.item_vectors()
    rows, versions = {}, {}
    rows["item_text"], versions["item_text"] = work.items(raw, known)
    due = work.due()
    if "pooled" in settings.knowledge.user_vectors:
        rows["user_pooled"], versions["pooled"] = work.pooled(due, raw, known)
    if "prompt" in settings.knowledge.user_vectors:
        rows["user_prompt"], versions["prompt"] = work.prompts(due, raw, known)
    moments = [train_start, *sorted({end for end in window_ends if end > train_start})]
    rows["scenario"], versions["scenario"], newest = work.scenarios(moments)
    neighbours = summary.Neighbours(raw, known, np.bincount(work.log.items[work.log.items >= 0], minlength=len(raw)))
    rows["user_text"] = work.user_texts(due, raw, known, neighbours, versions)
    rows["scenario_text"] = work.scenario_texts(moments[-1], newest, neighbours, versions["scenario"])
    write_json(out / "versions.json", versions)
    return Built(rows=rows, versions=versions)


@dataclass(frozen=True)
class Work:
    """The material of a run and what its steps share."""

    out: Path
    settings: Settings
    train_start: int
    cache: Path
    compressors: ArtifactStore
    catalogue: Catalogue
    log: Log
    reasoner: Reasoner
    thinker: Reasoner
    part: tuple[int, int] | None = None
    caches: dict[str, Cache] = field(default_factory=dict)
    answers: dict[tuple[int, int], str] = field(default_factory=dict)

    @classmethod
    def open(
        cls,
        sources: Sequence[Path],
        out: Path,
        settings: Settings,
        clock: Clock,
        train_start: int,
        cache: Path,
        compressors: ArtifactStore,
        part: tuple[int, int] | None = None,
    ) -> Work:
        """Read catalogue and log, and load the reasoner."""
        catalogue = read_catalogue(sources, settings.data)
        log = read_log(sources, catalogue, clock.now_micros())
        reasoner = make_reasoner(settings.knowledge)
        thinker = make_thinker(settings.knowledge, reasoner)
        return cls(out, settings, train_start, cache, compressors, catalogue, log, reasoner, thinker, part)

    def due(self) -> Snapshots:
        """All snapshots that were due by the settings' rule."""
        knowledge = self.settings.knowledge
        return snapshots.due_snapshots(
            self.log, knowledge.thresholds, _micros(knowledge.max_age), _micros(knowledge.every)
        )

    def item_vectors(self) -> tuple[np.ndarray, np.ndarray]:
        """Raw vectors of all items, float16 [items, d], and which items have a text."""
        known = np.array([bool(text) for text in self.catalogue.texts], dtype=bool)
        raw = np.zeros((len(known), self.reasoner.dim), dtype=np.float16)
        raw[known] = self._encode([text for text in self.catalogue.texts if text], "encoding item texts")
        folder = self.out / FOLDERS["item_text"]
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "raw.npy", raw[known], allow_pickle=False)
        ids = self.catalogue.item_ids.filter(pa.array(known))
        pq.write_table(pa.table({"item_id": ids}), folder / "raw_index.parquet", compression="zstd")
        return raw, known

    def items(self, raw: np.ndarray, known: np.ndarray) -> tuple[int, str]:
        """Item text vectors: standardise + PCA, fitted on items of the log before training starts."""
        seen = np.unique(self.log.items[(self.log.times < self.train_start) & (self.log.items >= 0)])
        seen = seen[known[seen]]
        fitted = raw[seen] if len(seen) >= 2 else raw[known]
        compressor, version = self._compressor(
            "item_text", self._item_recipe(), fitted, self.settings.knowledge.item_dim
        )
        rows = Rows("item_id", self.catalogue.item_ids, self.catalogue.item_times, self._lag("item_text"))
        order = np.lexsort((np.arange(len(raw)), self.catalogue.item_times))
        order = order[known[order]]
        vectors = matrix.create(self.out / FOLDERS["item_text"], len(order), compressor.dim)
        for part in _parts(len(order), 65_536):
            vectors[part] = compressor.apply(raw[order[part]])
        hashes = [sha256_text(self.catalogue.texts[i]) for i in order]
        return self._finish("item_text", rows.take(order), version, hashes, compressor, vectors)

    def pooled(self, due: Snapshots, raw: np.ndarray, known: np.ndarray) -> tuple[int, str]:
        """Pooled user vectors at every due snapshot."""
        early = due.take(due.watermarks <= self.train_start)
        fitted = self._pooled_sample(early, raw, known)
        if len(fitted) < 2:
            LOG.warning("fewer than 2 user snapshots before training starts: `pooled` is fitted on item texts instead")
            nothing = np.zeros_like(raw[known])
            fitted = np.concatenate([np.hstack([raw[known], nothing]), np.hstack([nothing, raw[known]])]).astype(float)
        recipe = {"item": self._item_recipe(), "thresholds": self.settings.knowledge.thresholds}
        compressor, version = self._compressor("pooled", recipe, fitted, self.settings.knowledge.user_dim)
        due = due.take(self._with_vectors(due, known))
        rows, order, place = self._user_rows(due, "pooled")
        vectors = matrix.create(self.out / FOLDERS["pooled"], len(due), compressor.dim)
        hashes = [""] * len(due)
        for part, values in progress(pooled.pool(self.log, due, raw, known), "pooling user vectors", unit="chunks"):
            vectors[place[part]] = compressor.apply(values)
            for row, value in zip(place[part], values, strict=True):
                hashes[row] = hashlib.sha256(value.tobytes()).hexdigest()
        return self._finish("pooled", rows, version, hashes, compressor, vectors)

    def _pooled_sample(self, early: Snapshots, raw: np.ndarray, known: np.ndarray) -> np.ndarray:
        """The snapshots a compressor is fitted on, evenly spaced among those with a vector, float64 [n, 2 d]."""
        usable = np.flatnonzero(self._with_vectors(early, known))
        if len(usable) > MAX_FIT_ROWS:
            usable = usable[np.linspace(0, len(usable) - 1, MAX_FIT_ROWS).astype(np.int64)]
        parts = [np.zeros((0, 2 * raw.shape[1]))]
        for part, values in pooled.pool(self.log, early, raw, known):
            chosen = usable[np.searchsorted(usable, part.start) : np.searchsorted(usable, part.stop)]
            parts.append(values[chosen - part.start])
        return np.concatenate(parts)

    def prompted(self, due: Snapshots) -> Snapshots:
        """The due snapshots that get a prompt vector: those of the users within the cap."""
        due = due.take(snapshots.most_active(self.log, self.settings.knowledge.prompt_users)[due.users])
        return due.newest() if self.settings.knowledge.prompt_snapshots == "newest" else due

    def prompt_builder(self) -> prompts.UserPrompts:
        """Writes user prompts by the settings' template and length."""
        knowledge = self.settings.knowledge
        return prompts.UserPrompts(
            self.log,
            self.catalogue,
            self._template("user_v1"),
            self.thinker,
            knowledge.prompt_history,
            knowledge.max_tokens,
        )

    def prompts(self, due: Snapshots, items: np.ndarray, known: np.ndarray) -> tuple[int, str]:
        """Hidden states over user prompts, or over the answers to them, at every due snapshot of the users in the cap."""
        knowledge, template, builder = self.settings.knowledge, self._template("user_v1"), self.prompt_builder()
        due = self.prompted(due)
        rows, order, place = self._user_rows(due, "prompt")
        hashes = [""] * len(due)
        raw = self._scratch(len(due))
        newest = np.append(due.users[1:] != due.users[:-1], True)[: len(due)]
        for part in _parts(len(due), _BLOCK_SHARDS * knowledge.shard_rows):
            texts = builder.build(due.take(np.arange(part.start, part.stop)))
            raw[place[part]], answers = self._cache(self.thinker).answer(texts, "encoding user prompts")
            for row, text in zip(place[part], texts, strict=True):
                hashes[row] = sha256_text(text)
            for i, answer in zip(range(part.start, part.stop), answers or (), strict=False):
                if newest[i] and answer:
                    self.answers[int(due.users[i]), int(due.watermarks[i])] = answer
        fitted = raw[rows.watermarks <= self.train_start]
        if len(fitted) < 2:
            LOG.warning("fewer than 2 user prompts before training starts: `prompt` is fitted on item texts instead")
            fitted = items[known]
        recipe = {
            "template": template.digest,
            "reasoner": self.thinker.identity,
            "history": knowledge.prompt_history,
            "scenarios": self.catalogue.scenarios,
            "thresholds": knowledge.thresholds,
            "snapshots": knowledge.prompt_snapshots,
            "item_text": self._text_recipe(),
        }
        compressor, version = self._compressor("prompt", recipe, fitted, knowledge.user_dim)
        vectors = matrix.create(self.out / FOLDERS["prompt"], len(due), compressor.dim)
        for part in _parts(len(due), 65_536):
            vectors[part] = compressor.apply(raw[part])
        return self._finish("prompt", rows, version, hashes, compressor, vectors)

    def scenarios(self, moments: Sequence[int]) -> tuple[int, str, np.ndarray]:
        """Scenario vectors, standardised over the scenarios at the start of training; also the newest raw ones."""
        template = self._template("scenario_v1")
        count = len(self.catalogue.scenarios)
        texts = self.scenario_prompts(moments)
        raw = self._encode(texts, "encoding scenarios")
        recipe = {
            "template": template.digest,
            "reasoner": self.reasoner.identity,
            "scenarios": self.catalogue.scenarios,
        }
        compressor, version = self._compressor("scenario", recipe, raw[:count], None)
        names = pa.array([name for name, _, _ in self.catalogue.scenarios] * len(moments), pa.string())
        rows = Rows("scenario", names, np.repeat(np.array(moments, dtype=np.int64), count), self._lag("scenario"))
        order = np.array(
            sorted(range(len(texts)), key=lambda i: (rows.watermarks[i], names[i].as_py())), dtype=np.int64
        )
        vectors = matrix.create(self.out / FOLDERS["scenario"], len(texts), compressor.dim)
        vectors[:] = compressor.apply(raw[order])
        hashes = [sha256_text(texts[i]) for i in order]
        written, version = self._finish("scenario", rows.take(order), version, hashes, compressor, vectors)
        return written, version, raw[-count:]

    def scenario_prompts(self, moments: Sequence[int]) -> list[str]:
        """The prompts of all scenarios at each moment."""
        template = self._template("scenario_v1")
        return [text for m in moments for text in prompts.scenario_prompts(self.log, self.catalogue, template, m)]

    def user_texts(
        self,
        due: Snapshots,
        raw: np.ndarray,
        known: np.ndarray,
        neighbours: summary.Neighbours,
        versions: Mapping[str, str],
    ) -> int:
        """Each user's newest snapshot in words: the reasoner's answer where it gave one, else a summary."""
        newest = due.take(self._with_vectors(due, known)).newest()
        width = raw.shape[1]
        near: list[np.ndarray] = []
        for _, values in pooled.pool(self.log, newest, raw, known):
            liked = np.where(values[:, :width].any(axis=1, keepdims=True), values[:, :width], values[:, width:])
            near.extend(neighbours.find(liked))
        rows, order, _ = self._user_rows(newest, "pooled")
        texts = summary.user_summaries(self.log, self.catalogue, self._template("summary_v1"), newest, np.array(near))
        keys = list(zip(newest.users.tolist(), newest.watermarks.tolist(), strict=True))
        answered = [self.answers.get(keys[i]) for i in order]
        told = [answer or texts[i] for i, answer in zip(order, answered, strict=True)]
        version = [versions["prompt"] if a else versions.get("pooled", versions.get("prompt", "")) for a in answered]
        source = ["generated" if a else "summary" for a in answered]
        matrix.write_text(self.out / "user_text.parquet", rows, told, version, source)
        return len(texts)

    def scenario_texts(self, moment: int, raw: np.ndarray, neighbours: summary.Neighbours, version: str) -> int:
        """A summary of each scenario at its newest watermark."""
        wide = raw.astype(np.float64)
        # Prompts of scenarios are much alike; only what sets one apart can be near to an item.
        near = neighbours.find(wide, wide.mean(axis=0)) if len(wide) > 1 else np.zeros((len(wide), 0), np.int64)
        template = self._template("summary_v1")
        texts = summary.scenario_summaries(self.log, self.catalogue, template, moment, near)
        names = [name for name, _, _ in self.catalogue.scenarios]
        order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
        moments = np.full(len(names), moment, dtype=np.int64)
        rows = Rows("scenario", pa.array(names, pa.string()), moments, self._lag("scenario"))
        told, count = [texts[i] for i in order], len(texts)
        matrix.write_text(
            self.out / "scenario_text.parquet", rows.take(order), told, [version] * count, ["summary"] * count
        )
        return len(texts)

    def cached(self, thinks: bool = False) -> Cache:
        """The cache of the reasoner, or of what reads the users' prompts."""
        return self._cache(self.thinker if thinks else self.reasoner)

    def _encode(self, texts: list[str], description: str) -> np.ndarray:
        parts = [
            self._cache(self.reasoner).encode(texts[part], description)
            for part in _parts(len(texts), _BLOCK_SHARDS * self.settings.knowledge.shard_rows)
        ]
        return np.concatenate([np.zeros((0, self.reasoner.dim), np.float16), *parts])

    def _cache(self, reasoner: Reasoner) -> Cache:
        """The reasoner's cache, its index read once."""
        if reasoner.identity not in self.caches:
            self.caches[reasoner.identity] = Cache(
                self.cache, reasoner, shard_rows=self.settings.knowledge.shard_rows, part=self.part
            )
        return self.caches[reasoner.identity]

    def _scratch(self, rows: int) -> np.ndarray:
        """Raw vectors on disk, float16 [rows, dim], gone when the last reference is: memory stays flat."""
        if not rows:
            return np.zeros((0, self.reasoner.dim), dtype=np.float16)
        with tempfile.TemporaryFile(dir=self.out) as file:
            return np.memmap(file, dtype=np.float16, mode="w+", shape=(rows, self.reasoner.dim))

    def _compressor(
        self, kind: str, recipe: Mapping[str, object], fitted: np.ndarray, dim: int | None
    ) -> tuple[Compressor, str]:
        compressor, digest = kept_compressor(self.compressors, kind, recipe, self.train_start, fitted, dim)
        return compressor, sha256_json({"kind": kind, "recipe": recipe, "compressor": digest})[:10]

    def _finish(
        self, kind: str, rows: Rows, version: str, hashes: list[str], compressor: Compressor, vectors: np.ndarray
    ) -> tuple[int, str]:
        folder = self.out / FOLDERS[kind]
        if isinstance(vectors, np.memmap):
            vectors.flush()
        matrix.write_index(folder, rows, kind, version, hashes)
        compressor.save(folder / FILE)
        return len(hashes), version

    def _user_rows(self, due: Snapshots, kind: str) -> tuple[Rows, np.ndarray, np.ndarray]:
        """Rows in order of (watermark, user), that order, and the place of each snapshot in it."""
        order = np.lexsort((due.users, due.watermarks))
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        ids = self.log.user_ids.take(pa.array(due.users))
        return Rows("user_id", ids, due.watermarks, self._lag(kind)).take(order), order, place

    def _with_vectors(self, due: Snapshots, known: np.ndarray) -> np.ndarray:
        """Which snapshots have at least one row whose item has a vector."""
        counted = np.append(0, np.cumsum((self.log.items >= 0) & np.append(known, False)[self.log.items]))
        return counted[due.ends] > counted[self.log.starts[due.users]]

    def _lag(self, kind: str) -> int:
        return _micros(self.settings.knowledge.lag.get(kind)) or 0

    def _template(self, name: str) -> Template:
        return load_template(name, self.settings.knowledge.language)

    def _text_recipe(self) -> dict[str, object]:
        data = self.settings.data
        return {"columns": data.item_text, "categories": data.item_categorical[:1], "format": ITEM_TEXT}

    def _item_recipe(self) -> dict[str, object]:
        return {"text": self._text_recipe(), "reasoner": self.reasoner.identity}


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(count, start + size)) for start in range(0, count, size)]


def _micros(value: dt.timedelta | None) -> int | None:
    return None if value is None else value // dt.timedelta(microseconds=1)
