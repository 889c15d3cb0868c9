"""A user's state as rows of the online views: counters, history and pooled vector, dated by their watermark."""

from __future__ import annotations

import datetime as dt
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from sqlalchemy.exc import SQLAlchemyError

from core import Settings
from core.errors import MissingArtifactError, StorageError
from core.tables import TIMESTAMP
from feature_repo.feast_names import FeatureView, FeatureViewNotFoundException
from feature_repo.online import OnlineTable
from feature_repo.overlay import WRITE_BATCH, open_store
from feature_repo.statistics import TICK, EntityState
from feature_repo.user_log import Rows


class Pooler(Protocol):
    """What `knowledge.Pooler` does: a user's pooled vector from (item id, event time) of positives and negatives."""

    @property
    def version(self) -> str: ...  # noqa: D102

    def pool(  # noqa: D102
        self, positives: Sequence[tuple[Any, int]], negatives: Sequence[tuple[Any, int]], watermark: int
    ) -> np.ndarray | None: ...


class StateWriter:
    """Writes users' rows into value views; each view's row says when it was published.

    Args:
        settings: whose stores count.
        user: type of the user ids.
    """

    def __init__(self, settings: Settings, user: pa.DataType) -> None:
        self.user = user
        self.store = open_store(settings)
        self.table = OnlineTable(self.store)

    def write_states(self, states: Mapping[Any, EntityState], item: pa.DataType) -> dict[str, int]:
        """Counters and histories; returns view name to users written.

        Raises:
            MissingArtifactError: nothing was materialised yet.
            StorageError: the store or the registry does not answer, or not all rows arrived.
        """
        kind = pa.list_(item)
        return {
            "user_stats": self._write_states("user_stats", states, _stats),
            "user_history": self._write_states("user_history", states, lambda s: {"history": (s.history, kind)}),
        }

    def _write_states(
        self, name: str, states: Mapping[Any, EntityState], columns: Callable[[EntityState], dict]
    ) -> int:
        rows = [(user, state.watermark, columns(state)) for user, state in states.items()]
        return self._write(self._view(name), rows)

    def write_pooled(self, name: str, snapshots: Sequence[tuple[Any, int, list, list]], pooler: Pooler) -> int:
        """Only users whose row count passed a threshold since their vector was made."""
        view, rows = self._view(name), []
        held = self.table.read(view, [user for user, *_ in snapshots])
        for (user, watermark, positives, negatives), old in zip(snapshots, held, strict=True):
            if old is not None and old["watermark"] >= watermark:
                continue
            vector = pooler.pool(positives, negatives, watermark)
            if vector is not None:
                values = np.asarray(vector, dtype=np.float32).tolist()
                rows.append((user, watermark, {"vector": (values, pa.list_(pa.float32()))}))
        return self._write(view, rows)

    def _write(self, view: FeatureView, rows: list[tuple[Any, int, dict]]) -> int:
        count = 0
        for begin in range(0, len(rows), WRITE_BATCH):
            count += self.table.write(view, self._batch(rows[begin : begin + WRITE_BATCH]))
        if count != len(rows):
            raise StorageError(f"view {view.name}: {len(rows):,} rows were pushed, {count:,} arrived; push them again")
        return count

    def _batch(self, rows: list[tuple[Any, int, dict]]) -> pa.RecordBatch:
        marks = pa.array([mark for _, mark, _ in rows], pa.int64())
        columns = {
            "user_id": pa.array([user for user, _, _ in rows], self.user),
            "event_timestamp": marks.cast(TIMESTAMP),
            "created_timestamp": marks.cast(TIMESTAMP),
            "watermark": marks,
            "published": marks,
        }
        for name, (_, kind) in rows[0][2].items():
            columns[name] = pa.array([values[name][0] for _, _, values in rows], kind)
        return pa.RecordBatch.from_pydict(columns)

    def _view(self, name: str) -> FeatureView:
        try:
            return self.store.registry.get_feature_view(name, self.store.project)
        except FeatureViewNotFoundException as error:
            raise MissingArtifactError(f"Feast knows no view {name}; run `llm4msr materialize` first") from error
        except (SQLAlchemyError, OSError) as error:
            raise StorageError(f"Feast registry of project {self.store.project}: {error}") from error


def _stats(state: EntityState) -> dict[str, tuple[Any, pa.DataType]]:
    return {
        "user_rows": (state.rows, pa.int64()),
        "user_positives": (state.positives, pa.int64()),
        "user_rate": (state.rate, pa.float32()),
    }


def due_snapshots(logs: Mapping[Any, Rows], settings: Settings) -> Iterator[tuple[Any, int, list[Any], list[Any]]]:
    """The newest pooled snapshot that is due: user, watermark, (item id, event time) of positives and of negatives before it."""
    age, every = (
        span and span // dt.timedelta(microseconds=1) for span in (settings.knowledge.max_age, settings.knowledge.every)
    )
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
