"""The point-in-time join of random histories, against plain Python."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Int64, String
from hypothesis import given
from hypothesis import strategies as st
from properties import examples
from unit.feature_repo.feature_worlds import Row, at, stamps, write_source

from core import Settings
from feature_repo.features import build_features

TTL = 3
USER = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
PLACE = Entity(name="place", join_keys=["place"], value_type=ValueType.STRING)


@dataclass(frozen=True)
class State:
    """A snapshot; times in seconds, `late` from the event to its publication."""

    user: int
    place: str | None
    event: float
    late: float
    watermark: int
    value: int | None


@dataclass(frozen=True)
class Moment:
    user: int
    place: str | None
    second: float


# A microsecond beside a whole second is where a comparison with < and one with <= differ.
seconds = st.builds(lambda s, m: s + m / 1e6, st.integers(0, 6), st.sampled_from([0, 0, -1, 1]))
places = st.sampled_from(["x", "x", "y", None])
states = st.builds(
    State,
    user=st.integers(0, 1),
    place=places,
    event=seconds,
    late=st.sampled_from([0, 0, 1, 2, 4, -2]),
    watermark=st.integers(0, 2),
    value=st.none() | st.integers(0, 1000),
)
moments = st.builds(Moment, user=st.integers(0, 2), place=places, second=seconds)
rows = st.builds(
    Row,
    user=st.integers(0, 2),
    item=st.integers(100, 103),
    second=st.integers(0, 5),
    label=st.integers(0, 1),
    scenario=st.sampled_from(["home", "search"]),
)


def view(file, name, entities, feature, ttl=None):
    keys = {"user": Field(name="user_id", dtype=Int64), "place": Field(name="place", dtype=String)}
    return FeatureView(
        name=name,
        entities=entities,
        schema=[*(keys[entity.name] for entity in entities), Field(name=feature, dtype=Int64)],
        source=FileSource(
            name=f"{name}_source",
            path=str(file),
            timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        ttl=dt.timedelta(seconds=ttl or 0),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("join")


@pytest.fixture(scope="module")
def store(folder):
    """One store; an example changes the files that its views name."""
    write(folder, [])
    build(folder / "statistics", [Row(0, 100, 0)])
    store = FeatureStore(
        config=RepoConfig(
            project="p",
            provider="local",
            repo_path=folder,
            registry=str(folder / "registry.db"),
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            offline_store={"type": "feature_repo.point_in_time.PointInTimeOfflineStore"},
            entity_key_serialization_version=3,
        )
    )
    file = folder / "states.parquet"
    views = [
        view(file, "pair", [USER, PLACE], "value"),
        view(file, "fresh", [USER, PLACE], "value", TTL),
        view(file, "place", [PLACE], "value"),
        view(folder / "statistics" / "user_stats", "stats", [USER], "user_rows"),
    ]
    store.apply([USER, PLACE, *views])
    return store


def write(folder, found):
    table = pa.table(
        {
            "user_id": pa.array([s.user for s in found], pa.int64()),
            "place": pa.array([s.place for s in found], pa.string()),
            "value": pa.array([s.value for s in found], pa.int64()),
            "event_timestamp": stamps([at(s.event) for s in found]),
            "created_timestamp": stamps([at(s.event + s.late) for s in found]),
            "watermark": stamps([at(s.watermark) for s in found]),
        }
    )
    pq.write_table(table, folder / "states.parquet", row_group_size=5)


def build(out, log, folder=None):
    source = write_source(folder or out.with_name("statistics_source"), log)
    out.mkdir(exist_ok=True)
    build_features([source], out, Settings(), None)


def frame_of(found):
    return pd.DataFrame(
        {
            "row_id": range(len(found)),
            "user_id": [m.user for m in found],
            "event_timestamp": stamps([at(m.second) for m in found]).to_pandas(),
            "place": [m.place for m in found],
        }
    )


def newest(found, moment, keys, known, ttl=None):
    """The value that the row reads: of the states of its entity that were there, the newest."""
    now = at(moment.second)
    seen = [
        (at(s.event), at(s.event + s.late), s.watermark, place)
        for place, s in enumerate(found)
        if all(getattr(s, key) == getattr(moment, key) is not None for key in keys)
        and at(s.event) <= now
        and (not known or at(s.event + s.late) <= now)
    ]
    if not seen or (ttl is not None and at(ttl) - at(0) < now - max(seen)[0]):
        return None
    return found[max(seen)[3]].value


@given(
    found=st.lists(states, max_size=3) | st.lists(states, min_size=12, max_size=25),
    asked=st.lists(moments, min_size=1, max_size=25),
    known=st.booleans(),
)
@examples(50)
def test_each_row_reads_the_newest_state_that_was_there_at_its_time(store, folder, found, asked, known):
    write(folder, found)
    frame = frame_of(asked)
    table = store.get_historical_features(
        frame,
        ["pair:value", "fresh:value", "place:value"],
        full_feature_names=True,
        filter_by_created_timestamp=known,
    ).to_arrow()
    assert table["row_id"].to_pylist() == list(range(len(asked))), "none lost, none repeated, in their order"
    assert table["user_id"].to_pylist() == [m.user for m in asked]
    assert table["place"].to_pylist() == [m.place for m in asked]
    for name, keys, ttl in (
        ("pair", ["user", "place"], None),
        ("fresh", ["user", "place"], TTL),
        ("place", ["place"], None),
    ):
        expected = [newest(found, moment, keys, known, ttl) for moment in asked]
        assert table[f"{name}__value"].to_pylist() == expected, name


@given(log=st.lists(rows, min_size=1, max_size=25))
@examples(25)
def test_no_row_of_a_log_reads_itself_or_another_of_its_time(store, folder, tmp_path_factory, log):
    build(folder / "statistics", log, tmp_path_factory.mktemp("log") / "source")
    frame = frame_of([Moment(row.user, "x", row.second) for row in log])
    found = store.get_historical_features(frame, ["stats:user_rows"]).to_arrow()["user_rows"].to_pylist()
    distinct = {(row.user, row.item, row.scenario, row.second) for row in log}
    before = [sum(user == row.user and second < row.second for user, _, _, second in distinct) for row in log]
    assert [count or 0 for count in found] == before
