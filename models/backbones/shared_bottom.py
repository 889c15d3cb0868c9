"""Shared Bottom: f = MLP(x), z = Tower_s(f) of the row's own scenario s (definitions: MTReclib)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.backbones.layers import Groups, ScenarioLinear, mlp
from models.dropout import dropout


@dataclass(frozen=True)
class SharedBottomConfig:
    """Widths of the shared layers and of each scenario's tower."""

    inputs: int
    scenarios: int
    hidden: tuple[int, ...] = (128,)
    tower: tuple[int, ...] = (32,)
    dropout: float = 0.1


class SharedBottom(nn.Module):
    """One bottom for all scenarios, one tower each.

    Args:
        config: the widths.

    Example:
        >>> import torch
        >>> backbone = SharedBottom(SharedBottomConfig(inputs=8, scenarios=2))
        >>> backbone(torch.zeros(3, 8), torch.tensor([1, 0, 1])).shape
        torch.Size([3])
    """

    def __init__(self, config: SharedBottomConfig) -> None:
        super().__init__()
        self.config = config
        self.bottom = mlp(config.inputs, config.hidden, config.dropout)
        widths = [(config.hidden or (config.inputs,))[-1], *config.tower, 1]
        self.tower = nn.ModuleList([ScenarioLinear(config.scenarios, i, o) for i, o in pairwise(widths)])

    def forward(self, x: Tensor, scenario: Tensor) -> Tensor:
        """Score rows.

        Args:
            x: [B, inputs].
            scenario: int64 [B].

        Returns:
            Logits, [B].
        """
        groups = Groups(scenario, self.config.scenarios)
        hidden = groups.gather(self.bottom(x))
        for layer in self.tower[:-1]:
            hidden = dropout(torch.relu(layer(hidden, groups)), self.config.dropout, self.training)
        return groups.restore(self.tower[-1](hidden, groups).squeeze(1))
