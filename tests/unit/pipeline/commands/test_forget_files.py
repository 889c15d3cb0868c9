"""Taking a person's rows out of matrices that lie in segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.matrix import MatrixWriter, matrix_files, open_matrix
from pipeline.commands.forget_files import blank_matrix_rows, rows_by_file, without_matrix_rows

ROWS = np.arange(3 * 4000, dtype=np.float32).reshape(-1, 3)
GONE = np.array([0, 5, 1999, 2000, 3999])


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    path = None
    for night, end in enumerate((2000, 3000, 4000)):
        earlier, path = path, tmp_path / str(night) / "vectors.npy"
        with MatrixWriter(path, 3, np.float32, earlier) as writer:
            writer.write(ROWS[:end])
    assert path is not None and len(matrix_files(path)) == 3
    return path


def test_rows_are_found_in_the_file_that_holds_them(matrix: Path) -> None:
    found = [(file.name, rows.tolist()) for file, rows in rows_by_file(matrix, GONE).items()]
    assert found == [("0000.npy", [0, 5, 1999]), ("0001.npy", [0]), ("0002.npy", [999])]
    assert rows_by_file(matrix.with_name("none.npy"), GONE) == {}


def test_the_rest_is_left_and_other_artifacts_keep_theirs(matrix: Path, tmp_path: Path) -> None:
    files = without_matrix_rows(matrix, GONE, len(ROWS))
    assert [file.name for file in files] == ["vectors.npy", "0000.npy", "0001.npy", "0002.npy"]
    expected = np.delete(ROWS, GONE, axis=0)
    np.testing.assert_array_equal(np.asarray(open_matrix(matrix)), expected)
    assert not list(matrix.with_suffix("").glob("*"))
    np.testing.assert_array_equal(np.asarray(open_matrix(tmp_path / "1" / "vectors.npy")), ROWS[:3000])
    without_matrix_rows(matrix, GONE, len(ROWS))
    np.testing.assert_array_equal(np.asarray(open_matrix(matrix)), expected)


def test_a_kill_between_the_new_file_and_the_old_ones_is_mended_by_the_next_call(
    matrix: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        without_matrix_rows(matrix, GONE, len(ROWS))
    assert len(open_matrix(matrix)) == len(ROWS) - len(GONE), "the one file counts before the segments"
    without_matrix_rows(matrix, GONE, len(ROWS))
    assert matrix_files(matrix) == [matrix] and not list(matrix.with_suffix("").glob("*"))


def test_blanked_rows_of_a_segment_are_zeros_and_the_others_stay(matrix: Path) -> None:
    for file, rows in rows_by_file(matrix, GONE).items():
        blank_matrix_rows(file, rows)
    found = np.asarray(open_matrix(matrix))
    assert not found[GONE].any()
    np.testing.assert_array_equal(np.delete(found, GONE, axis=0), np.delete(ROWS, GONE, axis=0))


def test_a_later_night_goes_on_from_what_was_rewritten(matrix: Path, tmp_path: Path) -> None:
    without_matrix_rows(matrix, GONE, len(ROWS))
    kept, later = np.delete(ROWS, GONE, axis=0), tmp_path / "later" / "vectors.npy"
    with MatrixWriter(later, 3, np.float32, matrix) as writer:
        writer.write(np.concatenate([kept, ROWS[:10]]))
    assert matrix_files(later)[0].samefile(matrix)
    assert len(open_matrix(later)) == len(kept) + 10
