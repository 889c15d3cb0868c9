"""What a ranking leaves out, and what a request may not ask."""

from __future__ import annotations

import numpy as np
import pytest
from bentoml.exceptions import InvalidArgument
from unit.bento.handmade import make_live_model

from bento.asked import read_request
from bento.schemas import RankRequest
from bento.scorer import Filters, pick_candidates


@pytest.fixture
def live(bundle, catalogue):
    return make_live_model(bundle, catalogue)


def picked(live, filters, *, ids=None, limit=None):
    chosen = pick_candidates(live, "home", ids, limit, filters)
    return live.catalogue.columns["item_id"][chosen.rows].tolist(), chosen.truncated


def test_excluded_items_are_not_ranked_known_or_not(live):
    assert picked(live, Filters()) == ([11, 12, 13, 15], False)
    assert picked(live, Filters([12, 99, "x"])) == ([11, 13, 15], False)
    assert picked(live, Filters([12]), ids=[15, 12, 14]) == ([15, 14], False)


def test_only_items_with_the_values_asked_for_stay(live):
    assert picked(live, Filters(only={"genre": ["a", "c", "never"]})) == ([11, 15], False)
    assert picked(live, Filters(only={"genre": ["b"], "year": [1.0]})) == ([], False)
    assert picked(live, Filters([11], {"genre": ["a", "c"]})) == ([15], False)
    assert picked(live, Filters(only={"genre": [None]})) == ([13], False)


def test_what_is_left_out_does_not_count_towards_the_most_that_is_scored(live):
    """12, 15 and 11 have most positives, in this order."""
    assert picked(live, Filters(), limit=2) == ([12, 15], True)
    assert picked(live, Filters([12]), limit=2) == ([11, 15], True)
    assert picked(live, Filters([12, 13]), limit=2) == ([11, 15], False)


def test_values_are_looked_up_again_in_another_catalogue(live):
    assert live.catalogue.is_among("genre", ["a"], np.arange(5)).tolist() == [True, False, False, True, False]
    other = live.catalogue.with_text_of(live.catalogue)
    assert other._codes == {} and other.is_among("genre", ["b"], np.arange(5)).tolist() == [
        False,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"scenario": "hom"}, "requests[1]: unknown scenario 'hom'; did you mean 'home'"),
        ({"user_id": True}, "requests[1]: user_id: "),
        ({"candidates": [1, None]}, "requests[1]: candidates[1]: "),
        ({"exclude": [11, 1.5]}, "requests[1]: exclude[1]: "),
        (
            {"only": {"gender": ["f"]}},
            "requests[1]: only: the catalogue has no column 'gender'; did you mean 'genre'?; it has ",
        ),
        ({"only": {"item_id": [11]}}, "requests[1]: only: the catalogue has no column 'item_id'"),
    ],
)
def test_what_cannot_be_right_is_refused_and_its_place_is_named(live, more, says):
    request = RankRequest(**{"user_id": 1, "scenario": "home", **more})
    with pytest.raises(InvalidArgument) as refusal:
        read_request(request, live, [], "requests[1]: ")
    assert str(refusal.value).startswith(says)


def test_ids_are_read_as_the_log_has_them(live):
    request = RankRequest(
        user_id="1", scenario="home", candidates=["11", 12, "none"], exclude=["14"], only={"genre": ["a"]}
    )
    wanted = read_request(request, live, [])
    assert (wanted.user_id, wanted.candidates) == (1, [11, 12, "none"])
    assert wanted.filters == Filters([14], {"genre": ["a"]})
