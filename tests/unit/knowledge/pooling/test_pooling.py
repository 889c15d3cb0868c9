from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from unit.knowledge.knowledge_worlds import Row, log_rows, read_source, write_source

from knowledge.log.snapshots import Snapshots, due_snapshots
from knowledge.log.sources import Log
from knowledge.pooling import means


def read(place: Path, rows: Sequence[Row]) -> Log:
    return read_source(write_source(place / "source", rows))[0]


def vectors(items: int = 8, width: int = 12) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(items, width)).astype(np.float16)


def gather(log: Log, snapshots: Snapshots, matrix: np.ndarray, known: np.ndarray) -> np.ndarray:
    parts = list(means.pool(log, snapshots, matrix, known))
    assert [p.start for p, _ in parts] == [0, *(p.stop for p, _ in parts[:-1])]
    return np.concatenate([v for _, v in parts])


def times_of(log: Log, snapshots: Snapshots, user: int) -> list[int]:
    return snapshots.watermarks[snapshots.users == user].tolist()


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
    monkeypatch.setattr(means, "CHUNK_ROWS", 100)
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
        alone = means.pool_one(*((half, np.ones(len(half))) for half in halves))
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
    assert means.pool_one(nothing, nothing) is None


def test_with_a_half_life_a_row_counts_half_as_much_a_period_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, matrix = read(tmp_path, log_rows(users=40, rows=30)), vectors()
    known, found, half_life = np.arange(8) != 5, due_snapshots(log, [1, 3, 6, 10, 25]), int(7e6)
    parts = list(means.pool(log, found, matrix, known, half_life))
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
    monkeypatch.setattr(means, "CHUNK_ROWS", 100)
    again = np.concatenate([v for _, v in means.pool(log, found, matrix, known, half_life)])
    np.testing.assert_array_equal(again, whole)
    plain = gather(log, found, matrix, known)
    assert not np.allclose(plain, whole, atol=1e-3, equal_nan=True)
    lasting = np.concatenate([v for _, v in means.pool(log, found, matrix, known, int(1e16))])
    np.testing.assert_array_equal(lasting, plain)


def test_with_a_half_life_one_users_many_snapshots_come_in_chunks_of_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, matrix = read(tmp_path, [(1, k % 8, "home", 10 * k, int(k % 3 > 0)) for k in range(60)]), vectors()
    known, found = np.ones(8, dtype=bool), due_snapshots(log, range(1, 61))
    [(_, whole)] = means.pool(log, found, matrix, known, int(100e6))
    monkeypatch.setattr(means, "CHUNK_ROWS", 200)
    parts = list(means.pool(log, found, matrix, known, int(100e6)))
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
    last = np.concatenate([v for _, v in means.pool(log, found, matrix, np.ones(50, dtype=bool), day)])[-1]
    nothing = matrix[:0], np.ones(0)
    alone = means.pool_one((matrix[items[-1:]], means.weights(times[-1:], found.watermarks[-1:], day)), nothing)
    assert alone is not None and alone.tobytes() == last.tobytes()
