"""With the machine's clock, a night's job puts online what it has just built, whatever lag training assumes."""

import datetime as dt

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import feature_repo
from core import Clock, replay
from core.settings import FeatureSettings

pytestmark = pytest.mark.integration
DAY = dt.timedelta(days=1)
KINDS = ("user_stats", "user_history", "item_stats")


class Running(Clock):
    """A clock that runs, looked at in one moment."""

    def __init__(self, moment):
        super().__init__()
        object.__setattr__(self, "moment", moment)

    def now(self):
        return self.moment


@pytest.fixture
def lagging(world):
    """A world whose history assumes that a state can be read a day after it was built."""
    features = FeatureSettings(history_length=5, lag=dict.fromkeys(KINDS, DAY))
    world.settings = world.with_settings(features=features)
    feature_repo.build_features([world.folder / "validate"], world.folder / "features", world.settings, None)
    return world


def rows_of_users(world):
    log = pq.read_table(world.folder / "validate" / "interactions.parquet")
    counted = log.group_by("user_id").aggregate([("label", "count")])
    return dict(zip(counted["user_id"].to_pylist(), counted["label_count"].to_pylist(), strict=True))


def rows_online(world, clock):
    reader = feature_repo.OnlineReader(world.settings, clock, {"pooled": "ab12"})
    return {user: reader.read_user(user).values["user_rows"] for user in rows_of_users(world)}


def test_the_states_of_the_last_day_are_online_after_the_nights_job(lagging):
    clock = Running(lagging.now)
    feature_repo.materialize(lagging.settings, clock, **lagging.paths)
    assert rows_online(lagging, clock) == rows_of_users(lagging)


def test_a_replay_holds_them_back_until_their_lag_is_over(lagging):
    feature_repo.materialize(lagging.settings, replay(lagging.now), **lagging.paths)
    online = rows_online(lagging, replay(lagging.now))
    assert all((online[user] or 0) < rows for user, rows in rows_of_users(lagging).items())


def test_the_catalogue_of_a_running_clock_counts_the_last_day(lagging, tmp_path):
    def rows(clock, out):
        out.mkdir()
        feature_repo.build_catalogue(lagging.settings, clock, out=out, **lagging.paths)
        return sum(n or 0 for n in pq.read_table(out / "items.parquet")["item_rows"].to_pylist())

    assert rows(Running(lagging.now), tmp_path / "live") == sum(rows_of_users(lagging).values())
    assert rows(replay(lagging.now), tmp_path / "replay") < sum(rows_of_users(lagging).values())


def test_what_is_pushed_after_the_nights_job_is_newer_than_it(lagging):
    night = Running(lagging.now)
    feature_repo.materialize(lagging.settings, night, **lagging.paths)
    morning = Running(lagging.now + dt.timedelta(hours=6))
    log = pq.read_table(lagging.folder / "validate" / "interactions.parquet")
    column = log.schema.get_field_index("event_timestamp")
    at = pa.array([morning.now() - dt.timedelta(minutes=1)], log.schema.field(column).type)
    fresh = log.slice(0, 1).set_column(column, "event_timestamp", at)
    user = fresh["user_id"][0].as_py()
    feature_repo.push(lagging.settings, morning, fresh, sources=lagging.paths["sources"])
    assert rows_online(lagging, morning)[user] == rows_of_users(lagging)[user] + 1


def test_what_reads_back_is_what_was_built(lagging):
    clock = Running(lagging.now)
    feature_repo.materialize(lagging.settings, clock, **lagging.paths)
    later = Running(lagging.now + dt.timedelta(seconds=3))
    samples = feature_repo.sample_online(lagging.settings, later, **lagging.paths)
    found = [row for view in ("user_stats", "item_stats") for row in samples[view]]
    assert found
    assert [row["id"] for row in found if row["offline"] != row["online"]] == []
