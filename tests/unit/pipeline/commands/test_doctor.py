"""`llm4msr doctor` finds what would stop a run, and says what to do."""

from __future__ import annotations

import http.server
import socket
import threading

import pytest
import redis
from redis_process import own_redis

from core import load_settings
from pipeline.commands.doctor import diagnose, locked_versions, project_findings

LOG = "user_id,item_id,timestamp,surface,clicked\n1,7,1700000000,feed,1\n"


@pytest.fixture
def found(tmp_path):
    """Findings of a project whose settings are one text; its log has one row."""
    (tmp_path / "log.csv").write_text(LOG)

    def look(text: str) -> dict:
        data = "data: {source: table, path: ., files: {interactions: log.csv}, columns: {event_timestamp: timestamp},"
        rule = " label: {column: clicked}, scenario: {rule: column, column: surface}}\n"
        (tmp_path / "mine.yaml").write_text(text if "data:" in text else data + rule + text)
        return {finding.name: finding for finding in project_findings(load_settings(tmp_path / "mine.yaml"))}

    return look


@pytest.fixture
def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


def test_a_project_that_can_run_has_no_bad_finding(found):
    assert [finding for finding in found("project: mine").values() if not finding.good] == []


def test_a_column_that_is_not_there_is_named_before_a_run_meets_it(found):
    bad = found(
        "data: {source: table, path: ., files: {interactions: log.csv}, columns: {event_timestamp: timestamp},"
        " label: {column: bought}, scenario: {rule: column, column: surface}}"
    )["data"]
    assert not bad.good
    assert "bought" in bad.seen and "log.csv" in bad.seen


@pytest.mark.parametrize(
    ("name", "section"),
    [
        ("online store", "online: {{store: redis, url: '127.0.0.1:{port},db=0'}}"),
        ("registry", "registry: {{kind: sql, url: 'postgresql+psycopg://nobody@127.0.0.1:{port}/feast'}}"),
        ("tracking", "tracking: {{url: 'http://127.0.0.1:{port}'}}"),
        ("reasoner's server", "knowledge: {{reasoner: openai, model: m, base_url: 'http://127.0.0.1:{port}/v1'}}"),
        ("reasoner's folder", "knowledge: {{reasoner: transformers, model: /nowhere/{port}}}"),
    ],
)
def test_a_server_or_folder_that_is_away_is_one_finding_with_a_cure(found, closed_port, name, section):
    findings = found(section.format(port=closed_port))
    assert [finding.name for finding in findings.values() if not finding.good] == [name]
    assert findings[name].mend
    assert "\n" not in findings[name].seen


def test_a_finding_is_printed_with_its_cure_and_the_verdict_is_no(found, tmp_path, capsys):
    found("knowledge: {reasoner: transformers, model: /nowhere}")
    assert diagnose(load_settings(tmp_path / "mine.yaml")) is False
    assert "BAD  reasoner's folder: /nowhere\n     -> set knowledge.model" in capsys.readouterr().out


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every path as its server says."""

    def do_GET(self):
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def http_server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.status = 200
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("end", ["", "/", "/prefix/"])
def test_servers_on_this_machine_are_asked_past_a_proxy(found, http_server, monkeypatch, end):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:9")
    url = f"http://127.0.0.1:{http_server.server_port}{end}"
    text = f"tracking: {{url: '{url}'}}\nknowledge: {{reasoner: openai, model: m, base_url: '{url}'}}"
    findings = found(text)
    assert findings["tracking"].good and findings["reasoner's server"].good
    http_server.status = 404
    assert found(text)["tracking"].good, "a server that knows no such path is there"
    http_server.status = 503
    assert not found(text)["tracking"].good


@pytest.mark.integration
def test_a_redis_that_throws_values_away_is_a_warning_with_a_cure(found, tmp_path):
    with own_redis(tmp_path) as (port, _), redis.Redis(port=port) as client:
        section = f"online: {{store: redis, url: '127.0.0.1:{port},db=0'}}"
        for policy, warns in (("noeviction", False), ("volatile-lru", False), ("allkeys-lru", True)):
            client.config_set("maxmemory-policy", policy)
            finding = found(section)["online store"]
            assert (finding.good, finding.warns) == (True, warns)
        client.config_set("maxmemory", "64mb")
        finding = found(section)["online store"]
        assert "above 64 MiB it evicts keys (allkeys-lru)" in finding.seen and "noeviction" in finding.mend


@pytest.mark.parametrize("name", ["pipeline", "gpu"])
def test_in_an_image_the_lock_it_was_made_from_counts(name, tmp_path):
    (tmp_path / f"{name}.txt").write_text("# A lock.\ntorch==2.13.0\n")
    assert locked_versions(tmp_path) == {"torch": "2.13.0"}
    assert "apache-airflow" in locked_versions()
