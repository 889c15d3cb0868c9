"""Vectors and texts of users, bucket by bucket: what is kept of unchanged users, and what is made for the others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core import logger, progress
from core.contracts.kinds import DEFAULT, kinds_named
from core.digest import canonical_json, vector_digests
from core.source import code_version
from knowledge.kinds.items import Items
from knowledge.kinds.user_kind import fit
from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log
from knowledge.open_run import FOLDERS, OpenRun
from knowledge.pooling import means
from knowledge.storage.buckets import Bucket
from knowledge.storage.compressor import FILE
from knowledge.storage.merge import Merge, vectors_column
from knowledge.storage.user_tables import Kept, Tables, UserTables, recipe_name, user_keys
from knowledge.texts import summary

LOG = logger("knowledge")
# User and watermark of a snapshot to what the model said, and the version of the kind that asked.
Answers = dict[tuple[int, int], tuple[str, str]]


class Users:
    """Makes and keeps the tables of users.

    Args:
        work: log, catalogue, reasoner and settings.
        items: raw item vectors.
        neighbours: candidates for the items nearest to a user.
    """

    def __init__(self, run: OpenRun, items: Items, neighbours: summary.Neighbours) -> None:
        self._run, self._items, self._neighbours = run, items, neighbours
        self.kinds = {kind.name: fit(kind.name, run, items) for kind in kinds_named(run.settings.user_vectors)}
        self._digests = items.digests(run)
        self._tables = UserTables(run.cache, recipe_name(canonical_json(self._recipe())))
        self._catalogue = self._tables.keep_items(self._digests)
        self._changed: dict[str, pa.Array | None] = {self._catalogue: pa.array([], run.catalogue.item_ids.type)}

    def write(self, out: Path) -> dict[str, int]:
        """Write all kinds and the texts; returns rows per folder."""
        rows, made, kept = {}, 0, 0
        with Merge(out / ".merge") as merge:
            for tables, new, old in progress(
                self._buckets(), "building users", total=len(self._run.log.buckets), unit="buckets"
            ):
                made, kept = made + new, kept + old
                for name, table in tables.items():
                    if name != "users":
                        merge.add(name, table)
            for name, kind in self.kinds.items():
                folder = out / FOLDERS[name]
                lag, earlier = self._run.lag(name), self._run.earlier_of(name)
                rows[FOLDERS[name]] = merge.matrix(name, folder, name, kind.version, lag, kind.compressor.dim, earlier)
                kind.compressor.save(folder / FILE)
                kind.kind.save(self._run, folder)
            rows["user_text"] = merge.texts("text", out / "user_text.parquet", self._run.lag(DEFAULT.name))
        self._tables.tidy(self._run.log.buckets)
        LOG.info("knowledge of %s users made, of %s kept", f"{made:,}", f"{kept:,}")
        return rows

    def _buckets(self) -> Iterator[tuple[Tables, int, int]]:
        for bucket in self._run.log.buckets:
            yield self._bucket(bucket)

    def _bucket(self, bucket: Bucket) -> tuple[Tables, int, int]:
        """A bucket's tables, the number of users that were made and of those that were kept."""
        users = self._run.log.users(bucket)
        ids = users["user_id"].combine_chunks()
        keys = user_keys(users["key"].combine_chunks(), self._run.prompted_users(ids))
        parts: list[Tables] = []
        left = pa.table({"user_id": ids, "key": keys})
        kept = self._tables.load(bucket)
        for old in kept:
            same = self._unchanged(bucket, old, left)
            parts.append(old.of(same))
            left = left.filter(pc.invert(pc.is_in(left["user_id"], value_set=same)))
        if left.num_rows or not parts:
            everybody = left.num_rows == len(ids)
            chosen = left["user_id"].combine_chunks()
            log = self._run.log.log(bucket, None if everybody else chosen)
            parts.append({"users": left, **self._make(bucket, log)})
        tables = {name: pa.concat_tables([part[name] for part in parts]).combine_chunks() for name in parts[-1]}
        whole = len(kept) == 1 and kept[0].catalogue == self._catalogue
        if not whole or left.num_rows or len(kept[0].tables["users"]) != len(ids):
            self._tables.save(bucket, self._catalogue, tables)
        return tables, left.num_rows, len(ids) - left.num_rows

    def _unchanged(self, bucket: Bucket, old: Kept, users: pa.Table) -> pa.Array:
        """The users whose rows, items and prompts are what they were."""
        before = old.tables["users"]
        place = pc.index_in(users["user_id"], value_set=before["user_id"].combine_chunks())
        same = pc.fill_null(pc.equal(before["key"].take(place.combine_chunks()), users["key"]), False)
        found = users["user_id"].filter(same).combine_chunks()
        if old.catalogue not in self._changed:
            self._changed[old.catalogue] = self._tables.changed_items(old.catalogue, self._digests)
        changed = self._changed[old.catalogue]
        if changed is None:
            return found.slice(0, 0)
        if len(changed):
            touched = self._run.log.users_with(bucket, changed)
            found = found.filter(pc.invert(pc.is_in(found, value_set=touched)))
        return found

    def _make(self, bucket: Bucket, log: Log) -> Tables:
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
        tables["text"] = self._texts(log, self._run.due_with(log, self._items.known).newest(), answers)
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
