"""The base of a model: what its numbers say alone, by logistic regression, before anything else is learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A quadratic pull of each weight towards zero, as strong as a row is at most four times over.
PULL = 1.0
_STEPS = 25


def fit_base(dense: NDArray, label: NDArray, weight: NDArray) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [D] and intercept [] of the logistic regression of labels on standardised numbers.

    Args:
        dense: of the training rows, [N, D].
        label: 0 or 1, [N].
        weight: of the rows, [N].
    """
    x = np.concatenate((dense, np.ones((len(dense), 1))), axis=1).astype(np.float64)
    y, w = label.astype(np.float64), weight.astype(np.float64)
    pull = np.full(x.shape[1], PULL)
    beta = np.zeros(x.shape[1])
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
        gradient = x.T @ (w * (p - y)) + pull * beta
        step = np.linalg.solve((x * (w * p * (1 - p))[:, None]).T @ x + np.diag(pull), gradient)
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return beta[:-1].astype(np.float32), beta[-1:].astype(np.float32)
