import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from pydantic import ValidationError

from core import Settings
from core.errors import MissingArtifactError, SettingsError
from core.settings import FeatureSettings, OnlineSettings, RegistrySettings
from feature_repo import overlay, views
from feature_repo.reader import versions_by_view
from feature_repo.user_states import newest_snapshot
from feature_repo.views import Generation, SourcePaths, Vector
from knowledge.log import snapshots, sources


@pytest.fixture
def generation():
    return Generation(
        name="abc",
        user_id="int64",
        item_id="string",
        user_columns={"zip": "string", "age": "int64"},
        item_columns={"year": "float"},
        vectors=(Vector("user_pooled", "v-1", 8), Vector("scenario", "v2", 4), Vector("item_text", "v3", 4)),
        texts=("user_text",),
        ttl={"user_pooled": 60.0},
    )


@pytest.fixture
def paths(tmp_path):
    return SourcePaths(*(tmp_path / n for n in ("users.parquet", "items.parquet", "features", "knowledge", "online")))


def both(generation, paths):
    values, refs = views.value_views(generation, paths), views.ref_views(generation, paths)
    return values, refs, views.services(generation, values, refs)


def test_both_services_read_the_same_views_of_one_declaration(generation, paths):
    values, refs, (online, train) = both(generation, paths)
    of_online = [p.name for p in online.feature_view_projections]
    of_train = [p.name for p in train.feature_view_projections]
    assert (online.name, train.name) == ("ranker_abc", "ranker_abc_train")
    # Item vectors are the one thing that serving reads elsewhere: from the catalogue.
    assert [f"{name}_ref" for name in of_online] == [n for n in of_train if not n.startswith("item_text")]
    assert set(of_train) - {f"{n}_ref" for n in of_online} == {"item_text_v3_ref"}


def test_twins_hold_the_same_model_columns_with_the_same_types(generation, paths):
    values, refs, _ = both(generation, paths)
    for view in ("user_features", "user_stats", "item_stats"):
        columns = generation.columns()[view]
        of_value = {f.name: f.dtype for f in values[view].features}
        of_ref = {f.name: f.dtype for f in refs[view].features}
        assert {c: of_value[c] for c in columns} == {c: of_ref[c] for c in columns}


def test_every_source_says_when_a_row_was_created(generation, paths):
    values, refs, _ = both(generation, paths)
    for view in (*values.values(), *refs.values()):
        assert view.batch_source.created_timestamp_column == "created_timestamp"
        assert view.batch_source.timestamp_field == "event_timestamp"


def test_vector_views_carry_their_version_and_length(generation, paths):
    values, refs, _ = both(generation, paths)
    assert values["user_pooled"].name == "user_pooled_v_1"
    assert refs["user_pooled"].name == "user_pooled_v_1_ref"
    assert {f.name: f.vector_length for f in values["user_pooled"].features}["vector"] == 8
    assert [f.name for f in refs["user_pooled"].features][:3] == ["kind", "version", "row"]


def test_time_to_live_is_that_of_the_settings(generation, paths):
    values, refs, _ = both(generation, paths)
    assert values["user_pooled"].ttl == refs["user_pooled"].ttl == dt.timedelta(minutes=1)
    assert values["user_stats"].ttl == dt.timedelta(0)


def test_entities_have_the_types_of_the_ids(generation):
    kinds = {name: e.value_type.name for name, e in views.entity_objects(generation).items()}
    assert kinds == {"user": "INT64", "item": "STRING", "scenario": "STRING"}


def test_undeclared_user_columns_make_no_view(generation, paths):
    bare = Generation("x", "int64", "int64", {}, {}, ())
    values, refs, (online, train) = both(bare, paths)
    assert "user_features" not in values
    assert "user_features_ref" not in {p.name for p in train.feature_view_projections}


@pytest.mark.parametrize(
    ("kind", "name"),
    [(pa.string(), "String"), (pa.int8(), "Int32"), (pa.list_(pa.int8()), "Array(Int32)"), (pa.bool_(), "Bool")],
)
def test_arrow_types_have_feast_types(kind, name):
    assert str(views.feast_type(str(kind))) == name


def test_a_type_that_cannot_be_a_feature_is_a_settings_error():
    with pytest.raises(SettingsError, match="binary"):
        views.feast_type("binary")


def test_without_knowledge_it_says_what_to_run(tmp_path):
    with pytest.raises(MissingArtifactError, match="knowledge"):
        views.generation_of(Settings(root=tmp_path), users=tmp_path, items=tmp_path, knowledge=tmp_path)


@pytest.mark.parametrize("column", ["published", "watermark", "event_timestamp", "created_timestamp", "user_id"])
@pytest.mark.parametrize("where", ["user_dense", "item_categorical"])
def test_a_declared_column_named_like_one_of_the_views_is_refused(column, where):
    with pytest.raises(ValidationError, match=rf"(?s)'{column}'.*data\.columns"):
        Settings(data={where: [column]})


def test_embedded_overlay_is_files_and_never_dask(tmp_path):
    config = overlay.repo_config(Settings(root=tmp_path))
    assert issubclass(get_offline_store_from_config(config.offline_store).__class__, DuckDBOfflineStore)
    assert config.online_store.path == str(tmp_path / "feast" / "online.db")
    assert config.registry.path == str(tmp_path / "feast" / "registry.db")
    assert config.registry.serve_features_while_materializing
    assert config.materialization_config.pull_latest_features
    assert config.materialization_config.online_write_batch_size == 1000


def test_production_overlay_is_redis_and_a_sql_registry(tmp_path):
    settings = Settings(
        root=tmp_path,
        online=OnlineSettings(store="redis", url="host:1,db=2", password="pa=ss", timeout_ms=40),
        registry=RegistrySettings(kind="sql", url="postgresql+psycopg://u@h/d"),
    )
    config = overlay.repo_config(settings, timeout_ms=40)
    assert config.registry.registry_type == "sql"
    assert config.registry.cache_mode == "thread"
    assert config.online_store.skip_dedup
    from feast.infra.online_stores.redis import RedisOnlineStore

    nodes, parameters = RedisOnlineStore._parse_connection_string(config.online_store.connection_string)
    assert nodes == [{"host": "host", "port": "1"}]
    assert parameters == {"db": 2, "password": "pa=ss", "socket_timeout": 0.04, "socket_connect_timeout": 0.04}


def test_a_sql_registry_without_address_is_a_settings_error(tmp_path):
    with pytest.raises(SettingsError, match="registry.url"):
        overlay.repo_config(Settings(root=tmp_path, registry=RegistrySettings(kind="sql")))


def test_versions_are_read_by_kind_or_view():
    given = {
        "pooled": "a",
        "user_prompt": "b",
        "scenario": "c",
        "model": "7",
        "item_text": None,
    }
    assert versions_by_view(given) == {"user_pooled": "a", "user_prompt": "b", "scenario": "c"}


@pytest.mark.parametrize("every", [None, 10, 25])
@pytest.mark.parametrize("max_age", [None, 15, 40])
def test_a_pushed_snapshot_is_the_batch_paths_newest(max_age, every):
    rng = np.random.default_rng(3)
    thresholds = [2, 5, 9]
    for count in (1, 2, 4, 5, 8, 12):
        times = np.sort(rng.integers(0, 60, count)).astype(np.int64)
        same = np.zeros(count, dtype=np.int64)
        starts = np.array([0, count])
        log = sources.Log(pa.array([1]), same, same, same, times, same.astype(bool), starts)
        found = snapshots.due_snapshots(log, thresholds, max_age, every)
        expected = int(found.watermarks[-1]) if len(found.watermarks) else None
        assert newest_snapshot(times.tolist(), thresholds, max_age, every) == expected


def test_features_settings_have_no_ttl_by_default():
    assert FeatureSettings().ttl == {}
