"""Calibration: probabilities that match frequencies in each scenario, and no change where there is no evidence."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from models.calibration import PRIOR_ROWS, fit_calibration


def rows(n, slope, shift, seed=1):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-truth))).astype(int)
    return (truth - shift) / slope, labels


def test_with_many_rows_it_is_logistic_regression():
    logits, labels = rows(200_000, 0.6, -0.5)
    slope, shift = fit_calibration(logits, labels, np.zeros(len(logits), int), 1)
    expected = LogisticRegression(C=1e9).fit(logits[:, None], labels)
    assert (slope[0], shift[0]) == pytest.approx((expected.coef_[0, 0], expected.intercept_[0]), abs=0.01)


def test_each_scenario_has_its_own_line():
    first, second = rows(50_000, 0.5, 0.0), rows(50_000, 1.0, 1.0, seed=2)
    logits, labels = (np.concatenate(pair) for pair in zip(first, second, strict=True))
    slope, shift = fit_calibration(logits, labels, np.repeat([0, 1], 50_000), 3)
    assert slope == pytest.approx([0.5, 1.0, 1.0], abs=0.05)
    assert shift == pytest.approx([0.0, 1.0, 0.0], abs=0.05)


def test_few_rows_change_little_and_none_change_nothing():
    logits, labels = rows(20, 0.2, 2.0)
    slope, shift = fit_calibration(logits, labels, np.ones(20, int), 2)
    assert (slope[0], shift[0]) == (1, 0)
    assert abs(slope[1] - 1) < 0.5 and abs(shift[1]) < 20 / PRIOR_ROWS * 4


@pytest.mark.parametrize("labels", [np.zeros(500, int), np.ones(500, int)])
def test_one_class_alone_stays_finite(labels):
    slope, shift = fit_calibration(np.random.default_rng(0).normal(size=500), labels, np.zeros(500, int), 1)
    assert np.isfinite([slope[0], shift[0]]).all() and slope[0] > 0


def test_an_upside_down_scenario_does_not_turn_the_order_round():
    logits, labels = rows(50_000, 1.0, 0.0)
    slope, _ = fit_calibration(-logits, labels, np.zeros(50_000, int), 1)
    assert slope[0] > 0


def test_extreme_logits_do_not_overflow():
    logits, labels = rows(1_000, 1.0, 0.0)
    slope, shift = fit_calibration(logits * 1e4, labels, np.zeros(1_000, int), 1)
    assert np.isfinite([slope[0], shift[0]]).all()
