"""Ranking 100 candidates over HTTP: latency with 1 and 8 clients, against a no-op service and the obvious path.

    python -m benchmarks.serving [--quick] [--settings FILE] [--part latency|stress] [--fault]

`latency` compares with the references; `stress` measures processor time, a catalogue of 100,000 items, swaps, a store 5 ms away,
2,000 connections and the memory of a second worker. `--fault` measures nothing: it prints what is answered while the online
store does one of the faults of `store_proxy.py`.

All stages run once for the settings (default: the demo) below .llm4msr/benchmark; later runs reuse them. The online store is a
Redis started here (SQLite, and no targets, where `redis-server` is not installed). Three services run at the same
time, one process each, and are asked in turn by the same client: ours, a BentoML service that does nothing, and the
naive path of `reference_services.py`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import numpy as np

from benchmarks.harness import Figure, arguments, figure, finish, free_port, in_turn, in_turn_many, own_redis
from benchmarks.serving_stress import (
    answers_by_status,
    catalogue_cpu_ms,
    overload,
    processor_seconds,
    settled_memory_mb,
    slowest_ms,
    swaps,
)
from benchmarks.store_proxy import FAULTS, Proxy, store_proxy
from core import Settings, Window, configure, load_settings
from core.digest import REPOSITORY
from core.errors import UserError
from core.training_table import read_rows

CANDIDATES = 100
SERVICES = {
    "ours": "bento.service:Ranker",
    "noop": "benchmarks.reference_services:Noop",
    "naive": "benchmarks.reference_services:Naive",
}


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--settings", type=Path, default=REPOSITORY / "config" / "demo.yaml")
    parser.add_argument("--part", choices=("latency", "stress"), help="measure this only")
    parser.add_argument("--fault", action="store_true", help="print what is answered while the online store fails")
    options = parser.parse_args()
    configure(level="WARNING")
    # Ended from outside, the services and Redis end too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    figures: list[Figure] = []
    with ExitStack() as stack:
        store = stack.enter_context(_online_store())
        os.environ["LLM4MSR_ROOT"] = str(REPOSITORY / ".llm4msr" / "benchmark")
        os.environ["LLM4MSR_SETTINGS"] = str(options.settings.resolve())
        settings = load_settings(options.settings)
        prepare(settings)
        requests = make_requests(settings, 200)
        if options.fault:
            faults(requests, store)
            return
        if options.part != "stress":
            with ExitStack() as services:
                urls = {name: services.enter_context(_service(target)).url for name, target in SERVICES.items()}
                figures += measure(urls, requests, store, 300 if options.quick else 2000)
        if options.part != "latency":
            figures += stress(settings, requests, store, options.quick)
    finish("serving", figures, options.quick)


@dataclass(frozen=True)
class Service:
    """A service that runs: its address, and the process that started it."""

    url: str
    pid: int


def stress(settings: Settings, requests: list[dict[str, Any]], store: str, quick: bool) -> list[Figure]:
    """Processor time, swaps, a slow store, a crowd, memory."""
    count = 500 if quick else 3000
    figures = [
        figure("catalogue_100k_cpu_ms", "ms", catalogue_cpu_ms(settings, 9), target=30, bound="at_most", of="ours")
    ]
    with _service(SERVICES["ours"]) as ours, _service(SERVICES["noop"]) as noop:

        def cpu_ms(service: Service) -> float:
            begin = processor_seconds(service.pid)
            answers(service.url, requests, 8, count)
            return (processor_seconds(service.pid) - begin) / count * 1000

        for service in (ours, noop):
            answers(service.url, requests, 8, 300)
        cpu = in_turn({"ours": lambda: cpu_ms(ours), "noop": lambda: cpu_ms(noop)}, 3 if quick else 5)
        figures.append(figure("rank_cpu_ratio", "ms", cpu["ours"], cpu["noop"], target=2, bound="at_most"))
        seconds = 6 * (settings.serving.poll_seconds + 1) + 2
        calm = slowest_ms(ours.url, requests, seconds, lambda: None)
        with swaps(settings) as swap:
            swapping = slowest_ms(ours.url, requests, seconds, swap)
        figures.append(figure("swap_pause_ms", "ms", max(0.0, swapping - calm), target=20, bound="at_most", of="ours"))
        print(f"  slowest answer: {calm:.1f} ms, with six swaps {swapping:.1f} ms", file=sys.stderr)
        crowd = overload(ours.url, requests, 2 if quick else 5)
        print(f"  {crowd}", file=sys.stderr)
        figures.append(figure("overload_p99_ms", "ms", crowd["p99_ms"], target=250, bound="at_most", of="ours"))
    held = {}
    for workers in (1, 2):
        with _service(SERVICES["ours"], workers=workers) as alone:
            time.sleep(5 * workers)
            answers(alone.url, requests, 8, 300)
            held[workers] = settled_memory_mb(alone.pid)
    second = held[2] - held[1]
    figures.append(figure("second_worker_mb", "MB", second, held[1], target=150, bound="at_most", of="ours"))
    if store == "redis":
        with _slow_store() as proxy, _service(SERVICES["ours"]) as behind:

            def per_second(mode: str) -> float:
                proxy.switch(mode)
                return answers(behind.url, requests, 16, count)["per_s"]

            per_second("none")
            rates = in_turn({"5 ms": lambda: per_second("delay:5"), "0 ms": lambda: per_second("none")})
            figures.append(figure("store_5ms_throughput", "requests/s", rates["5 ms"], rates["0 ms"], target=0.8))
    return figures


def faults(requests: list[dict[str, Any]], store: str) -> None:
    """Print what 8 clients are answered while the online store fails, and after it.

    Raises:
        UserError: there is no Redis here.
    """
    if store != "redis":
        raise UserError("--fault needs redis-server: faults are planted between the service and a Redis of its own")
    with _slow_store() as proxy, _service(SERVICES["ours"], LLM4MSR_ONLINE__TIMEOUT_MS="50") as service:
        print(f"{'fault':<12} {'statuses':<24} degraded   p50 ms   p99 ms")
        for fault in ("none", *FAULTS, "none"):
            proxy.switch(fault)
            found = answers_by_status(service.url, requests, 8, 6)
            print(
                f"{fault:<12} {found['statuses']!s:<24} {found['degraded']:8.1%} {found['p50_ms']:8.1f} {found['p99_ms']:8.1f}",
                flush=True,
            )


@contextmanager
def _slow_store() -> Iterator[Proxy]:
    """A proxy before our Redis, named to the settings by the environment."""
    real = os.environ["LLM4MSR_ONLINE__URL"]
    with store_proxy(real) as proxy:
        os.environ["LLM4MSR_ONLINE__URL"] = proxy.address
        try:
            yield proxy
        finally:
            os.environ["LLM4MSR_ONLINE__URL"] = real


def prepare(settings: Settings) -> None:
    """Train and promote a model once, and fill the online store, which may be new."""
    from feature_repo import materialize
    from pipeline.run import run_all
    from pipeline.windows import artifact_store, clean_tables, stage_clock

    print("preparing: all stages, a few minutes the first time", flush=True)
    run_all(settings, Window())
    store = artifact_store(settings)
    materialize(
        settings,
        stage_clock(settings, Window()),
        sources=[m.path for m in clean_tables(settings, Window())],
        features=store.get("features").path,
        knowledge=store.get("knowledge").path,
        start=None,
        end=None,
    )


def make_requests(settings: Settings, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Requests for users of the log and random items: the same for all services."""
    from pipeline.windows import artifact_store

    rows = read_rows(artifact_store(settings).get("dataset").path)
    users, items, scenarios = (rows[name].unique().to_pylist() for name in ("user_id", "item_id", "scenario"))
    rng = np.random.default_rng(seed)
    return [
        {
            "user_id": users[rng.integers(len(users))],
            "scenario": scenarios[rng.integers(len(scenarios))],
            "candidates": [items[i] for i in rng.choice(len(items), CANDIDATES, replace=False)],
            "k": 10,
        }
        for _ in range(count)
    ]


def measure(urls: dict[str, str], requests: list[dict[str, Any]], store: str, count: int) -> list[Figure]:
    """Latencies and rates of all services, and the figures made of them."""
    for url in urls.values():
        answers(url, requests, clients=8, count=max(100, count // 4))
    found = in_turn_many(
        {
            f"{name}, {clients} clients": partial(answers, url, requests, clients, count)
            for clients in (1, 8)
            for name, url in urls.items()
        }
    )
    one, many = ({name: found[f"{name}, {clients} clients"] for name in urls} for clients in (1, 8))
    bounds = {"p50_ms": 3.0, "p99_ms": 10.0} if store == "redis" else {}
    share = 3.0 if store == "redis" else None
    figures = [
        figure(
            f"rank_{CANDIDATES}_{key}_1_client_{store}",
            "ms",
            one["ours"][key],
            one["noop"][key],
            target=bounds.get(key),
            bound="at_most",
            of="ours",
        )
        for key in ("p50_ms", "p99_ms")
    ]
    figures += [
        figure(
            f"rank_{CANDIDATES}_{key}_8_clients_{store}",
            "ms",
            many["ours"][key],
            many["noop"][key],
            target=share,
            bound="at_most",
        )
        for key in ("p50_ms", "p99_ms")
    ]
    name = f"rank_{CANDIDATES}_requests_per_s_8_clients_{store}"
    return [*figures, figure(name, "requests/s", many["ours"]["per_s"], many["naive"]["per_s"], target=5)]


def answers(url: str, requests: list[dict[str, Any]], clients: int, count: int) -> dict[str, float]:
    """What `load` finds."""
    return asyncio.run(load(url, requests, clients, count))


async def load(url: str, requests: list[dict[str, Any]], clients: int, count: int) -> dict[str, float]:
    """Ask `count` times, each client one request at a time.

    Returns:
        `p50_ms` and `p99_ms` of the answers' latency, and `per_s`, answers a second.

    Raises:
        UserError: an answer is not 200.
    """
    latencies: list[float] = []
    waiting = iter(range(count))

    async def client(session: aiohttp.ClientSession) -> None:
        for number in waiting:
            begin = time.perf_counter()
            async with session.post(f"{url}/rank", json=requests[number % len(requests)]) as answer:
                body = await answer.read()
            latencies.append(time.perf_counter() - begin)
            if answer.status != 200:
                raise UserError(f"{url} answered {answer.status}: {body[:300]!r}")

    async with aiohttp.ClientSession() as session:
        begin = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        seconds = time.perf_counter() - begin
    p50, p99 = np.quantile(latencies, (0.5, 0.99)) * 1000
    return {"p50_ms": float(p50), "p99_ms": float(p99), "per_s": count / seconds}


@contextmanager
def _service(target: str, workers: int = 1, wait_seconds: float = 180, **more: str) -> Iterator[Service]:
    from pipeline.commands.serve import service_command

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [target if part == SERVICES["ours"] else part for part in service_command("127.0.0.1", port, workers)]
    environment = {
        "BENTOML_DO_NOT_TRACK": "True",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        **os.environ,
        **more,
    }
    # Two services of one home would empty each other's metrics.
    with tempfile.TemporaryFile() as log, tempfile.TemporaryDirectory() as home:
        environment["BENTOML_HOME"] = home
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + wait_seconds
            while not _ready(url):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise UserError(f"{target} did not start:\n{log.read().decode(errors='replace')[-2000:]}")
                time.sleep(0.2)
            yield Service(url, process.pid)
        finally:
            process.terminate()
            process.wait(timeout=30)


@contextmanager
def _online_store() -> Iterator[str]:
    """A Redis of our own, named to the settings by environment variables; SQLite where there is none."""
    with own_redis() as address:
        if address is None:
            print("the targets are for Redis and are left out", file=sys.stderr)
            yield "sqlite"
            return
        os.environ["LLM4MSR_ONLINE__STORE"] = "redis"
        os.environ["LLM4MSR_ONLINE__URL"] = address
        yield "redis"


def _ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
