"""Calibration per scenario: logit' = slope * logit + shift, so that scores are probabilities and scenarios can be compared.

Platt's form (Platt, Advances in Large Margin Classifiers, 1999), fitted on validation rows by Newton's method and pulled
towards no change, so that a scenario with few rows keeps its scores.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# No change counts for as much as this many rows of a scenario.
PRIOR_ROWS = 200.0
_STEPS = 30
_LEAST_SLOPE = 0.05


def fit_calibration(logits: NDArray, labels: NDArray, scenario: NDArray, count: int) -> tuple[Floats, Floats]:
    """The line of each scenario.

    Args:
        logits: of validation rows, [N].
        labels: 0 or 1, [N].
        scenario: of each row, 0 to count - 1, [N].
        count: S scenarios.

    Returns:
        Slopes, at least .05 so that no order turns round, and shifts, [S] each; 1 and 0 without rows.
    """
    slopes, shifts = np.ones(count), np.zeros(count)
    for number in range(count):
        mine = scenario == number
        if mine.any():
            slopes[number], shifts[number] = _line(logits[mine].astype(np.float64), labels[mine].astype(np.float64))
    return slopes, shifts


def _line(z: Floats, y: Floats) -> tuple[float, float]:
    """Slope and shift that minimise the log loss plus a quadratic pull towards (1, 0)."""
    # A quarter of a row's weight is the most that a row adds to the curvature of the shift.
    pull = PRIOR_ROWS / 4 * np.array([max(float((z**2).mean()), 1e-6), 1.0])
    start = np.array([1.0, 0.0])
    line = start.copy()
    for _ in range(_STEPS):
        p = 1 / (1 + np.exp(-np.clip(line[0] * z + line[1], -30, 30)))
        w = p * (1 - p)
        gradient = np.array([(p - y) @ z, (p - y).sum()]) + pull * (line - start)
        curvature = np.array([[w @ z**2, w @ z], [w @ z, w.sum()]]) + np.diag(pull)
        step = np.linalg.solve(curvature, gradient)
        line = line - step
        line[0] = max(line[0], _LEAST_SLOPE)
        if np.abs(step).max() < 1e-10:
            break
    return float(line[0]), float(line[1])
