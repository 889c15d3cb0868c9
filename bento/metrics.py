"""What this process counts, by scenario and by version of the model, and where it counts it.

Labels are bounded: routes, scenarios of the catalogue, versions (of which `exposition` shows the live ones only), and the few
reasons that stand in `docs/serving.md`. Nothing that a caller makes up becomes a label.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

from prometheus_client import Counter, Gauge, Histogram

from core import logger, wall
from core.clock import as_utc
from core.errors import StorageError

if TYPE_CHECKING:
    from bento.live import LiveModel

LOG = logger("bento")
# BentoML's default buckets begin at 5 ms: too coarse for a ranker that answers in 2.
BUCKETS = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_READ_BUCKETS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_BY_MODEL = ("scenario", "version")

ANSWER_SECONDS = Histogram(
    "llm4msr_answer_seconds",
    "From a request's head to the end of its answer (200)",
    ("route", *_BY_MODEL),
    buckets=BUCKETS,
)
CANDIDATES = Histogram(
    "llm4msr_candidates",
    "Items scored for one ranking",
    _BY_MODEL,
    buckets=(10, 30, 100, 300, 1_000, 3_000, 10_000, 100_000),
)
DEGRADED = Counter("llm4msr_degraded_total", "What answers lacked; one answer may lack several", ("what", *_BY_MODEL))
DEGRADED_ANSWERS = Counter("llm4msr_degraded_answers_total", "Answers that lacked something", _BY_MODEL)
REFUSED = Counter("llm4msr_refused_total", "Requests that were not let in", ["why"])
IN_FLIGHT = Gauge(
    "llm4msr_in_flight", "Requests at hand, those that wait included", ["route"], multiprocess_mode="livesum"
)
PUSHES_WAITING = Gauge(
    "llm4msr_pushes_waiting", "Pushes that wait for the one that is being written", multiprocess_mode="livesum"
)

READY = Gauge("llm4msr_ready", "1 where this process can rank", multiprocess_mode="livemin")
REFUSING = Gauge("llm4msr_refusing", "1 while what is published is refused", multiprocess_mode="livemax")
REFUSED_BUNDLES = Counter("llm4msr_refused_bundles_total", "Times that what is published was refused", ["why"])
SWAP_SECONDS = Histogram(
    "llm4msr_swap_seconds",
    "To load and check what is published, refused or not",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
)
MODEL = Gauge(
    "llm4msr_model", "1 for the live model", ["model", "version", "bundle", "catalogue"], multiprocess_mode="livemax"
)
LOOKED = Gauge("llm4msr_looked_timestamp_seconds", "Last look at the pointers", multiprocess_mode="livemin")
LIVE_SINCE = Gauge(
    "llm4msr_live_since_timestamp_seconds", "When the live model went live here", multiprocess_mode="livemin"
)
PROMOTED = Gauge(
    "llm4msr_promoted_timestamp_seconds", "When the live bundle was promoted; 0 for a seed", multiprocess_mode="livemin"
)
CATALOGUE_TIME = Gauge(
    "llm4msr_catalogue_timestamp_seconds",
    "When the live catalogue was made, by the project's clock",
    multiprocess_mode="livemin",
)

STORE_SECONDS = Histogram(
    "llm4msr_online_read_seconds",
    "Reads of the online store, those that failed included",
    ["read"],
    buckets=_READ_BUCKETS,
)
STORE_FAILURES = Counter("llm4msr_online_failures_total", "Reads of the online store that failed", ["read", "why"])
# They are there, as 0, before anything happens: an alert on a rate sees the first event.
for _why in ("busy", "late", "token"):
    REFUSED.labels(_why)
for _why in ("late", "damaged"):
    REFUSED_BUNDLES.labels(_why)
for _why in ("timeout", "error"):
    STORE_FAILURES.labels("user", _why)


class Gauges:
    """Says what is live; one for each process."""

    def __init__(self) -> None:
        self._model: LiveModel | None = None
        self._labels: tuple[str, ...] | None = None

    def tell(self, current: LiveModel | None, refused: str | None) -> None:
        """Set the gauges; after each look at the pointers.

        Args:
            current: the live model.
            refused: why what is published is not live, if so.
        """
        now = wall().now_micros() / 1e6
        LOOKED.set(now)
        READY.set(current is not None and current.populated)
        REFUSING.set(refused is not None)
        if current is None or current is self._model:
            return
        fresh = self._model is None or current.versions != self._model.versions
        self._model = current
        if not fresh:
            return
        if self._labels is not None:
            MODEL.labels(*self._labels).set(0)
        told = current.versions
        self._labels = (
            str(told.get("model", "")),
            str(told.get("version", "")),
            str(told.get("bundle_digest", ""))[:12],
            str(told.get("catalogue_digest", ""))[:12],
        )
        MODEL.labels(*self._labels).set(1)
        LIVE_SINCE.set(now)
        CATALOGUE_TIME.set(current.catalogue.as_of / 1e6)
        promoted = current.origin.promoted_at
        PROMOTED.set(as_utc(promoted).timestamp() if promoted else 0)


@contextmanager
def store_read(read: Literal["user", "scenarios", "text"]) -> Iterator[None]:
    """Time a read of the online store and count it where it fails."""
    begin = time.perf_counter()
    try:
        yield
    except StorageError as error:
        STORE_FAILURES.labels(read, "timeout" if _is_late(error) else "error").inc()
        raise
    finally:
        STORE_SECONDS.labels(read).observe(time.perf_counter() - begin)


def _is_late(error: BaseException | None) -> bool:
    """Whether a store was too slow: stores and their clients have types of their own for that."""
    while error is not None:
        if "timeout" in type(error).__name__.lower() or "database is locked" in str(error):
            return True
        error = error.__cause__
    return False
