"""What was pushed becomes part of the window it belongs to; a key that the source holds too counts once."""

import datetime as dt
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core import Window
from core.settings import DataSettings
from core.tables import IdTypes, interactions_schema
from ingest import PushedLog
from ingest.fresh import fresh_rows
from ingest.pushed import merge

IDS = IdTypes(pa.int64(), pa.string())
SCHEMA = interactions_schema(IDS)
BEGIN = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def row(user, hour, label=0, later=0, item="a"):
    time = BEGIN + hour * HOUR
    created = time + dt.timedelta(seconds=later)
    return {
        "user_id": user,
        "item_id": item,
        "scenario": "home",
        "event_timestamp": time,
        "label": label,
        "weight": 1.0,
        "created_timestamp": created,
    }


def table(*rows):
    return pa.Table.from_pylist(list(rows), schema=SCHEMA)


@pytest.fixture
def log(tmp_path):
    return PushedLog(tmp_path)


@pytest.fixture
def source(tmp_path):
    """A source's file of two rows, with a null that only validation may judge."""
    path = tmp_path / "interactions.parquet"
    nullable = pa.schema([field.with_nullable(True) for field in SCHEMA])
    rows = [row(1, 0), row(2, 1), {**row(3, 2), "label": None}]
    pq.write_table(pa.Table.from_pylist(rows, schema=nullable), path)
    return path


def test_rows_come_back_by_window_in_order_of_time(log):
    log.add(table(row(2, 5), row(1, 3)))
    log.add(table(row(1, 4)))
    assert log.between(Window(), IDS).to_pylist() == [row(1, 3), row(1, 4), row(2, 5)]
    assert log.between(Window(BEGIN + 4 * HOUR, BEGIN + 5 * HOUR), IDS).to_pylist() == [row(1, 4)]


def test_of_one_key_the_row_published_later_stays_and_of_equals_the_last(log):
    log.add(table(row(1, 3, label=0), row(1, 3, label=1)))
    assert log.between(Window(), IDS)["label"].to_pylist() == [1]
    log.add(table(row(1, 3, label=0, later=60)))
    log.add(table(row(1, 3, label=1, later=30)))
    assert log.between(Window(), IDS).to_pylist() == [row(1, 3, label=0, later=60)]


def test_the_digest_is_of_the_windows_rows_alone(log):
    early = Window(None, BEGIN + 4 * HOUR)
    assert log.digest(early) is None
    log.add(table(row(1, 3)))
    before = log.digest(early)
    log.add(table(row(1, 9), row(1, 3)))
    assert log.digest(early) == before
    log.add(table(row(2, 3)))
    assert log.digest(early) != before


def test_what_the_source_lacks_follows_its_rows(source):
    counted, replaced = merge(source, table(row(1, 0, label=1), row(1, 7), row(2, 6)))
    assert (counted.num_rows, replaced) == (2, 0)
    found = pq.read_table(source)
    assert found["user_id"].to_pylist() == [1, 2, 3, 1, 2]
    assert found["label"].to_pylist() == [0, 0, None, 0, 0]
    assert found.schema.field("label").nullable


def test_a_later_publication_takes_the_place_of_the_sources_row(source):
    counted, replaced = merge(source, table(row(2, 1, label=1, later=1)))
    assert (counted.num_rows, replaced) == (1, 1)
    assert pq.read_table(source).slice(2).to_pylist() == [row(2, 1, label=1, later=1)]
    assert pq.read_table(source)["user_id"].to_pylist() == [1, 3, 2]


def test_nothing_new_leaves_the_file_as_it_is(source):
    before = source.read_bytes()
    assert merge(source, table(row(1, 0), row(2, 1, label=1)))[0].num_rows == 0
    assert source.read_bytes() == before


def test_a_window_counts_its_pushed_rows_once(raw, ingest, log):
    path = raw(
        "log.csv", "user_id,item_id,scenario,event_timestamp,label\n1,a,home,1704067200,1\n2,b,home,1704070800,0\n"
    )
    section = {"source": "table", "files": {"interactions": "log.csv"}, "label": {"column": "label", "op": "is"}}
    log.add(table(row(1, 0), row(9, 2, item="z"), row(9, 30)))
    found = ingest(path=path, window=Window(BEGIN, BEGIN + 24 * HOUR), pushed=log, **section)
    assert found.column("interactions", "user_id") == [1, 2, 9]
    assert found.column("interactions", "label") == [1, 0, 0]
    assert found.rows["interactions"] == found.meta["rows"] == 3
    assert found.column("users", "user_id") == [1, 2, 9]
    assert found.column("items", "item_id") == ["a", "b", "z"]


@pytest.mark.parametrize(("label", "grade"), [(0, 4.0), (1, None)])
def test_a_pushed_row_has_the_grade_of_the_row_it_replaces_if_both_say_the_same(source, label, grade):
    before = pq.read_table(source)
    pq.write_table(before.append_column("grade", pa.array([4.0, 2.0, 5.0], pa.float32())), source)
    counted, replaced = merge(source, table(row(1, 7), row(1, 0, label=label, later=1)))
    assert (counted.schema, replaced) == (SCHEMA, 1)
    found = pq.read_table(source).to_pylist()
    assert [(r["user_id"], r["event_timestamp"], r["grade"]) for r in found] == [
        (2, BEGIN + HOUR, 2.0),
        (3, BEGIN + 2 * HOUR, 5.0),
        (1, BEGIN + 7 * HOUR, None),
        (1, BEGIN, grade),
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fresh.csv", "uid,note\n1,a\n,b\n"),
        ("fresh.tsv", "uid\tnote\n1\ta\n\tb\n"),
        ("fresh.jsonl", '{"uid": 1, "note": "a"}\n\n{"uid": null, "note": "b"}\nbroken\n'),
    ],
)
def test_a_pushed_files_rows_keep_their_lines(tmp_path, name, text):
    columns = {"user_id": "uid", "item_id": "uid", "event_timestamp": "uid"}
    data = DataSettings(columns=columns, label={"column": "note"}, scenario={"rule": "column", "column": "note"})
    (tmp_path / name).write_text(text)
    raw = fresh_rows(data, tmp_path / name)
    if raw.records is None:
        assert raw.columns["uid"].to_pylist() == ["1", None]
        assert [raw.line(row) for row in range(raw.count)] == [2, 3]
        assert json.loads(raw.text(0)) == {"uid": "1", "note": "a"}
    else:
        assert [raw.line(row) for row in range(raw.count)] == [1, 3, 4]
        assert raw.records[2] == "broken"


def test_ids_that_cannot_be_of_todays_type_count_for_nothing_and_stay(log):
    """A root whose ids were text: to whom `007` was pushed, there is no such integer."""
    texts, numbers = IdTypes(pa.string(), pa.string()), IdTypes(pa.int64(), pa.int64())
    made = [row("7", 1, item="1"), row("7", 2, item="x"), row("007", 3, item="1")]
    log.add(pa.Table.from_pylist(made, schema=interactions_schema(texts)))
    log.settle(numbers)
    assert (log.users(numbers.user), log.waiting(numbers.user)) == ([7], [7])
    assert [item for _, item, *_ in log.rows_of([7], numbers.item)[7]] == [1]
    assert log.between(Window(), numbers).num_rows == 1
    log.settle(texts)
    assert log.users(texts.user) == log.waiting(texts.user) == ["007", "7"]
    assert log.between(Window(), texts).num_rows == 3


@pytest.mark.parametrize("indent", [None, 1])
def test_a_file_may_be_one_array_of_objects(tmp_path, indent):
    made = [{"user_id": 1, "label": 1}, "text"]
    file = tmp_path / "fresh.json"
    file.write_text(json.dumps(made, indent=indent))
    raw = fresh_rows(DataSettings(), file)
    assert (raw.records, raw.count, [raw.line(row) for row in range(2)]) == (made, 2, [1, 2])
