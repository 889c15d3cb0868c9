from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from knowledge_worlds import Row, log_rows, micros, read_source, write_source

from core.settings import DataSettings
from knowledge import due, pooled
from knowledge.logstore import open_log
from knowledge.snapshots import Snapshots, due_snapshots
from knowledge.sources import Log, read_catalogue


def read(place: Path, rows: list[Row]) -> Log:
    return read_source(write_source(place / "source", rows))[0]


def vectors(items: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(items, width)).astype(np.float16)


def gather(log: Log, snapshots: Snapshots, matrix: np.ndarray, known: np.ndarray) -> np.ndarray:
    parts = list(pooled.pool(log, snapshots, matrix, known))
    assert [p.start for p, _ in parts] == [0, *(p.stop for p, _ in parts[:-1])]
    return np.concatenate([v for _, v in parts])


def times_of(log: Log, snapshots: Snapshots, user: int) -> list[int]:
    return snapshots.watermarks[snapshots.users == user].tolist()


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


def test_the_cap_keeps_the_most_active_users(tmp_path: Path) -> None:
    rows = [(u, k, "home", k, 1) for u, n in ((1, 2), (2, 5), (3, 5), (4, 1)) for k in range(n)]
    source = write_source(tmp_path / "source", rows)
    with open_log([source], tmp_path, read_catalogue([source], DataSettings()), micros(100)) as log:
        assert log.most_active(1).to_pylist() == [2]
        assert log.most_active(3).to_pylist() == [2, 3, 1]


def test_pooled_vectors_are_means_over_the_rows_before_the_watermark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, matrix = read(tmp_path, log_rows(users=40, rows=30)), vectors()
    known = np.ones(8, dtype=bool)
    found = due_snapshots(log, [1, 3, 6, 10, 25])
    whole = gather(log, found, matrix, known)
    for i in range(len(found)):
        rows = (log.users == found.users[i]) & (log.times < found.watermarks[i])
        halves = [matrix[log.items[rows & (log.labels == wanted)]].astype(float) for wanted in (True, False)]
        expected = np.concatenate([h.mean(0) if len(h) else np.zeros(12) for h in halves])
        np.testing.assert_allclose(whole[i], expected, atol=2e-6)
    monkeypatch.setattr(pooled, "CHUNK_ROWS", 100)
    assert np.array_equal(gather(log, found, matrix, known), whole)


def test_one_user_alone_has_the_same_bytes_as_in_the_batch(tmp_path: Path) -> None:
    log, matrix = read(tmp_path, log_rows(users=20, rows=30)), vectors()
    found = due_snapshots(log, [3, 6, 25])
    whole = gather(log, found, matrix, np.ones(8, dtype=bool))
    random = np.random.default_rng(5)
    for i in range(len(found)):
        rows = slice(log.starts[found.users[i]], found.ends[i])
        items, labels = log.items[rows], log.labels[rows]
        halves = [matrix[random.permutation(items[labels == wanted])] for wanted in (True, False)]
        alone = pooled.pool_one(*((half, np.ones(len(half))) for half in halves))
        assert alone is not None
        assert alone.tobytes() == whole[i].tobytes()


def test_items_without_a_vector_do_not_count(tmp_path: Path) -> None:
    log = read(tmp_path, [(1, 0, "home", 0, 1), (1, 1, "home", 1, 1), (1, 99, "home", 2, 1), (2, 1, "home", 0, 1)])
    matrix, known = vectors(), np.arange(8) != 1
    first, second = gather(log, due_snapshots(log, [1, 3]).newest(), matrix, known)
    np.testing.assert_allclose(first[:12], matrix[0].astype(float), atol=2e-6)
    assert (first[12:] == 0).all()
    assert np.isnan(second).all()
    nothing = matrix[:0], np.ones(0)
    assert pooled.pool_one(nothing, nothing) is None


def test_with_a_half_life_a_row_counts_half_as_much_a_period_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, matrix = read(tmp_path, log_rows(users=40, rows=30)), vectors()
    known, found, half_life = np.arange(8) != 5, due_snapshots(log, [1, 3, 6, 10, 25]), int(7e6)
    parts = list(pooled.pool(log, found, matrix, known, half_life))
    whole = np.concatenate([v for _, v in parts])
    for i in range(len(found)):
        rows = (log.users == found.users[i]) & (log.times < found.watermarks[i]) & known[log.items]
        if not rows.any():
            assert np.isnan(whole[i]).all()
            continue
        old = found.watermarks[i] // half_life - log.times[rows] // half_life
        weight, items, labels = 0.5 ** np.minimum(old, 16), log.items[rows], log.labels[rows]
        expected = np.zeros(24)
        for half, wanted in ((slice(12), True), (slice(12, 24), False)):
            if (labels == wanted).any():
                mine = labels == wanted
                expected[half] = np.average(matrix[items[mine]].astype(float), axis=0, weights=weight[mine])
        np.testing.assert_allclose(whole[i], expected, atol=2e-6)
    monkeypatch.setattr(pooled, "CHUNK_ROWS", 100)
    again = np.concatenate([v for _, v in pooled.pool(log, found, matrix, known, half_life)])
    np.testing.assert_array_equal(again, whole)
    plain = gather(log, found, matrix, known)
    assert not np.allclose(plain, whole, atol=1e-3, equal_nan=True)
    lasting = np.concatenate([v for _, v in pooled.pool(log, found, matrix, known, int(1e16))])
    np.testing.assert_array_equal(lasting, plain)


def test_with_a_half_life_one_users_many_snapshots_come_in_chunks_of_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, matrix = read(tmp_path, [(1, k % 8, "home", 10 * k, int(k % 3 > 0)) for k in range(60)]), vectors()
    known, found = np.ones(8, dtype=bool), due_snapshots(log, range(1, 61))
    [(_, whole)] = pooled.pool(log, found, matrix, known, int(100e6))
    monkeypatch.setattr(pooled, "CHUNK_ROWS", 200)
    parts = list(pooled.pool(log, found, matrix, known, int(100e6)))
    assert [p.start for p, _ in parts] == [0, *(p.stop for p, _ in parts[:-1])]
    assert max((found.ends[p] + 16).sum() for p, _ in parts) <= 200
    assert np.concatenate([v for _, v in parts]).tobytes() == whole.tobytes()


def test_small_weights_keep_their_bytes_beside_many_heavy_users() -> None:
    """600 recent rows of each of 100 users in one chunk, then one old row: 2**-16 of a row beside 60,000."""
    day, many = int(86_400e6), 100
    matrix = np.random.default_rng(1).normal(size=(50, 12)).astype(np.float16) + np.float16(15.0)
    users = np.append(np.repeat(np.arange(many), 600), many).astype(np.int32)
    times = np.append(np.tile(np.arange(600), many) + 100 * day, 0)
    matrix[49] = np.random.default_rng(3).normal(size=12) / 100  # digits down to the grid's last
    items = np.append(np.random.default_rng(2).integers(0, 49, len(users) - 1), 49).astype(np.int32)
    ends = np.searchsorted(users, np.arange(many + 2))
    log = Log(
        pa.array(np.arange(many + 1)),
        users,
        items,
        np.zeros(len(users), np.int16),
        times,
        np.ones(len(users), bool),
        ends,
    )
    found = Snapshots(np.arange(many + 1), np.full(many + 1, 100 * day + 1000), ends[1:])
    last = np.concatenate([v for _, v in pooled.pool(log, found, matrix, np.ones(50, dtype=bool), day)])[-1]
    nothing = matrix[:0], np.ones(0)
    alone = pooled.pool_one((matrix[items[-1:]], pooled.weights(times[-1:], found.watermarks[-1:], day)), nothing)
    assert alone is not None and alone.tobytes() == last.tobytes()
