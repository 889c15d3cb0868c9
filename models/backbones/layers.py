"""Layers whose weights depend on the row's scenario. B rows, S scenarios."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.dropout import Dropout


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
            x: [B, in] by scenario.
            weight: [S, in, out].
            bias: [S, out].

        Returns:
            [B, out] by scenario.
        """
        if max(self.sizes) == len(x) and not torch.is_grad_enabled():
            own = self.sizes.index(len(x))
            return torch.addmm(bias[own], x, weight[own])
        # Empty blocks stay in: their weights then get a zero gradient, not none, on every process alike.
        blocks = zip(x.split(self.sizes), weight.unbind(0), bias.unbind(0), strict=True)
        return torch.cat([torch.addmm(b, part, w) for part, w, b in blocks])


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


def mlp(inputs: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Linear, ReLU, dropout for each width."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        layers += [Dropout(dropout)] if dropout else []
        inputs = width
    return nn.Sequential(*layers)
