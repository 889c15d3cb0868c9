"""Bad input: a clear error or a quarantined row, nothing lost, no traceback."""

from __future__ import annotations

import csv
import json
import os
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import Project, make_project

pytestmark = pytest.mark.e2e
COLUMNS = ("user", "item", "time", "surface", "clicked")
GOOD = [
    (u, i, 1_600_000_000 + 60 * (10 * u + i), "feed" if i % 2 else "search", i % 3 == 0)
    for u in range(9)
    for i in range(9)
]


@pytest.fixture
def table(tmp_path) -> Project:
    """A project on a table of its own: a click log with two scenarios."""
    (tmp_path / "data").mkdir()
    write(tmp_path / "data" / "log.csv", [(*row[:4], int(row[4])) for row in GOOD])
    write(tmp_path / "data" / "items.csv", [(i, f"Item {i}") for i in range(9)], ("item", "title"))
    columns = {"user_id": "user", "item_id": "item", "event_timestamp": "time", "title": "title"}
    settings = {
        "project": "own",
        "root": "root",
        "data": {
            "source": "table",
            "path": "data",
            "files": {"interactions": "log.csv", "items": "items.csv"},
            "columns": columns,
            "timestamp_unit": "s",
            "label": {"column": "clicked", "op": "is", "value": 1},
            "scenario": {"rule": "column", "column": "surface"},
            "scenarios": {
                "feed": {"title": "Feed", "description": "The home feed."},
                "search": {"title": "Search", "description": "Results of a query."},
            },
        },
        "validation": {"max_quarantined_share": 0.5},
    }
    (tmp_path / "llm4msr.yaml").write_text(yaml.safe_dump(settings))
    return Project(tmp_path)


def write(path: Path, rows: list[tuple], header: tuple[str, ...] = COLUMNS) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def rows_of(project: Project) -> list[list[str]]:
    with (project.folder / "data" / "log.csv").open() as stream:
        return list(csv.reader(stream))[1:]


def checked(project: Project) -> tuple[int, list[str]]:
    """Run the gate; how many rows are clean, and the rules that rejected the others."""
    result = project.command("run", "--until", "validate")
    assert result.returncode == 0, result.stderr
    latest = json.loads((project.root / "refs" / "validate" / "latest.json").read_text())
    folder = project.root / "objects" / "validate" / latest["object"]
    rules = pq.read_table(folder / "quarantine_interactions.parquet")["rule"].to_pylist()
    return pq.read_metadata(folder / "interactions.parquet").num_rows, rules


def refused(project: Project, *words: str, until: str = "validate") -> None:
    """The run stops with exit code 2 and a message that holds these words, without a traceback."""
    result = project.command("run", "--until", until)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert not list((project.root / "tmp").glob("*")), "something half-written was left"


def test_a_clean_table_passes(table):
    assert checked(table) == (len(GOOD), [])


def test_an_empty_log_is_refused(table):
    write(table.folder / "data" / "log.csv", [])
    refused(table, "log.csv")


def test_a_missing_file_is_named(table):
    (table.folder / "data" / "log.csv").unlink()
    refused(table, "log.csv")


def test_a_missing_column_is_named(table):
    rows = [row[:4] for row in rows_of(table)]
    write(table.folder / "data" / "log.csv", rows, COLUMNS[:4])
    refused(table, "log.csv", "clicked")


def test_a_wrong_type_is_named(table):
    rows = rows_of(table)
    rows[3][2] = "yesterday"
    write(table.folder / "data" / "log.csv", rows)
    refused(table, "log.csv", "time", "yesterday")


@pytest.mark.parametrize(
    ("change", "rejected"),
    [
        (lambda rows: rows.append(list(rows[0])), "repeated"),
        (lambda rows: rows[5].__setitem__(2, "4102444800"), "future"),
        (lambda rows: rows[5].__setitem__(4, "7"), "label"),
        (lambda rows: rows[5].__setitem__(3, "billboard"), "scenario"),
        (lambda rows: rows[5].__setitem__(1, ""), "item_id"),
    ],
    ids=["duplicate row", "future timestamp", "label not 0 or 1", "unknown scenario", "no item id"],
)
def test_a_faulty_row_goes_to_quarantine_and_nothing_is_lost(table, change, rejected):
    rows = rows_of(table)
    change(rows)
    write(table.folder / "data" / "log.csv", rows)
    clean, rules = checked(table)
    assert clean == len(rows) - 1
    assert len(rules) == 1
    assert rejected in rules[0]


def test_users_and_items_without_features_are_kept(table):
    rows = [*rows_of(table), ["777", "888", "1600100000", "feed", "1"]]
    write(table.folder / "data" / "log.csv", rows)
    assert checked(table) == (len(rows), [])


def test_another_encoding_is_named_with_its_cure(table):
    path = table.folder / "data" / "items.csv"
    path.write_bytes("item,title\n1,Amélie\n".encode("latin-1"))
    refused(table, "items.csv", "encoding")


def test_too_many_faulty_rows_stop_the_run(table):
    rows = rows_of(table)
    for row in rows[:60]:
        row[3] = "billboard"
    write(table.folder / "data" / "log.csv", rows)
    refused(table, "quarantine")


def test_an_unknown_setting_is_named(table):
    table.change(train={"epoch": 3})
    refused(table, "train.epoch")


def test_a_stage_without_its_input_says_what_to_run(table):
    result = table.command("train")
    assert result.returncode == 2
    assert "llm4msr dataset" in result.stderr


def test_a_full_disk_is_a_clear_error_and_loses_nothing(tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mounted = os.geteuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], stderr=subprocess.DEVNULL
    )
    if not mounted:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        project = make_project(tmp_path / "project", users=60)
        body = yaml.safe_load(project.file.read_text()) | {"root": str(small / "root")}
        project.file.write_text(yaml.safe_dump(body))
        result = project.command("ingest")
        assert result.returncode == 2, result.stderr
        assert "full" in result.stderr
        assert "Traceback" not in result.stderr
        assert not list((small / "root").glob("objects/ingest/*"))
    finally:
        subprocess.run(["umount", str(small)], check=True)
