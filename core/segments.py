"""A table in segments: a folder of parquet files, which together, in order of their names, are the table.

    FOLDER/NAME/0000.parquet, FOLDER/NAME/0001.parquet, ...

Each is what one window, or several merged ones, added. An artifact names every segment of its tables: those of earlier
windows are further names (hard links) of the same files, so that it is whole by itself and yet costs what its window brought.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import MissingArtifactError

# So many segments of about one size are merged into one: a log of n windows is read from some FANOUT * log(n) files.
FANOUT = 8
# Rows of segments that are not told apart by size.
_SMALL = 1024


def segment_file(folder: Path, name: str, number: int) -> Path:
    """Where a segment of a table lies, counted from 0."""
    return folder / name / f"{number:04d}.parquet"


def segments(table: Path) -> list[Path]:
    """The files of a table: those of its folder in order, or the one file that it is.

    Raises:
        MissingArtifactError: there is none.
    """
    if table.is_file():
        return [table]
    if found := sorted(table.glob("*.parquet")):
        return found
    raise MissingArtifactError(f"{table} does not exist; run the stage that writes it")


def table_path(folder: Path, name: str) -> Path:
    """The folder of a table's segments; where there is none, its file NAME.parquet, whether or not it exists."""
    many = folder / name
    return many if many.is_dir() else folder / f"{name}.parquet"


def schema_of(table: Path) -> pa.Schema:
    """The schema of a table's segments.

    Raises:
        MissingArtifactError: there is none.
    """
    return pq.read_schema(segments(table)[0])


def merged_from(rows: Sequence[int]) -> int:
    """From which segment on all are to be merged into one, given their rows; how many there are, if none is to be.

    The newest are merged once FANOUT of them are about as large as one another or smaller, and what comes of it in the
    same way with those before it: a row is written again a few times in the life of a log, not every night.
    """
    sizes, end = list(rows), len(rows)
    while True:
        level = _level(sizes[-1]) if sizes else 0
        start = len(sizes)
        while start and _level(sizes[start - 1]) <= level:
            start -= 1
        if len(sizes) - start < FANOUT:
            return end if len(sizes) == len(rows) else len(sizes) - 1
        sizes[start:] = [sum(sizes[start:])]


def _level(rows: int) -> int:
    level, size = 0, _SMALL
    while rows >= size:
        level, size = level + 1, size * FANOUT
    return level


def link(source: Path, target: Path) -> None:
    """A second name for the same bytes; a copy where the file system has none.

    Raises:
        MissingArtifactError: there is no such file.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)  # a copy would write through it into whatever else is named so
        os.link(source, target)
    except FileNotFoundError as error:
        raise MissingArtifactError(f"{source} does not exist; run the stage that writes it") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        shutil.copyfile(source, target)
