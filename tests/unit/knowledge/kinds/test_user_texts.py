"""What users' texts say, and that a refresh writes again all that would say something else."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from test_refresh import ROWS, SETTINGS, Home, files
from unit.knowledge.knowledge_worlds import TITLES, Letters, Row

import knowledge.run
from core import Settings

EVERYBODY: list[Row] = [(u, u % 7, "home", float(k), 1) for u in range(20) for k in range(4)]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setattr(knowledge.run, "make_reasoner", lambda _: Letters())
    return Home(tmp_path)


def test_a_title_that_changes_without_its_vector_is_told_to_everybody(home: Home) -> None:
    home.write("all", EVERYBODY)
    home.build("first", ["all"])
    home.write("louder", [(0, 0, "home", 900.0, 1)], [*TITLES[:3], TITLES[3].upper(), *TITLES[4:]])
    refreshed = files(home.build("refreshed", ["all", "louder"]))
    assert refreshed == files(home.build("scratch", ["all", "louder"], cache="other"))


def test_another_half_life_writes_texts_again_where_no_pooled_vectors_are_made(home: Home) -> None:
    home.write("all", ROWS)
    asked = SETTINGS.knowledge.model_dump() | {"user_vectors": ["prompt"]}
    first = home.build("first", ["all"], settings=Settings(knowledge=asked))
    short = Settings(knowledge=asked | {"pooled_half_life": dt.timedelta(seconds=2)})
    refreshed = files(home.build("refreshed", ["all"], settings=short))
    assert refreshed == files(home.build("scratch", ["all"], cache="other", settings=short))
    assert refreshed != files(first)


def test_a_positive_row_counts_as_one_even_if_its_item_has_no_text(home: Home) -> None:
    titles = [TITLES[0], None, *TITLES[2:]]
    home.write("all", [(1, 0, "home", 0.0, 1), (1, 1, "home", 1.0, 1), (1, 2, "home", 2.0, 0)], titles)
    [text] = pq.read_table(home.build("out", ["all"]) / "user_text")["text"].to_pylist()
    assert text.splitlines()[0] == "Based on 3 interactions, 2 of them positive."
