"""What `/explain` says of one item for one user: what its score is made of, what knowledge changed, and how it fares elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

import models
from bento.live import LiveModel, has_text_of
from bento.nearness import near
from bento.schemas import ExplainAnswer, FeatureShare, HistoryShare, NearItem, Part, ScenarioScore, Versions
from bento.scorer import score_parts, user_side

if TYPE_CHECKING:
    from feature_repo import UserState
    from models import RequestBatch

# Of the features that add or take most, and of the history.
MOST_FEATURES, MOST_HISTORY = 8, 3
# Placing an item among more than these would hold up the answer.
MOST_PLACED = 20_000
MOST_SCENARIOS = 100
# Points of a percentage below which a change is none to speak of.
_HARDLY = 0.5
Text = tuple[str, str] | None


def explain(
    live: LiveModel,
    user: UserState,
    scenario: str,
    row: int,
    texts: tuple[Text, Text],
    degraded: Sequence[str],
    asked: Any,
) -> ExplainAnswer:
    """Take a score apart.

    Args:
        live: the model that answers.
        user: the user's online state.
        scenario: one that the model and the catalogue know.
        row: of the item, in the catalogue.
        texts: what the online store tells people of user and scenario.
        degraded: what was missing.
        asked: the user's id as the caller wrote it.
    """
    known, neutral = score_parts(live, user, scenario, row)
    found = models.attribute(live.bundle, request_of(live, user, scenario, row))
    ids, titles = live.catalogue.columns["item_id"], live.catalogue.titles
    near_by = near(live.catalogue, list(user.history), row)
    places = _places(live, user, scenario, row)
    score, without = float(known.probability[0]), float(neutral.probability[0])
    raw = _values(live, user, row)
    strongest = sorted(found.features, key=lambda f: -abs(f.logit))[:MOST_FEATURES]
    user_text, scenario_text = texts
    return ExplainAnswer(
        user_id=asked,
        scenario=scenario,
        item_id=plain(ids[row]),
        title=titles[row],
        score=score,
        logit=found.logit,
        backbone_logit=float(known.backbone_logit[0]),
        scenario_logit=float(known.scenario_logit[0]),
        parts=[Part(part="start", logit=found.start), *(Part(part=k, logit=v) for k, v in found.parts.items())],
        features=[FeatureShare(part=f.part, feature=f.name, value=raw.get(f.name), logit=f.logit) for f in strongest],
        history=_history(live, user, found.history),
        neutral_score=without,
        place=places and places[0],
        neutral_place=places and places[1],
        knowledge=_in_words(live, user, scenario, score, without, places),
        scenarios=_elsewhere(live, user, row),
        user_text=user_text and user_text[0],
        user_text_source=user_text and user_text[1],
        scenario_text=scenario_text and scenario_text[0],
        nearest_history=[
            NearItem(item_id=plain(ids[r]), title=titles[r], similarity=s)
            for r, s in zip(near_by.rows, near_by.similarity, strict=True)
        ],
        near_from=near_by.limit,
        degraded=list(degraded),
        versions=Versions(**live.versions),
    )


def plain(value: Any) -> Any:
    """A value of a column as JSON knows it."""
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not np.isfinite(value) else value


def request_of(live: LiveModel, user: UserState, scenario: str, row: int, *, neutral: bool = False) -> RequestBatch:
    """A request of one candidate, as the bundle's offline path reads it; `neutral`: without knowledge of user and scenario."""
    spec, encoder, columns = live.bundle.spec, live.bundle.encoder, live.catalogue.columns
    wanted = ["item_id", *spec.item_categorical, *(feature.name for feature in encoder.item_dense)]
    item = {name: [columns[name][row]] if name in columns else [None] for name in wanted}
    text = live.catalogue.text[[row]] if has_text_of(live.bundle, live.catalogue) else None
    side = user_side(live, user, scenario, neutral=neutral)
    return replace(side, scenario=[scenario], user_index=np.zeros(1, np.int64), item=item, item_text=text)


def _values(live: LiveModel, user: UserState, row: int) -> dict[str, Any]:
    """Feature to its value, where that says something to people."""
    item = {name: plain(column[row]) for name, column in live.catalogue.columns.items()}
    return {**item, **{name: plain(value) for name, value in user.values.items()}, "user_id": plain(user.user_id)}


def _history(live: LiveModel, user: UserState, shares: Sequence[float]) -> list[HistoryShare]:
    """The items of the history that add or take most."""
    ids = list(user.history)[len(user.history) - len(shares) :]
    order = sorted(range(len(ids)), key=lambda i: -abs(shares[i]))[:MOST_HISTORY]
    rows = [live.catalogue.rows.get(ids[i]) for i in order]
    return [
        HistoryShare(item_id=plain(ids[i]), title=None if r is None else live.catalogue.titles[r], logit=shares[i])
        for i, r in zip(order, rows, strict=True)
    ]


def _places(live: LiveModel, user: UserState, scenario: str, row: int) -> tuple[int, int, int] | None:
    """The item's place among the scenario's with and without knowledge, and of how many; None: it is not among them."""
    rows = live.catalogue.ascending[scenario]
    if len(rows) > MOST_PLACED or not len(rows) or rows[place := int(np.searchsorted(rows, row)) % len(rows)] != row:
        return None
    found = []
    for without in (False, True):
        side = user_side(live, user, scenario, neutral=without)
        scores = live.bundle.score_items(live.items, rows, scenario, side).probability
        found.append(int((scores > scores[place]).sum() + (scores[:place] == scores[place]).sum()) + 1)
    return found[0], found[1], len(rows)


def _elsewhere(live: LiveModel, user: UserState, row: int) -> list[ScenarioScore]:
    """The item's score in every scenario, and whether it can be shown there."""
    found = []
    for one in live.scenarios[:MOST_SCENARIOS]:
        name = one["scenario"]
        score = live.bundle.score_items(live.items, np.array([row]), name, user_side(live, user, name)).probability[0]
        rows = live.catalogue.ascending[name]
        place = int(np.searchsorted(rows, row))
        shown = place < len(rows) and int(rows[place]) == row
        found.append(ScenarioScore(scenario=name, title=one["title"], score=float(score), shown=shown))
    return found


def _in_words(
    live: LiveModel, user: UserState, scenario: str, score: float, without: float, places: tuple[int, int, int] | None
) -> str:
    """What knowledge changed, for people who sell."""
    if not live.bundle.encoder.layout.user_vectors and not live.reads_scenarios:
        return "This model reads nothing that the language model knows of users or scenarios."
    of = []
    if any(vector is not None for vector in user.vectors.values()):
        of.append("the user's taste")
    if scenario in live.scenario_vectors:
        of.append("this scenario")
    if not of:
        return "The language model knows nothing of this user or this scenario yet, so that it changed nothing."
    change = 100 * (score - without)
    verb = "hardly changes" if abs(change) < _HARDLY else "raises" if change > 0 else "lowers"
    said = f"What the language model knows of {' and '.join(of)} {verb} the chance that the user likes it: "
    said += f"{100 * without:.1f} % without it, {100 * score:.1f} % with it."
    if places is not None:
        here, before, count = places
        moved = f"stays at place {here:,}" if here == before else f"moves from place {before:,} to place {here:,}"
        said += f" The item {moved} of {count:,}."
    return said
