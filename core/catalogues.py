"""What a window's tables of users, items and scenarios are: a whole list, a change to one, or what the log mentions.

Ingest says it in `catalogues.json`; validation passes it on with the rows.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from core.files import write_json

FILE = "catalogues.json"
Kind = Literal["snapshot", "delta", "log"]


@dataclass(frozen=True)
class Catalogues:
    """The kinds of a window's tables, and when they were true.

    `snapshot`: all there is; what an earlier window had and this one lacks is withdrawn. `delta`: what is new or changed.
    `log`: the source has no such table; these are the ids of the window's rows, and nothing follows from an absence.

    Attributes:
        users, items, scenarios: kind of each table.
        as_of: microseconds, just after the window's newest row; what a snapshot no longer has is withdrawn from then on.
    """

    users: Kind = "delta"
    items: Kind = "delta"
    scenarios: Kind = "log"
    as_of: int = 0

    def write(self, folder: Path) -> None:
        """Write `catalogues.json`."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Catalogues:
        """Those of a folder of tables; one without the file (rows replayed from quarantine) adds and withdraws nothing."""
        path = folder / FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else cls()


def newest_snapshot(sources: Sequence[Path], table: Literal["users", "items", "scenarios"]) -> int | None:
    """The place of the newest source whose table is a snapshot; None where none is."""
    places = [place for place, source in enumerate(sources) if getattr(Catalogues.read(source), table) == "snapshot"]
    return places[-1] if places else None
