"""Columns may be called what they like: one project through every stage, a service, a push and the quarantine."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import REPOSITORY, WAIT, Project

from core.training_table import read_rows
from pipeline.commands.serve import free_port, stop_service

pytestmark = pytest.mark.e2e
USERS, ITEMS, ROWS = 60, 40, 1500
# Words of SQL, attributes of a module, names of our own work, characters of paths, patterns and formats.
USER_COLUMNS = ["select", "type", "group/by", "Größe", "%p", "n", "x", "x.y"]
ITEM_COLUMNS = ["a.b", "values", "row", "value", "price, in €", "weight;--", "{t}", "*"]
SETTINGS = {
    "root": "root",
    "data": {
        "source": "table",
        "path": ".",
        "files": {"interactions": "log.csv", "users": "users.csv", "items": "items.parquet"},
        "columns": {
            "user_id": "user id",
            "item_id": "it's",
            "interactions.event_timestamp": "t",
            "title": 'a"b',
            "when": "t",
        },
        "timestamp_unit": "iso",
        "label": {"column": "rank", "op": ">", "value": 0},
        "scenario": {"rule": "column", "column": "order"},
        "user_categorical": USER_COLUMNS[:5],
        "user_dense": USER_COLUMNS[5:],
        "item_categorical": [*ITEM_COLUMNS[:2], "when"],
        "item_dense": ITEM_COLUMNS[2:],
        "item_text": ["title", "a.b"],
    },
    "train": {"epochs": 1},
    "controls": {"every": 0},
    "promotion": {"resamples": 100, "floor": "none"},
    "online": {"timeout_ms": 60_000},
}


@pytest.fixture(scope="module")
def odd(tmp_path_factory) -> Project:
    """The project, after a run; one row of its log has no item."""
    folder, draw = tmp_path_factory.mktemp("odd"), random.Random(1)
    log = [
        (
            f"u{draw.randrange(USERS)}",
            f"i{draw.randrange(ITEMS)}",
            f"2026-10-{1 + k // 100:02d}T00:{k % 60:02d}:00Z",
            k % 3,
            k % 2,
        )
        for k in range(ROWS)
    ]
    log[7] = (log[7][0], "", *log[7][2:])
    write(folder / "log.csv", ["user id", "it's", "t", "order", "rank"], [(*r[:3], f"page {r[3]}", r[4]) for r in log])
    people = [(f"u{u}", *(f"{name[0]}{u % 3}" for name in USER_COLUMNS[:5]), u, 10 + u, u % 7) for u in range(USERS)]
    write(folder / "users.csv", ["user id", *USER_COLUMNS], people)
    columns: dict[str, list[Any]] = {
        name: [float(i % (k + 2)) for i in range(ITEMS)] for k, name in enumerate(ITEM_COLUMNS)
    }
    columns |= {name: [f"kind {i % 4}" for i in range(ITEMS)] for name in ("a.b", "values", "t")}
    ids, titles = [f"i{i}" for i in range(ITEMS)], [f"Red {i} and {i * 7 % 5}" for i in range(ITEMS)]
    pq.write_table(pa.table({"it's": ids, 'a"b': titles, **columns}), folder / "items.parquet")
    (folder / "llm4msr.yaml").write_text(yaml.safe_dump(SETTINGS, allow_unicode=True), encoding="utf-8")
    project = Project(folder)
    done = project.command("run")
    assert done.returncode == 0, done.stderr
    return project


def write(file: Path, header: Sequence[str], rows: list[tuple]) -> None:
    with file.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])


def newest(project: Project, stage: str) -> Path:
    pointer = json.loads((project.root / "refs" / stage / "latest.json").read_text())
    return project.root / "objects" / stage / pointer["object"]


def test_each_column_reaches_training_with_its_own_values(odd):
    rows = read_rows(newest(odd, "dataset"))
    people = {f"u{u}": (10.0 + u, float(u % 7)) for u in range(USERS)}
    found = zip(*(rows[name].to_pylist() for name in ("user_id", "x", "x.y")), strict=True)
    assert all(people[user] == (x, xy) for user, x, xy in found)
    items = pq.read_table(odd.folder / "items.parquet")
    for name in ITEM_COLUMNS:
        own = dict(zip(items["it's"].to_pylist(), items[name].to_pylist(), strict=True))
        assert all(own[i] == v for i, v in zip(rows["item_id"].to_pylist(), rows[name].to_pylist(), strict=True)), name


def test_the_model_reads_them_all(odd):
    [bundle] = {file.parent for file in newest(odd, "train").rglob("spec.json") if "knowledge" in str(file)}
    encoder = json.loads((bundle / "spec.json").read_text())["encoder"]
    assert {*USER_COLUMNS[:5], "a.b", "values", "when"} < {*encoder["layout"]["user"], *encoder["layout"]["item"]}
    dense = {feature["name"] for side in ("user_dense", "item_dense") for feature in encoder[side]}
    assert {*USER_COLUMNS[5:], *ITEM_COLUMNS[2:]} < dense


def test_a_row_in_quarantine_is_shown_and_tried_again(odd):
    shown = odd.command("quarantine", "show", "interactions")
    assert json.loads(shown.stdout)["rule"].startswith("item_id")
    assert odd.command("quarantine", "replay").returncode == 0


def test_rows_in_the_logs_own_columns_are_pushed_and_the_service_ranks_with_them(odd, tmp_path):
    fresh = tmp_path / "fresh.csv"
    # Its `label` is a thing of the log's own: what counts is the column that the settings name.
    write(
        fresh,
        ["user id", "it's", "t", "order", "rank", "label"],
        [("u1", "i3", "2026-10-20T00:00:00Z", "page 1", 1, "x")],
    )
    done = odd.command("push", str(fresh))
    assert done.returncode == 0 and "pushed 1 interactions" in done.stdout, done.stderr
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cli import main; main()", "serve", "--port", str(port)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "LLM4MSR_SETTINGS": str(odd.file)},
        cwd=odd.folder,
        start_new_session=True,
    )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + WAIT
        while not ready(url) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        ask = {"user_id": "u1", "scenario": "page 1"}
        ranked = httpx.post(f"{url}/rank", json={**ask, "k": 50}, trust_env=False, timeout=WAIT)
        assert ranked.status_code == 200, ranked.text
        assert len(ranked.json()["items"]) == ITEMS
        assert not [part for part in ranked.json()["degraded"] if "missing" in part]
        told = httpx.post(f"{url}/explain", json={**ask, "item_id": "i3"}, trust_env=False, timeout=WAIT)
        assert told.status_code == 200, told.text
    finally:
        stop_service(process)


def ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz", trust_env=False, timeout=WAIT).status_code == 200
    except httpx.HTTPError:
        return False
