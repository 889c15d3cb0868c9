"""How negatives are drawn for a log of positives only."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from core.section import Section


class NegativeSampling(Section):
    """Section `data.negatives`; docs/decisions/negative-sampling.md says why it is so."""

    per_positive: int = Field(4, ge=1, le=100, description="negatives drawn for each positive row, at its time")
    strategy: Literal["popularity", "uniform"] = Field(
        "popularity",
        description="of the items of the row's scenario: as often as they were positive so far, or all alike",
    )
    seed: int = Field(1, description="another one draws others; the same log and seed always draw the same")
