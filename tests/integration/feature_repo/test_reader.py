import asyncio
import datetime as dt

import numpy as np
import pyarrow.parquet as pq
import pytest

import feature_repo
from core import replay
from core.errors import StorageError
from core.matrix import open_matrix
from core.settings import OnlineSettings
from feature_repo import OnlineReader, UserState

pytestmark = pytest.mark.integration
VERSIONS = {"pooled": "ab12", "scenario": "ab12", "item_text": "ab12"}


def reader_of(world, versions=VERSIONS, **settings):
    return OnlineReader(world.with_settings(**settings), world.clock, versions)


def test_a_user_reads_back_as_the_sources_say(filled):
    user = reader_of(filled).read_user(2)
    source = pq.read_table(filled.paths["sources"][0] / "users.parquet").to_pylist()[1]
    stats = [r for r in pq.read_table(filled.paths["features"] / "user_stats").to_pylist() if r["user_id"] == 2]
    log = [r for r in pq.read_table(filled.paths["features"] / "user_log").to_pylist() if r["user_id"] == 2]
    index = pq.read_table(filled.paths["knowledge"] / "user_pooled" / "index.parquet").to_pylist()
    matrix = np.array(open_matrix(filled.paths["knowledge"] / "user_pooled" / "vectors.npy"))
    row = [r["row"] for r in index if r["user_id"] == 2][-1]
    assert set(user.status.values()) == {"found"}
    assert user.values == {
        "zip": source["zip"],
        "age": source["age"],
        **{c: stats[-1][c] for c in ("user_rows", "user_positives", "user_rate")},
    }
    assert user.history == [r["item_id"] for r in log][-5:]
    assert user.vectors["user_pooled"].dtype == np.float32
    assert user.vectors["user_pooled"].tobytes() == matrix[row].tobytes()


def test_an_id_as_text_is_the_same_user(filled):
    assert reader_of(filled).read_user("2").values == reader_of(filled).read_user(2).values


def test_the_async_read_is_the_same(filled):
    reader = reader_of(filled)
    first, second = reader.read_user(2), asyncio.run(reader.read_user_async(2))
    assert (first.values, first.history, first.status) == (second.values, second.history, second.status)


@pytest.mark.parametrize("user", [999_999, None, "nobody", 2**70])
def test_a_missing_user_is_unknown_and_no_error(filled, user):
    state = reader_of(filled).read_user(user)
    assert set(state.status.values()) == {"missing"}
    assert set(state.values.values()) == {None}
    assert state.history == []
    assert state.vectors == {"user_pooled": None}


def test_a_user_without_a_vector_is_partly_known(filled):
    state = reader_of(filled).read_user(1)
    assert (state.status["user_stats"], state.status["user_pooled"]) == ("found", "missing")
    assert state.vectors["user_pooled"] is None


def test_a_value_older_than_its_ttl_is_stale_and_unknown(filled):
    features = filled.settings.features.model_copy(update={"ttl": {"user_pooled": dt.timedelta(hours=2)}})
    state = reader_of(filled, features=features).read_user(2)
    assert state.status["user_pooled"] == "stale"
    assert state.vectors["user_pooled"] is None
    assert state.status["user_stats"] == "found"


def test_a_value_exactly_as_old_as_its_ttl_is_found(filled):
    published = reader_of(filled).read_user(2).published["user_pooled"]
    age = dt.timedelta(microseconds=filled.clock.now_micros() - published)
    for ttl, status in ((age, "found"), (age - dt.timedelta(microseconds=1), "stale")):
        features = filled.settings.features.model_copy(update={"ttl": {"user_pooled": ttl}})
        assert reader_of(filled, features=features).read_user(2).status["user_pooled"] == status


def test_scenarios_and_texts(filled):
    reader = reader_of(filled)
    found = reader.read_scenarios(["red", "blue", "green"])
    matrix = np.array(open_matrix(filled.paths["knowledge"] / "scenario" / "vectors.npy"))
    assert [found[s].tobytes() for s in ("red", "blue")] == [matrix[0].tobytes(), matrix[1].tobytes()]
    assert found["green"] is None
    assert reader.read_text("user", 1) == ("about 1", "summary")
    assert reader.read_text("scenario", "red") == ("about red", "summary")
    assert reader.read_text("user", 30) is None


def test_versions_may_be_given_as_a_bundle_holds_them(filled):
    bundle = {"user_pooled": "ab12", "scenario": "ab12", "model": "7"}
    assert reader_of(filled, versions=bundle).read_user(2).status["user_pooled"] == "found"


def test_another_version_is_missing_and_not_populated(filled):
    reader = reader_of(filled, versions={"pooled": "other"})
    assert reader.read_user(2).status["user_pooled"] == "missing"
    assert not reader.populated(["user_pooled"])
    assert not reader.populated(["user_pooled_other"])


def test_a_model_without_vectors_does_not_wait_for_them(filled):
    assert reader_of(filled, versions={}).populated(["user_stats", "user_pooled", "scenario", "item_text"])


def test_populated_once_materialized(filled):
    views = ["user_stats", "user_history", "user_pooled_ab12", "scenario_ab12_ref", "item_text_ab12_ref", "user_pooled"]
    assert reader_of(filled).populated(views)


def test_a_store_filled_by_another_spelling_of_its_address_is_populated(make_world, redis_server):
    online = OnlineSettings(store="redis", url=redis_server, timeout_ms=60_000)
    world = make_world()
    feature_repo.materialize(world.with_settings(online=online), world.clock, **world.paths)
    other = online.model_copy(update={"url": redis_server.replace("127.0.0.1", "localhost")})
    assert other.url != online.url
    assert reader_of(world, online=other).populated(["user_stats", "user_pooled_ab12"])
    empty = online.model_copy(update={"url": redis_server.replace("db=0", "db=7")})
    assert not reader_of(world, online=empty).populated(["user_stats"])


def test_columns_named_by_a_bundle_are_read_whatever_the_settings_declare(filled):
    data = filled.settings.data.model_copy(update={"user_categorical": [], "user_dense": []})
    settings = filled.settings.model_copy(update={"data": data})
    declared = reader_of(filled).read_user(2)
    reader = OnlineReader(settings, filled.clock, VERSIONS, ["zip", "age"])
    assert reader.read_user(2).values == declared.values
    assert declared.values["zip"] is not None


def test_columns_that_the_online_view_does_not_hold_are_named(filled):
    reader = OnlineReader(filled.settings, filled.clock, VERSIONS, ["zip", "gone"])
    assert reader.missing_columns() == ["gone"]
    assert reader.read_user(2).values["gone"] is None
    assert reader_of(filled).missing_columns() == []
    assert OnlineReader(filled.settings, filled.clock, VERSIONS, []).missing_columns() == []


def test_a_view_that_is_not_known_lacks_no_columns(make_world):
    assert reader_of(make_world()).missing_columns() == []


def test_not_populated_before(world):
    reader = reader_of(world)
    assert not reader.populated(["user_stats"])
    assert set(reader.read_user(1).status.values()) == {"missing"}


def test_a_lost_sqlite_file_is_not_populated_and_reads_are_typed_errors(make_world):
    world = make_world()
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    for file in (world.settings.root / "feast").glob("online.db*"):
        file.unlink()
    reader = reader_of(world)
    assert not reader.populated(["user_stats"])
    with pytest.raises(StorageError, match="materialize"):
        reader.read_user(2)


def test_a_dead_redis_is_a_typed_error(make_world):
    world = make_world()
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    reader = reader_of(world, online=OnlineSettings(store="redis", url="127.0.0.1:9", timeout_ms=50))
    with pytest.raises(StorageError, match="127.0.0.1:9"):
        reader.read_user(2)
    with pytest.raises(StorageError):
        reader.read_scenarios(["red"])


def test_a_redis_that_hangs_is_given_up_after_the_timeout(make_world):
    import socket

    world = make_world()
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        reader = reader_of(world, online=OnlineSettings(store="redis", url=url, timeout_ms=50))
        with pytest.raises(StorageError, match="Timeout"):
            reader.read_user(2)


def test_text_ids(make_world):
    world = make_world(text_ids=True)
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    state = reader_of(world).read_user("u2")
    assert set(state.status.values()) == {"found"}
    assert all(item.startswith("i") for item in state.history)


def test_unknown_users_have_no_values():
    assert UserState.unknown(5) == UserState(5, {}, [], {}, {}, {})


def test_the_clock_decides_what_is_stale(filled):
    features = filled.settings.features.model_copy(update={"ttl": {"user_stats": dt.timedelta(days=1)}})
    later = OnlineReader(
        filled.with_settings(features=features), replay(filled.now + dt.timedelta(days=30)), VERSIONS
    ).read_user(2)
    assert later.status["user_stats"] == "stale"
    assert later.values["user_rows"] is None
