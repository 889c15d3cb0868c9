"""What a knowledge run will cost before it runs: texts, tokens, floating-point operations, hours and money.

A text of L tokens through n layers with N linear parameters and attention width q costs L (2 N + 2 L q n) operations
where attention is causal (each token reads half of the others on average), L (2 N + 4 L q n) where it is not; embeddings
are free, and there is no output head. Layers above the one that is pooled are not run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from core.errors import SettingsError
from core.settings import KnowledgeSettings


@dataclass(frozen=True)
class Architecture:
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
ARCHITECTURES: Mapping[str, Architecture] = {
    "minilm": Architecture(10.6e6, 6, 384, causal=False),
    "qwen3-0.6b": Architecture(0.44e9, 28, 2048),
    "qwen2.5-1.5b": Architecture(1.31e9, 28, 1536),
    "qwen3-4b": Architecture(3.63e9, 36, 4096),
    "chatglm2-6b": Architecture(5.71e9, 28, 4096),
    "qwen2.5-7b": Architecture(6.53e9, 28, 3584),
    "llama-3.1-8b": Architecture(6.98e9, 32, 4096),
    "qwen3-8b": Architecture(6.95e9, 36, 4096),
}
_DECODE_BATCH, _WEIGHT_BYTES = 64, 2


@dataclass(frozen=True)
class Texts:
    """What a run has to read: how many texts of a kind, the token counts of a sample, the shares that are new and cut,
    what else is left out, in words, and whether they are users' prompts, which may be answered.
    """

    kind: str
    count: int
    sample: np.ndarray
    new: float = 1.0
    cut: float = 0.0
    note: str = ""
    prompted: bool = False

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
    cut: float = 0.0
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        return asdict(self)


def cost(
    texts: Sequence[Texts],
    architecture: Architecture,
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
        architecture: of the model.
        device: what it runs on.
        share: of the device's limit that the run is expected to reach.
        layers: share of the layers that are run.
        answer: tokens generated per user prompt; 0: prefill only.
        price: per device hour, in any currency.
    """
    found = []
    for kind in texts:
        scale = kind.count * kind.new / max(1, len(kind.sample))
        flops = architecture.flops(kind.sample, layers) * scale
        seconds = flops / (device.flops * share)
        tokens = kind.tokens
        if answer and kind.prompted:
            written = kind.count * kind.new * answer
            # A step reads all weights once for its batch, or computes: what takes longer.
            step = max(
                _WEIGHT_BYTES * architecture.linear / device.bandwidth / _DECODE_BATCH,
                2 * architecture.linear / device.flops,
            )
            flops, seconds = flops + written * 2 * architecture.linear, seconds + written * step / share
            tokens += written
        money = None if price is None else seconds / 3600 * price
        found.append(
            Cost(kind.kind, kind.count, kind.new, round(tokens), flops, seconds / 3600, money, kind.cut, kind.note)
        )
    return found


def architecture_of(name: str) -> Architecture:
    """A known model's architecture, or one read from a local folder's config (weights are not read).

    Only a name with a slash, as hubs have them, is looked up outside this machine: tries without a network take long.

    Raises:
        SettingsError: the name is neither.
    """
    if name.lower() in ARCHITECTURES:
        return ARCHITECTURES[name.lower()]
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(name, local_files_only="/" not in name)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"--model {name!r} is neither a folder with a config.json nor one of {', '.join(ARCHITECTURES)}"
        ) from error
    return architecture_from_config(config)


def architecture_from_config(config: Any) -> Architecture:
    """Count the linear parameters of an architecture without making its weights."""
    import torch
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    heads = int(config.num_attention_heads)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
    causal = not type(model).__name__.startswith(("Bert", "Roberta", "XLMRoberta", "MPNet", "DistilBert", "ModernBert"))
    return Architecture(float(linear), int(config.num_hidden_layers), heads * width, causal)


def matrix_rate(device: str, dtype: str, seconds: float = 1.0) -> float:
    """The device's matrix-product rate as it is now, operations per second: of torch's product or of oneDNN's, the faster."""
    import torch

    from knowledge.reasoners.linear import product

    size = 2048 if torch.device(device).type == "cpu" else 8192
    # Random numbers: with equal ones a GPU needs less power and is faster than it will ever be.
    left, right = (torch.randn((size, size), device=device).to(getattr(torch, dtype)) for _ in range(2))
    ways = [torch.nn.functional.linear, *([product] if left.device.type == "cpu" else [])]
    with torch.inference_mode():
        return max(_rate(lambda way=way: way(left, right), 2.0 * size**3, seconds / len(ways)) for way in ways)  # type: ignore[misc]


def _rate(work: Callable[[], Any], operations: float, seconds: float) -> float:
    import torch

    runs, begin = 0, 0.0
    while runs < 2 or time.perf_counter() - begin < seconds:
        begin = time.perf_counter() if runs == 1 else begin  # the first warms up
        runs += 1
        if work().is_cuda:
            torch.cuda.synchronize()
    return operations * (runs - 1) / (time.perf_counter() - begin)


@dataclass(frozen=True)
class ShortRun:
    """A short run on this machine, and how well its first half foretells its second.

    Attributes:
        texts: read in both halves.
        tokens: of both halves.
        seconds: both halves took.
        tflops: this machine's matrix-product rate.
        formula_seconds: what the formula says at that rate.
        share: of the rate that was reached.
        factor: seconds foretold for the second half, at the first one's share, over what it took.
    """

    texts: int
    tokens: int
    seconds: float
    tflops: float
    formula_seconds: float
    share: float
    factor: float


def short_run(reasoner: Any, texts: Sequence[str], architecture: Architecture, rate: float) -> ShortRun:
    """Read some texts and compare with the formula.

    Args:
        reasoner: what reads them.
        texts: at least two; every other one is in the second half.
        architecture: of the reasoner's model.
        rate: the machine's matrix-product rate, operations per second.
    """
    halves = [texts[::2], texts[1::2]]
    lengths = [np.minimum(reasoner.tokens(half), reasoner.max_tokens) for half in halves]
    reasoner.encode(halves[0][:2])
    formula, taken = [architecture.flops(long) / rate for long in lengths], []
    for half in halves:
        begin = time.perf_counter()
        reasoner.encode(half)
        taken.append(time.perf_counter() - begin)
    both, seconds = sum(formula), sum(taken)
    tokens = sum(int(long.sum()) for long in lengths)
    factor = formula[1] * taken[0] / formula[0] / taken[1]
    return ShortRun(len(texts), tokens, seconds, rate / 1e12, both, min(1.0, both / seconds), factor)


def layer_share(settings: KnowledgeSettings, layers: int) -> float:
    """Share of the layers that the settings run."""
    wanted = settings.layer if settings.layer >= 0 else layers + 1 + settings.layer
    return 1.0 if settings.generate is not None else wanted / layers
