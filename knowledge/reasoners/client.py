"""A client of a server: concurrency, retries with back-off, rates and a token budget, shared by all requests."""

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

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential

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


# What reading an answer raises that is not as it should be.
_GARBAGE = (GarbageError, ValueError, TypeError, AttributeError, IndexError, KeyError)


class RefusedError(SettingsError):
    """The server will not take what was sent (400, 413)."""


class _FailedError(Exception):
    """One try of a request failed; in words, why.

    Attributes:
        met: what was raised.
        passing: whether another try may help: nothing came back, or the server is busy (408, 409, 429, 5xx) or talks nonsense.
        refused: whether the server will not take what was sent (400, 413).
    """

    def __init__(self, met: Exception) -> None:
        import openai

        super().__init__(_first_line(met))
        self.met = met
        status = met.status_code if isinstance(met, openai.APIStatusError) else None
        self.refused = status in (400, 413)
        if status is not None:
            self.passing = status in (408, 409, 429) or status >= 500
        else:
            lost = (openai.APIConnectionError, openai.APIResponseValidationError)
            self.passing = isinstance(met, lost) or not isinstance(met, openai.OpenAIError)


class Client:
    """Requests to one server.

    Args:
        url: e.g. `http://host:8000/v1`.
        api_key: the server's key, if it asks for one.
        limits: concurrency, retries, rates and budget.
        spent: what the run's other clients have used of the budget too.
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

    def for_server(self, url: str) -> Client:
        """A client of another server of the same run: same limits, same budget."""
        return Client(url, self._api_key, self._limits, self._spent)

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

    def request(
        self,
        what: str,
        send: Callable[[Any], tuple[T, int | None]],
        tokens: int,
        *,
        reserve: int = 0,
        reserved: int = 0,
    ) -> T:
        """One request with its retries.

        Args:
            what: the request's name in messages.
            send: sends it; returns the answer and the tokens used, None where the server does not say.
            tokens: estimated.
            reserve: tokens of the budget that are reserved for a later request.
            reserved: tokens that were; such a request is never refused for the budget.

        Raises:
            BudgetError: the budget would be passed.
            RefusedError: the server will not take what was sent.
            SettingsError: the server cannot be reached or does not answer as it should.
        """
        tries = Retrying(
            stop=stop_after_attempt(self._limits.retries + 1),
            retry=retry_if_exception(lambda error: isinstance(error, _FailedError) and error.passing),
            wait=self._wait,
            sleep=self._sleep,
            before_sleep=lambda state: LOG.info("%s failed (%s); trying again", what, _met(state)),
            reraise=True,
        )
        try:
            return tries(self._try, send, tokens, reserve, reserved)
        except _FailedError as error:
            told = f"knowledge.base_url {shown(self._url)}: the {what} failed"
            if error.passing:
                raise SettingsError(
                    f"{told} {self._limits.retries + 1} times ({error}); is the server up, and does it serve this model?"
                ) from error.met
            raise (RefusedError if error.refused else SettingsError)(f"{told} ({error})") from error.met

    def _try(self, send: Callable[[Any], tuple[T, int | None]], tokens: int, reserve: int, reserved: int) -> T:
        import openai

        self._reserve(tokens, reserve, reserved)
        try:
            answer, used = send(self._client)
        except (openai.OpenAIError, *_GARBAGE) as error:
            # The next try takes it all again. What was not answered may have been computed all the same: it stays charged.
            self._charge(reserved - reserve - (tokens if isinstance(error, openai.APIStatusError) else 0))
            raise _FailedError(error) from error
        if used is not None:
            self._charge(used - tokens)
        return answer

    def _wait(self, state: RetryCallState) -> float:
        """As the server asks, or twice as long each time; the jitter keeps clients from coming back together."""
        growing = wait_exponential(self._limits.first_wait, max=_LONGEST_WAIT)(state) * random.uniform(0.5, 1.0)
        return max(growing, asked_wait(_met(state).met))

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise SettingsError(
                f"knowledge.base_url {shown(self._url)}: stopped, because another request failed for good"
            )

    def _reserve(self, tokens: int, reserve: int, reserved: int) -> None:
        """Take the tokens out of the budget and wait for the rates."""
        budget = self._limits.token_budget
        with self._spent.lock:
            if budget is not None and not reserved and self._spent.tokens + tokens + reserve > budget:
                raise BudgetError(
                    f"knowledge.token_budget of {budget:,} tokens is used up ({self._spent.tokens:,} spent); what was answered "
                    "is kept: raise the budget, or run again, to go on from there"
                )
            self._spent.tokens += tokens + reserve - reserved
            pause = max(rate.wait(tokens) for rate in self._rates)
        if pause > 0:
            self._sleep(pause)

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


def _ended(waiting: dict[Future[T], int]) -> Iterator[tuple[int, T]]:
    done, _ = wait(waiting, return_when=FIRST_COMPLETED)
    for future in sorted(done, key=waiting.__getitem__):
        number = waiting.pop(future)
        yield number, future.result()


def _met(state: RetryCallState) -> _FailedError:
    assert state.outcome is not None
    error = state.outcome.exception()
    assert isinstance(error, _FailedError)
    return error


def _first_line(error: Exception) -> str:
    told = shown((str(error).strip().splitlines() or [type(error).__name__])[0])[:300]
    body = getattr(error, "body", None)
    detail = body.get("detail") or body.get("message") if isinstance(body, dict) else None
    return f"{told}: {detail}"[:300] if detail and str(detail) not in told else told
