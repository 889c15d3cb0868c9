import json

import numpy as np
import pyarrow.parquet as pq
import pytest

import feature_repo
from core.matrix import open_matrix

pytestmark = pytest.mark.integration


def built(world, name="catalogue"):
    out = world.folder / name
    out.mkdir()
    return out, feature_repo.build_catalogue(world.settings, world.clock, out=out, **world.paths)


def test_items_vectors_and_scenarios_are_aligned(make_world):
    world = make_world()
    out, report = built(world)
    items = pq.read_table(out / "items.parquet").to_pylist()
    text = np.array(open_matrix(out / "item_text.npy"))
    index = pq.read_table(world.paths["knowledge"] / "item_text" / "index.parquet").to_pylist()
    matrix = np.array(open_matrix(world.paths["knowledge"] / "item_text" / "vectors.npy"))
    rows = {r["item_id"]: r["row"] for r in index}
    assert [i["item_id"] for i in items] == sorted(i["item_id"] for i in items)
    for item, vector in zip(items, text, strict=True):
        if item["item_id"] in rows:
            assert vector.tobytes() == matrix[rows[item["item_id"]]].tobytes()
        else:
            assert np.isnan(vector).all()
    assert report.rows == {"items": 30, "withdrawn": 0, "item_text": len(rows), "scenarios": 2}
    assert pq.read_table(out / "scenarios.parquet")["scenario"].to_pylist() == ["red", "blue"]
    spec = json.loads((out / "spec.json").read_text())
    assert spec["as_of"] == world.clock.now_micros()
    assert spec["versions"]["item_text"] == "ab12"


def test_statistics_are_those_of_now(make_world):
    world = make_world()
    out, _ = built(world)
    newest = {}
    for row in pq.read_table(world.paths["features"] / "item_stats").to_pylist():
        if row["event_timestamp"] <= world.now:
            newest[row["item_id"]] = row
    for item in pq.read_table(out / "items.parquet").to_pylist():
        expected = newest.get(item["item_id"], {})
        for column in ("item_rows", "item_positives", "item_rate"):
            assert item[column] == expected.get(column)


def test_a_title_can_be_a_feature_too(make_world):
    world = make_world()
    data = world.settings.data.model_copy(update={"item_categorical": ["title"]})
    out = world.settings.root / "catalogue"
    out.mkdir(parents=True)
    feature_repo.build_catalogue(world.with_settings(data=data), world.clock, out=out, **world.paths)
    items = pq.read_table(out / "items.parquet")
    assert items.column_names.count("title") == 1
    assert "title" in json.loads((out / "spec.json").read_text())["columns"]


def test_the_same_again_has_the_same_bytes(make_world):
    world = make_world()
    first, second = built(world)[0], built(world, "again")[0]
    assert sorted(p.name for p in first.iterdir()) == [
        "item_text",
        "items.parquet",
        "scenarios.parquet",
        "spec.json",
        "withdrawn.parquet",
    ]
    for file in (path for path in first.rglob("*") if path.is_file()):
        assert file.read_bytes() == (second / file.relative_to(first)).read_bytes()


def test_vectors_that_the_catalogue_before_has_are_linked(make_world):
    world = make_world()
    first, out = built(world)[0], world.folder / "linked"
    out.mkdir()
    feature_repo.build_catalogue(world.settings, world.clock, out=out, earlier=first, **world.paths)
    ours, theirs = ((folder / "item_text" / "0000.npy").stat().st_ino for folder in (out, first))
    assert ours == theirs
    assert pq.read_table(out / "items.parquet") == pq.read_table(first / "items.parquet")
