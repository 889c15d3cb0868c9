"""Parts of a run: what each looks at, its share of a server's limits, and the marks they leave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from unit.knowledge.knowledge_worlds import TITLES, Letters, log_rows, run_of, write_source

import knowledge.run
import knowledge.storage.cache
from core import Settings
from core.digest import sha256_file
from core.errors import BudgetError, DataError
from core.settings import KnowledgeSettings
from knowledge import Run
from knowledge.engines.cluster import Reader
from knowledge.reasoners import per_process
from knowledge.reasoners.client import RefusedError
from knowledge.storage.cache import Cache

TEXTS = [f"Red River {i}" for i in range(24)]
LIMITED = Settings(
    knowledge={
        "user_dim": 8,
        "item_dim": 4,
        "thresholds": [3],
        "token_budget": 1000,
        "requests_per_minute": 60.0,
        "tokens_per_minute": 100.0,
        "ray": {"workers": 5},
    }
)


@pytest.fixture
def opened_with(monkeypatch: pytest.MonkeyPatch) -> list[KnowledgeSettings]:
    found: list[KnowledgeSettings] = []

    def make(settings: KnowledgeSettings) -> Letters:
        found.append(settings)
        return Letters()

    monkeypatch.setattr(knowledge.run, "make_reasoner", make)
    return found


def run(place: Path, now: float = 10_000.0) -> Run:
    return run_of(LIMITED, [place / "source"], place / "cache", place / "store", now)


def part(place: Path, number: int, of: int, now: float = 10_000.0) -> Path:
    return run(place, now).read_part(number, of)


def stage(place: Path, out: str) -> None:
    (place / out).mkdir()
    run(place, 20_000.0).build(place / out)


def test_a_part_checks_its_own_shards_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache(tmp_path, Letters(), shard_rows=4).fill(TEXTS)
    checked: list[str] = []

    def spy(path: Path) -> str:
        checked.append(path.parent.name)
        return sha256_file(path)

    monkeypatch.setattr(knowledge.storage.cache, "sha256_file", spy)
    for number in (1, 2, 3):
        Cache(tmp_path, Letters(), shard_rows=4, part=(number, 3)).fill(TEXTS)
        assert len(checked) == 2 * number
    assert len(set(checked)) == 6


def test_each_of_several_processes_has_its_share_of_budget_and_rates(
    tmp_path: Path, opened_with: list[KnowledgeSettings]
) -> None:
    write_source(tmp_path / "source", log_rows(), TITLES)
    part(tmp_path, 3, 8)
    Reader(run(tmp_path))({"part": np.array([1]), "parts": np.array([20])})
    of_8, of_5 = opened_with
    assert (of_8.token_budget, of_8.requests_per_minute, of_8.tokens_per_minute) == (125, 7.5, 12.5)
    assert (of_5.token_budget, of_5.requests_per_minute, of_5.tokens_per_minute) == (200, 12.0, 20.0)
    assert per_process(KnowledgeSettings(), 8) == KnowledgeSettings()


def test_the_stage_names_the_parts_that_have_not_reported(
    tmp_path: Path, opened_with: list[KnowledgeSettings], caplog: pytest.LogCaptureFixture
) -> None:
    write_source(tmp_path / "source", log_rows(), TITLES)
    stage(tmp_path, "without")
    assert "has not reported" not in caplog.text
    marks = {part(tmp_path, number, 4, now=10_000.0 + number).parent for number in (1, 4)}
    assert len(marks) == 1
    stage(tmp_path, "two")
    assert "shard 2/4, 3/4 has not reported" in caplog.text
    caplog.clear()
    part(tmp_path, 2, 4)
    part(tmp_path, 3, 4)
    stage(tmp_path, "four")
    assert "has not reported" not in caplog.text


@pytest.mark.parametrize(
    ("met", "told"),
    [
        (BudgetError("used up: all of it"), "BudgetError:used up: all of it"),
        (DataError("odd", file="a.csv", row=3), "DataError:file a.csv, row 3: odd"),
        (RefusedError("too long"), "SettingsError:too long"),
    ],
)
def test_an_actor_tells_the_kind_and_the_message_of_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, met: Exception, told: str
) -> None:
    def fails(_: KnowledgeSettings) -> Letters:
        raise met

    monkeypatch.setattr(knowledge.run, "make_reasoner", fails)
    write_source(tmp_path / "source", log_rows(), TITLES)
    assert Reader(run(tmp_path))({"part": np.array([1]), "parts": np.array([20])})["failure"] == [told]
