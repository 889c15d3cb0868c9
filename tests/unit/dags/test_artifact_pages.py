"""The API server's pages about artifacts, asked in a process of their own by somebody who may see the DAG."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import ArtifactStore, Built, Window

REPOSITORY = Path(__file__).resolve().parents[3]
DAY, NEXT = Window.parse("2024-01-05", "2024-01-06"), Window.parse("2024-01-06", "2024-01-07")

ASK = f"""
import importlib.util, json, sys
from fastapi.testclient import TestClient
spec = importlib.util.spec_from_file_location("pages", {str(REPOSITORY / "dags" / "plugins" / "llm4msr_artifacts.py")!r})
pages = importlib.util.module_from_spec(spec)
sys.modules["pages"] = pages
spec.loader.exec_module(pages)
for dependency in pages.app.router.dependencies:
    pages.app.dependency_overrides[dependency.dependency] = lambda: None
client = TestClient(pages.app)
answers = [client.get(path) for path in json.loads(sys.argv[1])]
print(json.dumps([[a.status_code, a.url.path, a.text, dict(a.headers)] for a in answers]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, str]:
    """What some stages published for a day, and the report of that day: stage to the artifact's name."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "mine.yaml").write_text("root: store\n")
    store = ArtifactStore(folder / "store")

    def write(files: dict[str, str]):
        def builder(out: Path) -> Built:
            for name, text in files.items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_text(text)
            return Built(rows={"interactions": 1234})

        return builder

    files = {
        "validate": {"interactions.parquet": "rows", "results.json": "{}", "run/data_docs/index.html": "docs"},
        "promote": {"verdict.json": '{"reason": "<b>better</b>"}'},
        "report": {"report.html": "<script>1</script>"},
    }
    names = {}
    for stage, content in files.items():
        for window in (DAY, NEXT) if stage == "validate" else (DAY,):
            manifest = store.build(stage, window, inputs={}, settings={}, rooms=("core",), builder=write(content))
            names[stage if window is DAY else "other day"] = manifest.path.name
    (store.root / "secret.json").write_text("{}")
    return {**names, "settings": str(folder / "mine.yaml")}


@pytest.fixture(scope="module")
def answers(made, tmp_path_factory) -> dict[str, list]:
    day, other = f"/artifacts/validate/{made['validate']}/", f"/artifacts/validate/{made['other day']}/"
    asked = {
        "page": day,
        "docs": day + "files/run/data_docs/index.html",
        "report": day + "report",
        "verdict": day + "verdict",
        "no report yet": other + "report",
        "rows": day + "files/interactions.parquet",
        "outside": day + "files/%2e%2e/%2e%2e/%2e%2e/secret.json",
        "absolute": day + "files/%2fetc/hostname.json",
        "gone": "/artifacts/validate/0123456789abcdef/",
        "no name": "/artifacts/validate/..%2f..%2fpins/",
    }
    env = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "LLM4MSR_"))}
    env |= {"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow")), "LLM4MSR_SETTINGS": made["settings"]}
    command = [sys.executable, "-c", ASK, json.dumps(list(asked.values()))]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(asked, json.loads(done.stdout.splitlines()[-1]), strict=True))


def test_an_artifacts_page_tells_its_window_and_rows_and_links_what_can_be_shown(answers):
    status, _, text, headers = answers["page"]
    assert status == 200
    assert "2024-01-05T00:00:00+00:00 to 2024-01-06T00:00:00+00:00" in text
    assert "1,234" in text
    assert 'href="files/run/data_docs/index.html"' in text
    assert "interactions.parquet" not in text
    assert headers["content-security-policy"].startswith("sandbox")


def test_the_report_and_the_verdict_are_those_of_the_artifacts_window(answers, made):
    assert answers["report"][:3] == [200, f"/artifacts/report/{made['report']}/files/report.html", "<script>1</script>"]
    assert answers["verdict"][:2] == [200, f"/artifacts/promote/{made['promote']}/"]
    assert "&lt;b&gt;better&lt;/b&gt;" in answers["verdict"][2]
    assert answers["no report yet"][0] == 404
    assert "has not run yet" in answers["no report yet"][2]


def test_pages_with_scripts_are_kept_apart_from_airflow(answers):
    for name in ("report", "docs"):
        assert "allow-same-origin" not in answers[name][3]["content-security-policy"]


@pytest.mark.parametrize("name", ["rows", "outside", "absolute", "gone", "no name"])
def test_rows_and_what_lies_elsewhere_are_never_shown(answers, name):
    assert answers[name][0] in (404, 422), answers[name]
