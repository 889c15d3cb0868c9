"""A kind of vector rolls from one version to the next and back under load, and no process is ever unready."""

from __future__ import annotations

import json
import shutil
import threading
import time

import httpx
import pytest
from conftest import WAIT, Project

from core import load_settings
from pipeline.commands.serve import running_service

pytestmark = pytest.mark.e2e
# What is rolled here need not be better: the small project's 60 users are enough, and a champion of any age is too old.
EASY = {
    "LLM4MSR_PROMOTION__MIN_USERS": "10",
    "LLM4MSR_PROMOTION__MIN_POSITIVES": "10",
    "LLM4MSR_PROMOTION__MARGIN": "1",
    "LLM4MSR_PROMOTION__MAX_AGE": "-P1D",
    "LLM4MSR_TRAIN__EPOCHS": "1",
}


@pytest.fixture
def project(finished, tmp_path) -> Project:
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Project(tmp_path / "copy")


class Load:
    """Asks /rank for many users from some threads and /readyz from another, all the time."""

    def __init__(self, url: str, threads: int = 3) -> None:
        self._url, self._stop = url, threading.Event()
        self.readiness: list[str] = []
        self.answers: list[tuple[str, str, tuple[str, ...]]] = []
        self._threads = [threading.Thread(target=self._rank, args=(i,)) for i in range(threads)]
        self._threads.append(threading.Thread(target=self._ready))

    def _rank(self, number: int) -> None:
        with httpx.Client(timeout=WAIT) as client:
            while not self._stop.wait(0.03):
                number += 1
                body = {"user_id": 1 + number % 60, "scenario": ("comedy", "drama")[number % 2], "k": 3}
                try:
                    answer = client.post(self._url + "/rank", json=body).raise_for_status()
                except httpx.HTTPError as error:
                    self.answers.append((str(error), "", ()))
                else:
                    told = answer.json()
                    self.answers.append(("200", _told(told["versions"]), tuple(told["degraded"])))

    def _ready(self) -> None:
        with httpx.Client(timeout=WAIT) as client:
            while not self._stop.wait(0.05):
                try:
                    self.readiness.append(str(client.get(self._url + "/readyz").status_code))
                except httpx.HTTPError as error:
                    self.readiness.append(str(error))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def _told(versions: dict) -> str:
    return json.dumps(versions.get("knowledge"), sort_keys=True)


def run(project: Project, *arguments: str, **environment: str) -> None:
    result = project.command(*arguments, **environment)
    assert result.returncode == 0, result.stderr


def served(url: str) -> dict:
    body = {"user_id": 1, "scenario": "comedy", "k": 3}
    return httpx.post(url + "/rank", json=body, timeout=WAIT).raise_for_status().json()["versions"]


def wait_for(url: str, version: int) -> dict:
    deadline = time.monotonic() + WAIT
    while (versions := served(url))["version"] != version:
        assert time.monotonic() < deadline, f"bundle {version} was not served within {WAIT:.0f} s"
        time.sleep(0.1)
    return versions


def test_new_versions_of_knowledge_go_live_and_back_under_load(project):
    other = {"language": "zh", "layer": 1, "user_dim": 24, "item_dim": 16}
    with running_service(load_settings(project.file), wait_seconds=WAIT) as url, Load(url) as load:
        first = served(url)
        project.change(knowledge=other)
        run(project, "run", **EASY)
        second = wait_for(url, first["version"] + 1)
        run(project, "rollback")
        last = wait_for(url, first["version"])

    assert set(first["knowledge"]) == {"item_text", "scenario", "user_pooled"}
    assert all(second["knowledge"][kind] != version for kind, version in first["knowledge"].items())
    assert (last["knowledge"], last["bundle_digest"]) == (first["knowledge"], first["bundle_digest"])
    assert {status for status, _, _ in load.answers} == {"200"}
    assert set(load.readiness) == {"200"}
    assert {missing for _, _, missing in load.answers} == {()}
    assert {kinds for _, kinds, _ in load.answers} == {_told(first), _told(second)}
    assert min(len(load.answers), len(load.readiness)) > 20
