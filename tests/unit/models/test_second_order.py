import itertools

import numpy as np
import pytest
import torch

import models
from models.second_order import CrossNetwork, SecondOrder


def test_it_is_the_weighted_sum_over_all_pairs_of_fields():
    torch.manual_seed(0)
    layer = SecondOrder(4, (3, 5))
    layer.weight.data.normal_()
    embedded, item, users = torch.randn(6, 12), torch.randn(6, 3), torch.randn(2, 5)
    index = torch.tensor([0, 1, 1, 0, 1, 0])
    found = layer(embedded, ((item, None), (users, index))).detach().numpy()
    texts = layer.project[0](item).detach().numpy()
    tastes = layer.project[1](users).detach().numpy()
    for row in range(6):
        fields = [*embedded[row].view(3, 4).numpy(), texts[row], tastes[int(index[row])]]
        pairs = sum(a * b for a, b in itertools.combinations(fields, 2))
        np.testing.assert_allclose(found[row], pairs @ layer.weight.detach().numpy(), rtol=1e-5, atol=1e-5)


def test_the_cross_network_is_its_equation_row_by_row_and_starts_as_zero():
    torch.manual_seed(0)
    network, x = CrossNetwork(5, 2), torch.randn(4, 5)
    assert not network(x).any()
    network.weight.data.normal_()
    found = network(x).detach().numpy()
    w = {name: value.detach().double().numpy() for name, value in network.state_dict().items()}
    for row, start in enumerate(x.double().numpy()):
        crossed = start
        for layer in range(2):
            crossed = start * (w[f"layers.{layer}.weight"] @ crossed + w[f"layers.{layer}.bias"]) + crossed
        np.testing.assert_allclose(found[row], crossed @ w["weight"], rtol=1e-5, atol=1e-5)
    network(x).sum().backward()
    assert [name for name, p in network.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize(("kind", "depth"), [("fm", 1), ("dcn_v2", 2)])
def test_a_bundle_with_second_order_scores_a_request_as_it_scores_rows(data, tmp_path, model, settings, kind, depth):
    system = model.model_copy(update={"second_order": kind, "meta_depth": depth, "meta_width": 12})
    models.train(data, system, settings.model_copy(update={"epochs": 1}), tmp_path / "b", name="k")
    bundle = models.load_bundle(tmp_path / "b")
    bundle.check_golden()
    rows = models.predict(bundle, data, "test").column("score").to_numpy()[:20]
    request = bundle.score(models.request_batch_from_rows(data, data.indices("test")[:20])).probability
    np.testing.assert_allclose(rows, request, rtol=1e-5)
