import datetime as dt
import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from unit.feature_repo.feature_worlds import Row, at, interactions, random_rows, write_source

from core import Settings
from core.errors import DataError, MissingArtifactError
from core.tables import IdTypes, item_stats_schema, user_history_schema, user_log_schema, user_stats_schema
from feature_repo import writing
from feature_repo.features import build_features
from feature_repo.statistics import entity_state

FILES = ("user_stats", "item_stats", "user_history", "user_log")
INTS = IdTypes(pa.int64(), pa.int64())


def build(tmp_path, rows, settings=None, window_end=None, name="out", ids=INTS):
    source = write_source(tmp_path / f"{name}_source", rows, ids)
    return run([source], tmp_path / name, settings, window_end)


def run(sources, out, settings=None, window_end=None):
    out.mkdir()
    built = build_features(sources, out, settings or Settings(), window_end)
    beside = ["chain.json", "item_counts", "user_counts"]
    beside += [f"{name}{end}.parquet" for name in ("users", "items") for end in ("", "_listed")]
    assert sorted(p.name for p in out.iterdir()) == sorted([*FILES, *beside])
    return built, {name: pq.read_table(out / name) for name in FILES}


def micros(column):
    return column.cast(pa.int64()).to_pylist()


def brute_force(rows, key, settings):
    """(id, time) -> rows, positives, rate of everything up to and including that time; plain Python."""
    expected = {}
    weight, rate = settings.features.prior_weight, settings.features.prior_rate
    for row in rows:
        seen = [r for r in rows if getattr(r, key) == getattr(row, key) and r.micros <= row.micros]
        positives = sum(r.label for r in seen)
        smoothed = np.float32((positives + rate * weight) / (len(seen) + weight))
        expected[getattr(row, key), row.micros] = (len(seen), positives, smoothed)
    return expected


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("entity", ["user", "item"])
def test_every_state_counts_all_rows_up_to_its_time_bit_for_bit(tmp_path, seed, entity):
    rows, settings = random_rows(seed), Settings(features={"prior_rate": 0.3, "prior_weight": 7.0})
    _, tables = build(tmp_path, rows, settings)
    table = tables[f"{entity}_stats"]
    found = {
        (row[f"{entity}_id"], watermark - 1): (
            row[f"{entity}_rows"],
            row[f"{entity}_positives"],
            np.float32(row[f"{entity}_rate"]),
        )
        for row, watermark in zip(table.to_pylist(), micros(table["watermark"]), strict=True)
    }
    assert found == brute_force(rows, entity, settings)
    assert len(found) == table.num_rows


def test_history_end_counts_the_positives_before_the_watermark(tmp_path):
    _, tables = build(tmp_path, random_rows(4))
    log = list(
        zip(tables["user_log"]["user_id"].to_pylist(), micros(tables["user_log"]["event_timestamp"]), strict=True)
    )
    history = tables["user_history"]
    for user, watermark, end in zip(
        history["user_id"].to_pylist(), micros(history["watermark"]), history["history_end"].to_pylist(), strict=True
    ):
        assert end == sum(1 for who, time in log if who == user and time < watermark)


def test_log_holds_positives_in_order_of_time_then_item_with_positions_from_zero(tmp_path):
    rows = [Row(1, 30, 5), Row(1, 20, 5), Row(1, 10, 9, label=0), Row(1, 40, 2), Row(2, 10, 1)]
    _, tables = build(tmp_path, rows)
    log = tables["user_log"]
    assert log.select(["user_id", "position", "item_id"]).to_pydict() == {
        "user_id": [1, 1, 1, 2],
        "position": [0, 1, 2, 0],
        "item_id": [40, 20, 30, 10],
    }


def test_rows_of_one_second_make_one_state_just_after_it(tmp_path):
    _, tables = build(tmp_path, [Row(1, 10, 5), Row(1, 11, 5, label=0), Row(1, 12, 5)])
    stats = tables["user_stats"]
    assert micros(stats["watermark"]) == [at(5) + 1]
    assert micros(stats["event_timestamp"]) == [at(5) + 1]
    assert (stats["user_rows"].to_pylist(), stats["user_positives"].to_pylist()) == ([3], [2])


@pytest.mark.parametrize("seed", range(3))
def test_push_path_state_equals_the_last_batch_state_bit_for_bit(tmp_path, seed):
    rows, settings = random_rows(seed), Settings(features={"history_length": 3, "prior_rate": 1 / 3})
    _, tables = build(tmp_path, rows, settings)
    last = {row["user_id"]: row for row in tables["user_stats"].to_pylist()}
    ends = {row["user_id"]: row["history_end"] for row in tables["user_history"].to_pylist()}
    for user, row in last.items():
        state = entity_state(interactions([r for r in rows if r.user == user]), settings)
        liked = [r["item_id"] for r in tables["user_log"].to_pylist() if r["user_id"] == user]
        assert list(state.statistics.values()) == [row["user_rows"], row["user_positives"], row["user_rate"]]
        assert state.history == liked[: ends[user]][-3:]
        assert state.watermark == max(r.micros for r in rows if r.user == user) + 1


def test_push_path_state_without_rows_is_the_prior():
    state = entity_state(interactions([]), Settings(features={"prior_rate": 0.25}))
    assert (state.statistics, state.history) == ({"rows": 0, "positives": 0, "rate": 0.25}, [])


def test_rows_found_in_two_windows_count_once_and_the_later_window_wins(tmp_path):
    first = write_source(tmp_path / "a", [Row(1, 10, 1, label=1), Row(1, 11, 2, label=0)])
    second = write_source(tmp_path / "b", [Row(1, 10, 1, label=0), Row(1, 12, 3, label=1)])
    built, tables = run([first, second], tmp_path / "out")
    assert built.rows["interactions"] == 3
    assert tables["user_stats"]["user_rows"].to_pylist() == [1, 2, 3]
    assert tables["user_stats"]["user_positives"].to_pylist() == [0, 0, 1]


def test_one_item_in_two_scenarios_at_one_time_is_two_rows(tmp_path):
    _, tables = build(tmp_path, [Row(1, 10, 1), Row(1, 10, 1, scenario="search")])
    assert tables["user_stats"]["user_rows"].to_pylist() == [2]


def test_rows_from_the_window_end_on_are_left_out(tmp_path):
    _, tables = build(tmp_path, [Row(1, 10, 1), Row(1, 11, 2), Row(2, 11, 3)], window_end=at(2))
    assert tables["user_stats"]["user_id"].to_pylist() == [1]
    assert tables["user_log"].num_rows == 1


def test_order_of_the_source_does_not_change_a_byte(tmp_path):
    rows = random_rows(7)
    shuffled = [rows[k] for k in np.random.default_rng(0).permutation(len(rows))]
    digests = []
    for name, these in (("a", rows), ("b", shuffled)):
        build(tmp_path, these, name=name)
        digests.append([hashlib.sha256((tmp_path / name / f / "0000.parquet").read_bytes()).digest() for f in FILES])
    assert digests[0] == digests[1]


def test_slices_of_any_size_hold_the_same_rows(tmp_path, monkeypatch):
    rows = random_rows(8)
    _, whole = build(tmp_path, rows, name="whole")
    monkeypatch.setattr(writing, "ROW_GROUP", 7)
    _, sliced = build(tmp_path, rows, name="sliced")
    assert all(whole[name].equals(sliced[name]) for name in FILES)
    assert pq.ParquetFile(tmp_path / "sliced/user_stats/0000.parquet").metadata.row_group(0).num_rows == 7


def test_string_ids_stay_strings_and_tables_have_the_canonical_schemas(tmp_path):
    ids = IdTypes(pa.string(), pa.string())
    _, tables = build(tmp_path, [Row("u1", "i1", 1), Row("u2", "i1", 2)], ids=ids)
    schemas = (user_stats_schema, item_stats_schema, user_history_schema, user_log_schema)
    assert [tables[name].schema for name in FILES] == [schema(ids) for schema in schemas]


def test_lag_moves_the_publication_not_the_watermark(tmp_path):
    settings = Settings(features={"lag": {"user_stats": dt.timedelta(seconds=3), "user_history": dt.timedelta(0)}})
    _, tables = build(tmp_path, [Row(1, 10, 1)], settings)
    stats = tables["user_stats"]
    assert micros(stats["watermark"]) == [at(1) + 1]
    assert micros(stats["event_timestamp"]) == micros(stats["created_timestamp"]) == [at(4) + 1]
    assert micros(tables["user_history"]["event_timestamp"]) == [at(1) + 1]


def test_empty_log_makes_empty_tables(tmp_path):
    built, tables = build(tmp_path, [])
    assert set(built.rows.values()) == {0}
    assert all(table.num_rows == 0 for table in tables.values())


def test_windows_with_different_id_types_are_refused_naming_file_and_column(tmp_path):
    first = write_source(tmp_path / "a", [Row(1, 10, 1)])
    second = write_source(tmp_path / "b", [Row("1", 10, 1)], IdTypes(pa.string(), pa.int64()))
    with pytest.raises(DataError, match=r"b/interactions.parquet, column 'user_id'"):
        build_features([first, second], tmp_path, Settings(), None)


def test_missing_source_is_named(tmp_path):
    with pytest.raises(MissingArtifactError, match="interactions.parquet does not exist"):
        build_features([tmp_path / "none"], tmp_path, Settings(), None)
