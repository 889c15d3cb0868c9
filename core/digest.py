"""Digests: what makes two artifacts, settings or code states the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces, so that equal values have equal text. Paths and dates become strings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)


def sha256_text(text: str) -> str:
    """Hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of the canonical JSON of `value`."""
    return sha256_text(canonical_json(value))


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256_path(path: Path) -> str:
    """Hex SHA-256 of a file, or of all files below a folder with their names."""
    if path.is_file():
        return sha256_file(path)
    return sha256_json({str(p.relative_to(path)): sha256_file(p) for p in sorted(path.rglob("*")) if p.is_file()})


def code_version(rooms: Iterable[str]) -> str:
    """Hex SHA-256 of the source (and templates) of the named rooms: a changed line is another version.

    Raises:
        ValueError: there is no such room; a misspelt name must not pass as code that never changes.
    """
    rooms = sorted(set(rooms))
    for room in rooms:
        if not (REPOSITORY / room).is_dir():
            raise ValueError(f"{REPOSITORY / room} is no room")
    sources = {
        str(path.relative_to(REPOSITORY)): sha256_file(path)
        for room in rooms
        for path in sorted((REPOSITORY / room).rglob("*"))
        if path.suffix in {".py", ".txt", ".j2", ".yaml"} and "__pycache__" not in path.parts
    }
    return sha256_json(sources)
