"""Which model a local folder holds."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from core.digest import sha256_file, sha256_json
from core.files import replace_json
from core.settings import KnowledgeSettings

_WEIGHTS = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja"}


def folder_digest(folder: Path) -> str:
    """Hash of a model's files: weights, configuration and tokenizer."""
    return sha256_json({path.name: sha256_file(path) for path in _files(folder)})


def local_model(settings: KnowledgeSettings, cache: Path) -> dict[str, str]:
    """The digest of the model's folder as `model`; nothing where the model is no local folder.

    Gigabytes are read once: the digest is kept in `CACHE/models.json`, and holds as long as the files' names, sizes and
    times do.

    Args:
        settings: which model.
        cache: the cache's root.
    """
    if settings.reasoner != "transformers" or settings.model is None or not Path(settings.model).is_dir():
        return {}
    folder, memory = Path(settings.model).resolve(), cache / "models.json"
    stamp = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in _files(folder)]
    kept: dict[str, dict[str, object]] = {}
    if memory.is_file():
        with contextlib.suppress(ValueError):  # damaged: made again
            kept = json.loads(memory.read_text())
    found = kept.get(str(folder), {})
    if found.get("files") != stamp:
        found = {"files": stamp, "digest": folder_digest(folder)}
        with contextlib.suppress(OSError):  # the stage says it better
            replace_json(memory, {**kept, str(folder): found})
    return {"model": str(found["digest"])}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and path.suffix in _WEIGHTS)
