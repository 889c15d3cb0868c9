"""What a gate found, as JSON for machines and as a message for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from core.errors import GateError
from core.log import logger
from validation.engine import Checker, Tally
from validation.suite import Rule, Suite

LOG = logger("validation")


@dataclass
class Outcome:
    """Everything found about one table.

    Args:
        suite: its rules.
        file: the file that was read.
        strict: whether a broken table rule stops the run; False for rows that are no whole table, of which notes
            about the table would be untrue, too.
        tallies: rule name -> what it found; rules that were not reached yet are absent.
        facts: what is known about the table as a whole.
    """

    suite: Suite
    file: Path
    strict: bool = True
    tallies: dict[str, Tally] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, checker: Checker) -> None:
        """Take over the tallies of a checker."""
        self.tallies.update(checker.tallies)

    def judge(self, facts: Mapping[str, Any]) -> None:
        """Run the table rules and notes that these facts answer.

        Raises:
            GateError: a table rule is broken; the message lists every broken one.
        """
        self.facts.update(facts)
        scopes = ("table", "note") if self.strict else ("table",)
        rules = [rule for rule in self.suite.of(*scopes) if rule.columns[0] in facts]
        checker = Checker(f"{self.suite.table} facts", rules)
        checker.check(facts_frame(facts))
        self.add(checker)
        for rule in rules:
            if rule.scope == "note" and not checker.tallies[rule.name].success:
                LOG.warning("%s: %s", self.file, self._sentence(checker.tallies[rule.name]))
        broken = [checker.tallies[rule.name] for rule in rules if rule.scope == "table"]
        broken = [tally for tally in broken if not tally.success]
        if broken and self.strict:
            raise GateError(self.message(broken))

    def stop_on_rows(self) -> None:
        """For tables without quarantine: a broken row rule stops the run.

        Raises:
            GateError: names rule, row and value.
        """
        broken = [t for t in self.tallies.values() if t.rule.scope in ("row", "key") and not t.success]
        if broken and self.strict:
            raise GateError(self.message([]))

    def message(self, broken: list[Tally]) -> str:
        """Why the run stops and what to look at."""
        lines = [f"{self.file}: the gate of table {self.suite.table} stopped the run"]
        lines += [f"  {self._sentence(tally)}" for tally in broken]
        rows = [t for t in self.tallies.values() if t.rule.scope in ("row", "key") and not t.success]
        for tally in sorted(rows, key=lambda t: -t.failed):
            shown = "; ".join(f"row {row}: {value}" for row, value in tally.examples)
            columns = ", ".join(tally.rule.columns)
            lines.append(f"  {tally.failed:,} rows break {tally.rule.name} (column {columns}), e.g. {shown}")
            lines.append(f"      {tally.rule.reason}{_advice(tally.rule)}")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """JSON-able; equal data gives equal content."""
        ordered = [self.tallies[rule.name] for rule in self.suite if rule.name in self.tallies]
        return {
            "success": all(tally.success for tally in ordered if tally.rule.scope != "note"),
            "facts": self.facts,
            "quarantined_by_rule": {t.rule.name: t.quarantined for t in ordered if t.quarantined},
            "notes": [self._sentence(t) for t in ordered if t.rule.scope == "note" and not t.success],
            "rules": [tally.as_json() for tally in ordered],
        }

    def _sentence(self, tally: Tally) -> str:
        rule = tally.rule
        value = tally.examples[0][1] if tally.examples else "?"
        limits = [
            f"{word} {rule.kwargs[key]:g}"
            for key, word in (("min_value", "at least"), ("max_value", "at most"))
            if key in rule.kwargs
        ]
        wanted = f" (needs {' and '.join(limits)})" if limits else ""
        return f"{rule.name} is {value}{wanted}: {rule.reason}{_advice(rule)}"


def _advice(rule: Rule) -> str:
    """What to look at, and which setting moves the limit."""
    look = f"; look at {rule.look}" if rule.look else ""
    return look + (f"; validation.{rule.setting} sets the limit" if rule.setting else "")


def facts_frame(facts: Mapping[str, Any]) -> pd.DataFrame:
    """One row, one column per fact; an unknown number is null."""
    return pd.DataFrame(
        {
            name: pd.Series([value], dtype="object" if isinstance(value, str) else "float64")
            for name, value in facts.items()
        }
    )


def share(part: float | None, whole: float | None) -> float | None:
    """The quotient; None where there is nothing to divide."""
    return None if not whole or part is None else part / whole
