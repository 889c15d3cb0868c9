"""The tensors a ranker reads. B rows, F one-hot features, U distinct users, Q distinct scenario vectors."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from core.contracts.bundle_spec import LayoutSpec

HISTORY = "history"
SCENARIO = "scenario"
USER_ID, ITEM_ID = "user_id", "item_id"
_MODULE_FIELDS = frozenset(vars(nn.ModuleDict()))


def part_name(feature: str) -> str:
    """A feature's name as one of a module or a file: any text can be a column's name, `a.b`, `type` and `a/b` among them.

    Example:
        >>> part_name("genre"), part_name("a.b"), part_name("type")
        ('genre', 'a%2Eb', '%type')
    """
    name = re.sub(r"[%./\\]", lambda found: f"%{ord(found[0]):02X}", feature)
    return f"%{name}" if hasattr(nn.ModuleDict, name) or name in _MODULE_FIELDS else name


@dataclass(frozen=True)
class Layout:
    """Which features there are, in order; shapes every part of the model and nothing else.

    Args:
        user: one-hot features of the user, `user_id` first.
        item: one-hot features of the item, `item_id` first.
        rows: one-hot feature -> rows of its embedding table.
        history: whether there is a history bag (it shares the item table).
        dense: number of dense features.
        scenarios: names of the scenarios, in order.
        user_vectors: kind -> width of the user's knowledge vectors the model reads.
        scenario_dim: width of scenario vectors; 0: not read.
        item_dim: width of item text vectors; 0: none.
    """

    user: tuple[str, ...]
    item: tuple[str, ...]
    rows: dict[str, int]
    history: bool
    dense: int
    scenarios: tuple[str, ...]
    user_vectors: dict[str, int] = field(default_factory=dict)
    scenario_dim: int = 0
    item_dim: int = 0

    @property
    def features(self) -> list[str]:
        """Embedded features in the order of x: the user's, the item's, the scenario."""
        return [*self.user, *([HISTORY] if self.history else []), *self.item, SCENARIO]

    @classmethod
    def from_spec(cls, spec: LayoutSpec) -> Layout:
        """The layout that a bundle's spec describes."""
        return cls(**{**dict(spec), "rows": dict(spec.rows), "user_vectors": dict(spec.user_vectors)})


class Side(NamedTuple):
    """Everything beside the embedding ids. Rows of `*_vectors` whose `*_known` is 0 count as unknown."""

    dense: Tensor  # [B, dense]
    scenario: Tensor  # [B]
    user_index: Tensor  # [B] into the U rows below
    user_vectors: tuple[Tensor, ...]  # per kind [U, d]
    user_known: tuple[Tensor, ...]  # per kind [U, 1], 1 or 0
    scenario_index: Tensor  # [B] into the Q rows below
    scenario_vectors: Tensor  # [Q, d]
    scenario_known: Tensor  # [Q, 1]
    item_vectors: Tensor  # [B, d]
    item_known: Tensor  # [B, 1]

    def to(self, device: torch.device) -> Side:
        """The same on another device."""
        if device.type == "cpu":
            return self

        def move(part: Tensor) -> Tensor:
            return part.to(device, non_blocking=True)

        return Side(
            move(self.dense),
            move(self.scenario),
            move(self.user_index),
            tuple(map(move, self.user_vectors)),
            tuple(map(move, self.user_known)),
            move(self.scenario_index),
            move(self.scenario_vectors),
            move(self.scenario_known),
            move(self.item_vectors),
            move(self.item_known),
        )


class Bags(NamedTuple):
    """Embedding ids of B rows: one-hot features and a ragged history."""

    user: np.ndarray  # int64 [Fu, B]
    item: np.ndarray  # int64 [Fi, B]
    scenario: np.ndarray  # int64 [B]
    history: np.ndarray  # int64 [total]
    lengths: np.ndarray  # int64 [B]
