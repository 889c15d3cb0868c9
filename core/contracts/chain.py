"""`chain.json`: of which windows an artifact's tables hold the rows, segment by segment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Self

from core.contracts.contract import Contract
from core.files import write_json


class Chain(Contract):
    """Of an artifact in segments.

    Attributes:
        sources: how many validated artifacts it was built from, the oldest window's first.
        until: the newest event time of their rows, microseconds; None: there are none.
        segments: rows of the log in each segment, the oldest first.
    """

    FILE: ClassVar[str] = "chain.json"

    sources: int = 0
    until: int | None = None
    segments: tuple[int, ...] = ()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The chain of an artifact's folder.

        Raises:
            FileNotFoundError: it has none: an earlier version wrote it whole.
            CorruptArtifactError: it cannot be used.
        """
        return cls.read_file(folder / cls.FILE)

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        write_json(folder / self.FILE, self.as_json())


class IndexState(Contract):
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
