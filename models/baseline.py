"""What counting alone would do: smoothed positive rates, nothing trained. A model that is not better is not worth serving."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.data import TrainingData

Floats = NDArray[np.float64]

PRIOR_WEIGHT = 10.0
_EDGE = 1e-6


def counting(data: TrainingData, split: str) -> pa.Table:
    """Score a split by the rates of its users, of its items, and of its items within the scenario.

    Counts come from the rows that training may read (every split but `test`; for `validation` neither). A rate is pulled
    towards what stands above it by the weight of ten rows: users and items towards the rate of all rows, an item within
    a scenario towards the item's own. The log-odds of a row are those of the item within the scenario plus what the user
    and the scenario add to those of all rows.

    Args:
        data: the dataset.
        split: `validation` or `test`.

    Returns:
        The table that `predict` gives: row_id, user_id, item_id, scenario, label, score, split, user_rows.
    """
    rows = data.rows
    unseen = pa.array(["test"] if split == "test" else ["validation", "test"])
    counted = pc.invert(pc.is_in(rows["split"], unseen)).to_numpy(zero_copy_only=False).astype(bool)
    scored = data.indices(split)
    label = rows["label"].to_numpy(zero_copy_only=False).astype(np.float64)[counted]
    overall = float(label.mean()) if len(label) else 0.5
    users, items, scenarios = (_codes(rows[name]) for name in ("user_id", "item_id", "scenario"))
    pairs = items * (int(scenarios.max(initial=0)) + 1) + scenarios

    def rate(codes: NDArray[np.int64], above: Floats | float) -> Floats:
        """Smoothed rate of each scored row's code; `above` is the value it is pulled towards."""
        _, dense = np.unique(codes, return_inverse=True)
        size = int(dense.max(initial=0)) + 1
        seen = np.bincount(dense[counted], minlength=size)[dense[scored]]
        positive = np.bincount(dense[counted], label, minlength=size)[dense[scored]]
        return (positive + PRIOR_WEIGHT * above) / (seen + PRIOR_WEIGHT)

    base = _logit(np.asarray(overall))
    logit = _logit(rate(pairs, rate(items, overall)))
    for codes in (users, scenarios):
        logit = logit + _logit(rate(codes, overall)) - base
    columns = ["row_id", "user_id", "item_id", "scenario", "label", "split", "user_rows"]
    return rows.select(columns).take(pa.array(scored)).add_column(5, "score", pa.array(1 / (1 + np.exp(-logit))))


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    coded = pc.dictionary_encode(column.combine_chunks())
    return coded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64) + 1


def _logit(rate: Floats) -> Floats:
    clipped = np.clip(rate, _EDGE, 1 - _EDGE)
    return np.log(clipped / (1 - clipped))
