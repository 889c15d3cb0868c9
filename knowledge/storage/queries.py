"""DuckDB over this room's files, with little memory."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import duckdb

from core import duck

# Of the process's memory: beside it lie a bucket's rows, the catalogue and the reasoner.
_SHARE = 0.1
# More of them would need more memory each.
_MOST_THREADS = 4


def database(near: Path) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
    """A database that spills near a folder where its memory does not suffice."""
    return duck.database(near, share=_SHARE, threads=min(_MOST_THREADS, duck.thread_count()))
