"""Users and items of several windows as one table, and who of them is withdrawn.

    TABLE.parquet           every dated row; of equal (id, event time) the later window's stays; in order of both
    TABLE_listed.parquet    id, since: who was ever in a catalogue; since when the newest snapshot no longer has it, or null

A snapshot is the whole truth about today and says nothing of the past: rows before a withdrawal stay as they were, and
so a training row reads what it could read. A user's columns are null from the withdrawal on, as they are online. An item
keeps its last ones: it is not ranked any more, but rows of it may still come. What a window has again is not withdrawn.

One window's tables are put on top of what all before it made, so that a night costs the ids there are, not the windows.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.catalogues import Catalogues
from core.duck import database, name_of, quoted
from core.segments import link
from core.tables import TIMESTAMP
from feature_repo.writing import write_query

Name = Literal["users", "items"]
DIMENSIONS: tuple[Name, ...] = ("users", "items")
# Within a snapshot an id's newest row is the newest there is: a later date that it no longer has was a mistake.
_ROWS = """
WITH now AS (
    SELECT * EXCLUDE (file_row_number) FROM read_parquet({source}, file_row_number = true)
    QUALIFY row_number() OVER (PARTITION BY {key}, event_timestamp ORDER BY file_row_number DESC) = 1),
newest AS (SELECT {key}, max(event_timestamp) AS t FROM now GROUP BY {key}),
before AS (
    SELECT b.* FROM ({before}) b LEFT JOIN newest USING ({key})
    WHERE newest.t IS NULL OR NOT {snapshot} OR b.event_timestamp <= newest.t)
SELECT {columns} FROM (
    SELECT * FROM before ANTI JOIN now USING ({key}, event_timestamp) UNION ALL BY NAME SELECT * FROM now
    UNION ALL BY NAME {nulls}) ORDER BY {key}, event_timestamp
"""
# The rows that a withdrawal adds to users: they are made anew from who is withdrawn now.
_OWN = """
SELECT * FROM read_parquet({file}) b WHERE NOT EXISTS (
    SELECT 1 FROM read_parquet({listed}) l
    WHERE l.{key} = b.{key} AND l.since = b.event_timestamp AND l.since = b.created_timestamp)
"""
_LISTED = """
SELECT {key}, CASE WHEN bool_or(here) THEN NULL WHEN {snapshot} THEN coalesce(max(since), make_timestamptz({as_of}))
  ELSE max(since) END AS since
FROM ({before} UNION ALL {here}) WHERE {key} IS NOT NULL GROUP BY {key} ORDER BY {key}
"""


def extend_dimension(sources: Sequence[Path], table: Name, out: Path, before: Path | None = None) -> int:
    """Write the users or items of some windows on top of those of the windows before.

    Args:
        sources: validate artifacts, oldest window first.
        table: which.
        out: a folder to write into.
        before: a folder that was written for the windows before these; None: there are none.

    Returns:
        Rows of the table.
    """
    file, work = out / f"{table}.parquet", out / f".{table}"
    with database(out) as connection:
        for number, source in enumerate(sources):
            made = work / str(number)
            _extend(connection, source, table, made, before)
            before = made
    if before is None:
        raise ValueError("no windows and nothing before them")
    for name in (file.name, listed(file).name):
        link(before / name, out / name)
    shutil.rmtree(work, ignore_errors=True)
    return pq.read_metadata(file).num_rows


def listed(file: Path) -> Path:
    """Who was ever in a catalogue (id, since), beside a file of `extend_dimension`."""
    return file.with_name(f"{file.stem}_listed.parquet")


def without_withdrawn(query: str, key: str, file: Path, until: int) -> str:
    """SQL: the rows of a query whose id is not withdrawn at a moment (microseconds)."""
    if not listed(file).is_file():
        return query
    return (
        f"SELECT * FROM ({query}) WHERE {key} NOT IN "
        f"(SELECT {key} FROM read_parquet({quoted(listed(file))}) WHERE since <= make_timestamptz({until}))"
    )


def _extend(connection: duckdb.DuckDBPyConnection, source: Path, table: Name, out: Path, before: Path | None) -> None:
    """One window's table on top of those before it."""
    key, about = f"{table[:-1]}_id", Catalogues.read(source)
    rows = source / f"{table}.parquet"
    files = [rows] if before is None else [before / f"{table}.parquet", rows]
    schema = pa.unify_schemas([pq.read_schema(file).remove_metadata() for file in files], promote_options="default")
    kind, empty = schema.field(key).type, f"SELECT * FROM read_parquet({quoted(rows)}) WHERE false"
    own = empty
    if before is not None:
        own = _OWN.format(file=quoted(files[0]), listed=quoted(listed(files[0])), key=key)
    snapshot = getattr(about, table) == "snapshot"
    known = f"SELECT {key}, NULL::TIMESTAMPTZ AS since, false AS here FROM ({empty})"
    if before is not None:
        known = f"SELECT {key}, since, false AS here FROM read_parquet({quoted(listed(files[0]))})"
    query = _LISTED.format(key=key, snapshot=snapshot, as_of=about.as_of, before=known, here=_here(source, table))
    ids = pa.schema([pa.field(key, kind), pa.field("since", TIMESTAMP)])
    write_query(connection, query, listed(out / rows.name), _as(ids))
    nulls = empty
    if table == "users":
        gone = f"SELECT * FROM read_parquet({quoted(listed(out / rows.name))}) WHERE since IS NOT NULL"
        nulls = f"SELECT {key}, since AS event_timestamp, since AS created_timestamp FROM ({gone})"
    query = _ROWS.format(
        source=quoted(rows),
        before=own,
        key=key,
        snapshot=snapshot,
        nulls=nulls,
        columns=", ".join(map(name_of, schema.names)),
    )
    write_query(connection, query, out / rows.name, _as(schema))


def _here(source: Path, table: Name) -> str:
    """SQL: the ids in a window's catalogue. A row that a rule rejected is a faulty row of an item, not a withdrawal of it."""
    key, rejected = f"{table[:-1]}_id", source / f"quarantine_{table}.parquet"
    found = f"SELECT {key}, NULL::TIMESTAMPTZ AS since, true AS here FROM read_parquet({{}})"
    if getattr(Catalogues.read(source), table) == "log":
        return f"{found.format(quoted(source / f'{table}.parquet'))} WHERE false"
    files = [source / f"{table}.parquet", *([rejected] if rejected.is_file() else [])]
    return " UNION ALL ".join(found.format(quoted(file)) for file in files)


def _as(schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    fields = pa.schema([field.with_nullable(True) for field in schema])
    return lambda table: table.cast(fields).cast(schema)
