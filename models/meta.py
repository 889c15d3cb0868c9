"""Meta networks: knowledge vectors become layers (LLM4MSR, section "hierarchical meta networks"; forms ours).

U codes (one per distinct user, or per scenario), B rows, r code width. A `MetaLayer` first *generates* what depends
on the code alone, once per distinct code, and then *applies* it to all rows. All forms start as the identity, and
`MetaTower` starts as zero, so that the first step is the backbone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.kernels import Linear, add_mixed_maps

Form = Literal["gate", "low_rank", "full"]
Generated = tuple[Tensor, ...]


class Neutral(nn.Module):
    """Replaces unknown vectors by a learned one.

    Args:
        dim: d.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.vector = nn.Parameter(torch.randn(dim).mul_(0.01))

    def forward(self, vectors: Tensor, known: Tensor) -> Tensor:
        """Vectors [U, d] and known [U, 1] -> [U, d]."""
        return vectors * known + (1 - known) * self.vector


class Bottleneck(nn.Module):
    """LayerNorm, Linear, SiLU: knowledge vectors to a code of width r.

    Args:
        dim: width of the vectors of all kinds together.
        width: r.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width), nn.SiLU())

    def forward(self, vectors: Sequence[Tensor]) -> Tensor:
        """Per kind [U, d] -> [U, r]."""
        return self.layers(vectors[0] if len(vectors) == 1 else torch.cat(list(vectors), dim=1))


class MetaLayer(nn.Module):
    """A layer d -> d whose weights and biases are generated; the identity at the start. Subclasses are its forms.

    Args:
        width: d.
        code: r.
    """

    def __init__(self, width: int, code: int) -> None:
        super().__init__()
        self.bias = zero_linear(code, width)

    def generate(self, code: Tensor) -> Generated:
        """[U, r] -> what the code alone decides, each [U, ...]."""
        raise NotImplementedError

    def apply_to(self, x: Tensor, generated: Generated, index: Tensor) -> Tensor:
        """Apply generated layers.

        Args:
            x: [B, d].
            generated: of U codes.
            index: int64 [B] into the codes; not read when U is 1.

        Returns:
            [B, d].
        """
        raise NotImplementedError

    def compose(self, generated: Generated, weight: Tensor) -> Tensor:
        """The generated map followed by a linear one, without the biases: one code, weight [d, n] -> [d, n]."""
        raise NotImplementedError

    def forward(self, x: Tensor, code: Tensor, index: Tensor) -> Tensor:
        """[B, d], [U, r], [B] -> [B, d]."""
        return self.apply_to(x, self.generate(code), index)


class GateLayer(MetaLayer):
    """x * 2 sigmoid(A g + a) + C g + c: a diagonal map (PEPNet's gate, with the code as its only input)."""

    def __init__(self, width: int, code: int) -> None:
        super().__init__(width, code)
        self.gate = zero_linear(code, width)

    def generate(self, code: Tensor) -> Generated:
        return 2 * torch.sigmoid(self.gate(code)), self.bias(code)

    def apply_to(self, x: Tensor, generated: Generated, index: Tensor) -> Tensor:
        scale, shift = generated
        return torch.addcmul(pick(shift, index), x, pick(scale, index))

    def compose(self, generated: Generated, weight: Tensor) -> Tensor:
        return generated[0].t() * weight


class LowRankLayer(MetaLayer):
    """x + ((x U) S_g) V + C g + c with a generated k x k core S_g and shared U, V (APG's form, as a residual).

    Args:
        width: d.
        code: r.
        rank: k.
    """

    def __init__(self, width: int, code: int, rank: int) -> None:
        super().__init__(width, code)
        self.rank = rank
        self.down = nn.Parameter(torch.randn(width, rank) / math.sqrt(width))
        self.up = nn.Parameter(torch.zeros(rank, width))
        self.core = nn.Linear(code, rank * rank)
        with torch.no_grad():
            self.core.bias.copy_(torch.eye(rank).flatten())

    def generate(self, code: Tensor) -> Generated:
        return self.core(code), self.bias(code)

    def apply_to(self, x: Tensor, generated: Generated, index: Tensor) -> Tensor:
        core, shift = generated
        small = x @ self.down  # [B, k]
        if len(core) == 1:
            small = small @ core.view(self.rank, self.rank)
        else:
            cores = core.index_select(0, index).view(-1, self.rank, self.rank)
            small = (small.unsqueeze(2) * cores).sum(dim=1)  # On a CPU less than half the time of a batched product.
        return torch.addmm(x, small, self.up) + pick(shift, index)

    def compose(self, generated: Generated, weight: Tensor) -> Tensor:
        core = generated[0].view(self.rank, self.rank)
        return torch.addmm(weight, self.down, core @ (self.up @ weight))


class FullLayer(MetaLayer):
    """x + x W_g + C g + c with W_g = sum over k of (A g + a)_k B_k, a d x d map over k shared basis maps B_k.

    For many codes the sum is taken after the products (no W per user is ever stored), for one code before them.

    Args:
        width: d.
        code: r.
        maps: k.
    """

    def __init__(self, width: int, code: int, maps: int) -> None:
        super().__init__(width, code)
        self.maps, self.width = maps, width
        self.mix = zero_linear(code, maps)
        self.basis = nn.Parameter(torch.randn(width, maps * width) / math.sqrt(width * maps))

    def generate(self, code: Tensor) -> Generated:
        mix, shift = self.mix(code), self.bias(code)
        if len(code) == 1:
            return (torch.einsum("k,ikj->ij", mix[0], self.basis.view(self.width, self.maps, self.width)), shift)
        return mix, shift

    def apply_to(self, x: Tensor, generated: Generated, index: Tensor) -> Tensor:
        weight, shift = generated
        if len(shift) == 1:
            return torch.addmm(x, x, weight) + shift
        return add_mixed_maps(x, shift.index_select(0, index), weight.index_select(0, index), self.basis)

    def compose(self, generated: Generated, weight: Tensor) -> Tensor:
        return torch.addmm(weight, generated[0], weight)


class MetaStack(nn.Module):
    """Generated layers one after another: x_1 = L_1(x), x_n = x_{n-1} + L_n(relu(x_{n-1})) - relu(x_{n-1}).

    Each term after the first is zero as long as its layer is the identity, so that the stack starts as the identity too.
    Without the relu, gates after gates would be one gate.

    Args:
        layers: at least one.
    """

    def __init__(self, layers: Sequence[MetaLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def generate(self, code: Tensor) -> Generated:
        """[U, r] -> what all layers generate, one after another."""
        return tuple(part for layer in self._layers() for part in layer.generate(code))

    def apply_to(self, x: Tensor, generated: Generated, index: Tensor) -> Tensor:
        """As `MetaLayer.apply_to`."""
        size = len(generated) // len(self.layers)
        first, *others = self._layers()
        x = first.apply_to(x, generated[:size], index)
        for number, layer in enumerate(others, start=1):
            hidden = torch.relu(x)
            x = x + layer.apply_to(hidden, generated[number * size : (number + 1) * size], index) - hidden
        return x

    def forward(self, x: Tensor, code: Tensor, index: Tensor) -> Tensor:
        """[B, d], [U, r], [B] -> [B, d]."""
        return self.apply_to(x, self.generate(code), index)

    def _layers(self) -> list[MetaLayer]:
        return [cast(MetaLayer, layer) for layer in self.layers]


def build_meta_layer(form: Form, width: int, code: int, size: int, depth: int = 1) -> MetaLayer | MetaStack:
    """The layer of a form, or several.

    Args:
        form: gate, low_rank or full.
        width: d.
        code: r.
        size: of the core (low_rank), number of basis maps (full).
        depth: number of layers.
    """
    layers = [_one_layer(form, width, code, size) for _ in range(depth)]
    return layers[0] if depth == 1 else MetaStack(layers)


def _one_layer(form: Form, width: int, code: int, size: int) -> MetaLayer:
    if form == "gate":
        return GateLayer(width, code)
    return (LowRankLayer if form == "low_rank" else FullLayer)(width, code, size)


class MetaTower(nn.Module):
    """The parallel branch: h = relu(x P), h' = relu(MetaLayer(h; g)), z = h' . w_g + b_g; zero at the start.

    Args:
        inputs: width of x.
        width: of h.
        code: r.
        form: of the meta layer.
        size: see `build_meta_layer`.
        depth: number of generated layers.
    """

    def __init__(self, inputs: int, width: int, code: int, form: Form, size: int, depth: int = 1) -> None:
        super().__init__()
        self.down = Linear(inputs, width)
        self.layer = build_meta_layer(form, width, code, size, depth)
        self.readout = zero_linear(code, width + 1)

    def generate(self, code: Tensor) -> Generated:
        """[Q, r] -> what the code alone decides, the readout last."""
        return *self.layer.generate(code), self.readout(code)

    def apply_to(self, x: Tensor, generated: Generated, index: Tensor) -> Tensor:
        """[B, inputs], of Q codes, [B] -> logits [B]."""
        over = not torch.is_grad_enabled()
        hidden = functional.relu(self.down(x), over)
        hidden = functional.relu(self.layer.apply_to(hidden, generated[:-1], index), over)
        readout = pick(generated[-1], index)
        if len(readout) == 1 and not torch.is_grad_enabled():
            return torch.addmv(readout[:, -1], hidden, readout[0, :-1])
        return (hidden * readout[:, :-1]).sum(dim=1) + readout[:, -1]

    def forward(self, x: Tensor, code: Tensor, index: Tensor) -> Tensor:
        """[B, inputs], [Q, r], [B] -> logits [B]."""
        return self.apply_to(x, self.generate(code), index)


def pick(generated: Tensor, index: Tensor) -> Tensor:
    """[U, n] -> [B, n]; [1, n] as it is, to be broadcast."""
    return generated if len(generated) == 1 else generated.index_select(0, index)


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts as zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
