"""Files that are written whole: flushed to the disk, and put in place by a rename."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON with sorted keys and flush it to the disk."""
    with path.open("w", encoding="utf-8") as stream:
        json.dump(value, stream, indent=1, sort_keys=True, ensure_ascii=False, default=str)
        stream.write("\n")
        stream.flush()
        os.fsync(stream.fileno())


def replace_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees the old or the new file, never a part."""
    replace_file(path, lambda scratch: write_json(scratch, value))


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a file beside its place and rename it there: a reader sees the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        write(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Bytes on the disk before the name is: a power cut must not leave an empty file under a good manifest."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
