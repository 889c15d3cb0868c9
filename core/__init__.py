"""Ground floor: settings, canonical tables, artifact store, clock, errors, logging. Imports no other room."""

from core.clock import Clock, as_utc, from_micros, replay, to_micros, wall
from core.log import configure, logger
from core.pace import progress
from core.settings import Settings, load_settings, make_clock
from core.store import ArtifactStore, Built, Manifest
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
