"""Knowledge goes live where it is better and harms nothing; else the plain model does."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from core.settings import PromotionSettings
from models import choose, compare, evaluate

SETTINGS = PromotionSettings(resamples=200, min_users=100, min_positives=100)
SCENARIOS = ["feed", "search", "toys"]


def tables(seed, *, gain=0.0, poison=0.0, sure=1.0, users=400, per_user=20):
    """Predictions of a plain model and of one with knowledge: `gain` is how much noise it lacks, `poison` how much
    more it has in one scenario, `sure` stretches its logits.
    """
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), per_user)
    rows = len(user)
    scenario = rng.integers(0, 3, rows)
    truth = rng.normal(size=users)[user] * 0.6 + rng.normal(size=rows)
    label = (rng.random(rows) < 1 / (1 + np.exp(-truth))).astype(int)

    def scored(noise, stretch):
        logit = stretch * (truth + noise * rng.normal(size=rows))
        return pa.table(
            {
                "row_id": np.arange(rows),
                "user_id": user,
                "item_id": np.zeros(rows, int),
                "scenario": np.array(SCENARIOS)[scenario],
                "label": label,
                "score": 1 / (1 + np.exp(-logit)),
                "user_rows": np.full(rows, 50),
            }
        )

    return scored(0.8, 0.6), scored(0.8 - gain + poison * (scenario == 2), 0.6 * sure)


def chosen(plain, knowing, settings=SETTINGS):
    return choose(compare(plain, knowing, settings, 1), evaluate(plain), settings)


def test_knowledge_that_helps_is_chosen():
    choice = chosen(*tables(1, gain=0.5))
    assert choice.system == "knowledge" and "better overall" in choice.reason


def test_knowledge_that_is_noise_is_chosen_in_at_most_5_percent_of_trials():
    found = [chosen(*tables(seed, users=200, per_user=10)).system for seed in range(100)]
    assert found.count("knowledge") <= 5


def test_one_poisoned_scenario_is_enough_to_keep_it_out():
    found = [chosen(*tables(seed, gain=0.6, poison=0.9)) for seed in range(20)]
    assert all(choice.system == "plain" for choice in found)
    assert sum("toys" in choice.reason for choice in found) > 10


def test_doubled_log_loss_keeps_it_out_although_the_order_is_better():
    choice = chosen(*tables(1, gain=0.5, sure=8.0))
    assert choice.system == "plain" and "log loss" in choice.reason


@pytest.mark.parametrize("rows", [{"users": 1, "per_user": 3}, {"users": 15, "per_user": 20}])
def test_too_little_to_tell_leaves_it_out(rows):
    assert chosen(*tables(1, gain=0.8, **rows)).system == "plain"


def test_rows_of_one_class_leave_it_out():
    plain, knowing = (t.set_column(4, "label", pa.array([1] * t.num_rows)) for t in tables(1, gain=0.8))
    assert chosen(plain, knowing).system == "plain"


@pytest.mark.parametrize("system", ["plain", "knowledge"])
def test_a_setting_can_name_the_system(system):
    settings = SETTINGS.model_copy(update={"challenger": system})
    choice = chosen(*tables(1, gain=0.5), settings)
    assert choice.system == system and "promotion.challenger" in choice.reason
