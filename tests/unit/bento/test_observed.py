"""Each request has an id, is timed and counted by scenario and version, and is a line of the log where that is asked for."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import replace

import httpx
import pytest
from prometheus_client import REGISTRY
from starlette.responses import Response
from unit.bento.handmade import make_live_model

from bento.exposition import Exposition, exposition, forget_dead
from bento.metrics import Gauges, store_read
from bento.observed import Observed, answered
from core import Settings
from core.errors import StorageError
from core.log import json_lines


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


@pytest.fixture
def live(bundle, catalogue):
    return replace(make_live_model(bundle, catalogue), versions={"model": "m", "version": 41})


def ask(app, path="/rank", log=False, **headers):
    settings = Settings(serving={"access_log": log})

    async def go():
        transport = httpx.ASGITransport(Observed(app, ["/rank"], lambda: settings))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.post(path, headers={name.replace("_", "-"): text for name, text in headers.items()})

    return asyncio.run(go())


def ranking(live, status=200, degraded=("user_stats:missing",)):
    async def app(scope, receive, send):
        answered(live, "home", degraded, 7)
        await Response("{}", status)(scope, receive, send)

    return app


@pytest.mark.parametrize(
    ("given", "kept"),
    [("abc-1", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("x\u00e9".encode(), False)],
)
def test_an_id_that_the_caller_gave_comes_back_if_it_is_one(live, given, kept):
    answer = ask(ranking(live), X_Request_ID=given)
    assert (answer.headers["x-request-id"] == given) is kept
    assert 0 < len(answer.headers["x-request-id"]) <= 128


def test_each_request_without_one_is_given_its_own(live):
    assert ask(ranking(live)).headers["x-request-id"] != ask(ranking(live)).headers["x-request-id"]


def test_answers_are_counted_by_scenario_and_version(live):
    by = {"scenario": "home", "version": "41"}
    names = {
        "llm4msr_answer_seconds_count": {"route": "/rank", **by},
        "llm4msr_candidates_sum": by,
        "llm4msr_degraded_answers_total": by,
        "llm4msr_degraded_total": {"what": "user_stats:missing", **by},
    }
    before = {name: value(name, **labels) for name, labels in names.items()}
    ask(ranking(live))
    ask(ranking(live, degraded=()))
    grown = {name: value(name, **labels) - before[name] for name, labels in names.items()}
    assert list(grown.values()) == [2, 14, 1, 1]


def test_a_refusal_is_no_answer_and_other_paths_have_no_series(live):
    before = value("llm4msr_answer_seconds_count", route="/rank", scenario="home", version="41")
    ask(ranking(live, status=400))
    ask(ranking(live), path="/made-up")
    assert value("llm4msr_answer_seconds_count", route="/rank", scenario="home", version="41") == before
    assert "/made-up" not in exposition().decode()


def test_requests_at_hand_are_counted_while_they_are(live):
    seen = []

    async def app(scope, receive, send):
        seen.append(value("llm4msr_in_flight", route="/rank"))
        if scope["query_string"]:
            raise RuntimeError("ours")
        await Response("")(scope, receive, send)

    ask(app)
    with pytest.raises(RuntimeError):
        ask(app, "/rank?x")
    assert seen == [1.0, 1.0] and value("llm4msr_in_flight", route="/rank") == 0.0


@pytest.fixture
def lines(caplog):
    ours = logging.getLogger("llm4msr")
    ours.propagate, before = True, ours.propagate
    with caplog.at_level("INFO", "llm4msr.access"):
        yield lambda: [record for record in caplog.records if record.name == "llm4msr.access"]
    ours.propagate = before


def test_one_line_an_answer_where_that_is_asked_for(live, lines, monkeypatch):
    ask(ranking(live), log=False)
    ask(ranking(live), "/readyz", log=True)
    assert lines() == []
    ask(ranking(live), log=True, X_Request_ID="abc-1")
    (line,) = lines()
    told = line.getMessage()
    assert told.startswith("POST /rank 200, ") and told.endswith(" ms, home, version 41, user_stats:missing, abc-1")
    monkeypatch.setattr("bento.observed.is_json", lambda: True)
    ask(ranking(live, status=503), log=True, X_Request_ID="abc-2")
    told = json.loads(json_lines().format(lines()[-1]))
    about = {"method": "POST", "route": "/rank", "status": 503, "scenario": "home", "version": "41", "candidates": 7}
    assert about.items() <= told.items() and told["degraded"] == ["user_stats:missing"] and told["ms"] >= 0


def test_a_store_that_fails_for_every_request_is_a_line_in_a_while_with_a_count(monkeypatch):
    import bento.service

    now, said = [100.0], []
    monkeypatch.setattr(bento.service.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(bento.service.LOG, "warning", lambda text, *values: said.append(text % values))
    ranker = object.__new__(bento.service.Ranker.inner)
    ranker._quiet_until, ranker._unsaid = 0.0, 0
    for second in (0, 1, 2, 11, 12):
        now[0] = 100.0 + second
        ranker._warn(StorageError("online store: gone"))
    assert said == ["online store: gone", "online store: gone (3 times)"]


def test_a_path_in_the_log_is_no_longer_than_it_may_be(live, lines):
    ask(ranking(live), "/" + "x" * 5000, log=True)
    assert len(lines()[0].getMessage()) < 300


def test_only_versions_that_are_live_are_shown(live):
    gauges = Gauges()
    gauges.tell(live, None)
    answered(live, "home", [], 3)
    assert 'llm4msr_model{bundle="",catalogue="",model="m",version="41"} 1.0' in exposition().decode()
    assert 'llm4msr_candidates_count{scenario="home",version="41"}' in exposition().decode()
    newer = replace(live, versions={"model": "m", "version": 42})
    gauges.tell(newer, "the newest is damaged")
    shown = exposition().decode()
    assert 'version="41"' not in shown and 'version="42"' in shown
    assert "llm4msr_refusing 1.0" in shown and "llm4msr_ready 1.0" in shown


def test_gauges_of_processes_that_are_gone_are_forgotten_and_their_counts_kept(tmp_path):
    import os

    gone = 2**22 + 1  # no Linux has a process of this number
    for name in (f"gauge_livesum_{gone}.db", f"counter_{gone}.db", f"gauge_livesum_{os.getpid()}.db"):
        (tmp_path / name).touch()
    forget_dead(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {f"counter_{gone}.db", f"gauge_livesum_{os.getpid()}.db"}


def test_series_of_libraries_that_nobody_reads_are_left_out():
    from prometheus_client import Counter

    Counter("feast_something_total", "of Feast").inc()
    assert "feast_" not in exposition().decode()


def test_metrics_are_answered_and_all_else_passed_on(live):
    async def go(method, path):
        app = Exposition(ranking(live, 418))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return await client.request(method, path)

    found = asyncio.run(go("GET", "/metrics"))
    assert found.status_code == 200 and found.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE llm4msr_answer_seconds histogram" in found.text
    assert asyncio.run(go("POST", "/metrics")).status_code == asyncio.run(go("GET", "/rank")).status_code == 418


@pytest.mark.parametrize(
    ("cause", "why"),
    [
        (TimeoutError(), "timeout"),
        (OSError("database is locked"), "timeout"),
        (ConnectionRefusedError(), "error"),
        (None, "error"),
    ],
)
def test_a_store_that_is_too_slow_counts_apart_from_one_that_fails(cause, why):
    labels = {"read": "user", "why": why}
    failed, read = (
        value("llm4msr_online_failures_total", **labels),
        value("llm4msr_online_read_seconds_count", read="user"),
    )
    with pytest.raises(StorageError), store_read("user"):
        raise StorageError("gone") from cause
    assert value("llm4msr_online_failures_total", **labels) == failed + 1
    assert value("llm4msr_online_read_seconds_count", read="user") == read + 1
