"""What serving and pushes stand on: pointers that only go forward, and a start of training that stays."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from core import ArtifactStore, Built, Settings, Window
from pipeline.stages import KEPT_TEXTS, later_window, publish_catalogue
from pipeline.windows import training_start

DAYS = [Window.parse(f"2024-01-0{day}", f"2024-01-0{day + 1}") for day in (1, 2, 3)]


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path)


def materialised(store, window):
    store.build("materialize", window, inputs={}, settings={}, rooms=("core",), builder=lambda out: Built())


def test_a_window_is_behind_those_that_end_later_and_no_other(store):
    for day in DAYS[:2]:
        materialised(store, day)
    assert later_window(store, DAYS[0]) == "2024-01-03T00:00:00+00:00"
    assert later_window(store, DAYS[1]) is None
    assert later_window(store, DAYS[2]) is None
    assert later_window(store, Window()) is None, "a window without an end is the newest"


def test_the_newest_texts_are_kept_whatever_their_versions_are_called(store):
    """Versions are digests: their names say nothing of their age."""
    versions = ["f9", "07", "e1", "13", "d4", "2c"]
    for version in versions:
        path = store.root / "objects" / "catalogue" / version
        publish_catalogue(store, SimpleNamespace(path=path, digest=version, versions={"item_text": version}))
    pointer = json.loads((store.root / "serving" / "catalogue.json").read_text())
    assert set(pointer["texts"]) == set(versions[-KEPT_TEXTS - 1 :])
    assert pointer["catalogue"] == "objects/catalogue/2c"


def test_the_start_of_training_stays_where_it_was_whatever_else_of_the_data_changes(tmp_path, monkeypatch):
    told = iter([1000, 2000])
    monkeypatch.setattr("feature_repo.compute_train_start", lambda *_: next(told))

    def start(**data):
        return training_start(Settings(root=tmp_path, data=data), [])

    assert start() == 1000
    scenarios = {"home": {"title": "Home", "description": "Another sentence."}}
    assert start(batch_rows=5000, path="elsewhere", item_categorical=["brand"], scenarios=scenarios) == 1000
    assert start(columns={"event_timestamp": "other"}) == 2000
