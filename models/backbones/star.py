"""STAR (arXiv 2101.11427): partitioned normalisation, star-factorised layers, auxiliary network.

z = StarLayers_s(PartitionedNorm_s(x)) + Auxiliary([x; c_s]) with a learned vector c_s per scenario; no activation on
either last layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import Groups, PartitionedNorm, StarLinear, mlp
from models.dropout import relu_dropout


@dataclass(frozen=True)
class StarConfig:
    """Widths of the star layers and of the auxiliary network."""

    shape: Shape
    hidden: Widths = (128, 64, 32)
    auxiliary: Widths = (32,)
    scenario_dim: Count = 16
    partitioned_norm: bool = True
    dropout: Share = 0.1


class Star(nn.Module):
    """STAR backbone: main logit plus auxiliary logit.

    Args:
        config: the widths.
    """

    def __init__(self, config: StarConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        self.norm = PartitionedNorm(shape.scenarios, shape.inputs) if config.partitioned_norm else None
        widths = [shape.inputs, *config.hidden, 1]
        self.layers = nn.ModuleList([StarLinear(shape.scenarios, i, o) for i, o in pairwise(widths)])
        self.scenario = nn.Parameter(torch.randn(shape.scenarios, config.scenario_dim).mul_(0.01))
        self.auxiliary = mlp(shape.inputs + config.scenario_dim, config.auxiliary, config.dropout)
        self.auxiliary_out = nn.Linear((shape.inputs + config.scenario_dim, *config.auxiliary)[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        x = groups.gather(inputs.x)
        hidden = x if self.norm is None else self.norm(x, groups)
        for layer in self.layers[:-1]:
            hidden = relu_dropout(layer(hidden, groups), self.config.dropout, self.training)
        main = self.layers[-1](hidden, groups)
        auxiliary = self.auxiliary_out(self.auxiliary(torch.cat((x, groups.pick(self.scenario)), dim=1)))
        return groups.restore((main + auxiliary).squeeze(1))
