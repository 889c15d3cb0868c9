import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import feature_repo
from core.digest import REPOSITORY

pytestmark = pytest.mark.integration
FEAST = Path(sys.executable).with_name("feast")


def feast(folder, settings_file, *command):
    environment = {**os.environ, "LLM4MSR_SETTINGS": str(settings_file), "FEAST_USAGE": "False"}
    return subprocess.run(
        [FEAST, "-c", str(REPOSITORY / "feature_repo"), "-f", str(folder / "feature_store.yaml"), *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=REPOSITORY,
        check=False,
    )


@pytest.fixture
def project(tmp_path):
    """Settings and a Feast configuration of one root."""
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump({"project": "spec", "root": "root"}))
    config = yaml.safe_load((REPOSITORY / "feature_repo" / "feature_store.yaml").read_text())
    config["project"] = "spec"
    config["registry"]["path"] = str(tmp_path / "root/feast/registry.db")
    config["online_store"]["path"] = str(tmp_path / "root/feast/online.db")
    (tmp_path / "root/feast").mkdir(parents=True)
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(config))
    return tmp_path, settings


def test_apply_before_the_first_run_says_what_to_do(project):
    done = feast(*project, "apply")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "llm4msr run" in done.stdout


def test_apply_keeps_every_generation_and_what_is_online(project, make_world):
    world, newer = make_world(), make_world(name="newer", version="cd34")
    for made in (world, newer):
        feature_repo.materialize(made.settings, made.clock, **made.paths)
    done = feast(*project, "apply")
    assert done.returncode == 0, done.stdout + done.stderr
    store = feature_repo.open_store(world.settings)
    names = {view.name for view in store.list_feature_views()}
    assert {"user_pooled_ab12", "user_pooled_cd34", "user_pooled_cd34_ref", "user_stats", "item_text_ab12_ref"} <= names
    assert len(store.list_feature_services()) == 4
    reader = feature_repo.OnlineReader(world.settings, world.clock, {"pooled": "ab12"})
    assert reader.populated(["user_stats", "user_pooled_ab12"])
    assert reader.read_user(2).status["user_pooled"] == "found"
