"""A matrix on disk in segments: FOLDER/NAME/0000.npy, 0001.npy, ... one after the other; or the one file FOLDER/NAME.npy.

Each segment is what one artifact added to the one before it. As of tables (`core.segments`), an artifact names all segments of
its matrices; those that it shares with earlier artifacts are further names of the same files.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from core.errors import MissingArtifactError, StorageError
from core.segments import link, tail

# Rows that are copied at a time.
_BLOCK = 65_536


class Matrix:
    """Several memory-mapped matrices of the same width as one, [n, d]. Rows are read by numbers or by a slice."""

    def __init__(self, parts: Sequence[np.ndarray]) -> None:
        self.parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape = (int(self._ends[-1]), parts[0].shape[1])
        self.dtype = parts[0].dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """A row, or a new array of some."""
        if isinstance(rows, int | np.integer):
            return np.asarray(self[np.array([rows])][0])
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        rows = np.asarray(rows)
        if rows.dtype == bool:
            rows = np.flatnonzero(rows)
        found = np.empty((len(rows), self.shape[1]), self.dtype)
        owner, start = np.searchsorted(self._ends, rows, side="right"), 0
        if len(rows) and (rows.min() < 0 or owner.max() >= len(self.parts)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of a matrix of {len(self)}")
        for number, part in enumerate(self.parts):
            mine = owner == number
            if mine.any():
                found[mine] = part[rows[mine] - start]
            start = int(self._ends[number])
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.concatenate(list(self.parts)).astype(dtype or self.dtype, copy=False)


Rows = np.ndarray | Matrix


def matrix_files(path: Path) -> list[Path]:
    """The files of the matrix NAME.npy: itself, or those of the folder NAME in their order.

    Raises:
        MissingArtifactError: there is none.
    """
    if path.is_file():
        return [path]
    if found := sorted(path.with_suffix("").glob("*.npy")):
        return found
    raise MissingArtifactError(f"{path} does not exist; run the stage that writes it")


def open_matrix(path: Path) -> Rows:
    """The matrix NAME.npy, memory-mapped.

    Raises:
        MissingArtifactError: there is none.
        ValueError, OSError: a file of it cannot be read, or is of another width or type than the first.
    """
    try:
        parts = [np.load(file, mmap_mode="r", allow_pickle=False) for file in matrix_files(path)]
    except EOFError as error:
        raise ValueError(f"a file of {path.name} is empty ({error})") from error
    if any(part.ndim != 2 or part.shape[1:] != parts[0].shape[1:] or part.dtype != parts[0].dtype for part in parts):
        raise ValueError(f"the segments of {path.name} are not matrices of one width and type")
    return parts[0] if len(parts) == 1 else Matrix(parts)


def link_matrix(source: Path, target: Path) -> None:
    """Further names for the files of a matrix, in the folder TARGET without its suffix."""
    for number, file in enumerate(matrix_files(source)):
        link(file, _segment(target, number))


class MatrixWriter:
    """Writes a matrix in segments; what it has in common with an earlier one from its first row on is linked. Use it as a context.

    Args:
        path: NAME.npy; the segments go into the folder NAME.
        dim: its width.
        dtype: its type.
        earlier: the earlier matrix; None: there is none.
        compare: False: only what `take` names is linked.

    Raises:
        StorageError: the disk has no room.
    """

    def __init__(self, path: Path, dim: int, dtype: Any, earlier: Path | None = None, *, compare: bool = True) -> None:
        self._path, self._dim, self._dtype, self._compare = path, dim, np.dtype(dtype), compare
        self._old, self._files = _usable(earlier, dim, self._dtype)
        self._same, self._new = 0, 0
        self._scratch = path.with_name(f".{path.name}.rows")

    def __enter__(self) -> MatrixWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = self._scratch.open("wb")
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            with self._room():
                self._stream.close()
                if kind is None:
                    self._finish()
        finally:
            self._scratch.unlink(missing_ok=True)

    def take(self, rows: int) -> None:
        """The next so many rows are those of the earlier matrix; after new ones there are none."""
        assert not self._new, "rows of the earlier matrix come first"
        self._same += rows

    def write(self, rows: np.ndarray) -> None:
        """The next rows, [n, dim]."""
        rows = np.ascontiguousarray(rows, self._dtype)
        if self._compare and not self._new and self._old is not None:
            known = np.asarray(self._old[self._same : self._same + len(rows)])
            equal = (_bytes(known) == _bytes(rows[: len(known)])).all(axis=1)
            same = len(equal) if equal.all() else int(np.argmin(equal))
            self._same, rows = self._same + same, rows[same:]
        self._new += len(rows)
        with self._room():
            self._stream.write(rows.tobytes())

    def _finish(self) -> None:
        sizes = [len(np.load(file, mmap_mode="r", allow_pickle=False)) for file in self._files]
        found = tail(sizes, self._same, self._new)
        for number in range(found.linked):
            link(self._files[number], _segment(self._path, number))
        if found.rows or not found.linked:
            self._write_from(found.linked, found.start, found.rows)

    def _write_from(self, number: int, start: int, rows: int) -> None:
        """A segment of the earlier matrix's rows from `start` on that are still the same, and of the new ones."""
        file = _segment(self._path, number)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("wb") as stream, self._scratch.open("rb") as new:
            head = {
                "descr": np.lib.format.dtype_to_descr(self._dtype),
                "fortran_order": False,
                "shape": (rows, self._dim),
            }
            np.lib.format.write_array_header_1_0(stream, head)
            for begin in range(start, self._same, _BLOCK):
                assert self._old is not None
                stream.write(np.asarray(self._old[begin : min(begin + _BLOCK, self._same)]).tobytes())
            shutil.copyfileobj(new, stream, 1 << 24)

    @contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            size = self._new * self._dim * self._dtype.itemsize
            raise StorageError(
                f"{self._path}: no room for {size:,} bytes ({error.strerror}); free some, or move `root`"
            ) from error


def _usable(earlier: Path | None, dim: int, dtype: np.dtype) -> tuple[Rows | None, list[Path]]:
    if earlier is None:
        return None, []
    try:
        files, found = matrix_files(earlier), open_matrix(earlier)
    except (MissingArtifactError, ValueError, OSError):
        return None, []
    return (found, files) if found.shape[1] == dim and found.dtype == dtype else (None, [])


def _segment(path: Path, number: int) -> Path:
    return path.with_suffix("") / f"{number:04d}.npy"


def _bytes(rows: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), rows.shape[1] * rows.itemsize)
