"""Counters, smoothed rates and histories of users and items: how they are computed, for the batch and the push path.

A row with watermark w is the state after all interactions strictly before w. There is one row per entity and distinct
event time t, with w = t + 1 microsecond: an interaction joins the newest state with `event_timestamp <=` its own time
and so never sees itself, nor another row of the same entity and time.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from core import Settings
from core.contracts.statistics import STATISTICS
from core.settings import FeatureSettings
from core.tables import TIMESTAMP

TICK = 1  # microseconds from an event to the first watermark that includes it


@dataclass(frozen=True)
class EntityState:
    """The state of one user or item after its interactions so far.

    Attributes:
        watermark: just after the newest interaction, in microseconds.
        statistics: name to value, in the order of `core.contracts.statistics.STATISTICS`.
        history: item ids of the newest positives, newest last, at most `history_length`.
    """

    watermark: int
    statistics: dict[str, Any]
    history: list[Any]


def computed(rows: Any, positives: Any, features: FeatureSettings) -> dict[str, np.ndarray]:
    """Every statistic of `core.contracts.statistics.STATISTICS`, by name; batch and push path both call this.

    Args:
        rows: how many interactions each entity has so far, [N].
        positives: how many of them with label 1, [N].
        features: the prior.

    Returns:
        Name to [N].
    """
    rows, positives = np.asarray(rows), np.asarray(positives)
    return {"rows": rows, "positives": positives, "rate": smoothed_rate(positives, rows, features)}


def smoothed_rate(positives: Any, rows: Any, features: FeatureSettings) -> np.ndarray:
    """(positives + prior_rate * prior_weight) / (rows + prior_weight), in float64, then rounded to float32.

    Without rows and prior it is `prior_rate`.
    """
    weight = float(features.prior_weight)
    above = np.asarray(positives, np.float64) + float(features.prior_rate) * weight
    below = np.asarray(rows, np.float64) + weight
    empty = below == 0
    return np.where(empty, features.prior_rate, above / np.where(empty, 1.0, below)).astype(np.float32)


def entity_state(rows: pa.Table, settings: Settings) -> EntityState:
    """The state that the batch path would write for the newest of one entity's interactions.

    Args:
        rows: all interactions of one user or one item, in any order; repeats count once, the last one wins.
        settings: `features` counts (prior, history length).

    Returns:
        Statistics and history; for no rows watermark 0, zero counts and the prior rate.
    """
    micros = rows["event_timestamp"].cast(TIMESTAMP).cast(pa.int64()).to_pylist()
    keys = zip(*(rows[name].to_pylist() for name in ("user_id", "item_id", "scenario")), micros, strict=True)
    labels = dict(zip(keys, rows["label"].to_pylist(), strict=True))
    liked = sorted((t, item) for (_, item, _, t), label in labels.items() if label == 1)
    values = computed(len(labels), len(liked), settings.features)
    return EntityState(
        watermark=max(micros) + TICK if micros else 0,
        statistics={statistic.name: values[statistic.name].item() for statistic in STATISTICS},
        history=[item for _, item in liked[-settings.features.history_length :]],
    )


def lag_micros(settings: Settings, kind: str) -> int:
    """Microseconds from the watermark of a kind of feature or knowledge until it can be read online."""
    lags = {**settings.knowledge.lag, **settings.features.lag}
    return lags.get(kind, dt.timedelta(0)) // dt.timedelta(microseconds=1)
