"""`llm4msr package` makes a Bento that runs by itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import pytest
from conftest import WAIT, Project

from pipeline.commands.serve import free_port, stop_service, wait_ready

pytestmark = pytest.mark.e2e
# What people call folders; `llm4msr init` itself writes a root that begins with a dot.
FOLDER = ".our shop [v2] #1* 50% é"


@pytest.fixture(scope="module")
def project(finished, tmp_path_factory) -> Project:
    folder = tmp_path_factory.mktemp("packaged") / FOLDER
    shutil.copytree(finished.folder, folder)
    return Project(folder)


@pytest.fixture(scope="module")
def home(project, tmp_path_factory) -> Path:
    """A BentoML home that holds the one packaged Bento."""
    home = tmp_path_factory.mktemp("bentoml") / FOLDER
    done = project.command("package", BENTOML_HOME=str(home), BENTOML_DO_NOT_TRACK="True")
    assert done.returncode == 0, done.stderr
    return home


@pytest.fixture(scope="module")
def bento(home) -> Path:
    (folder,) = [path for path in (home / "bentos" / "llm4msr").iterdir() if path.is_dir()]
    return folder


@pytest.fixture(scope="module")
def served(project, home, tmp_path_factory):
    """The URL of the Bento, served far from the repository, where no champion is published."""
    unpromoted = Project(tmp_path_factory.mktemp("unpromoted") / "copy")
    shutil.copytree(project.folder, unpromoted.folder)
    (unpromoted.root / "serving" / "current.json").unlink()
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "LLM4MSR_SEED_BUNDLE")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            # -P: Python would put the current folder, not only the Bento's, on the path.
            [sys.executable, "-P", "-m", "bentoml", "serve", "llm4msr:latest", "--host", "127.0.0.1", f"--port={port}"],
            cwd=tmp_path_factory.mktemp("elsewhere"),
            env={
                **kept,
                "BENTOML_HOME": str(home),
                "BENTOML_DO_NOT_TRACK": "True",
                "LLM4MSR_SETTINGS": str(unpromoted.file),
                "OMP_NUM_THREADS": "1",
            },
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            if not wait_ready(process, url, WAIT):
                log.seek(0)
                pytest.fail("the Bento did not become ready:\n" + log.read().decode(errors="replace")[-3000:])
            yield url
        finally:
            stop_service(process)


def test_it_holds_the_rooms_that_serve_the_seed_and_a_lock_without_addresses(bento):
    rooms = {path.name for path in (bento / "src").iterdir() if path.is_dir()}
    assert rooms == {"core", "ingest", "knowledge", "feature_repo", "models", "bento"}
    assert (bento / "src" / "bento" / "seed" / "manifest.json").is_file()
    lock = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "bentoml==" in lock
    assert "://" not in lock
    assert not (bento / "env" / "python" / "requirements.lock.txt").exists()
    assert not list((bento / "src").rglob("deploy"))


def test_it_becomes_ready_and_ranks_on_its_own_seed(served):
    answer = httpx.post(served + "/rank", json={"user_id": 1, "scenario": "comedy", "k": 3}, timeout=WAIT)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert len(body["items"]) == 3
    assert body["degraded"] == []
    assert body["versions"]["model"] == "seed"


def test_packaging_again_does_nothing_while_the_bento_is_there(project, home, bento):
    again = project.command("package", BENTOML_HOME=str(home), BENTOML_DO_NOT_TRACK="True")
    assert again.returncode == 0, again.stderr
    assert "up to date" in again.stderr
    assert [path.name for path in (home / "bentos" / "llm4msr").iterdir() if path.is_dir()] == [bento.name]


def test_a_root_that_is_a_link_into_a_hidden_folder_is_packaged(project, tmp_path):
    link = tmp_path / "linked"
    link.symlink_to(project.folder, target_is_directory=True)
    done = Project(link).command("package", BENTOML_HOME=str(tmp_path / "home"), BENTOML_DO_NOT_TRACK="True")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "home" / "bentos" / "llm4msr").is_dir()


def test_packaging_again_builds_a_bento_that_was_lost(project, bento, tmp_path):
    again = project.command("package", BENTOML_HOME=str(tmp_path), BENTOML_DO_NOT_TRACK="True")
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "bentos" / "llm4msr").is_dir()
