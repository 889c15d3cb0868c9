"""The settings files that ship, and those that `llm4msr init` writes."""

from __future__ import annotations

import pytest
import yaml

from core import Settings, load_settings
from core.digest import REPOSITORY
from core.errors import SettingsError
from pipeline.commands.init import TEMPLATE, all_fields, write_settings


def test_the_template_is_a_settings_file(tmp_path):
    write_settings(tmp_path / "new" / "mine.yaml", force=False)
    settings = load_settings(tmp_path / "new" / "mine.yaml")
    assert settings.root == tmp_path / "new" / ".llm4msr"
    assert settings.data.source == "table"


def test_every_field_is_written_with_its_default(tmp_path):
    body = yaml.safe_load(all_fields())
    assert Settings(**body) == Settings()
    assert set(body) == set(Settings.model_fields)
    assert {"api_key"} == set(type(Settings().knowledge).model_fields) - set(body["knowledge"])
    assert {"password"} == set(type(Settings().online).model_fields) - set(body["online"])


def test_a_file_that_exists_is_not_overwritten_unasked(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("project: mine\n")
    with pytest.raises(SettingsError, match="--force"):
        write_settings(file, force=False)
    assert file.read_text() == "project: mine\n"
    write_settings(file, force=True)
    assert file.read_text() == TEMPLATE


def test_the_production_settings_load_and_name_servers():
    settings = load_settings(REPOSITORY / "config" / "production.yaml")
    assert (settings.clock.mode, settings.split.kind) == ("wall", "time")
    assert (settings.online.store, settings.registry.kind) == ("redis", "sql")


def test_what_is_commented_out_in_the_production_settings_loads_too(tmp_path):
    text = (REPOSITORY / "config" / "production.yaml").read_text()
    lines = (
        text.replace("# tracking:", "tracking:")
        .replace("#   url:", "  url:")
        .replace("#   experiment:", "  experiment:")
    )
    file = tmp_path / "production.yaml"
    for key in ("transformers", "openai"):
        chosen = lines.replace("  reasoner: minilm", f"  reasoner: {key}")
        file.write_text(chosen)
        assert load_settings(file).tracking.url == "http://mlflow:5000"


def test_a_nightly_refresh_is_not_said_to_be_fresher_than_a_day():
    settings = load_settings(REPOSITORY / "config" / "production.yaml")
    lags = {**settings.features.lag, **{k: v for k, v in settings.knowledge.lag.items() if k != "item_text"}}
    assert {kind for kind, lag in lags.items() if lag.total_seconds() < 86_400} == set()


def test_pods_serve_what_the_pipeline_wrote():
    pipeline = load_settings(REPOSITORY / "config" / "production.yaml")
    pods = load_settings(REPOSITORY / "bento" / "deploy" / "overlays" / "production" / "settings.yaml")
    assert (pods.project, pods.features, pods.online.store) == (pipeline.project, pipeline.features, "redis")
