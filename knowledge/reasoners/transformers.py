"""Any causal language model or encoder that transformers can load: frozen, prefill only.

Texts are sorted by length and cut into batches of at most `batch_tokens` tokens, padding counted, padded on the
right. Tokens that all texts begin with are read once, where the model is causal. Shapes: B texts of a batch, T tokens of
the longest, H hidden width.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from core.digest import sha256_json
from core.errors import SettingsError
from knowledge.reasoners.base import Progress, to_half
from knowledge.reasoners.local import load, model_digest

if TYPE_CHECKING:
    from knowledge.reasoners.generation import Answering

Pooling = Literal["mean", "last"]
_CPU_TOKENS = 1024
# A shorter common beginning is not worth a pass of its own.
_MIN_PREFIX = 16


@dataclass(frozen=True)
class Prefix:
    """What all texts of an encoding begin with: its length, keys and values, and the sum of its states [H]."""

    length: int
    cache: Any
    total: torch.Tensor

    def repeated(self, rows: int) -> Any:
        """The keys and values for a batch."""
        cache = copy.deepcopy(self.cache)
        cache.batch_repeat_interleave(rows)
        return cache


class TransformersReasoner:
    """Hidden states of a frozen model, pooled over the tokens of the prompt.

    Args:
        model: a folder, or a name in the local model cache or on a hub.
        revision: commit of a named model.
        layer: which hidden layer to pool: 1..n, or -1 (last, after the final norm) to -n. Layers above are not run.
        pooling: `mean` over the prompt's tokens, or its `last` token.
        dtype: `float32`, `bfloat16` or `float16`; pooling is always in float32.
        max_tokens: longer texts lose their end.
        batch_tokens: tokens per forward pass, padding counted; a CPU is given 1024 at the most (larger batches leave
            its caches and were measured to be slower).
        device: a torch device, or `auto` to spread a large model's layers.
        generates: load the model so that it can write (`answering`).

    Raises:
        SettingsError: the model cannot be loaded, or lacks the layer or the length that is asked for.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        revision: str | None = None,
        layer: int = -1,
        pooling: Pooling = "mean",
        dtype: str = "float32",
        max_tokens: int = 256,
        batch_tokens: int = 8192,
        device: str = "cpu",
        generates: bool = False,
    ) -> None:
        self._name, self._revision = str(model), revision
        self._layer, self._dtype = layer, dtype
        self.pooling, self.max_tokens = pooling, max_tokens
        self.tokenizer, self.model, self._inner = load(
            self._name, revision, getattr(torch, dtype), layer, generates, device
        )
        # Of a model with a head, the body; otherwise the model itself.
        self._body = self.model.base_model if generates else self.model
        self.device = self.model.device
        self.batch_tokens = min(batch_tokens, _CPU_TOKENS) if self.device.type == "cpu" else batch_tokens
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if positions is not None and max_tokens > positions:
            raise SettingsError(f"knowledge.max_tokens is {max_tokens}, but {self._name} reads {positions} at the most")

    @functools.cached_property
    def identity(self) -> str:
        """Hash of model, revision, layer, pooling, dtype and longest prompt; of a folder's files, not of its path."""
        return sha256_json(
            {
                "model": model_digest(self._name, self.model.config),
                "revision": self._revision,
                "layer": self._layer,
                "pooling": self.pooling,
                "dtype": self._dtype,
                "max_tokens": self.max_tokens,
            }
        )[:16]

    @property
    def dim(self) -> int:
        """Hidden width of the model."""
        return int(self.model.config.hidden_size)

    @functools.cached_property
    def causal(self) -> bool:
        """Whether a token's state depends on those before it only, found by trying."""
        with torch.inference_mode():
            first, second = (
                self.states(torch.tensor([ids], device=self.device))[0, :2] for ids in ([5, 6, 7], [5, 6, 8])
            )
        return bool(torch.allclose(first, second, rtol=1e-3, atol=1e-5))

    def answering(self, max_new_tokens: int, chat: bool) -> Answering:
        """The same model, writing an answer to each text and pooling the states it was written from.

        Raises:
            SettingsError: it reads but does not write.
        """
        from knowledge.reasoners.generation import Answering

        if not self.causal:
            raise SettingsError(f"knowledge.generate: {self._name} is an encoder and writes nothing; unset it")
        return Answering(self, max_new_tokens, chat)

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text with the model's special tokens, before any cut, int64 [n]."""
        return np.fromiter((len(ids) for ids in self.tokenize(texts, cut=False)), dtype=np.int64, count=len(texts))

    def encode(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """Pooled hidden states of the texts in their order, float16 [n, dim]."""
        return to_half(self.pooled(texts, progress))

    def pooled(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """The same before rounding, float32 [n, dim]."""
        ids = self.tokenize(texts, cut=True)
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            prefix = self.shared_prefix(ids)
            skip = prefix.length if prefix else 0
            for batch in progress(batches([len(row) - skip for row in ids], self.batch_tokens)):
                out[batch] = self._forward([ids[i][skip:] for i in batch], prefix).cpu().numpy()
        return out

    def tokenize(self, texts: Sequence[str], cut: bool, **options: Any) -> list[list[int]]:
        """Token ids of each text; at least one token each."""
        if not len(texts):
            return []
        limit = {"truncation": True, "max_length": self.max_tokens} if cut else {"truncation": False}
        rows: list[list[int]] = self.tokenizer(list(texts), padding=False, verbose=False, **limit, **options)[
            "input_ids"
        ]
        return [row or [self.tokenizer.eos_token_id or 0] for row in rows]

    def shared_prefix(self, ids: Sequence[list[int]]) -> Prefix | None:
        """Read what all rows begin with, once; None where that is too short or the model is no causal one."""
        if len(ids) < 2:
            return None
        first, last = min(ids), max(ids)  # what these two share, all share
        most = min(min(len(row) for row in ids) - 1, len(first), len(last))
        length = next((i for i in range(most) if first[i] != last[i]), most)
        if length < _MIN_PREFIX or not self.causal:
            return None
        from transformers import DynamicCache

        cache = DynamicCache(config=self.model.config)
        states = self.states(torch.tensor([first[:length]], device=self.device), cache=cache)
        return Prefix(length, cache, states[0].float().sum(dim=0))

    def states(self, ids: torch.Tensor, mask: torch.Tensor | None = None, cache: Any = None) -> torch.Tensor:
        """Hidden states of the layer asked for, [B, T, H]; keys and values are added to `cache`."""
        extra: dict[str, Any] = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        if cache is not None:
            extra = {"use_cache": True, "past_key_values": cache}
        with self.listening() as heard:
            self._body(input_ids=ids, attention_mask=mask, **extra)
        return heard[-1]

    @contextmanager
    def listening(self) -> Iterator[list[torch.Tensor]]:
        """Collects the states [B, T, H] of every pass through the layer asked for."""
        kept: list[torch.Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            if self._inner is None:
                kept.append(output.last_hidden_state)
            else:
                kept.append(output[0] if isinstance(output, tuple) else output)

        hook = (self._body if self._inner is None else self._inner).register_forward_hook(keep)
        try:
            yield kept
        finally:
            hook.remove()

    def padded(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows padded on the right, int64 [B, T], and their lengths [B]."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.zeros((len(rows), int(lengths.max())), dtype=torch.long)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        return ids.to(self.device), lengths.to(self.device)

    def _forward(self, rows: Sequence[list[int]], prefix: Prefix | None = None) -> torch.Tensor:
        """Pooled states of one batch, float32 [B, H]."""
        ids, lengths = self.padded(rows)
        mask = torch.arange(ids.shape[1], device=self.device)[None, :] < lengths[:, None]  # [B, T]
        whole = None
        if not bool(mask.all()):  # without padding there is no mask to make or to apply
            before = mask.new_ones((len(rows), prefix.length if prefix else 0))
            whole = torch.cat([before, mask], dim=1).long()
        states = self.states(ids, whole, prefix.repeated(len(rows)) if prefix else None)  # [B, T, H]
        if self.pooling == "last":
            return states[torch.arange(len(rows), device=self.device), lengths - 1].float()
        total = states.float().sum(dim=1) if whole is None else torch.einsum("bth,bt->bh", states.float(), mask.float())
        if prefix is None:
            return total / lengths[:, None]
        return (total + prefix.total) / (lengths + prefix.length)[:, None]


def batches(lengths: Sequence[int], budget: int) -> list[np.ndarray]:
    """Cut texts into batches of similar length, the longest first.

    A batch ends where a length ends if it is at least half full there, so that most batches of short texts need no
    padding.

    Args:
        lengths: tokens of each text.
        budget: most tokens of a batch, padding counted; a single longer text is a batch of its own.

    Returns:
        Positions of each batch's texts; every text is in exactly one.
    """
    long = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-long, kind="stable")
    falling = -long[order]
    cut, start = [], 0
    while start < len(order):
        most = max(1, int(-falling[start]))
        stop = min(len(order), start + max(1, budget // most))
        for length in range(int(-falling[stop - 1]), most + 1) if stop < len(order) else ():
            end = int(np.searchsorted(falling, -length, side="right"))
            if end <= stop and 2 * (end - start) * most >= budget:
                stop = end
                break
        cut.append(order[start:stop])
        start = stop
    return cut
