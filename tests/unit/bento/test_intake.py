"""The service takes pushes only where it was told to, and only where it can."""

import asyncio

import pytest

from bento import intake
from bento.intake import Intake
from core import Settings
from core.errors import MissingArtifactError, SettingsError


def test_it_is_closed_unless_the_settings_open_it(tmp_path):
    assert not Intake(Settings(root=tmp_path)).open
    assert Intake(Settings(root=tmp_path, push={"http": True})).open


def test_a_bento_says_that_it_cannot_take_pushes(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "find_spec", lambda name: None)
    with pytest.raises(SettingsError, match="push --follow"):
        Intake(Settings(root=tmp_path, push={"http": True}))


def test_before_anything_was_materialised_it_says_what_to_run(tmp_path, caplog):
    opened = Intake(Settings(root=tmp_path, push={"http": True}))
    opened.start()
    with pytest.raises(MissingArtifactError, match="llm4msr materialize"):
        asyncio.run(opened.take([{}]))
    opened.stop()
    assert not (tmp_path / "live").exists()
