"""What the site has beside the pages of `docs`: the reference, made from the code, and files of the repository that pages link to."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).resolve().parent)]

import reference

OUTSIDE = "repository"  # where files from outside of `docs` stand in the site
# A block with a file's name behind its language, as code hosts allow it.
NAMED = re.compile(r"^```(\w+) ([\w./-]+)$", re.MULTILINE)
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the empty lists of the navigation."""
    docs = Path(config.docs_dir)
    ordered = re.findall(r"\]\(([a-z-]+\.md)\)", (docs / "tutorials" / "README.md").read_text(encoding="utf-8"))
    there = sorted(page.name for page in (docs / "tutorials").glob("[!R]*.md"))
    listed = {
        "Tutorials": ["tutorials/README.md", *(f"tutorials/{name}" for name in dict.fromkeys([*ordered, *there]))],
        "Python": [f"reference/{room}.md" for room in reference.ROOMS],
        "How to run it": [
            "how-to/README.md",
            *(normpath(f"how-to/{name}") for name in _links(docs / "how-to" / "README.md")),
        ],
        "Backbones": [
            "backbones.md",
            *(name for name in _links(docs / "backbones.md") if name.startswith("backbones/")),
        ],
        "Rooms": [f"rooms/{page.name}" for page in sorted((docs / "rooms").glob("*.md"))],
        "Decisions": [
            "decisions/README.md",
            *(f"decisions/{page.name}" for page in sorted((docs / "decisions").glob("[!R]*.md"))),
        ],
    }
    config.nav = [_filled(entry, listed) for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference, and what pages link to outside of `docs`."""
    for name, text in reference.pages():
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        page, text = waiting.pop()
        for target in _outside(page, text):
            uri = f"{OUTSIDE}/{target}"
            if files.get_file_from_path(uri) is None:
                files.append(File.generated(config, uri, abs_src_path=str(REPOSITORY / target)))
                if target.endswith(".md"):
                    waiting.append((uri, (REPOSITORY / target).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links to such files to where they stand in the site."""
    here = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        target = _place(here, match[2])
        if target is None:
            return match[0]
        inside = target.removeprefix("docs/") if target.startswith("docs/") else f"{OUTSIDE}/{target}"
        return f"{match[1]}{relpath(inside, str(PurePosixPath(here).parent))}{match[3]}"

    return LINK.sub(moved, NAMED.sub(r'```\1 title="\2"', markdown))


def _links(page: Path) -> list[str]:
    """The pages that a page links to, each once, in order."""
    return list(dict.fromkeys(re.findall(r"\]\(([\w./-]+\.md)\)", page.read_text(encoding="utf-8"))))


def _filled(entry: Any, listed: dict[str, list[str]]) -> Any:
    if not isinstance(entry, dict):
        return entry
    return {
        name: listed[name]
        if value == []
        else [_filled(one, listed) for one in value]
        if isinstance(value, list)
        else value
        for name, value in entry.items()
    }


def _outside(page: str, text: str) -> Iterator[str]:
    """Files of the repository, outside of `docs`, that a page links to."""
    for match in LINK.finditer(text):
        target = _place(page, match[2])
        if target is not None and not target.startswith("docs/") and (REPOSITORY / target).is_file():
            yield target


def _place(page: str, link: str) -> str | None:
    """Where a link that leaves its shelf leads, from the repository's root; None for all other links."""
    if "://" in link or link.startswith("mailto:"):
        return None
    own = page.startswith(f"{OUTSIDE}/")
    home = PurePosixPath(page.removeprefix(f"{OUTSIDE}/") if own else f"docs/{page}").parent
    target = normpath(str(home / link))
    return target if own or not target.startswith("docs/") else None
