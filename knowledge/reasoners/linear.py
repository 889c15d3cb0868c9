"""Linear layers of a frozen float32 model on a CPU, computed by oneDNN.

torch multiplies float32 matrices with MKL, which keeps to 256-bit instructions on CPUs that are not Intel's; oneDNN goes by what
the CPU can do. On an AMD EPYC with AVX-512 that was measured as 235 against 100 GFLOP/s of one core. Both
compute in float32; only the order of the sums differs.
"""

from __future__ import annotations

from typing import cast

import torch
from torch.nn import functional

# Below these, what a call costs outweighs what it gains.
_MIN_ROWS, _MIN_WIDTH = 16, 64


def available() -> bool:
    """Whether oneDNN is there and the CPU has what it does better."""
    return torch.backends.mkldnn.is_available() and torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def use_onednn(model: torch.nn.Module) -> None:
    """Let the model's wide float32 layers on the CPU be computed by oneDNN, in place; no weight is copied.

    The layers must need no gradient: oneDNN's operator has none.
    """
    if not available():
        return
    for module in model.modules():
        if type(module) is torch.nn.Linear and _fits(module.weight):
            module.__class__ = _OneDnnLinear


def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`left @ right.T` by the way that `use_onednn` would choose; [n, k] and [m, k] give [n, m]."""
    if available() and _fits(right) and not left.requires_grad:
        return _linear(left, right, None)
    return functional.linear(left, right)


class _OneDnnLinear(torch.nn.Linear):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if input.dtype != torch.float32 or input.numel() < _MIN_ROWS * self.in_features:
            return super().forward(input)
        return _linear(input, self.weight, self.bias)


def _fits(weight: torch.Tensor) -> bool:
    plain = weight.dtype == torch.float32 and weight.device.type == "cpu" and not weight.requires_grad
    return plain and min(weight.shape) >= _MIN_WIDTH


def _linear(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return cast(torch.Tensor, torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], ""))
