"""The statistics of users and items: one line here declares one for every room; `feature_repo.statistics` computes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Statistic:
    """A number of an entity that is built from the log before a row's time.

    Args:
        name: what stands behind the entity in its column, e.g. `rate` in `user_rate`.
        type: of its column, a name that Arrow knows.
        logarithm: whether a model reads log(1 + x) of it.
        missing: what a model reads where the entity was never seen: a number, or the settings' `features.prior_rate`.
    """

    name: str
    type: Literal["int64", "float32"]
    logarithm: bool
    missing: float | Literal["prior_rate"]


STATISTICS = (
    Statistic("rows", type="int64", logarithm=True, missing=0.0),
    Statistic("positives", type="int64", logarithm=True, missing=0.0),
    Statistic("rate", type="float32", logarithm=False, missing="prior_rate"),
)
COUNTED = ("user", "item")
"""Entities that have them."""


def statistic_columns(entity: str) -> dict[str, Statistic]:
    """Column to statistic of `user` or `item`, in order."""
    return {f"{entity}_{statistic.name}": statistic for statistic in STATISTICS}


def find_statistic(column: str) -> Statistic | None:
    """The statistic that a column of a user or an item holds; None where it holds another feature."""
    return next((found for entity in COUNTED if (found := statistic_columns(entity).get(column))), None)
