"""Counters, smoothed rates and histories of users and items, as of every moment at which they changed.

A row with watermark w is the state after all interactions strictly before w. There is one row per entity and distinct
event time t, with w = t + 1 microsecond: an interaction joins the newest state with `event_timestamp <=` its own time
and so never sees itself, nor another row of the same entity and time.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Settings
from core.contracts.statistics import STATISTICS
from core.settings import FeatureSettings
from core.tables import TIMESTAMP, item_stats_schema, user_history_schema, user_log_schema, user_stats_schema
from feature_repo.log import id_types, open_log

TICK = 1  # microseconds from an event to the first watermark that includes it
ROW_GROUP = 131_072

_STATES = """
SELECT {key} AS id, t, (sum(n) OVER w)::BIGINT AS n, (sum(p) OVER w)::BIGINT AS p
FROM (SELECT {key}, t, count(*) AS n, sum(label) AS p FROM log GROUP BY {key}, t)
WINDOW w AS (PARTITION BY {key} ORDER BY t) ORDER BY id, t
"""
_POSITIVES = """
SELECT user_id AS id, row_number() OVER (PARTITION BY user_id ORDER BY t, item_id) - 1 AS position, item_id, t
FROM log WHERE label = 1 ORDER BY id, position
"""


@dataclass(frozen=True)
class EntityState:
    """The state of one user or item after its interactions so far.

    Attributes:
        watermark: just after the newest interaction, in microseconds.
        statistics: name to value, in the order of `core.contracts.statistics.STATISTICS`.
        history: item ids of the newest positives, newest last, at most `history_length`.
    """

    watermark: int
    statistics: dict[str, Any]
    history: list[Any]


def build_statistics(sources: Sequence[Path], out: Path, settings: Settings, window_end: int | None) -> Built:
    """Write user_stats, item_stats, user_history and user_log (schemas in `core.tables`) as parquet files.

    Args:
        sources: folders of validated tables, earlier windows first; rows found in two windows count once.
        out: an existing folder.
        settings: `features` counts (prior, lag).
        window_end: rows from this time on are left out, in microseconds; None reads all.

    Returns:
        Row counts by table; `interactions` is how many distinct rows were read.
    """
    ids, features = id_types(sources), settings.features
    user_lag, item_lag, history_lag = (lag_micros(settings, k) for k in ("user_stats", "item_stats", "user_history"))

    def stats(schema: pa.Schema, lag: int) -> Callable[[pa.Table], pa.Table]:
        return lambda states: _stats(states, schema, lag, features)

    with open_log(sources, out / ".spill", end=window_end) as log:
        users, items = _STATES.format(key="user_id"), _STATES.format(key="item_id")
        history = user_history_schema(ids)
        positives = user_log_schema(ids)
        rows = {
            "user_stats": _write(log, users, out, "user_stats", stats(user_stats_schema(ids), user_lag)),
            "item_stats": _write(log, items, out, "item_stats", stats(item_stats_schema(ids), item_lag)),
            "user_history": _write(log, users, out, "user_history", lambda t: _history(t, history, history_lag)),
            "user_log": _write(log, _POSITIVES, out, "user_log", lambda t: _log(t, positives)),
            "interactions": log.execute("SELECT count(*) FROM log").fetchall()[0][0],
        }
    return Built(rows=rows)


def computed(rows: Any, positives: Any, features: FeatureSettings) -> dict[str, np.ndarray]:
    """Every statistic of `core.contracts.statistics.STATISTICS`, by name; batch and push path both call this.

    Args:
        rows: how many interactions each entity has so far, [N].
        positives: how many of them with label 1, [N].
        features: the prior.

    Returns:
        Name to [N].
    """
    rows, positives = np.asarray(rows), np.asarray(positives)
    return {"rows": rows, "positives": positives, "rate": smoothed_rate(positives, rows, features)}


def smoothed_rate(positives: Any, rows: Any, features: FeatureSettings) -> np.ndarray:
    """(positives + prior_rate * prior_weight) / (rows + prior_weight), in float64, then rounded to float32.

    Without rows and prior it is `prior_rate`.
    """
    weight = float(features.prior_weight)
    above = np.asarray(positives, np.float64) + float(features.prior_rate) * weight
    below = np.asarray(rows, np.float64) + weight
    empty = below == 0
    return np.where(empty, features.prior_rate, above / np.where(empty, 1.0, below)).astype(np.float32)


def entity_state(rows: pa.Table, settings: Settings) -> EntityState:
    """The state that the batch path would write for the newest of one entity's interactions.

    Args:
        rows: all interactions of one user or one item, in any order; repeats count once, the last one wins.
        settings: `features` counts (prior, history length).

    Returns:
        Statistics and history; for no rows watermark 0, zero counts and the prior rate.
    """
    micros = rows["event_timestamp"].cast(TIMESTAMP).cast(pa.int64()).to_pylist()
    keys = zip(*(rows[name].to_pylist() for name in ("user_id", "item_id", "scenario")), micros, strict=True)
    labels = dict(zip(keys, rows["label"].to_pylist(), strict=True))
    liked = sorted((t, item) for (_, item, _, t), label in labels.items() if label == 1)
    values = computed(len(labels), len(liked), settings.features)
    return EntityState(
        watermark=max(micros) + TICK if micros else 0,
        statistics={statistic.name: values[statistic.name].item() for statistic in STATISTICS},
        history=[item for _, item in liked[-settings.features.history_length :]],
    )


def lag_micros(settings: Settings, kind: str) -> int:
    """Microseconds from the watermark of a kind of feature or knowledge until it can be read online."""
    lags = {**settings.knowledge.lag, **settings.features.lag}
    return lags.get(kind, dt.timedelta(0)) // dt.timedelta(microseconds=1)


def _write(
    log: duckdb.DuckDBPyConnection, query: str, out: Path, name: str, shape: Callable[[pa.Table], pa.Table]
) -> int:
    """Stream a query into OUT/NAME.parquet in row groups of one size, so that equal rows make equal bytes."""
    writer, count = None, 0
    try:
        for part in _slices(log, query):
            table = shape(part)
            writer = writer or pq.ParquetWriter(out / f"{name}.parquet", table.schema, compression="zstd")
            writer.write_table(table, row_group_size=ROW_GROUP)
            count += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return count


def _slices(log: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.Table]:
    """The result in tables of exactly ROW_GROUP rows (the last may be shorter; at least one, if empty)."""
    reader = log.sql(query).to_arrow_reader(ROW_GROUP)
    left = reader.schema.empty_table()
    for batch in reader:
        left = pa.concat_tables([left, pa.Table.from_batches([batch])])
        while left.num_rows > ROW_GROUP:
            yield left.slice(0, ROW_GROUP).combine_chunks()
            left = left.slice(ROW_GROUP)
    yield left.combine_chunks()


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
