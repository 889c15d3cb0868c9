"""The promotion rule: when a challenger takes the champion's place.

Both models are scored on the same rows, later than the training and validation rows of either. With D the AUC
difference, challenger minus champion, and a bootstrap over users:

1. No champion: promote as the first, unless counting has a better AUC or clearly a better log loss (`first_verdict`).
2. Groups are the scenarios with at least `min_users` users and `min_positives` positives; the smaller ones are pooled
   and count as one group if together they are large enough. No group: too little data, keep, until the champion is
   older than `max_age`; then promote unless the challenger is shown to be worse: the one-sided upper bound of D over all
   rows is below -margin, or log loss is higher by more than `loss_margin`. Rows of one class show nothing: keep.
3. Non-inferior in every group: the one-sided lower bound of D is above -margin, with Holm's levels over the groups
   (the smallest p-value is held to alpha / groups, the next to alpha / (groups - 1), ...), and log loss is not higher by
   more than `loss_margin`, as a share of the champion's. Else keep.
4. Promote if the one-sided lower bound of D over all rows is above 0, or the champion is older than `max_age`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from core.contracts.results import Metrics, System
from core.settings import PromotionSettings
from models.bootstrap import Sample, bootstrap
from models.evaluation import Scored, aligned, pair
from models.measures import Floats, auc, logloss_rows

POOLED = "(smaller scenarios together)"
OVERALL = "(overall)"
# Resamples wanted below the smallest level that Holm asks for; fewer make its quantile a matter of luck.
_TAIL = 10


@dataclass(frozen=True)
class Verdict:
    """Whether the challenger goes live, and why.

    Args:
        promote: the answer.
        reason: one sentence for people.
        details: what was computed, JSON-able: groups with differences and bounds, the overall bound, the settings.
    """

    promote: bool
    reason: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The form that is written to a file."""
        return asdict(self)


def first_verdict(metrics: Metrics, system: System, settings: PromotionSettings) -> Verdict:
    """Whether a model may go live where none is: it must be at least as good as counting.

    Args:
        metrics: of counting and of each system, on the same rows.
        system: the one that may go live.
        settings: `floor` and `loss_margin` count.
    """
    ours, floor = metrics.chosen(system).overall, metrics.counting.overall
    details = {"rule": "first", "system": system, "auc": ours.auc, "counting_auc": floor.auc}
    if settings.floor == "none" or ours.auc is None:
        return Verdict(True, "there is no champion: promoted as the first", details)
    assert floor.auc is not None and floor.logloss is not None and ours.logloss is not None, "the rows are the same"
    if ours.auc < floor.auc:
        reason = (
            f"kept out: counting, without any model, orders the test rows better (AUC {floor.auc:.4f}) than {system} "
            f"({ours.auc:.4f}); more rows or other settings are needed, or promotion.floor: none"
        )
        return Verdict(False, reason, {**details, "rule": "below_counting"})
    if ours.logloss > floor.logloss * (1 + settings.loss_margin):
        reason = (
            f"kept out: counting, without any model, gives better probabilities (log loss {floor.logloss:.4f}) than "
            f"{system} ({ours.logloss:.4f}); more rows or other settings are needed, or promotion.floor: none"
        )
        return Verdict(False, reason, {**details, "rule": "below_counting"})
    reason = f"there is no champion: promoted as the first, better than counting (AUC {floor.auc:.4f})"
    return Verdict(True, reason, details)


def promotion_verdict(
    champion: pa.Table,
    challenger: pa.Table,
    settings: PromotionSettings,
    champion_age: dt.timedelta | None = None,
    seed: int = 0,
    log_span: dt.timedelta | None = None,
) -> Verdict:
    """Apply the rule above.

    Args:
        champion: predictions of the model that is live.
        challenger: predictions of the new model on the same rows.
        settings: margin, sizes, confidence, resamples and max_age.
        champion_age: time since the champion was trained; None: not known, so never too old.
        seed: of the bootstrap.
        log_span: from the first to the last row of the training table, from which follows how long data takes to gather;
            None: not known.

    Raises:
        DataError: the tables do not hold the same rows, or a score is not finite.
    """
    data, other = aligned(champion, challenger)
    everyone = pair(data, other)
    judged, pooled, left_out = _groups(data, everyone, settings)
    details: dict[str, Any] = {
        "rows": len(data.labels),
        "users": data.user_count,
        "pooled": pooled,
        "not_judged": left_out,
        "champion_age_days": champion_age / dt.timedelta(days=1) if champion_age is not None else None,
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
    }
    alpha = 1 - settings.confidence
    too_old = champion_age is not None and champion_age > settings.max_age
    if not judged:
        return _untold(everyone, settings, too_old, log_span, {**details, "resamples": settings.resamples})
    resamples = max(settings.resamples, int(np.ceil(_TAIL * len(judged) / alpha)))
    draws = bootstrap({**judged, OVERALL: everyone}, resamples, seed)
    groups = _holm(judged, {name: draws[name].auc for name in judged}, settings.margin, alpha)
    overall = _bound(everyone, draws[OVERALL].auc, alpha)
    for name, body in {**groups, OVERALL: overall}.items():
        body["loss_rise"] = _loss_rise(everyone if name == OVERALL else judged[name])
    details |= {"groups": groups, "overall": overall, "resamples": resamples}
    return _decide(groups, overall, too_old, settings, details)


def told(length: dt.timedelta) -> str:
    """A length of time as people say it, in the largest unit of which there are two, or just one."""
    seconds = length.total_seconds()
    for unit, size in (("day", 86_400.0), ("hour", 3_600.0), ("minute", 60.0)):
        if seconds == size or seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}{'' if seconds == size else 's'}"
    return f"{seconds:.3g} second{'' if seconds == 1 else 's'}"


def _untold(
    everyone: Sample,
    settings: PromotionSettings,
    too_old: bool,
    log_span: dt.timedelta | None,
    details: dict[str, Any],
) -> Verdict:
    """The verdict where no group is large enough."""
    users, positives, rows = len(np.unique(everyone.users)), int(everyone.labels.sum()), len(everyone.labels)
    short: dict[str, float] = {"users": users, "positives": positives, "rows": rows}
    why = (
        f"too little data to tell: all scenarios together have {users:,} of {settings.min_users:,} users (promotion.min_users) and "
        f"{positives:,} of {settings.min_positives:,} positives (promotion.min_positives) among {rows:,} test rows"
    )
    if not 0 < positives < rows:
        why += ", all of one class" if rows else ""
        return Verdict(False, f"{why}; the champion stays", {**details, "short": short, "rule": "too_little_data"})
    if log_span is not None and positives < settings.min_positives:
        wait = log_span * (settings.min_positives / positives - 1)
        short["more_days"] = wait / dt.timedelta(days=1)
        why += f"; as the log has grown so far, the positives are there in about {told(wait)}"
    if not too_old:
        stays = f"the champion stays until it is older than {told(settings.max_age)} (promotion.max_age)"
        return Verdict(False, f"{why}; {stays}", {**details, "short": short, "rule": "too_little_data"})
    draws = bootstrap({OVERALL: everyone}, settings.resamples, details["seed"])[OVERALL].auc
    upper = float(np.quantile(draws, settings.confidence))
    overall = {**_bound(everyone, draws, 1 - settings.confidence), "upper_bound": upper}
    details |= {"short": short, "overall": overall}
    old = f"the champion is older than {told(settings.max_age)} (promotion.max_age)"
    if upper < -settings.margin:
        reason = f"kept: {why}; {old}, but the new model is worse (difference {overall['difference']:+.4f}, at most {upper:+.4f})"
        return Verdict(False, reason, {**details, "rule": "worse"})
    overall["loss_rise"] = _loss_rise(everyone)
    if overall["loss_rise"] > settings.loss_margin:
        reason = (
            f"kept: {why}; {old}, but the new model's log loss is {overall['loss_rise']:.1%} higher, more than "
            f"promotion.loss_margin ({settings.loss_margin:.1%})"
        )
        return Verdict(False, reason, {**details, "rule": "log_loss"})
    return Verdict(
        True, f"promoted: {old}, and nothing shows the new model to be worse; {why}", {**details, "rule": "fresher"}
    )


def _decide(
    groups: dict[str, dict[str, Any]],
    overall: dict[str, Any],
    too_old: bool,
    settings: PromotionSettings,
    details: dict[str, Any],
) -> Verdict:
    doubtful = [name for name, group in groups.items() if not group["non_inferior"]]
    if doubtful:
        worst = min(doubtful, key=lambda name: groups[name]["lower_bound"])
        reason = (
            f"kept: in {len(doubtful)} of {len(groups)} groups the challenger may be worse by more than "
            f"{settings.margin} AUC; the worst is {worst} (difference {groups[worst]['difference']:+.4f}, "
            f"lower bound {groups[worst]['lower_bound']:+.4f})"
        )
        return Verdict(False, reason, {**details, "rule": "not_shown_non_inferior"})
    unsure = {name: body["loss_rise"] for name, body in {**groups, OVERALL: overall}.items()}
    worst = max(unsure, key=lambda name: unsure[name])
    if unsure[worst] > settings.loss_margin:
        reason = (
            f"kept: the challenger's log loss in {worst} is {unsure[worst]:.1%} higher, more than promotion.loss_margin "
            f"({settings.loss_margin:.1%})"
        )
        return Verdict(False, reason, {**details, "rule": "log_loss"})
    if overall["lower_bound"] > 0:
        reason = (
            f"promoted: better overall (difference {overall['difference']:+.4f}, lower bound "
            f"{overall['lower_bound']:+.4f}) and not worse in any of {len(groups)} groups"
        )
        return Verdict(True, reason, {**details, "rule": "better"})
    if too_old:
        reason = (
            f"promoted: not worse in any of {len(groups)} groups, and the champion is older than {told(settings.max_age)} "
            "(promotion.max_age)"
        )
        return Verdict(True, reason, {**details, "rule": "fresher"})
    reason = (
        f"kept: not worse in any of {len(groups)} groups, but no gain can be told overall (difference "
        f"{overall['difference']:+.4f}, lower bound {overall['lower_bound']:+.4f})"
    )
    return Verdict(False, reason, {**details, "rule": "no_gain"})


def _groups(
    data: Scored, everyone: Sample, settings: PromotionSettings
) -> tuple[dict[str, Sample], list[str], list[str]]:
    """Samples that are judged, the names of the pooled scenarios, and of those that stay too small."""
    masks = data.masks()
    judged = {name: everyone.take(mask) for name, mask in masks.items()}
    judged = {name: sample for name, sample in judged.items() if _large(sample, settings)}
    small = [name for name in masks if name not in judged]
    if not small:
        return judged, [], []
    pool = everyone.take(np.logical_or.reduce([masks[name] for name in small]))
    if not _large(pool, settings):
        return judged, [], small
    return {**judged, POOLED: pool}, small, []


def _large(sample: Sample, settings: PromotionSettings) -> bool:
    positives = int(sample.labels.sum())
    users = len(np.unique(sample.users))
    enough = users >= settings.min_users and positives >= settings.min_positives
    return enough and 0 < positives < len(sample.labels)


def _holm(
    samples: dict[str, Sample], draws: dict[str, Floats], margin: float, alpha: float
) -> dict[str, dict[str, Any]]:
    """Lower bounds at Holm's levels; once a group fails, all with larger p-values fail too."""
    order = sorted(samples, key=lambda name: (_p_value(draws[name], margin), -_spread(draws[name])))
    result: dict[str, dict[str, Any]] = {}
    passing = True
    for place, name in enumerate(order):
        body = _bound(samples[name], draws[name], alpha / (len(order) - place))
        passing = passing and body["lower_bound"] > -margin
        result[name] = {**body, "p_value": _p_value(draws[name], margin), "non_inferior": passing}
    return {name: result[name] for name in samples}


def _bound(sample: Sample, draws: Floats, level: float) -> dict[str, Any]:
    champion, challenger = auc(sample.labels, sample.champion), auc(sample.labels, sample.challenger)
    assert champion is not None and challenger is not None, "groups with one class are never judged"
    return {
        "rows": len(sample.labels),
        "users": len(np.unique(sample.users)),
        "positives": int(sample.labels.sum()),
        "champion_auc": champion,
        "challenger_auc": challenger,
        "difference": challenger - champion,
        "level": level,
        "lower_bound": float(np.quantile(draws, level)),
    }


def _loss_rise(sample: Sample) -> float:
    """The challenger's log loss over the champion's, minus one."""
    old, new = (float(logloss_rows(sample.labels, scores).mean()) for scores in (sample.champion, sample.challenger))
    return new / old - 1 if old else 0.0


def _p_value(draws: NDArray, margin: float) -> float:
    """Share of resamples in which the challenger is worse by the margin or more."""
    return float((1 + (draws <= -margin).sum()) / (1 + len(draws)))


def _spread(draws: NDArray) -> float:
    """Orders groups of equal p-value: the one whose low tail is highest is tested first."""
    return float(np.quantile(draws, 0.01))
