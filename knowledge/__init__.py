"""Knowledge: prompts, frozen language models, compressors; versioned vectors and texts of users, items and scenarios.

Knows text and vectors; never a ranking model, never the feature store. Names load on first use, so that importing
the room costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knowledge.forget import forget_in_cache
    from knowledge.inspection import difference, user_state
    from knowledge.log.snapshots import due
    from knowledge.pooling.pooler import Pooler, load_pooler
    from knowledge.reasoners import Reasoner, make_reasoner
    from knowledge.reasoners.folder import local_model
    from knowledge.run import Run

__all__ = [
    "Pooler",
    "Reasoner",
    "Run",
    "difference",
    "due",
    "forget_in_cache",
    "load_pooler",
    "local_model",
    "make_reasoner",
    "user_state",
]

_HOMES = {
    "Run": "knowledge.run",
    "Reasoner": "knowledge.reasoners",
    "make_reasoner": "knowledge.reasoners",
    "local_model": "knowledge.reasoners.folder",
    "Pooler": "knowledge.pooling.pooler",
    "load_pooler": "knowledge.pooling.pooler",
    "due": "knowledge.log.snapshots",
    "difference": "knowledge.inspection",
    "user_state": "knowledge.inspection",
    "forget_in_cache": "knowledge.forget",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'knowledge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
