"""`spec.json` of a catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from core.contracts.contract import SpecFile


class CatalogueSpec(SpecFile):
    """Of a catalogue.

    Attributes:
        versions: kind of knowledge to its version.
        as_of: the clock's now when it was made, microseconds.
        columns: declared item columns that it holds.
    """

    REMAKE: ClassVar[str] = "run `llm4msr materialize` again"

    versions: Mapping[str, str]
    as_of: int
    columns: tuple[str, ...] = ()
