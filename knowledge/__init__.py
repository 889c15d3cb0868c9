"""Knowledge: prompts, frozen language models, compressors; versioned vectors and texts of users, items and scenarios.

Knows text and vectors; never a ranking model, never the feature store. Names load on first use, so that importing
the room costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from knowledge.build import build_knowledge
    from knowledge.forget import forget_in_cache
    from knowledge.inspection import difference, user_state
    from knowledge.kinds.shuffled import shuffled_titles
    from knowledge.log.snapshots import due
    from knowledge.parts import read_part, scenario_prompt, user_prompt, workload
    from knowledge.pooling.pooler import Pooler, load_pooler
    from knowledge.reasoners import Reasoner, make_reasoner
    from knowledge.reasoners.folder import local_model

__all__ = [
    "Pooler",
    "Reasoner",
    "build_knowledge",
    "difference",
    "due",
    "forget_in_cache",
    "load_pooler",
    "local_model",
    "make_reasoner",
    "read_part",
    "scenario_prompt",
    "shuffled_titles",
    "user_prompt",
    "user_state",
    "workload",
]

_HOMES = {
    "build_knowledge": "knowledge.build",
    "forget_in_cache": "knowledge.forget",
    "Pooler": "knowledge.pooling.pooler",
    "load_pooler": "knowledge.pooling.pooler",
    "Reasoner": "knowledge.reasoners",
    "make_reasoner": "knowledge.reasoners",
    "local_model": "knowledge.reasoners.folder",
    "shuffled_titles": "knowledge.kinds.shuffled",
    "due": "knowledge.log.snapshots",
    "difference": "knowledge.inspection",
    "user_state": "knowledge.inspection",
    "read_part": "knowledge.parts",
    "scenario_prompt": "knowledge.parts",
    "user_prompt": "knowledge.parts",
    "workload": "knowledge.parts",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'knowledge' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
