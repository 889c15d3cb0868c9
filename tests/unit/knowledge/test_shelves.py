"""The room's shelves stand on floors: an import goes down only."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from core.digest import REPOSITORY

ROOM = REPOSITORY / "knowledge"
# From the ground up; what stands in one line does not know of each other. Files beside the shelves go by their name.
FLOORS = [
    {"reasoners"},
    {"storage", "plan"},
    {"log", "forget"},
    {"texts", "pooling"},
    {"open_run", "inspection"},
    {"kinds"},
    {"parts", "build"},
    {"engines"},
    {"run"},
]
FLOOR = {shelf: floor for floor, shelves in enumerate(FLOORS) for shelf in shelves}
FILES = sorted(path for path in ROOM.rglob("*.py") if path != ROOM / "__init__.py")


def shelf_of(path: Path) -> str:
    return path.relative_to(ROOM).with_suffix("").parts[0]


def climbs(shelf: str, tree: ast.AST) -> set[str]:
    """Other shelves on the same floor or above that a module imports, annotations left out."""
    annotations = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in annotations and node.module:
            first, *rest = node.module.split(".")
            if first == "knowledge":
                found |= {rest[0]} if rest else {alias.name for alias in node.names}
    return {other for other in found - {shelf} if FLOOR[other] >= FLOOR[shelf]}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOM)))
def test_a_shelf_imports_only_downwards(path: Path) -> None:
    assert not climbs(shelf_of(path), ast.parse(path.read_text()))


def test_the_rule_finds_a_climb() -> None:
    assert climbs("storage", ast.parse("def f():\n    from knowledge.log.store import open_log")) == {"log"}
    assert climbs("texts", ast.parse("from knowledge import kinds, reasoners")) == {"kinds"}
    assert not climbs("kinds", ast.parse("from knowledge.texts import prompts"))
