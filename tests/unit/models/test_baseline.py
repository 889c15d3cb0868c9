"""Counting: what smoothed rates alone would do."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from specs import dataset_spec

from models import TrainingData, counting, evaluate
from models.baseline import PRIOR_WEIGHT

LIKED = ("a", "b")


def data(labels_of_test: int | None = None) -> TrainingData:
    """Items a and b are liked, c and d are not; within search it is the other way round."""
    rng = np.random.default_rng(5)
    n = 4_000
    item, scenario = rng.choice(list("abcd"), n), rng.choice(["feed", "search"], n)
    liked = np.isin(item, LIKED) == (scenario == "feed")
    label = (rng.random(n) < np.where(liked, 0.8, 0.2)).astype(int)
    split = np.where(np.arange(n) < 3_000, "train", np.where(np.arange(n) < 3_500, "validation", "test"))
    if labels_of_test is not None:
        label[split == "test"] = labels_of_test
    rows = pa.table(
        {
            "row_id": np.arange(n),
            "user_id": [f"u{k}" for k in rng.integers(0, 50, n)],
            "item_id": item,
            "scenario": scenario,
            "label": label,
            "split": split,
            "user_rows": np.full(n, 20),
        }
    )
    return TrainingData(rows, pa.table({}), {}, dataset_spec())


def test_an_item_counts_within_its_scenario():
    found = evaluate(counting(data(), "test"))
    assert found.overall.auc > 0.75
    assert found.overall.calibration.ratio == pytest.approx(1, abs=0.1)


def test_labels_of_test_rows_change_no_score():
    first, second = (counting(data(label), "test")["score"].to_pylist() for label in (0, 1))
    assert first == second


def test_validation_rows_count_for_the_test_rows_and_not_for_themselves():
    whole = data()
    flipped = TrainingData(
        whole.rows.set_column(
            4,
            "label",
            pa.array(
                [
                    1 - label if split == "validation" else label
                    for label, split in zip(
                        whole.rows["label"].to_pylist(), whole.rows["split"].to_pylist(), strict=True
                    )
                ]
            ),
        ),
        *(whole.user_log, {}, dataset_spec()),
    )
    scores = {
        split: [counting(d, split)["score"].to_pylist() for d in (whole, flipped)] for split in ("validation", "test")
    }
    assert scores["validation"][0] == scores["validation"][1]
    assert scores["test"][0] != scores["test"][1]


def test_what_was_never_seen_has_the_rate_of_all_rows():
    rows = data().rows
    strange = pa.table(
        {
            "row_id": [9_999],
            "user_id": ["new"],
            "item_id": ["new"],
            "scenario": ["new"],
            "label": [1],
            "split": ["test"],
            "user_rows": [0],
        }
    ).cast(rows.schema)
    known = rows.filter(pa.compute.not_equal(rows["split"], "test"))
    found = counting(TrainingData(pa.concat_tables([known, strange]), pa.table({}), {}, dataset_spec()), "test")
    assert found["score"].to_pylist() == pytest.approx([pa.compute.mean(known["label"]).as_py()])


def test_a_rate_is_pulled_by_the_weight_of_the_prior():
    rows = pa.table(
        {
            "row_id": range(5),
            "user_id": ["u"] * 4 + ["v"],
            "item_id": ["x", "x", "y", "y", "x"],
            "scenario": ["s"] * 5,
            "label": [1, 1, 0, 0, 0],
            "split": ["train"] * 4 + ["test"],
            "user_rows": [0] * 5,
        }
    )
    item = (2 + PRIOR_WEIGHT * 0.5) / (2 + PRIOR_WEIGHT)
    expected = (2 + PRIOR_WEIGHT * item) / (2 + PRIOR_WEIGHT)
    found = counting(TrainingData(rows, pa.table({}), {}, dataset_spec()), "test")
    assert found["score"].to_pylist() == pytest.approx([expected])
