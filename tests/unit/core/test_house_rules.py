"""Rules that hold for the source of all rooms."""

import ast
import importlib
import re
from collections import Counter
from pathlib import Path

import pytest

from core.digest import REPOSITORY

FLOORS = [
    {"core"},
    {"ingest", "knowledge", "validation", "models"},
    {"feature_repo"},
    {"bento"},
    {"pipeline"},
    {"dags"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(path for room in FLOOR for path in (REPOSITORY / room).rglob("*.py"))
NOW = re.compile(
    r"datetime\.now\(|\.utcnow\(|\btime\.time(_ns)?\(|Timestamp\.(now|utcnow|today)\(|\bdate\.today\(|datetime\.today\("
    r"|pc\.now\(|CURRENT_TIMESTAMP|CURRENT_DATE|CURRENT_TIME\b|LOCALTIMESTAMP"
    r"|(?<![\w.])(from time import time\b|gmtime\(\)|localtime\(\))",
    re.IGNORECASE,
)
SQL_NOW = re.compile(r"(?<![\w.])(now|today|sysdate|getdate)\(\)", re.IGNORECASE)


def name(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def imported(tree: ast.AST) -> set[str]:
    """Top-level packages imported anywhere in a file, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.split(".")[0])
    return found


def wrong_imports(room: str, tree: ast.AST) -> set[str]:
    return {other for other in imported(tree) & FLOOR.keys() if other != room and FLOOR[other] >= FLOOR[room]}


def other_nows(text: str) -> list[str]:
    """Readings of the machine's time: calls in code, and functions within string constants (SQL)."""
    found = [match.group() for match in NOW.finditer(text)]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found += [match.group() for match in SQL_NOW.finditer(node.value)]
    return found


def pickles(tree: ast.AST) -> set[str]:
    """Ways to read or write pickle: its modules, and torch.load or numpy.load where they may unpickle."""
    found = imported(tree) & {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve"}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        call = ast.unparse(node.func)
        arguments = {word.arg: ast.unparse(word.value) for word in node.keywords}
        if call in ("torch.load", "torch.save", "pd.read_pickle") or node.func.attr == "to_pickle":
            found.add(call)
        if arguments.get("allow_pickle") == "True":
            found.add(f"{call}(allow_pickle=True)")
    return found


def test_there_are_files_to_judge():
    assert {"core/store.py", "ingest/read.py"} <= {name(path) for path in FILES}


@pytest.mark.parametrize("path", FILES, ids=name)
def test_a_room_imports_only_downwards(path):
    room = path.relative_to(REPOSITORY).parts[0]
    assert not wrong_imports(room, ast.parse(path.read_text()))


@pytest.mark.parametrize("path", [p for p in FILES if name(p) != "core/clock.py"], ids=name)
def test_the_clock_is_the_only_source_of_now(path):
    assert not other_nows(path.read_text())


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_pickled(path):
    assert not pickles(ast.parse(path.read_text()))


@pytest.mark.parametrize(
    ("room", "code"),
    [
        ("core", "from ingest import read_source"),
        ("ingest", "import models"),
        ("knowledge", "def f():\n    from validation import x"),
        ("bento", "import pipeline.cli as c"),
        ("models", "import feature_repo.views"),
    ],
)
def test_the_import_rule_finds_a_climb(room, code):
    assert wrong_imports(room, ast.parse(code))


def test_the_import_rule_allows_going_down_and_staying():
    assert not wrong_imports("bento", ast.parse("import bento.app, core, feature_repo, models, numpy"))


@pytest.mark.parametrize(
    "code",
    [
        "x = dt.datetime.now(UTC)",
        "x = datetime.utcnow()",
        "x = time.time()",
        "x = time.time_ns()",
        "from time import time",
        "x = pd.Timestamp.now()",
        "x = dt.date.today()",
        "x = 'SELECT CURRENT_TIMESTAMP'",
        "x = f'select now() - {n}'",
    ],
)
def test_the_clock_rule_finds_another_now(code):
    assert other_nows(code)


def test_the_clock_rule_allows_our_clock_and_durations():
    assert not other_nows("a = clock.now()\nb = self.now()\nc = time.monotonic()\nd = time.perf_counter()\ne = now()")


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from pickle import load", "torch.load(p, weights_only=False)", "np.load(p, allow_pickle=True)"],
)
def test_the_pickle_rule_finds_pickle(code):
    assert pickles(ast.parse(code))


@pytest.mark.parametrize("room", ["feature_repo", "knowledge", "models"])
def test_a_lazy_face_tells_type_checkers_what_it_hands_out(room):
    """Each name stands where a type checker reads it, in `__all__`, and where it is imported from."""
    module, tree = importlib.import_module(room), ast.parse((REPOSITORY / room / "__init__.py").read_text())
    typed = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for part in node.body
        for alias in part.names
    }
    assert typed == set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_no_two_test_files_share_a_name():
    """They are imported by it, and a run of all tests ends at the second."""
    files = sorted((REPOSITORY / "tests").rglob("test_*.py"))
    found = Counter(path.name for path in files)
    assert [name(path) for path in files if found[path.name] > 1] == []
