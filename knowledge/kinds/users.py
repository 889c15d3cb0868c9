"""Vectors and texts of users: what the artifact before has of unchanged users is kept, the others' are made bucket by bucket."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from core import logger, progress
from core.contracts.kinds import DEFAULT, kind_named, kinds_named
from core.digest import sha256_json, vector_digests
from core.segments import FANOUT, schema_of, table_path
from core.source import code_version
from knowledge.kinds.items import Items, changed_items
from knowledge.kinds.user_kind import fit
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.open_run import FOLDERS, OpenRun
from knowledge.pooling import means
from knowledge.storage.buckets import Bucket
from knowledge.storage.compressor import FILE
from knowledge.storage.earlier import TEXTS
from knowledge.storage.matrix import IndexedMatrix
from knowledge.storage.merge import Merge, vectors_column
from knowledge.texts import summary

LOG = logger("knowledge")
# User and watermark of a snapshot to what the model said, and the version of the kind that asked.
Answers = dict[tuple[int, int], tuple[str, str]]


class Users:
    """Makes the vectors and texts of users, and keeps those of users for whom nothing changed.

    Args:
        run: log, catalogue, reasoner and settings.
        items: raw item vectors.
        neighbours: candidates for the items nearest to a user.
    """

    def __init__(self, run: OpenRun, items: Items, neighbours: summary.Neighbours) -> None:
        self._run, self._items, self._neighbours = run, items, neighbours
        self.kinds = {kind.name: fit(kind.name, run, items) for kind in kinds_named(run.settings.user_vectors)}
        self.recipe = sha256_json(self._recipe())

    def write(self, out: Path) -> dict[str, int]:
        """Write all kinds and the texts; returns rows per folder."""
        run, rows = self._run, {}
        writers = {name: self._writer(name, out) for name in self.kinds}
        chosen = self._changed(writers)
        if chosen is not None or len(run.log.names) > FANOUT:
            run.log.gather(chosen)
        with Merge(out / ".merge", chosen) as merge:
            made = self._make_all(merge)
            for name, kind in self.kinds.items():
                with writers[name] as writer:
                    rows[FOLDERS[name]] = merge.matrix(name, writer, run.lag(name), kind.compressor.dim)
                kind.compressor.save(out / FOLDERS[name] / FILE)
                kind.kind.save(run, out / FOLDERS[name])
            before = None if run.earlier is None else table_path(run.earlier.folder, TEXTS)
            rows[TEXTS] = merge.texts(TEXTS, out, run.log.user_type, run.lag(DEFAULT.name), before)
        LOG.info("knowledge of %s users made%s", f"{made:,}", "" if chosen is None else ", of all others kept")
        return rows

    def _writer(self, name: str, out: Path) -> IndexedMatrix:
        run, kind = self._run, self.kinds[name]
        key, about = ("user_id", run.log.user_type), (name, kind.version, run.lag(name))
        return IndexedMatrix(out / FOLDERS[name], key, *about, kind.compressor.dim, run.earlier_of(name))

    def _changed(self, writers: Mapping[str, IndexedMatrix]) -> pa.Array | None:
        """The users whose rows, items or prompts are not what they were; None: nothing can be kept of anybody."""
        run, earlier = self._run, self._run.earlier
        if earlier is None or earlier.made_of.users != self.recipe or any(w.known is None for w in writers.values()):
            return None
        if schema_of(table_path(earlier.folder, TEXTS)).field("user_id").type != run.log.user_type:
            return None
        items = changed_items(run, self._items)
        prompted = any(kind_named(name).prompted for name in self.kinds)
        return (
            None
            if items is None
            else run.log.changed(earlier.made_of.ordered, items, run.settings.prompt_users if prompted else None)
        )

    def _make_all(self, merge: Merge) -> int:
        """Make the tables of the users of all buckets; returns how many users there were."""
        made, first = 0, True
        for bucket in progress(self._run.log.buckets, "building users", unit="buckets"):
            log = self._run.log.log(bucket)
            if first or len(log.user_ids):
                for name, table in self._make(bucket, log).items():
                    merge.add(name, table)
            made, first = made + len(log.user_ids), False
        return made

    def _make(self, bucket: Bucket, log: Log) -> dict[str, pa.Table]:
        """The tables of a log's users."""
        tables: dict[str, pa.Table] = {}
        answers: Answers = {}
        for name, fitted in self.kinds.items():
            nothing = np.zeros(0, dtype=np.int64)
            no_vectors = np.zeros((0, fitted.compressor.dim), dtype=np.float32)
            found = [_table(log, Snapshots(nothing, nothing, nothing), fitted.version, [], no_vectors)]
            for due, hashes, raw, said in fitted.kind.make(self._run, self._items, bucket, log):
                found.append(_table(log, due, fitted.version, hashes, fitted.compressor.apply(raw)))
                keys = zip(due.users.tolist(), due.watermarks.tolist(), said, strict=False)
                answers |= {(user, mark): (answer, fitted.version) for user, mark, answer in keys if answer}
            tables[name] = pa.concat_tables(found)
        tables[TEXTS] = self._texts(log, self._run.due_with(log, self._items.known).newest(), answers)
        return tables

    def _texts(self, log: Log, newest: Snapshots, answers: Answers) -> pa.Table:
        """Each user's newest snapshot in words: the reasoner's answer where it gave one, else a summary."""
        run, width = self._run, self._items.raw.shape[1]
        near: list[np.ndarray] = []
        for _, values in means.pool(log, newest, self._items.raw, self._items.known, self._run.half_life):
            liked = np.where(values[:, :width].any(axis=1, keepdims=True), values[:, :width], values[:, width:])
            near.extend(self._neighbours.find(liked))
        template = run.template("summary_v1")
        texts = summary.user_summaries(log, run.catalogue, template, newest, np.array(near))
        keys = zip(newest.users.tolist(), newest.watermarks.tolist(), strict=True)
        answered = [answers.get(key) for key in keys]
        plain = next((fitted.version for fitted in self.kinds.values()), "")
        return pa.table(
            {
                "user_id": log.user_ids.take(pa.array(newest.users)),
                "watermark": newest.watermarks,
                "text": pa.array([a[0] if a else t for a, t in zip(answered, texts, strict=True)], pa.string()),
                "text_source": pa.array(["generated" if a else "summary" for a in answered], pa.string()),
                "version": pa.array([a[1] if a else plain for a in answered], pa.string()),
            }
        )

    def _recipe(self) -> dict[str, object]:
        """All that shapes a user's tables beside the user's rows, the cap on prompts, and the items."""
        run, knowledge = self._run, self._run.settings
        return {
            "code": code_version(("core", "knowledge")),
            "versions": {name: kind.version for name, kind in self.kinds.items()},
            "rule": [knowledge.thresholds, knowledge.max_age, knowledge.every, knowledge.prompt_snapshots],
            "half_life": run.half_life,
            "prompt": [knowledge.prompt_history, knowledge.max_tokens, run.generator.identity],
            "templates": [run.template(name).digest for name in ("user_v3", "summary_v1")],
            "scenarios": run.catalogue.scenarios,
            "items": run.item_recipe(),
            "neighbours": self._neighbours.digest(run.catalogue),
        }


def _table(log: Log, due: Snapshots, version: str, hashes: list[str], vectors: np.ndarray) -> pa.Table:
    ids = log.user_ids.take(pa.array(due.users))
    digests = vector_digests(ids.to_pylist(), version, hashes, vectors)
    return pa.table(
        {
            "user_id": ids,
            "watermark": due.watermarks,
            "hash": pa.array(hashes, pa.string()),
            "digest": vectors_column(digests),
            "vector": vectors_column(vectors),
        }
    )
