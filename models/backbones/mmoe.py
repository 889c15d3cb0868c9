"""MMoE: one gate per scenario, f_s = sum_i softmax(x W_s + b_s)_i Expert_i(x), z = Tower_s(f_s).

Source: Ma et al., KDD 2018; definitions: MTReclib. No normalisation before the softmax.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import Experts, Groups, ScenarioLinear, Tower, mix


@dataclass(frozen=True)
class MMoEConfig:
    """Number and widths of the experts (none: as many as scenarios), widths of the towers."""

    shape: Shape
    hidden: Widths = (16,)
    experts: Count | None = None
    tower: Widths = (8,)
    dropout: Share = 0.1


class MMoE(nn.Module):
    """Shared experts, a gate and a tower per scenario.

    Args:
        config: the widths.
    """

    def __init__(self, config: MMoEConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        experts = config.experts or shape.scenarios
        self.experts = Experts(experts, shape.inputs, config.hidden, config.dropout)
        self.gate = ScenarioLinear(shape.scenarios, shape.inputs, experts)
        self.tower = Tower(shape.scenarios, (shape.inputs, *config.hidden)[-1], config.tower, config.dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        x = groups.gather(inputs.x)
        return groups.restore(self.tower(mix(self.experts(x), self.gate(x, groups)), groups))
