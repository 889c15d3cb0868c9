"""Files beside the tables: vector matrices and their digests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from core.contracts.kinds import KINDS, KnowledgeKind, find_kind
from core.errors import GateError, MissingArtifactError
from core.matrix import Matrix, Rows, matrix_files, open_matrix
from core.segments import segments, table_path


def need_kind(view: str, place: Path) -> KnowledgeKind:
    """The kind of knowledge that a folder or a column is named after.

    Raises:
        GateError: there is no such kind.
    """
    kind = find_kind(view)
    if kind is None:
        known = ", ".join(kind.view for kind in KINDS)
        raise GateError(f"{place}: {view!r} is no kind of knowledge; there are {known}")
    return kind


def shared_files(table: Path, other: Path | None) -> int:
    """How many of a table's first segments are the same files as another's."""
    if other is None or not other.exists():
        return 0
    return _shared(segments(table), segments(other))


def shared_segments(folder: Path, other: Path | None) -> int:
    """How many of the first segments of a kind's index are the same files as another's, with their vectors and digests."""
    if other is None or not table_path(other, "index").exists():
        return 0
    many = shared_files(table_path(folder, "index"), table_path(other, "index"))
    for name in ("vectors.npy", "digests.npy"):
        try:
            many = min(many, _shared(matrix_files(folder / name), matrix_files(other / name)))
        except MissingArtifactError:
            return 0
    return many


def _shared(ours: Sequence[Path], theirs: Sequence[Path]) -> int:
    same = [a.samefile(b) for a, b in zip(ours, theirs, strict=False)]
    return same.index(False) if False in same else len(same)


def read_matrix(path: Path) -> tuple[Rows, str]:
    """A memory-mapped matrix and what is wrong with it; an empty one where it cannot be read.

    Raises:
        MissingArtifactError: there is no such file.
    """
    try:
        matrix = open_matrix(path)
    except (ValueError, OSError, EOFError) as error:
        return np.empty((0, 0), np.float32), f"{path.name} cannot be read ({error})"
    parts = matrix.parts if isinstance(matrix, Matrix) else [matrix]
    if len(matrix.shape) != 2 or matrix.dtype != np.float32 or not all(part.flags.c_contiguous for part in parts):
        return np.empty((0, 0), np.float32), f"{path.name} is {matrix.dtype} {list(matrix.shape)}, not float32 [n, dim]"
    return matrix, ""


def read_digests(path: Path, rows: int) -> tuple[Rows, str]:
    """The digests beside an index, uint8 [rows, 32], and what is wrong with them; an empty array then.

    Raises:
        MissingArtifactError: there is no such file.
    """
    try:
        found = open_matrix(path)
    except (ValueError, OSError, EOFError) as error:
        return np.empty((0, 32), np.uint8), f"{path.name} cannot be read ({error})"
    if found.dtype != np.uint8 or found.shape != (rows, 32):
        return np.empty((0, 32), np.uint8), f"{path.name} is {found.dtype} {list(found.shape)}, not uint8 [{rows}, 32]"
    return found, ""
