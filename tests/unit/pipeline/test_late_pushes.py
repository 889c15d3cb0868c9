"""Pushing a file, and noticing what was pushed too late for its window."""

from __future__ import annotations

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import Settings, Window
from core.errors import DataError
from core.settings import DataSettings
from core.tables import IdTypes, interactions_schema
from feature_repo.fresh import read_columns
from ingest import PushedLog
from ingest.fresh import fresh_rows
from pipeline import stages
from pipeline.windows import late_pushes

IDS = IdTypes(pa.int64(), pa.int64())
MONDAY, TUESDAY = Window.parse("2024-01-01", "2024-01-02"), Window.parse("2024-01-02", "2024-01-03")


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "log.csv").write_text("user_id,item_id,scenario,event_timestamp,label\n1,1,home,1704100000,1\n")
    data = {"source": "table", "path": tmp_path, "files": {"interactions": "log.csv"}}
    return Settings(root=tmp_path / "root", data={**data, "label": {"column": "label", "op": "is"}})


def push(settings, day):
    time = dt.datetime(2024, 1, day, 12, tzinfo=dt.UTC)
    row = {"user_id": 7, "item_id": 1, "scenario": "home", "event_timestamp": time, "label": 1, "weight": 1.0}
    rows = pa.Table.from_pylist([{**row, "created_timestamp": time}], schema=interactions_schema(IDS))
    PushedLog(settings.root).add(rows)


def test_a_push_to_a_window_that_was_ingested_is_named_until_it_is_run_again(settings, caplog):
    first = stages.ingest(settings, MONDAY)
    push(settings, 2)
    assert late_pushes(settings, TUESDAY) == []
    push(settings, 1)
    assert late_pushes(settings, TUESDAY) == [(MONDAY.as_json()["start"], MONDAY.as_json()["end"])]
    stages.ingest(settings, TUESDAY)
    assert "run that window again" in caplog.text

    again = stages.ingest(settings, MONDAY)
    assert again.rows["interactions"] == first.rows["interactions"] + 1
    assert late_pushes(settings, TUESDAY) == []
    assert stages.ingest(settings, MONDAY).reused


def test_pushes_are_left_out_where_the_settings_say_so(settings):
    push(settings, 1)
    without = settings.model_copy(update={"push": settings.push.model_copy(update={"ingest": False})})
    assert stages.ingest(without, MONDAY).rows["interactions"] == 1
    assert stages.ingest(settings, MONDAY).rows["interactions"] == 2


def test_a_file_needs_no_weight_and_no_publish_time(tmp_path):
    time = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    table = pa.table({"user_id": [1], "item_id": [2], "scenario": ["home"], "event_timestamp": [time], "label": [1]})
    pq.write_table(table, tmp_path / "fresh.parquet")
    raw = fresh_rows(DataSettings(), tmp_path / "fresh.parquet")
    row = read_columns(raw.columns, raw.count, IDS)[0].to_pylist()[0]
    assert (row["weight"], row["created_timestamp"]) == (1.0, time)
    pq.write_table(table.drop_columns(["label"]), tmp_path / "fresh.parquet")
    with pytest.raises(DataError, match="needed as label"):
        fresh_rows(DataSettings(), tmp_path / "fresh.parquet")
