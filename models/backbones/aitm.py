"""AITM, adaptive information transfer: each scenario in turn attends to the one before it.

t_s = MLP_s(x). z_1 = t_1; for s > 1: p = Linear_{s-1}(z_{s-1}), X = [p; t_s], a = softmax over both of
sum(X W_Q * X W_K) / sqrt(m), z_s = sum_j a_j (X W_V)_j; logit = Tower_s(z_s). As in MTReclib, W_Q, W_K and W_V serve
every step; as in the paper's equations they have no bias. A row of scenario s needs the steps up to s alone.

The order is that of the dataset's scenarios (`scenarios` in a bundle's spec.json); it has no meaning of its own here.
The paper's label constraint presumes nested labels, which scenarios do not have, and is left out. Sizes ours: the
paper's are for other data. Source: Xi et al., KDD 2021, arXiv 2105.08489.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.backbones.inputs import Inputs, Shape, Share, Widths
from models.backbones.layers import Groups, Tower, mlp


@dataclass(frozen=True)
class AITMConfig:
    """Widths of each scenario's bottom and tower."""

    shape: Shape
    hidden: Widths = (64,)
    tower: Widths = (8,)
    dropout: Share = 0.1


class AITM(nn.Module):
    """A chain of scenarios.

    Args:
        config: the widths.
    """

    def __init__(self, config: AITMConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        self.width = (shape.inputs, *config.hidden)[-1]
        self.bottom = nn.ModuleList([mlp(shape.inputs, config.hidden, config.dropout) for _ in range(shape.scenarios)])
        steps = range(shape.scenarios - 1)
        self.transfer = nn.ModuleList([nn.Linear(self.width, self.width) for _ in steps])
        names = ("query", "key", "value") if steps else ()
        self.attention = nn.ModuleDict({name: nn.Linear(self.width, self.width, bias=False) for name in names})
        self.tower = Tower(shape.scenarios, self.width, config.tower, config.dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        x = groups.gather(inputs.x)
        state, done = self.bottom[0](x), []
        for size, bottom, transfer in zip(groups.sizes, self.bottom[1:], self.transfer, strict=False):
            done.append(state[:size])
            x, state = x[size:], state[size:]
            state = self._attend(torch.stack((transfer(state), bottom(x)), dim=1))
        return groups.restore(self.tower(torch.cat((*done, state)), groups))

    def _attend(self, both: Tensor) -> Tensor:
        """[B, 2, m] -> [B, m]."""
        scores = (self.attention["query"](both) * self.attention["key"](both)).sum(dim=2) / math.sqrt(self.width)
        return (torch.softmax(scores, dim=1).unsqueeze(2) * self.attention["value"](both)).sum(dim=1)
