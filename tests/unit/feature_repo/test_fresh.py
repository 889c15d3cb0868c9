"""What a fresh interaction must be."""

import json

import pyarrow as pa
import pytest

from core.settings import DataSettings
from core.tables import IdTypes
from feature_repo.fresh import read_columns, read_records

TEXTS = IdTypes(pa.string(), pa.string())
ROW = {"user_id": "ann", "item_id": "i1", "scenario": "red", "event_timestamp": "2024-01-31T18:30:00Z", "label": 1}


@pytest.mark.parametrize("field", ["user_id", "item_id", "scenario"])
def test_half_a_character_is_a_fault_of_its_record_alone(field):
    half = json.loads('"ann\\ud83d"')
    rows, places, faults = read_records([ROW, {**ROW, field: half}, {**ROW, field: "Änn 😀"}], TEXTS)
    assert (rows[field].to_pylist(), places) == ([ROW[field], "Änn 😀"], [0, 2])
    [fault] = faults
    assert (fault.row, fault.field) == (1, field)
    assert "half of a character" in fault.reason
    assert fault.reason.encode().decode() == fault.reason, "it is written to a file of dead letters"


NUMBERS = IdTypes(pa.int64(), pa.int64())


@pytest.mark.parametrize("nothing", ["", " ", "nan", None, "<NA>"])
@pytest.mark.parametrize("field", ["user_id", "item_id", "scenario", "event_timestamp", "label"])
def test_a_word_for_nothing_is_a_fault(field, nothing):
    rows, places, faults = read_records([ROW, {**ROW, field: nothing}], TEXTS)
    assert (rows.num_rows, places) == (1, [0])
    assert [(f.row, f.field) for f in faults] == [(1, field)]


@pytest.mark.parametrize("user", [102, 102.0, "102", "102.0", " 102 "])
def test_ids_are_read_as_ingest_reads_them(user):
    rows, _, faults = read_records([{**ROW, "user_id": user, "item_id": 7}], NUMBERS)
    assert (rows["user_id"].to_pylist(), faults) == ([102], [])


@pytest.mark.parametrize("user", [True, [1], {}, 1.5, 1e30, "007", "guest"])
def test_what_is_no_id_is_a_fault(user):
    _, _, [fault] = read_records([{**ROW, "user_id": user, "item_id": 7}], NUMBERS)
    assert fault.field == "user_id"


def test_the_sources_own_columns_are_read_by_its_rules():
    data = DataSettings(
        source="table",
        columns={"user_id": "uid", "item_id": "sku", "event_timestamp": "time"},
        timestamp_unit="iso",
        timezone="Europe/Berlin",
        label={"column": "event", "in": ["cart"]},
        scenario={"rule": "column", "column": "page", "groups": {"red": ["r1", "r2"]}},
    )
    columns = {
        "uid": pa.array(["ann", "bob", "nan"]),
        "sku": pa.array(["i1", "i1", "i1"]),
        "time": pa.array(["2024-01-31 19:30:00", "2024-01-31 18:30:00 UTC", "2024-01-31"]),
        "event": pa.array(["cart", "view", "cart"]),
        "page": pa.array(["r1", "red", "r2"]),
    }
    rows, places, [fault] = read_columns(columns, 3, TEXTS, data, ["red", "blue"])
    assert places == [0, 1]
    assert (fault.row, fault.field) == (2, "uid")
    assert rows["label"].to_pylist() == [1, 0]
    assert rows["scenario"].to_pylist() == ["red", "red"]
    assert len(set(rows["event_timestamp"].to_pylist())) == 1
    canonical, _, _ = read_records([{**ROW, "label": 0}], TEXTS, data, ["red"])
    assert canonical["label"].to_pylist() == [0]


def test_each_record_is_read_by_its_own_names():
    """A log may have columns that are called as ours are and mean something else."""
    data = DataSettings(
        source="table",
        columns={"user_id": "uid", "interactions.item_id": "it's", "event_timestamp": "t"},
        timestamp_unit="iso",
        label={"column": "clicks", "op": ">", "value": 1},
        scenario={"rule": "column", "column": "order"},
    )
    own = {"uid": "bob", "it's": "i2", "t": ROW["event_timestamp"], "clicks": 1, "order": "red"}
    records = [ROW, {**own, "label": "x", "user_id": "9", "scenario": "exp 1"}, "text", {**own, "clicks": 2}, ROW]
    rows, places, faults = read_records(records, TEXTS, data, ["red"])
    assert (places, [f.row for f in faults]) == ([0, 1, 3, 4], [2])
    assert rows["user_id"].to_pylist() == ["ann", "bob", "bob", "ann"]
    assert rows["label"].to_pylist() == [1, 0, 1, 1]


def test_rows_of_a_log_of_positives_need_no_label():
    data = DataSettings(source="table", columns={"user_id": "uid"}, label={"op": "all"})
    rows = [{**{k: v for k, v in ROW.items() if k not in ("label", "user_id")}, "uid": "bob"}, {**ROW, "label": 0}]
    got, _, faults = read_records([rows[0], {**rows[0], "label": "words"}, rows[1]], TEXTS, data, ["red"])
    assert (got["label"].to_pylist(), faults) == ([1, 1, 0], [])
