"""What a knowledge run will cost before it runs: texts, tokens, floating-point operations, hours and money.

A text of L tokens through n layers with N linear parameters and attention width q costs L (2 N + 2 L q n) operations
where attention is causal (each token reads half of the others on average), L (2 N + 4 L q n) where it is not; embeddings
are free, and there is no output head. Layers above the one that is pooled are not run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from core.errors import SettingsError
from core.settings import KnowledgeSettings


@dataclass(frozen=True)
class Shape:
    """A model as far as its cost goes: linear parameters of all layers, layers, query heads times their width."""

    linear: float
    layers: int
    attention: int
    causal: bool = True

    def flops(self, lengths: np.ndarray, share: float = 1.0) -> float:
        """Operations to read texts of these lengths through this share of the layers."""
        long = np.asarray(lengths, dtype=np.float64)
        pairs = (2 if self.causal else 4) * long * self.attention * self.layers
        return float((long * (2 * self.linear + pairs)).sum() * share)


@dataclass(frozen=True)
class Device:
    """A device's matrix-product limit in bf16, operations per second, and its memory's bytes per second."""

    flops: float
    bandwidth: float


# Limits as measured or published for bf16; `share` in `cost` says how much of them a run is expected to reach.
DEVICES: Mapping[str, Device] = {
    "h200": Device(790e12, 4.8e12),
    "h100": Device(790e12, 3.35e12),
    "a100": Device(280e12, 2.0e12),
    "l4": Device(100e12, 0.3e12),
}
SHAPES: Mapping[str, Shape] = {
    "minilm": Shape(10.6e6, 6, 384, causal=False),
    "qwen3-0.6b": Shape(0.44e9, 28, 2048),
    "qwen2.5-1.5b": Shape(1.31e9, 28, 1536),
    "qwen3-4b": Shape(3.63e9, 36, 4096),
    "chatglm2-6b": Shape(5.71e9, 28, 4096),
    "qwen2.5-7b": Shape(6.53e9, 28, 3584),
    "llama-3.1-8b": Shape(6.98e9, 32, 4096),
    "qwen3-8b": Shape(6.95e9, 36, 4096),
}
_DECODE_BATCH, _WEIGHT_BYTES = 64, 2


@dataclass(frozen=True)
class Texts:
    """What a run has to read: how many texts of a kind, and the token counts of a sample of them."""

    kind: str
    count: int
    sample: np.ndarray
    new: float = 1.0

    @property
    def tokens(self) -> float:
        """Expected tokens of those that are not in the cache."""
        return float(self.sample.mean()) * self.count * self.new if len(self.sample) else 0.0


@dataclass(frozen=True)
class Cost:
    """One line of a plan."""

    kind: str
    texts: int
    new_share: float
    tokens: int
    flops: float
    hours: float
    money: float | None

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def cost(
    texts: Sequence[Texts],
    shape: Shape,
    device: Device,
    *,
    share: float = 0.6,
    layers: float = 1.0,
    answer: int = 0,
    price: float | None = None,
) -> list[Cost]:
    """The cost of each kind of text.

    Args:
        texts: what there is to read.
        shape: of the model.
        device: what it runs on.
        share: of the device's limit that the run is expected to reach.
        layers: share of the layers that are run.
        answer: tokens generated per user prompt; 0: prefill only.
        price: per device hour, in any currency.
    """
    found = []
    for kind in texts:
        scale = kind.count * kind.new / max(1, len(kind.sample))
        flops = shape.flops(kind.sample, layers) * scale
        seconds = flops / (device.flops * share)
        tokens = kind.tokens
        if answer and kind.kind == "prompt":
            written = kind.count * kind.new * answer
            # A step reads all weights once for its batch, or computes: what takes longer.
            step = max(_WEIGHT_BYTES * shape.linear / device.bandwidth / _DECODE_BATCH, 2 * shape.linear / device.flops)
            flops, seconds = flops + written * 2 * shape.linear, seconds + written * step / share
            tokens += written
        money = None if price is None else seconds / 3600 * price
        found.append(Cost(kind.kind, kind.count, kind.new, round(tokens), flops, seconds / 3600, money))
    return found


def shape_of(name: str) -> Shape:
    """A known model's shape, or one read from a local folder's config (weights are not read).

    Raises:
        SettingsError: the name is neither.
    """
    if name.lower() in SHAPES:
        return SHAPES[name.lower()]
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"--model {name!r} is neither a folder with a config.json nor one of {', '.join(SHAPES)}"
        ) from error
    return shape_from_config(config)


def shape_from_config(config: Any) -> Shape:
    """Count the linear parameters of an architecture without making its weights."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    causal = not type(model).__name__.startswith(("Bert", "Roberta", "XLMRoberta", "MPNet", "DistilBert", "ModernBert"))
    return Shape(float(linear), int(config.num_hidden_layers), heads * width, causal)


def matrix_rate(device: str, dtype: str, seconds: float = 1.0) -> float:
    """The device's matrix-product rate as it is now, operations per second."""
    import torch

    size = 2048 if torch.device(device).type == "cpu" else 8192
    left = torch.ones((size, size), dtype=getattr(torch, dtype), device=device)
    with torch.inference_mode():
        _ = left @ left
        runs, begin = 0, time.perf_counter()
        while not runs or time.perf_counter() - begin < seconds:
            product = left @ left
            runs += 1
            if product.is_cuda:
                torch.cuda.synchronize()
        return 2.0 * size**3 * runs / (time.perf_counter() - begin)


def layer_share(settings: KnowledgeSettings, layers: int) -> float:
    """Share of the layers that the settings run."""
    wanted = settings.layer if settings.layer >= 0 else layers + 1 + settings.layer
    return 1.0 if settings.generate is not None else wanted / layers
