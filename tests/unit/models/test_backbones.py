import numpy as np
import pytest
import torch

from models.backbones import SharedBottom, SharedBottomConfig, Star, StarConfig
from models.backbones.layers import Groups

B, D, S = 23, 6, 3


def shared_bottom():
    return SharedBottom(SharedBottomConfig(D, S, hidden=(5,), tower=(4,), dropout=0.0))


def star():
    return Star(StarConfig(D, S, hidden=(5, 4), auxiliary=(4,), scenario_dim=3, dropout=0.0))


@pytest.fixture(params=[shared_bottom, star])
def backbone(request):
    torch.manual_seed(0)
    module = request.param()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, D, generator=generator), torch.randint(0, S, (B,), generator=generator)


def numbers(module):
    return {name: value.detach().double().numpy() for name, value in module.state_dict().items()}


def shared_bottom_row(w, x, s):
    h = np.maximum(w["bottom.0.weight"] @ x + w["bottom.0.bias"], 0)
    h = np.maximum(h @ w["tower.0.weight"][s] + w["tower.0.bias"][s], 0)
    return (h @ w["tower.1.weight"][s] + w["tower.1.bias"][s])[0]


def star_row(w, x, s):
    gamma, beta = w["norm.gamma"] * w["norm.own_gamma"][s], w["norm.beta"] + w["norm.own_beta"][s]
    h = gamma * (x - w["norm.mean"][s]) / np.sqrt(w["norm.variance"][s] + 1e-5) + beta
    for layer in range(3):
        shared, own = w[f"layers.{layer}.weight"], w[f"layers.{layer}.own_weight"][s]
        h = h @ (shared * own) + w[f"layers.{layer}.bias"] + w[f"layers.{layer}.own_bias"][s]
        h = np.maximum(h, 0) if layer < 2 else h
    a = np.concatenate((x, w["scenario"][s]))
    a = np.maximum(w["auxiliary.0.weight"] @ a + w["auxiliary.0.bias"], 0)
    return (h + w["auxiliary_out.weight"] @ a + w["auxiliary_out.bias"])[0]


def test_matches_its_definition_row_by_row(backbone, batch):
    x, scenario = batch
    backbone(x, scenario)  # moves the running statistics away from their start
    backbone.eval()
    oracle = shared_bottom_row if isinstance(backbone, SharedBottom) else star_row
    w = numbers(backbone)
    expected = [oracle(w, row, s) for row, s in zip(x.double().numpy(), scenario.tolist(), strict=True)]
    np.testing.assert_allclose(backbone(x, scenario).detach(), expected, rtol=1e-5, atol=1e-5)


def test_every_parameter_gets_a_gradient(backbone, batch):
    backbone(*batch).square().sum().backward()
    assert [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_evaluated_score_does_not_depend_on_the_batch(backbone, batch):
    x, scenario = batch
    backbone(x, scenario)
    backbone.eval()
    together = backbone(x, scenario)
    alone = torch.cat([backbone(x[i : i + 1], scenario[i : i + 1]) for i in range(B)])
    with torch.no_grad():
        fast = torch.cat([backbone(x[i : i + 1], scenario[i : i + 1]) for i in range(B)])
    torch.testing.assert_close(alone, together, rtol=0, atol=2e-6)
    torch.testing.assert_close(fast, together, rtol=0, atol=2e-6)


def test_own_weights_are_trained_by_own_rows_only(backbone, batch):
    x, scenario = batch
    scenario = torch.where(scenario == 1, 0, scenario)
    backbone(x, scenario).square().sum().backward()
    own = [(n, p) for n, p in backbone.named_parameters() if n.startswith("tower") or "own_" in n or n == "scenario"]
    assert own
    for name, parameter in own:
        assert not parameter.grad[1].any(), name
        assert parameter.grad[0].any(), name


def test_a_scenario_with_one_row_trains(backbone):
    scenario = torch.tensor([0, 0, 2, 0])
    out = backbone(torch.randn(4, D), scenario)
    out.sum().backward()
    assert torch.isfinite(out).all()


def test_star_starts_alike_in_all_scenarios():
    module = Star(StarConfig(D, S, dropout=0.0)).eval()
    with torch.no_grad():
        module.scenario.zero_()
        x = torch.randn(1, D).repeat(S, 1)
        out = module(x, torch.arange(S))
    torch.testing.assert_close(out, out[:1].expand(S), rtol=0, atol=1e-6)


def test_star_logit_can_be_negative():
    torch.manual_seed(0)
    module = Star(StarConfig(D, S, dropout=0.0)).eval()
    out = module(torch.randn(200, D), torch.randint(0, S, (200,)))
    assert (out < 0).any()
    assert (out > 0).any()


def test_partitioned_norm_uses_the_statistics_of_its_scenario():
    norm = Star(StarConfig(2, 2)).norm
    x = torch.cat((torch.randn(50, 2), 100 + 7 * torch.randn(50, 2)))
    out = norm(x, Groups(torch.arange(100) // 50, 2))
    for part in (out[:50], out[50:]):
        torch.testing.assert_close(part.mean(0), torch.zeros(2), rtol=0, atol=1e-4)
        torch.testing.assert_close(part.std(0, correction=0), torch.ones(2), rtol=0, atol=1e-3)
    assert norm.mean[1, 0] > 5 * norm.mean[0, 0].abs()


def test_groups_restore_the_order_of_the_caller():
    scenario = torch.tensor([2, 0, 1, 0, 2])
    groups = Groups(scenario, 4)
    x = torch.arange(5.0)
    assert groups.sizes == [2, 1, 2, 0]
    assert torch.equal(groups.restore(groups.gather(x)), x)
