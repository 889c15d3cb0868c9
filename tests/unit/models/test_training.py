import itertools

import numpy as np
import pyarrow as pa
import pytest
import torch

import models
from core.digest import sha256_file
from core.errors import DataError, SettingsError
from models.data import TrainingData, load_dataset
from models.distributed import World, process_group, unwrap, whole_tables
from models.dropout import dropout
from models.embeddings import initial_rows, keyed_jagged
from models.encoder import Encoder
from models.training import StoppingRule, _Rates, batches, build, fit, quality

LEVELS = ["none", "gate", "low_rank", "full"]


@pytest.mark.parametrize("backbone", ["shared_bottom", "star"])
def test_training_learns_a_planted_signal(data, tmp_path, model, settings, backbone):
    settings = settings.model_copy(update={"epochs": 12, "learning_rate": 0.01})
    system = model.model_copy(update={"backbone": backbone})
    report = models.train(data, system, settings, tmp_path / "b", name="k")
    assert report.validation.auc > 0.75
    predictions = models.predict(models.load_bundle(tmp_path / "b"), data, "test")
    assert models.evaluate(predictions).overall.auc > 0.72


def test_the_same_seed_makes_the_same_bytes_and_another_seed_others(data, tmp_path, model, settings):
    settings = settings.model_copy(update={"epochs": 2})
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        models.train(data, model, settings.model_copy(update={"seed": seed}), tmp_path / name, name="k")
    files = [p.relative_to(tmp_path / "a") for p in sorted((tmp_path / "a").rglob("*")) if p.is_file()]
    for file in files:
        assert sha256_file(tmp_path / "a" / file) == sha256_file(tmp_path / "b" / file), file
    weights = [sha256_file(tmp_path / name / "weights.safetensors") for name in "ac"]
    assert weights[0] != weights[1]


@pytest.mark.parametrize("level", LEVELS)
def test_the_first_step_is_the_backbone_bit_for_bit(data, model, settings, level):
    """Meta levels of any form start as the identity and as zero: same backbone weights, same logits."""
    update = {"user_level": level, "scenario_level": level, "knowledge_features": False}
    systems = [models.plain(model), model.model_copy(update=update)]
    index, logits = data.indices("train")[:200], []
    with process_group("cpu") as world:
        built = []
        for system in systems:
            encoder = Encoder.fit(
                data, user_vectors=["user_pooled"] if level != "none" else [], scenario_vectors=level != "none"
            )
            built.append((build(encoder, system, settings, world, 1000).eval(), encoder))
        plain_head, head = (unwrap(module).head for module, _ in built)
        head.backbone.load_state_dict(plain_head.backbone.state_dict())
        for mine, plain in ((head.item_text, plain_head.item_text), (head.item_neutral, plain_head.item_neutral)):
            mine.load_state_dict(plain.state_dict())
        for module, encoder in built:
            encoded = encoder.encode(data)
            with torch.no_grad():
                bags = keyed_jagged(encoder.layout, encoded.bags(index), world.device)
                logits.append(module(bags, encoded.side(index)))
    assert torch.equal(logits[0], logits[1])


@pytest.mark.parametrize(("backbone", "level"), list(itertools.product(["shared_bottom", "star"], LEVELS[1:])))
def test_every_parameter_of_the_whole_model_gets_a_gradient(data, model, settings, backbone, level):
    system = model.model_copy(
        update={"backbone": backbone, "user_level": level, "scenario_level": level, "dropout": 0.0}
    )
    encoder = Encoder.fit(data, user_vectors=["user_pooled"], scenario_vectors=True)
    encoded, index = encoder.encode(data), data.indices("train")[:400]
    with process_group("cpu") as world:
        module = build(encoder, system, settings, world, 1000)
        head = unwrap(module).head
        with torch.no_grad():
            for parameter in head.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        before = {key: value.clone() for key, value in _tables(module).items()}
        bags = keyed_jagged(encoder.layout, encoded.bags(index), world.device)
        module(bags, encoded.side(index)).square().sum().backward()
        assert [n for n, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []
        assert [n for n, value in _tables(module).items() if torch.equal(value, before[n])] == []


def _tables(module):
    from models.distributed import whole_tables

    return whole_tables(module, World(0, 1, torch.device("cpu")))


def test_training_twice_in_a_process_leaves_no_group_behind(data, tmp_path, model, settings):
    settings = settings.model_copy(update={"epochs": 1})
    for name in "ab":
        models.train(data, model, settings, tmp_path / name, name=name)
        assert not torch.distributed.is_initialized()


def test_the_kept_weights_are_those_of_the_best_epoch_even_when_training_ends_by_itself(
    data, tmp_path, model, settings
):
    settings = settings.model_copy(update={"epochs": 6, "patience": 6, "learning_rate": 0.05})
    report = models.train(data, model, settings, tmp_path / "b", name="k")
    predictions = models.predict(models.load_bundle(tmp_path / "b"), data, "validation")
    # Calibration keeps the order within a scenario.
    kept = {name: body.auc for name, body in models.evaluate(predictions).scenarios.items()}
    again = models.train(
        data, model, settings.model_copy(update={"epochs": report.best_epoch}), tmp_path / "c", name="k"
    )
    predictions = models.predict(models.load_bundle(tmp_path / "c"), data, "validation")
    assert again.best_epoch == report.best_epoch
    assert {n: b.auc for n, b in models.evaluate(predictions).scenarios.items()} == pytest.approx(kept, abs=1e-6)


@pytest.mark.parametrize(
    ("losses", "areas", "kept", "run"),
    [
        ([0.6, 0.5, 0.55, 0.56, 0.5], [0.6, 0.7, 0.7, 0.7, 0.7], 2, 4),  # both stand still
        (
            [0.6, 0.5, 0.55, 0.6, 0.65, 0.7],
            [0.6, 0.7, 0.71, 0.72, 0.71, 0.71],
            2,
            6,
        ),  # AUC rises alone: go on, keep the loss
        ([0.6, 0.50001, 0.5, 0.6], [0.6, 0.8, 0.7, 0.7], 2, 4),  # losses alike: the higher AUC
        ([0.6, 0.5, 0.49999], [0.6, 0.7, 0.8], 3, 3),
        ([0.6, 0.5, 0.51], [None, None, None], 2, 3),  # one class only
    ],
)
def test_an_epoch_is_kept_for_its_log_loss_and_of_equals_for_its_auc(losses, areas, kept, run):
    rule = StoppingRule(2)
    for epoch, (loss, area) in enumerate(zip(losses, areas, strict=True), start=1):
        rule.keeps(epoch, loss, area)
        if rule.done:
            break
    assert (rule.epoch, epoch) == (kept, run)


def test_the_base_gives_way_to_a_lower_log_loss_alone():
    rule = StoppingRule(9)
    assert rule.keeps(0, 0.5, 0.6)
    assert not rule.keeps(1, 0.4998, 0.9)  # within a thousandth, however good its order is
    assert rule.keeps(2, 0.4990, 0.5)
    assert rule.keeps(3, 0.4991, 0.6)


@pytest.mark.parametrize("rows", [4096, 4100])
def test_a_row_seen_once_moves_by_its_gradient_alike_in_batches_of_any_size(
    tmp_path, make_dataset, model, settings, rows, monkeypatch
):
    """With a last batch of four rows, too; their ids must not jump."""
    monkeypatch.setattr(
        StoppingRule, "keeps", lambda *_: True
    )  # the one epoch, whether it is better than the base or not
    folder = make_dataset(tmp_path / "d", rows=rows, users=rows, items=40)
    data = load_dataset(folder)
    everything = data.rows.set_column(
        data.rows.schema.get_field_index("split"), "split", pa.array(["train"] * (rows - 64) + ["validation"] * 64)
    ).set_column(1, "user_id", pa.array(np.arange(rows)))
    data = TrainingData(everything, data.user_log, data.vectors, data.spec)
    still = {"embedding_dropout": 0.0, "dropout": 0.0, "user_level": "none", "knowledge_features": False}
    plainly = model.model_copy(update=still)
    moved = {}
    for size in (64, 1024, 65_536):
        run = settings.model_copy(
            update={
                "epochs": 1,
                "batch_size": size,
                "min_steps": 1,
                "learning_rate": 1e-9,
                "embedding_learning_rate": 1e-3,
            }
        )
        with process_group("cpu") as world:
            encoder = Encoder.fit(data, user_vectors=[], scenario_vectors=True)
            start = whole_tables(build(encoder, plainly, run, world, rows - 64), world)["user_id"]
            end = fit(data, plainly, run, world, "k").tables["user_id"]
        moved[size] = (end - start).norm(dim=1)[1:]
    for size in (64, 1024):
        assert torch.allclose(moved[size], moved[65_536], rtol=0.05)
    assert moved[64].max() < 20 * moved[64].median()


def test_training_stops_after_patience_epochs_without_gain(data, tmp_path, model, settings):
    settings = settings.model_copy(update={"epochs": 40, "patience": 1, "learning_rate": 0.05})
    report = models.train(data, model, settings, tmp_path / "b", name="k")
    *before, last = report.curves
    assert last.epoch == report.epochs < 40
    assert last.logloss >= min(point.logloss for point in before)
    assert last.auc <= max(point.auc for point in before)
    # Each epoch before the last was the best so far in something.
    assert all(
        point.logloss < min(p.logloss for p in before[:place]) or point.auc > max(p.auc for p in before[:place])
        for place, point in enumerate(before)
        if place
    )


def test_a_linear_schedule_lowers_both_learning_rates_to_nothing(data, model, settings):
    settings = settings.model_copy(update={"schedule": "linear", "embedding_learning_rate": 0.4, "learning_rate": 0.2})
    encoder = Encoder.fit(data, user_vectors=["user_pooled"], scenario_vectors=True)
    with process_group("cpu") as world:
        built = build(encoder, model, settings, world, 1000)
        optimizer = torch.optim.Adam(unwrap(built).head.parameters())
        rates, kernel = _Rates(settings, optimizer, built), _fused_kernel(built)
        for done, left in ((0.0, 1.0), (0.75, 0.25), (1.0, 0.0)):
            rates(done)
            assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2 * left)
            assert kernel.get_learning_rate() == pytest.approx(0.4 * left)


def _fused_kernel(built):
    """The kernel that updates the tables, found through the optimiser that stands for it."""
    optimizer = built.fused_optimizer
    while hasattr(optimizer, "_optims"):
        optimizer = optimizer._optims[0]
        optimizer = optimizer[1] if isinstance(optimizer, tuple) else optimizer
    return optimizer._emb_module


def test_a_level_without_its_vectors_is_a_settings_error(data, tmp_path, model, settings):
    bare = TrainingData(data.rows, data.user_log, {}, data.spec.changed(vectors={}))
    with pytest.raises(SettingsError, match="user_level"):
        models.train(bare, model, settings, tmp_path / "b", name="k")
    with pytest.raises(SettingsError, match="scenario_level"):
        models.train(bare, model.model_copy(update={"user_level": "none"}), settings, tmp_path / "b", name="k")
    settings = settings.model_copy(update={"epochs": 1})
    assert models.train(bare, models.plain(model), settings, tmp_path / "b", name="k").epochs == 1


def test_no_history_is_a_model_without_a_bag(data, tmp_path, model, settings):
    bare = TrainingData(data.rows, data.user_log, data.vectors, data.spec.changed(history_length=0))
    models.train(bare, model, settings.model_copy(update={"epochs": 1}), tmp_path / "b", name="k")
    models.load_bundle(tmp_path / "b").check_golden()


def test_a_loss_that_explodes_names_the_learning_rate(data, tmp_path, model, settings):
    with pytest.raises(SettingsError, match="learning_rate"):
        models.train(data, model, settings.model_copy(update={"learning_rate": 1e30}), tmp_path / "b", name="k")
    assert not torch.distributed.is_initialized()


def test_a_gpu_that_is_not_there_is_a_settings_error(data, tmp_path, model, settings, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SettingsError, match="no GPU"):
        models.train(data, model, settings.model_copy(update={"device": "cuda"}), tmp_path / "b", name="k")


def test_no_validation_rows_is_a_data_error(data, tmp_path, model, settings):
    column = data.rows.schema.get_field_index("split")
    rows = data.rows.set_column(column, "split", [["train"] * data.rows.num_rows])
    with pytest.raises(DataError, match="validation"):
        models.train(TrainingData(rows, data.user_log, data.vectors, data.spec), model, settings, tmp_path, name="k")


def test_batches_hold_every_row_once_and_in_order_of_scenario():
    scenario = np.random.default_rng(0).integers(0, 3, 100).astype(np.int16)
    rows = np.arange(5, 95)
    parts = list(batches(rows, scenario, 32, World(0, 1, torch.device("cpu")), (1, 1)))
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    assert all((np.diff(scenario[part]) >= 0).all() for part in parts)
    shares = [list(batches(rows, scenario, 32, World(rank, 4, torch.device("cpu")), (1, 1))) for rank in range(4)]
    assert {tuple(len(part) for part in share) for share in shares} == {tuple(len(part) for part in shares[0])}
    assert set(np.concatenate([part for share in shares for part in share]).tolist()) == set(rows.tolist())


def test_starting_weights_do_not_depend_on_the_cut():
    whole = initial_rows("item_id", 0, 70_000, 4, seed=3)
    assert torch.equal(initial_rows("item_id", 65_000, 66_000, 4, seed=3), whole[65_000:66_000])
    assert not torch.equal(initial_rows("user_id", 0, 100, 4, seed=3), whole[:100])


def test_dropout_keeps_the_mean_and_the_share():
    torch.manual_seed(0)
    out = dropout(torch.ones(1001, 77), 0.25, True)
    assert (out == 0).float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert out.mean().item() == pytest.approx(1.0, abs=0.01)
    assert torch.equal(dropout(torch.ones(3), 0.25, False), torch.ones(3))


def test_quality_of_one_class_has_no_auc():
    assert quality(np.zeros(4, np.float32), np.ones(4)).auc is None
    assert quality(np.zeros(4, np.float32), np.array([0, 1, 0, 1])).logloss == pytest.approx(np.log(2))


def test_what_is_validated_and_kept_are_averages_over_epochs_and_training_goes_on_from_the_weights(
    data, model, settings
):
    """Two epochs by hand: the second's average is half of the first's weights and half of the second's."""
    run = settings.model_copy(update={"averaging": 0.0, "patience": 9, "epochs": 1})
    still = model.model_copy(update={"dropout": 0.0, "embedding_dropout": 0.0, "knowledge_dropout": 0.0})

    def trained(**update):
        with process_group("cpu") as world, pytest.MonkeyPatch.context() as patch:
            patch.setattr(StoppingRule, "keeps", lambda *_: True)  # the last epoch
            patch.setattr("models.training.fit_calibration", lambda *_: (np.ones(3), np.zeros(3)))
            found = fit(data, still, run.model_copy(update=update), world, "k")
        return {**found.tables, **{f"head.{name}": value for name, value in found.head.state_dict().items()}}

    first, second, averaged = trained(), trained(epochs=2), trained(epochs=2, averaging=0.5)
    assert not torch.equal(first["item_id"], second["item_id"])
    for name, value in averaged.items():
        torch.testing.assert_close(value, (first[name] + second[name]) / 2, rtol=0, atol=1e-6)
