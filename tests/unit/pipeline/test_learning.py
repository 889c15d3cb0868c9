"""Comparing with the champion, also where scenarios and columns have changed since it was trained."""

from __future__ import annotations

import pyarrow as pa
import pytest
from specs import bundle_spec, dataset_spec, pointer, release

from models import TrainingData
from pipeline.learning import ROLLED_BACK, scorable, was_rolled_back
from pipeline.report import unknown_share

SPEC = bundle_spec(scenarios=["feed", "search"], user_categorical=["country"], user_dense=["age"], item_dense=["price"])


def test_a_champion_scores_the_scenarios_it_knows_and_takes_columns_that_are_gone_as_unknown():
    rows = pa.table({"row_id": [0, 1, 2], "scenario": ["feed", "detail", "search"], "price": [1.0, 2.0, 3.0]})
    found = scorable(TrainingData(rows, pa.table({}), {}, dataset_spec()), SPEC).rows
    assert found["row_id"].to_pylist() == [0, 2]
    assert found["price"].to_pylist() == [1.0, 3.0]
    assert found["country"].to_pylist() == found["age"].to_pylist() == [None, None]
    assert (found["country"].type, found["age"].type) == (pa.string(), pa.float64())


@pytest.mark.parametrize(
    ("champion", "expected"),
    [
        ({"reason": ROLLED_BACK, "previous": {"bundle": "b"}}, True),
        ({"reason": ROLLED_BACK, "previous": {"bundle": "other"}}, False),
        ({"reason": "better", "previous": {"bundle": "b"}}, False),
        ({"reason": "first", "previous": None}, False),
    ],
)
def test_only_the_bundle_that_was_taken_back_stays_back(champion, expected):
    previous = champion["previous"] and release(**champion["previous"])
    assert was_rolled_back(pointer(previous, reason=champion["reason"]), "b") is expected


@pytest.mark.parametrize(
    ("columns", "share"),
    [
        ({}, 0.0),
        ({"user_prompt_row": pa.array([None, None, None, 1])}, 0.75),
        ({"user_prompt_row": pa.array([None] * 4, pa.int64()), "user_pooled_row": pa.array([1, 2, 3, 4])}, 0.0),
    ],
)
def test_users_are_unknown_only_without_any_vector(columns, share):
    assert unknown_share(pa.table({"user_id": [1, 2, 3, 4], **columns})) == share
