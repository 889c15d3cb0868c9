"""Feast: entities, sources, views, services, point-in-time training tables, the online reader.

The one room that talks to Feast. Names are imported when first used, because importing Feast takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "CurrentPusher": "live",
    "Generation": "views",
    "OnlineReader": "reader",
    "UserState": "reader",
    "Pushed": "live",
    "Pusher": "live",
    "apply": "materialization",
    "build_catalogue": "catalogue",
    "compute_train_start": "splits",
    "build_statistics": "statistics",
    "build_training_table": "training_table",
    "known_user": "materialization",
    "materialize": "materialization",
    "open_store": "overlay",
    "push": "live",
    "sample_online": "readback",
    "erase_online": "materialization",
    "pushing": "live",
}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
