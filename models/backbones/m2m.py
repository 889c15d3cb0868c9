"""M2M: meta units, layers generated from the scenario, weigh the experts and form the tower.

With a learned vector c_s per scenario: S_s = act(A c_s + a), T_s = act(B c_s + b). A meta unit's weights and biases
are linear in S_s: W_s = reshape(V S_s + v), b_s = V' S_s + v'. Meta attention: e_i = u . act([Expert_i(x); T_s] W_s +
b_s), R = sum_i softmax(e)_i Expert_i(x). Meta tower, per layer: R <- act(R W_s + b_s + R). z = Linear(MLP(R)). act is
LeakyReLU(0.1). W_s is generated once per scenario and step.

The paper's T is a task's vector; scenarios are the tasks here. Its transformer reads behaviour sequences, of which x
holds the pooled history, so there is none (a public version runs one across the rows of a batch, so that scores depend
on the batch). Source: Zhang et al., WSDM 2022, arXiv 2201.06814; sizes: Scenario-Wise-Rec.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import Experts, Groups, mix, mlp


@dataclass(frozen=True)
class M2MConfig:
    """Number and width m of the experts, layers of the meta tower, widths of the layers after it."""

    shape: Shape
    experts: Count = 4
    expert: Count = 16
    meta_layers: Count = 1
    hidden: Widths = (64, 32)
    scenario_dim: Count = 16
    dropout: Share = 0.1


class MetaUnit(nn.Module):
    """A layer d -> d whose weights are generated from the scenario's code.

    Args:
        code: width of the code.
        width: d.
    """

    def __init__(self, code: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.weight, self.bias = nn.Linear(code, width * width), nn.Linear(code, width)

    def forward(self, x: Tensor, code: Tensor, groups: Groups) -> Tensor:
        """[B, d] or [B, E, d] by scenario, codes [S, r] -> the same shape as x."""
        return groups.linear(x, self.weight(code).unflatten(1, (self.width, self.width)), self.bias(code))


class M2M(nn.Module):
    """Experts, meta attention, meta tower.

    Args:
        config: the widths.
    """

    def __init__(self, config: M2MConfig) -> None:
        super().__init__()
        self.config, shape, m = config, config.shape, config.expert
        self.own_code = nn.Parameter(torch.randn(shape.scenarios, config.scenario_dim).mul_(0.1))
        self.knowledge, self.task = nn.Linear(config.scenario_dim, m), nn.Linear(config.scenario_dim, m)
        self.experts = Experts(config.experts, shape.inputs, (m,), config.dropout)
        self.attention, self.score = MetaUnit(m, 2 * m), nn.Parameter(torch.randn(2 * m) / math.sqrt(2 * m))
        self.meta_tower = nn.ModuleList([MetaUnit(m, m) for _ in range(config.meta_layers)])
        self.layers = mlp(m, config.hidden, config.dropout)
        self.out = nn.Linear((m, *config.hidden)[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        code, task = (_act(layer(self.own_code)) for layer in (self.knowledge, self.task))  # [S, m]
        experts = self.experts(groups.gather(inputs.x))  # [B, E, m]
        both = torch.cat((experts, groups.pick(task).unsqueeze(1).expand_as(experts)), dim=2)
        state = mix(experts, _act(self.attention(both, code, groups)) @ self.score)
        for unit in self.meta_tower:
            state = _act(unit(state, code, groups) + state)
        return groups.restore(self.out(self.layers(state)).squeeze(1))


def _act(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.1)
