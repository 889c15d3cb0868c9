"""The serving image is built and run: as uid 10001, its root read-only, against a real Redis and PostgreSQL.

Some ten minutes. A folder of wheels named by PIP_FIND_LINKS goes along, so that no CUDA build comes.
"""

from __future__ import annotations

import os
import shutil
import threading
import time

import httpx
import pytest
import yaml
from e2e.conftest import make_project
from images.container import build, buildah, image_size, need_tools, started
from postgres_database import own_database
from redis_process import own_redis

from core import load_settings
from pipeline.commands.serve import running_service

# With the CPU build of torch.
LARGEST = 1.2e9
WAIT = 600
REQUESTS = [
    {"user_id": 1, "scenario": "comedy", "k": 20},
    {"user_id": 2, "scenario": "other", "candidates": [1, 2, 3, 356, 10**9], "k": 5},
    {"user_id": 10**9, "scenario": "drama", "k": 3},
]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose run has succeeded on a Redis and a database of its own, owned by the image's user."""
    need_tools()
    with own_redis(tmp_path_factory.mktemp("redis")) as (port, _), own_database() as url:
        made = make_project(tmp_path_factory.mktemp("project") / "shop")
        made.change(online={"store": "redis", "url": f"127.0.0.1:{port},db=0", "timeout_ms": 5000})
        made.change(registry={"kind": "sql", "url": url})
        done = made.command("run")
        assert done.returncode == 0, done.stderr
        yield made


@pytest.fixture(scope="module")
def expected(project) -> list[dict]:
    """The local service's answers."""
    with running_service(load_settings(project.file), wait_seconds=WAIT) as url:
        return answers(url)


@pytest.fixture(scope="module")
def image(project) -> str:
    return build("serve", "localhost/llm4msr-serve:tried", "--root", project.root)


@pytest.fixture
def service(image, project, expected, tmp_path):
    """A running container of the image, ready."""
    root, settings = tmp_path / "artifacts", tmp_path / "settings"
    shutil.copytree(project.root, root)
    settings.mkdir()
    body = yaml.safe_load(project.file.read_text()) | {"root": "/artifacts"}
    (settings / "settings.yaml").write_text(yaml.safe_dump(body))
    for path in (root, *root.rglob("*")):
        os.chown(path, 10001, 10001)
    log = tmp_path / "log"
    with started(image, tmp_path / "bundle", {"/artifacts": root, "/etc/llm4msr": settings}, log) as container:
        deadline = time.monotonic() + WAIT
        while not ready() and container.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert ready(), log.read_text()[-3000:]
        yield container


def ready() -> bool:
    try:
        return httpx.get("http://127.0.0.1:3000/readyz", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def answers(url: str) -> list[dict]:
    found = [httpx.post(url + "/rank", json=body, timeout=WAIT) for body in REQUESTS]
    assert [answer.status_code for answer in found] == [200, 200, 200], [answer.text for answer in found]
    return [answer.json() for answer in found]


def test_it_answers_as_the_local_service_does_and_ends_without_losing_a_request(service, expected):
    found = answers("http://127.0.0.1:3000")
    for mine, theirs in zip(found, expected, strict=True):
        for one, other in zip(mine.pop("items"), theirs["items"], strict=True):
            assert one.pop("score") == pytest.approx(other["score"], abs=1e-6)
            assert one == {key: value for key, value in other.items() if key != "score"}
        assert mine == {key: value for key, value in theirs.items() if key != "items"}

    assert service.execute("id", "-u").stdout.strip() == "10001"
    for place in ("/opt/venv", "/opt/llm4msr", "/artifacts", "/etc/llm4msr", "/"):
        assert "Read-only file system" in service.execute("touch", f"{place}/x").stderr
    health = service.described["Healthcheck"]["Test"]
    assert health[0] == "CMD"
    assert service.execute(*health[1:]).returncode == 0
    assert not service.execute("sh", "-c", "ls /build /opt/venv/lib/python3*/site-packages/mypy").stdout

    outcomes: list[int | str] = []
    asked = threading.Barrier(9)

    def keep_asking() -> None:
        with httpx.Client(timeout=WAIT) as client:
            outcomes.append(client.post("http://127.0.0.1:3000/rank", json=REQUESTS[0]).status_code)
            asked.wait()
            while isinstance(outcomes[-1], int):
                try:
                    outcomes.append(client.post("http://127.0.0.1:3000/rank", json=REQUESTS[0]).status_code)
                except httpx.TransportError as error:
                    # What was sent after the door had closed; an answer that was begun would be cut short otherwise.
                    outcomes.append(type(error).__name__)
                    return

    threads = [threading.Thread(target=keep_asking) for _ in range(8)]
    for thread in threads:
        thread.start()
    asked.wait()
    service.signal("TERM")
    # A pod is given 45 seconds.
    assert service.process.wait(timeout=WAIT) == 0
    for thread in threads:
        thread.join()
    assert {outcome for outcome in outcomes if isinstance(outcome, int)} == {200}
    assert {outcome for outcome in outcomes if isinstance(outcome, str)} <= {
        "ReadError",
        "ConnectError",
        "RemoteProtocolError",
    }


def test_it_is_small_and_says_what_it_is(image):
    described = buildah(
        "inspect", "--type", "image", "--format", "{{.Docker.Config.Labels}} {{.Docker.Config.User}}", image
    )
    assert "org.opencontainers.image.title:llm4msr-serve" in described
    assert "org.opencontainers.image.licenses:Apache-2.0" in described
    assert described.endswith("10001:10001")
    assert image_size(image) < LARGEST
