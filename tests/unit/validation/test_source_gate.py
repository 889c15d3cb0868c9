"""The gate behind ingest: each planted fault is caught by the rule that owns it, and no row is lost."""

from __future__ import annotations

import datetime as dt
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.clock import replay
from core.errors import DataError, GateError, MissingArtifactError
from core.negatives import NegativeSampling
from core.tables import SCENARIOS, IdTypes, interactions_schema, items_schema
from validation import validate_source

FUTURE = dt.datetime(2024, 6, 4, tzinfo=dt.UTC)


@pytest.fixture
def gate(source, settings, clock, tmp_path):
    def run(settings=settings, clock=clock, name="out", batch_rows=1000):
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"batch_rows": batch_rows})})
        out = tmp_path / name
        out.mkdir()
        return validate_source(source.write(tmp_path / "source"), out, settings, clock, "run-1"), out

    return run


def rules(out, table):
    return pq.read_table(out / f"quarantine_{table}.parquet").column("rule").to_pylist()


def sorted_rows(*tables):
    rows = [tuple(str(v) for v in row.values()) for table in tables for row in table.to_pylist()]
    return sorted(rows)


def test_clean_tables_pass_untouched_and_quarantine_nothing(gate, source, tmp_path):
    built, out = gate()
    assert built.rows == {
        "interactions": 240,
        "users": 12,
        "items": 20,
        "scenarios": 2,
        "quarantined": 0,
        "quarantined_interactions": 0,
        "quarantined_users": 0,
        "quarantined_items": 0,
    }
    for name in ("interactions", "users", "items", "scenarios"):
        assert (
            pq.read_table(out / f"{name}.parquet").to_pylist()
            == pq.read_table(tmp_path / "source" / f"{name}.parquet").to_pylist()
        )
    body = json.loads((out / "results.json").read_text())
    assert body["verdict"] == "passed"
    assert all(rule["success"] and rule["reason"] for t in body["tables"].values() for rule in t["rules"])


def test_every_row_fault_of_the_log_goes_to_quarantine_under_its_own_rule(gate, source, tmp_path):
    log = source.interactions
    planted = {
        "user_id_null": ("user_id", None),
        "item_id_null": ("item_id", None),
        "scenario_null": ("scenario", None),
        "scenario_unknown": ("scenario", "checkout"),
        "event_timestamp_null": ("event_timestamp", None),
        "event_timestamp_too_early": ("event_timestamp", dt.datetime(1970, 1, 20, tzinfo=dt.UTC)),
        "event_timestamp_in_future": ("event_timestamp", FUTURE),
        "label_null": ("label", None),
        "label_not_binary": ("label", 5),
        "weight_null": ("weight", math.nan),
        "weight_not_valid": ("weight", -1.0),
    }
    for row, (column, value) in zip(range(3, 240, 20), planted.values(), strict=False):
        log[column][row] = value
    _, out = gate(batch_rows=100)
    assert rules(out, "interactions") == list(planted)
    clean = pq.read_table(out / "interactions.parquet")
    rejected = pq.read_table(out / "quarantine_interactions.parquet")
    assert rejected.column("run").unique().to_pylist() == ["run-1"]
    assert rejected.column("row_number").to_pylist() == [row + 1 for row in range(3, 240, 20)][: len(planted)]
    before = pq.read_table(tmp_path / "source" / "interactions.parquet")
    assert sorted_rows(clean, rejected.drop(["rule", "run", "row_number"])) == sorted_rows(before)
    body = json.loads((out / "results.json").read_text())["tables"]["interactions"]
    assert body["quarantined_by_rule"] == dict.fromkeys(planted, 1)


def test_clean_log_has_the_strict_schema_and_keeps_context_columns(gate, source):
    source.schemas["interactions"] = interactions_schema(IdTypes(pa.int64(), pa.int64()), {"place": pa.string()})
    source.interactions["place"] = ["top"] * 240
    source.interactions["label"][0] = 7
    _, out = gate()
    assert pq.read_schema(out / "interactions.parquet") == source.schemas["interactions"]
    assert pq.read_schema(out / "quarantine_interactions.parquet").names[-4:] == ["place", "rule", "run", "row_number"]


def test_rows_within_the_allowed_skew_are_not_from_the_future(gate, source, clock):
    source.interactions["event_timestamp"][0] = clock.now() + dt.timedelta(minutes=5)
    source.interactions["event_timestamp"][1] = clock.now() + dt.timedelta(minutes=5, microseconds=1)
    _, out = gate()
    assert rules(out, "interactions") == ["event_timestamp_in_future"]


def test_of_a_repeated_row_the_first_is_kept_even_across_chunks(gate, source):
    for column in source.interactions.values():
        column.append(column[10])  # row 240, in another chunk of 100 rows
        column.insert(11, column[10])  # and next to it
    source.interactions["weight"][10] = 2.0
    _, out = gate(batch_rows=100)
    assert rules(out, "interactions") == ["repeated", "repeated"]
    assert pq.read_table(out / "interactions.parquet").column("weight").to_pylist().count(2.0) == 1


def test_a_sound_row_is_kept_when_the_first_of_its_key_is_faulty(gate, source):
    for column in source.interactions.values():
        column.append(column[10])
    source.interactions["label"][10] = 9
    built, out = gate()
    assert rules(out, "interactions") == ["label_not_binary"]
    assert built.rows["interactions"] == 240


def test_rows_of_one_second_that_differ_in_item_are_not_repeats(gate, source):
    source.interactions["event_timestamp"][0] = source.interactions["event_timestamp"][1]
    source.interactions["user_id"][0] = source.interactions["user_id"][1] = 3
    source.interactions["item_id"][0], source.interactions["item_id"][1] = 4, 5
    assert gate()[0].rows["quarantined"] == 0


def test_a_row_with_two_faults_is_quarantined_once(gate, source):
    source.interactions["label"][4] = 9
    source.interactions["user_id"][4] = None
    built, out = gate()
    assert rules(out, "interactions") == ["user_id_null"]
    assert built.rows["interactions"] == 239


def test_blank_string_ids_count_as_missing(gate, source):
    for table in ("interactions", "users"):
        rows = getattr(source, table)
        rows["user_id"] = [f"u{v}" for v in rows["user_id"]]
        schema = source.schemas[table]
        source.schemas[table] = schema.set(schema.get_field_index("user_id"), pa.field("user_id", pa.string()))
    source.interactions["user_id"][7] = "  "
    _, out = gate()
    assert rules(out, "interactions") == ["user_id_null"]


def test_rows_of_unknown_users_and_items_stay_and_are_counted(gate, source):
    source.interactions["user_id"][0] = 999
    source.interactions["item_id"][1] = source.interactions["item_id"][2] = 888
    built, out = gate()
    assert built.rows["interactions"] == 240
    body = json.loads((out / "results.json").read_text())["tables"]["interactions"]
    assert body["facts"]["items_without_catalogue_row"] == 1
    assert body["facts"]["users_without_catalogue_row"] == 1
    assert len(body["notes"]) == 2 and body["success"]


def test_catalogue_faults_are_quarantined_and_the_first_of_an_id_is_kept(gate, source, settings):
    lax = settings.model_copy(
        update={"validation": settings.validation.model_copy(update={"max_quarantined_share": 1})}
    )
    items, users = source.items, source.users
    for column in items.values():
        column.append(column[2])
    items["title"][20] = "A second Title 2"
    items["title"][4] = "Caf\ufffd"
    items["year"][5] = math.inf
    items["scenarios"][6] = ["home", "checkout"]
    items["item_id"][7] = None
    users["user_id"][3] = 2
    users["event_timestamp"][5] = None
    built, out = gate(settings=lax)
    assert rules(out, "items") == [
        "title_unreadable",
        "year_not_finite",
        "scenarios_unknown",
        "item_id_null",
        "repeated",
    ]
    assert rules(out, "users") == ["repeated", "event_timestamp_null"]
    assert built.rows["items"] + built.rows["quarantined_items"] == 21
    assert pq.read_table(out / "items.parquet").column("title").to_pylist().count("Title 2") == 1


def test_an_empty_users_table_passes(gate, source):
    source.users = {name: [] for name in source.users}
    built, out = gate()
    assert built.rows["users"] == 0 and built.rows["interactions"] == 240


def test_data_docs_are_written_and_need_no_network(gate, source):
    source.interactions["label"][0] = 7
    _, out = gate()
    docs = out / "run" / "data_docs"
    index = (docs / "index.html").read_text()
    assert "label_not_binary" in index
    for table in ("interactions", "users", "items", "scenarios"):
        page = (docs / f"{table}.html").read_text()
        assert f'href="{table}.html"' in index
        assert "http://" not in page and "https://" not in page and "<script" not in page
    assert "row 1: 7" in (docs / "interactions.html").read_text()


def test_equal_input_gives_equal_bytes_outside_run(gate, source):
    source.interactions["label"][0] = 7
    first, second = gate(name="a")[1], gate(name="b")[1]
    names = sorted(p.name for p in first.iterdir() if p.is_file())
    assert names == [
        "interactions.parquet",
        "items.parquet",
        "quarantine_interactions.parquet",
        "quarantine_items.parquet",
        "quarantine_users.parquet",
        "results.json",
        "scenarios.parquet",
        "users.parquet",
    ]
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def drop(table, column):
    def fault(source):
        del getattr(source, table)[column]
        schema = source.schemas[table]
        source.schemas[table] = schema.remove(schema.get_field_index(column))

    return fault


def retype(table, column, kind, convert):
    def fault(source):
        rows, schema = getattr(source, table), source.schemas[table]
        rows[column] = [convert(value) for value in rows[column]]
        source.schemas[table] = schema.set(schema.get_field_index(column), pa.field(column, kind))

    return fault


def fill(table, column, convert):
    def fault(source):
        rows = getattr(source, table)
        rows[column] = [convert(index, value) for index, value in enumerate(rows[column])]

    return fault


def empty(table):
    def fault(source):
        setattr(source, table, {name: [] for name in getattr(source, table)})

    return fault


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (empty("interactions"), ["rows is 0", "data.path"]),
        (empty("items"), ["rows is 0", "items file"]),
        (empty("scenarios"), ["rows is 0", "data.scenarios"]),
        (drop("interactions", "label"), ["column 'label' is missing"]),
        (drop("items", "year"), ["column 'year' is declared but missing"]),
        (retype("interactions", "label", pa.string(), str), ["column 'label' is string, needs int8"]),
        (retype("items", "item_id", pa.string(), str), ["item_id", "is string, needs int64"]),
        (retype("items", "year", pa.string(), str), ["column 'year' is declared dense but holds string"]),
        (
            fill("interactions", "label", lambda i, v: 3 if i < 20 else v),
            ["quarantined_share", "label_not_binary", "row 1: 3"],
        ),
        (
            fill("interactions", "label", lambda i, v: 1),
            [
                "only_positives is all 240 rows are positive",
                "data.negatives",
                "data.label",
                "validation.one_class_rows",
            ],
        ),
        (fill("interactions", "label", lambda i, v: 0), ["only_negatives is all 240 rows are negative", "data.label"]),
        (
            fill("interactions", "event_timestamp", lambda i, v: dt.datetime(1970, 1, 20, tzinfo=dt.UTC)),
            ["share_too_early is 1", "data.timestamp_unit"],
        ),
        (fill("interactions", "event_timestamp", lambda i, v: FUTURE), ["share_in_future", "data.timestamp_unit"]),
        (fill("interactions", "item_id", lambda i, v: v + 1000), ["share_of_rows_with_item is 0", "same ids"]),
        (fill("interactions", "user_id", lambda i, v: v + 1000), ["share_of_rows_with_user is 0", "same ids"]),
        (fill("scenarios", "description", lambda i, v: " "), ["blank_cells", "row 1 column description"]),
        (fill("scenarios", "scenario", lambda i, v: "home"), ["repeated_names is home"]),
    ],
)
def test_a_table_fault_stops_the_run_and_says_what_to_look_at(gate, source, fault, words):
    fault(source)
    with pytest.raises(GateError) as error:
        gate()
    assert all(word in str(error.value) for word in words), str(error.value)
    assert error.value.exit_code == 2


def test_one_class_in_a_short_window_is_only_noted(gate, source):
    source.interactions = {name: column[:50] for name, column in source.interactions.items()}
    source.interactions["label"] = [1] * 50
    _, out = gate()
    notes = json.loads((out / "results.json").read_text())["tables"]["interactions"]["notes"]
    assert any("one_class_of_few" in note for note in notes)


def test_items_without_any_text_are_only_noted_unless_the_settings_ask_for_it(gate, source, settings):
    source.items["title"] = [None] * len(source.items["title"])
    _, out = gate()
    found = json.loads((out / "results.json").read_text())["tables"]["items"]
    assert found["facts"]["share_with_text"] == 0
    assert [note for note in found["notes"] if "none of 20 items has a text" in note and "data.item_text" in note]
    limits = settings.validation.model_copy(update={"min_share_with_text": 0.5})
    with pytest.raises(GateError, match=r"share_with_text is 0 .*validation\.min_share_with_text"):
        gate(settings=settings.model_copy(update={"validation": limits}), name="strict")


def test_rows_of_an_undeclared_scenario_name_the_setting_that_declares_it(gate, source):
    source.interactions["scenario"][:80] = ["toys"] * 80
    with pytest.raises(GateError, match=r"(?s)scenario_unknown.*row 1: toys.*data\.scenarios"):
        gate()


def test_a_log_of_positives_passes_where_negatives_are_drawn_and_one_of_negatives_does_not(gate, source, settings):
    source.interactions["label"] = [1] * 240
    data = settings.data.model_copy(update={"negatives": NegativeSampling()})
    assert gate(settings=settings.model_copy(update={"data": data}))[0].rows["interactions"] == 240
    source.interactions["label"] = [0] * 240
    with pytest.raises(GateError, match="only_negatives"):
        gate(settings=settings.model_copy(update={"data": data}), name="negatives")


def test_a_click_logged_beside_its_view_is_noted(gate, source):
    for column in source.interactions.values():
        column.append(column[10])
    source.interactions["label"][240] = 1 - source.interactions["label"][10]
    _, out = gate()
    notes = json.loads((out / "results.json").read_text())["tables"]["interactions"]["notes"]
    assert any("repeated_keys_with_both_labels is 1" in note for note in notes)


def test_the_future_starts_at_the_clocks_now(gate, source, settings):
    with pytest.raises(GateError, match="share_in_future"):
        gate(clock=replay("2024-04-01"))


def test_missing_and_broken_files_are_named(source, settings, clock, tmp_path):
    folder = source.write(tmp_path / "source")
    (folder / "users.parquet").write_bytes(b"PAR1 cut short")
    with pytest.raises(DataError, match=r"users\.parquet"):
        validate_source(folder, tmp_path, settings, clock, "r")
    (folder / "users.parquet").unlink()
    with pytest.raises(MissingArtifactError, match=r"users\.parquet"):
        validate_source(folder, tmp_path, settings, clock, "r")


def test_fixture_schemas_are_the_canonical_ones(source):
    assert source.schemas["scenarios"] == SCENARIOS
    assert items_schema(IdTypes(pa.int64(), pa.int64())).names == source.schemas["items"].names[:5]


def test_a_grade_may_be_unknown_but_not_infinite(gate, source):
    source.schemas["interactions"] = interactions_schema(IdTypes(pa.int64(), pa.int64()), {"grade": pa.float32()})
    source.interactions["grade"] = [4.0] * 237 + [None, math.nan, math.inf]
    _, out = gate()
    assert rules(out, "interactions") == ["grade_not_finite"]
    assert pq.read_table(out / "interactions.parquet").num_rows == 239


def test_a_user_with_an_absurd_share_of_a_first_window_is_a_finding(gate, source):
    rows = source.interactions
    count = len(rows["user_id"])
    rows["user_id"] = [f"u{k % 80}" if k % 4 else "anonymous" for k in range(count)]
    rows["user_id"] = [1000 if name == "anonymous" else int(name[1:]) for name in rows["user_id"]]
    _, out = gate()
    notes = json.loads((out / "results.json").read_text())["tables"]["interactions"]["notes"]
    assert any("user 1000 made 60 rows, 25.0% of all" in note and "data.nulls" in note for note in notes)
