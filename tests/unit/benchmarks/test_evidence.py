import json

import numpy as np
import pytest
import scipy.stats
import yaml

from benchmarks.evidence import protocol, runner, systems
from benchmarks.evidence.pages import write_pages
from benchmarks.evidence.protocol import FOLDS, prepare, random_split, scenarios_of, states_before
from benchmarks.evidence.source import Ratings
from benchmarks.evidence.table import compared, grouped, holm, paired, write_tables
from core import load_settings
from core.errors import DataError, SettingsError
from core.tables import GRADE

TINY = {"hidden": [16], "tower": [8], "embedding_dim": 4, "bottleneck": 4, "rank": 3, "epochs": 1, "batch_size": 256}


def ratings(seed=0, count=2000, users=40, items=30):
    rng = np.random.default_rng(seed)
    genres = ["Comedy", "Action", "Drama", "Horror", "Adventure", "Crime", "Western"]
    return Ratings(
        user_ids=np.arange(users) + 1,
        item_ids=np.arange(items) + 1,
        user=rng.integers(0, users, count),
        item=rng.integers(0, items, count),
        label=rng.integers(0, 2, count).astype(np.int8),
        stars=rng.integers(1, 6, count).astype(np.int8),
        seconds=np.sort(rng.integers(0, 700, count)) + 10_000,
        users={
            "gender": rng.choice(["F", "M"], users),
            "age": rng.choice(["1", "18", "25", "35", "56"], users),
            "occupation": rng.integers(0, 4, users).astype(str),
            "zip": rng.integers(0, 9, users).astype(str),
        },
        texts=[f"film {number}" for number in range(items)],
        first_genre=np.array([genres[number % 7] for number in range(items)]),
    )


def prepared(name, log, seed=0, lag=0):
    rng = np.random.default_rng(5)
    texts = rng.normal(size=(len(log.item_ids), 12)).astype(np.float16)
    sentences = rng.normal(size=(len(scenarios_of(name)), 12)).astype(np.float16)
    return prepare(name, log, texts, sentences, seed, lag)


def with_labels(log, rows):
    label = log.label.copy()
    label[rows] = 1 - label[rows]
    stars = log.stars.copy()
    stars[rows] = 6 - stars[rows]
    return Ratings(**{**log.__dict__, "label": label, "stars": stars})


def known(prep):
    """All that rows may read, by name; vectors are looked up."""
    rows = prep.data.rows
    outcomes = ("label", GRADE)  # which training alone may read
    found = {
        name: rows.column(name).to_numpy(zero_copy_only=False) for name in rows.column_names if name not in outcomes
    }
    numbers = rows.column("user_pooled_row").to_numpy()
    found["user_pooled"] = np.where(numbers[:, None] >= 0, prep.data.vectors["user_pooled"][numbers], 0.0)
    return found


def test_flipping_all_validation_and_test_labels_changes_no_feature_and_no_knowledge():
    log = ratings()
    split, _ = random_split(len(log), 0)
    before = known(prepared("scenario-wise-rec", log))
    after = known(prepared("scenario-wise-rec", with_labels(log, split > 0)))
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


def test_flipping_training_labels_does_change_them():
    log = ratings()
    split, _ = random_split(len(log), 0)
    before = known(prepared("scenario-wise-rec", log))
    after = known(prepared("scenario-wise-rec", with_labels(log, (split == 0) & (log.item < 10))))
    for name in ("user_rate", "item_rate", "user_pooled"):
        assert (before[name] != after[name]).any(), name


def test_a_training_row_counts_the_other_folds_only_and_the_rest_all_training_rows():
    log = ratings()
    split, group = random_split(len(log), 3)
    rows = prepared("scenario-wise-rec", log, seed=3).data.rows
    count = rows.column("user_positives").to_numpy()
    for row in range(0, len(log), 37):
        others = (log.user == log.user[row]) & (split == 0) & (group != group[row])
        scale = FOLDS / (FOLDS - 1) if split[row] == 0 else 1
        assert count[row] == pytest.approx(log.label[others].sum() * scale)


def test_a_history_holds_training_positives_of_the_other_folds_only_and_of_all_folds_for_the_rest():
    log = ratings()
    split, group = random_split(len(log), 3)
    data = prepared("scenario-wise-rec", log, seed=3).data
    users, items = (data.user_log.column(name).to_numpy() for name in ("user_id", "item_id"))
    begin, end = (data.rows.column(f"history_{name}").to_numpy() for name in ("begin", "end"))
    for row in range(0, len(log), 37):
        mine = items[users == log.user_ids[log.user[row]]]
        others = (log.user == log.user[row]) & (split == 0) & (group != group[row]) & (log.label > 0)
        assert sorted(mine[begin[row] : end[row]]) == sorted(log.item_ids[log.item[others]])


def test_in_time_a_history_holds_the_positives_strictly_before_the_row_less_the_lag():
    log = ratings()
    data = prepared("time", log, lag=50).data
    users, items = (data.user_log.column(name).to_numpy() for name in ("user_id", "item_id"))
    for row in range(0, len(log), 53):
        before = (log.user == log.user[row]) & (log.seconds < log.seconds[row] - 50) & (log.label > 0)
        found = items[users == log.user_ids[log.user[row]]][: data.rows.column("history_end")[row].as_py()]
        assert sorted(found) == sorted(log.item_ids[log.item[before]])


def test_the_random_split_is_eight_to_one_to_one_and_differs_between_seeds():
    first, second = random_split(1000, 0)[0], random_split(1000, 1)[0]
    assert np.bincount(first).tolist() == [800, 100, 100]
    assert (first != second).any()


@pytest.mark.parametrize("lag", [0, 50])
def test_in_time_a_row_counts_what_lies_strictly_before_it_less_the_lag(lag):
    log = ratings()
    rows, positives = states_before(log.user, log.seconds, log.label, lag)
    for row in range(0, len(log), 53):
        earlier = (log.user == log.user[row]) & (log.seconds < log.seconds[row] - lag)
        assert (rows[row], positives[row]) == (earlier.sum(), log.label[earlier].sum())


@pytest.mark.parametrize("lag", [0, 50])
def test_in_time_labels_from_a_moment_on_change_nothing_that_was_known_until_then(lag):
    log = ratings()
    moment = log.seconds[1500]
    before = known(prepared("time", log, lag=lag))
    after = known(prepared("time", with_labels(log, log.seconds >= moment), lag=lag))
    for name in before:
        early = log.seconds <= moment + lag
        np.testing.assert_array_equal(before[name][early], after[name][early], err_msg=name)
    assert (before["user_pooled"] != after["user_pooled"]).any()


def test_in_time_nobody_has_a_vector_before_the_compressor_could_be_fitted():
    log = ratings()
    rows = prepared("time", log).data.rows
    start = log.seconds[int(len(log) * protocol.KNOWN_FROM)]
    assert (rows.column("user_pooled_row").to_numpy()[log.seconds < start] == -1).all()
    assert (rows.column("user_pooled_row").to_numpy() >= 0).any()


@pytest.mark.parametrize("name", ["scenario-wise-rec", "time"])
def test_shuffling_gives_every_vector_of_a_user_from_one_other_user(name):
    prep = prepared(name, ratings())
    reference = prep.data.rows.column("user_pooled_row").to_numpy()
    moved = systems.shuffled(reference, prep.slots, seed=1)
    owner = np.searchsorted(prep.slots, np.arange(len(prep.data.vectors["user_pooled"])), side="right") - 1
    has = reference >= 0
    assert (moved[~has] == -1).all()
    pairs = set(zip(owner[reference[has]].tolist(), owner[moved[has]].tolist(), strict=True))
    assert all(one != other for one, other in pairs)
    assert len(pairs) == len({one for one, _ in pairs}) == len({other for _, other in pairs})


def test_the_plain_system_sees_neither_knowledge_nor_rates():
    prep = prepared("scenario-wise-rec", ratings())
    data = systems.view(prep, systems.find("plain"), 0)
    assert not data.vectors
    assert not data.spec.vectors
    assert data.rows.column("user_rate").null_count == data.rows.num_rows
    assert prep.data.rows.column("user_rate").null_count == 0


@pytest.mark.parametrize(
    "name", ["plain", "user", "scenario", "both_random", "concat", "id", "full", "full_none", "full_dcn_v2"]
)
@pytest.mark.parametrize("split", ["scenario-wise-rec", "time"])
def test_every_system_trains_and_is_measured_in_json(name, split):
    run = runner.Run(split, name, "shared_bottom", seed=0, changes=TINY)
    row = runner.execute(run, prepared(split, ratings()))
    assert 0 < row["test_auc"] < 1
    assert set(row["scenarios"]) == set(scenarios_of(split))
    json.dumps(row, allow_nan=False)


def test_a_tuning_seed_says_nothing_about_test_rows():
    run = runner.Run("time", "plain", "shared_bottom", seed=runner.TUNING_SEED, changes=TINY)
    log = ratings()
    last = log.seconds >= log.seconds[int(0.9 * len(log))]
    rows = [runner.execute(run, prepared("time", one)) for one in (log, with_labels(log, last))]
    assert not [name for name in rows[0] if name.startswith("test_")]
    said = [{name: value for name, value in row.items() if "seconds" not in name} for row in rows]
    assert said[0] == said[1]


def test_vectors_are_unknown_until_a_user_has_enough_rows():
    prep = prepared("time", ratings())
    early, later = (systems.view(prep, systems.find("user"), 0, known_after=n).rows for n in (0, 12))
    reference = np.array(early["user_pooled_row"])
    assert (reference[prep.rows_before < 12] >= 0).any()
    assert np.array_equal(np.array(later["user_pooled_row"]), np.where(prep.rows_before < 12, -1, reference))


def test_an_id_names_all_that_was_set(tmp_path):
    first = runner.Run("time", "plain", "star", 0)
    others = [
        runner.Run("time", "plain", "star", 0, lag=3600),
        runner.Run("time", "plain", "star", 1),
        runner.Run("time", "plain", "star", 0, changes={"rank": 8}),
    ]
    assert len({first.id, *(run.id for run in others)}) == 4
    assert runner.Run("time", "plain", "star", 0, changes={"rank": runner.MODEL["rank"]}).id == first.id
    runner.append(tmp_path / "rows.jsonl", {"run": first.id})
    assert set(runner.finished(tmp_path / "rows.jsonl")) == {first.id}


def test_a_broken_results_line_is_named(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"run": "a"}\n{"run": ')
    with pytest.raises(DataError, match="row 2"):
        runner.finished(path)


def test_holm_corrects_by_the_number_of_tests_left():
    assert holm({"a": 0.01, "b": 0.04, "c": None, "d": 0.03}) == pytest.approx(
        {"a": 0.03, "b": 0.06, "c": None, "d": 0.06}
    )


def test_a_paired_test_uses_the_seeds_that_both_have():
    first = [{"seed": seed, "test_auc": 0.8 + seed / 100 + 0.01} for seed in range(4)]
    second = [{"seed": seed, "test_auc": 0.8 + seed / 100 + seed / 1000} for seed in range(1, 5)]
    difference, p, seeds = paired(first, second)
    assert seeds == 3
    assert difference == pytest.approx(0.008)
    assert p == pytest.approx(0.0051, abs=1e-3)


def test_seeds_that_split_the_same_rows_count_for_less():
    """Nadeau and Bengio: the variance of the mean is (1/n + test rows/training rows) s^2."""
    lifts = [0.002, 0.004, 0.003, 0.005, 0.001]
    rows = [{"seed": seed, "test_auc": 0.8 + lift} for seed, lift in enumerate(lifts)]
    plain = [{"seed": seed, "test_auc": 0.8} for seed in range(5)]
    t = 0.003 / (np.std(lifts, ddof=1) * np.sqrt(1 / 5 + 1 / 8))
    assert paired(rows, plain, 1 / 8)[1] == pytest.approx(2 * scipy.stats.t.sf(t, 4))
    assert paired(rows, plain)[1] == pytest.approx(scipy.stats.ttest_1samp(lifts, 0).pvalue)


def test_all_lags_of_a_page_are_one_family():
    groups = {
        lag: {
            ("star", system): [{"seed": s, "test_auc": 0.8 + lift + s % 2 * lift / 9} for s in range(4)]
            for system, lift in (("plain", 0.0), ("concat", 0.01))
        }
        for lag in (0, 3600)
    }
    alone = compared({0: groups[0]})[0]["star", "concat", "plain"][1]
    assert compared(groups)[3600]["star", "concat", "plain"][1] == pytest.approx(2 * alone)


def test_questions_asked_beforehand_are_corrected_apart_and_two_seeds_are_not_tested():
    def rows(backbone, system, lift, seeds):
        return [
            {"system": system, "backbone": backbone, "seed": s, "test_auc": 0.8 + lift + s % 2 * lift / 9}
            for s in range(seeds)
        ]

    systems = {"plain": 0.0, "both": 0.01, "both_shuffled": 0.002, "concat": 0.01, "user": 0.01, "scenario": 0.01}
    found = compared({0: grouped([row for name, lift in systems.items() for row in rows("star", name, lift, 4)])})[0]
    alone = paired(rows("star", "both", 0.01, 4), rows("star", "plain", 0.0, 4))[1]
    against = paired(rows("star", "both", 0.01, 4), rows("star", "both_shuffled", 0.002, 4))[1]
    assert found["star", "both", "plain"][1] == pytest.approx(max(2 * min(alone, against), alone))
    assert found["star", "concat", "plain"][1] == pytest.approx(4 * alone)
    two = compared({0: grouped([row for name, lift in systems.items() for row in rows("star", name, lift, 2)])})[0]
    assert {p for _, p in two.values()} == {None}


def test_tables_and_plots_are_written_from_rows(tmp_path):
    part = {"rows": 900, "users": 9, "auc": 0.7, "logloss": 0.6, "calibration": [[5, 0.1, 0.2], [5, 0.5, 0.4]]}
    rows = [
        {
            "run": f"{system}{seed}", "system": system, "backbone": "star", "seed": seed, "lag": 0, "val_auc": 0.7,
            "test_auc": 0.7 + seed / 100 + (system == "full") / 50, "test_logloss": 0.6, "scenarios": {"a": part},
            "cold": part, "start": part, "new": None, "parameters": {"tables": 1, "dense": 2}, "seconds": 1.0, "cpu_seconds": 1.0,
        }
        for system in ("plain", "full", "full_shuffled")
        for seed in (0, 1)
    ]  # fmt: skip
    write_tables(tmp_path, "time", rows)
    text = (tmp_path / "time.md").read_text()
    assert "| star | full | 2 | 0.7250 |" in text
    assert "| star | full | full_shuffled | +0.0200 |" in text
    assert (tmp_path / "time-lift.svg").is_file()
    assert (tmp_path / "time-calibration.svg").is_file()
    alone = tmp_path / "alone"
    write_tables(alone, "time", [row for row in rows if row["system"] == "full"])
    assert [path.name for path in alone.iterdir()] == ["time.md"] and "svg" not in (alone / "time.md").read_text()


def test_the_product_itself_refuses_the_random_protocol(tmp_path):
    body = {"data": {"kind": "movielens", "path": "."}, "split": {"protocol": "scenario-wise-rec"}}
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(body))
    with pytest.raises(SettingsError, match="protocol"):
        load_settings(tmp_path / "s.yaml")


def test_an_unknown_system_is_named():
    with pytest.raises(SettingsError, match="no system 'fulll'"):
        systems.find("fulll")


def test_pages_quote_means_over_the_seeds_that_all_systems_have(tmp_path):
    def row(system, seed, area):
        return {"run": f"{system}{seed}", "system": system, "backbone": "star", "seed": seed, "test_auc": area}

    out, backbones = tmp_path / "evidence", tmp_path / "backbones"
    out.mkdir()
    backbones.mkdir()
    rows = [row("plain", 0, 0.7), row("plain", 1, 0.5), row("both", 0, 0.73), row("both_shuffled", 0, 0.74)]
    (out / "time.jsonl").write_text("\n".join(map(json.dumps, rows)))
    before = "# Title\n\n<!-- evidence -->\nof before\n<!-- end -->\n\nwords\n"
    for page in (out / "README.md", backbones / "star.md", backbones / "ple.md"):
        page.write_text(before)
    write_pages(out, backbones)
    found, own, none = (p.read_text() for p in (out / "README.md", backbones / "star.md", backbones / "ple.md"))
    assert "| by time | 1 | 1 | 0.7000 | 0.7300 | 0.7400 |" in found
    assert "in 1 of 1" in found and "in 0 of 1" in found and "told apart from chance" in found
    assert "| today's | by time | 1 | 0.7000 | 0.7300 | 0.7400 |" in own
    assert "No run of this backbone" in none
    assert all(
        page.startswith("# Title\n") and page.endswith("\nwords\n") and "of before" not in page for page in (found, own)
    )
    write_pages(out, backbones)
    assert (out / "README.md").read_text() == found
