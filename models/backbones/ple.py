"""PLE, progressive layered extraction: per level, experts of each scenario's own beside shared ones.

q_1 .. q_S and q_0 are x at the first level. Scenario s mixes [own experts(q_s); shared experts(q_0)] by a gate that
reads q_s; the shared q_0 mixes the experts of all scenarios and the shared ones by a gate that reads q_0, and is
skipped on the last level. z = Tower_s(q_s). Source: Tang et al., RecSys 2020; definitions: MTReclib.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import Experts, Groups, ScenarioLinear, Tower, mix
from models.dropout import relu_dropout


@dataclass(frozen=True)
class PLEConfig:
    """One level per width of `hidden`, at least one; number of experts per scenario and of shared ones."""

    shape: Shape
    hidden: Annotated[Widths, Field(min_length=1)] = (16,)
    specific: Count = 2
    shared: Count = 1
    tower: Widths = (8,)
    dropout: Share = 0.1


class Level(nn.Module):
    """One level of extraction.

    Args:
        config: number of experts.
        inputs: width in.
        outputs: width m.
        last: whether no level follows, so that nobody reads q_0.
    """

    def __init__(self, config: PLEConfig, inputs: int, outputs: int, last: bool) -> None:
        super().__init__()
        scenarios, self.share, self.cut = config.shape.scenarios, config.dropout, (config.specific, outputs)
        self.specific = ScenarioLinear(scenarios, inputs, config.specific * outputs)
        self.shared = Experts(config.shared, inputs, (outputs,), config.dropout)
        self.gate = ScenarioLinear(scenarios, inputs, config.specific + config.shared)
        self.shared_gate = None if last else nn.Linear(inputs, scenarios * config.specific + config.shared)

    def forward(self, own: Tensor, shared: Tensor, groups: Groups) -> Tensor:
        """The last level: q_s of the row's scenario and q_0, each [B, in], by scenario -> q_s, [B, m]."""
        specific = relu_dropout(self.specific(own, groups), self.share, self.training)
        experts = torch.cat((specific.unflatten(1, self.cut), self.shared(shared)), dim=1)
        return mix(experts, self.gate(own, groups))

    def everywhere(self, own: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Any other level: all q_s [B, S, in] and q_0 [B, in] -> [B, S, m] and [B, m]."""
        assert self.shared_gate is not None
        specific = relu_dropout(self.specific.everywhere(own), self.share, self.training)
        specific, common = specific.unflatten(2, self.cut), self.shared(shared)  # [B, S, E, m], [B, E', m]
        experts = torch.cat((specific, common.unsqueeze(1).expand(-1, own.shape[1], -1, -1)), dim=2)
        mixed = mix(experts.flatten(0, 1), self.gate.everywhere(own).flatten(0, 1)).unflatten(0, own.shape[:2])
        return mixed, mix(torch.cat((specific.flatten(1, 2), common), dim=1), self.shared_gate(shared))


class PLE(nn.Module):
    """Levels of extraction, a tower per scenario.

    Args:
        config: the widths.
    """

    def __init__(self, config: PLEConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        widths = list(pairwise([shape.inputs, *config.hidden]))
        self.levels = nn.ModuleList([Level(config, i, o, last=False) for i, o in widths[:-1]])
        self.last = Level(config, *widths[-1], last=True)
        self.tower = Tower(shape.scenarios, (shape.inputs, *config.hidden)[-1], config.tower, config.dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        own = shared = groups.gather(inputs.x)
        if len(self.levels):
            every = own.unsqueeze(1).expand(-1, self.config.shape.scenarios, -1)
            for level in self.levels:
                assert isinstance(level, Level)
                every, shared = level.everywhere(every, shared)
            own = groups.own(every)
        return groups.restore(self.tower(self.last(own, shared, groups), groups))
