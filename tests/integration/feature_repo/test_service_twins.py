"""One declaration, two services: what is online now equals what training joins at the same moment, on both overlays."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from core.contracts.statistics import statistic_columns
from core.matrix import open_matrix
from core.tables import TIMESTAMP
from feature_repo import OnlineReader
from feature_repo.materialization import apply
from feature_repo.online import OnlineTable
from feature_repo.training_table import point_in_time
from feature_repo.views import value_views

pytestmark = pytest.mark.integration


@pytest.fixture
def joined(filled, tmp_path):
    """A row for every user and item at the clock's now, joined with the training service."""
    _, generation, paths = apply(filled.settings, **filled.paths)
    count = max(filled.users, filled.items)
    now = pa.array([filled.clock.now_micros()] * count, pa.int64()).cast(TIMESTAMP)
    rows = pa.table(
        {
            "row_id": range(count),
            "user_id": [n % filled.users + 1 for n in range(count)],
            "item_id": [n % filled.items + 1 for n in range(count)],
            "scenario": [("red", "blue")[n % 2] for n in range(count)],
            "event_timestamp": now,
        }
    )
    return point_in_time(filled.settings, generation, paths, rows, tmp_path / "registry.db").to_pylist()


def matrix(filled, view):
    return np.array(open_matrix(filled.paths["knowledge"] / view / "vectors.npy"))


def test_users_and_scenarios_resolve_to_equal_values(filled, joined):
    log = {}
    for row in pq.read_table(filled.paths["features"] / "user_log").to_pylist():
        log.setdefault(row["user_id"], []).append(row["item_id"])
    pooled, scenarios = matrix(filled, "user_pooled"), matrix(filled, "scenario")
    reader = OnlineReader(filled.settings, filled.clock, {"pooled": "ab12", "scenario": "ab12"})
    online = reader.read_scenarios(["red", "blue"])
    for row in joined:
        state = reader.read_user(row["user_id"])
        stats = {column: row[f"user_stats__{column}"] for column in statistic_columns("user")}
        declared = {name: row[f"user_features__{name}"] for name in ("zip", "age")}
        assert state.values == declared | stats
        end = row["user_history__history_end"] or 0
        assert state.history == log.get(row["user_id"], [])[max(0, end - 5) : end]
        vector, place = state.vectors["user_pooled"], row["user_pooled__row"]
        assert (vector is None) == (place is None)
        assert vector is None or vector.tobytes() == pooled[place].tobytes()
        assert online[row["scenario"]].tobytes() == scenarios[row["scenario__row"]].tobytes()
    assert {row["user_pooled__row"] is None for row in joined} == {True, False}


def test_items_resolve_to_equal_values(filled, joined):
    store, generation, paths = apply(filled.settings, **filled.paths)
    views, table = value_views(generation, paths), OnlineTable(store)
    ids = [row["item_id"] for row in joined]
    for view, columns in (("item_stats", list(statistic_columns("item"))), ("item_features", ["year"])):
        for row, found in zip(joined, table.read(views[view], ids), strict=True):
            assert {c: row[f"{view}__{c}"] for c in columns} == {c: (found or {}).get(c) for c in columns}
