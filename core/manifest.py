"""What a published artifact says of itself: `manifest.json` in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.digest import sha256_file, sha256_json
from core.errors import CorruptArtifactError

FILE = "manifest.json"
# Files below this folder of an artifact (logs, timings, Data Docs) do not count for the content digest.
RUN_FOLDER = "run"


@dataclass(frozen=True)
class Built:
    """What a stage's builder reports: row counts and versions, both part of the content digest."""

    rows: Mapping[str, int] = field(default_factory=dict)
    versions: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A published artifact. `digest` covers data files, rows and versions, not times or run ids.

    `rewritten` says why it is no longer what its inputs make (see `ArtifactStore.rewrite`): it stands in until it is
    built anew.
    """

    stage: str
    window: Mapping[str, str | None]
    fingerprint: str
    inputs: Mapping[str, str]
    settings: Mapping[str, Any]
    code: str
    rows: Mapping[str, int]
    versions: Mapping[str, Any]
    files: Mapping[str, str]
    digest: str
    path: Path
    reused: bool = False
    rewritten: str | None = None

    def file(self, name: str) -> Path:
        """The path of a data file of this artifact."""
        return self.path / name

    @property
    def published_ns(self) -> int:
        """When it was published, in nanoseconds; of two artifacts the later one has the higher."""
        return (self.path / FILE).stat().st_mtime_ns

    @property
    def order(self) -> tuple[str, str]:
        """Sorts artifacts by their windows: by end, then by start; a window without an end comes last."""
        return str(self.window["end"] or "~"), str(self.window["start"] or "")

    def as_json(self) -> dict[str, Any]:
        """What is written."""
        body = {name: value for name, value in self.__dict__.items() if name not in ("path", "reused", "rewritten")}
        return body | ({"rewritten": self.rewritten} if self.rewritten is not None else {})

    def check(self, names: Iterable[str] | None = None) -> None:
        """Read files again and compare them, and the counts and versions, with the digest.

        Args:
            names: the files; None: all of them.

        Raises:
            CorruptArtifactError: a file is missing, or something differs from what was published.
        """
        if content_digest(self.files, self.rows, self.versions) != self.digest:
            raise CorruptArtifactError(f"{self.path}: {FILE} was altered; delete the folder and run again")
        for name in self.files if names is None else names:
            path = self.path / name
            if name not in self.files or not path.is_file() or sha256_file(path) != self.files[name]:
                raise CorruptArtifactError(
                    f"{path}: not the bytes that were published; delete {self.path} and run again"
                )


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an artifact's folder.

    Raises:
        CorruptArtifactError: there is none that can be read.
    """
    try:
        return Manifest(**json.loads((folder / FILE).read_text(encoding="utf-8")), path=folder)
    except (OSError, ValueError, TypeError) as error:
        raise CorruptArtifactError(
            f"{folder}: no readable {FILE} ({error}); delete the folder and run again"
        ) from error


def data_digest(folder: Path, name: str) -> str:
    """The digest of a data file of an artifact's folder: from its manifest where it has one."""
    manifest = folder / FILE
    if manifest.is_file():
        known = json.loads(manifest.read_text(encoding="utf-8")).get("files", {}).get(name)
        if known:
            return str(known)
    return sha256_file(folder / name)


def content_digest(files: Mapping[str, str], rows: Mapping[str, int], versions: Mapping[str, Any]) -> str:
    """The digest of an artifact's content."""
    return sha256_json({"files": dict(files), "rows": dict(rows), "versions": dict(versions)})
