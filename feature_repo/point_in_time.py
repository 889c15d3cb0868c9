"""Feast's DuckDB offline store with a point-in-time join that sorts instead of pairing.

Feast's own join makes every pair of a row and an earlier state of its entity and then keeps the newest: quadratic in
the rows per entity, minutes for 100 000 ratings. This one answers the same question with DuckDB's ASOF join. Whatever
it does not know (SQL entity frames, sources other than parquet files, on-demand views) goes to Feast's own.

The question: of the source rows of the entity with `event_timestamp <= t` (and `created_timestamp <= t` where asked
for), which has the greatest (event_timestamp, created_timestamp)? A source row becomes visible at v = the later of its
two times. Sorted by v, a row that is older by event time than one before it never becomes the answer; without such
rows the answer is simply the newest by v.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import StrictStr

from core.duck import database, name_of, tables_of
from core.errors import DataError
from core.segments import schema_of, segments
from core.tables import TIMESTAMP
from feature_repo.feast_names import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    FeatureView,
    FileSource,
    OnDemandFeatureView,
    ParquetFormat,
    RepoConfig,
    RetrievalJob,
    RetrievalMetadata,
    file_source,
    infer_event_timestamp_from_entity_df,
)

_STATES = """
SELECT *, lead(v) OVER seen IS DISTINCT FROM v AND e = max(e) OVER seen_so_far AS newest
FROM (SELECT *, greatest(e, {known}) AS v FROM (
    SELECT {columns}, epoch_us({event}) AS e, {created} AS c, {watermark} AS w, file_row_number AS r
    FROM {file} WHERE {known_keys}))
WHERE e IS NOT NULL AND {known} IS NOT NULL
WINDOW seen AS (PARTITION BY {keys} ORDER BY v, e, c, w, r),
       seen_so_far AS (PARTITION BY {keys} ORDER BY v, e, c, w, r ROWS UNBOUNDED PRECEDING)
"""
_JOIN = """
SELECT {columns} FROM rows ASOF LEFT JOIN (SELECT * FROM ({states}) WHERE newest) AS state
ON {same} AND rows.t >= state.v ORDER BY rows.place
"""


class PointInTimeOfflineStoreConfig(DuckDBOfflineStoreConfig):
    """As Feast's DuckDB offline store."""

    type: StrictStr = "feature_repo.point_in_time.PointInTimeOfflineStore"


class PointInTimeOfflineStore(DuckDBOfflineStore):
    """Feast's DuckDB offline store; only `get_historical_features` is different, and gives the same answer."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Join each row with the newest state of its entities that could be read at its time; all rows stay."""
        demand = OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry)
        if not isinstance(entity_df, pd.DataFrame) or demand or not all(map(_is_ours, feature_views)):
            return DuckDBOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
        time_column = infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))
        views = [_joined(view, feature_refs, full_feature_names) for view in feature_views]
        scratch = Path(config.repo_path or ".")
        moments = pd.to_datetime(entity_df[time_column], utc=True)
        return _Job(
            lambda: _join(entity_df, moments, views, scratch, filter_by_created_timestamp),
            full_feature_names,
            RetrievalMetadata(
                features=feature_refs,
                keys=[name for name in entity_df.columns if name != time_column],
                min_event_timestamp=moments.min().to_pydatetime(),
                max_event_timestamp=moments.max().to_pydatetime(),
            ),
        )


@dataclass(frozen=True)
class _View:
    """What the join needs of a feature view. `keys` is source column to row column, `features` source to output.

    With a `watermark`, of two states published at once the one built from more rows is newer.
    """

    file: str
    event: str
    created: str | None
    watermark: bool
    keys: dict[str, str]
    features: dict[str, str]
    ttl: int | None


class _Job(RetrievalJob):
    """A join that runs when its result is asked for."""

    def __init__(self, run: Callable[[], pa.Table], full_feature_names: bool, metadata: RetrievalMetadata) -> None:
        super().__init__()
        self._run, self._full, self._metadata = run, full_feature_names, metadata

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._run()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._run().to_pandas()

    @property
    def full_feature_names(self) -> bool:
        return self._full

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._metadata

    def persist(self, storage: Any, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        raise NotImplementedError("saved datasets are not kept by this store; write the result of to_arrow() yourself")


def _is_ours(view: FeatureView) -> bool:
    source = view.batch_source
    if not isinstance(source, FileSource) or not isinstance(source.file_format, ParquetFormat | None):
        return False
    return "://" not in source.path and not source.field_mapping and bool(view.entity_columns)


def _joined(view: FeatureView, refs: Sequence[str], full_names: bool) -> _View:
    source, prefix = file_source(view), f"{view.projection.name_to_use()}:"
    name = view.projection.name_alias or view.name
    features = [ref.split(":")[1] for ref in refs if ref.startswith(prefix)]
    keys = view.projection.join_key_map or {column.name: column.name for column in view.entity_columns}
    ttl = view.ttl // dt.timedelta(microseconds=1) if view.ttl else None
    present = _columns(source, [*keys, *features])
    output = {feature: f"{name}__{feature}" if full_names else feature for feature in features}
    return _View(
        file=source.path,
        event=source.timestamp_field,
        created=source.created_timestamp_column or None,
        watermark="watermark" in present,
        keys=keys,
        features=output,
        ttl=ttl,
    )


def _columns(source: FileSource, needed: Sequence[str]) -> list[str]:
    """The source's columns, which must hold the needed ones."""
    present = schema_of(Path(source.path)).names
    for column in needed:
        if column not in present:
            raise DataError("a feature view reads this column, and it is not there", file=source.path, column=column)
    return present


def _join(
    frame: pd.DataFrame, moments: pd.Series, views: Sequence[_View], scratch: Path, filter_created: bool
) -> pa.Table:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    micros = pa.Array.from_pandas(moments).cast(TIMESTAMP).cast(pa.int64())
    with database(scratch) as connection:
        keys = sorted({column for view in views for column in view.keys.values()})
        rows = pa.table({"t": micros, "place": pa.array(np.arange(len(micros)))})
        for position, key in enumerate(keys):
            rows = rows.append_column(f"k{position}", table[key])
        connection.register("rows", rows)
        for view in views:
            found = connection.sql(_query(view, keys, filter_created)).to_arrow_table()
            for name, column in zip(view.features.values(), found.columns, strict=True):
                table = table.append_column(name, column)
        return table


def _query(view: _View, keys: Sequence[str], filter_created: bool) -> str:
    own = {f"k{keys.index(row)}": key for key, row in view.keys.items()}
    named = {**own, **{f"f{i}": feature for i, feature in enumerate(view.features)}}
    states = _STATES.format(
        keys=", ".join(own),
        columns=", ".join(f"{name_of(column)} AS {alias}" for alias, column in named.items()),
        known="c" if filter_created and view.created else "e",
        event=name_of(view.event),
        created=f"epoch_us({name_of(view.created)})" if view.created else "NULL::BIGINT",
        watermark="epoch_us(watermark)" if view.watermark else "0",
        file=tables_of(segments(Path(view.file)), file_row_number="true"),
        known_keys=" AND ".join(f"{name_of(key)} IN (SELECT {row} FROM rows)" for row, key in own.items()),
    )
    fresh = "true" if view.ttl is None else f"state.e + {view.ttl} >= rows.t"
    columns = ", ".join(f"CASE WHEN {fresh} THEN state.f{i} END" for i in range(len(view.features)))
    same = " AND ".join(f"rows.{key} = state.{key}" for key in own)
    return _JOIN.format(columns=columns, states=states, same=same)
