"""What a running service tells those who watch it: metrics that rules and dashboard ask for, and a log of JSON lines."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import yaml
from conftest import REPOSITORY, WAIT
from prometheus_client.parser import text_string_to_metric_families
from started import started

from pipeline.commands.serve import free_port

pytestmark = pytest.mark.e2e
MONITORING = REPOSITORY / "bento" / "deploy" / "monitoring"
RULES = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
PROMETHEUS = shutil.which("prometheus")
JOB, SCRAPED = {"job", "instance"}, 2


def alerts() -> dict[str, str]:
    return {rule["alert"]: rule["expr"] for group in RULES["groups"] for rule in group["rules"]}


def panels() -> dict[str, str]:
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            query = re.sub(r'"\$(job|scenario)"', '".*"', target["expr"])
            found[f"{panel['title']}: {target['refId']}"] = query.replace("$__rate_interval", f"{6 * SCRAPED}s")
    return found


def scaling() -> dict[str, str]:
    file = REPOSITORY / "bento" / "deploy" / "overlays" / "production-keda" / "scaled-object.yaml"
    (query,) = [
        one["metadata"]["query"]
        for one in yaml.safe_load(file.read_text())["spec"]["triggers"]
        if one["type"] == "prometheus"
    ]
    # The operator adds the namespace when it scrapes.
    return {"KEDA": query.replace('namespace="ranking",', "")}


@pytest.fixture(scope="module")
def watched(finished, tmp_path_factory):
    """A service with JSON lines and a line for each answer, after some requests of every sort."""
    more = {
        "LLM4MSR_LOG_FORMAT": "json",
        "LLM4MSR_SERVING__ACCESS_LOG": "true",
        "LLM4MSR_PUSH__HTTP": "true",
    }
    with started(finished.file, tmp_path_factory.mktemp("watched") / "log", ready=True, **more) as service:
        use(service)
        yield service


def use(service) -> None:
    client = service.client
    for scenario in (one["scenario"] for one in client.get("/scenarios").json()):
        for user in (1, 999_999):
            assert client.post("/rank", json={"user_id": user, "scenario": scenario}).status_code == 200
    client.post("/explain", json={"user_id": 1, "scenario": "comedy", "item_id": 1}, headers={"X-Request-ID": "why-1"})
    client.post("/rank", json={"user_id": "a secret", "scenario": "my secret"})
    client.post("/push", json={"interactions": []})
    client.get("/nowhere")


def series(service) -> dict[str, list[dict[str, str]]]:
    """Names of what `/metrics` shows, to the labels that their samples have."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(service.client.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.labels)
    return found


def test_answers_are_counted_by_scenario_and_by_the_version_that_gave_them(watched):
    found = series(watched)
    scenarios = {one["scenario"] for one in watched.client.get("/scenarios").json()}
    assert {one["scenario"] for one in found["llm4msr_candidates_count"]} == scenarios
    assert {one["version"] for one in found["llm4msr_answer_seconds_count"] if one["route"] == "/rank"} == {"1"}
    assert {"user_stats:missing"} <= {one["what"] for one in found["llm4msr_degraded_total"]}
    assert not [name for name in found if name.startswith("feast_")]


@pytest.mark.parametrize(
    "query", [*alerts().items(), *panels().items(), *scaling().items()], ids=lambda query: query[0]
)
def test_a_query_asks_for_what_is_there(watched, query):
    found, (_, text) = series(watched), query
    names = set(re.findall(r"\b((?:llm4msr|bentoml)_\w+)", text))
    assert names and names <= found.keys()
    labels = {name for one in names for sample in found[one] for name in sample} | JOB
    asked = re.findall(r"(\w+)\s*(?:=~|!=|!~|=)\s*\"", text) + re.findall(
        r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", text))
    )
    assert set(asked) <= labels
    for name, matchers in re.findall(r"\b((?:llm4msr|bentoml)_\w+)\{([^}]*)\}", text):
        exact = dict(re.findall(r"(\w+)=\"([^\"]*)\"", matchers))
        assert any(exact.items() <= sample.items() for sample in found[name]), f"no series of {name} has {exact}"


@pytest.fixture(scope="module")
def prometheus(watched, tmp_path_factory):
    """A Prometheus that has scraped the service while it was asked, and knows the rules; None where there is none."""
    if PROMETHEUS is None:
        pytest.skip("prometheus is not installed")
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    (folder / "rules.yaml").write_text(yaml.safe_dump(RULES))
    target = {"targets": [watched.url.removeprefix("http://")]}
    body = {
        "global": {"scrape_interval": f"{SCRAPED}s", "evaluation_interval": f"{SCRAPED}s"},
        "rule_files": [str(folder / "rules.yaml")],
        "scrape_configs": [{"job_name": "llm4msr", "static_configs": [target]}],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(body))
    command = [PROMETHEUS, f"--config.file={folder / 'prometheus.yaml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=WAIT) as client:
            deadline = time.monotonic() + WAIT
            # Rates want three scrapes with something between them.
            while time.monotonic() < deadline:
                use(watched)
                if len(ask(client, "up[1m]")) and len(ask(client, "up[1m]")[0]["values"]) > 3:
                    break
                time.sleep(0.5)
            yield client
    finally:
        process.terminate()
        process.wait()


def ask(client: httpx.Client, query: str) -> list[dict]:
    try:
        answer = client.get("/query", params={"query": query})
    except httpx.TransportError:
        return []
    assert answer.status_code == 200, f"{query}: {answer.text}"
    return answer.json()["data"]["result"]


@pytest.mark.parametrize("query", [*panels().items(), *scaling().items()], ids=lambda query: query[0])
def test_a_panel_shows_something(prometheus, query):
    assert ask(prometheus, query[1]), query[1]


def test_rules_are_evaluated_without_an_error_and_a_service_that_is_well_sets_off_none(prometheus):
    groups = prometheus.get("/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == alerts().keys()
    assert {rule.get("lastError", "") for rule in rules} == {""}
    # MovieLens ends in 2018, and the demo's clock with it.
    assert {rule["name"] for rule in rules if rule["state"] == "firing"} <= {"ChampionOld", "CatalogueOld"}


def lines(service) -> list[dict]:
    return [json.loads(line) for line in service.log.read_text().splitlines()]


def test_every_line_of_the_log_is_one_json_object_from_the_first_one_on(watched):
    told = lines(watched)
    assert {"bentoml.serve", "llm4msr.bento", "llm4msr.access"} <= {line["name"] for line in told}
    assert all({"asctime", "level", "name", "message"} <= line.keys() for line in told)
    assert len({json.dumps(line) for line in told}) == len(told), "a line is written twice"


def test_an_answer_is_one_line_with_the_id_that_the_caller_gave(watched):
    (line,) = [one for one in lines(watched) if one.get("request_id") == "why-1" and one["name"] == "llm4msr.access"][
        :1
    ]
    about = {"method": "POST", "route": "/explain", "status": 200, "scenario": "comedy", "version": "1", "degraded": []}
    assert about.items() <= line.items() and line["ms"] > 0
    assert not [one for one in lines(watched) if one.get("route") in ("/metrics", "/readyz")]


def test_what_a_caller_sent_is_not_in_the_log(watched):
    refused = [one for one in lines(watched) if "refused (400)" in one["message"]]
    assert refused and {one["level"] for one in refused} == {"INFO"}
    assert "secret" not in watched.log.read_text()


def test_a_start_that_fails_is_json_too_with_its_traceback_in_the_object(tmp_path):
    (tmp_path / "broken.yaml").write_text("root: [")
    log = tmp_path / "log"
    done = start_with(tmp_path / "broken.yaml", log)
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert done != 0 and told and any("broken.yaml" in json.dumps(line) for line in told)


def start_with(settings: Path, log: Path) -> int:
    import os

    from pipeline.commands.serve import service_command

    own = {
        "LLM4MSR_SETTINGS": str(settings),
        "LLM4MSR_LOG_FORMAT": "json",
        "BENTOML_HOME": str(settings.parent / "home"),
    }
    own |= {"PYTHONPATH": str(REPOSITORY), "BENTOML_DO_NOT_TRACK": "True"}
    with log.open("w") as stream:
        process = subprocess.Popen(
            service_command("127.0.0.1", free_port()),
            cwd=REPOSITORY,
            env={**os.environ, **own},
            stdout=stream,
            stderr=stream,
        )
        deadline = time.monotonic() + WAIT
        while process.poll() is None and "broken.yaml" not in log.read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.terminate()
        return process.wait() or 1
