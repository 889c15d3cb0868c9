"""How this project's parquet files are written."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def options(schema: pa.Schema) -> dict[str, Any]:
    """Options of `pyarrow.parquet.ParquetWriter` for a table: zstd, and times as differences.

    Times hardly repeat, so that a dictionary of them is larger than they are; a table of times takes a third less.
    """
    times = [field.name for field in schema if pa.types.is_timestamp(field.type)]
    others = [_path(field) for field in schema if not pa.types.is_timestamp(field.type)]
    encoding = dict.fromkeys(times, "DELTA_BINARY_PACKED")
    return {"compression": "zstd", "use_dictionary": others, "column_encoding": encoding}


def _path(field: pa.Field) -> str:
    """As parquet names a column: a list's elements have a path of their own."""
    return f"{field.name}.list.element" if pa.types.is_list(field.type) else str(field.name)
