"""EPNet, the embedding half of PEPNet: a gate by scenario over every number of x.

delta = 2 sigmoid(W_2 ReLU(W_1 [c_s; stopgrad(x)])) with a learned vector c_s per scenario; z = Linear(MLP(x * delta)).
Source: Chang et al., KDD 2023, arXiv 2302.01115; sizes of the MLP: Scenario-Wise-Rec as written (its code runs none),
of the gate ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import mlp


@dataclass(frozen=True)
class EPNetConfig:
    """Widths of the layers, width inside the gate."""

    shape: Shape
    hidden: Widths = (128, 64, 32)
    gate: Count = 64
    scenario_dim: Count = 16
    dropout: Share = 0.1


class EPNet(nn.Module):
    """A gate by scenario, layers that all scenarios share.

    Args:
        config: the widths.
    """

    def __init__(self, config: EPNetConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        self.own_code = nn.Parameter(torch.randn(shape.scenarios, config.scenario_dim).mul_(0.1))
        self.gate = nn.Sequential(
            nn.Linear(config.scenario_dim + shape.inputs, config.gate), nn.ReLU(), nn.Linear(config.gate, shape.inputs)
        )
        self.layers = mlp(shape.inputs, config.hidden, config.dropout)
        self.out = nn.Linear((shape.inputs, *config.hidden)[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        code = self.own_code.index_select(0, inputs.scenario)
        delta = 2 * torch.sigmoid(self.gate(torch.cat((code, inputs.x.detach()), dim=1)))
        return self.out(self.layers(inputs.x * delta)).squeeze(1)
