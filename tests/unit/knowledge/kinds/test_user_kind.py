"""Each declared kind of user vector has what computes it, and is what it is declared as."""

from __future__ import annotations

import pytest

from core.contracts.kinds import KnowledgeKind, kinds_of
from knowledge.kinds import pooled, user_kind
from knowledge.kinds.prompt import KIND as PROMPT
from knowledge.kinds.user_kind import OfItems, Prompted


@pytest.mark.parametrize("kind", kinds_of("user"), ids=lambda kind: kind.name)
def test_a_declared_kind_is_computed(kind: KnowledgeKind) -> None:
    assert isinstance(user_kind.user_kind(kind.name), Prompted if kind.prompted else OfItems)


def test_a_kind_that_is_not_what_it_is_declared_as_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooled, "KIND", PROMPT)
    with pytest.raises(AssertionError, match="pooled is not what it is declared as"):
        user_kind.user_kind("pooled")
