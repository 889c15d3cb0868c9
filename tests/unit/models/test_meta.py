import numpy as np
import pytest
import torch

from models.meta import MetaTower, Neutral, build_meta_layer

FORMS = ["gate", "low_rank", "full"]
B, D, R, K, U = 11, 6, 4, 3, 5


def perturbed(module, scale=0.4):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return module


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    x, code = torch.randn(B, D, generator=generator), torch.randn(U, R, generator=generator)
    return x, code, torch.randint(0, U, (B,), generator=generator)


def row_oracle(form, w, x, g):
    shift = w["bias.weight"] @ g + w["bias.bias"]
    if form == "gate":
        return x * 2 / (1 + np.exp(-(w["gate.weight"] @ g + w["gate.bias"]))) + shift
    if form == "low_rank":
        core = (w["core.weight"] @ g + w["core.bias"]).reshape(K, K)
        return x + x @ w["down"] @ core @ w["up"] + shift
    mix = w["mix.weight"] @ g + w["mix.bias"]
    weight = sum(mix[k] * w["basis"].reshape(D, K, D)[:, k] for k in range(K))
    return x + x @ weight + shift


@pytest.mark.parametrize("form", FORMS)
def test_matches_its_definition_row_by_row(form, batch):
    layer, (x, code, index) = perturbed(build_meta_layer(form, D, R, K)), batch
    w = {name: value.detach().double().numpy() for name, value in layer.state_dict().items()}
    codes = code.double().numpy()[index]
    expected = [row_oracle(form, w, row, g) for row, g in zip(x.double().numpy(), codes, strict=True)]
    np.testing.assert_allclose(layer(x, code, index).detach(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_starts_as_the_identity_bit_for_bit(form, batch):
    x, code, index = batch
    layer = build_meta_layer(form, D, R, K)
    assert torch.equal(layer(x, code, index), x)
    assert torch.equal(layer(x, code[:1], torch.zeros_like(index)), x)


@pytest.mark.parametrize("form", FORMS)
def test_generating_per_distinct_code_equals_generating_per_row(form, batch):
    layer, (x, code, index) = perturbed(build_meta_layer(form, D, R, K)), batch
    per_row = layer(x, code[index], torch.arange(B))
    torch.testing.assert_close(layer(x, code, index), per_row, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_one_code_for_all_rows_equals_that_code_in_every_row(form, batch):
    layer, (x, code, _) = perturbed(build_meta_layer(form, D, R, K)), batch
    index = torch.full((B,), 2)
    torch.testing.assert_close(layer(x, code[2:3], index), layer(x, code, index), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_every_parameter_gets_a_gradient_once_it_has_moved(form, batch):
    layer = perturbed(build_meta_layer(form, D, R, K))
    layer(*batch).square().sum().backward()
    assert [name for name, p in layer.named_parameters() if not p.grad.any()] == []


@pytest.mark.parametrize("form", FORMS)
def test_the_start_can_be_left(form, batch):
    """Identity must not be a dead point: some generated part gets a gradient from it."""
    layer = build_meta_layer(form, D, R, K)
    layer(*batch).square().sum().backward()
    moved = {name.split(".")[0] for name, p in layer.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved & {"gate", "up", "mix"}


@pytest.mark.parametrize("form", FORMS)
def test_tower_starts_as_zero_and_then_learns(form, batch):
    tower, (x, code, index) = MetaTower(D, 4, R, form, 2), batch
    out = tower(x, code, index)
    assert not out.any()
    out.sum().backward()
    assert tower.readout.weight.grad.any()
    perturbed(tower)
    tower.zero_grad()
    tower(x, code, index).square().sum().backward()
    assert [name for name, p in tower.named_parameters() if not p.grad.any()] == []


def test_tower_of_one_scenario_equals_the_same_code_in_every_row(batch):
    tower, (x, code, _) = perturbed(MetaTower(D, 4, R, "low_rank", 2)), batch
    index = torch.full((B,), 3)
    torch.testing.assert_close(tower(x, code[3:4], index), tower(x, code, index), rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_a_stack_is_its_definition_and_starts_as_the_identity(form, batch):
    x, code, index = batch
    stack = build_meta_layer(form, D, R, K, depth=3)
    assert torch.equal(stack(x, code, index), x)
    first, second, third = perturbed(stack).layers
    once = first(x, code, index)
    twice = once + second(once.relu(), code, index) - once.relu()
    torch.testing.assert_close(stack(x, code, index), twice + third(twice.relu(), code, index) - twice.relu())
    stack(x, code, index).square().sum().backward()
    assert [name for name, p in stack.named_parameters() if not p.grad.any()] == []


def test_neutral_replaces_unknown_vectors_and_is_learned():
    neutral = Neutral(2)
    vectors, known = torch.tensor([[1.0, 2.0], [8.0, 9.0]]), torch.tensor([[1.0], [0.0]])
    out = neutral(vectors, known)
    assert torch.equal(out[0], vectors[0])
    assert torch.equal(out[1], neutral.vector)
    out.sum().backward()
    assert neutral.vector.grad.tolist() == [1.0, 1.0]
