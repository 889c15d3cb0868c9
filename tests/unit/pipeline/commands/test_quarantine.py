"""Rejected rows are listed, shown, and after a fix replayed: nothing is lost, nothing counts twice."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from core import Window, load_settings
from core.errors import DataError
from pipeline import stages
from pipeline.cli import app
from pipeline.commands import quarantine
from pipeline.windows import artifact_store, clean_tables

GOOD = [(u, i, 1_600_000_000 + 60 * (10 * u + i), ("feed", "search")[i % 2], i % 2) for u in range(6) for i in range(6)]
BAD = [
    (1, 1, 1_600_009_000, "mail", 1),  # not declared yet
    (2, 1, 1_600_009_060, "mail", 0),
    (3, 1, 1_600_009_120, "feed", ""),  # no label: never sound
    GOOD[0],  # twice
]


def project(folder, scenarios):
    (folder / "data").mkdir(exist_ok=True)
    lines = ["user,item,time,surface,clicked", *(",".join(map(str, row)) for row in GOOD + BAD)]
    (folder / "data" / "log.csv").write_text("\n".join(lines) + "\n")
    (folder / "data" / "items.csv").write_text("item,title\n" + "".join(f"{i},Item {i}\n" for i in range(6)))
    body = {
        "root": "root",
        "data": {
            "source": "table",
            "path": "data",
            "files": {"interactions": "log.csv", "items": "items.csv"},
            "columns": {"user_id": "user", "item_id": "item", "event_timestamp": "time", "title": "title"},
            "timestamp_unit": "s",
            "label": {"column": "clicked", "op": "is", "value": 1},
            "scenario": {"rule": "column", "column": "surface"},
            "scenarios": {name: {"title": name, "description": f"The {name}."} for name in scenarios},
        },
        "validation": {"max_quarantined_share": 0.5},
    }
    (folder / "llm4msr.yaml").write_text(yaml.safe_dump(body))
    return load_settings(folder / "llm4msr.yaml")


@pytest.fixture
def before(tmp_path):
    settings = project(tmp_path, ("feed", "search"))
    stages.ingest(settings)
    stages.validate(settings)
    return settings


@pytest.fixture
def after(before, tmp_path):
    return project(tmp_path, ("feed", "search", "mail"))


def waiting(settings):
    return {entry["rule"]: entry["rows"] for entry in quarantine.counts(settings)}


def test_list_counts_by_rule_and_show_gives_the_rows(before):
    assert waiting(before) == {"scenario_unknown": 2, "label_null": 1, "repeated": 1}
    rows = quarantine.rejected(before, "interactions", "scenario_unknown")
    assert [(row["user_id"], row["scenario"], row["window"]) for row in rows] == [
        (1, "mail", "all"),
        (2, "mail", "all"),
    ]
    assert [row["row_number"] for row in rows] == [len(GOOD) + 1, len(GOOD) + 2]
    assert len(quarantine.rejected(before, "interactions", limit=3)) == 3
    with pytest.raises(DataError, match="interactions, users, items"):
        quarantine.rejected(before, "clicks")


def test_replay_publishes_what_passes_now_and_keeps_the_rest(after):
    part = quarantine.replay(after)
    assert (part.rows["interactions"], part.rows["quarantined"]) == (2, 2)
    assert waiting(after) == {"label_null": 1, "repeated": 1}
    left = {row["rule"]: row["row_number"] for row in quarantine.rejected(after)}
    assert left == {"label_null": len(GOOD) + 3, "repeated": len(GOOD) + 4}, "as they were counted at first"
    tables = json.loads(part.file("results.json").read_text())["tables"]
    assert not any(table["notes"] for table in tables.values()), (
        "two rows are no table: most scenarios have none of them"
    )


def test_later_stages_read_each_row_once(after):
    quarantine.replay(after)
    parts = clean_tables(after, Window())
    assert [part.stage for part in parts] == ["validate", "replay"]
    assert sum(part.rows["interactions"] for part in parts) == len(GOOD) + 2
    made = stages.features(after)
    assert made.rows["interactions"] == len(GOOD) + 2
    assert pq.read_metadata(parts[1].file("interactions.parquet")).num_rows == 2


def test_the_same_replay_again_changes_nothing(after):
    first, second = quarantine.replay(after), quarantine.replay(after)
    assert second.reused and second.digest == first.digest
    assert len(artifact_store(after).all("replay")) == 1


def test_without_a_fix_nothing_passes(before):
    assert quarantine.replay(before).rows["interactions"] == 0
    assert waiting(before) == {"scenario_unknown": 2, "label_null": 1, "repeated": 1}


def test_a_window_that_was_validated_anew_no_longer_needs_its_replay(after):
    quarantine.replay(after)
    stages.ingest(after)
    stages.validate(after)
    parts = clean_tables(after, Window())
    assert [part.stage for part in parts] == ["validate"] and parts[0].rows["interactions"] == len(GOOD) + 2


def test_rows_of_every_table_are_shown_unless_one_is_named(before):
    shown = quarantine.rejected(before)
    assert {row["table"] for row in shown} == {"interactions"}
    assert len(shown) == sum(entry["rows"] for entry in quarantine.counts(before))
    assert quarantine.rejected(before, "items") == []


def test_a_misspelt_table_says_what_it_may_have_meant(before):
    with pytest.raises(DataError, match="did you mean 'interactions'"):
        quarantine.rejected(before, "interaction")


def test_where_nothing_matches_it_is_said_what_else_waits(before):
    told = CliRunner().invoke(app, ["quarantine", "show", "items", "--settings", str(before.file)])
    assert told.exit_code == 0
    assert "no row of items waits; there are" in told.output
    assert "of interactions by" in told.output
