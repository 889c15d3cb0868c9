"""A running service follows promotions, roll-backs and the catalogue, and survives a dead store."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from conftest import WAIT, Project
from redis_process import own_redis

from core import load_settings, replay
from core.files import replace_json
from pipeline.commands.serve import running_service

pytestmark = pytest.mark.e2e
BODY = {"user_id": 1, "scenario": "comedy", "k": 5}
# The small project has 60 users: enough for this rule only.
EASY = {"LLM4MSR_PROMOTION__MIN_USERS": "10", "LLM4MSR_PROMOTION__MIN_POSITIVES": "10"}


@pytest.fixture
def project(finished, tmp_path) -> Project:
    shutil.copytree(finished.folder, tmp_path / "copy")
    return Project(tmp_path / "copy")


class Load:
    """Asks /rank all the time from another thread and keeps every status it saw."""

    def __init__(self, url: str) -> None:
        self.url, self._stop = url, threading.Event()
        self.statuses: list[int] = []
        self._thread = threading.Thread(target=self._ask)

    def _ask(self) -> None:
        with httpx.Client(timeout=WAIT) as client:
            while not self._stop.is_set():
                self.statuses.append(client.post(self.url + "/rank", json=BODY).status_code)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def ask(url: str, **body: object) -> dict:
    return httpx.post(url + "/rank", json={**BODY, **body}, timeout=WAIT).raise_for_status().json()


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
    with running_service(settings, wait_seconds=WAIT) as url, Load(url) as load:
        first = ask(url)["versions"]
        longer = {**EASY, "LLM4MSR_TRAIN__EPOCHS": "8", "LLM4MSR_TRAIN__SEED": "5", "LLM4MSR_PROMOTION__MARGIN": "1"}
        run(project, "train", **longer)
        run(project, "evaluate", **longer)
        run(project, "promote", **longer, LLM4MSR_PROMOTION__CONFIDENCE="0.01")
        wait_for(lambda: ask(url)["versions"]["version"] == first["version"] + 1, "the swap to the new bundle")
        second = ask(url)["versions"]
        run(project, "report", **longer)
        assert "removed report" in run(project, "prune", "--keep", "1", "--min-age", "0", "--yes").stderr
        run(project, "rollback")
        wait_for(lambda: ask(url)["versions"]["version"] == first["version"], "the swap back")
        again = run(project, "promote", **longer, LLM4MSR_PROMOTION__CONFIDENCE="0.01")
        assert "was rolled back and stays so" in again.stderr

        assert second["bundle_digest"] != first["bundle_digest"]
        assert ask(url)["versions"]["bundle_digest"] == first["bundle_digest"]
    assert set(load.statuses) == {200}
    assert len(load.statuses) > 20
    again = run(project, "run", "--until", "evaluate", **longer).stderr
    assert again.count("up to date, nothing to do") >= 7, "what the next run needs was not pruned"


def test_a_damaged_bundle_is_refused_and_the_old_one_stays(project):
    from bento.live import Live

    live = Live(load_settings(project.file))
    assert live.refresh()
    before = live.current
    pointer = project.root / "serving" / "current.json"
    current = json.loads(pointer.read_text())
    good = project.root / current["bundle"]
    shutil.copytree(good.parent, good.parent.with_name("damaged"))
    bad = good.parent.with_name("damaged") / good.name
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
    with running_service(settings, wait_seconds=WAIT) as url:
        assert ask(url, candidates=[900_001])["unknown_candidates"] == [900_001]
        closed = httpx.post(url + "/push", json={"interactions": []}, timeout=WAIT)
        assert (closed.status_code, "push.http" in closed.text) == (404, True)
        trained = ask(url)["versions"]["bundle_digest"]
        with (project.folder / "data" / "movies.csv").open("a", encoding="utf-8") as stream:
            stream.write("900001,A Brand New Comedy (2018),Comedy\r\n")
        run(project, "run", "--until", "materialize")
        wait_for(lambda: not ask(url, candidates=[900_001])["unknown_candidates"], "the new item in the catalogue")

        answer = ask(url, candidates=[900_001, 1], k=2)
        assert {item["item_id"] for item in answer["items"]} == {900_001, 1}
        assert answer["versions"]["bundle_digest"] == trained


@pytest.fixture
def open_project(project):
    """At a clock that stands after the log, with a service that takes pushes."""
    project.change(clock={"mode": "replay", "at": "2019-01-01T00:00:00+00:00"}, push={"http": True})
    run(project, "run", "--until", "materialize")
    return project


def interaction(user: int, item: int, second: int, label: int = 1) -> dict:
    time = f"2018-12-31T00:00:{second:02d}Z"
    return {"user_id": user, "item_id": item, "scenario": "comedy", "event_timestamp": time, "label": label}


def state_of(project: Project, user: int):
    from feature_repo import OnlineReader

    knowledge = json.loads((project.root / "serving" / "push.json").read_text())["knowledge"]
    kinds = json.loads((project.root / knowledge / "versions.json").read_text())
    return OnlineReader(load_settings(project.file), replay("2019-01-01"), kinds).read_user(user)


def test_pushed_interactions_count_at_once_and_once_only(open_project):
    project, settings = open_project, load_settings(open_project.file)
    with running_service(settings, wait_seconds=WAIT) as url:
        known, scores = state_of(project, 1), [i["score"] for i in ask(url, k=20)["items"]]
        newcomer = {"user_id": 900_001, "scenario": "comedy"}
        assert {"user_stats:missing", "user_history:missing"} <= set(ask(url, **newcomer)["degraded"])

        other = ask(url, **newcomer)["items"][0]["item_id"]
        liked = [interaction(900_001, item, second) for second, item in enumerate((1, other), 2)]
        rows = [interaction(1, 1, 1), *liked, interaction(1, 1, 4, label=7)]
        answer = httpx.post(url + "/push", json={"interactions": rows}, timeout=WAIT).raise_for_status().json()
        assert (answer["pushed"], answer["users"]) == (3, 2)
        assert [(fault["row"], fault["field"]) for fault in answer["rejected"]] == [(3, "label")]

        fresh = state_of(project, 1)
        assert fresh.values["user_rows"] == known.values["user_rows"] + 1
        assert fresh.values["user_positives"] == known.values["user_positives"] + 1
        assert fresh.history == [*known.history[1:], 1]
        assert [i["score"] for i in ask(url, k=20)["items"]] != scores
        degraded = set(ask(url, **newcomer)["degraded"])
        assert not {"user_stats:missing", "user_history:missing"} & degraded
        body = {**newcomer, "item_id": other}
        why = httpx.post(url + "/explain", json=body, timeout=WAIT).raise_for_status().json()
        assert 1 in {item["item_id"] for item in why["history"]}

        def post(second: int) -> int:
            return httpx.post(
                url + "/push", json={"interactions": [interaction(900_002, 1, second)]}, timeout=WAIT
            ).status_code

        with ThreadPoolExecutor(4) as many, following(project) as consumer:
            asked = many.map(post, range(8))
            consumer.stdin.write("".join(json.dumps(interaction(900_002, 2, s, s % 8)) + "\n" for s in range(6)))
            consumer.stdin.write("no json\n")
            consumer.stdin.flush()
            acknowledged = json.loads(consumer.stdout.readline())
            assert set(asked) == {200}
        assert acknowledged == {"from": 1, "to": 7, "pushed": 2, "rejected": 5, "users": 1, "unknown_items": 0}
        assert consumer.returncode == 0
        assert state_of(project, 900_002).values["user_rows"] == 8 + 2
        rejected = [json.loads(line) for line in (project.root / "live" / "rejected.jsonl").read_text().splitlines()]
        assert [(letter["line"], letter["field"]) for letter in rejected] == [
            *((n, "label") for n in range(3, 7)),
            (7, ""),
        ]

    # The next ingest takes them in; a source that delivers them again changes nothing.
    before = rows_of_user(project, 1)
    run(project, "run", "--until", "materialize")
    assert rows_of_user(project, 1) == before + 1
    again = state_of(project, 1)
    assert (again.values, again.history) == (fresh.values, fresh.history)


@contextmanager
def following(project: Project) -> Iterator[subprocess.Popen[str]]:
    """`llm4msr push --follow -` as a consumer runs it, asked to stop at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", "from pipeline.cli import main; main()", "push", "--follow", "-"],
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "LLM4MSR_SETTINGS": str(project.file),
            # One batch holds all lines, however slowly they come.
            "LLM4MSR_PUSH__BATCH_ROWS": "7",
            "LLM4MSR_PUSH__BATCH_MS": "600000",
        },
        cwd=project.folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            yield process
            process.terminate()
            process.wait(WAIT)
        finally:
            process.kill()


def rows_of_user(project: Project, user: int) -> int:
    newest = json.loads((project.root / "serving" / "push.json").read_text())["sources"][-1]
    log = pq.read_table(project.root / newest / "interactions.parquet", columns=["user_id"])["user_id"]
    return pc.sum(pc.equal(log, user)).as_py()


@pytest.fixture
def redis_port(tmp_path):
    with own_redis(tmp_path) as found:
        yield found


def test_a_dead_online_store_degrades_the_answer_and_nothing_else(project, redis_port):
    port, server = redis_port
    project.change(online={"store": "redis", "url": f"127.0.0.1:{port}"})
    run(project, "materialize")
    with running_service(load_settings(project.file), wait_seconds=WAIT) as url:
        assert ask(url)["degraded"] == []
        server.kill()
        server.wait()

        answer = ask(url)
        assert "online_store:unavailable" in answer["degraded"]
        assert len(answer["items"]) == BODY["k"]
        assert httpx.get(url + "/readyz", timeout=WAIT).status_code == 200
