"""The pages of the backbones: one for each, with a picture, equations, settings, evidence and a source."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from benchmarks.evidence.pages import PLACE
from models.backbones import BACKBONES

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = {page.stem: page.read_text(encoding="utf-8") for page in sorted((DOCS / "backbones").glob("*.md"))}
SECTIONS = ["Equations", "When to take it", "Settings", "Evidence", "Source"]
each = pytest.mark.parametrize("name", BACKBONES)


@pytest.fixture(scope="module")
def pictures():
    folder = str(DOCS / "pictures")
    sys.path.insert(0, folder)  # it imports the script beside it
    try:
        spec = importlib.util.spec_from_file_location("pictures_of_backbones", DOCS / "pictures" / "backbones.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module


def test_every_backbone_has_a_page_and_every_page_a_backbone():
    assert PAGES.keys() == BACKBONES.keys()


def test_the_overview_links_to_every_page():
    listed = re.findall(r"^\| \[`(\w+)`\]\(backbones/(\w+)\.md\)", (DOCS / "backbones.md").read_text(), re.MULTILINE)
    assert listed == [(name, name) for name in BACKBONES]


@each
def test_a_page_has_its_title_and_sections(name):
    assert PAGES[name].startswith(f"# {BACKBONES[name].title}\n")
    found = re.findall(r"^## (.+)$", PAGES[name], re.MULTILINE)
    assert [section for section in found if section in SECTIONS] == SECTIONS


@each
def test_the_equations_fit_the_width_of_a_page(name):
    lines = re.search(r"## Equations\n\n```text\n(.*?)```", PAGES[name], re.DOTALL)[1].splitlines()
    assert [line for line in lines if len(line) > 76] == []


@each
def test_a_page_lists_the_options_and_their_defaults(name):
    def shown(value):
        if value is None or isinstance(value, bool):
            return {None: "none", True: "true", False: "false"}[value]
        return str(list(value)) if isinstance(value, tuple) else format(value, "")

    listed = dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", PAGES[name].split("## Settings")[1], re.MULTILINE))
    options = {field.name: field.default for field in fields(BACKBONES[name].config) if field.name != "shape"}
    assert MISSING not in options.values()
    assert listed == {option: shown(value) for option, value in options.items()}


@each
def test_a_page_names_the_source_that_the_code_names(name):
    told = PAGES[name].split("## Source")[1]
    marks = re.findall(r"arXiv [\d.]+|doi \S+|KDD \d{4}|Machine Learning \d+", BACKBONES[name].source)
    assert marks and [mark for mark in marks if mark not in told] == []


@each
def test_a_page_has_a_place_for_its_rows(name):
    assert len(PLACE.findall(PAGES[name])) == 1


@each
def test_a_page_shows_the_picture_that_its_script_draws(name, pictures):
    kept = (DOCS / "pictures" / "backbones" / f"{name}.svg").read_text(encoding="utf-8")
    assert kept == pictures.draw(pictures.PICTURES[name])
    assert f"](../pictures/backbones/{name}.svg)" in PAGES[name]


def test_the_boxes_of_a_picture_hold_their_words_and_hang_together(pictures):
    longest = sys.modules["rooms"].LONGEST
    assert pictures.PICTURES.keys() == BACKBONES.keys()
    for picture in pictures.PICTURES.values():
        boxes = picture.boxes.values()
        assert len({(box.column, box.row) for box in boxes}) == len(boxes)
        assert [box for box in boxes if len(box.name) > longest["name"] or len(box.say) > longest["say"]] == []
        assert {key for pair in picture.pairs for key in pair} == picture.boxes.keys()
