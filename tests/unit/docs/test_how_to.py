"""The pages of tasks: listed once, short, and alike."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
FOLDER = REPOSITORY / "docs" / "how-to"
PAGES = sorted(FOLDER.glob("[!R]*.md"))
SECTIONS = ["Do it", "What you should see", "What goes wrong"]
WORDS = 700
each = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def test_the_index_lists_every_page_once():
    listed = re.findall(r"^- \[.+\]\(([a-z-]+\.md)\)", (FOLDER / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [page.name for page in PAGES]


@each
def test_a_page_says_when_it_is_needed_and_then_the_same_three_things(page):
    text = page.read_text()
    assert re.match(r"# .+\n\nYou need it ", text)
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == SECTIONS
    assert len(text.split()) <= WORDS


@each
def test_a_page_shows_a_command_or_says_what_to_set(page):
    part = page.read_text().split(f"## {SECTIONS[0]}\n")[1].split("\n## ")[0]
    assert re.search(r"^(    |\|)\S|^```", part, re.MULTILINE)


def test_pages_that_files_beside_the_documentation_name_exist():
    files = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True).stdout.split("\0")
    kinds = {".py", ".yaml", ".yml", ".toml", ".env", ".sh", ".html", ".cff"}
    named = {
        (file, name)
        for file in files
        if Path(file).suffix in kinds and (REPOSITORY / file).is_file()
        for name in re.findall(r"\bdocs/[\w./-]+\.md\b", (REPOSITORY / file).read_text(encoding="utf-8"))
    }
    assert any(file == "config/production.yaml" for file, _ in named)
    assert [pair for pair in sorted(named) if not (REPOSITORY / pair[1]).is_file()] == []
