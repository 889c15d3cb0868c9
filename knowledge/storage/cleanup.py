"""What killed runs left in the cache: half-written files beside their places, and what the database spilled."""

from __future__ import annotations

import fcntl
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from core.clock import wall
from core.log import logger

LOG = logger("knowledge")
_NAME = re.compile(r"\..+\.[0-9a-f]{32}")
_LOCK = "in_use"
_SECONDS = 86_400.0


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep a scratch folder from being swept while this process lives, however long."""
    with (folder / _LOCK).open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def sweep(cache: Path) -> None:
    """Remove what is not read any more, and scratch files and folders that nobody has written to for a day and no process holds."""
    drop_superseded(cache)
    before = wall().now().timestamp() - _SECONDS
    for path in [path for folder in _folders(cache) for path in _listed(folder) if _NAME.fullmatch(path.name)]:
        with suppress(OSError):  # gone meanwhile, or not ours
            if _newest(path) < before and not _held(path):
                LOG.info("%s was left by a killed run; removing it", path)
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def drop_superseded(cache: Path) -> None:
    """Remove what earlier versions of this room kept of users and this one does not read."""
    shutil.rmtree(cache / "users", ignore_errors=True)


def _folders(cache: Path) -> Iterator[Path]:
    """The folders in which scratch files can lie; shards, which are many, have none."""
    yield cache
    for folder in _listed(cache):
        yield folder
        if folder.name == "done" or folder.name.endswith(".users"):
            yield from _listed(folder)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # no folder, or gone meanwhile
        return []


def _newest(path: Path) -> float:
    return max(found.stat().st_mtime for found in [path, *(path.iterdir() if path.is_dir() else ())])


def _held(path: Path) -> bool:
    if not (path / _LOCK).is_file():
        return False
    with (path / _LOCK).open("r+") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
