"""Build a Bento: the service's code and a seed bundle, ready to be served or made into an image."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

from core import Settings
from core.contracts.contract import SpecFile
from core.digest import REPOSITORY
from core.errors import MissingArtifactError

NAME = "llm4msr"
# Beside this code, in a Bento and in an image; there is none in a checkout.
SEED = "seed"
LOCK = REPOSITORY / "requirements" / "serve.txt"
# What the service imports, and nothing else.
ROOMS = ("core", "ingest", "knowledge", "feature_repo", "models", "bento")


class Packaged(SpecFile):
    """`bento.json` of a package: the name of its Bento, and the bundle inside, relative to the root."""

    FILE: ClassVar[str] = "bento.json"
    REMAKE: ClassVar[str] = "run `llm4msr package` again"

    tag_name: str
    bundle: str


def build_bento(settings: Settings, bundle: Path, work: Path) -> str:
    """Build a Bento into BentoML's store, without a network.

    The Bento finds its seed bundle beside its code. It needs LLM4MSR_SETTINGS, whose root holds the catalogue and the
    online store.

    Args:
        settings: of the project; its name becomes a label.
        bundle: the seed bundle, served until a champion is published.
        work: a folder for the build context, which is removed afterwards.

    Returns:
        The Bento's tag, `llm4msr:VERSION`.

    Raises:
        MissingArtifactError: there is no bundle.
    """
    import bentoml

    if not (bundle / "manifest.json").is_file():
        raise MissingArtifactError(f"{bundle}: no bundle to package; run `llm4msr train` first")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as folder:
        fill_context(Path(folder), bundle)
        built = bentoml.build(
            "bento.service:Ranker",
            name=NAME,
            labels={"project": settings.project},
            include=["*"],
            # It is locked already, and whole: locking again would ask an index. Not as a file: BentoML refuses one below a
            # folder whose name begins with a dot, as the root's often does.
            python={"packages": locked_packages(), "lock_packages": False},
            docker={"python_version": "3.11"},
            build_ctx=folder,
        )
    return str(built.tag)


def has_bento(tag: str) -> bool:
    """Whether BentoML's store holds a Bento."""
    import bentoml

    try:
        bentoml.bentos.get(tag)
    except bentoml.exceptions.NotFound:
        return False
    return True


def fill_context(context: Path, bundle: Path) -> None:
    """Copy the rooms that serve and the seed into a folder."""
    for room in ROOMS:
        ignored = shutil.ignore_patterns("__pycache__", "deploy", "Dockerfile", SEED)
        shutil.copytree(REPOSITORY / room, context / room, ignore=ignored)
    shutil.copytree(bundle, context / "bento" / SEED)


def locked_packages() -> list[str]:
    """The lines of the lock that name packages; where these come from is for the builder to say.

    Raises:
        MissingArtifactError: the code was installed without the lock, as from a wheel.
    """
    if not LOCK.is_file():
        raise MissingArtifactError(
            f"{LOCK} is not there: `package` wants a checkout of the repository, which has the lock"
        )
    lines = (line.split(" #")[0].strip() for line in LOCK.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith(("#", "--"))]


def own_seed() -> Path | None:
    """The seed bundle that lies beside this code; None in a checkout."""
    seed = Path(__file__).resolve().parent / SEED
    return seed if (seed / "manifest.json").is_file() else None
