"""Users and items of several windows as one table, and who of them is withdrawn.

    out/TABLE.parquet             every dated row; of equal (id, event time) the later window's stays
    out/TABLE_withdrawn.parquet   id, since: what the newest snapshot no longer has, and from when on

A snapshot is the whole truth about today and says nothing of the past: rows before a withdrawal stay as they were, and
so a training row reads what it could read. A user's columns are null from the withdrawal on, as they are online. An item
keeps its last ones: it is not ranked any more, but rows of it may still come. What a window has again is not withdrawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from core.catalogues import Catalogues, newest_snapshot
from core.duck import arrow_of, quoted
from core.files import replace_file
from core.tables import TIMESTAMP

Name = Literal["users", "items"]
_PLACE, _ROW = "llm4msr_place", "file_row_number"
# Within a snapshot an id's newest row is the newest there is: a later date that it no longer has was a mistake.
_ROWS = """
WITH rows AS ({read}),
newest AS (SELECT {key}, max(event_timestamp) AS t FROM rows WHERE {place} >= {since} GROUP BY {key})
SELECT rows.* FROM rows LEFT JOIN newest USING ({key})
WHERE {place} >= {since} OR newest.t IS NULL OR rows.event_timestamp <= newest.t
QUALIFY row_number() OVER (PARTITION BY {key}, rows.event_timestamp ORDER BY {place} DESC, {row} DESC) = 1
ORDER BY {place}, {row}
"""
_WITHDRAWN = """
WITH seen AS ({seen}),
gone AS (SELECT {key}, max(place) AS place FROM seen GROUP BY {key} HAVING max(place) < {since})
SELECT {key}, (SELECT arg_min(as_of, s.place) FROM snapshots s WHERE s.place > gone.place) AS since
FROM gone WHERE {key} NOT IN (SELECT {key} FROM logged) ORDER BY {key}
"""


def dimension(sources: Sequence[Path], table: Name, out: Path) -> Path:
    """One parquet file of the users or items of several windows.

    Args:
        sources: validate artifacts, oldest window first.
        table: which.
        out: a folder to write into, if there is more than one source.

    Returns:
        The file; the only source's own when there is one. `withdrawn` finds what belongs to it.
    """
    files = [source / f"{table}.parquet" for source in sources]
    if len(files) == 1:
        return files[0]
    out.mkdir(parents=True, exist_ok=True)
    schema = pa.unify_schemas([pq.read_schema(file).remove_metadata() for file in files], promote_options="default")
    rows, gone = _read(sources, table, schema)
    if table == "users" and gone.num_rows:
        rows = pa.concat_tables([rows, _unknown_since(gone, schema)])
    # Another run may be reading them, or writing them too.
    withdrawn_file = out / f"{table}_withdrawn.parquet"
    replace_file(withdrawn_file, lambda path: pq.write_table(gone, path, compression="zstd", coerce_timestamps="us"))
    file = out / f"{table}.parquet"
    replace_file(file, lambda path: pq.write_table(rows, path, compression="zstd", coerce_timestamps="us"))
    return file


def withdrawn(file: Path) -> Path | None:
    """The withdrawn ids (id, since) beside a file of `dimension`; None where there can be none."""
    beside = file.with_name(f"{file.stem}_withdrawn.parquet")
    return beside if beside.is_file() else None


def without_withdrawn(query: str, key: str, file: Path, until: int) -> str:
    """SQL: the rows of a query whose id is not withdrawn at a moment (microseconds)."""
    gone = withdrawn(file)
    if gone is None:
        return query
    return (
        f"SELECT * FROM ({query}) WHERE {key} NOT IN "
        f"(SELECT {key} FROM read_parquet({quoted(gone)}) WHERE epoch_us(since) <= {until})"
    )


def _read(sources: Sequence[Path], table: Name, schema: pa.Schema) -> tuple[pa.Table, pa.Table]:
    """All rows in the schema, and the withdrawn ids."""
    key, since = f"{table[:-1]}_id", newest_snapshot(sources, table)
    read = " UNION ALL BY NAME ".join(
        f"SELECT *, {place} AS {_PLACE} FROM read_parquet({quoted(source / f'{table}.parquet')}, file_row_number = true)"
        for place, source in enumerate(sources)
    )
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        rows = arrow_of(
            connection, _ROWS.format(read=read, key=key, place=_PLACE, row=_ROW, since=-1 if since is None else since)
        )
        gone = _gone(connection, sources, table, since) if since is not None else None
    kind = schema.field(key).type
    ids = pa.schema([pa.field(key, kind), pa.field("since", TIMESTAMP)])
    return rows.select(schema.names).cast(schema), ids.empty_table() if gone is None else gone.cast(ids)


def _gone(connection: duckdb.DuckDBPyConnection, sources: Sequence[Path], table: Name, since: int) -> pa.Table:
    key = f"{table[:-1]}_id"
    about = [Catalogues.read(source) for source in sources]
    snapshots = [(place, a.as_of) for place, a in enumerate(about) if getattr(a, table) == "snapshot"]
    connection.register("given", pa.table({"place": [p for p, _ in snapshots], "as_of": [t for _, t in snapshots]}))
    connection.execute("CREATE TEMP TABLE snapshots AS SELECT place, make_timestamptz(as_of) AS as_of FROM given")
    listed, logged = [], [f"SELECT {key} FROM read_parquet({quoted(sources[0] / f'{table}.parquet')}) WHERE false"]
    for place, (source, kinds) in enumerate(zip(sources, about, strict=True)):
        found = f"FROM read_parquet({quoted(source / f'{table}.parquet')})"
        if getattr(kinds, table) == "log":
            logged.append(f"SELECT {key} {found}")
            continue
        listed.append(f"SELECT {key}, {place} AS place {found}")
        rejected = source / f"quarantine_{table}.parquet"
        # A row that a rule rejected is a faulty row of an item, not a withdrawal of it.
        if rejected.is_file():
            listed.append(f"SELECT {key}, {place} FROM read_parquet({quoted(rejected)}) WHERE {key} IS NOT NULL")
    in_catalogue = " UNION ALL ".join(listed)
    only_logged = f"({' UNION '.join(logged)}) EXCEPT SELECT {key} FROM ({in_catalogue})"
    connection.execute(f"CREATE TEMP TABLE logged AS {only_logged}")
    return arrow_of(connection, _WITHDRAWN.format(seen=in_catalogue, key=key, since=since))


def _unknown_since(gone: pa.Table, schema: pa.Schema) -> pa.Table:
    """A row of nulls for each withdrawn user, from the withdrawal on."""
    known = {schema.names[0]: gone.column(0), "event_timestamp": gone["since"], "created_timestamp": gone["since"]}
    return pa.table(
        [known.get(f.name, pa.nulls(gone.num_rows, f.type)).cast(f.type) for f in schema],
        schema=pa.schema([f.with_nullable(True) for f in schema]),
    ).cast(schema)
