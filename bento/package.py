"""Build a Bento: the service's code and a seed bundle, ready for an image."""

from __future__ import annotations

import shutil
from pathlib import Path

from core import Settings
from core.digest import REPOSITORY
from core.errors import MissingArtifactError

ROOMS = ("core", "knowledge", "feature_repo", "models", "bento")


def build_bento(settings: Settings, bundle: Path, work: Path) -> str:
    """Build a Bento into BentoML's store.

    Args:
        settings: of the project; its name becomes a label.
        bundle: the seed bundle, served until a champion is published.
        work: an empty folder for the build context.

    Returns:
        The Bento's tag, `llm4msr:VERSION`.

    Raises:
        MissingArtifactError: there is no bundle.
    """
    import bentoml

    if not (bundle / "manifest.json").is_file():
        raise MissingArtifactError(f"{bundle}: no bundle to package; run `llm4msr train` first")
    context = work / "context"
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, context / room, ignore=shutil.ignore_patterns("__pycache__", "deploy"))
    shutil.copytree(bundle, context / "seed")
    lock = REPOSITORY / "requirements" / "serve.txt"
    shutil.copy(lock, context / "requirements.txt")
    (context / "pyproject.toml").write_text('[project]\nname = "llm4msr"\nversion = "0.1.0"\n')
    built = bentoml.build(
        "bento.service:Ranker",
        name="llm4msr",
        labels={"project": settings.project},
        include=["**/*"],
        python={"requirements_txt": "requirements.txt", "lock_packages": False, "no_index": False},
        build_ctx=str(context),
    )
    return str(built.tag)
