"""The documentation site: built strictly, whole, and without anything from elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core.contracts.bundle_spec import BundleSpec
from core.contracts.catalogue_spec import CatalogueSpec
from core.contracts.dataset_spec import DatasetSpec
from core.contracts.kinds import KINDS
from core.contracts.pointers import BundlePointer, CataloguePointer, PushPointer
from core.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[3]


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    # Not `--quiet`: it hides warnings from the strict mode, too, and every link would pass.
    command = [sys.executable, "-m", "mkdocs", "build", *arguments]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build("--site-dir", str(folder))
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def text(page: Path) -> str:
    return re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8"))


def test_the_site_has_every_page_and_a_reference(site):
    pages = {path.relative_to(REPOSITORY / "docs").with_suffix(".html") for path in (REPOSITORY / "docs").rglob("*.md")}
    left_out = {Path("walkthrough.form.html")}
    assert [page for page in pages - left_out if not (site / str(page).replace("README", "index")).is_file()] == []
    assert {path.stem for path in (site / "reference").glob("*.html")} > {"settings", "commands", "tables", "models"}


def test_no_page_loads_anything_from_elsewhere(site):
    loaded = re.compile(r"""<(?:script|img|iframe|link|source)\b[^>]*?(?:src|href)=["']?((?:https?:)?//[^"'\s>]+)""")
    found = {url for page in site.rglob("*.html") for url in loaded.findall(page.read_text(encoding="utf-8"))}
    assert found == set()
    assert (site / "assets" / "iframe-worker.js").is_file()


def test_pages_can_be_searched_without_a_server(site):
    index = (site / "search" / "search_index.js").read_text(encoding="utf-8")
    places = {entry["location"] for entry in json.loads(index.removeprefix("var __index = "))["docs"]}
    assert {"glossary.html", "reference/commands.html#knowledge-plan"} <= places


def test_the_reference_lists_every_section_and_field_of_the_settings(site):
    told = text(site / "reference" / "settings.html")
    fields = {
        f"{name}.{inner}" if hasattr(field.annotation, "model_fields") else name
        for name, field in Settings.model_fields.items()
        for inner in getattr(field.annotation, "model_fields", [""])
    }
    assert [name for name in fields if name not in told] == []


def test_the_reference_has_the_fields_of_specs_and_pointers(site):
    told = text(site / "reference" / "formats.html")
    contracts = (BundleSpec, CatalogueSpec, DatasetSpec, BundlePointer, CataloguePointer, PushPointer)
    assert [name for contract in contracts for name in contract.model_fields if name not in told] == []
    assert [kind.view for kind in KINDS if kind.view not in told] == []


def test_the_reference_shows_arguments_and_returns_of_public_functions(site):
    told = text(site / "reference" / "models.html")
    assert "load_bundle" in told and "Raises:" in told and "check_golden" in told


@pytest.mark.parametrize("link", ["nowhere.md", "other.md#nowhere", "/other.md"])
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path, link):
    settings = yaml.load((REPOSITORY / "mkdocs.yml").read_text(), yaml.BaseLoader)
    small = {name: settings[name] for name in ("site_name", "strict", "validation")} | {
        "theme": "mkdocs",
        "plugins": [],
    }
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(small | {"strict": True}))
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "other.md").write_text("# Other\n")
    (pages / "index.md").write_text("# Home\n\n[good](other.md#other)\n")
    assert build("--config-file", str(tmp_path / "mkdocs.yml")).returncode == 0
    (pages / "index.md").write_text(f"# Home\n\n[bad]({link})\n")
    done = build("--config-file", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0 and link.split("#")[0].lstrip("/") in done.stderr
