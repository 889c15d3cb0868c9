"""What killed runs leave in the cache is swept once it is old, and what is in use is not."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from unit.knowledge.knowledge_worlds import TITLES, log_rows, micros, write_source

from core.settings import DataSettings
from knowledge.log.catalogue import catalogue_of, read_catalogue
from knowledge.log.store import open_log
from knowledge.storage.cleanup import in_use

NUMBER = "0123456789abcdef" * 2
PLACES = [
    f"log/.spill.{NUMBER}/spilled",
    f"log/.source.{NUMBER}/rows.parquet",
    f"identity/.shard.{NUMBER}/vectors.npy",
    f"identity.users/4-1/.shard.{NUMBER}/vectors.npy",
    f"done/key/.1-of-2.json.{NUMBER}",
    f".models.json.{NUMBER}",
]
KEPT = ["models.json", "identity/shard/vectors.npy", "identity.users/4-1/shard/vectors.npy"]


def place(cache: Path, name: str, age: float) -> Path:
    file = cache / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"half")
    for path in (file, file.parent):
        os.utime(path, (time.time() - age, time.time() - age))
    return file


def opened(tmp_path: Path, cache: Path) -> None:
    source = write_source(tmp_path / "source", log_rows(), TITLES)
    with open_log([source], cache, catalogue_of(*read_catalogue([source], DataSettings())), micros(1e6)):
        pass


@pytest.mark.parametrize("name", PLACES)
def test_what_is_older_than_a_day_goes_and_what_is_younger_stays(tmp_path: Path, name: str) -> None:
    old, young = place(tmp_path / "old", name, 90_000), place(tmp_path / "young", name, 80_000)
    kept = [place(tmp_path / "old", other, 1e6) for other in KEPT]
    opened(tmp_path, tmp_path / "old")
    opened(tmp_path, tmp_path / "young")
    assert not old.exists()
    assert not any(part.startswith(".") for path in (tmp_path / "old").rglob("*") for part in path.parts[-1:])
    assert young.exists()
    assert all(path.exists() for path in kept)


def test_what_a_living_process_holds_stays(tmp_path: Path) -> None:
    file = place(tmp_path / "cache", PLACES[0], 90_000)
    with in_use(file.parent):
        for path in file.parent, *file.parent.iterdir():
            os.utime(path, (0, 0))
        opened(tmp_path, tmp_path / "cache")
        assert file.exists()
    opened(tmp_path, tmp_path / "cache")
    assert not file.exists()


def test_an_open_log_holds_its_scratch_folder(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    source = write_source(tmp_path / "source", log_rows(), TITLES)
    with open_log([source], cache, catalogue_of(*read_catalogue([source], DataSettings())), micros(1e6)) as log:
        [scratch] = (cache / "log").glob(".spill.*")
        for path in scratch, *scratch.iterdir():
            os.utime(path, (0, 0))
        opened(tmp_path, cache)
        assert scratch.exists()
        assert log.rows == 72


def test_what_earlier_versions_kept_of_users_is_removed(tmp_path: Path) -> None:
    kept = place(tmp_path / "cache", "users/recipe/4-1", 0)
    opened(tmp_path, tmp_path / "cache")
    assert not kept.exists()
