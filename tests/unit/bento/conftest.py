"""A bundle and a catalogue made by hand."""

from __future__ import annotations

import pytest
from handmade import make_bundle, write_catalogue


@pytest.fixture
def bundle():
    return make_bundle()


@pytest.fixture
def catalogue(tmp_path):
    from bento.catalogue import load_catalogue

    made = write_catalogue(tmp_path / "catalogue")
    return load_catalogue(made.folder(tmp_path), made.digest)
