"""An OpenAI-compatible server (vLLM, SGLang and others): vectors from its embeddings, answers from its chat."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from core.digest import sha256_json
from core.errors import SettingsError
from knowledge.reasoners.base import Finished, Interrupted, Progress, to_half
from knowledge.reasoners.batching import batches
from knowledge.reasoners.client import Client, GarbageError, Limits, RefusedError

T = TypeVar("T")
BLOCK = 128  # answers that are embedded together, and lost together if that fails


class OpenAIReasoner:
    """Embeddings of a served model. The server pools; layer, pooling and dtype are its own.

    Args:
        model: the served model's name.
        base_url: e.g. `http://host:8000/v1`.
        api_key: the server's key, if it asks for one.
        revision: a name for what is served; change it when the server's weights change.
        max_tokens: texts are cut to this many estimated tokens (see `tokens`).
        batch_tokens: estimated tokens per request; a quarter of the budget at the most, so that a small one is used too.
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
        limits = limits or Limits()
        budget = limits.token_budget
        self._max_tokens = max_tokens
        self._batch_tokens = batch_tokens if budget is None else min(batch_tokens, max(1, budget // 4))
        self._client = Client(base_url, api_key, limits)

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
        client = self._client.for_server(base_url) if base_url else self._client
        return OpenAIAnswering(self, max_new_tokens, model or self.model, client)

    def tokens(self, texts: Sequence[str]) -> np.ndarray:
        """An estimate: a token per four ASCII characters and one per other character, int64 [n]."""
        return np.array([_estimate(text) for text in texts], dtype=np.int64)

    def encode(self, texts: Sequence[str], progress: Progress = iter, reserved: int = 0) -> np.ndarray:
        """Vectors of the texts in their order, float16 [n, dim].

        Args:
            texts: to read.
            progress: wraps the requests.
            reserved: tokens of the budget that were reserved for each text.

        Raises:
            SettingsError: the server cannot be reached, refuses, or keeps answering what is no answer.
            BudgetError: the run's token budget would be passed.
            Interrupted: one of the two, when some texts were read.
        """
        cut = [self.cut(text) for text in texts]
        parts: dict[int, np.ndarray] = {}
        asked = batches([_estimate(text) for text in cut], self._batch_tokens)
        jobs = [functools.partial(self._read, cut, batch.tolist(), reserved, parts) for batch in asked]
        try:
            for _ in self._client.run(jobs, progress):
                pass
        except Exception as error:
            if parts:
                rows = sorted(parts)
                raise Interrupted(Finished(rows, _rows(parts, rows)), error) from error
            raise
        return _rows(parts, range(len(cut)))

    def cut(self, text: str) -> str:
        """The text's beginning of at most `max_tokens` estimated tokens."""
        while (size := _estimate(text)) > self._max_tokens:
            text = text[: min(len(text) - 1, len(text) * self._max_tokens // size)]
        return text

    def _read(self, texts: Sequence[str], batch: list[int], reserved: int, parts: dict[int, np.ndarray]) -> None:
        """Put the vectors of some texts into `parts`; a batch that is refused is halved, down to the text at fault."""
        try:
            vectors = self._vectors([texts[i] for i in batch], reserved * len(batch))
        except RefusedError as error:
            if len(batch) == 1:
                raise _named(error, texts[batch[0]]) from error
            middle = len(batch) // 2
            self._read(texts, batch[:middle], reserved, parts)
            self._read(texts, batch[middle:], reserved, parts)
        else:
            parts.update(zip(batch, vectors, strict=True))

    def _vectors(self, texts: list[str], reserved: int = 0) -> np.ndarray:
        def send(client: Any) -> tuple[np.ndarray, int | None]:
            answer = client.embeddings.create(model=self.model, input=texts, encoding_format="float")
            rows = sorted(answer.data or (), key=lambda row: int(row.index))
            if len(rows) != len(texts):
                raise GarbageError(f"{len(texts)} texts sent, {len(rows)} vectors returned")
            if [int(row.index) for row in rows] != list(range(len(texts))):
                raise GarbageError(f"the vectors of {len(texts)} texts are not numbered from 0 to {len(texts) - 1}")
            vectors = np.array([row.embedding for row in rows], dtype=np.float64)
            if vectors.ndim != 2 or not np.isfinite(vectors).all():
                raise GarbageError("the vectors are not finite numbers of one length")
            return vectors, _used(answer)

        return self._client.request(
            f"embeddings request for {self.model!r}", send, sum(map(_estimate, texts)), reserved=reserved
        )


class OpenAIAnswering:
    """A server answers a prompt, then a server embeds the answer; `OpenAIReasoner.answering` makes one."""

    def __init__(self, reasoner: OpenAIReasoner, most: int, model: str, client: Client) -> None:
        self._reasoner, self._most, self._model, self._client = reasoner, most, model, client

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
        if len(texts) and not self.dim:  # asks, so that no answer is paid for that cannot be embedded
            raise SettingsError(f"the model {self._reasoner.model!r} gives vectors of length 0")
        shown = iter(progress(range(len(texts))))
        blocks: list[tuple[np.ndarray, list[str]]] = []
        for begin in range(0, len(texts), BLOCK):
            try:
                blocks.append(self._block(texts[begin : begin + BLOCK], lambda jobs: _shown(jobs, shown)))
            except Interrupted as error:
                done = error.finished
                rows = [*range(begin), *(begin + row for row in done.rows)]
                kept = _joined([*blocks, (done.vectors, done.answers or [])])
                raise Interrupted(Finished(rows, *kept), error.cause) from error.cause
            except Exception as error:
                if blocks:
                    raise Interrupted(Finished(list(range(begin)), *_joined(blocks)), error) from error
                raise
        return _joined(blocks) if blocks else (self._reasoner.encode([]), [])

    def _block(self, texts: Sequence[str], progress: Progress) -> tuple[np.ndarray, list[str]]:
        """Answers and their vectors; what is answered is embedded before more is asked, so that little is lost."""
        written: dict[int, str] = {}
        failure: Exception | None = None
        try:
            self._write(texts, progress, written, self._most)
        except Exception as error:
            if not written:
                raise
            failure = error
        rows = sorted(written)
        try:
            # An empty answer has no vector of its own; the prompt's stands for it.
            vectors = self._reasoner.encode([written[i] or texts[i] for i in rows], reserved=self._most)
        except Interrupted as error:
            rows, vectors = [rows[i] for i in error.finished.rows], error.finished.vectors
            failure = failure or error.cause
        except Exception as error:
            if failure is not None:
                raise failure from error
            raise
        answers = [written[i] for i in rows]
        if failure is not None:
            raise Interrupted(Finished(rows, vectors, answers), failure) from failure
        return vectors, answers

    def write(self, texts: Sequence[str], progress: Progress = iter) -> list[str]:
        """The server's answer to each text, greedy."""
        written: dict[int, str] = {}
        self._write(texts, progress, written)
        return [written[i] for i in range(len(texts))]

    def _write(self, texts: Sequence[str], progress: Progress, written: dict[int, str], reserve: int = 0) -> None:
        """Put the answers into `written`, whatever fails; each reserves so many tokens."""

        def job(place: int) -> None:
            written[place] = self._written(self._reasoner.cut(texts[place]), reserve)

        for _ in self._client.run([functools.partial(job, i) for i in range(len(texts))], progress):
            pass

    def _written(self, text: str, reserve: int) -> str:
        def send(client: Any) -> tuple[str, int | None]:
            asked: Any = [{"role": "user", "content": text}]
            said = client.chat.completions.create(
                model=self._model, messages=asked, max_tokens=self._most, temperature=0.0
            )
            content = said.choices[0].message.content
            if not isinstance(content, str):
                raise GarbageError("the answer holds no text")
            return content.strip(), _used(said)

        try:
            return self._client.request(
                f"chat request for {self._model!r}", send, _estimate(text) + self._most, reserve=reserve
            )
        except RefusedError as error:
            raise _named(error, text) from error


def _shown(jobs: Iterable[T], shown: Iterator[Any]) -> Iterator[T]:
    """The jobs, a step of `shown` with each: one progress bar over several rounds."""
    for job in jobs:
        next(shown, None)
        yield job


def _joined(blocks: Sequence[tuple[np.ndarray, list[str]]]) -> tuple[np.ndarray, list[str]]:
    return np.concatenate([vectors for vectors, _ in blocks]), [said for _, answers in blocks for said in answers]


def _named(error: RefusedError, text: str) -> SettingsError:
    """The refusal of a text that was sent alone."""
    return SettingsError(
        f"{error}; sent was one text of {len(text):,} characters (about {_estimate(text):,} tokens): if that is too long for "
        "the server, lower knowledge.max_tokens"
    )


def _rows(parts: dict[int, np.ndarray], rows: Sequence[int]) -> np.ndarray:
    return to_half(np.array([parts[i] for i in rows], dtype=np.float64).reshape(len(rows), -1))


def _used(answer: Any) -> int | None:
    used = getattr(getattr(answer, "usage", None), "total_tokens", None)
    return int(used) if isinstance(used, int) and used > 0 else None


def _estimate(text: str) -> int:
    ascii_characters = sum(c.isascii() for c in text)
    return 2 + (ascii_characters + 3) // 4 + len(text) - ascii_characters
