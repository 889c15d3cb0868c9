"""The validated log as arrays: what prompts, snapshots and pooled vectors are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from core.errors import DataError
from knowledge.log.catalogue import Catalogue, positions, sorted_unique


@dataclass(frozen=True)
class Log:
    """Interactions sorted by (user, time, item, scenario), ids as positions in the sorted id arrays.

    Attributes:
        user_ids: Arrow array of distinct users, sorted.
        users: int32 [n], position in `user_ids`.
        items: int32 [n], row in the catalogue's distinct items; -1 where the catalogue lacks the item.
        scenarios: int16 [n], position in the scenario table.
        times: int64 [n], microseconds.
        labels: bool [n].
        starts: int64 [users + 1], where each user's rows begin.
    """

    user_ids: pa.Array
    users: np.ndarray
    items: np.ndarray
    scenarios: np.ndarray
    times: np.ndarray
    labels: np.ndarray
    starts: np.ndarray


def make_log(rows: pa.Table, catalogue: Catalogue) -> Log:
    """Rows as a log; of rows that come twice, the one of the latest source counts.

    Args:
        rows: user_id, item_id, scenario, t (microseconds), label (bool), place (of its source).
        catalogue: knows items and scenarios.

    Raises:
        DataError: a row's scenario is not in the scenario table.
    """
    user_ids = sorted_unique(rows.column("user_id"))
    users = positions(rows.column("user_id"), user_ids).astype(np.int32)
    all_items = sorted_unique(rows.column("item_id"))
    items = positions(rows.column("item_id"), all_items)
    scenarios = positions_of(rows.column("scenario"), catalogue)
    times, places = rows.column("t").to_numpy(), rows.column("place").to_numpy()
    order = np.lexsort((places, scenarios, items, times, users))
    order = order[_last_of_equal(users[order], times[order], items[order], scenarios[order])]
    known = positions(all_items, catalogue.item_ids).astype(np.int32)
    users = users[order]
    return Log(
        user_ids=user_ids,
        users=users,
        items=known[items[order]] if len(order) else np.zeros(0, np.int32),
        scenarios=scenarios[order].astype(np.int16),
        times=times[order],
        labels=rows.column("label").to_numpy()[order],
        starts=np.searchsorted(users, np.arange(len(user_ids) + 1)),
    )


def positions_of(scenarios: pa.ChunkedArray, catalogue: Catalogue) -> np.ndarray:
    """Positions in the scenario table, int64 [n].

    Raises:
        DataError: one is not in the table.
    """
    found = positions(scenarios, pa.array([name for name, _, _ in catalogue.scenarios], pa.string()))
    if (found < 0).any():
        unknown = scenarios[int(np.argmax(found < 0))].as_py()
        raise DataError(f"scenario {unknown!r} is not in scenarios.parquet", column="scenario")
    return found


def item_positions(items: pa.ChunkedArray, catalogue: Catalogue) -> np.ndarray:
    """Positions in the catalogue, int64 [n]; -1 where it lacks the item."""
    return positions(items, catalogue.item_ids)


def _last_of_equal(*columns: np.ndarray) -> np.ndarray:
    keep = np.ones(len(columns[0]), dtype=bool)
    if len(keep) > 1:
        keep[:-1] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return keep
