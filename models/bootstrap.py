"""Bootstrap over users: AUC and logloss of two models on the same rows, many resamples at once.

Rows of one user are not independent, so users are drawn, not rows. A resample gives user u the weight w[u] (how
often it was drawn), and a row the weight of its user. The weighted AUC is

    sum over positives i of w[i] * (weight of negatives below i + half of those tied) / (positive * negative weight)

Positives only matter by their place among the negatives, so each model and group is reduced once to two sparse
matrices over places and users; a block of resamples is then two sparse products and a running sum.

Legend: N rows, U users, R resamples, P places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from core.pace import progress
from models.measures import Floats, Ints, logloss_rows

_BLOCK = 64
_CELLS = 4_000_000


@dataclass(frozen=True)
class Sample:
    """Rows that two models scored.

    Args:
        labels: [N] 0 or 1.
        users: [N] codes 0 to count - 1.
        champion: [N] probabilities of the one model.
        challenger: [N] probabilities of the other.
        count: U, the number of users drawn from.
    """

    labels: NDArray
    users: Ints
    champion: NDArray
    challenger: NDArray
    count: int

    def take(self, mask: NDArray[np.bool_]) -> Sample:
        """The rows of a mask, drawn from the same users."""
        return Sample(self.labels[mask], self.users[mask], self.champion[mask], self.challenger[mask], self.count)


@dataclass(frozen=True)
class Differences:
    """Challenger minus champion in each resample, [R]; a resample without both classes is left out."""

    auc: Floats
    logloss: Floats


def bootstrap(groups: Mapping[str, Sample], resamples: int, seed: int) -> dict[str, Differences]:
    """Differences of all groups under the same draws of users.

    Args:
        groups: samples over one and the same set of users.
        resamples: R.
        seed: of the draws; the same seed gives the same result.

    Returns:
        Per group, the differences of AUC (higher is better) and logloss (lower is better).
    """
    statistics = {name: _Statistic(sample) for name, sample in groups.items()}
    users = max((sample.count for sample in groups.values()), default=0)
    rows = max((len(sample.labels) for sample in groups.values()), default=0)
    if not users or not rows:
        return {name: Differences(np.zeros(0), np.zeros(0)) for name in groups}
    parts: dict[str, list[Differences]] = {name: [] for name in groups}
    draws = _draws(users, rows, resamples, np.random.default_rng(seed))
    size: Callable[[Floats], float] = lambda weights: weights.shape[1]  # noqa: E731
    for weights in progress(draws, "drawing users", resamples, "resamples", size=size):
        for name, statistic in statistics.items():
            parts[name].append(statistic(weights))
    return {
        name: Differences(
            np.concatenate([part.auc for part in found]), np.concatenate([part.logloss for part in found])
        )
        for name, found in parts.items()
    }


def _draws(users: int, rows: int, resamples: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Blocks [U, r] of how often each user was drawn."""
    block = int(np.clip(_CELLS // max(users, rows), 1, _BLOCK))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, users, size=(size, users))
        flat = (drawn * size + np.arange(size)[:, None]).ravel()
        yield np.bincount(flat, minlength=users * size).reshape(users, size).astype(np.float64)


class _Statistic:
    """Differences of one group as a function of user weights."""

    def __init__(self, sample: Sample) -> None:
        self._models = [_WeightedAuc(sample, scores) for scores in (sample.champion, sample.challenger)]
        self._rows = np.bincount(sample.users, minlength=sample.count).astype(np.float64)
        labels = sample.labels.astype(np.float64)
        self._positives = np.bincount(sample.users, labels, minlength=sample.count)
        loss = logloss_rows(sample.labels, sample.challenger) - logloss_rows(sample.labels, sample.champion)
        self._loss = np.bincount(sample.users, loss, minlength=sample.count)

    def __call__(self, weights: Floats) -> Differences:
        rows, positives = self._rows @ weights, self._positives @ weights
        pairs = positives * (rows - positives)
        both, some = pairs > 0, rows > 0
        champion, challenger = (model.wins(weights) for model in self._models)
        return Differences(((challenger - champion)[both]) / pairs[both], (self._loss @ weights)[some] / rows[some])


class _WeightedAuc:
    """The numerator of one model's weighted AUC, for blocks of user weights."""

    def __init__(self, sample: Sample, scores: NDArray) -> None:
        is_positive = sample.labels > 0
        negative_scores = scores[~is_positive]
        order = np.argsort(negative_scores, kind="stable")
        negative_scores, negative_users = negative_scores[order], sample.users[~is_positive][order]
        positive_scores, positive_users = scores[is_positive], sample.users[is_positive]
        below = np.searchsorted(negative_scores, positive_scores, side="left")
        upto = np.searchsorted(negative_scores, positive_scores, side="right")
        ends = np.concatenate((below, upto))
        used, place = np.unique(ends, return_inverse=True)
        halves = np.full(len(place), 0.5)
        shape = (len(used), sample.count)
        self._positive = _matrix(halves, place, np.tile(positive_users, 2), shape)
        # A negative at index j lies below every used end that is greater than j; the rest lies above all positives.
        at = np.searchsorted(used, np.arange(len(negative_users)), side="right")
        inside = at < len(used)
        self._negative = _matrix(np.ones(int(inside.sum())), at[inside], negative_users[inside], shape)

    def wins(self, weights: Floats) -> Floats:
        """Weighted number of pairs in the right order, [r], of weights [U, r]."""
        if not self._positive.shape[0]:
            return np.zeros(weights.shape[1])
        below = np.cumsum(self._negative @ weights, axis=0)  # [P, r]
        result: Floats = np.einsum("pr,pr->r", below, self._positive @ weights)
        return result


def _matrix(values: Floats, rows: Ints, columns: Ints, shape: tuple[int, int]) -> sparse.csr_matrix:
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)
