"""Putting a source's rows in order of users, once, on the disk."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contracts.contract import SpecFile
from core.digest import sha256_file, sha256_json
from core.duck import arrow_of, quoted, slices, tables_of
from core.errors import CorruptArtifactError
from core.file_digests import FileDigests
from core.log import logger
from core.manifest import data_digest
from knowledge.storage.buckets import HASH_BITS

LOG = logger("knowledge")
FILES = ("rows.parquet", "users.parquet")
KEY = ("user_id", "t", "item_id", "scenario")
# Raise it when the files' content changes.
_FORMAT = 1
_GROUP = 65_536


class OrderedRows(SpecFile):
    """`meta.json` beside a source in order.

    Attributes:
        part: its number in their column `part`.
        rows: how many.
        sha256: file to the hash of its bytes.
    """

    FILE: ClassVar[str] = "meta.json"
    REMAKE: ClassVar[str] = "it is made again"

    part: int
    rows: int
    sha256: Mapping[str, str]


@dataclass(frozen=True)
class OrderedSource:
    """A source in order: where its files are, its number in their column `part`, and its rows."""

    folder: Path
    number: int
    rows: int


def put_in_order(
    connection: duckdb.DuckDBPyConnection, source: Path, folder: Path, before: int, known: FileDigests
) -> OrderedSource:
    """The source in order, from the disk where it is whole there; `known` has the digests of files that did not change."""
    file = source / "interactions.parquet"
    last = _last(file)
    cut = int(before) if last is None or last >= before else None
    # DuckDB's hash of a user may be another one in another version.
    name = sha256_json(
        {"rows": data_digest(source, "interactions.parquet"), "before": cut, "format": [_FORMAT, duckdb.__version__]}
    )[:16]
    target = folder / name
    if target.is_dir() and (meta := _sound(target, known)) is not None:
        return OrderedSource(target, meta.part, meta.rows)
    scratch = folder / f".{name}.{uuid.uuid4().hex}"
    scratch.mkdir(parents=True)
    try:
        part = int(name[:15], 16)
        rows = _write_rows(connection, file, cut, part, scratch)
        _write_users(connection, scratch)
        meta = OrderedRows(part=part, rows=rows, sha256={n: sha256_file(scratch / n) for n in FILES})
        meta.write(scratch)
        try:
            scratch.rename(target)
        except OSError:
            if not target.is_dir():  # else another process was first
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return OrderedSource(target, meta.part, meta.rows)


def _last(file: Path) -> int | None:
    """The time of a file's last row, microseconds, from its statistics; None where they do not tell."""
    about = pq.read_metadata(file)
    place = about.schema.to_arrow_schema().get_field_index("event_timestamp")
    known = [about.row_group(group).column(place).statistics for group in range(about.num_row_groups)]
    known = [
        one for one, group in zip(known, range(about.num_row_groups), strict=True) if about.row_group(group).num_rows
    ]
    if not all(one is not None and one.has_min_max for one in known):
        return None
    times = pa.array([one.max for one in known], pa.timestamp("us", "UTC")).cast(pa.int64())
    return int(pc.max(times).as_py()) if known else 0


def time_span(file: Path) -> tuple[int, int] | None:
    """The times of the first and last row of a source in order, microseconds; None where it has no rows."""
    about = pq.read_metadata(file)
    column = about.schema.to_arrow_schema().get_field_index("t")
    known = [about.row_group(group).column(column).statistics for group in range(about.num_row_groups)]
    known = [one for one in known if one is not None and one.has_min_max]
    return (min(one.min for one in known), max(one.max for one in known)) if known else None


def _write_rows(connection: duckdb.DuckDBPyConnection, file: Path, cut: int | None, part: int, folder: Path) -> int:
    """Sort on the disk, and leave out all but the last of equal rows."""
    query = f"""SELECT {part}::BIGINT AS part, (hash(user_id) >> {64 - HASH_BITS})::BIGINT AS hash,
            user_id, item_id, scenario, epoch_us(event_timestamp) AS t, label = 1 AS label
        FROM read_parquet({quoted(file)}, file_row_number = true)
        {"" if cut is None else f"WHERE epoch_us(event_timestamp) < {cut}"}
        ORDER BY hash, {", ".join(KEY)}, file_row_number"""
    writer: pq.ParquetWriter | None = None
    held: pa.Table | None = None
    count = 0
    try:
        for table in slices(connection, query, _GROUP):
            writer = writer or pq.ParquetWriter(folder / "rows.parquet", table.schema, compression="zstd")
            table = table if held is None else pa.concat_tables([held, table]).combine_chunks()
            kept = table.slice(0, table.num_rows - 1).filter(_differs(table))
            held = table.slice(table.num_rows - 1)
            writer.write_table(kept)
            count += kept.num_rows
        if writer is not None and held is not None:
            writer.write_table(held)
            count += 1
    finally:
        if writer is not None:
            writer.close()
    if writer is None:
        pq.write_table(arrow_of(connection, query), folder / "rows.parquet")
    return count


def _differs(table: pa.Table) -> pa.Array:
    """Whether each row but the last differs from the next."""
    count = table.num_rows - 1
    found = np.zeros(count, dtype=bool)
    for name in KEY:
        column = table.column(name).combine_chunks()
        found |= np.asarray(pc.not_equal(column.slice(0, count), column.slice(1)))
    return pa.array(found)


def _write_users(connection: duckdb.DuckDBPyConnection, folder: Path) -> None:
    # Of the row as one text: DuckDB joins the hashes of columns by xor, where two labels that change cancel out.
    query = f"""SELECT part, hash, user_id, count(*) AS rows, count(*)::VARCHAR || ':' || bit_xor(
            hash(concat_ws(chr(31), item_id, scenario, t, label))
        )::VARCHAR AS digest
        FROM {tables_of(folder / "rows.parquet")} GROUP BY part, hash, user_id ORDER BY hash, user_id"""
    writer: pq.ParquetWriter | None = None
    for table in slices(connection, query, _GROUP):
        writer = writer or pq.ParquetWriter(folder / "users.parquet", table.schema, compression="zstd")
        writer.write_table(table)
    if writer is None:
        pq.write_table(arrow_of(connection, query), folder / "users.parquet")
    else:
        writer.close()


def _sound(folder: Path, known: FileDigests) -> OrderedRows | None:
    """A source's meta data, None (and the source thrown away) where a file is not the one that was written."""
    try:
        meta = OrderedRows.read(folder)
        if all(known.of(folder / name) == meta.sha256.get(name) for name in FILES):
            return meta
        problem = "checksum differs"
    except (OSError, CorruptArtifactError) as error:
        problem = str(error)
    LOG.warning("the log in order at %s is damaged (%s); it is made again", folder, problem)
    trash = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        folder.rename(trash)
    except OSError:
        return None  # another process was first
    shutil.rmtree(trash, ignore_errors=True)
    return None
