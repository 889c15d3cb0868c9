"""DuckDB, as every room opens it: bounded memory, spilling to a folder of its own; results as Arrow tables."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from core.resources import memory

# Below this DuckDB refuses sorts that it could spill.
_LEAST = 64_000_000


@contextmanager
def database(
    near: Path | None = None, *, share: float = 1.0, threads: int | None = None
) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database in UTC that spills to the disk what does not fit.

    Args:
        near: where its folder for spilling is made; None: in the system's folder for temporary files. It is gone at the end.
        share: of the memory that the process may use for databases (settings: `resources.memory`).
        threads: None: see `thread_count`.
    """
    if near is not None:
        near.mkdir(parents=True, exist_ok=True)  # DuckDB makes the last folder of a path only, and not before it spills
    scratch = (near or Path(tempfile.gettempdir())) / f".spill-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    limit = max(_LEAST, int(memory() * share))
    connection = duckdb.connect(
        config={"memory_limit": f"{limit}B", "threads": threads or thread_count(), "temp_directory": str(scratch)}
    )
    try:
        connection.execute("SET enable_progress_bar = false; SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()
        shutil.rmtree(scratch, ignore_errors=True)


def thread_count() -> int:
    """OMP_NUM_THREADS where that is set, else one a core."""
    known = os.environ.get("OMP_NUM_THREADS", "")
    return int(known) if known.isdigit() and int(known) else os.cpu_count() or 1


def tables_of(files: Path | str | Iterable[Path | str], **options: str) -> str:
    """SQL: `read_parquet` over one file or several of the same columns, e.g. `tables_of(file, file_row_number="true")`."""
    paths = [files] if isinstance(files, Path | str) else list(files)
    more = "".join(f", {name} = {value}" for name, value in options.items())
    return f"read_parquet([{', '.join(map(quoted, paths))}]{more})"


def slices(connection: duckdb.DuckDBPyConnection, query: str, rows: int) -> Iterator[pa.Table]:
    """A query's result in tables of exactly `rows` rows (the last may have fewer), whatever batches come; none if it is empty."""
    return regrouped(connection.sql(query).to_arrow_reader(rows), rows)


def regrouped(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.Table]:
    """The rows of batches in tables of exactly `rows` rows (the last may have fewer); none if there are no rows."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        while count + batch.num_rows >= rows:
            head = batch.slice(0, rows - count)
            yield pa.Table.from_batches([*held, head]).combine_chunks()
            held, batch, count = [], batch.slice(len(head)), 0
        if batch.num_rows:
            held.append(batch)
            count += batch.num_rows
    if held:
        yield pa.Table.from_batches(held).combine_chunks()


def quoted(path: Path | str) -> str:
    """The path of a file to read, as an SQL string; DuckDB would take `*`, `?` and `[` of a folder's name for a pattern."""
    return to_write(re.sub(r"[*?\[]", r"[\g<0>]", str(path)))


def to_write(path: Path | str) -> str:
    """The path of a file to write, as an SQL string; there `*`, `?` and `[` mean themselves."""
    return "'" + str(path).replace("'", "''") + "'"


def name_of(column: str) -> str:
    """A column's name in SQL, whatever it is made of."""
    return '"' + column.replace('"', '""') + '"'


def arrow_of(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """A query's result with one chunk per column."""
    return connection.sql(query).to_arrow_table().combine_chunks()
