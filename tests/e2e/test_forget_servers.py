"""`llm4msr forget` where the online store is a Redis and runs are kept by an MLflow server."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import redis
from conftest import WAIT, Project, make_project
from redis_process import own_redis

from feature_repo.wire import entity_key
from pipeline.commands.serve import free_port, stop_service

pytestmark = pytest.mark.e2e
USERS = 20


@dataclass(frozen=True)
class Production:
    """A project that has run, its Redis, and the address of its MLflow server."""

    project: Project
    store: redis.Redis
    tracking: str

    def online(self) -> set[int]:
        """Users of whom the store has anything."""
        return {user for user in range(1, USERS + 1) if self.store.exists(entity_key("user_id", user) + b"small")}

    def names(self) -> set[int]:
        """Users that any key or value of the store spells, whatever view or project it is of."""
        held = [key for key in self.store.scan_iter() if b"user_id" in key]
        return {user for user in range(1, USERS + 1) if any(entity_key("user_id", user) in key for key in held)}


@pytest.fixture(scope="module")
def production(tmp_path_factory) -> Iterator[Production]:
    folder = tmp_path_factory.mktemp("servers")
    project = make_project(folder / "shop", users=USERS)
    with own_redis(folder) as (port, _), tracking(folder) as address:
        project.change(online={"store": "redis", "url": f"127.0.0.1:{port}"}, tracking={"url": address})
        project.change(controls={"every": 0})
        done = project.command("run")
        assert done.returncode == 0, done.stderr
        with redis.Redis(port=port) as store:
            yield Production(project, store, address)


class tracking:  # noqa: N801
    """An MLflow server with files of its own, until the block ends."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        database, files = f"sqlite:///{folder / 'mlflow.db'}", folder / "mlflow"
        command = [
            sys.executable,
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--workers",
            "1",
        ]
        command += ["--backend-store-uri", database, "--artifacts-destination", str(files)]
        with (folder / "mlflow.log").open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self) -> str:
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}/health", trust_env=False).status_code == 200:
                    return self.url
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        stop_service(self.process)
        pytest.fail("the MLflow server did not start")

    def __exit__(self, *_: object) -> None:
        stop_service(self.process)


def test_a_person_is_gone_from_the_servers_that_can_be_reached_and_the_others_are_named(production):
    project, everybody = production.project, set(range(1, USERS + 1))
    assert production.online() == production.names() == everybody
    counted = project.command("forget", "1")
    assert "online store" in counted.stdout and "cache: " in counted.stdout and production.online() == everybody
    done = project.command("forget", "1", "--yes")
    assert done.returncode == 0, done.stderr
    assert production.online() == production.names() == everybody - {1}
    assert f"copies of bundles on the MLflow server {production.tracking}: delete their runs there" in done.stdout
    proof = json.loads(next((project.root / "forgotten" / "proofs").iterdir()).read_text())
    assert proof["removed"]["online store"] > 0
    assert any(production.tracking in what for what in proof["cannot_reach"])


def test_a_push_does_not_bring_a_forgotten_person_back(production, tmp_path):
    project = production.project
    fresh = tmp_path / "fresh.csv"
    time_of = "2018-01-01T10:00:00Z"
    rows = [f"{user},1,comedy,{time_of},1" for user in (1, 2)]
    fresh.write_text("\n".join(["user_id,item_id,scenario,event_timestamp,label", *rows]) + "\n")
    done = project.command("push", str(fresh))
    assert done.returncode == 0 and "user_stats 1" in done.stdout, done.stdout + done.stderr
    assert 1 not in production.names()
