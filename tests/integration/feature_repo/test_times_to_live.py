"""Serving forgets a value in the same microsecond as training, whether the clock runs or stands still."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_live_materialize import KINDS, Running

import feature_repo
from core import replay
from core.clock import UNDATED
from core.matrix import open_matrix
from core.settings import FeatureSettings
from core.tables import TIMESTAMP
from feature_repo import OnlineReader
from feature_repo.materialization import apply
from feature_repo.training_table import point_in_time

pytestmark = pytest.mark.integration
HOUR = dt.timedelta(hours=1)
MICRO = dt.timedelta(microseconds=1)
TTL = {
    **dict.fromkeys(("user_stats", "user_history", "item_stats"), 3 * HOUR),
    **dict.fromkeys(("user_pooled", "item_text", "item_features"), 30 * 24 * HOUR),
}


@pytest.fixture
def lagging(make_world):
    """Statistics that can be read an hour after they were built, and live for three more."""
    world = make_world()
    features = FeatureSettings(history_length=5, lag=dict.fromkeys(KINDS, HOUR), ttl=TTL)
    world.settings = world.with_settings(features=features)
    feature_repo.build_features([world.folder / "validate"], world.folder / "features", world.settings, None)
    return world


def in_training(world, moment):
    """Per entity: which of its values a training row of this moment has."""
    _, generation, paths = apply(world.settings, **world.paths)
    count = max(world.users, world.items)
    rows = pa.table(
        {
            "row_id": range(count),
            "user_id": [n % world.users + 1 for n in range(count)],
            "item_id": [n % world.items + 1 for n in range(count)],
            "scenario": ["red"] * count,
            "event_timestamp": pa.array([moment] * count, TIMESTAMP),
        }
    )
    found = point_in_time(world.settings, generation, paths, rows, world.folder / "registry.db").to_pylist()
    users = {
        row["user_id"]: (row["user_stats__user_rows"], row["user_pooled__row"] is not None, row["user_id"])
        for row in found
    }
    items = {
        row["item_id"]: (row["item_stats__item_rows"], row["item_text__row"] is not None, row["item_features__year"])
        for row in found
    }
    return users, items


def in_serving(world, clock, out):
    feature_repo.materialize(world.settings, clock, **world.paths)
    reader = OnlineReader(world.settings, clock, {"pooled": "ab12"})
    states = [reader.read_user(user) for user in range(1, world.users + 1)]
    users = {s.user_id: (s.values["user_rows"], s.vectors["user_pooled"] is not None, s.user_id) for s in states}
    out.mkdir()
    feature_repo.build_catalogue(world.settings, clock, out=out, **world.paths)
    text = ~np.isnan(np.array(open_matrix(out / "item_text.npy"))).any(axis=1)
    rows = pq.read_table(out / "items.parquet").to_pylist()
    items = {row["item_id"]: (row["item_rows"], bool(t), row["year"]) for row, t in zip(rows, text, strict=True)}
    assert {row["title"] is None for row in rows} == {False}, "an item whose columns are too old can still be shown"
    return users, items


def newest(world, view):
    return max(pq.read_table(world.paths["features"] / view)["event_timestamp"].to_pylist())


@pytest.mark.parametrize("made", [Running, replay])
@pytest.mark.parametrize("late", [0 * MICRO, MICRO])
@pytest.mark.parametrize("view", ["user_stats", "item_stats"])
def test_a_value_ends_in_serving_when_it_ends_in_training(lagging, made, late, view, tmp_path):
    moment = newest(lagging, view) + 3 * HOUR + late
    users, items = in_training(lagging, moment)
    assert in_serving(lagging, made(moment), tmp_path / "catalogue") == (users, items)
    # At its last moment one value is left, a microsecond later none.
    ends = users if view == "user_stats" else items
    assert any(known is not None for known, *_ in ends.values()) == (not late)


@pytest.mark.parametrize("made", [Running, replay])
def test_values_in_their_prime_are_the_same(lagging, made, tmp_path):
    moment = lagging.now - 12 * HOUR
    users, items = in_training(lagging, moment)
    assert len({known is None for known, *_ in items.values()}) == 2
    found_users, found_items = in_serving(lagging, made(moment), tmp_path / "catalogue")
    assert {k: v[2] for k, v in found_items.items()} == {k: v[2] for k, v in items.items()}
    if made is replay:
        assert (found_users, found_items) == (users, items)


@pytest.mark.parametrize("made", [Running, replay])
def test_undated_text_is_older_than_any_time_to_live(lagging, made, tmp_path):
    file = lagging.paths["knowledge"] / "item_text" / "index.parquet"
    table = pq.read_table(file)
    for name in ("event_timestamp", "watermark", "created_timestamp"):
        column = table.schema.get_field_index(name)
        undated = pa.array([UNDATED] * len(table), table.schema.field(column).type)
        table = table.set_column(column, table.schema.field(column), undated)
    pq.write_table(table, file)
    items = in_training(lagging, lagging.now)[1]
    found = in_serving(lagging, made(lagging.now), tmp_path / "catalogue")[1]
    assert {known for _, known, _ in items.values()} == {known for _, known, _ in found.values()} == {False}
