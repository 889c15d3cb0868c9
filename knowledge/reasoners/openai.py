"""An OpenAI-compatible server (vLLM, SGLang and others): vectors from its embeddings, answers from its chat."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from core.digest import sha256_json
from knowledge.reasoners.base import Progress, to_half
from knowledge.reasoners.batching import batches
from knowledge.reasoners.line import GarbageError, Limits, Line


class OpenAIReasoner:
    """Embeddings of a served model. The server pools; layer, pooling and dtype are its own.

    Args:
        model: the served model's name.
        base_url: e.g. `http://host:8000/v1`.
        api_key: the server's key, if it asks for one.
        revision: a name for what is served; change it when the server's weights change.
        max_tokens: texts are cut to this many estimated tokens (see `tokens`).
        batch_tokens: estimated tokens per request.
        limits: concurrency, retries, rates and budget.

    Raises:
        SettingsError: no server is named.
    """

    def __init__(
        self,
        model: str,
        base_url: str,
        *,
        api_key: str | None = None,
        revision: str | None = None,
        max_tokens: int = 256,
        batch_tokens: int = 8192,
        limits: Limits | None = None,
    ) -> None:
        self.model, self._revision = model, revision
        self._max_tokens, self._batch_tokens = max_tokens, batch_tokens
        self._line = Line(base_url, api_key, limits or Limits())

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the served model's name, revision and longest prompt."""
        body = {"openai": self.model, "revision": self._revision, "max_tokens": self._max_tokens}
        return sha256_json(body)[:16]

    @functools.cached_property
    def dim(self) -> int:
        """Length of the server's vectors, asked once."""
        return int(self._vectors(["dimension"]).shape[1])

    def answering(
        self, max_new_tokens: int, chat: bool, model: str | None = None, base_url: str | None = None
    ) -> OpenAIAnswering:
        """Answers whose embeddings are the vectors.

        Args:
            max_new_tokens: longest answer.
            chat: not used; the template is the server's own matter.
            model: what answers; None: the same model.
            base_url: where it is served; None: by the same server.
        """
        del chat
        line = self._line.beside(base_url) if base_url else self._line
        return OpenAIAnswering(self, max_new_tokens, model or self.model, line)

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """An estimate: a token per four ASCII characters and one per other character, int64 [n]."""
        return np.array([_estimate(text) for text in texts], dtype=np.int64)

    def encode(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """Vectors of the texts in their order, float16 [n, dim].

        Raises:
            SettingsError: the server cannot be reached, refuses, or keeps answering what is no answer.
            BudgetError: the run's token budget would be passed; what is in the cache stays.
        """
        cut = [self.cut(text) for text in texts]
        parts: dict[int, np.ndarray] = {}
        asked = batches([_estimate(text) for text in cut], self._batch_tokens)
        jobs = [functools.partial(self._vectors, [cut[i] for i in batch]) for batch in asked]
        for number, vectors in self._line.run(jobs, progress):
            parts.update(zip(asked[number].tolist(), vectors, strict=True))
        return to_half(np.array([parts[i] for i in range(len(cut))], dtype=np.float64).reshape(len(cut), -1))

    def cut(self, text: str) -> str:
        """The text's beginning of at most `max_tokens` estimated tokens."""
        while (size := _estimate(text)) > self._max_tokens:
            text = text[: min(len(text) - 1, len(text) * self._max_tokens // size)]
        return text

    def _vectors(self, texts: list[str]) -> np.ndarray:
        def ask(client: Any) -> tuple[np.ndarray, int | None]:
            answer = client.embeddings.create(model=self.model, input=texts, encoding_format="float")
            rows = sorted(answer.data or (), key=lambda row: int(row.index))
            if len(rows) != len(texts):
                raise GarbageError(f"{len(texts)} texts sent, {len(rows)} vectors returned")
            vectors = np.array([row.embedding for row in rows], dtype=np.float64)
            if vectors.ndim != 2 or not np.isfinite(vectors).all():
                raise GarbageError("the vectors are not finite numbers of one length")
            return vectors, _used(answer)

        return self._line.ask(f"embeddings request for {self.model!r}", ask, sum(map(_estimate, texts)))


class OpenAIAnswering:
    """A server answers a prompt, then a server embeds the answer; `OpenAIReasoner.answering` makes one."""

    def __init__(self, reasoner: OpenAIReasoner, most: int, model: str, line: Line) -> None:
        self._reasoner, self._most, self._model, self._line = reasoner, most, model, line

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the reasoner, the longest answer and, where it is another, the model that answers."""
        body = {"reasoner": self._reasoner.identity, "answer": self._most}
        return sha256_json(body if self._model == self._reasoner.model else {**body, "model": self._model})[:16]

    @property
    def dim(self) -> int:
        """Length of the server's vectors."""
        return self._reasoner.dim

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """As `OpenAIReasoner.tokens`."""
        return self._reasoner.tokens(texts)

    def encode(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """The vectors alone, float16 [n, dim]."""
        return self.answer(texts, progress)[0]

    def answer(self, texts: Sequence[str], progress: Progress = iter) -> tuple[np.ndarray, list[str]]:
        """Vectors, float16 [n, dim], and answers, both in the order of the texts."""
        answers = self.write(texts, progress)
        # An empty answer has no vector of its own; the prompt's stands for it.
        return self._reasoner.encode([a or t for a, t in zip(answers, texts, strict=True)]), answers

    def write(self, texts: Sequence[str], progress: Progress = iter) -> list[str]:
        """The server's answer to each text, greedy."""
        jobs = [functools.partial(self._written, self._reasoner.cut(text)) for text in texts]
        answers = [""] * len(texts)
        for number, answer in self._line.run(jobs, progress):
            answers[number] = answer
        return answers

    def _written(self, text: str) -> str:
        def ask(client: Any) -> tuple[str, int | None]:
            asked: Any = [{"role": "user", "content": text}]
            said = client.chat.completions.create(
                model=self._model, messages=asked, max_tokens=self._most, temperature=0.0
            )
            content = said.choices[0].message.content
            if not isinstance(content, str):
                raise GarbageError("the answer holds no text")
            return content.strip(), _used(said)

        return self._line.ask(f"chat request for {self._model!r}", ask, _estimate(text) + self._most)


def _used(answer: Any) -> int | None:
    used = getattr(getattr(answer, "usage", None), "total_tokens", None)
    return int(used) if isinstance(used, int) and used > 0 else None


def _estimate(text: str) -> int:
    ascii_characters = sum(c.isascii() for c in text)
    return 2 + (ascii_characters + 3) // 4 + len(text) - ascii_characters
