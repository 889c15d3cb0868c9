"""Drift: a planted shift is found where it was planted; samples of one distribution are stable."""

import numpy as np
import pyarrow as pa
import pytest

from core.limits import ValidationSettings
from validation import compare, profile
from validation.drift import divergences

LIMITS = ValidationSettings()
COLUMNS = ["age", "genre", "rate"]


def table(seed, rows=4000, shift=0.0, genre=(0.5, 0.3, 0.2), missing=0.1, only=None):
    rng = np.random.default_rng(seed)
    scenario = rng.choice(["home", "search"], rows, p=[0.6, 0.4])
    moved = shift * (scenario == only) if only else shift
    rate = rng.normal(0, 1, rows)
    return pa.table(
        {
            "scenario": scenario,
            "age": pa.array(rng.normal(40, 10, rows) + moved),
            "genre": rng.choice(["a", "b", "c"], rows, p=genre),
            "rate": pa.array(rate, mask=rng.random(rows) < missing),
        }
    )


@pytest.mark.parametrize("seed", range(5))
def test_samples_of_one_distribution_are_stable(seed):
    found = compare(table(100 + seed), table(200 + seed), COLUMNS, LIMITS)
    assert found.verdict == "stable" and found.drifted == ()
    assert set(found.features["age"]) == {"all", "home", "search"}


@pytest.mark.parametrize(
    ("plant", "column"),
    [({"shift": 10.0}, "age"), ({"genre": (0.1, 0.3, 0.6)}, "genre"), ({"missing": 0.6}, "rate")],
)
def test_a_planted_shift_is_found_in_its_column_only(plant, column):
    found = compare(table(1), table(2, **plant), COLUMNS, LIMITS)
    assert found.verdict == "drift" and {name for name, _ in found.drifted} == {column}


def test_a_shift_in_one_scenario_is_found_there():
    found = compare(table(1), table(2, shift=20.0, only="search"), COLUMNS, LIMITS)
    assert ("age", "search") in found.drifted and ("age", "home") not in found.drifted


def test_a_value_never_seen_counts_and_few_rows_say_nothing():
    new = table(2).set_column(2, "genre", pa.array(["new"] * 4000))
    assert ("genre", "all") in compare(table(1), new, COLUMNS, LIMITS).drifted
    few = compare(table(1), table(2, rows=50, shift=30.0), COLUMNS, LIMITS)
    assert few.verdict == "too few rows" and few.drifted == ()


def test_divergences_are_those_of_the_formulas():
    psi, kl = divergences(np.array([49.5, 49.5]), np.array([24.5, 74.5]))
    assert kl == pytest.approx(0.25 * np.log(0.5) + 0.75 * np.log(1.5))
    assert psi == pytest.approx(kl + 0.5 * np.log(2) + 0.5 * np.log(1 / 1.5))
    assert divergences(np.array([7, 3]), np.array([7, 3])) == (0.0, 0.0)


def test_a_column_of_zeros_and_an_unknown_column_do_no_harm():
    zeros = pa.table({"scenario": ["home"] * 300, "age": [0.0] * 300})
    found = compare(zeros, zeros, ["age", "nowhere"], LIMITS)
    assert found.verdict == "stable" and found.unknown == ("nowhere",)
    assert profile(zeros, ["age"]) == {"age": {"edges": [0.0]}}
