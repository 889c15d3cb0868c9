"""The ladder: every system a run compares, each against the model with knowledge on the same rows, and what that says of the texts."""

from __future__ import annotations

from dataclasses import dataclass

from core.contracts.results import Comparison, Controls, Ladder, Metrics, SystemMetrics

# In order of what they read: each name, and what it is in a few words.
SYSTEMS = {
    "counting": "counting",
    "without_text": "plain without text",
    "plain": "plain",
    "other_user": "other user's vectors",
    "shuffled_titles": "shuffled titles",
    "knowledge": "with knowledge",
}


@dataclass(frozen=True)
class Rung:
    """A system's place on the ladder.

    Attributes:
        name: a key of SYSTEMS.
        label: in words.
        metrics: on the test rows.
        change: `models.compare` of it with the model with knowledge; None for that model itself.
        runs_ago: how many runs ago it was measured, on the test rows of then.
    """

    name: str
    label: str
    metrics: SystemMetrics
    change: Comparison | None
    runs_ago: int = 0


def ladder(metrics: Metrics, over: Ladder, controls: Controls) -> list[Rung]:
    """The systems that were measured, in the order of SYSTEMS.

    Args:
        metrics: of this run.
        over: the model with knowledge over each system, of this run.
        controls: what the placebos showed.
    """
    ago, found = controls.runs_ago, []
    for name, label in SYSTEMS.items():
        if measured := metrics.of(name):
            found.append(Rung(name, label, measured, over.of(name)))
        elif placebo := controls.placebos.get(name):
            when = f" ({_runs(ago)} ago)" if ago else ""
            found.append(Rung(name, label + when, placebo.metrics, placebo.against, ago))
    return found


def worth(controls: Controls, texts: bool = True) -> str:
    """What the texts are worth beyond the placebo, in a sentence.

    Args:
        controls: what the placebos showed.
        texts: whether any item has one.
    """
    if not texts:
        return "No item has a text, so there is nothing that texts could be worth."
    placebo = controls.placebos.get("shuffled_titles")
    if placebo is None:
        return "What the texts are worth was not measured: no placebo with shuffled titles was trained (controls.every, controls.placebos)."
    auc, ago = placebo.against.overall.auc, controls.runs_ago
    when = f", {_runs(ago)} ago" if ago else ""
    if auc.difference is None:
        return "What the texts are worth cannot be said: the test rows have one class only."
    both = f"AUC {auc.challenger:.4f} with knowledge, {auc.champion:.4f} with shuffled titles{when}"
    interval = "" if auc.low is None else f" ({placebo.against.confidence:.0%}: {auc.low:+.4f} to {auc.high:+.4f})"
    begin = {
        "better": f"What the texts say is worth {auc.difference:+.4f} AUC{interval}",
        "worse": f"What the texts say does harm: {auc.difference:+.4f} AUC{interval}",
    }.get(auc.says, f"What the texts say cannot be told from nothing: {auc.difference:+.4f} AUC{interval}")
    return f"{begin}: {both}."


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"
