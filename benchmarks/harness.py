"""What all benchmarks share: measuring in turn, medians, the machine, and the one JSON line at the end.

A benchmark is `python -m benchmarks.NAME [--quick]`. Its last line of output is

    {"benchmark": NAME, "machine": {...},
     "figures": [{"name", "unit", "ours", "reference", "ratio", "target", "holds"}]}

`ratio` is ours over the reference. `target` bounds the ratio, or our figure where there is no ratio to bound; `holds`
says whether it is met, and is null without a target.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

REPEATS = 3


@dataclass(frozen=True)
class Figure:
    """One line of a benchmark's result; the fields are those of the JSON."""

    name: str
    unit: str
    ours: float
    reference: float | None
    ratio: float | None
    target: float | None
    holds: bool | None


def figure(
    name: str,
    unit: str,
    ours: float,
    reference: float | None = None,
    *,
    target: float | None = None,
    bound: Literal["at_least", "at_most"] = "at_least",
    of: Literal["ratio", "ours"] = "ratio",
) -> Figure:
    """A figure with its ratio and whether the target is met.

    Args:
        name: what was measured.
        unit: of `ours` and `reference`.
        ours: our median.
        reference: the reference's median in the same run, if there is one.
        target: what the figure is designed for.
        bound: whether the target is the least or the most.
        of: whether the target bounds the ratio or our figure.
    """
    ratio = ours / reference if reference else None
    value = ratio if of == "ratio" else ours
    holds = None
    if target is not None and value is not None:
        holds = value >= target if bound == "at_least" else value <= target
    return Figure(name, unit, ours, reference, ratio, target, holds)


def in_turn(measures: Mapping[str, Callable[[], float]], repeats: int = REPEATS) -> dict[str, float]:
    """The median of each measure; they run in turn, so that a slow moment of the machine hits all alike.

    Args:
        measures: name -> function that measures once.
        repeats: rounds, at least three.
    """
    found = in_turn_many({name: _single(measure) for name, measure in measures.items()}, repeats)
    return {name: values["value"] for name, values in found.items()}


def in_turn_many(
    measures: Mapping[str, Callable[[], Mapping[str, float]]], repeats: int = REPEATS
) -> dict[str, dict[str, float]]:
    """As `in_turn`, for measures that give several named values at once."""
    if repeats < REPEATS:
        raise ValueError(f"a median needs at least {REPEATS} rounds, not {repeats}")
    found: dict[str, list[Mapping[str, float]]] = {name: [] for name in measures}
    for turn in range(repeats):
        for name, measure in measures.items():
            found[name].append(measure())
            shown = ", ".join(f"{key} {value:.6g}" for key, value in found[name][-1].items())
            print(f"  {name}, round {turn + 1} of {repeats}: {shown}", file=sys.stderr, flush=True)
    return {
        name: {key: statistics.median(one[key] for one in values) for key in values[0]}
        for name, values in found.items()
    }


def _single(measure: Callable[[], float]) -> Callable[[], Mapping[str, float]]:
    return lambda: {"value": measure()}


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    about: dict[str, Any] = {
        "cpu": _cpu(),
        "cores": usable,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load": round(os.getloadavg()[0], 1),
        "system": platform.system(),
        "python": platform.python_version(),
    }
    if torch := sys.modules.get("torch"):
        about["torch"] = torch.__version__
        about["gpu"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else None
    return about


def peak_mib() -> float:
    """The most memory this process ever held; not that of the process which started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def free_port() -> int:
    """A port of this machine that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def own_redis() -> Iterator[str | None]:
    """A Redis of our own that keeps nothing: `host:port,db=0`; None where there is no `redis-server`."""
    binary = shutil.which("redis-server")
    if binary is None:
        print("redis-server is not installed: SQLite alone is measured", file=sys.stderr)
        yield None
        return
    import redis

    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        quiet = ["--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--dir", folder, "--loglevel", "warning"]
        process = subprocess.Popen([binary, "--port", str(port), *quiet], stdout=subprocess.DEVNULL)
        try:
            retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), 200)
            redis.Redis(port=port, retry=retry, retry_on_error=[redis.ConnectionError]).ping()
            yield f"127.0.0.1:{port},db=0"
        finally:
            process.terminate()
            process.wait(timeout=30)


def result(benchmark: str, figures: Sequence[Figure], quick: bool) -> str:
    """The JSON line."""
    about = {**machine(), "quick": quick}
    body = {"benchmark": benchmark, "machine": about, "figures": [asdict(one) for one in figures]}
    return json.dumps(body, allow_nan=False)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """A parser that knows --quick."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less data and shorter rounds; the figures are rougher")
    return parser


def finish(benchmark: str, figures: Sequence[Figure], quick: bool) -> None:
    """Print a table for people on stderr and the JSON line, last, on stdout."""
    for one in figures:
        against = f" against {one.reference:.4g}, ratio {one.ratio:.3g}" if one.reference and one.ratio else ""
        verdict = {True: " holds", False: " MISSED", None: ""}[one.holds]
        target = f" (target {one.target:g}{verdict})" if one.target is not None else ""
        print(f"{one.name}: {one.ours:.4g} {one.unit}{against}{target}", file=sys.stderr)
    sys.stderr.flush()
    print(result(benchmark, figures, quick), flush=True)


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
