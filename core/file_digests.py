"""Digests of files, kept: a file that has not changed is not read again to know its digest."""

from __future__ import annotations

import json
from pathlib import Path

from core.clock import wall
from core.digest import sha256_file
from core.files import replace_json
from core.log import logger

LOG = logger("core")
# A file that was written so shortly before may be written again within one tick of its file system's clock.
_SETTLED = 2_000_000_000


class FileDigests:
    """SHA-256 of files, by path, size and times of change; the time of a change of the inode sees an edit that keeps the other.

    Args:
        file: where they are kept. It may be deleted at any time.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._known, self._found = file, _read(file), dict[str, list[int | str]]()

    def of(self, path: Path) -> str:
        """The digest of a file, hex."""
        about = path.stat()
        state: list[int | str] = [about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino, about.st_dev]
        known = self._known.get(str(path), [])
        digest = str(known[-1]) if known[:-1] == state else sha256_file(path)
        if wall().now_micros() * 1000 - max(about.st_mtime_ns, about.st_ctime_ns) > _SETTLED:
            self._found[str(path)] = [*state, digest]
        return digest

    def keep(self) -> None:
        """Keep what was found; files that nobody asked for are forgotten."""
        if self._found != self._known:
            replace_json(self._file, self._found)


def _read(file: Path) -> dict[str, list[int | str]]:
    try:
        body = json.loads(file.read_text(encoding="utf-8"))
        return {str(path): list(state) for path, state in body.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        LOG.warning("%s cannot be read (%s); files are read once more", file, error)
        return {}
