"""From a request to scores: the user's state, the candidates' columns, one product."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

import models
from bento.catalogue import Catalogue
from bento.live import LiveModel
from core.contracts.kinds import is_of

if TYPE_CHECKING:
    from feature_repo import UserState
    from models import RequestBatch, Scores

_NO_ROWS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Candidates:
    """Rows of the catalogue to score, the ids that were asked for in vain, whether known ones were left out, and whether
    one that was asked for is withdrawn.
    """

    rows: np.ndarray
    unknown: list[Any]
    truncated: bool = False
    withdrawn: bool = False


@dataclass(frozen=True)
class Filters:
    """What is left out of the candidates.

    Attributes:
        exclude: ids of items.
        only: column of the catalogue to the values that stay.
    """

    exclude: Collection[Any] = ()
    only: Mapping[str, Collection[Any]] = field(default_factory=dict)

    def apply(self, catalogue: Catalogue, rows: np.ndarray) -> np.ndarray:
        """The rows that stay, in their order."""
        if self.exclude:
            out = [row for item in self.exclude if (row := catalogue.rows.get(item)) is not None]
            rows = rows[np.isin(rows, out, invert=True)]
        for column, values in self.only.items():
            rows = rows[catalogue.is_among(column, values, rows)]
        return rows


ALL = Filters()


def pick_candidates(
    live: LiveModel, scenario: str, ids: Iterable[Any] | None, limit: int | None, filters: Filters = ALL
) -> Candidates:
    """The asked candidates in their order, each once, or the items of the scenario.

    Args:
        live: the model that answers.
        scenario: one of the catalogue's.
        ids: what was asked for; None: all items of the scenario.
        limit: rows at the most; more are left out, of a scenario those with the fewest positives, and the answer says so.
        filters: what is left out before that.
    """
    catalogue, unknown = live.catalogue, list[Any]()
    if ids is None:
        rows = catalogue.ascending[scenario]
    else:
        rows, unknown = catalogue.find(ids)
    rows = filters.apply(catalogue, rows)
    withdrawn = not catalogue.withdrawn.isdisjoint(unknown)
    if limit is None or len(rows) <= limit:
        return Candidates(rows, unknown, withdrawn=withdrawn)
    if ids is None:
        popular = catalogue.members[scenario]
        rows = np.sort(popular[np.isin(popular, rows, assume_unique=True)][:limit])
    return Candidates(rows[:limit], unknown, truncated=True, withdrawn=withdrawn)


def user_side(live: LiveModel, user: UserState, scenario: str, *, neutral: bool = False) -> RequestBatch:
    """One user as the encoder wants it; the candidates are encoded in the live model.

    Args:
        live: the model that answers.
        user: the user's online state; missing values are None.
        scenario: whose knowledge is read.
        neutral: leave out the knowledge of user and scenario.
    """
    names = [view for view in live.bundle.spec.vectors if is_of(view, "user")]
    vectors: dict[str, np.ndarray | None] = {
        name: _vector(None if neutral else user.vectors.get(name), live, name) for name in names
    }
    known = None if neutral else live.scenario_vectors.get(scenario)
    return models.RequestBatch(
        scenario=[],
        user={"user_id": [user.user_id], **{name: [user.values.get(name)] for name in _user_columns(live)}},
        user_index=_NO_ROWS,
        history=[user.history],
        item={},
        user_vectors=vectors,
        scenario_vectors={} if known is None else {scenario: known},
    )


def rank(live: LiveModel, user: UserState, scenario: str, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` rows and their probabilities, best first; ties fall to the lower catalogue row."""
    if not len(rows):
        return rows, np.zeros(0)
    scores = live.bundle.score_items(live.items, rows, scenario, user_side(live, user, scenario)).probability
    return best_of(rows, scores, k)


def best_of(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `k` of rows [B] by their scores [B], best first; ties fall to the lower row."""
    if k < len(rows):
        least = np.partition(scores, len(scores) - k)[len(scores) - k]
        rows, scores = rows[(kept := scores >= least)], scores[kept]
    order = np.lexsort((rows, -scores))[:k]
    return rows[order], scores[order]


def score_parts(live: LiveModel, user: UserState, scenario: str, row: int) -> tuple[Scores, Scores]:
    """Scores of one candidate with and without knowledge, [1] each."""
    rows = np.array([row], dtype=np.int64)
    known, neutral = (user_side(live, user, scenario, neutral=without) for without in (False, True))
    score = live.bundle.score_items
    return score(live.items, rows, scenario, known), score(live.items, rows, scenario, neutral)


def _user_columns(live: LiveModel) -> list[str]:
    encoder = live.bundle.encoder
    return [*live.bundle.spec.user_categorical, *(feature.name for feature in encoder.user_dense)]


def _vector(value: np.ndarray | None, live: LiveModel, name: str) -> np.ndarray:
    dim = live.bundle.spec.vectors[name].dim
    if value is None or value.shape != (dim,):
        return np.full((1, dim), np.nan, dtype=np.float32)
    return np.asarray(value, dtype=np.float32)[None, :]
