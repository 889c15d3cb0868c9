"""AdaSparse: before every layer a pruner scales each neuron, down to zero, by scenario and by what the neuron reads.

With a learned vector c_s per scenario and h_0 = x: pi_l = beta sigmoid(alpha [c_s; h_l] W_l), set to 0 where it does
not exceed epsilon (the paper's "fusion" of scaling and pruning); h_{l+1} = ReLU(Linear(pi_l * h_l)); z =
Linear(pi_L * h_L). alpha grows with every training step, which sharpens the factors, and is kept in the weights;
evaluation leaves it alone. The paper's sparsity penalty belongs to its binary form and is left out.

Source: Yang et al., CIKM 2022, arXiv 2206.13108; sizes and constants: Scenario-Wise-Rec.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import Groups
from models.dropout import relu_dropout


@dataclass(frozen=True)
class AdaSparseConfig:
    """Widths of the layers and the pruners' constants."""

    shape: Shape
    hidden: Widths = (32, 32)
    scenario_dim: Count = 16
    alpha: float = 1.0
    alpha_step: float = 1e-4
    beta: float = 2.0
    epsilon: float = 0.01
    dropout: Share = 0.1


class AdaSparse(nn.Module):
    """Pruned layers that all scenarios share.

    Args:
        config: the widths.
    """

    alpha: Tensor

    def __init__(self, config: AdaSparseConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        widths = [shape.inputs, *config.hidden]
        self.own_code = nn.Parameter(torch.randn(shape.scenarios, config.scenario_dim).mul_(0.1))
        self.from_code = nn.ModuleList([nn.Linear(config.scenario_dim, width, bias=False) for width in widths])
        self.from_hidden = nn.ModuleList([nn.Linear(width, width, bias=False) for width in widths])
        self.layers = nn.ModuleList([nn.Linear(i, o) for i, o in pairwise([*widths, 1])])
        self.register_buffer("alpha", torch.tensor(config.alpha))

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        if self.training:
            self.alpha.add_(self.config.alpha_step)
        alpha, hidden = self.alpha.clone(), groups.gather(inputs.x)
        for number, layer in enumerate(self.layers):
            if number:
                hidden = relu_dropout(hidden, self.config.dropout, self.training)
            hidden = layer(hidden * self._factors(number, hidden, alpha, groups))
        return groups.restore(hidden.squeeze(1))

    def _factors(self, number: int, hidden: Tensor, alpha: Tensor, groups: Groups) -> Tensor:
        score = self.from_hidden[number](hidden) + groups.pick(self.from_code[number](self.own_code))
        return functional.threshold(self.config.beta * torch.sigmoid(alpha * score), self.config.epsilon, 0.0)
