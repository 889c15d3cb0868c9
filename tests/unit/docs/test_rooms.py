"""The pages of the rooms: short, alike, and with a picture that a script draws."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from pipeline.image import ALL_ROOMS

DOCS = Path(__file__).resolve().parents[3] / "docs"
PAGES = sorted((DOCS / "rooms").glob("*.md"))
WORDS = 700
SECTIONS = ["Five names to know", "How to extend it", "Its tests"]


def _pictures():
    spec = importlib.util.spec_from_file_location("pictures_of_rooms", DOCS / "pictures" / "rooms.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pictures = _pictures()
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
each_picture = pytest.mark.parametrize("name", pictures.PICTURES)


def test_every_room_has_a_page():
    assert {*ALL_ROOMS, "dags", "benchmarks"} == {page.stem for page in PAGES}


@each_page
def test_a_page_has_at_most_700_words(page):
    assert len(page.read_text().split()) <= WORDS


@each_page
def test_a_page_has_the_same_sections_in_the_same_order(page):
    found = re.findall(r"^## (.+)$", page.read_text(), re.MULTILINE)
    assert [name for name in found if name in SECTIONS] == SECTIONS


@each_page
def test_a_page_names_five_things(page):
    section = page.read_text().split(f"## {SECTIONS[0]}\n")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("|")]
    assert len(table) - 2 == 5


@each_page
def test_a_page_shows_the_picture_of_its_room(page):
    assert f"](../pictures/rooms/{page.stem}.svg)" in page.read_text()


@each_page
def test_the_folders_that_hold_its_tests_exist(page):
    section = page.read_text().split(f"## {SECTIONS[2]}\n")[1]
    named = re.findall(r"`(tests/[\w/]+(?:\.py)?)`", section)
    assert named and [path for path in named if not (DOCS.parent / path).exists()] == []


@each_picture
def test_a_picture_is_what_its_script_draws(name):
    kept = (DOCS / "pictures" / "rooms" / f"{name}.svg").read_text()
    assert kept == pictures.draw(pictures.PICTURES[name])


@each_picture
def test_the_boxes_of_a_picture_hold_their_words_and_do_not_overlap(name):
    picture = pictures.PICTURES[name]
    places = [(box.column, box.row) for box in picture.boxes.values()]
    assert len(set(places)) == len(places)
    long = [
        box
        for box in picture.boxes.values()
        if len(box.name) > pictures.LONGEST["name"] or len(box.say) > pictures.LONGEST["say"]
    ]
    assert long == []


@each_picture
def test_every_box_of_a_picture_hangs_together_with_another(name):
    picture = pictures.PICTURES[name]
    assert {key for pair in picture.pairs for key in pair} == picture.boxes.keys()


@pytest.mark.parametrize("page", sorted((DOCS / "decisions").glob("[!R]*.md")), ids=lambda page: page.stem)
def test_a_decision_says_its_status_and_since_when(page):
    lines = page.read_text().splitlines()
    assert re.fullmatch(r"Status: (accepted|superseded by \[.+\]\(.+\)), 20\d\d-[01]\d", lines[2])
