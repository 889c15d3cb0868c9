"""The version of code: which functions a stage runs, whatever is written about them."""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from core.digest import REPOSITORY, sha256_file, sha256_json

# The ground floor counts where it is imported; a room is its own modules, and what they import.
GROUND = "core"
_TEXTS = {".txt", ".j2", ".yaml"}


def code_version(rooms: Iterable[str]) -> str:
    """Hex SHA-256 of the syntax of the rooms' modules and of all modules of this project that they import, one from another,
    and of the rooms' templates.

    Comments, docstrings and layout do not count.

    Args:
        rooms: folders of this project, or single modules of them, e.g. `pipeline.report`.

    Raises:
        ValueError: there is no such room; a misspelt name must not pass as code that never changes.
    """
    rooms = sorted(set(rooms))
    own = [path for room in rooms if room != GROUND or len(rooms) == 1 for path in _files(_place(room))]
    texts = {_name(path): sha256_file(path) for path in own if path.suffix in _TEXTS}
    return sha256_json(texts | {_name(path): _syntax(path)[0] for path in _with_imports(own)})


def _place(room: str) -> Path:
    path = REPOSITORY.joinpath(*room.split("."))
    if not path.is_dir() and not (path := path.with_suffix(".py")).is_file():
        raise ValueError(f"{REPOSITORY}: {room!r} is no room")
    return path


def _files(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return [path for path in sorted(place.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


def _name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def _with_imports(files: Iterable[Path]) -> set[Path]:
    """The modules among some files, and all of the project that they import."""
    found: set[Path] = set()
    names: set[str] = set()
    waiting = [path for path in files if path.suffix == ".py"]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            new = [name for name in _syntax(path)[1] if name not in names]
            names.update(new)
            waiting += [module for name in new for module in _modules(name)]
    return found


def _modules(name: str) -> Iterator[Path]:
    """The files that an import of a dotted name runs, if they are of this project: packages on the way, and the module."""
    place = REPOSITORY
    for part in name.split("."):
        place = place / part
        if (package := place / "__init__.py").is_file():
            yield package
        elif (module := place.with_suffix(".py")).is_file():
            yield module
            return
        else:
            return


def _syntax(path: Path) -> tuple[str, tuple[str, ...]]:
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4096)
def _read(path: Path, _changed: int, _size: int) -> tuple[str, tuple[str, ...]]:
    """Digest of a module's syntax, and the dotted names it may import."""
    tree = ast.parse(path.read_bytes(), str(path))
    names: dict[str, None] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= dict.fromkeys(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # What is taken from a package may be a module of it.
            names |= dict.fromkeys([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            _without_docstring(node)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), tuple(names)


def _without_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> None:
    first = node.body[0] if node.body else None
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
        node.body = node.body[1:] or [ast.Pass()]
