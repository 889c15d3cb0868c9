"""What another program wrote into the online store, or broke there: such values count as unknown, and nothing else is lost."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from conftest import overlay_world

import feature_repo
from core.contracts.statistics import statistic_columns
from core.tables import TIMESTAMP
from feature_repo import OnlineReader
from feature_repo.feast_names import Value, mmh3, redis_key, serialize_entity_key, table_id
from feature_repo.online import DAMAGED, OnlineTable, entity_keys
from feature_repo.views import value_views

pytestmark = pytest.mark.integration
VERSIONS = {"pooled": "ab12", "scenario": "ab12"}
JUNK = {
    "bytes": b"\xff\xfe\x01junk",
    "text": b"plain text",
    "another kind": Value(string_val="many").SerializeToString(),
    "infinite": Value(float_val=float("inf")).SerializeToString(),
}


def views_of(world):
    store, generation, paths = feature_repo.apply(world.settings, **world.paths)
    return store, value_views(generation, paths)


def put(world, view, key, ids, column, raw):
    """Write raw bytes where a column of some entities lies."""
    store, views = views_of(world)
    table, config, found = OnlineTable(store), store.config, views[view]
    version = config.entity_key_serialization_version
    for one in entity_keys(key, ids):
        if world.settings.online.store == "redis":
            address = redis_key(config.project, one, version)
            table._redis().hset(address, mmh3(f"{found.name}:{column}"), raw)
        else:
            connection = table._sqlite()
            with connection:
                done = connection.execute(
                    f'UPDATE "{table_id(config.project, found)}" SET value = ? WHERE entity_key = ? AND feature_name = ?',
                    (raw, serialize_entity_key(one, version), column),
                )
            assert done.rowcount == 1


CASES = [
    (view, column, junk)
    for view, column in (("user_stats", "user_rate"), ("user_pooled", "vector"), ("user_history", "history"))
    for junk in JUNK
]


@pytest.fixture(scope="module", params=["embedded", "production"])
def world(request, tmp_path_factory):
    """A world of each overlay that is online; each test damages entities of its own."""
    with overlay_world(request.param, tmp_path_factory.mktemp("damaged"), request, 2) as found:
        feature_repo.materialize(found.settings, found.clock, **found.paths)
        yield found


def users_with_everything(world, count):
    reader = OnlineReader(world.settings, world.clock, VERSIONS)
    states = (reader.read_user(user) for user in range(1, 1000))
    whole = (state for state in states if set(state.status.values()) == {"found"})
    return list(itertools.islice(whole, count))


def test_a_damaged_value_of_a_user_is_unknown_and_the_rest_is_read(world):
    """A user for each column and each kind of damage."""
    for before, (view, column, junk) in zip(users_with_everything(world, len(CASES)), CASES, strict=True):
        put(world, view, "user_id", [before.user_id], column, JUNK[junk])
        state = OnlineReader(world.settings, world.clock, VERSIONS).read_user(before.user_id)
        assert state.status == before.status | {view: "damaged"}, (view, junk)
        same = {name: value for name, value in before.values.items() if view != "user_stats" or name in ("zip", "age")}
        assert state.values == before.values | dict.fromkeys(before.values.keys() - same.keys())
        assert (state.vectors["user_pooled"] is None) == (view == "user_pooled")
        assert (state.history == []) == (view == "user_history")


def test_a_vector_of_another_length_or_with_no_numbers_is_damaged(world):
    [user] = users_with_everything(world, 1)
    for wrong in ([1.0, 2.0], [float("nan")] * 8, [float("inf")] * 8):
        value = Value()
        value.float_list_val.val.extend(wrong)
        put(world, "user_pooled", "user_id", [user.user_id], "vector", value.SerializeToString())
        state = OnlineReader(world.settings, world.clock, VERSIONS).read_user(user.user_id)
        assert state.status["user_pooled"] == "damaged"


def test_one_damaged_scenario_takes_no_other_with_it(world):
    reader = OnlineReader(world.settings, world.clock, VERSIONS)
    before = reader.read_scenarios(["red", "blue"])
    put(world, "scenario", "scenario", ["red"], "vector", JUNK["bytes"])
    after = reader.read_scenarios(["red", "blue"])
    assert after["red"] is None
    np.testing.assert_array_equal(after["blue"], before["blue"])


def test_a_write_replaces_what_was_damaged(world):
    [user] = users_with_everything(world, 1)
    store, views = views_of(world)
    table, view = OnlineTable(store), views["user_stats"]
    row = table.read(view, [user.user_id])[0]
    for column in ("user_rate", "published"):
        put(world, "user_stats", "user_id", [user.user_id], column, JUNK["bytes"])
    assert table.read(view, [user.user_id]) == [DAMAGED]
    stamp = pa.array([row["published"]]).cast(TIMESTAMP)
    body = {"user_id": pa.array([user.user_id]), "event_timestamp": stamp, "created_timestamp": stamp}
    kinds = {name: pa.type_for_alias(found.type) for name, found in statistic_columns("user").items()}
    columns = {name: pa.array([value], kinds.get(name, pa.int64())) for name, value in row.items()}
    assert table.write(view, pa.RecordBatch.from_pydict(body | columns)) == 1
    assert table.read(view, [user.user_id]) == [row]
