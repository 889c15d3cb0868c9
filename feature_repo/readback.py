"""What the online store answers for sampled keys, beside what the offline store says: the online gate's evidence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from core import Clock, Settings
from feature_repo import views
from feature_repo.materialization import apply
from feature_repo.online import OnlineTable
from feature_repo.online_source import CATALOGUES, Span, schema_of
from feature_repo.online_source import newest as newest_rows

SAMPLE = 50


def sample_online(
    settings: Settings,
    clock: Clock,
    *,
    sources: Sequence[Path],
    features: Path,
    knowledge: Path,
    count: int = SAMPLE,
    newest: bool = True,
    since: int = 0,
) -> dict[str, list[dict[str, Any]]]:
    """Read evenly spread keys of every value view from both stores.

    Args:
        settings: stores and declared columns.
        clock: values published after its now are not expected online.
        sources: validate artifacts, oldest window first.
        features, knowledge: artifact folders.
        count: about how many keys a view.
        since: only values that are published from this time on, in microseconds; what catalogues say whatever its date.
        newest: no later window is online; else what catalogues say there is the later one's.

    Returns:
        Feast view name to one mapping per key: `id`, `offline` and `online` columns (None where nothing is online);
        `published` is in microseconds, vectors are float32 [d].

    Raises:
        StorageError: a store cannot be reached.
    """
    store, generation, paths = apply(settings, sources=sources, features=features, knowledge=knowledge)
    table, span = OnlineTable(store), Span(since, clock.now_micros(), live=clock.fixed is None)
    found = {}
    for view, feast_view in views.online_views(settings, generation, paths).items():
        if not newest and view in CATALOGUES:
            continue
        schema = schema_of(generation, view, feast_view)
        batches = newest_rows(generation, paths, view, schema, span, settings.features.history_length)
        key, columns = schema.names[0], [feature.name for feature in feast_view.features]
        offline = _spread(batches, schema, count)
        online = table.read(feast_view, [row[key] for row in offline])
        found[feast_view.name] = [
            {"id": mine[key], "offline": {name: mine[name] for name in columns}, "online": theirs}
            for mine, theirs in zip(offline, online, strict=True)
        ]
    return found


def _spread(batches: Iterable[pa.RecordBatch], schema: pa.Schema, count: int) -> list[dict[str, Any]]:
    """About `count` rows, evenly spread; a few of each batch are kept meanwhile, so that memory stays flat."""
    kept = [batch.take(_even(batch.num_rows, count)) for batch in batches]
    rows = pa.Table.from_batches(kept, schema=schema)
    return rows.take(_even(rows.num_rows, count)).to_pylist()


def _even(rows: int, count: int) -> pa.Array:
    return pa.array(np.unique(np.linspace(0, rows - 1, count).astype(np.int64)) if rows else [], pa.int64())
