"""A running service follows promotions, roll-backs and the catalogue, and survives a dead store."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import threading
import time

import httpx
import pytest
from conftest import Project

from core import load_settings, replay
from core.store import replace_json
from pipeline.serve import running_service

pytestmark = pytest.mark.e2e
BODY = {"user_id": 1, "scenario": "comedy", "k": 5}
WAIT = 60.0
# The small project has 60 users: enough for this rule only.
EASY = {"LLM4MSR_PROMOTION__MIN_USERS": "10", "LLM4MSR_PROMOTION__MIN_POSITIVES": "10"}


@pytest.fixture
def project(finished, tmp_path) -> Project:
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Project(tmp_path / "copy")


class Load:
    """Asks /rank all the time from another thread and keeps every status it saw."""

    def __init__(self, url: str) -> None:
        self.url, self.statuses, self._stop = url, [], threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with httpx.Client(timeout=30) as client:
            while not self._stop.is_set():
                self.statuses.append(client.post(self.url + "/rank", json=BODY).status_code)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def ask(url: str, **body: object) -> dict:
    return httpx.post(url + "/rank", json={**BODY, **body}, timeout=30).raise_for_status().json()


def wait_for(condition, what: str) -> None:
    deadline = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {WAIT:.0f} s"
        time.sleep(0.2)


def run(project: Project, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    result = project.command(*arguments, **environment)
    assert result.returncode == 0, result.stderr
    return result


def test_promotion_and_roll_back_go_live_under_load(project):
    settings = load_settings(project.file)
    with running_service(settings) as url, Load(url) as load:
        first = ask(url)["versions"]
        longer = {**EASY, "LLM4MSR_TRAIN__EPOCHS": "8", "LLM4MSR_TRAIN__SEED": "5", "LLM4MSR_PROMOTION__MARGIN": "1"}
        run(project, "train", **longer)
        run(project, "evaluate", **longer)
        run(project, "promote", **longer, LLM4MSR_PROMOTION__CONFIDENCE="0.01")
        wait_for(lambda: ask(url)["versions"]["version"] == first["version"] + 1, "the swap to the new bundle")
        second = ask(url)["versions"]
        run(project, "rollback")
        wait_for(lambda: ask(url)["versions"]["version"] == first["version"], "the swap back")

        assert second["bundle_digest"] != first["bundle_digest"]
        assert ask(url)["versions"]["bundle_digest"] == first["bundle_digest"]
    assert set(load.statuses) == {200}
    assert len(load.statuses) > 20


def test_a_damaged_bundle_is_refused_and_the_old_one_stays(project):
    from bento.live import Live

    live = Live(load_settings(project.file))
    assert live.refresh()
    before = live.current
    pointer = project.root / "serving" / "current.json"
    current = json.loads(pointer.read_text())
    bad = project.root / "objects" / "train" / "damaged" / "bundle_knowledge"
    shutil.copytree(project.root / current["bundle"], bad)
    weights = bad / "weights.safetensors"
    body = bytearray(weights.read_bytes())
    body[-100] ^= 0xFF
    weights.write_bytes(body)
    replace_json(pointer, {**current, "bundle": str(bad.relative_to(project.root)), "version": 99})

    assert not live.refresh()
    assert live.current is before
    assert "weights.safetensors" in live.refused
    replace_json(pointer, {**current, "version": 100})
    assert live.refresh(), "a good bundle after a bad one goes live"
    assert live.current.versions["version"] == 100


def test_a_new_item_is_ranked_without_retraining(project):
    settings = load_settings(project.file)
    with running_service(settings) as url:
        assert ask(url, candidates=[900_001])["unknown_candidates"] == [900_001]
        trained = ask(url)["versions"]["bundle_digest"]
        with (project.folder / "data" / "movies.csv").open("a", encoding="utf-8") as stream:
            stream.write("900001,A Brand New Comedy (2018),Comedy\r\n")
        run(project, "run", "--until", "materialize")
        wait_for(lambda: not ask(url, candidates=[900_001])["unknown_candidates"], "the new item in the catalogue")

        answer = ask(url, candidates=[900_001, 1], k=2)
        assert {item["item_id"] for item in answer["items"]} == {900_001, 1}
        assert answer["versions"]["bundle_digest"] == trained


def test_a_pushed_interaction_changes_the_users_state_at_once(project):
    from feature_repo import OnlineReader

    project.change(clock={"mode": "replay", "at": "2019-01-01T00:00:00+00:00"})
    run(project, "run", "--until", "materialize")
    settings = load_settings(project.file)
    versions = json.loads((project.root / "refs" / "knowledge" / "latest.json").read_text())["object"]
    kinds = json.loads((project.root / "objects" / "knowledge" / versions / "versions.json").read_text())
    reader = OnlineReader(settings, replay("2019-01-01"), kinds)
    before = reader.read_user(1)
    rows = project.folder / "fresh.csv"
    rows.write_text("user_id,item_id,scenario,event_timestamp,label\n1,1,comedy,2018-12-31T00:00:00Z,1\n")
    run(project, "push", str(rows))
    after = reader.read_user(1)

    assert after.values["user_rows"] == before.values["user_rows"] + 1
    assert after.values["user_positives"] == before.values["user_positives"] + 1
    assert after.history[-1] == 1
    assert after.history[:-1] == before.history[1:]


@pytest.fixture
def redis_port(tmp_path):
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        ["redis-server", "--port", str(port), "--save", "", "--dir", str(tmp_path)], stdout=subprocess.DEVNULL
    )
    yield port, server
    server.kill()
    server.wait()


def test_a_dead_online_store_degrades_the_answer_and_nothing_else(project, redis_port):
    port, server = redis_port
    project.change(online={"store": "redis", "url": f"127.0.0.1:{port}"})
    run(project, "materialize")
    with running_service(load_settings(project.file)) as url:
        assert ask(url)["degraded"] == []
        server.kill()
        server.wait()

        answer = ask(url)
        assert "online_store:unavailable" in answer["degraded"]
        assert len(answer["items"]) == BODY["k"]
        assert httpx.get(url + "/readyz").status_code == 200
