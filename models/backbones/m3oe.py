"""M3oE: a star layer with a skip, then shared experts beside every scenario's own, balanced by learned scalars.

Block = Linear, LayerNorm, ReLU. e = Block(Star_s(x)) + Block'(x). f = sum_i softmax(stopgrad(e) W_s + b_s)_i
Shared_i(e) + sigmoid(omega) (sigmoid(nu) Own_s(e) + (1 - sigmoid(nu)) mean over t != s of Own_t(e)); z =
Linear_s(Block_s(f)). The paper's third group, experts per task, has nothing to tell apart where there is one task.

Source: Zhang et al., SIGIR 2024, arXiv 2404.18465, and its authors' code; sizes: Scenario-Wise-Rec.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import Experts, Groups, ScenarioLinear, StarLinear, mix
from models.dropout import dropout


@dataclass(frozen=True)
class M3oEConfig:
    """Widths of the star layer and of the block after it; widths and number of the shared experts."""

    shape: Shape
    star: tuple[Count, Count] = (128, 64)
    hidden: Widths = (32,)
    experts: Count = 4
    dropout: Share = 0.1


class M3oE(nn.Module):
    """Star layer, shared and own experts, a tower per scenario.

    Args:
        config: the widths.
    """

    def __init__(self, config: M3oEConfig) -> None:
        super().__init__()
        self.config, count = config, config.shape.scenarios
        inner, middle = config.star
        width = (middle, *config.hidden)[-1]
        self.star = StarLinear(count, config.shape.inputs, inner)
        self.after = nn.Sequential(nn.Linear(inner, middle), nn.LayerNorm(middle), nn.ReLU())
        self.skip = nn.Sequential(nn.Linear(config.shape.inputs, middle), nn.LayerNorm(middle), nn.ReLU())
        self.shared = Experts(config.experts, middle, config.hidden, config.dropout, norm=True)
        self.own = Experts(count, middle, config.hidden, config.dropout, norm=True)
        self.gate = ScenarioLinear(count, middle, config.experts)
        self.weight, self.balance = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
        self.tower, self.tower_out = ScenarioLinear(count, width, width), ScenarioLinear(count, width, 1)
        self.tower_gamma = nn.Parameter(torch.ones(count, width))
        self.tower_beta = nn.Parameter(torch.zeros(count, width))

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        x = groups.gather(inputs.x)
        e = self.after(self.star(x, groups)) + self.skip(x)
        common = mix(self.shared(e), self.gate(e.detach(), groups))
        hidden = self.tower(common + torch.sigmoid(self.weight) * self._balanced(self.own(e), groups), groups)
        hidden = functional.layer_norm(hidden, hidden.shape[1:])
        hidden = torch.relu(torch.addcmul(groups.pick(self.tower_beta), hidden, groups.pick(self.tower_gamma)))
        hidden = dropout(hidden, self.config.dropout, self.training)
        return groups.restore(self.tower_out(hidden, groups).squeeze(1))

    def _balanced(self, experts: Tensor, groups: Groups) -> Tensor:
        """All scenarios' experts on every row, [B, S, m] -> [B, m]."""
        own, balance = groups.own(experts), torch.sigmoid(self.balance)
        others = max(experts.shape[1] - 1, 1)
        return balance * own + (1 - balance) / others * (experts.sum(dim=1) - own)
