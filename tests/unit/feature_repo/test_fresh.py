"""What a fresh interaction must be."""

import json

import pyarrow as pa
import pytest

from core.tables import IdTypes
from feature_repo.fresh import read_records

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
