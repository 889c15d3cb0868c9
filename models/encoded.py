"""Rows as arrays, of which a batch is an index away: those of a training table, and those of a catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from core.errors import DataError
from core.matrix import Rows
from models.inputs import Bags, Side


@dataclass
class EncodedRows:
    """A whole training table as arrays: a batch is an index away. N rows, K distinct user-vector combinations."""

    user: np.ndarray  # int32 [Fu, N]
    item: np.ndarray  # int32 [Fi, N]
    scenario: np.ndarray  # int16 [N]: small, so that a batch is sorted by radix
    log: np.ndarray  # int32 [M] item rows of all users' positives
    begin: np.ndarray  # int32 [N] into log
    end: np.ndarray  # int32 [N]
    dense: np.ndarray  # float32 [N, D]
    user_key: np.ndarray  # int32 [N] into the K combinations
    user_rows: dict[str, np.ndarray]  # kind -> int64 [K], -1: unknown
    scenario_row: np.ndarray  # int32 [N], -1: unknown
    item_row: np.ndarray  # int32 [N], -1: unknown
    label: np.ndarray  # float32 [N]
    weight: np.ndarray  # float32 [N]
    grade: np.ndarray  # float32 [N], NaN: unknown
    vectors: Mapping[str, Rows]

    def bags(self, index: np.ndarray) -> Bags:
        """Embedding ids of some rows."""
        begin = self.begin[index].astype(np.int64)
        lengths = self.end[index] - begin
        total = np.cumsum(lengths)
        place = np.repeat(begin - total + lengths, lengths) + np.arange(total[-1] if len(total) else 0)
        ids, items = np.take(self.user, index, axis=1), np.take(self.item, index, axis=1)
        user, item, scenario, history = (
            part.astype(np.int64) for part in (ids, items, self.scenario[index], self.log[place])
        )
        return Bags(user, item, scenario, history, lengths)

    def side(self, index: np.ndarray) -> Side:
        """Everything else of some rows; each distinct user vector and scenario vector once."""
        keys, user_index = distinct(self.user_key[index])
        users = [gather(self.vectors[kind], rows[keys]) for kind, rows in self.user_rows.items()]
        scenario_rows, scenario_index = distinct(self.scenario_row[index])
        scenarios = gather(self.vectors.get("scenario"), scenario_rows)
        items = gather(self.vectors.get("item_text"), self.item_row[index])
        return Side(
            torch.from_numpy(np.take(self.dense, index, axis=0)),
            torch.from_numpy(self.scenario[index].astype(np.int64)),
            torch.from_numpy(user_index),
            tuple(vectors for vectors, _ in users),
            tuple(known for _, known in users),
            torch.from_numpy(scenario_index),
            *scenarios,
            *items,
        )


@dataclass(frozen=True)
class EncodedItems:
    """A catalogue as numbers. N items."""

    ids: np.ndarray  # int64 [Fi, N]
    dense: np.ndarray  # float32 [N, Di]
    vectors: torch.Tensor  # [N, d], 0 where unknown
    known: torch.Tensor  # [N, 1], 1 or 0


@dataclass(frozen=True)
class UserSide:
    """One user in one scenario, encoded."""

    ids: np.ndarray  # int64 [Fu, 1]
    history: np.ndarray  # int64 [L], item rows
    lengths: np.ndarray  # int64 [1]
    dense: torch.Tensor  # [1, Du]
    vectors: list[torch.Tensor | None]  # per kind [1, d]; None where unknown
    scenario: int
    scenario_vector: np.ndarray | None  # [d]; None where unknown, or not read


def distinct(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct values in ascending order and where each key is among them, like `np.unique`, in linear time.

    Args:
        keys: integers [B], each -1 or more, and small enough to address an array.
    """
    size = int(keys.max(initial=-1)) + 2
    if size > 64 * len(keys):
        return np.unique(keys, return_inverse=True)
    seen = np.zeros(size, bool)
    seen[keys + 1] = True
    found = np.flatnonzero(seen)
    place = np.empty(size, np.int64)
    place[found] = np.arange(len(found))
    return found - 1, place[keys + 1]


def gather(matrix: Rows | None, rows: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of a (memory-mapped) matrix, float32 [n, d], and which are known, 1 or 0 [n, 1]; row -1 is unknown."""
    known = torch.from_numpy((rows >= 0).astype(np.float32)[:, None])
    if matrix is None or not len(matrix):
        return torch.zeros(len(rows), 0 if matrix is None else matrix.shape[1]), known
    return torch.from_numpy(matrix[np.maximum(rows, 0)]), known


def fill_unknown(vectors: np.ndarray | None, count: int, dim: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors with NaN rows -> vectors without NaN, and which are known."""
    if vectors is None or dim == 0:
        return torch.zeros(count, dim), torch.zeros(count, 1)
    if vectors.shape != (count, dim):
        raise DataError(f"{kind} vectors are {vectors.shape}, the model reads {(count, dim)}; take its own version")
    found = torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))
    known = ~found.isnan().any(dim=1, keepdim=True)
    if not bool(known.any()):
        return torch.zeros(count, dim), torch.zeros(count, 1)
    return torch.where(known, found, 0.0), known.float()


def known_vector(vectors: np.ndarray | None, dim: int, kind: str) -> torch.Tensor | None:
    """The vector of one row, [1, d]; None where it is unknown."""
    if vectors is None:
        return None
    if vectors.shape != (1, dim):
        raise DataError(f"{kind} vectors are {vectors.shape}, the model reads {(1, dim)}; take its own version")
    return None if np.isnan(vectors).any() else torch.from_numpy(np.require(vectors, np.float32, ["C", "W"]))
