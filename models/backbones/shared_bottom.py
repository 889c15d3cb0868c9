"""Shared Bottom: f = MLP(x), z = Tower_s(f) of the row's own scenario s (definitions: MTReclib)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.backbones.inputs import Inputs, Shape, Share, Widths
from models.backbones.layers import Groups, Tower, mlp


@dataclass(frozen=True)
class SharedBottomConfig:
    """Widths of the shared layers and of each scenario's tower."""

    shape: Shape
    hidden: Widths = (128,)
    tower: Widths = (8,)
    dropout: Share = 0.1


class SharedBottom(nn.Module):
    """One bottom for all scenarios, one tower each.

    Args:
        config: the widths.

    Example:
        >>> import torch
        >>> shape = Shape(inputs=8, scenarios=2)
        >>> backbone = SharedBottom(SharedBottomConfig(shape))
        >>> backbone(Inputs.of(torch.zeros(3, 8), torch.tensor([1, 0, 1]), shape)).shape
        torch.Size([3])
    """

    def __init__(self, config: SharedBottomConfig) -> None:
        super().__init__()
        self.config, shape = config, config.shape
        self.bottom = mlp(shape.inputs, config.hidden, config.dropout)
        self.tower = Tower(shape.scenarios, (shape.inputs, *config.hidden)[-1], config.tower, config.dropout)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        return groups.restore(self.tower(groups.gather(self.bottom(inputs.x)), groups))
