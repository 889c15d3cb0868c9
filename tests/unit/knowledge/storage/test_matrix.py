from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from core.errors import StorageError
from knowledge.storage import matrix


def test_a_new_matrix_has_its_place_on_the_disk(tmp_path: Path) -> None:
    vectors = matrix.create(tmp_path, 50_000, 16)
    found = (tmp_path / "vectors.npy").stat()
    assert found.st_size == 128 + vectors.nbytes
    assert found.st_blocks * 512 >= found.st_size
    assert not vectors.any()
    assert len(matrix.create(tmp_path / "empty", 0, 16)) == 0


def test_a_full_disk_is_a_storage_error_that_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StorageError, match=r"vectors\.npy: no room for 768 bytes"):
        matrix.create(tmp_path, 10, 16)


def test_another_fault_of_the_disk_is_told_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "posix_fallocate", broken)
    with pytest.raises(OSError, match="Input/output error"):
        matrix.create(tmp_path, 10, 16)
