"""Short rankings do not wait behind long ones."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

import bento.ranking
from bento import deadline
from bento.deadline import TooLateError
from bento.ranking import AT_ONCE, Ranking

FEW, MANY = np.arange(AT_ONCE), np.arange(AT_ONCE + 1)


@pytest.fixture
def ranking():
    made = Ranking()
    yield made
    made.stop()


def test_a_short_ranking_is_answered_while_a_long_one_is_computed(ranking, monkeypatch):
    go_on, order = threading.Event(), []

    def rank(live, user, scenario, rows, k):
        if len(rows) > AT_ONCE and not go_on.wait(60):
            raise TimeoutError
        order.append(len(rows))
        return rows, rows

    async def both():
        deadline.begin({})
        long = asyncio.ensure_future(ranking.rank(None, None, "home", MANY, 1))
        await asyncio.sleep(0)
        await ranking.rank(None, None, "home", FEW, 1)
        go_on.set()
        await long

    monkeypatch.setattr(bento.ranking, "rank", rank)
    asyncio.run(both())
    assert order == [len(FEW), len(MANY)]


def test_a_long_ranking_whose_turn_comes_too_late_is_not_computed(ranking, monkeypatch):
    computed = []
    monkeypatch.setattr(bento.ranking, "rank", lambda *given: computed.append(given))

    async def late():
        deadline.begin({b"x-request-timeout-ms": b"0"})
        await ranking.rank(None, None, "home", MANY, 1)

    with pytest.raises(TooLateError):
        asyncio.run(late())
    assert computed == []
