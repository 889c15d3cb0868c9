"""The version of code changes with what a stage runs, and with nothing else."""

from __future__ import annotations

import pytest

from core import source
from core.source import code_version
from pipeline.graph import GRAPH

FILES = {
    "core/__init__.py": "from core.log import logger\n",
    "core/log.py": "def logger():\n    return 1\n",
    "core/clock.py": "def now():\n    return 1\n",
    "core/unused.py": "def nothing():\n    return 1\n",
    "models/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from models.train import fit\n",
    "models/train.py": '"""Fits."""\n\nfrom core import logger\n\n\ndef fit(x):\n    """Fit."""\n    return x + 1  # one more\n',
    "models/prompt.txt": "Say it.",
    "ingest/__init__.py": "",
    "ingest/read.py": "def read():\n    from core import clock\n    return clock.now()\n",
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(source, "REPOSITORY", tmp_path)
    return tmp_path


def versions():
    return {room: code_version(["core", room]) for room in ("models", "ingest")}


@pytest.mark.parametrize(
    ("file", "old", "new", "changed"),
    [
        ("models/train.py", "x + 1", "x + 2", {"models"}),
        ("models/train.py", "  # one more", "", set()),
        ("models/train.py", '    """Fit."""\n', "", set()),
        ("models/train.py", '"""Fits."""', '"""Fits a model."""', set()),
        ("models/train.py", "(x)", "( x )", set()),
        ("models/prompt.txt", "it", "this", {"models"}),
        ("core/log.py", "return 1", "return 2", {"models", "ingest"}),  # core's own face runs it
        ("core/clock.py", "return 1", "return 2", {"ingest"}),  # within a function
        ("core/unused.py", "return 1", "return 2", set()),
        ("ingest/read.py", "return clock", "return 1 + clock", {"ingest"}),
    ],
)
def test_a_change_makes_another_version_where_it_is_run_and_only_there(repository, file, old, new, changed):
    before = versions()
    text = (repository / file).read_text()
    assert old in text
    (repository / file).write_text(text.replace(old, new))
    after = versions()
    assert {room for room in before if before[room] != after[room]} == changed


def test_a_body_of_a_docstring_alone_is_still_a_body(repository):
    (repository / "ingest" / "read.py").write_text('def read():\n    """Read."""\n')
    before = versions()
    (repository / "ingest" / "read.py").write_text("def read():\n    pass\n")
    assert versions() == before


def test_the_rooms_may_be_named_in_any_order():
    assert code_version(["core", "ingest"]) == code_version(["ingest", "core", "core"]) != code_version(["core"])


def test_a_misspelt_room_is_no_constant_version():
    with pytest.raises(ValueError, match="no room"):
        code_version(["croe"])


def test_every_stage_of_this_project_has_a_version_of_its_own_code():
    found = {name: code_version(stage.rooms) for name, stage in GRAPH.items()}
    assert len(set(found.values())) > 5
