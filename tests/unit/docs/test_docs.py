"""The pages refer to what exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
DECISIONS = REPOSITORY / "docs" / "decisions"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_link_to_a_file_leads_somewhere(page):
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
    files = [target for target in targets if "://" not in target]
    assert [target for target in files if not (page.parent / target).exists()] == []


def test_the_index_of_decisions_lists_each_page_under_its_title():
    titles = {p.name: p.read_text().splitlines()[0].lstrip("# ") for p in DECISIONS.glob("*.md")}
    del titles["README.md"]
    listed = re.findall(r"^- \[(.+)\]\((.+)\)$", (DECISIONS / "README.md").read_text(), re.MULTILINE)
    assert {name: title for title, name in listed} == titles


def test_every_make_command_in_the_pages_is_a_target():
    shown = {name for page in PAGES for name in re.findall(r"(?:^ {4}|`)make ([a-z]+)", page.read_text(), re.MULTILINE)}
    listed = subprocess.run(["make", "-C", REPOSITORY, "help"], capture_output=True, text=True).stdout
    assert shown <= set(re.findall(r"^ +make ([a-z]+)", listed, re.MULTILINE))
    assert {"demo", "test"} <= shown


def test_the_ci_script_runs_the_readmes_test_command():
    assert re.search(r"^make test$", (REPOSITORY / ".ci" / "run").read_text(), re.MULTILINE)
    assert re.search(r"^ {4}make test\b", (REPOSITORY / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_figure_below_one_is_written_with_its_zero(page):
    text = re.sub(
        r"```.*?```|`[^`]*`|^    .*$|\]\([^)]*\)", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    assert re.findall(r"(?<![\w.)\]])[*+±~-]*\.\d+\b", text) == []
