"""The newest value of each entity as of a moment, streamed into one parquet file per value view.

These files are what the value views have as their source, so that Feast (and its UI) can read the same values that
were written online. Vectors and histories become values here; the features stage keeps references only.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core.contracts.statistics import find_statistic
from core.duck import database, tables_of
from core.matrix import Rows, open_matrix
from core.segments import schema_of as schema_of_table
from core.segments import segments, table_path
from core.tables import UNDATED_MICROS
from feature_repo.dimension import without_withdrawn
from feature_repo.feast_names import FeatureView, file_source
from feature_repo.views import Generation, SourcePaths, entity_of, stored_type

ROWS = 4096
# What a catalogue says holds whatever its date, and no push writes it.
CATALOGUES = ("user_features", "item_features")
_NEWEST = """
SELECT * FROM {file}
WHERE event_timestamp <= {until} AND created_timestamp <= {until} AND (event_timestamp >= {since}{undated})
QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_timestamp DESC, created_timestamp DESC{more}) = 1
"""
# Live, a value is published by this very job, whatever lag its history assumes; pushed rows are dated the same way.
_LIVE = """
SELECT * REPLACE (watermark AS event_timestamp) FROM {file} built
WHERE watermark <= {until} AND watermark >= {built} AND built.event_timestamp >= {since}
QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY watermark DESC, created_timestamp DESC) = 1
"""
_HISTORY = """
SELECT n.{key}, any_value(n.event_timestamp) AS event_timestamp, any_value(n.created_timestamp) AS created_timestamp,
  any_value(n.watermark) AS watermark, coalesce(list(g.item_id ORDER BY g.position) FILTER (g.item_id IS NOT NULL), [])
  AS history
FROM ({newest}) n LEFT JOIN {log} g
  ON g.user_id = n.user_id AND g.position < n.history_end AND g.position >= n.history_end - {length}
GROUP BY n.{key}
"""


@dataclass(frozen=True)
class Span:
    """Event times from `since` to `until`, both included, in microseconds; what catalogues say counts whatever its date.

    `live` says that the clock runs: what is built goes online at once, and its event time there is its watermark, which
    then is what counts. A clock that stands still replays the past, where a value could be read only once its lag was over.
    """

    since: int
    until: int
    live: bool = False


def write_source(
    generation: Generation,
    paths: SourcePaths,
    view: str,
    feast_view: FeatureView,
    span: Span,
    history_length: int,
    held: pa.Table | None = None,
) -> tuple[Path, int]:
    """Write the source file of a value view; what was there is replaced at once.

    Args:
        generation: whose declaration counts.
        paths: where the full histories are, and where to write.
        view: unversioned name.
        feast_view: the value view; its columns are written.
        span: which event times count.
        history_length: newest positives kept in a history.
        held: key and `digest` (see `row_digests`) of rows that are online: those that are the same are left out.

    Returns:
        The file, and its number of rows (one per entity).
    """
    schema = schema_of(generation, view, feast_view)
    target = Path(file_source(feast_view).path)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    count = 0
    try:
        with pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
            for batch in newest(generation, paths, view, schema, span, history_length):
                if held is not None:
                    batch = _changed(batch, held)
                writer.write_batch(batch)
                count += batch.num_rows
        scratch.replace(target)
    finally:
        scratch.unlink(missing_ok=True)
    return target, count


def newest(
    generation: Generation, paths: SourcePaths, view: str, schema: pa.Schema, span: Span, history_length: int
) -> Iterator[pa.RecordBatch]:
    """The newest row of each entity of a view in batches of at most ROWS rows, in the order in which Feast's keys sort."""
    file = paths.ref(view)
    key = schema.names[0]
    begin = 0 if view in CATALOGUES else span.since
    since, built = (0, begin) if span.live else (begin, 0)
    query = newest_query(file, key, until=span.until, since=since, built=built, live=span.live)
    query = without_withdrawn(query, key, file, span.until)
    if view == "user_history":
        log = tables_of(segments(table_path(file.parent, "user_log")))
        query = _HISTORY.format(newest=query, key=key, log=log, length=history_length)
    vectors = None
    if generation.vector(view) is not None:
        vectors = open_matrix(file.parent / "vectors.npy")
    with database(paths.online) as connection:
        order = _order_of_keys(key, schema.field(key).type)
        for batch in connection.sql(f"SELECT * FROM ({query}) ORDER BY {order}").to_arrow_reader(ROWS):
            yield _shape(batch, schema, vectors)


def _order_of_keys(key: str, kind: pa.DataType) -> str:
    """SQL: ids in the order of their bytes in a key of Feast's, which says a text's length and an integer lowest byte first.

    A database that sorts by key then appends; in another order each transaction would write pages all over its trees.
    """
    number = f"octet_length(encode({key}))" if pa.types.is_string(kind) else key
    bytes_of = ", ".join(f"({number} >> {8 * byte}) & 255" for byte in range(8))
    return f"{bytes_of}, {key}"


def state_of(paths: SourcePaths, view: str, until: int, live: bool) -> str:
    """A digest of the newest value of each entity published up to `until`; empty for catalogues, which are always written whole.

    Two artifacts of one log that differ in it hold other values of the same times: what is online is not what it would be.
    """
    file = paths.ref(view)
    names = schema_of_table(file).names
    if "watermark" not in names:
        return ""
    key = names[0]
    left = ", ".join(name for name in ("row", "created_timestamp") if name in names)
    query = newest_query(file, key, until=until, live=live)
    with database(paths.online) as connection:
        found = connection.execute(
            f"SELECT count(*), bit_xor(hash(n)) FROM (SELECT * EXCLUDE ({left}) FROM ({query})) n"
        ).fetchall()
    return "-".join(map(str, found[0]))


def newest_query(
    file: Path, key: str, *, until: int, since: int = 0, built: int = 0, live: bool = False, undated: bool = True
) -> str:
    """SQL: the newest row of each `key` published from `since` to `until` (microseconds).

    Args:
        file: a full history, one file or a folder of segments.
        key: the id's column.
        until: later rows do not count.
        since: earlier rows do not count; a lag is part of a row's time, whether the clock runs or not.
        built: of what is computed from the log, rows with an earlier watermark do not count, if the clock runs.
        live: the clock runs, see `Span`.
        undated: undated rows count, whatever `since` says.
    """
    derived = "watermark" in schema_of_table(file).names
    return (_LIVE if live and derived else _NEWEST).format(
        file=tables_of(segments(file)),
        key=key,
        since=f"make_timestamptz({since})",
        built=f"make_timestamptz({built})",
        until=f"make_timestamptz({until})",
        # What is computed from the log has a time, and segments of before it need not be read.
        undated="" if derived or not undated else f" OR event_timestamp = make_timestamptz({UNDATED_MICROS})",
        more=", watermark DESC" if derived else "",
    )


def _shape(batch: pa.RecordBatch, schema: pa.Schema, vectors: Rows | None) -> pa.RecordBatch:
    published = batch.column("event_timestamp").cast(pa.timestamp("us", tz="UTC"))
    names = batch.schema.names
    # A catalogue row has no watermark of its own: it is known from its event time on.
    watermark = batch.column("watermark") if "watermark" in names else published
    made = {
        "published": published.cast(pa.int64()),
        "watermark": watermark.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()),
    }
    if vectors is not None:
        made["vector"] = _lists(vectors[batch.column("row").to_numpy(zero_copy_only=False)])
    columns = [
        pc.cast(made[field.name] if field.name in made else batch.column(field.name), field.type) for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def row_digests(rows: pa.RecordBatch) -> pa.Array:
    """A digest of each row's values, binary [n]."""
    columns = [
        pa.array([json.dumps(value) for value in column.to_pylist()], pa.string())
        if pa.types.is_nested(column.type)
        else column.cast(pa.string())
        for column in rows.columns
    ]
    lines = pc.binary_join_element_wise(*columns, "\x1f", null_handling="replace", null_replacement="\x00")
    digests = [hashlib.blake2b(line.encode(), digest_size=16).digest() for line in lines.to_pylist()]
    return pa.array(digests, pa.binary())


def _changed(batch: pa.RecordBatch, held: pa.Table) -> pa.RecordBatch:
    key = batch.schema.names[0]
    place = pc.index_in(batch.column(key), value_set=held[key].combine_chunks())
    same = pc.equal(held["digest"].combine_chunks().take(place), row_digests(batch))
    return batch.filter(pc.invert(pc.fill_null(same, False)))


def _lists(matrix: np.ndarray) -> pa.Array:
    """float32 [n, d] as n lists, the same bytes."""
    values = np.ascontiguousarray(matrix, dtype=np.float32)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.reshape(-1)))


def schema_of(generation: Generation, view: str, feast_view: FeatureView) -> pa.Schema:
    """The Arrow schema of a value view's rows: the key, two times, then the view's columns."""
    kinds = {"user": generation.user_id, "item": generation.item_id, "scenario": "string"}
    declared = {"user_features": generation.user_columns, "item_features": generation.item_columns}.get(view, {})
    stamp = pa.timestamp("us", tz="UTC")
    fields = [
        pa.field(feast_view.join_keys[0], pa.type_for_alias(kinds[entity_of(view)])),
        pa.field("event_timestamp", stamp),
        pa.field("created_timestamp", stamp),
    ]
    for column in feast_view.features:
        fields.append(pa.field(column.name, _arrow(column.name, declared.get(column.name), generation)))
    return pa.schema(fields)


def _arrow(name: str, declared: str | None, generation: Generation) -> pa.DataType:
    own = {
        "history": pa.list_(pa.type_for_alias(generation.item_id)),
        "vector": pa.list_(pa.float32()),
        "watermark": pa.int64(),
        "published": pa.int64(),
    }
    if declared is not None:
        return stored_type(declared)
    if name in own:
        return own[name]
    statistic = find_statistic(name)
    return pa.type_for_alias(statistic.type) if statistic is not None else pa.string()
