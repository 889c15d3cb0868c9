"""From a request to scores."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from unit.bento.handmade import USER_DIM, make_bundle, make_live_model, write_catalogue

from bento.catalogue import load_catalogue
from bento.scorer import best_of, pick_candidates, rank, score_parts, user_side
from feature_repo import UserState
from models import RequestBatch

KNOWN = UserState(
    1,
    {"user_rows": 7, "user_positives": 3, "user_rate": 0.4},
    [11, 12, 99, 13, 14],
    {"user_pooled": np.arange(USER_DIM, dtype=np.float32)},
)


@pytest.fixture
def live(bundle, catalogue):
    return make_live_model(bundle, catalogue)


def raw_request(live, user: UserState, scenario: str, rows: np.ndarray) -> RequestBatch:
    """The same request without anything encoded ahead."""
    side = user_side(live, user, scenario)
    side.scenario, side.user_index = [scenario] * len(rows), np.zeros(len(rows), np.int64)
    side.item = {name: [values[row] for row in rows] for name, values in live.catalogue.columns.items()}
    side.item_text = np.array(live.catalogue.text[rows])
    return side


@pytest.mark.parametrize("scenario", ["home", "search"])
@pytest.mark.parametrize("user", [KNOWN, UserState.unknown(5)], ids=["known", "unknown"])
def test_items_encoded_ahead_score_as_items_encoded_in_the_request(live, user, scenario):
    rows = np.array([4, 0, 2, 1])
    ahead = live.bundle.score_items(live.items, rows, scenario, user_side(live, user, scenario))
    within = live.bundle.score(raw_request(live, user, scenario, rows))
    for part in ("probability", "backbone_logit", "scenario_logit"):
        np.testing.assert_allclose(getattr(ahead, part), getattr(within, part), rtol=0, atol=1e-6)
    assert len(set(ahead.probability.tolist())) == len(rows)


def test_knowledge_of_user_and_scenario_counts_and_neutral_leaves_both_out(live):
    known, neutral = score_parts(live, KNOWN, "home", 1)
    unknown, same = score_parts(live, UserState(1, KNOWN.values, KNOWN.history), "search", 1)
    assert abs(known.probability[0] - neutral.probability[0]) > 1e-4
    np.testing.assert_array_equal(unknown.probability, same.probability)


def test_rank_gives_the_best_first_and_all_when_k_is_larger(live):
    rows, scores = rank(live, KNOWN, "home", np.arange(5), 50)
    assert len(rows) == 5
    assert (np.diff(scores) <= 0).all()
    best, _ = rank(live, KNOWN, "home", np.arange(5), 2)
    assert best.tolist() == rows[:2].tolist()


def test_a_withdrawn_candidate_is_not_ranked_and_is_named(live):
    catalogue = dataclasses.replace(live.catalogue, withdrawn=frozenset({98}))
    live = dataclasses.replace(live, catalogue=catalogue)
    asked = pick_candidates(live, "home", [11, 98, 99], 10)
    assert (asked.rows.tolist(), asked.unknown, asked.withdrawn) == ([0], [98, 99], True)
    assert not pick_candidates(live, "home", [11, 99], 10).withdrawn
    assert not pick_candidates(live, "home", None, 10).withdrawn


def test_equal_scores_fall_to_the_lower_row(bundle, catalogue):
    for parameter in bundle.head.parameters():
        parameter.data.zero_()
    live = make_live_model(bundle, catalogue)
    rows, scores = rank(live, KNOWN, "home", np.array([3, 1, 4]), 3)
    assert rows.tolist() == [1, 3, 4]
    assert set(scores.tolist()) == {0.5}


def test_the_best_of_many_are_those_of_a_full_sort_ties_included():
    rng = np.random.default_rng(0)
    rows = rng.permutation(5000)
    scores = rng.integers(0, 40, 5000) / 40
    order = np.lexsort((rows, -scores))
    for k in (1, 10, 127, 4999, 5000, 6000):
        found, values = best_of(rows, scores, k)
        assert found.tolist() == rows[order][:k].tolist()
        assert values.tolist() == scores[order][:k].tolist()


def test_no_candidates_give_no_items(live):
    chosen = pick_candidates(live, "home", [], 10)
    rows, scores = rank(live, KNOWN, "home", chosen.rows, 10)
    assert (len(rows), len(scores), chosen.truncated) == (0, 0, False)


def test_too_many_candidates_are_cut_and_reported(live):
    asked = pick_candidates(live, "home", [14, 11, 12], 2)
    assert (live.catalogue.columns["item_id"][asked.rows].tolist(), asked.truncated) == ([14, 11], True)
    whole = pick_candidates(live, "home", None, 2)
    assert (live.catalogue.columns["item_id"][whole.rows].tolist(), whole.truncated) == ([12, 15], True)
    assert len(pick_candidates(live, "home", None, None).rows) == 4
    assert not pick_candidates(live, "home", None, 4).truncated


def test_text_ids_rank_as_numbers_do(tmp_path):
    ids = ("i1", "i2", "i3", "i4", "i5")
    write_catalogue(tmp_path / "c", ids=ids)
    live = make_live_model(make_bundle(ids[:4], string_ids=True), load_catalogue(tmp_path / "c"))
    chosen = pick_candidates(live, "home", ["i4", "i1", "11"], 10)
    rows, scores = rank(live, UserState("u1", KNOWN.values, ["i1", "i2"]), "home", chosen.rows, 10)
    assert {live.catalogue.columns["item_id"][row] for row in rows} == {"i4", "i1"}
    assert chosen.unknown == ["11"]
    assert scores[0] != scores[1]


def test_text_of_another_version_counts_as_unknown_and_is_reported(tmp_path, live):
    write_catalogue(tmp_path / "new", text_version="t2")
    other = make_live_model(live.bundle, load_catalogue(tmp_path / "new"))
    assert other.reduced == ("item_text:other_version",)
    assert live.reduced == ()
    rows = np.arange(len(other.catalogue))
    side = user_side(other, KNOWN, "home")
    scores, with_text = (one.bundle.score_items(one.items, rows, "home", side).probability for one in (other, live))
    assert ((scores != with_text) == [True, True, False, True, True]).all()


def test_a_column_that_the_catalogue_lost_counts_as_unknown_and_is_reported(tmp_path, bundle):
    write_catalogue(tmp_path / "new", columns=("genre",))
    live = make_live_model(bundle, load_catalogue(tmp_path / "new"))
    assert live.reduced == ("item_features:missing",)
    assert np.isfinite(rank(live, KNOWN, "home", np.arange(5), 5)[1]).all()


def test_a_vector_of_another_width_counts_as_unknown(live):
    wrong = UserState(1, KNOWN.values, KNOWN.history, {"user_pooled": np.ones(USER_DIM + 1, np.float32)})
    without = UserState(1, KNOWN.values, KNOWN.history)
    expected = rank(live, without, "home", np.arange(5), 5)[1]
    np.testing.assert_array_equal(rank(live, wrong, "home", np.arange(5), 5)[1], expected)
