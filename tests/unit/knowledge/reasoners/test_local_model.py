"""Weights that are replaced in their folder are another model, for the stage too."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import BertModel
from unit.knowledge.knowledge_worlds import TITLES

import knowledge.reasoners.folder
from core import load_settings
from core.settings import KnowledgeSettings
from knowledge import local_model
from pipeline import stages

ROWS = [
    (u, i, 1_600_000_000 + 60 * (10 * u + i), ("feed", "search")[i % 2], (u + i) % 2)
    for u in range(6)
    for i in range(6)
]


def other_weights(folder: Path) -> None:
    model = BertModel.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    model.save_pretrained(folder)


@pytest.fixture
def model(bert: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bert, tmp_path / "model"))


def test_replaced_weights_are_no_longer_up_to_date(model: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    lines = ["user,item,time,surface,clicked", *(",".join(map(str, row)) for row in ROWS)]
    (tmp_path / "data" / "log.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "data" / "items.csv").write_text("item,title\n" + "".join(f"{i},{TITLES[i]}\n" for i in range(6)))
    body = {
        "root": "root",
        "data": {
            "source": "table",
            "path": "data",
            "files": {"interactions": "log.csv", "items": "items.csv"},
            "columns": {"user_id": "user", "item_id": "item", "event_timestamp": "time", "title": "title"},
            "timestamp_unit": "s",
            "label": {"column": "clicked", "op": "is", "value": 1},
            "scenario": {"rule": "column", "column": "surface"},
            "scenarios": {name: {"title": name, "description": f"The {name}."} for name in ("feed", "search")},
        },
        "knowledge": {"reasoner": "transformers", "model": str(model), "thresholds": [3], "user_dim": 8, "item_dim": 4},
    }
    (tmp_path / "llm4msr.yaml").write_text(yaml.safe_dump(body))
    settings = load_settings(tmp_path / "llm4msr.yaml")
    stages.ingest(settings)
    stages.validate(settings)
    first = stages.knowledge(settings)
    assert stages.knowledge(settings).reused
    other_weights(model)
    second = stages.knowledge(settings)
    assert not second.reused
    assert second.versions["item_text"] != first.versions["item_text"]


def test_a_folder_is_read_once_until_a_file_changes(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = KnowledgeSettings(reasoner="transformers", model=str(model))
    first = local_model(asked, tmp_path)
    monkeypatch.setattr(knowledge.reasoners.folder, "sha256_file", lambda _: "read again")
    assert local_model(asked, tmp_path) == first
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    assert local_model(asked, tmp_path) != first
    monkeypatch.undo()
    (tmp_path / "models.json").write_text("{")
    assert list(local_model(asked, tmp_path)) == ["model"]


def test_only_a_local_folder_has_a_digest(tmp_path: Path) -> None:
    assert local_model(KnowledgeSettings(), tmp_path) == {}
    assert local_model(KnowledgeSettings(reasoner="transformers", model="some/name"), tmp_path) == {}
    assert local_model(KnowledgeSettings(reasoner="openai", model=str(tmp_path)), tmp_path) == {}
