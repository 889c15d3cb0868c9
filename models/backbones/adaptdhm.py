"""AdaptDHM: rows go to clusters that are found in the data, not given; each cluster has its star-factorised network.

Routing: r_k = softmax over clusters of x . c_k; in training, a few times per step, c_k <- norm(beta c_k + (1 - beta)
norm(sum over rows of r_k x)), without gradient; a row belongs to its most similar cluster, and z is that cluster's star
network of x (`StarLinear`, biases included). Centres are buffers: saved with the weights, and left alone in evaluation,
so that a score does not depend on its batch. The scenario is seen through its embedding in x alone.

Read from public re-implementations, since the paper's equations were not at hand; the weighted sum is normalised
before it enters the moving average, as beta would mean nothing beside a sum over thousands of rows. Source: Li et al.,
arXiv 2211.12105 (as ADL: SIGIR 2023); sizes: Scenario-Wise-Rec.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import Groups, StarLinear
from models.dropout import relu_dropout


@dataclass(frozen=True)
class AdaptDHMConfig:
    """Number of clusters, how their centres move, and widths of the star layers."""

    shape: Shape
    clusters: Count = 3
    iterations: Count = 3
    beta: Share = 0.9
    hidden: Widths = (64, 64)
    dropout: Share = 0.1


class AdaptDHM(nn.Module):
    """A star network per cluster of rows.

    Args:
        config: the widths.
    """

    centre: Tensor

    def __init__(self, config: AdaptDHMConfig) -> None:
        super().__init__()
        self.config, inputs = config, config.shape.inputs
        self.register_buffer("centre", functional.normalize(torch.randn(config.clusters, inputs), dim=1))
        widths = [inputs, *config.hidden, 1]
        self.layers = nn.ModuleList([StarLinear(config.clusters, i, o) for i, o in pairwise(widths)])

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(self.route(inputs.x), self.config.clusters)
        hidden = groups.gather(inputs.x)
        for layer in self.layers[:-1]:
            hidden = relu_dropout(layer(hidden, groups), self.config.dropout, self.training)
        return groups.restore(self.layers[-1](hidden, groups).squeeze(1))

    @torch.no_grad()
    def route(self, x: Tensor) -> Tensor:
        """[B, D] -> each row's cluster, int64 [B]; in training the centres move towards the rows first."""
        beta = self.config.beta
        for _ in range(self.config.iterations if self.training else 0):
            found = functional.normalize(torch.softmax(x @ self.centre.T, dim=1).T @ x, dim=1)
            self.centre.copy_(functional.normalize(beta * self.centre + (1 - beta) * found, dim=1))
        return (x @ self.centre.T).argmax(dim=1)
