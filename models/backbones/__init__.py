"""Backbones: one file each, with a frozen config and a module `forward(x [B, D], scenario [B]) -> logit [B]`."""

from __future__ import annotations

from torch import nn

from core.settings import ModelSettings
from models.backbones.shared_bottom import SharedBottom, SharedBottomConfig
from models.backbones.star import Star, StarConfig


def build_backbone(settings: ModelSettings, inputs: int, scenarios: int) -> nn.Module:
    """The backbone that the settings name.

    Args:
        settings: backbone, hidden, tower, dropout.
        inputs: width of x.
        scenarios: S.
    """
    hidden, tower = tuple(settings.hidden), tuple(settings.tower)
    if settings.backbone == "star":
        config = StarConfig(inputs, scenarios, (*hidden, *tower), tower, settings.embedding_dim, settings.dropout)
        return Star(config)
    return SharedBottom(SharedBottomConfig(inputs, scenarios, hidden, tower, settings.dropout))


__all__ = ["SharedBottom", "SharedBottomConfig", "Star", "StarConfig", "build_backbone"]
