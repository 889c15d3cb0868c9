import pytest
import torch
from torch import nn
from torch.autograd import gradcheck

from models.dropout import dropout, relu_dropout
from models.kernels import Linear, add_mixed_maps

B, K = 9, 3
WIDTHS = [8, 11, 16]


def random(*size, seed=0):
    return torch.randn(*size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).requires_grad_()


@pytest.mark.parametrize("width", WIDTHS)
def test_mixed_maps_match_their_definition(width):
    x, shift, mix, basis = random(B, width), random(B, width, seed=1), random(B, K, seed=2), random(width, K * width)
    maps = basis.view(width, K, width)
    expected = torch.stack([x[b] + shift[b] + sum(mix[b, k] * (x[b] @ maps[:, k]) for k in range(K)) for b in range(B)])
    torch.testing.assert_close(add_mixed_maps(x, shift, mix, basis), expected)


@pytest.mark.parametrize("width", WIDTHS)
def test_mixed_maps_have_true_gradients(width):
    inputs = random(B, width), random(B, width, seed=1), random(B, K, seed=2), random(width, K * width, seed=3)
    assert gradcheck(add_mixed_maps, inputs)


@pytest.mark.parametrize("width", WIDTHS)
def test_linear_is_pytorchs_linear_forward_and_backward(width):
    torch.manual_seed(1)
    ours, theirs = Linear(width, 5).double(), nn.Linear(width, 5).double()
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = random(B, width)
        out = layer(x)
        out.square().sum().backward()
        results.append([out, x.grad, layer.weight.grad, layer.bias.grad])
    for mine, plain in zip(*results, strict=True):
        torch.testing.assert_close(mine, plain)


def test_linear_without_a_gradient_for_its_input_still_learns():
    layer = Linear(11, 2)
    layer(torch.ones(3, 11)).sum().backward()
    assert layer.weight.grad.tolist() == [[3.0] * 11] * 2


def test_relu_and_dropout_in_one_are_the_two_in_turn_bit_for_bit():
    results = []
    for together in (True, False):
        x = torch.randn(40, 33, generator=torch.Generator().manual_seed(5)).requires_grad_()
        torch.manual_seed(2)
        out = relu_dropout(x, 0.3, True) if together else dropout(torch.relu(x), 0.3, True)
        (out * torch.arange(33)).sum().backward()
        results.append((out, x.grad))
    assert all(torch.equal(mine, plain) for mine, plain in zip(*results, strict=True))


def test_relu_and_dropout_in_evaluation_is_relu():
    x = torch.tensor([-1.0, 2.0])
    assert relu_dropout(x, 0.5, False).tolist() == [0.0, 2.0]
