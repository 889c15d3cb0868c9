"""PPNet, the parameter half of PEPNet: gates by user and item over every hidden layer of each scenario's tower.

h_0 = x; delta_l = 2 sigmoid(W'_l ReLU(W_l [id embeddings; stopgrad(x)])), h_{l+1} = ReLU(Linear_l(h_l)) * delta_l,
z = Linear(h_L); all layers and gates per scenario, as the paper has them per task. The tower reads x itself, so that
every embedding is trained. Source: Chang et al., KDD 2023, arXiv 2302.01115; sizes: Scenario-Wise-Rec.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.backbones.inputs import Inputs, Shape, Share, Widths
from models.backbones.layers import Groups, ScenarioLinear
from models.dropout import dropout


@dataclass(frozen=True)
class PPNetConfig:
    """Widths of the towers; a gate is as wide inside as the layer it gates."""

    shape: Shape
    hidden: Widths = (128, 64, 32)
    dropout: Share = 0.1


class PPNet(nn.Module):
    """Towers per scenario, gated by who looks at what.

    Args:
        config: the widths.
    """

    def __init__(self, config: PPNetConfig) -> None:
        super().__init__()
        self.config, shape, count = config, config.shape, config.shape.scenarios
        prior = len(shape.ids) * shape.dim + shape.inputs
        self.layers = nn.ModuleList([ScenarioLinear(count, i, o) for i, o in pairwise([shape.inputs, *config.hidden])])
        self.gate_in = nn.ModuleList([ScenarioLinear(count, prior, width) for width in config.hidden])
        self.gate_out = nn.ModuleList([ScenarioLinear(count, width, width) for width in config.hidden])
        self.out = ScenarioLinear(count, (shape.inputs, *config.hidden)[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        shape = self.config.shape
        groups = Groups(inputs.scenario, shape.scenarios)
        ids = [inputs.fields[:, number] for number in shape.ids]
        prior = groups.gather(torch.cat((*ids, inputs.x.detach()), dim=1))
        hidden = groups.gather(inputs.x)
        for layer, gate_in, gate_out in zip(self.layers, self.gate_in, self.gate_out, strict=True):
            delta = 2 * torch.sigmoid(gate_out(torch.relu(gate_in(prior, groups)), groups))
            hidden = dropout(torch.relu(layer(hidden, groups)) * delta, self.config.dropout, self.training)
        return groups.restore(self.out(hidden, groups).squeeze(1))
