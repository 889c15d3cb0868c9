"""What a person should look at after a run: alarms first, then warnings, then notes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from core.contracts.contract import SpecFile
from core.contracts.drift import Drift
from core.contracts.results import Controls, Lift, Measures, Metrics, OverCounting, Promotion, System

Level = Literal["alarm", "warning", "note"]
_ORDER = {"alarm": 0, "warning": 1, "note": 2}
_CALIBRATION_BAND = (0.9, 1.1)
_UNKNOWN_SHARE = 0.5
# Log loss that rises by more than this share is an alarm, whatever the interval says.
_LOSS_RISE = 0.1
_NAMED = 6


@dataclass(frozen=True)
class Finding:
    """One sentence, and how pressing it is."""

    level: Level
    text: str


class Findings(SpecFile):
    """`findings.json`: what the report says first, the most pressing first."""

    FILE: ClassVar[str] = "findings.json"
    REMAKE: ClassVar[str] = "delete the artifact and run `llm4msr report` again"

    findings: tuple[Finding, ...]


def findings(
    *,
    metrics: Metrics,
    lift: Lift,
    over_counting: OverCounting,
    verdict: Promotion,
    drift: Drift,
    rejected: list[dict[str, Any]],
    rows_in: int,
    unknown_share: float,
    texts: bool = True,
    withdrawn: Mapping[str, int] | None = None,
    controls: Controls,
) -> list[Finding]:
    """Everything that stands out in a run's results.

    Args:
        metrics: of every system.
        lift: the model with knowledge over the plain one.
        over_counting: the model that may go live over counting.
        verdict: the promotion's.
        drift: as `measure_drift` found it.
        rejected: table, rule and rows of the quarantine.
        rows_in: rows of all tables that came in.
        unknown_share: share of the training table's rows whose user has no vector of any kind.
        texts: whether any item has a text.
        withdrawn: table to ids that the window before had and this one's snapshot does not.
        controls: what the placebos showed.

    Returns:
        Findings, the most pressing first.
    """
    harm, live = list(_harm(lift)), verdict.choice.system
    found = [*_below(metrics, over_counting, live), *_not_knowledge(verdict), *_promoted_although(verdict, harm, live)]
    found += _no_better_than_placebo(lift, controls)
    # Harm that was kept out is worth knowing, and no alarm.
    found += harm if live == "knowledge" else [Finding("warning", one.text) for one in harm]
    found += _calibration(metrics.knowledge.scenarios)
    found += drift_finding(drift)
    if not texts:
        found.append(
            Finding(
                "warning",
                "No item has a text (data.item_text): there is no knowledge of items and users, only ids, statistics and the "
                "sentences of the scenarios.",
            )
        )
    elif unknown_share > _UNKNOWN_SHARE:
        found.append(
            Finding(
                "warning",
                f"{unknown_share:.0%} of the rows have no user knowledge yet; look at knowledge.thresholds and "
                "knowledge.lag.",
            )
        )
    if drawn := metrics.knowledge.negatives:
        found.append(
            Finding(
                "note",
                f"Negatives are sampled ({drawn.per_positive} per positive, {drawn.strategy}): every AUC and log loss is "
                "against drawn items, not against items that were shown and left, and scores are no probabilities of a click.",
            )
        )
    if not verdict.promote:
        found.append(
            Finding("note", f"The new model was not promoted: {_sentence(verdict.reason.removeprefix('kept: '))}")
        )
    total = sum(entry["rows"] for entry in rejected)
    if total:
        share = total / max(rows_in, 1)
        found.append(Finding("note", f"{total:,} rows ({share:.2%}) are in quarantine; their rules are listed below."))
    if gone := {name: count for name, count in (withdrawn or {}).items() if count}:
        said = " and ".join(f"{count:,} {name}" for name, count in gone.items())
        found.append(
            Finding("note", f"Withdrawn since the window before: {said}; they are not ranked and not known any more.")
        )
    untold = [name for name, change in lift.scenarios.items() if not change.auc.told]
    if untold:
        found.append(Finding("note", f"No difference can be told in {_names(untold)}: too few users, or no effect."))
    return sorted(found, key=lambda finding: _ORDER[finding.level])


def _below(metrics: Metrics, over_counting: OverCounting, system: System) -> Iterator[Finding]:
    """Where the model that may go live loses against chance or against counting."""
    mine = metrics.chosen(system)
    for name, values in {"All rows": mine.overall, **mine.scenarios}.items():
        if values.auc is not None and values.auc < 0.5:
            yield Finding("alarm", f"{name}: AUC {values.auc:.4f} is below .5: the order is worse than chance.")
    change = over_counting.overall.auc
    if change.difference is not None and change.difference < 0:
        yield Finding(
            "alarm" if change.says == "worse" else "warning",
            f"Counting positives, without any model, has a better AUC ({change.champion:.4f}) than the model that "
            f"may go live, {system} ({change.challenger:.4f}).",
        )


def _harm(lift: Lift) -> Iterator[Finding]:
    """Where the model with knowledge is worse than the plain one, in AUC or in log loss."""
    for name, change in {"All rows": lift.overall, **lift.scenarios}.items():
        auc, loss = change.auc, change.logloss
        if auc.says == "worse":
            yield Finding(
                "alarm", f"{name}: knowledge made AUC worse ({auc.difference:+.4f}, the interval excludes zero)."
            )
        if loss.champion is None or loss.challenger is None:
            continue
        rise = loss.challenger / loss.champion - 1 if loss.champion else math.inf
        if rise > _LOSS_RISE or loss.says == "worse":
            yield Finding(
                "alarm" if rise > _LOSS_RISE else "warning",
                f"{name}: log loss rose from {loss.champion:.4f} to {loss.challenger:.4f} ({rise:+.0%}); the "
                "probabilities are worse than the plain model's.",
            )


def _not_knowledge(verdict: Promotion) -> Iterator[Finding]:
    if verdict.choice.system == "plain":
        yield Finding("warning", f"What may go live is {verdict.choice.reason}.")


def _no_better_than_placebo(lift: Lift, controls: Controls) -> Iterator[Finding]:
    """Where knowledge is better than the plain model, and so is a model whose knowledge means nothing."""
    gain = lift.overall.auc
    if gain.says != "better":
        return
    what = {
        "shuffled_titles": "titles shuffled: the gain is not of what the texts say",
        "other_user": "the vectors of other users: the gain is not of what a user's own vectors say",
    }
    for name, body in controls.placebos.items():
        change = body.against.overall.auc
        if change.says != "better" and change.difference is not None:
            yield Finding(
                "warning",
                f"Knowledge adds {gain.difference:+.4f} AUC to the plain model, but only {change.difference:+.4f} to the same model with "
                f"{what[name]} ({change.says}).",
            )


def _promoted_although(verdict: Promotion, harm: list[Finding], system: str) -> Iterator[Finding]:
    if not verdict.promote:
        return
    if harm and system == "knowledge":
        back = (
            "`llm4msr rollback` takes it back"
            if verdict.champion
            else "it is the first, so that there is none to go back to"
        )
        yield Finding("alarm", f"The new model is live although it is worse in something; {back}.")
    groups = verdict.details.groups
    lower = {name: group.difference for name, group in groups.items() if group.difference < 0}
    if lower:
        worst = min(lower, key=lambda name: lower[name])
        yield Finding(
            "warning",
            f"The new model is live with a lower AUC than the champion's in {_names(list(lower))} (most in {worst}: "
            f"{lower[worst]:+.4f}); that is within the promotion's margin.",
        )


def _calibration(scenarios: Mapping[str, Measures]) -> Iterator[Finding]:
    low, high = _CALIBRATION_BAND
    for name, values in scenarios.items():
        ratio = values.calibration.ratio
        if ratio is not None and not low <= ratio <= high:
            yield Finding(
                "warning",
                f"{name}: predicted over observed positives is {ratio:.2f}; scores of scenarios are not comparable.",
            )


def drift_finding(drift: Drift) -> Iterator[Finding]:
    """The feature that drifted most, and how many others did."""
    sizes = [(drift.features[name][group].psi or 0.0, name, group) for name, group in drift.drifted]
    if sizes:
        psi, name, group = max(sizes)
        where = "all rows" if group == "all" else group
        others = f"; {len(sizes) - 1} more pairs of feature and scenario drifted" if len(sizes) > 1 else ""
        text = f"{name} in {where} drifted from the champion's training data (stability index {psi:.2f}){others}."
        yield Finding("warning", text)


def _names(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."
