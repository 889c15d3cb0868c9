"""What no table holds any more is taken out of the online store, on every store and of every version."""

import shutil

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import feature_repo
from core.catalogues import Catalogues
from feature_repo.online import OnlineTable

pytestmark = pytest.mark.integration


def next_day(world, *, users=(), items=(), **changed):
    """A second window, whose catalogues lack these; `changed` columns of items have these values."""
    before, after = world.folder / "validate", world.folder / "next"
    shutil.copytree(before, after)
    for table, gone in (("users", users), ("items", items)):
        rows = pq.read_table(before / f"{table}.parquet")
        kept = pc.invert(pc.is_in(rows[f"{table[:-1]}_id"], pa.array(gone, rows.schema.field(0).type)))
        rows = rows.filter(kept)
        for name, value in changed.items() if table == "items" else ():
            place = rows.schema.get_field_index(name)
            rows = rows.set_column(place, rows.schema.field(name), pa.array([value] * len(rows), rows[name].type))
        pq.write_table(rows, after / f"{table}.parquet")
    for number, folder in enumerate((before, after)):
        Catalogues("snapshot", "snapshot", "log", as_of=number).write(folder)
    paths = {**world.paths, "sources": [before, after], "features": world.folder / "features_of_both"}
    paths["features"].mkdir()
    feature_repo.build_features(paths["sources"], paths["features"], world.settings, None)
    return paths


def user(world, one):
    return feature_repo.OnlineReader(world.settings, world.clock, {"pooled": "ab12"}).read_user(one)


def item(world, one):
    store = feature_repo.open_store(world.settings)
    return OnlineTable(store).read(store.get_feature_view("item_features"), [one])[0]


def test_a_withdrawn_user_loses_the_profile_and_keeps_the_history(world):
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    before = user(world, 2)
    paths = next_day(world, users=[2], items=[3], year=999.0)
    feature_repo.materialize(world.settings, world.clock, **paths)
    after = user(world, 2)
    assert (before.values["zip"], after.values["zip"]) == ("z1", None)
    assert after.status["user_features"] == "missing"
    assert after.history == before.history
    assert user(world, 4).values["zip"] == "z3"
    assert item(world, 3) is None
    assert item(world, 4)["year"] == 999.0


def test_a_late_window_brings_nothing_withdrawn_back(world):
    paths = next_day(world, users=[2], items=[3], year=999.0)
    feature_repo.materialize(world.settings, world.clock, **paths)
    feature_repo.materialize(world.settings, world.clock, **world.paths, newest=False)
    assert user(world, 2).values["zip"] is None
    assert item(world, 3) is None
    assert item(world, 4)["year"] == 999.0
    samples = feature_repo.sample_online(world.settings, world.clock, **world.paths, newest=False)
    assert not {"user_features", "item_features"} & samples.keys()


def test_a_user_who_is_gone_from_the_log_is_gone_online_and_the_views_stay_ready(world):
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    reader = feature_repo.OnlineReader(world.settings, world.clock, {"pooled": "ab12"})
    one = 1  # whom every view remembers as proof that it was filled
    assert user(world, one).history
    for file in [*world.folder.rglob("*.parquet")]:
        rows = pq.read_table(file)
        if "user_id" in rows.column_names:
            pq.write_table(rows.filter(pc.not_equal(rows["user_id"], one)), file)
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    assert set(user(world, one).status.values()) == {"missing"}
    assert reader.read_text("user", one) is None
    assert user(world, 2).status["user_stats"] == "found"
    assert reader.populated(["user_stats", "user_history", "user_pooled_ab12", "user_features"])


def test_a_lost_or_damaged_registry_is_made_anew(make_world):
    world = make_world()
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    registry = world.settings.root / "feast" / "registry.db"
    registry.write_bytes(registry.read_bytes()[:100])
    feature_repo.materialize(world.settings, world.clock, **world.paths)
    assert user(world, 2).status["user_stats"] == "found"
    assert registry.with_name("registry.db.damaged").is_file()
