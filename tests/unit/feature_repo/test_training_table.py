"""The training table, through the real Feast: what a row may know, and what it must not."""

import dataclasses
import datetime as dt
import hashlib
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError
from unit.feature_repo.feature_worlds import DIM, Row, Snapshot, at, random_rows, write_source

from core import Window, from_micros, replay
from core.errors import GateError
from core.matrix import open_matrix
from core.tables import UNDATED_MICROS, IdTypes
from feature_repo import features
from feature_repo.training_table import check_rows

NO_LAG = {"lag": {"item_stats": dt.timedelta(0)}, "prior_rate": 0.5, "prior_weight": 2.0, "history_length": 3}
TODAY = {"features": NO_LAG}
STATES = ("user_stats", "item_stats", "user_history", "user_pooled", "scenario", "item_text")


def micros(column):
    return column.cast(pa.int64()).to_pylist()


def pooled_of(table):
    return table["user_pooled_row"].to_pylist()


def knows(rows, row):
    """What a row's statistics must be: all earlier rows of its user and of its item; plain Python."""
    user = [r for r in rows if r.user == row.user and r.micros < row.micros]
    item = [r for r in rows if r.item == row.item and r.micros < row.micros]
    return tuple(len(x) or None for x in (user, item)), sum(r.label for r in user)


def assert_only_the_past_is_known(rows, table):
    table = table.to_pylist()
    by_key = {(r.user, r.item, r.micros, r.scenario): r for r in rows}
    assert len(table) == len(by_key)
    for found in table:
        moment = found["event_timestamp"]
        key = (found["user_id"], found["item_id"], round(moment.timestamp() * 1e6), found["scenario"])
        counts, positives = knows(rows, by_key[key])
        assert (found["user_rows"], found["item_rows"]) == counts
        assert found["history_end"] == positives
        assert (found["user_positives"] or 0) == positives
        for view in STATES:
            published = found[f"{view}_published"]
            assert published is None or published <= moment
            assert found[f"{view}_watermark"] is None or found[f"{view}_watermark"] <= published


@pytest.mark.parametrize("seed", range(3))
def test_every_row_knows_exactly_what_came_before_it(world, seed):
    rows = random_rows(seed)
    assert_only_the_past_is_known(rows, world(rows, overrides=TODAY).train_table())


def test_three_rows_in_one_second_see_one_state_that_excludes_all_three(world):
    rows = [Row(1, 10, 1), Row(1, 11, 5), Row(1, 12, 5, label=0), Row(1, 13, 5, scenario="search"), Row(1, 14, 6)]
    table = world(rows, overrides=TODAY).train_table()
    assert table["user_rows"].to_pylist() == [None, 1, 1, 1, 4]
    assert table["user_positives"].to_pylist() == [None, 1, 1, 1, 3]
    assert table["history_end"].to_pylist() == [0, 1, 1, 1, 3]
    assert micros(table["user_stats_watermark"])[1:4] == [at(1) + 1] * 3


def test_planted_bug_watermark_at_the_event_itself_is_noticed(world, monkeypatch):
    rows = random_rows(0)
    monkeypatch.setattr(features, "TICK", 0)
    table = world(rows, overrides=TODAY).train_table()
    with pytest.raises(AssertionError):
        assert_only_the_past_is_known(rows, table)


def test_knowledge_from_the_future_is_not_joined(world):
    rows = [Row(1, 10 + k, k) for k in range(4)]
    planted = [Snapshot(1, at(1) + 1), Snapshot(1, at(2) + 1, event=at(50)), Snapshot(1, at(60))]
    assert pooled_of(world(rows, pooled=planted).train_table()) == [None, None, 0, 0]


def test_knowledge_that_is_published_late_is_joined_only_from_then_on(world):
    rows = [Row(1, 10 + k, k) for k in range(6)]
    late = [Snapshot(1, at(1), event=at(3) + 1)]
    assert pooled_of(world(rows, pooled=late).train_table()) == [None] * 4 + [0, 0]


def test_correction_published_later_is_not_seen_by_earlier_rows(world):
    rows = [Row(1, 10 + k, k) for k in range(6)]
    corrected = [Snapshot(1, at(1), event=at(1)), Snapshot(1, at(1), event=at(1), created=at(4))]
    table = world(rows, pooled=corrected).train_table()
    assert pooled_of(table) == [None, 0, 0, 0, 1, 1]


def test_correction_of_an_older_state_never_hides_a_newer_one(world):
    rows = [Row(1, 10 + k, k) for k in range(6)]
    states = [Snapshot(1, at(1)), Snapshot(1, at(2)), Snapshot(1, at(1), event=at(1), created=at(4))]
    assert pooled_of(world(rows, pooled=states).train_table()) == [None, 0, 1, 1, 1, 1]


def test_backfilled_store_joins_every_row_and_keeps_rows_without_knowledge(world):
    rows = random_rows(5)
    backfilled = [Snapshot(user, UNDATED_MICROS) for user in range(4)]
    table = world(rows, pooled=backfilled).train_table()
    assert table["row_id"].to_pylist() == list(range(len(rows)))
    for user, row in zip(table["user_id"].to_pylist(), pooled_of(table), strict=True):
        assert row == (user if user < 4 else None)
    assert table["item_text_row"].null_count == table["scenario_row"].null_count == 0


@pytest.mark.parametrize("seed", range(2))
def test_flipping_a_label_changes_no_feature_of_its_own_row_nor_of_earlier_ones(world, seed):
    rows = random_rows(seed, count=60)
    before = world(rows, "before", overrides=TODAY)
    table = before.train_table()
    target = rows[len(rows) // 2]
    flipped = [Row(r.user, r.item, r.second, 1 - r.label, r.scenario) if r is target else r for r in rows]
    after = world(flipped, "after", overrides=TODAY)
    other = after.train_table()
    upto = [k for k, time in enumerate(micros(table["event_timestamp"])) if time <= target.micros]
    own = lambda t: t.take(upto).drop_columns(["label"]).to_pylist()  # noqa: E731
    assert own(table) == own(other)
    assert [histories(before, k) for k in upto] == [histories(after, k) for k in upto]
    assert table["label"].to_pylist() != other["label"].to_pylist()
    assert not table.drop_columns(["label"]).equals(other.drop_columns(["label"]))


def histories(world, row_id, name="dataset"):
    """A row's history items, resolved as models resolve them."""
    rows, log = (pq.read_table(world.root / name / table) for table in ("rows", "user_log"))
    user, end = rows["user_id"][row_id].as_py(), rows["history_end"][row_id].as_py()
    items = [r["item_id"] for r in log.to_pylist() if r["user_id"] == user]
    return items[:end][-world.settings.features.history_length :]


def test_rows_come_in_order_with_the_declared_and_derived_columns(world):
    made = world(random_rows(1))
    table = made.train_table(train_start=at(4))
    keys = list(
        zip(micros(table["event_timestamp"]), table["user_id"].to_pylist(), table["item_id"].to_pylist(), strict=True)
    )
    assert keys == sorted(keys)
    head = ["row_id", "split", "user_id", "item_id", "scenario", "event_timestamp", "label", "weight"]
    features = [
        "gender",
        "genre",
        "year",
        *(f"{e}_{c}" for e in ("user", "item") for c in ("rows", "positives", "rate")),
    ]
    vectors = ["user_pooled_row", "scenario_row", "item_text_row"]
    times = [f"{view}_{time}" for view in STATES for time in ("watermark", "published")]
    assert table.column_names == [*head, *features, "history_end", *vectors, *times]
    assert table["gender"].to_pylist() == [f"g{user % 2}" for user in table["user_id"].to_pylist()]
    assert table["user_rate"].type == pa.float32()
    assert table["user_pooled_row"].type == pa.int32()
    warm = [part == "warmup" for part in table["split"].to_pylist()]
    assert warm == [time < at(4) for time in micros(table["event_timestamp"])]


def test_spec_says_what_models_need(world):
    made = world(random_rows(1))
    made.train_table(train_start=at(4))
    spec = json.loads((made.root / "dataset/spec.json").read_text())
    assert spec["user_categorical"] == ["gender"]
    assert (spec["item_categorical"], spec["item_dense"]) == (["genre"], ["year"])
    assert spec["scenarios"] == ["home", "search"]
    assert spec["vectors"]["user_pooled"] == {"dim": DIM, "version": "p1"}
    assert spec["views"]["user_stats"] == ["user_rows", "user_positives", "user_rate"]
    assert spec["id_types"] == {"user_id": "int64", "item_id": "int64"}
    assert spec["train_start"] == at(4)
    assert spec["service"].startswith("ranker_")


def test_table_passes_its_own_gate(world):
    from validation import validate_training_table

    made = world(random_rows(1))
    made.train_table(train_start=at(4))
    assert validate_training_table(made.root / "dataset", made.settings, made.clock)


def test_matrices_are_the_very_files_of_the_knowledge_and_nothing_else_is_left(world):
    made = world(random_rows(1))
    made.train_table()
    folder = made.root / "dataset"
    assert sorted(p.name for p in folder.iterdir()) == ["chain.json", "rows", "spec.json", "user_log", "vectors"]
    for view in ("user_pooled", "scenario", "item_text"):
        assert (folder / f"vectors/{view}/0000.npy").samefile(made.knowledge / view / "vectors.npy")


def test_nothing_is_written_outside_the_root_and_the_output(world, tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    made = world(random_rows(1))
    made.train_table()
    assert list(elsewhere.iterdir()) == []
    assert sorted(p.name for p in made.root.iterdir()) == ["dataset", "features", "knowledge", "source", "state"]


def test_same_inputs_make_the_same_bytes(world):
    made = world(random_rows(2))
    digests = []
    for name in ("one", "two"):
        made.train_table(name)
        files = sorted(p for p in (made.root / name).rglob("*") if p.is_file())
        digests.append([hashlib.sha256(p.read_bytes()).hexdigest() for p in files])
    assert digests[0] == digests[1]


def test_window_and_clock_bound_the_rows_but_not_what_they_know(world):
    rows = [Row(1, 10 + k, k) for k in range(10)]
    made = world(rows)
    table = made.train_table(window=Window(from_micros(at(4)), from_micros(at(8))))
    assert micros(table["event_timestamp"]) == [at(k) for k in range(4, 8)]
    assert table["user_rows"].to_pylist() == [4, 5, 6, 7]
    made.clock = replay(from_micros(at(5)))
    assert made.train_table("earlier").num_rows == 6


def test_rows_found_in_two_windows_are_there_once(world):
    rows = [Row(1, 10 + k, k) for k in range(6)]
    made = world(rows)
    made.extra = [write_source(made.root / "again", rows[3:])]
    assert made.train_table()["user_rows"].to_pylist() == [None, 1, 2, 3, 4, 5]


def test_string_ids_join_as_well(world):
    rows = [Row(f"u{r.user}", f"i{r.item}", r.second, r.label, r.scenario) for r in random_rows(3)]
    made = world(rows, ids=IdTypes(pa.string(), pa.string()), overrides=TODAY)
    assert_only_the_past_is_known(rows, made.train_table())


def test_empty_window_stops_with_a_gate_error(world):
    made = world([Row(1, 10, 1)])
    with pytest.raises(GateError, match="no interactions"):
        made.train_table(window=Window(from_micros(at(5)), None))


@pytest.mark.parametrize("ids", [[0, 1], [0, 1, 1], [0, 1, 2, 2]])
def test_join_that_drops_or_repeats_rows_stops_with_a_gate_error(ids):
    before = pa.table({"row_id": [0, 1, 2]})
    check_rows(before, before)
    with pytest.raises(GateError, match="3 rows went in"):
        check_rows(before, pa.table({"row_id": ids}))


def test_a_user_and_an_item_column_of_one_name_are_refused(world):
    data = type(world([Row(1, 10, 1)]).settings.data)
    with pytest.raises(ValidationError, match="'gender'"):
        data(user_categorical=["gender"], item_categorical=["gender"])


@pytest.mark.parametrize("seed", range(2))
def test_online_values_equal_what_training_references_resolve_to(world, seed):
    """NAME and NAME_train: a row at the clock's now, joined offline, against the online reader."""
    from feature_repo import OnlineReader, materialize

    rows = random_rows(seed)
    now = max(r.micros for r in rows) + 1
    probe = [Row(user, 100, (now - at(0)) / 1e6, 0) for user in sorted({r.user for r in rows})]
    pooled = [Snapshot(user, time + 1) for user, time in sorted({(r.user, r.micros) for r in rows[::3]})]
    made = world(rows, pooled=pooled, overrides=TODAY)
    made.clock = replay(from_micros(now))
    materialize(made.settings, made.clock, sources=[made.source], features=made.features, knowledge=made.knowledge)
    made.extra = [write_source(made.root / "probe", probe)]
    table = made.train_table(window=Window(from_micros(now), None))
    assert table.num_rows == len(probe)
    reader = OnlineReader(made.settings, made.clock, {"pooled": "p1", "scenario": "s1"})
    matrices = {view: open_matrix(made.root / f"dataset/vectors/{view}.npy") for view in ("user_pooled", "scenario")}
    for row in table.to_pylist():
        state = reader.read_user(row["user_id"])
        assert state.values == {name: row[name] for name in ("gender", "user_rows", "user_positives", "user_rate")}
        assert state.history == histories(made, row["row_id"])
        assert equal(state.vectors["user_pooled"], matrices["user_pooled"], row["user_pooled_row"])
        assert equal(reader.read_scenarios(["home"])["home"], matrices["scenario"], row["scenario_row"])
        for view in ("user_stats", "user_history"):
            assert from_micros(state.published[view]) == row[f"{view}_published"]


def equal(online, matrix, row):
    return online is None if row is None else online is not None and np.array_equal(online, matrix[row])


def test_a_row_keeps_the_grade_of_the_source_that_counts_and_no_other_column_tells_it(world):
    rows = [Row(1, 10 + k, k) for k in range(4)]
    here = world(rows, overrides=TODAY)
    plain = here.train_table("plain")
    assert "grade" not in plain.column_names
    later = write_source(here.root / "later", rows[1:3])
    _with_grades(later, [2.0, None])
    here.extra.append(later)
    graded = here.train_table("graded")
    assert graded["grade"].to_pylist() == [None, 2.0, None, None]
    catalogue = ["genre", "year"]  # which the later source brings anew
    assert graded.drop_columns(["grade", *catalogue]) == plain.drop_columns(catalogue)


def _with_grades(source, grades):
    path = source / "interactions.parquet"
    pq.write_table(pq.read_table(path).append_column("grade", pa.array(grades, pa.float32())), path)


def test_drawn_negatives_pass_the_gate_know_the_past_of_their_item_and_are_counted_nowhere(world):
    from validation import validate_training_table

    rows = [dataclasses.replace(row, label=1) for row in random_rows(1)]
    data = {"user_categorical": ["gender"], "item_categorical": ["genre"], "item_dense": ["year"]}
    made = world(rows, overrides={**TODAY, "data": {**data, "negatives": {"per_positive": 2}}})
    table = made.train_table().to_pylist()
    logged = [row for row in table if not row["sampled"]]
    drawn = [row for row in table if row["sampled"]]
    assert len(logged) == len({(r.user, r.item, r.micros, r.scenario) for r in rows}) and drawn
    assert {(row["label"], row["item_rows"] is None) for row in drawn} == {(0, False)}
    for row in table:
        moment = round(row["event_timestamp"].timestamp() * 1e6)
        counts = [
            len([r for r in rows if r.micros < moment and getattr(r, k) == row[f"{k}_id"]]) for k in ("user", "item")
        ]
        assert [row["user_rows"] or 0, row["item_rows"] or 0] == counts
    assert json.loads((made.root / "dataset/spec.json").read_text())["negatives"]["per_positive"] == 2
    assert validate_training_table(made.root / "dataset", made.settings, made.clock)
