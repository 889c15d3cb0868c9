import numpy as np
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from models.measures import auc, calibration, gauc, grouped_auc, logloss_rows, top_k


def brute_force_auc(labels, scores):
    positives, negatives = scores[labels == 1], scores[labels == 0]
    gap = positives[:, None] - negatives[None, :]
    return ((gap > 0).sum() + 0.5 * (gap == 0).sum()) / gap.size


@pytest.mark.parametrize("decimals", [1, 2, 12])
@pytest.mark.parametrize("seed", range(5))
def test_auc_equals_a_count_of_all_pairs_and_sklearn_with_many_and_few_ties(seed, decimals):
    rng = np.random.default_rng(seed)
    labels = (rng.random(301) < 0.3).astype(np.int8)
    scores = np.round(rng.random(301) + 0.2 * labels, decimals)
    assert auc(labels, scores) == pytest.approx(brute_force_auc(labels, scores), abs=1e-12)
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auc_of_a_constant_score_is_one_half():
    assert auc(np.array([0, 1, 1, 0, 1]), np.zeros(5)) == 0.5


@pytest.mark.parametrize("labels", [[], [1, 1], [0, 0, 0]])
def test_auc_is_undefined_without_both_classes(labels):
    labels = np.array(labels, dtype=np.int64)
    assert auc(labels, np.linspace(0, 1, len(labels))) is None


def test_grouped_auc_equals_sklearn_in_each_group():
    rng = np.random.default_rng(1)
    groups = rng.integers(0, 40, 2000)
    labels, scores = rng.integers(0, 2, 2000), np.round(rng.random(2000), 1)
    values, defined = grouped_auc(labels, scores, groups, 41)
    assert not defined[40]
    for group in range(40):
        mine = groups == group
        assert values[group] == pytest.approx(roc_auc_score(labels[mine], scores[mine]), abs=1e-12)


def test_gauc_weights_users_by_rows_and_leaves_out_users_with_one_class():
    users = np.array([7, 7, 3, 3, 3, 3, 9, 9])
    labels = np.array([1, 0, 1, 0, 0, 0, 1, 1])
    scores = np.array([0.9, 0.1, 0.5, 0.4, 0.6, 0.7, 0.0, 0.0])
    assert gauc(labels, scores, users) == pytest.approx((2 * 1.0 + 4 * (1 / 3)) / 6)
    assert gauc(labels[6:], scores[6:], users[6:]) is None


def test_logloss_equals_sklearn_and_stays_finite_for_certain_and_wrong_scores():
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 500), rng.random(500)
    assert logloss_rows(labels, scores).mean() == pytest.approx(log_loss(labels, scores))
    assert np.isfinite(logloss_rows(np.array([0, 1]), np.array([1.0, 0.0]))).all()


def test_ndcg_and_recall_equal_a_loop_over_lists():
    rng = np.random.default_rng(3)
    lists = np.where(rng.random(900) < 0.9, rng.integers(0, 30, 900), rng.integers(30, 60, 900))
    labels, scores = (rng.random(900) < 0.2).astype(int), rng.random(900)
    ndcg, recall, count = top_k(labels, scores, lists)
    expected = []
    for one in range(60):
        mine = lists == one
        if labels[mine].sum() and mine.sum() > 10:
            top = np.argsort(-scores[mine])[:10]
            hits = labels[mine][top].sum() / labels[mine].sum()
            expected.append((ndcg_score([labels[mine]], [scores[mine]], k=10), hits))
    assert count == len(expected)
    assert (ndcg, recall) == pytest.approx(tuple(np.mean(expected, axis=0)))


def test_top_k_of_tied_scores_does_not_depend_on_the_order_of_rows():
    labels = np.array([1] * 5 + [0] * 45)
    lists, scores = np.zeros(50, int), np.full(50, 0.3)
    assert top_k(labels, scores, lists) == pytest.approx(top_k(labels[::-1], scores, lists))
    assert top_k(labels, scores, lists)[1] == pytest.approx(10 / 50)


def test_lists_that_the_cut_off_cannot_cut_say_nothing():
    labels, scores = np.array([1] + [0] * 9 + [0] * 10 + [1]), np.arange(21.0)
    lists = np.array([0] * 10 + [1] * 11)
    assert top_k(labels, scores, lists) == (1.0, 1.0, 1)
    assert top_k(labels[:10], scores[:10], lists[:10]) == (None, None, 0)


def test_top_k_is_undefined_without_a_positive():
    assert top_k(np.zeros(3, int), np.arange(3.0), np.zeros(3, int)) == (None, None, 0)
    assert top_k(np.zeros(0, int), np.zeros(0), np.zeros(0, int)) == (None, None, 0)


def test_calibration_of_true_probabilities_is_near_one_and_of_doubled_odds_is_not():
    rng = np.random.default_rng(4)
    truth = rng.random(50_000)
    labels = (rng.random(50_000) < truth).astype(int)
    good, bad = calibration(labels, truth), calibration(labels, truth**2)
    assert good["ratio"] == pytest.approx(1, abs=0.02)
    assert good["ece"] < 0.02 < 0.1 < bad["ece"]
    assert bad["ratio"] < 0.8
    assert len(good["bins"]) == 10
    assert sum(b["rows"] for b in good["bins"]) == 50_000


def test_calibration_of_equal_scores_is_one_bin_and_of_nothing_is_undefined():
    assert len(calibration(np.array([0, 1, 1]), np.full(3, 0.5))["bins"]) == 1
    assert calibration(np.zeros(2, int), np.full(2, 0.5))["ratio"] is None
    assert calibration(np.zeros(0, int), np.zeros(0)) == {"ratio": None, "ece": None, "bins": []}
