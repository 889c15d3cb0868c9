"""Ground floor: settings, canonical tables, artifact store, clock, errors, logging. Imports no other room."""

from core.clock import Clock, as_utc, from_micros, replay, to_micros, wall
from core.log import configure, logger
from core.manifest import Built, Manifest
from core.pace import progress
from core.settings import Settings, make_clock
from core.settings_file import load_settings
from core.store import ArtifactStore
from core.window import Window

__all__ = [
    "ArtifactStore",
    "Built",
    "Clock",
    "Manifest",
    "Settings",
    "Window",
    "as_utc",
    "configure",
    "from_micros",
    "load_settings",
    "logger",
    "make_clock",
    "progress",
    "replay",
    "to_micros",
    "wall",
]
