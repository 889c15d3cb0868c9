import numpy as np
import pyarrow as pa
import pytest
import torch

import models
from models.distributed import process_group
from models.loss import GradedLoss
from models.training import fit

LEVELS = [1.0, 2.0, 4.0]


@pytest.fixture
def outcomes():
    rng = np.random.default_rng(3)
    grade = rng.integers(1, 6, 200).astype(np.float32)
    return (grade > 3).astype(np.float32), grade


def test_each_level_adds_the_cross_entropy_of_its_own_line_through_the_logit(outcomes):
    label, grade = outcomes
    loss = GradedLoss(LEVELS, 0.3, label, grade)
    rng = np.random.default_rng(4)
    with torch.no_grad():
        loss.slopes += torch.tensor([0.2, -0.1, 0.4])
    z, weight = rng.normal(size=200).astype(np.float32), rng.random(200).astype(np.float32)
    expected = 0.0
    for n in range(200):
        expected += weight[n] * _cross_entropy(z[n], label[n])
        for k, level in enumerate(LEVELS):
            line = np.exp(loss.slopes[k].item()) * z[n] - loss.shifts[k].item()
            expected += 0.3 * weight[n] * _cross_entropy(line, float(grade[n] > level))
    found = loss(*map(torch.from_numpy, (z, label, weight, grade)))
    assert found.item() == pytest.approx(expected / 200, rel=1e-5)


def _cross_entropy(z, label):
    probability = 1 / (1 + np.exp(-float(z)))
    return -np.log(probability if label else 1 - probability)


def test_levels_start_where_the_logit_is_the_labels_log_odds(outcomes):
    label, grade = outcomes
    loss = GradedLoss(LEVELS, 1.0, label, grade)
    z = np.log(label.mean() / (1 - label.mean()))
    for k, level in enumerate(LEVELS):
        assert 1 / (1 + np.exp(loss.shifts[k].item() - z)) == pytest.approx((grade > level).mean(), abs=1e-6)


def test_a_row_without_a_grade_has_the_labels_term_only(outcomes):
    label, grade = outcomes
    z, weight = torch.randn(200), torch.ones(200)
    none = torch.full((200,), torch.nan)
    with_levels = GradedLoss(LEVELS, 1.0, label, grade)
    without = GradedLoss([], 1.0, label, grade)
    assert with_levels(z, torch.from_numpy(label), weight, none) == without(z, torch.from_numpy(label), weight, none)
    assert with_levels(z, torch.from_numpy(label), weight, torch.from_numpy(grade)) > without(
        z, torch.from_numpy(label), weight, none
    )


@pytest.mark.parametrize(
    ("grade", "levels", "message"),
    [
        ([np.nan] * 4, [1.0], "100.0 % of the training rows have no grade"),
        ([1, 2, 3, 4], [4.0], "no training row has a grade above 4"),
        ([1, 2, 3, 4], [0.5], "every training row has a grade above 0.5"),
    ],
)
def test_levels_that_say_nothing_are_left_out_with_a_warning(grade, levels, message, caplog):
    label, grade = np.float32([0, 1, 0, 1]), np.float32(grade)
    with caplog.at_level("WARNING"):
        loss = GradedLoss([*levels, 2.0], 1.0, label, grade)
    assert message in caplog.text and levels[0] not in loss.levels
    z = torch.zeros(4, requires_grad=True)
    loss(z, *map(torch.from_numpy, (label, np.ones(4, np.float32), grade))).backward()
    assert torch.isfinite(z.grad).all()
    assert not any(p.grad is not None and p.grad.isnan().any() for p in loss.parameters())


def test_grades_teach_what_the_label_hides(data, tmp_path, model, settings):
    """Training labels are noise here and grades are not: only a model that learns from grades orders the rows."""
    true = data.rows.column("label").to_numpy()
    labels, rows = true.copy(), data.indices("train")
    labels[rows] = np.random.default_rng(0).integers(0, 2, len(rows))
    graded = _with(data, label=labels, grade=np.where(true > 0, 4.0, 1.0).astype(np.float32))
    settings = settings.model_copy(update={"epochs": 8, "patience": 8, "learning_rate": 0.01})
    found = []
    for levels in ([], [2.0]):
        train = settings.model_copy(update={"grade_levels": levels, "grade_weight": 5.0})
        found.append(models.train(graded, model, train, tmp_path / str(len(levels)), name="k").validation.auc)
    assert found[0] < 0.65 and found[1] > 0.75


def test_without_levels_a_grade_changes_nothing(data, model, settings):
    settings = settings.model_copy(update={"epochs": 1})
    graded = _with(data, grade=np.ones(data.rows.num_rows, np.float32))
    with process_group("cpu") as world:
        heads = [fit(each, model, settings, world, "k").head.state_dict() for each in (data, graded)]
    assert all(torch.equal(value, heads[1][name]) for name, value in heads[0].items())


def _with(data, **columns):
    rows = data.rows
    for name, values in columns.items():
        rows = rows.drop([name]) if name in rows.column_names else rows
        rows = rows.append_column(name, pa.array(values))
    return models.TrainingData(rows, data.user_log, data.vectors, data.spec)
