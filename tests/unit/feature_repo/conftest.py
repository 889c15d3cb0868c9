"""The fixture `world`; its parts are in feature_worlds.py beside this file."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from feature_worlds import World  # noqa: E402


@pytest.fixture
def world(tmp_path):
    """Makes a world below the test's folder: `world(rows, pooled=..., overrides=...)`."""

    def make(rows, name="world", **options):
        return World(tmp_path / name, rows, **options)

    return make
