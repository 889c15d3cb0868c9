"""Looking into knowledge artifacts: what is known about a user, and how far knowledge moved between two artifacts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contracts.kinds import kinds_of
from core.contracts.knowledge_versions import KnowledgeVersions
from core.errors import MissingArtifactError, SettingsError
from core.ids import read_id
from core.matrix import Rows, open_matrix
from core.segments import read_segments, schema_of, segments, table_path

# In the order in which they are shown: folder -> (kind, key)
KINDS: Mapping[str, tuple[str, str]] = {
    kind.view: (kind.name, kind.key) for kind in (*kinds_of("item"), *kinds_of("user"), *kinds_of("scenario"))
}
NEIGHBOURS = 10
_SAMPLE = 1000
_BLOCK = 65_536


@dataclass(frozen=True)
class _Newest:
    """The newest vector of every id of one kind: `rows[i]` of `vectors` belongs to `ids[i]`, ids sorted."""

    ids: pa.Array
    rows: np.ndarray
    hashes: pa.Array
    vectors: Rows
    version: str


def user_state(folder: Path, user_id: str) -> dict[str, Any]:
    """All that an artifact holds about a user, JSON-able.

    Args:
        folder: a knowledge artifact.
        user_id: as text; an integer id is parsed.

    Returns:
        `kinds`: per kind of user vector its version, snapshots (times, norm, prompt hash) and the nearest users
        (cosine of the newest vectors); `text`: the newest text with source, version and times, or None.

    Raises:
        SettingsError: the id is not an integer where ids are integers.
    """
    state: dict[str, Any] = {"user_id": None, "kinds": {}, "text": None}
    for name, (kind, key) in KINDS.items():
        if key != "user_id" or not (folder / name).is_dir():
            continue
        table = table_path(folder / name, "index")
        column = schema_of(table).field(key).type
        state["user_id"] = wanted = _parse(user_id, column)
        index = pq.read_table(segments(table), filters=[(key, "=", wanted)]).sort_by("watermark")
        vectors = open_matrix(folder / name / "vectors.npy")
        snapshots = [
            {
                "watermark": row["watermark"].isoformat(),
                "readable_from": row["event_timestamp"].isoformat(),
                "prompt_sha256": row["prompt_sha256"],
                "norm": round(float(np.linalg.norm(vectors[row["row"]])), 4),
            }
            for row in index.to_pylist()
        ]
        version = KnowledgeVersions.of(folder, kind)
        near = _nearest(_newest(folder, name), wanted) if snapshots else []
        state["kinds"][kind] = {"version": version, "snapshots": snapshots, "neighbours": near}
    if state["user_id"] is not None:
        told = segments(table_path(folder, "user_text"))
        texts = pq.read_table(told, filters=[("user_id", "=", state["user_id"])]).to_pylist()
        if texts:
            newest = max(texts, key=lambda row: row["watermark"])
            state["text"] = {name: newest[name] for name in ("text", "text_source", "version")}
            state["text"]["watermark"] = newest["watermark"].isoformat()
    return state


def difference(old: Path, new: Path, most: int = 10) -> dict[str, Any]:
    """How far knowledge moved between two artifacts, per kind, JSON-able.

    Vectors of one version are in one space and compared directly: cosine distance of each id's newest vectors.
    Vectors of different versions are not comparable; there the neighbourhoods are compared: the share of an id's
    ten nearest (of few ids: of the nearest half) that are the same in both, over a fixed sample of 1,000 ids both know.

    Args:
        old: a knowledge artifact.
        new: another one.
        most: how many of those that moved most to name.

    Raises:
        MissingArtifactError: they have no kind in common.
    """
    found = {}
    for name, (kind, _) in KINDS.items():
        if (old / name).is_dir() and (new / name).is_dir():
            found[kind] = _kind_difference(_newest(old, name), _newest(new, name), most)
    if not found:
        raise MissingArtifactError(f"{old} and {new} have no kind of vector in common; name two knowledge artifacts")
    return found


def _kind_difference(old: _Newest, new: _Newest, most: int) -> dict[str, Any]:
    if old.ids.type != new.ids.type:
        raise SettingsError(f"the artifacts are of different data: ids are {old.ids.type} and {new.ids.type}")
    place = np.asarray(pc.fill_null(pc.index_in(old.ids, value_set=new.ids), -1)).astype(np.int64)
    here = np.flatnonzero(place >= 0)
    there = place[here]
    told: dict[str, Any] = {
        "versions": [old.version, new.version],
        "added": len(new.ids) - len(here),
        "removed": len(old.ids) - len(here),
        "in_both": len(here),
    }
    if not len(here):
        return told
    if old.version != new.version:
        return told | _neighbourhoods(old, new, here, there, most)
    moved = np.concatenate(
        [_distance(old, new, here[i : i + _BLOCK], there[i : i + _BLOCK]) for i in range(0, len(here), _BLOCK)]
    )
    other = np.asarray(pc.not_equal(old.hashes.take(pa.array(here)), new.hashes.take(pa.array(there))))
    order = np.argsort(-moved, kind="stable")[:most]
    return told | {
        "prompt_changed": int(other.sum()),
        "moved": int((moved > 1e-6).sum()),
        "distance": {
            "mean": round(float(moved.mean()), 6),
            "median": round(float(np.median(moved)), 6),
            "p95": round(float(np.quantile(moved, 0.95)), 6),
            "max": round(float(moved.max()), 6),
        },
        "most": [
            {"id": old.ids[int(here[i])].as_py(), "distance": round(float(moved[i]), 6)} for i in order if moved[i] > 0
        ],
    }


def _distance(old: _Newest, new: _Newest, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    left, right = old.vectors[old.rows[here]], new.vectors[new.rows[there]]
    cosine = np.einsum("ij,ij->i", _units(left), _units(right))
    return np.where((left == right).all(axis=1), 0.0, 1.0 - cosine)


def _neighbourhoods(old: _Newest, new: _Newest, here: np.ndarray, there: np.ndarray, most: int) -> dict[str, Any]:
    """Of all others every one would be the same: at most half of them count as near."""
    if len(here) > _SAMPLE:
        chosen = np.linspace(0, len(here) - 1, _SAMPLE).astype(np.int64)
        here, there = here[chosen], there[chosen]
    count = min(NEIGHBOURS, (len(here) - 1) // 2)
    if count < 1:
        return {"same_neighbours": None, "neighbours": 0, "compared": len(here), "most": []}
    kept = []
    for side, rows in ((old, here), (new, there)):
        units = _units(side.vectors[side.rows[rows]])
        scores = units @ units.T
        np.fill_diagonal(scores, -np.inf)
        kept.append(np.argsort(-scores, axis=1, kind="stable")[:, :count])
    same = np.array([len(np.intersect1d(a, b)) / count for a, b in zip(*kept, strict=True)])
    order = np.argsort(same, kind="stable")[:most]
    return {
        "same_neighbours": round(float(same.mean()), 4),
        "neighbours": count,
        "compared": len(here),
        "most": [{"id": old.ids[int(here[i])].as_py(), "same": round(float(same[i]), 4)} for i in order if same[i] < 1],
    }


def _newest(folder: Path, name: str) -> _Newest:
    """Index and matrix are in order of watermark, so the last row of an id is its newest."""
    kind, key = KINDS[name]
    index = read_segments(table_path(folder / name, "index"), [key, "row", "prompt_sha256"])
    vectors = open_matrix(folder / name / "vectors.npy")
    last = index.append_column("place", pa.array(np.arange(index.num_rows))).group_by(key).aggregate([("place", "max")])
    last = last.sort_by(key)
    kept = index.take(last["place_max"].combine_chunks()).combine_chunks()
    version = KnowledgeVersions.of(folder, kind)
    return _Newest(
        kept[key].combine_chunks(), kept["row"].to_numpy(), kept["prompt_sha256"].combine_chunks(), vectors, version
    )


def _nearest(newest: _Newest, wanted: Any) -> list[dict[str, Any]]:
    own = int(pc.index(newest.ids, pa.scalar(wanted, newest.ids.type)).as_py())
    unit = _units(newest.vectors[newest.rows[own]][None, :])[0]
    parts = [newest.rows[i : i + _BLOCK] for i in range(0, len(newest.rows), _BLOCK)]
    scores = np.concatenate([_units(newest.vectors[part]) @ unit for part in parts])
    scores[own] = -np.inf
    order = np.argsort(-scores, kind="stable")[: min(NEIGHBOURS, len(scores) - 1)]
    return [{"user_id": newest.ids[int(i)].as_py(), "cosine": round(float(scores[i]), 4)} for i in order]


def _units(vectors: np.ndarray) -> np.ndarray:
    wide = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.asarray(wide / np.where(norms > 0, norms, 1.0))


def _parse(user_id: str, kind: pa.DataType) -> int | str:
    try:
        return read_id(user_id, kind)
    except ValueError as error:
        raise SettingsError(f"--user {error}") from error
