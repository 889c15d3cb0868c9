"""The features artifact: states of users and items in segments, and users and items of all windows as one table each.

    user_stats/, item_stats/, user_history/, user_log/    one segment a window, or several merged ones (`core.segments`)
    user_counts/, item_counts/                            key, rows, positives: an entity's newest state in each segment
    users.parquet, items.parquet, *_listed.parquet        see `feature_repo.dimension`
    chain.json                                            which windows' rows they hold

An artifact goes on where one of earlier windows ended: it reads the new windows' rows and the newest counts of who is in
them, and takes the earlier segments over as they are. Cut in another way, the same log gives the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Settings, logger
from core.contracts.chain import Chain
from core.contracts.statistics import STATISTICS
from core.duck import database, tables_of
from core.segments import link, merged_from, segment_file, segments
from core.settings import FeatureSettings
from core.tables import (
    TIMESTAMP,
    IdTypes,
    item_stats_schema,
    user_history_schema,
    user_log_schema,
    user_stats_schema,
)
from feature_repo.dimension import DIMENSIONS, extend_dimension
from feature_repo.interaction_log import comes_after, id_types, open_log
from feature_repo.statistics import TICK, computed, lag_micros
from feature_repo.writing import write_query

LOG = logger("feature_repo")
_COUNTS = {"user_id": "user_counts", "item_id": "item_counts"}
# Counts only grow, so that an entity's newest are its largest.
_CARRIED = "SELECT {key}, max(rows) AS rows, max(positives) AS positives FROM {counts} GROUP BY {key}"
_NOBODY = "SELECT NULL::{kind} AS {key}, 0::BIGINT AS rows, 0::BIGINT AS positives WHERE false"
_STATES = """
CREATE TEMP TABLE {key}_states AS
SELECT s.id, t, (coalesce(c.rows, 0) + sum(n) OVER w)::BIGINT AS n, (coalesce(c.positives, 0) + sum(p) OVER w)::BIGINT AS p
FROM (SELECT {key} AS id, t, count(*) AS n, sum(label) AS p FROM log GROUP BY {key}, t) s
LEFT JOIN ({carried}) c ON c.{key} = s.id
WINDOW w AS (PARTITION BY s.id ORDER BY t)
"""
_POSITIVES = """
SELECT l.user_id AS id, coalesce(c.positives, 0) + row_number() OVER (PARTITION BY l.user_id ORDER BY t, item_id) - 1
  AS position, item_id, t
FROM log l LEFT JOIN ({carried}) c ON c.user_id = l.user_id WHERE label = 1 ORDER BY l.user_id, position
"""


@dataclass(frozen=True)
class _Table:
    """A table of the artifact: the order of its rows, and its rows as they are written, from those of a query."""

    order: str
    schema: pa.Schema
    shape: Callable[[pa.Table], pa.Table]


def build_features(
    sources: Sequence[Path], out: Path, settings: Settings, window_end: int | None, *, earlier: Sequence[Path] = ()
) -> Built:
    """Write the features of a log.

    Args:
        sources: folders of validated tables, earlier windows first; rows found in two windows count once.
        out: an existing folder.
        settings: `features` counts (prior, lag).
        window_end: rows from this time on are left out, in microseconds; None reads all.
        earlier: artifacts of the first of these sources, made with the same settings, those of most sources first. The
            first of them that all other sources' rows come after is gone on from.

    Returns:
        Row counts by table; `interactions` is how many distinct rows they were made from.
    """
    ids = id_types(sources)
    before, chain = _predecessor(sources, earlier)
    number, tables = len(chain.segments), _tables(ids, settings)
    with open_log(sources[chain.sources :], out, end=window_end) as log:
        [(count, last)] = log.execute("SELECT count(*), max(t) FROM log").fetchall()
        if count or not number:
            _write_segment(log, before, out, number, tables, ids)
    rows = [*chain.segments, count] if count or not number else list(chain.segments)
    start = merged_from(rows)
    _take_over(before, out, tables, range(min(start, len(chain.segments))))
    if start < len(rows):
        _merge(before, out, tables, start, len(rows))
        rows[start:] = [sum(rows[start:])]
    made = Chain(sources=len(sources), until=_later(chain.until, last), segments=tuple(rows))
    made.write(out)
    new = sources[chain.sources :]
    entities: dict[str, int] = {name: extend_dimension(new, name, out, before) for name in DIMENSIONS}
    counts = {name: sum(pq.read_metadata(file).num_rows for file in segments(out / name)) for name in tables}
    told = {name: counts[name] for name in ("user_stats", "item_stats", "user_history", "user_log")}
    return Built(rows={**told, **entities, "interactions": sum(rows)})


def _predecessor(sources: Sequence[Path], earlier: Sequence[Path]) -> tuple[Path | None, Chain]:
    """The artifact to go on from, and its chain."""
    for folder in earlier:
        chain = Chain.read(folder)
        if comes_after(sources[chain.sources :], chain):
            return folder, chain
        LOG.info("features: a later window has rows of before %s; made anew from an earlier window on", chain.until)
    return None, Chain()


def _tables(ids: IdTypes, settings: Settings) -> dict[str, _Table]:
    features = settings.features
    users, items = user_stats_schema(ids), item_stats_schema(ids)
    history, positives = user_history_schema(ids), user_log_schema(ids)
    lags = {kind: lag_micros(settings, kind) for kind in ("user_stats", "item_stats", "user_history")}
    user_counts, item_counts = _counts_schema("user_id", ids.user), _counts_schema("item_id", ids.item)
    return {
        "user_stats": _Table("user_id, watermark", users, lambda t: _stats(t, users, lags["user_stats"], features)),
        "item_stats": _Table("item_id, watermark", items, lambda t: _stats(t, items, lags["item_stats"], features)),
        "user_history": _Table("user_id, watermark", history, lambda t: _history(t, history, lags["user_history"])),
        "user_log": _Table("user_id, position", positives, lambda t: _log(t, positives)),
        "user_counts": _Table("user_id", user_counts, _named(user_counts)),
        "item_counts": _Table("item_id", item_counts, _named(item_counts)),
    }


def _counts_schema(key: str, kind: pa.DataType) -> pa.Schema:
    return pa.schema([(key, kind), ("rows", pa.int64()), ("positives", pa.int64())])


def _write_segment(
    log: duckdb.DuckDBPyConnection,
    before: Path | None,
    out: Path,
    number: int,
    tables: dict[str, _Table],
    ids: IdTypes,
) -> None:
    """What the rows of `log` add to each table."""
    kinds = {"user_id": ids.user, "item_id": ids.item}
    carried = {key: _carried(before, key, kind) for key, kind in kinds.items()}
    for key, counts in carried.items():
        log.execute(_STATES.format(key=key, carried=counts))
    states = "SELECT * FROM {}_states ORDER BY id, t"
    newest = "SELECT id, max(n) AS rows, max(p) AS positives FROM {}_states GROUP BY id ORDER BY id"
    queries = {
        "user_stats": states.format("user_id"),
        "item_stats": states.format("item_id"),
        "user_history": states.format("user_id"),
        "user_log": _POSITIVES.format(carried=carried["user_id"]),
        "user_counts": newest.format("user_id"),
        "item_counts": newest.format("item_id"),
    }
    for name, query in queries.items():
        write_query(log, query, segment_file(out, name, number), tables[name].shape)


def _carried(before: Path | None, key: str, kind: pa.DataType) -> str:
    """SQL: the newest counts of each entity in the segments before."""
    if before is None:
        return _NOBODY.format(key=key, kind="BIGINT" if pa.types.is_integer(kind) else "VARCHAR")
    return _CARRIED.format(key=key, counts=tables_of(segments(before / _COUNTS[key])))


def _take_over(before: Path | None, out: Path, tables: dict[str, _Table], numbers: range) -> None:
    if before is None:
        return
    for name in tables:
        for number in numbers:
            link(segment_file(before, name, number), segment_file(out, name, number))


def _merge(before: Path | None, out: Path, tables: dict[str, _Table], start: int, end: int) -> None:
    """Put the segments from `start` on together: each table as one segment of all their windows would have it."""
    with database(out) as connection:
        for name, table in tables.items():
            own = {number: segment_file(out, name, number) for number in range(start, end)}
            files = [
                file if file.is_file() or before is None else segment_file(before, name, number)
                for number, file in own.items()
            ]
            read = tables_of(files)
            key = table.schema.names[0]
            query = _CARRIED.format(key=key, counts=read) if name == _COUNTS[key] else f"SELECT * FROM {read}"
            merged = out / name / ".merged.parquet"
            write_query(connection, f"{query} ORDER BY {table.order}", merged, _named(table.schema))
            for file in own.values():
                file.unlink(missing_ok=True)
            merged.rename(own[start])


def _named(schema: pa.Schema) -> Callable[[pa.Table], pa.Table]:
    """Columns in order, under the schema's names."""
    return lambda table: table.rename_columns(schema.names).cast(schema)


def _later(one: int | None, other: int | None) -> int | None:
    return max((time for time in (one, other) if time is not None), default=None)


def _times(states: pa.Table, lag: int) -> dict[str, pa.Array]:
    """event_timestamp, watermark and created_timestamp of states after their time `t`."""
    watermark = pc.add(states["t"], TICK)
    readable = pc.add(watermark, lag).cast(TIMESTAMP)
    return {"event_timestamp": readable, "watermark": watermark.cast(TIMESTAMP), "created_timestamp": readable}


def _stats(states: pa.Table, schema: pa.Schema, lag: int, features: FeatureSettings) -> pa.Table:
    values = computed(states["n"].to_numpy(), states["p"].to_numpy(), features)
    columns = [pa.array(values[statistic.name]) for statistic in STATISTICS]
    return _table(schema, [states["id"], *_times(states, lag).values(), *columns])


def _history(states: pa.Table, schema: pa.Schema, lag: int) -> pa.Table:
    return _table(schema, [states["id"], *_times(states, lag).values(), states["p"]])


def _log(positives: pa.Table, schema: pa.Schema) -> pa.Table:
    times = positives["t"].cast(TIMESTAMP)
    return _table(schema, [positives["id"], positives["position"], positives["item_id"], times])


def _table(schema: pa.Schema, columns: list[Any]) -> pa.Table:
    return pa.Table.from_arrays([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
