"""Whether vectors belong to whom the index says, and whether they are those of the artifact before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from core.digest import vector_digests
from validation.database import database, view
from validation.files import read_digests, read_json, read_matrix
from validation.report import share

FEW = 20
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
    """How many vectors are one and the same."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()

    def add(self, vectors: np.ndarray) -> None:
        """Count some more, float32 [n, d]."""
        self._seen.update(hash(vector.tobytes()) for vector in np.ascontiguousarray(vectors))

    def share(self) -> float | None:
        """Share of the commonest vector; None where there are few."""
        total = self._seen.total()
        return self._seen.most_common(1)[0][1] / total if total >= FEW else None


def against(folder: Path, previous: Path, key: str, coverage: float | None, tolerance: float = 0.0) -> dict[str, Any]:
    """Compare a vector kind with that of the artifact before.

    Args:
        folder: index.parquet and vectors.npy of now.
        previous: the same of the artifact before; its gate.json lies one folder above.
        key: the id column.
        coverage: share of active users that have a vector now, for users.
        tolerance: a vector of unchanged version and prompt may have moved by this part of its length. Equal prompts
            give equal vectors on one machine; on another the last digits differ (in bfloat16, the last of eight bits).

    Returns:
        Facts: `changed_unprompted`, share of vectors that moved further though version and prompt are the same;
        `largest_unprompted_change`, relative; `unchanged_vectors`, share that are equal though the prompt changed; `lost_ids` (users); `coverage_drop`.
        Empty where the kind was not there or is of another version.
    """
    if not (previous / "index.parquet").is_file():
        return {}
    old, problem = read_matrix(previous / "vectors.npy")
    new, _ = read_matrix(folder / "vectors.npy")
    if problem or old.shape[1] != new.shape[1]:
        return {}
    with database() as connection:
        view(connection, "old", previous / "index.parquet")
        view(connection, "new", folder / "index.parquet")
        same = connection.execute(
            f"""SELECT DISTINCT ON (n.row) o.row AS old, n.row AS new FROM old o JOIN new n USING ("{key}", version)
            WHERE o.prompt_sha256 = n.prompt_sha256 AND o.watermark = n.watermark ORDER BY n.row, o.row"""
        ).fetchnumpy()
        newest = """(SELECT * FROM {0} QUALIFY row_number() OVER (PARTITION BY "{1}" ORDER BY watermark DESC) = 1)"""
        other = connection.execute(
            f"""SELECT o.row AS old, n.row AS new FROM {newest.format("old", key)} o
            JOIN {newest.format("new", key)} n USING ("{key}", version)
            WHERE o.prompt_sha256 <> n.prompt_sha256 ORDER BY n.row"""
        ).fetchnumpy()
        lost = connection.execute(
            f"""SELECT avg(("{key}" NOT IN (SELECT "{key}" FROM new))::INT)
            FROM (SELECT DISTINCT "{key}" FROM old WHERE version IN (SELECT version FROM new))"""
        ).fetchone()
    moved, replaced = _changes(old, new, same), _changes(old, new, other)
    facts: dict[str, Any] = {
        "changed_unprompted": share(int((moved > tolerance).sum()), len(moved)),
        "largest_unprompted_change": float(f"{moved.max():.3g}") if len(moved) else None,
        "unchanged_vectors": share(int((replaced == 0).sum()), len(replaced)) if len(replaced) >= FEW else None,
    }
    if key == "user_id":
        facts["lost_ids"] = None if lost is None or lost[0] is None else float(lost[0])
        before = _coverage(previous)
        facts["coverage_drop"] = None if before is None or coverage is None else before - coverage
    return facts


def reference_problems(dataset: Path, knowledge: Path, kind: str, key: str, dated: bool, version: str) -> str:
    """Whether each row of a training table points to a vector of its own user, item or scenario.

    Args:
        dataset: rows.parquet and vectors/KIND.npy.
        knowledge: KIND/index.parquet and KIND/digests.npy.
        kind: folder of the vectors, e.g. user_pooled.
        key: the id column.
        dated: whether rows say the vector's watermark.
        version: what the table's spec calls the vectors.

    Returns:
        What is wrong; empty if nothing is.
    """
    index = pq.read_table(knowledge / kind / "index.parquet").sort_by("row")
    digests, problem = read_digests(knowledge / kind / "digests.npy", index.num_rows)
    vectors, unreadable = read_matrix(dataset / "vectors" / f"{kind}.npy")
    if problem or unreadable:
        return problem or unreadable
    if len(vectors) != index.num_rows:
        return f"{len(vectors)} {kind} vectors, but {index.num_rows} in the index"
    wrong = np.flatnonzero(strangers(index, key, vectors, digests))
    if len(wrong):
        return f"{len(wrong):,} {kind} vectors are not those that were made, e.g. that of {index[key][int(wrong[0])]}"
    with database() as connection:
        view(connection, "training", dataset / "rows.parquet")
        view(connection, "entries", knowledge / kind / "index.parquet")
        watermark = f"OR e.watermark <> r.{kind}_watermark" if dated else ""
        found = connection.execute(
            f"""SELECT count(*), min(r.row_id) FROM training r LEFT JOIN entries e ON e.row = r.{kind}_row
            WHERE r.{kind}_row IS NOT NULL
                AND (e.row IS NULL OR e."{key}" <> r."{key}" OR e.version <> ? {watermark})""",
            [version],
        ).fetchone()
    if not found or not found[0]:
        return ""
    return f"{found[0]:,} rows point to a {kind} vector of another {key}, time or version, e.g. row_id {found[1]}"


def _changes(old: np.ndarray, new: np.ndarray, pairs: dict[str, np.ndarray]) -> np.ndarray:
    """How far each pair of vectors is apart, relative to the old one's length; float64 [pairs], 0 only if equal."""
    found = np.zeros(len(pairs["new"]))
    for first in range(0, len(found), _BLOCK):
        part = slice(first, first + _BLOCK)
        a, b = (m[pairs[side][part]].astype(np.float64) for m, side in ((old, "old"), (new, "new")))
        distance, length = np.linalg.norm(a - b, axis=1), np.linalg.norm(a, axis=1)
        found[part] = distance / np.maximum(length, 1e-6)
    return found


def _coverage(previous: Path) -> float | None:
    gate = previous.parent / "gate.json"
    if not gate.is_file():
        return None
    facts = read_json(gate)["tables"].get(previous.name, {}).get("facts", {})
    return facts.get("coverage")
