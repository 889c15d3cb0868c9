"""Which of a run's two models may go live: the plain backbone, or the same with knowledge.

Knowledge has to earn its place. It is chosen where it is better and does no harm, on the test rows of the run:

1. its AUC over all rows is better, the interval excluding zero;
2. its log loss over all rows is not higher by more than `loss_margin`, as a share of the plain model's;
3. in no scenario is it told to be worse in AUC or in log loss, and in no scenario with `min_users` users and `min_positives`
   positives is AUC lower by more than `margin`, or log loss higher by more than `loss_margin`.

Otherwise the plain model is.
"""

from __future__ import annotations

from collections.abc import Iterator

from core.contracts.results import Change, Choice, Comparison, SystemMetrics
from core.settings import PromotionSettings


def choose(lift: Comparison, plain: SystemMetrics, settings: PromotionSettings) -> Choice:
    """Apply the rule above, unless `settings.challenger` names a model.

    Args:
        lift: `compare` of plain and knowledge.
        plain: `evaluate` of plain; says how many positives a scenario has.
        settings: margins, sizes and challenger.
    """
    if settings.challenger != "better":
        return Choice(system=settings.challenger, reason=f"promotion.challenger is {settings.challenger}")
    against = next(_against(lift, plain, settings), None)
    if against is not None:
        return Choice(system="plain", reason=f"the plain model, since {against}")
    gain = lift.overall.auc.difference
    reason = f"the model with knowledge: better overall (AUC {gain:+.4f}), and harm in no scenario"
    return Choice(system="knowledge", reason=reason)


def _against(lift: Comparison, plain: SystemMetrics, settings: PromotionSettings) -> Iterator[str]:
    """What speaks against knowledge, the weightiest first."""
    overall = lift.overall
    if overall.auc.says != "better":
        yield f"knowledge is not better overall (AUC: {overall.auc.says})"
    if rise := _rise(overall.logloss, settings.loss_margin):
        yield f"knowledge raises log loss overall by {rise:.1%}"
    for name, change in lift.scenarios.items():
        for measure, found in change.measures:
            if found.says == "worse":
                yield f"knowledge makes {name} worse ({measure} {found.difference:+.4f})"
        body = plain.scenarios[name]
        if body.users < settings.min_users or body.positives < settings.min_positives:
            continue
        loss = change.auc.difference
        if loss is not None and loss < -settings.margin:
            yield f"{name} may lose by knowledge (AUC {loss:+.4f}, more than promotion.margin)"
        if rise := _rise(change.logloss, settings.loss_margin):
            yield f"knowledge raises the log loss of {name} by {rise:.1%} (more than promotion.loss_margin)"


def _rise(change: Change, margin: float) -> float:
    """By what share log loss rises, where that is more than the margin; else 0."""
    if not change.champion or change.challenger is None:
        return 0.0
    rise = change.challenger / change.champion - 1
    return rise if rise > margin else 0.0
