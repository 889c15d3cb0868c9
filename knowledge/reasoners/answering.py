"""Generate, then pool: the model answers a prompt, and the states its answer was written from are the vector.

This is what the paper does (its authors take the last hidden state inside the sampling loop). Decoding is greedy, so that
the same prompt has the same answer. Prompts are padded on the right; a batch's answers are written together, each row at
its own position.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from core.digest import sha256_json
from knowledge.reasoners.base import Progress, to_half
from knowledge.reasoners.batching import batches
from knowledge.reasoners.frozen import FrozenModel, Prefix

_MARK = "\u241fPROMPT\u241f"


class Answering:
    """Writes an answer to each text and pools the states from which its tokens were drawn.

    Args:
        reasoner: whose model, layer, pooling and longest prompt are used.
        max_new_tokens: longest answer.
        chat: put texts into the model's chat template, where it has one.
    """

    def __init__(self, reasoner: FrozenModel, max_new_tokens: int, chat: bool) -> None:
        self._reasoner, self._most = reasoner, max_new_tokens
        framed = chat and reasoner.tokenizer.chat_template
        self._frames: tuple[list[int], list[int]] | None = self._frame() if framed else None

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the reasoner, the frame around the prompt and the longest answer."""
        return sha256_json({"reasoner": self._reasoner.identity, "answer": self._most, "frame": self._frames})[:16]

    @property
    def dim(self) -> int:
        """Hidden width of the model."""
        return self._reasoner.dim

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """Tokens of each prompt with its frame, before any cut, int64 [n]."""
        return np.array([len(row) for row in self._rows(texts, cut=False)], dtype=np.int64)

    def encode(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """The vectors alone, float16 [n, dim]."""
        return self.answer(texts, progress)[0]

    def answer(self, texts: Sequence[str], progress: Progress = iter) -> tuple[np.ndarray, list[str]]:
        """Vectors, float16 [n, dim], and answers, both in the order of the texts."""
        vectors, answers = self.pooled(texts, progress)
        return to_half(vectors), answers

    def pooled(self, texts: Sequence[str], progress: Progress = iter) -> tuple[np.ndarray, list[str]]:
        """The same before rounding, float32 [n, dim]."""
        rows = self._rows(texts, cut=True)
        vectors, answers = np.zeros((len(rows), self.dim), dtype=np.float32), [""] * len(rows)
        with torch.inference_mode():
            prefix = self._reasoner.shared_prefix(rows)
            skip = prefix.length if prefix else 0
            # What a batch holds at its end: prompts and whole answers.
            held = [len(row) - skip + self._most for row in rows]
            budget = max(self._reasoner.batch_tokens, 8 * max(held, default=1))
            for batch in progress(batches(held, budget)):
                found, written = self._write([rows[i][skip:] for i in batch], prefix)
                vectors[batch] = found.cpu().numpy()
                for position, ids in zip(batch.tolist(), written, strict=True):
                    answers[position] = self._reasoner.tokenizer.decode(ids, skip_special_tokens=True).strip()
        return vectors, answers

    def _write(self, rows: Sequence[list[int]], prefix: Prefix | None) -> tuple[torch.Tensor, list[list[int]]]:
        """Pooled states, float32 [B, H], and the tokens of each answer."""
        reasoner, count = self._reasoner, len(rows)
        cache, mask, lengths = self._read(rows, prefix)
        ids = torch.tensor([row[-1] for row in rows], device=reasoner.device)
        total = torch.zeros((count, self.dim), device=reasoner.device)
        drawn = torch.zeros(count, dtype=torch.long, device=reasoner.device)
        open_ = torch.ones(count, dtype=torch.bool, device=reasoner.device)
        ends = torch.tensor(sorted(self._ends), device=reasoner.device)
        written: list[torch.Tensor] = []
        for step in range(self._most):
            mask = torch.cat([mask, mask.new_ones((count, 1))], dim=1)
            with reasoner.listening() as heard:
                output = reasoner.model(
                    input_ids=ids[:, None],
                    attention_mask=mask,
                    position_ids=(lengths + step)[:, None],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
            ids = output.logits[:, -1].argmax(dim=-1)
            ended = torch.isin(ids, ends)
            # The state that drew the end is no part of an answer, unless there is nothing else.
            counted = open_ & ~ended if step else open_
            state = heard[-1][:, -1].float()
            if reasoner.pooling == "last":
                total = torch.where(counted[:, None], state, total)
            else:
                total += state * counted[:, None]
            drawn += counted
            open_ = open_ & ~ended
            written.append(torch.where(open_, ids, -1))
            if not bool(open_.any()):
                break
        if reasoner.pooling == "mean":
            total = total / drawn[:, None]
        answers = torch.stack(written, dim=1).tolist()
        return total, [[token for token in answer if token >= 0] for answer in answers]

    def _read(self, rows: Sequence[list[int]], prefix: Prefix | None) -> tuple[Any, torch.Tensor, torch.Tensor]:
        """All but the last token of each prompt: keys and values, their mask, and where the last token stands."""
        from transformers import DynamicCache

        reasoner = self._reasoner
        before = prefix.length if prefix else 0
        cache = prefix.repeated(len(rows)) if prefix else DynamicCache(config=reasoner.model.config)
        ids, lengths = reasoner.padded([row[:-1] or [0] for row in rows])
        lengths = lengths.new_tensor([len(row) - 1 for row in rows])
        mask = torch.arange(ids.shape[1], device=reasoner.device)[None, :] < lengths[:, None]
        mask = torch.cat([mask.new_ones((len(rows), before)), mask], dim=1).long()
        if int(lengths.max()):
            reasoner.states(ids, mask, cache)
        else:
            mask = mask[:, :before]
        return cache, mask, lengths + before

    @property
    def _ends(self) -> set[int]:
        found = getattr(self._reasoner.model.generation_config, "eos_token_id", None)
        found = self._reasoner.tokenizer.eos_token_id if found is None else found
        return set() if found is None else set(found) if isinstance(found, list) else {int(found)}

    def _frame(self) -> tuple[list[int], list[int]]:
        """Tokens before and after a prompt. Only the frame may hold special tokens; a prompt is text."""
        tokenizer = self._reasoner.tokenizer
        asked = [{"role": "user", "content": _MARK}]
        before, after = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True).split(_MARK)
        head, tail = (
            tokenizer(part, add_special_tokens=False, split_special_tokens=False)["input_ids"]
            for part in (before, after)
        )
        return head, tail

    def _rows(self, texts: Sequence[str], cut: bool) -> list[list[int]]:
        if self._frames is None:
            return self._reasoner.tokenize(texts, cut)
        rows = self._reasoner.tokenize(texts, cut=False, add_special_tokens=False)
        head, tail = self._frames
        room = max(1, self._reasoner.max_tokens - len(head) - len(tail))
        return [head + (row[:room] if cut else row) + tail for row in rows]
