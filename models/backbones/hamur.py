"""HAMUR: each scenario's MLP carries an adapter whose core is generated for every row.

H = HyperNet(x), k x k, shared by all scenarios. h = MLP_s(x); adapter: a = sigmoid(h U_1 H V_1 + b_1), o = a U_2 H V_2
+ b_2, h <- h + DomainNorm_s(o); z = Linear_s(h). DomainNorm is `PartitionedNorm`: statistics of the scenario's own
rows, running ones in evaluation. The hyper network ends linearly, so that cores may be negative.

Source: Li et al., CIKM 2023, arXiv 2309.06217, and its authors' code (two-layer form); sizes: Scenario-Wise-Rec.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from models.backbones.inputs import Count, Inputs, Shape, Share, Widths
from models.backbones.layers import Groups, PartitionedNorm, ScenarioLinear, mlp
from models.dropout import relu_dropout


@dataclass(frozen=True)
class HAMURConfig:
    """Widths of each scenario's MLP, of the hyper network and of the adapter; k, the size of the generated core."""

    shape: Shape
    hidden: Widths = (256, 128)
    hyper: Widths = (64,)
    k: Count = 35
    adapter: Count = 32
    dropout: Share = 0.1


class HAMUR(nn.Module):
    """An MLP per scenario with a generated adapter before its last layer.

    Args:
        config: the widths.
    """

    def __init__(self, config: HAMURConfig) -> None:
        super().__init__()
        self.config, shape, k = config, config.shape, config.k
        widths = [shape.inputs, *config.hidden]
        self.layers = nn.ModuleList([ScenarioLinear(shape.scenarios, i, o) for i, o in pairwise(widths)])
        self.hyper = mlp(shape.inputs, config.hyper, 0.0)
        self.core = nn.Linear((shape.inputs, *config.hyper)[-1], k * k)
        self.down, self.up = Cell(widths[-1], config.adapter, k), Cell(config.adapter, widths[-1], k)
        self.norm = PartitionedNorm(shape.scenarios, widths[-1])
        self.out = ScenarioLinear(shape.scenarios, widths[-1], 1)

    def forward(self, inputs: Inputs) -> Tensor:
        """B rows -> logits [B]."""
        groups = Groups(inputs.scenario, self.config.shape.scenarios)
        hidden = groups.gather(inputs.x)
        core = self.core(self.hyper(hidden)).unflatten(1, (self.config.k, self.config.k))  # [B, k, k]
        for layer in self.layers:
            hidden = relu_dropout(layer(hidden, groups), self.config.dropout, self.training)
        adapted = self.up(torch.sigmoid(self.down(hidden, core)), core)
        hidden = hidden + self.norm(adapted, groups)
        return groups.restore(self.out(hidden, groups).squeeze(1))


class Cell(nn.Module):
    """x U H V + b with a core H per row.

    Args:
        inputs: width in.
        outputs: width out.
        k: size of the core.
    """

    def __init__(self, inputs: int, outputs: int, k: int) -> None:
        super().__init__()
        self.u = nn.Parameter(torch.randn(inputs, k) / math.sqrt(inputs))
        self.v = nn.Parameter(torch.randn(k, outputs) / math.sqrt(k))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, core: Tensor) -> Tensor:
        """[B, in], [B, k, k] -> [B, out]."""
        small = ((x @ self.u).unsqueeze(2) * core).sum(dim=1)  # On a CPU half the time of a batched product.
        return torch.addmm(self.bias, small, self.v)
