"""Any causal language model or encoder that transformers can load: frozen, prefill only.

Texts are sorted by length and cut into batches of at most `batch_tokens` tokens, padding counted, padded on the
right. Shapes: B texts of a batch, T tokens of the longest, H hidden width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from core.digest import sha256_file, sha256_json
from core.errors import SettingsError
from knowledge.reasoners.base import Progress, to_half

Pooling = Literal["mean", "last"]
_CPU_TOKENS = 2048
_WEIGHTS = {".safetensors", ".bin", ".json", ".txt", ".model"}


class TransformersReasoner:
    """Hidden states of a frozen model, pooled over the tokens of the prompt.

    Args:
        model: a folder, or a name in the local model cache or on a hub.
        revision: commit of a named model.
        layer: which hidden layer to pool: 1..n, or -1 (last, after the final norm) to -n. Layers above are not run.
        pooling: `mean` over the prompt's tokens, or its `last` token.
        dtype: `float32`, `bfloat16` or `float16`; pooling is always in float32.
        max_tokens: longer texts lose their end.
        batch_tokens: tokens per forward pass, padding counted; a CPU is given 2048 at the most (larger batches leave
            its caches and were measured to be slower).
        device: a torch device.

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
    ) -> None:
        self._name, self._revision = str(model), revision
        self._layer, self._pooling, self._dtype = layer, pooling, dtype
        self._max_tokens = max_tokens
        self._device = torch.device(device)
        self._batch_tokens = min(batch_tokens, _CPU_TOKENS) if self._device.type == "cpu" else batch_tokens
        self._tokenizer, self._model = _load(self._name, revision, getattr(torch, dtype))
        config = self._model.config
        positions = getattr(config, "max_position_embeddings", None)
        if positions is not None and max_tokens > positions:
            raise SettingsError(f"knowledge.max_tokens is {max_tokens}, but {self._name} reads {positions} at the most")
        self._inner = _cut_layers(self._model, layer, self._name)
        self._model.to(self._device)

    @functools.cached_property
    def identity(self) -> str:
        """Hash of model, revision, layer, pooling, dtype and longest prompt; of a folder's files, not of its path."""
        return sha256_json(
            {
                "model": _model_digest(self._name, self._model.config),
                "revision": self._revision,
                "layer": self._layer,
                "pooling": self._pooling,
                "dtype": self._dtype,
                "max_tokens": self._max_tokens,
            }
        )[:16]

    @property
    def dim(self) -> int:
        """Hidden width of the model."""
        return int(self._model.config.hidden_size)

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each text with the model's special tokens, before any cut, int64 [n]."""
        return np.fromiter((len(ids) for ids in self._tokenize(texts, cut=False)), dtype=np.int64, count=len(texts))

    def encode(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """Pooled hidden states of the texts in their order, float16 [n, dim]."""
        return to_half(self.pooled(texts, progress))

    def pooled(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """The same before rounding, float32 [n, dim]."""
        ids = self._tokenize(texts, cut=True)
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        with torch.inference_mode():
            for batch in progress(batches([len(row) for row in ids], self._batch_tokens)):
                out[batch] = self._forward([ids[i] for i in batch]).cpu().numpy()
        return out

    def _tokenize(self, texts: Sequence[str], cut: bool) -> list[list[int]]:
        if not len(texts):
            return []
        limit = {"truncation": True, "max_length": self._max_tokens} if cut else {"truncation": False}
        rows: list[list[int]] = self._tokenizer(list(texts), padding=False, verbose=False, **limit)["input_ids"]
        return [row or [self._tokenizer.eos_token_id or 0] for row in rows]

    def _forward(self, rows: list[list[int]]) -> torch.Tensor:
        """Pooled states of one batch, float32 [B, H]."""
        lengths = torch.tensor([len(row) for row in rows])
        ids = torch.zeros((len(rows), int(lengths.max())), dtype=torch.long)  # [B, T]
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        lengths, ids = lengths.to(self._device), ids.to(self._device)
        mask = torch.arange(ids.shape[1], device=self._device)[None, :] < lengths[:, None]  # [B, T]
        states = self._states(ids, None if bool(mask.all()) else mask.long())  # [B, T, H]
        if self._pooling == "last":
            return states[torch.arange(len(rows), device=self._device), lengths - 1].float()
        total = torch.einsum("bth,bt->bh", states.float(), mask.float())
        return total / lengths[:, None]

    def _states(self, ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        extra = {"use_cache": False} if hasattr(self._model.config, "use_cache") else {}
        if self._inner is None:
            return self._model(input_ids=ids, attention_mask=mask, **extra).last_hidden_state
        kept: list[torch.Tensor] = []
        hook = self._inner.register_forward_hook(
            lambda _module, _inputs, output: kept.append(output[0] if isinstance(output, tuple) else output)
        )
        try:
            self._model(input_ids=ids, attention_mask=mask, **extra)
        finally:
            hook.remove()
        return kept[0]


def batches(lengths: Sequence[int], budget: int) -> list[np.ndarray]:
    """Cut texts into batches of similar length, the longest first.

    Args:
        lengths: tokens of each text.
        budget: most tokens of a batch, padding counted; a single longer text is a batch of its own.

    Returns:
        Positions of each batch's texts; every text is in exactly one.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    cut, start = [], 0
    while start < len(order):
        rows = max(1, budget // max(1, int(lengths[order[start]])))
        cut.append(order[start : start + rows])
        start += rows
    return cut


def _load(name: str, revision: str | None, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = AutoModel.from_pretrained(name, revision=revision, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(
            f"knowledge.model {name!r} cannot be loaded: {first}; give a folder with config, weights and tokenizer"
        ) from error
    if getattr(model.config, "is_encoder_decoder", False):
        raise SettingsError(f"knowledge.model {name!r} is an encoder-decoder; use a causal model or an encoder")
    # A title that spells "<|im_end|>" or "[SEP]" must not become that token.
    tokenizer.split_special_tokens = True
    return tokenizer, model.eval().requires_grad_(False)


def _cut_layers(model: Any, layer: int, name: str) -> torch.nn.Module | None:
    """Drop the layers above `layer`; returns the one to listen to, None for the model's own last state."""
    count = int(model.config.num_hidden_layers)
    wanted = layer if layer >= 0 else count + 1 + layer
    if not 1 <= wanted <= count:
        raise SettingsError(f"knowledge.layer is {layer}; {name} has layers 1 to {count} (or -1 to -{count})")
    if wanted == count:
        return None
    stacks = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == count]
    if not stacks:
        raise SettingsError(f"knowledge.layer: the layers of {name} were not found; use -1")
    del stacks[0][wanted:]
    return stacks[0][wanted - 1]


def _model_digest(name: str, config: Any) -> str:
    folder = Path(name)
    if not folder.is_dir():
        return sha256_json({"name": name, "commit": getattr(config, "_commit_hash", None)})
    files = sorted(p for p in folder.iterdir() if p.is_file() and p.suffix in _WEIGHTS)
    return sha256_json({path.name: sha256_file(path) for path in files})
