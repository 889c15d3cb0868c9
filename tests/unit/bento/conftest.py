"""A bundle and a catalogue made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from handmade import make_bundle, write_catalogue


@pytest.fixture
def bundle():
    return make_bundle()


@pytest.fixture
def catalogue(tmp_path):
    from bento.catalogue import load_catalogue

    pointer = write_catalogue(tmp_path / "catalogue")
    return load_catalogue(Path(pointer["catalogue"]), pointer["digest"])
