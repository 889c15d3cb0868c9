"""An OpenAI-compatible server (vLLM and others): vectors from its embeddings endpoint."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from core.digest import sha256_json
from core.errors import SettingsError
from knowledge.reasoners.base import Progress, to_half
from knowledge.reasoners.transformers import batches


class OpenAIReasoner:
    """Embeddings of a served model. The server pools; layer, pooling and dtype are its own.

    Args:
        model: the served model's name.
        base_url: e.g. `http://host:8000/v1`.
        api_key: the server's key, if it asks for one.
        revision: a name for what is served; change it when the server's weights change.
        max_tokens: texts are cut to this many estimated tokens (see `tokens`).
        batch_tokens: estimated tokens per request.

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
    ) -> None:
        from openai import OpenAI

        self._model, self._revision = model, revision
        self._max_tokens, self._batch_tokens = max_tokens, batch_tokens
        self._url = base_url
        self._client = OpenAI(base_url=base_url, api_key=api_key or "none", max_retries=4, timeout=120.0)

    @property
    def identity(self) -> str:
        """Hash of the served model's name, revision and longest prompt."""
        body = {"openai": self._model, "revision": self._revision, "max_tokens": self._max_tokens}
        return sha256_json(body)[:16]

    @functools.cached_property
    def dim(self) -> int:
        """Length of the server's vectors, asked once."""
        return int(self._request(["dimension"]).shape[1])

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """An estimate: a token per four ASCII characters and one per other character, int64 [n]."""
        return np.array([_estimate(text) for text in texts], dtype=np.int64)

    def encode(self, texts: Sequence[str], progress: Progress = iter) -> np.ndarray:
        """Vectors of the texts in their order, float16 [n, dim].

        Raises:
            SettingsError: the server cannot be reached or refuses.
        """
        cut = [self._cut(text) for text in texts]
        parts = {}
        for batch in progress(batches([_estimate(text) for text in cut], self._batch_tokens)):
            for position, vector in zip(batch, self._request([cut[i] for i in batch]), strict=True):
                parts[int(position)] = vector
        return to_half(np.array([parts[i] for i in range(len(cut))], dtype=np.float64).reshape(len(cut), -1))

    def _cut(self, text: str) -> str:
        while (size := _estimate(text)) > self._max_tokens:
            text = text[: min(len(text) - 1, len(text) * self._max_tokens // size)]
        return text

    def _request(self, texts: list[str]) -> np.ndarray:
        from openai import OpenAIError

        try:
            answer = self._client.embeddings.create(model=self._model, input=texts, encoding_format="float")
        except OpenAIError as error:
            raise SettingsError(
                f"knowledge.base_url {self._url}: the embeddings request for {self._model!r} failed ({error})"
            ) from error
        rows = sorted(answer.data, key=lambda row: row.index)
        if len(rows) != len(texts):
            raise SettingsError(
                f"knowledge.base_url {self._url}: {len(texts)} texts sent, {len(rows)} vectors returned"
            )
        return np.array([row.embedding for row in rows], dtype=np.float64)


def _estimate(text: str) -> int:
    ascii_characters = sum(c.isascii() for c in text)
    return 2 + (ascii_characters + 3) // 4 + len(text) - ascii_characters
