"""`golden.json` of a bundle: raw rows with their scores, which whoever loads it must reproduce."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from core.contracts.bundle_spec import BundleFile
from core.contracts.contract import Part
from models.data import RequestBatch

Rows = list[list[float] | None]


class GoldenBatch(Part):
    """A `RequestBatch` as JSON: U users, B rows; vectors are lists of d numbers, None for an unknown one."""

    scenario: list[str]
    user: dict[str, list[Any]]
    user_index: list[int]
    history: list[list[Any]]
    item: dict[str, list[Any]]
    user_vectors: dict[str, Rows]
    item_text: Rows | None
    scenario_vectors: dict[str, list[float]]
    scenario_key: list[str] | None = None

    @classmethod
    def of(cls, batch: RequestBatch) -> GoldenBatch:
        """The batch as JSON."""
        told: dict[str, Any] = {
            **batch.__dict__,
            "user_index": batch.user_index.tolist(),
            "user_vectors": {kind: _rows(v) for kind, v in batch.user_vectors.items() if v is not None},
            "item_text": None if batch.item_text is None else _rows(batch.item_text),
            "scenario_vectors": {key: vector.tolist() for key, vector in batch.scenario_vectors.items()},
        }
        return cls(**told)

    def as_request(self) -> RequestBatch:
        """The inverse."""
        return RequestBatch(
            scenario=self.scenario,
            user=self.user,
            user_index=np.asarray(self.user_index, np.int64),
            history=self.history,
            item=self.item,
            user_vectors={kind: _matrix(rows) for kind, rows in self.user_vectors.items()},
            item_text=None if self.item_text is None else _matrix(self.item_text),
            scenario_vectors={key: np.asarray(row, np.float32) for key, row in self.scenario_vectors.items()},
            scenario_key=self.scenario_key,
        )


class GoldenScores(Part):
    """What `Bundle.score` gave, each [B]."""

    probability: list[float]
    backbone_logit: list[float]
    scenario_logit: list[float]


class Golden(BundleFile):
    """Rows and their scores."""

    FILE: ClassVar[str] = "golden.json"

    batch: GoldenBatch
    scores: GoldenScores

    def as_json(self) -> dict[str, Any]:
        """What is written; a NaN of the log stays one."""
        return self.model_dump()


def _rows(vectors: np.ndarray) -> Rows:
    """Rows of numbers; one with NaN becomes None."""
    return [None if any(math.isnan(v) for v in row) else row for row in vectors.tolist()]


def _matrix(rows: Rows) -> np.ndarray | None:
    """The inverse; None where all rows are unknown, since nothing then says how wide they are."""
    dim = next((len(row) for row in rows if row is not None), 0)
    if not dim:
        return None
    return np.asarray([row if row is not None else [math.nan] * dim for row in rows], np.float32)
