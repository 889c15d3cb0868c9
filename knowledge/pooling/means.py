"""Pooled user vectors: the mean item vector of a user's positives, and of the negatives beside it.

Item vectors are put on a grid of 2**-20, where float64 sums are exact: a mean has the same bytes in any order, so that
one user computed alone (the push path) equals the batch. Shapes: n snapshots, d raw width of an item vector.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from knowledge.log.snapshots import Snapshots
from knowledge.log.sources import Log

_GRID = 2.0**20
_MOST_HALVINGS = 16
CHUNK_ROWS = 131_072
# Raw item vectors [n, d] and what each counts [n].
Rows = tuple[np.ndarray, np.ndarray]


def on_grid(vectors: np.ndarray) -> np.ndarray:
    """Item vectors as float64 multiples of 2**-20."""
    return np.rint(vectors.astype(np.float64) * _GRID) / _GRID


def weights(times: np.ndarray, watermarks: np.ndarray, half_life: int | None) -> np.ndarray:
    """What rows count at a watermark, float64: 1 without a half-life.

    With one it is 2**-n, n the borders between calendar periods of that length (from 1970-01-01 UTC) that lie between row and
    watermark, 16 at the most. Powers of two keep sums exact, as long as a user's rows count for less than 8,192 in all.

    Args:
        times: of the rows, microseconds.
        watermarks: of the snapshots the rows are counted in, microseconds; one per row, or one.
        half_life: microseconds.
    """
    if half_life is None:
        return np.ones(len(times))
    return np.exp2(-np.clip(watermarks // half_life - times // half_life, 0, _MOST_HALVINGS).astype(np.float64))


def pool_one(positives: Rows, negatives: Rows) -> np.ndarray | None:
    """One user's raw pooled vector, float64 [2 d].

    Args:
        positives: raw vectors of the items of the user's positive rows, [p, d], one per row, repeats included, and what each
            row counts, [p].
        negatives: the same for the negative rows.

    Returns:
        Mean of the positives, then mean of the negatives, zeros where there are none; None where both are empty.
    """
    if not len(positives[0]) and not len(negatives[0]):
        return None
    halves = [(on_grid(v) * w[:, None]).sum(axis=0) / (w.sum() if len(w) else 1.0) for v, w in (positives, negatives)]
    return np.concatenate(halves)


def pool(
    log: Log, snapshots: Snapshots, vectors: np.ndarray, known: np.ndarray, half_life: int | None = None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Raw pooled vectors of all snapshots, in chunks of bounded size.

    A user's sums run on from snapshot to snapshot. With a half-life rows weigh less at each later one, and each is
    summed anew.

    Args:
        log: the interactions.
        snapshots: sorted by (user, watermark).
        vectors: raw item vectors, float16 [items, d].
        known: bool [items]; items without a vector do not count.
        half_life: microseconds, see `weights`.

    Yields:
        A slice of the snapshots and their vectors, float64 [n, 2 d]; a row of NaN where no item has a vector.
    """
    starts = log.starts[snapshots.users]
    running = half_life is None
    begins = np.where(_first_of_user(snapshots.users), starts, np.roll(snapshots.ends, 1)) if running else starts
    for part in _chunks(snapshots, snapshots.ends - begins, running):
        first = np.flatnonzero(_first_of_user(snapshots.users[part]))
        owner = np.repeat(np.arange(len(first)), np.diff(np.append(first, part.stop - part.start)))
        rows, bounds = _ranges(begins[part], snapshots.ends[part])
        items = log.items[rows]
        counted = (items >= 0) & known[items]
        distinct, columns = np.unique(np.where(counted, items, 0), return_inverse=True)
        matrix = on_grid(vectors[distinct])
        labels = log.labels[rows]
        weight = counted * weights(log.times[rows], np.repeat(snapshots.watermarks[part], np.diff(bounds)), half_life)
        halves = [
            _means(
                np.where(labels == wanted, weight, 0.0), columns, bounds, matrix, (first, owner) if running else None
            )
            for wanted in (True, False)
        ]
        out = np.concatenate([mean for mean, _ in halves], axis=1)
        out[(halves[0][1] + halves[1][1]) == 0] = np.nan
        yield part, out


def _means(
    weights: np.ndarray,
    columns: np.ndarray,
    bounds: np.ndarray,
    matrix: np.ndarray,
    running: tuple[np.ndarray, np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Means [n, d] and total weights [n] over segments of rows; all sums are exact.

    Args:
        weights: of the rows.
        columns: which row of `matrix` each reads.
        bounds: where segments begin, [n + 1].
        matrix: item vectors on the grid, [m, d].
        running: each owner's first segment, and the owner of each segment, whose sums run on; None: each for itself.
    """
    # Here, not above: the push path pools one user without it, in an image that has no SciPy.
    from scipy.sparse import csr_matrix

    segments = csr_matrix((weights, columns, bounds), shape=(len(bounds) - 1, len(matrix)))
    sums = np.asarray(segments @ matrix)
    counts = np.append(0.0, np.cumsum(weights))[bounds]
    if running is None:
        # Small weights need more digits: a total over other users' rows would leave too few.
        counts = np.diff(counts)
    else:
        first, owner = running
        sums = np.cumsum(sums, axis=0)
        sums_before = np.concatenate([np.zeros((1, matrix.shape[1])), sums])[first]
        sums, counts = sums - sums_before[owner], counts[1:] - counts[first][owner]
    return sums / np.where(counts, counts, 1.0)[:, None], counts


def _ranges(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All positions of the half-open ranges, one after the other, and where each range's positions begin."""
    lengths = ends - begins
    bounds = np.append(0, np.cumsum(lengths))
    return np.arange(bounds[-1]) + np.repeat(begins - bounds[:-1], lengths), bounds


def _chunks(snapshots: Snapshots, lengths: np.ndarray, running: bool) -> Iterator[slice]:
    """Cut so that a chunk reads about CHUNK_ROWS rows; a snapshot costs as much as 16 of them. Where sums run on from
    snapshot to snapshot, cut at users' borders only.
    """
    begins = np.flatnonzero(_first_of_user(snapshots.users)) if running else np.arange(len(snapshots))
    borders = np.append(begins, len(snapshots))
    cost = np.append(0, np.cumsum(lengths + 16))[borders]
    start = 0
    while start < len(borders) - 1:
        stop = max(start + 1, int(np.searchsorted(cost, cost[start] + CHUNK_ROWS, side="right")) - 1)
        yield slice(int(borders[start]), int(borders[stop]))
        start = stop


def _first_of_user(users: np.ndarray) -> np.ndarray:
    first = np.ones(len(users), dtype=bool)
    first[1:] = users[1:] != users[:-1]
    return first
