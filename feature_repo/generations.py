"""What was ever registered: `root/feast/generations/NAME.json`, a file for each generation, and `latest.json`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import ClassVar

from core import Settings
from core.contracts.contract import Contract
from core.files import replace_json
from feature_repo.overlay import feast_folder
from feature_repo.views import Generation, SourcePaths


class Declared(Contract):
    """A generation and the files behind its views."""

    REMAKE: ClassVar[str] = "delete it, and `llm4msr materialize` writes that of today anew"

    generation: Generation
    paths: SourcePaths


class Latest(Contract):
    """`latest.json`: the name of the generation that was registered last."""

    REMAKE: ClassVar[str] = Declared.REMAKE

    name: str


def remember(settings: Settings, generation: Generation, paths: SourcePaths) -> None:
    """Keep what was registered, as the latest."""
    folder = _folder(settings)
    whole = SourcePaths(**{part.name: getattr(paths, part.name).resolve() for part in fields(paths)})
    replace_json(folder / f"{generation.name}.json", Declared(generation=generation, paths=whole).as_json())
    replace_json(folder / "latest.json", Latest(name=generation.name).as_json())


def declared_generations(settings: Settings) -> list[tuple[Generation, SourcePaths]]:
    """All generations that were ever registered below this root, the latest last.

    Raises:
        CorruptArtifactError: a file cannot be used; the message names it.
    """
    folder = _folder(settings)
    if not (latest := folder / "latest.json").is_file():
        return []
    newest = Latest.read_file(latest).name
    files = sorted(folder.glob("*.json"), key=lambda file: (file.stem == newest, file.stem))
    found = [Declared.read_file(file) for file in files if file != latest]
    return [(one.generation, one.paths) for one in found]


def _folder(settings: Settings) -> Path:
    return feast_folder(settings) / "generations"
