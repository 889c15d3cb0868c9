"""Matrices in segments: what is written is what is read, and what did not change is not written again."""

from __future__ import annotations

import errno
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import examples

from core import matrix as module
from core.errors import MissingArtifactError, StorageError
from core.matrix import Matrix, MatrixWriter, link_matrix, matrix_files, open_matrix

DIM = 3


def write(folder: Path, rows: np.ndarray, earlier: Path | None = None, block: int = 7) -> Path:
    """The matrix of a folder, written some rows at a time."""
    path = folder / "vectors.npy"
    with MatrixWriter(path, rows.shape[1], rows.dtype, earlier) as writer:
        for start in range(0, len(rows), block):
            writer.write(rows[start : start + block])
    return path


def rows_of(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)


@given(changes=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1)), max_size=12), block=st.integers(1, 50))
@examples(60)
def test_night_after_night_it_reads_as_it_was_written(
    changes: list[tuple[int, int]], block: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Each night adds rows; on some an earlier row is another one."""
    root, rows, path = tmp_path_factory.mktemp("nights"), rows_of(5), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("core.segments.FANOUT", 3)
        for night, (more, corrected) in enumerate([(0, 0), *changes]):
            rows = np.concatenate([rows, rows_of(more, night)])
            if corrected:
                rows = rows.copy()
                rows[len(rows) // 2] += 1
            path = write(root / str(night), rows, path, block)
            np.testing.assert_array_equal(np.asarray(open_matrix(path)), rows)
            assert not list((root / str(night)).glob(".*"))


def test_what_is_the_same_is_linked_and_few_segments_stay(tmp_path: Path) -> None:
    rows, linked = rows_of(4000), 0
    path: Any = None
    for night in range(30):
        rows = np.concatenate([rows, rows_of(20, night)])
        before, path = path, write(tmp_path / str(night), rows, path)
        if before is not None:
            linked += matrix_files(path)[0].samefile(matrix_files(before)[0])
    assert linked == 29
    assert 1 < len(matrix_files(path)) <= 8
    same = write(tmp_path / "same", rows, path)
    assert all(one.samefile(other) for one, other in zip(matrix_files(same), matrix_files(path), strict=True))


def test_a_changed_row_is_written_again_with_those_behind_it(tmp_path: Path) -> None:
    rows = rows_of(3000)
    path: Any = None
    for end in (1500, 2500, 3000):
        path = write(tmp_path / str(end), rows[:end], path)
    changed = rows.copy()
    changed[2000, 1] += 1e-3
    again = write(tmp_path / "again", changed, path)
    first, second, _ = matrix_files(path)
    files = matrix_files(again)
    assert [len(np.load(file)) for file in files] == [1500, 1500]
    assert files[0].samefile(first) and not files[1].samefile(second)
    np.testing.assert_array_equal(np.asarray(open_matrix(path)), rows)


@pytest.mark.parametrize(("dim", "dtype"), [(2, np.float32), (3, np.float64)])
def test_one_of_another_width_or_type_has_nothing_in_common(tmp_path: Path, dim: int, dtype: Any) -> None:
    path = write(tmp_path / "a", rows_of(9))
    other = np.zeros((9, dim), dtype)
    np.testing.assert_array_equal(np.asarray(open_matrix(write(tmp_path / "b", other, path))), other)


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00v"])
def test_an_earlier_one_that_cannot_be_read_counts_for_nothing(tmp_path: Path, damage: bytes) -> None:
    path = write(tmp_path / "a", rows_of(9))
    matrix_files(path)[0].unlink()
    matrix_files_of_a = path.with_suffix("") / "0000.npy"
    matrix_files_of_a.write_bytes(damage)
    np.testing.assert_array_equal(np.asarray(open_matrix(write(tmp_path / "b", rows_of(9), path))), rows_of(9))
    assert len(open_matrix(write(tmp_path / "c", rows_of(0), tmp_path / "none.npy"))) == 0


def test_several_parts_are_read_as_one(tmp_path: Path) -> None:
    whole = rows_of(100)
    path: Any = None
    for end in (40, 41, 100):
        path = write(tmp_path / str(end), whole[:end], path)
    found = open_matrix(path)
    assert isinstance(found, Matrix) and len(found) == 100 and found.shape == (100, DIM) and found.dtype == np.float32
    for chosen in ([3, 99, 40, 40, 0], np.zeros(0, np.int64), slice(30, 60), slice(None, None, 7), whole[:, 0] > 0):
        np.testing.assert_array_equal(found[chosen], whole[chosen])
    assert found[41].tolist() == whole[41].tolist()
    for outside in ([100], [-1]):
        with pytest.raises(IndexError):
            found[outside]
    linked = tmp_path / "linked" / "vectors.npy"
    link_matrix(path, linked)
    np.testing.assert_array_equal(np.asarray(open_matrix(linked)), whole)


def test_a_single_file_is_a_matrix_and_counts_before_segments(tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(9))
    np.save(path, rows_of(4, 1))
    np.testing.assert_array_equal(open_matrix(path), rows_of(4, 1))
    with pytest.raises(MissingArtifactError, match=r"none\.npy does not exist"):
        open_matrix(tmp_path / "none.npy")


def test_parts_of_different_width_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(9))
    np.save(path.with_suffix("") / "0001.npy", np.zeros((2, DIM + 1), np.float32))
    with pytest.raises(ValueError, match="one width"):
        open_matrix(path)


class _Full(io.BytesIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, _: Any) -> int:
        raise OSError(self.number, "the disk said so")


@pytest.mark.parametrize(("number", "error"), [(errno.ENOSPC, StorageError), (errno.EIO, OSError)])
def test_a_full_disk_is_a_storage_error_that_names_the_file(
    tmp_path: Path, number: int, error: type[Exception]
) -> None:
    with pytest.raises(error) as found, MatrixWriter(tmp_path / "vectors.npy", DIM, np.float32) as writer:
        writer._stream.close()
        writer._stream = _Full(number)  # type: ignore[assignment]
        writer.write(rows_of(16))
    assert ("vectors.npy: no room for 192 bytes" in str(found.value)) == (error is StorageError)
    assert not list(tmp_path.glob("**/*.npy"))


def test_blocks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 10)
    path = write(tmp_path / "a", rows_of(50))
    longer = np.concatenate([rows_of(50)[:33], rows_of(30, 5)])
    np.testing.assert_array_equal(np.asarray(open_matrix(write(tmp_path / "b", longer, path))), longer)
