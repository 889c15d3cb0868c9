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
    assert "longer than" in answer.json()["detail"]


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
    routes = {"/rank", "/rank/batch", "/explain", "/push", "/scenarios", "/livez", "/readyz"}
    assert {"/rank", "/scenarios"} <= counted <= routes


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
    assert "application/json" in answer.json()["detail"]


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
        assert "nothing to serve yet" in answer.json()["detail"]


REFUSALS = [
    ("GET", "/nowhere", None, 404, "not_found"),
    ("POST", "/nowhere", RANK, 404, "not_found"),
    ("POST", "/scenarios", RANK, 405, "method_not_allowed"),
    ("POST", "/scenarios", None, 405, "method_not_allowed"),
    ("PUT", "/rank", None, 405, "method_not_allowed"),
    ("TRACE", "/livez", None, 405, "method_not_allowed"),
    ("GET", "/rank", None, 405, "method_not_allowed"),
    ("GET", "/scenarios", None, 503, "unavailable"),
    ("POST", "/rank", RANK, 503, "unavailable"),
    ("POST", "/rank", b"{", 400, "bad_request"),
    ("POST", "/rank", b"[]", 400, "bad_request"),
    ("POST", "/rank", b"\xff\xfe", 400, "bad_request"),
    ("POST", "/rank", b'{"user_id": 1}', 400, "bad_request"),
    ("POST", "/rank", b'{"user_id": 1, "scenario": 7, "k": 0, "candidates": "x"}', 400, "bad_request"),
    ("POST", "/push", b'{"interactions": []}', 404, "not_found"),
    ("POST", "/push", b'{"interactions": [{"a": 1, "a": 2}]}', 400, "bad_request"),
]


@pytest.mark.parametrize(("method", "route", "body", "status", "code"), REFUSALS)
def test_every_refusal_has_one_shape_whoever_refuses(service, method, route, body, status, code):
    answer = service.request(method, route, content=body, headers=JSON if body else {})
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status and told["code"] == code and told["detail"] and told["title"]
    assert set(told) <= {"type", "title", "status", "code", "detail", "errors"}
    assert len(answer.content) == int(answer.headers["content-length"])
    if status == 503:
        assert answer.headers["retry-after"]


def test_wrong_fields_are_named_and_what_was_sent_is_not_sent_back(service):
    secret = "hunter2" * 100
    body = json.dumps({"user_id": 1, "scenario": "home", "k": secret, "candidates": secret})
    answer = service.post("/rank", content=body, headers=JSON)
    assert {error["field"] for error in answer.json()["errors"]} == {"k", "candidates"}
    assert secret not in answer.text


def test_a_head_request_is_answered_without_a_body(service):
    answer = service.head("/nowhere")
    assert answer.status_code == 404 and answer.content == b""


def test_the_document_says_what_a_refusal_looks_like(service):
    document = service.get("/docs.json").json()
    for path in ("/rank", "/explain"):
        responses = document["paths"][path]["post"]["responses"]
        assert {"200", "400", "401", "413", "415", "429", "500", "503"} <= responses.keys()
        for status in ("400", "429", "503"):
            known = responses[status]["content"]["application/problem+json"]["schema"]
            assert {"code", "detail"} <= set(known["required"])
