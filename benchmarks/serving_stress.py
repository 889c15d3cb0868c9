"""The service under load, swaps and a slow store: what `benchmarks/serving.py` measures beside latency."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import psutil

from core import Settings
from core.contracts.pointers import BundlePointer, CataloguePointer

ITEMS = 100_000
CONNECTIONS = 2_000


def processor_seconds(pid: int) -> float:
    """What a process and its children have used of processors until now."""
    parent = psutil.Process(pid)
    times = (process.cpu_times() for process in (parent, *parent.children(recursive=True)))
    return sum(one.user + one.system for one in times)


def memory_mb(pid: int) -> float:
    """What a process and its children hold; what they share counts once."""
    parent = psutil.Process(pid)
    return sum(process.memory_full_info().pss for process in (parent, *parent.children(recursive=True))) / 1e6


def settled_memory_mb(pid: int) -> float:
    """`memory_mb`, once all workers have loaded what they hold: it has not changed by 1 % for five seconds."""
    before = 0.0
    while abs((now := memory_mb(pid)) - before) > 0.01 * now:
        before = now
        time.sleep(5)
    return now


def catalogue_cpu_ms(settings: Settings, repeats: int) -> float:
    """Processor time to rank a catalogue of 100,000 items for one user, on one thread."""
    import torch

    from bento.catalogue import load_catalogue
    from bento.scorer import best_of
    from models import RequestBatch, load_bundle

    torch.set_num_threads(1)
    champion, published = BundlePointer.read(settings.root), CataloguePointer.read(settings.root)
    assert champion is not None and published is not None
    bundle, catalogue = load_bundle(champion.folder(settings.root)), load_catalogue(published.folder(settings.root))
    chosen = np.arange(ITEMS) % len(catalogue)
    items = bundle.prepare_items({name: c[chosen] for name, c in catalogue.columns.items()}, catalogue.text[chosen])
    layout, scenario = bundle.encoder.layout, bundle.spec.scenarios[0]
    numbers, some = [feature.name for feature in bundle.encoder.user_dense], np.random.default_rng(0)
    user = RequestBatch(
        scenario=[],
        user={"user_id": [1], **{name: [None] for name in (*layout.user[1:], *numbers)}},
        user_index=np.zeros(0, np.int64),
        history=[catalogue.columns["item_id"][:20].tolist()],
        item={},
        user_vectors={kind: some.normal(size=(1, d)).astype(np.float32) for kind, d in layout.user_vectors.items()},
        scenario_vectors={scenario: some.normal(size=layout.scenario_dim).astype(np.float32)}
        if layout.scenario_dim
        else {},
    )
    rows, found = np.arange(ITEMS), []
    for _ in range(repeats + 1):
        begin = time.process_time()
        best_of(rows, bundle.score_items(items, rows, scenario, user).probability, 10)
        found.append(time.process_time() - begin)
    return float(np.median(found[1:])) * 1000


def slowest_ms(url: str, requests: Sequence[dict[str, Any]], seconds: float, beside: Callable[[], None]) -> float:
    """The slowest answer of 40 requests a second, while something else is done in a thread."""

    async def run() -> float:
        latencies: list[float] = []

        async def ask(session: aiohttp.ClientSession, number: int) -> None:
            begin = time.perf_counter()
            async with session.post(f"{url}/rank", json=requests[number % len(requests)]) as answer:
                await answer.read()
                answer.raise_for_status()
            latencies.append(time.perf_counter() - begin)

        async with aiohttp.ClientSession() as session:
            tasks: list[asyncio.Future[None]] = []
            other = asyncio.ensure_future(asyncio.to_thread(beside))
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                tasks.append(asyncio.ensure_future(ask(session, len(tasks))))
                await asyncio.sleep(1 / 40)
            await asyncio.gather(other, *tasks)
        return max(latencies) * 1000

    return asyncio.run(run())


@contextmanager
def swaps(settings: Settings) -> Iterator[Callable[[], None]]:
    """What lets a bundle and a catalogue that lie elsewhere go live, again and again; all is as before afterwards."""
    root = settings.root
    champion, published = BundlePointer.read(root), CataloguePointer.read(root)
    assert champion is not None and published is not None
    bundle, catalogue = Path(champion.bundle), Path(published.catalogue)
    copies = [root / "objects" / "train" / "copy", root / "objects" / "catalogue" / "copy"]
    for folder, copy in zip((bundle.parent, catalogue), copies, strict=True):
        shutil.copytree(root / folder, copy, dirs_exist_ok=True)
    other = champion.model_copy(update={"bundle": f"objects/train/copy/{bundle.name}"})
    others = published.model_copy(update={"catalogue": "objects/catalogue/copy"})

    def swap() -> None:
        for number in range(6):
            one, two = (champion, published) if number % 2 else (other, others)
            two.publish(root)
            one.model_copy(update={"version": champion.version + number + 1}).publish(root)
            time.sleep(settings.serving.poll_seconds + 1)

    try:
        yield swap
    finally:
        champion.publish(root)
        published.publish(root)
        for copy in copies:
            shutil.rmtree(copy, ignore_errors=True)


def overload(url: str, requests: Sequence[dict[str, Any]], rounds: int) -> dict[str, float]:
    """Each of 2,000 connections asks at the same moment, round by round; any answer counts.

    Returns:
        `p99_ms` of all answers, and the shares `answered` (200) and `refused` (429).
    """

    async def run() -> dict[str, float]:
        latencies: list[float] = []
        codes: list[int] = []
        bodies = [json.dumps(request).encode() for request in requests]
        head = b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        host, port = url.removeprefix("http://").split(":")
        opened = []
        for _ in range(CONNECTIONS):
            opened.append(await asyncio.open_connection(host, int(port)))

        async def ask(number: int) -> None:
            reader, writer = opened[number]
            body = bodies[number % len(bodies)]
            begin = time.perf_counter()
            writer.write(head % len(body) + body)
            told = await reader.readuntil(b"\r\n\r\n")
            lines = told.decode("latin-1").lower().split("\r\n")
            length = next(int(line.split(":")[1]) for line in lines if line.startswith("content-length"))
            await reader.readexactly(length)
            latencies.append(time.perf_counter() - begin)
            codes.append(int(lines[0].split()[1]))

        for _ in range(rounds):
            await asyncio.gather(*(ask(number) for number in range(CONNECTIONS)))
        for _, writer in opened:
            writer.close()
        found = np.array(codes)
        return {
            "p99_ms": float(np.quantile(latencies, 0.99)) * 1000,
            "answered": float((found == 200).mean()),
            "refused": float((found == 429).mean()),
        }

    return asyncio.run(run())


def answers_by_status(url: str, requests: Sequence[dict[str, Any]], clients: int, seconds: float) -> dict[str, Any]:
    """What clients that ask one request at a time are answered: statuses, the share of degraded answers, latencies."""

    async def run() -> dict[str, Any]:
        codes: dict[int, int] = {}
        latencies: list[float] = []
        degraded = 0
        end = time.perf_counter() + seconds

        async def client(session: aiohttp.ClientSession, number: int) -> None:
            nonlocal degraded
            while time.perf_counter() < end:
                number += 1
                begin = time.perf_counter()
                async with session.post(f"{url}/rank", json=requests[number % len(requests)]) as answer:
                    body = await answer.json(content_type=None)
                latencies.append(time.perf_counter() - begin)
                codes[answer.status] = codes.get(answer.status, 0) + 1
                degraded += bool(body.get("degraded"))

        async with aiohttp.ClientSession() as session:
            await asyncio.gather(*(client(session, 17 * number) for number in range(clients)))
        p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1000
        return {"statuses": codes, "degraded": degraded / len(latencies), "p50_ms": p50, "p99_ms": p99}

    return asyncio.run(run())
