"""An OpenAI-compatible server (vLLM, SGLang and others): vectors from its embeddings, answers from its chat."""

from __future__ import annotations

import functools
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from core.digest import sha256_json
from core.errors import BudgetError, SettingsError
from core.log import logger
from knowledge.reasoners.base import Progress, to_half
from knowledge.reasoners.transformers import batches

LOG = logger("knowledge")
T = TypeVar("T")
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0


@dataclass(frozen=True)
class Limits:
    """How hard a server may be asked.

    Attributes:
        concurrency: requests at a time.
        retries: further tries of a request that failed, stalled or was answered with garbage.
        timeout: seconds to wait for an answer.
        requests_per_minute: rate limit; None: none.
        tokens_per_minute: rate limit on estimated tokens; None: none.
        token_budget: most tokens of a run; None: no limit.
        first_wait: seconds before the first retry; doubled for each further one, with jitter.
    """

    concurrency: int = 8
    retries: int = 4
    timeout: float = 120.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    token_budget: int | None = None
    first_wait: float = _FIRST_WAIT


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
        self._model, self._revision = model, revision
        self._max_tokens, self._batch_tokens = max_tokens, batch_tokens
        self._line = _Line(base_url, api_key, limits or Limits())

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the served model's name, revision and longest prompt."""
        body = {"openai": self._model, "revision": self._revision, "max_tokens": self._max_tokens}
        return sha256_json(body)[:16]

    @functools.cached_property
    def dim(self) -> int:
        """Length of the server's vectors, asked once."""
        return int(self._vectors(["dimension"]).shape[1])

    def answering(self, max_new_tokens: int, chat: bool) -> OpenAIAnswering:
        """The same server writing answers, whose embeddings are the vectors. `chat` is the server's own matter."""
        del chat
        return OpenAIAnswering(self, max_new_tokens)

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

    def write(self, texts: Sequence[str], most: int, progress: Progress = iter) -> list[str]:
        """The server's answer to each text, greedy, of at most `most` tokens."""
        jobs = [functools.partial(self._written, self.cut(text), most) for text in texts]
        answers = [""] * len(texts)
        for number, answer in self._line.run(jobs, progress):
            answers[number] = answer
        return answers

    def cut(self, text: str) -> str:
        """The text's beginning of at most `max_tokens` estimated tokens."""
        while (size := _estimate(text)) > self._max_tokens:
            text = text[: min(len(text) - 1, len(text) * self._max_tokens // size)]
        return text

    def _vectors(self, texts: list[str]) -> np.ndarray:
        def ask(client: Any) -> tuple[np.ndarray, int | None]:
            answer = client.embeddings.create(model=self._model, input=texts, encoding_format="float")
            rows = sorted(answer.data or (), key=lambda row: int(row.index))
            if len(rows) != len(texts):
                raise _GarbageError(f"{len(texts)} texts sent, {len(rows)} vectors returned")
            vectors = np.array([row.embedding for row in rows], dtype=np.float64)
            if vectors.ndim != 2 or not np.isfinite(vectors).all():
                raise _GarbageError("the vectors are not finite numbers of one length")
            return vectors, _used(answer)

        return self._line.ask(f"embeddings request for {self._model!r}", ask, sum(map(_estimate, texts)))

    def _written(self, text: str, most: int) -> str:
        def ask(client: Any) -> tuple[str, int | None]:
            said = client.chat.completions.create(
                model=self._model, messages=[{"role": "user", "content": text}], max_tokens=most, temperature=0.0
            )
            content = said.choices[0].message.content
            if not isinstance(content, str):
                raise _GarbageError("the answer holds no text")
            return content.strip(), _used(said)

        return self._line.ask(f"chat request for {self._model!r}", ask, _estimate(text) + most)


class OpenAIAnswering:
    """The server answers a prompt, then embeds its answer."""

    def __init__(self, reasoner: OpenAIReasoner, most: int) -> None:
        self._reasoner, self._most = reasoner, most

    @functools.cached_property
    def identity(self) -> str:
        """Hash of the reasoner and the longest answer."""
        return sha256_json({"reasoner": self._reasoner.identity, "answer": self._most})[:16]

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
        answers = self._reasoner.write(texts, self._most, progress)
        # An empty answer has no vector of its own; the prompt's stands for it.
        return self._reasoner.encode([a or t for a, t in zip(answers, texts, strict=True)]), answers


class _GarbageError(Exception):
    """The server answered, but not what was asked."""


class _Line:
    """The way to the server: concurrency, retries with back-off, rates and the budget, shared by all requests."""

    def __init__(self, url: str, api_key: str | None, limits: Limits) -> None:
        from openai import OpenAI

        self._url, self._limits = url, limits
        self._client = OpenAI(base_url=url, api_key=api_key or "none", max_retries=0, timeout=limits.timeout)
        self._lock, self._spent = threading.Lock(), 0
        self._stop = threading.Event()
        self._rates = [
            _Rate(limits.requests_per_minute, lambda _tokens: 1.0),
            _Rate(limits.tokens_per_minute, float),
        ]

    def run(self, jobs: Sequence[Callable[[], T]], progress: Progress) -> Iterator[tuple[int, T]]:
        """Do all jobs, some at a time; yields (position, result) as they end. The first failure ends all."""
        self._stop.clear()
        with ThreadPoolExecutor(self._limits.concurrency) as pool:
            waiting: dict[Future[T], int] = {}
            try:
                for number in progress(range(len(jobs))):
                    waiting[pool.submit(jobs[number])] = number
                    while len(waiting) >= 2 * self._limits.concurrency:
                        yield from _ended(waiting)
                while waiting:
                    yield from _ended(waiting)
            finally:
                self._stop.set()
                for future in waiting:
                    future.cancel()
        self._stop.clear()

    def ask(self, what: str, request: Callable[[Any], tuple[T, int | None]], tokens: int) -> T:
        """One request with its retries."""
        import openai

        passing = (
            openai.APIConnectionError,
            openai.RateLimitError,
            openai.InternalServerError,
            openai.APIResponseValidationError,
        )
        garbage = (_GarbageError, ValueError, TypeError, AttributeError, IndexError, KeyError)
        for attempt in range(self._limits.retries + 1):
            self._reserve(tokens)
            try:
                answer, used = request(self._client)
            except (*passing, *garbage) as error:
                if attempt == self._limits.retries:
                    raise SettingsError(
                        f"knowledge.base_url {self._url}: the {what} failed {attempt + 1} times ({_first(error)}); "
                        "is the server up, and does it serve this model?"
                    ) from error
                LOG.info("%s failed (%s); trying again", what, _first(error))
                self._pause(attempt, error)
            except openai.OpenAIError as error:
                raise SettingsError(f"knowledge.base_url {self._url}: the {what} failed ({_first(error)})") from error
            else:
                self._settle(tokens, used)
                return answer
        raise AssertionError("unreachable")

    def _pause(self, attempt: int, error: Exception) -> None:
        """Wait as the server asks, or twice as long each time; the jitter keeps clients from coming back together."""
        asked = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
        seconds = min(_LONGEST_WAIT, self._limits.first_wait * 2.0**attempt) * random.uniform(0.5, 1.0)
        if asked.replace(".", "", 1).isdigit():
            seconds = max(seconds, min(float(asked), _LONGEST_WAIT))
        if self._stop.wait(seconds):
            raise SettingsError(f"knowledge.base_url {self._url}: stopped, because another request failed for good")

    def _reserve(self, tokens: int) -> None:
        """Take the tokens out of the budget and wait for the rates."""
        budget = self._limits.token_budget
        with self._lock:
            if budget is not None and self._spent + tokens > budget:
                raise BudgetError(
                    f"knowledge.token_budget of {budget:,} tokens is used up ({self._spent:,} spent); finished shards are "
                    "kept: raise the budget, or run again, to go on from there"
                )
            self._spent += tokens
            pause = max(rate.wait(tokens) for rate in self._rates)
        if pause > 0 and self._stop.wait(pause):
            raise SettingsError(f"knowledge.base_url {self._url}: stopped, because another request failed for good")

    def _settle(self, tokens: int, used: int | None) -> None:
        if used is not None:
            with self._lock:
                self._spent += used - tokens


class _Rate:
    """Spaces requests so that a minute holds at most `limit` units."""

    def __init__(self, limit: float | None, units: Callable[[int], float]) -> None:
        self._limit, self._units, self._free = limit, units, 0.0

    def wait(self, tokens: int) -> float:
        """Seconds until a request of this size may be sent; books it."""
        if self._limit is None:
            return 0.0
        now = time.monotonic()
        begin = max(now, self._free)
        self._free = begin + 60.0 * self._units(tokens) / self._limit
        return begin - now


def _ended(waiting: dict[Future[T], int]) -> Iterator[tuple[int, T]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=waiting.__getitem__):
        number = waiting.pop(future)
        yield number, future.result()


def _used(answer: Any) -> int | None:
    used = getattr(getattr(answer, "usage", None), "total_tokens", None)
    return int(used) if isinstance(used, int) and used > 0 else None


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


def _estimate(text: str) -> int:
    ascii_characters = sum(c.isascii() for c in text)
    return 2 + (ascii_characters + 3) // 4 + len(text) - ascii_characters
