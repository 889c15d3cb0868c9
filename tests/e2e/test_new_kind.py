"""The page that adds a kind of user vector does what it says, from the log to the ranked answer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY
from page_changes import change, copy_rooms, run

from benchmarks.shop_world import write_shop

pytestmark = pytest.mark.e2e

PAGE = REPOSITORY / "docs" / "tutorials" / "new-kind.md"
_BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# The loop in one process, and beside it the vector of each user from the log and the items' raw vectors.
_FOLLOW = """
import json
import os
from dataclasses import replace
import numpy as np
import pyarrow.parquet as pq
from bento.live import Live
from bento.scorer import pick_candidates, rank
from core import Window, load_settings, to_micros
from core.matrix import open_matrix
from core.training_table import read_rows
from knowledge.storage.compressor import FILE, Compressor
from pipeline.run import STAGES
from pipeline.windows import clean_tables

settings = load_settings(os.environ["LLM4MSR_SETTINGS"])
made = {name: STAGES[name](settings, Window()) for name in
        ("ingest", "validate", "features", "knowledge", "materialize", "dataset", "train", "evaluate", "promote")}
folder = made["knowledge"].path
live = Live(settings)
live.refresh()
now = live.current
log = pq.read_table(clean_tables(settings, Window())[-1].file("interactions.parquet")).sort_by(
    [("user_id", "ascending"), ("event_timestamp", "ascending"),
     ("item_id", "ascending"), ("scenario", "ascending")])
raw = np.array(open_matrix(folder / "item_text" / "raw.npy"))
place = {item: row for row, item in enumerate(
    pq.read_table(folder / "item_text" / "raw_index.parquet")["item_id"].to_pylist())}
compressor = Compressor.load(folder / "user_recent" / FILE)
rows_of = {}
for row in log.to_pylist():
    rows_of.setdefault(row["user_id"], []).append(row)
away, moved = [], []
for user in sorted(rows_of)[:30]:
    state = now.reader.read_user(user)
    if state.vectors["user_recent"] is None:
        continue
    snapshots = pq.read_table(folder / "user_recent" / "index", filters=[("user_id", "=", user)]).to_pylist()
    newest = max(to_micros(s["watermark"]) for s in snapshots if s["event_timestamp"] <= now.clock.now())
    rows = [row for row in rows_of[user] if to_micros(row["event_timestamp"]) < newest]
    mean = np.mean([raw[place[r["item_id"]]].astype(float) for r in rows if r["item_id"] in place][-5:], axis=0)
    away.append(float(np.abs(compressor.apply(mean[None])[0] - state.vectors["user_recent"]).max()))
    scenario = now.scenarios[0]["scenario"]
    rows = pick_candidates(now, scenario, None, 100).rows
    other = replace(state, vectors={**state.vectors, "user_recent": -state.vectors["user_recent"]})
    scores = [rank(now, one, scenario, rows, 5)[1] for one in (state, other)]
    moved.append(float(np.abs(scores[0] - scores[1]).max()))
rows = read_rows(made["dataset"].path)
print(json.dumps({"away": max(away), "moved": max(moved), "users": len(away), "reads": list(now.bundle.spec.vectors),
    "joined": rows.num_rows - rows["user_recent_row"].null_count, "kinds": sorted(made["knowledge"].versions)}))
"""


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The product's rooms with the page's changes, and the page's settings."""
    folder = tmp_path_factory.mktemp("extended")
    copy_rooms(folder)
    settings: dict = {}
    for language, name, body in _BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "yaml":
            settings = yaml.safe_load(body)
        elif language == "python":
            (folder / name).write_text(body, encoding="utf-8")
        else:
            change(folder / name, body)
    return folder, settings


def test_the_page_adds_a_kind_that_ranks(extended: tuple[Path, dict], tmp_path: Path) -> None:
    code, settings = extended
    write_shop(tmp_path, users=100, items=500, positives=2_000, negatives=1)
    file = tmp_path / "llm4msr.yaml"
    quick = {
        "train": {"epochs": 6, "min_steps": 10},
        "controls": {"every": 0, "without_text": False},
        "promotion": {"challenger": "knowledge", "floor": "none"},
    }
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | settings | quick))
    done = run(_FOLLOW, code, file)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["kinds"] == ["item_text", "pooled", "recent", "scenario"]
    assert found["joined"] > 0
    assert "user_recent" in found["reads"]
    assert found["users"] >= 10 and found["away"] < 1e-5
    assert found["moved"] > 0
