"""What stands around the code: workflows, templates, the picture, the citation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
import yaml

REPOSITORY = Path(__file__).resolve().parents[3]
WORKFLOWS = sorted((REPOSITORY / ".github" / "workflows").glob("*.yml"))
TEMPLATES = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))


def targets() -> set[str]:
    listed = subprocess.run(["make", "-C", REPOSITORY, "help"], capture_output=True, text=True).stdout
    return set(re.findall(r"^ +make ([a-z-]+)", listed, re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_runs_what_the_repository_has(path):
    body = yaml.safe_load(path.read_text())
    assert body["permissions"] == {"contents": "read"}
    steps = [step for job in body["jobs"].values() for step in job["steps"]]
    assert all(job["timeout-minutes"] for job in body["jobs"].values())
    assert steps[0]["uses"].startswith("actions/checkout@")
    commands = "\n".join(step.get("run", "") for step in steps)
    assert set(re.findall(r"\bmake ([a-z-]+)", commands)) <= targets()
    scripts = re.findall(r"\bbash (\S+)", commands)
    assert all((REPOSITORY / script).is_file() for script in scripts)
    assert scripts or "make " in commands


def test_the_script_of_all_checks_is_run_for_every_change():
    body = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "tests.yml").read_text())
    assert "pull_request" in body[True]  # YAML reads the key `on` as true
    assert any(step.get("run") == "bash .ci/run" for step in body["jobs"]["tests"]["steps"])


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_an_issue_template_asks_for_something(path):
    body = yaml.safe_load(path.read_text())
    assert body["name"] and body["description"]
    assert any(field.get("validations", {}).get("required") for field in body["body"])


def test_the_citation_names_the_version_that_is_here():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    project = (REPOSITORY / "pyproject.toml").read_text()
    assert cited["version"] == re.search(r'^version = "(.+)"$', project, re.MULTILINE)[1]
    assert cited["license"] == "Apache-2.0" and cited["references"][0]["authors"]


def test_the_picture_is_the_demos_and_loads_nothing_from_elsewhere():
    picture = (REPOSITORY / "docs" / "pictures" / "demo.svg").read_text()
    words = re.sub(r"&#\d+;|\s", " ", picture)
    assert "llm4msr demo" in words and "Rows" in words
    assert set(re.findall(r"https?://[\w.]+", picture)) <= {"http://www.w3.org", "http://127.0.0.1"}


def test_the_first_screen_has_a_picture_two_commands_and_five_links():
    first = (REPOSITORY / "README.md").read_text().split("\n## ")[0]
    assert len(re.findall(r"^ {4}make ", first, re.MULTILINE)) == 2
    assert len(re.findall(r"^!\[", first, re.MULTILINE)) == 1
    links = first.split("Read on:")[1]
    assert len(re.findall(r"\]\(", links)) == 5


def test_only_three_figures_lead_the_readme():
    numbers = (REPOSITORY / "README.md").read_text().split("## Three numbers")[1].split("\n## ")[0]
    assert len(re.findall(r"^- \*\*", numbers, re.MULTILINE)) == 3
    assert "|" not in numbers
