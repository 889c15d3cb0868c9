import datetime as dt

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import feature_repo
from core import Window, replay, to_micros
from core.errors import DataError, MissingArtifactError
from feature_repo import OnlineReader
from feature_repo.online import OnlineTable
from ingest import PushedLog

pytestmark = pytest.mark.integration
VERSIONS = {"pooled": "ab12"}


class CountingPooler:
    """A vector that says how many positives and negatives it was made from."""

    version = "ab12"

    def __init__(self):
        self.asked = 0

    def pool(self, positives, negatives, watermark):
        self.asked += 1
        return np.full(8, len(positives) + 1000 * len(negatives), np.float32)


@pytest.fixture
def behind(world):
    """A world whose batch path has seen all but the last 60 rows, which are returned to be pushed."""
    return world, hold_back(world, 60)


def hold_back(world, count):
    file = world.paths["sources"][0] / "interactions.parquet"
    log = pq.read_table(file)
    pq.write_table(log.slice(0, len(log) - count), file)
    feature_repo.build_features(world.paths["sources"], world.paths["features"], world.settings, None)
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    return log.slice(len(log) - count)


def push(world, rows, **kwargs):
    return feature_repo.push(world.settings, world.clock, rows, sources=world.paths["sources"], **kwargs)


def online(world, view, users):
    store = feature_repo.open_store(world.settings)
    rows = OnlineTable(store).read(store.get_feature_view(view), users)
    return [
        None if r is None else {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in r.items()} for r in rows
    ]


def test_pushed_states_equal_what_the_batch_path_writes_for_the_same_log(behind):
    world, late = behind
    users = late["user_id"].unique().to_pylist()
    before = online(world, "user_stats", users)
    counts = push(world, late)
    pushed = {view: online(world, view, users) for view in ("user_stats", "user_history")}
    assert counts == {"user_stats": len(users), "user_history": len(users)}
    assert pushed["user_stats"] != before
    file = world.paths["sources"][0] / "interactions.parquet"
    pq.write_table(pa.concat_tables([pq.read_table(file), late]), file)
    feature_repo.build_features(world.paths["sources"], world.paths["features"], world.settings, None)
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    assert pushed == {view: online(world, view, users) for view in ("user_stats", "user_history")}


def test_rows_pushed_one_by_one_and_twice_count_once(behind):
    world, late = behind
    users = late["user_id"].unique().to_pylist()
    for begin in range(0, 60, 20):
        push(world, late.slice(begin, 20))
    once = online(world, "user_stats", users)
    push(world, late)
    assert online(world, "user_stats", users) == once
    kept = PushedLog(world.settings.root).between(Window(), world.ids)
    assert set(map(str, late.to_pylist())) == set(map(str, kept.to_pylist()))


def test_a_pushed_user_is_read_at_once(behind):
    world, late = behind
    row = late.slice(59, 1)
    push(world, row)
    user = OnlineReader(world.settings, world.clock, VERSIONS).read_user(row["user_id"][0].as_py())
    assert user.published["user_stats"] == to_micros(row["event_timestamp"][0].as_py()) + 1
    if row["label"][0].as_py():
        assert user.history[-1] == row["item_id"][0].as_py()


def test_a_new_user_appears(behind):
    world, late = behind
    row = late.slice(0, 1)
    row = row.set_column(0, row.schema.field("user_id"), pa.array([4242], pa.int64()))
    push(world, row)
    user = OnlineReader(world.settings, world.clock, VERSIONS).read_user(4242)
    assert user.values["user_rows"] == 1
    assert user.status["user_features"] == "missing"


def test_the_pooled_vector_is_renewed_when_a_threshold_is_passed(make_world):
    world = make_world()
    late = hold_back(world, 100)
    knowledge = world.settings.knowledge.model_copy(update={"thresholds": [3, 8, 14]})
    world.settings = world.with_settings(knowledge=knowledge)
    file = world.paths["sources"][0] / "interactions.parquet"
    log = pa.concat_tables([pq.read_table(file), late])
    pooler = CountingPooler()
    counts = push(world, late, pooler=pooler)
    assert counts["user_pooled_ab12"] == pooler.asked > 0
    for user in late["user_id"].unique().to_pylist():
        rows = sorted(r["event_timestamp"] for r in log.filter(pc.equal(log["user_id"], user)).to_pylist())
        reached = [k for k in (3, 8, 14) if k <= len(rows)]
        found = online(world, "user_pooled_ab12", [user])[0]
        if reached:
            assert found["watermark"] >= to_micros(rows[max(reached) - 1]) + 1
    assert push(world, late, pooler=pooler)["user_pooled_ab12"] == 0


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", pa.scalar(3, pa.int8()), "label"),
        ("event_timestamp", pa.scalar(dt.datetime(2031, 1, 1, tzinfo=dt.UTC), pa.timestamp("us", "UTC")), "later"),
        ("user_id", pa.scalar(None, pa.int64()), "null"),
    ],
)
def test_wrong_rows_are_refused_whole(make_world, column, value, message):
    world = make_world()
    late = hold_back(world, 5)
    place = late.schema.get_field_index(column)
    bad = late.set_column(
        place,
        column,
        pa.chunked_array([late[column].slice(0, 4).combine_chunks(), pa.array([value.as_py()], value.type)]),
    )
    with pytest.raises(DataError, match=message):
        push(world, bad)
    assert PushedLog(world.settings.root).digest(Window()) is None


def test_before_anything_was_materialised_it_says_what_to_run(make_world):
    world = make_world()
    rows = pq.read_table(world.paths["sources"][0] / "interactions.parquet").slice(0, 3)
    with pytest.raises(MissingArtifactError, match="materialize"):
        push(world, rows)


def test_no_rows_is_no_work(make_world):
    world = make_world()
    rows = pq.read_table(world.paths["sources"][0] / "interactions.parquet").slice(0, 0)
    assert feature_repo.push(world.settings, replay(world.now), rows, sources=world.paths["sources"]) == {}
