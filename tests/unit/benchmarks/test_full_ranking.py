"""Full ranking is what scoring each item as a row of its own would give, and counts whom it says it counts."""

import numpy as np
import pyarrow as pa
import pytest
from test_evidence import TINY, prepared, ratings

from benchmarks.evidence import runner, systems
from benchmarks.evidence.full_ranking import Lists, full_ranking, lists_of, scores_of_lists
from benchmarks.evidence.protocol import FEATURES
from benchmarks.evidence.table import grouped, opening
from feature_repo.statistics import smoothed_rate
from models import TrainingData, load_bundle, predict, train


@pytest.fixture(params=["time", "scenario-wise-rec"])
def trained(request, tmp_path):
    log = ratings(count=1500, users=25, items=40)
    prep = prepared(request.param, log, lag=40 if request.param == "time" else 0)
    run = runner.Run(request.param, "full", "shared_bottom", 0, changes=TINY)
    data = systems.view(prep, systems.find("full"), 0)
    train(data, run.model(), run.training(), tmp_path / "bundle", name="full")
    return request.param, log, prep, data, load_bundle(tmp_path / "bundle")


def test_scores_are_those_of_rows_of_their_own(trained):
    protocol, log, prep, data, bundle = trained
    lists = lists_of(data)
    assert len(lists.context) > 10
    for number, scores in list(scores_of_lists(bundle, data, prep, lists))[::4]:
        items = np.concatenate((lists.positives[number], lists.candidates[number]))
        row = int(lists.context[number])
        rows = data.rows.take(pa.array(np.full(len(items), row)))
        shown = data.rows.take(pa.array(lists.items[items]))
        for name in ("item_id", "first_genre", "item_text_row"):
            rows = rows.set_column(rows.column_names.index(name), name, shown[name])
        split = np.array(data.rows["split"].to_pylist())
        for name, value in statistics(protocol, log, items, row, split).items():
            rows = rows.set_column(
                rows.column_names.index(name), name, pa.array(value, data.rows.schema.field(name).type)
            )
        rows = rows.set_column(rows.column_names.index("split"), "split", pa.array(["test"] * len(items)))
        expected = predict(bundle, TrainingData(rows, data.user_log, data.vectors, data.spec), "test")["score"]
        np.testing.assert_allclose(scores, expected.to_numpy(), atol=1e-6)


def statistics(protocol, log, items, row, split):
    """By hand: what was known of the items when the row was made."""
    known = log.seconds < log.seconds[row] - 40 if protocol == "time" else split == "train"
    seen = np.array([(known & (log.item == item)).sum() for item in items])
    liked = np.array([(known & (log.item == item) & (log.label > 0)).sum() for item in items])
    return {"item_rows": seen, "item_positives": liked, "item_rate": smoothed_rate(liked, seen, FEATURES)}


def test_a_positive_is_held_against_the_scenarios_items_that_its_user_never_rated(trained):
    protocol, log, prep, data, _ = trained
    lists, split = lists_of(data), np.array(data.rows["split"].to_pylist())
    scenario = np.array(data.rows["scenario"].to_pylist())
    positives = {
        (log.user[r], scenario[r], log.item[r]) for r in range(len(log)) if split[r] == "test" and log.label[r] > 0
    }
    assert sum(map(len, lists.positives)) == len(positives)
    for place, own, others in zip(lists.context, lists.positives, lists.candidates, strict=True):
        user, where = log.user[place], scenario[place]
        assert split[place] == "test"
        assert not ((log.user[:place] == user) & (scenario[:place] == where) & (split[:place] == "test")).any()
        assert {(user, where, item) for item in own} <= positives
        assert set(others) == set(log.item[scenario == where]) - set(log.item[log.user == user])


def test_ranks_recall_and_gain(monkeypatch):
    lists = Lists(np.zeros(2, np.int64), [np.arange(20)] * 2, [np.array([20]), np.array([20, 21])], np.arange(22))
    others = np.linspace(0, 0.95, 20)
    found = [(0, np.concatenate(([2.0], others))), (1, np.concatenate(([0.51, 0.0], others)))]
    monkeypatch.setattr("benchmarks.evidence.full_ranking.scores_of_lists", lambda *_: iter(found))
    measured = full_ranking(None, None, None, lists)
    # Ranks 1, 10 (nine above .51) and 20.5 (tied with the last).
    assert measured["recall_at_10"] == pytest.approx(2 / 3)
    assert measured["ndcg_at_10"] == pytest.approx((1 + 1 / np.log2(11)) / 3)
    assert (measured["positives"], measured["lists"], measured["scores"]) == (3, 2, 43)


def test_a_page_opens_with_the_same_seeds_of_every_system_and_three_sentences():
    def row(backbone, system, seed, lift):
        ranking = {"recall_at_10": 0.2 + lift, "ndcg_at_10": 0.1 + lift}
        return {
            **{"system": system, "backbone": backbone, "seed": seed, "test_auc": 0.7 + lift + seed / 10},
            **{"test_logloss": 0.6, "test_gauc": 0.6, "full_ranking": ranking},
        }

    lifts = {"plain": 0.0, "both": 0.01, "both_shuffled": -0.01}
    rows = [row(b, system, seed, lift) for b in ("star", "ple") for system, lift in lifts.items() for seed in (0, 1)]
    # A seed that one system lacks is left out; a backbone that lacks a system, too.
    rows += [row("star", "both", 2, 0.5), row("mmoe", "both", 0, 0.5)]
    table, *sentences = opening(grouped(rows))
    assert "| star | both | 2 | 0.7600 | 0.6000 | 0.6000 |  |  | 0.1100 | 0.2100 |" in table
    assert "mmoe" not in table
    assert (
        "the plain backbone, both levels of knowledge are better on 2 of 2 backbones: AUC +0.0100 in the mean"
        in sentences[0]
    )
    assert "+0.0200 in the mean" in sentences[1]
    told = "20.00 % of them among the first ten without knowledge, 21.00 % with it (NDCG@10 +0.0100)"
    assert told in sentences[2]
    assert opening(grouped([row("star", "both", 0, 0.1)])) == []
