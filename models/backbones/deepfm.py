"""DeepFM, the single-scenario control: one network for all rows; the scenario is one field among others.

z = w . x + b + sum over pairs of fields <f_i, f_j> + Linear(MLP(x)). The first-order term reads x, since there is no
table of scalar weights per id beside the embeddings. Sizes: those of EPNet's layers; the paper's (400, 400, 400) are
for other data. Source: Guo et al., IJCAI 2017, arXiv 1703.04247.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from models.backbones.inputs import Inputs, Shape, Share, Widths
from models.backbones.layers import mlp


@dataclass(frozen=True)
class DeepFMConfig:
    """Widths of the deep part."""

    shape: Shape
    hidden: Widths = (128, 64, 32)
    dropout: Share = 0.1


class DeepFM(nn.Module):
    """Linear, pairwise and deep part.

    Args:
        config: the widths.
    """

    def __init__(self, config: DeepFMConfig) -> None:
        super().__init__()
        self.config, inputs = config, config.shape.inputs
        self.linear = nn.Linear(inputs, 1)
        self.layers = mlp(inputs, config.hidden, config.dropout)
        self.out = nn.Linear((inputs, *config.hidden)[-1], 1, bias=False)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        total, squares = inputs.fields.sum(dim=1), inputs.fields.square().sum(dim=1)  # [B, k]
        pairs = 0.5 * (total.square() - squares).sum(dim=1)
        return (self.linear(inputs.x) + self.out(self.layers(inputs.x))).squeeze(1) + pairs
