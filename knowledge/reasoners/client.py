"""The way to a server: concurrency, retries with back-off, rates and a token budget, shared by all requests."""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from core.addresses import is_loopback, shown
from core.clock import as_utc, wall
from core.errors import BudgetError, SettingsError
from core.log import logger
from knowledge.reasoners.base import Progress

LOG = logger("knowledge")
T = TypeVar("T")
_FIRST_WAIT, _LONGEST_WAIT, _LONGEST_ASKED = 0.5, 30.0, 600.0


@dataclass(frozen=True)
class Limits:
    """How hard a server may be asked.

    Attributes:
        concurrency: requests at a time.
        retries: further tries of a request that failed, stalled or was answered with garbage.
        timeout: seconds to wait for an answer.
        requests_per_minute: rate limit; None: none.
        tokens_per_minute: rate limit on estimated tokens; None: none.
        token_budget: most tokens of a run of this process; None: no limit.
        first_wait: seconds before the first retry; doubled for each further one up to 30 s, with jitter. A server's
            Retry-After is obeyed up to 10 minutes a wait.
    """

    concurrency: int = 8
    retries: int = 4
    timeout: float = 120.0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    token_budget: int | None = None
    first_wait: float = _FIRST_WAIT


@dataclass
class Spent:
    """Tokens that a run has used, on all its servers."""

    tokens: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class GarbageError(Exception):
    """The server answered, but not what was asked."""


class RefusedError(SettingsError):
    """The server will not take what was sent (400, 413)."""


class Line:
    """One server's requests.

    Args:
        url: e.g. `http://host:8000/v1`.
        api_key: the server's key, if it asks for one.
        limits: concurrency, retries, rates and budget.
        spent: what other lines of the run have used of the budget too.
    """

    def __init__(self, url: str, api_key: str | None, limits: Limits, spent: Spent | None = None) -> None:
        from openai import DefaultHttpxClient, OpenAI

        self._url, self._api_key, self._limits = url, api_key, limits
        # A server on this machine is not behind the proxy of the environment.
        own = DefaultHttpxClient(trust_env=False) if is_loopback(url) else None
        self._client = OpenAI(
            base_url=url, api_key=api_key or "none", max_retries=0, timeout=limits.timeout, http_client=own
        )
        self._spent = spent or Spent()
        self._stop = threading.Event()
        self._rates = [
            Rate(limits.requests_per_minute, lambda _tokens: 1.0),
            Rate(limits.tokens_per_minute, float),
        ]

    def beside(self, url: str) -> Line:
        """The way to another server of the same run: same limits, same budget."""
        return Line(url, self._api_key, self._limits, self._spent)

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

    def ask(
        self, what: str, request: Callable[[Any], tuple[T, int | None]], tokens: int, *, hold: int = 0, held: int = 0
    ) -> T:
        """One request with its retries.

        Args:
            what: the request's name in messages.
            request: sends it; returns the answer and the tokens used, None where the server does not say.
            tokens: estimated.
            hold: tokens of the budget that are set aside for a later request.
            held: tokens that were; such a request is never refused for the budget.

        Raises:
            BudgetError: the budget would be passed.
            RefusedError: the server will not take what was sent.
            SettingsError: the server cannot be reached or does not answer as it should.
        """
        import openai

        garbage = (GarbageError, ValueError, TypeError, AttributeError, IndexError, KeyError)
        for attempt in range(self._limits.retries + 1):
            self._reserve(tokens, hold, held)
            try:
                answer, used = request(self._client)
            except (openai.OpenAIError, *garbage) as error:
                # The next try takes it all again. What was not answered may have been computed all the same: it stays charged.
                self._charge(held - hold - (tokens if isinstance(error, openai.APIStatusError) else 0))
                if isinstance(error, openai.OpenAIError) and not _passing(error):
                    kind = RefusedError if getattr(error, "status_code", None) in (400, 413) else SettingsError
                    raise kind(f"knowledge.base_url {shown(self._url)}: the {what} failed ({_first(error)})") from error
                if attempt == self._limits.retries:
                    raise SettingsError(
                        f"knowledge.base_url {shown(self._url)}: the {what} failed {attempt + 1} times ({_first(error)}); "
                        "is the server up, and does it serve this model?"
                    ) from error
                LOG.info("%s failed (%s); trying again", what, _first(error))
                self._pause(attempt, error)
            else:
                if used is not None:
                    self._charge(used - tokens)
                return answer
        raise AssertionError("unreachable")

    def _pause(self, attempt: int, error: Exception) -> None:
        """Wait as the server asks, or twice as long each time; the jitter keeps clients from coming back together."""
        seconds = min(_LONGEST_WAIT, self._limits.first_wait * 2.0**attempt) * random.uniform(0.5, 1.0)
        if self._stop.wait(max(seconds, asked_wait(error))):
            raise SettingsError(
                f"knowledge.base_url {shown(self._url)}: stopped, because another request failed for good"
            )

    def _reserve(self, tokens: int, hold: int, held: int) -> None:
        """Take the tokens out of the budget and wait for the rates."""
        budget = self._limits.token_budget
        with self._spent.lock:
            if budget is not None and not held and self._spent.tokens + tokens + hold > budget:
                raise BudgetError(
                    f"knowledge.token_budget of {budget:,} tokens is used up ({self._spent.tokens:,} spent); what was answered "
                    "is kept: raise the budget, or run again, to go on from there"
                )
            self._spent.tokens += tokens + hold - held
            pause = max(rate.wait(tokens) for rate in self._rates)
        if pause > 0 and self._stop.wait(pause):
            raise SettingsError(
                f"knowledge.base_url {shown(self._url)}: stopped, because another request failed for good"
            )

    def _charge(self, tokens: int) -> None:
        with self._spent.lock:
            self._spent.tokens += tokens


class Rate:
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


def asked_wait(error: Exception) -> float:
    """Seconds for which an answer's Retry-After, a number or an HTTP date, asks: 600 at the most, 0 without one."""
    asked = getattr(getattr(error, "response", None), "headers", {}).get("retry-after", "")
    if re.fullmatch(r"[0-9]+(\.[0-9]*)?", asked):
        return min(float(asked), _LONGEST_ASKED)
    try:
        seconds = (as_utc(parsedate_to_datetime(asked)) - wall().now()).total_seconds()
    except (TypeError, ValueError):
        return 0.0
    return min(max(seconds, 0.0), _LONGEST_ASKED)


def _passing(error: Exception) -> bool:
    """Whether another try may help: nothing came back, or the server is busy (408, 409, 429, 5xx) or talks nonsense."""
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in (408, 409, 429) or error.status_code >= 500
    return isinstance(error, (openai.APIConnectionError, openai.APIResponseValidationError))


def _ended(waiting: dict[Future[T], int]) -> Iterator[tuple[int, T]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=waiting.__getitem__):
        number = waiting.pop(future)
        yield number, future.result()


def _first(error: Exception) -> str:
    told = shown((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
    body = getattr(error, "body", None)
    detail = body.get("detail") or body.get("message") if isinstance(body, dict) else None
    return f"{told}: {detail}"[:300] if detail and str(detail) not in told else told
