"""Ray Data: the parts of a run as rows of a dataset, read by actors that load the reasoner once.

An actor that dies is started again by Ray, three times at the most, and its part is handed out again; what the part
had finished is in the cache, so that a death costs the shard that was being read. Sources, cache and model must be on paths that all machines know.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from core import errors, logger
from core.errors import Llm4msrError, SettingsError
from core.settings import RaySettings
from knowledge.parts import read_share

if TYPE_CHECKING:
    from knowledge.open_run import OpenRun
    from knowledge.run import Run

LOG = logger("knowledge")
# Parts per actor: small enough that no actor is idle for long at the end.
_PARTS_EACH = 4
# What a cluster of our own keeps in shared memory: rows of numbers only.
_STORE_BYTES = 128 << 20
_KNOCK_SECONDS = 10
# Of an actor, and tries of a part after them; Ray's own default is to go on for ever.
_MOST_DEATHS = 3


class Reader:
    """An actor: opens the run once, then reads one part after the other.

    Errors of ours are handed on as data: of an exception Ray keeps no more than a text.
    """

    def __init__(self, run: Run) -> None:
        self._held, self._run = ExitStack(), run.for_one_of(run.settings.ray.workers)
        self._opened: OpenRun | None = None

    def _open(self) -> OpenRun:
        if self._opened is None:
            self._opened = self._held.enter_context(self._run.open())
        return self._opened

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Read the parts of a batch: `part`, `parts` -> the same and `failure`, an error's kind and message or nothing."""
        failure = ""
        try:
            for number, of in zip(batch["part"], batch["parts"], strict=True):
                read_share(self._open(), (int(number), int(of)))
        except Llm4msrError as error:
            failure = f"{_kind(error)}:{error}"
        return {**batch, "failure": [failure] * len(batch["part"])}


def read_on_cluster(run: Run) -> int:
    """Let a cluster's actors read all texts into the cache; returns the number of parts.

    Raises:
        SettingsError: Ray is not installed, or the cluster cannot be reached.
        Llm4msrError: what an actor met, as the stage would have met it here.
    """
    settings = run.settings.ray
    ray = _ray()
    # Put in order once, before many want it.
    with run.open_log() as opened:
        parts = max(len(opened.log.buckets), _PARTS_EACH * settings.workers)
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, settings)
    try:
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        ray.data.DataContext.get_current().enable_progress_bars = False
        dataset = ray.data.from_items(
            [{"part": i + 1, "parts": parts} for i in range(parts)], override_num_blocks=parts
        ).map_batches(
            Reader,
            fn_constructor_args=(run,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=settings.workers, max_tasks_in_flight_per_actor=1),
            num_cpus=settings.num_cpus,
            num_gpus=settings.num_gpus,
            max_restarts=_MOST_DEATHS,
            max_task_retries=_MOST_DEATHS,
        )
        done = 0
        for batch in dataset.iter_batches(batch_size=None):
            for failure in filter(None, batch["failure"].tolist()):
                kind, _, message = failure.partition(":")
                raise getattr(errors, kind)(message)
            done += len(batch["part"])
    finally:
        if ours:
            ray.shutdown()
    LOG.info("%s parts read by %s actors", done, settings.workers)
    return done


def _ray() -> Any:
    """Ray with its telemetry off; loaded here and nowhere else."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SettingsError(
            f"knowledge.engine is ray, but Ray cannot be imported ({error}); install requirements/dev.txt"
        ) from error
    return ray


def _kind(error: Llm4msrError) -> str:
    """The name of the error's class, or of the nearest one above it that is in `core.errors`."""
    return next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)


def _connect(ray: Any, settings: RaySettings) -> None:
    """Join the cluster, or start one in this machine where no address is given."""
    processors = max(1, round(settings.workers * settings.num_cpus) + 1)
    own: dict[str, Any] = {} if settings.address else {"num_cpus": processors, "object_store_memory": _STORE_BYTES}
    _knock(settings.address)
    try:
        ray.init(
            address=settings.address or "local",
            include_dashboard=None if settings.address else False,
            log_to_driver=False,
            logging_level="ERROR",
            **own,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SettingsError(f"knowledge.ray.address {settings.address!r} cannot be reached: {error}") from error


def _knock(address: str | None) -> None:
    """See that something listens at [ray://]HOST:PORT: Ray itself would try for minutes and say nothing.

    Raises:
        SettingsError: nothing does.
    """
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return  # `auto` and the like
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_SECONDS).close()
    except OSError as error:
        raise SettingsError(f"knowledge.ray.address {address!r} cannot be reached: {error}") from error
