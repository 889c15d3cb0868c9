"""Counts of scenarios before moments in time, from a log that is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from knowledge.log.catalogue import Catalogue
from knowledge.log.sources import item_positions, positions_of

if TYPE_CHECKING:
    from knowledge.log.store import LogStore


@dataclass(frozen=True)
class ScenarioStatistics:
    """Counts of a scenario's rows, positives, users and items before a watermark."""

    rows: int
    positives: int
    users: int
    items: int

    def fields(self) -> dict[str, str]:
        """The values of a template's statistics section."""
        return {
            "rows": f"{self.rows:,}",
            "users": f"{self.users:,}",
            "items": f"{self.items:,}",
            "rate": f"{100 * self.positives / max(1, self.rows):.1f}",
        }


@dataclass(frozen=True)
class LogStatistics:
    """Counts of all scenarios before each of some moments. S scenarios, M moments.

    Attributes:
        moments: int64 [M], microseconds, in order.
        counts: int64 [4, S, M], rows, positives, users and items before each moment.
        liked: int64 [S, items], positive rows of each catalogue item before the last moment.
    """

    moments: np.ndarray
    counts: np.ndarray
    liked: np.ndarray

    def at(self, moment: int) -> list[ScenarioStatistics]:
        """One per scenario, in the order of the scenario table."""
        place = int(np.flatnonzero(self.moments == moment)[0])
        return [ScenarioStatistics(*map(int, row)) for row in self.counts[:, :, place].T]


def count_scenarios(log: LogStore, catalogue: Catalogue, moments: Sequence[int]) -> LogStatistics:
    """Count all scenarios' rows, positives, users and known items before each moment.

    Args:
        log: all rows.
        catalogue: scenarios and items.
        moments: microseconds.

    Raises:
        DataError: a row's scenario is not in the scenario table.
    """
    bounds = np.unique(np.array(moments, dtype=np.int64))
    scenarios = len(catalogue.scenarios)
    tallies = np.zeros((3, scenarios, len(bounds)), dtype=np.int64)
    never = np.iinfo(np.int64).max
    first = np.full((scenarios, len(catalogue.item_ids)), never, dtype=np.int64)
    liked = np.zeros_like(first)
    for piece in log.counts(bounds.tolist()):
        where, place = _cells(piece["rows"], catalogue)
        inside = place < len(bounds)
        for tally, column in enumerate(("rows", "positives")):
            np.add.at(tallies[tally], (where[inside], place[inside]), piece["rows"][column].to_numpy()[inside])
        where, place = _cells(piece["users"], catalogue)
        inside = place < len(bounds)
        np.add.at(tallies[2], (where[inside], place[inside]), piece["users"]["users"].to_numpy()[inside])
        items = piece["items"]
        place = item_positions(items.column("item_id"), catalogue)
        known = place >= 0
        cell = (positions_of(items.column("scenario"), catalogue)[known], place[known])
        first[cell] = np.minimum(first[cell], items.column("t").to_numpy()[known])
        liked[cell] += items.column("liked").to_numpy()[known]
    seen = [np.searchsorted(np.sort(row), bounds, side="left") for row in first]
    return LogStatistics(bounds, np.concatenate([np.cumsum(tallies, axis=2), np.array(seen)[None]]), liked)


def _cells(counted: pa.Table, catalogue: Catalogue) -> tuple[np.ndarray, np.ndarray]:
    """The scenario and the place of each count, int64 [n] each; a place after all moments is left out by whoever adds."""
    return positions_of(counted.column("scenario"), catalogue), counted.column("place").to_numpy().astype(np.int64)
