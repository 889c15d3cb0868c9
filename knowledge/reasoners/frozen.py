"""A frozen model and its tokenizer: token ids, hidden states of one layer, and what many texts begin with, read once.

Shapes: B texts of a batch, T tokens of the longest, H hidden width.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from core.digest import sha256_json
from core.errors import SettingsError
from core.log import logger
from knowledge.reasoners.linear import use_onednn
from knowledge.reasoners.loading import load, model_digest
from knowledge.reasoners.packing import Pack, pack, packed_attention

LOG = logger("knowledge")
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


class FrozenModel:
    """What reading and writing share; see `TransformersReasoner` for the arguments.

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
        packed: bool | None = None,
    ) -> None:
        self._name, self._revision = str(model), revision
        self._layer, self._dtype = layer, dtype
        self.pooling, self.max_tokens = pooling, max_tokens
        self.tokenizer, self.model, self._inner = load(
            self._name, revision, getattr(torch, dtype), layer, generates, device
        )
        use_onednn(self.model)
        # Of a model with a head, the body; otherwise the model itself.
        self._body = self.model.base_model if generates else self.model
        self.device = self.model.device
        self.batch_tokens = min(batch_tokens, _CPU_TOKENS) if self.device.type == "cpu" else batch_tokens
        self._packed = packed
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

    @functools.cached_property
    def packs(self) -> bool:
        """Whether texts are packed: on CUDA, where a try shows that this model's attention can do it."""
        wanted = self.device.type == "cuda" if self._packed is None else self._packed
        if not wanted:
            return False
        rows = [[5, 6, 7, 8], [9, 5, 6]]
        try:
            with torch.inference_mode():
                found = self.packed_states(pack(rows, self.causal, self.device))[0].split([4, 3])
                alone = [self.states(torch.tensor([row], device=self.device))[0] for row in rows]
            # Kernels differ in rounding; attending to the other text, or positions that are off, differ in all digits.
            scale = max(float(one.float().std()) for one in alone)
            same = all(float((a - b).abs().max()) <= 0.1 * scale for a, b in zip(found, alone, strict=True))
            why = "its packed states differ"
        except (RuntimeError, TypeError, ValueError, ImportError) as error:
            same, why = False, str(error).strip().splitlines()[0]
        if not same:
            LOG.info("%s is read in padded batches, not packed: %s", self._name, why)
        return same

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

    def packed_states(self, texts: Pack) -> torch.Tensor:
        """Hidden states of the layer asked for, [1, T, H], T tokens of all texts together."""
        extra: dict[str, Any] = {"use_cache": False} if hasattr(self.model.config, "use_cache") else {}
        with self.listening() as heard, packed_attention(self._body):
            self._body(input_ids=texts.ids, position_ids=texts.positions, pack=texts, **extra)
        return heard[-1]

    @contextmanager
    def listening(self) -> Iterator[list[torch.Tensor]]:
        """Collects the states [B, T, H] of every pass through the layer asked for."""
        kept: list[torch.Tensor] = []

        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            if self._inner is None:
                found = output.last_hidden_state
            else:
                found = output[0] if isinstance(output, tuple) else output
            kept.append(found.to(self.device))  # a spread model's layers lie on several

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
