"""How long the stages of a run will take, before they have begun: as they took last time, else by the rows there are."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from core import Settings
from core.files import replace_json

# Seconds on two quiet processors: a stage's own, and per million interactions, users and items. The run itself finds
# out how fast this machine is; the packaged reasoner reads some 350 titles a second.
_COSTS: dict[str, tuple[float, float, float, float]] = {
    "ingest": (0.3, 3, 0, 0),
    "validate": (1.5, 20, 20, 20),
    "features": (0.2, 3, 0, 0),
    "knowledge": (2.0, 30, 200, 2_800),
    "materialize": (5.0, 10, 500, 150),
    "dataset": (1.0, 20, 0, 0),
    "train": (1.0, 90, 0, 0),
    "evaluate": (2.5, 5, 0, 0),
    "promote": (0.2, 5, 0, 0),
    "controls": (1.0, 80, 5, 20),
    "report": (0.4, 3, 0, 0),
}
_ROW_BYTES = 30


def planned(settings: Settings, stages: Iterable[str], rows: Mapping[str, int] | None = None) -> dict[str, float]:
    """Seconds that each stage will take if it has something to do.

    Args:
        settings: of the project.
        stages: in order.
        rows: interactions, users and items, once they are counted; None: by the size of the files.
    """
    taken, counts = _taken(settings), rows if rows is not None else _guessed(settings)
    found = {}
    for stage in stages:
        own, *each = _COSTS.get(stage, (1.0, 0, 0, 0))
        by_rows = own + sum(
            c * counts.get(n, 0) / 1e6 for c, n in zip(each, ("interactions", "users", "items"), strict=True)
        )
        found[stage] = taken.get(stage, by_rows)
    return found


def remember(settings: Settings, stage: str, seconds: float) -> None:
    """Keep how long a stage took, for the next run's estimate."""
    with contextlib.suppress(OSError):  # an estimate is not worth a run
        replace_json(_file(settings), {**_taken(settings), stage: round(seconds, 1)})


def _taken(settings: Settings) -> dict[str, float]:
    try:
        found = json.loads(_file(settings).read_text())
        return {str(stage): float(seconds) for stage, seconds in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _guessed(settings: Settings) -> dict[str, int]:
    from ingest import open_source

    try:
        size = sum(path.stat().st_size for path in open_source(settings).files())
    except Exception:  # the stage that reads them says what is wrong
        return {}
    return {"interactions": size // _ROW_BYTES}


def _file(settings: Settings) -> Path:
    return settings.root / "durations.json"
