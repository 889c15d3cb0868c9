"""Evaluation of predictions: measures per scenario, overall and for cold users, and the comparison of two models.

A predictions table has the columns row_id, user_id, item_id, scenario, label, score, split and user_rows (rows of the
user before this one; null or at most `cold_rows`: a cold user). What is undefined is None, never NaN, so that every result
is valid JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from core.contracts.results import Calibration, Change, Comparison, GroupChange, Measures, SystemMetrics
from core.errors import DataError
from core.settings import PromotionSettings
from models.bootstrap import Differences, Sample, bootstrap
from models.measures import Ints, auc, calibration, gauc, logloss_rows, top_k

COLD_ROWS = 10
# Percentiles of a bootstrap over fewer users are too narrow to be believed.
FEWEST_USERS = 20
COLUMNS = ("row_id", "user_id", "item_id", "scenario", "label", "score", "user_rows")


@dataclass(frozen=True)
class Scored:
    """Predictions as arrays: rows N, user and scenario codes, and the scenarios' names."""

    labels: Ints
    scores: NDArray[np.float64]
    users: Ints
    user_count: int
    scenario: Ints
    names: list[str]
    cold: NDArray[np.bool_]

    def masks(self) -> dict[str, NDArray[np.bool_]]:
        """Row mask per scenario, in order of the names."""
        return {name: self.scenario == code for code, name in enumerate(self.names)}


def evaluate(predictions: pa.Table, cold_rows: int = COLD_ROWS) -> SystemMetrics:
    """Measures of one model.

    Args:
        predictions: as this module's text says; every row counts, whatever its split.
        cold_rows: a user with at most this many rows before a row is cold there.

    Returns:
        `overall`, `scenarios` (by name) and `cold`. Undefined measures are None.

    Raises:
        DataError: a column is missing, or a label or score is missing or not finite.
    """
    data = as_arrays(predictions, cold_rows)
    return SystemMetrics(
        overall=_measure(data, np.ones(len(data.labels), bool)),
        scenarios={name: _measure(data, mask) for name, mask in data.masks().items()},
        cold=_measure(data, data.cold),
    )


def compare(champion: pa.Table, challenger: pa.Table, settings: PromotionSettings, seed: int) -> Comparison:
    """Differences of AUC and logloss, challenger minus champion, with confidence intervals by bootstrap over users.

    Args:
        champion: predictions of the one model.
        challenger: predictions of the other on the same rows, in any order.
        settings: number of resamples, two-sided confidence, and who is cold.
        seed: of the bootstrap.

    Returns:
        `overall`, `scenarios` and `cold`, each with the change of `auc` and `logloss`. No difference can be told where the
        interval covers zero, or there are fewer than 20 users.

    Raises:
        DataError: the two tables do not hold the same rows.
    """
    data, other = aligned(champion, challenger, settings.cold_rows)
    everyone = pair(data, other)
    masks = {"overall": np.ones(len(data.labels), bool), "cold": data.cold}
    masks |= {f"scenario:{name}": mask for name, mask in data.masks().items()}
    groups = {name: everyone.take(mask) for name, mask in masks.items()}
    draws = bootstrap(groups, settings.resamples, seed)
    result = {name: _difference(groups[name], draws[name], settings.confidence) for name in groups}
    return Comparison(
        overall=result["overall"],
        scenarios={name: result[f"scenario:{name}"] for name in data.names},
        cold=result["cold"],
        confidence=settings.confidence,
        resamples=settings.resamples,
        seed=seed,
    )


def as_arrays(predictions: pa.Table, cold_rows: int = COLD_ROWS) -> Scored:
    """Check a predictions table and turn it into arrays.

    Raises:
        DataError: a column is missing, or a label or score is missing or not finite.
    """
    for name in COLUMNS:
        if name not in predictions.column_names:
            raise DataError("table predictions lacks this column", column=name)
    labels = predictions["label"].cast(pa.float64()).to_numpy(zero_copy_only=False)
    scores = predictions["score"].cast(pa.float64()).to_numpy(zero_copy_only=False)
    _refuse("label", ~np.isin(labels, (0, 1)), "labels must be 0 or 1")
    _refuse("score", ~np.isfinite(scores), "scores must be finite; the model that made them diverged")
    users, user_names = _codes(predictions["user_id"])
    scenario, names = _codes(predictions["scenario"])
    order = np.argsort(np.array(names, dtype=object)) if names else np.zeros(0, np.int64)
    rank = np.empty(len(names), np.int64)
    rank[order] = np.arange(len(names))
    cold = pc.fill_null(pc.less_equal(predictions["user_rows"], cold_rows), True)
    return Scored(
        labels=labels.astype(np.int64),
        scores=scores,
        users=users,
        user_count=len(user_names),
        scenario=rank[scenario] if names else scenario,
        names=[str(names[i]) for i in order],
        cold=cold.to_numpy(zero_copy_only=False).astype(bool),
    )


def aligned(champion: pa.Table, challenger: pa.Table, cold_rows: int = COLD_ROWS) -> tuple[Scored, Scored]:
    """Both tables as arrays, in order of row_id.

    Raises:
        DataError: they do not hold the same rows (row_id, user, item, scenario and label).
    """
    first, second = champion.sort_by("row_id"), challenger.sort_by("row_id")
    for name in ("row_id", "user_id", "item_id", "scenario", "label"):
        for table in (first, second):
            if name not in table.column_names:
                raise DataError("table predictions lacks this column", column=name)
        if first.num_rows != second.num_rows or not first[name].equals(second[name].cast(first[name].type)):
            raise DataError(
                f"champion ({first.num_rows} rows) and challenger ({second.num_rows} rows) were not scored on the "
                "same rows; score both on one dataset",
                column=name,
            )
    return as_arrays(first, cold_rows), as_arrays(second, cold_rows)


def pair(champion: Scored, challenger: Scored) -> Sample:
    """The bootstrap sample of two aligned models."""
    return Sample(champion.labels, champion.users, champion.scores, challenger.scores, champion.user_count)


def _measure(data: Scored, mask: NDArray[np.bool_]) -> Measures:
    labels, scores, users = data.labels[mask], data.scores[mask], data.users[mask]
    ndcg, recall, lists = top_k(labels, scores, users * max(len(data.names), 1) + data.scenario[mask])
    return Measures(
        rows=len(labels),
        users=len(np.unique(users)),
        positives=int(labels.sum()),
        auc=auc(labels, scores),
        logloss=float(logloss_rows(labels, scores).mean()) if len(labels) else None,
        gauc=gauc(labels, scores, users),
        ndcg_at_10=ndcg,
        recall_at_10=recall,
        lists=lists,
        calibration=Calibration.model_validate(calibration(labels, scores)),
    )


def _difference(sample: Sample, draws: Differences, confidence: float) -> GroupChange:
    labels = sample.labels
    areas = [auc(labels, scores) for scores in (sample.champion, sample.challenger)]
    losses = [
        float(logloss_rows(labels, scores).mean()) if len(labels) else None
        for scores in (sample.champion, sample.challenger)
    ]
    users = len(np.unique(sample.users))
    enough = users >= FEWEST_USERS
    return GroupChange(
        rows=len(labels),
        users=users,
        auc=_interval(areas, draws.auc, confidence, enough, higher_is_better=True),
        logloss=_interval(losses, draws.logloss, confidence, enough, higher_is_better=False),
    )


def _interval(
    values: list[float | None], draws: NDArray, confidence: float, enough: bool, higher_is_better: bool
) -> Change:
    champion, challenger = values
    if champion is None or challenger is None or not len(draws):
        return Change(
            champion=champion,
            challenger=challenger,
            difference=None,
            low=None,
            high=None,
            told=False,
            says="undefined",
        )
    tail = (1 - confidence) / 2
    low, high = (float(v) for v in np.quantile(draws, (tail, 1 - tail)))
    told = enough and (low > 0 or high < 0)
    better = (low > 0) == higher_is_better
    return Change(
        champion=champion,
        challenger=challenger,
        difference=challenger - champion,
        low=low,
        high=high,
        told=bool(told),
        says="no difference can be told" if not told else "better" if better else "worse",
    )


def _codes(column: pa.ChunkedArray) -> tuple[Ints, list[Any]]:
    if column.null_count:
        raise DataError("table predictions allows no null in ids and scenarios")
    coded = column.combine_chunks().dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def _refuse(column: str, bad: NDArray[np.bool_], message: str) -> None:
    if bad.any():
        raise DataError(f"table predictions: {message}", row=int(np.argmax(bad)), column=column)
