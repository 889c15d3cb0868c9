import datetime as dt
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import feature_repo
from core import replay, to_micros
from core.errors import StorageError
from core.matrix import open_matrix
from feature_repo.generations import declared_generations
from feature_repo.materialization import apply, probe_of
from feature_repo.online import OnlineTable
from feature_repo.online_ids import OnlineIds
from feature_repo.views import value_views

pytestmark = pytest.mark.integration
HOUR = dt.timedelta(hours=1)


def written(world, now=None, start=None, end=None):
    return feature_repo.materialize(world.settings, replay(now or world.now), start=start, end=end, **world.paths)


def online_rows(world):
    """Every value view read back: view -> id -> row."""
    store, generation, paths = apply(world.settings, **world.paths)
    table = OnlineTable(store)
    rows = {}
    for view, feast_view in value_views(generation, paths).items():
        key = feast_view.join_keys[0]
        ids = pq.read_table(feast_view.batch_source.path, columns=[key])[key].to_pylist()
        rows[view] = dict(zip(ids, table.read(feast_view, ids), strict=True))
    return rows


def plain(row):
    return {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in row.items()}


def newest(file, key, now=None):
    """An oracle in plain Python: the last row of each id by event time, published by now."""
    best = {}
    for row in pq.read_table(file).to_pylist():
        if now is not None and row["event_timestamp"] > now:
            continue
        if row[key] not in best or row["event_timestamp"] > best[row[key]]["event_timestamp"]:
            best[row[key]] = row
    return best


def test_online_rows_equal_the_newest_source_rows(world):
    counts = written(world)
    rows = online_rows(world)
    for entity in ("user", "item"):
        expected = newest(world.paths["features"] / f"{entity}_stats", f"{entity}_id", world.now)
        assert set(rows[f"{entity}_stats"]) == set(expected)
        assert counts[f"{entity}_stats"] == len(expected)
        for key, row in expected.items():
            found = rows[f"{entity}_stats"][key]
            assert found["published"] == to_micros(row["event_timestamp"])
            assert found["watermark"] == to_micros(row["watermark"])
            for column in ("rows", "positives", "rate"):
                assert found[f"{entity}_{column}"] == row[f"{entity}_{column}"]
    users = {r["user_id"]: r for r in pq.read_table(world.paths["sources"][0] / "users.parquet").to_pylist()}
    assert {k: (r["age"], r["zip"]) for k, r in rows["user_features"].items()} == {
        k: (r["age"], r["zip"]) for k, r in users.items()
    }


def test_vectors_arrive_bit_for_bit(world):
    counts = written(world)
    rows = online_rows(world)
    for view, key in (("user_pooled", "user_id"), ("scenario", "scenario")):
        folder = world.paths["knowledge"] / view
        matrix = np.array(open_matrix(folder / "vectors.npy"))
        expected = newest(folder / "index.parquet", key)
        assert counts[f"{view}_ab12"] == len(expected) == len(rows[view])
        for name, row in expected.items():
            assert rows[view][name]["vector"].dtype == np.float32
            assert rows[view][name]["vector"].tobytes() == matrix[row["row"]].tobytes()


def test_histories_hold_the_newest_positives_newest_last(world):
    written(world)
    log = {}
    for row in pq.read_table(world.paths["features"] / "user_log").to_pylist():
        log.setdefault(row["user_id"], []).append((row["position"], row["item_id"]))
    for user, row in online_rows(world)["user_history"].items():
        assert row["history"] == [item for _, item in sorted(log.get(user, []))][-5:]


def test_twice_is_the_same(world):
    first_counts, first = written(world), online_rows(world)
    second_counts, second = written(world), online_rows(world)
    assert first_counts == second_counts
    assert {v: {k: plain(r) for k, r in rows.items()} for v, rows in first.items()} == {
        v: {k: plain(r) for k, r in rows.items()} for v, rows in second.items()
    }


def test_a_correction_with_the_same_timestamps_wins(world):
    written(world)
    file = world.paths["features"] / "user_stats"
    table = pq.read_table(file)
    corrected = pa.array([n + 1000 for n in table["user_rows"].to_pylist()], pa.int64())
    place = table.schema.get_field_index("user_rows")
    pq.write_table(table.set_column(place, table.schema.field(place), corrected), file / "0000.parquet")
    written(world)
    expected = {k: r["user_rows"] for k, r in newest(file, "user_id").items()}
    assert {k: r["user_rows"] for k, r in online_rows(world)["user_stats"].items()} == expected


def test_an_older_row_never_replaces_a_newer_one_of_the_same_second(world):
    written(world)
    store, generation, paths = apply(world.settings, **world.paths)
    view = value_views(generation, paths)["user_stats"]
    table = OnlineTable(store)
    batch = next(pq.ParquetFile(view.batch_source.path).iter_batches(3))

    def shifted(micros, rows):
        columns = {name: batch.column(name) for name in batch.schema.names}
        moved = [t + micros for t in columns["published"].to_pylist()]
        columns["published"] = pa.array(moved, pa.int64())
        columns["event_timestamp"] = columns["published"].cast(batch.schema.field("event_timestamp").type)
        columns["user_rows"] = pa.array([rows] * 3, pa.int64())
        return pa.RecordBatch.from_arrays([columns[n] for n in batch.schema.names], schema=batch.schema)

    ids = batch.column("user_id").to_pylist()
    assert table.write(view, shifted(500, 777)) == 3
    assert table.write(view, shifted(499, 1)) == 3
    assert [r["user_rows"] for r in table.read(view, ids)] == [777] * 3
    written(world)
    assert [r["user_rows"] for r in table.read(view, ids)] == [777] * 3


def test_rows_of_many_arrow_chunks_all_arrive(make_world):
    world = make_world(users=2500, items=20, rows=6000)
    counts = written(world)
    rows = online_rows(world)
    assert counts["user_features"] == 2500 == sum(r is not None for r in rows["user_features"].values())
    assert counts["user_stats"] == len(newest(world.paths["features"] / "user_stats", "user_id"))


def test_values_published_after_now_stay_offline(world):
    now = world.now - 12 * HOUR
    written(world, now=now)
    assert all(r["published"] <= to_micros(now) for r in online_rows(world)["user_stats"].values())


def test_a_window_writes_only_what_is_new(world):
    written(world)
    written(world, now=world.now + 26 * HOUR)
    later = written(world, now=world.now + 48 * HOUR, start=to_micros(world.now + 25 * HOUR))
    assert later["user_stats"] == later["user_history"] == later["user_features"] == later["item_features"] == 0


def moved(world, users):
    """Give some users another zip code."""
    file = world.paths["features"] / "users.parquet"
    table = pq.read_table(file)
    place = table.schema.get_field_index("zip")
    pairs = zip(table["user_id"].to_pylist(), table["zip"].to_pylist(), strict=True)
    zips = pa.array([f"{code}x" if user in users else code for user, code in pairs])
    pq.write_table(table.set_column(place, table.schema.field(place), zips), file)


def test_of_what_catalogues_say_a_window_writes_the_rows_that_changed(world):
    written(world)
    some = pq.read_table(world.paths["features"] / "users.parquet")["user_id"].to_pylist()[2:4]
    moved(world, some)
    assert day(world, 1)["user_features"] == 2
    rows = online_rows(world)["user_features"]
    assert {user for user, row in rows.items() if row["zip"].endswith("x")} == set(some)
    assert day(world, 2)["user_features"] == 0


def test_a_kill_between_writing_and_noting_writes_again(world, monkeypatch):
    written(world)
    some = pq.read_table(world.paths["features"] / "users.parquet")["user_id"].to_pylist()[2:4]
    moved(world, some)
    monkeypatch.setattr(OnlineIds, "note", lambda *_: None)
    assert day(world, 1)["user_features"] == 2
    monkeypatch.undo()
    assert day(world, 2)["user_features"] == 2
    assert day(world, 3)["user_features"] == 0


def changed(rows):
    """Ids whose values are not those of the offline store."""
    return [row["id"] for row in rows if row["offline"] != {name: row["online"][name] for name in row["offline"]}]


def day(world, number):
    """What the window writes that begins so many days after the log's end; nothing happened in it."""
    start = world.now + number * 24 * HOUR
    return written(world, now=start + 24 * HOUR, start=to_micros(start), end=to_micros(start + 24 * HOUR))


@pytest.fixture
def quiet(make_world):
    """A world without an event for three days, all of which were written."""
    world = make_world()
    written(world)
    for number in range(3):
        day(world, number)
    return world


@pytest.mark.parametrize(
    ("section", "change", "views"),
    [
        ("features", {"prior_weight": 3.0}, {"user_stats", "item_stats"}),
        ("features", {"prior_rate": 0.9}, {"user_stats", "item_stats"}),
        ("features", {"history_length": 2}, {"user_history"}),
        ("data", {"user_dense": ["age", "visits"]}, {"user_features"}),
    ],
)
def test_what_is_made_in_another_way_is_written_whole_by_the_next_window(quiet, section, change, views):
    dated_users(quiet)
    assert day(quiet, 3)["user_features"] == 0
    update = getattr(quiet.settings, section).model_copy(update=change)
    quiet.settings = quiet.with_settings(**{section: update})
    feature_repo.build_features(quiet.paths["sources"], quiet.paths["features"], quiet.settings, None)
    counts = day(quiet, 4)
    assert {view for view in ("user_stats", "item_stats", "user_history", "user_features") if counts[view]} == views
    samples = feature_repo.sample_online(quiet.settings, replay(quiet.now + 120 * HOUR), **quiet.paths)
    for view in views:
        assert counts[view] == (quiet.items if view == "item_stats" else quiet.users)
        assert changed(samples[view]) == []


@pytest.mark.parametrize(
    ("folder", "file", "column", "change"),
    [
        ("knowledge", "user_text", "version", lambda v: f"{v}-of-other-titles"),
        ("knowledge", "user_text", "text", lambda t: t.upper()),
    ],
)
def test_an_earlier_value_that_is_another_one_now_is_written_by_the_next_window(quiet, folder, file, column, change):
    """A corrected title, a replayed row, another version of texts: the gate would call what is online wrong."""
    path = quiet.paths[folder] / f"{file}.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index(column)
    other = pa.array([change(value) for value in table[column].to_pylist()], table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), other), path)
    assert day(quiet, 3)[file] == len(newest(path, "user_id"))
    samples = feature_repo.sample_online(quiet.settings, replay(quiet.now + 96 * HOUR), **quiet.paths)
    assert samples[file] and changed(samples[file]) == []
    assert day(quiet, 4)[file] == 0


def test_statistics_of_other_rows_are_written_whole_by_the_next_window(quiet):
    """A corrected file, replayed rows: values of before the window are others now, though their times are the same."""
    file = quiet.paths["sources"][0] / "interactions.parquet"
    log = pq.read_table(file)
    place = log.schema.get_field_index("label")
    labels = pa.array([1 - label for label in log["label"].to_pylist()], pa.int8())
    pq.write_table(log.set_column(place, log.schema.field(place), labels), file)
    feature_repo.build_features(quiet.paths["sources"], quiet.paths["features"], quiet.settings, None)
    counts = day(quiet, 3)
    assert counts["user_stats"] == counts["user_history"] == quiet.users
    samples = feature_repo.sample_online(quiet.settings, replay(quiet.now + 96 * HOUR), **quiet.paths)
    assert samples["user_stats"]
    assert changed(samples["user_stats"]) == changed(samples["user_history"]) == []
    assert day(quiet, 4)["user_stats"] == 0


def dated_users(world):
    """With a date, and a column that nobody declared."""
    file = world.paths["sources"][0] / "users.parquet"
    table = pq.read_table(file)
    for name in ("event_timestamp", "created_timestamp"):
        column = table.schema.get_field_index(name)
        field = table.schema.field(column)
        table = table.set_column(column, field, pa.array([world.now - 48 * HOUR] * len(table), field.type))
    table = table.append_column("visits", pa.array(range(len(table)), pa.int64()))
    pq.write_table(table, file)
    feature_repo.build_features(world.paths["sources"], world.paths["features"], world.settings, None)
    written(world, now=world.now + 72 * HOUR)


def test_a_window_writes_what_the_windows_missed_before_it(make_world):
    world = make_world()
    # Only the first half day was ever written; the windows up to yesterday's failed.
    half = world.now - 16 * HOUR
    written(world, now=half, end=to_micros(half))
    day(world, 2)
    samples = feature_repo.sample_online(world.settings, replay(world.now + 72 * HOUR), **world.paths)
    assert changed(samples["user_stats"]) == changed(samples["user_history"]) == []
    assert probe_of(world.settings, "user_stats").until == to_micros(world.now + 72 * HOUR)


def test_a_window_that_is_written_again_takes_nothing_back(quiet):
    before = probe_of(quiet.settings, "user_stats")
    day(quiet, -1)
    assert probe_of(quiet.settings, "user_stats").until == before.until


def test_after_another_recipe_only_what_was_made_anew_counts(quiet):
    features = quiet.settings.features.model_copy(update={"prior_weight": 3.0})
    quiet.settings = quiet.with_settings(features=features)
    day(quiet, -1)
    assert probe_of(quiet.settings, "user_stats").until == to_micros(quiet.now)
    assert probe_of(quiet.settings, "user_history").until == to_micros(quiet.now + 72 * HOUR)


def test_a_probe_of_an_earlier_version_is_read_and_its_view_filled_once_more(make_world):
    world = make_world()
    everything = written(world)
    for file in (world.settings.root / "feast" / "probes").glob("*/*.json"):
        body = json.loads(file.read_text())
        file.write_text(json.dumps({name: body[name] for name in ("view", "id", "rows", "since")}))
    reader = feature_repo.OnlineReader(world.settings, world.clock, {})
    assert reader.populated(["user_stats"])
    assert day(world, 2) | {"item_stats": 0} == everything | {"item_stats": 0}
    assert day(world, 3)["user_stats"] == 0


def test_a_probe_of_a_later_version_is_read(make_world):
    world = make_world()
    written(world)
    (file,) = (world.settings.root / "feast" / "probes").glob("*/user_stats.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "more": 1}))
    assert feature_repo.OnlineReader(world.settings, world.clock, {}).populated(["user_stats"])


def test_a_view_that_is_not_online_yet_is_filled_whatever_the_window(world):
    start = to_micros(world.now + 48 * HOUR)
    assert written(world, now=world.now + 72 * HOUR, start=start)["user_stats"] == world.users


def test_a_lost_online_store_is_filled_again(make_world):
    world = make_world()
    full = written(world)
    for file in (world.settings.root / "feast").glob("online.db*"):
        file.unlink()
    again = written(world, now=world.now + 72 * HOUR, start=to_micros(world.now + 48 * HOUR))
    assert {v: again[v] for v in again if v != "item_stats"} == {v: full[v] for v in full if v != "item_stats"}


def test_several_windows_of_users_count_once(make_world):
    world = make_world()
    second = world.folder / "second"
    shutil.copytree(world.paths["sources"][0], second)
    users = pq.read_table(second / "users.parquet")
    place = users.schema.get_field_index("zip")
    pq.write_table(users.set_column(place, "zip", pa.array(["new"] * len(users))), second / "users.parquet")
    paths = {**world.paths, "sources": [*world.paths["sources"], second], "features": world.folder / "both"}
    paths["features"].mkdir()
    feature_repo.build_features(paths["sources"], paths["features"], world.settings, None)
    counts = feature_repo.materialize(world.settings, world.clock, **paths)
    assert counts["user_features"] == world.users
    assert {r["zip"] for r in online_rows_of(world, paths)["user_features"].values()} == {"new"}


def online_rows_of(world, paths):
    store, generation, files = apply(world.settings, **paths)
    view = value_views(generation, files)["user_features"]
    ids = pq.read_table(view.batch_source.path)["user_id"].to_pylist()
    return {"user_features": dict(zip(ids, OnlineTable(store).read(view, ids), strict=True))}


def test_feast_itself_reads_the_same_values(world):
    written(world)
    store, generation, _ = apply(world.settings, **world.paths)
    row = online_rows(world)["user_pooled"]
    user = next(iter(row))
    answer = store.get_online_features(
        features=store.get_feature_service(generation.service),
        entity_rows=[{"user_id": user, "item_id": 1, "scenario": "red"}],
        full_feature_names=True,
    ).to_dict()
    assert np.float32(answer["user_pooled_ab12__vector"][0]).tobytes() == row[user]["vector"].tobytes()
    assert answer["user_stats__user_rows"][0] == online_rows(world)["user_stats"][user]["user_rows"]


def test_generations_are_remembered_the_newest_last(make_world):
    world = make_world()
    written(world)
    newer = make_world(name="newer", version="cd34")
    written(newer)
    found = [generation.vector("user_pooled").version for generation, _ in declared_generations(world.settings)]
    assert found == ["ab12", "cd34"]


def test_an_unreachable_registry_is_a_storage_error(make_world):
    world = make_world()
    registry = world.settings.registry.model_copy(
        update={"kind": "sql", "url": "postgresql+psycopg://nobody@127.0.0.1:9/none"}
    )
    with pytest.raises(StorageError, match="registry"):
        feature_repo.materialize(world.with_settings(registry=registry), world.clock, **world.paths)


def test_a_late_windows_users_are_online_at_once(make_world):
    world = make_world()
    log = pq.read_table(world.paths["sources"][0] / "interactions.parquet")
    noon = world.now - 12 * HOUR
    early = pc.less(log["event_timestamp"], pa.scalar(noon, log.schema.field("event_timestamp").type))
    gone = pc.equal(log["user_id"], log.filter(early)["user_id"][0])
    windows = {"early": log.filter(early), "late": log.filter(pc.invert(pc.or_(early, gone)))}
    paths = {}
    for name, rows in windows.items():
        shutil.copytree(world.paths["sources"][0], world.folder / name)
        pq.write_table(rows, world.folder / name / "interactions.parquet")
        paths[name] = {**world.paths, "sources": [world.folder / name], "features": world.folder / f"features_{name}"}
        paths[name]["features"].mkdir()
        feature_repo.build_features(paths[name]["sources"], paths[name]["features"], world.settings, None)
    only_early = set(windows["early"]["user_id"].to_pylist()) - set(windows["late"]["user_id"].to_pylist())
    assert len(only_early) >= 1
    clock = replay(world.now)
    feature_repo.materialize(world.settings, clock, start=to_micros(noon), end=to_micros(world.now), **paths["late"])
    feature_repo.materialize(
        world.settings, clock, start=to_micros(noon - 48 * HOUR), end=to_micros(noon), newest=False, **paths["early"]
    )
    reader = feature_repo.OnlineReader(world.settings, clock, {"pooled": "ab12"})
    expected = newest(paths["early"]["features"] / "user_stats", "user_id")
    for user in only_early:
        assert reader.read_user(user).values["user_rows"] == expected[user]["user_rows"]


@pytest.mark.parametrize(
    ("unread", "section", "off"),
    [(("user_text", "scenario_text"), "serving", "explain"), (("item_features", "item_stats"), "online", "items")],
)
def test_what_the_service_does_not_read_is_not_online(world, unread, section, off):
    counts = written(world)
    assert all(counts[view] for view in unread)
    before = online_rows(world)
    assert all(any(plain(row) for row in before[view].values()) for view in unread)
    told = world.settings
    silent = getattr(told, section).model_copy(update={off: False})
    world.settings = told.model_copy(update={section: silent})
    assert not set(unread) & set(written(world))
    after = online_rows(world)
    assert not any(row for view in unread for row in after[view].values())
    assert all(probe_of(world.settings, view) is None for view in unread)
    others = before.keys() - set(unread)
    assert {v: {k: plain(r) for k, r in after[v].items()} for v in others} == {
        v: {k: plain(r) for k, r in before[v].items()} for v in others
    }
    shown = feature_repo.sample_online(world.settings, replay(world.now), **world.paths)
    assert not set(unread) & set(shown)
    reader = feature_repo.OnlineReader(world.settings, replay(world.now), {"pooled": "ab12"})
    assert reader.populated(["user_stats", *(view for view in unread if view.startswith("item_"))])
    world.settings = told
    again = written(world)
    assert {view: again[view] for view in unread} == {view: counts[view] for view in unread}
