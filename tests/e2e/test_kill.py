"""SIGKILL in every stage, then run again: the same content as an unbroken run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import make_project

from core import Window, load_settings
from feature_repo import OnlineReader
from pipeline.windows import artifact_store, stage_clock

pytestmark = pytest.mark.e2e


def test_killed_in_every_stage_the_next_run_ends_in_the_same_content(finished, tmp_path):
    project = make_project(tmp_path / "broken")
    driver = Path(__file__).with_name("kill_driver.py")
    result = subprocess.run(
        [sys.executable, driver, project.file],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    seen = json.loads(result.stdout.splitlines()[-1])

    for name, stage in seen.items():
        assert stage["killed"][0] == 9, f"{name} was not killed before publishing"
        # `promote` is done, and says so, as soon as the pointer has moved: the kill half-way may come after that.
        assert stage["killed"][2] == 9 or name == "promote", f"{name} was not killed after publishing"
        assert stage["visible"] == 0, f"{name} left something visible"
        assert stage["status"] == 0, f"{name} did not finish: {result.stderr[-3000:]}"
        unbroken = json.loads((finished.root / "refs" / name / "latest.json").read_text())["digest"]
        assert stage["digest"] == unbroken, f"{name} differs from the unbroken run"
    assert not list((project.root / "tmp").glob("*")), "work in progress was left behind"
    assert online_rows(project) == online_rows(finished)
    pointers = [json.loads((p.root / "serving" / "current.json").read_text()) for p in (project, finished)]
    assert pointers[0] == pointers[1]


def online_rows(project) -> dict:
    """What the online store holds of every user and scenario, vectors as bytes."""
    settings = load_settings(project.file)
    store = artifact_store(settings)
    reader = OnlineReader(settings, stage_clock(settings, Window()), store.get("knowledge").versions)
    clean = store.get("validate")
    users = pq.read_table(clean.file("users.parquet"))["user_id"].to_pylist()
    scenarios = pq.read_table(clean.file("scenarios.parquet"))["scenario"].to_pylist()
    states = {user: reader.read_user(user) for user in users}
    assert all(state.status["user_pooled"] == "found" for state in states.values())
    return {
        "users": {
            user: (s.values, s.history, s.status, s.published, {k: _bytes(v) for k, v in s.vectors.items()})
            for user, s in states.items()
        },
        "texts": {user: reader.read_text("user", user) for user in users},
        "scenarios": {name: _bytes(vector) for name, vector in reader.read_scenarios(scenarios).items()},
    }


def _bytes(vector) -> bytes | None:
    return None if vector is None else vector.tobytes()
