"""DuckDB over this room's files: little memory, results in tables of a given size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import duckdb
import pyarrow as pa

from core import duck

# Of the process's memory: beside it lie a bucket's rows, the catalogue and the reasoner.
_SHARE = 0.1
# More of them would need more memory each.
_MOST_THREADS = 4


def database(near: Path) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    """A database that spills near a folder where its memory does not suffice."""
    return duck.database(near, share=_SHARE, threads=min(_MOST_THREADS, duck.thread_count()))


def files(paths: list[Path]) -> str:
    """`read_parquet` over files."""
    return f"read_parquet([{', '.join(duck.quoted(path) for path in paths)}])"


def tables(connection: duckdb.DuckDBPyConnection, query: str, rows: int) -> Iterator[pa.Table]:
    """A query's result in tables of exactly `rows` rows (the last may have fewer), whatever batches come."""
    reader = connection.sql(query).to_arrow_reader(rows)
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in reader:
        while count + batch.num_rows >= rows:
            head = batch.slice(0, rows - count)
            yield pa.Table.from_batches([*held, head]).combine_chunks()
            held, batch, count = [], batch.slice(len(head)), 0
        if batch.num_rows:
            held.append(batch)
            count += batch.num_rows
    if held:
        yield pa.Table.from_batches(held).combine_chunks()
