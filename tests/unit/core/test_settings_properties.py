"""Random settings: written and read back they are the same, variables go before them, and no unknown key gets through."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import assume, given, reject
from hypothesis import strategies as st
from properties import examples

from core import Settings, load_settings
from core.errors import SettingsError
from core.settings import ModelSettings
from core.settings_file import dotted_names

# What YAML takes for something else unless it is quoted, and what JSON escapes.
ODD = [
    "no",
    "on",
    "null",
    "~",
    "1",
    "1.5",
    "2024-01-31",
    "a: b",
    "- a",
    "#a",
    "{a}",
    "'",
    '"',
    "é",
    "字",
    "a b",
    "%",
    "😀",
]
words = st.sampled_from(ODD) | st.text("abcXYZ_", min_size=1, max_size=6)
shares = st.floats(0, 0.9)
lengths = st.timedeltas(dt.timedelta(0), dt.timedelta(days=400))
# Below data.scenarios stand names of scenarios, and below these a title.
SECTIONS = sorted({name.rpartition(".")[0] for name in dotted_names()} - {"data.scenarios"})
BACKBONES = get_args(ModelSettings.model_fields["backbone"].annotation)


def some(**fields: st.SearchStrategy) -> st.SearchStrategy[dict[str, Any]]:
    """A section with some of these fields."""
    return st.fixed_dictionaries({}, optional=fields)


bodies = some(
    project=st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True),
    root=st.sampled_from(["state", "/tmp/state", "a/../b", "é"]),
    clock=some(
        mode=st.sampled_from(["wall", "replay"]), at=st.just("log_end") | st.datetimes(timezones=st.just(dt.UTC))
    ),
    data=some(
        path=st.sampled_from(["raw", "/data/raw", "."]),
        columns=st.dictionaries(words, words, max_size=2),
        files=st.dictionaries(st.sampled_from(["interactions", "users", "items"]), words),
        ids=st.sampled_from(["auto", "string"]) | st.just({"user": "string", "item": "integer"}),
        nulls=st.lists(words, max_size=3),
        timezone=st.sampled_from(["UTC", "Europe/Berlin"]),
        csv=st.just({"delimiter": ";", "quote": "none", "items": {"delimiter": "tab"}}),
        label=st.builds(
            lambda found: {"column": "event", "in": found}, st.lists(words | st.integers() | st.booleans(), min_size=1)
        )
        | some(column=words, op=st.sampled_from([">", ">=", "==", "is"]), value=st.floats(-5, 5)),
        negatives=st.none() | some(per_positive=st.integers(1, 100), seed=st.integers()),
        scenario=some(
            rule=st.sampled_from(["column", "source"]), groups=st.dictionaries(words, st.lists(words), max_size=2)
        ),
        scenarios=st.dictionaries(words, st.fixed_dictionaries({"title": words, "description": words}), max_size=2),
        user_dense=st.lists(st.sampled_from(["age", "income", 'in"come', "é"]), unique=True),
        item_categorical=st.lists(st.sampled_from(["genre", "on", "1"]), unique=True),
        catalogue=st.sampled_from(["snapshot", "delta"]) | st.just({"items": "delta"}),
    ),
    validation=some(
        earliest=st.datetimes(dt.datetime(1991, 1, 1), dt.datetime(2020, 1, 1), timezones=st.just(dt.UTC)),
        max_future=lengths,
        volume_band=st.tuples(shares, st.floats(1, 3)),
        max_online_age=st.none() | lengths,
        closed_scenarios=st.lists(words, max_size=2),
    ),
    features=some(
        prior_rate=shares,
        lag=st.dictionaries(st.sampled_from(["user_stats", "item_stats"]), lengths),
        ttl=st.dictionaries(words, lengths, max_size=2),
    ),
    split=some(kind=st.sampled_from(["time", "per_user_tail"]), warmup=shares, horizon=st.none() | lengths),
    knowledge=some(
        model=st.none() | words,
        thresholds=st.lists(st.integers(1, 99), max_size=3),
        every=st.none() | lengths,
        generate=st.none() | some(max_new_tokens=st.integers(1, 99), chat=st.booleans()),
        ray=some(workers=st.integers(1, 9), num_gpus=shares),
        user_vectors=st.sampled_from([["pooled"], ["prompt"], ["pooled", "prompt"]]),
    ),
    model=some(
        backbone=st.sampled_from(BACKBONES),
        backbone_options=st.dictionaries(words, st.integers() | shares | st.booleans() | words | st.none(), max_size=2),
        hidden=st.none() | st.lists(st.integers(1, 512), max_size=3),
        dropout=shares,
        embedding_dim=st.integers(1, 16).map(lambda n: 4 * n),
    ),
    train=some(seed=st.integers(-(2**60), 2**60), learning_rate=st.floats(1e-12, 1e6), epochs=st.integers(1, 99)),
    promotion=some(margin=st.floats(0, 1), max_age=lengths),
    serving=some(port=st.integers(1, 65535), poll_seconds=st.floats(1e-3, 60)),
    tracking=some(url=st.none() | st.just("http://mlflow:5000"), experiment=words),
)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLM4MSR_SETTINGS", raising=False)


def plain(value: Any) -> Any:
    """As a person writes it: times and lengths of time are texts."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, dt.datetime):
        return value.isoformat()
    return f"PT{value / dt.timedelta(seconds=1):.6f}S" if isinstance(value, dt.timedelta) else value


def leaves(body: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The settings of a file that are no sections: where they stand, and their values."""
    for name, value in body.items():
        here = (*path, name)
        if isinstance(value, dict) and ".".join(here) in SECTIONS:
            yield from leaves(value, here)
        else:
            yield here, value


def written(folder: Path, body: dict[str, Any]) -> Path:
    file = folder / "llm4msr.yaml"
    file.write_text(yaml.safe_dump(body, allow_unicode=True), encoding="utf-8")
    return file


@given(body=bodies)
@examples(60)
def test_settings_that_are_written_out_are_read_back_as_they_were(tmp_path: Path, body: dict[str, Any]) -> None:
    settings = load_settings(written(tmp_path, plain(body)))
    for path, value in leaves(body):
        held = settings.model_dump(by_alias=True)
        for part in path:
            held = held[part]
        if path in (("root",), ("data", "path")):
            value = (tmp_path / value).resolve()
        elif isinstance(value, dict) and isinstance(held, dict):
            held = {inner: held[inner] for inner in value}  # lags of other kinds have their defaults
        assert plain(held) == plain(value), path
    dumped = settings.model_dump(mode="json", by_alias=True, exclude_unset=True)
    assert load_settings(written(tmp_path, dumped)) == settings
    # JSON is YAML, as `init --all` writes it.
    (tmp_path / "llm4msr.yaml").write_text(json.dumps(dumped, ensure_ascii=False), encoding="utf-8")
    assert load_settings(tmp_path / "llm4msr.yaml") == settings
    assert settings.section(*Settings.model_fields.keys() - {"project", "root"}) is not None


@given(body=bodies, other=bodies, data=st.data())
@examples(40)
def test_a_variable_goes_before_the_file_and_changes_nothing_else(
    tmp_path: Path, body: dict[str, Any], other: dict[str, Any], data: st.DataObject
) -> None:
    # A variable is a text: it cannot say that there is none.
    said = [found for found in leaves(plain(other)) if found[1] is not None] or [(("train", "seed"), 3)]
    path, value = data.draw(st.sampled_from(said))
    file = written(tmp_path, plain(body))
    before = load_settings(file)
    both = inner = plain(body)
    for part in path[:-1]:
        inner[part] = inner = dict(inner.get(part) or {})
    held = inner.get(path[-1])
    inner[path[-1]] = {**held, **value} if isinstance(held, dict) and isinstance(value, dict) else value
    try:
        expected = load_settings(written(tmp_path, both))
    except SettingsError:
        reject()  # the two do not go together
    written(tmp_path, plain(body))
    with pytest.MonkeyPatch.context() as environment:
        text = value if isinstance(value, str) else json.dumps(value)
        environment.setenv("LLM4MSR_" + "__".join(path).upper(), text)
        assert load_settings(file) == expected
    assert load_settings(file) == before


@given(
    body=bodies,
    place=st.sampled_from([*SECTIONS, "data.scenarios.feed"]),
    key=st.text("abcxyz_", min_size=1, max_size=8),
    value=st.integers() | words,
)
@examples(80)
def test_an_unknown_key_is_refused_wherever_it_stands(
    tmp_path: Path, body: dict[str, Any], place: str, key: str, value: Any
) -> None:
    full = f"{place}.{key}" if place else key
    assume(full not in set(dotted_names()) and key not in ("title", "description"))
    body = plain(body)
    inner = body
    for part in place.split(".") if place else ():
        if not isinstance(inner.get(part), dict):
            inner[part] = {}
        inner = inner[part]
    inner[key] = value
    with pytest.raises(SettingsError, match="there is no such setting") as error:
        load_settings(written(tmp_path, body))
    assert full in str(error.value)
