"""Services of one user on one machine do not touch each other's files; the processes of one service count as one."""

from __future__ import annotations

import json
import os
import re
import signal

import httpx
import psutil
from started import WAIT, started

from core import load_settings
from pipeline.commands.serve import free_port, service_environment


def test_each_address_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("project: mine")
    settings = load_settings(tmp_path / "mine.yaml")
    addresses = [("127.0.0.1", 3000), ("127.0.0.1", 3001), ("127.0.0.2", 3000), ("::1", 3000)]
    homes = {service_environment(settings, *address)["BENTOML_HOME"] for address in addresses}
    assert len(homes) == 4 and all(home.startswith(str(tmp_path)) for home in homes)


def test_a_service_that_starts_leaves_the_counts_of_another_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    settings, port = tmp_path / "mine.yaml", free_port()
    settings.write_text("root: nothing-yet")

    def counted(service):
        return re.findall(r'request_total\{endpoint="/scenarios".* ([\d.]+)', service.client.get("/metrics").text)

    with started(settings, tmp_path / "one.log", port=port) as one:
        for _ in range(3):
            one.client.get("/scenarios")
        assert counted(one) == ["3.0"]
        with started(settings, tmp_path / "other.log", host="127.0.0.2", port=port) as other:
            other.client.get("/scenarios")
            assert (counted(one), counted(other)) == (["3.0"], ["1.0"])


def test_all_processes_of_a_service_are_counted_whichever_answers_and_a_killed_one_leaves_its_counts(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    settings, port = tmp_path / "mine.yaml", free_port()
    settings.write_text(json.dumps({"root": "nothing-yet", "serving": {"admin_port": port}}))

    def asked():
        found = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=WAIT).text
        counts = re.findall(r'request_total\{endpoint="/scenarios".* ([\d.]+)', found)
        return sum(map(float, counts)), re.findall(r"^llm4msr_ready ([\d.]+)", found, re.MULTILINE)

    with started(settings, tmp_path / "log", workers=2) as service:
        workers = [
            p
            for p in psutil.process_iter(["cmdline"])
            if "bento.worker" in (p.info["cmdline"] or ()) and _is_of(p, tmp_path)
        ]
        assert len(workers) == 2
        for _ in range(20):  # each over a connection of its own, so that both processes are met
            httpx.get(f"{service.url}/scenarios", trust_env=False, timeout=WAIT)
        assert {asked()[0] for _ in range(6)} == {20.0}
        os.kill(workers[0].pid, signal.SIGKILL)
        workers[0].wait(WAIT)
        assert asked() == (20.0, ["0.0"])


def _is_of(process, folder):
    return process.environ().get("LLM4MSR_SETTINGS", "").startswith(str(folder))
