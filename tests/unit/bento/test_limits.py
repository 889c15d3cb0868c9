"""What a client cannot make the service hold: one server process that has nothing to rank answers them all."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time

import httpx
import pytest

from bento.limits import MAX_BODY, bound_metrics
from core.digest import REPOSITORY
from pipeline.commands.serve import free_port, service_command, stop_service

RANK = b'{"user_id": 1, "scenario": "home"}'
JSON = {"Content-Type": "application/json"}
WAIT = 600


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    (folder / "settings.yaml").write_text(f"root: {folder / 'root'}\n")
    port = free_port()
    patient = {"services": {"llm4msr": {"traffic": {"timeout": WAIT}}}}
    own = {
        "LLM4MSR_SETTINGS": str(folder / "settings.yaml"),
        "BENTOML_HOME": str(folder / "bentoml"),
        "BENTOML_CONFIG_OVERRIDES": json.dumps(patient),
    }
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            service_command("127.0.0.1", port),
            cwd=REPOSITORY,
            env={**os.environ, **own, "PYTHONPATH": str(REPOSITORY), "BENTOML_DO_NOT_TRACK": "True"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=WAIT) as client:
            wait_for_life(process, client)
            yield client
    finally:
        stop_service(process)


def wait_for_life(process, client):
    deadline = time.monotonic() + WAIT
    while process.poll() is None and time.monotonic() < deadline:
        try:
            client.get("/livez")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    pytest.fail("the service did not start")


def in_chunks(size, count):
    return (b" " * size for _ in range(count))


def test_a_body_that_is_announced_too_long_is_refused(service):
    answer = service.post("/rank", content=b" " * (MAX_BODY + 1), headers=JSON)
    assert answer.status_code == 413
    assert "longer than" in answer.json()["error"]


def test_a_body_that_turns_out_too_long_is_refused(service):
    answer = service.post("/rank", content=in_chunks(2**20, MAX_BODY // 2**20 + 1), headers=JSON)
    assert answer.status_code == 413


@pytest.mark.parametrize("filler", [0, MAX_BODY - len(RANK)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_within_the_limit_arrives_whole(service, filler, chunked):
    parts = [RANK[:5], RANK[5:], b" " * filler]
    answer = service.post("/rank", content=iter(parts) if chunked else b"".join(parts), headers=JSON)
    # The service has no champion; a body that it could not read would be a 400.
    assert answer.status_code == 503


def test_metrics_name_only_paths_that_exist(service):
    service.post("/rank", content=RANK, headers=JSON)
    service.get("/scenarios")
    for path in ("/wp-login.php", "/rank/1", "/RANK", "/livez/2"):
        assert service.get(path).status_code == 404
    found = service.get("/metrics").text
    counted = {line.split('endpoint="')[1].split('"')[0] for line in found.splitlines() if 'endpoint="' in line}
    assert {"/rank", "/scenarios"} <= counted <= {"/rank", "/explain", "/push", "/scenarios", "/livez", "/readyz"}


def test_a_bentoml_that_counts_elsewhere_is_said_and_no_error(monkeypatch, caplog):
    import bentoml._internal.server.http.instruments as instruments

    monkeypatch.delattr(instruments, "RunnerTrafficMetricsMiddleware")
    monkeypatch.setattr(logging.getLogger("llm4msr"), "propagate", True)
    bound_metrics(["/rank"])
    assert "its metrics grow" in caplog.text
    monkeypatch.setitem(sys.modules, "bentoml._internal.server.http", None)
    bound_metrics(["/rank"])


@pytest.mark.parametrize(
    ("row", "says"), [(b'{"user_id": 1, "user_id": 2}', "'user_id' stands twice"), (b'{"user_id": 1}', "push.http")]
)
def test_a_key_that_stands_twice_in_a_push_is_refused(service, row, says):
    answer = service.post("/push", content=b'{"interactions": [' + row + b"]}", headers=JSON)
    assert answer.status_code in (400, 404) and says in answer.text


@pytest.mark.parametrize("route", ["/rank", "/explain", "/push"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/vnd.bentoml+pickle"},
        {"Content-Type": ""},
        {},
    ],
)
def test_only_json_is_taken(service, route, headers):
    answer = service.post(route, content=RANK, headers=headers)
    assert answer.status_code == 415
    assert "application/json" in answer.json()["error"]


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8", "Application/JSON"])
def test_json_is_taken_however_its_type_is_spelled(service, kind):
    assert service.post("/rank", content=RANK, headers={"Content-Type": kind}).status_code == 503


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_a_page_of_another_site_cannot_write(service, headers):
    answer = service.post("/push", content=b'{"interactions": []}', headers=JSON | headers)
    assert answer.status_code == 403


def test_a_page_of_our_own_can(service):
    own = {"Origin": str(service.base_url).rstrip("/"), "Sec-Fetch-Site": "same-origin"}
    assert service.post("/rank", content=RANK, headers=JSON | own).status_code == 503


def test_that_nothing_is_live_yet_is_said_with_its_reason(service):
    for route, body in (("/rank", RANK), ("/explain", RANK[:-1] + b', "item_id": 1}')):
        answer = service.post(route, content=body, headers=JSON)
        assert answer.status_code == 503 and answer.headers["Retry-After"]
        assert "nothing to serve yet" in answer.json()["error"]
