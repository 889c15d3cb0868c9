"""Eight ways in which Feast and Great Expectations give wrong data without an error, and that ours does not.

Each test first springs the trap on the installed version, so that an upgrade that closes it is noticed, and then takes
the same data through our path.
"""

import datetime as dt
from urllib.parse import urlsplit

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import feature_repo
from core import Settings, replay, to_micros
from core.digest import vector_digests
from core.errors import DataError, GateError, StorageError
from core.matrix import open_matrix
from core.tables import TIMESTAMP
from feature_repo import OnlineReader
from feature_repo.materialization import write_online
from feature_repo.online import OnlineTable
from feature_repo.point_in_time import PointInTimeOfflineStoreConfig
from validation import validate_knowledge

pytestmark = pytest.mark.integration

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Array, Float32, Int64
from feast.utils import _convert_arrow_to_proto

NOW = dt.datetime(2026, 3, 31, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
REF = "facts:value"
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)


@pytest.fixture
def plain(tmp_path):
    """Makes a store as Feast's own documentation has it: one view `facts` of users, with `value` and `published`."""

    def make(online=None, ttl=dt.timedelta(0), offline="duckdb", fields=()):
        folder = tmp_path / f"plain-{offline if isinstance(offline, str) else 'ours'}"
        folder.mkdir(exist_ok=True)
        store = FeatureStore(
            config=RepoConfig(
                project="plain",
                provider="local",
                repo_path=folder,
                registry=str(folder / "registry.db"),
                online_store=online or {"type": "sqlite", "path": str(folder / "online.db")},
                offline_store={"type": offline} if isinstance(offline, str) else offline,
                entity_key_serialization_version=3,
            )
        )
        source = FileSource(
            name="facts_source",
            path=str(tmp_path / "facts.parquet"),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        )
        values = fields or [Field(name="value", dtype=Int64)]
        schema = [Field(name="user_id", dtype=Int64), *values, Field(name="published", dtype=Int64)]
        view = FeatureView(name="facts", entities=[USER], schema=schema, source=source, ttl=ttl)
        write_facts(tmp_path, [])
        store.apply([USER, view])
        return store

    return make


def facts(rows, kind=None):
    """(user, time, value) as the table that `facts` reads."""
    users, times, values = zip(*rows, strict=True) if rows else ((), (), ())
    micros = pa.array([to_micros(t) for t in times], pa.int64())
    return pa.table(
        {
            "user_id": pa.array(users, pa.int64()),
            "event_timestamp": micros.cast(TIMESTAMP),
            "created_timestamp": micros.cast(TIMESTAMP),
            "value": pa.array(values, kind or pa.int64()),
            "published": micros,
        }
    )


def write_facts(folder, rows):
    pq.write_table(facts(rows), folder / "facts.parquet")


def write_plain(store, rows):
    store.write_to_online_store("facts", df=facts(rows).to_pandas())


def write_ours(store, rows):
    view = store.get_feature_view("facts")
    return OnlineTable(store).write(view, facts(rows).combine_chunks().to_batches()[0])


def plain_value(store, user):
    return store.get_online_features(features=[REF], entity_rows=[{"user_id": user}]).to_dict()["value"][0]


def our_value(store, user):
    row = OnlineTable(store).read(store.get_feature_view("facts"), [user])[0]
    return None if row is None else row["value"]


def status_of(world, user):
    return OnlineReader(world.settings, world.clock, {}).read_user(user).status["user_stats"]


def redis_of(address):
    import redis

    redis.Redis(port=int(address.split(":")[1].split(",")[0])).flushall()
    return {"type": "redis", "connection_string": address}


def test_trap_1_feasts_default_offline_store_drops_training_rows_and_our_join_keeps_every_row(plain, tmp_path):
    # User 1 is current, user 2's value is older than its time to live, user 3's lies in the future, user 4 has none.
    rows = [(1, NOW - DAY, 10), (2, NOW - 9 * DAY, 20), (3, NOW + DAY, 30)]
    asked = pd.DataFrame({"user_id": [1, 2, 3, 4], "event_timestamp": [NOW] * 4})

    def joined(offline):
        store = plain(offline=offline, ttl=2 * DAY)
        write_facts(tmp_path, rows)
        found = store.get_historical_features(entity_df=asked, features=[REF]).to_df()
        return {user: None if pd.isna(v) else int(v) for user, v in zip(found.user_id, found.value, strict=True)}

    assert joined("dask") == {1: 10, 4: None}
    assert joined(PointInTimeOfflineStoreConfig()) == {1: 10, 2: None, 3: None, 4: None}


def test_trap_2_feast_writes_only_the_first_arrow_chunk_and_we_write_and_count_all(plain, tmp_path):
    store = plain()
    view = store.get_feature_view("facts")
    rows = [(user, NOW, user) for user in range(30)]
    chunked = pa.concat_tables([facts(rows[n : n + 10]) for n in range(0, 30, 10)])
    assert len(_convert_arrow_to_proto(chunked, view, {"user_id": ValueType.INT64})) == 10

    file = tmp_path / "chunks.parquet"
    pq.write_table(chunked, file, row_group_size=10)
    table = OnlineTable(store)
    write_online(table, view, file, 30, replace=False)
    assert [row["value"] for row in table.read(view, range(30))] == list(range(30))
    with pytest.raises(StorageError, match="31 rows were to go online, 30 did"):
        write_online(table, view, file, 31, replace=False)


def test_trap_3_feast_serves_values_past_their_time_to_live_and_our_reader_calls_them_stale(plain, world):
    store = plain(ttl=2 * DAY)
    write_plain(store, [(1, NOW - 30 * DAY, 10)])
    assert plain_value(store, 1) == 10

    features = world.settings.features.model_copy(update={"ttl": {"user_stats": 2 * DAY}})
    settings = world.with_settings(features=features)
    feature_repo.materialize(settings, world.clock, **world.paths)
    state = OnlineReader(settings, replay(world.now + 30 * DAY), {}).read_user(2)
    assert state.status["user_stats"] == "stale"
    assert state.values["user_rows"] is None


def test_trap_4_redis_drops_a_correction_of_the_same_time_and_ours_takes_it(plain, redis_server):
    store = plain(online=redis_of(redis_server))
    write_plain(store, [(1, NOW, 10)])
    write_plain(store, [(1, NOW, 11)])
    assert plain_value(store, 1) == 10

    ours = plain(online={**redis_of(redis_server), "skip_dedup": True})
    for value in (10, 11):
        assert write_ours(ours, [(1, NOW, value)]) == 1
    write_ours(ours, [(1, NOW - dt.timedelta(microseconds=1), 9)])
    assert our_value(ours, 1) == 11


def test_trap_4_our_overlay_on_redis_is_the_one_that_takes_corrections(redis_server, tmp_path):
    settings = Settings(root=tmp_path, online={"store": "redis", "url": redis_server})
    assert feature_repo.open_store(settings).config.online_store.skip_dedup is True


def test_trap_5_materialize_incremental_skips_late_rows_and_ours_does_not(plain, tmp_path, world):
    store = plain()
    write_facts(tmp_path, [(1, NOW - DAY, 10)])
    store.materialize_incremental(end_date=NOW)
    late = [(1, NOW - DAY, 10), (2, NOW - DAY, 20)]
    write_facts(tmp_path, late)
    store.materialize_incremental(end_date=NOW + DAY)
    assert plain_value(store, 2) is None

    file = world.paths["sources"][0] / "interactions.parquet"
    everything = pq.read_table(file)

    def night(rows, **window):
        pq.write_table(rows, file)
        feature_repo.build_features(world.paths["sources"], world.paths["features"], world.settings, None)
        feature_repo.materialize(world.settings, world.clock, **window, **world.paths)

    night(everything.filter(pa.compute.not_equal(everything["user_id"], 2)))
    assert status_of(world, 2) == "missing"
    newest = max(r["event_timestamp"] for r in everything.to_pylist() if r["user_id"] == 2)
    night(everything, start=to_micros(newest + dt.timedelta(hours=1)))
    assert status_of(world, 2) == "found"


def test_trap_6_redis_calls_a_missing_user_present_and_we_call_it_missing(plain, redis_server, world):
    store = plain(online=redis_of(redis_server))
    write_plain(store, [(1, NOW, 10)])
    answer = store.get_online_features(features=[REF], entity_rows=[{"user_id": 999}])
    names = list(answer.proto.metadata.feature_names.val)
    result = answer.proto.results[names.index("value")]
    assert list(result.statuses) == [FieldStatus.PRESENT]
    assert answer.to_dict()["value"] == [None]
    assert our_value(store, 999) is None

    feature_repo.materialize(world.settings, world.clock, **world.paths)
    state = OnlineReader(world.settings, world.clock, {}).read_user(999)
    assert set(state.status.values()) == {"missing"}


def test_trap_7_feast_takes_a_vector_of_another_length_and_ours_refuses_it(plain):
    store = plain(fields=[Field(name="value", dtype=Array(Float32), vector_length=4)])
    view, kind = store.get_feature_view("facts"), pa.list_(pa.float32())
    short = facts([(1, NOW, [1.0, 2.0])], kind)
    store.write_to_online_store("facts", df=short.to_pandas())
    assert len(plain_value(store, 1)) == 2

    with pytest.raises(DataError, match="length"):
        OnlineTable(store).write(view, short.to_batches()[0])
    assert OnlineTable(store).write(view, facts([(1, NOW, [1.0] * 4)], kind).to_batches()[0]) == 1


def test_trap_7_great_expectations_cannot_count_list_elements_and_our_gate_measures_vectors(make_world):
    import great_expectations as gx

    frame = pd.DataFrame({"vector": [np.zeros(4).tolist()] * 5})
    asset = gx.get_context(mode="ephemeral").data_sources.add_pandas("pandas").add_dataframe_asset("vectors")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    result = batch.validate(gx.expectations.ExpectColumnValueLengthsToEqual(column="vector", value=4))
    assert result.result["unexpected_count"] == 5

    world = make_world(dim=8)
    for kind, key in (("user_pooled", "user_id"), ("item_text", "item_id"), ("scenario", "scenario")):
        folder = world.paths["knowledge"] / kind
        index = pq.read_table(folder / "index.parquet").to_pydict()
        vectors = np.array(open_matrix(folder / "vectors.npy"))
        np.save(folder / "digests.npy", vector_digests(index[key], "ab12", index["prompt_sha256"], vectors))

    def judge(dim):
        knowledge = world.settings.knowledge.model_copy(update={"user_dim": dim, "item_dim": 8})
        return validate_knowledge(world.paths["knowledge"], world.with_settings(knowledge=knowledge), world.clock, None)

    assert judge(8)["verdict"] == "passed"
    with pytest.raises(GateError, match="vectors have 8 numbers, 4 wanted"):
        judge(4)


def test_trap_8_a_late_push_overwrites_a_newer_value_in_postgres_and_not_through_our_writer(plain, database):
    where = urlsplit(database)
    online = {"type": "postgres", "host": where.hostname, "port": where.port, "database": where.path[1:]}
    online |= {"user": where.username, "password": where.password or "", "sslmode": "disable"}
    store = plain(online=online)
    older = (NOW - DAY, 9)
    write_plain(store, [(1, NOW, 10)])
    write_plain(store, [(1, *older)])
    assert plain_value(store, 1) == 9

    write_ours(store, [(1, NOW, 10)])
    write_ours(store, [(1, *older)])
    assert plain_value(store, 1) == 10
    with pytest.raises(ValidationError, match="sqlite"):
        Settings(online={"store": "postgres"})
