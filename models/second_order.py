"""Interactions beside the backbone: a factorisation machine over fields (Rendle, ICDM 2010), and the cross network of
DCN-V2 (Wang and others, WWW 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SecondOrder(nn.Module):
    """z = w . sum over pairs i < j of f_i (elementwise) f_j, in O(F d): half of (sum f)^2 - sum f^2.

    The fields are the embeddings and, projected to the same width, dense vectors such as item text and user knowledge,
    so that a user's taste meets an item's content.

    Args:
        width: d of an embedding.
        vectors: widths of the dense vectors.
    """

    def __init__(self, width: int, vectors: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.width = width
        projections = [nn.Linear(dim, width) for dim in vectors]
        for projection in projections:  # As small as embeddings start, or the first products overshoot.
            nn.init.normal_(projection.weight, std=0.01)
            nn.init.zeros_(projection.bias)
        self.project = nn.ModuleList(projections)
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, embedded: Tensor, vectors: tuple[tuple[Tensor, Tensor | None], ...] = ()) -> Tensor:
        """Score rows.

        Args:
            embedded: [B, F * d].
            vectors: per dense vector its rows [n, its width], and which of them each row reads, [B]; None: its own.

        Returns:
            Logits, [B].
        """
        total, squares = self.sums(embedded)
        for project, (rows, index) in zip(self.project, vectors, strict=True):
            field = project(rows)
            field = field if index is None or len(field) == 1 else field.index_select(0, index)
            total, squares = total + field, squares + field.square()
        return self.read(total, squares)

    def sums(self, embedded: Tensor, *further: Tensor) -> tuple[Tensor, Tensor]:
        """Of some fields, [B, F * d], and single ones, [B, d]: their sum and the sum of their squares, [B, d] each."""
        fields = embedded.view(len(embedded), -1, self.width)
        total, squares = fields.sum(dim=1), fields.square().sum(dim=1)
        for field in further:
            total, squares = total + field, squares + field.square()
        return total, squares

    def read(self, total: Tensor, squares: Tensor) -> Tensor:
        """The sums of all fields -> logits [B]."""
        return 0.5 * (total.square() - squares) @ self.weight


class CrossNetwork(nn.Module):
    """x_{l+1} = x_0 (elementwise) (W_l x_l + b_l) + x_l, then z = w . x_L; zero at the start.

    Args:
        width: d of x.
        layers: L; the highest order of an interaction is L + 1.
    """

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.weight = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[B, d] -> logits [B]."""
        crossed = x
        for layer in self.layers:
            crossed = torch.addcmul(crossed, x, layer(crossed))
        return crossed @ self.weight
