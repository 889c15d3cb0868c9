"""Numbers as features: how each is filled in where it is missing, and scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models.data import ITEM_STATS, USER_STATS


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


def fit_dense(rows: pa.Table, name: str, spec: Mapping[str, Any]) -> DenseFeature:
    """Fit a column of the training rows: a count is 0 where it is missing, a rate the prior, another number the mean.

    Args:
        rows: the training rows.
        name: the column.
        spec: the dataset's, of which `prior_rate` is read.
    """
    values = floats(rows.column(name))
    seen = values[~np.isnan(values)]
    log = name.endswith(("_rows", "_positives")) and name in (*USER_STATS, *ITEM_STATS)
    if log:
        fill = 0.0
    elif name in (*USER_STATS, *ITEM_STATS):
        fill = float(spec["prior_rate"])
    else:
        fill = float(seen.mean()) if len(seen) else 0.0
    plain = DenseFeature(name, log, fill, 0.0, 1.0).encode(values)
    scale = float(plain.std())
    return DenseFeature(name, log, fill, float(plain.mean()), scale if scale > 1e-9 else 1.0)


def floats(column: pa.ChunkedArray) -> np.ndarray:
    """A column as float64 [N], NaN where null."""
    return pc.cast(column, pa.float64()).to_numpy().astype(np.float64)
