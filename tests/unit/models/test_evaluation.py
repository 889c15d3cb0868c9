import json

import numpy as np
import pyarrow as pa
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from core.errors import DataError
from core.settings import PromotionSettings
from models.bootstrap import Sample, bootstrap
from models.evaluation import compare, evaluate
from models.measures import logloss_rows


def predictions(rows=3000, users=150, seed=0, noise=1.0, decimals=6, string_ids=False, model_seed=0):
    """A model whose scores are the truth plus noise; `seed` makes the rows, `model_seed` the model."""
    rng, model = np.random.default_rng(seed), np.random.default_rng(1000 + model_seed)
    truth = rng.normal(size=rows)
    user = rng.integers(0, users, rows)
    score = 1 / (1 + np.exp(-(truth + noise * model.normal(size=rows))))
    user_rows = pa.array(rng.integers(0, 40, rows), mask=rng.random(rows) < 0.05)
    return pa.table(
        {
            "row_id": np.arange(rows),
            "user_id": [f"u{u}" for u in user] if string_ids else user,
            "item_id": rng.integers(0, 500, rows),
            "scenario": rng.choice(["film", "book", "music"], rows, p=[0.6, 0.3, 0.1]),
            "label": (rng.random(rows) < 1 / (1 + np.exp(-2 * truth))).astype(np.int8),
            "score": np.round(score, decimals).astype(np.float32),
            "split": ["test"] * rows,
            "user_rows": user_rows,
        }
    )


def test_each_scenario_and_the_cold_users_are_measured_on_their_own_rows():
    table = predictions()
    frame, result = table.to_pandas(), evaluate(table)
    assert list(result.scenarios) == ["book", "film", "music"]
    cold = frame[(frame.user_rows <= 10) | frame.user_rows.isna()]
    cases = [(result.scenarios[s], part) for s, part in frame.groupby("scenario")]
    for got, part in [*cases, (result.overall, frame), (result.cold, cold)]:
        assert got.rows == len(part)
        assert got.users == part.user_id.nunique()
        assert got.auc == pytest.approx(roc_auc_score(part.label, part.score))
        assert got.logloss == pytest.approx(log_loss(part.label, part.score.astype(float)))


def test_string_and_integer_ids_give_the_same_result():
    assert evaluate(predictions(string_ids=True)) == evaluate(predictions())


@pytest.mark.parametrize("rows", [0, 1, 2])
def test_undefined_measures_are_none_and_the_result_is_strict_json(rows):
    result = evaluate(predictions(rows=rows))
    json.dumps(result.model_dump(), allow_nan=False)
    assert result.overall.rows == rows
    if rows == 0:
        assert result.overall.auc is None
        assert result.scenarios == {}


@pytest.mark.parametrize(("column", "value"), [("score", float("nan")), ("score", None), ("label", 2)])
def test_an_unusable_row_is_named(column, value):
    table = predictions(rows=5)
    values = table[column].to_pylist()
    values[3] = value
    place = table.column_names.index(column)
    broken = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
    with pytest.raises(DataError, match=f"row 3, column '{column}'"):
        evaluate(broken)


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match="user_rows"):
        evaluate(predictions(rows=5).drop_columns(["user_rows"]))


def test_the_bootstrap_equals_measures_of_the_rows_drawn():
    rng = np.random.default_rng(5)
    users = rng.integers(0, 12, 200)
    labels = rng.integers(0, 2, 200)
    one, two = np.round(rng.random(200), 1), np.round(rng.random(200), 2)
    group = rng.random(200) < 0.5
    whole = Sample(labels, users, one, two, 12)
    got = bootstrap({"all": whole, "part": whole.take(group)}, 130, seed=3)
    drawn = np.random.default_rng(3)
    # The draws are made in blocks, the last one shorter.
    blocks = [drawn.integers(0, 12, size=(size, 12)) for size in (64, 64, 2)]
    for place, draw in enumerate(np.concatenate(blocks)):
        for name, mask in (("all", np.ones(200, bool)), ("part", group)):
            rows = np.concatenate([np.flatnonzero((users == u) & mask) for u in draw])
            y, a, b = labels[rows], one[rows], two[rows]
            area = roc_auc_score(y, b) - roc_auc_score(y, a)
            loss = (logloss_rows(y, b) - logloss_rows(y, a)).mean()
            assert got[name].auc[place] == pytest.approx(area, abs=1e-12)
            assert got[name].logloss[place] == pytest.approx(loss, abs=1e-12)


def test_a_clearly_better_challenger_is_told_and_two_equal_ones_are_not():
    settings = PromotionSettings(resamples=300)
    result = compare(predictions(noise=1.5), predictions(noise=0.5, model_seed=1), settings, seed=1)
    assert result.overall.auc.says == "better"
    assert result.overall.auc.low > 0
    assert result.scenarios["film"].auc.told
    backwards = compare(predictions(noise=0.5, model_seed=1), predictions(noise=1.5), settings, seed=1)
    assert backwards.overall.auc.says == "worse"
    same = compare(predictions(), predictions(), settings, seed=1)
    assert same.overall.auc.difference == 0
    assert same.overall.auc.says == same.cold.logloss.says == "no difference can be told"


def test_a_comparison_is_strict_json_and_repeats_bit_for_bit():
    settings = PromotionSettings(resamples=100)
    first, second = (
        compare(predictions(rows=200), predictions(rows=200, model_seed=1), settings, seed=4) for _ in range(2)
    )
    assert len({json.dumps(one.model_dump(), allow_nan=False) for one in (first, second)}) == 1


def test_rows_may_come_in_any_order():
    settings = PromotionSettings(resamples=100)
    other = predictions(rows=400, model_seed=1)
    shuffled = other.take(np.random.default_rng(0).permutation(400))
    expected = compare(predictions(rows=400), other, settings, seed=4)
    assert compare(predictions(rows=400), shuffled, settings, seed=4) == expected


def test_few_users_never_tell_a_difference():
    settings = PromotionSettings(resamples=100)
    result = compare(predictions(users=3, noise=3), predictions(users=3, noise=0.1, model_seed=1), settings, seed=1)
    assert result.overall.auc.low > 0
    assert not result.overall.auc.told


def test_different_rows_are_refused():
    with pytest.raises(DataError, match="same rows"):
        compare(predictions(rows=100), predictions(rows=99), PromotionSettings(), seed=1)
    with pytest.raises(DataError, match="same rows"):
        compare(predictions(rows=100), predictions(rows=100, seed=1), PromotionSettings(), seed=1)
