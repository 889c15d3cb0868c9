"""The gate behind the dataset: leaks, lost rows and references into nowhere stop the run."""

from __future__ import annotations

import datetime as dt
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.validation.validation_tables import NOW, knowledge_rows, write

from core import Settings
from core.contracts.chain import RowsChain
from core.digest import vector_digests
from core.errors import GateError
from core.tables import TIMESTAMP, IdTypes, knowledge_schema, user_log_schema
from validation import identity, validate_training_table

START = NOW - dt.timedelta(days=3)
USERS, PER_USER = 4, 10
N = USERS * PER_USER
SECOND = dt.timedelta(seconds=1)
INT = {"user_id", "item_id", "history_end", "user_rows", "user_positives", "item_rows", "item_positives"}
TEXT = {"scenario", "age"}


class Table:
    """40 rows, one a second, users in turn; every row sees the state just before it."""

    judged = 0

    def __init__(self) -> None:
        user, nth = [i % USERS for i in range(N)], [i // USERS for i in range(N)]
        t = [START + i * SECOND for i in range(N)]
        before = [t[i - USERS] + dt.timedelta(microseconds=1) if nth[i] else None for i in range(N)]
        seen = [k or None for k in nth]
        self.rows = {
            "user_id": user,
            "item_id": nth,
            "scenario": [("home", "search")[k % 2] for k in nth],
            "event_timestamp": t,
            "label": [1] * N,
            "weight": [1.0] * N,
            "age": [("25", "35")[k % 2] for k in user],
            "year": [1990.0 + k for k in nth],
            "user_rows": list(seen),
            "user_positives": list(seen),
            "user_rate": [None if k is None else 0.5 + k / 100 for k in seen],
            "item_rows": [user[i] or None for i in range(N)],
            "item_positives": [user[i] or None for i in range(N)],
            "item_rate": [user[i] / 10 or None for i in range(N)],
            "history_end": list(seen),
            "user_pooled_row": [None if k is None else k - 1 for k in seen],
            "scenario_row": [k % 2 for k in nth],
            "item_text_row": list(nth),
        }
        for end in ("watermark", "published"):
            for kind in ("user_stats", "user_history", "user_pooled"):
                self.rows[f"{kind}_{end}"] = list(before)
            self.rows[f"item_stats_{end}"] = [t[i - 1] if user[i] else None for i in range(N)]
        self.rows["scenario_watermark"] = [START] * N
        self.rows["scenario_published"] = [START] * N
        self.log = {
            "user_id": user,
            "position": nth,
            "item_id": nth,
            "event_timestamp": t,
        }
        rng = np.random.default_rng(5)
        shapes = {"user_pooled": (9, 4), "scenario": (2, 6), "item_text": (10, 8)}
        self.vectors = {kind: rng.standard_normal(shape).astype(np.float32) for kind, shape in shapes.items()}
        self.spec = {
            "user_categorical": ["age"],
            "user_dense": [],
            "item_categorical": [],
            "item_dense": ["year"],
            "scenarios": ["home", "search"],
            "history_length": 5,
            "prior_rate": 0.5,
            "vectors": {kind: {"dim": shape[1], "version": "v1"} for kind, shape in shapes.items()},
        }

    def kind(self, name):
        if name.endswith(("_watermark", "_published", "_timestamp")):
            return TIMESTAMP
        if name in ("label", "sampled"):
            return pa.int8() if name == "label" else pa.bool_()
        if name in INT or name.endswith("_row"):
            return pa.int64()
        return pa.string() if name in TEXT else pa.float32()

    def write(self, folder):
        """In one segment, or in two of which the first was judged before."""
        (folder / "rows").mkdir(parents=True, exist_ok=True)
        schema = pa.schema([(name, self.kind(name)) for name in self.rows])
        table, first = pa.table(self.rows, schema=schema), self.judged
        for number, part in enumerate([table.slice(0, first), table.slice(first)] if first else [table]):
            pq.write_table(part, folder / "rows" / f"{number:04d}.parquet")
        if first:
            RowsChain(segments=(first, N - first), taken=1).write(folder)
        write(folder, "user_log", self.log, user_log_schema(IdTypes(pa.int64(), pa.int64())))
        (folder / "vectors").mkdir(exist_ok=True)
        for kind, values in self.vectors.items():
            np.save(folder / "vectors" / f"{kind}.npy", values)
        (folder / "spec.json").write_text(json.dumps(self.spec))
        return folder


@pytest.fixture
def table():
    return Table()


@pytest.fixture
def gate(table, clock, tmp_path):
    def run(batch_rows=100, allow_constant=(), ttl=None, constant_rows=100, one_class_rows=100, **lag):
        settings = Settings(
            data={"batch_rows": batch_rows},
            features={"lag": {"item_stats": 0, **lag}, "ttl": ttl or {}},
            validation={
                "allow_constant": list(allow_constant),
                "constant_rows": constant_rows,
                "one_class_rows": one_class_rows,
            },
        )
        return validate_training_table(table.write(tmp_path), settings, clock)

    return run


def test_a_sound_table_passes(gate):
    found = gate()
    assert found["verdict"] == "passed"
    assert found["tables"]["training_table"]["notes"] == []
    assert json.loads(json.dumps(found)) == found


def test_it_has_a_page_in_the_data_docs(table, clock, tmp_path):
    settings = Settings(features={"lag": {"item_stats": 0}})
    validate_training_table(table.write(tmp_path), settings, clock, docs=tmp_path / "docs")
    assert "leak_user_stats_watermark" in (tmp_path / "docs" / "training_table.html").read_text()
    assert 'href="training_table.html"' in (tmp_path / "docs" / "index.html").read_text()


def test_rows_are_counted_from_the_start_of_the_table_not_of_the_chunk(gate, table):
    table.rows["label"][39] = 2
    with pytest.raises(GateError, match="row 40: 2"):
        gate(batch_rows=16)


def test_a_watermark_equal_to_the_row_is_no_leak(gate, table):
    table.rows["user_stats_watermark"][30] = table.rows["event_timestamp"][30]
    assert gate()["verdict"] == "passed"


def test_a_constant_feature_of_few_rows_is_only_noted(gate, table):
    table.rows["year"] = [2000.0] * N
    notes = gate()["tables"]["training_table"]["notes"]
    assert len(notes) == 1 and "constant_features_of_few is year" in notes[0]


@pytest.mark.parametrize(("column", "value"), [("year", 2000.0), ("age", "25")])
def test_a_constant_feature_stops_the_run_unless_it_is_allowed(gate, table, column, value):
    table.rows[column] = [value] * N
    with pytest.raises(GateError, match=f"constant_features is {column}.*allow_constant"):
        gate(constant_rows=20)
    assert gate(allow_constant=[column], constant_rows=20)["verdict"] == "passed"


def test_a_feature_that_is_there_or_not_is_not_constant(gate, table):
    table.rows["age"] = [None if k % 2 else "25" for k in range(N)]
    assert gate(constant_rows=20)["verdict"] == "passed"


def test_drawn_rows_are_no_rows_that_counters_have_seen(gate, table):
    """They stand beside a positive of their user, item statistics and all, and no counter grows by them."""
    for values in table.rows.values():
        values += values[20:23]
    table.rows["label"][N:] = [0] * 3
    with pytest.raises(GateError, match="statistics_jump"):
        gate()
    table.rows["sampled"] = [k >= N for k in range(N + 3)]
    assert gate()["verdict"] == "passed"


def test_training_rows_of_one_class_stop_the_run(gate, table):
    table.rows["label"] = [1] * N
    with pytest.raises(GateError, match=r"one_class is all \d+ training rows have label 1.*data\.negatives"):
        gate(one_class_rows=20)


def test_statistics_may_be_missing_within_the_lag(gate, table):
    table.rows["user_rows"][4] = None
    with pytest.raises(GateError, match="lost_user_stats"):
        gate()
    assert gate(user_stats=4 * SECOND)["verdict"] == "passed"


def test_statistics_that_expired_are_not_lost(gate, table):
    table.rows["user_rows"][4] = None
    with pytest.raises(GateError, match="lost_user_stats"):
        gate(ttl={"user_stats": 3600})
    assert gate(ttl={"user_stats": 0.5})["verdict"] == "passed"


def stopped(gate):
    with pytest.raises(GateError) as error:
        gate()
    return str(error.value)


TIMES = [
    "user_stats_watermark",
    "item_stats_watermark",
    "user_history_watermark",
    "user_pooled_watermark",
    "user_pooled_published",
    "scenario_watermark",
    "scenario_published",
]


def test_a_leak_through_any_time_stops_the_run_and_names_the_row(gate, table):
    for row, column in enumerate(TIMES, start=17):
        table.rows[column][row] = table.rows["event_timestamp"][row] + dt.timedelta(microseconds=1)
    message = stopped(gate)
    for row, column in enumerate(TIMES, start=17):
        assert re.search(rf"1 rows break leak_{column} .*e\.g\. row {row + 1}: ", message), message


@pytest.mark.parametrize("column", ["user_pooled_watermark", "user_pooled_published", "item_stats_published"])
def test_one_leak_is_enough(gate, table, column):
    table.rows[column][17] += 5 * SECOND
    assert f"leak_{column}" in stopped(gate)


def test_each_faulty_row_is_named_under_its_rule(gate, table):
    planted = {
        "history_end_negative": (20, "history_end", -1),
        "user_pooled_undated": (21, "user_pooled_watermark", None),
        "user_pooled_row_outside_matrix": (22, "user_pooled_row", 9),
        "item_text_row_outside_matrix": (23, "item_text_row", -1),
        "label_not_binary": (24, "label", 2),
        "label_null": (25, "label", None),
        "scenario_unknown": (27, "scenario", "checkout"),
        "weight_not_valid": (28, "weight", -1.0),
        "user_id_null": (29, "user_id", None),
    }
    for row, column, value in planted.values():
        table.rows[column][row] = value
    message = stopped(gate)
    for rule, (row, _, _) in planted.items():
        assert re.search(rf"1 rows break {rule} .*e\.g\. row {row + 1}: ", message), message


def test_faults_of_the_table_as_a_whole_are_all_told(gate, table):
    table.rows["history_end"][20] = 6  # the user's own positive of that very row
    table.rows["user_rows"][30] = None
    table.rows["item_rows"][31] = None
    table.rows["age"] = [None] * N
    message = stopped(gate)
    assert "history_leaks is 1 rows, e.g. row 21 of 0" in message
    assert "lost_user_stats is 1 rows, e.g. row 31 of 2" in message
    assert "lost_item_stats is 1 rows, e.g. row 32 of 7" in message
    assert "empty_columns is age" in message


def test_a_history_longer_than_the_log_is_a_leak(gate, table):
    table.rows["history_end"][20] = 99
    assert "history_leaks is 1 rows, e.g. row 21 of 0" in stopped(gate)


def test_what_was_judged_with_an_earlier_window_is_not_judged_again_but_counts(gate, table):
    table.judged = 20
    assert gate()["verdict"] == "passed"
    table.rows["weight"][5] = -1.0
    assert gate()["verdict"] == "passed"
    table.rows["weight"][25] = -1.0
    table.rows["history_end"][30] = 8
    table.rows["user_rows"][24] = None
    message = stopped(gate)
    assert re.search(r"1 rows break weight_not_valid .*e\.g\. row 6: ", message), message
    table.rows["weight"][25] = 1.0
    message = stopped(gate)
    assert "history_leaks is 1 rows, e.g. row 11 of 2" in message
    assert "lost_user_stats is 1 rows, e.g. row 5 of 0" in message, "its earlier rows are in the first segment"


def test_a_night_of_one_class_or_one_value_is_no_fault_where_earlier_ones_have_others(gate, table):
    table.judged = 20
    table.rows["label"] = [row % 2 for row in range(20)] + [1] * 20
    table.rows["age"] = [str(row % 3) for row in range(20)] + ["7"] * 20
    assert gate(constant_rows=1, one_class_rows=1)["verdict"] == "passed"
    table.rows["label"], table.rows["age"] = [1] * N, ["7"] * N
    message = stopped(lambda: gate(constant_rows=1, one_class_rows=1))
    assert "one_class" in message and "constant_features is age" in message


def test_missing_columns_are_named_because_they_prove_nothing(gate, table):
    gone = ["user_stats_watermark", "user_stats_published", "user_pooled_published", "year", "scenario_row"]
    for column in gone:
        del table.rows[column]
    message = stopped(gate)
    assert all(f"column '{column}' is missing" in message for column in gone), message


def test_a_matrix_of_another_width_than_the_spec_says_stops(gate, table):
    table.spec["vectors"]["scenario"]["dim"] = 7
    assert "scenario vectors have 6 numbers, spec.json says 7" in stopped(gate)


def test_an_empty_table_stops(gate, table):
    table.rows = {name: [] for name in table.rows}
    assert "rows is 0" in stopped(gate)


@pytest.mark.parametrize("column", ["user_rows", "user_positives"])
def test_counters_that_hold_their_own_row_stop_the_run(gate, table, column):
    # User 2's rows: 2, 6, 10, ...; from the third on, each counts itself.
    for row in range(10, N, USERS):
        table.rows[column][row] += 1
    with pytest.raises(GateError, match="statistics_jump is 1 states of user_id, e.g. row 7"):
        gate()


def test_counters_with_a_lag_are_not_judged_by_their_steps(gate, table):
    table.rows["user_rows"][30] += 1
    assert gate(user_stats=3600)["verdict"] == "passed"


@pytest.fixture
def bound(table, clock, tmp_path):
    """Judge the table together with the knowledge it points to; `change` alters its columns first."""

    def run(change=lambda rows: None, tamper=lambda folder: None):
        rows, knowledge = table.rows, tmp_path / "knowledge"
        owners = {"user_pooled": "user_id", "scenario": "scenario", "item_text": "item_id"}
        rows["user_pooled_row"] = [None if k is None else rows["user_id"][i] for i, k in enumerate(rows["user_rows"])]
        rows["user_pooled_watermark"] = [None if k is None else START for k in rows["user_rows"]]
        for kind, key in owners.items():
            ids = {at: owner for at, owner in zip(rows[f"{kind}_row"], rows[key], strict=True) if at is not None}
            count = len(ids)
            index = knowledge_rows(key, [ids[at] for at in range(count)], kind)
            index["watermark"] = [START] * count
            key_type = pa.string() if key == "scenario" else pa.int64()
            write(knowledge / kind, "index", index, knowledge_schema(key, key_type))
            table.vectors[kind] = table.vectors[kind][:count]
            digests = vector_digests(index[key], "v1", index["prompt_sha256"], table.vectors[kind])
            np.save(knowledge / kind / "digests.npy", digests)
        change(rows)
        folder = table.write(tmp_path / "dataset")
        tamper(folder)
        settings = Settings(features={"lag": {"item_stats": 0}})
        return validate_training_table(folder, settings, clock, knowledge)

    return run


def test_rows_that_point_to_their_own_vectors_pass(bound):
    assert bound()["verdict"] == "passed"


def test_a_row_that_points_to_another_users_vector_stops_the_run(bound):
    def swap(rows):
        rows["user_pooled_row"][9] = 3

    with pytest.raises(GateError, match="1 rows point to a user_pooled vector of another user_id, .*row 10"):
        bound(swap)


@pytest.mark.parametrize("block", [1, 2, 65_536])
def test_a_vector_that_was_replaced_after_it_was_made_stops_the_run(bound, block, monkeypatch):
    monkeypatch.setattr(identity, "_BLOCK", block)

    def replace(folder):
        vectors = np.load(folder / "vectors" / "item_text.npy")
        vectors[[0, 1]] = vectors[[1, 0]]
        np.save(folder / "vectors" / "item_text.npy", vectors)

    with pytest.raises(GateError, match="2 item_text vectors are not those that were made, e.g. that of 0"):
        bound(tamper=replace)
