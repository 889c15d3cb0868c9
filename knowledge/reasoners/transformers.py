"""Any causal language model or encoder that transformers can load: frozen, prefill only.

Texts are sorted by length and cut into batches of at most `batch_tokens` tokens: on CUDA packed one after the other, elsewhere padded
on the right, padding counted. Tokens that all texts begin with are read once, where the model is causal. Shapes:
B texts of a batch, T tokens of the longest (packed: of all), H hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from core.errors import SettingsError
from knowledge.reasoners.answering import Answering
from knowledge.reasoners.base import Progress, to_half
from knowledge.reasoners.batching import batches, packs
from knowledge.reasoners.frozen import FrozenModel, Prefix
from knowledge.reasoners.packing import pack


class TransformersReasoner(FrozenModel):
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
        packed: lay texts one after the other instead of padding them; None: on CUDA. Where the model's attention cannot
            do it, batches are padded.

    Raises:
        SettingsError: the model cannot be loaded, or lacks the layer or the length that is asked for.
    """

    def answering(self, max_new_tokens: int, chat: bool) -> Answering:
        """The same model, writing an answer to each text and pooling the states it was written from.

        Raises:
            SettingsError: it reads but does not write.
        """
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
            cut, forward = (packs, self._packed_forward) if self.packs else (batches, self._forward)
            for batch in progress(cut([len(row) - skip for row in ids], self.batch_tokens)):
                out[batch] = forward([ids[i][skip:] for i in batch], prefix).cpu().numpy()
        return out

    def _forward(self, rows: Sequence[list[int]], prefix: Prefix | None) -> torch.Tensor:
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
        return _mean(total, lengths, prefix)

    def _packed_forward(self, rows: Sequence[list[int]], prefix: Prefix | None) -> torch.Tensor:
        """The same of rows that lie one after the other."""
        shared = (prefix.length, prefix.cache) if prefix else (0, None)
        texts = pack(rows, self.causal, self.device, *shared)
        states = self.packed_states(texts)[0]  # [T, H]
        if self.pooling == "last":
            return states[texts.bounds[1:].long() - 1].float()
        total = torch.segment_reduce(states.float(), "sum", lengths=texts.lengths, axis=0)
        return _mean(total, texts.lengths, prefix)


def _mean(total: torch.Tensor, lengths: torch.Tensor, prefix: Prefix | None) -> torch.Tensor:
    """Sums [B, H] over a batch's own tokens, made means over all tokens."""
    if prefix is None:
        return total / lengths[:, None]
    return (total + prefix.total) / (lengths + prefix.length)[:, None]
