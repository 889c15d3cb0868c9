"""Ids that change their type: no state from which no command leads out."""

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import Settings, Window
from core.errors import DataError
from core.tables import IdTypes, interactions_schema
from ingest import PushedLog
from pipeline import stages
from pipeline.windows import clean_tables

FIRST, SECOND = Window.parse(None, "2024-01-02"), Window.parse("2024-01-02", "2024-01-03")
HEADER = "user_id,item_id,scenario,event_timestamp,label\n"
DAY = 1_704_067_200


@pytest.fixture
def run(tmp_path):
    """Ingest and validate a window of a log; lines of (user, day of January)."""

    def go(window, lines, **data):
        rows = [f"{user},{k % 3},feed,{DAY + (day - 1) * 86400 + k},{k % 2}" for k, (user, day) in enumerate(lines)]
        (tmp_path / "log.csv").write_text(HEADER + "\n".join(rows) + "\n")
        settings = Settings(
            root=tmp_path / "root",
            data={
                "source": "table",
                "path": tmp_path,
                "files": {"interactions": "log.csv"},
                "label": {"column": "label", "op": "is"},
                **data,
            },
        )
        stages.ingest(settings, window)
        stages.validate(settings, window)
        return settings

    return go


MEMBERS = [(user, 1) for user in (7, 8, 9)]
GUESTS = [*MEMBERS, *((user, 2) for user in (7, "guest-3"))]


def users(manifests):
    return [pq.read_table(m.file("interactions.parquet"))["user_id"].to_pylist() for m in manifests]


def test_without_a_setting_the_message_names_it(run):
    run(FIRST, MEMBERS)
    with pytest.raises(DataError, match=r"user ids are string in this window and int64 in .*set data\.ids: string"):
        run(SECOND, GUESTS)


def test_with_it_earlier_windows_are_converted_and_nothing_is_read_again(run):
    run(FIRST, MEMBERS)
    settings = run(SECOND, GUESTS, ids="string")
    (settings.data.path / "log.csv").unlink()
    assert users(clean_tables(settings, SECOND)) == [["7", "8", "9"], ["7", "guest-3"]]
    assert users(clean_tables(settings, SECOND)) == [["7", "8", "9"], ["7", "guest-3"]]
    assert stages.artifact_store(settings).get("validate").window["start"].startswith("2024-01-02")


def test_and_back_where_every_id_is_a_number(run):
    run(FIRST, MEMBERS, ids="string")
    settings = run(SECOND, [*MEMBERS, (8, 2)], ids="integer")
    assert users(clean_tables(settings, SECOND)) == [[7, 8, 9], [8]]


def test_an_earlier_id_that_is_a_word_is_named(run):
    run(FIRST, [("guest-3", 1)], ids={"user": "string"})
    with pytest.raises(DataError, match=r"an earlier window holds this id: 'guest-3' .*set data\.ids: string"):
        run(SECOND, [(8, 2)], ids="integer")


def test_what_was_pushed_follows(tmp_path):
    time = dt.datetime(2024, 1, 1, 12, tzinfo=dt.UTC)
    row = {
        "item_id": 1,
        "scenario": "feed",
        "event_timestamp": time,
        "label": 1,
        "weight": 1.0,
        "created_timestamp": time,
    }
    numbers, texts = IdTypes(pa.int64(), pa.int64()), IdTypes(pa.string(), pa.string())
    log = PushedLog(tmp_path)
    log.add(pa.Table.from_pylist([{"user_id": 7, **row}], schema=interactions_schema(numbers)))
    assert log.between(Window(), texts)["user_id"].to_pylist() == ["7"]
    guest = {"user_id": "guest-3", **row, "item_id": "1"}
    log.add(pa.Table.from_pylist([guest], schema=interactions_schema(texts)))
    assert log.between(Window(), numbers)["user_id"].to_pylist() == [7]
    assert sorted(log.between(Window(), texts)["user_id"].to_pylist()) == ["7", "guest-3"]


def test_the_history_can_be_run_again_with_the_other_type(run):
    run(FIRST, MEMBERS)
    settings = run(FIRST, MEMBERS, ids="string")
    assert users(clean_tables(settings, FIRST)) == [["7", "8", "9"]]
