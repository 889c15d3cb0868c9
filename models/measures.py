"""Ranking and probability measures on plain arrays: exact, vectorised, and None where they are undefined.

Legend: N rows, G groups (users, or lists), K cut-off.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CLIP = 1e-7


def auc(labels: NDArray, scores: NDArray) -> float | None:
    """Area under the ROC curve: the share of (positive, negative) pairs in the right order, a tie counting one half.

    Args:
        labels: [N] 0 or 1.
        scores: [N], any finite numbers.

    Returns:
        The exact value in O(N log N), or None when a class is absent.
    """
    values, defined = grouped_auc(labels, scores, np.zeros(len(labels), np.int64), 1)
    return float(values[0]) if defined[0] else None


def grouped_auc(labels: NDArray, scores: NDArray, groups: Ints, count: int) -> tuple[Floats, NDArray[np.bool_]]:
    """The AUC within each group.

    Args:
        labels: [N] 0 or 1.
        scores: [N].
        groups: [N] group of each row, 0 to count - 1.
        count: G.

    Returns:
        Values [G] (0 where undefined) and whether they are defined [G].
    """
    order = np.lexsort((scores, groups))
    group, positive = groups[order], labels[order].astype(np.float64)
    first, last = _tie_spans(group, scores[order])
    rows = np.bincount(group, minlength=count)
    starts = np.concatenate(([0], np.cumsum(rows)[:-1]))
    # Mean 1-based rank within the group over the rows of one tie.
    rank = (first + last - 1) / 2 + 1 - starts[group]
    positives = np.bincount(group, positive, minlength=count)
    negatives = rows - positives
    rank_sum = np.bincount(group, positive * rank, minlength=count)
    pairs = positives * negatives
    wins = rank_sum - positives * (positives + 1) / 2
    return np.divide(wins, pairs, out=np.zeros(count), where=pairs > 0), pairs > 0


def gauc(labels: NDArray, scores: NDArray, users: Ints) -> float | None:
    """Mean AUC within users that have both classes, weighted by their rows; None when there is no such user."""
    _, codes = np.unique(users, return_inverse=True)
    count = int(codes.max()) + 1 if len(codes) else 0
    values, defined = grouped_auc(labels, scores, codes, count)
    weight = np.bincount(codes, minlength=count) * defined
    return float(values @ weight / weight.sum()) if weight.sum() else None


def logloss_rows(labels: NDArray, scores: NDArray) -> Floats:
    """Binary cross-entropy of each row, [N]; probabilities are clipped to [1e-7, 1 - 1e-7]."""
    p = np.clip(scores.astype(np.float64), CLIP, 1 - CLIP)
    return -np.where(labels > 0, np.log(p), np.log1p(-p))


def top_k(labels: NDArray, scores: NDArray, lists: Ints, k: int = 10) -> tuple[float | None, float | None, int]:
    """NDCG@k and Recall@k, averaged over the lists that hold a positive and more than k rows.

    A list of k rows or fewer has them all above the cut-off, however they are ordered, and says nothing. Tied rows count with the mean over all their orders, so that neither measure depends on the order of rows
    (McSherry and Najork, ECIR 2008).

    Args:
        labels: [N] 0 or 1.
        scores: [N].
        lists: [N] the list of each row.
        k: cut-off.

    Returns:
        NDCG@k, Recall@k and the number of lists averaged; None when there is none.
    """
    _, codes = np.unique(lists, return_inverse=True)
    count = int(codes.max()) + 1 if len(codes) else 0
    order = np.lexsort((-scores, codes))
    group, positive = codes[order], labels[order].astype(np.float64)
    first, last = _tie_spans(group, scores[order])
    rows = np.bincount(group, minlength=count)
    start = np.concatenate(([0], np.cumsum(rows)[:-1]))[group] if count else first
    discounts = np.concatenate(([0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))))
    low, high = np.minimum(first - start, k), np.minimum(last - start, k)
    width = last - first
    gain = (discounts[high] - discounts[low]) / width
    hit = (high - low) / width
    positives = np.bincount(group, positive, minlength=count)
    use = (positives > 0) & (rows > k)
    if not use.any():
        return None, None, 0
    dcg = np.bincount(group, positive * gain, minlength=count)[use]
    hits = np.bincount(group, positive * hit, minlength=count)[use]
    ideal = discounts[np.minimum(positives[use], k).astype(np.int64)]
    return float((dcg / ideal).mean()), float((hits / positives[use]).mean()), int(use.sum())


def calibration(labels: NDArray, scores: NDArray, bins: int = 10) -> dict[str, Any]:
    """How well probabilities match frequencies.

    Args:
        labels: [N] 0 or 1.
        scores: [N] probabilities.
        bins: number of bins of about equal rows; equal scores share a bin, so there may be fewer.

    Returns:
        `ratio` (sum of predictions over positives), `ece` (mean absolute gap of the bins, weighted by rows) and
        `bins` for a plot: rows, mean `predicted`, mean `actual` of each.
    """
    if not len(labels):
        return {"ratio": None, "ece": None, "bins": []}
    scores = scores.astype(np.float64)
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1], method="inverted_cdf"))
    code = np.searchsorted(edges, scores, side="left")
    rows = np.bincount(code)
    keep = rows > 0
    predicted = np.bincount(code, scores)[keep] / rows[keep]
    actual = np.bincount(code, labels.astype(np.float64))[keep] / rows[keep]
    rows = rows[keep]
    positives = float(labels.sum())
    return {
        "ratio": float(scores.sum()) / positives if positives else None,
        "ece": float(np.abs(predicted - actual) @ rows / rows.sum()),
        "bins": [
            {"rows": int(n), "predicted": float(p), "actual": float(a)}
            for n, p, a in zip(rows, predicted, actual, strict=True)
        ],
    }


def _tie_spans(group: Ints, scores: NDArray) -> tuple[Ints, Ints]:
    """Of rows sorted by group and score: where each row's tie starts and ends (exclusive), [N] each."""
    if not len(group):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    new = np.concatenate(([True], (np.diff(group) != 0) | (np.diff(scores) != 0)))
    starts = np.flatnonzero(new)
    ends = np.concatenate((starts[1:], [len(group)]))
    tie = np.cumsum(new) - 1
    return starts[tie], ends[tie]
