"""`llm4msr verify` finds what was altered, lost or led astray, and changes nothing."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from core import ArtifactStore, Built, Settings, Window
from core.contracts.pointers import BundlePointer, CataloguePointer, PublishedCatalogue, PushPointer
from core.errors import MissingArtifactError
from pipeline.cli import app
from pipeline.commands.verify import verify

WINDOW = Window()


@pytest.fixture
def world(tmp_path):
    """Artifacts of three stages and the pointers that name them."""
    settings = Settings(root=tmp_path / "root")
    store = ArtifactStore(settings.root)

    def build(stage, name):
        def write(out):
            (out / name).parent.mkdir(exist_ok=True)
            (out / name).write_text(stage)
            return Built(rows={"rows": 1})

        return store.build(stage, WINDOW, inputs={}, settings={}, rooms=["core"], builder=write)

    made = {
        "validate": build("validate", "rows.txt"),
        "train": build("train", "bundle_plain/manifest.json"),
        "catalogue": build("catalogue", "items.txt"),
    }
    place = {stage: str(manifest.path.relative_to(settings.root)) for stage, manifest in made.items()}
    release = {"bundle": f"{place['train']}/bundle_plain", "digest": made["train"].digest, "model": "m", "version": 1}
    BundlePointer(**release, promoted_at="2026-01-01T00:00:00Z", reason="first").publish(settings.root)
    newest = PublishedCatalogue(catalogue=place["catalogue"], digest=made["catalogue"].digest)
    CataloguePointer.after(None, newest, "v1", 3).publish(settings.root)
    PushPointer(sources=[place["validate"]], knowledge=place["validate"], as_of=1).publish(settings.root)
    return settings, made


def test_a_root_as_it_was_published_has_no_fault(world):
    settings, made = world
    found = verify(settings, [])
    assert (found.artifacts, found.faults) == (3, [])
    assert found.bytes == sum(len(stage) for stage in made)


def alter(path):
    path.write_bytes(path.read_bytes()[:-1] + b"?")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (
            lambda root, made: alter(made["train"].file("bundle_plain/manifest.json")),
            "not the bytes that were published",
        ),
        (lambda root, made: made["validate"].file("rows.txt").unlink(), "not the bytes that were published"),
        (lambda root, made: made["validate"].file("manifest.json").unlink(), "no readable manifest.json"),
        (lambda root, made: made["validate"].file("manifest.json").write_text("{"), "no readable manifest.json"),
        (lambda root, made: shutil.rmtree(made["catalogue"].path), "which is gone"),
        (lambda root, made: (root / "serving" / "push.json").write_text(""), "is empty"),
        (
            lambda root, made: (root / "serving" / "catalogue.json").write_text(
                json.dumps({"catalogue": "../../etc", "digest": "0"})
            ),
            "does not lie below",
        ),
        (
            lambda root, made: (root / "serving" / "current.json").write_text(
                (root / "serving" / "current.json").read_text().replace(made["train"].digest, "0" * 64)
            ),
            "is not the artifact that was published",
        ),
    ],
)
def test_what_is_damaged_or_gone_is_found(world, damage, told):
    settings, made = world
    damage(settings.root, made)
    assert any(told in fault for fault in verify(settings, []).faults)


def test_rows_that_the_manifest_counts_otherwise_are_found(world):
    settings, made = world
    path = made["validate"].file("manifest.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"rows": {"rows": 2}}))
    assert any("was altered" in fault for fault in verify(settings, ["validate"]).faults)
    assert verify(settings, ["train"]).faults == []


def test_an_unknown_stage_is_refused(world):
    with pytest.raises(MissingArtifactError, match="there are catalogue, train, validate"):
        verify(world[0], ["trane"])


def test_the_command_ends_with_one_where_something_is_wrong(world, tmp_path):
    settings, made = world
    file = tmp_path / "llm4msr.yaml"
    file.write_text(f"root: {settings.root}\n")
    done = CliRunner().invoke(app, ["verify", "--settings", str(file)])
    assert done.exit_code == 0 and "3 artifacts" in done.stdout
    alter(made["train"].file("bundle_plain/manifest.json"))
    done = CliRunner().invoke(app, ["verify", "--settings", str(file)])
    assert done.exit_code == 1 and str(made["train"].path) in done.stdout
