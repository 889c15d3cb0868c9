"""Digests: what makes two artifacts, settings or code states the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

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


def vector_digests(ids: Sequence[Any], version: str, prompts: Sequence[str], vectors: np.ndarray) -> np.ndarray:
    """Who each vector belongs to: SHA-256 over id, version, prompt hash and the vector's bytes.

    Args:
        ids: n ids.
        version: of the vectors.
        prompts: n prompt hashes.
        vectors: float32 [n, d].

    Returns:
        uint8 [n, 32]. Vectors that were swapped, replaced or relabelled have other digests.
    """
    found = np.empty((len(ids), 32), dtype=np.uint8)
    for row, (key, prompt) in enumerate(zip(ids, prompts, strict=True)):
        body = f"{key}\0{version}\0{prompt}\0".encode() + np.ascontiguousarray(vectors[row], np.float32).tobytes()
        found[row] = np.frombuffer(hashlib.sha256(body).digest(), dtype=np.uint8)
    return found
