"""`chain.json`: of which windows an artifact's tables hold the rows, segment by segment."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

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
    def read(cls, folder: Path) -> Chain:
        """The chain of an artifact's folder.

        Raises:
            FileNotFoundError: it has none: an earlier version wrote it whole.
            CorruptArtifactError: it cannot be used.
        """
        return cls.read_file(folder / cls.FILE)

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        write_json(folder / self.FILE, self.as_json())
