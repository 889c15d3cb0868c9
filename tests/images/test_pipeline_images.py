"""The images of the stages are built and run: as uid 10001, their root read-only. Some ten minutes each the first time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from e2e.conftest import make_project
from images.container import Container, build, image_size, need_tools, started

SETTINGS = "/etc/llm4msr"
LLM4MSR = "/opt/venv/bin/llm4msr"
# With the CPU build of torch.
LARGEST = {"pipeline": 2.6e9, "airflow": 3.1e9}


@pytest.fixture(scope="module")
def container(request, tmp_path_factory) -> Iterator[Container]:
    """A container of an image with a project of sixty users, which waits for commands."""
    need_tools()
    image = build(request.param, f"localhost/llm4msr-{request.param}:tried")
    folder = tmp_path_factory.mktemp(request.param)
    made = make_project(folder / "shop")
    artifacts, settings = folder / "artifacts", folder / "settings"
    artifacts.mkdir()
    settings.mkdir()
    os.chown(artifacts, 10001, 10001)
    body = yaml.safe_load(made.file.read_text()) | {"root": "/artifacts"}
    body["data"]["path"] = "/data"
    (settings / "settings.yaml").write_text(yaml.safe_dump(body))
    for path in (made.folder / "data", settings):
        readable(path)
    mounts = {"/artifacts": artifacts, "/data": made.folder / "data", SETTINGS: settings}
    places = {"writable": ["/artifacts"], "command": ["sleep", "infinity"]}
    with started(image, folder / "bundle", mounts, folder / "log", **places) as one:
        one.image, one.kind = image, request.param
        yield one
        one.signal("KILL")


def readable(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def says(container: Container, *command: str) -> str:
    done = container.execute(*command)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("container", ["pipeline", "airflow"], indirect=True)
def test_it_runs_as_nobody_in_particular_and_writes_to_its_artifacts_and_tmp_only(container):
    assert says(container, "id", "-u").strip() == "10001"
    for place in ("/opt/venv", "/opt/llm4msr", "/data", SETTINGS, "/"):
        assert "Read-only file system" in container.execute("touch", f"{place}/x").stderr
    says(container, "touch", "/artifacts/x", "/tmp/x")
    assert image_size(container.image) < LARGEST[container.kind]


@pytest.mark.parametrize("container", ["pipeline", "airflow"], indirect=True)
def test_the_command_line_works_in_it_and_finds_nothing_missing(container):
    assert "llm4msr" in says(container, LLM4MSR, "--version")
    says(container, LLM4MSR, "doctor")  # Exit code 2 where something stands in the way.


@pytest.mark.parametrize("container", ["pipeline"], indirect=True)
def test_all_stages_run_in_it_and_a_second_run_does_nothing(container):
    said = container.execute(LLM4MSR, "run")
    assert said.returncode == 0, said.stderr[-3000:]
    assert "promote" in said.stderr
    pointer = says(container, "cat", "/artifacts/serving/current.json")
    again = container.execute(LLM4MSR, "run")
    assert again.returncode == 0
    assert again.stderr.count("up to date") >= 10
    assert says(container, "cat", "/artifacts/serving/current.json") == pointer
    assert "version" in says(container, "mlflow", "--version")


@pytest.mark.parametrize("container", ["airflow"], indirect=True)
def test_airflow_sees_the_dag_and_its_tasks_run_the_stages(container):
    airflow = ("env", "AIRFLOW__CORE__LOAD_EXAMPLES=False", "airflow")
    says(container, *airflow, "db", "migrate")
    says(container, *airflow, "dags", "reserialize")
    assert "/opt/llm4msr/dags/llm4msr_dag.py" in says(container, *airflow, "dags", "list", "--output", "json")
    assert "No data found" in says(container, *airflow, "dags", "list-import-errors")
    assert "llm4msr_artifacts" in says(container, *airflow, "plugins")
    says(container, *airflow, "tasks", "test", "llm4msr", "ingest", "2018-01-01")
    assert says(container, "ls", "/artifacts/refs/ingest")
