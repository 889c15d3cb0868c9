"""The DAG, run task by task by Airflow itself, on a metadata database of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, Project, make_project

pytestmark = pytest.mark.e2e
STAGES = ["ingest", "validate", "features", "knowledge", "materialize", "dataset"]
STAGES += ["train", "evaluate", "promote", "report"]
YEARLY = "0 0 1 1 *"


class Airflow:
    """An Airflow home with a fresh SQLite database."""

    def __init__(self, home: Path) -> None:
        self.home = home
        assert self.run("db", "migrate").returncode == 0

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "LLM4MSR_"))}
        env |= {
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "OMP_NUM_THREADS": "1",
        }
        command = [str(Path(sys.executable).parent / "airflow"), *arguments]
        return subprocess.run(
            command,
            env=env | variables,
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run_interval_until(self, date: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the DAG for the interval that ends on `date`."""
        return self.run("dags", "test", "llm4msr", date, **variables)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Airflow:
    return Airflow(tmp_path_factory.mktemp("airflow"))


@pytest.fixture
def recorder(tmp_path: Path) -> tuple[str, Path]:
    """A stand-in for the command: notes its arguments, and fails with exit code $CODE from stage $BREAK on."""
    calls, script = tmp_path / "calls.jsonl", tmp_path / "command.py"
    script.write_text(
        "import json, os, sys\n"
        f"open({str(calls)!r}, 'a').write(json.dumps(sys.argv[1:]) + chr(10))\n"
        "if sys.argv[1] == os.environ.get('BREAK'):\n"
        "    sys.exit(print('file ratings.csv, row 7: no such scenario') or int(os.environ['CODE']))\n"
    )
    return f"{sys.executable} {script}", calls


def stages_called(calls: Path) -> list[str]:
    return [json.loads(line)[0] for line in calls.read_text().splitlines()]


def test_every_stage_is_called_once_in_order_for_the_data_interval(airflow, recorder):
    command, calls = recorder
    done = airflow.run_interval_until("2000-01-02", LLM4MSR_COMMAND=command, LLM4MSR_SETTINGS="/etc/llm4msr.yaml")
    assert done.returncode == 0, done.stdout
    window = ["--start", "2000-01-01T00:00:00+00:00", "--end", "2000-01-02T00:00:00+00:00"]
    asked = [json.loads(line) for line in calls.read_text().splitlines()]
    assert asked == [[stage, "--settings", "/etc/llm4msr.yaml", *window, "--catch-up"] for stage in STAGES]


def test_a_users_mistake_stops_the_run_at_once_and_its_message_is_in_the_log(airflow, recorder):
    command, calls = recorder
    done = airflow.run_interval_until("2000-01-02", LLM4MSR_COMMAND=command, BREAK="validate", CODE="2")
    assert stages_called(calls) == ["ingest", "validate"]
    assert done.returncode != 0
    assert "file ratings.csv, row 7: no such scenario" in done.stdout


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose history until 2016 was run from the command line."""
    project = make_project(tmp_path_factory.mktemp("scheduled"))
    result = project.command("run", "--end", "2016-01-01")
    assert result.returncode == 0, result.stderr
    return project


def published(project: Project) -> dict[str, str]:
    """Stage and window to the digest of its artifact."""
    refs = sorted(project.root.joinpath("refs").rglob("*.json"))
    return {f"{p.parent.name}/{p.stem}": json.loads(p.read_text())["digest"] for p in refs if p.stem != "latest"}


def test_an_interval_after_the_first_run_goes_through_every_stage_and_again_changes_nothing(airflow, scheduled):
    variables = {"LLM4MSR_SETTINGS": str(scheduled.file), "LLM4MSR_SCHEDULE": YEARLY}
    before = published(scheduled)

    first = airflow.run_interval_until("2017-01-01", **variables)
    assert first.returncode == 0, first.stdout[-4000:]
    after = published(scheduled)
    new = {name.split("/")[0] for name in after.keys() - before.keys()}
    assert new >= {"ingest", "validate", "features", "knowledge", "dataset", "train"}
    assert before.items() <= after.items()

    again = airflow.run_interval_until("2017-01-01", **variables)
    assert again.returncode == 0, again.stdout[-4000:]
    assert published(scheduled) == after
