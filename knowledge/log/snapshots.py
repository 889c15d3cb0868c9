"""When a user's knowledge is due: at activity thresholds, and when it has grown too old.

A snapshot belongs to the first moment at which a threshold was reached. Its watermark is one microsecond after that
moment, so that all rows of the moment are in it and none of them reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from knowledge.log.sources import Log


@dataclass(frozen=True)
class Snapshots:
    """Due snapshots, sorted by (user, watermark).

    Attributes:
        users: int32 [n], position in `Log.user_ids`.
        watermarks: int64 [n], microseconds.
        ends: int64 [n]; the rows `Log.starts[user]:end` are those before the watermark.
    """

    users: np.ndarray
    watermarks: np.ndarray
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.users)

    def take(self, which: np.ndarray) -> Snapshots:
        """A part of them, by mask or positions."""
        return Snapshots(self.users[which], self.watermarks[which], self.ends[which])

    def newest(self) -> Snapshots:
        """The newest snapshot of each user."""
        return self.take(np.append(self.users[1:] != self.users[:-1], True)[: len(self)])


def due(thresholds: Sequence[int], before: int, after: int) -> bool:
    """Whether a user whose row count went from `before` to `after` passed a threshold."""
    return any(before < threshold <= after for threshold in thresholds)


def due_snapshots(
    log: Log, thresholds: Sequence[int], max_age: int | None = None, every: int | None = None
) -> Snapshots:
    """All snapshots that were due in the log's time.

    Args:
        log: sorted by user and time.
        thresholds: row counts, e.g. 5, 10, 20.
        max_age: microseconds after which the next row makes a new snapshot; None: never.
        every: microseconds; a user's first row in each period of this length makes one too; None: never. Periods
            count from 1970-01-01 UTC. It is the row, not the tick, that publishes: nobody can know before it.
    """
    counts = np.diff(log.starts)
    reached = [np.flatnonzero(counts >= k) for k in sorted(set(thresholds))]
    lasts = [log.starts[users] + k - 1 for users, k in zip(reached, sorted(set(thresholds)), strict=True)]
    rows = np.sort(np.concatenate(lasts)) if lasts else np.zeros(0, dtype=np.int64)
    if every is not None and lasts:
        rows = np.union1d(rows, _first_in_period(log, min(thresholds), every))
    if max_age is not None:
        rows = _with_aged(log, rows, max_age)
    users, watermarks = log.users[rows], log.times[rows] + 1
    keep = np.ones(len(rows), dtype=bool)
    keep[1:] = (users[1:] != users[:-1]) | (watermarks[1:] != watermarks[:-1])
    users, watermarks, rows = users[keep], watermarks[keep], rows[keep]
    return Snapshots(users, watermarks, _ends(log, rows))


def _ends(log: Log, rows: np.ndarray) -> np.ndarray:
    """One past the last row that shares user and time with each of `rows`."""
    changes = np.ones(len(log.users), dtype=bool)
    changes[:-1] = (log.users[1:] != log.users[:-1]) | (log.times[1:] != log.times[:-1])
    lasts = np.flatnonzero(changes)
    return lasts[np.searchsorted(lasts, rows)] + 1


def _first_in_period(log: Log, least: int, every: int) -> np.ndarray:
    """Rows that are their user's first in a period, after the first threshold."""
    periods = log.times // every
    place = np.arange(len(log.times)) - log.starts[log.users]
    return np.flatnonzero((place[1:] >= least) & (periods[1:] != periods[:-1])) + 1


def _with_aged(log: Log, rows: np.ndarray, max_age: int) -> np.ndarray:
    """Add the rows that come `max_age` or more after the user's last snapshot. Users without one get none by age."""
    found: list[int] = []
    bounds = np.searchsorted(rows, log.starts)
    for user in range(len(log.starts) - 1):
        pending = rows[bounds[user] : bounds[user + 1]].tolist()
        times, offset = log.times[log.starts[user] : log.starts[user + 1]], int(log.starts[user])
        while pending:
            row = pending.pop(0)
            found.append(row)
            aged = offset + int(np.searchsorted(times, log.times[row] + 1 + max_age))
            if aged < offset + len(times) and (not pending or aged < pending[0]):
                pending.insert(0, aged)
    return np.array(found, dtype=np.int64)
