"""What holds for every backbone."""

from typing import get_args

import numpy as np
import pytest
import torch

import models
from core.errors import SettingsError
from core.settings import ModelSettings
from models.backbones import BACKBONES
from models.backbones.layers import Groups
from models.encoder import Encoder
from models.ranker import Head

NAMES = list(BACKBONES)
OWN = {  # Weights of which scenario s owns row s.
    "shared_bottom": ["tower"],
    "omoe": ["tower"],
    "mmoe": ["tower", "gate"],
    "ple": ["tower", "last.specific", "last.gate."],
    "aitm": ["tower"],
    "star": ["layers.0.own_", "layers.1.own_", "layers.2.own_", "norm.own_", "scenario"],
    "sar_net": ["own_", "specific.", "specific_norm.own_"],
    "m2m": ["own_code"],
    "adasparse": ["own_code"],
    "adaptdhm": [],
    "epnet": ["own_code"],
    "ppnet": ["layers", "gate_", "out"],
    "hamur": ["layers", "norm.own_", "out"],
    "m3oe": ["star.own_", "gate", "tower"],
    "deepfm": [],
}


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def test_the_settings_name_every_backbone():
    assert set(get_args(ModelSettings.model_fields["backbone"].annotation)) == set(BACKBONES)


def test_every_parameter_gets_a_gradient(make_backbone, name):
    module, inputs = make_backbone(name)
    module(inputs).square().sum().backward()
    assert [n for n, p in module.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_evaluated_score_does_not_depend_on_the_batch(make_backbone, name):
    module, inputs = make_backbone(name)
    module(inputs)
    module.eval()

    def alone():
        rows = [type(inputs)(*(part[i : i + 1] for part in inputs)) for i in range(23)]
        return torch.cat([module(row) for row in rows])

    together, one_by_one = module(inputs), alone()
    with torch.no_grad():
        served = alone()
    torch.testing.assert_close(one_by_one, together, rtol=0, atol=5e-6)
    torch.testing.assert_close(served, together, rtol=0, atol=5e-6)


def test_own_weights_are_trained_by_own_rows_only(make_backbone, name):
    module, inputs = make_backbone(name)
    inputs = inputs._replace(scenario=torch.where(inputs.scenario == 1, 0, inputs.scenario))
    module(inputs).square().sum().backward()
    own = [(n, p) for n, p in module.named_parameters() if n.startswith(tuple(OWN[name]))]
    assert bool(own) == bool(OWN[name])
    for label, parameter in own:
        assert not parameter.grad[1].any(), label
        assert parameter.grad[0].any(), label


def test_a_scenario_with_one_row_or_none_trains(make_backbone, name):
    module, inputs = make_backbone(name)
    inputs = type(inputs)(inputs.x[:4], torch.tensor([0, 0, 2, 0]), inputs.fields[:4])
    out = module(inputs)
    out.sum().backward()
    assert torch.isfinite(out).all()
    assert [n for n, p in module.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


def test_one_scenario_is_enough(make_backbone, name):
    module, inputs = make_backbone(name)
    shape = type(module.config.shape)(10, 1, 4, 2, (0, 2))
    single = type(module)(type(module.config)(**{**module.config.__dict__, "shape": shape}))
    out = single(inputs._replace(scenario=torch.zeros(23, dtype=torch.int64)))
    out.square().sum().backward()
    assert out.shape == (23,)


def test_dropout_is_for_training_only(make_backbone, name):
    module, inputs = make_backbone(name)
    dropped = type(module)(type(module.config)(**{**module.config.__dict__, "dropout": 0.5}))
    assert not torch.equal(dropped(inputs), dropped(inputs))
    dropped.eval()
    assert torch.equal(dropped(inputs), dropped(inputs))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"depth": 3}, r"depth.*no such option; it has .*hidden"), ({"hidden": [0]}, r"hidden\.0.*greater than")],
)
def test_a_wrong_option_is_named(make_backbone, name, options, message):
    with pytest.raises(SettingsError, match=f"(?s)backbone_options.*{message}"):
        make_backbone(name, **options)


def test_general_widths_come_after_options_and_before_defaults(make_backbone):
    from models.backbones import Shape, build_config

    shape = Shape(10, 3)
    assert build_config(ModelSettings(backbone="mmoe"), shape).hidden == (16,)
    general = ModelSettings(backbone="mmoe", hidden=[7], tower=[6], backbone_options={"tower": [5]})
    config = build_config(general, shape)
    assert (config.hidden, config.tower, config.dropout) == ((7,), (5,), 0.1)


@pytest.fixture(scope="module")
def encoded_rows(data):
    encoder = Encoder.fit(data, user_vectors=["user_pooled"], scenario_vectors=True)
    index = data.indices("train")[:200]
    layout = encoder.layout
    return layout, torch.randn(200, len(layout.features) * 4), encoder.encode(data).side(index)


@pytest.mark.parametrize("levels", [("gate", "none"), ("none", "gate"), ("low_rank", "full")])
def test_meta_levels_start_as_the_backbone_alone(encoded_rows, model, name, levels):
    layout, embedded, side = encoded_rows
    update = {"backbone": name, "user_level": levels[0], "scenario_level": levels[1], "knowledge_features": False}
    settings = model.model_copy(update=update)
    whole, plain = Head(settings, layout).eval(), Head(models.plain(settings), layout).eval()
    plain.load_state_dict({key: value for key, value in whole.state_dict().items() if key in plain.state_dict()})
    assert torch.equal(whole(embedded, side).logit, plain(embedded, side).logit)


@pytest.mark.parametrize("knowledge", [False, True])
def test_a_trained_bundle_loads_and_reproduces_its_scores(data, tmp_path, model, settings, name, knowledge):
    system = model.model_copy(update={"backbone": name, "hidden": None, "tower": None})
    system = system if knowledge else models.plain(system)
    models.train(data, system, settings.model_copy(update={"epochs": 1}), tmp_path / "b", name=name)
    bundle = models.load_bundle(tmp_path / "b")
    bundle.check_golden()
    batch = models.request_batch_from_rows(data, data.indices("test")[:40])
    table = models.predict(bundle, data, "test")
    np.testing.assert_allclose(bundle.score(batch).probability, table["score"].to_numpy()[:40], rtol=0, atol=2e-6)


def test_groups_restore_the_order_of_the_caller():
    scenario = torch.tensor([2, 0, 1, 0, 2])
    groups = Groups(scenario, 4)
    x = torch.arange(5.0)
    assert groups.sizes == [2, 1, 2, 0]
    assert torch.equal(groups.restore(groups.gather(x)), x)
