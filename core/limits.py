"""The limits of the data-quality gates. No gate has a limit that does not stand here."""

from __future__ import annotations

import datetime as dt
from typing import Literal

from pydantic import Field, field_validator

from core.clock import UNDATED, as_utc
from core.section import Section


class ValidationSettings(Section):
    """Section `validation`. Each description says what the limit is for; docs/gates.md has them in one table."""

    # The log and the catalogues.
    max_quarantined_share: float = Field(0.05, ge=0, le=1, description="more rejected rows than this stop the run")
    min_rows: int = Field(1, ge=0, description="fewer rows of the log stop the run")
    empty_window: Literal["skip", "fail"] = Field(
        "skip",
        description="a window without a row of the log; skip: `validate` says so and ends with exit code 3, what follows "
        "is left out and the next window works; fail: validation.min_rows decides",
    )
    min_items: int = Field(1, ge=0, description="fewer items in the catalogue stop the run")
    min_share_with_text: float = Field(
        0.0, ge=0, le=1, description="least share of items with a text; 0: without text there is no item knowledge"
    )
    min_share_linked: float = Field(
        0.001, ge=0, le=1, description="fewer rows that find their item, or user, mean that the files use different ids"
    )
    earliest: dt.datetime = Field(
        dt.datetime(1995, 1, 1, tzinfo=dt.UTC), description="an earlier event is a missing time or one in a wrong unit"
    )
    max_future: dt.timedelta = Field(dt.timedelta(minutes=5), description="clock skew allowed on event times")
    max_wrong_times: float = Field(
        0.5, ge=0, le=1, description="more rows than this that are too early, or of the future: a wrong time unit"
    )
    one_class_rows: int = Field(
        100, ge=1, description="fewer rows may all be positive, or all negative, by chance; more stop the run"
    )
    largest_number: float = Field(
        1e30, gt=0, le=3e38, description="weights, grades and dense columns beyond this count as infinite in float32"
    )
    # A window against the windows before it.
    history_windows: int = Field(14, ge=1, description="a window is compared with so many windows before it")
    min_history_windows: int = Field(
        3, ge=2, description="fewer earlier windows than this, of the log or of a scenario, are not compared with"
    )
    min_history_rows: int = Field(1000, ge=1, description="windows with fewer rows vary too much to compare with")
    max_window_ratio: float = Field(
        1.5, ge=1, description="a window is compared with windows at most so many times as long, or as short"
    )
    volume_band: tuple[float, float] = Field(
        (0.8, 1.3), description="rows, users and items: from .. times the least to .. times the most of those windows"
    )
    count_sigmas: float = Field(
        3.0, ge=0, description="beside the bands: counts vary by their square root, so many of which are allowed"
    )
    max_gap_ratio: float = Field(3.0, ge=1, description="longest time without a row, against that of those windows")
    rate_sigmas: float = Field(6.0, gt=0, description="how unusual a scenario's shares of rows and positives may be")
    min_rate_change: float = Field(
        0.01, ge=0, le=1, description="a scenario's share that changed by less is no finding, however unusual"
    )
    closed_scenarios: list[str] = Field(
        default_factory=list, description="scenarios that were closed for good: no rows are expected of them"
    )
    max_link_drop: float = Field(0.02, ge=0, le=1, description="fewer rows than before may find their user or item")
    max_resent_share: float = Field(
        0.15, ge=0, le=1, description="rows of an earlier window under new times, beyond the share that is usual"
    )
    max_busiest_ratio: float = Field(
        3.0, ge=1, description="the busiest user's share of the rows, against the largest of those windows"
    )
    max_share_of_one: float = Field(
        0.1, gt=0, le=1, description="a user or item with a larger share of the rows is a finding (from 50 of them on)"
    )
    min_busiest_share: float = Field(0.01, ge=0, le=1, description="a user with a smaller share is never a finding")
    max_unusual_share: float = Field(
        0.05, ge=0, lt=0.5, description="share of rows whose column may be newly empty, new or out of range"
    )
    max_range_growth: float = Field(
        1.0, ge=0, description="numbers may leave the range they had by so many times its width"
    )
    min_range: float = Field(
        0.1, gt=0, description="and a range counts as this wide, in parts of its largest number, at the least"
    )
    # Knowledge.
    min_knowledge_coverage: float = Field(
        0.0, ge=0, le=1, description="least share of active users that must have a vector; 0: report only"
    )
    max_coverage_drop: float = Field(
        0.1, ge=0, le=1, description="share of the window's users who had a vector before that may have none now"
    )
    max_due_without_vector: float = Field(
        0.1, ge=0, le=1, description="share of users with rows enough in the window alone that may have no vector"
    )
    max_lost_users: float = Field(
        0.05, ge=0, le=1, description="share of all users who had a vector before that may have none now"
    )
    max_withdrawn_share: float = Field(
        0.3, ge=0, le=1, description="a snapshot of users or items may lack this share of the one before it"
    )
    vector_tolerance: float = Field(
        0.02,
        ge=0,
        description="relative change of a vector of unchanged version and prompt: another machine's rounding",
    )
    max_unchanged_vectors: float = Field(
        0.5, ge=0, le=1, description="share of changed prompts that may have the vector of the old one"
    )
    max_zero_vectors: float = Field(0.05, ge=0, le=1, description="share of vectors of nothing but zeros")
    max_same_vector: float = Field(
        0.2, ge=0, le=1, description="share of ids with one and the same vector: the reasoner saw one text for all"
    )
    min_vectors: int = Field(20, ge=2, description="fewer vectors are not judged by shares of them")
    max_norm: float = Field(
        1e4, gt=0, description="length of a vector; standardised ones have about the square root of their width"
    )
    max_relative_norm: float = Field(
        8.0, gt=1, description="length against the kind's median; on MovieLens the longest has 1.2 to 2.2 times"
    )
    # The training table and the online store.
    constant_rows: int = Field(
        100, ge=1, description="in fewer training rows a column may have one value by chance; in more it stops the run"
    )
    allow_constant: list[str] = Field(
        default_factory=list, description="declared features that may have one value in all training rows"
    )
    max_share_without_knowledge: float = Field(
        0.5, ge=0, le=1, description="more training rows without user knowledge than this are noted"
    )
    max_online_age: dt.timedelta | None = Field(
        None, description="the newest value of each online view may be this old after materialising; none: any age"
    )
    # Drift: reported, never stops.
    max_psi: float = Field(0.25, gt=0, description="population stability index that is called drift")
    max_kl: float = Field(0.2, gt=0, description="Kullback-Leibler divergence (nats) that is called drift")
    min_drift_rows: int = Field(200, ge=1, description="fewer rows on a side say nothing about a distribution")

    @field_validator("earliest")
    @classmethod
    def _after_undated(cls, value: dt.datetime) -> dt.datetime:
        value = as_utc(value)
        if value <= UNDATED:
            raise ValueError("must be after 1990-01-01, where catalogue rows without a date stand")
        return value
