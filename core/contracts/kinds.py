"""The kinds of knowledge: one line here declares a kind for every room."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

EntityName = Literal["user", "item", "scenario"]
KEYS: dict[str, str] = {"user": "user_id", "item": "item_id", "scenario": "scenario"}
"""Entity to the column that names it."""


@dataclass(frozen=True)
class KnowledgeKind:
    """A kind of vector. What computes a kind of user vector is `KIND` in `knowledge/kinds/NAME.py`.

    Args:
        name: in settings (`knowledge.user_vectors`, `knowledge.lag`) and in `versions.json`.
        view: of its folder in an artifact, of its columns in a training table, of its view in the feature store.
        entity: whose vector it is.
        lag: from watermark to readable online, where the settings name none: zero is for what the push path keeps current.
        prompted: made of users' prompts, which a language model reads, and only for users that get prompts. A kind of user
            vector that is not is made of item vectors.
        pushed: the push path keeps it current; one kind is.
        default: what settings that name no user vectors ask for; one kind is.
    """

    name: str
    view: str
    entity: EntityName
    lag: dt.timedelta
    prompted: bool = False
    pushed: bool = False
    default: bool = False

    @property
    def key(self) -> str:
        """The column that names the entity."""
        return KEYS[self.entity]


CURRENT, NIGHTLY = dt.timedelta(0), dt.timedelta(days=1)
KINDS = (
    KnowledgeKind("pooled", view="user_pooled", entity="user", lag=CURRENT, pushed=True, default=True),
    KnowledgeKind("prompt", view="user_prompt", entity="user", lag=NIGHTLY, prompted=True),
    KnowledgeKind("scenario", view="scenario", entity="scenario", lag=NIGHTLY),
    KnowledgeKind("item_text", view="item_text", entity="item", lag=CURRENT),
)
_BY_VIEW = {kind.view: kind for kind in KINDS}
_BY_NAME = {kind.name: kind for kind in KINDS}


def find_kind(view: str) -> KnowledgeKind | None:
    """The kind of a view, e.g. of `user_pooled`; None where the view holds no vectors."""
    return _BY_VIEW.get(view)


def kind_named(name: str) -> KnowledgeKind:
    """The kind of a name in settings, e.g. `pooled`.

    Raises:
        KeyError: there is none.
    """
    return _BY_NAME[name]


def by_name(versions: Mapping[str, str]) -> dict[str, str]:
    """Versions by view, as specs hold them, as versions by name, as knowledge artifacts do."""
    return {_BY_VIEW[view].name: version for view, version in versions.items()}


def kinds_of(entity: EntityName) -> tuple[KnowledgeKind, ...]:
    """The kinds of users', items' or scenarios' vectors."""
    return tuple(kind for kind in KINDS if kind.entity == entity)


def is_of(view: str, entity: EntityName) -> bool:
    """Whether a view holds vectors of users, items or scenarios."""
    kind = find_kind(view)
    return kind is not None and kind.entity == entity


def kinds_named(names: Collection[str]) -> tuple[KnowledgeKind, ...]:
    """The kinds of users' vectors with these names, in the order of their declaration."""
    return tuple(kind for kind in kinds_of("user") if kind.name in names)


(DEFAULT,) = (kind for kind in kinds_of("user") if kind.default)
# The push path can make one kind anew.
(PUSHED,) = (kind for kind in kinds_of("user") if kind.pushed)
if TYPE_CHECKING:
    UserKindName = str
else:
    UserKindName = Literal[tuple(kind.name for kind in kinds_of("user"))]
"""What settings may name as a user's vectors."""
