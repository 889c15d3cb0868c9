"""What an artifact was made of: so that the next one goes on from it, and makes only what has changed since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from core.contracts.contract import SpecFile
from core.errors import CorruptArtifactError, MissingArtifactError
from core.log import logger
from core.matrix import matrix_files
from core.segments import segments, table_path

LOG = logger("knowledge")
TABLES = CATALOGUE, TEXTS = ("catalogue", "user_text")


class MadeOf(SpecFile):
    """`made_of.json` beside the vectors.

    Attributes:
        users: a hash of all that shapes a user's vectors and text beside the user's rows and the items.
        items: a hash of what shapes the catalogue's rows.
        sources: a digest of each source's tables, in order of their windows.
        ordered: the name of each source's rows in order, see `knowledge.log.ordering`.
        scenarios: (name, title, description) of each scenario.
    """

    FILE: ClassVar[str] = "made_of.json"

    users: str
    items: str
    sources: tuple[str, ...]
    ordered: tuple[str, ...]
    scenarios: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True)
class Earlier:
    """An artifact that knowledge may go on from.

    Attributes:
        folder: of the artifact.
        made_of: what it was made of.
    """

    folder: Path
    made_of: MadeOf

    @classmethod
    def at(cls, folder: Path | None) -> Earlier | None:
        """The artifact of a folder; None where there is none, or it does not say what it was made of, or lacks a part."""
        if folder is None or not (folder / MadeOf.FILE).is_file():
            return None
        try:
            for table in TABLES:
                segments(table_path(folder, table))
            matrix_files(folder / "item_text" / "raw.npy")
            return cls(folder, MadeOf.read(folder))
        except (CorruptArtifactError, MissingArtifactError) as error:
            LOG.warning("%s; everything is made anew", error)
            return None

    def taken(self, sources: Sequence[str]) -> int | None:
        """How many of the sources it was made of, where it was made of those and of nothing else; None where not."""
        many = len(self.made_of.sources)
        return many if tuple(sources[:many]) == self.made_of.sources else None
