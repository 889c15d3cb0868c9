"""`meta.json` of an ingested window: what later stages need to know of its log."""

from __future__ import annotations

from typing import ClassVar

from core.contracts.contract import SpecFile


class Ingested(SpecFile):
    """The log of a window.

    Attributes:
        user_id, item_id: their type, int64 or string.
        first, last: times of the first row and of the newest that is not of the future, microseconds; None: there is none.
        rows: of the log.
        empty: whether the window holds no row of the log.
    """

    FILE: ClassVar[str] = "meta.json"
    REMAKE: ClassVar[str] = "run `llm4msr ingest` for its window again"

    user_id: str
    item_id: str
    first: int | None
    last: int | None
    rows: int
    empty: bool = False
