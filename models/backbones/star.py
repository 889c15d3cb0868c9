"""STAR (arXiv 2101.11427): partitioned normalisation, star-factorised layers, auxiliary network.

Scenario p's layer is W*_p = W_p (elementwise) W, b*_p = b_p + b; W_p starts as ones and b_p as zeros, so that all
scenarios start alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.layers import Groups, mlp
from models.dropout import dropout


@dataclass(frozen=True)
class StarConfig:
    """Widths of the star layers and of the auxiliary network."""

    inputs: int
    scenarios: int
    hidden: tuple[int, ...] = (128, 32)
    auxiliary: tuple[int, ...] = (32,)
    scenario_dim: int = 16
    dropout: float = 0.1
    partitioned_norm: bool = True


class PartitionedNorm(nn.Module):
    """Normalisation by the statistics of the row's own scenario: gamma gamma_p (z - mu_p) / sigma_p + beta + beta_p.

    In training the statistics are those of the scenario's rows in the batch; in evaluation the scenario's running
    ones, so that a score does not depend on its batch. A scenario with one row in a batch has no variance there and
    uses its running statistics.

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


class StarLinear(nn.Module):
    """A shared linear layer, modulated by each scenario.

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


class Star(nn.Module):
    """STAR backbone: main logit plus auxiliary logit.

    Args:
        config: the widths.
    """

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.config = config
        self.norm = PartitionedNorm(config.scenarios, config.inputs) if config.partitioned_norm else None
        widths = [config.inputs, *config.hidden, 1]
        self.layers = nn.ModuleList([StarLinear(config.scenarios, i, o) for i, o in pairwise(widths)])
        self.scenario = nn.Parameter(torch.randn(config.scenarios, config.scenario_dim).mul_(0.01))
        self.auxiliary = mlp(config.inputs + config.scenario_dim, config.auxiliary, config.dropout)
        self.auxiliary_out = nn.Linear((config.auxiliary or (config.inputs + config.scenario_dim,))[-1], 1)

    def forward(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Score rows.

        Args:
            x: [B, inputs].
            scenario: int64 [B].

        Returns:
            Logits, [B].
        """
        groups = Groups(scenario, self.config.scenarios)
        x, scenario = groups.gather(x), groups.gather(scenario)
        hidden = x if self.norm is None else self.norm(x, groups)
        for layer in self.layers[:-1]:
            hidden = dropout(torch.relu(layer(hidden, groups)), self.config.dropout, self.training)
        main = self.layers[-1](hidden, groups)
        auxiliary = self.auxiliary_out(self.auxiliary(torch.cat((x, self.scenario[scenario]), dim=1)))
        return groups.restore((main + auxiliary).squeeze(1))
