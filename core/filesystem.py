"""What a file system must do for `root`: a mount of an object store often does only some of it; and its locks."""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from core.errors import StorageError


@contextmanager
def locked(path: Path, waiting: Callable[[], object] = lambda: None, patience: float | None = None) -> Iterator[None]:
    """Hold a file's lock against other processes; it ends with this one, however that ends.

    Args:
        path: the file; made when missing.
        waiting: called once if another process holds it.
        patience: seconds to wait for that process; None: as long as it takes.

    Raises:
        TimeoutError: another process held it all the time.
        OSError: the file cannot be made or locked.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            _wait_for(stream, path, patience)
        yield


def _wait_for(stream: IO[str], path: Path, patience: float | None) -> None:
    if patience is None:
        fcntl.flock(stream, fcntl.LOCK_EX)
        return
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"another process has held {path} for {patience:g} s") from error
            time.sleep(0.02)


def try_filesystem(folder: Path) -> str:
    """Do in a folder, on a small scale, all that the product does below `root`; nothing is left behind.

    Args:
        folder: an existing folder on the file system in question.

    Returns:
        What was seen, for people.

    Raises:
        StorageError: something cannot be done there; the message names it.
    """
    step = "make a folder"
    try:
        with tempfile.TemporaryDirectory(prefix=".try-", dir=folder) as name:
            work = Path(name)
            step = "write a file and make sure that it is stored"
            (work / "made").mkdir()
            with (work / "made" / "data").open("wb") as file:
                file.write(b"one")
                file.flush()
                os.fsync(file.fileno())
            step = "rename a folder with files in it (how results are published)"
            (work / "made").rename(work / "published")
            step = "replace a file by another (how pointers are moved)"
            (work / "new").write_bytes(b"two")
            (work / "new").replace(work / "published" / "data")
            step = "map a file into memory (how vectors are read)"
            with (
                (work / "published" / "data").open("rb") as stored,
                mmap.mmap(stored.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
            ):
                if mapped[:] != b"two":
                    raise OSError("other bytes came back than were written")
            step = "lock a file against other processes (how pushes and pins take turns)"
            _lock(work / "lock")
            return f"{folder} renames, replaces, maps and locks; {_links(work / 'published' / 'data')}"
    except OSError as error:
        raise StorageError(f"{folder}: cannot {step}: {error}") from error


def _lock(path: Path) -> None:
    with path.open("w") as first, path.open("w") as second:
        fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        raise OSError("a second lock was given while the first was held")


def _links(path: Path) -> str:
    """Vectors of a training table are linked where that is possible."""
    try:
        os.link(path, path.with_name("linked"))
    except OSError:
        return "no hard links, so that each training table copies its vectors"
    return "hard links too"
