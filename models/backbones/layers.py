"""Layers that backbones share, above all those whose weights depend on the row's scenario.

Masks are floats of 0 and 1: comparisons that make boolean tensors are slow on a CPU. B rows, S scenarios, E experts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.dropout import ReluDropout, relu_dropout
from models.kernels import Linear, multiply


class Groups:
    """Rows brought into order of scenario, so that each scenario's weights meet one contiguous block.

    Args:
        scenario: int64 [B]; costs nothing when it is sorted already, as training batches are.
        count: S.
    """

    def __init__(self, scenario: Tensor, count: int) -> None:
        self.sizes: list[int] = torch.bincount(scenario, minlength=count).tolist()
        self.order: Tensor | None = None
        if max(self.sizes) < len(scenario) and not bool((scenario[1:] >= scenario[:-1]).all()):
            self.order = torch.argsort(scenario, stable=True)

    def gather(self, x: Tensor) -> Tensor:
        """[B, ...] in the caller's order -> the same rows by scenario."""
        return x if self.order is None else x.index_select(0, self.order)

    def restore(self, x: Tensor) -> Tensor:
        """The inverse of `gather`."""
        return x if self.order is None else torch.empty_like(x).index_copy(0, self.order, x)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Each block times its scenario's weights.

        Args:
            x: [B, in] or [B, E, in] by scenario.
            weight: [S, in, out].
            bias: [S, out].

        Returns:
            [B, out] or [B, E, out] by scenario.
        """
        if max(self.sizes) == len(x) and not torch.is_grad_enabled():
            own = self.sizes.index(len(x))
            return _affine(x, weight[own], bias[own])
        # Empty blocks stay in: their weights then get a zero gradient, not none, on every process alike.
        blocks = zip(x.split(self.sizes), weight.unbind(0), bias.unbind(0), strict=True)
        return torch.cat([_affine(part, w, b) for part, w, b in blocks])

    def pick(self, x: Tensor) -> Tensor:
        """[S, ...] of each scenario -> [B, ...], by scenario."""
        return torch.cat([row.expand(size, *row.shape[1:]) for row, size in zip(x.split(1), self.sizes, strict=True)])

    def own(self, x: Tensor) -> Tensor:
        """[B, S, ...] by scenario -> each row's own scenario's part, [B, ...]."""
        return torch.cat([part[:, number] for number, part in enumerate(x.split(self.sizes))])


class ScenarioLinear(nn.Module):
    """One linear layer per scenario.

    Args:
        scenarios: S.
        inputs: width in.
        outputs: width out.
    """

    def __init__(self, scenarios: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(scenarios, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(scenarios, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """[B, in] by scenario -> [B, out] by scenario."""
        return groups.linear(x, self.weight, self.bias)

    def everywhere(self, x: Tensor) -> Tensor:
        """[B, S, in] -> [B, S, out]: every scenario's layer on its part of every row."""
        return torch.einsum("bsi,sio->bso", x, self.weight) + self.bias


class Tower(nn.ModuleList):
    """One MLP per scenario (linear, ReLU, dropout) that ends in a logit.

    Args:
        scenarios: S.
        inputs: width in.
        widths: of the hidden layers.
        share: of dropout.
    """

    def __init__(self, scenarios: int, inputs: int, widths: Sequence[int], share: float) -> None:
        super().__init__([ScenarioLinear(scenarios, i, o) for i, o in pairwise([inputs, *widths, 1])])
        self.share = share

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """[B, in] by scenario -> logits [B] by scenario."""
        for number, layer in enumerate(self, start=1):
            x = layer(x, groups)
            if number < len(self):
                x = relu_dropout(x, self.share, self.training)
        return x.squeeze(1)


class StarLinear(nn.Module):
    """A shared linear layer, modulated by each scenario: W*_s = W_s (elementwise) W, b*_s = b_s + b (STAR).

    W_s starts as ones and b_s as zeros, so that all scenarios start alike.

    Args:
        scenarios: S.
        inputs: width in.
        outputs: width out.
    """

    def __init__(self, scenarios: int, inputs: int, outputs: int) -> None:
        super().__init__()
        shared = nn.Linear(inputs, outputs)
        self.weight, self.bias = nn.Parameter(shared.weight.detach().T.contiguous()), nn.Parameter(shared.bias.detach())
        self.own_weight = nn.Parameter(torch.ones(scenarios, inputs, outputs))
        self.own_bias = nn.Parameter(torch.zeros(scenarios, outputs))

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """[B, in] by scenario -> [B, out] by scenario."""
        return groups.linear(x, self.own_weight * self.weight, self.own_bias + self.bias)


class Experts(nn.ModuleList):
    """E MLPs (linear, ReLU, dropout) over the same rows.

    Args:
        experts: E.
        inputs: width in.
        widths: of the layers.
        share: of dropout.
        norm: LayerNorm before each ReLU.
    """

    def __init__(self, experts: int, inputs: int, widths: Sequence[int], share: float, norm: bool = False) -> None:
        super().__init__([ExpertLinear(experts, i, o, norm) for i, o in pairwise([inputs, *widths])])
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """[B, in] or [B, E, in] -> [B, E, out]."""
        for layer in self:
            x = relu_dropout(layer(x), self.share, self.training)
        return x


class ExpertLinear(nn.Module):
    """E linear layers, each with a LayerNorm of its own if asked for.

    Args:
        experts: E.
        inputs: width in.
        outputs: width out.
        norm: LayerNorm after it.
    """

    def __init__(self, experts: int, inputs: int, outputs: int, norm: bool = False) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(inputs, experts, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(experts, outputs).uniform_(-bound, bound))
        self.gamma = nn.Parameter(torch.ones(experts, outputs)) if norm else None
        self.beta = nn.Parameter(torch.zeros(experts, outputs)) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        """[B, in], the same for all experts, or [B, E, in] -> [B, E, out]."""
        if x.dim() == 2:
            x = torch.addmm(self.bias.flatten(), x, self.weight.flatten(1)).unflatten(1, self.bias.shape)
        else:
            x = torch.einsum("bei,ieo->beo", x, self.weight) + self.bias
        if self.gamma is None or self.beta is None:
            return x
        return torch.addcmul(self.beta, functional.layer_norm(x, x.shape[2:]), self.gamma)


class PartitionedNorm(nn.Module):
    """Normalisation by the statistics of the row's own scenario: gamma gamma_s (z - mu_s) / sigma_s + beta + beta_s.

    In training the statistics are those of the scenario's rows in the batch; in evaluation the scenario's running
    ones, so that a score does not depend on its batch. A scenario with one row in a batch has no variance there and
    uses its running statistics. Source: STAR, arXiv 2101.11427.

    Args:
        scenarios: S.
        width: D.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, scenarios: int, width: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.epsilon = momentum, epsilon
        self.gamma, self.beta = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.own_gamma = nn.Parameter(torch.ones(scenarios, width))
        self.own_beta = nn.Parameter(torch.zeros(scenarios, width))
        self.register_buffer("mean", torch.zeros(scenarios, width))
        self.register_buffer("variance", torch.ones(scenarios, width))

    def forward(self, x: Tensor, groups: Groups) -> Tensor:
        """[B, D] by scenario -> [B, D] by scenario."""
        gamma, beta = (self.gamma * self.own_gamma).unbind(0), (self.beta + self.own_beta).unbind(0)
        parts = []
        for number, part in enumerate(x.split(groups.sizes)):
            if not len(part) and not torch.is_grad_enabled():
                continue
            parts.append(self._normalise(number, part, gamma[number], beta[number]))
        return torch.cat(parts)

    def _normalise(self, number: int, part: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        batch = self.training and len(part) > 1
        # Views of the running buffers: batch_norm updates them in place when it uses the batch's statistics. What it
        # only reads is copied, since the backward pass needs it as it was.
        mean, variance = self.mean[number], self.variance[number]
        if not batch:
            mean, variance = mean.clone(), variance.clone()
        return functional.batch_norm(part, mean, variance, gamma, beta, batch, self.momentum, self.epsilon)


def mlp(inputs: int, widths: Sequence[int], share: float) -> nn.Sequential:
    """Linear, ReLU, dropout for each width."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [Linear(inputs, width), ReluDropout(share)]
        inputs = width
    return nn.Sequential(*layers)


def mix(experts: Tensor, gate: Tensor) -> Tensor:
    """Experts [B, E, m] and their gate's logits [B, E] -> sum over E of softmax(gate)_e expert_e, [B, m]."""
    return (torch.softmax(gate, dim=1).unsqueeze(2) * experts).sum(dim=1)  # On a CPU half a batched product's time.


def _affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if x.dim() == 2:
        plain = torch.is_grad_enabled() or not isinstance(x, Tensor)
        return torch.addmm(bias, x, weight) if plain else multiply(x, weight, bias)
    return torch.addmm(bias, x.reshape(-1, x.shape[-1]), weight).view(*x.shape[:-1], weight.shape[-1])
