import datetime as dt

import pytest

from core import Settings, load_settings, make_clock, to_micros
from core.errors import SettingsError, UserError


@pytest.fixture
def file(tmp_path):
    def write(text: str):
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


def test_an_empty_file_means_the_defaults(file):
    assert load_settings(file("")).train == Settings().train


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("trian: {seed: 1}", "trian: Extra inputs are not permitted"),
        ("train: {sede: 1}", r"train\.sede: Extra inputs are not permitted"),
        ("train: {seed: many}", r"train\.seed: Input should be a valid integer"),
        ("data: {label: {op: '<'}}", r"data\.label\.op"),
        ("features: {prior_rate: 2}", r"features\.prior_rate"),
        ("train: {grade_levels: [2]}", r"train: .*grade_levels needs data\.grade"),
        ("1: x", "must hold keys and values"),
        ("- a", "must hold keys and values"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_wrong_settings_file_is_refused_and_the_key_named(file, text, named):
    with pytest.raises(SettingsError, match=named):
        load_settings(file(text))


def test_a_missing_settings_file_says_how_to_get_one(tmp_path):
    with pytest.raises(SettingsError, match="llm4msr init"):
        load_settings(tmp_path / "absent.yaml")


def test_a_variable_overrides_the_file_and_leaves_its_neighbours(file, monkeypatch):
    monkeypatch.setenv("LLM4MSR_TRAIN__SEED", "7")
    train = load_settings(file("train: {seed: 3, epochs: 4}")).train
    assert (train.seed, train.epochs) == (7, 4)


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("LLM4MSR_TRAIN__SEDE", "7", r"train\.sede"),
        ("LLM4MSR_TRIAN__SEED", "7", "LLM4MSR_TRIAN__SEED: there is no section 'trian'"),
        ("LLM4MSR_TRAIN__SEED", "x", r"train\.seed"),
        ("LLM4MSR_TRAIN", "{bad", "train"),
    ],
)
def test_a_wrong_variable_is_refused_and_named(file, monkeypatch, variable, value, named):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=named):
        load_settings(file(""))


def test_a_variable_of_another_purpose_is_no_setting(file, monkeypatch):
    monkeypatch.setenv("LLM4MSR_SETTINGS", "somewhere.yaml")
    load_settings(file(""))


def test_secrets_come_from_the_environment_and_are_masked(file, monkeypatch):
    monkeypatch.setenv("LLM4MSR_ONLINE__PASSWORD", "hunter2")
    settings = load_settings(file(""))
    assert settings.online.password.get_secret_value() == "hunter2"
    assert "hunter2" not in f"{settings!r} {settings.section('online')}"


def test_paths_are_relative_to_the_settings_file(file, tmp_path):
    settings = load_settings(file("root: out\ndata: {path: ../raw}"))
    assert (settings.root, settings.data.path) == (tmp_path / "out", tmp_path.parent / "raw")


def test_absolute_paths_stay(file, tmp_path):
    assert load_settings(file(f"root: {tmp_path}/elsewhere")).root == tmp_path / "elsewhere"


def test_a_root_that_mlflow_would_misread_is_refused_before_anything_runs(file):
    with pytest.raises(SettingsError, match=r"tracking\.url"):
        load_settings(file("root: a?b"))
    assert load_settings(file("root: a?b\ntracking: {url: 'http://mlflow:5000'}")).root.name == "a?b"


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Settings().train.seed = 2


def test_the_clock_is_what_the_settings_ask_for():
    at = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    assert make_clock(Settings()).fixed is None
    assert make_clock(Settings(clock={"mode": "replay", "at": "2020-01-01T00:00:00Z"})).now() == at
    assert make_clock(Settings(clock={"mode": "replay"}), log_end=at).now_micros() == to_micros(at)


def test_a_clock_at_the_logs_end_needs_a_log():
    with pytest.raises(UserError, match="llm4msr ingest"):
        make_clock(Settings(clock={"mode": "replay"}))
