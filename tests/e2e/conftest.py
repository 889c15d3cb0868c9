"""One small project, run once from end to end and shared by the tests that only read it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
USERS = 60
# Seconds for what must happen, on a machine that does much else.
WAIT = 600


@dataclass(frozen=True)
class Project:
    """A settings file and the folder it lives in."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "llm4msr.yaml"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    def command(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run `llm4msr` on this project as a user would."""
        return subprocess.run(
            [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments],
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment, "LLM4MSR_SETTINGS": str(self.file)},
            cwd=self.folder,
            capture_output=True,
            text=True,
        )

    def change(self, **sections: dict) -> None:
        body = yaml.safe_load(self.file.read_text())
        for name, values in sections.items():
            body[name] = {**body.get(name, {}), **values}
        self.file.write_text(yaml.safe_dump(body))


def make_project(folder: Path, users: int = USERS) -> Project:
    """The demo's settings on the first users of latest-small and the films that at least two of them rated."""
    data = folder / "data"
    data.mkdir(parents=True)
    source = REPOSITORY / "data" / "ml-latest-small"
    with (source / "ratings.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if int(row["userId"]) <= users]
    films = {row["movieId"] for row in rows}
    often = {film for film in films if sum(row["movieId"] == film for row in rows) > 1}
    rows = [row for row in rows if row["movieId"] in often]
    _write(data / "ratings.csv", rows)
    with (source / "movies.csv").open(encoding="utf-8") as stream:
        _write(data / "movies.csv", [row for row in csv.DictReader(stream) if row["movieId"] in often])
    body = yaml.safe_load((REPOSITORY / "config" / "demo.yaml").read_text())
    body |= {"project": "small", "root": "root", "train": {"epochs": 3}}
    body["data"]["path"] = "data"
    body["knowledge"] |= {"prompt_users": 3}
    # Sixty users tell no two models apart; these tests are about serving one that has knowledge.
    body["promotion"] = {"resamples": 200, "challenger": "knowledge", "floor": "none", "loss_margin": 10}
    body["serving"] = {"poll_seconds": 0.2}
    body["online"] = {"timeout_ms": 60_000}
    (folder / "llm4msr.yaml").write_text(yaml.safe_dump(body))
    return Project(folder)


@pytest.fixture(autouse=True, scope="module")
def bentoml_of_our_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A BentoML home that no other process shares: every start of a service empties a folder in it."""
    patient = {"services": {"llm4msr": {"traffic": {"timeout": WAIT}}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(tmp_path_factory.mktemp("bentoml")))
        patch.setenv("BENTOML_CONFIG_OVERRIDES", json.dumps(patient))
        yield


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project on which `llm4msr run` has succeeded; do not change it."""
    # A folder's name is data, too: no library may take a part of it for a pattern, an option or a hidden file.
    project = make_project(tmp_path_factory.mktemp("finished") / ".our shop [v2] #1* 50% é")
    result = project.command("run")
    assert result.returncode == 0, result.stderr
    (project.folder / "run.log").write_text(result.stderr)
    return project


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
