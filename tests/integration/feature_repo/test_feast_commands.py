import contextlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
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
        timeout=600,
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


def test_the_page_of_the_registry_opens_on_this_machine_only(project):
    folder, settings = project
    assert feast(folder, settings, "apply").returncode == 0
    # Another process may take the port before the server does, which then ends.
    assert any(page_opens(folder, settings) for _ in range(3)), (folder / "ui.log").read_text()


def page_opens(folder, settings):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [FEAST, "-c", REPOSITORY / "feature_repo", "-f", folder / "feature_store.yaml"]
    environment = {**os.environ, "LLM4MSR_SETTINGS": str(settings)}
    with (
        (folder / "ui.log").open("w+") as log,
        subprocess.Popen(
            [*map(str, command), "ui", "--host", "127.0.0.1", "--port", port], stdout=log, stderr=log, env=environment
        ) as server,
    ):
        try:
            return answers(f"http://127.0.0.1:{port}/", server)
        finally:
            server.terminate()


def answers(url, server, seconds=600):
    """Whether the page comes while the server lives."""
    deadline = time.monotonic() + seconds
    with httpx.Client(trust_env=False) as client:
        while time.monotonic() < deadline and server.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                return client.get(url).status_code == 200 and server.poll() is None
            time.sleep(0.1)
    return False
