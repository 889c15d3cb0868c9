"""What rooms hand to each other as JSON: types with format numbers, errors that name the file."""

from __future__ import annotations

import json

import pytest
from specs import SMALLEST, bundle_spec, dataset_spec

from core.contracts.bundle_spec import BundleSpec
from core.contracts.catalogue_spec import CatalogueSpec
from core.contracts.dataset_spec import DatasetSpec
from core.contracts.kinds import KINDS, by_name, find_kind, is_of, kinds_named, kinds_of
from core.contracts.knowledge_versions import KnowledgeVersions
from core.contracts.pointers import BundlePointer, CataloguePointer, PublishedCatalogue, PushPointer, rename_digests
from core.contracts.statistics import STATISTICS, find_statistic, statistic_columns
from core.errors import BundleError, CorruptArtifactError, DataError, MissingArtifactError

LIVE = {
    "bundle": "objects/train/ab/bundle_knowledge",
    "digest": "d2",
    "model": "ranker",
    "version": 2,
    "promoted_at": "2026-01-02T00:00:00+00:00",
    "reason": "better",
    "previous": {
        "bundle": "objects/train/aa/bundle_plain",
        "digest": "d1",
        "model": "ranker",
        "version": 1,
        "promoted_at": "2026-01-01T00:00:00+00:00",
        "reason": "first",
    },
}
CATALOGUE = {"catalogue": "objects/catalogue/ab", "digest": "c2"}


def write(root, pointer, text):
    path = pointer.path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    return path


def test_a_pointer_that_was_published_is_read_back(tmp_path):
    assert BundlePointer.read(tmp_path) is None
    BundlePointer.model_validate(LIVE).publish(tmp_path)
    found = BundlePointer.read(tmp_path)
    assert (found.version, found.previous.version) == (2, 1)
    assert found.folder(tmp_path) == tmp_path / LIVE["bundle"]
    assert json.loads(BundlePointer.path(tmp_path).read_text())["format"] == 1


def test_pointers_that_were_written_without_a_format_are_read(tmp_path):
    write(tmp_path, BundlePointer, LIVE | {"previous": {}})
    assert BundlePointer.read(tmp_path).previous is None
    write(tmp_path, CataloguePointer, CATALOGUE | {"texts": {"v2": CATALOGUE, "v1": CATALOGUE}})
    assert CataloguePointer.read(tmp_path).order == ["v2", "v1"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("  \n", "is empty"),
        ('{"bundle": "obj', "is not JSON"),
        ("[]", "no JSON object"),
        ("null", "no JSON object"),
        (json.dumps(LIVE | {"format": 9}), "format 9, this code reads 1; a later llm4msr wrote it"),
        (json.dumps({k: v for k, v in LIVE.items() if k != "digest"}), "digest: Field required"),
        (json.dumps(LIVE | {"version": "two"}), "version: "),
        (json.dumps(LIVE | {"colour": "red"}), "colour: "),
        ("\x00" * 40, "is not JSON"),
    ],
)
def test_a_pointer_that_cannot_be_used_names_its_file_and_field(tmp_path, text, told):
    path = write(tmp_path, BundlePointer, text)
    with pytest.raises(CorruptArtifactError) as error:
        BundlePointer.read(tmp_path)
    assert str(path) in str(error.value)
    assert told in str(error.value)


@pytest.mark.parametrize("place", ["/etc", "../elsewhere", "objects/../../elsewhere", "", "."])
def test_no_pointer_leads_out_of_its_root(tmp_path, place):
    pointers = [
        BundlePointer.model_validate(LIVE | {"bundle": place}).folder,
        BundlePointer.model_validate(LIVE | {"previous": LIVE["previous"] | {"bundle": place}}).previous.folder,
        CataloguePointer(catalogue=place, digest="c").folder,
        PushPointer(sources=["objects/validate/ab"], knowledge=place, as_of=0).knowledge_folder,
        PushPointer(sources=["objects/validate/ab", place], knowledge="objects/k/ab", as_of=0).source_folders,
    ]
    for folder in pointers:
        with pytest.raises(CorruptArtifactError, match="does not lie below"):
            folder(tmp_path)


def test_a_catalogue_pointer_keeps_the_newest_of_some_versions():
    held = None
    for number, version in enumerate(["a", "b", "c", "b", "d"]):
        held = CataloguePointer.after(held, PublishedCatalogue(catalogue=f"o/{number}", digest=str(number)), version, 2)
    assert held.order == ["c", "b", "d"]
    assert {version: one.digest for version, one in held.texts.items()} == {"c": "2", "b": "3", "d": "4"}
    assert held.digest == "4"


def test_digests_of_rewritten_artifacts_are_followed_everywhere(tmp_path):
    BundlePointer.model_validate(LIVE).publish(tmp_path)
    CataloguePointer(**CATALOGUE, texts={"v": PublishedCatalogue(**CATALOGUE)}, order=["v"]).publish(tmp_path)
    rename_digests(tmp_path, lambda digest: {"d1": "e1", "c2": "f2"}.get(digest, digest))
    champion, catalogue = BundlePointer.read(tmp_path), CataloguePointer.read(tmp_path)
    assert (champion.digest, champion.previous.digest) == ("d2", "e1")
    assert catalogue.digest == catalogue.texts["v"].digest == "f2"


def test_specs_are_read_back_as_they_were_written(tmp_path):
    spec = dataset_spec(vectors={"user_pooled": {"dim": 8, "version": "v1"}}, user_dense=["age"])
    spec.write(tmp_path)
    assert DatasetSpec.read(tmp_path) == spec
    assert spec.versions == {"user_pooled": "v1"}
    assert spec.without_vectors("user_pooled").vectors == {}
    bundle_spec().write(tmp_path)
    assert BundleSpec.read(tmp_path) == bundle_spec()
    CatalogueSpec(versions={"item_text": "v"}, as_of=1).write(tmp_path)
    assert CatalogueSpec.read(tmp_path).as_of == 1


def test_specs_that_cannot_be_used_say_what_to_do(tmp_path):
    (tmp_path / "spec.json").write_text(json.dumps(SMALLEST | {"scenarios": "feed"}))
    with pytest.raises(DataError, match=r"spec\.json: scenarios: .*llm4msr dataset"):
        DatasetSpec.read(tmp_path)
    (tmp_path / "spec.json").write_text(json.dumps(bundle_spec().as_json() | {"format": 0}))
    with pytest.raises(BundleError, match=r"format 0, this code reads 1, 2, 3; train again"):
        BundleSpec.read(tmp_path)


def test_versions_of_knowledge_that_are_not_there_name_the_file_and_the_kind(tmp_path):
    with pytest.raises(MissingArtifactError, match=r"holds no versions\.json; run `llm4msr knowledge`"):
        KnowledgeVersions.read(tmp_path)
    KnowledgeVersions(pooled="v1").write(tmp_path)
    assert KnowledgeVersions.of(tmp_path, "pooled") == "v1"
    with pytest.raises(CorruptArtifactError, match=r"versions\.json: prompt: missing"):
        KnowledgeVersions.of(tmp_path, "prompt")
    (tmp_path / "versions.json").write_text('{"pooled": 1}')
    with pytest.raises(CorruptArtifactError, match=r"versions\.json: pooled: "):
        KnowledgeVersions.read(tmp_path)


def test_kinds_are_looked_up():
    assert [kind.view for kind in kinds_of("user")] == ["user_pooled", "user_prompt"]
    assert find_kind("scenario").key == "scenario" and find_kind("user_stats") is None
    assert is_of("item_text", "item") and not is_of("user_text", "user")
    assert by_name({kind.view: "1" for kind in KINDS}) == {kind.name: "1" for kind in KINDS}
    assert [kind.name for kind in kinds_named(["prompt", "pooled", "item_text"])] == ["pooled", "prompt"]


def test_statistics_are_looked_up():
    assert list(statistic_columns("item")) == [f"item_{statistic.name}" for statistic in STATISTICS]
    assert find_statistic("user_rate").missing == "prior_rate"
    assert find_statistic("shop_rate") is None and find_statistic("rate") is None
