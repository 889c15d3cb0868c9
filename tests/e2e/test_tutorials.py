"""Each tutorial is followed: its files are written, its changes made, its commands run, in its order.

Only this is another than on the page: the settings and root of a small project stand for the demo's, free ports for those on the page, and what
a `make` target runs for the target.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml
from conftest import REPOSITORY, WAIT, Project

from core.contracts.pointers import BundlePointer
from pipeline.commands.serve import free_port, stop_service, wait_ready

pytestmark = pytest.mark.e2e
PAGES = REPOSITORY / "docs" / "tutorials"
TARGETS = {
    "make demo": "llm4msr demo --settings config/demo.yaml",
    "make serve": "llm4msr serve --settings config/demo.yaml",
}
ROOMS = ("core", "ingest", "knowledge", "validation", "models", "feature_repo", "bento", "pipeline")
BLOCK = re.compile(r"^```(\w+)(?: title=\"(.+?)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Sixty users tell no two models apart.
EASY = {"MIN_USERS": "10", "MIN_POSITIVES": "10", "MARGIN": "1", "MAX_AGE": "-P1D"}


@dataclass
class Reader:
    """Somebody who does what a page says, in a folder."""

    folder: Path
    project: Project
    code: Path = REPOSITORY
    port: int = field(default_factory=free_port)
    services: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, page: str, **environment: str) -> list[str]:
        """What each block of commands wrote to both streams."""
        found = []
        for language, title, body in BLOCK.findall((PAGES / page).read_text(encoding="utf-8")):
            if language == "sh":
                found.append(self._run(body, environment))
            elif title and language == "diff":
                self._change(self.code / title, body)
            elif title and language != "yaml":
                target = (self.code if language == "python" else self.folder) / title
                target.write_text(body, encoding="utf-8")
        return found

    def _run(self, body: str, environment: dict[str, str]) -> str:
        for said, meant in TARGETS.items():
            body = re.sub(f"^{said}$", meant, body, flags=re.MULTILINE)
        body = body.replace("config/demo.yaml", str(self.project.file)).replace(".llm4msr/demo", str(self.project.root))
        body = body.replace("3111", str(self.port))
        own = self._environment() | environment
        if body.startswith("llm4msr serve"):
            self._serve(body, own)
            return ""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", body], cwd=self.folder, env=own, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{body}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def _serve(self, body: str, environment: dict[str, str]) -> None:
        with (self.folder / "serve.log").open("wb") as log:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {body}"],
                cwd=self.folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.services.append(process)
        assert wait_ready(process, f"http://127.0.0.1:{self.port}", WAIT), (self.folder / "serve.log").read_text()

    def _environment(self) -> dict[str, str]:
        programs = self.folder / "bin"
        if not programs.is_dir():
            programs.mkdir()
            for name, call in {"llm4msr": ' -c "from pipeline.cli import main; main()"', "python": ""}.items():
                (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{call} "$@"\n')
                (programs / name).chmod(0o755)
            for name in ("config", "examples"):
                (self.folder / name).symlink_to(REPOSITORY / name)
        return {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.code),
            "OMP_NUM_THREADS": "1",
            "LLM4MSR_SERVING__PORT": str(self.port),
        }

    @staticmethod
    def _change(file: Path, body: str) -> None:
        lines = body.splitlines()
        old = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "-"))
        new = "".join(f"{line[1:]}\n" for line in lines if line[:1] in (" ", "+") or not line)
        text = file.read_text(encoding="utf-8")
        assert text.count(old) == 1, f"the page shows lines that {file} does not have:\n{old}"
        file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def reader(finished, tmp_path) -> Iterator[Reader]:
    shutil.copytree(finished.folder, tmp_path / "project")
    (tmp_path / "here").mkdir()
    found = Reader(tmp_path / "here", Project(tmp_path / "project"))
    yield found
    for process in found.services:
        stop_service(process)


@pytest.mark.parametrize(("target", "command"), TARGETS.items())
def test_a_make_target_runs_what_the_test_runs_for_it(target, command):
    done = subprocess.run([*target.split(), "-n"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert command.removesuffix(" --settings config/demo.yaml") in done.stdout


def test_the_demo(reader):
    demo, places, _, ranked, stranger = reader.follow("demo.md")
    assert "POST /rank" in demo and "POST /explain" in demo
    assert {"objects", "refs", "serving", "ingest", "train"} <= set(places.split())
    assert "report.html" in places
    assert "degraded" in stranger and "missing" in stranger and "degraded" not in ranked.split("{")[0]


def test_your_own_csv_files(reader):
    quick = {"LLM4MSR_TRAIN__EPOCHS": "2", "LLM4MSR_PROMOTION__FLOOR": "none", "LLM4MSR_CONTROLS__EVERY": "0"}
    made, seen, _, _, ranked = reader.follow("own-csv.md", **quick)
    assert "15,000 rows" in made
    assert "rows" in seen and "BAD" not in seen
    assert len(json.loads(ranked[ranked.index("{") : ranked.rindex("}") + 1])["items"]) == 3
    shown = next(body for language, _, body in BLOCK.findall((PAGES / "own-csv.md").read_text()) if language == "yaml")
    written = yaml.safe_load((reader.folder / "shop" / "llm4msr.yaml").read_text())
    assert yaml.safe_load(shown)["data"].items() <= written["data"].items()


def test_another_backbone(reader):
    listed, ran, again = reader.follow("backbone.md")
    assert "star" in listed and "mmoe" in listed
    for stage in ("ingest", "validate", "features", "knowledge", "dataset"):
        assert re.search(rf"{stage}: up to date", ran), ran
    assert not re.search(r"train: up to date", ran) and re.search(r"train: up to date", again)


def test_a_new_reasoner(reader, tmp_path):
    reader.code = tmp_path / "code"
    for room in ROOMS:
        shutil.copytree(REPOSITORY / room, reader.code / room, ignore=shutil.ignore_patterns("__pycache__"))
    versions = reader.project.root / "objects" / "knowledge"
    before = {folder.name for folder in versions.iterdir()}
    (told,) = reader.follow("new-reasoner.md")
    (new,) = {folder.name for folder in versions.iterdir()} - before
    (old,) = before
    one, other = (json.loads((versions / name / "versions.json").read_text()) for name in (old, new))
    assert one.keys() == other.keys() and all(one[kind] != other[kind] for kind in one)
    assert f"version {other['pooled']}" in told


def test_rolling_a_knowledge_version(reader):
    easy = {f"LLM4MSR_PROMOTION__{name}": value for name, value in EASY.items()}
    first = BundlePointer.read(reader.project.root)
    show, _, moved, _ = reader.follow("roll-knowledge.md", **easy)
    assert "You study what people like" in show
    assert "pooled" in moved
    last = BundlePointer.read(reader.project.root)
    assert last.bundle == first.bundle, "the way back leads to the first bundle"
    assert last.previous.bundle != first.bundle, "the new version was live in between"


def test_pushing(reader):
    file, ranked, followed, rejected = [told for told in reader.follow("push.md") if told]
    assert "pushed 3 interactions" in file
    assert "user_stats:missing" not in ranked and "user_history:missing" not in ranked
    assert '"rejected": 1' in followed
    assert json.loads(rejected)["text"] == '{"user_id": 900002}'


def test_airflow(reader):
    run = subprocess.run(["make", "-n", "airflow"], cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert re.search(r"-m dags\.local --port \d+ --settings config/airflow-demo\.yaml", run)
    commands = [body for language, _, body in BLOCK.findall((PAGES / "airflow.md").read_text()) if language == "sh"]
    assert commands == ["make airflow\n", "cat config/airflow-demo.env\n"]
    assert "LLM4MSR_SCHEDULE" in (REPOSITORY / "config" / "airflow-demo.env").read_text()


def test_every_tutorial_is_followed_by_a_test():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    followed = {page.name for page in PAGES.glob("[!R]*.md") if f'"{page.name}"' in tests}
    assert followed == {page.name for page in PAGES.glob("[!R]*.md")}
