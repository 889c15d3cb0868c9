from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from unit.knowledge.knowledge_worlds import Row, log_rows, micros, read_source, write_source

from knowledge import due
from knowledge.log.snapshots import Snapshots, due_snapshots
from knowledge.log.sources import Log


def read(place: Path, rows: Sequence[Row]) -> Log:
    return read_source(write_source(place / "source", rows))[0]


def test_a_snapshot_is_due_just_after_the_row_that_reaches_a_threshold(tmp_path: Path) -> None:
    log = read(tmp_path, [(1, k % 8, "home", 10 * k, 1) for k in range(7)])
    found = due_snapshots(log, [3, 5, 100])
    assert found.watermarks.tolist() == [micros(20) + 1, micros(40) + 1]
    assert found.ends.tolist() == [3, 5]


def test_rows_of_one_moment_are_in_one_snapshot_together(tmp_path: Path) -> None:
    seconds = [0, 5, 5, 5, 9]
    log = read(tmp_path, [(1, k, "home", s, 1) for k, s in enumerate(seconds)])
    found = due_snapshots(log, [2, 3, 4, 5])
    assert found.watermarks.tolist() == [micros(5) + 1, micros(9) + 1]
    assert found.ends.tolist() == [4, 5]


def test_an_old_snapshot_is_due_again_at_the_users_next_row(tmp_path: Path) -> None:
    seconds = [0, 1, 2, 50, 103, 104, 300]
    log = read(tmp_path, [(1, k, "home", s, 1) for k, s in enumerate(seconds)] + [(2, 0, "home", 1000, 1)])
    found = due_snapshots(log, [3, 6], max_age=int(100e6))
    assert found.watermarks.tolist() == [micros(s) + 1 for s in (2, 103, 104, 300)]


def test_the_first_row_of_each_period_is_due_beside_the_thresholds(tmp_path: Path) -> None:
    seconds = [0, 1, 2, 50, 103, 104, 300, 300, 390]
    log = read(tmp_path, [(1, k % 8, "home", s, 1) for k, s in enumerate(seconds)] + [(2, 0, "home", 1000, 1)])
    assert micros(0) % int(100e6) == 0
    found = due_snapshots(log, [3, 5], every=int(100e6))
    assert found.watermarks.tolist() == [micros(s) + 1 for s in (2, 103, 300)]
    assert found.ends.tolist() == [3, 5, 8]
    assert due_snapshots(log, [3, 5], max_age=int(90e6), every=int(100e6)).watermarks.tolist()[-1] == micros(300) + 1


@pytest.mark.parametrize(("before", "after", "expected"), [(2, 3, True), (3, 4, False), (0, 9, True), (3, 3, False)])
def test_due_is_passing_a_threshold(before: int, after: int, expected: bool) -> None:
    assert due([3, 6], before, after) is expected


def test_snapshots_type_is_sliced_in_step(tmp_path: Path) -> None:
    log = read(tmp_path, log_rows())
    due = due_snapshots(log, [3, 6])
    newest = due.newest()
    assert isinstance(newest, Snapshots)
    assert newest.users.tolist() == sorted(set(due.users.tolist()))
    assert all(due.watermarks[due.users == u].max() == w for u, w in zip(newest.users, newest.watermarks, strict=True))
