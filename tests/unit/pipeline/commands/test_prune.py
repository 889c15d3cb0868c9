"""What may be removed, and what serving and the next run still need."""

from __future__ import annotations

import datetime as dt

import pytest
from specs import bundle_spec, pointer, release

from core import ArtifactStore, Built, Settings, Window
from core.errors import CorruptArtifactError, MissingArtifactError
from pipeline.commands.prune import remove, unneeded

AT_ONCE = dt.timedelta(0)
DAYS = [Window.parse(f"2024-01-0{day}", f"2024-01-0{day + 1}") for day in range(1, 6)]
# Stages and what they read.
CHAIN = {
    "validate": (),
    "features": ("validate",),
    "knowledge": ("validate",),
    "dataset": ("features", "knowledge"),
    "train": ("dataset",),
    "evaluate": ("train",),
    "promote": ("train", "evaluate"),
}


@pytest.fixture
def settings(tmp_path):
    """Five daily runs; knowledge names the day before it, with which it was compared."""
    settings = Settings(root=tmp_path / "root")
    for day in DAYS:
        run(settings, day)
    return settings


def run(settings, day, change="", version="v1"):
    store, made = ArtifactStore(settings.root), {}
    before = [m for m in store.all("knowledge") if m.window["start"] < day.as_json()["start"]]
    for stage, reads in CHAIN.items():
        inputs = {name: made[name].digest for name in reads}
        if stage == "knowledge":
            inputs |= {"earlier_0": before[-1].digest} if before else {}
        text = f"{stage} {day.key} {change if stage == 'train' else ''}"
        made[stage] = store.build(
            stage,
            day,
            inputs=inputs,
            settings={"text": text, "version": version},
            rooms=("core",),
            builder=lambda out, text=text: content(out, text, version),
        )
    return made


def content(out, text, version):
    """Some bytes, and the part of a bundle that says which vectors it reads."""
    (out / "bundle_knowledge").mkdir()
    vectors = dict.fromkeys(("user_pooled", "scenario"), {"dim": 2, "version": version})
    bundle_spec(vectors=vectors).write(out / "bundle_knowledge")
    return Built(rows={"n": (out / "data").write_text(text)}, versions={"pooled": version, "scenario": version})


def left(settings, stage):
    return {m.window["start"][:10] for m in ArtifactStore(settings.root).all(stage)}


def champion(settings, train, previous=None):
    before = previous and release(bundle=f"objects/train/{previous.path.name}/bundle_knowledge")
    pointer(before, bundle=f"objects/train/{train.path.name}/bundle_knowledge").publish(settings.root)


def test_old_windows_go_and_the_log_and_the_newest_windows_stay(settings):
    found = unneeded(settings, 2, AT_ONCE)
    assert {one.stage for one in found} == set(CHAIN) - {"validate"}
    assert remove(settings, found) == sum(one.size for one in found) > 0
    assert left(settings, "validate") == {f"2024-01-0{day}" for day in range(1, 6)}
    assert left(settings, "knowledge") == {"2024-01-03", "2024-01-04", "2024-01-05"}, (
        "the 4th was compared with the 3rd"
    )
    for stage in set(CHAIN) - {"validate", "knowledge"}:
        assert left(settings, stage) == {"2024-01-04", "2024-01-05"}, stage
    assert unneeded(settings, 2, AT_ONCE) == []
    with pytest.raises(MissingArtifactError, match="run `llm4msr dataset` first"):
        ArtifactStore(settings.root).get("dataset", DAYS[0])


def test_what_the_champion_and_the_one_before_it_were_made_from_stays(settings):
    store = ArtifactStore(settings.root)
    champion(settings, store.get("train", DAYS[2]), store.get("train", DAYS[0]))
    remove(settings, unneeded(settings, 1, AT_ONCE))
    for stage in ("features", "dataset", "train", "evaluate", "promote"):
        assert left(settings, stage) == {"2024-01-01", "2024-01-03", "2024-01-05"}, stage
    assert left(settings, "knowledge") == {"2024-01-01", "2024-01-03", "2024-01-04", "2024-01-05"}


def test_what_a_window_was_read_as_before_goes_unless_a_champion_was_made_of_it(settings):
    """So that rows of people whom the log no longer has do not stay for ever."""
    store = ArtifactStore(settings.root)
    champion(settings, store.get("train", DAYS[1]))
    replaced = {day: store.get("validate", day).path for day in DAYS[:2]}
    for day in DAYS[:2]:
        text = f"read again {day.key}"
        store.build(
            "validate",
            day,
            inputs={},
            settings={"text": text},
            rooms=("core",),
            builder=lambda out, text=text: content(out, text, "v1"),
        )
    found = unneeded(settings, 1, AT_ONCE)
    assert [one.path for one in found if one.stage == "validate"] == [replaced[DAYS[0]]]
    remove(settings, found)
    assert left(settings, "validate") == {f"2024-01-0{day}" for day in range(1, 6)}
    champion(settings, store.get("train", DAYS[4]))
    assert replaced[DAYS[1]] in [one.path for one in unneeded(settings, 1, AT_ONCE)]


def test_the_newest_knowledge_of_a_champions_versions_stays(tmp_path):
    """Later windows have other versions; the next comparison scores the champion with the newest of its own."""
    settings = Settings(root=tmp_path / "root")
    for number, day in enumerate(DAYS):
        run(settings, day, version="v1" if number < 3 else "v2")
    champion(settings, ArtifactStore(settings.root).get("train", DAYS[0]))
    remove(settings, unneeded(settings, 1, AT_ONCE))
    assert "2024-01-03" in left(settings, "knowledge")


def test_nothing_is_pruned_beside_a_damaged_champion(settings):
    train = ArtifactStore(settings.root).get("train", DAYS[1])
    champion(settings, train)
    (train.path / "bundle_knowledge" / "spec.json").unlink()
    with pytest.raises(CorruptArtifactError, match="spec.json is gone"):
        unneeded(settings, 1, AT_ONCE)


def test_an_artifact_that_another_has_replaced_goes(settings):
    old = ArtifactStore(settings.root).get("train", DAYS[4]).path
    new = run(settings, DAYS[4], change="another seed")["train"].path
    found = unneeded(settings, 5, AT_ONCE)
    assert [one.path for one in found if one.stage == "train"] == [old]
    assert [one.refs for one in found if one.stage == "train"] == [()]
    remove(settings, found)
    assert new.is_dir()
    assert not old.exists()
    assert ArtifactStore(settings.root).get("train").path == new


def test_the_artifact_that_latest_names_stays_although_its_window_is_old(settings):
    run(settings, DAYS[0])
    remove(settings, unneeded(settings, 1, AT_ONCE))
    assert left(settings, "train") == {"2024-01-01", "2024-01-05"}


def test_a_young_artifact_stays(settings):
    assert unneeded(settings, 1, dt.timedelta(hours=1)) == []


def test_listing_removes_nothing(settings):
    before = sorted(settings.root.rglob("*"))
    unneeded(settings, 1, AT_ONCE)
    assert sorted(settings.root.rglob("*")) == before


def test_a_kill_between_reference_and_artifact_leaves_nothing_dangling(settings, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ArtifactStore, "retire", killed)
        remove(settings, unneeded(settings, 1, AT_ONCE))
    for stage in CHAIN:
        assert ArtifactStore(settings.root).all(stage)
    remove(settings, unneeded(settings, 1, AT_ONCE))
    assert left(settings, "features") == {"2024-01-05"}
    assert len(list((settings.root / "objects" / "features").iterdir())) == 1


def test_a_damaged_manifest_is_left_alone(settings, caplog):
    path = ArtifactStore(settings.root).get("evaluate", DAYS[0]).path
    (path / "manifest.json").write_text("{")
    remove(settings, unneeded(settings, 1, AT_ONCE))
    assert path.is_dir()
