"""Runs rules over pandas frames with Great Expectations: one ephemeral context, suites in code, no files.

Great Expectations is imported on first use (it takes seconds). Things it does that this module guards against: results
come back in another order than the suite's, so they are matched by rule name; an expectation that crashed is reported
as a mere failure without rows, so it is raised; `exclude_unexpected_values` changes the shape of the index list, so it
is not used; `return_unexpected_index_query` embeds every index in a text, so it is off; `mostly` lists rows of
expectations that passed, so no rule uses it.
"""

from __future__ import annotations

import datetime as dt
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from validation.suite import Rule

EXAMPLES = 3
_FORMAT = {"result_format": "COMPLETE", "return_unexpected_index_query": False, "partial_unexpected_count": EXAMPLES}


# The context's engine knows one batch at a time; two threads would see each other's frame.
_LOCK = threading.Lock()


@dataclass
class Tally:
    """What one rule found so far, over all frames.

    Args:
        rule: the rule.
        checked: rows looked at.
        failed: rows that broke it.
        quarantined: rows it owns, i.e. of which it is the first broken rule.
        examples: up to three (row, value) that broke it; the row counts from 1 in the table.
    """

    rule: Rule
    checked: int = 0
    failed: int = 0
    quarantined: int = 0
    examples: list[tuple[int, str]] = field(default_factory=list)

    @property
    def success(self) -> bool:
        """Whether nothing broke the rule."""
        return self.failed == 0

    def as_json(self) -> dict[str, Any]:
        """The form results hold: no times, so that equal data gives equal bytes."""
        return {
            "rule": self.rule.name,
            "scope": self.rule.scope,
            "expectation": self.rule.expectation,
            "columns": list(self.rule.columns),
            "reason": self.rule.reason,
            "checked": self.checked,
            "failed": self.failed,
            "quarantined": self.quarantined,
            "success": self.success,
            "examples": [{"row": row, "value": value} for row, value in self.examples],
        }


class Checker:
    """Rules made ready once and run over many frames.

    Args:
        name: whose rules they are, for messages.
        rules: what to check, in order.
    """

    def __init__(self, name: str, rules: Iterable[Rule]) -> None:
        self.name = name
        self.tallies = {rule.name: Tally(rule) for rule in rules}
        self._suite = _suite(name, [tally.rule for tally in self.tallies.values()]) if self.tallies else None

    def check(self, frame: pd.DataFrame, offset: int = 0) -> dict[str, np.ndarray]:
        """Run the rules over one frame and add to the tallies.

        Args:
            frame: has every column the rules read.
            offset: row number of the frame's first row within its table.

        Returns:
            rule name -> positions within the frame that broke it, int64 [n], ascending.

        Raises:
            RuntimeError: an expectation could not be computed; a gate that crashed has not passed.
        """
        found = {name: np.empty(0, dtype=np.int64) for name in self.tallies}
        if self._suite is None or frame.empty:
            return found
        frame = frame.reset_index(drop=True)
        with _LOCK:
            batch = _batches().get_batch(batch_parameters={"dataframe": frame})
            outcome = batch.validate(self._suite, result_format=_FORMAT)
        for result in outcome.results:
            name = result.expectation_config.meta["rule"]
            if "element_count" not in result.result:
                raise RuntimeError(f"{self.name}: expectation {name} could not be computed: {_crash(result)}")
            found[name] = self._add(self.tallies[name], result.result, offset)
        return found

    def _add(self, tally: Tally, result: dict[str, Any], offset: int) -> np.ndarray:
        positions = np.asarray(result["unexpected_index_list"] or [], dtype=np.int64)
        if len(positions) != result["unexpected_count"]:
            raise RuntimeError(f"{self.name}: {tally.rule.name} lost row numbers")
        tally.checked += result["element_count"]
        tally.failed += len(positions)
        room = EXAMPLES - len(tally.examples)
        values = result["unexpected_list"][:room]
        tally.examples += [(int(p) + offset + 1, show(v)) for p, v in zip(positions[:room], values, strict=True)]
        return np.sort(positions)


def show(value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, tuple | list):
        return ", ".join(show(part) for part in value)
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if value is None or value is pd.NaT or value is pd.NA:
        return "null"
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, float | np.floating):
        return f"{value:.6g}"
    return str(value)


@cache
def great_expectations() -> Any:
    """The library, imported on first use, with telemetry off."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations

    return great_expectations


def expectation(rule: Rule) -> Any:
    """The rule as an expectation object; its name and reason travel as meta and notes."""
    gx = great_expectations()
    kind = getattr(gx.expectations, rule.expectation)
    return kind(**rule.kwargs, notes=rule.reason, meta={"rule": rule.name, "scope": rule.scope})


def _suite(name: str, rules: list[Rule]) -> Any:
    return great_expectations().ExpectationSuite(name, expectations=[expectation(rule) for rule in rules])


@cache
def _batches() -> Any:
    """The batch definition that turns a frame into a batch; one ephemeral context serves the whole process."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = great_expectations().get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    asset = context.data_sources.add_pandas("pandas").add_dataframe_asset("frames")
    return asset.add_batch_definition_whole_dataframe("frame")


def _crash(result: Any) -> str:
    info = result.exception_info or {}
    inner = next((part for part in info.values() if isinstance(part, dict)), info)
    return str(inner.get("exception_message", "no result"))
