"""Databases keep to the memory they are given, and leave nothing behind."""

from __future__ import annotations

import ast
from pathlib import Path

import duckdb
import pytest

from core.duck import database
from core.resources import memory, memory_limit

ROOMS = ("core", "ingest", "validation", "feature_repo", "knowledge", "models", "pipeline", "bento", "dags")
# Some 400 MB as DuckDB holds them, sorted by what it cannot know beforehand.
_SORT = "SELECT i, hash(i)::VARCHAR || repeat('x', 60) AS text FROM range(4000000) r(i) ORDER BY hash(i)"


def _last(connection: duckdb.DuckDBPyConnection) -> int:
    count = 0
    for batch in connection.sql(_SORT).to_arrow_reader(100_000):
        count += batch.num_rows
    return count


def test_what_does_not_fit_goes_to_the_disk_and_is_gone_at_the_end(tmp_path: Path) -> None:
    with memory_limit(150_000_000), database(tmp_path, threads=1) as connection:
        assert _last(connection) == 4_000_000
        assert list(tmp_path.glob(".spill-*/*")), "nothing was spilled: the limit does not hold"
    assert not list(tmp_path.iterdir())


def test_a_folder_to_spill_to_that_is_not_there_yet_is_made(tmp_path: Path) -> None:
    with memory_limit(150_000_000), database(tmp_path / "some" / "work", threads=1) as connection:
        assert _last(connection) == 4_000_000


def test_the_limit_is_the_processes_own(tmp_path: Path) -> None:
    with memory_limit(300_000_000), database(tmp_path, share=0.5) as connection:
        assert connection.sql("SELECT current_setting('memory_limit')").fetchall() == [("143.0 MiB",)]
    assert memory() == 2_000_000_000


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), memory_limit(150_000_000), database(tmp_path, threads=1) as connection:
        _last(connection)
        raise ZeroDivisionError
    assert memory() == 2_000_000_000
    assert not list(tmp_path.iterdir())


def test_no_room_opens_a_database_without_a_limit() -> None:
    root = Path(__file__).parents[3]
    files = [
        file for room in ROOMS for file in sorted((root / room).rglob("*.py")) if file != root / "core" / "duck.py"
    ]
    opened = [
        f"{file.relative_to(root)}:{node.lineno}"
        for file in files
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in {("duckdb", "connect"), ("duckdb", "sql"), ("duckdb", "query")}
    ]
    assert files
    assert not opened
