from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel
from unit.knowledge.knowledge_worlds import TITLES, Build, Row, run_of, write_source
from unit.knowledge.tiny_models import tokenizer

from core import Built, Settings


@pytest.fixture(scope="session")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(1)
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    BertModel(BertConfig(vocab_size=200, max_position_embeddings=4096, **shape)).save_pretrained(folder)
    tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(2)
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 32,
    }
    LlamaModel(
        LlamaConfig(vocab_size=200, num_key_value_heads=2, max_position_embeddings=4096, **shape)
    ).save_pretrained(folder)
    tokenizer(folder)
    return folder


@pytest.fixture
def settings(bert: Path) -> Settings:
    knowledge: dict[str, Any] = {"reasoner": "transformers", "model": str(bert), "thresholds": [3, 6, 9]}
    knowledge |= {"user_dim": 8, "item_dim": 4, "user_vectors": ["pooled", "prompt"], "max_tokens": 2000}
    knowledge["lag"] = dict.fromkeys(("pooled", "prompt", "scenario", "item_text"), dt.timedelta(0))
    return Settings(knowledge=knowledge)


@pytest.fixture
def build(tmp_path: Path, settings: Settings) -> Build:
    """Builds knowledge from rows (or several windows' sources) into a new folder; one store and cache per test."""
    count = iter(range(1000))

    def build(
        *windows: Sequence[Row],
        start: float = 45.0,
        now: float = 10_000.0,
        titles: Sequence[str] = TITLES,
        **other: Any,
    ) -> tuple[Path, Built]:
        place = tmp_path / f"run{next(count)}"
        sources = [write_source(place / f"source{i}", rows, titles) for i, rows in enumerate(windows)]
        out = place / "out"
        out.mkdir()
        store = other.get("store", tmp_path / "store")
        run = run_of(other.get("settings", settings), sources, tmp_path / "cache", store, now, start)
        return out, run.build(out)

    return build
