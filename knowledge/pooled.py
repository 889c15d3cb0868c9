"""Pooled user vectors: the mean item vector of a user's positives, and of the negatives beside it.

Item vectors are put on a grid of 2**-20, where float64 sums are exact: a mean has the same bytes in any order, so that
one user computed alone (the push path) equals the batch. Shapes: n snapshots, d raw width of an item vector.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import scipy.sparse

from knowledge.snapshots import Snapshots
from knowledge.sources import Log

_GRID = 2.0**20
CHUNK_ROWS = 131_072


def on_grid(vectors: np.ndarray) -> np.ndarray:
    """Item vectors as float64 multiples of 2**-20."""
    return np.rint(vectors.astype(np.float64) * _GRID) / _GRID


def pool_one(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray | None:
    """One user's raw pooled vector, float64 [2 d].

    Args:
        positives: raw vectors of the items of the user's positive rows, [p, d], one per row, repeats included.
        negatives: the same for the negative rows, [q, d].

    Returns:
        Mean of the positives, then mean of the negatives, zeros where there are none; None where both are empty.
    """
    if not len(positives) and not len(negatives):
        return None
    halves = [on_grid(v).sum(axis=0) / max(1, len(v)) for v in (positives, negatives)]
    return np.concatenate(halves)


def pool(log: Log, snapshots: Snapshots, vectors: np.ndarray, known: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Raw pooled vectors of all snapshots, in chunks of bounded size.

    Args:
        log: the interactions.
        snapshots: sorted by (user, watermark).
        vectors: raw item vectors, float16 [items, d].
        known: bool [items]; items without a vector do not count.

    Yields:
        A slice of the snapshots and their vectors, float64 [n, 2 d]; a row of NaN where no item has a vector.
    """
    begins = np.where(_first_of_user(snapshots.users), log.starts[snapshots.users], np.roll(snapshots.ends, 1))
    for part in _chunks(snapshots, snapshots.ends - begins):
        first = np.flatnonzero(_first_of_user(snapshots.users[part]))
        owner = np.repeat(np.arange(len(first)), np.diff(np.append(first, part.stop - part.start)))
        rows, bounds = _ranges(begins[part], snapshots.ends[part])
        items = log.items[rows]
        counted = (items >= 0) & known[items]
        distinct, columns = np.unique(np.where(counted, items, 0), return_inverse=True)
        matrix = on_grid(vectors[distinct])
        labels = log.labels[rows]
        halves = [
            _means(counted & (labels == wanted), columns, bounds, matrix, first, owner) for wanted in (True, False)
        ]
        out = np.concatenate([mean for mean, _ in halves], axis=1)
        out[(halves[0][1] + halves[1][1]) == 0] = np.nan
        yield part, out


def _means(
    chosen: np.ndarray,
    columns: np.ndarray,
    bounds: np.ndarray,
    matrix: np.ndarray,
    first: np.ndarray,
    owner: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Running means [n, d] and counts [n] per user over segments of rows; all sums are exact."""
    weights = chosen.astype(np.float64)
    segments = scipy.sparse.csr_matrix((weights, columns, bounds), shape=(len(bounds) - 1, len(matrix)))
    sums = np.cumsum(np.asarray(segments @ matrix), axis=0)
    counts = np.append(0.0, np.cumsum(weights))[bounds]
    sums_before = np.concatenate([np.zeros((1, matrix.shape[1])), sums])[first]
    sums, counts = sums - sums_before[owner], counts[1:] - counts[first][owner]
    return sums / np.maximum(counts, 1.0)[:, None], counts


def _ranges(begins: np.ndarray, ends: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All positions of the half-open ranges, one after the other, and where each range's positions begin."""
    lengths = ends - begins
    bounds = np.append(0, np.cumsum(lengths))
    return np.arange(bounds[-1]) + np.repeat(begins - bounds[:-1], lengths), bounds


def _chunks(snapshots: Snapshots, lengths: np.ndarray) -> Iterator[slice]:
    """Cut at users' borders so that a chunk reads about CHUNK_ROWS rows; a snapshot costs as much as 16 of them."""
    borders = np.append(np.flatnonzero(_first_of_user(snapshots.users)), len(snapshots))
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
