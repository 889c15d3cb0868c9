"""The base of a model: what its numbers say alone, by logistic regression, before anything else is learned."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# A quadratic pull of each weight towards zero, as strong as a row is at most four times over.
PULL = 1.0
_STEPS = 25
# Rows that are held in double precision at a time.
_BLOCK = 131_072


def fit_base(
    dense: NDArray, label: NDArray, weight: NDArray, rows: NDArray | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights [D] and intercept [] of the logistic regression of labels on standardised numbers.

    Args:
        dense: [N, D].
        label: 0 or 1, [N].
        weight: of the rows, [N].
        rows: numbers of the rows that count; None: all.
    """
    rows = np.arange(len(dense)) if rows is None else rows
    width = dense.shape[1] + 1
    pull, beta = np.full(width, PULL), np.zeros(width)
    for _ in range(_STEPS):
        gradient, curvature = np.zeros(width), np.zeros((width, width))
        for start in range(0, len(rows), _BLOCK):
            part = rows[start : start + _BLOCK]
            x = np.concatenate((dense[part], np.ones((len(part), 1))), axis=1).astype(np.float64)
            y, w = label[part].astype(np.float64), weight[part].astype(np.float64)
            p = 1 / (1 + np.exp(-np.clip(x @ beta, -30, 30)))
            gradient += x.T @ (w * (p - y))
            curvature += (x * (w * p * (1 - p))[:, None]).T @ x
        step = np.linalg.solve(curvature + np.diag(pull), gradient + pull * beta)
        beta -= step
        if np.abs(step).max() < 1e-8:
            break
    return beta[:-1].astype(np.float32), beta[-1:].astype(np.float32)
