"""Embedding tables as serving holds them: one dense matrix with all tables one after another, without TorchRec, whose import
takes two seconds. One gather reads all one-hot features, and the user's own features are read once per user.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from models.inputs import HISTORY, ITEM_ID, SCENARIO, Bags, Layout, part_name


def table_rows(layout: Layout) -> dict[str, int]:
    """Table (the feature's `part_name`) -> number of rows, in the order of `Layout.features`."""
    return {
        part_name(name): layout.rows.get(name, len(layout.scenarios)) for name in layout.features if name != HISTORY
    }


class FusedTables(nn.Module):
    """All tables in one matrix.

    Args:
        layout: the features.
        weights: table -> float32 [rows, d].
    """

    weight: Tensor
    item_weight: Tensor

    def __init__(self, layout: Layout, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        names = list(table_rows(layout))
        self.dim = weights[names[0]].shape[1]
        base = dict(zip(names, np.cumsum([0, *(len(weights[name]) for name in names[:-1])]).tolist(), strict=True))
        self.register_buffer("weight", torch.cat([weights[name] for name in names]), persistent=False)
        item = base[ITEM_ID]
        self.register_buffer("item_weight", self.weight[item : item + len(weights[ITEM_ID])], persistent=False)
        self.nothing = torch.zeros(1, self.dim)
        self.user_base = np.array([base[part_name(name)] for name in layout.user], np.int64)[:, None]
        self.item_base = np.array([base[part_name(name)] for name in layout.item], np.int64)[:, None]
        self.scenario_base, self.history = base[SCENARIO], layout.history

    def forward(self, bags: Bags, user_index: np.ndarray) -> Tensor:
        """Look up B candidates of U users.

        Args:
            bags: `user` [Fu, U], `lengths` [U], `item` [Fi, B], `scenario` [B].
            user_index: int64 [B] into the users.

        Returns:
            [B, F * d] in the order of `Layout.features`.
        """
        count = len(bags.scenario)
        user = self.users(bags.user, bags.history, bags.lengths)
        rows = np.concatenate((bags.item + self.item_base, bags.scenario[None] + self.scenario_base))
        item = self.weight[torch.from_numpy(rows.T)].flatten(1)  # [B, (Fi + 1) * d]
        spread = user.expand(count, -1) if len(user) == 1 else user[torch.from_numpy(user_index)]
        return torch.cat((spread, item), dim=1)

    def users(self, ids: np.ndarray, history: np.ndarray, lengths: np.ndarray) -> Tensor:
        """The users' own features and their history bags.

        Args:
            ids: int64 [Fu, U].
            history: int64, item rows of all users' histories.
            lengths: int64 [U].

        Returns:
            [U, Fu * d], or one bag more.
        """
        rows = torch.from_numpy((ids + self.user_base).T.reshape(-1))
        user = self.weight.index_select(0, rows).view(ids.shape[1], -1)
        if not self.history:
            return user
        if len(lengths) == 1:  # A sixth of a bag's time.
            bag = self.item_weight.index_select(0, torch.from_numpy(history))
            pooled = bag.mean(dim=0, keepdim=True) if len(history) else self.nothing
            return torch.cat((user, pooled), dim=1)
        offsets = torch.from_numpy(np.cumsum(lengths) - lengths)
        pooled = nn.functional.embedding_bag(torch.from_numpy(history), self.item_weight, offsets, mode="mean")
        return torch.cat((user, pooled), dim=1)

    def items(self, ids: np.ndarray) -> Tensor:
        """Items' own features, [Fi, n] -> [n, Fi * d]."""
        rows = torch.from_numpy((ids + self.item_base).T.reshape(-1))
        return self.weight.index_select(0, rows).view(ids.shape[1], -1)

    def scenario(self, number: int) -> Tensor:
        """A scenario's embedding, [1, d]."""
        return self.weight[self.scenario_base + number][None]
