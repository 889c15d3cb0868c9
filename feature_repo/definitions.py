"""What `feast -c feature_repo apply` and `feast -c feature_repo ui` see: every generation that was ever applied here.

The settings are those that LLM4MSR_SETTINGS names, or the demo's. The product itself does not need this file:
`llm4msr materialize` applies the same objects. Before the first run there is nothing but entities; run
`llm4msr run` (or `make demo`) and apply again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
# Feast imports this file as a lone module from the folder it lies in.
sys.path[:] = [str(REPOSITORY), *(p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent)]

from core import load_settings
from feature_repo.generations import declared_generations
from feature_repo.overlay import feast_folder
from feature_repo.views import Generation, entity_objects, objects

SETTINGS = Path(os.environ.get("LLM4MSR_SETTINGS", REPOSITORY / "config" / "demo.yaml"))


def _objects() -> dict[str, object]:
    """Feast finds objects as names of this module; of two with one name the newer generation's counts."""
    settings = load_settings(SETTINGS)
    # Feast makes the registry's folder, but not the folders above it.
    feast_folder(settings).mkdir(parents=True, exist_ok=True)
    generations = declared_generations(settings)
    if not generations:
        print(f"no generation was applied for {SETTINGS} yet: run `llm4msr run --settings {SETTINGS}` first")
        empty = Generation("none", "int64", "int64", {}, {}, ())
        return {f"entity_{name}": entity for name, entity in entity_objects(empty).items()}
    found: dict[str, object] = {}
    for generation, paths in generations:
        found |= {f"{type(o).__name__}_{o.name}": o for o in objects(generation, paths)}
    return found


globals().update(_objects())
