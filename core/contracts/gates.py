"""`results.json` of a validated window: what its gate found, which later windows are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from core.contracts.contract import Part
from core.contracts.results import ResultFile


class Example(Part):
    """A row that broke a rule, counted from 1, and its value."""

    row: int
    value: str


class RuleResult(Part):
    """What one rule found: rows that it looked at, that broke it, and that it put aside."""

    rule: str
    scope: str
    expectation: str
    columns: tuple[str, ...]
    reason: str
    checked: int
    failed: int
    quarantined: int
    success: bool
    examples: tuple[Example, ...]


class ScenarioCount(Part):
    """Rows of a scenario."""

    rows: int = 0
    positives: int = 0


class ColumnLook(Part):
    """A declared column of a window.

    Attributes:
        rows, nulls: of its table; NaN counts as null.
        quantiles: of numbers, see `validation.history.QUANTILES`; None where there is no number.
        values: of texts, value to rows; None where there are too many.
    """

    rows: int
    nulls: int
    quantiles: tuple[float, ...] | None = None
    values: Mapping[str, int] | None = None


class WindowLook(Part):
    """What a window's sound rows look like; see `validation.history.describe`.

    Attributes:
        rows, users, items: how many.
        oldest, newest: times of rows, microseconds; None: there are none.
        busiest_user: the largest share of the rows that one user made.
        largest_gap: the longest time without a row, microseconds.
        bounded: whether the window has a start and an end.
        length: from one to the other, microseconds.
        scenarios: rows of each.
        linked: `user` and `item` to the share of rows whose id has a catalogue row; None: there is no catalogue.
        sketch: the smallest hashes of rows.
        columns: table to column to what is in it.
    """

    rows: int
    users: int
    items: int
    oldest: int | None
    newest: int | None
    busiest_user: float | None
    largest_gap: int | None
    bounded: bool
    length: int | None = None
    scenarios: Mapping[str, ScenarioCount]
    linked: Mapping[str, float | None]
    sketch: tuple[str, ...]
    columns: Mapping[str, Mapping[str, ColumnLook]]


class Facts(BaseModel):
    """What is known of a table as a whole. Only these are read again.

    Attributes:
        share_with_text: of the items.
        window: of the interactions; None where there is no row.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    share_with_text: float | None = None
    window: WindowLook | None = None


class TableResult(Part):
    """What was found about a table: facts, rows put aside by each rule, notes in words, and every rule."""

    success: bool
    facts: Facts
    quarantined_by_rule: Mapping[str, int]
    notes: tuple[str, ...]
    rules: tuple[RuleResult, ...]


class GateResults(ResultFile):
    """`results.json`: the four tables of a window that passed."""

    FILE: ClassVar[str] = "results.json"
    REMAKE: ClassVar[str] = "delete the artifact and run `llm4msr validate` for its window again"

    verdict: Literal["passed"]
    tables: Mapping[str, TableResult]
