"""A bundle and a catalogue made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from unit.bento.handmade import make_bundle, write_catalogue

if TYPE_CHECKING:
    from bento.catalogue import Catalogue
    from models.bundle import Bundle


@pytest.fixture
def bundle() -> Bundle:
    return make_bundle()


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    from bento.catalogue import load_catalogue

    made = write_catalogue(tmp_path / "catalogue")
    return load_catalogue(made.folder(tmp_path), made.digest)
