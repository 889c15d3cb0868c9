"""A user's state as rows of the online views: counters, history and pooled vector, dated by their watermark."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from core import Settings
from core.contracts.statistics import statistic_columns
from core.errors import StorageError
from feature_repo.statistics import TICK, EntityState
from feature_repo.user_log import Rows
from feature_repo.user_store import WRITE_BATCH, UserRow, user_store

_STATS = {column: pa.type_for_alias(statistic.type) for column, statistic in statistic_columns("user").items()}


class Pooler(Protocol):
    """What `knowledge.Pooler` does: a user's pooled vector from (item id, event time) of positives and negatives."""

    @property
    def version(self) -> str: ...

    def pool(
        self, positives: Sequence[tuple[Any, int]], negatives: Sequence[tuple[Any, int]], watermark: int
    ) -> np.ndarray | None: ...


class StateWriter:
    """Writes users' rows into value views; each view's row says when it was published.

    Args:
        settings: whose online store counts.
    """

    def __init__(self, settings: Settings) -> None:
        self.store = user_store(settings)

    def write_states(self, states: Mapping[Any, EntityState], item: pa.DataType) -> dict[str, int]:
        """Counters and histories; returns view name to users written.

        Raises:
            MissingArtifactError: nothing was materialised yet.
            StorageError: the store does not answer, or not all rows arrived.
        """
        stats = [UserRow(user, s.watermark, tuple(s.statistics.values())) for user, s in states.items()]
        histories = [UserRow(user, s.watermark, (s.history,)) for user, s in states.items()]
        return {
            "user_stats": self._write("user_stats", stats, _STATS),
            "user_history": self._write("user_history", histories, {"history": pa.list_(item)}),
        }

    def write_pooled(self, name: str, snapshots: Sequence[tuple[Any, int, list, list]], pooler: Pooler) -> int:
        """Only users whose row count passed a threshold since their vector was made."""
        held = self.store.times(name, [user for user, *_ in snapshots], "watermark") if snapshots else []
        rows = []
        for (user, watermark, positives, negatives), old in zip(snapshots, held, strict=True):
            if old is not None and old >= watermark:
                continue
            vector = pooler.pool(positives, negatives, watermark)
            if vector is not None:
                rows.append(UserRow(user, watermark, (np.asarray(vector, dtype=np.float32),)))
        return self._write(name, rows, {"vector": pa.list_(pa.float32())})

    def _write(self, view: str, rows: list[UserRow], kinds: Mapping[str, pa.DataType]) -> int:
        count = 0
        for begin in range(0, len(rows), WRITE_BATCH):
            count += self.store.write(view, rows[begin : begin + WRITE_BATCH], kinds)
        if count != len(rows):
            raise StorageError(f"view {view}: {len(rows):,} rows were pushed, {count:,} arrived; push them again")
        return count


def due_snapshots(logs: Mapping[Any, Rows], settings: Settings) -> Iterator[tuple[Any, int, list[Any], list[Any]]]:
    """The newest pooled snapshot that is due: user, watermark, (item id, event time) of positives and of negatives before it."""
    age, every = _micros(settings.knowledge.max_age), _micros(settings.knowledge.every)
    for user, rows in logs.items():
        mark = newest_snapshot([time for time, *_ in rows], settings.knowledge.thresholds, age, every)
        if mark is not None:
            before = [((item, time), label) for time, item, _, label in rows if time < mark]
            yield user, mark, [row for row, label in before if label == 1], [row for row, label in before if label == 0]


def newest_snapshot(
    times: Sequence[int], thresholds: Iterable[int], max_age: int | None, every: int | None = None
) -> int | None:
    """The watermark of a user's newest snapshot, by the batch path's rule; None before the first threshold.

    Args:
        times: the user's event times, ascending, in microseconds.
        thresholds: row counts that make a snapshot.
        max_age: microseconds after which the next row makes another one; None for never.
        every: microseconds; the first row in each such period of the calendar makes one too; None for never.
    """
    pending = [k - 1 for k in sorted(set(thresholds)) if k <= len(times)]
    if every is not None and pending:
        first = [i for i in range(pending[0] + 1, len(times)) if times[i] // every != times[i - 1] // every]
        pending = sorted({*pending, *first})
    newest = None
    while pending:
        newest = pending.pop(0)
        if max_age is not None:
            aged = bisect_left(times, times[newest] + TICK + max_age)
            if aged < len(times) and (not pending or aged < pending[0]):
                pending.insert(0, aged)
    return None if newest is None else times[newest] + TICK


def _micros(span: dt.timedelta | None) -> int | None:
    return None if span is None else span // dt.timedelta(microseconds=1)
