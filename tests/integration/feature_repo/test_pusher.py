"""The push path's own log: a user's rows without a scan, nothing lost, each row once."""

import datetime as dt
import io
import json

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq
import pytest
from test_push import CountingPooler, hold_back, online

import feature_repo
from core import Window, to_micros
from core.contracts.pointers import PushPointer
from core.errors import DataError, StorageError
from core.settings import ClockSettings
from feature_repo import CurrentPusher, Pusher
from feature_repo.statistics import entity_state
from feature_repo.user_log import UserLog
from ingest import PushedLog
from pipeline.commands.follow import follow
from pipeline.commands.push import push_file

pytestmark = pytest.mark.integration
SECOND = dt.timedelta(seconds=1)


@pytest.fixture
def behind(make_world):
    """An embedded world that has not seen its last 60 rows, and these."""
    world = make_world()
    return world, hold_back(world, 60)


def pusher(world, **kwargs):
    return Pusher(world.settings, world.clock, sources=world.paths["sources"], **kwargs)


def record(row, **change):
    return {**row, "event_timestamp": row["event_timestamp"].isoformat(), "created_timestamp": None, **change}


def test_it_reads_the_pushed_users_rows_only_and_the_log_once(behind, monkeypatch):
    world, late = behind
    mine = pusher(world)
    assert mine._log.prepare() == 540
    assert mine._log.prepare() == 0
    asked = []
    read = UserLog.read
    monkeypatch.setattr(UserLog, "read", lambda log, users, item: asked.append(list(users)) or read(log, users, item))
    mine.push(late.slice(0, 1))
    assert asked == [[late["user_id"][0].as_py()]]


def test_a_window_that_was_built_anew_replaces_its_rows(behind):
    world, _ = behind
    log = UserLog(world.settings.root, world.paths["sources"])
    log.prepare()
    file = world.paths["sources"][0] / "interactions.parquet"
    rows = pq.read_table(file)
    pq.write_table(rows.slice(0, 100), file)
    assert log.prepare() == 100
    users = rows["user_id"].unique().to_pylist()
    assert sum(map(len, log.read(users).values())) == 100


def test_of_two_rows_of_one_key_the_one_published_later_counts_and_of_equals_the_validated_one(behind):
    world, _ = behind
    rows = pq.read_table(world.paths["sources"][0] / "interactions.parquet")
    row = rows.slice(7, 1).to_pylist()[0]
    same = pc.and_(pc.equal(rows["user_id"], row["user_id"]), pc.equal(rows["event_timestamp"], row["event_timestamp"]))
    assert pc.sum(same).as_py() == 1
    log = UserLog(world.settings.root, world.paths["sources"])
    log.prepare()

    def label_after(created):
        other = {**row, "label": 1 - row["label"], "created_timestamp": created}
        log.pushed.add(pa.Table.from_pylist([other], schema=rows.schema))
        found = log.read([row["user_id"]])[row["user_id"]]
        return next(label for t, *_, label in found if t == to_micros(row["event_timestamp"]))

    assert label_after(row["created_timestamp"]) == row["label"]
    assert label_after(row["created_timestamp"] + SECOND) == 1 - row["label"]


def test_faulty_records_come_back_with_place_and_field_and_the_others_are_pushed(behind):
    world, late = behind
    good = [record(row) for row in late.slice(0, 3).to_pylist()]
    bad = {
        "user_id": record(good[0] | late.slice(3, 1).to_pylist()[0], user_id="nobody"),
        "item_id": {name: value for name, value in good[0].items() if name != "item_id"},
        "scenario": {**good[0], "scenario": "green"},
        "event_timestamp": {**good[0], "event_timestamp": "soon"},
        "label": {**good[0], "label": 2},
        "weight": {**good[0], "weight": -1.0},
        "": "click",
    }
    late_one = {**good[0], "event_timestamp": "2031-01-01T00:00:00Z"}
    done = pusher(world).push_records([*bad.values(), *good, late_one])
    assert [(f.row, f.field) for f in done.faults] == [*enumerate(bad), (len(bad) + 3, "event_timestamp")]
    assert all(fault.reason for fault in done.faults)
    assert done.rows == 3
    kept = PushedLog(world.settings.root).between(Window(), world.ids)
    assert sorted(map(str, kept.to_pylist())) == sorted(map(str, late.slice(0, 3).to_pylist()))


def test_a_zone_is_read_and_digits_may_be_text(behind):
    world, late = behind
    row = late.slice(59, 1).to_pylist()[0]
    zoned = row["event_timestamp"].astimezone(dt.timezone(dt.timedelta(hours=5, minutes=30))).isoformat()
    record = {**row, "user_id": str(row["user_id"]), "event_timestamp": zoned, "created_timestamp": None, "page": 3}
    pusher(world).push_records([record])
    kept = PushedLog(world.settings.root).between(Window(), world.ids)
    assert kept.to_pylist() == [row]


def publish(world, root):
    """The pointer that pushes start from; the artifacts, which lie beside the root here, are reached by a link in it."""
    beside = root / "beside"
    beside.symlink_to(root.parent)

    def place(path):
        return str(beside.relative_to(root) / path.relative_to(root.parent))

    sources, knowledge = [place(path) for path in world.paths["sources"]], place(world.paths["knowledge"])
    PushPointer(sources=sources, knowledge=knowledge, as_of=to_micros(world.now)).publish(root)


@pytest.fixture
def published(behind):
    """As after `materialize`: the pointer that pushes start from."""
    world, late = behind
    knowledge = world.settings.knowledge.model_copy(update={"user_vectors": ["prompt"]})
    clock = ClockSettings(mode="replay", at="log_end")
    world.settings = world.with_settings(knowledge=knowledge, clock=clock)
    publish(world, world.settings.root)
    return world, late


def test_a_files_good_rows_are_pushed_and_the_others_are_named_and_kept(published, tmp_path):
    world, late = published
    needed = late.select(["user_id", "item_id", "scenario", "event_timestamp", "label"])
    file = tmp_path / "fresh.csv"
    csv.write_csv(needed.slice(0, 5), file)
    assert "pushed 5 interactions" in push_file(world.settings, file)
    assert PushedLog(world.settings.root).between(Window(), world.ids).num_rows == 5

    rows = needed.slice(5, 4).to_pylist()
    rows[1]["scenario"] = "green"
    rows[2]["user_id"] = None
    csv.write_csv(pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in needed.schema])), file)
    message = "row 3, column 'scenario': unknown scenario; known: red, blue; 2 of 4 rows were refused.*pushed 2 inter"
    with pytest.raises(DataError, match=message):
        push_file(world.settings, file)
    assert PushedLog(world.settings.root).between(Window(), world.ids).num_rows == 7
    letters = [json.loads(x) for x in (world.settings.root / "live" / "rejected.jsonl").read_text().splitlines()]
    assert [(letter["line"], letter["field"]) for letter in letters] == [(3, "scenario"), (4, "user_id")]
    assert json.loads(letters[0]["text"])["scenario"] == "green"


def test_ids_of_digits_in_a_file_stay_the_text_they_are(make_world, tmp_path):
    world = make_world(text_ids=True)
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    clock = ClockSettings(mode="replay", at="log_end")
    knowledge = world.settings.knowledge.model_copy(update={"user_vectors": ["prompt"]})
    settings = world.with_settings(clock=clock, knowledge=knowledge)
    publish(world, settings.root)
    file = tmp_path / "fresh.csv"
    time = (world.now - dt.timedelta(microseconds=1)).isoformat()
    file.write_text(f"user_id,item_id,scenario,event_timestamp,label\n007,0528,red,{time},1\n")
    assert "pushed 1 interactions" in push_file(settings, file)
    rows = PushedLog(settings.root).between(Window(), world.ids).to_pylist()
    assert [(row["user_id"], row["item_id"]) for row in rows] == [("007", "0528")]


def test_a_new_window_is_taken_up_without_a_restart(published):
    world, late = published
    current = CurrentPusher(world.settings)
    first = current.get()
    assert current.get() is first
    pointer = PushPointer.read(world.settings.root)
    pointer.model_copy(update={"as_of": pointer.as_of + 1}).publish(world.settings.root)
    assert current.get() is not first
    assert current.get().clock.now_micros() == pointer.as_of + 1


def test_users_wait_while_the_store_is_down_and_the_next_push_writes_them(behind, monkeypatch):
    world, late = behind
    mine = pusher(world, pooler=CountingPooler())
    first, second = late.slice(0, 1), late.slice(1, 1)
    with monkeypatch.context() as broken:
        broken.setattr(feature_repo.pusher, "WRITE_BATCH", 1)
        broken.setattr(
            feature_repo.user_states.StateWriter, "write_states", lambda *_: (_ for _ in ()).throw(StorageError("down"))
        )
        with pytest.raises(StorageError):
            mine.push(first)
    users = {row["user_id"] for row in first.to_pylist() + second.to_pylist()}
    assert mine.push(second).users == len(users) == 2
    logs = mine._log.read(sorted(users))
    for user in users:
        expected = entity_state(mine._table(user, logs[user]), world.settings)
        assert online(world, "user_stats", [user])[0]["user_rows"] == expected.statistics["rows"]
    assert mine._log.pushed.waiting(mine.ids.user) == []


def test_a_line_with_half_a_character_goes_to_the_dead_letters_and_holds_up_nothing(make_world, tmp_path):
    world = make_world(text_ids=True)
    late = hold_back(world, 60)
    knowledge = world.settings.knowledge.model_copy(update={"user_vectors": ["prompt"]})
    settings = world.with_settings(knowledge=knowledge, clock=ClockSettings(mode="replay", at="log_end"))
    feature_repo.materialize(settings, world.clock, **world.paths)
    publish(world, settings.root)
    good = [record(row, weight=1.0) for row in late.slice(0, 2).to_pylist()]
    lines = [json.dumps(good[0]), json.dumps({**good[0], "user_id": "ann\ud83d"}), json.dumps(good[1])]
    file = tmp_path / "stream.jsonl"
    file.write_text("\n".join(lines))
    done = follow(settings, str(file), io.StringIO())
    assert (done.lines, done.pushed, done.rejected) == (3, 2, 1)
    [letter] = map(json.loads, (settings.root / "live" / "rejected.jsonl").read_text().splitlines())
    assert (letter["line"], letter["field"], letter["text"]) == (2, "user_id", lines[1])
    assert "half of a character" in letter["reason"]
