"""What a gate expects of a table: rules with the reason each exists. Data only; `engine` runs them.

A rule's scope decides what a fault means:

    row    the row goes to quarantine
    key    as `row`, but judged last, among the rows that are sound otherwise (repeated keys)
    table  the whole table is at fault: the run stops
    note   reported, never stops anything

Rules of scope `row` and `key` look at the columns of the table; those of scope `table` and `note` look at a frame of
one row whose columns are facts about the table (counts, shares), so that a table need not fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Scope = Literal["row", "key", "table", "note"]


@dataclass(frozen=True)
class Rule:
    """One expectation of Great Expectations, by class name, and why it is there.

    Args:
        name: what quarantine and results call it; unique within a suite.
        expectation: a class of `great_expectations.expectations`.
        reason: what goes wrong downstream without it.
        kwargs: the expectation's arguments.
        scope: what a fault means.
        look: what a person should look at when it stops a run.
        setting: the field of section `validation` that sets its limit; empty: it has none to set.
    """

    name: str
    expectation: str
    reason: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    scope: Scope = "row"
    look: str = ""
    setting: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns (or facts) the expectation reads."""
        return tuple(self.kwargs[name] for name in ("column", "column_A", "column_B") if name in self.kwargs)


@dataclass(frozen=True)
class Suite:
    """The rules of one table, in order: a row with several faults belongs to the first rule that it breaks.

    Raises:
        ValueError: two rules share a name.
    """

    table: str
    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        names = [rule.name for rule in self.rules]
        if len(set(names)) != len(names):
            raise ValueError(f"suite {self.table}: rule names repeat")

    def of(self, *scopes: Scope) -> tuple[Rule, ...]:
        """The rules of the given scopes, in order."""
        return tuple(rule for rule in self.rules if rule.scope in scopes)

    def __iter__(self) -> Iterator[Rule]:
        return iter(self.rules)


def not_null(column: str, reason: str, name: str | None = None) -> Rule:
    """Row rule: `column` has a value (NaN is none)."""
    return Rule(name or f"{column}_null", "ExpectColumnValuesToNotBeNull", reason, {"column": column})


def within(column: str, name: str, reason: str, *, low: Any = None, high: Any = None, setting: str = "") -> Rule:
    """Row rule: low <= `column` <= high; a null passes."""
    limits = {key: value for key, value in (("min_value", low), ("max_value", high)) if value is not None}
    return Rule(name, "ExpectColumnValuesToBeBetween", reason, {"column": column, **limits}, setting=setting)


def one_of(column: str, name: str, reason: str, values: list[Any], look: str = "") -> Rule:
    """Row rule: `column` is one of `values`; a null passes."""
    return Rule(name, "ExpectColumnValuesToBeInSet", reason, {"column": column, "value_set": values}, look=look)


def not_after(earlier: str, later: str, name: str, reason: str) -> Rule:
    """Row rule: `earlier` <= `later`; a row that lacks either passes."""
    pair = {"column_A": later, "column_B": earlier, "or_equal": True, "ignore_row_if": "either_value_is_missing"}
    return Rule(name, "ExpectColumnPairValuesAToBeGreaterThanB", reason, pair)


def first_of_key(reason: str) -> Rule:
    """Key rule: the row is the first sound one of its key. Reads the derived column `repeated`."""
    return Rule("repeated", "ExpectColumnValuesToBeInSet", reason, {"column": "repeated", "value_set": [False]}, "key")


def fact(
    name: str,
    reason: str,
    look: str,
    *,
    low: Any = None,
    high: Any = None,
    scope: Scope = "table",
    setting: str = "",
) -> Rule:
    """Table rule on a number: low <= fact `name` <= high; a fact that is not known passes."""
    limits = {key: value for key, value in (("min_value", low), ("max_value", high)) if value is not None}
    return Rule(name, "ExpectColumnValuesToBeBetween", reason, {"column": name, **limits}, scope, look, setting)


def nothing(name: str, reason: str, look: str, *, scope: Scope = "table", setting: str = "") -> Rule:
    """Table rule on a text that lists problems: it must be empty."""
    return Rule(name, "ExpectColumnValuesToBeInSet", reason, {"column": name, "value_set": [""]}, scope, look, setting)
