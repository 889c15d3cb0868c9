"""Clock, window, digest, errors, tables, log: the small parts of the ground floor."""

import datetime as dt
import json
import logging
import warnings

import pyarrow as pa
import pytest

from core import Window, as_utc, configure, from_micros, logger, progress, replay, to_micros, wall
from core.clock import UNDATED
from core.digest import canonical_json, sha256_file, sha256_json, sha256_path, sha256_text
from core.errors import BundleError, DataError, GateError, SettingsError, UserError
from core.objects import read_json
from core.tables import TIMESTAMP, IdTypes, conform, interactions_schema, items_schema, quarantine_schema

IDS = IdTypes(pa.int64(), pa.int64())


def row(**changes):
    now = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    values = {
        "user_id": 1,
        "item_id": 2,
        "scenario": "a",
        "event_timestamp": now,
        "label": 1,
        "weight": 1.0,
        "created_timestamp": now,
    }
    return {**values, **changes}


def test_microseconds_are_exact_both_ways():
    at = dt.datetime(2024, 2, 29, 23, 59, 59, 999_999, tzinfo=dt.UTC)
    assert from_micros(to_micros(at)) == at
    assert to_micros(dt.datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=dt.UTC)) == -1


def test_times_become_utc_and_naive_ones_are_utc():
    assert as_utc("2024-01-01T02:00:00+02:00") == as_utc("2024-01-01") == dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def test_a_replay_clock_stands_still_and_a_wall_clock_is_in_utc():
    assert replay("2024-01-01").now_micros() == 1_704_067_200_000_000
    assert wall().now().utcoffset() == dt.timedelta(0)


def test_a_window_must_run_forwards():
    with pytest.raises(SettingsError, match="not before end"):
        Window.parse("2024-01-02", "2024-01-01")


def test_a_text_that_is_no_time_is_a_settings_error():
    with pytest.raises(SettingsError, match="write times as"):
        Window.parse("yesterday", None)


def test_the_same_stretch_in_another_time_zone_is_the_same_window():
    zone = dt.timezone(dt.timedelta(hours=8))
    local = Window(dt.datetime(2024, 1, 1, 8, tzinfo=zone), dt.datetime(2024, 1, 2, 8, tzinfo=zone))
    utc = Window.parse("2024-01-01", "2024-01-02")
    assert (local.key, local.as_json(), local.bounds_micros()) == (utc.key, utc.as_json(), utc.bounds_micros())
    assert utc.key == "20240101T000000000000Z_20240102T000000000000Z"


def test_open_windows_have_names():
    assert (Window().key, Window.parse(None, "2024-01-01").key) == ("all", "open_20240101T000000000000Z")


def test_equal_values_have_equal_json():
    assert canonical_json({"b": 1, "a": [2]}) == canonical_json({"a": [2], "b": 1}) == '{"a":[2],"b":1}'


def test_digests_are_those_of_the_bytes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_file(path) == sha256_path(path) == sha256_text("abc") == known
    assert sha256_path(tmp_path) == sha256_json({"a.txt": known})


def test_the_digest_of_a_folder_changes_with_a_name(tmp_path):
    (tmp_path / "a").write_text("x")
    before = sha256_path(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    assert sha256_path(tmp_path) != before


def test_a_data_error_names_its_place():
    error = DataError("is no number", file="log.csv", row=3, column="label")
    assert str(error) == "file log.csv, row 3, column 'label': is no number"


def test_what_a_user_can_mend_exits_with_2():
    assert (UserError.exit_code, GateError.exit_code, BundleError.exit_code) == (2, 2, 1)


def test_conform_orders_casts_and_drops_columns():
    table = pa.Table.from_pylist([row(extra=1)]).select(["extra", *reversed(list(row()))])
    schema = interactions_schema(IDS)
    assert conform(table, schema, "interactions").schema == schema


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([row(), row(scenario=None)], "row 2, column 'scenario': table interactions allows no null here"),
        ([row(user_id="u1")], "column 'user_id': table interactions needs int64 here, not string"),
        ([row(label=300)], "column 'label'"),
        ([row(label=0.5)], "column 'label'"),
        ([{k: v for k, v in row().items() if k != "weight"}], "column 'weight': table interactions lacks this column"),
    ],
)
def test_conform_refuses_and_names_table_and_column(rows, named):
    with pytest.raises(DataError, match=named):
        conform(pa.Table.from_pylist(rows), interactions_schema(IDS), "interactions")


def test_quarantine_holds_what_the_strict_schema_refuses():
    schema = quarantine_schema(interactions_schema(IDS))
    table = pa.Table.from_pylist([{**row(scenario=None), "rule": "scenario_known", "run": "r", "row_number": 7}])
    assert conform(table, schema, "quarantine").num_rows == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ('[{"b": {"a": 1, "c": 2, "a": 1}}]', "'a' stands twice"),
        ("{", "not JSON"),
        (b'"\xff"', "not UTF-8"),
        ("[" * 100_000, "too deep"),
    ],
)
def test_json_that_would_lose_something_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_json(text)
    assert read_json('{"a": {"a": 1}, "b": [{"a": 2}]}') == {"a": {"a": 1}, "b": [{"a": 2}]}


def test_items_keep_declared_columns_behind_their_own():
    names = items_schema(IDS, {"year": pa.float64()}).names
    assert names == ["item_id", "event_timestamp", "created_timestamp", "title", "scenarios", "year"]


def test_undated_rows_lie_before_every_log_and_after_1970():
    assert to_micros(UNDATED) > 0
    assert pa.scalar(to_micros(UNDATED), pa.int64()).cast(TIMESTAMP).as_py() == UNDATED


@pytest.fixture
def log_restored():
    root = logging.getLogger("llm4msr")
    before = (root.handlers[:], root.level, root.propagate)
    yield
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_the_json_log_is_one_object_a_line(capsys, log_restored):
    configure("json")
    logger("room").info("read %s rows", 3)
    line = json.loads(capsys.readouterr().err)
    assert (line["message"], line["level"], line["name"]) == ("read 3 rows", "INFO", "llm4msr.room")


def test_progress_yields_all_items_of_lists_and_generators():
    assert list(progress([1, 2, 3], "counting")) == [1, 2, 3]
    assert list(progress((i for i in range(3)), "counting", unit="steps")) == [0, 1, 2]


@pytest.fixture
def warnings_restored():
    logging.captureWarnings(False)
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    caught = logging.getLogger("py.warnings")
    caught.handlers[:], caught.filters[:], caught.propagate = [], [], True


def test_deprecations_inside_libraries_stay_out_of_the_log_whatever_filters_they_set(
    capsys, log_restored, warnings_restored
):
    configure()
    warnings.simplefilter("always")
    warnings.warn("this API is deprecated", DeprecationWarning, stacklevel=1)
    warnings.warn("this number is odd", RuntimeWarning, stacklevel=1)
    shown = capsys.readouterr().err
    assert "this number is odd" in shown
    assert "deprecated" not in shown
