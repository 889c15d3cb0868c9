"""`drift.json`: how far a window's features have moved from what the champion was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from core.contracts.contract import Part
from core.contracts.results import ResultFile


class Divergence(Part):
    """Of a feature in a group of rows.

    Attributes:
        psi: population stability index; None where a side has too few rows.
        kl: Kullback-Leibler divergence, nats; None likewise.
        rows: new rows of the group.
        drift: whether one of them is above its limit.
    """

    psi: float | None
    kl: float | None
    rows: int
    drift: bool


class DriftLimits(Part):
    """Above which a divergence is drift."""

    psi: float
    kl: float


class ComparedRows(Part):
    """How many rows were compared."""

    reference: int
    current: int


class Drift(ResultFile):
    """What `validation.compare` finds.

    Attributes:
        verdict: the answer; without a champion nothing else is there.
        features: feature to group to divergence; groups are `all` and the scenarios.
        drifted: the pairs of feature and group that drifted.
        unknown: features that the champion's rows lack.
    """

    FILE: ClassVar[str] = "drift.json"
    REMAKE: ClassVar[str] = "delete the artifact and run `llm4msr report` again"

    verdict: Literal["drift", "stable", "too few rows", "no champion"]
    features: Mapping[str, Mapping[str, Divergence]]
    drifted: tuple[tuple[str, str], ...]
    limits: DriftLimits | None = None
    rows: ComparedRows | None = None
    unknown: tuple[str, ...] = ()
