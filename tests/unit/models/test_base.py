"""The base: what numbers say alone. Training begins from it, and ends with it where nothing better is learned."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import models
from models.base import PULL, fit_base
from models.bundle import load_bundle
from models.data import TrainingData, load_dataset


@pytest.fixture
def data(tmp_path, make_dataset):
    return load_dataset(make_dataset(tmp_path / "d"))


def relabelled(data, label):
    rows = data.rows.set_column(data.rows.column_names.index("label"), "label", pa.array(label.astype(np.int8)))
    return TrainingData(rows, data.user_log, data.vectors, data.spec)


def test_it_is_logistic_regression_with_a_slight_pull():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(5_000, 4)).astype(np.float32)
    w = rng.integers(1, 4, 5_000).astype(np.float32)
    y = (rng.random(5_000) < 1 / (1 + np.exp(-(x @ [1.0, -0.5, 0.0, 2.0] - 1)))).astype(np.float32)
    weight, bias = fit_base(x, y, w)
    expected = LogisticRegression(C=1 / PULL).fit(x, y, sample_weight=w)
    assert weight == pytest.approx(expected.coef_[0], abs=0.01)
    assert bias[0] == pytest.approx(expected.intercept_[0], abs=0.01)
    assert (weight.dtype, weight.shape, bias.shape) == (np.float32, (4,), (1,))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_and_columns_that_do_not_vary_stay_finite(label):
    x = np.concatenate((np.zeros((50, 2)), np.full((50, 1), 1e3)), axis=1).astype(np.float32)
    weight, bias = fit_base(x, np.full(50, label, np.float32), np.ones(50, np.float32))
    assert np.isfinite(weight).all() and np.isfinite(bias).all()
    assert ((x @ weight + bias) > 0).all() == bool(label)


def test_where_only_numbers_say_something_the_base_is_what_is_kept(data, tmp_path, model, settings):
    rng = np.random.default_rng(2)
    rate = np.nan_to_num(data.rows["item_rate"].to_numpy(), nan=0.5)
    noise = relabelled(data, rng.random(len(rate)) < 1 / (1 + np.exp(-3 * (rate - rate.mean()))))
    # So fast that it can only memorise.
    wild = settings.model_copy(
        update={"learning_rate": 0.05, "embedding_learning_rate": 5.0, "patience": 2, "epochs": 6}
    )
    report = models.train(noise, model, wild, tmp_path / "b", name="k")
    assert report.best_epoch == 0 and report.epochs == 2
    assert report.curves[0].epoch == 0
    bundle = load_bundle(tmp_path / "b")
    assert bundle.head.trust == 0
    # Rows of one scenario are in the order of the logistic regression alone.
    train = noise.indices("train")
    encoded = bundle.encoder.encode(noise)
    weight, bias = fit_base(encoded.dense[train], encoded.label[train], encoded.weight[train])
    test = noise.indices("test")
    for code in np.unique(encoded.scenario[test]):
        own = test[encoded.scenario[test] == code]
        scores = np.log(1 / bundle.score_rows(encoded, own).probability - 1)
        line = -(encoded.dense[own] @ weight + bias)
        assert np.corrcoef(scores, line)[0, 1] == pytest.approx(1, abs=1e-5)


def test_where_ids_say_more_training_goes_on_from_it(data, tmp_path, model, settings):
    report = models.train(data, model, settings.model_copy(update={"epochs": 8}), tmp_path / "b", name="k")
    assert report.best_epoch > 0
    best = next(point for point in report.curves if point.epoch == report.best_epoch)
    assert best.logloss < report.curves[0].logloss
    assert load_bundle(tmp_path / "b").head.trust == 1


def test_a_bundle_from_before_the_base_scores_as_it_did(data, tmp_path, model, settings):
    from safetensors.torch import load_file, save_file

    from core.digest import sha256_file, sha256_json
    from core.files import write_json

    models.train(data, model, settings.model_copy(update={"epochs": 3}), tmp_path / "b", name="k")
    bundle, rows = load_bundle(tmp_path / "b"), data.indices("test")
    with torch.no_grad():
        bundle.head.base.weight.zero_()
        bundle.head.base.bias.zero_()
        bundle.head.trust.fill_(1.0)
    expected = bundle.score_rows(bundle.encoder.encode(data), rows).probability
    weights = load_file(tmp_path / "b" / "weights.safetensors")
    save_file(
        {k: v for k, v in weights.items() if not k.startswith(("head.base.", "head.trust"))},
        tmp_path / "b" / "weights.safetensors",
    )
    write_json(tmp_path / "b" / "spec.json", {**json.loads((tmp_path / "b" / "spec.json").read_text()), "format": 2})
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    files = {name: sha256_file(tmp_path / "b" / name) for name in manifest["files"]}
    write_json(tmp_path / "b" / "manifest.json", {**manifest, "files": files, "digest": sha256_json(files)})
    old = load_bundle(tmp_path / "b")
    np.testing.assert_array_equal(old.score_rows(old.encoder.encode(data), rows).probability, expected)
