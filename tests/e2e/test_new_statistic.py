"""The page that adds a statistic does what it says, from the log to the pushed value."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import REPOSITORY, make_project
from page_changes import change, copy_rooms, run

pytestmark = pytest.mark.e2e

PAGE = REPOSITORY / "docs" / "tutorials" / "new-statistic.md"
_BLOCK = re.compile(r"^```diff (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FOLLOW = """
import os
import json
import pyarrow as pa
import pyarrow.parquet as pq
from core import Window, load_settings
from core.contracts.pointers import CataloguePointer
from core.tables import interactions_schema
from core.training_table import read_rows
from feature_repo import CurrentPusher, OnlineReader
from feature_repo.interaction_log import id_types
from models import load_bundle
from pipeline.run import STAGES
from pipeline.windows import artifact_store, clean_tables, stage_clock

settings = load_settings(os.environ["LLM4MSR_SETTINGS"])
made = {name: STAGES[name](settings, Window()) for name in
        ("ingest", "validate", "features", "knowledge", "materialize", "dataset", "train")}
rows = read_rows(made["dataset"].path)
stats = pq.read_table(made["features"].file("user_stats"))
catalogue = pq.read_table(CataloguePointer.read(settings.root).folder(settings.root) / "items.parquet")
bundle = load_bundle(made["train"].file("bundle_plain"))
clock = stage_clock(settings, Window())
reader = OnlineReader(settings, clock, bundle.spec.versions, bundle.spec.columns("user"))
before = reader.read_user(1).values
log = pq.read_table(clean_tables(settings, Window())[-1].file("interactions.parquet"))
pushed = log.slice(0, 1).to_pylist()[0] | {"user_id": 1, "label": 0, "event_timestamp": clock.now()}
schema = interactions_schema(id_types([m.path for m in clean_tables(settings, Window())]))
CurrentPusher(settings).get().push(pa.Table.from_pylist([pushed], schema=schema))
after = reader.read_user(1).values
def total(table, side): return [n == r - p for r, p, n in zip(*(table[f"{side}_{k}"].to_pylist() for k in ("rows", "positives", "negatives"))) if r is not None]
print(json.dumps({
    "training": [all(total(rows, side)) and len(total(rows, side)) for side in ("user", "item")],
    "statistics": all(total(stats, "user")), "catalogue": all(total(catalogue, "item")),
    "encoded": [feature.name for feature in (*bundle.encoder.user_dense, *bundle.encoder.item_dense)],
    "online": [before["user_rows"] - before["user_positives"], before["user_negatives"], after["user_negatives"]],
}))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The product's rooms with the page's changes."""
    folder = tmp_path_factory.mktemp("extended")
    copy_rooms(folder)
    blocks = _BLOCK.findall(PAGE.read_text(encoding="utf-8"))
    assert len(blocks) == 2
    for name, block in blocks:
        change(folder / name, block)
    return folder


def test_the_page_adds_a_statistic_everywhere(extended: Path, tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", users=20)
    project.change(train={"epochs": 1}, knowledge={"prompt_users": 1}, controls={"every": 0, "without_text": False})
    done = run(_FOLLOW, extended, project.file)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert min(found["training"]) > 100
    assert found["statistics"] and found["catalogue"]
    assert {"user_negatives", "item_negatives"} <= set(found["encoded"])
    told, online, pushed = found["online"]
    assert told == online and pushed == online + 1
