"""The fixture `world`; its parts are in feature_worlds.py beside this file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from unit.feature_repo.feature_worlds import Row, World


@pytest.fixture
def world(tmp_path: Path) -> Callable[..., World]:
    """Makes a world below the test's folder: `world(rows, pooled=..., overrides=...)`."""

    def make(rows: list[Row], name: str = "world", **options: Any) -> World:
        return World(tmp_path / name, rows, **options)

    return make
