"""What lies beside the tables is read, or refused with the file's name and the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.errors import GateError, MissingArtifactError
from validation.files import need_kind, read_digests, read_matrix


def test_a_folder_that_no_kind_is_named_after_is_refused_with_the_kinds_there_are(tmp_path: Path) -> None:
    assert need_kind("user_pooled", tmp_path).name == "pooled"
    with pytest.raises(GateError, match=r"'user_mood' is no kind of knowledge; there are .*user_pooled") as found:
        need_kind("user_mood", tmp_path)
    assert str(tmp_path) in str(found.value)


@pytest.mark.parametrize("read", [read_matrix, lambda path: read_digests(path, 1)])
def test_a_missing_file_is_named(read, tmp_path: Path) -> None:
    with pytest.raises(MissingArtifactError, match=r"missing\.npy does not exist; run the stage that writes it"):
        read(tmp_path / "missing.npy")


ODD: dict[str, bytes | np.ndarray] = {
    "torn": b"\x93NUMPY\x01\x00",
    "empty": b"",
    "one dimension": np.zeros(4, np.float32),
    "doubles": np.zeros((2, 2)),
    "column by column": np.asfortranarray(np.zeros((2, 3), np.float32)),
    "pickled": np.array([{"a": 1}], dtype=object),
}


def write(path: Path, content: bytes | np.ndarray) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content, allow_pickle=True)
    return path


@pytest.mark.parametrize("odd", ODD)
def test_what_is_no_matrix_is_said_of_the_file_and_gives_none(odd: str, tmp_path: Path) -> None:
    matrix, wrong = read_matrix(write(tmp_path / "vectors.npy", ODD[odd]))
    assert matrix.shape[0] == 0
    assert wrong.startswith("vectors.npy ")
    digests, wrong = read_digests(write(tmp_path / "digests.npy", ODD[odd]), 2)
    assert digests.shape[0] == 0
    assert wrong.startswith("digests.npy ")


def test_sound_files_are_read_and_digests_must_be_as_many_as_rows(tmp_path: Path) -> None:
    matrix, wrong = read_matrix(write(tmp_path / "vectors.npy", np.eye(3, dtype=np.float32)))
    assert wrong == "" and np.asarray(matrix).tolist() == np.eye(3).tolist()
    path = write(tmp_path / "digests.npy", np.arange(64, dtype=np.uint8).reshape(2, 32))
    found, wrong = read_digests(path, 2)
    assert wrong == "" and found[1, 0] == 32
    _, wrong = read_digests(path, 3)
    assert wrong == "digests.npy is uint8 [2, 32], not uint8 [3, 32]"
