"""The sorting join against Feast's own DuckDB join and against plain Python."""

import datetime as dt

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Int64, String
from unit.feature_repo.feature_worlds import SECOND, START, stamps

from core.errors import DataError, MissingArtifactError
from core.tables import TIMESTAMP

OURS = "feature_repo.point_in_time.PointInTimeOfflineStore"


def store_of(folder, offline, views):
    folder.mkdir(exist_ok=True)
    store = FeatureStore(
        config=RepoConfig(
            project="p",
            provider="local",
            repo_path=folder,
            registry=str(folder / f"{offline}.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store={"type": offline},
            entity_key_serialization_version=3,
        )
    )
    store.apply([*{e.name: e for e in ENTITIES}.values(), *views, FeatureService(name="all", features=views)])
    return store


ENTITIES = [
    Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64),
    Entity(name="place", join_keys=["place"], value_type=ValueType.STRING),
]


def view_of(file, name, entities, key_fields, ttl=None):
    source = FileSource(
        name=f"{name}_source",
        path=str(file),
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    schema = [*key_fields, Field(name="value", dtype=Int64)]
    return FeatureView(name=name, entities=entities, schema=schema, source=source, ttl=ttl or dt.timedelta(0))


def states(seed, rows, late):
    """Snapshots of three users in two places; `late` is the share that was published after its event time."""
    rng = np.random.default_rng(seed)
    event = START + rng.integers(0, 30, rows) * SECOND + rng.integers(0, 2, rows)
    created = event + np.where(rng.random(rows) < late, rng.integers(0, 20, rows) * SECOND, 0)
    table = pd.DataFrame(
        {
            "user_id": rng.integers(0, 3, rows),
            "place": rng.choice(["x", "y"], rows),
            "event": event,
            "created": created,
        }
    )
    # Feast's own join picks any of two states with all times equal.
    return table.drop_duplicates(["user_id", "place", "event", "created"]).assign(value=lambda t: range(len(t)))


def write(file, table):
    columns = {name: pa.array(table[name]) for name in ("user_id", "place", "value")}
    times = {"event_timestamp": stamps(table["event"]), "created_timestamp": stamps(table["created"])}
    pq.write_table(pa.table({**columns, **times}), file)
    return file


def moments(seed, rows=60):
    rng = np.random.default_rng(100 + seed)
    times = START + rng.integers(-2, 40, rows) * SECOND + rng.integers(0, 2, rows)
    return pd.DataFrame(
        {
            "user_id": rng.integers(0, 4, rows),
            "place": rng.choice(["x", "y"], rows),
            "event_timestamp": stamps(times).to_pandas(),
            "row_id": range(rows),
        }
    )


def ask(store, frame, created=True):
    service = store.get_feature_service("all")
    job = store.get_historical_features(frame, service, full_feature_names=True, filter_by_created_timestamp=created)
    return job.to_arrow().sort_by("row_id")


def brute_force(table, frame, keys, created=True, ttl=None):
    found = []
    for row in frame.to_dict("records"):
        now = row["event_timestamp"].value // 1000
        seen = [
            (s["event"], s["created"], s["value"])
            for s in table.to_dict("records")
            if all(s[k] == row[k] for k in keys) and s["event"] <= now and (not created or s["created"] <= now)
        ]
        newest = max(seen, default=None)
        expired = newest is not None and ttl is not None and newest[0] + ttl * SECOND < now
        found.append(None if newest is None or expired else newest[2])
    return found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("created", [True, False])
@pytest.mark.parametrize("ttl", [None, 5])
def test_join_equals_feasts_own_and_plain_python(tmp_path, seed, created, ttl):
    table = states(seed, 80, late=0.4)
    file = write(tmp_path / "states.parquet", table)
    user, both = Field(name="user_id", dtype=Int64), Field(name="place", dtype=String)
    views = [
        view_of(file, "pair", ENTITIES, [user, both], dt.timedelta(seconds=ttl) if ttl else None),
        view_of(file, "place_only", ENTITIES[1:], [both]),
    ]
    frame = moments(seed)
    ours, feasts = (ask(store_of(tmp_path / "feast", kind, views), frame, created) for kind in (OURS, "duckdb"))
    assert ours["pair__value"].to_pylist() == brute_force(table, frame, ["user_id", "place"], created, ttl)
    assert ours["pair__value"].to_pylist() == feasts["pair__value"].to_pylist()
    if not table.duplicated(["place", "event", "created"]).any():
        assert ours["place_only__value"].to_pylist() == feasts["place_only__value"].to_pylist()
    assert ours.num_rows == len(frame)
    assert ours["row_id"].to_pylist() == list(range(len(frame)))
    assert any(value is not None for value in ours["pair__value"].to_pylist())
    assert None in ours["pair__value"].to_pylist()


def test_rows_and_columns_of_the_frame_come_back_in_order(tmp_path):
    file = write(tmp_path / "states.parquet", states(0, 20, late=0))
    view = view_of(file, "v", ENTITIES[:1], [Field(name="user_id", dtype=Int64)])
    store = store_of(tmp_path / "feast", OURS, [view])
    frame = moments(0).iloc[::-1].assign(row_id=range(60)).reset_index(drop=True)
    table = store.get_historical_features(frame, ["v:value"]).to_arrow()
    assert table.column_names == [*frame.columns, "value"]
    assert table["user_id"].to_pylist() == frame["user_id"].tolist()
    assert table["event_timestamp"].type == TIMESTAMP


@pytest.mark.parametrize(("micros", "expected"), [(-1, None), (0, 7), (1, 7)])
def test_a_state_is_seen_from_its_very_microsecond_on(tmp_path, micros, expected):
    table = pd.DataFrame({"user_id": [1], "place": ["x"], "event": [START], "created": [START], "value": [7]})
    view = view_of(write(tmp_path / "s.parquet", table), "v", ENTITIES[:1], [Field(name="user_id", dtype=Int64)])
    frame = pd.DataFrame({"user_id": [1], "event_timestamp": stamps([START + micros]).to_pandas(), "row_id": [0]})
    assert ask(store_of(tmp_path / "feast", OURS, [view]), frame)["v__value"].to_pylist() == [expected]


def test_of_two_states_published_at_once_the_one_with_the_later_watermark_counts(tmp_path):
    table = pd.DataFrame({"user_id": [1, 1], "place": "x", "event": [START] * 2, "created": START, "value": [1, 2]})
    file = write(tmp_path / "s.parquet", table)
    rows = pq.read_table(file)
    pq.write_table(rows.append_column("watermark", stamps([START - 1, START - 2])), file)
    view = view_of(file, "v", ENTITIES[:1], [Field(name="user_id", dtype=Int64)])
    frame = pd.DataFrame({"user_id": [1], "event_timestamp": stamps([START]).to_pandas(), "row_id": [0]})
    assert ask(store_of(tmp_path / "feast", OURS, [view]), frame)["v__value"].to_pylist() == [1]


def test_missing_file_and_missing_column_are_named(tmp_path):
    file = write(tmp_path / "s.parquet", states(0, 5, late=0))
    view = view_of(file, "v", ENTITIES[:1], [Field(name="user_id", dtype=Int64)])
    store = store_of(tmp_path / "feast", OURS, [view])
    pq.write_table(pq.read_table(file).drop(["value"]), file)
    with pytest.raises(DataError, match="s.parquet, column 'value'"):
        ask(store, moments(0))
    file.unlink()
    with pytest.raises(MissingArtifactError, match="s.parquet does not exist"):
        ask(store, moments(0))
