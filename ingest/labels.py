"""Whether a row is positive: the rule of `data.label` over the values that a log holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from core.settings import NULLS, LabelRule
from core.spelling import BLANKS, NO, YES, Faults, numbers, words

_COMPARE: dict[str, Callable[[pa.Array, float], pa.Array]] = {">": pc.greater, ">=": pc.greater_equal, "==": pc.equal}
_MOST_SHOWN = 8


def read_labels(column: pa.Array, rule: LabelRule, nulls: Sequence[str] = NULLS) -> tuple[pa.Array, Faults]:
    """The label of each row, int8 [n]: 1 where the rule holds, 0 where not, null where it cannot be told.

    The rule `is` takes the column as it stands; values that are no small integers become null, others (2, -1) stay
    for validation to reject. Arguments and errors as of `outcomes`.
    """
    values, faults = outcomes(column, rule, nulls)
    if rule.words:
        return _among(values, rule), faults
    if rule.op in _COMPARE:
        return _COMPARE[rule.op](values, rule.value).cast(pa.int8()), faults
    whole = pc.and_(pc.equal(pc.round(values), values), pc.less_equal(pc.abs(values), 127.0))
    return pc.if_else(whole, values, None).cast(pa.int8()), faults


def outcomes(column: pa.Array, rule: LabelRule, nulls: Sequence[str] = NULLS) -> tuple[pa.Array, Faults]:
    """What the rule looks at: words [n] where it names words, else numbers [n], and rows that hold none.

    Args:
        column: words, numbers or booleans, [n].
        rule: `data.label`.
        nulls: words that stand for nothing.

    Raises:
        UnfitColumnError: the column is of a type that the rule cannot read.
    """
    if rule.words:
        return words(column, nulls), {}
    values, faults = numbers(column, nulls)
    if faults:
        found = ", ".join(_most(words(column, nulls)))
        needs = "be 0 or 1" if rule.op == "is" else f"be a number, since it is compared with {rule.op} {rule.value:g}"
        mend = (
            f"data.label.column must {needs}; it holds: {found}. Where it holds words, name those that are positive: "
            f"data.label: {{column: {rule.column}, in: [{found}]}}"
        )
        faults = {row: f"{reason}; {mend}" for row, reason in faults.items()}
    return values, faults


class WordCount:
    """How often each word of a label column came, for a log that says what counted as positive."""

    def __init__(self, rule: LabelRule) -> None:
        self.rule = rule
        self.seen: Counter[str] = Counter()

    def add(self, column: pa.Array) -> None:
        """Count a batch of words, [n]."""
        for found in pc.value_counts(column.drop_null()).to_pylist():
            self.seen[found["values"]] += found["counts"]

    def missing(self) -> list[str]:
        """Words of the rule that never came."""
        return [str(word) for word in self.rule.words if not set(_spellings(word)) & set(self.seen)]

    def __str__(self) -> str:
        positive = _spelled(self.rule)
        ones = {word: count for word, count in self.seen.most_common() if word in positive}
        zeros = {word: count for word, count in self.seen.most_common() if word not in positive}
        return f"label 1: {_listed(ones)}; label 0: {_listed(zeros)}"


def _among(text: pa.Array, rule: LabelRule) -> pa.Array:
    found = pc.is_in(text, value_set=pa.array(sorted(_spelled(rule)), pa.string()))
    return pc.if_else(pc.is_null(text), pa.scalar(None, pa.bool_()), found).cast(pa.int8())


def _spelled(rule: LabelRule) -> set[str]:
    return {spelling for word in rule.words for spelling in _spellings(word)}


def _spellings(word: str | bool | float) -> list[str]:
    """How a word of the settings may stand in a log: YAML makes true of `yes`, and a log may say 1.0 for 1."""
    if isinstance(word, bool):
        return [form for w in (YES if word else NO) for form in (w, w.upper(), w.capitalize())]
    if isinstance(word, str):
        return [word.strip(BLANKS)]
    return [f"{int(word)}", f"{int(word)}.0"] if float(word).is_integer() else [repr(float(word))]


def _most(text: pa.Array) -> list[str]:
    counts = Counter({found["values"]: found["counts"] for found in pc.value_counts(text.drop_null()).to_pylist()})
    return [word for word, _ in counts.most_common(_MOST_SHOWN)]


def _listed(counts: dict[str, int]) -> str:
    shown = [f"{word} {count:,}" for word, count in list(counts.items())[:_MOST_SHOWN]]
    more = len(counts) - len(shown)
    return ", ".join([*shown, *([f"{more:,} other words"] if more > 0 else [])]) or "none"
