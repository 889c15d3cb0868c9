"""`llm4msr knowledge show`, `plan` and `diff` on a finished project."""

from __future__ import annotations

import json

import pytest
from conftest import Project
from typer.testing import CliRunner

from core import load_settings
from pipeline.cli import app
from pipeline.windows import artifact_store

pytestmark = pytest.mark.e2e


def asked(project: Project, *arguments: str) -> str:
    done = CliRunner().invoke(app, ["knowledge", *arguments, "--settings", str(project.file)])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def told(project: Project, *arguments: str) -> dict:
    output = asked(project, *arguments, "--json")
    return json.loads(output[output.index("{\n") :])


def prompted(project: Project) -> str:
    import pyarrow.parquet as pq

    folder = artifact_store(load_settings(project.file)).get("knowledge").path
    return str(pq.read_table(folder / "user_prompt" / "index")["user_id"][0])


def test_show_prints_a_users_prompt_text_norms_versions_and_neighbours(finished):
    user = prompted(finished)
    state = told(finished, "show", "--user", user)
    page = asked(finished, "show", "--user", user)
    assert state["prompt"].startswith("You study what people like")
    assert state["prompt"] in page
    assert state["text"]["text"] in page
    for kind in ("pooled", "prompt"):
        found = state["kinds"][kind]
        assert f"{kind}, version {found['version']}" in page
        assert f"norm {found['snapshots'][-1]['norm']:.3f}" in page
    assert f"{state['kinds']['pooled']['neighbours'][0]['user_id']} (" in page


def test_show_of_a_stranger_says_that_there_is_no_vector(finished):
    assert "no row of this user, who gets no vector" in asked(finished, "show", "--user", "987654")


def test_plan_counts_what_is_left_to_read(finished):
    plan = told(finished, "plan", "--device", "h200", "--model", "chatglm2-6b", "--price", "3.5", "--no-measure")
    kinds = {row["kind"]: row for row in plan["costs"]}
    assert plan["users"] == kinds["prompt"]["texts"] == 3
    assert kinds["item_text"]["texts"] == 1574
    assert plan["total"]["tokens"] == sum(row["tokens"] for row in plan["costs"])
    assert plan["total"]["money"] == pytest.approx(plan["total"]["hours"] * 3.5)
    own = told(finished, "plan", "--device", "h200", "--no-measure")
    assert own["total"]["new_share"] == 0, "everything is in the cache"


def test_diff_of_an_artifact_with_itself_sees_nothing_move(finished):
    key = artifact_store(load_settings(finished.file)).get("knowledge").path.name
    for kind in told(finished, "diff", key, key).values():
        assert (kind["added"], kind["removed"], kind["moved"]) == (0, 0, 0)
