"""Callers reach what is for them, operators the rest; TLS on both ports; documents can be switched off."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
from pydantic import ValidationError
from started import WAIT, started

from core import Settings, load_settings
from core.errors import SettingsError
from pipeline.commands.serve import free_port, serve_forever

OPERATORS = ("/metrics", "/docs.json", "/schema.json", "/healthz")


def certificate(folder: Path, name: str = "own") -> tuple[Path, Path]:
    """A certificate of this machine's loopback address, signed by itself, and its key."""
    pem, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=llm4msr"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(pem)]
    subprocess.run(command, check=True, capture_output=True)
    return pem, key


class Collector(BaseHTTPRequestHandler):
    """Takes traces as an OpenTelemetry collector does, and keeps them."""

    taken: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        self.taken.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A service with both ports and TLS, which sends all its traces to a collector; client of each port, and the collector."""
    folder, port = tmp_path_factory.mktemp("ports"), free_port()
    certificate(folder)
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    threading.Thread(target=collector.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{collector.server_address[1]}/v1/traces"
    serving = {
        "admin_port": port,
        "ssl_certfile": "own.pem",
        "ssl_keyfile": "own.key",
        "tracing": {"url": url, "sample": 1},
    }
    (folder / "settings.yaml").write_text(json.dumps({"root": "nothing-yet", "serving": serving}))
    # BentoML keeps spans for five seconds; the variable is OpenTelemetry's own.
    home = {"BENTOML_HOME": str(folder / "bentoml"), "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with started(folder / "settings.yaml", folder / "log", **home) as service:
        trusted = ssl.create_default_context(cafile=folder / "own.pem")
        with httpx.Client(base_url=f"https://127.0.0.1:{port}", verify=trusted, trust_env=False, timeout=WAIT) as admin:
            yield service.client, admin, Collector.taken
    collector.shutdown()


@pytest.mark.parametrize("route", OPERATORS)
def test_what_is_for_operators_is_at_their_port_alone(guarded, route):
    callers, operators, _ = guarded
    assert operators.get(route).status_code == 200
    refused = callers.get(route)
    assert refused.status_code == 404 and "serving.admin_port" in refused.json()["detail"]


def test_probes_are_at_both_ports(guarded):
    for client in guarded[:2]:
        assert (client.get("/livez").status_code, client.get("/readyz").status_code) == (200, 503)


def test_callers_are_not_served_at_the_operators_port(guarded):
    callers, operators, _ = guarded
    body = {"user_id": 1, "scenario": "home"}
    assert callers.post("/rank", json=body).status_code == 503, "nothing is live"
    assert [operators.post("/rank", json=body).status_code, operators.get("/").status_code] == [404, 404]
    assert callers.get("/").status_code == 200


def test_a_head_without_end_is_refused_at_the_operators_port_too(guarded):
    answer = guarded[1].get("/livez", headers={"X-Long": "x" * 100_000})
    assert answer.status_code == 400


def test_neither_port_speaks_plain_http(guarded):
    for client in guarded[:2]:
        with pytest.raises(httpx.TransportError):
            httpx.get(str(client.base_url).replace("https", "http") + "/livez", trust_env=False)


def test_traces_reach_the_collector_and_probes_make_none(guarded):
    callers, _, taken = guarded
    parent = "4bf92f3577b34da6a3ce929d0e0e4736"
    callers.post(
        "/rank", json={"user_id": 1, "scenario": "home"}, headers={"traceparent": f"00-{parent}-00f067aa0ba902b7-01"}
    )
    for _ in range(600):
        if any(bytes.fromhex(parent) in body for _, body in taken):
            break
        threading.Event().wait(0.1)
    else:
        pytest.fail("no trace with the caller's id came")
    assert {path for path, _ in taken} == {"/v1/traces"}
    told = b"".join(body for _, body in taken)
    assert b"/rank" in told and b"/livez" not in told and b"/readyz" not in told


def test_documents_and_pages_can_be_switched_off(tmp_path):
    (tmp_path / "settings.yaml").write_text("root: nothing-yet\nserving: {docs: false}\n")
    with started(tmp_path / "settings.yaml", tmp_path / "log", BENTOML_HOME=str(tmp_path / "bentoml")) as service:
        for route in ("/", "/docs.json", "/schema.json", "/console", "/console/health"):
            answer = service.client.get(route)
            assert answer.status_code == 404 and "serving.docs" in answer.json()["detail"]
        assert service.client.get("/metrics").status_code == 200


@pytest.mark.parametrize(
    ("serving", "said"),
    [
        ({"ssl_certfile": "a.pem"}, "belong together"),
        ({"ssl_keyfile": "a.key"}, "belong together"),
        ({"port": 3000, "admin_port": 3000}, "a port beside port"),
        ({"tracing": {"url": "collector:4318"}}, "pattern"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(serving, said):
    with pytest.raises(ValidationError, match=said):
        Settings(serving=serving)


def test_a_certificate_that_cannot_be_used_is_said_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.commands.serve._need_champion", lambda _: "version 1")
    (own, _), (_, other) = certificate(tmp_path), certificate(tmp_path, "other")
    (tmp_path / "settings.yaml").write_text("root: here")
    settings = load_settings(tmp_path / "settings.yaml")
    for key in (other, tmp_path / "absent.key", tmp_path / "settings.yaml"):
        with pytest.raises(SettingsError, match="serving.ssl_keyfile"):
            serve_forever(settings, port=free_port(), ssl_certfile=own, ssl_keyfile=key)


def test_what_the_command_line_chooses_reaches_the_processes_and_the_requests_to_try(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.commands.serve._need_champion", lambda _: "version 1")
    monkeypatch.setattr("pipeline.commands.serve.example_request", lambda _: (1, "home", 2))
    monkeypatch.chdir(tmp_path)
    (pem, key), started_with = certificate(tmp_path), []
    monkeypatch.setattr("os.execve", lambda *given: started_with.append(given))
    (tmp_path / "settings.yaml").write_text("root: here\nserving: {host: 127.0.0.1, admin_port: 0}")
    port = free_port()
    serve_forever(load_settings(tmp_path / "settings.yaml"), port=port, workers=3, ssl_certfile=pem, ssl_keyfile=key)
    ((_, command, environment),) = started_with
    assert {f"--ssl-certfile={pem}", f"--ssl-keyfile={key}", str(port), "3"} <= set(command)
    monkeypatch.setattr("os.environ", environment)
    read = load_settings(tmp_path / "settings.yaml").serving
    assert (read.port, read.workers, read.ssl_certfile) == (port, 3, pem)
    told = json.loads(environment["LLM4MSR_ANNOUNCE"])
    assert told["url"] == f"https://127.0.0.1:{port}" and all(f"--cacert {pem}" in line for line in told["lines"])
