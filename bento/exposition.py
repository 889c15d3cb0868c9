"""`/metrics`: what all processes of this service counted, without what nobody needs.

BentoML's own answer also holds Feast's series, those of models that are long gone, and gauges of processes that were killed.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, Metric, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from starlette.responses import Response

from bento.asgi import App, Receive, Scope, Send

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
PATH = "/metrics"
_MODEL, _OURS = "llm4msr_model", "llm4msr_"
# Feast counts its own server's work; here it only reads.
_LEFT_OUT = ("feast_",)
_IN_ORDER = {"bucket": 0, "count": 1, "sum": 2}


class Exposition:
    """ASGI middleware: answers `/metrics` in place of BentoML.

    Args:
        app: what answers all else.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] not in ("GET", "HEAD"):
            await self.app(scope, receive, send)
            return
        # It reads a file of each process and kind: not in the loop, where rankings are.
        body = await asyncio.to_thread(exposition)
        await Response(body, media_type=CONTENT_TYPE_LATEST)(scope, receive, send)


def exposition() -> bytes:
    """The metrics of all processes, in Prometheus' text format."""
    folder, registry = os.environ.get(FOLDER), REGISTRY
    if folder:
        forget_dead(Path(folder))
        registry = CollectorRegistry()
        MultiProcessCollector(registry, folder)
    return generate_latest(_Shown(registry))


def forget_dead(folder: Path) -> None:
    """Remove the gauges of processes that are no more; their counts stay, since they did happen."""
    for file in folder.glob("gauge_live*_*.db"):
        pid = file.stem.rpartition("_")[2]
        if pid.isdigit() and not Path(f"/proc/{pid}").exists():
            file.unlink(missing_ok=True)


class _Shown(Collector):
    """What is worth showing of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        """Families with their samples."""
        families = [family for family in self._registry.collect() if not family.name.startswith(_LEFT_OUT)]
        live = _live_versions(families)
        for family in families:
            if family.name.startswith(_OURS):
                family.samples = [one for one in family.samples if one.labels.get("version") in live]
            if family.name == _MODEL:
                family.samples = [one for one in family.samples if one.value]
            if family.type == "histogram":
                family.samples.sort(key=_place)
            yield family


def _live_versions(families: Iterable[Metric]) -> set[str | None]:
    """Versions that some process serves, and None for series that have no version."""
    models = (one for family in families if family.name == _MODEL for one in family.samples)
    return {None, *(one.labels["version"] for one in models if one.value)}


def _place(sample: Sample) -> tuple[tuple[tuple[str, str], ...], int]:
    """The format wants the samples of a histogram together, its buckets first."""
    labels = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
    return labels, _IN_ORDER.get(sample.name.rpartition("_")[2], 3)
