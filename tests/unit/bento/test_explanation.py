"""Parts that sum to the logit, history that is near, every scenario beside each other, and words."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from unit.bento.handmade import SCENARIOS, TEXT_DIM, USER_DIM, make_live_model

from bento.catalogue import Catalogue
from bento.explanation import explain
from bento.nearness import CHANCE, by_chance, near
from feature_repo import UserState

KNOWN = UserState(
    1,
    {"user_rows": 7, "user_positives": 3, "user_rate": 0.4},
    [11, 12, 99, 13, 14],
    {"user_pooled": np.arange(USER_DIM, dtype=np.float32)},
)
VERSIONS = {"model": "m", "version": 1, "bundle_digest": "b", "catalogue_digest": "c", "knowledge": {}}


@pytest.fixture
def live(bundle, catalogue):
    return dataclasses.replace(make_live_model(bundle, catalogue), versions=VERSIONS)


def why(live, user=KNOWN, scenario="home", row=1):
    return explain(live, user, scenario, row, (None, ("a page", "summary")), ["a lack"], str(user.user_id))


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("user", [KNOWN, UserState.unknown(5)], ids=["known", "unknown"])
@pytest.mark.parametrize("row", range(5))
def test_the_parts_add_up_to_the_logit_and_the_score_is_that_of_the_ranking(live, user, scenario, row):
    told = why(live, user, scenario, row)
    assert sum(part.logit for part in told.parts) == pytest.approx(told.logit, abs=1e-5)
    assert told.backbone_logit + told.scenario_logit == pytest.approx(told.logit, abs=1e-5)
    assert told.score == pytest.approx(1 / (1 + np.exp(-told.logit)), abs=1e-6)
    assert [part.part for part in told.parts][0] == "start"


def test_what_is_unknown_adds_nothing_and_what_is_known_does(live):
    parts = {part.part: part.logit for part in why(live, UserState.unknown(5), "search", 2).parts}
    # Nobody, in a scenario without knowledge, and an item without a text.
    for nothing in ("user", "history", "user_knowledge", "scenario_knowledge", "item_text"):
        assert parts[nothing] == pytest.approx(0, abs=1e-6), nothing
    parts = {part.part: part.logit for part in why(live, KNOWN, "home", 0).parts}
    assert all(
        abs(parts[one]) > 1e-4 for one in ("history", "user_knowledge", "scenario_knowledge", "item_text", "item")
    )


def test_a_feature_is_named_with_the_value_that_the_model_read(live):
    known = {
        "user_id": 1,
        "item_id": 12,
        "genre": "b",
        "year": None,
        "item_rows": 20,
        "item_positives": 15,
        "item_rate": 0.75,
    }
    known |= {**KNOWN.values, "history": None, "user_pooled": None, "scenario": None, "item_text": None}
    told = {one.feature: one.value for one in why(live, row=1).features}
    assert told.items() <= known.items() and len([name for name in told if known[name] is not None]) >= 3
    sizes = [abs(one.logit) for one in why(live).features]
    assert sizes == sorted(sizes, reverse=True) and len(sizes) == 8


def test_items_of_the_history_that_count_are_named_and_sum_to_their_part(live):
    told = why(live, dataclasses.replace(KNOWN, history=[12, 99, 13]))
    assert {one.item_id for one in told.history} == {12, 99, 13}
    part = next(one.logit for one in told.parts if one.part == "history")
    assert sum(one.logit for one in told.history) == pytest.approx(part, abs=1e-5)
    assert [one.title for one in told.history if one.item_id == 99] == [None]


def test_the_integral_is_near_before_its_gap_is_spread(live):
    import models
    from bento.explanation import request_of

    coarse, fine = (abs(models.attribute(live.bundle, request_of(live, KNOWN, "home", 0), n).gap) for n in (2, 48))
    whole = sum(abs(f.logit) for f in models.attribute(live.bundle, request_of(live, KNOWN, "home", 0)).features)
    assert fine < 0.02 * whole and fine < coarse


def test_every_scenario_stands_beside_the_others(live):
    told = why(live, row=1)
    assert [(one.scenario, one.title, one.shown) for one in told.scenarios] == [
        ("home", "Home", True),
        ("search", "Search", False),
    ]
    assert told.scenarios[0].score == pytest.approx(told.score)
    assert told.scenarios[1].score == pytest.approx(why(live, scenario="search").score)


def test_an_item_has_its_place_with_and_without_knowledge(live):
    places = sorted((why(live, row=row).place, row) for row in live.catalogue.ascending["home"].tolist())
    assert [place for place, _ in places] == [1, 2, 3, 4]
    scores = [why(live, row=row).score for _, row in places]
    assert scores == sorted(scores, reverse=True)
    assert why(live, scenario="search", row=1).place is None, "it is not shown there"


def test_words_say_what_knowledge_changed(live):
    told = why(live)
    assert "knows of the user's taste and this scenario " in told.knowledge
    assert f"{100 * told.neutral_score:.1f} % without it, {100 * told.score:.1f} % with it" in told.knowledge
    verb = "raises" if told.score > told.neutral_score else "lowers"
    assert abs(told.score - told.neutral_score) < 0.005 or verb in told.knowledge
    assert "of this scenario " in why(live, UserState.unknown(5)).knowledge
    assert "nothing of this user or this scenario yet" in why(live, UserState.unknown(5), "search").knowledge


def test_the_rest_is_passed_on(live):
    told = why(live)
    assert (told.user_id, told.user_text, told.scenario_text, told.degraded) == ("1", None, "a page", ["a lack"])


def made(text: np.ndarray, digest: str = "d") -> Catalogue:
    count = len(text)
    return Catalogue(
        columns={}, titles=[None] * count, text=text.astype(np.float32), rows={i: i for i in range(count)}, members={}, ascending={}, scenarios=[],
        as_of=0, digest=digest,
    )  # fmt: skip


def test_only_what_is_nearer_than_chance_is_near():
    random = np.random.default_rng(5)
    text = random.normal(size=(400, 16))
    text[1] = text[0] + 0.1 * random.normal(size=16)
    text[2] = np.nan
    text[3] = 0
    found = near(made(text), [2, 3, *range(5, 25), 1], 0)
    assert found.rows == [1] and found.similarity[0] > found.limit > 0.5
    assert near(made(text), list(range(5, 25)), 0).rows == []
    assert near(made(text), [0, 999], 0).limit is None, "the item itself and one that is gone"
    assert near(made(text), [1], 2).limit is None and near(made(text), [2, 3], 0).limit is None


def test_of_unrelated_histories_one_in_twenty_has_something_near():
    random = np.random.default_rng(6)
    text = random.normal(size=(2000, 8))
    catalogue = made(text, "unrelated")
    hits = [bool(near(catalogue, random.integers(0, 2000, 30).tolist(), row).rows) for row in range(1000)]
    assert 0.3 * CHANCE < np.mean(hits) < 2 * CHANCE


def test_what_chance_makes_is_drawn_once_for_a_catalogue_and_the_same_again(monkeypatch):
    text = np.random.default_rng(7).normal(size=(50, TEXT_DIM))
    one = by_chance(made(text, "one"))
    assert by_chance(made(text, "one")) is one
    np.testing.assert_array_equal(by_chance(made(text, "two")), one)
    assert by_chance(made(np.full((3, 2), np.nan), "none")).tolist() == [1.0]


def test_a_model_without_text_and_history_explains_too(tmp_path: Path, bundle, catalogue):
    without = dataclasses.replace(make_live_model(bundle, catalogue), versions=VERSIONS)
    told = why(without, UserState(2, {}, []), "home", 4)
    assert told.history == [] and told.nearest_history == [] and told.near_from is None
