"""Operations for the places where PyTorch's own cost shows in the time of a step, or of a ranking, on a CPU.

Matrix products run at full speed only if rows start on a 32-byte border, so widths are padded to a multiple of 8 inside
and cut off again; results are those of the plain expressions up to the order of sums. B rows, D inputs, K maps.
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

ALIGN = 8
# Fewer rows are multiplied sooner than oneDNN has laid out the weights.
MANY_ROWS = 512


class Linear(nn.Linear):
    """`nn.Linear` with a faster backward pass for inputs whose width is no multiple of 8; the same weights.

    Example:
        >>> import torch
        >>> Linear(119, 16)(torch.zeros(3, 119)).shape
        torch.Size([3, 16])
    """

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if x.dim() == 2 and torch.is_grad_enabled() and x.device.type == "cpu" and x.shape[1] % ALIGN:
            out: Tensor = _Linear.apply(x, self.weight, self.bias)
            return out
        if isinstance(x, Tensor) and x.dim() == 2 and not torch.is_grad_enabled():
            return multiply(x, self.weight.t(), self.bias)
        return super().forward(x)


def multiply(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`x W + b` without a gradient, by oneDNN for many rows on a CPU on which it is the faster one.

    torch multiplies float32 matrices with MKL, which on CPUs that are not Intel's keeps to narrow instructions.

    Args:
        x: float32 [B, in].
        weight: [in, out].
        bias: [out].
    """
    if len(x) < MANY_ROWS or x.device.type != "cpu" or not _has_onednn():
        return torch.addmm(bias, x, weight)
    return cast(Tensor, torch.ops.mkldnn._linear_pointwise(x, weight.t(), bias, "none", [], ""))


def masked_relu(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    """Compute relu(x) * mask and keep only the result for the backward pass.

    Args:
        x: any shape.
        mask: the same shape, of zeros and `scale`.
        scale: the one number in the mask beside 0.
    """
    out: Tensor = _MaskedRelu.apply(x, mask, scale)
    return out


def add_mixed_maps(x: Tensor, shift: Tensor, mix: Tensor, basis: Tensor) -> Tensor:
    """Apply a linear map of its own to each row: x + shift + sum over k of mix_k (x B_k).

    One product per map, summed while it is in the cache: no [B, K D] is ever stored, and the backward pass reads
    d mix_k = x . (B_k dy) from the product that dx needs anyway.

    Args:
        x: [B, D].
        shift: [B, D].
        mix: [B, K].
        basis: [D, K * D], B_k in columns k * D to (k + 1) * D.

    Returns:
        [B, D], possibly with a row stride above D.
    """
    out: Tensor = _AddMixedMaps.apply(x, shift, mix, basis)
    return out


@cache
def _has_onednn() -> bool:
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.bias = bias is not None
        return functional.linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        width = x.shape[1]
        dx = (grad @ _padded(weight))[:, :width] if ctx.needs_input_grad[0] else None
        return dx, (x.t() @ grad).t(), grad.sum(dim=0) if ctx.bias else None


class _MaskedRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        out = torch.relu(x).mul_(mask)
        ctx.save_for_backward(out)
        ctx.scale = scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (out,) = ctx.saved_tensors
        return torch.ops.aten.threshold_backward(grad, out, 0).mul_(ctx.scale), None, None


class _AddMixedMaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Tensor, mix: Tensor, basis: Tensor) -> Tensor:
        width, count = x.shape[1], mix.shape[1]
        maps = basis.view(width, count, width).transpose(0, 1)
        extra = -width % ALIGN
        maps = functional.pad(maps, (0, extra, 0, extra)).contiguous()  # [K, P, P]
        x, out = _padded(x), _padded(x + shift)  # [B, P]
        product = torch.empty_like(out)
        for k in range(count):
            torch.mm(x, maps[k], out=product)
            out.addcmul_(product, mix[:, k : k + 1])
        ctx.save_for_backward(x, mix, maps)
        ctx.width = width
        return out[:, :width]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        x, mix, maps = ctx.saved_tensors
        width, count = ctx.width, mix.shape[1]
        own = _padded(grad)
        dx, dmix, dmaps = own.clone(), torch.empty_like(mix), torch.empty_like(maps)
        back, product = torch.empty_like(x), torch.empty_like(x)
        for k in range(count):
            weight = mix[:, k : k + 1]
            torch.mm(own, maps[k].t(), out=back)
            dmix[:, k] = torch.mul(x, back, out=product).sum(dim=1)
            dx.addcmul_(back, weight)
            torch.mm(torch.mul(x, weight, out=product).t(), own, out=dmaps[k])
        dbasis = dmaps[:, :width, :width].transpose(0, 1).reshape(width, count * width)
        return dx[:, :width], grad, dmix, dbasis


def _padded(x: Tensor) -> Tensor:
    """[n, D] -> [n, P] with P the next multiple of 8, zeros in the new columns."""
    extra = -x.shape[1] % ALIGN
    return functional.pad(x, (0, extra)) if extra else x.contiguous()
