"""`chain.json`: of which windows an artifact's tables hold the rows, segment by segment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from core.contracts.contract import Part, SpecFile


class Chain(SpecFile):
    """Of an artifact in segments; one that an earlier version wrote whole has none.

    Attributes:
        sources: how many validated artifacts it was built from, the oldest window's first.
        until: the newest event time of their rows, microseconds; None: there are none.
        segments: rows of the log in each segment, the oldest first.
    """

    FILE: ClassVar[str] = "chain.json"

    sources: int = 0
    until: int | None = None
    segments: tuple[int, ...] = ()


class IndexState(Part):
    """The entries of an index that rows were joined with.

    Attributes:
        entries: how many.
        digest: of whose each is and when it was made.
    """

    entries: int
    digest: str


class RowsChain(Chain):
    """Of a training table.

    Attributes:
        taken: how many segments were taken over as they were; the others are judged by the gate.
        ahead: whether rows of the windows were left out because they lay ahead of the clock.
        vectors: view to the index its rows refer to.
    """

    taken: int = 0
    ahead: bool = False
    vectors: Mapping[str, IndexState] = {}
