"""The item catalogue that serving keeps in memory: features, statistics, text vectors, scenario membership."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from core import Built, Clock, Settings
from core.catalogues import newest_snapshot
from core.contracts.catalogue_spec import CatalogueSpec
from core.contracts.knowledge_versions import KnowledgeVersions
from core.contracts.statistics import statistic_columns
from core.duck import arrow_of, database, name_of
from core.errors import MissingArtifactError
from core.matrix import MatrixWriter, open_matrix
from core.segments import table_path
from core.tables import SCENARIOS
from feature_repo.dimension import listed, without_withdrawn
from feature_repo.online_source import newest_query

_CATALOGUE = """
SELECT i.item_id, i.title, i.scenarios{declared}, {statistics}, k.row AS text_row
FROM ({items}) i LEFT JOIN ({stats}) s USING (item_id) LEFT JOIN ({text}) k USING (item_id)
ORDER BY i.item_id
"""
_BLOCK = 65_536


def build_catalogue(
    settings: Settings,
    clock: Clock,
    *,
    sources: Sequence[Path],
    features: Path,
    knowledge: Path,
    out: Path,
    earlier: Path | None = None,
) -> Built:
    """Write items.parquet, item_text/, withdrawn.parquet, scenarios.parquet and spec.json as of the clock's now.

    items.parquet: item_id, title, scenarios (null: all), declared columns, statistics (null
    where the item was never shown), ordered by item_id. item_text: float32 [items, d] in segments, in the same order, NaN
    rows where an item has no vector. withdrawn.parquet: item_id of what the newest snapshot no longer has; those are not
    among the items. scenarios.parquet: those that can be ranked. What is older than its `features.ttl` is null or NaN, as in training. spec.json:
    versions, as_of (microseconds).

    Args:
        settings: declared item columns, times to live.
        clock: statistics and vectors published after its now are left out.
        sources: validate artifacts, oldest window first.
        features, knowledge: artifact folders.
        out: an existing folder.
        earlier: the catalogue of the window before, whose vectors are linked as far as they are the same.

    Raises:
        MissingArtifactError: an earlier stage has not been run.
    """
    items = features / "items.parquet"
    index = table_path(knowledge / "item_text", "index")
    stats = table_path(features, "item_stats")
    for file in (items, index):
        if not file.exists():
            raise MissingArtifactError(f"{file} does not exist; run the stages before `llm4msr materialize` first")
    until, live = clock.now_micros(), clock.fixed is None
    names = pq.read_schema(items).names
    declared = [c for c in (*settings.data.item_categorical, *settings.data.item_dense) if c in names]

    def newest(view: str, file: Path) -> str:
        since = _since(settings, view, until)
        return newest_query(file, "item_id", until=until, since=since or 0, live=live, undated=since is None)

    fresh = _since(settings, "item_features", until)
    query = _CATALOGUE.format(
        declared="".join(f", {_unless_old(column, fresh)}" for column in declared if column != "title"),
        statistics=", ".join(f"s.{column}" for column in statistic_columns("item")),
        # An item whose columns are too old can be shown all the same.
        items=without_withdrawn(newest_query(items, "item_id", until=until, live=live), "item_id", items, until),
        stats=newest("item_stats", stats),
        text=newest("item_text", index),
    )
    with database(out) as connection:
        table = arrow_of(connection, query)
    gone = _withdrawn(items, until)
    before = earlier and earlier / "item_text.npy"
    found = _write_text(
        table.column("text_row"), knowledge / "item_text" / "vectors.npy", out / "item_text.npy", before
    )
    pq.write_table(table.drop_columns(["text_row"]), out / "items.parquet", compression="zstd")
    pq.write_table(gone, out / "withdrawn.parquet", compression="zstd")
    scenarios = _scenarios(sources)
    pq.write_table(scenarios, out / "scenarios.parquet", compression="zstd")
    versions = KnowledgeVersions.read(knowledge).by_kind
    CatalogueSpec(versions=versions, as_of=until, columns=declared).write(out)
    rows = {
        "items": table.num_rows,
        "withdrawn": gone.num_rows,
        "item_text": found,
        "scenarios": scenarios.num_rows,
    }
    return Built(rows=rows, versions=versions)


def _since(settings: Settings, view: str, until: int) -> int | None:
    """The oldest publish time that is not older than the view's time to live; None where it has none."""
    ttl = settings.features.ttl.get(view)
    return until - ttl // dt.timedelta(microseconds=1) if ttl else None


def _unless_old(column: str, since: int | None) -> str:
    if since is None:
        return f"i.{name_of(column)}"
    return f"CASE WHEN epoch_us(i.event_timestamp) >= {since} THEN i.{name_of(column)} END AS {name_of(column)}"


def _withdrawn(items: Path, until: int) -> pa.Table:
    """The withdrawn items' ids, in order."""
    found = pq.read_table(listed(items))
    return found.filter(pc.less_equal(found["since"].cast(pa.int64()), until)).select(["item_id"])


def _scenarios(sources: Sequence[Path]) -> pa.Table:
    """Every scenario since the newest window whose settings declare them all, in order of appearance; the newest
    window's text counts.
    """
    found: dict[str, dict] = {}
    for source in sources[newest_snapshot(sources, "scenarios") or 0 :]:
        rows = pq.read_table(source / "scenarios.parquet", columns=SCENARIOS.names).to_pylist()
        found |= {row["scenario"]: row for row in rows}
    return pa.Table.from_pylist(list(found.values()), schema=SCENARIOS)


def _write_text(rows: pa.ChunkedArray, vectors: Path, out: Path, earlier: Path | None) -> int:
    """Copy the vectors of `rows` into one matrix, block by block; returns how many items have one."""
    matrix = open_matrix(vectors)
    chosen = rows.fill_null(-1).to_numpy()
    with MatrixWriter(out, matrix.shape[1], np.float32, earlier) as text:
        for begin in range(0, len(chosen), _BLOCK):
            part = chosen[begin : begin + _BLOCK]
            block = np.full((len(part), matrix.shape[1]), np.nan, dtype=np.float32)
            block[part >= 0] = matrix[part[part >= 0]]
            text.write(block)
    return int((chosen >= 0).sum())
