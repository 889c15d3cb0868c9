"""Whether vectors belong to whom the index says, and whether they are those of the artifact before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.digest import vector_digests
from core.duck import name_of, slices
from core.limits import ValidationSettings
from core.matrix import Rows
from core.segments import schema_of, segments, table_path
from validation.database import database, view
from validation.files import read_digests, read_matrix
from validation.report import share

_BLOCK = 65_536


def strangers(index: pa.Table, key: str, vectors: np.ndarray, digests: np.ndarray) -> np.ndarray:
    """Which entries do not have the vector that they were written with.

    Args:
        index: n entries with `key`, version and prompt_sha256.
        key: the id column.
        vectors: float32 [n, d], the vector that each entry points to.
        digests: uint8 [n, 32], as written beside the index.

    Returns:
        bool [n].
    """
    columns = {name: index.column(name).to_pylist() for name in (key, "version", "prompt_sha256")}
    wrong = np.zeros(index.num_rows, dtype=bool)
    versions = np.array(columns["version"], dtype=object)
    for version in set(columns["version"]):
        at = np.flatnonzero(versions == version)
        ids, prompts = ([columns[name][i] for i in at] for name in (key, "prompt_sha256"))
        wrong[at] = (vector_digests(ids, version, prompts, vectors[at]) != digests[at]).any(axis=1)
    return wrong


class Sameness:
    """How many prompts are one and the same, and how many vectors of different prompts are.

    Equal prompts have equal vectors by right: two items of one title are no fault of the reasoner.
    """

    def __init__(self) -> None:
        self._prompts: Counter[int] = Counter()
        self._vectors: Counter[int] = Counter()

    def add(self, vectors: np.ndarray, prompts: Sequence[str]) -> None:
        """Count some more: vectors, float32 [n, d], and the hash of what the reasoner read for each."""
        for vector, prompt in zip(np.ascontiguousarray(vectors), map(hash, prompts), strict=True):
            if prompt not in self._prompts:
                self._vectors[hash(vector.tobytes())] += 1
            self._prompts[prompt] += 1

    @property
    def prompts(self) -> int:
        """How many different ones there are."""
        return len(self._prompts)

    def share_of_vector(self, least: int) -> float | None:
        """Share of the commonest vector among different prompts; None where there are fewer than `least`."""
        return _commonest(self._vectors, least)

    def share_of_prompt(self, least: int) -> float | None:
        """Share of the commonest prompt; None where there are fewer than `least`."""
        return _commonest(self._prompts, least)


def against(
    folder: Path, previous: Path, key: str, active: Path | None, limits: ValidationSettings, first: int = 0
) -> dict[str, Any]:
    """Compare a vector kind with that of the artifact before.

    Args:
        folder: index and vectors of now.
        previous: the same of the artifact before.
        key: the id column.
        active: the window's interactions, for users; None: not known.
        limits: `vector_tolerance`: a vector of unchanged version and prompt may have moved by this part of its length.
            Equal prompts give equal vectors on one machine; on another the last digits differ (in bfloat16, the last of
            eight bits). `min_vectors`: fewer are not judged by shares.
        first: the rows before it are the same files in both.

    Returns:
        Facts: `changed_unprompted`, share of vectors that moved further though version and prompt are the same;
        `largest_unprompted_change`, relative; `unchanged_vectors`, share that are equal though the prompt changed;
        of users also `lost_ids`, share that had a vector and have none now, and `coverage_drop`, the same among the
        window's users: new ones do not count.
        Empty where the kind was not there, is of another version, or has ids of another type.
    """
    tables = [table_path(part, "index") for part in (previous, folder)]
    if not tables[0].exists():
        return {}
    old, problem = read_matrix(previous / "vectors.npy")
    new, _ = read_matrix(folder / "vectors.npy")
    if problem or old.shape[1] != new.shape[1]:
        return {}
    kinds = {schema_of(table).field(key).type for table in tables}
    if len(kinds) > 1:
        return {}  # the ids are written otherwise now, see data.ids: none is the same
    with database() as connection:
        for name, table in zip(("old", "new"), tables, strict=True):
            view(connection, name, *segments(table))
        same = connection.execute(
            f"""SELECT DISTINCT ON (n.row) o.row AS old, n.row AS new FROM old o JOIN new n USING ({name_of(key)}, version)
            WHERE n.row >= {first} AND o.prompt_sha256 = n.prompt_sha256 AND o.watermark = n.watermark
            ORDER BY n.row, o.row"""
        ).fetchnumpy()
        newest = f"""(SELECT * FROM {{0}} WHERE {{1}} IN (SELECT {{1}} FROM new WHERE row >= {first})
            QUALIFY row_number() OVER (PARTITION BY {{1}} ORDER BY watermark DESC) = 1)"""
        other = connection.execute(
            f"""SELECT o.row AS old, n.row AS new FROM {newest.format("old", name_of(key))} o
            JOIN {newest.format("new", name_of(key))} n USING ({name_of(key)}, version)
            WHERE o.prompt_sha256 <> n.prompt_sha256 ORDER BY n.row"""
        ).fetchnumpy()
        lost = f"""SELECT avg(({name_of(key)} NOT IN (SELECT {name_of(key)} FROM new))::INT)
            FROM (SELECT DISTINCT {name_of(key)} FROM old WHERE version IN (SELECT version FROM new))"""
        gone: dict[str, Any] = {}
        if key == "user_id":
            gone["lost_ids"] = connection.execute(lost).fetchall()[0][0]
        if key == "user_id" and active is not None:
            view(connection, "active", active)
            here = f"{lost} WHERE user_id IN (SELECT user_id FROM active)"
            gone["coverage_drop"] = connection.execute(here).fetchall()[0][0]
    moved, replaced = _changes(old, new, same), _changes(old, new, other)
    return {
        "changed_unprompted": share(int((moved > limits.vector_tolerance).sum()), first + len(moved)),
        "largest_unprompted_change": float(f"{moved.max():.3g}") if len(moved) else 0.0 if first else None,
        "unchanged_vectors": share(int((replaced == 0).sum()), len(replaced))
        if len(replaced) >= limits.min_vectors
        else None,
        **{name: None if value is None else float(value) for name, value in gone.items()},
    }


def reference_problems(
    dataset: Path, rows: Sequence[Path], knowledge: Path, kind: str, key: str, dated: bool, version: str
) -> str:
    """Whether rows of a training table point to vectors of their own users, items or scenarios, as they were made.

    Args:
        dataset: vectors/KIND.npy.
        rows: files of rows.
        knowledge: KIND/index and KIND/digests.
        kind: folder of the vectors, e.g. user_pooled.
        key: the id column.
        dated: whether rows say the vector's watermark.
        version: what the table's spec calls the vectors.

    Returns:
        What is wrong; empty if nothing is.
    """
    index = segments(table_path(knowledge / kind, "index"))
    count = sum(pq.read_metadata(file).num_rows for file in index)
    digests, problem = read_digests(knowledge / kind / "digests.npy", count)
    vectors, unreadable = read_matrix(dataset / "vectors" / f"{kind}.npy")
    if problem or unreadable:
        return problem or unreadable
    if len(vectors) != count:
        return f"{len(vectors)} {kind} vectors, but {count} in the index"
    with database() as connection:
        view(connection, "training", *rows)
        view(connection, "entries", *index)
        wrong, example = _not_as_made(connection, kind, key, vectors, digests)
        if wrong:
            return f"{wrong:,} {kind} vectors are not those that were made, e.g. that of {example}"
        watermark = f"OR e.watermark <> r.{kind}_watermark" if dated else ""
        found = connection.execute(
            f"""SELECT count(*), min(r.file_row_number) + 1 FROM training r LEFT JOIN entries e ON e.row = r.{kind}_row
            WHERE r.{kind}_row IS NOT NULL
                AND (e.row IS NULL OR e.{name_of(key)} <> r.{name_of(key)} OR e.version <> ? {watermark})""",
            [version],
        ).fetchone()
    if not found or not found[0]:
        return ""
    return f"{found[0]:,} rows point to a {kind} vector of another {key}, time or version, e.g. row {found[1]}"


def _not_as_made(
    connection: duckdb.DuckDBPyConnection, kind: str, key: str, vectors: Rows, digests: Rows
) -> tuple[int, Any]:
    """How many entries that rows point to do not have the vector that they were written with, and one of them."""
    count, example = 0, None
    query = f"""SELECT {name_of(key)}, version, prompt_sha256, row FROM entries
        WHERE row IN (SELECT {kind}_row FROM training) ORDER BY row"""
    for entries in slices(connection, query, _BLOCK):
        rows = entries["row"].to_numpy()
        there = (rows >= 0) & (rows < len(vectors))
        wrong = ~there
        known = entries.filter(pa.array(there))
        wrong[there] = strangers(known, key, vectors[rows[there]], digests[rows[there]])
        if wrong.any() and not count:
            example = entries[key][int(np.argmax(wrong))]
        count += int(wrong.sum())
    return count, example


def _commonest(counted: Counter[int], least: int) -> float | None:
    total = counted.total()
    return counted.most_common(1)[0][1] / total if total >= least else None


def _changes(old: Rows, new: Rows, pairs: dict[str, np.ndarray]) -> np.ndarray:
    """How far each pair of vectors is apart, relative to the old one's length; float64 [pairs], 0 only if equal."""
    found = np.zeros(len(pairs["new"]))
    for first in range(0, len(found), _BLOCK):
        part = slice(first, first + _BLOCK)
        a, b = (m[pairs[side][part]].astype(np.float64) for m, side in ((old, "old"), (new, "new")))
        distance, length = np.linalg.norm(a - b, axis=1), np.linalg.norm(a, axis=1)
        found[part] = distance / np.maximum(length, 1e-6)
    return found
