"""How one live model takes over from another."""

from __future__ import annotations

import shutil
import weakref

import numpy as np
import pytest
from specs import pointer
from unit.bento.handmade import SCENARIO_DIM, Store, make_bundle, write_catalogue

import bento.live
import feature_repo
from bento.live import Live, Origin, checked_bundle
from core import ArtifactStore, Built, Settings, Window
from core.contracts.pointers import BundlePointer, CataloguePointer, PublishedCatalogue
from core.errors import BundleError, CorruptArtifactError


class Project:
    """A root with a catalogue and named bundles; what loading a bundle gives is decided here."""

    def __init__(self, root, monkeypatch):
        self.root, self.store, self.bundles = root, Store(), {}
        self.settings = Settings(root=root, clock={"mode": "wall"})
        monkeypatch.setattr(feature_repo, "OnlineReader", self.store.reader)
        monkeypatch.setattr(bento.live, "checked_bundle", self.load)
        monkeypatch.setattr(bento.live, "LATE_SECONDS", 0.0)
        monkeypatch.delenv("LLM4MSR_SEED_BUNDLE", raising=False)
        (root / "serving").mkdir(parents=True)

    def load(self, origin):
        found = self.bundles[origin.folder.name]
        if isinstance(found, Exception):
            raise found
        return found

    def publish_bundle(self, name, version):
        pointer(bundle=name, digest=name, version=version).publish(self.root)

    def publish_catalogue(self, name, **options):
        made = write_catalogue(self.root / name, **options)
        CataloguePointer(**made.model_dump()).publish(self.root)


@pytest.fixture
def project(tmp_path, monkeypatch):
    project = Project(tmp_path / "root", monkeypatch)
    project.bundles = {"one": make_bundle(), "two": make_bundle(), "bad": BundleError("weights: other bytes")}
    project.publish_catalogue("c1")
    project.publish_bundle("one", 1)
    return project


@pytest.fixture
def live(project):
    return Live(project.settings)


def test_the_same_pointers_change_nothing(live):
    assert live.refresh()
    before = live.current
    assert not live.refresh()
    assert live.current is before


def test_a_new_bundle_takes_over_with_the_same_catalogue(project, live):
    live.refresh()
    catalogue = live.current.catalogue
    project.publish_bundle("two", 2)
    assert live.refresh()
    assert (live.current.versions["version"], live.current.catalogue) == (2, catalogue)


@pytest.mark.parametrize("error", [BundleError("bad"), RuntimeError("bad"), AttributeError("bad")])
def test_whatever_a_bundle_raises_is_a_refusal(project, live, error):
    live.refresh()
    before = live.current
    project.bundles["bad"] = error
    project.publish_bundle("bad", 2)
    assert not live.refresh()
    assert (live.current, live.refused) == (before, "bad")
    project.publish_bundle("one", 1)
    live.refresh()
    assert live.refused is None


def test_a_bundle_that_cannot_score_is_refused(project):
    def exercise(model):
        if model.origin.folder.name == "two":
            raise ValueError("does not score")

    live = Live(project.settings, exercise)
    live.refresh()
    project.publish_bundle("two", 2)
    assert not live.refresh()
    assert live.current.versions["version"] == 1


def test_a_process_that_starts_before_its_views_are_filled_becomes_ready_later(project, live):
    project.store.populated = False
    assert live.refresh()
    assert not live.current.populated
    project.store.populated = True
    live.refresh()
    assert live.current.populated


def test_a_process_that_starts_while_the_store_is_dead_becomes_ready_later(project, live):
    project.store.dead = True
    live.refresh()
    assert (live.current.populated, live.current.scenario_vectors) == (False, {})
    project.store.dead = False
    live.refresh()
    assert live.current.populated
    assert set(live.current.scenario_vectors) == {"home"}


@pytest.mark.parametrize("trouble", ["dead", "empty"])
def test_a_new_bundle_waits_until_its_views_are_filled(project, live, trouble):
    live.refresh()
    project.store.dead, project.store.populated = trouble == "dead", False
    project.publish_bundle("two", 2)
    assert not live.refresh()
    assert (live.current.versions["version"], live.current.populated) == (1, True)
    project.store.dead, project.store.populated = False, True
    assert live.refresh()
    assert live.current.versions["version"] == 2


@pytest.mark.parametrize("trouble", ["dead", "empty"])
def test_a_loss_of_the_store_never_unreadies_and_a_new_catalogue_goes_live_anyway(project, live, trouble):
    live.refresh()
    project.store.dead, project.store.populated = trouble == "dead", False
    project.publish_catalogue("c2", ids=(11, 12, 13, 14, 16))
    assert live.refresh()
    assert live.current.populated
    assert 16 in live.current.catalogue.rows
    assert set(live.current.scenario_vectors) == {"home"}


def test_a_user_column_that_is_no_longer_online_is_reported_until_a_bundle_does_without_it(project, live):
    project.store.missing_columns = ["age"]
    live.refresh()
    assert live.current.reduced == ("user_features:missing_column",)
    project.store.missing_columns = []
    project.publish_bundle("two", 2)
    live.refresh()
    assert live.current.reduced == ()


def test_a_user_column_that_is_there_once_the_views_are_filled_is_no_longer_reported(project, live):
    project.store.populated, project.store.missing_columns = False, ["age"]
    live.refresh()
    project.store.populated, project.store.missing_columns = True, []
    live.refresh()
    assert (live.current.populated, live.current.reduced) == (True, ())


def test_scenario_knowledge_is_read_again_with_a_new_catalogue(project, live):
    live.refresh()
    project.store.scenarios["home"] = np.full(SCENARIO_DIM, 2, np.float32)
    live.refresh()
    project.publish_catalogue("c2", ids=(11, 12, 13, 14, 16))
    live.refresh()
    assert live.current.scenario_vectors["home"].tolist() == [2] * SCENARIO_DIM


def test_scenario_knowledge_that_comes_late_is_found(project, live):
    live.refresh()
    assert "search" not in live.current.scenario_vectors
    project.store.scenarios["search"] = np.ones(SCENARIO_DIM, np.float32)
    live.refresh()
    assert "search" in live.current.scenario_vectors


def test_scenario_knowledge_that_expires_is_no_longer_used(project):
    project.settings = Settings(root=project.root, clock={"mode": "wall"}, features={"ttl": {"scenario": "P1D"}})
    project.store.scenarios["search"] = np.ones(SCENARIO_DIM, np.float32)
    live = Live(project.settings)
    live.refresh()
    assert set(live.current.scenario_vectors) == {"home", "search"}
    project.store.scenarios["home"] = None
    live.refresh()
    assert set(live.current.scenario_vectors) == {"search"}
    project.store.scenarios["home"] = np.full(SCENARIO_DIM, 2, np.float32)
    live.refresh()
    assert live.current.scenario_vectors["home"].tolist() == [2] * SCENARIO_DIM


def test_scenario_knowledge_that_was_taken_away_is_gone_with_the_next_catalogue(project, live):
    live.refresh()
    project.store.scenarios["home"] = None
    project.publish_catalogue("c2", ids=(11, 12, 13, 14, 16))
    live.refresh()
    assert live.current.scenario_vectors == {}


def test_a_store_that_does_not_answer_takes_no_scenario_knowledge_away(project, live):
    live.refresh()
    project.store.dead = True
    project.publish_catalogue("c2", ids=(11, 12, 13, 14, 16))
    live.refresh()
    live.refresh()
    assert set(live.current.scenario_vectors) == {"home"}


def test_texts_of_another_version_wait_for_a_bundle_that_fits_and_items_do_not(project, live):
    live.refresh()
    old = live.current.catalogue
    project.publish_catalogue("c2", ids=(11, 12, 13, 15, 16), text_version="t2")
    live.refresh()
    now = live.current.catalogue
    assert now.digest != old.digest
    assert set(now.rows) == {11, 12, 13, 15, 16}  # 14 is withdrawn
    assert (now.text_version, live.current.reduced) == ("t1", ())
    assert np.array_equal(now.text[:2], old.text[:2])
    project.bundles["two"] = make_bundle(text_version="t2")
    project.publish_bundle("two", 2)
    live.refresh()
    assert (live.current.catalogue.text_version, live.current.reduced) == ("t2", ())


def test_a_roll_back_to_a_bundle_of_other_text_happens_and_says_what_it_lacks(project, live):
    project.publish_catalogue("c2", text_version="t2")
    project.bundles["two"] = make_bundle(text_version="t2")
    project.publish_bundle("two", 2)
    live.refresh()
    project.publish_bundle("one", 1)
    assert live.refresh()
    assert live.current.versions["version"] == 1
    assert live.current.reduced == ("item_text:other_version",)


def test_new_items_with_text_of_the_older_version_serve_the_bundle_that_reads_it(project, live):
    first = CataloguePointer.read(project.root)
    first = PublishedCatalogue(catalogue=first.catalogue, digest=first.digest)
    live.refresh()
    before = live.current
    newer = write_catalogue(project.root / "c2", ids=(12, 11, 13, 14, 99), text_version="t2")
    CataloguePointer(**newer.model_dump(), texts={"t1": first, "t2": newer}).publish(project.root)
    for served in (live, Live(project.settings)):  # a process that runs, and one that starts now
        assert served.refresh()
        catalogue = served.current.catalogue
        assert (served.current.reduced, catalogue.digest) == ((), newer.digest)
        assert np.array_equal(catalogue.text[:2], before.catalogue.text[[1, 0]])
        assert np.isnan(catalogue.text[4]).all()
    project.bundles["two"] = make_bundle(text_version="t2")
    project.publish_bundle("two", 2)
    live.refresh()
    assert (live.current.reduced, live.current.catalogue.text_version) == ((), "t2")
    project.publish_bundle("one", 1)
    live.refresh()
    assert (live.current.reduced, live.current.versions["version"]) == ((), 1)


def test_a_damaged_catalogue_is_refused(project, live):
    live.refresh()
    before = live.current
    project.publish_catalogue("c2", ids=(11, 12, 13, 14, 16))
    (project.root / "c2" / "items.parquet").write_bytes(b"nothing")
    assert not live.refresh()
    assert live.current is before
    assert "items.parquet" in live.refused


def test_the_seed_serves_while_nothing_is_published(project, live, monkeypatch):
    (project.root / "serving" / "current.json").unlink()
    live.refresh()
    assert live.current is None
    assert "llm4msr run" in live.refused
    monkeypatch.setenv("LLM4MSR_SEED_BUNDLE", "two")
    assert live.refresh()
    assert live.current.versions["model"] == "seed"
    project.publish_bundle("one", 1)
    live.refresh()
    assert live.current.versions["model"] == "m"


def test_the_seed_serves_at_a_start_where_the_champion_is_damaged(project, live, monkeypatch):
    monkeypatch.setenv("LLM4MSR_SEED_BUNDLE", "two")
    project.publish_bundle("bad", 1)
    live.refresh()
    assert (live.current.versions["model"], live.refused) == ("seed", "weights: other bytes")
    project.publish_bundle("one", 2)
    assert live.refresh()
    assert live.current.versions["version"] == 2


def test_nothing_is_served_without_a_catalogue(project, live):
    (project.root / "serving" / "catalogue.json").unlink()
    shutil.rmtree(project.root / "c1")
    assert not live.refresh()
    assert live.current is None


BROKEN = ["", "  ", "{", "null", "[]", "{}", "\x00" * 20, '{"catalogue": "../../etc", "digest": "0"}']


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("pointer", [BundlePointer, CataloguePointer])
def test_a_pointer_that_is_damaged_when_nothing_is_live_is_waited_out(project, live, pointer, broken):
    path = pointer.path(project.root)
    whole = path.read_text()
    path.write_text(broken)
    assert not live.refresh() and not live.refresh()
    assert live.current is None and str(path) in live.refused
    path.write_text(whole)
    assert live.refresh()
    assert live.current.versions["version"] == 1


def test_the_seed_serves_at_a_start_where_the_champions_pointer_is_damaged(project, live, monkeypatch):
    monkeypatch.setenv("LLM4MSR_SEED_BUNDLE", "two")
    path = BundlePointer.path(project.root)
    whole = path.read_text()
    path.write_text("")
    live.refresh()
    assert live.current.versions["model"] == "seed"
    path.write_text(whole)
    assert live.refresh() and live.current.versions["model"] == "m"


def test_a_swap_collects_nothing_and_leaves_nothing_behind(project, live, monkeypatch):
    """A full collection stops every request for as long as it takes."""
    monkeypatch.setattr(bento.live.gc, "collect", lambda *_: pytest.fail("a full collection beside requests"))
    gone = []
    live.refresh()
    try:
        for number in range(2, 6):
            gone.append(weakref.ref(live.current))
            project.publish_bundle("two" if number % 2 else "one", number)
            assert live.refresh()
            bento.live.gc.freeze()
        assert [one() for one in gone] == [None] * len(gone)
    finally:
        bento.live.gc.unfreeze()


@pytest.fixture
def trained(tmp_path):
    """A training artifact with a bundle's manifest in it."""

    def write(out):
        (out / "bundle_knowledge").mkdir()
        (out / "bundle_knowledge" / "manifest.json").write_text("{}")
        return Built()

    store = ArtifactStore(tmp_path / "root")
    return store.build("train", Window(), inputs={}, settings={}, rooms=["core"], builder=write)


def test_a_bundle_that_is_not_the_one_that_was_promoted_is_refused(trained):
    folder = trained.file("bundle_knowledge")
    with pytest.raises(BundleError, match="not the bundle that was promoted"):
        checked_bundle(Origin(folder, "m", 1, "0" * 64))
    (folder / "manifest.json").write_text("{ }")
    with pytest.raises(CorruptArtifactError, match="not the bytes that were published"):
        checked_bundle(Origin(folder, "m", 1, trained.digest))
