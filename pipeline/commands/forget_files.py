"""A person's rows in the files below a root: where they are, and the files without them."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.errors import MissingArtifactError
from core.files import replace_file
from core.forgotten import belongs
from core.matrix import matrix_files, open_matrix
from core.segments import segments

KEY = "user_id"
# Shorter ids, and numbers with fewer digits, are found in any file by chance.
_LETTERS, _DIGITS = 5, 7
_CHUNK = 1 << 24


def tables_of_users(folder: Path) -> list[Path]:
    """All parquet files below a folder with a column of user ids."""
    return [file for file in sorted(folder.rglob("*.parquet")) if file.is_file() and KEY in pq.read_schema(file).names]


def rows_of(file: Path, users: Collection[Any]) -> np.ndarray:
    """Which rows of a file are those of users, int64 [n]."""
    found, begin = [], 0
    for batch in pq.ParquetFile(file).iter_batches(columns=[KEY]):
        found.append(np.flatnonzero(belongs(batch.column(0), users).to_numpy(zero_copy_only=False)) + begin)
        begin += batch.num_rows
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def without_rows(file: Path, users: Collection[Any]) -> int:
    """Replace a file by one without the users' rows; returns how many rows are left."""
    source = pq.ParquetFile(file)
    count = 0

    def write(scratch: Path) -> None:
        nonlocal count
        with pq.ParquetWriter(scratch, source.schema_arrow, compression="zstd") as writer:
            for group in range(source.num_row_groups):
                table = source.read_row_group(group)
                kept = table.filter(pc.invert(belongs(table[KEY], users)))
                count += kept.num_rows
                writer.write_table(kept)

    replace_file(file, write)
    return count


def rows_by_file(matrix: Path, rows: np.ndarray) -> dict[Path, np.ndarray]:
    """Rows of a matrix by the file of it that holds them, as the file numbers them; none where there is no such matrix."""
    found, start = {}, 0
    try:
        files = matrix_files(matrix)
    except MissingArtifactError:
        return {}
    for file in files:
        end = start + len(np.load(file, mmap_mode="r", allow_pickle=False))
        found[file] = rows[(rows >= start) & (rows < end)] - start
        start = end
    return found


def without_matrix_rows(matrix: Path, rows: np.ndarray, whole: int) -> list[Path]:
    """Replace a matrix of `whole` rows by one without some of them; one that lacks them already stays as it is.

    It is left in the one file NAME.npy, which counts before its segments: a kill leaves the one or the other.

    Returns:
        Its files, before and after.
    """
    files = [matrix, *sorted(matrix.with_suffix("").glob("*.npy"))]
    found = open_matrix(matrix)
    if len(found) == whole:
        _save(matrix, np.delete(np.asarray(found), rows, axis=0))
    if matrix.is_file():
        for file in files[1:]:
            file.unlink()
    return files


def blank_matrix_rows(file: Path, rows: np.ndarray) -> None:
    """Replace a matrix by one in which some rows are zeros, and the others where they were."""
    matrix = np.array(np.load(file, mmap_mode="r", allow_pickle=False))
    matrix[rows[rows < len(matrix)]] = 0
    _save(file, matrix)


def renumber(index: Path, column: str) -> list[Path]:
    """Number the entries of an index from 0 again, in their order; returns the files that it changed."""
    changed, first = [], 0
    for file in segments(index):
        table = pq.read_table(file)
        place = table.schema.get_field_index(column)
        numbers = pa.array(np.arange(first, first + table.num_rows), table.schema.field(column).type)
        first += table.num_rows
        if not table[column].combine_chunks().equals(numbers):
            table = table.set_column(place, table.schema.field(column), numbers)
            replace_file(file, lambda scratch, table=table: pq.write_table(table, scratch, compression="zstd"))  # type: ignore[misc]
            changed.append(file)
    return changed


def table_of_file(file: Path) -> Path:
    """The table that a file is, or is a segment of."""
    return file.parent if file.stem.isdigit() else file


def name_of_table(table: Path) -> str:
    """As manifests count its rows: an index by the vectors that it is of."""
    return table.parent.name if table.stem == "index" else table.stem


def lines_of(file: Path, users: Collection[Any]) -> tuple[list[str], int]:
    """The lines of a file of JSON lines that are not of the users, and how many are."""
    hidden, kept, count = {str(user) for user in users}, [], 0
    for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines(keepends=True):
        if hidden.isdisjoint(_named_users(line)):
            kept.append(line)
        else:
            count += 1
    return kept, count


def named_in(files: Iterable[Path], users: Collection[Any]) -> list[Path]:
    """The files whose bytes hold an id that is long enough not to be there by chance."""
    words = [str(user).encode() for user in users if is_telling(user)]
    return [file for file in files if words and _holds(file, words)]


def is_telling(user: Any) -> bool:
    """Whether an id is long enough to be looked for in text."""
    text = str(user)
    return len(text) >= (_DIGITS if text.isdigit() else _LETTERS)


def _holds(file: Path, words: list[bytes]) -> bool:
    longest, tail = max(map(len, words)), b""
    try:
        with file.open("rb") as stream:
            while block := stream.read(_CHUNK):
                block = tail + block
                if any(word in block for word in words):
                    return True
                tail = block[-longest:]
    except OSError:  # gone meanwhile, or no plain file
        return False
    return False


def _named_users(line: str) -> set[str]:
    """The users that a JSON line is about, also within a text of it that is JSON; of what is no JSON, all its words."""
    try:
        waiting, found = [json.loads(line)], set()
    except ValueError:
        return set(re.split(r'[\s",;{}:]+', line))
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found |= {str(value[KEY])} if KEY in value else set()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and "{" in value:
            found |= _named_users(value) if value != line else set()
    return found


def _save(file: Path, matrix: np.ndarray) -> None:
    def write(scratch: Path) -> None:
        with scratch.open("wb") as stream:
            np.save(stream, matrix, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())

    replace_file(file, write)
