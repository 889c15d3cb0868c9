"""`llm4msr serve` says that it serves when it does, and answers what it says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import httpx
import pytest
from conftest import REPOSITORY, WAIT

from pipeline.commands.serve import free_port, stop_service

pytestmark = pytest.mark.e2e
# A proxy that nobody listens at, and one of a kind that the HTTP client cannot even use.
PROXIES = {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"}


@pytest.fixture(scope="module")
def served(finished, tmp_path_factory):
    """URL and log file of a service that `llm4msr serve` started, after it said that it serves."""
    log, port = tmp_path_factory.mktemp("serve") / "log", free_port()
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", "from pipeline.cli import main; main()", "serve", "--port", str(port)],
            env={**os.environ, **PROXIES, "PYTHONPATH": str(REPOSITORY), "LLM4MSR_SETTINGS": str(finished.file)},
            cwd=finished.folder,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + WAIT
            while "serving on" not in log.read_text() and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
            yield f"http://127.0.0.1:{port}", log
        finally:
            stop_service(process)


def get(url, **more):
    return httpx.get(url, trust_env=False, timeout=WAIT, **more)


def test_it_is_ready_by_the_time_it_says_so_and_says_loading_before(served):
    url, log = served
    told = log.read_text()
    assert get(f"{url}/readyz").status_code == 200
    assert told.index("loading version 1") < told.index(f"serving on {url}")


def test_the_requests_that_it_names_work(served):
    _, log = served
    commands = re.findall(r"^  (curl .*)$", log.read_text(), re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        done = subprocess.run(
            f"{command} --noproxy '*' -o /dev/null -w '%{{http_code}}'", shell=True, capture_output=True, text=True
        )
        assert done.stdout == "200", command


@pytest.mark.parametrize("form", ["{url}", "{url}/", "{bare}"])
def test_no_proxy_stands_between_the_command_line_and_its_own_service(served, finished, form):
    url, _ = served
    address = form.format(url=url, bare=url.removeprefix("http://"))
    done = finished.command("rank", "1", "comedy", "--k", "2", "--url", address, **PROXIES)
    assert done.returncode == 0, done.stderr
    assert '"score"' in done.stdout


def test_its_page_and_document_are_its_own(served):
    url, _ = served
    page = get(f"{url}/")
    assert page.status_code == 200 and "<title>llm4msr" in page.text and "default-src 'none'" in str(page.headers)
    document = get(f"{url}/docs.json").json()
    assert document["info"]["title"] == "llm4msr" and "/push" not in document["paths"]
    for route in ("/rank", "/explain"):
        body = document["paths"][route]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert httpx.post(url + route, json=body, trust_env=False, timeout=WAIT).status_code == 200


def test_a_refused_request_is_one_line_of_the_log(served, finished):
    url, log = served
    before = len(log.read_text().splitlines())
    done = finished.command("rank", "1", "comedies", "--url", url)
    assert done.returncode == 2
    assert "unknown scenario 'comedies'; did you mean 'comedy'?" in done.stderr
    for kind in ("application/json", "text/plain"):
        headers = {"Content-Type": kind}
        httpx.post(f"{url}/rank", content=b"no json", headers=headers, trust_env=False, timeout=WAIT)
    told = log.read_text().splitlines()[before:]
    assert len(told) == 3 and all(
        f"POST /rank refused ({n})" in line for n, line in zip((400, 400, 415), told, strict=True)
    )


def post(url, body, **headers):
    return httpx.post(url, json=body, headers=headers, trust_env=False, timeout=WAIT)


def test_a_batch_answers_what_single_rankings_do(served):
    url, _ = served
    asked = [
        {"user_id": user, "scenario": scenario, "k": 3} for user in (1, 7, 999_999) for scenario in ("comedy", "drama")
    ]
    single = [post(f"{url}/rank", body).raise_for_status().json() for body in asked]
    batch = post(f"{url}/rank/batch", {"requests": asked}).raise_for_status().json()
    assert [{**one, "versions": batch["versions"]} for one in batch["answers"]] == single
    refused = post(f"{url}/rank/batch", {"requests": [*asked, {"user_id": 1, "scenario": "none"}]})
    assert refused.status_code == 400 and "requests[6]: unknown scenario" in refused.json()["detail"]


def test_filters_leave_out_what_they_say(served):
    url, _ = served
    ask = {"user_id": 1, "scenario": "comedy", "k": 10_000}

    def items(**more):
        return {one["item_id"] for one in post(f"{url}/rank", ask | more).raise_for_status().json()["items"]}

    every = items()
    some = sorted(every)[:2]
    assert items(exclude=some) == every - set(some)
    seen = every - items(exclude_seen=True)
    assert seen and len(seen) <= 20
    assert set() < items(only={"year": [1995]}) < every
    assert items(only={"first_genre": ["Drama"]}) == set()


def test_what_is_too_late_for_its_caller_is_not_computed(served):
    url, _ = served
    answer = post(f"{url}/rank", {"user_id": 1, "scenario": "comedy"}, **{"X-Request-Timeout-Ms": "0"})
    assert (answer.status_code, answer.json()["code"]) == (504, "too_slow")


def test_a_port_in_use_and_an_address_that_is_none_are_said_plainly(served, finished):
    port = served[0].rpartition(":")[2]
    for arguments, said in (
        (("--port", port), f"port {port} of 127.0.0.1 cannot be used (Address already in use)"),
        (("--host", "no.such.host.invalid"), "is no address of this machine"),
    ):
        done = finished.command("serve", *arguments)
        assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    for url in ("htp://x", "http://", "http://h:port"):
        done = finished.command("rank", "1", "comedy", "--url", url)
        assert done.returncode == 2 and "is no address of a service" in done.stderr
