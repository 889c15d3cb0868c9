import datetime as dt

import pytest

from core import Settings, load_settings, make_clock, to_micros
from core.errors import SettingsError, UserError
from core.settings import DataSettings


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
        ("trian: {seed: 1}", "trian: there is no such setting"),
        ("train: {sede: 1}", r"train\.sede: there is no such setting"),
        ("train: {seed: many}", r"train\.seed: input should be a valid integer"),
        ("data: {label: {op: '<'}}", r"data\.label\.op"),
        ("features: {prior_rate: 2}", r"features\.prior_rate"),
        ("train: {grade_levels: [2]}", r"train: .*grade_levels needs data\.grade"),
        ("1: x", "the key `1` is 1 to YAML"),
        ("- a", "must hold keys and values"),
        ("a: [", "this is not YAML"),
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
    assert make_clock(Settings(clock={"mode": "replay"}), end=at).now_micros() == to_micros(at)


def test_a_clock_at_the_logs_end_needs_a_log():
    with pytest.raises(UserError, match="llm4msr ingest"):
        make_clock(Settings(clock={"mode": "replay"}))
    with pytest.raises(SettingsError, match="window_end"):
        make_clock(Settings(clock={"mode": "replay", "at": "window_end"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("projekt: x", "projekt: there is no such setting; did you mean 'project'?"),
        ("data:\n  lable: {column: x}", "data.lable: there is no such setting; did you mean 'data.label'?"),
        ("data: {label: {colum: x}}", "did you mean 'data.label.column'?"),
        ("data: {scenarios: {feed: {titel: x, description: y}}}", "data.scenarios.feed.titel"),
        ("epochs: 3", "did you mean 'train.epochs'?"),
        ("data: {lag: {}}", "did you mean 'features.lag' or 'knowledge.lag'?"),
        ("model: {backbone: mmo}", "model.backbone: must be one of shared_bottom, omoe, .* did you mean 'mmoe'?"),
        ("train: {epochs: many}", "train.epochs: .*; it is 'many'"),
        ("project: My Shop", "project: must begin with a letter .* it is 'My Shop'"),
        ("train: [epochs, 3]", "train: this section holds keys and values, not "),
        ("data: x.csv", "data: this section holds keys and values, not 'x.csv'"),
        ("features: {ttl: {user_stats: tomorrow}}", "features.ttl.user_stats: must be a length of time such as PT24H"),
        (
            "data: {scenarios: {feed: {title: 5, description: y}}}",
            "data.scenarios.feed.title: must be a text: put it in",
        ),
        ("train: {epochs: 3}\nmodel: {}\ntrain: {seed: 2}", "line 3: 'train' stands here twice, first in line 1"),
        ("data:\n  path: a\n  path: b", "line 3: 'path' stands here twice, first in line 2"),
        ("data: {columns: {user_id: a, user_id: b}}", "'user_id' stands here twice"),
        ("data:\n\tpath: a", "line 2: a tab; YAML is indented with blanks only"),
        ("data:\n  path: a: b", "line 2: this is not YAML .* needs quotes"),
        ("data: {path: a", "this is not YAML"),
        ("- project: x", r"must hold keys and values \(`project: my_ranker`\), not a list"),
        ("just words", "must hold keys and values .* not one value"),
        ("data: {scenario: {groups: {on: [a]}}}", "the key `on` is True to YAML; put it in quotes"),
        ("data: {scenarios: {2024: {title: a, description: b}}}", "the key `2024` is 2024 to YAML"),
        ("project: !!python/object/apply:os.system ['true']", "this is not YAML|could not determine a constructor"),
    ],
)
def test_a_mistake_in_a_file_is_named_with_what_may_have_been_meant(file, text, said):
    with pytest.raises(SettingsError, match=said):
        load_settings(file(text))


def test_equal_keys_in_different_sections_and_merged_ones_are_no_repetition(file):
    text = "train: &t {seed: 3}\nmodel: {name: a}\n"
    assert load_settings(file(text)).train.seed == 3
    merged = "train:\n  <<: {seed: 3, epochs: 4}\n  seed: 5\n"
    assert (load_settings(file(merged)).train.seed, load_settings(file(merged)).train.epochs) == (5, 4)


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(SettingsError, match="is a folder; name the file in it"):
        load_settings(tmp_path)


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("LLM4MSR_TRAIN_EPOCHS", "write LLM4MSR_TRAIN__EPOCHS, with two underscores"),
        ("LLM4MSR_PROJEKT", "did you mean 'project'?"),
        ("LLM4MSR_TRIAN__SEED", "there is no section 'trian'; did you mean 'train'?"),
        ("LLM4MSR_TRAIN__SEDE", r"train.sede \(from LLM4MSR_TRAIN__SEDE\): .* did you mean 'train.seed'?"),
        ("LLM4MSR_DATA__LABEL__COLUM", "did you mean 'data.label.column'?"),
        ("llm4msr_train__epochs", r"train.epochs \(from LLM4MSR_TRAIN__EPOCHS\)"),
    ],
)
def test_a_misspelt_variable_says_what_it_may_have_meant(file, monkeypatch, variable, said):
    monkeypatch.setenv(variable, "x")
    with pytest.raises(SettingsError, match=said):
        load_settings(file(""))


@pytest.mark.parametrize(
    "name", ["SETTINGS", "LOG_FORMAT", "COMMAND", "SCHEDULE", "SEED_BUNDLE", "ROOT_DISK", "MY_OWN"]
)
def test_variables_that_are_no_settings_are_left_alone(file, monkeypatch, name):
    monkeypatch.setenv(f"LLM4MSR_{name}", "x")
    load_settings(file(""))


def test_a_wrong_secret_is_not_repeated(file):
    with pytest.raises(SettingsError) as raised:
        load_settings(file("online: {password: [hunter2]}"))
    assert "hunter2" not in str(raised.value)
    assert "online.password" in str(raised.value)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"item_categorical": ["uid", "UID"]}, "'UID'.*'uid': they cannot be told apart"),
        ({"user_categorical": ["country"], "item_categorical": ["country"]}, "'country'.*cannot be told apart"),
        ({"user_categorical": ["Label"]}, "'Label', which is the name of a column of our own.*data.columns"),
        ({"item_dense": ["x_row"]}, "column of our own"),
        ({"item_categorical": ["a\nb"]}, "no printable name"),
        *(({"item_dense": [name]}, "column of our own") for name in ("grade", "weight", "user_rows", "history", "run")),
        ({"item_categorical": ["é" * 41]}, "more than 80 bytes"),
    ],
)
def test_declared_columns_that_cannot_be_carried_are_refused(section, message):
    with pytest.raises(ValueError, match=message):
        DataSettings(**section)
    DataSettings(item_categorical=['a"b', "order", "x y;z", "a.b", "type"], item_text=["title", 'a"b'])


@pytest.mark.parametrize(
    ("made", "model", "read"),
    [
        (["prompt"], {}, ["prompt"]),
        (["pooled", "prompt"], {}, ["pooled"]),
        (["pooled", "prompt"], {"user_vectors": ["prompt"]}, ["prompt"]),
        ([], {"user_level": "none"}, ["pooled"]),
    ],
)
def test_a_model_reads_the_users_vectors_that_are_made(made, model, read):
    assert Settings(knowledge={"user_vectors": made}, model=model).model.user_vectors == read


@pytest.mark.parametrize("section", ["knowledge", "model"])
def test_an_unknown_kind_of_user_vector_is_refused_and_the_kinds_are_named(section):
    with pytest.raises(ValueError, match=rf"{section}\.user_vectors\.0\n.*'pooled' or 'prompt'.*'scenario'"):
        Settings(**{section: {"user_vectors": ["scenario"]}})
    schema = Settings.model_json_schema()["$defs"][f"{section.title()}Settings"]
    assert schema["properties"]["user_vectors"]["items"]["enum"] == ["pooled", "prompt"]


@pytest.mark.parametrize(
    ("made", "model", "message"),
    [
        ([], {}, "names pooled, which is not among knowledge.user_vectors .there: none."),
        (["prompt"], {"user_vectors": ["pooled"]}, "names pooled, which is not among knowledge.user_vectors"),
        (["pooled"], {"user_vectors": []}, "model.user_vectors is empty"),
    ],
)
def test_a_model_that_reads_vectors_nobody_makes_is_refused_when_the_settings_are_read(made, model, message):
    with pytest.raises(ValueError, match=message):
        Settings(knowledge={"user_vectors": made}, model=model)
