"""SAR-Net: a scenario-specific affine map, then shared and scenario-specific experts under one gate.

v = x * w_s + b_s. Shared expert i: A_i BN(v) + a_i, BN over all rows; specific expert j of scenario s: likewise, its
statistics those of the scenario's rows. f = sum softmax(v W + b)_i expert_i(v), z = Linear(MLP(f)). An expert's own
gamma and beta would fold into its linear layer, so experts of a group share one normalisation. Evaluation uses running
statistics, so that a score does not depend on its batch.

The paper's attention over behaviour sequences is left out (x holds the pooled history), and so is its fairness
coefficient, which needs to know of promotions. Source: Shen et al., CIKM 2021, arXiv 2110.06475; sizes:
Scenario-Wise-Rec.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import ExpertLinear, Groups, PartitionedNorm, ScenarioLinear, mix, mlp


@dataclass(frozen=True)
class SARNetConfig:
    """Number of shared experts and of each scenario's own, their width, and the widths of the layers after them."""

    shape: Shape
    shared: Count = 8
    specific: Count = 2
    expert: Count = 16
    hidden: Widths = (32, 32)
    dropout: Share = 0.1


class SARNet(nn.Module):
    """Debiased experts behind a scenario's affine map.

    Args:
        config: the widths.
    """

    def __init__(self, config: SARNetConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        self.own_scale = nn.Parameter(torch.ones(shape.scenarios, shape.inputs))
        self.own_shift = nn.Parameter(torch.zeros(shape.scenarios, shape.inputs))
        self.shared_norm = PartitionedNorm(1, shape.inputs)
        self.shared = ExpertLinear(config.shared, shape.inputs, config.expert)
        self.specific_norm = PartitionedNorm(shape.scenarios, shape.inputs)
        self.specific = ScenarioLinear(shape.scenarios, shape.inputs, config.specific * config.expert)
        self.gate = nn.Linear(shape.inputs, config.shared + config.specific)
        self.layers = mlp(config.expert, config.hidden, config.dropout)
        self.out = nn.Linear((config.expert, *config.hidden)[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        v = torch.addcmul(groups.pick(self.own_shift), groups.gather(inputs.x), groups.pick(self.own_scale))
        shared = self.shared(self.shared_norm(v, Groups(torch.zeros_like(inputs.scenario), 1)))
        specific = self.specific(self.specific_norm(v, groups), groups).unflatten(1, (-1, self.config.expert))
        mixed = mix(torch.cat((shared, specific), dim=1), self.gate(v))
        return groups.restore(self.out(self.layers(mixed)).squeeze(1))
