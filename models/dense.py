"""Numbers as features: how each is filled in where it is missing, and scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from core.contracts.statistics import find_statistic


@dataclass(frozen=True)
class DenseFeature:
    """How one number is filled in and scaled: (f(x or fill) - mean) / scale, f = log1p for counts."""

    name: str
    log: bool
    fill: float
    mean: float
    scale: float

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Float64 [N], NaN where missing -> float64 [N]."""
        filled = np.where(np.isnan(values), self.fill, values)
        return ((np.log1p(np.maximum(filled, 0.0)) if self.log else filled) - self.mean) / self.scale


class Scales:
    """`DenseFeature.encode` of several features at once: the same operations on each number."""

    def __init__(self, features: Sequence[DenseFeature]) -> None:
        self.names = [feature.name for feature in features]
        self.log = np.array([feature.log for feature in features], bool)
        self.fill, self.mean, self.scale = (
            np.array([getattr(feature, part) for feature in features], np.float64) for part in ("fill", "mean", "scale")
        )

    def encode(self, values: Mapping[str, Any]) -> np.ndarray:
        """Per feature [N], None or NaN where missing -> float32 [N, features]."""
        raw = np.stack([np.asarray(values[name], np.float64) for name in self.names], axis=1)
        filled = np.where(np.isnan(raw), self.fill, raw)
        logged = np.where(self.log, np.log1p(np.maximum(filled, 0.0)), filled)
        return ((logged - self.mean) / self.scale).astype(np.float32)


def fit_dense(column: pa.ChunkedArray, name: str, prior_rate: float) -> DenseFeature:
    """Fit a column of the training rows: a statistic is what it declares where it is missing, another number the mean.

    Args:
        column: of the training rows.
        name: its name.
        prior_rate: of what was never seen.
    """
    values = floats(column)
    seen = values[~np.isnan(values)]
    statistic = find_statistic(name)
    log = statistic is not None and statistic.logarithm
    if statistic is None:
        fill = float(seen.mean()) if len(seen) else 0.0
    else:
        fill = prior_rate if statistic.missing == "prior_rate" else statistic.missing
    plain = DenseFeature(name, log, fill, 0.0, 1.0).encode(values)
    scale = float(plain.std())
    return DenseFeature(name, log, fill, float(plain.mean()), scale if scale > 1e-9 else 1.0)


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64 [N], NaN where null."""
    return pc.cast(column, pa.float64()).to_numpy().astype(np.float64)
