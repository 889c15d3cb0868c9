"""A table in segments: a folder of parquet files, which together, in order of their names, are the table.

    FOLDER/NAME/0000.parquet, FOLDER/NAME/0001.parquet, ...

Each is what one window, or several merged ones, added. An artifact names every segment of its tables: those of earlier
windows are further names (hard links) of the same files, so that it is whole by itself and yet costs what its window brought.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from core.errors import MissingArtifactError
from core.parquet import options

# So many segments of about one size are merged into one: a log of n windows is read from some FANOUT * log(n) files.
FANOUT = 8
# Rows of segments that are not told apart by size.
_SMALL = 1024
# Rows that are copied at a time.
_BATCH = 65_536


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


def read_segments(table: Path, columns: list[str] | None = None) -> pa.Table:
    """The rows of a table's segments in their order.

    Raises:
        MissingArtifactError: there is none.
    """
    return pa.concat_tables([pq.read_table(file, columns=columns) for file in segments(table)]).combine_chunks()


def row_counts(table: Path) -> list[int]:
    """How many rows each segment of a table has."""
    return [pq.read_metadata(file).num_rows for file in segments(table)]


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


@dataclass(frozen=True)
class Tail:
    """What the last segment of a table holds that goes on from an earlier one.

    Attributes:
        linked: how many of the earlier segments stay as they are.
        start: the first row after those.
        rows: how many there are from there on; 0: there is no further segment.
    """

    linked: int
    start: int
    rows: int


def tail(earlier: Sequence[int], same: int, new: int) -> Tail:
    """Which segments stay, where a table has the first rows of an earlier one and then new ones.

    Args:
        earlier: rows of the earlier table's segments.
        same: how many of its rows the table begins with.
        new: how many follow.
    """
    sizes: list[int] = []
    for size in earlier:
        if sum(sizes) + size > same:
            break
        sizes.append(size)
    rest = same - sum(sizes) + new
    whole = [*sizes, rest] if rest or not sizes else sizes
    first = merged_from(whole)
    first = len(sizes) if first == len(whole) else first
    return Tail(min(first, len(sizes)), sum(sizes[:first]), sum(whole[first:]) if first < len(whole) else 0)


class TableWriter:
    """Writes a table in segments, the first rows of which are those of an earlier table. Use it as a context.

    Args:
        folder: where to; the segments go into the folder NAME.
        name: of the table.
        schema: of its rows.
        earlier: the earlier table, of the same schema; None: there is none.
    """

    def __init__(self, folder: Path, name: str, schema: pa.Schema, earlier: Path | None = None) -> None:
        self._folder, self._name, self._schema = folder, name, schema
        self._files = segments(earlier) if earlier is not None else []
        self._sizes = row_counts(earlier) if earlier is not None else []
        self._same, self._new = 0, 0
        self._scratch = folder / f".{name}.rows.parquet"

    def __enter__(self) -> TableWriter:
        (self._folder / self._name).mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(self._scratch, self._schema, **options(self._schema))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self._writer.close()
            if kind is None:
                self._finish()
        finally:
            self._scratch.unlink(missing_ok=True)

    def take(self, rows: int) -> None:
        """The next so many rows are those of the earlier table; after new ones there are none."""
        assert not self._new, "rows of the earlier table come first"
        self._same += rows

    def write(self, rows: pa.Table) -> None:
        """The next rows."""
        self._new += rows.num_rows
        self._writer.write_table(rows)

    def _finish(self) -> None:
        found = tail(self._sizes, self._same, self._new)
        for number in range(found.linked):
            link(self._files[number], segment_file(self._folder, self._name, number))
        target = segment_file(self._folder, self._name, found.linked)
        if found.rows == self._new and (found.rows or not found.linked):
            self._scratch.replace(target)
        elif found.rows:
            with pq.ParquetWriter(target, self._schema, **options(self._schema)) as writer:
                for batch in self._rows_from(found):
                    writer.write_batch(batch)

    def _rows_from(self, found: Tail) -> Iterator[pa.RecordBatch]:
        """The earlier table's rows from the tail's start on that stay, and the new ones."""
        place = found.start
        for file in self._files[found.linked :]:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH):
                batch = batch.slice(0, max(0, self._same - place))
                place += batch.num_rows
                yield batch
        yield from pq.ParquetFile(self._scratch).iter_batches(_BATCH)


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
