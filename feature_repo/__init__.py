"""Feast: entities, sources, views, services, point-in-time training tables, the online reader.

The one room that talks to Feast. Names are imported when first used, because importing Feast takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feature_repo.catalogue import build_catalogue
    from feature_repo.features import build_features
    from feature_repo.materialization import apply, erase_online, known_user, materialize
    from feature_repo.overlay import open_store
    from feature_repo.pusher import CurrentPusher, Pushed, Pusher, push, pushing
    from feature_repo.readback import sample_online
    from feature_repo.reader import OnlineReader, UserState
    from feature_repo.train_start import compute_train_start
    from feature_repo.training_table import build_training_table
    from feature_repo.views import Generation

_HOME = {
    "CurrentPusher": "pusher",
    "Generation": "views",
    "OnlineReader": "reader",
    "UserState": "reader",
    "Pushed": "pusher",
    "Pusher": "pusher",
    "apply": "materialization",
    "build_catalogue": "catalogue",
    "compute_train_start": "train_start",
    "build_features": "features",
    "build_training_table": "training_table",
    "known_user": "materialization",
    "materialize": "materialization",
    "open_store": "overlay",
    "push": "pusher",
    "sample_online": "readback",
    "erase_online": "materialization",
    "pushing": "pusher",
}
__all__ = [
    "CurrentPusher",
    "Generation",
    "OnlineReader",
    "Pushed",
    "Pusher",
    "UserState",
    "apply",
    "build_catalogue",
    "build_features",
    "build_training_table",
    "compute_train_start",
    "erase_online",
    "known_user",
    "materialize",
    "open_store",
    "push",
    "pushing",
    "sample_online",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
